//! New certificates for machines whose old ones are lost, given away or nearly over.

use super::Machines;
use crate::certificates::{self, CertificatesError};
use crate::driver::{Progress, Status};
use crate::store::{StoreError, layout};
use crate::{Machine, MachineError};

impl Machines {
    /// Makes a new server certificate. A guest reads it when it boots, so a running machine is restarted.
    pub fn regenerate_certificates(
        &self,
        name: &str,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        let (mut machine, _lock) = self.open_locked(name, progress)?;
        if !machine.driver.capabilities().boots_our_image {
            return Err(machine.unsupported("renew the certificates of"));
        }
        forget(&machine, layout::SERVER_CERT)?;
        if machine.status()? == Status::Stopped {
            // Made now rather than at the next start, so that what can fail fails here.
            let shared = certificates::load_or_make(&self.store, &self.certificates, progress)?;
            let daemon = machine.daemon_json()?;
            self.prepare_seed(&mut machine, &shared, &daemon)?;
            return Ok(self.store.save(&machine.record)?);
        }
        progress.say(&format!("Restarting \"{name}\", which reads them..."));
        self.stop_opened(&mut machine, progress)?;
        self.start_opened(&mut machine, progress)
    }

    /// Makes a new certificate for the clients of all machines. The old one goes on working until it ends.
    pub fn regenerate_client_certificate(
        &self,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        {
            let _lock = self.store.lock()?;
            let path = &self.certificates.client_cert;
            match std::fs::remove_file(path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", path, source).into());
                }
                _ => {}
            }
        }
        let shared = certificates::load_or_make(&self.store, &self.certificates, progress)?;
        for name in self.store.names()? {
            let place = self.store.place(&name)?;
            // A machine of another authority keeps what it has: ours would not open it.
            let theirs = std::fs::read_to_string(place.folder.join(layout::CA_CERT));
            if theirs.is_ok_and(|ca| ca.trim() == shared.authority.certificate().trim()) {
                certificates::copy_for_clients(&self.store, &place, &shared)?;
            }
        }
        Ok(())
    }
}

fn forget(machine: &Machine, file: &str) -> Result<(), CertificatesError> {
    let path = machine.place.folder.join(file);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", &path, source).into())
        }
        _ => Ok(()),
    }
}
