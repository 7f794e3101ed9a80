//! What the engine will do, made of [`Options`]: defaults put in, everything checked. Nothing is looked up on the host here,
//! so `--validate` can run anywhere.

use super::build_cache;
use super::options::{Options, RuntimeProgram};
use engine::builds::cache::CacheLimits;
use engine::containers::log_drivers;
use engine::containers::plan::names_built_in;
use engine::containers::spec::LogSettings;
use engine::images::policy::{Policy, Rules};
use engine::networks::ipam::Pool;
use engine::runtime::Rlimit;
use engine_linux::registry::Proxies;
use engine_linux::runtime::BUILT_IN as BUILT_IN_RUNTIME;
use ipnet::{Ipv4Net, Ipv6Net};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use tracing::level_filters::LevelFilter;

/// The checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub hosts: Vec<Host>,
    /// Group of the unix socket; `None`: `docker` where it exists.
    pub group: Option<String>,
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
    pub pidfile: Option<PathBuf>,
    pub tls: Option<TlsFiles>,
    /// Address and prefix length of the default bridge.
    pub bip: Option<Ipv4Net>,
    pub bridge: Option<String>,
    /// The part of the default bridge's subnet that containers' addresses are from.
    pub fixed_cidr: Option<Ipv4Net>,
    /// IPv6 on the default bridge, and its subnet where one was asked for.
    pub ipv6: bool,
    pub fixed_cidr_v6: Option<Ipv6Net>,
    /// Containers on the default bridge may talk to each other.
    pub icc: bool,
    pub mtu: Option<u32>,
    /// Where ports of the default bridge are published that name no address.
    pub port_address: Option<Ipv4Addr>,
    /// What `host-gateway` stands for; at most one of each family.
    pub host_gateways: Vec<IpAddr>,
    /// Make firewall rules, for IPv4 and for IPv6.
    pub iptables: bool,
    pub ip6tables: bool,
    /// Serve published ports on loopback by a proxy inside the engine.
    pub userland_proxy: bool,
    /// Switch on the kernel's IP forwarding.
    pub ip_forward: bool,
    /// Hide containers of the default bridge behind the host's addresses.
    pub ip_masq: bool,
    /// Ranges that networks get their subnets from; empty: Docker's.
    pub address_pools: Vec<Pool>,
    pub registry_mirrors: Vec<String>,
    pub insecure_registries: Vec<String>,
    pub max_concurrent_downloads: usize,
    pub max_concurrent_uploads: usize,
    pub max_download_attempts: Option<u32>,
    pub registry_certs: Vec<PathBuf>,
    pub search_index: Option<String>,
    pub proxies: Proxies,
    /// Which repositories may be pulled from and pushed to.
    pub policy: Policy,
    /// For containers that name no log driver.
    pub log: LogSettings,
    pub default_ulimits: Vec<Rlimit>,
    pub dns: Vec<IpAddr>,
    pub dns_options: Vec<String>,
    pub dns_search: Vec<String>,
    pub runtimes: BTreeMap<String, RuntimeProgram>,
    /// `None`: the built-in one.
    pub default_runtime: Option<String>,
    /// The program of `--init` instead of our own.
    pub init_path: Option<PathBuf>,
    /// Every container has an init unless it says otherwise.
    pub init: bool,
    /// Empty: our own.
    pub cgroup_parent: String,
    pub no_new_privileges: bool,
    /// Bytes; `None`: Docker's 64 MB.
    pub default_shm_size: Option<u64>,
    pub experimental: bool,
    /// How much of the build cache is kept.
    pub build_cache: CacheLimits,
    pub labels: Vec<String>,
    /// See [`engine::containers::Settings`].
    pub desktop_folders: Option<Vec<String>>,
    pub log_level: LevelFilter,
    pub warnings: Vec<String>,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Unix(path) => write!(f, "unix://{}", path.display()),
            Host::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// PEM files for tcp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// With it, clients must show a certificate this authority has signed.
    pub client_ca: Option<PathBuf>,
}

/// Why the configuration cannot be used: which option and why.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

fn wrong<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(text.into()))
}

