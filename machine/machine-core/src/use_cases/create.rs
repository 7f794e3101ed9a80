//! Makes a machine, or nothing.
//!
//! ```text
//! lock machine ─ check ─ authority ─ plan + record "Creating" ─ certificates, key, seed ─ driver.create ─ TLS answers ─ record "Created"
//!                                       └──────────── any error or Ctrl-C from here on: driver.remove, folder gone ────────────┘
//! ```
//!
//! A `create` that is killed leaves a record in stage "Creating" with the last checkpoint: `rm` and the next `create` of that
//! name remove what it made.

use super::remote::Purpose;
use super::{ForMachine, Machine, Machines};
use crate::MachineError;
use crate::certificates::{self, CertificatesError};
use crate::driver::{
    Checkpoint, Driver, DriverError, DriverState, FlagValues, MachinePlace, Progress, SeedFiles,
};
use crate::engine_settings::{EngineOptionError, daemon_json, refuse_passwords};
use crate::error::chain;
use crate::secrets;
use crate::store::record::{EngineOptions, MachineRecord, Stage, SwarmOptions};
use crate::store::{MachineStore, StoreError, layout};
use std::sync::Arc;

/// What `create` was asked for.
#[derive(Debug, Clone, Default)]
pub struct CreateRequest {
    pub name: String,
    pub driver: String,
    /// Values of the driver's own flags, defaults included.
    pub values: FlagValues,
    pub engine: EngineOptions,
    pub swarm: SwarmOptions,
    /// This computer's proxies, for a machine on it whose engine was told of none.
    pub proxies: Vec<String>,
    /// More names the server certificate is good for.
    pub tls_sans: Vec<String>,
}

impl Machines {
    /// Makes and starts a machine and proves that its engine answers over TLS. After an error nothing of it is left.
    pub fn create(
        &self,
        request: &CreateRequest,
        progress: &dyn Progress,
    ) -> Result<Machine, MachineError> {
        let place = self.store.place(&request.name)?;
        let driver = self.driver(&request.driver)?;
        let mut request = request.clone();
        if driver.capabilities().boots_our_image && request.engine.env.is_empty() {
            request.engine.env = std::mem::take(&mut request.proxies);
        }
        let request = &request;
        refuse_passwords(&request.engine)?;
        daemon_json(&request.engine, driver.name())?;
        for name in &request.tls_sans {
            name.parse::<certs::SubjectAlternativeName>()
                .map_err(CertificatesError::from)?;
        }
        let _lock = self.lock(&request.name, progress)?;
        self.make_way(&place, progress)?;

        progress.say("Running pre-create checks...");
        driver
            .check(&place, &request.values)
            .map_err(|source| MachineError::Check {
                machine: request.name.clone(),
                driver: request.driver.clone(),
                source,
            })?;
        let shared = certificates::load_or_make(&self.store, &self.certificates, progress)?;
        if progress.interrupted() {
            return Err(MachineError::Interrupted);
        }

        progress.say("Creating machine...");
        let mut machine = Machine {
            record: self.plan(&driver, &place, request)?,
            place,
            driver,
        };
        match self.make(&mut machine, &shared, progress) {
            Ok(()) => Ok(machine),
            Err(error) => Err(self.undo(machine, error, progress)),
        }
    }

    /// Refuses a name in use, and removes what a killed `create` left under it.
    fn make_way(&self, place: &MachinePlace, progress: &dyn Progress) -> Result<(), MachineError> {
        if !place.folder.join(layout::CONFIG).exists() {
            return Ok(self.store.clear_unfinished_folder(&place.name)?);
        }
        // A broken config.json is a machine too: it is not ours to overwrite.
        let record = self.store.load(&place.name)?;
        if !record.is_half_made() {
            return Err(StoreError::NameInUse {
                name: place.name.clone(),
            }
            .into());
        }
        progress.say(&format!(
            "Removing what an interrupted create left of \"{}\"...",
            place.name
        ));
        self.remove_opened(self.open(&place.name)?)
    }

