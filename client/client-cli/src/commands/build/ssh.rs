//! `--ssh`: agents that a build may ask to sign. Keys from files get an agent of their own, OpenSSH's, so that it is
//! OpenSSH that reads them, whatever their kind, and asks for their passphrases.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long an agent may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// The agents of a build. Those that were started for it end when this is dropped.
#[derive(Default)]
pub(super) struct Agents {
    sockets: BTreeMap<String, PathBuf>,
    own: Vec<OwnAgent>,
}

impl Agents {
    /// Where they listen, by id.
    pub(super) fn sockets(&self) -> BTreeMap<String, PathBuf> {
        self.sockets.clone()
    }
}

/// Reads every `--ssh default|ID[=SOCKET|KEY[,KEY...]]`.
pub(super) fn agents(options: &[String]) -> Result<Agents> {
    let mut agents = Agents::default();
    for text in options {
        let (id, place) = text.split_once('=').unwrap_or((text, ""));
        if id.is_empty() {
            bail!("invalid --ssh '{text}': expected default, ID=SOCKET or ID=KEY[,KEY]");
        }
        let socket = match place {
            "" => std::env::var_os("SSH_AUTH_SOCK")
                .filter(|place| !place.is_empty())
                .map(PathBuf::from)
                .with_context(|| {
                    format!("--ssh {id}: SSH_AUTH_SOCK names no agent; start one with ssh-agent")
                })?,
            place => PathBuf::from(place),
        };
        let socket = match place.contains(',') || !is_socket(&socket)? {
            false => socket,
            true => {
                let keys: Vec<&Path> = place.split(',').map(Path::new).collect();
                let own = OwnAgent::start(&keys).with_context(|| format!("--ssh {id}"))?;
                let socket = own.socket.clone();
                agents.own.push(own);
                socket
            }
        };
        agents.sockets.insert(id.to_owned(), socket);
    }
    Ok(agents)
}

#[cfg(unix)]
fn is_socket(path: &Path) -> Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    let facts = std::fs::metadata(path)
        .with_context(|| format!("cannot find the ssh agent or key {}", path.display()))?;
    Ok(facts.file_type().is_socket())
}

#[cfg(not(unix))]
fn is_socket(_: &Path) -> Result<bool> {
    bail!("--ssh needs a unix socket of an agent, which this system does not have")
}

/// An agent with some keys for one build.
struct OwnAgent {
    folder: PathBuf,
    socket: PathBuf,
    child: Child,
}

impl OwnAgent {
    fn start(keys: &[&Path]) -> Result<OwnAgent> {
        for key in keys {
            std::fs::File::open(key)
                .with_context(|| format!("cannot read the key {}", key.display()))?;
        }
        let mut random = [0u8; 8];
        getrandom::fill(&mut random)
            .map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
        let name = format!("berth-ssh-{}", super::context::hex(&random));
        let folder = std::env::temp_dir().join(name);
        make_private_folder(&folder)?;
        let socket = folder.join("agent");
        let started = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match started {
            Ok(child) => child,
            Err(error) => {
                let _ = std::fs::remove_dir_all(&folder);
                return Err(error).context(
                    "cannot start ssh-agent for the key: install OpenSSH's client, or name an agent's socket",
                );
            }
        };
        let mut agent = OwnAgent {
            folder,
            socket,
            child,
        };
        agent.wait()?;
        for key in keys {
            // It may ask for a passphrase.
            let added = Command::new("ssh-add")
                .arg("-q")
                .arg(key)
                .env("SSH_AUTH_SOCK", &agent.socket)
                .status()
                .context("cannot start ssh-add for the key")?;
            if !added.success() {
                bail!("ssh-add does not take the key {}", key.display());
            }
        }
        Ok(agent)
    }

    /// Returns when it listens.
    fn wait(&mut self) -> Result<()> {
        let begun = Instant::now();
        while !self.socket.exists() {
            if let Some(status) = self.child.try_wait().context("cannot watch ssh-agent")? {
                bail!("ssh-agent ended at once: {status}");
            }
            if begun.elapsed() > PATIENCE {
                bail!("ssh-agent does not listen");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for OwnAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn make_private_folder(path: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn read(text: String) -> Result<Agents> {
        agents(&[text])
    }

    #[test]
    fn agents_are_sockets() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("agent");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        let agents = read(format!("default={}", socket.display())).expect("good");
        assert_eq!(agents.sockets()["default"], socket);
        assert!(read("default=/nowhere/at/all".into()).is_err());
        assert!(read("=x".into()).is_err());
    }

    #[test]
    fn keys_get_an_agent_of_their_own_that_ends_with_the_build() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("id");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key)
            .status();
        if !made.is_ok_and(|status| status.success()) {
            println!("skipped: there is no ssh-keygen here");
            return;
        }
        let agents = read(format!("deploy={}", key.display())).expect("good");
        let socket = agents.sockets()["deploy"].clone();
        let mut agent = std::os::unix::net::UnixStream::connect(&socket).expect("it listens");
        // SSH_AGENTC_REQUEST_IDENTITIES, and its answer with one key.
        agent.write_all(&[0, 0, 0, 1, 11]).expect("sent");
        let mut answer = [0u8; 9];
        agent.read_exact(&mut answer).expect("answered");
        assert_eq!(answer[4..], [12, 0, 0, 0, 1]);
        drop(agents);
        assert!(!socket.exists());
        let nothing = folder.path().join("no-key");
        std::fs::write(&nothing, "no key").expect("written");
        let error = read(format!("x={}", nothing.display()))
            .err()
            .expect("no key");
        assert!(
            format!("{error:#}").contains("does not take the key"),
            "{error:#}"
        );
    }
}
