//! The seed: a tar stream on a small read-only disk. It tells the guest who it is. File names inside the tar are the
//! constants below; unknown names are ignored by the guest so that a newer desktop works with an older image.

use serde::{Deserialize, Serialize};

/// `Seed` as JSON.
pub const SEED_JSON: &str = "seed.json";
/// PEM certificate of the authority whose client certificates may use the API.
pub const CA_CERT: &str = "ca.pem";
/// PEM certificate the API shows.
pub const SERVER_CERT: &str = "server.pem";
/// PEM key of [`SERVER_CERT`]; 0600.
pub const SERVER_KEY: &str = "server-key.pem";
/// Public keys that may log in through sshd, one a line, OpenSSH's format.
pub const AUTHORIZED_KEYS: &str = "authorized_keys";
/// The engine's configuration: dockerd's `daemon.json` keys.
pub const DAEMON_JSON: &str = "daemon.json";

/// PEM certificates that the desktop trusts beyond the usual ones: whoever fetches something in the guest trusts them too.
pub const COMPANY_AUTHORITIES: &str = "company-authorities.pem";

/// Largest seed a guest reads, in bytes.
pub const MAX_SEED_BYTES: u64 = 4 * 1024 * 1024;

/// What `seed.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// Version of this structure; the guest refuses a newer one.
    pub version: u32,
    /// The machine's name, used as hostname.
    pub hostname: String,
    /// Unix time in milliseconds when the desktop wrote the seed: the guest's clock is never set before it.
    pub unix_ms: u64,
    /// The user name sshd accepts.
    pub ssh_user: String,
}

/// The version of [`Seed`] that this build writes.
pub const SEED_VERSION: u32 = 1;
