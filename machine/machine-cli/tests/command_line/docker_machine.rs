//! A store of docker-machine 0.16, certificates and all, taken over by the real program. The certificates are made as
//! docker-machine made them (RSA, an organisation and no common name), the engine is played by `openssl s_server`.

use super::*;
use std::net::{TcpListener, TcpStream};
use std::process::Child;

fn openssl(folder: &Path, line: &str) -> bool {
    let output = Command::new("openssl")
        .args(line.split(' '))
        .current_dir(folder)
        .output();
    match output {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{line}: {said}");
            true
        }
        Err(_) => false,
    }
}

/// The certificates in `certs` and copies in the machine's folder. False: there is no openssl here.
fn certificates(certs: &Path, machine: &Path) -> bool {
    let extensions = [
        (
            "ca",
            "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature,keyEncipherment,keyAgreement,keyCertSign\n",
        ),
        (
            "cert",
            "keyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth\nbasicConstraints=critical,CA:FALSE\n",
        ),
        (
            "server",
            "keyUsage=critical,digitalSignature,keyEncipherment,keyAgreement\nextendedKeyUsage=serverAuth\n\
                    basicConstraints=critical,CA:FALSE\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n",
        ),
    ];
    for (name, text) in extensions {
        std::fs::write(certs.join(format!("{name}.ext")), text).unwrap();
    }
    // PKCS #1, as Go writes keys.
    let key = |name: &str| openssl(certs, &format!("genrsa -traditional -out {name}.pem 2048"));
    if !key("ca-key") {
        return false;
    }
    openssl(certs, "req -new -key ca-key.pem -subj /O=ann -out ca.csr");
    openssl(
        certs,
        "x509 -req -in ca.csr -signkey ca-key.pem -sha256 -days 1080 -extfile ca.ext -out ca.pem",
    );
    for (name, file, subject) in [
        ("cert", "key", "/O=ann.<bootstrap>"),
        ("server", "server-key", "/O=ann.old"),
    ] {
        key(file);
        openssl(
            certs,
            &format!("req -new -key {file}.pem -subj {subject} -out {name}.csr"),
        );
        openssl(
            certs,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -sha256 -days 1080 -extfile {name}.ext -out {name}.pem"
            ),
        );
    }
    for file in ["server.pem", "server-key.pem"] {
        std::fs::rename(certs.join(file), machine.join(file)).unwrap();
    }
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        std::fs::copy(certs.join(file), machine.join(file)).unwrap();
    }
    true
}

struct Engine(Child);

impl Engine {
    /// Answers `/version` to clients of the authority.
    fn start(machine: &Path) -> (Engine, u16) {
        let body = r#"{"Version":"19.03.12","ApiVersion":"1.40"}"#;
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        std::fs::write(machine.join("version"), answer).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let process = Command::new("openssl")
            .args(["s_server", "-quiet", "-HTTP", "-accept"])
            .arg(format!("127.0.0.1:{port}"))
            .args(["-cert", "server.pem", "-key", "server-key.pem"])
            .args(["-CAfile", "ca.pem", "-Verify", "2", "-verify_return_error"])
            .current_dir(machine)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let engine = Engine(process);
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                Instant::now() < deadline,
                "openssl s_server does not listen"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        (engine, port)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(unix)]
#[test]
fn a_whole_store_is_taken_over() {
    let bench = bench();
    let machine = bench.store().join("machines/old");
    let certs = bench.store().join("certs");
    std::fs::create_dir_all(&machine).unwrap();
    std::fs::create_dir_all(&certs).unwrap();
    if !certificates(&certs, &machine) {
        println!("skipped: there is no openssl");
        return;
    }
    let (_engine, port) = Engine::start(&machine);
    let record = include_str!("../../../machine-core/src/store/docker-machine-0.16.json");
    let mut record: serde_json::Value = serde_json::from_str(record).unwrap();
    record["Driver"]["IPAddress"] = "127.0.0.1".into();
    record["Driver"]["EnginePort"] = port.into();
    std::fs::write(machine.join("config.json"), record.to_string()).unwrap();

    let url = format!("tcp://127.0.0.1:{port}");
    let run = |line: &str| {
        let mut command = Command::new(machine_program());
        bench.environment(&mut command);
        let output = command
            .args(line.split(' '))
            .env("DOCKER_HOST", &url)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{line}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let list = run("ls");
    let line = list.lines().nth(1).unwrap();
    for part in ["old", "*", "generic", "Running", &url, "19.03.12"] {
        assert!(line.contains(part), "{part}: {list}");
    }
    assert_eq!(run("active"), "old\n");
    assert_eq!(run("url old"), format!("{url}\n"));
    assert_eq!(run("ip old"), "127.0.0.1\n");
    assert_eq!(run("version old"), "19.03.12\n");
    let env = run("env old");
    assert!(
        env.contains(&format!(
            "export DOCKER_CERT_PATH=\"{}\"",
            machine.display()
        )),
        "{env}"
    );
    assert!(run("config old").contains(&format!("-H={url}")));
    let key = std::fs::read_to_string(certs.join("ca-key.pem")).unwrap();
    assert!(key.starts_with("-----BEGIN RSA PRIVATE KEY-----"));
    // A machine of ours in the same store has the same authority, and the old record is as it was.
    let authority = std::fs::read(certs.join("ca.pem")).unwrap();
    run("create -d none --url tcp://127.0.0.1:1 new");
    assert_eq!(std::fs::read(certs.join("ca.pem")).unwrap(), authority);
    assert_eq!(std::fs::read(machine.join("ca.pem")).unwrap(), authority);
    assert_eq!(
        std::fs::read_to_string(machine.join("config.json")).unwrap(),
        record.to_string()
    );
}
