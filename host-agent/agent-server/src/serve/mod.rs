//! The engine's API server.
//!
//! ```text
//! command line, daemon.json -> config -> compose (services over their real backends) -> listen (unix, tcp, TLS)
//!                                                                                        -> routes -> services
//! ```

pub mod error;
pub mod extract;
pub mod hijack;
pub mod routes;
pub mod state;
pub mod translate;

#[cfg(test)]
pub mod testing;

/// Parses the command line and serves the engine's API until a signal ends it.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
