//! The program that this crate's tests start containers' shims from; `host-agent shim` does the same.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let _program = args.next();
    match args.next().as_deref().and_then(|verb| verb.to_str()) {
        Some("shim") => engine_linux::shim::main(args.collect()),
        _ => ExitCode::FAILURE,
    }
}
