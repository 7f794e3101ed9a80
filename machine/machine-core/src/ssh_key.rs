//! One ed25519 key pair per machine, in OpenSSH's own file format (`openssh-key-v1`, described in OpenSSH's
//! PROTOCOL.key): `ssh` reads it with `-i`. Written here because it is forty lines, and the crate that does it is only to be
//! had as a pre-release.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair};

const KEY_TYPE: &[u8] = b"ssh-ed25519";

/// A key pair as text.
pub struct SshKey {
    /// The private file.
    pub private: String,
    /// `ssh-ed25519 AAAA… comment`, one line with its end.
    pub public: String,
}

/// The system has no random numbers to give.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an ssh key: the system gives no random numbers")]
pub struct NoRandomNumbers;

/// Makes a new pair. `comment` must be one line.
pub fn generate(comment: &str) -> Result<SshKey, NoRandomNumbers> {
    let random = SystemRandom::new();
    let mut seed = [0u8; 32];
    let mut check = [0u8; 4];
    random.fill(&mut seed).map_err(|_| NoRandomNumbers)?;
    random.fill(&mut check).map_err(|_| NoRandomNumbers)?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| NoRandomNumbers)?;
    let public = pair.public_key().as_ref();

    let mut public_blob = Vec::new();
    put(&mut public_blob, KEY_TYPE);
    put(&mut public_blob, public);

    let mut secret = Vec::new();
    secret.extend_from_slice(&check);
    secret.extend_from_slice(&check);
    put(&mut secret, KEY_TYPE);
    put(&mut secret, public);
    put(&mut secret, &[&seed[..], public].concat());
    put(&mut secret, comment.as_bytes());
    // Padded with 1, 2, 3 ... to the block size of the cipher, which is 8 for "none".
    let mut padding = 1;
    while secret.len() % 8 != 0 {
        secret.push(padding);
        padding += 1;
    }

    let mut file = b"openssh-key-v1\0".to_vec();
    put(&mut file, b"none");
    put(&mut file, b"none");
    put(&mut file, b"");
    file.extend_from_slice(&1u32.to_be_bytes());
    put(&mut file, &public_blob);
    put(&mut file, &secret);

    let encoded = STANDARD.encode(&file);
    let mut private = String::from("-----BEGIN OPENSSH PRIVATE KEY-----\n");
    for line in encoded.as_bytes().chunks(70) {
        private.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        private.push('\n');
    }
    private.push_str("-----END OPENSSH PRIVATE KEY-----\n");
    Ok(SshKey {
        private,
        public: format!("ssh-ed25519 {} {comment}\n", STANDARD.encode(&public_blob)),
    })
}

/// A string of the ssh wire format: its length, then the bytes.
fn put(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    buffer.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    /// OpenSSH itself reads the private file and finds the same public key.
    #[test]
    fn openssh_reads_the_key() {
        let key = super::generate("machine dev").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("id_ed25519");
        crate::store::atomic::write(&file, key.private.as_bytes()).unwrap();
        let output = match std::process::Command::new("ssh-keygen")
            .arg("-y")
            .arg("-f")
            .arg(&file)
            .output()
        {
            Ok(output) => output,
            Err(error) => {
                println!("skipped: cannot run ssh-keygen: {error}");
                return;
            }
        };
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(String::from_utf8_lossy(&output.stdout), key.public);
    }
}
