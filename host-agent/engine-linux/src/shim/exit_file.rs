//! The exit status of a container's first process, stored durably in the container's own folder before anybody is told.

use crate::files::make_durably;
use engine::runtime::ExitStatus;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path;

const NAME: &str = "exit.json";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u32,
    status: ExitStatus,
}

/// Durable when it returns.
pub fn write(folder: &Path, status: &ExitStatus) -> io::Result<()> {
    let bytes = serde_json::to_vec(&Envelope {
        version: VERSION,
        status: status.clone(),
    })?;
    make_durably(&folder.join(NAME), &bytes, 0o600)
}

/// The stored status; `None` where there is none.
pub fn read(folder: &Path) -> io::Result<Option<ExitStatus>> {
    let bytes = match fs::read(folder.join(NAME)) {
        // A power cut came between its name and its content.
        Ok(bytes) if bytes.is_empty() => return Ok(None),
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let envelope: Envelope = serde_json::from_slice(&bytes)?;
    if envelope.version > VERSION {
        return Err(io::Error::other(format!(
            "{NAME} has version {}, this program reads up to {VERSION}",
            envelope.version
        )));
    }
    Ok(Some(envelope.status))
}

/// Forgets the status of an earlier run.
pub fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::OffsetDateTime;

    #[test]
    fn what_is_written_is_read_back_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), None);
        let status = ExitStatus {
            code: 137,
            at: OffsetDateTime::now_utc(),
            oom_killed: true,
        };
        fs::write(folder.path().join(NAME), "").unwrap();
        assert_eq!(read(folder.path()).unwrap(), None, "a power cut");
        write(folder.path(), &status).unwrap();
        assert_eq!(read(folder.path()).unwrap(), Some(status));
        remove(folder.path()).unwrap();
        remove(folder.path()).unwrap();
        assert_eq!(read(folder.path()).unwrap(), None);
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join(NAME),
            r#"{"version":9,"status":{"code":0,"at":"2026-01-01T00:00:00Z","oom_killed":false}}"#,
        )
        .unwrap();
        assert!(
            read(folder.path())
                .unwrap_err()
                .to_string()
                .contains("version 9")
        );
    }
}
