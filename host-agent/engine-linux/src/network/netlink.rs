//! The netlink protocol, as little of it as links, addresses, routes and nf_tables need: messages are built in one
//! buffer, sent in one call and answered by acknowledgements. Synchronous on purpose: the kernel answers within the
//! call, so there is nothing to wait for, and a socket belongs to the namespace it was opened in, whichever thread
//! uses it later.
//!
//! Formats: `linux/netlink.h`; netlink(7).

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    recv, send, setsockopt, socket, sockopt,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;

/// One message: header, fixed body, attributes.
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// `kind` is `nlmsg_type`; `NLM_F_REQUEST` is added to `flags`.
    pub(crate) fn new(kind: u16, flags: u16, body: &[u8]) -> Message {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(body);
        let mut message = Message { bytes };
        message.pad();
        message
    }

    /// `nlmsg_type`
    pub(crate) fn kind(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[4], self.bytes[5]])
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    /// Bytes that are no attribute: the fixed structure at the head of some nested ones.
    pub(crate) fn raw(&mut self, value: &[u8]) -> &mut Message {
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Message {
        let length = u16::try_from(value.len() + 4).expect("attributes are short");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Text with the closing zero that the kernel expects.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Message {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// A number in the host's byte order: rtnetlink's.
    pub(crate) fn number(&mut self, kind: u16, value: u32) -> &mut Message {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// A number in network byte order: nf_tables'.
    pub(crate) fn number_be(&mut self, kind: u16, value: u32) -> &mut Message {
        self.attribute(kind, &value.to_be_bytes())
    }

    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Message)) -> &mut Message {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).expect("nested attributes are short");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes[start + 2..start + 4].copy_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        self
    }

    fn finish(&mut self, sequence: u32, extra_flags: u16) {
        let length = u32::try_from(self.bytes.len()).expect("messages are short");
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | extra_flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

impl std::os::fd::AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A netlink socket; bound to the namespace of the thread that opened it.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn route() -> io::Result<Socket> {
        Socket::open(SockProtocol::NetlinkRoute)
    }

    pub(crate) fn netfilter() -> io::Result<Socket> {
        Socket::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> io::Result<Socket> {
        Socket::open_for(protocol, 0)
    }

    fn open_for(protocol: SockProtocol, groups: u32) -> io::Result<Socket> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        // A lost answer becomes an error, not a thread that hangs for ever.
        setsockopt(
            &fd,
            sockopt::ReceiveTimeout,
            &nix::sys::time::TimeVal::new(20, 0),
        )?;
        Ok(Socket {
            fd,
            sequence: 1,
            buffer: Vec::new(),
        })
    }

    /// A socket that is told of changes of links (`RTMGRP_LINK`).
    pub(crate) fn of_links() -> io::Result<Socket> {
        Socket::open_for(SockProtocol::NetlinkRoute, 1)
    }

    /// A socket that is told of changes of nf_tables (`NFNLGRP_NFTABLES`, the seventh group).
    pub(crate) fn of_tables() -> io::Result<Socket> {
        Socket::open_for(SockProtocol::NetlinkNetFilter, 1 << 6)
    }

    /// What has been told. Call it when there is something to read. Told too much at once, the kernel leaves some out and
    /// says so by an error.
    pub(crate) fn told(&mut self, mut each: impl FnMut(Told<'_>)) -> io::Result<()> {
        self.receive_any(|told, _| each(told))
    }

    /// By what the kernel tells this socket's changes from those of others ([`Told::author`]).
    pub(crate) fn name(&self) -> io::Result<u32> {
        let address: NetlinkAddr = getsockname(self.fd.as_raw_fd())?;
        Ok(address.pid())
    }

    /// Room for a large batch and its errors; a hint only.
    pub(crate) fn widen(&self) {
        let _ = setsockopt(&self.fd, sockopt::SndBufForce, &(8 << 20));
        let _ = setsockopt(&self.fd, sockopt::RcvBufForce, &(8 << 20));
    }

    /// Gives memory back until the next use.
    pub(crate) fn rest(&mut self) {
        self.buffer = Vec::new();
    }

    /// Sends all messages in one call and waits until each is acknowledged. The result has one entry per message:
    /// the kernel carries out those after a failed one too.
    pub(crate) fn requests(&mut self, messages: Vec<Message>) -> io::Result<Vec<io::Result<()>>> {
        let first = self.sequence;
        let count = messages.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        self.transmit(messages, |_| NLM_F_ACK)?;
        let mut answers: Vec<Option<io::Result<()>>> = (0..count).map(|_| None).collect();
        let mut open = count;
        while open > 0 {
            self.receive(|sequence, answer| {
                let index = sequence.wrapping_sub(first) as usize;
                if let (Answer::Acknowledged(result), Some(slot)) = (answer, answers.get_mut(index))
                    && slot.is_none()
                {
                    *slot = Some(result);
                    open -= 1;
                }
            })?;
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// As [`Socket::requests`]; the first failure is the error.
    pub(crate) fn execute(&mut self, messages: Vec<Message>) -> io::Result<()> {
        self.requests(messages)?.into_iter().collect()
    }

    /// Sends a batch that succeeds or fails as a whole (nf_tables). Only the message before the closing one is
    /// acknowledged; failures are told for any, before that.
    pub(crate) fn transaction(&mut self, messages: Vec<Message>) -> io::Result<()> {
        let first = self.sequence;
        let count = messages.len();
        let last = first.wrapping_add(count as u32).wrapping_sub(2);
        self.transmit(
            messages,
            |index| {
                if index + 2 == count { NLM_F_ACK } else { 0 }
            },
        )?;
        let mut outcome: Option<io::Error> = None;
        let mut done = false;
        while !done {
            self.receive(|sequence, answer| {
                if let Answer::Acknowledged(result) = answer {
                    // An error for the opening message is the only answer there will be.
                    done |= sequence == last || (sequence == first && result.is_err());
                    if let Err(error) = result
                        && outcome.is_none()
                        && sequence.wrapping_sub(first) < count as u32
                    {
                        outcome = Some(error);
                    }
                }
            })?;
        }
        outcome.map_or(Ok(()), Err)
    }

    /// Asks for a list (`dump`) or one thing, and hands the payload of every answer to `visit`.
    pub(crate) fn query(
        &mut self,
        message: Message,
        dump: bool,
        mut visit: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let expected = self.sequence;
        self.transmit(vec![message], |_| if dump { NLM_F_DUMP } else { NLM_F_ACK })?;
        let mut outcome = None;
        while outcome.is_none() {
            self.receive(|sequence, answer| {
                if sequence != expected {
                    return;
                }
                match answer {
                    Answer::Payload(payload) => visit(payload),
                    Answer::Acknowledged(result) => outcome = Some(result),
                    Answer::Done => outcome = Some(Ok(())),
                }
            })?;
        }
        outcome.unwrap_or(Ok(()))
    }

    fn transmit(&mut self, messages: Vec<Message>, flags: impl Fn(usize) -> u16) -> io::Result<()> {
        let mut bytes = Vec::new();
        for (index, mut message) in messages.into_iter().enumerate() {
            message.finish(self.sequence, flags(index));
            self.sequence = self.sequence.wrapping_add(1);
            bytes.extend_from_slice(&message.bytes);
        }
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        Ok(())
    }

    fn receive(&mut self, mut each: impl FnMut(u32, Answer<'_>)) -> io::Result<()> {
        self.receive_any(|Told { kind, payload, .. }, sequence| match kind {
            NLMSG_ERROR if payload.len() >= 4 => {
                let code = i32::from_ne_bytes([payload[0], payload[1], payload[2], payload[3]]);
                let result = match code {
                    0 => Ok(()),
                    code => Err(io::Error::from_raw_os_error(-code)),
                };
                each(sequence, Answer::Acknowledged(result));
            }
            NLMSG_DONE => each(sequence, Answer::Done),
            _ => each(sequence, Answer::Payload(payload)),
        })
    }

    /// One read: the messages in it with their sequence numbers.
    fn receive_any(&mut self, mut each: impl FnMut(Told<'_>, u32)) -> io::Result<()> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; 64 * 1024];
        }
        let length = loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => continue,
                other => break other?,
            }
        };
        let mut rest = &self.buffer[..length];
        while rest.len() >= HEADER {
            let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            if size < HEADER || size > rest.len() {
                return Err(io::Error::other("a netlink answer was cut off"));
            }
            let sequence = u32::from_ne_bytes([rest[8], rest[9], rest[10], rest[11]]);
            let told = Told {
                kind: u16::from_ne_bytes([rest[4], rest[5]]),
                author: u32::from_ne_bytes([rest[12], rest[13], rest[14], rest[15]]),
                payload: &rest[HEADER..size],
            };
            each(told, sequence);
            rest = &rest[size.next_multiple_of(4).min(rest.len())..];
        }
        Ok(())
    }
}

/// A message of the kernel's.
pub(crate) struct Told<'a> {
    /// `nlmsg_type`
    pub(crate) kind: u16,
    /// Of a change: the name of the socket that asked for it.
    pub(crate) author: u32,
    pub(crate) payload: &'a [u8],
}

enum Answer<'a> {
    Payload(&'a [u8]),
    Acknowledged(io::Result<()>),
    Done,
}

/// The attributes in `bytes`: type without its flags, and value.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.len() < 4 {
            return None;
        }
        let size = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        if size < 4 || size > rest.len() {
            return None;
        }
        let kind = u16::from_ne_bytes([rest[2], rest[3]]) & NLA_TYPE_MASK;
        let value = &rest[4..size];
        rest = &rest[size.next_multiple_of(4).min(rest.len())..];
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_what_the_kernel_headers_say() {
        let mut message = Message::new(16, NLM_F_CREATE, &[7; 16]);
        message
            .text(3, "eth0")
            .nest(18, |info| {
                info.text(1, "veth");
            })
            .number(4, 1500);
        message.finish(9, NLM_F_ACK);
        let bytes = &message.bytes;
        assert_eq!(
            u32::from_ne_bytes(bytes[0..4].try_into().unwrap()),
            bytes.len() as u32
        );
        assert_eq!(u16::from_ne_bytes(bytes[6..8].try_into().unwrap()), 0x405);
        let found: Vec<_> = attributes(&bytes[32..]).collect();
        assert_eq!(found[0], (3, &b"eth0\0"[..]));
        assert_eq!(found[1].0, 18);
        assert_eq!(attributes(found[1].1).next(), Some((1, &b"veth\0"[..])));
        assert_eq!(found[2], (4, &1500u32.to_ne_bytes()[..]));
    }

    #[test]
    fn broken_attributes_end_the_list() {
        assert_eq!(attributes(&[200, 0, 1, 0, 5]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[1]).count(), 0);
    }
}
