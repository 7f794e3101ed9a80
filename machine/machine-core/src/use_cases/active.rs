//! Which machine `DOCKER_HOST` points at.

use super::Machines;
use crate::MachineError;
use crate::driver::Status;

impl Machines {
    /// The running machine whose URL is `docker_host`. Others are not asked anything, and broken ones do not matter.
    pub fn active(&self, docker_host: &str) -> Result<String, MachineError> {
        for name in self.store.names()? {
            let Ok(machine) = self.open(&name) else {
                continue;
            };
            if machine.url().is_ok_and(|url| url == docker_host)
                && machine.status()? == Status::Running
            {
                return Ok(name);
            }
        }
        Err(MachineError::NoActive)
    }
}
