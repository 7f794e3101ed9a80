//! `machine adopt`: a host whose Docker engine runs already. That engine is neither restarted nor configured: an agent of ours
//! brings mutual TLS before its socket.

use crate::Context;
use clap::Args;
use machine_core::driver::{FlagValue, FlagValues};
use machine_core::use_cases::create::CreateRequest;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The machine's name here
    name: String,
    /// The host: an address, a DNS name or a name of ~/.ssh/config
    host: String,
    /// The user to log in as [default: what ~/.ssh/config says, else root]
    #[arg(long, value_name = "USER")]
    ssh_user: Option<String>,
    /// The private key to log in with [default: the ssh agent's and the usual ones]
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<String>,
    /// The port of ssh [default: what ~/.ssh/config says, else 22]
    #[arg(long, value_name = "PORT")]
    ssh_port: Option<u16>,
    /// The port where clients of this store will find the engine
    #[arg(long, value_name = "PORT", default_value_t = 2376)]
    engine_port: u16,
    /// The engine's socket on the host
    #[arg(long, value_name = "PATH", default_value = "/var/run/docker.sock")]
    socket: String,
    /// The agent for the host's architecture [default: the one that came with this program]
    #[arg(long, value_name = "FILE", env = "MACHINE_AGENT")]
    agent: Option<String>,
    /// Take over what a machine of another store left on the host
    #[arg(long)]
    take_over: bool,
    /// More names the host's certificate is good for
    #[arg(long, value_name = "NAME")]
    tls_san: Vec<String>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let request = CreateRequest {
        name: arguments.name.clone(),
        driver: "generic".into(),
        values: values(arguments),
        tls_sans: arguments.tls_san.clone(),
        ..CreateRequest::default()
    };
    context.console.catch_interrupts()?;
    let machine = context.machines.create(&request, &context.console)?;
    context.console.print(&format!(
        "The Docker engine of {} is machine \"{name}\". To see how to connect your Docker Client to it, run: {} env {name}",
        arguments.host,
        context.program(),
        name = machine.name()
    ));
    Ok(())
}

/// As flags of the driver, which has them all.
fn values(arguments: &Arguments) -> FlagValues {
    let text = |text: &str| Some(FlagValue::Text(text.to_owned()));
    let optional = |value: &Option<String>| value.as_deref().and_then(text);
    let port = |port: u16| FlagValue::Int(port.into());
    let values = [
        ("generic-ip-address", text(&arguments.host)),
        ("generic-ssh-user", optional(&arguments.ssh_user)),
        ("generic-ssh-key", optional(&arguments.ssh_key)),
        ("generic-ssh-port", arguments.ssh_port.map(port)),
        ("generic-engine-port", Some(port(arguments.engine_port))),
        ("generic-docker-socket", text(&arguments.socket)),
        ("generic-agent", optional(&arguments.agent)),
        (
            "generic-take-over",
            Some(FlagValue::Bool(arguments.take_over)),
        ),
    ];
    let given = values
        .into_iter()
        .filter_map(|(flag, value)| Some((flag.to_owned(), value?)));
    FlagValues(given.collect())
}
