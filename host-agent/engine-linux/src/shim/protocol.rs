//! What serve and a shim say to each other over `shim.sock` (and over the two sockets a new shim is born with).
//!
//! Every message is a frame: one byte kind, four bytes length (little endian), payload. A connection starts with a
//! [`Greeting`] from serve, then is either
//! - a control connection: [`Request`]s one way; [`Answer`]s and [`Event`]s the other, as JSON, or
//! - a stream connection of one process: its output one way, its input the other, as raw bytes.
//!
//! The two are apart so that a reader who is slow to take output never holds up a signal.

use crate::cgroup::Hierarchies;
use engine::id::ExecId;
use engine::runtime::{ExecPlan, ExitStatus, LaunchPlan, RuntimeError, StreamKind, TtySize};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Raised when a frame or a message changes its meaning. A shim lives as long as its container, so a newer serve may
/// meet an older shim: it then speaks the older version.
pub const VERSION: u32 = 1;

/// The socket's name in a container's run-time folder.
pub const SOCKET: &str = "shim.sock";

/// Longest payload either side accepts: a plan with a long seccomp profile and environment fits.
pub const LONGEST: usize = 16 << 20;

/// Bytes before a payload.
pub const HEADER: usize = 5;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Greeting = 0,
    Request = 1,
    Answer = 2,
    Event = 3,
    Stdout = 4,
    Stderr = 5,
    /// Every writer of the process's output is gone.
    OutputEnd = 6,
    /// The process has ended; all it wrote before came before this frame.
    Ended = 7,
    Stdin = 8,
    StdinEnd = 9,
}

impl Kind {
    /// The kind a header's first byte names.
    pub fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            0 => Kind::Greeting,
            1 => Kind::Request,
            2 => Kind::Answer,
            3 => Kind::Event,
            4 => Kind::Stdout,
            5 => Kind::Stderr,
            6 => Kind::OutputEnd,
            7 => Kind::Ended,
            8 => Kind::Stdin,
            9 => Kind::StdinEnd,
            _ => return None,
        })
    }

    /// The kind output of this stream travels as.
    pub fn of_stream(stream: StreamKind) -> Kind {
        match stream {
            StreamKind::Stdout => Kind::Stdout,
            StreamKind::Stderr => Kind::Stderr,
        }
    }
}

/// The header of a frame.
pub fn header(kind: Kind, length: usize) -> [u8; HEADER] {
    let length = u32::try_from(length).expect("payloads are shorter than LONGEST");
    let [a, b, c, d] = length.to_le_bytes();
    [kind as u8, a, b, c, d]
}

/// Reads a header: the kind and the payload's length. `None` means the peer does not speak this protocol.
pub fn parse_header(bytes: [u8; HEADER]) -> Option<(Kind, usize)> {
    let [kind, a, b, c, d] = bytes;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    (length <= LONGEST)
        .then(|| Kind::from_byte(kind))
        .flatten()
        .map(|kind| (kind, length))
}

/// A whole frame.
pub fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&header(kind, payload.len()));
    bytes.extend_from_slice(payload);
    bytes
}

/// A whole frame of a JSON message.
pub fn json_frame<T: Serialize>(kind: Kind, message: &T) -> Vec<u8> {
    let payload = serde_json::to_vec(message).expect("our messages are plain data");
    frame(kind, &payload)
}

/// The first frame of a connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct Greeting {
    pub version: u32,
    pub purpose: Purpose,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Purpose {
    Control,
    /// `None` is the first process. An exec's stream is connected before the exec is asked for, so nothing is missed;
    /// the shim confirms it with an empty [`Kind::Greeting`] frame.
    Stream(Option<ExecId>),
}

/// A question or order; `number` comes back in the [`Answer`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub number: u64,
    pub order: Order,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    Start {
        plan: Box<LaunchPlan>,
        /// Where the host's control groups are.
        hierarchies: Hierarchies,
    },
    State,
    Exec(Box<ExecPlan>),
    Signal {
        process: Option<ExecId>,
        signal: i32,
    },
    Resize {
        process: Option<ExecId>,
        size: TtySize,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    pub number: u64,
    pub result: Result<Reply, Refusal>,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Running {
        pid: u32,
        #[serde(with = "time::serde::rfc3339")]
        started_at: OffsetDateTime,
        open_stdin: bool,
    },
    /// It ended before this question.
    Ended(ExitStatus),
}

/// Told to every control connection.
#[derive(Debug, Serialize, Deserialize)]
pub enum Event {
    Exited {
        process: Option<ExecId>,
        status: ExitStatus,
    },
    /// The kernel kills for want of memory; the first process may go on.
    OutOfMemory,
}

/// A [`RuntimeError`] in a form that travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    ProgramNotFound { program: String },
    ProgramNotExecutable { program: String, reason: String },
    WorkingDirectory { path: String, reason: String },
    UnknownUser { user: String },
    UnknownGroup { group: String },
    IdOutOfRange,
    Unsupported { what: String, why: String },
    Invalid { what: String, why: String },
    NotRunning,
    Failed { step: String, why: String },
}

impl Refusal {
    /// What was tried and why it failed.
    pub fn failed(step: impl Into<String>, why: impl ToString) -> Refusal {
        Refusal::Failed {
            step: step.into(),
            why: why.to_string(),
        }
    }
}

impl From<Refusal> for RuntimeError {
    fn from(refusal: Refusal) -> RuntimeError {
        match refusal {
            Refusal::ProgramNotFound { program } => RuntimeError::ProgramNotFound { program },
            Refusal::ProgramNotExecutable { program, reason } => {
                RuntimeError::ProgramNotExecutable { program, reason }
            }
            Refusal::WorkingDirectory { path, reason } => {
                RuntimeError::WorkingDirectory { path, reason }
            }
            Refusal::UnknownUser { user } => RuntimeError::UnknownUser { user },
            Refusal::UnknownGroup { group } => RuntimeError::UnknownGroup { group },
            Refusal::IdOutOfRange => RuntimeError::IdOutOfRange,
            Refusal::Unsupported { what, why } => RuntimeError::Unsupported { what, why },
            Refusal::Invalid { what, why } => RuntimeError::Invalid { what, why },
            Refusal::NotRunning => RuntimeError::NotRunning,
            Refusal::Failed { step, why } => RuntimeError::failed(step, why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back() {
        let bytes = frame(Kind::Stdin, b"hello");
        let (kind, length) = parse_header(bytes[..HEADER].try_into().unwrap()).unwrap();
        assert_eq!((kind, length), (Kind::Stdin, 5));
        assert_eq!(&bytes[HEADER..], b"hello");
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!(parse_header([200, 0, 0, 0, 0]), None);
        assert_eq!(parse_header([1, 255, 255, 255, 255]), None);
    }
}
