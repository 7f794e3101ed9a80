//! The command line and `daemon.json`: dockerd's names, so that what people know and have goes on working.
//!
//! Both give an [`Options`]; an option may be given by one of them, not by both. [`super::config`] makes sense of it.

use engine::networks::ipam::Pool;
use engine::runtime::Rlimit;
use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

macro_rules! declare_options {
    ($($(#[$attribute:meta])* $field:ident: $type:ty = $key:literal,)*) => {
        /// What was asked for, by either source. `None` and empty lists: not given.
        #[derive(Debug, Clone, Default, PartialEq, clap::Args, Deserialize)]
        #[serde(default)]
        pub struct Options {
            $($(#[$attribute])* #[serde(rename = $key)] pub $field: $type,)*
        }

        impl Options {
            /// The keys of daemon.json.
            const KEYS: &'static [&'static str] = &[$($key),*];

            /// Joins both sources; on conflict the list of options that both have, in dockerd's words.
            fn join(flags: Options, file: Options) -> Result<Options, Vec<String>> {
                let mut conflicts = Vec::new();
                let joined = Options {
                    $($field: match (flags.$field.is_given(), file.$field.is_given()) {
                        (true, true) => {
                            conflicts.push(format!("{}: (from flag: {:?}, from file: {:?})",
                                $key, flags.$field.shown(), file.$field.shown()));
                            flags.$field
                        }
                        (true, false) => flags.$field,
                        (false, _) => file.$field,
                    },)*
                };
                if conflicts.is_empty() { Ok(joined) } else { Err(conflicts) }
            }
        }
    };
}

declare_options! {
    /// Where to listen: unix:///path or tcp://address:port; may be repeated [default: unix:///run/berth.sock]
    #[arg(short = 'H', long = "host", value_name = "URL")]
    hosts: Vec<String> = "hosts",
    /// Group that may use the unix socket [default: docker, where that group exists]
    #[arg(short = 'G', long)]
    group: Option<String> = "group",
    /// Folder of everything that lasts [default: /var/lib/berth]
    #[arg(long, value_name = "FOLDER")]
    data_root: Option<PathBuf> = "data-root",
    /// Folder of sockets and other run-time state [default: /run/berth]
    #[arg(long, value_name = "FOLDER")]
    exec_root: Option<PathBuf> = "exec-root",
    /// Write the process id to this file
    #[arg(short, long, value_name = "FILE")]
    pidfile: Option<PathBuf> = "pidfile",

    /// Encrypt tcp; --tls=false allows tcp without it on any address
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    tls: Option<bool> = "tls",
    /// Encrypt tcp and ask clients for a certificate
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    tlsverify: Option<bool> = "tlsverify",
    /// Certificate of the authority that signs clients' certificates
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf> = "tlscacert",
    /// Certificate to show
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf> = "tlscert",
    /// Key of the certificate to show
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf> = "tlskey",

    /// Range that networks get their subnets from: base=172.30.0.0/16,size=24; may be repeated
    #[arg(long = "default-address-pool", value_name = "POOL", value_parser = parse_pool)]
    #[serde(deserialize_with = "pools_of_list")]
    default_address_pools: Vec<Pool> = "default-address-pools",
    /// Address of the default bridge, with prefix length: 172.17.0.1/16
    #[arg(long, value_name = "CIDR")]
    bip: Option<String> = "bip",
    /// Name of the default bridge [default: berth0]
    #[arg(short, long, value_name = "NAME")]
    bridge: Option<String> = "bridge",
    /// Addresses of the default bridge that containers get [default: the whole subnet]
    #[arg(long, value_name = "CIDR")]
    fixed_cidr: Option<String> = "fixed-cidr",
    /// Give the default bridge IPv6, too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    ipv6: Option<bool> = "ipv6",
    /// IPv6 subnet of the default bridge [default: a random one of the unique local range, kept]
    #[arg(long, value_name = "CIDR")]
    fixed_cidr_v6: Option<String> = "fixed-cidr-v6",
    /// Containers on the default bridge may talk to each other [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    icc: Option<bool> = "icc",
    /// MTU of containers' links on the default bridge [default: the kernel's 1500]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u32> = "mtu",
    /// Where ports of the default bridge are published that name no address [default: every address]
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String> = "ip",
    /// What host-gateway and host.docker.internal stand for [default: the gateway of the container's network];
    /// once for each of IPv4 and IPv6
    #[arg(long = "host-gateway-ip", value_name = "ADDRESS")]
    host_gateway_ips: Vec<String> = "host-gateway-ips",
    /// The same in the form of older files
    #[arg(skip)]
    host_gateway_ip: Option<String> = "host-gateway-ip",
    /// Make firewall rules for NAT, isolation and ports; false leaves the host's rules alone, and ports are served by
    /// the proxy [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    iptables: Option<bool> = "iptables",
    /// The same for IPv6 [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    ip6tables: Option<bool> = "ip6tables",
    /// Switch on the kernel's IP forwarding; false leaves it as the administrator has set it [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    ip_forward: Option<bool> = "ip-forward",
    /// Hide containers of the default bridge behind the host's addresses [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    ip_masq: Option<bool> = "ip-masq",
    /// Serve published ports on loopback, too, by a proxy inside the engine [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    userland_proxy: Option<bool> = "userland-proxy",

    /// Registry to ask before docker.io; may be repeated
    #[arg(long = "registry-mirror", value_name = "URL")]
    registry_mirrors: Vec<String> = "registry-mirrors",
    /// Registry that may be spoken to without TLS: host, host:port (exactly as in references) or CIDR; may be repeated
    #[arg(long = "insecure-registry", value_name = "REGISTRY")]
    insecure_registries: Vec<String> = "insecure-registries",
    /// Layers fetched at the same time, by all pulls together [default: 3]
    #[arg(long, value_name = "NUMBER")]
    max_concurrent_downloads: Option<usize> = "max-concurrent-downloads",
    /// Layers of one push sent at the same time [default: 5]
    #[arg(long, value_name = "NUMBER")]
    max_concurrent_uploads: Option<usize> = "max-concurrent-uploads",
    /// How often a request to a registry is tried [default: 5]
    #[arg(long, value_name = "NUMBER")]
    max_download_attempts: Option<u32> = "max-download-attempts",
    /// Folder with certificates of registries, <host[:port]>/{*.crt, NAME.cert, NAME.key}; may be repeated
    /// [default: /etc/berth/certs.d, /etc/docker/certs.d]
    #[arg(long = "registry-certs", value_name = "FOLDER")]
    registry_certs: Vec<PathBuf> = "registry-certs",
    /// Where `docker search` asks instead of Docker Hub's index
    #[arg(long, value_name = "URL")]
    search_index: Option<String> = "search-index",
    /// Proxy for registries without TLS [default: HTTP_PROXY of the environment]
    #[arg(long, value_name = "URL")]
    http_proxy: Option<String> = "http-proxy",
    /// Proxy for registries with TLS [default: HTTPS_PROXY of the environment]
    #[arg(long, value_name = "URL")]
    https_proxy: Option<String> = "https-proxy",
    /// Hosts reached without a proxy, separated by commas [default: NO_PROXY of the environment]
    #[arg(long, value_name = "LIST")]
    no_proxy: Option<String> = "no-proxy",
    /// The three proxy options in dockerd's form
    #[arg(skip)]
    proxies: Option<Proxies> = "proxies",
    /// Only what fits may be pulled: registry or registry/repository with *; may be repeated
    #[arg(long, value_name = "PATTERN")]
    allow_pull: Vec<String> = "allow-pull",
    /// What fits may not be pulled; may be repeated
    #[arg(long, value_name = "PATTERN")]
    block_pull: Vec<String> = "block-pull",
    /// Only what fits may be pushed; may be repeated
    #[arg(long, value_name = "PATTERN")]
    allow_push: Vec<String> = "allow-push",
    /// What fits may not be pushed; may be repeated
    #[arg(long, value_name = "PATTERN")]
    block_push: Vec<String> = "block-push",
    /// May only be overlay2
    #[arg(short, long, value_name = "NAME")]
    storage_driver: Option<String> = "storage-driver",

    /// Log driver of containers that name none: json-file, local or none [default: json-file]
    #[arg(long, value_name = "NAME")]
    log_driver: Option<String> = "log-driver",
    /// Option of the default log driver; may be repeated
    #[arg(long = "log-opt", value_name = "NAME=VALUE", value_parser = parse_pair)]
    #[serde(deserialize_with = "pairs_of_map")]
    log_opts: Vec<(String, String)> = "log-opts",
    /// Limit of containers that do not set it, name=soft[:hard]; may be repeated
    #[arg(long = "default-ulimit", value_name = "LIMIT", value_parser = parse_ulimit)]
    #[serde(deserialize_with = "ulimits_of_map")]
    default_ulimits: Vec<Rlimit> = "default-ulimits",
    /// DNS server for containers; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String> = "dns",
    /// Option for containers' resolv.conf; may be repeated
    #[arg(long = "dns-opt", value_name = "OPTION")]
    dns_opts: Vec<String> = "dns-opts",
    /// Search domain for containers; may be repeated
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String> = "dns-search",
    /// OCI runtime program that containers may ask for; may be repeated
    #[arg(long = "add-runtime", value_name = "NAME=PATH", value_parser = parse_runtime)]
    #[serde(deserialize_with = "runtimes_of_map")]
    runtimes: Vec<(String, RuntimeProgram)> = "runtimes",
    /// Runtime of containers that name none [default: the built-in one, which is called runc and berth]
    #[arg(long, value_name = "NAME")]
    default_runtime: Option<String> = "default-runtime",
    /// A small static init for `docker run --init` [default: the agent's own; where the agent is not a static program,
    /// docker-init or tini-static of the host]
    #[arg(long, value_name = "FILE")]
    init_path: Option<PathBuf> = "init-path",
    /// Run an init in every container that does not say otherwise
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    init: Option<bool> = "init",
    /// Control group that containers' groups are made in, where they name none
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String> = "cgroup-parent",
    /// Set no-new-privileges in every container that does not say otherwise
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    no_new_privileges: Option<bool> = "no-new-privileges",
    /// Size of /dev/shm of containers that name none: 64m, 1g [default: 64m]
    #[arg(long, value_name = "SIZE")]
    default_shm_size: Option<String> = "default-shm-size",

    /// Bytes of build cache that no image has: 20g; or unlimited [default: 20g]
    #[arg(long, value_name = "SIZE")]
    build_cache_size: Option<String> = "build-cache-size",
    /// How long a step of a build stays in the cache unused: 1440h; or unlimited [default: 1440h]
    #[arg(long, value_name = "DURATION")]
    build_cache_age: Option<String> = "build-cache-age",
    /// Steps of builds that are kept [default: 10000]
    #[arg(long, value_name = "NUMBER")]
    build_cache_entries: Option<usize> = "build-cache-entries",
    /// The size in dockerd's form
    #[arg(skip)]
    builder: Option<Builder> = "builder",

    /// Fact about this engine, name=value, shown by `docker info`; may be repeated
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String> = "labels",
    /// In a machine of a desktop: the desktop's folders that are shared with it, separated by colons. Bind sources that do
    /// not exist are refused, not made
    #[arg(long, value_name = "LIST")]
    desktop_folders: Option<String> = "desktop-folders",
    /// How much to log: debug, info, warn, error or fatal [default: info]
    #[arg(short, long, value_name = "LEVEL")]
    log_level: Option<String> = "log-level",
    /// The same as --log-level debug
    #[arg(short = 'D', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    debug: Option<bool> = "debug",
    /// Containers outlive the engine in any case; accepted because dockerd has it
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    live_restore: Option<bool> = "live-restore",
    /// Tell clients that experimental features may be used; there are none of the engine's own
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    experimental: Option<bool> = "experimental",
}

/// An OCI runtime and what its command line begins with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeProgram {
    pub path: PathBuf,
    #[serde(rename = "runtimeArgs", default)]
    pub arguments: Vec<String>,
}

/// dockerd's `proxies` object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Proxies {
    pub http_proxy: Option<String>,
    pub https_proxy: Option<String>,
    pub no_proxy: Option<String>,
}

/// dockerd's `builder` object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Builder {
    pub gc: Option<BuilderGc>,
}

