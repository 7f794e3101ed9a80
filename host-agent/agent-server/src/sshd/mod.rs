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
use guest_contract::seed::{AUTHORIZED_KEYS, SEED_JSON, Seed};
use guest_contract::{DATA_ROOT, GUEST_SSH_PORT, SEED_DIR};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
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
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from(([0; 4], GUEST_SSH_PORT)))]
    listen: SocketAddr,
    /// Public keys that may log in, in OpenSSH's format; read anew for each login
    #[arg(long, value_name = "FILE", default_value_os_t = seeded(AUTHORIZED_KEYS))]
    authorized_keys: PathBuf,
    /// The server's own key; made when missing
    #[arg(long, value_name = "FILE", default_value_os_t = Path::new(DATA_ROOT).join("ssh_host_ed25519_key"))]
    host_key: PathBuf,
    /// User name to accept, besides root; default: the one the machine's seed tells, else docker
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

fn seeded(name: &str) -> PathBuf {
    Path::new(SEED_DIR).join(name)
}

/// The user name of the seed in `folder`, if there is a seed.
fn seeded_user(folder: &Path) -> Option<String> {
    let bytes = std::fs::read(folder.join(SEED_JSON)).ok()?;
    match serde_json::from_slice::<Seed>(&bytes) {
        Ok(seed) => Some(seed.ssh_user),
        Err(error) => {
            tracing::warn!(%error, "the seed is not readable");
            None
        }
    }
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
    let user = arguments
        .user
        .or_else(|| seeded_user(Path::new(SEED_DIR)))
        .filter(|user| !user.is_empty())
        .unwrap_or_else(|| "docker".to_owned());
    let policy = Arc::new(connection::Policy {
        users: vec![user, "root".to_owned()],
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_flags_it_is_the_server_of_a_guest() {
        let arguments = Arguments::parse_from(["sshd"]);
        assert_eq!(arguments.listen.to_string(), "0.0.0.0:22");
        assert_eq!(
            arguments.authorized_keys,
            Path::new("/run/berth-seed/authorized_keys")
        );
        assert_eq!(
            arguments.host_key,
            Path::new("/var/lib/berth/ssh_host_ed25519_key")
        );
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(seeded_user(folder.path()), None);
        let seed = Seed {
            version: 1,
            hostname: "dev".into(),
            unix_ms: 0,
            ssh_user: "captain".into(),
        };
        std::fs::write(
            folder.path().join(SEED_JSON),
            serde_json::to_vec(&seed).unwrap(),
        )
        .unwrap();
        assert_eq!(seeded_user(folder.path()).as_deref(), Some("captain"));
        std::fs::write(folder.path().join(SEED_JSON), "{").unwrap();
        assert_eq!(seeded_user(folder.path()), None);
    }
}
