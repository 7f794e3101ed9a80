//! A host as people have them: a name in the ssh configuration, behind a jump host, with a key that only the agent knows.

use crate::host::{self, Host, run};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// An ssh agent with the host's key; the key's file is gone.
struct Agent {
    process: Child,
    socket: PathBuf,
}

impl Agent {
    fn with_key_of(host: &Host) -> Agent {
        let socket = host.folder.path().join("agent.sock");
        let process = Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Agent { process, socket };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !agent.socket.exists() {
            assert!(Instant::now() < deadline, "the agent does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        let key = host.key();
        run(Command::new("ssh-add")
            .args(["-q"])
            .arg(&key)
            .env("SSH_AUTH_SOCK", &agent.socket));
        std::fs::remove_file(key).unwrap();
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_persons_ssh_configuration_agent_and_jump_hosts_count() {
    let Some(host) = host::start() else { return };
    let agent = Agent::with_key_of(&host);
    let folder = host.folder.path();
    // Root is let in from the host itself only: who comes by another way than the jump is turned away.
    let keys = host.file("/root/.ssh/authorized_keys");
    let key = std::fs::read_to_string(&keys).unwrap();
    std::fs::write(&keys, format!("from=\"{}\" {key}", host.address)).unwrap();

    // OpenSSH looks for ~/.ssh/config in the home of the password file, whatever HOME says. So the programs are told.
    let config = folder.join("ssh_config");
    let text = format!(
        "Host build\n HostName {address}\n User root\n ProxyJump jump\n\
         Host jump\n HostName {address}\n User worker\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n",
        address = host.address
    );
    std::fs::write(&config, text).unwrap();
    let bin = folder.join("bin");
    std::fs::create_dir(&bin).unwrap();
    for program in ["ssh", "scp"] {
        let path = bin.join(program);
        let script = format!(
            "#!/bin/sh\nexec /usr/bin/{program} -F {} \"$@\"\n",
            config.display()
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let search = format!("{}:/usr/bin:/bin", bin.display());
    let machine = |line: &str| {
        let mut command = host.machine("store", line);
        command
            .env("PATH", &search)
            .env("SSH_AUTH_SOCK", &agent.socket);
        command
    };

    let direct = machine(&format!(
        "create -d generic --generic-ip-address {} --generic-ssh-user root direct",
        host.address
    ));
    let output = { direct }.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Permission denied"), "{said}");
    assert_eq!(output.status.code(), Some(1));

    let made = run(&mut machine(
        "create -d generic --generic-ip-address build dev",
    ));
    assert!(made.contains("Docker is up and running!"), "{made}");
    assert_eq!(run(&mut machine("ip dev")).trim(), host.address);
    assert_eq!(run(&mut machine("ssh dev id -un")).trim(), "root");
    run(&mut machine(&format!(
        "scp -q {} dev:/root/copied",
        config.display()
    )));
    assert!(host.file("/root/copied").exists());
    // The host's key is pinned, by the name it was called.
    let known = std::fs::read_to_string(folder.join("store/machines/dev/known_hosts")).unwrap();
    assert!(!known.is_empty());
    run(&mut machine("regenerate-certs -f dev"));
    run(&mut machine("rm -y dev"));
}
