//! A Debian host whose dockerd runs already becomes a machine; dockerd and its containers notice nothing.

use crate::host::{self, Host, run};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Debian's own dockerd. Its socket is the host's, its folders and mounts are the test's.
struct Dockerd {
    process: Child,
    socket: PathBuf,
    folder: PathBuf,
}

impl Dockerd {
    fn start(host: &Host) -> Option<Dockerd> {
        let folder = host.folder.path().join("dockerd");
        std::fs::create_dir(&folder).unwrap();
        let socket = host.file("/run/docker.sock");
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let path = |name: &str| folder.join(name);
        let process = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "dockerd"])
            .args(["--bridge=none", "--iptables=false"])
            .arg(format!("--host=unix://{}", socket.display()))
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("run"))
            .arg("--pidfile")
            .arg(path("pid"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .ok()?;
        let mut dockerd = Dockerd {
            process,
            socket,
            folder,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !dockerd.docker("version").output().ok()?.status.success() {
            let ended = dockerd.process.try_wait().unwrap();
            if ended.is_some() || Instant::now() > deadline {
                let log = std::fs::read_to_string(dockerd.folder.join("log")).unwrap();
                println!("skipped: dockerd does not run here: {log}");
                return None;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(dockerd)
    }

    /// Docker's client on the engine's own socket.
    fn docker(&self, line: &str) -> Command {
        let mut command = Command::new("docker");
        command
            .arg(format!("--host=unix://{}", self.socket.display()))
            .args(line.split(' '));
        command
    }

    fn stop(&mut self) {
        if let Ok(Some(_)) = self.process.try_wait() {
            return;
        }
        let pid = self.process.id().to_string();
        let _ = Command::new("kill").arg(pid).status();
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Ok(None) = self.process.try_wait() {
            if Instant::now() > deadline {
                let _ = self.process.kill();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn installed(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

#[test]
fn a_docker_host_is_adopted_as_it_is() {
    let busybox = std::path::Path::new("/usr/bin/busybox");
    if !installed("dockerd") || !installed("docker") || !busybox.exists() {
        println!("skipped: dockerd, docker or busybox is not installed");
        return;
    }
    let Some(host) = host::start() else { return };
    let adopt = format!(
        "adopt --ssh-user worker --ssh-key {} dev {}",
        host.key().display(),
        host.address
    );

    // A host without Docker is told apart before anything is changed on it.
    let said = host.refused("store", &adopt);
    assert!(
        said.contains("no Docker engine listens at /var/run/docker.sock"),
        "{said}"
    );
    assert!(!host.file("/usr/local/bin/host-agent").exists());

    let Some(mut dockerd) = Dockerd::start(&host) else {
        return;
    };
    let tar = Command::new("tar")
        .args(["--create", "--directory=/usr", "bin/busybox"])
        .output()
        .unwrap();
    let archive = host.folder.path().join("busybox.tar");
    std::fs::write(&archive, tar.stdout).unwrap();
    run(&mut dockerd.docker(&format!("import {} busybox", archive.display())));
    let container = run(&mut dockerd
        .docker("run --detach --name stays --network none busybox /bin/busybox sleep 1000"));
    let started =
        |dockerd: &Dockerd| run(&mut dockerd.docker("inspect --format {{.State.StartedAt}} stays"));
    let before = started(&dockerd);
    let version = run(&mut dockerd.docker("version --format {{.Server.Version}}"));

    let said = host.refused(
        "store",
        &host.create("--generic-docker-socket /var/run/docker.sock --engine-label a=b dev"),
    );
    assert!(said.contains("keeps its own settings"), "{said}");

    let made = run(&mut host.machine("store", &adopt));
    assert!(
        made.contains("before the host's Docker engine") && made.contains("env dev"),
        "{made}"
    );
    assert!(!host.file("/etc/berth/daemon.json").exists());
    assert_eq!(
        std::fs::read_to_string(host.file("/etc/berth/front-of")).unwrap(),
        "/var/run/docker.sock"
    );

    // Docker's client over TLS: the same engine, the same container, streams both ways.
    let config = run(&mut host.machine("store", "config dev"));
    let client = |line: &str| {
        let mut docker = Command::new("docker");
        for flag in config.lines() {
            docker.arg(flag.replace('"', ""));
        }
        docker.args(line.split(' '));
        docker
    };
    assert_eq!(
        run(&mut client("version --format {{.Server.Version}}")),
        version
    );
    assert_eq!(run(&mut client("ps --quiet --no-trunc")), container);
    let words = std::fs::File::open(host.key()).unwrap();
    let echoed = run(client("exec --interactive stays /bin/busybox cat").stdin(words));
    assert_eq!(echoed, std::fs::read_to_string(host.key()).unwrap());
    let list = run(&mut host.machine("store", "ls"));
    assert!(
        list.contains("Running") && list.contains(version.trim()),
        "{list}"
    );

    // What else is done with machines of this driver.
    run(&mut host.machine("store", "regenerate-certs -f dev"));
    run(&mut host.machine("store", "provision dev"));
    let upgraded = run(&mut host.machine("store", "upgrade dev"));
    assert!(upgraded.contains("is its host's"), "{upgraded}");
    let said = host.refused("store", &host.create("other"));
    assert!(said.contains("is a machine already"), "{said}");
    assert_eq!(started(&dockerd), before);

    dockerd.stop();
    let said = host.refused("store", "config dev");
    assert!(said.contains("does not answer at"), "{said}");
    run(&mut host.machine("store", "rm -y dev"));
}
