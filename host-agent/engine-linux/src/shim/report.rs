//! What the processes that make a container tell their shim, over a pipe that a successful exec closes.

use super::protocol::Refusal;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::os::fd::{BorrowedFd, RawFd};
use tracing::field::{Field, Visit};

#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The process is there; whether its program runs is known when the pipe ends.
    Process(i32),
    Failed(Refusal),
    /// What libcontainer says on the way to a failure.
    Trace(String),
}

/// Writes one line. Nobody can be told of an error here.
pub fn send(fd: RawFd, report: &Report) {
    let mut line = serde_json::to_vec(report).expect("plain data");
    line.push(b'\n');
    // SAFETY: the pipe was opened before the fork for this purpose and is closed only by exec or exit.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let mut rest = &line[..];
    while !rest.is_empty() {
        match nix::unistd::write(fd, rest) {
            Ok(count) => rest = &rest[count..],
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// Everything the pipe carried: a process that runs its program, or why there is none.
pub fn outcome(bytes: &[u8]) -> Result<Pid, Refusal> {
    let mut pid = None;
    let mut refusal = None;
    let mut traces = Vec::new();
    for line in bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        match serde_json::from_slice(line) {
            Ok(Report::Process(number)) => pid = Some(Pid::from_raw(number)),
            // The first is the cause; those who waited for it follow.
            Ok(Report::Failed(first)) if refusal.is_none() => refusal = Some(first),
            Ok(Report::Failed(_)) => {}
            Ok(Report::Trace(text)) => traces.push(text),
            Err(_) => traces.push(String::from_utf8_lossy(line).into_owned()),
        }
    }
    match (refusal, pid) {
        (Some(Refusal::Failed { step, why }), _) => {
            // libcontainer's own error often does not say why; what it logged first does.
            let why = match traces.first() {
                Some(trace) => format!("{why} ({trace})"),
                None => why,
            };
            Err(Refusal::Failed { step, why })
        }
        (Some(refusal), _) => Err(refusal),
        (None, Some(pid)) => Ok(pid),
        (None, None) => Err(Refusal::failed(
            "make the container",
            if traces.is_empty() {
                "the process that makes it ended without a word".to_owned()
            } else {
                traces.join("; ")
            },
        )),
    }
}

/// Sends libcontainer's error events over the pipe; everything else is off.
pub struct Traces(pub RawFd);

impl tracing::Subscriber for Traces {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::ERROR)
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        send(self.0, &Report::Trace(text.0));
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write;
        if !self.0.is_empty() {
            self.0.push_str(", ");
        }
        let _ = if field.name() == "message" {
            write!(self.0, "{value:?}")
        } else {
            write!(self.0, "{}={value:?}", field.name())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(reports: &[Report]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for report in reports {
            bytes.extend(serde_json::to_vec(report).unwrap());
            bytes.push(b'\n');
        }
        bytes
    }

    #[test]
    fn the_first_failure_is_the_cause() {
        let bytes = lines(&[
            Report::Trace("mount: EPERM".into()),
            Report::Process(7),
            Report::Failed(Refusal::failed("create the container", "io error")),
            Report::Failed(Refusal::NotRunning),
        ]);
        assert_eq!(
            outcome(&bytes).unwrap_err(),
            Refusal::failed("create the container", "io error (mount: EPERM)")
        );
        assert_eq!(outcome(&lines(&[Report::Process(7)])).unwrap().as_raw(), 7);
        assert!(outcome(b"").is_err());
    }
}
