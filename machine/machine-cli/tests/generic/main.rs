//! The driver generic against real OpenSSH: a Debian root file system with sshd in namespaces of its own, and the program
//! `machine` as people call it.
//!
//! Needs root, debootstrap (the root file system is made once, in `target/debian-root`) and a built `host-agent`
//! (`BERTH_TEST_AGENT`, else the one in `target`).

#![cfg(target_os = "linux")]

mod adopt;
mod host;
mod jump;
mod openrc;
mod systemd;

use host::{agent, child_of, is_root, run};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn an_engine_is_installed_used_and_renewed_on_a_host() {
    let Some(host) = host::start() else { return };
    let agent = agent().unwrap();

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

    // Without an ssh program too, with the kind of key that docker-machine made, in every form it is written in.
    let kept = std::fs::read(host.key()).unwrap();
    for (form, begins) in [
        ("PEM", "-----BEGIN RSA PRIVATE KEY-----"),
        ("PKCS8", "-----BEGIN PRIVATE KEY-----"),
        ("RFC4716", "-----BEGIN OPENSSH PRIVATE KEY-----"),
    ] {
        let key = host.folder.path().join(form);
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-m", form, "-f"])
            .arg(&key));
        assert!(std::fs::read_to_string(&key).unwrap().starts_with(begins));
        let mut authorized = std::fs::File::options()
            .append(true)
            .open(host.file("/home/worker/.ssh/authorized_keys"))
            .unwrap();
        let public = std::fs::read(key.with_extension("pub")).unwrap();
        authorized.write_all(&public).unwrap();
        std::fs::copy(&key, host.key()).unwrap();
        let said = run(&mut host.machine("store", "--native-ssh ssh dev id -un"));
        assert_eq!(said.trim(), "worker", "{form}");
    }
    std::fs::write(host.key(), kept).unwrap();

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
    // An authority that ends soon is renewed: the host is no stranger's for that, and learns of it.
    let certs = host.folder.path().join("store/certs");
    let aged = "x509 -in ca.pem -signkey ca-key.pem -days 3 -out aged.pem";
    run(Command::new("openssl")
        .args(aged.split(' '))
        .current_dir(&certs));
    std::fs::rename(certs.join("aged.pem"), certs.join("ca.pem")).unwrap();
    let again = run(&mut host.machine("store", "provision dev"));
    assert!(
        again.contains("Renewing CA") && !again.contains("Signing"),
        "{again}"
    );
    let authority = std::fs::read_to_string(certs.join("ca.pem")).unwrap();
    for copy in [folder.join("ca.pem"), host.file("/etc/berth/tls/ca.pem")] {
        assert_eq!(std::fs::read_to_string(copy).unwrap(), authority);
    }
    run(&mut host.machine("store", "config dev"));
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
