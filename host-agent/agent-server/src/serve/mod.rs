//! The engine's API server.
//!
//! ```text
//! command line, daemon.json -> Config -> claim the folders -> bind the sockets -> compose the services -> serve
//! ```
//!
//! In this order: what is refused is refused before anything is touched, and clients that come while the services find
//! their containers again wait in the sockets' queues instead of being turned away. Ending `serve` ends no container; only the host's
//! own end does, told by [`ENGINE_SHUTDOWN_SIGNAL`].

mod build_cache;
pub(crate) mod claim;
mod compose;
pub(crate) mod config;
pub mod error;
pub mod extract;
pub mod hijack;
pub(crate) mod listen;
mod options;
pub mod routes;
pub mod ssh_agents;
pub mod state;
mod system;
pub mod translate;

#[cfg(test)]
pub mod testing;

use axum::extract::FromRef;
use claim::Claim;
use clap::{Parser, Subcommand};
use config::Config;
use engine::containers::ContainerService;
use engine::images::ImageService;
use engine::networks::NetworkService;
use engine_linux::host;
use guest_contract::ENGINE_SHUTDOWN_SIGNAL;
use listen::Listeners;
use options::Options;
use state::Stopping;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Each container has its own stop timeout, and none more than this; `init` waits a little longer before it ends what is left.
const CONTAINERS_STOP_WITHIN: Duration = Duration::from_secs(guest_contract::STOP_TIMEOUT_SECONDS);
/// A removed container's root file system is unmounted, which may wait for the disk.
const REMOVALS_END_WITHIN: Duration = Duration::from_secs(5);
/// Read where it exists and no other file is named.
const DEFAULT_CONFIG_FILE: &str = "/etc/berth/daemon.json";

/// Runs containers on this host and answers Docker's Engine API.
#[derive(Debug, Parser)]
#[command(name = "host-agent", version, propagate_version = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the engine's API until SIGTERM; containers go on without it
    Serve(Box<ServeCommand>),
    /// Own one container (started by `serve`)
    #[command(disable_help_flag = true)]
    Shim,
    /// Be process 1 of a Berth guest
    #[command(disable_help_flag = true)]
    Init,
    /// Be the ssh server of a Berth guest
    #[command(disable_help_flag = true)]
    Sshd,
}

#[derive(Debug, clap::Args)]
struct ServeCommand {
    /// File of options in dockerd's format [default: /etc/berth/daemon.json, where it exists]
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Check the options and the file, and exit
    #[arg(long)]
    validate: bool,
    #[command(flatten)]
    options: Options,
}

/// Parses the command line and serves the engine's API until a signal ends it.
pub fn main() -> ExitCode {
    let Command::Serve(command) = CommandLine::parse().command else {
        // `main.rs` takes the other verbs before.
        eprintln!("host-agent: this verb must come first on the command line");
        return ExitCode::FAILURE;
    };
    match start(*command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("host-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: ServeCommand) -> anyhow::Result<()> {
    let config = configure(command.config_file.as_deref(), command.options)?;
    if command.validate {
        println!("configuration OK");
        return Ok(());
    }
    log_to_stderr(&config);
    host::check_privileges().map_err(anyhow::Error::msg)?;
    // Two threads do all waiting; what blocks (files, unpacking) goes to threads that come and go.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(64)
        .thread_keep_alive(Duration::from_secs(3))
        .enable_all()
        .build()?;
    runtime.block_on(run(config))?;
    // Blocking work that is still under way (a measure of a large volume) is not waited for.
    runtime.shutdown_background();
    Ok(())
}

fn configure(file: Option<&Path>, options: Options) -> anyhow::Result<Config> {
    let default = Path::new(DEFAULT_CONFIG_FILE);
    let options = match file {
        Some(file) => options.with_file(file)?,
        None if default.exists() => options.with_file(default)?,
        None => options,
    };
    Ok(Config::from_options(options)?)
}

fn log_to_stderr(config: &Config) {
    use std::io::IsTerminal;
    tracing_subscriber::fmt()
        .with_max_level(config.log_level)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut power = signal(SignalKind::from_raw(ENGINE_SHUTDOWN_SIGNAL))?;
    let _claim = Claim::take(
        &config.data_root,
        &config.exec_root,
        config.pidfile.as_deref(),
    )?;
    let listeners = Listeners::bind(&config).await?;
    let hosts = config.describe_hosts();
    let reload = listeners.reloader();
    let stop = CancellationToken::new();
    let state = compose::services(config, Stopping(stop.clone())).await?;
    let containers = Arc::<ContainerService>::from_ref(&state);
    let networks = Arc::<NetworkService>::from_ref(&state);
    let images = ImageService::from_ref(&state);
    let serving = listeners.serve(routes::router(state), stop.clone());
    tokio::pin!(serving);
    tracing::info!(version = system::VERSION, "API listens on {hosts}");
    notify_manager("READY=1");
    loop {
        tokio::select! {
            () = &mut serving => break,
            _ = hangup.recv() => {
                reload();
                continue;
            }
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = power.recv() => {
                tracing::info!("the host powers off: stopping containers");
                containers.stop_all(CONTAINERS_STOP_WITHIN).await;
            }
        }
        // A second signal: somebody is in a hurry.
        if stop.is_cancelled() {
            break;
        }
        tracing::info!("stopping");
        notify_manager("STOPPING=1");
        stop.cancel();
    }
    containers.finish_removals(REMOVALS_END_WITHIN).await;
    networks.backend().close().await;
    // The host may go down next.
    images.make_durable().await?;
    Ok(())
}

/// Tells systemd, where it started us as `Type=notify` (sd_notify(3): a datagram to $NOTIFY_SOCKET).
pub(crate) fn notify_manager(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = std::os::unix::net::UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(state.as_bytes(), &path));
    if let Err(error) = sent {
        tracing::debug!(%error, "the service manager was not told");
    }
}
