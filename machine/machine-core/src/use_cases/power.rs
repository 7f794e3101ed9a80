//! Starting and stopping. Each verb holds the machine's lock, except `kill`, which is the way out when another verb hangs.

use super::remote::Purpose;
use super::{ForMachine, Machine, Machines};
use crate::MachineError;
use crate::certificates;
use crate::driver::{Progress, SeedFiles, Status};
use crate::store::lock::Patience;

impl Machines {
    /// Starts a stopped machine with a fresh seed; makes a new server certificate where the old one is nearly over or does
    /// not fit the address. Returns when the engine answers over TLS.
    pub fn start(&self, name: &str, progress: &dyn Progress) -> Result<(), MachineError> {
        let (mut machine, _lock) = self.open_locked(name, progress)?;
        machine.require_power("start")?;
        if machine.status()? == Status::Running {
            return Err(MachineError::Already {
                machine: name.to_owned(),
                status: Status::Running,
            });
        }
        progress.say(&format!("Starting \"{name}\"..."));
        self.start_opened(&mut machine, progress)?;
        progress.say(&format!("Machine \"{name}\" was started."));
        Ok(())
    }

    /// Stops containers in order, then the machine.
    pub fn stop(&self, name: &str, progress: &dyn Progress) -> Result<(), MachineError> {
        let (mut machine, _lock) = self.open_locked(name, progress)?;
        machine.require_power("stop")?;
        let status = machine.status()?;
        if matches!(status, Status::Stopped | Status::Saved) {
            return Err(MachineError::Already {
                machine: name.to_owned(),
                status,
            });
        }
        progress.say(&format!("Stopping \"{name}\"..."));
        self.stop_opened(&mut machine, progress)?;
        progress.say(&format!("Machine \"{name}\" was stopped."));
        Ok(())
    }

    /// Stops a running machine, then starts it. A suspended one is woken first.
    pub fn restart(&self, name: &str, progress: &dyn Progress) -> Result<(), MachineError> {
        let (mut machine, _lock) = self.open_locked(name, progress)?;
        let capabilities = machine.driver.capabilities();
        if capabilities.provisions_over_ssh && !capabilities.start_stop {
            progress.say(&format!("Restarting \"{name}\"..."));
            self.reboot(&machine, progress)?;
            progress.say(&format!("Machine \"{name}\" was restarted."));
            return Ok(());
        }
        machine.require_power("restart")?;
        progress.say(&format!("Restarting \"{name}\"..."));
        self.boot_anew(&mut machine, progress)?;
        progress.say(&format!("Machine \"{name}\" was restarted."));
        Ok(())
    }

    /// Ends a machine at once, even while another verb works on it.
    pub fn kill(&self, name: &str, progress: &dyn Progress) -> Result<(), MachineError> {
        let mut machine = self.open(name)?;
        machine.require_power("kill")?;
        let lock = match self.store.lock_machine(name, &AtOnce) {
            Ok(lock) => {
                machine = self.open(name)?;
                Some(lock)
            }
            Err(crate::StoreError::Interrupted { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        if machine.status()? == Status::Stopped {
            return Err(MachineError::Already {
                machine: name.to_owned(),
                status: Status::Stopped,
            });
        }
        progress.say(&format!("Killing \"{name}\"..."));
        let killed = machine
            .driver
            .kill(&machine.place, &mut machine.record.driver)
            .map_err(|source| MachineError::Driver {
                verb: "kill",
                machine: name.to_owned(),
                source,
            });
        // Without the lock the record belongs to the verb that is being cut off.
        if lock.is_some() {
            self.store.save(&machine.record)?;
        }
        killed?;
        progress.say(&format!("Machine \"{name}\" was killed."));
        Ok(())
    }

    /// The machine's lock is held by the caller.
    pub(super) fn start_opened(
        &self,
        machine: &mut Machine,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        let boots_our_image = machine.driver.capabilities().boots_our_image;
        let seed = if boots_our_image {
            let shared = certificates::load_or_make(&self.store, &self.certificates, progress)?;
            let daemon = machine.daemon_json()?;
            self.prepare_seed(machine, &shared, &daemon)?
        } else {
            SeedFiles { files: Vec::new() }
        };
        let driver = machine.driver.clone();
        let place = machine.place.clone();
        let named = ForMachine {
            name: &place.name,
            progress,
        };
        let started = driver.start(&place, &mut machine.record.driver, &seed, &named);
        self.store.save(&machine.record)?;
        started.map_err(|source| machine.failed("start", source))?;
        if boots_our_image {
            machine.wait_for_engine(progress)?;
        } else if machine.driver.capabilities().provisions_over_ssh {
            // A cloud's machine may have come back with another address: then its certificate does not fit.
            let shared = certificates::load_or_make(&self.store, &self.certificates, progress)?;
            self.install_over_ssh(machine, &shared, Purpose::Again, progress)?;
        }
        Ok(())
    }

    /// Wakes a machine that sleeps: what its memory holds and its disk does not is lost when it is merely booted, and what it would
    /// go on with is not what it is to boot. The machine's lock is held by the caller.
    pub(super) fn wake_opened(
        &self,
        machine: &mut Machine,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        if machine.status()? == Status::Saved {
            progress.say(&format!("Resuming \"{}\"...", machine.name()));
            self.start_opened(machine, progress)?;
        }
        Ok(())
    }

    /// Boots a machine, stopping it in order before where it is not off. The machine's lock is held by the caller.
    pub(super) fn boot_anew(
        &self,
        machine: &mut Machine,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        self.wake_opened(machine, progress)?;
        if machine.status()? != Status::Stopped {
            self.stop_opened(machine, progress)?;
        }
        self.start_opened(machine, progress)
    }

    /// The machine's lock is held by the caller.
    pub(super) fn stop_opened(
        &self,
        machine: &mut Machine,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        let driver = machine.driver.clone();
        let place = machine.place.clone();
        let named = ForMachine {
            name: &place.name,
            progress,
        };
        let stopped = driver.stop(&place, &mut machine.record.driver, &named);
        self.store.save(&machine.record)?;
        stopped.map_err(|source| machine.failed("stop", source))
    }
}

impl Machine {
    fn require_power(&self, verb: &'static str) -> Result<(), MachineError> {
        if self.driver.capabilities().start_stop {
            return Ok(());
        }
        Err(self.unsupported(verb))
    }
}

/// Takes a lock only if it is free.
struct AtOnce;

impl Patience for AtOnce {
    fn busy(&self) {}

    fn over(&self) -> bool {
        true
    }
}
