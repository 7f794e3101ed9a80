//! Hears of the kernel's killing for want of memory while a container goes on: it may be any of its processes.

use super::{Cgroup, Version, write};
use nix::poll::PollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// To be polled for; see [`Cgroup::watch_memory`].
pub struct MemoryWatch {
    source: Source,
    /// Kills that were told.
    known: u64,
}

enum Source {
    /// `cgroup.event_control` (kernel, admin-guide/cgroup-v1/memory.rst, "OOM Control").
    V1 { event: EventFd, control: File },
    /// `memory.events` tells of a change as an urgent condition.
    V2(File),
}

impl Cgroup {
    /// Watches the group; `None` where the host has no memory controller. A group made in it later is watched along.
    pub fn watch_memory(&self) -> io::Result<Option<MemoryWatch>> {
        let Some(folder) = self.folder("memory") else {
            return Ok(None);
        };
        let source = match self.version() {
            Version::V2 => Source::V2(File::open(folder.join("memory.events"))?),
            Version::V1 => {
                let control = File::open(folder.join("memory.oom_control"))?;
                let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
                let event = EventFd::from_flags(flags)?;
                let order = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
                write(&folder.join("cgroup.event_control"), &order)?;
                Source::V1 { event, control }
            }
        };
        Ok(Some(MemoryWatch { source, known: 0 }))
    }
}

impl MemoryWatch {
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::V1 { event, .. } => event.as_fd(),
            Source::V2(events) => events.as_fd(),
        }
    }

    /// What to poll for.
    pub fn wanted(&self) -> PollFlags {
        match &self.source {
            Source::V1 { .. } => PollFlags::POLLIN,
            Source::V2(_) => PollFlags::POLLPRI,
        }
    }

    /// Whether memory ran out since the last call. To be asked once after the watch is made: it may have before.
    pub fn take(&mut self) -> bool {
        let (told, file) = match &mut self.source {
            // The kernel tells before it kills.
            Source::V1 { event, control } => (event.read().is_ok(), control),
            Source::V2(events) => (false, events),
        };
        let mut text = String::new();
        let count = file
            .rewind()
            .and_then(|()| file.read_to_string(&mut text))
            .map_or(self.known, |_| super::oom_kills(&text));
        let more = count > self.known;
        self.known = count;
        told || more
    }
}
