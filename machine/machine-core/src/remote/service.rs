//! The engine as a service of the host. The files are told in one place.

use super::InitSystem;
use crate::ssh::shell_word;

pub(super) const AGENT: &str = "/usr/local/bin/host-agent";
pub(super) const CONFIG: &str = "/etc/berth/daemon.json";
/// Names the socket of the Docker engine that the agent stands in front of; where it is, there is no [`CONFIG`].
pub(super) const FRONT_OF: &str = "/etc/berth/front-of";
pub(super) const TLS: &str = "/etc/berth/tls";
pub(super) const AUTHORITY: &str = "/etc/berth/tls/ca.pem";
pub(super) const CERTIFICATE: &str = "/etc/berth/tls/server.pem";
pub(super) const KEY: &str = "/etc/berth/tls/server-key.pem";
const UNIT: &str = "/etc/systemd/system/berth.service";
const OPENRC: &str = "/etc/init.d/berth";
const PID_FILE: &str = "/run/berth-agent.pid";
const LOG: &str = "/var/log/berth.log";

/// What the agent is on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role<'a> {
    Engine,
    /// Mutual TLS before the Docker engine at this socket, which stays as it is.
    FrontOf(&'a str),
}

/// The agent's command line. What people may set is in the file, what makes it a machine of ours is here: the engine refuses an
/// option that both have.
pub(super) fn command(role: Role<'_>, port: u16) -> Vec<String> {
    let address = format!("0.0.0.0:{port}");
    let url = format!("tcp://{address}");
    let mut words = match role {
        Role::Engine => vec![
            AGENT,
            "serve",
            "--config-file",
            CONFIG,
            "-H",
            "unix:///run/berth.sock",
            "-H",
            &url,
            "--tlsverify",
        ],
        Role::FrontOf(socket) => vec![AGENT, "front", "--listen", &address, "--to", socket],
    };
    words.extend([
        "--tlscacert",
        AUTHORITY,
        "--tlscert",
        CERTIFICATE,
        "--tlskey",
        KEY,
    ]);
    words.into_iter().map(str::to_owned).collect()
}

/// The service's file and its contents; `None` where there is no init system to read one.
pub(super) fn file(init: InitSystem, role: Role<'_>, port: u16) -> Option<(&'static str, String)> {
    let command = command(role, port);
    let (description, after) = match role {
        Role::Engine => ("Berth container engine", ""),
        Role::FrontOf(_) => ("Berth before the Docker engine", " docker.service"),
    };
    match init {
        InitSystem::Systemd => Some((
            UNIT,
            format!(
                "[Unit]\n\
                 Description={description}\n\
                 After=network-online.target{after}\n\
                 Wants=network-online.target\n\
                 \n\
                 [Service]\n\
                 Type=notify\n\
                 ExecStart={}\n\
                 ExecReload=/bin/kill -HUP $MAINPID\n\
                 # Containers outlive the engine.\n\
                 KillMode=process\n\
                 Restart=always\n\
                 Delegate=yes\n\
                 \n\
                 [Install]\n\
                 WantedBy=multi-user.target\n",
                command.join(" ")
            ),
        )),
        InitSystem::OpenRc => Some((
            OPENRC,
            format!(
                "#!/sbin/openrc-run\n\
                 description=\"{description}\"\n\
                 supervisor=supervise-daemon\n\
                 command={}\n\
                 command_args=\"{}\"\n\
                 output_log={LOG}\n\
                 error_log={LOG}\n\
                 extra_started_commands=reload\n\
                 \n\
                 depend() {{\n\
                 # Not \"need\": where no service of OpenRC's sets the network up it would not start.\n\
                 \tuse net\n\
                 \tafter firewall docker\n\
                 }}\n\
                 \n\
                 reload() {{\n\
                 \tpkill -HUP -o -f \"{AGENT} {}\"\n\
                 }}\n",
                command[0],
                command[1..].join(" "),
                command[1],
            ),
        )),
        InitSystem::None => None,
    }
}

/// Starts the engine, or starts it anew with what is installed now. Containers go on meanwhile.
pub(super) fn start(init: InitSystem, role: Role<'_>, port: u16) -> String {
    match init {
        InitSystem::Systemd => {
            "systemctl daemon-reload && systemctl enable --quiet berth && systemctl restart berth"
                .into()
        }
        InitSystem::OpenRc => format!(
            "chmod 755 {OPENRC} && rc-update -q add berth default && rc-service berth restart"
        ),
        InitSystem::None => {
            let words: Vec<String> = command(role, port)
                .iter()
                .map(|word| shell_word(word))
                .collect();
            // Its own session, away from ssh's pipes, or the log-in would not end.
            format!(
                "{stop}\nsetsid=; command -v setsid >/dev/null 2>&1 && setsid=setsid\n\
                 $setsid nohup {} --pidfile {PID_FILE} >>{LOG} 2>&1 </dev/null &",
                words.join(" "),
                stop = stop(init)
            )
        }
    }
}

