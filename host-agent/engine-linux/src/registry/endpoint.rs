//! Where a registry is reached: mirrors, the registry itself, with TLS or without.

use super::proxies::Proxies;
use super::{RegistryError, protocol};
use futures_util::future::BoxFuture;
use ipnet::IpNet;
use reqwest::Url;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Docker Hub's registry, which is not at its domain.
const HUB: &str = "https://registry-1.docker.io/";
/// How long an endpoint that did not answer is asked last.
const DOWN_FOR: Duration = Duration::from_secs(60);
/// How long we believe where a name leads.
const RESOLVED_FOR: Duration = Duration::from_secs(60);

/// What the administrator chose (dockerd's `--registry-mirror` and `--insecure-registry`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Addresses of mirrors of Docker Hub, asked in order before it.
    pub mirrors: Vec<String>,
    /// Names as they stand in references, `host` or `host:port`, or networks as `10.0.0.0/8` which a registry's address is
    /// in: certificates are not checked, and plain HTTP is tried too. Loopback is always so.
    pub insecure: Vec<String>,
    /// Folders with a folder `<host[:port]>` for each registry that has certificates of its own, in Docker's form:
    /// `*.crt` authorities to trust, `NAME.cert` and `NAME.key` to show. The first that has one counts.
    pub certificates: Vec<PathBuf>,
    pub proxies: Proxies,
    /// How often a request is tried; `None`: 5 times.
    pub attempts: Option<u32>,
    /// Where to search instead of Docker Hub's index.
    pub index: Option<String>,
}

/// Why options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("invalid mirror: {url:?}: {why}")]
    Mirror { url: String, why: String },
    #[error("invalid insecure registry {text:?}: {why}")]
    Insecure { text: String, why: String },
    #[error("invalid proxy {url:?}: {why}")]
    Proxy { url: String, why: String },
    #[error("invalid search index {url:?}: write http://host/ or https://host/")]
    Index { url: String },
}

/// One place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Ends with `/`; the API is at `v2/` below it.
    pub base: Url,
    pub is_mirror: bool,
    /// Plain HTTP and unknown certificates will do.
    pub is_insecure: bool,
    /// Where its name leads, if that is why it is insecure: no other address is.
    pub addresses: Vec<IpAddr>,
}

impl Endpoint {
    /// Whether somebody's credentials for the registry may be sent here when asked for. A mirror is the administrator's
    /// choice and gets them as dockerd's do, but not where everybody on the way could read them.
    pub fn may_have_credentials(&self) -> bool {
        !self.is_mirror || self.base.scheme() == "https" || is_loopback(&self.base)
    }

    /// The address of an API path (what stands after `/v2/`).
    pub fn url(&self, path: &str) -> Result<Url, RegistryError> {
        self.base
            .join("v2/")
            .and_then(|base| base.join(path))
            .map_err(|error| protocol(&self.base, error.to_string()))
    }
}

/// All of them.
pub(super) struct Endpoints {
    mirrors: Vec<Endpoint>,
    insecure_hosts: Vec<String>,
    insecure_networks: Vec<IpNet>,
    /// Base -> until when it counts as down.
    down: Mutex<HashMap<String, Instant>>,
    /// Insecure registries that answered, the last time, without TLS: asked so first.
    plain: Mutex<HashSet<String>>,
    /// Where names of registries led to, and since when we know.
    resolved: Mutex<HashMap<String, (Vec<IpAddr>, Instant)>>,
    resolve: Resolve,
    pub index: Option<String>,
}

/// Looks a name up; nothing where that fails.
type Resolve = fn(String) -> BoxFuture<'static, Vec<IpAddr>>;

fn by_the_system(name: String) -> BoxFuture<'static, Vec<IpAddr>> {
    Box::pin(async move {
        match tokio::net::lookup_host((name, 0)).await {
            Ok(found) => found.map(|address| address.ip()).collect(),
            Err(_) => Vec::new(),
        }
    })
}

