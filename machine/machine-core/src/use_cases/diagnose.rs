//! What somebody who helps needs to see of a machine, in one file without secrets: no keys, no tokens, no seed.

use super::Machines;
use crate::MachineError;
use crate::error::chain;
use crate::secrets;
use crate::store::{StoreError, layout};
use std::io::{self, Read, Seek};
use std::path::Path;
use std::time::Duration;

/// So much of each log's end.
const LOG_BYTES: u64 = 256 * 1024;
const ASK_WITHIN: Duration = Duration::from_secs(10);

impl Machines {
    /// Writes a tar to `path`, which must not exist. Whatever cannot be found out is a line in it, never a failure.
    pub fn diagnose(&self, name: &str, path: &Path) -> Result<(), MachineError> {
        let machine = self.open(name)?;
        let mut record = machine.record.clone();
        secrets::blank(&mut record.driver);
        crate::engine_settings::blank_passwords(&mut record.host_options.engine_options);
        let mut report = format!(
            "machine {} on {} {}\nmachine: {name}, driver {}\n",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH,
            record.driver_name,
        );
        let mut tell = |what: &str, found: Result<String, MachineError>| {
            let text = found.unwrap_or_else(|error| format!("unknown: {}", chain(&error)));
            report.push_str(&format!("{what}: {text}\n"));
        };
        tell(
            "state",
            machine.status().map(|status| status.name().to_owned()),
        );
        tell("url", machine.url());
        tell(
            "engine",
            machine.connect(ASK_WITHIN).map(|version| version.version),
        );
        for file in [layout::CA_CERT, layout::CLIENT_CERT, layout::SERVER_CERT] {
            let text = std::fs::read_to_string(machine.place.folder.join(file));
            let until = match text {
                Ok(pem) => match certs::expiry_of(&pem) {
                    Ok(expiry) => format!("until {}", expiry.until),
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            tell(file, Ok(until));
        }
        let failed = |source| StoreError::io("write", path, source);
        let mut files = vec![
            ("report.txt".to_owned(), report.into_bytes()),
            (layout::CONFIG.to_owned(), record.to_json()),
        ];
        for log in machine.driver.logs(&machine.place) {
            let name = log.file_name().unwrap_or_default().to_string_lossy();
            if let Ok(tail) = tail(&log) {
                files.push((name.into_owned(), tail));
            }
        }
        let written = (|| {
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create_new(true);
            let mut archive = tar::Builder::new(options.open(path)?);
            for (file, contents) in files {
                let mut header = tar::Header::new_gnu();
                header.set_size(contents.len() as u64);
                header.set_mode(0o644);
                archive.append_data(&mut header, format!("{name}/{file}"), &contents[..])?;
            }
            archive.into_inner()?.sync_all()
        })();
        Ok(written.map_err(failed)?)
    }
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}
