//! Fills the seed that tells a guest who it is; the file names are the guest contract's.

use crate::driver::SeedFiles;
use crate::engine_settings::DaemonJson;
use certs::Issued;
use guest_contract::seed;
use std::time::{SystemTime, UNIX_EPOCH};

/// What goes into a seed.
pub struct SeedContents<'a> {
    pub hostname: &'a str,
    pub ssh_user: &'a str,
    /// PEM of the authority whose clients may use the API.
    pub authority: &'a str,
    pub server: &'a Issued,
    /// One public key a line.
    pub authorized_keys: &'a str,
    pub daemon: &'a DaemonJson,
    /// PEM; empty where this computer trusts nobody in particular.
    pub company_authorities: Vec<u8>,
}

/// A seed as of now: the guest never sets its clock before it.
pub fn fill(contents: &SeedContents<'_>) -> SeedFiles {
    let unix_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64);
    let seed = seed::Seed {
        version: seed::SEED_VERSION,
        hostname: contents.hostname.to_owned(),
        unix_ms,
        ssh_user: contents.ssh_user.to_owned(),
    };
    let mut files = vec![
        (
            seed::SEED_JSON.into(),
            serde_json::to_vec(&seed).expect("a seed is plain data"),
        ),
        (seed::CA_CERT.into(), contents.authority.as_bytes().to_vec()),
        (
            seed::SERVER_CERT.into(),
            contents.server.certificate.as_bytes().to_vec(),
        ),
        (
            seed::SERVER_KEY.into(),
            contents.server.key.expose().as_bytes().to_vec(),
        ),
        (
            seed::AUTHORIZED_KEYS.into(),
            contents.authorized_keys.as_bytes().to_vec(),
        ),
        (
            seed::DAEMON_JSON.into(),
            serde_json::to_vec(contents.daemon).expect("settings are plain data"),
        ),
    ];
    if !contents.company_authorities.is_empty() {
        files.push((
            seed::COMPANY_AUTHORITIES.into(),
            contents.company_authorities.clone(),
        ));
    }
    SeedFiles { files }
}
