//! `berth top`

use crate::engine::{Engine, escape, query};
use crate::show;
use anyhow::Result;
use serde_json::Value;

#[derive(clap::Args)]
pub(crate) struct Options {
    container: String,
    /// Arguments as for ps: -ef, aux, -o pid,comm
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    ps_arguments: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let mut pairs = Vec::new();
    if !options.ps_arguments.is_empty() {
        pairs.push(("ps_args", options.ps_arguments.join(" ")));
    }
    let name = escape(&options.container);
    let table = engine
        .get(&format!("/containers/{name}/top{}", query(&pairs)))
        .await?;
    let line = |cells: &Value| -> Vec<String> {
        let cells = cells.as_array().into_iter().flatten();
        cells
            .map(|cell| cell.as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let mut lines = vec![line(&table["Titles"])];
    lines.extend(
        table["Processes"]
            .as_array()
            .into_iter()
            .flatten()
            .map(line),
    );
    show::print(&aligned(&lines))?;
    Ok(0)
}

/// Columns as wide as their widest cell, three spaces between them.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths);
        let padded: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(padded.join("   ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up() {
        let line = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let text = super::aligned(&[line("PID CMD"), line("123456 sleep"), line("7 sh")]);
        assert_eq!(text, "PID      CMD\n123456   sleep\n7        sh\n");
    }
}
