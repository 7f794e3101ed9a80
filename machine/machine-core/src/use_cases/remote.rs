//! The engine of a machine that is reached over ssh: installed at `create`, again at `provision` and `upgrade`.

use super::{ForMachine, Machine, Machines};
use crate::MachineError;
use crate::certificates::{self, SharedCertificates};
use crate::driver::Progress;
use crate::engine_client::EngineError;
use crate::remote::{Installation, RemoteError, Wanted};
use crate::store::layout;
use std::time::{Duration, Instant};

const GOES_DOWN_WITHIN: Duration = Duration::from_secs(60);
const COMES_UP_WITHIN: Duration = Duration::from_secs(600);

/// What an installation is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The first one: what it put on the host is taken away when it fails.
    Create,
    /// Agent, settings and, where it is due, the certificate.
    Again,
    /// A new certificate and nothing else.
    Certificate,
}

impl Machines {
    /// Puts the engine on the machine's host and waits until it answers over TLS.
    pub(super) fn install_over_ssh(
        &self,
        machine: &mut Machine,
        shared: &SharedCertificates,
        purpose: Purpose,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        let place = machine.place.clone();
        let named = ForMachine {
            name: &place.name,
            progress,
        };
        let settings = machine.driver.remote(&place, &machine.record.driver);
        let address = machine.address()?;
        let route = machine.ssh_route()?;
        let daemon = machine.daemon_json()?;
        let mut extra = machine
            .record
            .host_options
            .auth_options
            .server_cert_sans
            .clone();
        // The host's own name, where it was given by one.
        if let Some(name) = machine
            .record
            .driver
            .get("IPAddress")
            .and_then(|v| v.as_str())
            && name.parse::<certs::SubjectAlternativeName>().is_ok()
        {
            extra.push(name.to_owned());
        }
        let names = certificates::server_names(&place.name, address.ip, &extra)
            .map_err(certificates::CertificatesError::from)?;
        let wanted = Wanted {
            machine: &place.name,
            port: address.api_port,
            names: &names,
            authority: &shared.authority,
            daemon: &daemon,
            agent: settings.agent,
            take_over: settings.take_over,
            new_certificate: purpose == Purpose::Certificate,
            patience: settings.patience,
            adopts: settings.adopts.as_deref(),
        };
        let remote = |source| MachineError::Remote {
            machine: place.name.clone(),
            source,
        };
        let installation = Installation::begin(
            &route,
            address.api_port,
            wanted.adopts,
            wanted.patience,
            &named,
        )
        .map_err(remote)?;
        let done = self.install(machine, shared, &installation, &wanted, purpose, &named);
        if done.is_err() && purpose == Purpose::Create && !installation.was_there() {
            named.say("Removing the engine from the host again...");
            if let Err(error) = installation.remove() {
                named.say(&format!(
                    "Warning: it stays there: {}",
                    crate::error::chain(&error)
                ));
            }
        }
        done
    }

    /// Reboots a host that nobody but itself can start, and waits until its engine answers again.
    pub(super) fn reboot(
        &self,
        machine: &Machine,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        let remote = |source| MachineError::Remote {
            machine: machine.name().to_owned(),
            source,
        };
        let route = machine.ssh_route()?;
        let address = machine.address()?;
        let settings = machine
            .driver
            .remote(&machine.place, &machine.record.driver);
        let host = Installation::begin(&route, address.api_port, None, settings.patience, progress)
            .map_err(remote)?;
        host.reboot(progress).map_err(remote)?;
        let engine = machine.engine()?;
        let began = Instant::now();
        // First it must go away, or the old engine is taken for the new one.
        while began.elapsed() < GOES_DOWN_WITHIN && engine.ping(Duration::from_secs(2)).is_ok() {
            if progress.interrupted() {
                return Err(MachineError::Interrupted);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        while engine.ping(Duration::from_secs(5)).is_err() {
            if progress.interrupted() {
                return Err(MachineError::Interrupted);
            }
            if began.elapsed() > COMES_UP_WITHIN {
                return machine.wait_for_engine(progress).map(drop);
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    }

    fn install(
        &self,
        machine: &mut Machine,
        shared: &SharedCertificates,
        installation: &Installation<'_>,
        wanted: &Wanted<'_>,
        purpose: Purpose,
        named: &ForMachine<'_>,
    ) -> Result<(), MachineError> {
        let name = machine.name().to_owned();
        let remote = |source| MachineError::Remote {
            machine: name.clone(),
            source,
        };
        let path = machine.place.folder.join(layout::SERVER_CERT);
        let certificate = match purpose {
            Purpose::Certificate => Some(installation.certify_only(wanted, named).map_err(remote)?),
            _ => {
                let present = std::fs::read_to_string(&path).ok();
                installation
                    .run(wanted, present.as_deref(), named)
                    .map_err(remote)?
                    .certificate
            }
        };
        if let Some(certificate) = certificate {
            self.store.write_file(&path, certificate.as_bytes())?;
        }
        certificates::copy_for_clients(&self.store, &machine.place, shared)?;
        self.store.save(&machine.record)?;
        named.say("Checking connection to Docker...");
        match machine.wait_for_engine(named) {
            Ok(_) => Ok(()),
            Err(MachineError::Engine {
                source: source @ EngineError::Connect { .. },
                ..
            }) => Err(remote(RemoteError::NotReady {
                what: format!(
                    "the engine runs on the host, but {} from here",
                    crate::error::chain(&source)
                ),
                hint: format!(
                    "open port {} in the host's firewall, or its provider's, for this computer",
                    wanted.port
                ),
            })),
            Err(error) => Err(error),
        }
    }
}
