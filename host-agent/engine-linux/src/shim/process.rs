//! A process the shim has started: its streams and its state.

use super::launch::Stdio;
use engine::id::ExecId;
use engine::runtime::StreamKind;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Input waiting for the process, bytes, above which its stream connection is not read.
pub const INPUT_LIMIT: usize = 256 << 10;

pub struct Process {
    /// `None` is the container's first process.
    pub exec: Option<ExecId>,
    pub state: State,
    /// Writing end of its input, or the terminal.
    pub stdin: Option<OwnedFd>,
    pub input: Vec<u8>,
    /// Nothing follows `input`.
    pub input_ended: bool,
    /// Reading ends of stdout and stderr; a terminal is in the first.
    pub outputs: [Option<OwnedFd>; 2],
    pub tty: bool,
    /// The stream connection attached now.
    pub stream: Option<u32>,
}

pub enum State {
    /// A forked process makes it and reports over a pipe.
    Making {
        report: OwnedFd,
        heard: Vec<u8>,
        console: Option<UnixListener>,
        /// Whom to answer: connection and request number.
        asked: (u32, u64),
    },
    Running(Pid),
    Ended,
}

/// The shim's ends of a new process's streams.
#[derive(Default)]
pub struct Ends {
    pub stdin: Option<OwnedFd>,
    pub outputs: [Option<OwnedFd>; 2],
}

/// Makes pipes for a process without a terminal: its ends and ours. Input that is not kept open is /dev/null.
pub fn pipes(open_stdin: bool) -> nix::Result<(Stdio, Ends)> {
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC);
    let mut theirs = Stdio::default();
    let mut ours = Ends::default();
    if open_stdin {
        let (read, write) = pipe()?;
        not_blocking(write.as_raw_fd())?;
        theirs.stdin = Some(read);
        ours.stdin = Some(write);
    }
    let (read, write) = pipe()?;
    not_blocking(read.as_raw_fd())?;
    theirs.stdout = Some(write);
    ours.outputs[0] = Some(read);
    let (read, write) = pipe()?;
    not_blocking(read.as_raw_fd())?;
    theirs.stderr = Some(write);
    ours.outputs[1] = Some(read);
    Ok((theirs, ours))
}

pub fn not_blocking(fd: RawFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

/// Takes the terminal that the new process has sent to its console socket.
pub fn receive_terminal(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (socket, _) = listener.accept()?;
    socket.set_nonblocking(false)?;
    let mut byte = [0u8; 64];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let message = nix::sys::socket::recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        nix::sys::socket::MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    for part in message.cmsgs()? {
        if let nix::sys::socket::ControlMessageOwned::ScmRights(fds) = part
            && let Some(&fd) = fds.first()
        {
            // SAFETY: the kernel has just installed this descriptor for us; nobody else owns it.
            let terminal = unsafe { OwnedFd::from_raw_fd(fd) };
            not_blocking(terminal.as_raw_fd())?;
            return Ok(terminal);
        }
    }
    Err(io::Error::other("no terminal came from the new process"))
}

/// Binds a socket whose path may be longer than an address allows.
pub fn listen(folder: &Path, name: &str) -> io::Result<UnixListener> {
    std::env::set_current_dir(folder)?;
    let _ = std::fs::remove_file(name);
    let listener = UnixListener::bind(name);
    std::env::set_current_dir("/")?;
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What a read of a process's output gave.
pub enum Output {
    Data,
    Nothing,
    End,
}

impl Process {
    /// Reads once from an output into the buffer, which is emptied first; an ended output is closed.
    pub fn read_output(&mut self, stream: StreamKind, buffer: &mut Vec<u8>) -> Output {
        let Some(fd) = &self.outputs[stream as usize] else {
            return Output::End;
        };
        buffer.clear();
        loop {
            return match rustix::io::read(fd, rustix::buffer::spare_capacity(buffer)) {
                Ok(count) if count > 0 => Output::Data,
                Err(rustix::io::Errno::AGAIN) => Output::Nothing,
                Err(rustix::io::Errno::INTR) => continue,
                // A terminal whose last user has gone answers EIO.
                Ok(_) | Err(_) => {
                    self.outputs[stream as usize] = None;
                    Output::End
                }
            };
        }
    }

    /// Writes as much input as the process takes; closes it where it is all written and ended.
    pub fn write_input(&mut self) {
        let Some(fd) = &self.stdin else {
            self.input = Vec::new();
            return;
        };
        let mut done = 0;
        let mut broken = false;
        while done < self.input.len() {
            match nix::unistd::write(fd, &self.input[done..]) {
                Ok(count) => done += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        self.input.drain(..done);
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        // A terminal has no half-close: it stays open until the process ends.
        if broken || (self.input.is_empty() && self.input_ended && !self.tty) {
            self.stdin = None;
            self.input = Vec::new();
        }
    }

    pub fn pid(&self) -> Option<Pid> {
        match self.state {
            State::Running(pid) => Some(pid),
            _ => None,
        }
    }

    pub fn outputs_ended(&self) -> bool {
        self.outputs.iter().all(Option::is_none)
    }
}

/// Docker's code of a wait status; `None` where the process has not ended.
pub fn exit_code(status: WaitStatus) -> Option<(Pid, i32)> {
    match status {
        WaitStatus::Exited(pid, code) => Some((pid, code)),
        WaitStatus::Signaled(pid, signal, _) => Some((pid, 128 + signal as i32)),
        _ => None,
    }
}
