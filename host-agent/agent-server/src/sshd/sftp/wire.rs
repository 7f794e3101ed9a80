//! Packets: numbers are big-endian, texts have a length in front.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The packet ended too early, or holds what cannot be.
#[derive(Debug)]
pub(super) struct Short;

pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Short)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Short> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn number(&mut self) -> Result<u32, Short> {
        let bytes = self.take(4)?.try_into().map_err(|_| Short)?;
        Ok(u32::from_be_bytes(bytes))
    }

    pub(super) fn long(&mut self) -> Result<u64, Short> {
        let bytes = self.take(8)?.try_into().map_err(|_| Short)?;
        Ok(u64::from_be_bytes(bytes))
    }

    pub(super) fn text(&mut self) -> Result<&'a [u8], Short> {
        let length = self.number()? as usize;
        self.take(length)
    }

    /// A path; the empty one is the current folder.
    pub(super) fn path(&mut self) -> Result<PathBuf, Short> {
        let text = self.text()?;
        if text.contains(&0) {
            return Err(Short);
        }
        let text = if text.is_empty() { b"." } else { text };
        Ok(PathBuf::from(OsStr::from_bytes(text)))
    }

    pub(super) fn handle(&mut self) -> Result<u32, Short> {
        let bytes = self.text()?.try_into().map_err(|_| Short)?;
        Ok(u32::from_be_bytes(bytes))
    }
}

pub(super) struct Packet {
    bytes: Vec<u8>,
}

impl Packet {
    pub(super) fn new(kind: u8) -> Packet {
        Packet {
            bytes: vec![0, 0, 0, 0, kind],
        }
    }

    pub(super) fn number(&mut self, value: u32) -> &mut Packet {
        self.bytes.extend(value.to_be_bytes());
        self
    }

    pub(super) fn long(&mut self, value: u64) -> &mut Packet {
        self.bytes.extend(value.to_be_bytes());
        self
    }

    pub(super) fn text(&mut self, value: &[u8]) -> &mut Packet {
        self.number(value.len() as u32);
        self.bytes.extend(value);
        self
    }

    /// The packet with its length in front.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = (self.bytes.len() - 4) as u32;
        self.bytes[..4].copy_from_slice(&length.to_be_bytes());
        self.bytes
    }
}
