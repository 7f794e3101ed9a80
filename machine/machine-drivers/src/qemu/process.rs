//! A process told apart from a later one with the same number.

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// A process: its number and when it started (clock ticks since boot on Linux).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    pub started: u64,
}

impl ProcessId {
    /// The process that has this number now; `None` when there is none or it is only waiting to be reaped.
    pub fn of(pid: u32) -> Option<ProcessId> {
        started(pid).map(|started| ProcessId { pid, started })
    }

    pub fn is_alive(self) -> bool {
        ProcessId::of(self.pid) == Some(self)
    }

    /// Ends the process if it is still the same one, and waits until it is gone. Returns whether it is.
    pub fn kill(self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

#[cfg(target_os = "linux")]
fn started(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&text)
}

/// Field 22 of proc_pid_stat(5); the name in field 2 may hold anything.
#[cfg(target_os = "linux")]
fn parse_stat(text: &str) -> Option<u64> {
    let (_, after) = text.rsplit_once(')')?;
    let mut fields = after.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(not(target_os = "linux"))]
fn started(pid: u32) -> Option<u64> {
    let output = std::process::Command::new("ps")
        .args(["-o", "stat=,lstart=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let text = text.trim();
    let (state, since) = text.split_once(' ')?;
    (!state.starts_with('Z')).then(|| super::files::stable_hash(since.trim().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_until_it_ends() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
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

    #[cfg(target_os = "linux")]
    #[test]
    fn odd_names_do_not_confuse() {
        let fields: Vec<String> = (4..=30).map(|field| field.to_string()).collect();
        let line = format!("7 (a) b) S {}", fields.join(" "));
        assert_eq!(parse_stat(&line), Some(22));
        assert_eq!(parse_stat("7 (x) Z 1 2"), None);
        assert_eq!(parse_stat(""), None);
    }
}