impl Config {
    /// Checks everything and puts the defaults in.
    pub fn from_options(options: Options) -> Result<Config, ConfigError> {
        let Options {
            hosts,
            group,
            data_root,
            exec_root,
            pidfile,
            tls,
            tlsverify,
            tlscacert,
            tlscert,
            tlskey,
            bip,
            bridge,
            fixed_cidr,
            ipv6,
            fixed_cidr_v6,
            icc,
            mtu,
            ip,
            host_gateway_ips,
            host_gateway_ip,
            iptables,
            ip6tables,
            ip_forward,
            ip_masq,
            default_address_pools,
            userland_proxy,
            registry_mirrors,
            insecure_registries,
            max_concurrent_downloads,
            max_concurrent_uploads,
            max_download_attempts,
            registry_certs,
            search_index,
            http_proxy,
            https_proxy,
            no_proxy,
            proxies,
            allow_pull,
            block_pull,
            allow_push,
            block_push,
            storage_driver,
            log_driver,
            log_opts,
            default_ulimits,
            dns,
            dns_opts,
            dns_search,
            runtimes,
            default_runtime,
            init_path,
            init,
            cgroup_parent,
            no_new_privileges,
            default_shm_size,
            labels,
            desktop_folders,
            log_level,
            debug,
            live_restore: _,
            experimental,
            build_cache_size,
            build_cache_age,
            build_cache_entries,
            builder,
        } = options;

        if let Some(driver) = storage_driver
            && driver != "overlay2"
        {
            return wrong(format!(
                "storage driver {driver:?} is not supported: overlay2 is the only one"
            ));
        }

        if iptables == Some(false) && userland_proxy == Some(false) {
            return wrong(
                "--iptables=false and --userland-proxy=false together leave nobody to serve published ports",
            );
        }
        let tls_files = tls_files(tls, tlsverify, tlscacert, tlscert, tlskey)?;
        let mut warnings = Vec::new();
        let hosts = if hosts.is_empty() {
            vec![Host::Unix(guest_contract::API_SOCKET.into())]
        } else {
            let default_port = if tls_files.is_some() { 2376 } else { 2375 };
            let mut parsed = Vec::with_capacity(hosts.len());
            for host in &hosts {
                let host = parse_host(host, default_port)?;
                if let Host::Tcp(address) = host {
                    let asked = tls == Some(false) || tlsverify == Some(false);
                    check_exposure(address, tls_files.as_ref(), asked, &mut warnings)?;
                }
                if parsed.contains(&host) {
                    return wrong(format!("--host {host} is given twice"));
                }
                parsed.push(host);
            }
            parsed
        };

        check_labels(&labels)?;
        let log_driver = log_driver.unwrap_or_else(|| "json-file".into());
        let log_options: BTreeMap<String, String> = log_opts.into_iter().collect();
        let log = LogSettings {
            driver: log_driver,
            options: log_options,
        };
        log_drivers::check(&log).map_err(ConfigError)?;
        let runtimes: BTreeMap<String, RuntimeProgram> = runtimes.into_iter().collect();
        if runtimes.contains_key(BUILT_IN_RUNTIME) {
            return wrong(format!(
                "runtime name '{BUILT_IN_RUNTIME}' is reserved for the built-in one"
            ));
        }
        let default_runtime = default_runtime.filter(|name| name != BUILT_IN_RUNTIME);
        if let Some(name) = &default_runtime
            && !runtimes.contains_key(name)
            && !names_built_in(name)
        {
            return wrong(format!(
                "specified default runtime '{name}' does not exist; add it with --add-runtime {name}=/path"
            ));
        }
        if max_concurrent_downloads == Some(0) {
            return wrong("invalid max concurrent downloads: 0");
        }
        if max_concurrent_uploads == Some(0) {
            return wrong("invalid max concurrent uploads: 0");
        }
        if max_download_attempts == Some(0) {
            return wrong("invalid max download attempts: 0");
        }
        let policy = Policy {
            pull: Rules {
                allow: allow_pull,
                block: block_pull,
            },
            push: Rules {
                allow: allow_push,
                block: block_push,
            },
        };
        if let Err(error) = policy.check() {
            return wrong(error.to_string());
        }
        let given = proxies.unwrap_or_default();
        let proxies = Proxies {
            http: http_proxy.or(given.http_proxy),
            https: https_proxy.or(given.https_proxy),
            none: no_proxy.or(given.no_proxy),
        };

        Ok(Config {
            hosts,
            group,
            data_root: absolute("--data-root", data_root, guest_contract::DATA_ROOT)?,
            exec_root: absolute("--exec-root", exec_root, guest_contract::EXEC_ROOT)?,
            pidfile,
            tls: tls_files,
            bip: bip.as_deref().map(parse_bip).transpose()?,
            bridge: bridge.map(check_bridge).transpose()?,
            fixed_cidr: fixed_cidr
                .map(|text| parse_range("--fixed-cidr", &text))
                .transpose()?,
            ipv6: ipv6.unwrap_or(false),
            fixed_cidr_v6: fixed_cidr_v6
                .map(|text| parse_range("--fixed-cidr-v6", &text))
                .transpose()?,
            icc: icc.unwrap_or(true),
            mtu: mtu.filter(|mtu| *mtu != 0).map(check_mtu).transpose()?,
            port_address: ip
                .map(|text| {
                    text.parse()
                        .map_err(|_| ConfigError(format!("--ip {text}: it is not an IPv4 address")))
                })
                .transpose()?,
            host_gateways: host_gateways(host_gateway_ip.into_iter().chain(host_gateway_ips))?,
            iptables: iptables.unwrap_or(true),
            ip6tables: ip6tables.unwrap_or(true),
            userland_proxy: userland_proxy.unwrap_or(true),
            ip_forward: ip_forward.unwrap_or(true),
            ip_masq: ip_masq.unwrap_or(true),
            address_pools: default_address_pools,
            registry_mirrors: registry_mirrors
                .iter()
                .map(|mirror| check_mirror(mirror))
                .collect::<Result<_, _>>()?,
            insecure_registries: insecure_registries
                .into_iter()
                .map(check_insecure_registry)
                .collect::<Result<_, _>>()?,
            max_concurrent_downloads: max_concurrent_downloads.unwrap_or(3),
            max_concurrent_uploads: max_concurrent_uploads.unwrap_or(5),
            max_download_attempts,
            registry_certs: match registry_certs.is_empty() {
                true => vec![
                    PathBuf::from("/etc/berth/certs.d"),
                    PathBuf::from("/etc/docker/certs.d"),
                ],
                false => registry_certs,
            },
            search_index,
            proxies,
            policy,
            log,
            default_ulimits,
            dns: dns
                .iter()
                .map(|address| {
                    address.parse().map_err(|_| {
                        ConfigError(format!("IP address is not correctly formatted: {address}"))
                    })
                })
                .collect::<Result<_, _>>()?,
            dns_options: dns_opts,
            dns_search,
            runtimes,
            default_runtime,
            init_path: init_path
                .map(|path| absolute("--init-path", Some(path), ""))
                .transpose()?,
            init: init.unwrap_or(false),
            cgroup_parent: cgroup_parent.unwrap_or_default(),
            no_new_privileges: no_new_privileges.unwrap_or(false),
            default_shm_size: default_shm_size
                .map(|text| {
                    log_drivers::parse_size(&text)
                        .filter(|size| *size > 0)
                        .ok_or_else(|| {
                            ConfigError(format!("--default-shm-size {text}: invalid size"))
                        })
                })
                .transpose()?,
            experimental: experimental.unwrap_or(false),
            build_cache: build_cache::limits(
                build_cache_size,
                build_cache_age,
                build_cache_entries,
                builder,
            )
            .map_err(ConfigError)?,
            labels,
            desktop_folders: desktop_folders.map(|list| {
                let folders = list.split(':').filter(|folder| !folder.is_empty());
                folders.map(str::to_owned).collect()
            }),
            log_level: if debug == Some(true) {
                LevelFilter::DEBUG
            } else {
                parse_level(log_level.as_deref().unwrap_or("info"))?
            },
            warnings,
        })
    }

