//! The driver generic against real OpenSSH: a Debian root file system with sshd in namespaces of its own, and the program
//! `machine` as people call it.
//!
//! Needs root, debootstrap (the root file system is made once, in `target/debian-root`) and a built `host-agent`
//! (`BERTH_TEST_AGENT`, else the one in `target`).

#![cfg(target_os = "linux")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn target() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_machine"))
        .ancestors()
        .nth(2)
        .unwrap()
        .to_path_buf()
}

fn agent() -> Option<PathBuf> {
    let given = std::env::var_os("BERTH_TEST_AGENT").map(PathBuf::from);
    let built = [
        "x86_64-unknown-linux-musl/release/host-agent",
        "debug/host-agent",
    ];
    let mut found: Vec<PathBuf> = built
        .iter()
        .map(|name| target().join(name))
        .filter(|path| path.is_file())
        .collect();
    // The newest: an old release build may lack what this test needs.
    found.sort_by_key(|path| path.metadata().and_then(|m| m.modified()).unwrap());
    given.or(found.pop())
}

/// The root file system, made once; others who want it at the same time wait.
fn debian() -> Result<PathBuf, String> {
    if !is_root() {
        return Err("needs root".into());
    }
    let root = target().join("debian-root");
    std::fs::create_dir_all(&root).unwrap();
    let lock = std::fs::File::create(target().join("debian-root.lock")).unwrap();
    lock.lock().unwrap();
    let done = root.join("usr/sbin/sshd");
    if !done.exists() {
        let making = target().join("debian-root.making");
        let _ = std::fs::remove_dir_all(&making);
        let made = Command::new("debootstrap")
            .args([
                "--variant=minbase",
                "--include=openssh-server,sudo,iproute2,iptables",
                "bookworm",
            ])
            .arg(&making)
            .stdout(Stdio::null())
            .status();
        match made {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(format!("debootstrap: {status}")),
            Err(error) => return Err(format!("debootstrap: {error}")),
        }
        std::fs::remove_dir(&root).unwrap();
        std::fs::rename(&making, &root).unwrap();
    }
    Ok(root)
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().any(|line| line.starts_with("Uid:\t0\t0"))
}

fn child_of(pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A host that ends with the test, whatever happens.
struct Host {
    folder: tempfile::TempDir,
    init: Child,
    address: String,
    link: String,
    inner: u32,
}

impl Host {
    fn start(debian: &Path) -> Host {
        let folder = tempfile::Builder::new()
            .prefix("berth-generic")
            .tempdir()
            .unwrap();
        let key = folder.path().join("key");
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key));
        let authorized = std::fs::read_to_string(key.with_extension("pub")).unwrap();
        let number = std::process::id();
        // A network of four addresses that is this process's alone, as far as numbers go.
        let net = format!("10.{}.{}", 200 + number / 250 / 64 % 50, number % 250);
        let base = number / 250 % 64 * 4;
        let (ours, theirs) = (format!("{net}.{}", base + 1), format!("{net}.{}", base + 2));
        let link = format!("bg{number}");
        let script = format!(
            r#"set -e
cd {folder}
mount --make-rprivate /
mkdir tmp && mount -t tmpfs none tmp && mkdir tmp/upper tmp/work tmp/root
mount -t overlay -o lowerdir={debian},upperdir=tmp/upper,workdir=tmp/work none tmp/root
cd tmp/root
mount -t proc proc proc
mount --rbind /dev dev
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount -t tmpfs none run
mount -t tmpfs none var/lib
mkdir -p run/sshd root/.ssh home/worker/.ssh
grep -q worker etc/passwd || chroot . useradd -p '*' -s /bin/bash worker
echo '{authorized}' > root/.ssh/authorized_keys
cp root/.ssh/authorized_keys home/worker/.ssh/
chmod 700 root/.ssh home/worker/.ssh; chroot . chown -R worker home/worker
echo 'worker ALL=(ALL) NOPASSWD:ALL' > etc/sudoers.d/worker
ip link set lo up
n=0; until ip link show {link}b >/dev/null 2>&1; do sleep 0.05; n=$((n+1)); [ $n -lt 200 ]; done
ip addr add {theirs}/30 dev {link}b; ip link set {link}b up
exec chroot . /usr/sbin/sshd -D -e -o UsePAM=no
"#,
            folder = folder.path().display(),
            debian = debian.display(),
            authorized = authorized.trim(),
        );
        let init = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--net",
                "--uts",
                "--ipc",
                "sh",
                "-c",
            ])
            .arg(script)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("sshd.log")).unwrap())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let inner = loop {
            if let Some(pid) = child_of(init.id()) {
                break pid;
            }
            assert!(Instant::now() < deadline, "unshare did not start");
            std::thread::sleep(Duration::from_millis(10));
        };
        let host = Host {
            folder,
            init,
            address: theirs,
            link,
            inner,
        };
        let link = &host.link;
        run(Command::new("ip").args([
            "link",
            "add",
            link,
            "type",
            "veth",
            "peer",
            "name",
            &format!("{link}b"),
            "netns",
            &host.inner.to_string(),
        ]));
        run(Command::new("ip").args(["addr", "add", &format!("{ours}/30"), "dev", link]));
        run(Command::new("ip").args(["link", "set", link, "up"]));
        host
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    fn machine(&self, store: &str, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_machine"));
        command
            .args(line.split(' '))
            .env("MACHINE_STORAGE_PATH", self.folder.path().join(store))
            .env("DOCKER_CONFIG", self.folder.path().join("docker"))
            .env("MACHINE_AGENT", agent().unwrap())
            .stdin(Stdio::null());
        command
    }

    fn create(&self, more: &str) -> String {
        format!(
            "create -d generic --generic-ip-address {} --generic-ssh-key {} {more}",
            self.address,
            self.key().display()
        )
    }

    /// A file of the host.
    fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.inner))
    }

    fn refused(&self, store: &str, line: &str) -> String {
        let output = self.machine(store, line).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        said
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in [
                self.folder.path().join("sshd.log"),
                self.file("/var/log/berth.log"),
            ] {
                eprintln!(
                    "{}:\n{}",
                    log.display(),
                    std::fs::read_to_string(&log).unwrap_or_default()
                );
            }
        }
        let _ = self.init.kill();
        let _ = self.init.wait();
        let _ = Command::new("ip")
            .args(["link", "del", &self.link])
            .stderr(Stdio::null())
            .status();
    }
}

