//! A machine as one file, for another computer or another person: a tar with `export.json`, the record and, where that was asked
//! for, certificates with their keys and the disks.

use super::Machines;
use super::change::not_stopped;
use crate::MachineError;
use crate::driver::{Progress, Status};
use crate::store::record::{MachineRecord, Stage};
use crate::store::{StoreError, atomic, layout};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const DESCRIPTION: &str = "export.json";
const EXPORT_VERSION: u32 = 1;
/// Certificates and records are small.
const MAX_SMALL_BYTES: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Description {
    version: u32,
    name: String,
    made_by: String,
}

/// What goes into the file besides the record and the public certificates.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExportOptions {
    /// The client's key and the ssh key: whoever has the file is root on the machine.
    pub keys: bool,
    pub disks: bool,
}

impl Machines {
    /// Writes one machine to `path`, which must not exist.
    pub fn export(
        &self,
        name: &str,
        path: &Path,
        options: ExportOptions,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        let (machine, _lock) = self.open_locked(name, progress)?;
        let disks = machine.driver.disks(&machine.place);
        if options.disks {
            if disks.is_empty() {
                return Err(machine.unsupported("export the disks of"));
            }
            let status = machine.status()?;
            if status != Status::Stopped {
                return Err(not_stopped(&machine, status));
            }
        } else if !disks.is_empty() {
            return Err(MachineError::Exchange {
                what: format!(
                    "machine \"{name}\" is this computer's: without its disk there is nothing to export"
                ),
                hint: format!("export the disk, too: machine export --disk {name}"),
            });
        }
        let mut record = machine.record.clone();
        // Paths are the other computer's business; they are made anew there.
        record.driver.insert("StorePath".into(), "".into());
        record.host_options.auth_options = Default::default();
        record.host_options.auth_options.server_cert_sans = machine
            .record
            .host_options
            .auth_options
            .server_cert_sans
            .clone();
        if !options.keys {
            crate::secrets::blank(&mut record.driver);
            crate::engine_settings::blank_passwords(&mut record.host_options.engine_options);
        }
        let failed = |source| StoreError::io("write", path, source);
        let file = create(path).map_err(failed)?;
        let written = (|| {
            let mut archive = tar::Builder::new(&file);
            archive.sparse(true);
            let description = Description {
                version: EXPORT_VERSION,
                name: name.to_owned(),
                made_by: env!("CARGO_PKG_VERSION").to_owned(),
            };
            let json = serde_json::to_vec_pretty(&description).expect("plain data");
            append(&mut archive, DESCRIPTION, &json)?;
            append(&mut archive, layout::CONFIG, &record.to_json())?;
            let public = [layout::CA_CERT, layout::CLIENT_CERT, layout::SERVER_CERT];
            let secret = [
                layout::CLIENT_KEY,
                layout::SSH_KEY,
                layout::SSH_PUBLIC_KEY,
                layout::KNOWN_HOSTS,
            ];
            for file in public.iter().chain(secret.iter().filter(|_| options.keys)) {
                match std::fs::read(machine.place.folder.join(file)) {
                    Ok(contents) => append(&mut archive, file, &contents)?,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            // The rest is a suspended machine's.
            for disk in disks.iter().take(1).filter(|_| options.disks) {
                let name = disk.file_name().unwrap_or_default();
                archive.append_path_with_name(disk, name)?;
            }
            archive.into_inner()?.sync_all()
        })();
        if let Err(source) = written {
            let _ = std::fs::remove_file(path);
            return Err(failed(source).into());
        }
        Ok(())
    }

    /// Makes a machine of an exported file; `name` where it is to be called otherwise. Returns its name.
    pub fn import(
        &self,
        path: &Path,
        name: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<String, MachineError> {
        let broken = |what: String| MachineError::Exchange {
            what: format!("{} cannot be imported: {what}", path.display()),
            hint: "make the file with `machine export`".into(),
        };
        let unreadable = |source| MachineError::from(StoreError::io("read", path, source));
        let file = File::open(path).map_err(unreadable)?;
        let mut archive = tar::Archive::new(file);
        let mut entries = archive.entries().map_err(unreadable)?;
        let mut next_small = |wanted: &str| -> Result<Vec<u8>, MachineError> {
            let entry = entries
                .next()
                .ok_or_else(|| broken(format!("it has no {wanted}")))?;
            let entry = entry.map_err(|error| broken(error.to_string()))?;
            if entry.path_bytes() != wanted.as_bytes() {
                return Err(broken(format!("it does not begin with {wanted}")));
            }
            let mut contents = Vec::new();
            let read = entry.take(MAX_SMALL_BYTES).read_to_end(&mut contents);
            read.map_err(unreadable)?;
            Ok(contents)
        };
        let description: Description = serde_json::from_slice(&next_small(DESCRIPTION)?)
            .map_err(|error| broken(error.to_string()))?;
        if description.version > EXPORT_VERSION {
            return Err(broken(format!(
                "it has version {}, this program reads {EXPORT_VERSION}",
                description.version
            )));
        }
        let mut record = MachineRecord::from_json(&next_small(layout::CONFIG)?)
            .map_err(|error| broken(error.to_string()))?;
        let name = name.unwrap_or(&description.name).to_owned();
        let place = self.store.place(&name)?;
        let driver = self.driver(&record.driver_name)?;
        let _lock = self.lock(&name, progress)?;
        if self.store.folder_exists(&name)? {
            return Err(StoreError::NameInUse { name }.into());
        }
        record.name = name.clone();
        record.berth_mut().stage = Stage::Creating;
        record
            .driver
            .insert("MachineName".into(), name.clone().into());
        record.recompute_paths(&place);
        if driver.capabilities().boots_our_image {
            let _store = self.store.lock()?;
            let copy = driver.plan_copy(&place, &record.driver);
            record.driver = copy.map_err(|source| MachineError::Driver {
                verb: "import",
                machine: name.clone(),
                source,
            })?;
            self.store.save(&record)?;
        } else {
            self.store.save(&record)?;
        }
        let unpacked = (|| -> Result<(), MachineError> {
            let known = known_files(&driver.disks(&place));
            for entry in entries {
                let mut entry = entry.map_err(|error| broken(error.to_string()))?;
                let file = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                // Names we know and no others: an archive must not choose where it writes.
                if !known.contains(&file)
                    || !entry.header().entry_type().is_file()
                        && !entry.header().entry_type().is_gnu_sparse()
                {
                    return Err(broken(format!("it has a file {file:?} in it")));
                }
                let to = place.folder.join(&file);
                let mut out = create(&to).map_err(|source| StoreError::io("write", &to, source))?;
                io::copy(&mut entry, &mut Sparse(&mut out))
                    .and_then(|_| {
                        let length = io::Seek::stream_position(&mut out)?;
                        out.set_len(length)?;
                        out.sync_all()
                    })
                    .map_err(|source| StoreError::io("write", &to, source))?;
            }
            if place.folder.join(layout::SSH_KEY).exists() && !driver.capabilities().boots_our_image
            {
                let key = place.folder.join(layout::SSH_KEY);
                record.driver.insert(
                    "SSHKeyPath".into(),
                    key.to_string_lossy().into_owned().into(),
                );
            }
            record.berth_mut().stage = Stage::Created;
            Ok(self.store.save(&record)?)
        })();
        if let Err(error) = unpacked {
            self.store.delete(&name)?;
            return Err(error);
        }
        Ok(name)
    }
}

fn known_files(_disks: &[std::path::PathBuf]) -> Vec<String> {
    [
        layout::CA_CERT,
        layout::CLIENT_CERT,
        layout::SERVER_CERT,
        layout::CLIENT_KEY,
        layout::SSH_KEY,
        layout::SSH_PUBLIC_KEY,
        layout::KNOWN_HOSTS,
        "data.raw",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Leaves holes where zeros are.
struct Sparse<'a>(&'a mut File);

impl io::Write for Sparse<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match bytes.iter().all(|byte| *byte == 0) {
            true => {
                io::Seek::seek(self.0, io::SeekFrom::Current(bytes.len() as i64))?;
                Ok(bytes.len())
            }
            false => self.0.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn append<W: io::Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    contents: &[u8],
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(contents.len() as u64);
    header.set_mode(0o600);
    archive.append_data(&mut header, name, contents)
}

/// A new file that only its owner reads.
fn create(path: &Path) -> io::Result<File> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        atomic::make_private_folder(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}
