//! A process told apart from a later one with the same number.

use super::system;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// A process: its number and when it started, in the system's own measure (clock ticks since boot on Linux).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    pub started: u64,
}

impl ProcessId {
    /// The process that has this number now; `None` when there is none or it is only waiting to be reaped.
    pub fn of(pid: u32) -> Option<ProcessId> {
        system::started(pid).map(|started| ProcessId { pid, started })
    }

    pub fn is_alive(self) -> bool {
        ProcessId::of(self.pid) == Some(self)
    }

    /// Ends the process if it is still the same one, and waits until it is gone. Returns whether it is.
    pub fn kill(self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            system::terminate(self);
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_until_it_ends() {
        let mut command = match cfg!(windows) {
            true => std::process::Command::new("ping"),
            false => std::process::Command::new("sleep"),
        };
        let mut child = match cfg!(windows) {
            true => command.args(["-n", "60", "127.0.0.1"]),
            false => command.arg("60"),
        }
        .spawn()
        .unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        assert!(process.is_alive());
        assert!(
            !ProcessId {
                started: process.started + 1,
                ..process
            }
            .is_alive()
        );
        assert!(process.kill(Duration::from_secs(5)));
        child.wait().unwrap();
        assert!(!process.is_alive());
    }
}