    /// The unix sockets and tcp addresses together as a sentence's end.
    pub fn describe_hosts(&self) -> String {
        let names: Vec<String> = self.hosts.iter().map(Host::to_string).collect();
        names.join(", ")
    }
}

fn tls_files(
    tls: Option<bool>,
    verify: Option<bool>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<TlsFiles>, ConfigError> {
    let verify = verify.unwrap_or(false);
    if tls == Some(false) && verify {
        return wrong("--tls=false and --tlsverify contradict each other");
    }
    if !verify && tls != Some(true) {
        return Ok(None);
    }
    let switch = if verify { "--tlsverify" } else { "--tls" };
    let (Some(cert), Some(key)) = (cert, key) else {
        return wrong(format!("{switch} needs --tlscert and --tlskey"));
    };
    if verify && ca.is_none() {
        return wrong("--tlsverify needs --tlscacert");
    }
    Ok(Some(TlsFiles {
        cert,
        key,
        client_ca: ca.filter(|_| verify),
    }))
}

/// Who may use the API is root on this host. So tcp without client certificates is for loopback, unless somebody says in so
/// many words (`--tls=false`, `--tlsverify=false`) that he means it; newer dockerds ask for the same.
fn check_exposure(
    address: SocketAddr,
    tls: Option<&TlsFiles>,
    asked: bool,
    warnings: &mut Vec<String>,
) -> Result<(), ConfigError> {
    if tls.is_some_and(|files| files.client_ca.is_some()) {
        return Ok(());
    }
    if !address.ip().is_loopback() && !asked {
        let unless = if tls.is_some() {
            "--tlsverify=false"
        } else {
            "--tls=false"
        };
        return wrong(format!(
            "tcp://{address} without client certificates gives root on this host to everybody who can reach it: use --tlsverify with --tlscacert, --tlscert and --tlskey, or {unless} if you really mean it"
        ));
    }
    let who = if address.ip().is_loopback() {
        "everybody on this host"
    } else {
        "EVERYBODY WHO CAN REACH IT"
    };
    warnings.push(format!(
        "API is accessible on tcp://{address} without client certificates: {who} has root access to this host"
    ));
    Ok(())
}

fn parse_host(text: &str, default_port: u16) -> Result<Host, ConfigError> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
    match scheme {
        "unix" => {
            let path = if rest.is_empty() {
                guest_contract::API_SOCKET
            } else {
                rest
            };
            if !path.starts_with('/') {
                return wrong(format!(
                    "--host {text}: the path of a unix socket must be absolute"
                ));
            }
            // sun_path holds 108 bytes with the final zero, and a suffix of ours while the socket is being made.
            if path.len() > 100 {
                return wrong(format!(
                    "--host {text}: the path of a unix socket may have at most 100 bytes"
                ));
            }
            Ok(Host::Unix(path.into()))
        }
        "tcp" => parse_tcp(rest.trim_end_matches('/'), default_port)
            .map(Host::Tcp)
            .ok_or_else(|| {
                ConfigError(format!(
                    "--host {text}: expected tcp://ADDRESS:PORT with a numeric address or localhost"
                ))
            }),
        "fd" => wrong(format!(
            "--host {text}: socket activation is not supported; name the socket with unix:///path"
        )),
        "npipe" => wrong(format!("--host {text}: named pipes are for Windows")),
        _ => wrong(format!("invalid bind address ({text}): unsupported proto")),
    }
}

