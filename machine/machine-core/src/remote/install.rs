//! Puts the engine on a host.

use super::host::{Facts, InitSystem, look, wait_for_ssh};
use super::service::Role;
use super::{RemoteError, Shell, service};
use crate::driver::Progress;
use crate::engine_settings::DaemonJson;
use crate::ssh::{SshRoute, shell_word};
use certs::{Authority, CertificateError, SubjectAlternativeName, Validity};
use ring::digest::{Context, SHA256};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An agent of 10 MB over a slow line.
const UPLOAD_LIMIT: Duration = Duration::from_secs(15 * 60);

/// What the host is to become.
pub struct Wanted<'a> {
    pub machine: &'a str,
    pub port: u16,
    pub names: &'a [SubjectAlternativeName],
    pub authority: &'a Authority,
    pub daemon: &'a DaemonJson,
    /// The agent for an architecture, where it was not found by itself.
    pub agent: Option<PathBuf>,
    /// An engine that trusts another authority is taken over.
    pub take_over: bool,
    /// Make a new key and certificate even where there are good ones.
    pub new_certificate: bool,
    /// How long a host may take until somebody can log in.
    pub patience: Duration,
    /// The Docker engine at this socket of the host is used as it is, and none of ours installed.
    pub adopts: Option<&'a str>,
}

impl Wanted<'_> {
    fn role(&self) -> Role<'_> {
        match self.adopts {
            Some(socket) => Role::FrontOf(socket),
            None => Role::Engine,
        }
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    pub certificate: Option<String>,
    /// The agent was uploaded; false when the very same was there.
    pub agent_is_new: bool,
}

/// An installation on one host.
pub struct Installation<'a> {
    route: &'a SshRoute,
    facts: Facts,
    port: u16,
}

