//! `machine status`

use super::Name;
use crate::{Context, template};
use clap::Args;
use machine_core::driver::Status;
use serde_json::json;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    name: Name,
    /// json, or a Go template over Name, State, DriverName and URL
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let machine = context.machines.open(&arguments.name.name)?;
    let status = machine.status()?;
    let text = match arguments.format.as_deref() {
        None | Some("") => status.name().to_owned(),
        Some(format) => {
            let url = match status {
                Status::Running => machine.url()?,
                _ => String::new(),
            };
            let value = json!({
                "Name": machine.name(),
                "State": status.name(),
                "DriverName": machine.record.driver_name,
                "URL": url,
            });
            match format {
                "json" => value.to_string(),
                template => template::render(template, &value)?,
            }
        }
    };
    context.console.print(&text);
    if status == Status::Running {
        for problem in machine.port_problems() {
            context.console.warn(&problem);
        }
    }
    Ok(())
}
