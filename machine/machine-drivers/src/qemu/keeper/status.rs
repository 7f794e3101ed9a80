//! What the keeper tells `machine`, and what `machine` asks of it: JSON lines over the keeper's socket.
//!
//! A connection asks one thing. `watch` is answered by a line at once and one at every change, until the keeper ends;
//! `stop` and `kill` are answered as `watch` is, so that the asker sees the end.

use super::super::files::Files;
use super::super::process::ProcessId;
use super::super::system::{self, Stream};
use guest_contract::readiness::{Outcome, ReadinessEvent, Stage};
use machine_core::store::atomic;
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// One line.
    Status,
    Watch,
    /// Orderly.
    Stop,
    /// At once.
    Kill,
    /// The memory goes to a file, then the machine ends.
    Suspend,
}

/// Where the machine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    Booting,
    Running,
    Stopping,
    Ended,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub phase: Phase,
    /// The guest's readiness so far.
    pub events: Vec<ReadinessEvent>,
    /// Why QEMU ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// Published container ports that are open on the machine's address, for example `8080/tcp`.
    pub ports: Vec<String>,
    /// Published ports that could not be opened, and why.
    pub port_problems: Vec<String>,
    /// Why the last `suspend` failed; the machine goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend_problem: Option<String>,
}

impl Status {
    pub fn new() -> Status {
        Status {
            phase: Phase::Booting,
            events: Vec::new(),
            ended: None,
            ports: Vec::new(),
            port_problems: Vec::new(),
            suspend_problem: None,
        }
    }

    /// What a killed keeper knew, for the one that takes over: the guest does not say it twice by itself. A stop or suspend that
    /// was cut off is no more.
    pub fn taken_over(&self) -> Status {
        let mut status = self.clone();
        if status.phase != Phase::Booting {
            status.phase = Phase::Running;
        }
        status.ended = None;
        status
    }

    /// Adds what the guest said; a repeated event (the answer to `Report`) counts once.
    pub fn learn(&mut self, event: ReadinessEvent) {
        if self.events.contains(&event) {
            return;
        }
        if event.stage == Stage::Api
            && event.outcome == Outcome::Ready
            && self.phase == Phase::Booting
        {
            self.phase = Phase::Running;
        }
        self.events.push(event);
    }

    pub fn failure(&self) -> Option<&ReadinessEvent> {
        self.events
            .iter()
            .find(|event| event.outcome == Outcome::Failed)
    }

    /// The first stage that is not ready; `None` when all are.
    pub fn missing(&self) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| {
            !self
                .events
                .iter()
                .any(|event| event.stage == *stage && event.outcome == Outcome::Ready)
        })
    }
}

impl Default for Status {
    fn default() -> Status {
        Status::new()
    }
}

/// `keeper.json`: who runs the machine, for the day nobody answers the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperRecord {
    pub version: u32,
    pub keeper: Option<ProcessId>,
    pub vm: Option<ProcessId>,
    pub status: Status,
}

pub const RECORD_VERSION: u32 = 1;

impl KeeperRecord {
    pub fn load(files: &Files) -> Option<KeeperRecord> {
        serde_json::from_slice(&std::fs::read(files.keeper_record()).ok()?).ok()
    }

    pub fn save(&self, files: &Files) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).expect("plain data");
        atomic::write(&files.keeper_record(), &text)
    }
}

/// The status, shared by the keeper's threads.
pub struct Board {
    inner: Mutex<(u64, Status)>,
    changed: Condvar,
}

impl Default for Board {
    fn default() -> Board {
        Board::new()
    }
}

impl Board {
    pub fn new() -> Board {
        Board::of(Status::new())
    }

    pub fn of(status: Status) -> Board {
        Board {
            inner: Mutex::new((0, status)),
            changed: Condvar::new(),
        }
    }

