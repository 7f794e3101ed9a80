//! `host-agent certificate-request`: makes this host's own key and asks for a certificate. Whoever installs the engine signs
//! the request with an authority whose key never comes here; the host's key never leaves.

use anyhow::{Context, Result};
use clap::Parser;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Makes a key and prints a certificate request (PEM) for it.
#[derive(Debug, Parser)]
#[command(name = "host-agent certificate-request")]
struct Arguments {
    /// Where to write the key, 0600; what is there is replaced
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The machine's name
    #[arg(long)]
    name: String,
}

pub fn main(args: Vec<OsString>) -> ExitCode {
    let program = OsString::from("host-agent certificate-request");
    let arguments = Arguments::parse_from(std::iter::once(program).chain(args));
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("host-agent certificate-request: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let requested = certs::request_server(&arguments.name)?;
    certs::files::write_key(&arguments.key, &requested.key)
        .with_context(|| format!("cannot write {}", arguments.key.display()))?;
    print!("{}", requested.request);
    Ok(())
}