impl Endpoints {
    pub fn new(options: RegistryOptions) -> Result<Endpoints, EndpointError> {
        let mut insecure_hosts = Vec::new();
        let mut insecure_networks: Vec<IpNet> = ["127.0.0.0/8", "::1/128"]
            .iter()
            .map(|network| network.parse().expect("a network"))
            .collect();
        for text in options.insecure {
            let refused = |why: &str| EndpointError::Insecure {
                text: text.clone(),
                why: why.to_owned(),
            };
            if let Ok(network) = text.parse::<IpNet>() {
                insecure_networks.push(network);
            } else if text.contains("://") {
                return Err(refused(
                    "it should not contain '://': write host or host:port",
                ));
            } else if text.is_empty() || text.contains(['/', ' ', '@']) {
                return Err(refused(
                    "write host, host:port or a network such as 10.0.0.0/8",
                ));
            } else {
                insecure_hosts.push(text.to_ascii_lowercase());
            }
        }
        let mut endpoints = Endpoints {
            mirrors: Vec::new(),
            insecure_hosts,
            insecure_networks,
            down: Mutex::default(),
            plain: Mutex::default(),
            resolved: Mutex::default(),
            resolve: by_the_system,
            index: options.index.clone(),
        };
        if let Some(index) = &endpoints.index
            && !Url::parse(index).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
        {
            return Err(EndpointError::Index { url: index.clone() });
        }
        for text in options.mirrors {
            let base = mirror_url(&text)?;
            let is_insecure = base.scheme() == "http"
                || endpoints.is_insecure_name(&authority(&base))
                || endpoints.is_in_network(&addresses_in(&base));
            endpoints.mirrors.push(Endpoint {
                base,
                is_mirror: true,
                is_insecure,
                addresses: Vec::new(),
            });
        }
        Ok(endpoints)
    }

    /// For tests of what is checked: they have no other address than loopback's.
    #[cfg(test)]
    pub fn distrust_loopback(&mut self) {
        self.insecure_networks.clear();
    }

    /// For tests of names: they have no DNS.
    #[cfg(test)]
    pub fn resolve_with(&mut self, resolve: Resolve) {
        self.resolve = resolve;
    }

    /// Whom to ask for a repository of this domain, in order; none where it is no address (`host:99999`).
    pub async fn of(&self, domain: &str) -> Vec<Endpoint> {
        let mut list = Vec::new();
        if domain == "docker.io" {
            list.extend(self.mirrors.iter().cloned());
        }
        list.extend(self.itself(domain).await);
        let now = Instant::now();
        let down = self
            .down
            .lock()
            .expect("no code panics while it holds this lock");
        // Stable: among those that are up, and among those that are down, the order stays.
        list.sort_by_key(|endpoint| {
            down.get(endpoint.base.as_str())
                .is_some_and(|until| *until > now)
        });
        list
    }

    /// The registry itself: with TLS, and where it is insecure also without; nothing where it is no address.
    pub async fn itself(&self, domain: &str) -> Vec<Endpoint> {
        let hub = (domain == "docker.io").then_some(HUB);
        let Ok(base) = Url::parse(hub.unwrap_or(&format!("https://{domain}/"))) else {
            return Vec::new();
        };
        let mut endpoint = Endpoint {
            base,
            is_mirror: false,
            is_insecure: false,
            addresses: Vec::new(),
        };
        if hub.is_some() {
            return vec![endpoint];
        }
        if !self.is_insecure_name(domain) && !self.is_in_network(&addresses_in(&endpoint.base)) {
            let addresses = self.addresses_of(&endpoint.base).await;
            if !self.is_in_network(&addresses) {
                return vec![endpoint];
            }
            endpoint.addresses = addresses;
        }
        endpoint.is_insecure = true;
        let Ok(plain) = Url::parse(&format!("http://{domain}/")) else {
            return Vec::new();
        };
        let mut both = vec![
            endpoint.clone(),
            Endpoint {
                base: plain,
                ..endpoint
            },
        ];
        if self.plain().contains(&authority(&both[1].base)) {
            both.reverse();
        }
        both
    }

