//! Which machine `DOCKER_HOST` points at.

use super::Machines;
use crate::MachineError;
use crate::driver::Status;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

impl Machines {
    /// The running machine whose URL is `docker_host`. All are asked side by side, since a provider may have to be asked for a URL;
    /// broken ones do not matter.
    pub fn active(&self, docker_host: &str, timeout: Duration) -> Result<String, MachineError> {
        let deadline = Instant::now() + timeout;
        let (answers, incoming) = channel();
        for name in self.store.names()? {
            let (answers, machines, wanted) =
                (answers.clone(), self.clone(), docker_host.to_owned());
            // Not joined: a provider that hangs must not hold up the others, and the process ends soon.
            std::thread::spawn(move || {
                let Ok(machine) = machines.open(&name) else {
                    return;
                };
                if machine.url().is_ok_and(|url| url == wanted) {
                    // Nobody listens once another is the one.
                    let _ = answers.send(machine.status().map(|status| (name, status)));
                }
            });
        }
        drop(answers);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match incoming.recv_timeout(left) {
                Ok(Ok((name, Status::Running))) => return Ok(name),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(RecvTimeoutError::Disconnected) => return Err(MachineError::NoActive),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(MachineError::ActiveUnknown {
                        seconds: timeout.as_secs(),
                    });
                }
            }
        }
    }
}
