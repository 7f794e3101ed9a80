//! The store's authority and client certificate, and the server certificate of each machine.
//!
//! The authority is made once, under the store's lock: two first `create`s at once share it. Its certificate is written
//! last, so an authority with a certificate is whole. Before it ends it is renewed: the same key and subject for longer, so
//! that engines which know the old certificate and clients which know the new one go on talking.

use crate::driver::{MachinePlace, Progress};
use crate::store::{MachineStore, StoreError, atomic, layout};
use certs::{Authority, CertificateError, Issued, SecretPem, SubjectAlternativeName, Validity};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// Why certificates could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot use {}", path.display())]
    Unusable {
        path: PathBuf,
        #[source]
        source: CertificateError,
    },
    #[error(transparent)]
    Make(#[from] CertificateError),
    #[error("{} is missing, but there are machines whose certificates it signed", path.display())]
    Incomplete { path: PathBuf },
    #[error("the authority in {} ended on {}, and only those who made it can renew it", path.display(), until.date())]
    Ended {
        path: PathBuf,
        until: OffsetDateTime,
    },
    #[error(transparent)]
    SshKey(#[from] crate::ssh_key::NoRandomNumbers),
}

impl CertificatesError {
    /// What to try next.
    pub fn hint(&self) -> Option<String> {
        match self {
            CertificatesError::Store(error) => error.hint(),
            CertificatesError::Make(CertificateError::File { source, .. }) => {
                StoreError::hint_of(source)
            }
            CertificatesError::Incomplete { path } => Some(format!(
                "bring {} back from a backup, or use another store with -s",
                path.display()
            )),
            CertificatesError::Unusable { path, .. } => Some(format!(
                "mend {} or bring it back from a backup",
                path.display()
            )),
            CertificatesError::Ended { .. } => Some(
                "ask them for a new certificate of the same key, or name another authority with --tls-ca-cert and --tls-ca-key"
                    .into(),
            ),
            _ => None,
        }
    }
}

/// Where the authority and the client's pair are: in the store, unless `--tls-*` said otherwise.
#[derive(Debug, Clone)]
pub struct CertificatePaths {
    pub ca_cert: PathBuf,
    pub ca_key: PathBuf,
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
}

impl CertificatePaths {
    pub fn in_store(store: &MachineStore) -> CertificatePaths {
        let folder = store.certs();
        CertificatePaths {
            ca_cert: folder.join(layout::CA_CERT),
            ca_key: folder.join(layout::CA_KEY),
            client_cert: folder.join(layout::CLIENT_CERT),
            client_key: folder.join(layout::CLIENT_KEY),
        }
    }
}

/// What every machine of a store shares.
#[derive(Debug)]
pub struct SharedCertificates {
    pub authority: Authority,
    pub client: Issued,
}

/// Loads what every machine shares, making what is not there yet.
pub fn load_or_make(
    store: &MachineStore,
    paths: &CertificatePaths,
    progress: &dyn Progress,
) -> Result<SharedCertificates, CertificatesError> {
    let _lock = store.lock()?;
    for path in [&paths.ca_cert, &paths.client_cert] {
        if let Some(folder) = path.parent() {
            atomic::make_private_folder(folder)
                .map_err(|source| StoreError::io("make", folder, source))?;
        }
    }
    let present = match read(&paths.ca_cert)? {
        Some(certificate) => load_authority(paths, &certificate)?,
        None => make_authority(store, paths, progress)?,
    };
    let renewed = renewed(&present, store, paths, progress)?;
    let authority_is_new = renewed.is_some();
    let authority = renewed.unwrap_or(present);
    let client = match (read(&paths.client_cert)?, read(&paths.client_key)?) {
        (Some(certificate), Some(key)) if !is_due(&certificate, &paths.client_cert)? => {
            Some(Issued {
                certificate,
                key: SecretPem::new(key),
            })
        }
        _ => None,
    };
    let client_is_new = client.is_none();
    let client = match client {
        Some(client) => client,
        None => {
            progress.say(&format!(
                "Creating client certificate: {}",
                paths.client_cert.display()
            ));
            authority.issue_client(&owner(), Validity::days(Validity::LEAF_DAYS))?
        }
    };
    let shared = SharedCertificates { authority, client };
    if authority_is_new || client_is_new {
        // The store's own come last: whoever is interrupted before that does it all again.
        copy_to_machines(store, &shared)?;
    }
    if authority_is_new {
        write(store, &paths.ca_cert, shared.authority.certificate())?;
    }
    if client_is_new {
        certs::files::write_key(&paths.client_key, &shared.client.key)?;
        write(store, &paths.client_cert, &shared.client.certificate)?;
    }
    Ok(shared)
}

fn load_authority(
    paths: &CertificatePaths,
    certificate: &str,
) -> Result<Authority, CertificatesError> {
    let key = read(&paths.ca_key)?.ok_or_else(|| CertificatesError::Incomplete {
        path: paths.ca_key.clone(),
    })?;
    Authority::from_pem(certificate, &key).map_err(|source| {
        let path = match source {
            CertificateError::BadKey => &paths.ca_key,
            _ => &paths.ca_cert,
        };
        unusable(path, source)
    })
}

/// The authority for longer, where it ends soon. One that was brought along belongs to others, who rely on its dates.
fn renewed(
    authority: &Authority,
    store: &MachineStore,
    paths: &CertificatePaths,
    progress: &dyn Progress,
) -> Result<Option<Authority>, CertificatesError> {
    let path = &paths.ca_cert;
    let expiry =
        certs::expiry_of(authority.certificate()).map_err(|source| unusable(path, source))?;
    let now = OffsetDateTime::now_utc();
    if !expiry.is_due(now) {
        return Ok(None);
    }
    if path.starts_with(store.certs()) && authority.is_root() {
        progress.say(&format!("Renewing CA: {}", path.display()));
        let renewed = authority.renewed(Validity::days(Validity::AUTHORITY_DAYS));
        return Ok(Some(renewed.map_err(|source| unusable(path, source))?));
    }
    if expiry.until <= now {
        return Err(CertificatesError::Ended {
            path: path.clone(),
            until: expiry.until,
        });
    }
    progress.say(&format!(
        "Warning: the authority in {} ends on {}, and only those who made it can renew it",
        path.display(),
        expiry.until.date()
    ));
    Ok(None)
}

fn make_authority(
    store: &MachineStore,
    paths: &CertificatePaths,
    progress: &dyn Progress,
) -> Result<Authority, CertificatesError> {
    // A new authority would lock everyone out of the machines that trust the old one.
    for name in store.names()? {
        if store.place(&name)?.folder.join(layout::CA_CERT).exists() {
            return Err(CertificatesError::Incomplete {
                path: paths.ca_cert.clone(),
            });
        }
    }
    progress.say(&format!("Creating CA: {}", paths.ca_cert.display()));
    let authority = Authority::create(&owner(), Validity::days(Validity::AUTHORITY_DAYS))?;
    certs::files::write_key(&paths.ca_key, authority.key())?;
    write(store, &paths.ca_cert, authority.certificate())?;
    Ok(authority)
}

/// Copies what clients need into the folders of all machines of this authority. A machine of another one keeps what it has:
/// ours would not open it.
fn copy_to_machines(
    store: &MachineStore,
    shared: &SharedCertificates,
) -> Result<(), CertificatesError> {
    for name in store.names()? {
        let place = store.place(&name)?;
        if is_of(&place, shared.authority.certificate()) {
            copy_for_clients(store, &place, shared)?;
        }
    }
    Ok(())
}

/// Whether a machine's certificates are of the authority whose certificate is `ca`.
fn is_of(place: &MachinePlace, ca: &str) -> bool {
    let theirs = std::fs::read_to_string(place.folder.join(layout::CA_CERT));
    theirs.is_ok_and(|theirs| certs::same_authority(&theirs, ca))
}

/// Whether a machine's certificates are of the authority in `paths`.
pub fn is_ours(place: &MachinePlace, paths: &CertificatePaths) -> bool {
    std::fs::read_to_string(&paths.ca_cert).is_ok_and(|ours| is_of(place, &ours))
}

/// Copies what clients need into a machine's folder: it is their `DOCKER_CERT_PATH`.
pub fn copy_for_clients(
    store: &MachineStore,
    place: &MachinePlace,
    shared: &SharedCertificates,
) -> Result<(), CertificatesError> {
    let path = |name: &str| place.folder.join(name);
    // Every start comes here, and each write waits for the disk twice.
    let is_there = |name: &str, text: &str| {
        std::fs::read_to_string(path(name)).is_ok_and(|found| found == text)
    };
    let Issued { certificate, key } = &shared.client;
    if !is_there(layout::CLIENT_KEY, key.expose()) {
        certs::files::write_key(&path(layout::CLIENT_KEY), key)?;
    }
    for (name, text) in [
        (layout::CLIENT_CERT, certificate.as_str()),
        (layout::CA_CERT, shared.authority.certificate()),
    ] {
        if !is_there(name, text) {
            write(store, &path(name), text)?;
        }
    }
    Ok(())
}

/// The names a machine's engine is called by.
pub fn server_names(
    machine: &str,
    address: IpAddr,
    extra: &[String],
) -> Result<Vec<SubjectAlternativeName>, CertificateError> {
    let mut names = vec![
        SubjectAlternativeName::Address(address),
        SubjectAlternativeName::Address(IpAddr::from([127, 0, 0, 1])),
        SubjectAlternativeName::Dns("localhost".into()),
        SubjectAlternativeName::Dns(machine.into()),
    ];
    for text in extra {
        names.push(text.parse()?);
    }
    let mut unique = Vec::with_capacity(names.len());
    for name in names {
        if !unique.contains(&name) {
            unique.push(name);
        }
    }
    Ok(unique)
}

/// The machine's server certificate: the one it has, or a new one where that is missing, nearly over, signed by another
/// authority, or not good for one of `names`. Says whether it is new.
pub fn server_certificate(
    store: &MachineStore,
    place: &MachinePlace,
    shared: &SharedCertificates,
    names: &[SubjectAlternativeName],
) -> Result<(Issued, bool), CertificatesError> {
    let cert_path = place.folder.join(layout::SERVER_CERT);
    let key_path = place.folder.join(layout::SERVER_KEY);
    if let (Some(certificate), Some(key)) = (read(&cert_path)?, read(&key_path)?) {
        let same_authority = is_of(place, shared.authority.certificate());
        let has_names = certs::subject_alternative_names_of(&certificate)
            .is_ok_and(|has| names.iter().all(|name| has.contains(name)));
        let due = certs::expiry_of(&certificate)
            .map_or(true, |expiry| expiry.is_due(OffsetDateTime::now_utc()));
        if same_authority && has_names && !due {
            let key = SecretPem::new(key);
            return Ok((Issued { certificate, key }, false));
        }
    }
    let validity = Validity::days(Validity::LEAF_DAYS);
    let issued = shared
        .authority
        .issue_server(&place.name, names, validity)?;
    certs::files::write_key(&key_path, &issued.key)?;
    write(store, &cert_path, &issued.certificate)?;
    Ok((issued, true))
}

fn write(store: &MachineStore, path: &Path, text: &str) -> Result<(), CertificatesError> {
    Ok(store.write_file(path, text.as_bytes())?)
}

/// A file's text; `None` when it is not there.
fn read(path: &Path) -> Result<Option<String>, StoreError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::io("read", path, source)),
    }
}

fn is_due(certificate: &str, path: &Path) -> Result<bool, CertificatesError> {
    let expiry = certs::expiry_of(certificate).map_err(|source| unusable(path, source))?;
    Ok(expiry.is_due(OffsetDateTime::now_utc()))
}

fn unusable(path: &Path, source: CertificateError) -> CertificatesError {
    CertificatesError::Unusable {
        path: path.to_path_buf(),
        source,
    }
}

/// Whose authority it is: only a label that people read in the certificate.
fn owner() -> String {
    ["USER", "LOGNAME", "USERNAME"]
        .iter()
        .find_map(|variable| std::env::var(variable).ok().filter(|name| !name.is_empty()))
        .unwrap_or_else(|| "unknown".into())
}
