//! How a machine is reached with the system's OpenSSH programs, and commands run over it.
//!
//! A machine we made has a key of its own and a pinned host key; the person's ssh configuration is for other hosts and must
//! not change what happens there. A host that somebody else made is reached the way its owner does: with
//! `~/.ssh/config`, agent and jump hosts, the host's key still pinned at first contact.

use crate::driver::{Address, DriverState, MachinePlace};
use crate::store::layout;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How often a command that runs is looked after.
const GLANCE: Duration = Duration::from_millis(20);
/// More output than this is nobody's answer.
const MAX_OUTPUT_BYTES: u64 = 4 << 20;

/// The way to one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshRoute {
    /// Where to: an address, or a name of the person's ssh configuration.
    pub host: String,
    /// `None`: what the person's configuration says.
    pub user: Option<String>,
    /// `None`: what the person's configuration says.
    pub port: Option<u16>,
    pub key: Option<PathBuf>,
    /// Where the host's key is pinned.
    pub known_hosts: PathBuf,
    /// The person's own configuration counts.
    pub personal: bool,
}

impl SshRoute {
    pub fn new(place: &MachinePlace, state: &DriverState, address: &Address) -> SshRoute {
        let key = state
            .get("SSHKeyPath")
            .and_then(|path| path.as_str())
            .filter(|path| !path.is_empty());
        SshRoute {
            host: match &address.ssh_host {
                Some(host) => host.clone(),
                None => address.ip.to_string(),
            },
            user: Some(address.ssh_user.clone()).filter(|user| !user.is_empty()),
            port: Some(address.ssh_port).filter(|port| *port != 0),
            key: key.map(PathBuf::from),
            known_hosts: place.folder.join(layout::KNOWN_HOSTS),
            personal: address.ssh_host.is_some(),
        }
    }

    /// `user@host`, as ssh, scp and sshfs take it.
    pub fn destination(&self, user: Option<&str>) -> String {
        match user.or(self.user.as_deref()) {
            Some(user) => format!("{user}@{}", self.host),
            None => self.host.clone(),
        }
    }

    /// The destination of scp, rsync and sshfs, where a colon ends the host: IPv6 addresses stand in brackets.
    pub fn file_destination(&self, user: Option<&str>, path: &str) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match user.or(self.user.as_deref()) {
            Some(user) => format!("{user}@{host}:{path}"),
            None => format!("{host}:{path}"),
        }
    }

    /// ssh's options as (name, value) of ssh_config(5).
    pub fn options(&self) -> Vec<(&'static str, String)> {
        let mut options = vec![
            ("ConnectionAttempts", "3".to_owned()),
            ("ConnectTimeout", "10".to_owned()),
            ("LogLevel", "ERROR".to_owned()),
            ("ServerAliveInterval", "60".to_owned()),
            // The host's key is taken the first time and must be the same ever after.
            ("StrictHostKeyChecking", "accept-new".to_owned()),
            ("UserKnownHostsFile", quoted(&self.known_hosts)),
        ];
        if !self.personal {
            options.push(("ControlMaster", "no".into()));
            options.push(("ControlPath", "none".into()));
            options.push(("PasswordAuthentication", "no".into()));
        }
        if let Some(key) = &self.key {
            options.push(("IdentitiesOnly", "yes".into()));
            options.push(("IdentityFile", quoted(key)));
        }
        if let Some(port) = self.port {
            options.push(("Port", port.to_string()));
        }
        options
    }

    /// The options as arguments that ssh, scp, sftp and sshfs share.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if !self.personal {
            arguments.extend(["-F".to_owned(), "none".to_owned()]);
        }
        for (name, value) in self.options() {
            arguments.push(format!("-o{name}={value}"));
        }
        arguments
    }

    /// A `Host` section of ssh_config(5) that gives this route the name `alias`.
    pub fn section(&self, alias: &str) -> String {
        let mut text = format!("Host {alias}\n  HostName {}\n", self.host);
        if let Some(user) = &self.user {
            text.push_str(&format!("  User {user}\n"));
        }
        for (name, value) in self.options() {
            text.push_str(&format!("  {name} {value}\n"));
        }
        text
    }

    /// `ssh OPTIONS DESTINATION`; what is to be run is added by the caller.
    pub fn command(&self) -> Command {
        let mut command = Command::new("ssh");
        command.args(self.arguments()).arg(self.destination(None));
        command
    }

    /// Runs a shell command over ssh, never asking anybody anything.
    pub fn run(
        &self,
        script: &str,
        input: &mut dyn Read,
        limit: Duration,
        over: &dyn Fn() -> bool,
    ) -> Result<Output, SshError> {
        let mut command = Command::new("ssh");
        command
            .args(self.arguments())
            .args(["-oBatchMode=yes", "-T"])
            .arg(self.destination(None))
            .arg(script);
        run(&self.host, command, input, limit, over)
    }
}

/// What a command said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Why a command over ssh came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    #[error("there is no `{program}` program on this computer")]
    NoProgram { program: String },
    #[error("cannot run {program}")]
    Run {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{host}: {why}")]
    Connect { host: String, why: String },
    #[error("nothing came of it within {} s", limit.as_secs())]
    TooLong { limit: Duration },
    #[error("interrupted")]
    Interrupted,
}

impl SshError {
    /// What to try next.
    pub fn hint(&self) -> Option<String> {
        match self {
            SshError::NoProgram { program } => Some(how_to_get(program).to_owned()),
            SshError::Connect { why, .. } if why.contains("Host key verification failed") => Some(
                "the host's key is not the one it had: if the host was made anew, remove its line from the known_hosts \
                 file in the machine's folder"
                    .to_owned(),
            ),
            SshError::Connect { host, why } if why.contains("Permission denied") => Some(format!(
                "try `ssh {host}`: the key must be known there, or loaded in the ssh agent"
            )),
            SshError::Connect { host, .. } => Some(format!("try `ssh {host}`")),
            _ => None,
        }
    }
}

