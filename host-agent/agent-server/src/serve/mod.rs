//! To come.

/// Parses the command line and serves the engine's API until a signal ends it.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
