//! HTTP clients: by how much they trust, through which proxy they go, and which certificates they show.

use super::endpoint::{EndpointError, RegistryOptions, authority, is_loopback};
use super::{RegistryError, protocol};
use reqwest::{Certificate, Client, ClientBuilder, Identity, NoProxy, Proxy, Url};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

/// To connect, with TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Without a single byte.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The administrator's choice of proxies; what is not given comes from `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` of the
/// engine's environment. Loopback is always reached without one, as Go's clients do it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    pub http: Option<String>,
    pub https: Option<String>,
    /// Hosts, domains and networks reached without a proxy, separated by commas.
    pub none: Option<String>,
}

/// All clients. Each is made when it is first needed: it holds the host's root certificates, which an idle agent has no
/// use for.
pub(super) struct Clients {
    certificates: Vec<PathBuf>,
    proxies: Proxies,
    made: Mutex<HashMap<Kind, (Client, Option<SystemTime>)>>,
}

/// What tells clients apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    /// Certificates are not checked.
    is_insecure: bool,
    /// Without any proxy.
    is_direct: bool,
    /// The folder of the registry's own certificates.
    certificates: Option<PathBuf>,
}

impl Clients {
    pub fn new(options: &RegistryOptions) -> Result<Clients, EndpointError> {
        let clients = Clients {
            certificates: options.certificates.clone(),
            proxies: options.proxies.clone(),
            made: Mutex::default(),
        };
        // A proxy with a slip in its address must be told now and not at the first pull.
        for url in [&clients.proxies.http, &clients.proxies.https]
            .into_iter()
            .flatten()
        {
            Proxy::all(url.as_str()).map_err(|error| EndpointError::Proxy {
                url: without_password(url),
                why: engine::error::full_message(&error),
            })?;
        }
        Ok(clients)
    }

    /// The client for an address.
    pub fn for_url(&self, url: &Url, is_insecure: bool) -> Result<Client, RegistryError> {
        let kind = Kind {
            is_insecure,
            is_direct: is_loopback(url),
            certificates: self.folder_of(url),
        };
        // Certificates that were renewed meanwhile are read again.
        let changed = kind
            .certificates
            .as_deref()
            .and_then(|folder| folder.metadata().ok()?.modified().ok());
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
        if url.scheme() != "https" {
            return None;
        }
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
        builder = match kind.is_direct {
            true => builder.no_proxy(),
            false => self.with_proxies(builder)?,
        };
        if let Some(folder) = &kind.certificates {
            builder = with_certificates(builder, folder)?;
        }
        builder
            .build()
            .map_err(|error| engine::error::full_message(&error))
    }

    fn with_proxies(&self, mut builder: ClientBuilder) -> Result<ClientBuilder, String> {
        let text = |error: reqwest::Error| engine::error::full_message(&error);
        let none = match &self.proxies.none {
            Some(list) => NoProxy::from_string(list),
            None => NoProxy::from_env(),
        };
        // Given ones come before those of the environment, which reqwest adds itself.
        if let Some(url) = &self.proxies.http {
            builder = builder.proxy(Proxy::http(url).map_err(text)?.no_proxy(none.clone()));
        }
        if let Some(url) = &self.proxies.https {
            builder = builder.proxy(Proxy::https(url).map_err(text)?.no_proxy(none));
        }
        Ok(builder)
    }
}

/// An address as it may be shown.
fn without_password(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut url) if url.password().is_some() => {
            let _ = url.set_password(Some("xxxxx"));
            url.to_string()
        }
        _ => url.to_owned(),
    }
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
