//! The name of every file in a store, in one place. The layout is docker-machine's, so that its scripts, GitLab Runner
//! and existing stores go on working:
//!
//! ```text
//! <store>/.lock                     held while the authority is made and while addresses are chosen
//! <store>/certs/                    ca.pem ca-key.pem cert.pem key.pem: one authority, one client for all machines
//! <store>/cache/                    guest images
//! <store>/machines/.<name>.lock     held by the verb that changes a machine; gone when no verb runs
//! <store>/machines/<name>/          config.json, ca.pem cert.pem key.pem (DOCKER_CERT_PATH), server.pem
//!                                   server-key.pem, id_ed25519 id_ed25519.pub, known_hosts, the driver's files
//! ```

pub const STORE_LOCK: &str = ".lock";
pub const CERTS: &str = "certs";
pub const CACHE: &str = "cache";
pub const MACHINES: &str = "machines";
pub const CONFIG: &str = "config.json";
/// Begins the name of a file that is being written; what is left of a crash may be deleted.
pub const TEMPORARY_PREFIX: &str = ".writing-";

pub use certs::files::{
    CA as CA_CERT, CA_KEY, CLIENT as CLIENT_CERT, CLIENT_KEY, SERVER as SERVER_CERT, SERVER_KEY,
};

pub const SSH_KEY: &str = "id_ed25519";
pub const SSH_PUBLIC_KEY: &str = "id_ed25519.pub";
/// A driver's secrets, beside the config.json that refers to them.
pub const SECRETS: &str = "secrets.json";
/// Folder of a machine's snapshots, each a folder with copies of its disks.
pub const SNAPSHOTS: &str = "snapshots";
/// What a snapshot is, inside its folder; written last.
pub const SNAPSHOT: &str = "snapshot.json";
pub const KNOWN_HOSTS: &str = "known_hosts";

/// File name of the lock of one machine, inside [`MACHINES`]. Machine names cannot begin with a dot.
pub fn machine_lock(name: &str) -> String {
    format!(".{name}.lock")
}
