//! A driver for tests. Its machines are honest in what matters to the core: each is a TLS server that was told who it is by the
//! seed and answers `/version` to clients of its authority. They live in this process and end with it. A step can be
//! told to fail.

use crate::driver::{
    Address, Capabilities, Change, Checkpoint, Driver, DriverError, DriverState, Flag, FlagKind,
    FlagValues, MachinePlace, Progress, SeedFiles, Status,
};
use guest_contract::seed;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the fake engine says its version is.
pub const ENGINE_VERSION: &str = "0.0.0-fake";
/// The file a fake machine leaves outside its folder, so that tests see whether `remove` was called.
const DISK: &str = "disk";
/// What the machine keeps in its folder, and its memory while it is suspended.
const DATA: &str = "data.raw";
const MEMORY: &str = "memory.state";

/// The steps that can be told to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Check,
    Plan,
    /// Before anything exists.
    CreateEarly,
    /// After the checkpoint: something exists.
    CreateLate,
    /// The machine is there, but its engine trusts nobody.
    Trust,
    Start,
    Stop,
    Kill,
    Remove,
}

/// Makes machines in this process.
#[derive(Clone, Default)]
pub struct FakeDriver {
    servers: Arc<Mutex<BTreeMap<PathBuf, Arc<Server>>>>,
    failing: Arc<Mutex<Vec<Step>>>,
    /// Folder of things a provider has, one file a machine. Without it, nothing is recorded.
    provider: Option<PathBuf>,
    /// How long booting takes; Ctrl-C is looked for meanwhile.
    boot_time: Duration,
}

struct Server {
    port: u16,
    over: AtomicBool,
}

impl FakeDriver {
    /// `provider` is a folder where each machine that exists has a file.
    pub fn new(provider: PathBuf) -> FakeDriver {
        FakeDriver {
            provider: Some(provider),
            ..FakeDriver::default()
        }
    }

    pub fn with_boot_time(mut self, boot_time: Duration) -> FakeDriver {
        self.boot_time = boot_time;
        self
    }

    /// From now on these steps fail.
    pub fn fail_at(&self, steps: &[Step]) {
        *self.failing.lock().expect("not poisoned") = steps.to_vec();
    }

    fn fails(&self, step: Step) -> Result<(), DriverError> {
        match self.failing.lock().expect("not poisoned").contains(&step) {
            true => Err(DriverError::failed(
                format!("fake {step:?}"),
                "it was told to fail",
            )),
            false => Ok(()),
        }
    }

    fn disk(&self, place: &MachinePlace) -> Option<PathBuf> {
        let provider = self.provider.as_ref()?;
        Some(provider.join(format!("{}-{DISK}", place.name)))
    }

    fn boot(
        &self,
        place: &MachinePlace,
        state: &DriverState,
        seed: &SeedFiles,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        progress.say(match place.folder.join(MEMORY).exists() {
            true => "Going on (fake)",
            false => "Booting (fake)",
        });
        let ready = Instant::now() + self.boot_time;
        while Instant::now() < ready {
            if progress.interrupted() {
                return Err(DriverError::Interrupted);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let trusts_nobody = self.fails(Step::Trust).is_err();
        let tls = tls_of(seed, trusts_nobody)
            .map_err(|source| DriverError::failed("read the seed", source))?;
        let server =
            serve(port_of(state)?, tls).map_err(|source| DriverError::failed("listen", source))?;
        self.servers
            .lock()
            .expect("not poisoned")
            .insert(place.folder.clone(), server);
        Ok(())
    }

    fn end(&self, place: &MachinePlace) {
        let ended = self
            .servers
            .lock()
            .expect("not poisoned")
            .remove(&place.folder);
        if let Some(server) = ended {
            server.over.store(true, Ordering::Relaxed);
            // Wakes the accepting thread, which lets go of the port.
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port));
        }
    }
}

