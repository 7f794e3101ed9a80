//! A container's log: written at once, or by a process of its own behind a buffer (`mode=non-blocking`).

use super::log_ring::LogRing;
use super::log_writer::LogWriter;
use engine::runtime::{LogPlan, StreamKind};
use std::io;
use std::os::fd::BorrowedFd;

pub(super) enum Log {
    Direct(LogWriter),
    Buffered(LogRing),
}

impl Log {
    /// Opens the log for appending; `None` where the plan wants no log.
    pub(super) fn open(plan: &LogPlan) -> io::Result<Option<Log>> {
        let Some(writer) = LogWriter::open(plan)? else {
            return Ok(None);
        };
        Ok(Some(match plan {
            LogPlan::JsonFile {
                buffer: Some(bytes),
                ..
            } => Log::Buffered(LogRing::start(plan, *bytes)?),
            _ => Log::Direct(writer),
        }))
    }

    /// Takes what one read of a stream gave.
    pub(super) fn write(&mut self, stream: StreamKind, data: &[u8]) -> io::Result<()> {
        match self {
            Log::Direct(writer) => writer.write(stream, data),
            Log::Buffered(ring) => {
                ring.take(stream, data);
                Ok(())
            }
        }
    }

    /// The streams have ended.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        match self {
            Log::Direct(writer) => writer.finish(),
            Log::Buffered(ring) => ring.finish(),
        }
    }

    /// What can be written to when there is room for more, if anything waits for that.
    pub(super) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Log::Direct(_) => None,
            Log::Buffered(ring) => ring.waits_for(),
        }
    }

    /// There is room.
    pub(super) fn go_on(&mut self) {
        if let Log::Buffered(ring) = self {
            ring.hand_over();
        }
    }

    /// Gives back the memory that output needed: none has come for a while.
    pub(super) fn rest(&mut self) {
        match self {
            Log::Direct(writer) => writer.rest(),
            Log::Buffered(ring) => ring.rest(),
        }
    }

    /// To be told of every reaped process: a helper of the log's may be among them.
    pub(super) fn reaped(&mut self, pid: nix::unistd::Pid) {
        match self {
            Log::Direct(writer) => writer.reaped(pid),
            Log::Buffered(ring) => ring.reaped(pid),
        }
    }
}
