//! New certificates for machines whose old ones are lost, given away or nearly over.

use super::Machines;
use super::remote::Purpose;
use crate::certificates::{self, CertificatesError};
use crate::driver::{Progress, SeedFiles, Status};
use crate::remote::{RemoteError, STEP_LIMIT, Shell};
use crate::ssh::SshRoute;
use crate::store::{StoreError, layout};
use crate::{Machine, MachineError};
use guest_contract::SEED_DIR;
use guest_contract::seed as names;

impl Machines {
    /// Makes a new server certificate and gives it to the engine, whose containers go on. A guest that cannot be reached over ssh
    /// is restarted: it reads the certificate when it boots. A suspended one is woken.
    pub fn regenerate_certificates(
        &self,
        name: &str,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        let (mut machine, _lock) = self.open_locked(name, progress)?;
        let shared = certificates::load_or_make(&self.store, &self.certificates, progress)?;
        if machine.driver.capabilities().provisions_over_ssh {
            machine.require_running()?;
            return self.install_over_ssh(&mut machine, &shared, Purpose::Certificate, progress);
        }
        if !machine.driver.capabilities().boots_our_image {
            return Err(machine.unsupported("renew the certificates of"));
        }
        // A guest takes a certificate awake, or when it boots.
        self.wake_opened(&mut machine, progress)?;
        forget(&machine, layout::SERVER_CERT)?;
        if machine.status()? == Status::Stopped {
            // Made now rather than at the next start, so that what can fail fails here.
            let daemon = machine.daemon_json()?;
            self.prepare_seed(&mut machine, &shared, &daemon)?;
            return Ok(self.store.save(&machine.record)?);
        }
        let daemon = machine.daemon_json()?;
        let seed = self.prepare_seed(&mut machine, &shared, &daemon)?;
        self.store.save(&machine.record)?;
        match self.send_certificates(&machine, &seed, progress) {
            Ok(()) => machine.wait_for_engine(progress).map(drop),
            Err(_) if progress.interrupted() => Err(MachineError::Interrupted),
            Err(error) => {
                tracing::debug!(%error, "the running guest did not take the certificates");
                progress.say(&format!("Restarting \"{name}\", which reads them..."));
                self.boot_anew(&mut machine, progress)
            }
        }
    }

    /// Gives a running guest its new certificates over ssh. Its engine looks at the files at each connection, so nothing is
    /// restarted; while they do not fit together it keeps the old ones.
    fn send_certificates(
        &self,
        machine: &Machine,
        seed: &SeedFiles,
        progress: &dyn Progress,
    ) -> Result<(), RemoteError> {
        let step = "send the certificates";
        let over = || progress.interrupted();
        let address = machine.address().map_err(|error| RemoteError::Refused {
            step,
            why: error.to_string(),
        })?;
        let route = SshRoute::new(&machine.place, &machine.record.driver, &address);
        let shell = Shell {
            route: &route,
            is_root: true,
            over: &over,
        };
        const FILES: [&str; 3] = [names::SERVER_KEY, names::SERVER_CERT, names::CA_CERT];
        for file in FILES {
            let contents = seed.files.iter().find(|(name, _)| name == file);
            let contents = contents.map_or(&[][..], |(_, contents)| contents.as_slice());
            shell.root_with(
                step,
                &format!("umask 077 && cat > {SEED_DIR}/{file}.new"),
                &mut &contents[..],
                STEP_LIMIT,
            )?;
        }
        let moves = FILES
            .map(|file| format!("mv {file}.new {file}"))
            .join(" && ");
        shell
            .root(step, &format!("cd {SEED_DIR} && {moves}"))
            .map(drop)
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
        certificates::load_or_make(&self.store, &self.certificates, progress)?;
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
