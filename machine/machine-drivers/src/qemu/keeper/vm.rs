//! QEMU's process: started by this keeper, or found running after another keeper was killed.

use super::{KeeperError, VmPlan};
use crate::qemu::process::ProcessId;
use crate::qemu::system::{self, Stream};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long QEMU may take to open its sockets, and to greet.
pub(super) const CONNECTS_WITHIN: Duration = Duration::from_secs(20);
/// How often a process that is not our child is looked at.
const GLANCE: Duration = Duration::from_millis(200);

pub(super) struct Vm {
    pub id: ProcessId,
    /// `None`: another keeper started it.
    child: Option<Child>,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl Vm {
    pub(super) fn start(plan: &VmPlan) -> Result<Vm, KeeperError> {
        if plan.emulated {
            leave_huge_pages();
        }
        let mut child = system::in_background(&mut Command::new(&plan.program))
            .args(&plan.arguments)
            // glibc would keep a heap for each of QEMU's threads: ten megabytes for nothing.
            .env("MALLOC_ARENA_MAX", "1")
            // Nor does it give back what a boot needed once, tables of translated addresses above all.
            .env("MALLOC_MMAP_THRESHOLD_", "65536")
            .env("MALLOC_TRIM_THRESHOLD_", "65536")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| KeeperError::Start {
                program: plan.program.display().to_string(),
                source,
            })?;
        let complaints = complaints_of(&mut child);
        let id = ProcessId::of(child.id()).unwrap_or(ProcessId {
            pid: child.id(),
            started: 0,
        });
        Ok(Vm {
            id,
            child: Some(child),
            complaints,
        })
    }

    pub(super) fn adopt(id: ProcessId) -> Vm {
        Vm {
            id,
            child: None,
            complaints: Arc::default(),
        }
    }

    /// Connects to one of QEMU's sockets.
    pub(super) fn connect(&mut self, path: &Path) -> Result<Stream, KeeperError> {
        let deadline = Instant::now() + CONNECTS_WITHIN;
        loop {
            if let Ok(stream) = system::connect(path) {
                return Ok(stream);
            }
            if let Some(why) = self.has_ended()? {
                return Err(KeeperError::NotConnected { why });
            }
            if Instant::now() > deadline {
                return Err(KeeperError::NotConnected {
                    why: format!("nothing happened for {} s", CONNECTS_WITHIN.as_secs()),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How it ended, with its last words.
    pub(super) fn has_ended(&mut self) -> Result<Option<String>, KeeperError> {
        let how = match &mut self.child {
            Some(child) => child.try_wait().map_err(|source| KeeperError::Io {
                step: "look after QEMU",
                source,
            })?,
            None if self.id.is_alive() => None,
            None => return Ok(Some("it is gone".into())),
        };
        let Some(how) = how else {
            return Ok(None);
        };
        // Its last words may still be on the way.
        std::thread::sleep(Duration::from_millis(50));
        let last = self.complaints.lock();
        let last = last.map(|lines| lines.join("; ")).unwrap_or_default();
        Ok(Some(format!("it ended ({how}): {last}")))
    }

    pub(super) fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits for its end. `None`: it ended well, as far as one can see.
    pub(super) fn wait(&mut self) -> io::Result<Option<String>> {
        let Some(child) = &mut self.child else {
            while self.id.is_alive() {
                std::thread::sleep(GLANCE);
            }
            return Ok(None);
        };
        let how = child.wait()?;
        if how.success() {
            return Ok(None);
        }
        let last = self.complaints.lock();
        let last = last.ok().and_then(|lines| lines.last().cloned());
        Ok(Some(match last {
            Some(last) => format!("QEMU ended ({how}): {last}"),
            None => format!("QEMU ended ({how})"),
        }))
    }
}

/// Memory that the guest gives back in small pieces stays given back: with huge pages the kernel fills the gaps again, thirteen
/// megabytes in a minute. Processes that this one starts inherit it. Emulated processors gain nothing from huge pages; real ones do.
fn leave_huge_pages() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Copies what QEMU says to the log and keeps the last lines.
fn complaints_of(child: &mut Child) -> Arc<Mutex<Vec<String>>> {
    let kept = Arc::new(Mutex::new(Vec::new()));
    if let Some(stderr) = child.stderr.take() {
        let kept = kept.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = writeln!(system::log(), "qemu: {line}");
                if let Ok(mut kept) = kept.lock() {
                    let kept: &mut Vec<String> = &mut kept;
                    if kept.len() == 10 {
                        kept.remove(0);
                    }
                    kept.push(line);
                }
            }
        });
    }
    kept
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn an_emulated_machine_has_no_huge_pages() {
        let folder = tempfile::tempdir().unwrap();
        let said = folder.path().join("said");
        let line = format!("grep THP_enabled /proc/self/status > '{}'", said.display());
        let plan = VmPlan {
            version: crate::qemu::keeper::PLAN_VERSION,
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), line],
            ip: std::net::Ipv4Addr::LOCALHOST,
            api_port: 1,
            resumes: false,
            emulated: true,
            shares: Vec::new(),
        };
        assert_eq!(Vm::start(&plan).unwrap().wait().unwrap(), None);
        let said = std::fs::read_to_string(said).unwrap();
        assert_eq!(said.split_whitespace().last(), Some("0"), "{said}");
    }
}
