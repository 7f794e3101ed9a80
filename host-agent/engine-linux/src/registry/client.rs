//! HTTP clients: by how much they trust, through which proxy they go, and which certificates they show.

use super::endpoint::{Endpoint, EndpointError, RegistryOptions, authority};
use super::proxies::ProxyRules;
use super::{RegistryError, protocol};
use reqwest::{Certificate, Client, ClientBuilder, Identity, Url};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// To connect, with TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Without a single byte.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// All clients. Each is made when it is first needed: it holds the host's root certificates, which an idle agent has no
/// use for.
pub(super) struct Clients {
    certificates: Vec<PathBuf>,
    proxies: ProxyRules,
    made: Mutex<HashMap<Kind, (Client, Vec<FileMark>)>>,
}

/// A file of certificates as it was read: name, inode, bytes, and when it was changed.
type FileMark = (OsString, u64, u64, (i64, i64), (i64, i64));

/// What tells clients apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    /// Certificates are not checked.
    is_insecure: bool,
    /// The folder of the registry's own certificates.
    certificates: Option<PathBuf>,
    /// The host whose addresses were looked up already, because it is by them that it is insecure.
    resolved: Option<(String, Vec<SocketAddr>)>,
}

impl Clients {
    pub fn new(options: &RegistryOptions) -> Result<Clients, EndpointError> {
        Ok(Clients {
            certificates: options.certificates.clone(),
            proxies: ProxyRules::new(options.proxies.clone())?,
            made: Mutex::default(),
        })
    }

    /// The client for an address that an endpoint has led to: its own, its token server's, or where it redirects. What the
    /// administrator has laid down for the registry counts for those, too, as with dockerd; and so does what they have
    /// laid down for the other host.
    pub fn for_url(&self, url: &Url, endpoint: &Endpoint) -> Result<Client, RegistryError> {
        let kind = Kind {
            is_insecure: endpoint.is_insecure,
            certificates: match url.scheme() {
                "https" => self
                    .folder_of(url)
                    .or_else(|| self.folder_of(&endpoint.base)),
                _ => None,
            },
            resolved: match endpoint.addresses.is_empty() {
                true => None,
                false => endpoint.base.host_str().map(|host| {
                    // Their ports count for nothing: the address' own does.
                    let sockets = endpoint.addresses.iter();
                    let sockets = sockets
                        .map(|address| SocketAddr::new(*address, 0))
                        .collect();
                    (host.to_owned(), sockets)
                }),
            },
        };
        // Certificates that were renewed meanwhile are read again.
        let changed = kind.certificates.as_deref().map_or_else(Vec::new, marks_of);
        let mut made = self
            .made
            .lock()
            .expect("no code panics while it holds this lock");
        if let Some((client, since)) = made.get(&kind)
            && *since == changed
        {
            return Ok(client.clone());
        }
        let client = self
            .build(&kind)
            .map_err(|why| protocol(url, format!("cannot make an HTTP client: {why}")))?;
        made.insert(kind, (client.clone(), changed));
        Ok(client)
    }

    /// The folder of an address's own certificates.
    fn folder_of(&self, url: &Url) -> Option<PathBuf> {
        let mut names = vec![authority(url)];
        if url.port().is_none() {
            names.push(format!("{}:443", names[0]));
        }
        self.certificates
            .iter()
            .flat_map(|folder| names.iter().map(move |name| folder.join(name)))
            .find(|folder| folder.is_dir())
    }

    fn build(&self, kind: &Kind) -> Result<Client, String> {
        // reqwest takes the process's provider; a second installation is refused and harmless, it is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            // Few, and not for long: an idle agent should hold no memory for them.
            .pool_max_idle_per_host(4)
            .pool_idle_timeout(Duration::from_secs(20));
        if kind.is_insecure {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        builder = self.proxies.apply(builder);
        if let Some((host, addresses)) = &kind.resolved {
            builder = builder.resolve_to_addrs(host, addresses);
        }
        if let Some(folder) = &kind.certificates {
            builder = with_certificates(builder, folder)?;
        }
        builder
            .build()
            .map_err(|error| engine::error::full_message(&error))
    }
}

/// What tells whether certificates are still those that were read; a file may be written over in place.
fn marks_of(folder: &Path) -> Vec<FileMark> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut marks: Vec<FileMark> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            // Of what a link leads to.
            let facts = std::fs::metadata(entry.path()).ok()?;
            let modified = (facts.mtime(), facts.mtime_nsec());
            let changed = (facts.ctime(), facts.ctime_nsec());
            Some((
                entry.file_name(),
                facts.ino(),
                facts.len(),
                modified,
                changed,
            ))
        })
        .collect();
    marks.sort();
    marks
}

/// Docker's rules (moby, `registry/registry.go`, `loadTLSConfig`).
fn with_certificates(mut builder: ClientBuilder, folder: &Path) -> Result<ClientBuilder, String> {
    let failed = |path: &Path, why: String| format!("{}: {why}", path.display());
    let mut names: Vec<PathBuf> = std::fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<io::Result<_>>()
        })
        .map_err(|error| failed(folder, error.to_string()))?;
    names.sort();
    let read = |path: &Path| std::fs::read(path).map_err(|error| failed(path, error.to_string()));
    for path in &names {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => {
                let found = Certificate::from_pem_bundle(&read(path)?)
                    .map_err(|error| failed(path, engine::error::full_message(&error)))?;
                if found.is_empty() {
                    return Err(failed(path, "there is no certificate in it".into()));
                }
                builder = builder.tls_certs_merge(found);
            }
            Some("cert") => {
                let key = path.with_extension("key");
                if !key.exists() {
                    return Err(failed(
                        path,
                        "missing key for client certificate; note that CA certificates must use the extension .crt"
                            .into(),
                    ));
                }
                let pem = [read(&key)?, b"\n".to_vec(), read(path)?].concat();
                let identity = Identity::from_pem(&pem)
                    .map_err(|error| failed(path, engine::error::full_message(&error)))?;
                builder = builder.identity(identity);
            }
            Some("key") if !path.with_extension("cert").exists() => {
                return Err(failed(path, "missing client certificate for key".into()));
            }
            _ => {}
        }
    }
    Ok(builder)
}
