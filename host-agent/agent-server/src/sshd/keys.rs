//! The server's own key, and the keys that may log in.

use anyhow::Context;
use engine_linux::files::write_durably;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::{PrivateKey, PublicKey};
use std::io;
use std::path::Path;

/// Reads the host key, or makes an Ed25519 one (mode 0600).
pub(super) fn host_key(path: &Path) -> anyhow::Result<PrivateKey> {
    match std::fs::read_to_string(path) {
        Ok(text) => PrivateKey::from_openssh(&text).with_context(|| {
            format!(
                "read the host key {}; remove it to have a new one made",
                path.display()
            )
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed)
                .map_err(|error| anyhow::anyhow!("get random numbers: {error}"))?;
            let keypair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&seed));
            let key = PrivateKey::new(keypair, "berth host key").context("make a host key")?;
            let text = key
                .to_openssh(LineEnding::LF)
                .context("encode a host key")?;
            write_durably(path, text.as_bytes(), 0o600)
                .with_context(|| format!("write the host key {}", path.display()))?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("read the host key {}", path.display())),
    }
}

/// The keys of an `authorized_keys` text. A line with options (`from=`, `command=`) is left out with a warning: to let its
/// key in without the limits it asks for would be wrong.
pub(super) fn authorized(text: &str) -> Vec<PublicKey> {
    let mut keys = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match PublicKey::from_openssh(line) {
            Ok(key) => keys.push(key),
            Err(error) => tracing::warn!(
                line = number + 1,
                %error,
                "a line of the authorized keys is not a plain public key; it is left out"
            ),
        }
    }
    keys
}

/// Whether `key` is one of those in the file, as it is now.
pub(super) fn is_authorized(file: &Path, key: &PublicKey) -> bool {
    match std::fs::read_to_string(file) {
        Ok(text) => authorized(&text)
            .iter()
            .any(|allowed| allowed.key_data() == key.key_data()),
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "cannot read the authorized keys");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_host_key_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host_key");
        let made = host_key(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = host_key(&path).unwrap();
        assert_eq!(made.public_key().key_data(), again.public_key().key_data());
        std::fs::write(&path, "nonsense").unwrap();
        let error = format!("{:#}", host_key(&path).unwrap_err());
        assert!(error.contains("remove it"), "{error}");
    }

    #[test]
    fn lines_that_are_no_plain_key_let_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let key = host_key(&folder.path().join("key")).unwrap();
        let line = key.public_key().to_openssh().unwrap();
        let text = format!("# mine\n\n{line}\nfrom=\"10.0.0.1\" {line}\nssh-ed25519 nonsense\n");
        assert_eq!(authorized(&text).len(), 1);
        let file = folder.path().join("authorized_keys");
        assert!(!is_authorized(&file, key.public_key()));
        std::fs::write(&file, text).unwrap();
        assert!(is_authorized(&file, key.public_key()));
    }
}
