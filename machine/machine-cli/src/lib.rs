//! The command line of `machine`: one file per verb in [`verbs`], each with its arguments and a `run` that translates them for
//! the use cases of `machine_core`. The program works the same under the name `docker-machine`.

mod arguments;
mod autostart;
mod console;
mod driver_flags;
pub mod exit_code;
mod failure;
mod native_ssh;
mod parents;
mod shell;
mod template;
mod verbs;

use arguments::Parsed;
use console::Console;
use machine_core::certificates::CertificatePaths;
use machine_core::driver::Driver;
use machine_core::{MachineStore, Machines};
use std::ffi::OsString;
use std::sync::Arc;

/// What every verb gets.
pub(crate) struct Context {
    pub(crate) machines: Machines,
    pub(crate) console: Console,
    /// `ssh` runs no program.
    pub(crate) native_ssh: bool,
    /// The whole command line as it was typed; hints repeat it.
    pub(crate) typed: Vec<String>,
    /// The flags before the verb, for another run of this program.
    pub(crate) again: Vec<OsString>,
}

impl Context {
    /// The program as it was called, for hints.
    pub(crate) fn program(&self) -> &str {
        self.typed.first().map_or("machine", String::as_str)
    }
}

/// Runs one command line, `arguments[0]` being the program's name.
pub fn run(arguments: Vec<OsString>, drivers: Vec<Arc<dyn Driver>>) -> u8 {
    verbs::completion::answer();
    match try_run(arguments, drivers) {
        Ok(code) => code,
        Err(error) => failure::report(&error),
    }
}

fn try_run(arguments: Vec<OsString>, mut drivers: Vec<Arc<dyn Driver>>) -> anyhow::Result<u8> {
    let typed = arguments
        .iter()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let Parsed { cli, driver_values } = match arguments::parse(arguments, &mut drivers)? {
        arguments::Outcome::Parsed(parsed) => *parsed,
        arguments::Outcome::Said(code) => return Ok(code),
    };
    if cli.global.debug {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_max_level(tracing::Level::DEBUG)
            .init();
    }
    cli.global.say_what_is_ignored();
    let store = MachineStore::new(cli.global.store()?);
    let paths = cli
        .global
        .certificate_paths(CertificatePaths::in_store(&store));
    let context = Context {
        machines: Machines::new(store, paths, drivers).with_finder(machine_drivers::plugin::find),
        console: Console::new(cli.verb.speaks_on_stderr()),
        native_ssh: cli.global.native_ssh,
        typed,
        again: cli.global.again()?,
    };
    cli.verb.run(&context, driver_values)
}

/// Serves one of our drivers as a plug-in, for docker-machine and whatever else speaks its protocol.
pub fn serve_driver(name: &str) -> std::process::ExitCode {
    let found = machine_drivers::all()
        .into_iter()
        .find(|driver| driver.name() == name);
    let Some(driver) = found else {
        eprintln!("this program has no driver {name:?}");
        return std::process::ExitCode::FAILURE;
    };
    let for_seed = driver.clone();
    machine_drivers::plugin::serve::serve(
        driver,
        Box::new(move |place, state| {
            let store = MachineStore::new(place.store.clone());
            let paths = CertificatePaths::in_store(&store);
            Machines::new(store, paths, vec![for_seed.clone()])
                .seed_for(for_seed.clone(), place, state)
                .map_err(|error| {
                    machine_core::driver::DriverError::failed("prepare the guest", error)
                })
        }),
    )
}
