//! What a host is, before anything is changed on it.

use super::{RemoteError, Shell};
use crate::driver::Progress;
use crate::ssh::{SshError, SshRoute, shell_word};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The oldest kernel the engine runs on.
const OLDEST_KERNEL: (u32, u32) = (5, 11);
/// How often a host that is not up yet is tried.
const PAUSE: Duration = Duration::from_secs(2);

/// What starts services on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitSystem {
    Systemd,
    OpenRc,
    /// Neither: the engine is started, but not again after a reboot.
    None,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `x86_64`, `aarch64`, as `uname -m` says.
    pub architecture: String,
    pub init: InitSystem,
    pub is_root: bool,
    /// SHA-256 of the agent that is installed.
    pub agent: Option<String>,
    /// The authority's certificate (PEM) that the installed engine trusts.
    pub authority: Option<String>,
    /// Somebody listens on the engine's port.
    pub port_taken: bool,
    /// A dockerd runs.
    pub dockerd: bool,
    /// An engine of ours was installed, whole or not.
    pub engine: bool,
    /// The socket of the engine that an agent of ours stands in front of.
    pub front_of: Option<String>,
    /// The socket that was looked for is there.
    pub socket: bool,
}

/// Waits until somebody can log in over ssh. A host that refuses our key or shows another host key is not waited for.
pub(super) fn wait_for_ssh(
    route: &SshRoute,
    patience: Duration,
    progress: &dyn Progress,
) -> Result<(), RemoteError> {
    let over = || progress.interrupted();
    let shell = Shell {
        route,
        is_root: false,
        over: &over,
    };
    let deadline = Instant::now() + patience;
    let mut told = None;
    loop {
        let error = match shell.try_run("log in over ssh", "exit 0") {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let RemoteError::Ssh { source, .. } = &error else {
            return Err(error);
        };
        let why = source.to_string();
        let hopeless = match source {
            SshError::Connect { why, .. } => {
                // A cloud's host learns our key while it boots; one that is only remembered knows it or not.
                why.contains("Host key verification failed")
                    || why.contains("REMOTE HOST IDENTIFICATION")
                    || (why.contains("Permission denied") && route.personal)
                    || why.contains("Could not resolve")
            }
            SshError::TooLong { .. } => false,
            _ => true,
        };
        if hopeless || Instant::now() + PAUSE > deadline {
            return Err(error);
        }
        if told.as_ref() != Some(&why) {
            progress.say(&format!("Waiting for SSH ({why})..."));
            told = Some(why);
        }
        let until = Instant::now() + PAUSE;
        while Instant::now() < until && !progress.interrupted() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Looks at the host, and for an engine's socket on it; changes nothing.
pub(super) fn look(
    route: &SshRoute,
    port: u16,
    socket: Option<&str>,
    over: &dyn Fn() -> bool,
) -> Result<Facts, RemoteError> {
    let shell = Shell {
        route,
        is_root: false,
        over,
    };
    let output = shell.try_run("look at the host", &script(port, socket))?;
    read(&output.stdout)
}

/// Prints `key=value` lines, with nothing but a POSIX shell and coreutils or busybox.
fn script(port: u16, socket: Option<&str>) -> String {
    format!(
        r#"echo "system=$(uname -s)"
echo "kernel=$(uname -r)"
echo "machine=$(uname -m)"
echo "user=$(id -u)"
if [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; then echo root=yes; fi
if [ -e /sys/fs/cgroup/cgroup.controllers ] || [ -d /sys/fs/cgroup/memory ]; then echo cgroups=yes; fi
if [ -d /run/systemd/system ]; then echo init=systemd
elif [ -d /run/openrc ] && command -v rc-service >/dev/null 2>&1; then echo init=openrc; fi
if command -v sha256sum >/dev/null 2>&1; then echo sha256sum=yes; fi
[ -r {agent} ] && echo "agent=$(sha256sum < {agent})"
[ -r {authority} ] && echo "authority=$(tr '\n' '|' < {authority})"
[ -e {config} ] && echo engine=yes
[ -r {front_of} ] && echo "front=$(cat {front_of})"
[ -S {socket} ] && echo socket=yes
cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -Eq ':{port:04X} [0-9A-F]+:[0-9A-F]+ 0A' && echo port=taken
for process in /proc/[0-9]*; do
  name=; read -r name < "$process/comm" 2>/dev/null; [ "$name" = dockerd ] && echo dockerd=yes
done
exit 0"#,
        agent = super::service::AGENT,
        authority = super::service::AUTHORITY,
        config = super::service::CONFIG,
        front_of = super::service::FRONT_OF,
        socket = shell_word(socket.unwrap_or("/none")),
    )
}

fn read(text: &str) -> Result<Facts, RemoteError> {
    let found: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.trim().split_once('='))
        .collect();
    let get = |key: &str| found.get(key).copied();
    let not_ready = |what: String, hint: &str| RemoteError::NotReady {
        what,
        hint: hint.to_owned(),
    };
    match get("system") {
        Some("Linux") => {}
        Some(other) => {
            return Err(not_ready(
                format!("the host runs {other}; the engine needs Linux"),
                "choose a Linux host",
            ));
        }
        None => {
            return Err(not_ready(
                "the host's shell did not answer as a POSIX shell does".into(),
                "a login banner may be fine, a forced command is not: try `ssh HOST uname`",
            ));
        }
    }
    let kernel = get("kernel").unwrap_or_default();
    if version(kernel).is_none_or(|version| version < OLDEST_KERNEL) {
        return Err(not_ready(
            format!(
                "the host's kernel is {kernel}; the engine needs {}.{} or newer",
                OLDEST_KERNEL.0, OLDEST_KERNEL.1
            ),
            "upgrade the host",
        ));
    }
    if get("root").is_none() {
        return Err(not_ready(
            "the user that ssh logs in is not root and may not use sudo without a password".into(),
            "log in as root, or allow it: echo 'USER ALL=(ALL) NOPASSWD:ALL' in /etc/sudoers.d",
        ));
    }
    if get("cgroups").is_none() {
        return Err(not_ready(
            "no cgroups are mounted on the host".into(),
            "mount them under /sys/fs/cgroup; every init system of today does",
        ));
    }
    if get("sha256sum").is_none() {
        return Err(not_ready(
            "the host has no sha256sum, so an upload cannot be checked".into(),
            "install coreutils or busybox there",
        ));
    }
    let digest = |key: &str| {
        get(key)
            .and_then(|line| line.split_whitespace().next())
            .map(str::to_owned)
    };
    Ok(Facts {
        architecture: get("machine").unwrap_or_default().to_owned(),
        init: match get("init") {
            Some("systemd") => InitSystem::Systemd,
            Some("openrc") => InitSystem::OpenRc,
            _ => InitSystem::None,
        },
        is_root: get("user") == Some("0"),
        agent: digest("agent"),
        // The script has it on one line.
        authority: get("authority").map(|pem| pem.replace('|', "\n")),
        port_taken: get("port").is_some(),
        dockerd: get("dockerd").is_some(),
        engine: get("engine").is_some(),
        front_of: get("front").map(str::to_owned),
        socket: get("socket").is_some(),
    })
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "motd\nsystem=Linux\nkernel=6.1.0-13-amd64\nmachine=x86_64\nuser=1000\nroot=yes\ncgroups=yes\n\
        init=systemd\nsha256sum=yes\nagent=ab12  -\nport=taken\ndockerd=yes\n";

    #[test]
    fn a_host_is_described() {
        let facts = read(GOOD).unwrap();
        assert_eq!(facts.architecture, "x86_64");
        assert_eq!(facts.init, InitSystem::Systemd);
        assert!(!facts.is_root && facts.port_taken && facts.dockerd);
        assert_eq!(facts.agent.as_deref(), Some("ab12"));
        assert_eq!(facts.authority, None);
        assert!(!facts.engine && !facts.socket && facts.front_of.is_none());
        let more =
            "authority=-----BEGIN-----|ab==|-----END-----|\nfront=/run/docker.sock\nsocket=yes\n";
        let facts = read(&format!("{GOOD}{more}")).unwrap();
        assert_eq!(
            facts.authority.as_deref(),
            Some("-----BEGIN-----\nab==\n-----END-----\n")
        );
        assert_eq!(facts.front_of.as_deref(), Some("/run/docker.sock"));
    }

    #[test]
    fn what_the_engine_cannot_run_on_is_refused_with_the_reason() {
        for (without, with, why) in [
            ("system=Linux", "system=FreeBSD", "runs FreeBSD"),
            ("system=Linux", "", "POSIX"),
            ("kernel=6.1.0-13-amd64", "kernel=5.10.0", "kernel is 5.10.0"),
            ("kernel=6.1.0-13-amd64", "kernel=odd", "kernel is odd"),
            ("root=yes", "", "sudo"),
            ("cgroups=yes", "", "cgroups"),
            ("sha256sum=yes", "", "sha256sum"),
        ] {
            let error = read(&GOOD.replace(without, with)).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert!(error.hint().is_some());
        }
    }

    /// The script runs on this very computer, whatever its shell is.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_script_is_understood() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker's.sock");
        let _engine = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg(script(port, Some(&socket.display().to_string())))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            ["system=Linux\n", "port=taken\n", "socket=yes\n"]
                .iter()
                .all(|line| text.contains(line)),
            "{text}"
        );
    }
}
