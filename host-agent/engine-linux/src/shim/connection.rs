//! One connection of a shim: frames in, frames out, never blocking.

use super::protocol::{self, HEADER, Kind};
use engine::id::ExecId;
use nix::errno::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Its greeting has not come yet.
    Unknown,
    Control,
    Stream(Option<ExecId>),
}

pub struct Connection {
    socket: OwnedFd,
    pub purpose: Purpose,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// Of `outgoing`, what is already written.
    sent: usize,
}

/// What one call to [`Connection::read`] found.
pub enum Read {
    More,
    End,
}

impl Connection {
    /// Takes over a connected socket.
    pub fn new(socket: OwnedFd, purpose: Purpose) -> io::Result<Connection> {
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(socket.as_raw_fd(), nix::fcntl::FcntlArg::F_SETFL(flags))?;
        Ok(Connection {
            socket,
            purpose,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
        })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Bytes not yet written.
    pub fn backlog(&self) -> usize {
        self.outgoing.len() - self.sent
    }

    /// Reads what is there, at most a buffer full.
    pub fn read(&mut self) -> io::Result<Read> {
        let mut buffer = [0u8; 16 << 10];
        match nix::unistd::read(self.socket.as_raw_fd(), &mut buffer) {
            Ok(0) => Ok(Read::End),
            Ok(count) => {
                self.incoming.extend_from_slice(&buffer[..count]);
                Ok(Read::More)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Read::More),
            Err(error) => Err(error.into()),
        }
    }

    /// The next whole frame of what was read.
    pub fn next_frame(&mut self) -> io::Result<Option<(Kind, Vec<u8>)>> {
        let Some(head) = self.incoming.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let Some((kind, length)) = protocol::parse_header(*head) else {
            return Err(io::Error::other(
                "the peer does not speak the shim's protocol",
            ));
        };
        if self.incoming.len() < HEADER + length {
            return Ok(None);
        }
        let payload = self.incoming[HEADER..HEADER + length].to_vec();
        self.incoming.drain(..HEADER + length);
        if self.incoming.is_empty() {
            self.incoming = Vec::new();
        }
        Ok(Some((kind, payload)))
    }

    /// Queues a frame and writes what the socket takes. An error shows at the next read.
    pub fn send(&mut self, kind: Kind, payload: &[u8]) {
        self.outgoing
            .extend_from_slice(&protocol::header(kind, payload.len()));
        self.outgoing.extend_from_slice(payload);
        self.flush();
    }

    pub fn flush(&mut self) {
        while self.backlog() > 0 {
            match nix::unistd::write(&self.socket, &self.outgoing[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => {
                    // The peer is gone; the read side will say so.
                    self.sent = self.outgoing.len();
                }
            }
        }
        if self.backlog() == 0 {
            self.outgoing = Vec::new();
            self.sent = 0;
        } else if self.sent > 64 << 10 {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
    }
}
