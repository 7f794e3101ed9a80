//! What a way of making machines (QEMU, an existing host, a cloud) must offer. Drivers are stateless: what they
//! remember of a machine is an opaque [`DriverState`] that the core keeps in the store. The core branches on
//! [`Capabilities`], never on a driver's name.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a driver remembers of one machine: the `Driver` object of config.json. Keys are the driver's own, except
/// those docker-machine's tools read (`IPAddress`, `MachineName`, `SSHUser`, `SSHPort`, `SSHKeyPath`, `StorePath`).
pub type DriverState = serde_json::Map<String, serde_json::Value>;

/// Facts about a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// `create` makes a machine that boots our guest image and reads a seed.
    pub boots_our_image: bool,
    /// The engine is installed over ssh after `create`.
    pub provisions_over_ssh: bool,
    pub start_stop: bool,
}

/// One command-line flag of a driver, shown by `machine create -d DRIVER --help`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Without the dashes, for example `qemu-memory`.
    pub name: &'static str,
    /// Other spellings, for example `memory`.
    pub aliases: &'static [&'static str],
    pub help: &'static str,
    pub environment: Option<&'static str>,
    pub kind: FlagKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlagKind {
    /// A switch.
    Bool,
    /// A number with its default.
    Int(i64),
    /// A text with its default.
    Text(&'static str),
    /// May be given many times.
    List,
}

/// The values given for a driver's flags.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FlagValues(pub std::collections::BTreeMap<String, FlagValue>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FlagValue {
    Bool(bool),
    Int(i64),
    List(Vec<String>),
    Text(String),
}

impl FlagValues {
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(FlagValue::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        match self.0.get(name) {
            Some(FlagValue::Int(number)) => Some(*number),
            _ => None,
        }
    }

    pub fn bool(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some(FlagValue::Bool(true)))
    }

    pub fn list(&self, name: &str) -> &[String] {
        match self.0.get(name) {
            Some(FlagValue::List(list)) => list,
            _ => &[],
        }
    }
}

/// The states docker-machine knows; the texts are its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Running,
    Paused,
    Saved,
    Stopped,
    Stopping,
    Starting,
    Error,
    Timeout,
    /// The provider knows nothing of the machine.
    NotFound,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Running => "Running",
            Status::Paused => "Paused",
            Status::Saved => "Saved",
            Status::Stopped => "Stopped",
            Status::Stopping => "Stopping",
            Status::Starting => "Starting",
            Status::Error => "Error",
            Status::Timeout => "Timeout",
            Status::NotFound => "Not Found",
        }
    }
}

/// Where a driver finds and keeps what belongs to one machine.
#[derive(Debug, Clone)]
pub struct MachinePlace {
    pub name: String,
    /// `<store>/machines/<name>`: config.json, certificates, disks, sockets' links, console log.
    pub folder: PathBuf,
    /// `<store>`.
    pub store: PathBuf,
}

/// What the guest is told; the driver decides how it gets there (the seed disk for local VMs).
#[derive(Debug, Clone)]
pub struct SeedFiles {
    /// (name in the seed, contents); names are those of `guest_contract::seed`.
    pub files: Vec<(String, Vec<u8>)>,
}

/// How a driver talks to the person who waits, and lets itself be interrupted.
pub trait Progress: Send + Sync {
    /// A line for people, for example `Booting (TCG: this computer's /dev/kvm cannot run a kernel)`.
    fn say(&self, line: &str);
    /// Ctrl-C was pressed: the driver stops at the next chance, undoes its work and returns [`DriverError::Interrupted`].
    fn interrupted(&self) -> bool;
}

/// Called by `create` as soon as something exists that `remove` must know of: the core stores the state at once, so
/// that a crash orphans nothing.
pub trait Checkpoint {
    fn save(&mut self, state: &DriverState) -> Result<(), DriverError>;
}

/// What a machine is to be made of; `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    pub cpus: Option<u32>,
    pub memory_mib: Option<u64>,
    pub disk_mib: Option<u64>,
    /// Folders of this computer to share, as `--mount` has them; an empty list is the driver's default.
    pub mounts: Option<Vec<String>>,
}

/// How the engine gets onto a host over ssh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSettings {
    /// The agent to install; `None`: the one that came with this program.
    pub agent: Option<PathBuf>,
    /// An engine of ours that trusts another authority may be taken over.
    pub take_over: bool,
    /// How long the host may take until somebody can log in.
    pub patience: Duration,
    /// The socket of a Docker engine on the host that is used as it is, in place of ours.
    pub adopts: Option<String>,
}

/// How to reach a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub ip: IpAddr,
    /// Port of the engine's API.
    pub api_port: u16,
    /// 0: what the person's ssh configuration says.
    pub ssh_port: u16,
    /// Empty: what the person's ssh configuration says.
    pub ssh_user: String,
    /// The host's name for ssh where the person's own ssh configuration (agent, jump hosts) is to count; `None` where ssh
    /// goes to [`Address::ip`] and nothing but the machine's own key and port matter.
    pub ssh_host: Option<String>,
}