/// `127.0.0.1:2376`, `:2376`, `localhost`, `[::1]:2376`. No names are looked up: what is bound must not depend on a resolver.
fn parse_tcp(text: &str, default_port: u16) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    let address = |host: &str| match host {
        "" | "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        host => host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse()
            .ok(),
    };
    if let Some(ip) = address(text) {
        return Some(SocketAddr::new(ip, default_port));
    }
    let (host, port) = text.rsplit_once(':')?;
    Some(SocketAddr::new(address(host)?, port.parse().ok()?))
}

fn parse_bip(text: &str) -> Result<Ipv4Net, ConfigError> {
    let Ok(net) = text.parse::<Ipv4Net>() else {
        return wrong(format!(
            "--bip {text}: invalid CIDR address, expected 172.17.0.1/16"
        ));
    };
    if !(8..=30).contains(&net.prefix_len()) {
        return wrong(format!(
            "--bip {text}: this prefix is no use for a bridge; take /8 to /30"
        ));
    }
    if net.addr() == net.network() || net.addr() == net.broadcast() {
        return wrong(format!(
            "--bip {text}: this is the address of the network itself; give the bridge's own"
        ));
    }
    Ok(net)
}

/// A range of either family, without bits beyond its length.
fn parse_range<T>(flag: &str, text: &str) -> Result<T, ConfigError>
where
    T: std::str::FromStr,
{
    text.parse()
        .map_err(|_| ConfigError(format!("{flag} {text}: invalid CIDR address")))
}

