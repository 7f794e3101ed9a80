//! An engine of our own on this host: `host-agent serve` with its own folders, socket, bridge and subnet. What it made
//! is gone when the value is dropped, after a failed test too; then its log is printed.

use crate::namespace::Namespace;
use crate::programs::{find, program};
use crate::run::{Output, run};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// The longest a client's command may take in a test.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A running engine.
pub struct Agent {
    program: PathBuf,
    folder: tempfile::TempDir,
    bridge: String,
    subnet: String,
    flags: Vec<String>,
    /// Where it serves; it must outlive the engine. `None`: the host's own network.
    namespace: Option<Arc<Namespace>>,
    child: Option<Child>,
}

/// Why an engine cannot run here; tests print it and return.
pub fn obstacle() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root = status
        .lines()
        .any(|line| line.starts_with("Uid:\t0\t") || line.starts_with("Uid: 0"));
    if !root {
        return Some("the engine needs root".into());
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.contains("overlay") {
        return Some("this kernel has no overlay file system".into());
    }
    None
}

/// A server's certificate for 127.0.0.1 in folder $1, signed by the authority of the store $2.
const SIGN: &str = r#"set -e
openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1/key.pem"
openssl req -new -key "$1/key.pem" -subj /CN=engine -out "$1/request"
printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' > "$1/extensions"
openssl x509 -req -in "$1/request" -CA "$2/certs/ca.pem" -CAkey "$2/certs/ca-key.pem" -set_serial 7 -days 2 \
    -extfile "$1/extensions" -out "$1/cert.pem""#;

/// `tcp://127.0.0.1:PORT` with a port that is free now.
pub fn loopback_url() -> String {
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port");
    format!("tcp://{address}")
}

impl Agent {
    /// Starts one; `None`, with a line that says why, where this host cannot.
    pub fn start(flags: &[&str]) -> Option<Agent> {
        Agent::start_in(None, flags)
    }

    /// Starts one in a network namespace.
    pub fn start_in(namespace: Option<Arc<Namespace>>, flags: &[&str]) -> Option<Agent> {
        Agent::start_program(program("host-agent"), namespace, flags)
    }

    fn start_program(
        program: PathBuf,
        namespace: Option<Arc<Namespace>>,
        flags: &[&str],
    ) -> Option<Agent> {
        if let Some(why) = obstacle() {
            println!("skipped: {why}");
            return None;
        }
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Process id and a count tell tests that run at once apart; an interface's name has 15 characters.
        let own = std::process::id() % 50_000;
        let bridge = format!("bt{own}n{number}");
        let subnet = format!(
            "10.{}.{}.1/24",
            64 + own / 256 % 128,
            (own + u32::from(number) * 7) % 256
        );
        let mut agent = Agent {
            program,
            folder: tempfile::tempdir().expect("a temporary folder"),
            bridge,
            subnet,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            namespace,
            child: None,
        };
        agent.serve();
        Some(agent)
    }

    /// Starts `program` so that it listens on loopback, too, for those who have the certificates of a store of `machine`. Its URL is
    /// chosen by the caller with [`loopback_url`], since a store may know it before.
    pub fn start_for_store(program: PathBuf, store: &Path, url: &str) -> Option<Agent> {
        if find("openssl").is_none() {
            println!("skipped: there is no openssl to sign with");
            return None;
        }
        let own = tempfile::tempdir().expect("a temporary folder");
        let mut sign = Command::new("sh");
        sign.args(["-c", SIGN, "sh"]).arg(own.path()).arg(store);
        run(&mut sign, LIMIT).success();
        let path = |path: PathBuf| path.display().to_string();
        let flags = [
            "--host",
            url,
            "--tlsverify",
            "--tlscacert",
            &path(store.join("certs/ca.pem")),
            "--tlscert",
            &path(own.path().join("cert.pem")),
            "--tlskey",
            &path(own.path().join("key.pem")),
        ];
        Agent::start_program(program, None, &flags)
    }

    /// Starts `serve` (again) and waits until it answers.
    pub fn serve(&mut self) {
        if let Err(why) = self.try_serve() {
            panic!("{why}:\n{}", self.log());
        }
    }