/// A way of making machines.
pub trait Driver: Send + Sync {
    fn name(&self) -> &'static str;
    fn capabilities(&self) -> Capabilities;
    /// Fails where a plug-in must be asked and does not answer.
    fn flags(&self) -> Result<Vec<Flag>, DriverError>;

    /// Before anything is made: is the program there, are the values sensible?
    fn check(&self, place: &MachinePlace, values: &FlagValues) -> Result<(), DriverError>;

    /// Chooses what must be known before certificates are made (the address, for local VMs) and returns the first state.
    fn plan(&self, place: &MachinePlace, values: &FlagValues) -> Result<DriverState, DriverError>;

    /// Makes and starts the machine. After an error `state` says what `remove`, which is called next, finds of it. A host that is
    /// there already is only remembered.
    fn create(
        &self,
        _place: &MachinePlace,
        state: &mut DriverState,
        _seed: &SeedFiles,
        checkpoint: &mut dyn Checkpoint,
        _progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        checkpoint.save(state)
    }

    /// Starts a stopped machine with a fresh seed and returns when the engine answers (or says at which stage it failed).
    /// This, `stop` and `kill` are for drivers whose capabilities say `start_stop`.
    fn start(
        &self,
        _place: &MachinePlace,
        _state: &mut DriverState,
        _seed: &SeedFiles,
        _progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        Err(DriverError::Unsupported)
    }

    /// Orderly.
    fn stop(
        &self,
        _place: &MachinePlace,
        _state: &mut DriverState,
        _progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        Err(DriverError::Unsupported)
    }

    /// At once.
    fn kill(&self, _place: &MachinePlace, _state: &mut DriverState) -> Result<(), DriverError> {
        Err(DriverError::Unsupported)
    }

    /// Succeeds when already gone. A host that somebody else made is only forgotten.
    fn remove(&self, _place: &MachinePlace, _state: &mut DriverState) -> Result<(), DriverError> {
        Ok(())
    }

    /// Asks the provider; never guesses from the stored state.
    fn status(&self, place: &MachinePlace, state: &DriverState) -> Result<Status, DriverError>;

    fn address(&self, place: &MachinePlace, state: &DriverState) -> Result<Address, DriverError>;

    /// Changes what the machine is made of, at its next start. A power that not every driver has, as are those below.
    fn change(
        &self,
        _place: &MachinePlace,
        _state: &mut DriverState,
        _change: &Change,
    ) -> Result<(), DriverError> {
        Err(DriverError::Unsupported)
    }

    /// Writes the running machine's memory to a file and ends it; `start` goes on where it was.
    fn suspend(
        &self,
        _place: &MachinePlace,
        _state: &mut DriverState,
        _progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        Err(DriverError::Unsupported)
    }

    /// The files that may hold what the machine remembers while it is stopped or suspended: the disk, what only a suspended
    /// machine has, and last the file that makes it one. None where they are elsewhere.
    fn disks(&self, _place: &MachinePlace) -> Vec<PathBuf> {
        Vec::new()
    }

    /// The state of a machine made of copies of another's disks: what must be its own (addresses, keys) is chosen anew. Called
    /// under the store's lock.
    fn plan_copy(
        &self,
        _place: &MachinePlace,
        _state: &DriverState,
    ) -> Result<DriverState, DriverError> {
        Err(DriverError::Unsupported)
    }

    /// Published ports of the machine's containers that cannot be had on the desktop, and why: a sentence each.
    fn port_problems(&self, _place: &MachinePlace) -> Vec<String> {
        Vec::new()
    }

    /// Files where machine, console and keeper write what happens, most telling first.
    fn logs(&self, _place: &MachinePlace) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Asked of drivers that provision over ssh. A cloud's host needs minutes until somebody can log in.
    fn remote(&self, _place: &MachinePlace, _state: &DriverState) -> RemoteSettings {
        RemoteSettings {
            agent: None,
            take_over: false,
            patience: Duration::from_secs(300),
            adopts: None,
        }
    }
}

/// Why a driver could not. `hint` says what to try.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error("{what}")]
    NotReady { what: String, hint: String },
    #[error("invalid value for --{flag}: {why}")]
    InvalidFlag { flag: String, why: String },
    #[error("the machine failed while booting, at stage {stage}: {why}")]
    Boot {
        /// The first stage that was not reached.
        stage: String,
        why: String,
        /// The console's last lines.
        console: Vec<String>,
    },
    #[error("interrupted")]
    Interrupted,
    #[error("this driver cannot do that")]
    Unsupported,
    #[error("{step}")]
    Failed {
        step: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl DriverError {
    /// What was tried and why it failed.
    pub fn failed(
        step: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> DriverError {
        DriverError::Failed {
            step: step.into(),
            source: source.into(),
        }
    }

    /// What to try next.
    pub fn hint(&self) -> Option<&str> {
        match self {
            DriverError::NotReady { hint, .. } => Some(hint),
            _ => None,
        }
    }
}

/// Where the guest image is kept in a store.
pub fn image_cache(store: &Path) -> PathBuf {
    store.join("cache").join("image")
}