#[test]
fn an_engine_is_installed_used_and_renewed_on_a_host() {
    let Some(agent) = agent() else {
        println!("skipped: host-agent is not built");
        return;
    };
    let debian = match debian() {
        Ok(debian) => debian,
        Err(why) => {
            println!("skipped: {why}");
            return;
        }
    };
    let host = Host::start(&debian);

    // A port that another engine has, and a user that may not become root, are told before anything is changed.
    let mut other = Command::new("nsenter")
        .args(["-t", &host.inner.to_string(), "-n", "-p", "-r", "perl", "-e"])
        .arg("$0='dockerd'; use IO::Socket::INET; $s=IO::Socket::INET->new(LocalPort=>2376,Listen=>1) or die; sleep 600")
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect((host.address.as_str(), 2376)).is_err() {
        assert!(Instant::now() < deadline, "nobody listens");
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = host.refused("store", &host.create("dev"));
    assert!(
        said.contains("port 2376 of the host is taken by dockerd"),
        "{said}"
    );
    assert!(said.contains("--generic-engine-port"), "{said}");
    // nsenter waits for its child, which is the one that listens.
    let listening = child_of(other.id()).unwrap();
    run(Command::new("kill").arg(listening.to_string()));
    other.wait().unwrap();
    assert!(!host.file("/usr/local/bin/host-agent").exists());

    // As a user with sudo.
    let made = run(&mut host.machine(
        "store",
        &host.create("--generic-ssh-user worker --engine-label a=b dev"),
    ));
    assert!(made.contains("Docker is up and running!"), "{made}");
    assert!(made.contains("neither systemd nor OpenRC"), "{made}");
    let folder = host.folder.path().join("store/machines/dev");

    // The authority's key is nowhere there, the server's key nowhere here.
    let ca_key =
        std::fs::read_to_string(host.folder.path().join("store/certs/ca-key.pem")).unwrap();
    for file in std::fs::read_dir(host.file("/etc/berth/tls")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert_ne!(text, ca_key);
    }
    assert!(!folder.join("server-key.pem").exists());
    let key = host.file("/etc/berth/tls/server-key.pem");
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let digest =
        |path: &Path| run(Command::new("sha256sum").stdin(std::fs::File::open(path).unwrap()));
    assert_eq!(
        digest(&agent),
        digest(&host.file("/usr/local/bin/host-agent"))
    );

    // Docker's own client talks to it with what `config` says.
    let config = run(&mut host.machine("store", "config dev"));
    let mut docker = Command::new("docker");
    for flag in config.lines() {
        docker.arg(flag.replace('"', ""));
    }
    if Command::new("docker").arg("--version").output().is_ok() {
        let info = run(docker.args(["info", "--format", "{{.Labels}}"]));
        assert_eq!(info.trim(), "[provider=generic a=b]");
    }
    assert_eq!(
        run(&mut host.machine("store", "status dev")).trim(),
        "Running"
    );
    assert_eq!(
        run(&mut host.machine("store", "ip dev")).trim(),
        host.address
    );
    assert_eq!(
        run(&mut host.machine("store", "ssh dev id -un")).trim(),
        "worker"
    );
    let status = host.machine("store", "ssh dev exit 7").status().unwrap();
    assert_eq!(status.code(), Some(7));

    // Files, there and back, folders too.
    let files = host.folder.path().join("files");
    std::fs::create_dir_all(files.join("a b")).unwrap();
    std::fs::write(files.join("a b/c"), "hello").unwrap();
    run(&mut host.machine(
        "store",
        &format!("scp -q -r {} dev:/tmp/there", files.display()),
    ));
    assert_eq!(
        std::fs::read_to_string(host.file("/tmp/there/a b/c")).unwrap(),
        "hello"
    );
    let back = host.folder.path().join("back");
    run(&mut host.machine(
        "store",
        &format!("scp -q dev:/tmp/there/a\\ b/c {}", back.display()).replace("\\ ", "?"),
    ));
    assert_eq!(std::fs::read_to_string(&back).unwrap(), "hello");
    run(&mut host.machine("store", "scp -q dev:/tmp/there/a?b/c root@dev:/root/copied"));
    assert_eq!(
        std::fs::read_to_string(host.file("/root/copied")).unwrap(),
        "hello"
    );

    // New certificates come without a new engine.
    let pid = || std::fs::read_to_string(host.file("/run/berth-agent.pid")).unwrap();
    let before = (
        pid(),
        std::fs::read_to_string(folder.join("server.pem")).unwrap(),
    );
    run(&mut host.machine("store", "regenerate-certs -f dev"));
    let after = (
        pid(),
        std::fs::read_to_string(folder.join("server.pem")).unwrap(),
    );
    assert_eq!(before.0, after.0);
    assert_ne!(before.1, after.1);
    run(&mut host.machine("store", "config dev"));

    // Once more over what is there: nothing is uploaded, the certificate stays.
    let again = run(&mut host.machine("store", "provision dev"));
    assert!(
        !again.contains("Uploading") && !again.contains("Signing"),
        "{again}"
    );
    assert_ne!(pid(), after.0);
    let upgraded = run(&mut host.machine("store", "upgrade dev"));
    assert!(upgraded.contains("\"dev\" runs"), "{upgraded}");

    // Somebody else's store is told, unless it insists.
    let said = host.refused("other", &host.create("dev"));
    assert!(said.contains("trusts another authority"), "{said}");
    run(&mut host.machine("other", &host.create("--generic-take-over dev")));
    let said = host.refused("store", "config dev");
    assert!(said.contains("certificate"), "{said}");

    for verb in ["start", "stop", "kill"] {
        let said = host.refused("other", &format!("{verb} dev"));
        assert!(said.contains("generic"), "{said}");
    }
    // The host stays as it is.
    run(&mut host.machine("other", "rm -y dev"));
    assert!(host.file("/usr/local/bin/host-agent").exists());
}

#[test]
fn a_host_that_does_not_answer_is_given_up_in_time() {
    if !is_root() {
        println!("skipped: needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let output = Command::new(env!("CARGO_BIN_EXE_machine"))
        .args([
            "create",
            "-d",
            "generic",
            "--generic-ip-address",
            "127.0.0.1",
            "--generic-ssh-port",
            &port.to_string(),
            "dev",
        ])
        .env("MACHINE_STORAGE_PATH", folder.path().join("store"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("log in over ssh") && said.contains("Connection refused"),
        "{said}"
    );
    assert!(!folder.path().join("store/machines/dev").exists());
}
