//! A machine put to sleep with its memory on disk, and woken.

use super::{ForMachine, Machines};
use crate::MachineError;
use crate::driver::{Progress, Status};

impl Machines {
    /// Containers do not notice, but for the clock and their connections.
    pub fn suspend(&self, name: &str, progress: &dyn Progress) -> Result<(), MachineError> {
        let (mut machine, _lock) = self.open_locked(name, progress)?;
        machine.require_running()?;
        progress.say(&format!("Suspending \"{name}\"..."));
        self.suspend_opened(&mut machine, progress)?;
        progress.say(&format!("Machine \"{name}\" was suspended."));
        Ok(())
    }

    pub(super) fn suspend_opened(
        &self,
        machine: &mut crate::Machine,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        let (driver, place) = (machine.driver.clone(), machine.place.clone());
        let named = ForMachine {
            name: &place.name,
            progress,
        };
        let done = driver.suspend(&place, &mut machine.record.driver, &named);
        self.store.save(&machine.record)?;
        done.map_err(|source| machine.failed("suspend", source))
    }

    /// Goes on where `suspend` ended.
    pub fn resume(&self, name: &str, progress: &dyn Progress) -> Result<(), MachineError> {
        let (mut machine, _lock) = self.open_locked(name, progress)?;
        let status = machine.status()?;
        if status != Status::Saved {
            return Err(match status {
                Status::Running => MachineError::Already {
                    machine: name.to_owned(),
                    status,
                },
                _ => MachineError::NotRunning {
                    machine: name.to_owned(),
                    status,
                },
            });
        }
        progress.say(&format!("Resuming \"{name}\"..."));
        self.start_opened(&mut machine, progress)?;
        progress.say(&format!("Machine \"{name}\" goes on."));
        Ok(())
    }
}
