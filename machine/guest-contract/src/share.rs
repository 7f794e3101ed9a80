//! Folders of the desktop inside a guest. Each has a virtio-serial port; over it the guest's kernel speaks FUSE with the
//! keeper, byte for byte as `/dev/fuse` gives and takes it: `init` only carries messages between the two. Every message
//! begins with its own length (u32), and so do the three words below, which FUSE itself cannot say.

use serde::{Deserialize, Serialize};

/// Name in the seed of [`Shares`] as JSON; absent when nothing is shared.
pub const SHARES_JSON: &str = "shares.json";
/// The version of [`Shares`] that this build writes.
pub const SHARES_VERSION: u32 = 1;
/// A virtio-serial controller has 31 ports, one is the control port.
pub const MOST_SHARES: usize = 16;
/// Bytes of one write, at most. Larger ones make fewer round trips; each costs memory at both ends.
pub const MOST_DATA: usize = 256 * 1024;
/// No message of either side is longer: data, its headers, and two names.
pub const LONGEST_MESSAGE: usize = MOST_DATA + 16 * 1024;

/// The virtio-serial port (`virtserialport,name=`) of one share.
pub fn port_name(index: usize) -> String {
    format!("dev.berth.share.{index}")
}

/// What the desktop shares with the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    pub version: u32,
    /// In the order of their ports.
    pub folders: Vec<Share>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Absolute, in the guest.
    pub path: String,
    pub read_only: bool,
}

/// What desktop and guest say between FUSE's messages: a message of [`Word::LENGTH`] bytes. A machine whose memory is
/// written to a file must have no request or answer on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Desktop: take no more requests from the kernel. Guest: the last one is before this word.
    Hold,
    /// Desktop: say so when you have got everything up to here. Guest: I have.
    Sync,
    /// Desktop: go on.
    Go,
}

impl Word {
    /// Shorter than every message of FUSE.
    pub const LENGTH: usize = 8;

    pub fn to_bytes(self) -> [u8; Word::LENGTH] {
        let number: u32 = match self {
            Word::Hold => 1,
            Word::Sync => 2,
            Word::Go => 3,
        };
        let mut bytes = [0; Word::LENGTH];
        bytes[..4].copy_from_slice(&(Word::LENGTH as u32).to_le_bytes());
        bytes[4..].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    /// `None` for a message of FUSE, or a word of a later version.
    pub fn from_bytes(message: &[u8]) -> Option<Word> {
        [Word::Hold, Word::Sync, Word::Go]
            .into_iter()
            .find(|word| message == word.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_no_messages_of_fuse() {
        for word in [Word::Hold, Word::Sync, Word::Go] {
            assert_eq!(Word::from_bytes(&word.to_bytes()), Some(word));
        }
        // The shortest answer: a header of 16 bytes.
        assert_eq!(Word::from_bytes(&[16; 16]), None);
        assert_eq!(Word::from_bytes(&[8, 0, 0, 0, 9, 0, 0, 0]), None);
    }
}
