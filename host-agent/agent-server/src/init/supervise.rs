//! Processes: started, waited for, restarted. One thread reaps everything, our own children and the orphans that the
//! kernel hands to PID 1.

use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, WaitStatus, waitid, waitpid};
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// More than this of a service's log is another line.
const LONGEST_LINE: u64 = 8192;

/// All children of PID 1.
#[derive(Default)]
pub struct Children {
    waiting: Mutex<HashMap<u32, Sender<i32>>>,
    started: Condvar,
}

/// A started child.
pub struct Running {
    pub pid: u32,
    /// Its exit code, or minus the signal that ended it.
    pub ended: Receiver<i32>,
    pub output: Option<std::process::ChildStderr>,
}

impl Children {
    /// Starts a process. `Child::wait` must never be called on what std starts: the reaper is the only one who waits.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Running> {
        // The lock is held while starting, so that the reaper cannot see the end of a process it does not know yet,
        // nor take away the one that std itself waits for when `exec` failed.
        let mut waiting = self
            .waiting
            .lock()
            .expect("no one panics while holding the list");
        let mut child = command.spawn()?;
        let (sender, ended) = channel();
        waiting.insert(child.id(), sender);
        self.started.notify_all();
        Ok(Running {
            pid: child.id(),
            ended,
            output: child.stderr.take(),
        })
    }

    /// Runs a short program and returns its exit code and what it said on standard error.
    pub fn run(&self, command: &mut Command) -> io::Result<(i32, String)> {
        let running = self.spawn(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped()),
        )?;
        let mut text = Vec::new();
        if let Some(output) = running.output {
            output.take(64 * 1024).read_to_end(&mut text)?;
        }
        let code = running.ended.recv().map_err(io::Error::other)?;
        Ok((code, String::from_utf8_lossy(&text).into_owned()))
    }

    /// Waits for children for ever. Runs on a thread of its own.
    pub fn reap(&self) {
        loop {
            // Only looks: whoever holds the lock may be about to wait for this very process.
            let peek = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let mut waiting = self
                .waiting
                .lock()
                .expect("no one panics while holding the list");
            if matches!(peek, Err(rustix::io::Errno::CHILD)) {
                // No child, hence no orphan can appear either. The time-out covers a start between the two lines above.
                let _ = self
                    .started
                    .wait_timeout(waiting, Duration::from_millis(100));
                continue;
            }
            while let Ok(Some((pid, status))) = waitpid(None, WaitOptions::NOHANG) {
                if let Some(sender) = waiting.remove(&number(pid)) {
                    let _ = sender.send(code(status));
                }
            }
        }
    }
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

fn code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => -signal,
        (None, None) => -1,
    }
}

/// How long to wait before the next start of a service that ended.
#[derive(Debug)]
pub struct BackOff {
    next: Duration,
}

impl BackOff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);
    /// Who ran this long was well.
    const WELL: Duration = Duration::from_secs(10);

    pub fn new() -> BackOff {
        BackOff {
            next: BackOff::FIRST,
        }
    }

    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= BackOff::WELL {
            self.next = BackOff::FIRST;
        }
        let wait = self.next;
        self.next = (self.next * 2).min(BackOff::LONGEST);
        wait
    }
}

/// A program that must always run.
pub struct Service {
    pub name: &'static str,
    stopping: AtomicBool,
    pid: AtomicU32,
    /// Ends since it last ran well; readiness gives up after a few.
    pub failures: AtomicU32,
    /// The last line it wrote, for the message that says why it does not run.
    last_words: Mutex<String>,
}

impl Service {
    pub const fn new(name: &'static str) -> Service {
        Service {
            name,
            stopping: AtomicBool::new(false),
            pid: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            last_words: Mutex::new(String::new()),
        }
    }

    /// Starts the service again and again until [`Service::stop`]. Runs on a thread of its own.
    pub fn keep_running(&'static self, children: &Children, command: impl Fn() -> Command) {
        let mut back_off = BackOff::new();
        while !self.stopping.load(Ordering::SeqCst) {
            let since = Instant::now();
            match children.spawn(&mut command()) {
                Ok(mut running) => {
                    self.pid.store(running.pid, Ordering::SeqCst);
                    if let Some(output) = running.output.take() {
                        let _ = super::start(self.name, move || self.copy_to_console(output));
                    }
                    let code = running.ended.recv().unwrap_or(-1);
                    self.pid.store(0, Ordering::SeqCst);
                    if self.stopping.load(Ordering::SeqCst) {
                        return;
                    }
                    super::say(&format!(
                        "{} ended with {code}; starting it again",
                        self.name
                    ));
                }
                Err(error) => super::say(&format!("cannot start {}: {error}", self.name)),
            }
            if since.elapsed() >= BackOff::WELL {
                self.failures.store(0, Ordering::SeqCst);
            }
            self.failures.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(back_off.after(since.elapsed()));
        }
    }

    /// Through a pipe, so that the program does not take the console for a terminal.
    fn copy_to_console(&self, output: impl Read) {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        while (&mut reader)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)
            .is_ok_and(|count| count > 0)
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            super::say(&format!("{}: {text}", self.name));
            if let Ok(mut last) = self.last_words.lock() {
                *last = text;
            }
        }
    }

    /// The last line the service wrote.
    pub fn last_words(&self) -> String {
        self.last_words
            .lock()
            .map(|words| words.clone())
            .unwrap_or_default()
    }

    /// Asks the service to end with `signal` and waits up to `limit`; then it is killed.
    pub fn stop(&self, signal: rustix::process::Signal, limit: Duration) {
        self.stopping.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + limit;
        let Some(pid) = Pid::from_raw(self.pid.load(Ordering::SeqCst) as i32) else {
            return;
        };
        let _ = rustix::process::kill_process(pid, signal);
        while self.pid.load(Ordering::SeqCst) != 0 {
            if Instant::now() > deadline {
                super::say(&format!(
                    "{} did not end within {} s",
                    self.name,
                    limit.as_secs()
                ));
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_start_over_after_a_good_run() {
        let mut back_off = BackOff::new();
        let waits: Vec<u128> = (0..8)
            .map(|_| back_off.after(Duration::ZERO).as_millis())
            .collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(back_off.after(Duration::from_secs(60)).as_millis(), 100);
    }
}
