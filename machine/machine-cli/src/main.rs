//! The program `machine`. The drivers it has are listed in one place, `machine_drivers`.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // Not a verb: the process that owns one running machine is this program, too, and no person calls it.
    if arguments
        .get(1)
        .is_some_and(|verb| verb == machine_drivers::qemu::keeper::VERB)
    {
        return machine_drivers::qemu::keeper::main(arguments[2..].to_vec());
    }
    // Started by docker-machine, or by ourselves, as the plug-in of one of our drivers.
    if let Some(name) = machine_drivers::plugin::serve::asked_for() {
        return machine_cli::serve_driver(&name);
    }
    machine_cli::run(arguments, machine_drivers::all()).into()
}