/// The least that IPv4 demands, and the most a link can have.
fn check_mtu(mtu: u32) -> Result<u32, ConfigError> {
    match mtu {
        68..=65535 => Ok(mtu),
        _ => wrong(format!("--mtu {mtu}: it must be from 68 to 65535")),
    }
}

fn host_gateways(texts: impl Iterator<Item = String>) -> Result<Vec<IpAddr>, ConfigError> {
    let mut gateways: Vec<IpAddr> = Vec::new();
    for text in texts {
        let Ok(address) = text.parse::<IpAddr>() else {
            return wrong(format!("--host-gateway-ip {text}: it is not an IP address"));
        };
        if gateways
            .iter()
            .any(|other| other.is_ipv4() == address.is_ipv4())
        {
            return wrong("only one IPv4 and one IPv6 host-gateway-ip address can be specified");
        }
        gateways.push(address);
    }
    Ok(gateways)
}

/// The name of a network interface (at most 15 bytes, IFNAMSIZ less one).
fn check_bridge(name: String) -> Result<String, ConfigError> {
    if name == "none" {
        return wrong("--bridge none is not supported yet: the default bridge is always there");
    }
    if name.is_empty()
        || name.len() > 15
        || name.contains(['/', ':'])
        || name.contains(char::is_whitespace)
    {
        return wrong(format!(
            "--bridge {name:?}: the name of a bridge has 1 to 15 characters without spaces, slashes and colons"
        ));
    }
    Ok(name)
}

