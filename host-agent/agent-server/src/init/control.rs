//! The control port: readiness goes out, requests come in, one JSON line each.

use guest_contract::control::{ControlRequest, STILL_STOPPING};
use guest_contract::readiness::{Outcome, ReadinessEvent, Stage};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

/// A request longer than this is none.
const LONGEST_LINE: usize = 4096;

/// What has been told so far, and where to tell it.
#[derive(Default)]
pub struct Reporter {
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    events: Vec<ReadinessEvent>,
    port: Option<File>,
}

impl Reporter {
    pub const fn new() -> Reporter {
        Reporter {
            told: Mutex::new(Told {
                events: Vec::new(),
                port: None,
            }),
        }
    }

    /// Opens the port and says what was to say before it was there.
    pub fn connect(&self, device: &Path) -> std::io::Result<File> {
        // Never blocking: a desktop that does not read must not hold up the guest. It asks again with `Report`.
        let port = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(device)?;
        let reader = port.try_clone()?;
        self.lock().port = Some(port);
        self.repeat();
        Ok(reader)
    }

    pub fn ready(&self, stage: Stage, message: Option<String>, address: Option<String>) {
        self.tell(ReadinessEvent {
            stage,
            outcome: Outcome::Ready,
            uptime_ms: uptime_ms(),
            message,
            address,
        });
    }

    pub fn failed(&self, stage: Stage, message: String) {
        self.tell(ReadinessEvent {
            stage,
            outcome: Outcome::Failed,
            uptime_ms: uptime_ms(),
            message: Some(message),
            address: None,
        });
    }

    fn tell(&self, event: ReadinessEvent) {
        super::say(&console_line(&event));
        let mut told = self.lock();
        let line = event.to_line();
        told.events.push(event);
        if let Some(port) = &mut told.port {
            let _ = port.write_all(line.as_bytes());
        }
    }

    /// Containers are being stopped, which may take as long as they asked for.
    pub fn still_stopping(&self) {
        if let Some(port) = &mut self.lock().port {
            let _ = port.write_all(STILL_STOPPING.as_bytes());
        }
    }

    /// The latest stage that is not ready, for a failure nobody foresaw.
    pub fn current_stage(&self) -> Stage {
        let told = self.lock();
        Stage::ALL
            .into_iter()
            .find(|stage| !told.events.iter().any(|event| event.stage == *stage))
            .unwrap_or(Stage::Api)
    }

    pub fn repeat(&self) {
        let mut told = self.lock();
        let text: String = told.events.iter().map(ReadinessEvent::to_line).collect();
        if let Some(port) = &mut told.port {
            let _ = port.write_all(text.as_bytes());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Told> {
        // The panic hook reports too: a poisoned list is still a list.
        self.told
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn console_line(event: &ReadinessEvent) -> String {
    let mut line = format!(
        "{} {}",
        event.stage,
        match event.outcome {
            Outcome::Ready => "ready",
            Outcome::Failed => "FAILED",
        }
    );
    for extra in [&event.address, &event.message].into_iter().flatten() {
        line.push_str(": ");
        line.push_str(extra);
    }
    line
}

/// Milliseconds since the kernel started.
fn uptime_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Hands every request to `act`, for ever. Runs on a thread of its own.
pub fn listen(mut port: File, mut act: impl FnMut(ControlRequest)) {
    let mut lines = Lines::default();
    let mut buffer = [0u8; 1024];
    loop {
        let mut waiting = [PollFd::new(&port, PollFlags::IN)];
        let _ = poll(&mut waiting, None);
        let events = waiting[0].revents();
        match port.read(&mut buffer) {
            Ok(count) if count > 0 => {
                for line in lines.push(&buffer[..count]) {
                    if let Some(request) = ControlRequest::from_line(&line) {
                        act(request);
                    }
                }
            }
            // No desktop at the other end: poll returns at once, so wait a little.
            _ if events.contains(PollFlags::HUP) => std::thread::sleep(Duration::from_millis(200)),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Cuts a stream into lines; a line that is too long is dropped as a whole.
#[derive(Default)]
struct Lines {
    pending: Vec<u8>,
    skipping: bool,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                if !self.skipping {
                    lines.push(String::from_utf8_lossy(&self.pending).into_owned());
                }
                self.pending.clear();
                self.skipping = false;
            } else if self.pending.len() < LONGEST_LINE {
                self.pending.push(byte);
            } else {
                self.skipping = true;
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_and_long_ones_not_at_all() {
        let mut lines = Lines::default();
        assert!(lines.push(b"{\"do\":").is_empty());
        assert_eq!(lines.push(b"\"report\"}\nnext"), ["{\"do\":\"report\"}"]);
        assert!(lines.push(&vec![b'x'; 10_000]).is_empty());
        assert_eq!(lines.push(b"\nafter\n"), ["after"]);
    }

    #[test]
    fn an_unforeseen_failure_belongs_to_the_first_stage_not_reached() {
        let reporter = Reporter::new();
        assert_eq!(reporter.current_stage(), Stage::Kernel);
        reporter.ready(Stage::Kernel, None, None);
        reporter.ready(Stage::Network, None, None);
        assert_eq!(reporter.current_stage(), Stage::Disk);
    }
}