/// What of dockerd's rules for the build cache there is here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BuilderGc {
    /// Without it nothing is removed but by a prune.
    pub enabled: Option<bool>,
    pub default_keep_storage: Option<String>,
    /// The newer name of the same.
    pub default_reserved_space: Option<String>,
}

/// Keys that dockerd knows and this engine does not (yet): told apart from misspelt ones.
const DOCKERD_KEYS: &[&str] = &[
    "allow-direct-routing",
    "api-cors-header",
    "authorization-plugins",
    "bip6",
    "bridge-accept-fwmark",
    "cdi-spec-dirs",
    "containerd",
    "containerd-namespace",
    "containerd-plugins-namespace",
    "cpu-rt-period",
    "cpu-rt-runtime",
    "default-cgroupns-mode",
    "default-gateway",
    "default-gateway-v6",
    "default-ipc-mode",
    "default-network-opts",
    "exec-opts",
    "features",
    "firewall-backend",
    "log-format",
    "metrics-addr",
    "node-generic-resources",
    "oom-score-adjust",
    "raw-logs",
    "rootless",
    "seccomp-profile",
    "selinux-enabled",
    "shutdown-timeout",
    "storage-opts",
    "swarm-default-advertise-addr",
    "userland-proxy-path",
    "userns-remap",
    "validate",
];

