//! What the engine knows of itself and its host: the unchanging part of `/info` and `/version`, and the prebuilt answers.

use super::config::Config;
use bytes::Bytes;
use engine::clock::rfc3339;
use engine::runtime::RuntimeFacts;
use engine_api::ApiVersion;
use engine_linux::files::{self, ENGINE_ID};
use engine_linux::host::HostFacts;
use engine_linux::runtime::BUILT_IN as BUILT_IN_RUNTIME;
use serde_json::json;
use std::io;
use std::path::Path;
use time::OffsetDateTime;

/// This engine's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Facts that stay while the engine runs.
#[derive(Debug)]
pub struct System {
    /// Identity of the engine, kept under the data root.
    pub id: String,
    pub config: Config,
    pub host: HostFacts,
    pub runtime: RuntimeFacts,
    /// The answer to `/version`, ready to send.
    pub version: Bytes,
}

impl System {
    pub fn new(id: String, config: Config, host: HostFacts, runtime: RuntimeFacts) -> System {
        let version = version_answer(&host, config.experimental);
        System {
            id,
            config,
            host,
            runtime,
            version,
        }
    }
}

/// The name of the runtime of containers that name none. The built-in one is called as clients expect it, unless a program
/// was configured under that name.
pub fn default_runtime(config: &Config) -> &str {
    const EXPECTED: &str = "runc";
    match &config.default_runtime {
        Some(name) => name,
        None if config.runtimes.contains_key(EXPECTED) => BUILT_IN_RUNTIME,
        None => EXPECTED,
    }
}

/// Docker shows the compiler here; ours is another.
fn compiler() -> String {
    format!("rust{}", env!("CARGO_PKG_RUST_VERSION"))
}

/// As the docker command reads it; empty where nobody said it. `seconds` since 1970.
fn build_time(seconds: &str) -> String {
    let at = seconds.parse().ok();
    let at = at.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    at.map(rfc3339).unwrap_or_default()
}

fn version_answer(host: &HostFacts, experimental: bool) -> Bytes {
    // Set by `cargo xtask agent`.
    let commit = option_env!("BERTH_COMMIT").unwrap_or("unknown");
    let built = build_time(option_env!("BERTH_BUILD_TIME").unwrap_or_default());
    let newest = ApiVersion::MAXIMUM.to_string();
    let oldest = ApiVersion::MINIMUM.to_string();
    let mut answer = json!({
        "Platform": { "Name": "Berth" },
        "Components": [{
            "Name": "Engine",
            "Version": VERSION,
            "Details": {
                "ApiVersion": newest,
                "Arch": host.architecture,
                "BuildTime": built,
                "Experimental": experimental.to_string(),
                "GitCommit": commit,
                "GoVersion": compiler(),
                "KernelVersion": host.kernel_version,
                "MinAPIVersion": oldest,
                "Os": "linux",
            },
        }],
        "Version": VERSION,
        "ApiVersion": newest,
        "MinAPIVersion": oldest,
        "GitCommit": commit,
        "GoVersion": compiler(),
        "Os": "linux",
        "Arch": host.architecture,
        "KernelVersion": host.kernel_version,
        "BuildTime": built,
    });
    if experimental {
        answer["Experimental"] = true.into();
    }
    Bytes::from(format!("{answer}\n"))
}

/// The engine's identity: made at the first start, a UUID as dockerd's.
pub fn engine_id(data_root: &Path) -> io::Result<String> {
    let path = data_root.join(ENGINE_ID);
    match std::fs::read_to_string(&path) {
        Ok(text) if is_uuid(text.trim()) => return Ok(text.trim().to_owned()),
        Ok(_) => {
            tracing::warn!(path = %path.display(), "the engine's id is damaged; it gets a new one")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let id = random_uuid()?;
    files::write_durably(&path, format!("{id}\n").as_bytes(), 0o600)?;
    Ok(id)
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [8, 4, 4, 4, 12]
        && parts
            .iter()
            .all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Version 4, variant 1 (RFC 9562).
fn random_uuid() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_build_is_dockers_or_none() {
        assert_eq!(build_time("1748606834"), "2025-05-30T12:07:14Z");
        assert_eq!(build_time(""), "");
        assert_eq!(build_time("yesterday"), "");
    }

    #[test]
    fn the_id_stays_and_a_damaged_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let first = engine_id(folder.path()).unwrap();
        assert!(is_uuid(&first), "{first}");
        assert_eq!(engine_id(folder.path()).unwrap(), first);
        std::fs::write(folder.path().join(ENGINE_ID), "x").unwrap();
        assert_ne!(engine_id(folder.path()).unwrap(), first);
    }
}
