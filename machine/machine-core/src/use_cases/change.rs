//! Small changes to a machine's record: what it is made of, its name, its protection.

use super::Machines;
use crate::docker_context::DockerContexts;
use crate::driver::{Change, Progress, Status};
use crate::store::StoreError;
use crate::{Machine, MachineError};

impl Machines {
    /// Processors, memory, disk. Counts from the next start; says whether the machine runs meanwhile.
    pub fn change(
        &self,
        name: &str,
        change: &Change,
        progress: &dyn Progress,
    ) -> Result<Status, MachineError> {
        let (mut machine, _lock) = self.open_locked(name, progress)?;
        let status = machine.status()?;
        if status == Status::Saved {
            // What was saved fits only the machine that it was.
            return Err(not_stopped(&machine, status));
        }
        let driver = machine.driver.clone();
        driver
            .change(&machine.place, &mut machine.record.driver, change)
            .map_err(|source| machine.failed("change", source))?;
        self.store.save(&machine.record)?;
        Ok(status)
    }

    /// A protected machine is not removed, whatever is said.
    pub fn protect(
        &self,
        name: &str,
        protected: bool,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        let (mut machine, _lock) = self.open_locked(name, progress)?;
        machine.record.berth_mut().protected = protected;
        Ok(self.store.save(&machine.record)?)
    }

    /// Gives a machine another name. Its address stays; its certificate gets the new name at the next start.
    pub fn rename(
        &self,
        from: &str,
        to: &str,
        contexts: Option<&DockerContexts>,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        self.store.place(to)?;
        let (machine, _lock) = self.open_locked(from, progress)?;
        if self.store.folder_exists(to)? {
            return Err(StoreError::NameInUse {
                name: to.to_owned(),
            }
            .into());
        }
        if machine.driver.capabilities().start_stop {
            let status = machine.status()?;
            if status != Status::Stopped {
                return Err(not_stopped(&machine, status));
            }
        }
        let _new_lock = self.lock(to, progress)?;
        // Contexts are found by the machine's folder: they go first, a new one is the person's to make.
        if let Some(contexts) = contexts {
            match contexts.forget_machine(&machine.place) {
                Ok(names) => {
                    for context in names {
                        progress.say(&format!(
                            "Removed the Docker context \"{context}\"; `machine context {to}` makes a new one."
                        ));
                    }
                }
                Err(error) => progress.say(&format!("Warning: {error}")),
            }
        }
        self.store.rename(from, to)?;
        let mut record = self.store.load(to)?;
        record.driver.insert("MachineName".into(), to.into());
        Ok(self.store.save(&record)?)
    }
}

pub(super) fn not_stopped(machine: &Machine, status: Status) -> MachineError {
    MachineError::NotStopped {
        machine: machine.name().to_owned(),
        status,
    }
}
