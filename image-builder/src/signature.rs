//! The first link of the chain: an InRelease file is believed if one of its signatures was made by a key of the
//! keyring that is neither expired nor revoked. rPGP checks the mathematics; when a key may be used is decided here.

use pgp::composed::{CleartextSignedMessage, Deserializable, SignedPublicKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::Signature;
use pgp::types::{KeyDetails, Tag, Timestamp, VerifyingKey};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Debian's own public keys; see keys/README.md.
const BUILT_IN_KEYS: &[&[u8]] = &[
    include_bytes!("../keys/debian-archive-trixie-automatic.gpg"),
    include_bytes!("../keys/debian-archive-trixie-stable.gpg"),
    include_bytes!("../keys/debian-archive-bookworm-automatic.gpg"),
    include_bytes!("../keys/debian-archive-bookworm-stable.gpg"),
];

/// Why a signed file is not believed.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    #[error("cannot read the keyring {path}", path = .path.display())]
    ReadKeyring {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the keyring {path} holds no usable OpenPGP key", path = .path.display())]
    EmptyKeyring {
        path: PathBuf,
        source: Option<Box<pgp::errors::Error>>,
    },
    #[error("it is not a clear-signed OpenPGP message")]
    NotSigned(#[source] Box<pgp::errors::Error>),
    #[error("it was signed by keys that the keyring {keyring} does not have: {issuers}")]
    UnknownKey { keyring: String, issuers: String },
    #[error("the key {fingerprint} that signed it {why}")]
    UnusableKey {
        fingerprint: String,
        why: &'static str,
    },
    #[error("the signature by {fingerprint} is wrong: the file was changed after it was signed")]
    Wrong {
        fingerprint: String,
        source: Box<pgp::errors::Error>,
    },
    #[error("the signature by {fingerprint} {why}")]
    UnusableSignature {
        fingerprint: String,
        why: &'static str,
    },
}

/// Keys that may sign.
#[derive(Debug)]
pub struct Keyring {
    keys: Vec<SignedPublicKey>,
    name: String,
}

impl Keyring {
    /// Reads a keyring file, binary or armored.
    pub fn read(path: &Path) -> Result<Keyring, SignatureError> {
        let bytes = std::fs::read(path).map_err(|source| SignatureError::ReadKeyring {
            path: path.to_owned(),
            source,
        })?;
        let empty = |source| SignatureError::EmptyKeyring {
            path: path.to_owned(),
            source,
        };
        let keys = read_keys(&bytes).map_err(|error| empty(Some(Box::new(error))))?;
        if keys.is_empty() {
            return Err(empty(None));
        }
        Ok(Keyring {
            keys,
            name: path.display().to_string(),
        })
    }

    /// Debian's keys as they were compiled in.
    pub fn built_in() -> Keyring {
        let keys = BUILT_IN_KEYS
            .iter()
            .flat_map(|bytes| read_keys(bytes).expect("the compiled-in keys were tested"))
            .collect();
        Keyring {
            keys,
            name: "built into this program".into(),
        }
    }

    /// Checks a clear-signed file at the time `now` and returns the text that was signed, with `\n` line ends.
    /// Nothing outside the signed part is returned.
    pub fn verify(&self, signed: &[u8], now: SystemTime) -> Result<String, SignatureError> {
        let (message, _) = CleartextSignedMessage::from_armor(signed)
            .map_err(|error| SignatureError::NotSigned(Box::new(error)))?;
        let text = message.signed_text();
        let now = Timestamp::try_from(now).unwrap_or_default();
        let mut failure = None;
        let mut issuers = Vec::new();
        for signature in message.signatures() {
            issuers.extend(signature.issuer_fingerprint().iter().map(|f| f.to_string()));
            match self.verify_one(signature, text.as_bytes(), now) {
                Some(Ok(())) => return Ok(text.replace("\r\n", "\n")),
                Some(Err(error)) => failure = Some(error),
                None => {}
            }
        }
        Err(failure.unwrap_or_else(|| SignatureError::UnknownKey {
            keyring: self.name.clone(),
            issuers: issuers.join(", "),
        }))
    }

    /// `None` if no key of the ring claims to have made this signature.
    fn verify_one(
        &self,
        signature: &Signature,
        text: &[u8],
        now: Timestamp,
    ) -> Option<Result<(), SignatureError>> {
        for key in &self.keys {
            let primary = &key.primary_key;
            if names(signature, primary) {
                return Some(
                    check_primary(key, now)
                        .and_then(|()| check_data(signature, primary, text, now)),
                );
            }
            for subkey in &key.public_subkeys {
                if names(signature, &subkey.key) {
                    return Some(
                        check_primary(key, now)
                            .and_then(|()| check_subkey(key, subkey, now))
                            .and_then(|()| check_data(signature, &subkey.key, text, now)),
                    );
                }
            }
        }
        None
    }
}

fn read_keys(bytes: &[u8]) -> Result<Vec<SignedPublicKey>, pgp::errors::Error> {
    if bytes.starts_with(b"-----BEGIN") {
        SignedPublicKey::from_armor_many(bytes)?.0.collect()
    } else {
        SignedPublicKey::from_bytes_many(bytes)?.collect()
    }
}

/// Does the signature say that this key made it? Fingerprints decide; key ids only where there is no fingerprint.
fn names(signature: &Signature, key: &impl KeyDetails) -> bool {
    let fingerprints = signature.issuer_fingerprint();
    if fingerprints.is_empty() {
        signature.issuer_key_id().contains(&&key.legacy_key_id())
    } else {
        fingerprints.contains(&&key.fingerprint())
    }
}

/// A primary key may be used if it is not revoked and its newest valid self-signatures set no expiry before `now`.
fn check_primary(key: &SignedPublicKey, now: Timestamp) -> Result<(), SignatureError> {
    let primary = &key.primary_key;
    let unusable = |why| SignatureError::UnusableKey {
        fingerprint: primary.fingerprint().to_string(),
        why,
    };
    let revoked = key
        .details
        .revocation_signatures
        .iter()
        .any(|signature| signature.verify_key(primary).is_ok());
    if revoked {
        return Err(unusable("was revoked"));
    }
    let certifications = key.details.users.iter().flat_map(|user| {
        user.signatures.iter().filter(|signature| {
            signature.is_certification()
                && names(signature, primary)
                && signature
                    .verify_certification(primary, Tag::UserId, &user.id)
                    .is_ok()
        })
    });
    let direct = key
        .details
        .direct_signatures
        .iter()
        .filter(|signature| signature.verify_key(primary).is_ok());
    // Each kind by itself: Debian's keys have young direct signatures that only name who may revoke them.
    let newest = [
        certifications.max_by_key(|signature| signature.created()),
        direct.max_by_key(|signature| signature.created()),
    ];
    let mut newest = newest.into_iter().flatten().peekable();
    if newest.peek().is_none() {
        return Err(unusable("has no valid signature of its own"));
    }
    if newest.any(|signature| is_expired(primary.created_at(), signature, now)) {
        return Err(unusable("has expired"));
    }
    Ok(())
}

/// A subkey may sign if its primary key says so, it says so itself (the back signature), and it is neither revoked nor
/// expired.
fn check_subkey(
    key: &SignedPublicKey,
    subkey: &pgp::composed::SignedPublicSubKey,
    now: Timestamp,
) -> Result<(), SignatureError> {
    use pgp::packet::SignatureType;
    let unusable = |why| SignatureError::UnusableKey {
        fingerprint: subkey.key.fingerprint().to_string(),
        why,
    };
    let valid: Vec<_> = subkey
        .signatures
        .iter()
        .filter(|signature| {
            signature
                .verify_subkey_binding(&key.primary_key, &subkey.key)
                .is_ok()
        })
        .collect();
    if valid
        .iter()
        .any(|signature| signature.typ() == Some(SignatureType::SubkeyRevocation))
    {
        return Err(unusable("was revoked"));
    }
    let newest = valid
        .iter()
        .max_by_key(|signature| signature.created())
        .ok_or_else(|| unusable("is not bound to its primary key"))?;
    let may_sign = newest.key_flags().sign()
        && newest.embedded_signature().is_some_and(|back| {
            back.verify_primary_key_binding(&subkey.key, &key.primary_key)
                .is_ok()
        });
    if !may_sign {
        return Err(unusable("may not sign files"));
    }
    if is_expired(subkey.key.created_at(), newest, now) {
        return Err(unusable("has expired"));
    }
    Ok(())
}

fn is_expired(created: Timestamp, self_signature: &Signature, now: Timestamp) -> bool {
    match self_signature
        .key_expiration_time()
        .map(|time| time.as_secs())
    {
        None | Some(0) => false,
        Some(seconds) => u64::from(created.as_secs()) + u64::from(seconds) <= now.as_secs().into(),
    }
}

fn check_data(
    signature: &Signature,
    key: &impl VerifyingKey,
    text: &[u8],
    now: Timestamp,
) -> Result<(), SignatureError> {
    let fingerprint = key.fingerprint().to_string();
    let is_strong = matches!(
        signature.hash_alg(),
        Some(HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512)
    );
    if !is_strong {
        return Err(SignatureError::UnusableSignature {
            fingerprint,
            why: "uses a digest that is too weak",
        });
    }
    if let (Some(created), Some(lifetime)) =
        (signature.created(), signature.signature_expiration_time())
    {
        let end = u64::from(created.as_secs()) + u64::from(lifetime.as_secs());
        if lifetime.as_secs() != 0 && end <= now.as_secs().into() {
            return Err(SignatureError::UnusableSignature {
                fingerprint,
                why: "has expired",
            });
        }
    }
    signature
        .verify(key, text)
        .map_err(|error| SignatureError::Wrong {
            fingerprint,
            source: Box::new(error),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_keys_are_debians() {
        let keyring = Keyring::built_in();
        let fingerprints: Vec<_> = keyring
            .keys
            .iter()
            .map(|key| key.primary_key.fingerprint().to_string().to_uppercase())
            .collect();
        let table = include_str!("../keys/README.md");
        assert_eq!(fingerprints.len(), 4);
        for fingerprint in fingerprints {
            assert!(table.contains(&fingerprint), "{fingerprint}");
        }
        for key in &keyring.keys {
            check_primary(key, Timestamp::from_secs(1_790_000_000)).unwrap();
            let error = check_primary(key, Timestamp::from_secs(u32::MAX)).unwrap_err();
            assert!(error.to_string().contains("expired"), "{error}");
        }
    }

    #[test]
    fn unsigned_text_is_refused() {
        let error = Keyring::built_in()
            .verify(b"Origin: Debian\n", SystemTime::now())
            .unwrap_err();
        assert!(matches!(error, SignatureError::NotSigned(_)), "{error}");
    }
}