fn check_mirror(text: &str) -> Result<String, ConfigError> {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    let Some(rest) = rest else {
        return wrong(format!(
            "invalid mirror: {text:?} must begin with http:// or https://"
        ));
    };
    let host = rest.trim_end_matches('/');
    if host.is_empty() || rest.contains(['?', '#', '@']) {
        return wrong(format!(
            "invalid mirror: {text:?} must be a URL of a host without user, query or fragment"
        ));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn check_insecure_registry(text: String) -> Result<String, ConfigError> {
    if text.is_empty() || text.contains("://") || text.starts_with('-') {
        return wrong(format!(
            "insecure registry {text:?} is not valid: give host, host:port or CIDR without http://"
        ));
    }
    Ok(text)
}

fn check_labels(labels: &[String]) -> Result<(), ConfigError> {
    let mut seen = BTreeMap::new();
    for label in labels {
        let Some((key, value)) = label.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return wrong(format!("bad attribute format: {label}"));
        };
        if let Some(other) = seen.insert(key, value)
            && other != value
        {
            return wrong(format!(
                "conflict labels for {key}={value} and {key}={other}"
            ));
        }
    }
    Ok(())
}

fn parse_level(text: &str) -> Result<LevelFilter, ConfigError> {
    match text {
        "debug" => Ok(LevelFilter::DEBUG),
        "info" => Ok(LevelFilter::INFO),
        "warn" => Ok(LevelFilter::WARN),
        "error" | "fatal" => Ok(LevelFilter::ERROR),
        _ => wrong(format!("invalid logging level: {text}")),
    }
}

fn absolute(flag: &str, path: Option<PathBuf>, default: &str) -> Result<PathBuf, ConfigError> {
    let path = path.unwrap_or_else(|| default.into());
    if path.is_absolute() && path != Path::new("/") {
        return Ok(path);
    }
    wrong(format!(
        "{flag} {}: must be an absolute path of a folder",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: impl FnOnce(&mut Options)) -> Result<Config, ConfigError> {
        let mut options = Options::default();
        change(&mut options);
        Config::from_options(options)
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut Options), part: &str) {
        let error = config(change).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn nothing_asked_gives_the_defaults() {
        let config = config(|_| {}).unwrap();
        assert_eq!(config.hosts, [Host::Unix("/run/berth.sock".into())]);
        assert_eq!(config.data_root, Path::new("/var/lib/berth"));
        assert_eq!(config.exec_root, Path::new("/run/berth"));
        assert_eq!(config.log.driver, "json-file");
        assert_eq!(config.max_concurrent_downloads, 3);
    }

    #[test]
    fn addresses() {
        let tcp = |text: &str| parse_tcp(text, 2375).map(|address| address.to_string());
        assert_eq!(tcp("127.0.0.1:1").as_deref(), Some("127.0.0.1:1"));
        assert_eq!(tcp(":2376").as_deref(), Some("127.0.0.1:2376"));
        assert_eq!(tcp("localhost").as_deref(), Some("127.0.0.1:2375"));
        assert_eq!(tcp("[::1]:5").as_deref(), Some("[::1]:5"));
        assert_eq!(tcp("[::1]").as_deref(), Some("[::1]:2375"));
        assert_eq!(tcp("example.org:80"), None);
        assert_eq!(tcp("1.2.3.4:99999"), None);
        refused(|o| o.hosts = vec!["fd://".into()], "socket activation");
        refused(|o| o.hosts = vec!["ftp://x".into()], "unsupported proto");
        refused(|o| o.hosts = vec!["unix://x".into()], "absolute");
        refused(
            |o| o.hosts = vec!["unix:///a".into(), "unix:///a".into()],
            "twice",
        );
    }

    #[test]
    fn tcp_without_certificates_is_for_loopback() {
        let open = |hosts: &str| {
            let hosts = vec![hosts.to_owned()];
            move |options: &mut Options| options.hosts = hosts
        };
        refused(open("tcp://0.0.0.0:2375"), "gives root on this host");
        let local = config(open("tcp://127.0.0.1:2375")).unwrap();
        assert_eq!(local.warnings.len(), 1);
        let meant = config(|o| {
            o.hosts = vec!["tcp://0.0.0.0:2375".into()];
            o.tls = Some(false);
        })
        .unwrap();
        assert!(meant.warnings[0].contains("EVERYBODY"));
        refused(
            |o| {
                o.hosts = vec!["tcp://0.0.0.0".into()];
                o.tls = Some(true);
                o.tlscert = Some("c".into());
                o.tlskey = Some("k".into());
            },
            "--tlsverify=false",
        );
        let mutual = config(|o| {
            o.hosts = vec!["tcp://0.0.0.0".into()];
            o.tlsverify = Some(true);
            o.tlscacert = Some("ca".into());
            o.tlscert = Some("c".into());
            o.tlskey = Some("k".into());
        })
        .unwrap();
        assert_eq!(mutual.hosts[0].to_string(), "tcp://0.0.0.0:2376");
        assert!(mutual.warnings.is_empty());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        refused(
            |o| o.tlsverify = Some(true),
            "--tlsverify needs --tlscert and --tlskey",
        );
        refused(
            |o| o.storage_driver = Some("aufs".into()),
            "overlay2 is the only one",
        );
        refused(|o| o.bip = Some("172.17.0.1".into()), "invalid CIDR");
        refused(|o| o.bip = Some("172.17.0.1/32".into()), "/8 to /30");
        refused(|o| o.bip = Some("172.17.0.0/16".into()), "network itself");
        refused(
            |o| o.bridge = Some("a-much-too-long-name".into()),
            "1 to 15",
        );
        refused(|o| o.labels = vec!["x".into()], "bad attribute format: x");
        refused(
            |o| o.labels = vec!["x=1".into(), "x=2".into()],
            "conflict labels",
        );
        refused(
            |o| o.log_driver = Some("syslog".into()),
            "no log driver named 'syslog'",
        );
        refused(
            |o| o.log_opts = vec![("colour".into(), "red".into())],
            "unknown log opt 'colour' for json-file log driver",
        );
        refused(
            |o| o.log_level = Some("loud".into()),
            "invalid logging level: loud",
        );
        refused(
            |o| o.registry_mirrors = vec!["ftp://x".into()],
            "invalid mirror",
        );
        refused(
            |o| o.insecure_registries = vec!["http://x".into()],
            "without http://",
        );
        refused(
            |o| {
                o.iptables = Some(false);
                o.userland_proxy = Some(false);
            },
            "leave nobody to serve published ports",
        );
        refused(
            |o| o.host_gateway_ips = vec!["10.0.2.2".into(), "10.0.2.3".into()],
            "only one IPv4 and one IPv6",
        );
        refused(|o| o.mtu = Some(12), "from 68 to 65535");
        refused(|o| o.fixed_cidr = Some("x".into()), "invalid CIDR");
        refused(
            |o| o.default_runtime = Some("crun".into()),
            "does not exist",
        );
        refused(
            |o| o.dns = vec!["dns".into()],
            "IP address is not correctly formatted: dns",
        );
        refused(|o| o.data_root = Some("relative".into()), "absolute");
    }
}
