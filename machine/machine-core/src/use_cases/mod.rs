//! What the verbs of `machine` do, without a command line: one file each.

pub mod active;
pub mod attach;
pub mod change;
pub mod copies;
pub mod create;
pub mod diagnose;
pub mod exchange;
pub mod list;
pub mod power;
pub mod provision;
pub mod regenerate;
mod remote;
pub mod remove;
pub mod suspend;

use crate::certificates::{self, CertificatePaths, SharedCertificates};
use crate::driver::{
    Address, Driver, DriverError, DriverState, MachinePlace, Progress, SeedFiles, Status,
};
use crate::engine_client::{EngineClient, EngineVersion};
use crate::engine_settings::{DaemonJson, daemon_json};
use crate::seed::{self, SeedContents};
use crate::ssh::SshRoute;
use crate::store::lock::{Lock, Patience};
use crate::store::record::MachineRecord;
use crate::store::{MachineStore, layout};
use crate::{MachineError, desktop, ssh_key};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A driver reported the API as ready; this is for what a loaded computer adds.
const ENGINE_PATIENCE: Duration = Duration::from_secs(60);
/// One attempt; a handshake under emulation takes its time.
const ENGINE_ATTEMPT: Duration = Duration::from_secs(20);
const ENGINE_PAUSE: Duration = Duration::from_millis(250);

/// The store, the drivers and the use cases over them.
#[derive(Clone)]
pub struct Machines {
    store: MachineStore,
    certificates: CertificatePaths,
    drivers: Vec<Arc<dyn Driver>>,
    find_driver: FindDriver,
}

/// Finds a driver that is not in the list, by its name: a plug-in.
pub type FindDriver = fn(&str) -> Option<Arc<dyn Driver>>;

/// One machine, loaded.
#[derive(Clone)]
pub struct Machine {
    pub record: MachineRecord,
    pub place: MachinePlace,
    driver: Arc<dyn Driver>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("name", &self.place.name)
            .field("driver", &self.record.driver_name)
            .finish_non_exhaustive()
    }
}

impl Machines {
    pub fn new(
        store: MachineStore,
        certificates: CertificatePaths,
        drivers: Vec<Arc<dyn Driver>>,
    ) -> Machines {
        Machines {
            store,
            certificates,
            drivers,
            find_driver: |_| None,
        }
    }

    /// Also looks for drivers that are not in the list.
    pub fn with_finder(mut self, find_driver: FindDriver) -> Machines {
        self.find_driver = find_driver;
        self
    }

    pub fn store(&self) -> &MachineStore {
        &self.store
    }

    pub fn drivers(&self) -> &[Arc<dyn Driver>] {
        &self.drivers
    }

    pub fn driver(&self, name: &str) -> Result<Arc<dyn Driver>, MachineError> {
        let listed = self.drivers.iter().find(|driver| driver.name() == name);
        listed
            .cloned()
            .or_else(|| (self.find_driver)(name))
            .ok_or_else(|| MachineError::UnknownDriver {
                name: name.to_owned(),
                known: self.drivers.iter().map(|d| d.name().to_owned()).collect(),
            })
    }

    /// Loads a machine for reading.
    pub fn open(&self, name: &str) -> Result<Machine, MachineError> {
        let record = self.store.load(name)?;
        let driver = self
            .driver(&record.driver_name)
            .map_err(|_| MachineError::DriverMissing {
                machine: name.to_owned(),
                driver: record.driver_name.clone(),
            })?;
        Ok(Machine {
            place: self.store.place(name)?,
            driver,
            record,
        })
    }

    /// Loads a machine to change it; its lock is held as long as the [`Lock`] lives.
    fn open_locked(
        &self,
        name: &str,
        progress: &dyn Progress,
    ) -> Result<(Machine, Lock), MachineError> {
        // Before the lock, so that a name with no machine makes no lock file.
        self.store.load(name)?;
        let lock = self.lock(name, progress)?;
        let machine = self.open(name)?;
        if machine.record.is_half_made() {
            return Err(MachineError::HalfMade {
                machine: name.to_owned(),
            });
        }
        Ok((machine, lock))
    }

    fn lock(&self, name: &str, progress: &dyn Progress) -> Result<Lock, MachineError> {
        let patience = WhileNotInterrupted { name, progress };
        Ok(self.store.lock_machine(name, &patience)?)
    }