    /// Notes that an endpoint did not answer.
    pub fn is_down(&self, endpoint: &Endpoint) {
        // Of an insecure registry one of the two ways is always down.
        if endpoint.is_mirror || !endpoint.is_insecure {
            self.down
                .lock()
                .expect("no code panics while it holds this lock")
                .insert(endpoint.base.to_string(), Instant::now() + DOWN_FOR);
        }
    }

    /// Notes that it did.
    pub fn answered(&self, endpoint: &Endpoint) {
        self.down
            .lock()
            .expect("no code panics while it holds this lock")
            .remove(endpoint.base.as_str());
        if endpoint.is_insecure && !endpoint.is_mirror {
            let mut plain = self.plain();
            match endpoint.base.scheme() {
                "http" => plain.insert(authority(&endpoint.base)),
                _ => plain.remove(&authority(&endpoint.base)),
            };
        }
    }

    fn plain(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.plain
            .lock()
            .expect("no code panics while it holds this lock")
    }

    /// Whether the administrator named it so, port and all.
    fn is_insecure_name(&self, domain: &str) -> bool {
        let lower = domain.to_ascii_lowercase();
        lower.split(':').next() == Some("localhost") || self.insecure_hosts.contains(&lower)
    }

    /// Whether addresses are all in insecure networks. dockerd is content with one of them.
    fn is_in_network(&self, addresses: &[IpAddr]) -> bool {
        let is_in = |address: &IpAddr| {
            self.insecure_networks
                .iter()
                .any(|network| network.contains(address))
        };
        !addresses.is_empty() && addresses.iter().all(is_in)
    }

    /// Where a name leads.
    async fn addresses_of(&self, base: &Url) -> Vec<IpAddr> {
        let Some(url::Host::Domain(name)) = base.host() else {
            return Vec::new();
        };
        let now = Instant::now();
        let lock = || {
            self.resolved
                .lock()
                .expect("no code panics while it holds this lock")
        };
        if let Some((addresses, since)) = lock().get(name)
            && now.duration_since(*since) < RESOLVED_FOR
        {
            return addresses.clone();
        }
        let found = (self.resolve)(name.to_owned()).await;
        let mut resolved = lock();
        resolved.retain(|_, (_, since)| now.duration_since(*since) < RESOLVED_FOR);
        resolved.insert(name.to_owned(), (found.clone(), now));
        found
    }
}

/// The address that stands in an address.
fn addresses_in(url: &Url) -> Vec<IpAddr> {
    match url.host() {
        Some(url::Host::Ipv4(address)) => vec![address.into()],
        Some(url::Host::Ipv6(address)) => vec![address.into()],
        _ => Vec::new(),
    }
}