impl Driver for FakeDriver {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            boots_our_image: true,
            provisions_over_ssh: false,
            start_stop: true,
        }
    }

    fn flags(&self) -> Result<Vec<Flag>, DriverError> {
        Ok(vec![
            Flag {
                name: "fake-memory",
                aliases: &["memory"],
                help: "Memory in MiB",
                environment: Some("FAKE_MEMORY"),
                kind: FlagKind::Int(1024),
            },
            Flag {
                name: "fake-colour",
                aliases: &[],
                help: "A colour",
                environment: None,
                kind: FlagKind::Text("red"),
            },
            Flag {
                name: "fake-port",
                aliases: &[],
                help: "A port",
                environment: Some("FAKE_PORTS"),
                kind: FlagKind::List,
            },
            Flag {
                name: "fake-loud",
                aliases: &[],
                help: "Make noise",
                environment: None,
                kind: FlagKind::Bool,
            },
        ])
    }

    fn check(&self, _place: &MachinePlace, values: &FlagValues) -> Result<(), DriverError> {
        if values.int("fake-memory").is_some_and(|memory| memory < 128) {
            return Err(DriverError::InvalidFlag {
                flag: "fake-memory".into(),
                why: "at least 128".into(),
            });
        }
        self.fails(Step::Check)
    }

    fn plan(&self, _place: &MachinePlace, values: &FlagValues) -> Result<DriverState, DriverError> {
        self.fails(Step::Plan)?;
        let mut state = DriverState::new();
        state.insert("IPAddress".into(), "127.0.0.1".into());
        state.insert("Port".into(), free_port()?.into());
        state.insert(
            "Memory".into(),
            values.int("fake-memory").unwrap_or(1024).into(),
        );
        state.insert("Ports".into(), values.list("fake-port").into());
        state.insert("Loud".into(), values.bool("fake-loud").into());
        Ok(state)
    }

    fn create(
        &self,
        place: &MachinePlace,
        state: &mut DriverState,
        seed: &SeedFiles,
        checkpoint: &mut dyn Checkpoint,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        self.fails(Step::CreateEarly)?;
        if let Some(disk) = self.disk(place) {
            std::fs::write(disk, "")
                .map_err(|source| DriverError::failed("make a disk", source))?;
        }
        let data = place.folder.join(DATA);
        std::fs::write(data, "data")
            .map_err(|source| DriverError::failed("make a disk", source))?;
        state.insert("Disk".into(), true.into());
        checkpoint.save(state)?;
        self.fails(Step::CreateLate)?;
        self.boot(place, state, seed, progress)
    }

    fn start(
        &self,
        place: &MachinePlace,
        state: &mut DriverState,
        seed: &SeedFiles,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        self.fails(Step::Start)?;
        self.boot(place, state, seed, progress)?;
        // Only a suspended machine has it.
        let _ = std::fs::remove_file(place.folder.join(MEMORY));
        std::fs::write(place.folder.join("console.log"), "booted\n")
            .map_err(|source| DriverError::failed("write the console", source))
    }

    fn stop(
        &self,
        place: &MachinePlace,
        _state: &mut DriverState,
        _progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        self.fails(Step::Stop)?;
        self.end(place);
        Ok(())
    }

    fn kill(&self, place: &MachinePlace, _state: &mut DriverState) -> Result<(), DriverError> {
        self.fails(Step::Kill)?;
        self.end(place);
        Ok(())
    }

    fn remove(&self, place: &MachinePlace, _state: &mut DriverState) -> Result<(), DriverError> {
        self.fails(Step::Remove)?;
        self.end(place);
        match self.disk(place).map(std::fs::remove_file) {
            Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(DriverError::failed("remove the disk", error))
            }
            _ => Ok(()),
        }
    }

    fn status(&self, place: &MachinePlace, state: &DriverState) -> Result<Status, DriverError> {
        if state.contains_key("Hang") {
            std::thread::sleep(Duration::from_secs(3600));
        }
        let servers = self.servers.lock().expect("not poisoned");
        Ok(match servers.contains_key(&place.folder) {
            true => Status::Running,
            false if place.folder.join(MEMORY).exists() => Status::Saved,
            false => Status::Stopped,
        })
    }

    fn change(
        &self,
        _place: &MachinePlace,
        state: &mut DriverState,
        change: &Change,
    ) -> Result<(), DriverError> {
        if let Some(memory) = change.memory_mib {
            state.insert("Memory".into(), memory.into());
        }
        Ok(())
    }

    fn suspend(
        &self,
        place: &MachinePlace,
        _state: &mut DriverState,
        _progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        self.end(place);
        std::fs::write(place.folder.join(MEMORY), "memory")
            .map_err(|source| DriverError::failed("write the memory", source))
    }

    fn disks(&self, place: &MachinePlace) -> Vec<PathBuf> {
        [DATA, MEMORY].map(|file| place.folder.join(file)).to_vec()
    }

    fn plan_copy(
        &self,
        _place: &MachinePlace,
        state: &DriverState,
    ) -> Result<DriverState, DriverError> {
        let mut state = state.clone();
        state.insert("Port".into(), free_port()?.into());
        state.insert("SSHKeyPath".into(), "".into());
        Ok(state)
    }

    fn logs(&self, place: &MachinePlace) -> Vec<PathBuf> {
        vec![place.folder.join("console.log")]
    }

    fn address(&self, _place: &MachinePlace, state: &DriverState) -> Result<Address, DriverError> {
        Ok(Address {
            ip: IpAddr::from([127, 0, 0, 1]),
            api_port: port_of(state)?,
            ssh_port: 22,
            ssh_user: "docker".into(),
            ssh_host: None,
        })
    }
}