    pub fn change(&self, change: impl FnOnce(&mut Status)) {
        let mut inner = self.lock();
        let before = inner.1.clone();
        change(&mut inner.1);
        if inner.1 != before {
            inner.0 += 1;
            self.changed.notify_all();
        }
    }

    pub fn now(&self) -> Status {
        self.lock().1.clone()
    }

    /// Waits until the status is another than number `seen`, at most `limit`.
    pub fn next(&self, seen: Option<u64>, limit: Duration) -> (u64, Status) {
        let inner = self.lock();
        let (inner, _) = self
            .changed
            .wait_timeout_while(inner, limit, |inner| Some(inner.0) == seen)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        (inner.0, inner.1.clone())
    }

    /// Waits until the status is as wanted, however long that takes.
    pub fn wait_until(&self, wanted: impl Fn(&Status) -> bool) {
        let inner = self.lock();
        drop(
            self.changed
                .wait_while(inner, |inner| !wanted(&inner.1))
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Status)> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A question to a keeper.
pub struct Conversation {
    stream: BufReader<Stream>,
    line: Vec<u8>,
}

/// What came of listening for a while.
#[derive(Debug)]
pub enum Heard {
    Status(Status),
    Nothing,
    /// The keeper is gone.
    End,
}

impl Conversation {
    /// Fails when no keeper listens.
    pub fn open(socket: &Path, request: Request) -> io::Result<Conversation> {
        let mut stream = system::connect(socket)?;
        let mut line = serde_json::to_string(&request).expect("plain data");
        line.push('\n');
        stream.write_all(line.as_bytes())?;
        Ok(Conversation {
            stream: BufReader::new(stream),
            line: Vec::new(),
        })
    }

    pub fn listen(&mut self, limit: Duration) -> Heard {
        let _ = self.stream.get_ref().set_read_timeout(Some(limit));
        match self.stream.read_until(b'\n', &mut self.line) {
            Ok(0) => Heard::End,
            Ok(_) if self.line.ends_with(b"\n") => {
                let status = serde_json::from_slice(&self.line).ok();
                self.line.clear();
                status.map_or(Heard::Nothing, Heard::Status)
            }
            Ok(_) => Heard::End,
            // What was read so far stays in the line.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                Heard::Nothing
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Heard::Nothing,
            Err(_) => Heard::End,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(stage: Stage, outcome: Outcome) -> ReadinessEvent {
        ReadinessEvent {
            stage,
            outcome,
            uptime_ms: 1,
            message: None,
            address: None,
        }
    }

    #[test]
    fn a_machine_runs_when_its_api_is_ready() {
        let mut status = Status::new();
        assert_eq!(status.missing(), Some(Stage::Kernel));
        for stage in [Stage::Kernel, Stage::Network, Stage::Network] {
            status.learn(event(stage, Outcome::Ready));
        }
        assert_eq!(status.events.len(), 2, "a repeated event counts once");
        assert_eq!(
            status.missing(),
            Some(Stage::Disk),
            "network may come first"
        );
        status.learn(event(Stage::Disk, Outcome::Failed));
        assert_eq!(status.missing(), Some(Stage::Disk));
        assert_eq!(status.failure().unwrap().stage, Stage::Disk);
        assert_eq!(status.phase, Phase::Booting);
        for stage in [Stage::Disk, Stage::Engine, Stage::Api] {
            status.learn(event(stage, Outcome::Ready));
        }
        assert_eq!((status.phase, status.missing()), (Phase::Running, None));
    }

    #[test]
    fn readers_see_every_change_and_only_changes() {
        let board = Board::new();
        let (seen, _) = board.next(None, Duration::from_secs(5));
        board.change(|_| {});
        let (again, _) = board.next(Some(seen), Duration::from_millis(10));
        assert_eq!(again, seen, "nothing changed");
        board.change(|status| status.phase = Phase::Stopping);
        let (next, status) = board.next(Some(seen), Duration::from_secs(5));
        assert!(next > seen);
        assert_eq!(status.phase, Phase::Stopping);
    }
}