impl<'a> Installation<'a> {
    /// Waits for ssh and looks at the host, and for the engine's socket that is to be adopted there.
    pub fn begin(
        route: &'a SshRoute,
        port: u16,
        adopts: Option<&str>,
        patience: Duration,
        progress: &dyn Progress,
    ) -> Result<Installation<'a>, RemoteError> {
        progress.say("Waiting for SSH to be available...");
        wait_for_ssh(route, patience, progress)?;
        progress.say("Looking at the host...");
        let facts = look(route, port, adopts, &|| progress.interrupted())?;
        tracing::debug!(?facts, "the host");
        Ok(Installation { route, facts, port })
    }

    /// Whether an engine of ours was there before we came: it must not be taken away when something fails.
    pub fn was_there(&self) -> bool {
        self.facts.agent.is_some()
    }

    /// Installs or updates the engine; `certificate` is the machine's present one.
    pub fn run(
        &self,
        wanted: &Wanted<'_>,
        certificate: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Installed, RemoteError> {
        self.check(wanted)?;
        let over = || progress.interrupted();
        let shell = Shell {
            route: self.route,
            is_root: self.facts.is_root,
            over: &over,
        };
        let agent = Agent::open(wanted.agent.as_deref(), &self.facts.architecture)?;
        let agent_is_new = self.facts.agent.as_deref() != Some(agent.digest.as_str());
        if agent_is_new {
            progress.say(&format!(
                "Uploading the engine ({} MB)...",
                agent.bytes >> 20
            ));
            agent.upload(&shell)?;
        }
        let same_authority = self.trusts(wanted.authority);
        let good = !wanted.new_certificate
            && same_authority
            && certificate.is_some_and(|pem| is_good(pem, wanted.names));
        let certificate = match good {
            true => {
                self.put_authority(&shell, wanted)?;
                None
            }
            false => {
                progress.say("Signing the host's certificate...");
                Some(self.certify(&shell, wanted)?)
            }
        };
        match wanted.adopts {
            None => {
                progress.say("Setting up the engine...");
                let settings = serde_json::to_vec_pretty(wanted.daemon);
                let settings = settings.expect("settings are plain data");
                self.put(&shell, service::CONFIG, &settings)?;
                if self.facts.front_of.is_some() {
                    let script = format!("rm -f {}", service::FRONT_OF);
                    shell.root("write the engine's files", &script)?;
                }
            }
            Some(socket) => {
                progress.say("Setting up mutual TLS before the host's Docker engine...");
                self.put(&shell, service::FRONT_OF, socket.as_bytes())?;
            }
        }
        let role = wanted.role();
        if let Some((path, text)) = service::file(self.facts.init, role, self.port) {
            self.put(&shell, path, text.as_bytes())?;
        } else {
            progress.say(
                "This host has neither systemd nor OpenRC: the engine is started now, but not again after a reboot.",
            );
        }
        shell.root(
            "start the engine",
            &service::start(self.facts.init, role, self.port),
        )?;
        shell
            .root("start the engine", &service::is_up(self.facts.init))
            .map_err(|_| self.why_down(&shell))?;
        Ok(Installed {
            certificate,
            agent_is_new,
        })
    }

    /// A new key and certificate and nothing else: the engine reads them by itself, containers go on.
    pub fn certify_only(
        &self,
        wanted: &Wanted<'_>,
        progress: &dyn Progress,
    ) -> Result<String, RemoteError> {
        if !self.was_there() {
            return Err(RemoteError::NotReady {
                what: "there is no engine of ours on the host".into(),
                hint: format!("install it: machine provision {}", wanted.machine),
            });
        }
        self.check(wanted)?;
        let over = || progress.interrupted();
        let shell = Shell {
            route: self.route,
            is_root: self.facts.is_root,
            over: &over,
        };
        self.certify(&shell, wanted)
    }

    /// Takes the engine away again; its data stays.
    pub fn remove(&self) -> Result<(), RemoteError> {
        let shell = Shell {
            route: self.route,
            is_root: self.facts.is_root,
            over: &|| false,
        };
        let script = service::remove(self.facts.init);
        shell.root("remove the engine", &script).map(drop)
    }

    /// Reboots the host, as docker-machine's generic driver does.
    pub fn reboot(&self, progress: &dyn Progress) -> Result<(), RemoteError> {
        let over = || progress.interrupted();
        let shell = Shell {
            route: self.route,
            is_root: self.facts.is_root,
            over: &over,
        };
        // A moment later, so that this command ends before its connection does.
        let script = "(sleep 1; shutdown -r now || reboot) >/dev/null 2>&1 </dev/null &";
        shell.root("restart the host", script).map(drop)
    }

    /// The log's last lines, for an engine that runs but does not answer.
    pub fn log(&self) -> Vec<String> {
        let shell = Shell {
            route: self.route,
            is_root: self.facts.is_root,
            over: &|| false,
        };
        let text = shell.root("read the engine's log", &service::log(self.facts.init));
        text.unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    fn check(&self, wanted: &Wanted<'_>) -> Result<(), RemoteError> {
        if self.facts.authority.is_some() && !self.trusts(wanted.authority) && !wanted.take_over {
            return Err(RemoteError::NotReady {
                what: "the host has an engine of ours that trusts another authority: it is somebody's machine".into(),
                hint: "use their store, or take it over with --generic-take-over, which locks them out".into(),
            });
        }
        match (wanted.adopts, &self.facts.front_of) {
            (Some(_), _) if self.facts.engine => {
                return Err(RemoteError::NotReady {
                    what: "the host has an engine of ours, not Docker's alone".into(),
                    hint: "use it: machine create -d generic --generic-ip-address HOST NAME".into(),
                });
            }
            (Some(socket), _) if !self.facts.socket => {
                return Err(RemoteError::NotReady {
                    what: format!("no Docker engine listens at {socket} of the host"),
                    hint: "start it (systemctl start docker), name its socket with --socket, or install our engine: machine \
                           create -d generic --generic-ip-address HOST NAME"
                        .into(),
                });
            }
            (None, Some(socket)) if !wanted.take_over => {
                return Err(RemoteError::NotReady {
                    what: format!("the host's Docker engine at {socket} is a machine already"),
                    hint: "put ours in its place with --generic-take-over; Docker's stays on the host and can no longer be \
                           reached from elsewhere"
                        .into(),
                });
            }
            _ => {}
        }
        if self.facts.port_taken && !self.was_there() {
            let who = match self.facts.dockerd {
                true => "dockerd",
                false => "another program",
            };
            return Err(RemoteError::NotReady {
                what: format!("port {} of the host is taken by {who}", self.port),
                hint: match (wanted.adopts, self.facts.dockerd) {
                    (Some(_), true) => "it listens there by itself: use it with `machine attach` and its certificates, or choose \
                                        another port with --engine-port",
                    (Some(_), false) => "choose another port with --engine-port",
                    (None, true) => "use that engine with `machine adopt`, or with `machine attach` and its certificates, or give \
                                     ours another port with --generic-engine-port",
                    (None, false) => "choose another port with --generic-engine-port",
                }
                .into(),
            });
        }
        Ok(())
    }

    fn trusts(&self, authority: &Authority) -> bool {
        let theirs = self.facts.authority.as_deref();
        theirs.is_some_and(|pem| certs::same_authority(pem, authority.certificate()))
    }

    /// The key is made there; only its request comes here, only its certificate goes back.
    fn certify(&self, shell: &Shell<'_>, wanted: &Wanted<'_>) -> Result<String, RemoteError> {
        let step = "make the host's key";
        let new_key = format!("{}.new", service::KEY);
        let request = shell.root(
            step,
            &format!(
                "umask 022 && mkdir -p {tls} && {agent} certificate-request --key {new_key} --name {name}",
                tls = service::TLS,
                agent = service::AGENT,
                name = shell_word(wanted.machine),
            ),
        )?;
        let refused = |error: CertificateError| RemoteError::Refused {
            step: "sign the host's certificate",
            why: crate::error::chain(&error),
        };
        let certificate = wanted
            .authority
            .sign_server_request(
                &request,
                wanted.machine,
                wanted.names,
                Validity::days(Validity::LEAF_DAYS),
            )
            .map_err(refused)?;
        self.put_authority(shell, wanted)?;
        let new_certificate = format!("{}.new", service::CERTIFICATE);
        self.put(shell, &new_certificate, certificate.as_bytes())?;
        // One after the other; the engine keeps its old pair while the two do not fit.
        shell.root(
            step,
            &format!(
                "mv {new_key} {key} && mv {new_certificate} {cert} && sync",
                key = service::KEY,
                cert = service::CERTIFICATE
            ),
        )?;
        Ok(certificate)
    }

    /// The certificate that the engine knows its clients by; it may have been renewed.
    fn put_authority(&self, shell: &Shell<'_>, wanted: &Wanted<'_>) -> Result<(), RemoteError> {
        let certificate = wanted.authority.certificate();
        if self.facts.authority.as_deref() == Some(certificate) {
            return Ok(());
        }
        self.put(shell, service::AUTHORITY, certificate.as_bytes())
    }

    /// Writes a file, whole or not at all.
    fn put(&self, shell: &Shell<'_>, path: &str, contents: &[u8]) -> Result<(), RemoteError> {
        let folder = Path::new(path).parent().unwrap_or(Path::new("/"));
        let script = format!(
            "umask 022 && mkdir -p {folder} && cat > {path}.writing && mv {path}.writing {path}",
            folder = folder.display()
        );
        shell
            .root_with(
                "write the engine's files",
                &script,
                &mut &contents[..],
                super::STEP_LIMIT,
            )
            .map(drop)
    }

    fn why_down(&self, shell: &Shell<'_>) -> RemoteError {
        let text = shell.root("read the engine's log", &service::log(self.facts.init));
        let log: Vec<String> = text
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect();
        RemoteError::Engine {
            why: match log.last() {
                Some(last) => last.clone(),
                None => "its log is empty".into(),
            },
            log,
        }
    }

    pub fn init(&self) -> InitSystem {
        self.facts.init
    }
}

/// Whether a certificate holds and has every name.
fn is_good(pem: &str, names: &[SubjectAlternativeName]) -> bool {
    let now = time::OffsetDateTime::now_utc();
    let has = certs::subject_alternative_names_of(pem);
    has.is_ok_and(|has| names.iter().all(|name| has.contains(name)))
        && certs::expiry_of(pem).is_ok_and(|expiry| !expiry.is_due(now))
}

/// The static agent on this computer.
struct Agent {
    path: PathBuf,
    file: File,
    bytes: u64,
    digest: String,
}

impl Agent {
    fn open(given: Option<&Path>, architecture: &str) -> Result<Agent, RemoteError> {
        let path = match given {
            Some(path) => path.to_path_buf(),
            None => installed(architecture).ok_or_else(|| RemoteError::NotReady {
                what: format!("this computer has no engine for {architecture} hosts"),
                hint: "build it with `cargo xtask agent`, or name a file with --generic-agent or MACHINE_AGENT".into(),
            })?,
        };
        let failed = |source| RemoteError::Agent {
            path: path.clone(),
            source,
        };
        let mut file = File::open(&path).map_err(failed)?;
        let mut context = Context::new(&SHA256);
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            let count = file.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                break;
            }
            bytes += count as u64;
            context.update(&buffer[..count]);
        }
        file.rewind().map_err(failed)?;
        Ok(Agent {
            file,
            bytes,
            digest: hex(context.finish().as_ref()),
            path,
        })
    }

    /// Uploads beside the old one and puts it in its place when its digest is right.
    fn upload(mut self, shell: &Shell<'_>) -> Result<(), RemoteError> {
        tracing::debug!(path = %self.path.display(), digest = self.digest, "upload");
        let agent = service::AGENT;
        let script = format!(
            "umask 022 && mkdir -p /usr/local/bin && cat > {agent}.new && \
             if [ \"$(sha256sum < {agent}.new | cut -d' ' -f1)\" = {digest} ]; then \
             chmod 755 {agent}.new && {agent}.new serve --version >/dev/null && mv {agent}.new {agent}; \
             else rm -f {agent}.new; echo 'the upload was damaged' >&2; exit 1; fi",
            digest = self.digest
        );
        shell
            .root_with("upload the engine", &script, &mut self.file, UPLOAD_LIMIT)
            .map(drop)
    }
}

/// The agent that came with this program: beside it, in `lib/berth`, or where a build puts it.
fn installed(architecture: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MACHINE_AGENT").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    [
        format!("host-agent-{architecture}"),
        format!("../lib/berth/host-agent-{architecture}"),
        format!("../{architecture}-unknown-linux-musl/release/host-agent"),
    ]
    .iter()
    .map(|name| folder.join(name))
    .find(|path| path.is_file())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