/// Ends the engine; containers go on.
pub(super) fn stop(init: InitSystem) -> String {
    match init {
        InitSystem::Systemd => "systemctl disable --quiet --now berth || true".into(),
        InitSystem::OpenRc => {
            "rc-service berth stop || true; rc-update -q del berth default || true".into()
        }
        InitSystem::None => format!(
            "if [ -s {PID_FILE} ]; then\n\
             pid=$(cat {PID_FILE})\n\
             if [ \"$(readlink /proc/$pid/exe | cut -d' ' -f1)\" = {AGENT} ]; then\n\
             kill $pid\n\
             n=0; while kill -0 $pid 2>/dev/null && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done\n\
             fi\nfi"
        ),
    }
}

/// Exit code 0 while the engine runs.
pub(super) fn is_up(init: InitSystem) -> String {
    match init {
        InitSystem::Systemd => "systemctl is-active --quiet berth".into(),
        InitSystem::OpenRc => "rc-service -q berth status".into(),
        InitSystem::None => {
            // A moment after its start the file is not there yet.
            format!(
                "n=0; while [ ! -s {PID_FILE} ] && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done; kill -0 \"$(cat {PID_FILE})\""
            )
        }
    }
}

/// Prints the last lines of the engine's log.
pub(super) fn log(init: InitSystem) -> String {
    match init {
        InitSystem::Systemd => "journalctl -u berth -n 20 --no-pager -o cat".into(),
        _ => format!("tail -n 20 {LOG}"),
    }
}

/// Takes away what was installed; data and running containers stay.
pub(super) fn remove(init: InitSystem) -> String {
    let reload = match init {
        InitSystem::Systemd => "\nsystemctl daemon-reload",
        _ => "",
    };
    format!(
        "{}\nrm -rf {UNIT} {OPENRC} {AGENT} {PID_FILE} /etc/berth{reload}",
        stop(init)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_start_the_same_engine() {
        for init in [InitSystem::Systemd, InitSystem::OpenRc] {
            let (_, text) = file(init, Role::Engine, 2376).unwrap();
            assert!(text.contains("-H tcp://0.0.0.0:2376 --tlsverify"), "{text}");
        }
        assert!(
            file(InitSystem::Systemd, Role::Engine, 1)
                .unwrap()
                .1
                .contains("KillMode=process")
        );
        assert!(start(InitSystem::None, Role::Engine, 2376).contains("tcp://0.0.0.0:2376"));
        let front = Role::FrontOf("/run/docker.sock");
        for text in [
            file(InitSystem::Systemd, front, 99).unwrap().1,
            file(InitSystem::OpenRc, front, 99).unwrap().1,
            start(InitSystem::None, front, 99).replace('\'', ""),
        ] {
            let wanted = "front --listen 0.0.0.0:99 --to /run/docker.sock --tlscacert";
            assert!(text.contains(wanted) && !text.contains(" serve "), "{text}");
        }
    }

    /// systemd's own reading of the unit, where that is installed.
    #[cfg(target_os = "linux")]
    #[test]
    fn systemd_understands_the_unit() {
        let folder = tempfile::tempdir().unwrap();
        let (_, text) = file(InitSystem::Systemd, Role::Engine, 2376).unwrap();
        // The program need not be there for the unit to be right.
        let text = text.replace(AGENT, "/bin/true");
        let path = folder.path().join("berth.service");
        std::fs::write(&path, text).unwrap();
        let output = std::process::Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .arg(&path)
            .output();
        let Ok(output) = output else {
            println!("skipped: there is no systemd-analyze");
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("unrecognized option") || said.contains("Failed to initialize manager") {
            println!("skipped: {}", said.trim());
            return;
        }
        assert!(!said.contains("berth.service"), "{said}");
        assert!(output.status.success(), "{said}");
    }

    /// OpenRC's part is played: the file is sourced as openrc-run does, the two programs write down what they are asked.
    #[cfg(unix)]
    #[test]
    fn openrc_is_asked_in_order() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for program in ["rc-update", "rc-service"] {
            let text = format!("#!/bin/sh\necho {program} \"$@\" >> \"$0.log\"\n");
            std::fs::write(path(program), text).unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(path(program), mode).unwrap();
        }
        let (_, text) = file(InitSystem::OpenRc, Role::Engine, 2376).unwrap();
        let service = path("berth");
        std::fs::write(&service, text).unwrap();
        let here = |script: String| script.replace(OPENRC, &service.display().to_string());
        let run = |script: &str| {
            let output = std::process::Command::new("sh")
                .args(["-c", script])
                .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{script}: {said}");
            String::from_utf8(output.stdout).unwrap()
        };
        run(&here(start(InitSystem::OpenRc, Role::Engine, 2376)));
        run(&is_up(InitSystem::OpenRc));
        run(&stop(InitSystem::OpenRc));
        let log = |program: &str| std::fs::read_to_string(path(&format!("{program}.log"))).unwrap();
        assert_eq!(
            log("rc-update"),
            "rc-update -q add berth default\nrc-update -q del berth default\n"
        );
        assert_eq!(
            log("rc-service"),
            "rc-service berth restart\nrc-service -q berth status\nrc-service berth stop\n"
        );
        let mode = service.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        let script = format!(
            "use() {{ :; }}; after() {{ :; }}; . {}; depend; echo $command $command_args",
            service.display()
        );
        assert_eq!(run(&script).trim(), command(Role::Engine, 2376).join(" "));
    }
}
