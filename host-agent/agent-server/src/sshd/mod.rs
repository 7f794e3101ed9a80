//! `host-agent sshd`: a small ssh server for guests. Public keys only; whoever logs in is the user the server runs as (root
//! in a guest), whatever name was accepted.
//!
//! ```text
//! listener -> connection (russh; who may come in) -> channel -> session: a shell, a command, sftp   (session)
//!                                                            -> a forwarded connection              (forward)
//! ```
//!
//! One thread: the kernel copies, we only hand on. `sftp` is a process of its own (`host-agent sshd sftp-server`), as in
//! OpenSSH, so that a slow disk holds up nobody else.

mod connection;
mod forward;
mod input;
mod keys;
mod session;
mod sftp;

use clap::Parser;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at a time; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// Wrong keys a connection may try.
const AUTH_ATTEMPTS: usize = 6;
/// A client that went away without a word is noticed after three of these.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Smaller than russh's 2 MiB: what a client may send before it waits for us stays in memory.
const WINDOW: u32 = 512 * 1024;

/// Serves ssh: public keys, shells, commands, sftp and port forwarding.
#[derive(Debug, Parser)]
#[command(name = "host-agent sshd")]
struct Arguments {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:22")]
    listen: SocketAddr,
    /// Public keys that may log in, in OpenSSH's format; read anew for each login
    #[arg(long, value_name = "FILE")]
    authorized_keys: PathBuf,
    /// The server's own key; made when missing
    #[arg(long, value_name = "FILE")]
    host_key: PathBuf,
    /// User name to accept, besides root
    #[arg(long, value_name = "NAME", default_value = "docker")]
    user: String,
}

/// Runs until the end of the process.
pub fn main(args: Vec<OsString>) -> ExitCode {
    if args.first().is_some_and(|first| first == "sftp-server") {
        return sftp::main();
    }
    let program = OsString::from("host-agent sshd");
    let arguments = Arguments::parse_from(std::iter::once(program).chain(args));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| "info,russh=warn".into()),
        )
        .init();
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("host-agent sshd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: Arguments) -> anyhow::Result<()> {
    use anyhow::Context;
    let host_key = keys::host_key(&arguments.host_key)?;
    let config = Arc::new(russh::server::Config {
        methods: (&[russh::MethodKind::PublicKey][..]).into(),
        auth_rejection_time: Duration::from_millis(300),
        auth_rejection_time_initial: Some(Duration::ZERO),
        max_auth_attempts: AUTH_ATTEMPTS,
        keys: vec![host_key],
        window_size: WINDOW,
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        nodelay: true,
        ..russh::server::Config::default()
    });
    let policy = Arc::new(connection::Policy {
        users: vec![arguments.user, "root".to_owned()],
        authorized_keys: arguments.authorized_keys,
        account: session::Account::of_this_process(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(arguments.listen).await.with_context(|| {
            format!(
                "listen on {}; is another ssh server running there?",
                arguments.listen
            )
        })?;
        tracing::info!(address = %listener.local_addr()?, "listening");
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let place = places.clone().acquire_owned().await?;
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (config, policy) = (config.clone(), policy.clone());
                    tokio::spawn(async move {
                        connection::serve(config, policy, stream, peer).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    })
}