/// Why the options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    #[error("cannot read the configuration file {path}")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the configuration file {path} is not valid")]
    Malformed {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "unable to configure the engine with file {path}: the following directives don't match any configuration option: {}",
        keys.join(", ")
    )]
    Unknown { path: PathBuf, keys: Vec<String> },
    #[error(
        "unable to configure the engine with file {path}: dockerd's {} {} not supported by this engine; remove {} from the file",
        keys.join(", "), if keys.len() == 1 { "is" } else { "are" }, if keys.len() == 1 { "it" } else { "them" }
    )]
    Unsupported { path: PathBuf, keys: Vec<String> },
    #[error(
        "unable to configure the engine with file {path}: the following directives are specified both as a flag and in the configuration file: {}",
        conflicts.join(", ")
    )]
    Conflict {
        path: PathBuf,
        conflicts: Vec<String>,
    },
}

impl Options {
    /// Reads a daemon.json and joins it with what the command line says.
    pub fn with_file(self, path: &Path) -> Result<Options, OptionsError> {
        let text = std::fs::read_to_string(path).map_err(|source| OptionsError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        self.with_text(path, &text)
    }

    fn with_text(self, path: &Path, text: &str) -> Result<Options, OptionsError> {
        let malformed = |source| OptionsError::Malformed {
            path: path.to_owned(),
            source,
        };
        // dockerd takes an empty file as an empty object.
        let text = if text.trim().is_empty() { "{}" } else { text };
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(text).map_err(malformed)?;
        let (unsupported, unknown): (Vec<String>, Vec<String>) = object
            .keys()
            .filter(|key| !Self::KEYS.contains(&key.as_str()))
            .cloned()
            .partition(|key| DOCKERD_KEYS.contains(&key.as_str()));
        if !unknown.is_empty() {
            return Err(OptionsError::Unknown {
                path: path.to_owned(),
                keys: unknown,
            });
        }
        if !unsupported.is_empty() {
            return Err(OptionsError::Unsupported {
                path: path.to_owned(),
                keys: unsupported,
            });
        }
        // From the text and not from the object: messages then have line and column.
        let file: Options = serde_json::from_str(text).map_err(malformed)?;
        Options::join(self, file).map_err(|conflicts| OptionsError::Conflict {
            path: path.to_owned(),
            conflicts,
        })
    }
}

/// Whether an option was given, and how it is shown in a conflict.
trait Given {
    type Shown<'a>: fmt::Debug
    where
        Self: 'a;
    fn is_given(&self) -> bool;
    fn shown(&self) -> Self::Shown<'_>;
}

impl<T: fmt::Debug> Given for Option<T> {
    type Shown<'a>
        = &'a T
    where
        Self: 'a;
    fn is_given(&self) -> bool {
        self.is_some()
    }
    fn shown(&self) -> &T {
        self.as_ref()
            .expect("only options that were given are shown")
    }
}

impl<T: fmt::Debug> Given for Vec<T> {
    type Shown<'a>
        = &'a [T]
    where
        Self: 'a;
    fn is_given(&self) -> bool {
        !self.is_empty()
    }
    fn shown(&self) -> &[T] {
        self
    }
}

/// Reads `nofile=1024:2048` or `nofile=1024`.
/// `base=10.0.0.0/8,size=24`, as dockerd's flag has it.
fn parse_pool(text: &str) -> Result<Pool, String> {
    let wrong = || format!("invalid default address pool {text:?}: expected base=CIDR,size=LENGTH");
    let (mut base, mut size) = (None, None);
    for pair in text.split(',') {
        match pair.split_once('=').ok_or_else(wrong)? {
            ("base", value) => base = Some(value.parse().map_err(|_| wrong())?),
            ("size", value) => size = Some(value.parse().map_err(|_| wrong())?),
            _ => return Err(wrong()),
        }
    }
    checked_pool(base.ok_or_else(wrong)?, size.ok_or_else(wrong)?)
}

fn checked_pool(base: IpNet, size: u8) -> Result<Pool, String> {
    let room = base.prefix_len()..base.max_prefix_len();
    if !base.addr().is_ipv4() || !room.contains(&size) {
        return Err(format!(
            "invalid default address pool {base}: it must be IPv4, and the size from {} to 31",
            base.prefix_len()
        ));
    }
    Ok(Pool {
        base: base.trunc(),
        size,
    })
}

fn pools_of_list<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Pool>, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        base: IpNet,
        size: u8,
    }
    let list = Vec::<Entry>::deserialize(from)?.into_iter();
    list.map(|pool| checked_pool(pool.base, pool.size).map_err(D::Error::custom))
        .collect()
}