fn free_port() -> Result<u16, DriverError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|source| DriverError::failed("find a port", source))
}

fn port_of(state: &DriverState) -> Result<u16, DriverError> {
    state
        .get("Port")
        .and_then(|port| port.as_u64())
        .and_then(|port| u16::try_from(port).ok())
        .ok_or_else(|| DriverError::failed("read the state", "there is no port in it"))
}

/// The server's side of mutual TLS, from nothing but the seed.
fn tls_of(
    seed: &SeedFiles,
    trusts_nobody: bool,
) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let file = |name: &str| {
        let found = seed.files.iter().find(|(file, _)| file == name);
        found
            .map(|(_, contents)| contents.as_slice())
            .ok_or(format!("the seed has no {name}"))
    };
    let read: seed::Seed = serde_json::from_slice(file(seed::SEED_JSON)?)?;
    if read.version != seed::SEED_VERSION || read.hostname.is_empty() {
        return Err("bad seed.json".into());
    }
    serde_json::from_slice::<serde_json::Value>(file(seed::DAEMON_JSON)?)?;
    if !file(seed::AUTHORIZED_KEYS)?.starts_with(b"ssh-ed25519 ") {
        return Err("bad authorized_keys".into());
    }
    let authority = match trusts_nobody {
        true => certs::Authority::create("somebody else", certs::Validity::days(1))?
            .certificate()
            .as_bytes()
            .to_vec(),
        false => file(seed::CA_CERT)?.to_vec(),
    };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&authority)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build()?;
    let chain = vec![CertificateDer::from_pem_slice(file(seed::SERVER_CERT)?)?];
    let key = PrivateKeyDer::from_pem_slice(file(seed::SERVER_KEY)?)?;
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?)
}

fn serve(port: u16, tls: ServerConfig) -> std::io::Result<Arc<Server>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let server = Arc::new(Server {
        port,
        over: AtomicBool::new(false),
    });
    let (tls, for_thread) = (Arc::new(tls), server.clone());
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            if for_thread.over.load(Ordering::Relaxed) {
                return;
            }
            // A client that gives up or is refused is not the server's trouble.
            let _ = socket.and_then(|socket| answer(socket, tls.clone()));
        }
    });
    Ok(server)
}

fn answer(socket: TcpStream, tls: Arc<ServerConfig>) -> std::io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let connection = ServerConnection::new(tls).map_err(std::io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket);
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && request.len() < 4096 {
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        request.push(byte[0]);
    }
    let (status, body) = match request.starts_with(b"GET /version ") {
        true => (
            "200 OK",
            format!("{{\"Version\":\"{ENGINE_VERSION}\",\"ApiVersion\":\"1.51\"}}"),
        ),
        false => ("404 Not Found", "{\"message\":\"page not found\"}".into()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    stream.conn.send_close_notify();
    stream.flush()
}
