//! The engine set up anew, and brought to this program's version.
//!
//! In a machine that boots our image the engine is part of the image, and what is set up is the seed: both come with a
//! boot. A host that is reached over ssh gets the agent uploaded, and containers go on meanwhile.

use super::Machines;
use super::remote::Purpose;
use crate::MachineError;
use crate::certificates;
use crate::driver::{Progress, Status};

impl Machines {
    /// Gives the engine its settings and certificates again.
    pub fn provision(&self, name: &str, progress: &dyn Progress) -> Result<(), MachineError> {
        let (mut machine, _lock) = self.open_locked(name, progress)?;
        let capabilities = machine.driver.capabilities();
        if !capabilities.boots_our_image && !capabilities.provisions_over_ssh {
            return Err(machine.unsupported("provision"));
        }
        machine.require_running()?;
        if capabilities.provisions_over_ssh {
            let shared = certificates::load_or_make(&self.store, &self.certificates, progress)?;
            self.install_over_ssh(&mut machine, &shared, Purpose::Again, progress)?;
            progress.say(&format!("Machine \"{name}\" was provisioned."));
            return Ok(());
        }
        progress.say(&format!(
            "Restarting \"{name}\", which reads its settings and certificates..."
        ));
        self.boot_anew(&mut machine, progress)?;
        progress.say(&format!("Machine \"{name}\" was provisioned."));
        Ok(())
    }

    /// Brings the engine to the version that this program comes with. A stopped machine is started, a suspended one is woken first.
    pub fn upgrade(&self, name: &str, progress: &dyn Progress) -> Result<(), MachineError> {
        let (mut machine, _lock) = self.open_locked(name, progress)?;
        let capabilities = machine.driver.capabilities();
        if !capabilities.boots_our_image && !capabilities.provisions_over_ssh {
            return Err(machine.unsupported("upgrade"));
        }
        let mut before = None;
        if capabilities.provisions_over_ssh {
            if machine.status()? != Status::Running && capabilities.start_stop {
                self.start_opened(&mut machine, progress)?;
            }
            before = machine.engine()?.version(super::ENGINE_ATTEMPT).ok();
            let shared = certificates::load_or_make(&self.store, &self.certificates, progress)?;
            self.install_over_ssh(&mut machine, &shared, Purpose::Again, progress)?;
            let settings = machine
                .driver
                .remote(&machine.place, &machine.record.driver);
            if settings.adopts.is_some() {
                progress.say(&format!(
                    "The Docker engine of \"{name}\" is its host's: only what stands before it was upgraded."
                ));
            }
        } else {
            self.wake_opened(&mut machine, progress)?;
            if machine.status()? != Status::Stopped {
                // A machine whose engine is ill is upgraded all the same.
                before = machine.engine()?.version(super::ENGINE_ATTEMPT).ok();
                progress.say(&format!(
                    "Restarting \"{name}\" from the image of this version..."
                ));
            }
            self.boot_anew(&mut machine, progress)?;
        }
        let after = machine.connect(super::ENGINE_ATTEMPT)?;
        progress.say(&match before {
            Some(before) if before != after => format!(
                "Machine \"{name}\" was upgraded from {} to {}.",
                before.version, after.version
            ),
            _ => format!("Machine \"{name}\" runs {}.", after.version),
        });
        Ok(())
    }
}