    /// Lets the driver choose an address and records it, all under the store's lock: two creates must not choose the same.
    fn plan(
        &self,
        driver: &Arc<dyn Driver>,
        place: &MachinePlace,
        request: &CreateRequest,
    ) -> Result<MachineRecord, MachineError> {
        let _lock = self.store.lock()?;
        let state = driver
            .plan(place, &request.values)
            .map_err(|source| MachineError::Driver {
                verb: "plan",
                machine: place.name.clone(),
                source,
            })?;
        let adopts = driver.capabilities().provisions_over_ssh
            && driver.remote(place, &state).adopts.is_some();
        if adopts && request.engine != EngineOptions::default() {
            return Err(EngineOptionError::Adopted.into());
        }
        let mut record = MachineRecord::new(place, driver.name(), state);
        record
            .driver
            .entry("MachineName")
            .or_insert_with(|| place.name.clone().into());
        record.berth_mut().flags = secrets::without_secrets(&request.values);
        let options = &mut record.host_options;
        options.engine_options = request.engine.clone();
        options.swarm_options = request.swarm.clone();
        options.auth_options.server_cert_sans = request.tls_sans.clone();
        if let Err(error) = self.store.save(&record) {
            // The disk may be full: the folder may be there, the record not.
            let _ = self.store.delete(&place.name);
            return Err(error.into());
        }
        Ok(record)
    }

    fn make(
        &self,
        machine: &mut Machine,
        shared: &certificates::SharedCertificates,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        let boots_our_image = machine.driver.capabilities().boots_our_image;
        let seed = if boots_our_image {
            let daemon = machine.daemon_json()?;
            self.prepare_seed(machine, shared, &daemon)?
        } else {
            certificates::copy_for_clients(&self.store, &machine.place, shared)?;
            SeedFiles { files: Vec::new() }
        };
        self.store.save(&machine.record)?;

        let mut state = machine.record.driver.clone();
        let mut checkpoint = RecordCheckpoint {
            store: &self.store,
            record: machine.record.clone(),
        };
        let named = ForMachine {
            name: &machine.place.name,
            progress,
        };
        let created =
            machine
                .driver
                .create(&machine.place, &mut state, &seed, &mut checkpoint, &named);
        machine.record.driver = state;
        created.map_err(|source| machine.failed("create", source))?;
        self.store.save(&machine.record)?;

        if machine.driver.capabilities().provisions_over_ssh {
            progress.say("Provisioning with Berth...");
            self.install_over_ssh(machine, shared, Purpose::Create, progress)?;
        }
        if boots_our_image {
            progress.say("Checking connection to Docker...");
            let version = machine.wait_for_engine(progress)?;
            tracing::debug!(version = version.version, "the engine answers");
        }
        if progress.interrupted() {
            return Err(MachineError::Interrupted);
        }
        if let Some(berth) = &mut machine.record.berth {
            berth.stage = Stage::Created;
        }
        Ok(self.store.save(&machine.record)?)
    }

    /// Removes what was made and returns why; an error while removing is told beside the first one.
    fn undo(&self, machine: Machine, error: MachineError, progress: &dyn Progress) -> MachineError {
        let name = machine.name().to_owned();
        if error.is_interruption() {
            progress.say("Interrupted: removing what was made...");
        }
        match self.remove_opened(machine) {
            Ok(()) if error.is_interruption() => MachineError::Interrupted,
            Ok(()) => error,
            Err(second) => MachineError::NotUndone {
                machine: name,
                first: chain(&error),
                second: chain(&second),
            },
        }
    }
}

/// Stores a driver's state in config.json as soon as there is something to remove.
struct RecordCheckpoint<'a> {
    store: &'a MachineStore,
    record: MachineRecord,
}

impl Checkpoint for RecordCheckpoint<'_> {
    fn save(&mut self, state: &DriverState) -> Result<(), DriverError> {
        self.record.driver = state.clone();
        self.store
            .save(&self.record)
            .map_err(|error| DriverError::failed("store the machine's state", error))
    }
}
