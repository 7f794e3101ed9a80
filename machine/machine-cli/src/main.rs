//! The program `machine`. The drivers it has are listed in one place, `machine_drivers`.

fn main() -> std::process::ExitCode {
    machine_cli::run(std::env::args_os().collect(), drivers()).into()
}

fn drivers() -> Vec<std::sync::Arc<dyn machine_core::driver::Driver>> {
    Vec::new()
}
