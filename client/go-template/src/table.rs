//! Columns the way docker's tables have them (Go's tabwriter): cells end at tabs, a column is as wide as its widest
//! cell plus padding, and the last cell of a line is not padded.

use crate::{Template, TemplateError};
use serde_json::{Map, Value};

/// How wide columns are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    /// Narrowest column, padding included.
    pub minimum: usize,
    /// Blanks between columns.
    pub padding: usize,
}

impl Columns {
    /// docker's tables.
    pub const DOCKER: Columns = Columns {
        minimum: 10,
        padding: 3,
    };
    /// docker-machine's tables.
    pub const MACHINE: Columns = Columns {
        minimum: 5,
        padding: 3,
    };
}

/// Aligns lines of tab-separated cells. A column reaches over neighbouring lines that have it, as in Go.
pub fn align(text: &str, columns: Columns) -> String {
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len()]).collect();
    let deepest = lines.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..deepest {
        let mut start = 0;
        while start < lines.len() {
            // Only cells that end at a tab belong to a column.
            let inside = |line: usize| column + 1 < lines[line].len();
            let mut end = start;
            let mut widest = 0;
            while end < lines.len() && inside(end) {
                widest = widest.max(lines[end][column].chars().count());
                end += 1;
            }
            let width = (widest + columns.padding).max(columns.minimum);
            for row in &mut widths[start..end] {
                row[column] = width;
            }
            start = end.max(start + 1);
        }
    }
    let mut output = String::new();
    for (cells, widths) in lines.iter().zip(&widths) {
        for (cell, width) in cells.iter().zip(widths) {
            output.push_str(cell);
            output.extend(std::iter::repeat_n(
                ' ',
                width.saturating_sub(cell.chars().count()),
            ));
        }
        output.push('\n');
    }
    output
}

/// What `--format` asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// `table` and a row: headings, then aligned columns.
    Table(Template),
    /// `json`: an object a line.
    Json,
    /// A template a line.
    Lines(Template),
}

impl Format {
    /// Reads `table ...`, `json` or a template; `\t` and `\n` may be written as two characters.
    pub fn parse(text: &str) -> Result<Format, TemplateError> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        if text == "json" {
            return Ok(Format::Json);
        }
        match text.strip_prefix("table") {
            Some(row) if row.starts_with([' ', '\t']) => {
                Ok(Format::Table(Template::parse(row.trim_start())?))
            }
            _ => Ok(Format::Lines(Template::parse(&text)?)),
        }
    }

    /// Renders rows; `headings` maps a field to what stands above its column.
    pub fn render(
        &self,
        rows: &[Value],
        headings: &[(&str, &str)],
        columns: Columns,
    ) -> Result<String, TemplateError> {
        let mut output = String::new();
        match self {
            Format::Json => {
                for row in rows {
                    output.push_str(&row.to_string());
                    output.push('\n');
                }
            }
            Format::Lines(template) => {
                for row in rows {
                    output.push_str(&template.render(row)?);
                    output.push('\n');
                }
            }
            Format::Table(template) => {
                let first: Map<String, Value> = headings
                    .iter()
                    .map(|(field, heading)| ((*field).to_owned(), Value::from(*heading)))
                    .collect();
                for row in std::iter::once(&Value::Object(first)).chain(rows) {
                    output.push_str(&template.render(row)?);
                    output.push('\n');
                }
                output = align(&output, columns);
            }
        }
        Ok(output)
    }
}
