//! Which proxy an address is asked through, by the rules of Go's clients and so of dockerd's
//! (golang.org/x/net/http/httpproxy).

use super::endpoint::EndpointError;
use ipnet::IpNet;
use reqwest::{ClientBuilder, Proxy, Url};
use std::net::IpAddr;
use std::sync::Arc;

/// The administrator's choice of proxies; what is not given comes from `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` of the
/// engine's environment, each for itself. Loopback is always reached without one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    pub http: Option<String>,
    pub https: Option<String>,
    /// Hosts, domains and networks reached without a proxy, separated by commas; with a port, only there; `*` is all.
    pub none: Option<String>,
}

/// Proxies ready for use. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ProxyRules {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    http: Option<Url>,
    https: Option<Url>,
    direct: Vec<Direct>,
}

/// An entry of `NO_PROXY`.
#[derive(Debug, PartialEq, Eq)]
enum Direct {
    All,
    Network(IpNet),
    Address(IpAddr, Option<u16>),
    /// A domain with all below it, or only those.
    Domain {
        name: String,
        port: Option<u16>,
        is_included: bool,
    },
}

impl ProxyRules {
    /// Checks the addresses: one with a slip must be told now and not at the first pull. One of the environment, which may
    /// be meant for other programs, is passed over with a warning.
    pub fn new(given: Proxies) -> Result<ProxyRules, EndpointError> {
        ProxyRules::with(given, |name| std::env::var(name).ok())
    }

    fn with(
        given: Proxies,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<ProxyRules, EndpointError> {
        let named = |name: &str| {
            [name.to_owned(), name.to_ascii_lowercase()]
                .iter()
                .find_map(|name| environment(name).filter(|value| !value.is_empty()))
        };
        let choose = |given: Option<String>, name: &str| {
            match given {
            Some(url) => proxy_url(&url),
            None => Ok(named(name).and_then(|url| {
                proxy_url(&url).unwrap_or_else(|error| {
                    tracing::warn!(variable = name, %error, "a proxy of the environment is not used");
                    None
                })
            })),
        }
        };
        let none = given.none.or_else(|| named("NO_PROXY")).unwrap_or_default();
        Ok(ProxyRules {
            inner: Arc::new(Inner {
                http: choose(given.http, "HTTP_PROXY")?,
                https: choose(given.https, "HTTPS_PROXY")?,
                direct: none.split(',').filter_map(Direct::parse).collect(),
            }),
        })
    }

    /// The proxy for an address; `None`: without.
    pub fn of(&self, url: &Url) -> Option<Url> {
        let proxy = match url.scheme() {
            "https" => self.inner.https.as_ref(),
            _ => self.inner.http.as_ref(),
        }?;
        let is_direct = super::endpoint::is_loopback(url)
            || self.inner.direct.iter().any(|direct| direct.fits(url));
        (!is_direct).then(|| proxy.clone())
    }

    /// A client that goes by these rules and nothing else.
    pub(crate) fn apply(&self, builder: ClientBuilder) -> ClientBuilder {
        let rules = self.clone();
        // `no_proxy` takes away those that reqwest finds in the environment itself.
        builder
            .no_proxy()
            .proxy(Proxy::custom(move |url| rules.of(url)))
    }
}

/// An address of a proxy; without a scheme it is HTTP's.
fn proxy_url(text: &str) -> Result<Option<Url>, EndpointError> {
    let refused = |why: &str| EndpointError::Proxy {
        url: without_password(text),
        why: why.to_owned(),
    };
    let url = match text.contains("://") {
        true => Url::parse(text),
        false => Url::parse(&format!("http://{text}")),
    }
    .map_err(|error| refused(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refused("only proxies of http and https are known"));
    }
    match url.host_str() {
        Some(_) => Ok(Some(url)),
        None => Err(refused("it names no host")),
    }
}

/// An address as it may be shown.
fn without_password(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut url) if url.password().is_some() => {
            let _ = url.set_password(Some("xxxxx"));
            url.to_string()
        }
        _ => match url.rsplit_once('@') {
            Some((_, host)) => format!("xxxxx@{host}"),
            None => url.to_owned(),
        },
    }
}