/// How a missing program is had.
pub fn how_to_get(program: &str) -> &'static str {
    match program {
        "sshfs" => {
            "install sshfs (Debian, Ubuntu: apt install sshfs; macOS: macFUSE and sshfs; Windows: WinFsp and SSHFS-Win)"
        }
        "rsync" => "install rsync on this computer and in the machine, or leave -d out",
        _ => "install OpenSSH's client (Debian, Ubuntu: apt install openssh-client)",
    }
}

fn run(
    host: &str,
    mut command: Command,
    input: &mut dyn Read,
    limit: Duration,
    over: &dyn Fn() -> bool,
) -> Result<Output, SshError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => SshError::NoProgram {
            program: program.clone(),
        },
        _ => SshError::Run {
            program: program.clone(),
            source,
        },
    };
    let deadline = Instant::now() + limit;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let mut stop = None;
    {
        let mut stdin = child.stdin.take();
        let mut buffer = vec![0; 256 * 1024];
        while let Some(pipe) = &mut stdin {
            match input.read(&mut buffer) {
                Ok(0) => stdin = None,
                // The far side went away: its status says why.
                Ok(count) => {
                    if pipe.write_all(&buffer[..count]).is_err() {
                        stdin = None;
                    }
                }
                Err(source) => {
                    stop = Some(SshError::Run {
                        program: "the upload".into(),
                        source,
                    });
                    stdin = None;
                }
            }
            if over() || Instant::now() > deadline {
                stdin = None;
            }
        }
    }
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if over() => stop = Some(SshError::Interrupted),
            None if Instant::now() > deadline => stop = Some(SshError::TooLong { limit }),
            None => {}
        }
        if stop.is_some() {
            let _ = child.kill();
            break child.wait().map_err(failed)?;
        }
        std::thread::sleep(GLANCE);
    };
    if let Some(stop) = stop {
        return Err(stop);
    }
    let output = Output {
        code: status.code(),
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    };
    // 255 is ssh's own failure.
    if output.code == Some(255) {
        let last = output.stderr.trim().lines().last().unwrap_or("ssh failed");
        return Err(SshError::Connect {
            host: host.to_owned(),
            why: last.to_owned(),
        });
    }
    Ok(output)
}

fn collect(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read until an error is what there is.
            let _ = (&mut stream).take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes);
            let _ = io::copy(&mut stream, &mut io::sink());
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// ssh splits such values at spaces and replaces words after a percent sign.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.to_string_lossy().replace('%', "%%"))
}

/// One word of a shell command.
pub fn shell_word(text: &str) -> String {
    let plain = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./:=@,+".contains(&b));
    match plain {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: Option<&str>) -> SshRoute {
        let place = MachinePlace {
            name: "dev".into(),
            folder: "/s/50% mine/machines/dev".into(),
            store: "/s/50% mine".into(),
        };
        let mut state = DriverState::new();
        state.insert("SSHKeyPath".into(), "/s/k".into());
        let address = Address {
            ip: "127.20.0.3".parse().unwrap(),
            api_port: 2376,
            ssh_port: if host.is_some() { 0 } else { 2222 },
            ssh_user: if host.is_some() { "" } else { "docker" }.into(),
            ssh_host: host.map(str::to_owned),
        };
        SshRoute::new(&place, &state, &address)
    }

    #[test]
    fn our_own_machines_ignore_the_persons_configuration() {
        let route = route(None);
        let line = route.arguments().join(" ");
        assert!(line.starts_with("-F none "), "{line}");
        assert!(line.contains("-oUserKnownHostsFile=\"/s/50%% mine/machines/dev/known_hosts\""));
        assert!(line.contains("-oPort=2222") && line.contains("-oIdentityFile=\"/s/k\""));
        assert_eq!(route.destination(None), "docker@127.20.0.3");
        assert_eq!(route.file_destination(Some("me"), "/x"), "me@127.20.0.3:/x");
    }

    #[test]
    fn a_host_of_the_persons_configuration_keeps_what_is_said_there() {
        let route = route(Some("db"));
        let line = route.arguments().join(" ");
        assert!(!line.contains("-F") && !line.contains("Port="), "{line}");
        assert!(line.contains("StrictHostKeyChecking=accept-new"));
        assert_eq!(route.destination(None), "db");
        let section = route.section("dev");
        assert!(
            section.starts_with("Host dev\n  HostName db\n  Connection"),
            "{section}"
        );
    }

    #[test]
    fn words() {
        assert_eq!(shell_word("/a/b-c"), "/a/b-c");
        assert_eq!(shell_word("a'b c"), "'a'\\''b c'");
        assert_eq!(shell_word(""), "''");
    }

    #[cfg(unix)]
    #[test]
    fn a_command_that_hangs_ends_at_its_limit() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let limit = Duration::from_millis(100);
        let error = run("host", command, &mut io::empty(), limit, &|| false).unwrap_err();
        assert!(matches!(error, SshError::TooLong { .. }), "{error}");
        let mut command = Command::new("cat");
        command.arg("-");
        let output = run(
            "host",
            command,
            &mut &b"hello"[..],
            Duration::from_secs(20),
            &|| false,
        )
        .unwrap();
        assert_eq!((output.stdout.as_str(), output.code), ("hello", Some(0)));
        let error = run(
            "host",
            Command::new("no-such-program-here"),
            &mut io::empty(),
            limit,
            &|| false,
        )
        .unwrap_err();
        assert!(error.hint().is_some(), "{error}");
    }
}