    /// Makes the machine's server certificate and ssh key good and fills a seed with them.
    fn prepare_seed(
        &self,
        machine: &mut Machine,
        shared: &SharedCertificates,
        daemon: &DaemonJson,
    ) -> Result<SeedFiles, MachineError> {
        let place = &machine.place;
        let address = machine.address()?;
        let extra = &machine.record.host_options.auth_options.server_cert_sans;
        let names = certificates::server_names(&place.name, address.ip, extra)
            .map_err(certificates::CertificatesError::from)?;
        let (server, _) = certificates::server_certificate(&self.store, place, shared, &names)?;
        certificates::copy_for_clients(&self.store, place, shared)?;
        let authorized_keys = self.ssh_public_key(machine)?;
        Ok(seed::fill(&SeedContents {
            hostname: &machine.place.name,
            ssh_user: &address.ssh_user,
            authority: shared.authority.certificate(),
            server: &server,
            authorized_keys: &authorized_keys,
            daemon,
            company_authorities: desktop::authorities(),
        }))
    }

    /// A seed for a machine whose record somebody else keeps: the caller of a driver that is served as a plug-in.
    pub fn seed_for(
        &self,
        driver: Arc<dyn Driver>,
        place: &MachinePlace,
        state: &mut DriverState,
    ) -> Result<SeedFiles, MachineError> {
        let mut machine = Machine {
            record: MachineRecord::new(place, driver.name(), state.clone()),
            place: place.clone(),
            driver,
        };
        let shared = certificates::load_or_make(&self.store, &self.certificates, &Unseen)?;
        let daemon = machine.daemon_json()?;
        let seed = self.prepare_seed(&mut machine, &shared, &daemon)?;
        *state = machine.record.driver;
        Ok(seed)
    }

    /// The machine's public key; makes a pair where there is none.
    fn ssh_public_key(&self, machine: &mut Machine) -> Result<String, MachineError> {
        if let Some(private) = machine.ssh_key() {
            let mut public = private.clone().into_os_string();
            public.push(".pub");
            if private.exists()
                && let Ok(key) = std::fs::read_to_string(&public)
            {
                return Ok(key);
            }
        }
        let folder = &machine.place.folder;
        let key = ssh_key::generate(&format!("machine {}", machine.place.name))
            .map_err(certificates::CertificatesError::from)?;
        let private = folder.join(layout::SSH_KEY);
        self.store.write_file(&private, key.private.as_bytes())?;
        self.store
            .write_file(&folder.join(layout::SSH_PUBLIC_KEY), key.public.as_bytes())?;
        let path = private.to_string_lossy().into_owned();
        machine
            .record
            .driver
            .insert("SSHKeyPath".into(), path.into());
        Ok(key.public)
    }
}

impl Machine {
    /// Whether there is an engine whose answer `create` waited for; a host that is only remembered was not asked.
    pub fn engine_was_asked(&self) -> bool {
        let capabilities = self.driver.capabilities();
        capabilities.boots_our_image || capabilities.provisions_over_ssh
    }

    pub fn name(&self) -> &str {
        &self.place.name
    }

    /// What the provider says now.
    pub fn status(&self) -> Result<Status, MachineError> {
        self.driver
            .status(&self.place, &self.record.driver)
            .map_err(|source| self.failed("ask for the state of", source))
    }

    /// Published ports of its containers that cannot be had on the desktop, and why.
    pub fn port_problems(&self) -> Vec<String> {
        self.driver.port_problems(&self.place)
    }

    pub fn address(&self) -> Result<Address, MachineError> {
        self.driver
            .address(&self.place, &self.record.driver)
            .map_err(|source| self.failed("find the address of", source))
    }

    /// `tcp://ADDRESS:PORT`, what `DOCKER_HOST` wants.
    pub fn url(&self) -> Result<String, MachineError> {
        Ok(url_of(&self.address()?))
    }

    pub fn require_running(&self) -> Result<(), MachineError> {
        if self.record.is_half_made() {
            return Err(MachineError::HalfMade {
                machine: self.name().to_owned(),
            });
        }
        match self.status()? {
            Status::Running => Ok(()),
            status => Err(MachineError::NotRunning {
                machine: self.name().to_owned(),
                status,
            }),
        }
    }

