//! Removes a machine: the provider's part first, then the record, so that nothing is orphaned.

use super::{Machine, Machines};
use crate::driver::Progress;
use crate::error::chain;
use crate::{MachineError, StoreError};

impl Machines {
    /// Removes a machine. With `force` its folder goes even where the provider's part cannot be removed or the record cannot be
    /// read; what that may leave behind is said.
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        // Before the lock, so that a name with no machine makes no lock file.
        match self.store.load(name) {
            Err(error @ (StoreError::NoSuchMachine { .. } | StoreError::InvalidName { .. })) => {
                return Err(error.into());
            }
            Ok(record) if record.is_protected() => {
                return Err(MachineError::Protected {
                    machine: name.to_owned(),
                });
            }
            _ => {}
        }
        let _lock = self.lock(name, progress)?;
        match self
            .open(name)
            .and_then(|machine| self.remove_opened(machine))
        {
            Ok(()) => Ok(()),
            Err(error)
                if force
                    && !matches!(error, MachineError::Store(StoreError::NoSuchMachine { .. })) =>
            {
                progress.say(&format!(
                    "({name}) Warning: {}. Only its folder is deleted; a machine that still runs goes on.",
                    chain(&error)
                ));
                Ok(self.store.delete(name)?)
            }
            Err(error) => Err(error),
        }
    }

    /// The machine's lock is held by the caller.
    pub(super) fn remove_opened(&self, mut machine: Machine) -> Result<(), MachineError> {
        let driver = machine.driver.clone();
        driver
            .remove(&machine.place, &mut machine.record.driver)
            .map_err(|source| machine.failed("remove", source))?;
        Ok(self.store.delete(machine.name())?)
    }
}