/// Docker's rules for mirrors (`registry.ValidateMirror`).
fn mirror_url(text: &str) -> Result<Url, EndpointError> {
    let refused = |why: &str| EndpointError::Mirror {
        url: text.to_owned(),
        why: why.to_owned(),
    };
    let mut url = Url::parse(text).map_err(|error| refused(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refused("unsupported scheme, use http or https"));
    }
    if url.host_str().is_none() {
        return Err(refused("it names no host"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused("query or fragment at end of the URI"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("username and password are not allowed in it"));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

/// Whether an address is on this host.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// `host` or `host:port` as it stands in references.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(mirrors: &[&str], insecure: &[&str]) -> Result<Endpoints, EndpointError> {
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Endpoints::new(RegistryOptions {
            mirrors: list(mirrors),
            insecure: list(insecure),
            ..RegistryOptions::default()
        })
    }

    async fn bases(endpoints: &Endpoints, domain: &str) -> Vec<String> {
        endpoints
            .of(domain)
            .await
            .iter()
            .map(|endpoint| endpoint.base.to_string())
            .collect()
    }

    /// `in.example` is in 10.0.0.0/8, `half.example` with one of its addresses.
    fn fake_names(name: String) -> BoxFuture<'static, Vec<IpAddr>> {
        let addresses: &[&str] = match name.as_str() {
            "in.example" => &["10.1.2.3"],
            "half.example" => &["10.1.2.3", "192.0.2.1"],
            "home.example" => &["127.0.0.1"],
            _ => &[],
        };
        let addresses = addresses.iter().map(|text| text.parse().expect("good"));
        Box::pin(std::future::ready(addresses.collect()))
    }

    #[tokio::test]
    async fn mirrors_are_for_the_hub_only_and_insecure_is_what_was_named_so() {
        let mut endpoints = endpoints(
            &["http://m:5000", "https://n/x"],
            &["10.0.0.0/8", "old", "older:80"],
        )
        .expect("good");
        endpoints.resolve_with(fake_names);
        assert_eq!(
            bases(&endpoints, "docker.io").await,
            ["http://m:5000/", "https://n/x/", HUB]
        );
        assert_eq!(bases(&endpoints, "ghcr.io").await, ["https://ghcr.io/"]);
        for (domain, is_insecure) in [
            ("127.0.0.1:5000", true),
            ("127.1:5000", true),
            ("localhost", true),
            ("localhost:5000", true),
            ("[::1]:5000", true),
            ("10.1.2.3", true),
            ("10.1.2.3:6443", true),
            ("11.1.2.3", false),
            ("old", true),
            ("OLD", true),
            // Another port is another registry, as with dockerd.
            ("old:80", false),
            ("older:80", true),
            ("older", false),
            ("in.example:5000", true),
            ("home.example", true),
            ("half.example", false),
            ("elsewhere.example", false),
        ] {
            assert_eq!(
                bases(&endpoints, domain).await.len() == 2,
                is_insecure,
                "{domain} is tried without TLS, too"
            );
        }
        let found = endpoints.of("in.example").await;
        assert_eq!(
            found[0].addresses,
            ["10.1.2.3".parse::<IpAddr>().expect("good")]
        );
        assert!(endpoints.of("host:99999").await.is_empty());
        assert_eq!(
            endpoints.of("docker.io").await[1]
                .url("a/b/manifests/c")
                .expect("good")
                .as_str(),
            "https://n/x/v2/a/b/manifests/c"
        );
    }

    #[tokio::test]
    async fn what_is_down_is_asked_last_and_what_answered_plainly_is_asked_so_first() {
        let endpoints = endpoints(&["http://m"], &[]).expect("good");
        let mirror = endpoints.of("docker.io").await[0].clone();
        endpoints.is_down(&mirror);
        assert_eq!(bases(&endpoints, "docker.io").await, [HUB, "http://m/"]);
        endpoints.answered(&mirror);
        assert_eq!(bases(&endpoints, "docker.io").await, ["http://m/", HUB]);
        let both = ["https://127.0.0.1:5000/", "http://127.0.0.1:5000/"];
        assert_eq!(bases(&endpoints, "127.0.0.1:5000").await, both);
        let plain = endpoints.of("127.0.0.1:5000").await[1].clone();
        endpoints.answered(&plain);
        assert_eq!(
            bases(&endpoints, "127.0.0.1:5000").await,
            [both[1], both[0]]
        );
        let tls = endpoints.of("127.0.0.1:5000").await[1].clone();
        endpoints.answered(&tls);
        assert_eq!(bases(&endpoints, "127.0.0.1:5000").await, both);
    }

    #[test]
    fn bad_options_are_refused() {
        for mirror in [
            "m:5000",
            "ftp://m",
            "http://u:p@m",
            "http://m/?q",
            "http://",
        ] {
            assert!(endpoints(&[mirror], &[]).is_err(), "{mirror}");
        }
        for insecure in ["http://x", "", "a/b"] {
            assert!(endpoints(&[], &[insecure]).is_err(), "{insecure}");
        }
    }
}