impl Direct {
    fn parse(text: &str) -> Option<Direct> {
        let text = text.trim().to_ascii_lowercase();
        if text == "*" {
            return Some(Direct::All);
        }
        if let Ok(network) = text.parse() {
            return Some(Direct::Network(network));
        }
        let bare = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>();
        if let Ok(address) = bare(&text) {
            return Some(Direct::Address(address, None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (text.as_str(), None),
        };
        if let Ok(address) = bare(host) {
            return Some(Direct::Address(address, port));
        }
        // `.name` and `*.name` are what is below it, `name` is itself, too.
        let host = host.strip_prefix('*').unwrap_or(host);
        let name = host.strip_prefix('.').unwrap_or(host);
        (!name.is_empty()).then(|| Direct::Domain {
            name: name.to_owned(),
            port,
            is_included: name.len() == host.len(),
        })
    }

    fn fits(&self, url: &Url) -> bool {
        let address = match url.host() {
            Some(url::Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(url::Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        };
        let is_port =
            |port: &Option<u16>| port.is_none_or(|port| url.port_or_known_default() == Some(port));
        match self {
            Direct::All => true,
            Direct::Network(network) => address.is_some_and(|address| network.contains(&address)),
            Direct::Address(wanted, port) => address == Some(*wanted) && is_port(port),
            Direct::Domain {
                name,
                port,
                is_included,
            } => url.host_str().is_some_and(|host| {
                let is_below = host
                    .strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.ends_with('.'));
                (is_below || *is_included && host == name) && is_port(port)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(given: [Option<&str>; 3], environment: &[(&str, &str)]) -> ProxyRules {
        let [http, https, none] = given.map(|text| text.map(str::to_owned));
        ProxyRules::with(Proxies { http, https, none }, |wanted| {
            environment
                .iter()
                .find(|(name, _)| *name == wanted)
                .map(|(_, value)| (*value).to_owned())
        })
        .expect("good proxies")
    }

    #[track_caller]
    fn proxy_of(rules: &ProxyRules, url: &str) -> String {
        rules
            .of(&Url::parse(url).expect("good"))
            .map_or("direct".into(), |url| url.to_string())
    }

    #[test]
    fn each_choice_stands_for_itself_before_the_environment() {
        let environment = [
            ("HTTPS_PROXY", "http://env:1"),
            ("http_proxy", "env:2"),
            ("NO_PROXY", "a.example"),
            ("ALL_PROXY", "http://nobody:9"),
        ];
        let chosen = rules([Some("http://given:3"), None, None], &environment);
        assert_eq!(proxy_of(&chosen, "https://b.example/"), "http://env:1/");
        assert_eq!(proxy_of(&chosen, "http://b.example/"), "http://given:3/");
        assert_eq!(proxy_of(&chosen, "https://a.example/"), "direct");
        let chosen = rules([None, None, Some("10.99.0.1")], &environment);
        assert_eq!(proxy_of(&chosen, "http://10.99.0.1:5000/"), "direct");
        assert_eq!(proxy_of(&chosen, "http://a.example/"), "http://env:2/");
        assert_eq!(
            proxy_of(&rules([None; 3], &[]), "http://a.example/"),
            "direct"
        );
    }

    #[test]
    fn what_needs_no_proxy_is_told_as_to_gos_clients() {
        for (none, url, is_direct) in [
            ("*", "http://10.1.2.3:5000/", true),
            ("*", "https://[fd00::1]/", true),
            ("reg.example:5000", "http://reg.example:5000/", true),
            ("reg.example:5000", "http://reg.example:5001/", false),
            ("reg.example:443", "https://reg.example/", true),
            ("10.1.2.3:5000", "http://10.1.2.3:5000/", true),
            ("10.1.2.3:5000", "http://10.1.2.3/", false),
            ("10.0.0.0/8", "http://10.1.2.3:5000/", true),
            ("10.0.0.0/8", "http://11.1.2.3:5000/", false),
            ("[fd00::1]", "http://[fd00::1]:80/", true),
            ("[fd00::1]:80", "http://[fd00::1]:80/", true),
            ("Example", "http://a.example/", true),
            ("example", "http://example/", true),
            ("example", "http://anexample/", false),
            (".example", "http://example/", false),
            (".example", "http://a.example/", true),
            ("*.example", "http://a.example/", true),
            ("*.example", "http://example/", false),
            (" x , b.example ", "http://b.example/", true),
            ("", "http://b.example/", false),
            ("", "http://localhost:5000/", true),
            ("", "http://127.1.2.3:5000/", true),
        ] {
            let chosen = rules([Some("http://p:1"), Some("http://p:1"), Some(none)], &[]);
            let got = proxy_of(&chosen, url) == "direct";
            assert_eq!(got, is_direct, "{url} with {none:?}");
        }
    }

    #[test]
    fn addresses_with_a_slip_are_told_without_their_password() {
        for bad in [
            "ftp://me:secret@p",
            "http://me:secret@p:x",
            "me:secret@p:x",
            "http://",
        ] {
            let given = Proxies {
                https: Some(bad.into()),
                ..Proxies::default()
            };
            let error = ProxyRules::with(given, |_| None).expect_err(bad);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let environment = [("HTTPS_PROXY", "socks5://p"), ("HTTP_PROXY", "http://p:1")];
        let chosen = rules([None; 3], &environment);
        assert_eq!(proxy_of(&chosen, "https://a.example/"), "direct");
        assert_eq!(proxy_of(&chosen, "http://a.example/"), "http://p:1/");
    }

    proptest::proptest! {
        #[test]
        fn no_entry_makes_it_panic(text in "\\PC{0,30}") {
            let _ = Direct::parse(&text);
        }
    }
}