fn parse_ulimit(text: &str) -> Result<Rlimit, String> {
    let wrong = || format!("invalid ulimit argument: {text}");
    let (name, limits) = text.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| text.parse::<i64>().map_err(|_| wrong());
    Rlimit::checked(name, number(soft)?, number(hard)?)
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not name=value")),
    }
}

fn pairs_of_map<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, String)>, D::Error> {
    let map = BTreeMap::<String, String>::deserialize(from)?;
    Ok(map.into_iter().collect())
}

fn ulimits_of_map<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Rlimit>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Limit {
        #[serde(rename = "Name")]
        _name: Option<String>,
        soft: i64,
        hard: i64,
    }
    BTreeMap::<String, Limit>::deserialize(from)?
        .into_iter()
        .map(|(name, limit)| {
            Rlimit::checked(&name, limit.soft, limit.hard).map_err(D::Error::custom)
        })
        .collect()
}

fn parse_runtime(text: &str) -> Result<(String, RuntimeProgram), String> {
    let (name, path) = parse_pair(text)?;
    let program = RuntimeProgram {
        path: path.into(),
        arguments: Vec::new(),
    };
    Ok((name, program))
}

fn runtimes_of_map<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Vec<(String, RuntimeProgram)>, D::Error> {
    let map = BTreeMap::<String, RuntimeProgram>::deserialize(from)?;
    Ok(map.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn flags(line: &str) -> Options {
        let words = std::iter::once("serve").chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().options
    }

    #[track_caller]
    fn refused(line: &str, file: &str, part: &str) {
        let error = flags(line)
            .with_text(Path::new("/etc/berth/daemon.json"), file)
            .unwrap_err();
        let text = engine::error::full_message(&error);
        assert!(text.contains(part), "{text}");
    }

    /// `machine` refuses what the engine would refuse, before a machine is made.
    #[test]
    fn the_desktops_list_of_options_is_this_one() {
        use clap::CommandFactory;
        use guest_contract::engine_options::{ENGINE_OPTIONS, Kind};
        let mut ours: Vec<&str> = Options::KEYS.to_vec();
        let mut theirs: Vec<&str> = ENGINE_OPTIONS.iter().map(|option| option.key).collect();
        ours.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(ours, theirs);
        let line = Line::command();
        for option in ENGINE_OPTIONS {
            if option.flag.is_empty() {
                continue; // only in the file
            }
            let argument = line
                .get_arguments()
                .find(|argument| argument.get_long() == Some(option.flag))
                .unwrap_or_else(|| panic!("no --{}", option.flag));
            let repeats = matches!(argument.get_action(), clap::ArgAction::Append);
            let expected = match option.kind {
                Kind::List | Kind::Map => true,
                Kind::Single => false,
                Kind::Machine | Kind::FileOnly => continue,
            };
            assert_eq!(repeats, expected, "--{}", option.flag);
        }
    }

    #[test]
    fn address_pools_are_read_in_both_forms() {
        let pool = parse_pool("base=10.50.0.0/16,size=24").unwrap();
        assert_eq!(
            (pool.base.to_string().as_str(), pool.size),
            ("10.50.0.0/16", 24)
        );
        let text = r#"{"default-address-pools":[{"base":"10.50.0.0/16","size":24}]}"#;
        let options = Options::default().with_text(Path::new("x"), text).unwrap();
        assert_eq!(options.default_address_pools, [pool]);
        for bad in [
            "",
            "base=10.0.0.0/8",
            "base=x,size=24",
            "base=10.0.0.0/8,size=4",
            "base=10.0.0.0/8,size=32",
            "base=fd00::/8,size=64",
        ] {
            assert!(parse_pool(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_and_file_are_joined() {
        let file = r#"{
            "hosts": ["tcp://127.0.0.1:2376"], "tlsverify": true, "labels": ["a=b"],
            "log-opts": {"max-size": "10m"}, "debug": true,
            "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 2048}},
            "runtimes": {"crun": {"path": "/usr/bin/crun", "runtimeArgs": ["--debug"]}}
        }"#;
        let options = flags("--bip 10.1.0.1/24 --iptables=true --registry-mirror http://a")
            .with_text(Path::new("x"), file)
            .unwrap();
        assert_eq!(options.hosts, ["tcp://127.0.0.1:2376"]);
        assert_eq!(options.bip.as_deref(), Some("10.1.0.1/24"));
        assert_eq!(options.iptables, Some(true));
        assert_eq!(options.tlsverify, Some(true));
        assert_eq!(options.log_opts, [("max-size".into(), "10m".into())]);
        assert_eq!(
            options.default_ulimits,
            [parse_ulimit("nofile=1024:2048").unwrap()]
        );
        let crun = RuntimeProgram {
            path: "/usr/bin/crun".into(),
            arguments: vec!["--debug".into()],
        };
        assert_eq!(options.runtimes, [("crun".to_owned(), crun)]);
        assert_eq!(
            flags("").with_text(Path::new("x"), " ").unwrap(),
            Options::default()
        );
    }

    #[test]
    fn an_option_given_twice_is_a_conflict_in_dockerds_words() {
        refused(
            "-H unix:///a --debug",
            r#"{"hosts": ["unix:///b"], "debug": false, "bip": "10.0.0.1/8"}"#,
            "the following directives are specified both as a flag and in the configuration file: hosts: (from flag: [\"unix:///a\"], from file: [\"unix:///b\"]), debug: (from flag: true, from file: false)",
        );
    }

    #[test]
    fn wrong_files_are_refused_by_name() {
        refused(
            "",
            r#"{"hots": [], "zebra": 1}"#,
            "don't match any configuration option: hots, zebra",
        );
        refused(
            "",
            r#"{"userns-remap": "default"}"#,
            "dockerd's userns-remap is not supported",
        );
        refused(
            "",
            r#"{"debug": "yes"}"#,
            "invalid type: string \"yes\", expected a boolean at line 1",
        );
        refused("", "{", "is not valid: EOF while parsing");
        refused(
            "",
            r#"{"default-ulimits": {"files": {"Soft": 1, "Hard": 1}}}"#,
            "invalid ulimit type: files",
        );
        refused(
            "",
            r#"{"runtimes": {"x": {"path": "/x", "options": {}}}}"#,
            "unknown field `options`",
        );
    }

    #[test]
    fn wrong_flags_are_refused() {
        for line in [
            "--log-opt x",
            "--default-ulimit nofile=2:1",
            "--tls=perhaps",
            "--bogus",
        ] {
            let words = std::iter::once("serve").chain(line.split_whitespace());
            assert!(Line::try_parse_from(words).is_err(), "{line}");
        }
    }
}