    pub fn engine(&self) -> Result<EngineClient, MachineError> {
        let address = self.address()?;
        EngineClient::new(&self.place.folder, address.ip, address.api_port)
            .map_err(|source| self.unreachable(source))
    }

    /// The way to it over ssh.
    pub fn ssh_route(&self) -> Result<SshRoute, MachineError> {
        let address = self.address()?;
        Ok(SshRoute::new(&self.place, &self.record.driver, &address))
    }

    /// Files where machine, console and keeper write what happens.
    pub fn logs(&self) -> Vec<PathBuf> {
        self.driver.logs(&self.place)
    }

    /// The private key's file, where there is one.
    pub fn ssh_key(&self) -> Option<PathBuf> {
        match self.record.driver.get("SSHKeyPath") {
            Some(serde_json::Value::String(path)) if !path.is_empty() => Some(path.into()),
            _ => None,
        }
    }

    /// Asks the engine for its version over TLS, once: running and trusted, or an error that says which it is not.
    pub fn connect(&self, timeout: Duration) -> Result<EngineVersion, MachineError> {
        self.require_running()?;
        self.engine()?
            .version(timeout)
            .map_err(|source| self.unreachable(source))
    }

    /// Waits until the engine answers over TLS.
    fn wait_for_engine(&self, progress: &dyn Progress) -> Result<EngineVersion, MachineError> {
        let engine = self.engine()?;
        let deadline = Instant::now() + ENGINE_PATIENCE;
        loop {
            if progress.interrupted() {
                return Err(MachineError::Interrupted);
            }
            match engine.version(ENGINE_ATTEMPT) {
                Ok(version) => return Ok(version),
                Err(error) if error.is_about_trust() || Instant::now() >= deadline => {
                    return Err(self.unreachable(error));
                }
                Err(error) => tracing::debug!(%error, "the engine does not answer yet"),
            }
            std::thread::sleep(ENGINE_PAUSE);
        }
    }

    fn daemon_json(&self) -> Result<DaemonJson, MachineError> {
        let options = &self.record.host_options.engine_options;
        let mut json = daemon_json(options, self.driver.name())?;
        if self.driver.capabilities().boots_our_image {
            desktop::seen_from_a_guest(&mut json);
        }
        Ok(json)
    }

    fn unsupported(&self, verb: &'static str) -> MachineError {
        MachineError::Unsupported {
            verb,
            machine: self.name().to_owned(),
            driver: self.record.driver_name.clone(),
        }
    }

    fn failed(&self, verb: &'static str, source: DriverError) -> MachineError {
        if matches!(source, DriverError::Unsupported) {
            return self.unsupported(verb);
        }
        MachineError::Driver {
            verb,
            machine: self.name().to_owned(),
            source,
        }
    }

    fn unreachable(&self, source: crate::engine_client::EngineError) -> MachineError {
        MachineError::Engine {
            machine: self.name().to_owned(),
            source,
        }
    }
}

/// `tcp://ADDRESS:PORT`, with brackets where IPv6 needs them.
pub fn url_of(address: &Address) -> String {
    let socket = std::net::SocketAddr::new(address.ip, address.api_port);
    format!("tcp://{socket}")
}

/// Says a driver's lines as docker-machine does: `(dev) Booting`.
struct ForMachine<'a> {
    name: &'a str,
    progress: &'a dyn Progress,
}

impl Progress for ForMachine<'_> {
    fn say(&self, line: &str) {
        self.progress.say(&format!("({}) {line}", self.name));
    }

    fn interrupted(&self) -> bool {
        self.progress.interrupted()
    }
}

/// Nobody watches.
struct Unseen;

impl Progress for Unseen {
    fn say(&self, line: &str) {
        tracing::debug!(line);
    }

    fn interrupted(&self) -> bool {
        false
    }
}

struct WhileNotInterrupted<'a> {
    name: &'a str,
    progress: &'a dyn Progress,
}

impl Patience for WhileNotInterrupted<'_> {
    fn busy(&self) {
        self.progress.say(&format!(
            "({}) Waiting for another command that works on this machine...",
            self.name
        ));
    }

    fn over(&self) -> bool {
        self.progress.interrupted()
    }
}

#[cfg(test)]
mod tests;
