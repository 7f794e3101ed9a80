//! What is kept on disk: JSON in a versioned envelope, `{"version": 1, "record": {...}}`.
//!
//! A record of a newer version is refused and left alone (somebody went back to an older agent); an unreadable one is the
//! caller's to set aside. Stored structs are called `...Record` and are neither the domain's nor the wire's.

use crate::error::{Class, Classify};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Serialize)]
struct EnvelopeOut<'a, T> {
    version: u32,
    record: &'a T,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

#[derive(Deserialize)]
struct EnvelopeIn<T> {
    record: T,
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(
        "it was written by a newer version of the agent (format {found}, this one knows up to {known}); run that version"
    )]
    Newer { found: u32, known: u32 },
    #[error("it is damaged")]
    Damaged(#[source] serde_json::Error),
}

impl Classify for RecordError {
    fn class(&self) -> Class {
        match self {
            RecordError::Newer { .. } | RecordError::Damaged(_) => Class::Internal,
        }
    }
}

/// Puts a record into its envelope. `version` is that of the record's own format.
pub fn encode<T: Serialize>(version: u32, record: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(&EnvelopeOut { version, record })
        .expect("records are plain data with text keys");
    bytes.push(b'\n');
    bytes
}

/// Takes a record out of its envelope. `known` is the newest version this build reads; older ones must still
/// deserialise into `T` (new fields get `#[serde(default)]`).
pub fn decode<T: DeserializeOwned>(known: u32, bytes: &[u8]) -> Result<T, RecordError> {
    let VersionOnly { version } = serde_json::from_slice(bytes).map_err(RecordError::Damaged)?;
    if version > known {
        return Err(RecordError::Newer {
            found: version,
            known,
        });
    }
    let EnvelopeIn { record } = serde_json::from_slice(bytes).map_err(RecordError::Damaged)?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_newer_or_damaged_one_does_not() {
        let bytes = encode(1, &vec!["a"]);
        assert_eq!(bytes, b"{\"version\":1,\"record\":[\"a\"]}\n");
        assert_eq!(decode::<Vec<String>>(1, &bytes).unwrap(), ["a"]);
        let newer = encode(2, &7);
        assert!(matches!(
            decode::<Vec<String>>(1, &newer),
            Err(RecordError::Newer { found: 2, known: 1 })
        ));
        assert!(matches!(
            decode::<Vec<String>>(1, &bytes[..10]),
            Err(RecordError::Damaged(_))
        ));
    }
}