    fn try_serve(&mut self) -> Result<(), String> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("a log file");
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(&self.program),
            None => Command::new(&self.program),
        };
        let child = command
            .arg("serve")
            .arg("--host")
            .arg(self.host())
            .arg("--data-root")
            .arg(self.folder.path().join("data"))
            .arg("--exec-root")
            .arg(self.folder.path().join("run"))
            .arg("--pidfile")
            .arg(self.folder.path().join("pid"))
            .args(["--bridge", &self.bridge, "--bip", &self.subnet])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log twice"))
            .stderr(log)
            .spawn()
            .expect("host-agent starts");
        let child = self.child.insert(child);
        let socket = self.folder.path().join("api.sock");
        let end = Instant::now() + Duration::from_secs(30);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("the engine ended with {status}"));
            }
            if Instant::now() > end {
                return Err("the engine does not answer".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// `kill -9` of `serve`; containers go on.
    pub fn kill_serve(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child can be killed");
            child.wait().expect("our own child can be waited for");
        }
    }

    /// Process id of `serve`.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// `unix://...`
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    /// The name of its bridge.
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// Where the engine keeps its data.
    pub fn data_root(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where the engine keeps its run-time state.
    pub fn exec_root(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What `serve` logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Our client, pointed at this engine.
    pub fn berth(&self, arguments: &[&str]) -> Command {
        self.client(program("berth"), arguments)
    }

    /// The stock docker client, pointed at this engine; `None`, with a line, where there is none.
    pub fn docker(&self, arguments: &[&str]) -> Option<Command> {
        let Some(docker) = find("docker") else {
            println!("skipped: there is no docker command here");
            return None;
        };
        Some(self.client(docker, arguments))
    }

    /// Runs our client.
    pub fn run(&self, arguments: &[&str]) -> Output {
        run(&mut self.berth(arguments), LIMIT)
    }

    fn client(&self, program: PathBuf, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        for name in [
            "DOCKER_CONTEXT",
            "DOCKER_TLS_VERIFY",
            "DOCKER_CERT_PATH",
            "DOCKER_API_VERSION",
        ] {
            command.env_remove(name);
        }
        command
            .env("DOCKER_HOST", self.host())
            .env("DOCKER_CONFIG", self.folder.path().join("client"))
            .args(arguments);
        command
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("serve.log")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of serve\n{}\n---", self.log());
        }
        match (self.child.is_some(), std::thread::panicking()) {
            (true, _) => {}
            (false, false) => self.serve(),
            // A second panic would end the test before anything is cleared away.
            (false, true) => drop(self.try_serve()),
        }
        let listed = run(&mut self.berth(&["ps", "-aq"]), LIMIT);
        for id in listed.stdout.split_whitespace() {
            run(&mut self.berth(&["rm", "-f", "-v", id]), LIMIT);
        }
        let listed = run(
            &mut self.berth(&["network", "ls", "-q", "--filter", "type=custom"]),
            LIMIT,
        );
        for id in listed.stdout.split_whitespace() {
            run(&mut self.berth(&["network", "rm", id]), LIMIT);
        }
        if let Some(mut child) = self.child.take() {
            terminate(&mut child);
        }
        if !std::thread::panicking() {
            let left = self.exec_root().join("netns");
            let names: Vec<_> = std::fs::read_dir(left)
                .into_iter()
                .flatten()
                .flatten()
                .collect();
            assert!(names.is_empty(), "an engine left namespaces: {names:?}");
        }
        // Bridges stay when an engine ends (containers go on); a test's own must not.
        let _ = Command::new("ip")
            .args(["link", "delete", &self.bridge])
            .stderr(Stdio::null())
            .status();
        for family in ["ip", "ip6", "bridge"] {
            let table = format!("berth-{}", self.bridge);
            let _ = Command::new("nft")
                .args(["delete", "table", family, &table])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// SIGTERM, ten seconds, SIGKILL.
pub fn terminate(child: &mut Child) {
    let pid = child.id().to_string();
    let _ = Command::new("kill").args(["-TERM", &pid]).status();
    for _ in 0..500 {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}
