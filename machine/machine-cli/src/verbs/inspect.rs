//! `machine inspect`

use super::Name;
use crate::{Context, template};
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    name: Name,
    /// A Go template, for example {{.Driver.IPAddress}}
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    // Only the record is read, so the driver need not be known; secrets are not shown.
    let record = context
        .machines
        .store()
        .load_without_secrets(&arguments.name.name)?;
    let text = match arguments.format.as_deref() {
        None | Some("") | Some("json") => String::from_utf8(record.to_json())?,
        Some(format) => template::render(format, &serde_json::to_value(&record)?)?,
    };
    context.console.print(text.trim_end_matches('\n'));
    Ok(())
}
