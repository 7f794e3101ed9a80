//! A machine that was made elsewhere: its address and the certificates somebody gave for it.

use super::Machines;
use super::create::CreateRequest;
use crate::driver::{FlagValue, FlagValues, Progress};
use crate::store::{StoreError, layout};
use crate::{Machine, MachineError};
use std::path::Path;

impl Machines {
    /// Remembers the engine at `url`, which is asked once. `folder` holds ca.pem, cert.pem and key.pem, as `DOCKER_CERT_PATH` does.
    pub fn attach(
        &self,
        name: &str,
        url: &str,
        folder: &Path,
        progress: &dyn Progress,
    ) -> Result<Machine, MachineError> {
        let files = [layout::CA_CERT, layout::CLIENT_CERT, layout::CLIENT_KEY];
        let mut contents = Vec::new();
        for file in files {
            let path = folder.join(file);
            let text =
                std::fs::read(&path).map_err(|source| StoreError::io("read", &path, source))?;
            contents.push(text);
        }
        let request = CreateRequest {
            name: name.to_owned(),
            driver: "none".into(),
            values: FlagValues([("url".to_owned(), FlagValue::Text(url.to_owned()))].into()),
            ..CreateRequest::default()
        };
        let machine = self.create(&request, progress)?;
        let attached = files.iter().zip(&contents).try_for_each(|(file, text)| {
            self.store
                .write_file(&machine.place.folder.join(file), text)
        });
        let asked = attached.map_err(MachineError::from).and_then(|()| {
            machine
                .engine()?
                .version(super::ENGINE_ATTEMPT)
                .map_err(|source| MachineError::NotAttached {
                    machine: name.to_owned(),
                    url: url.to_owned(),
                    folder: folder.to_owned(),
                    source: Box::new(source),
                })
        });
        match asked {
            Ok(version) => {
                progress.say(&format!("The engine is {}.", version.version));
                Ok(machine)
            }
            Err(error) => {
                self.store.delete(name)?;
                Err(error)
            }
        }
    }
}
