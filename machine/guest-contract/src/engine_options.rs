//! The engine's options, by the names of its command line and of daemon.json: what `--engine-opt` may say. The engine's own
//! tests hold its options against this list, so that it is the one list.

/// How an option stands in daemon.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One value: a text, a number or a switch.
    Single,
    /// May be given many times.
    List,
    /// `NAME=VALUE`, many times: an object.
    Map,
    /// The machine sets it itself: another value would cut the desktop off or lose the data disk.
    Machine,
    /// An object that has no form on a command line.
    FileOnly,
}

/// One option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOption {
    /// The long name on the command line; empty: it has none.
    pub flag: &'static str,
    /// The key of daemon.json.
    pub key: &'static str,
    pub kind: Kind,
}

const fn option(flag: &'static str, key: &'static str, kind: Kind) -> EngineOption {
    EngineOption { flag, key, kind }
}

const fn single(name: &'static str) -> EngineOption {
    option(name, name, Kind::Single)
}

const fn list(name: &'static str) -> EngineOption {
    option(name, name, Kind::List)
}

const fn machine(name: &'static str) -> EngineOption {
    option(name, name, Kind::Machine)
}

/// All of them.
pub const ENGINE_OPTIONS: &[EngineOption] = &[
    option("host", "hosts", Kind::Machine),
    machine("group"),
    machine("data-root"),
    machine("exec-root"),
    machine("pidfile"),
    machine("tls"),
    machine("tlsverify"),
    machine("tlscacert"),
    machine("tlscert"),
    machine("tlskey"),
    machine("desktop-folders"),
    // `base=CIDR,size=NUMBER` on the command line, objects in the file.
    option(
        "default-address-pool",
        "default-address-pools",
        Kind::FileOnly,
    ),
    option("", "proxies", Kind::FileOnly),
    option("", "host-gateway-ip", Kind::FileOnly),
    single("bip"),
    single("bridge"),
    single("fixed-cidr"),
    single("fixed-cidr-v6"),
    single("ipv6"),
    single("icc"),
    single("mtu"),
    single("ip"),
    option("host-gateway-ip", "host-gateway-ips", Kind::List),
    single("ip6tables"),
    single("iptables"),
    single("ip-forward"),
    single("ip-masq"),
    single("userland-proxy"),
    option("registry-mirror", "registry-mirrors", Kind::List),
    option("insecure-registry", "insecure-registries", Kind::List),
    single("max-concurrent-downloads"),
    single("max-concurrent-uploads"),
    single("max-download-attempts"),
    list("registry-certs"),
    single("search-index"),
    single("http-proxy"),
    single("https-proxy"),
    single("no-proxy"),
    list("allow-pull"),
    list("block-pull"),
    list("allow-push"),
    list("block-push"),
    single("storage-driver"),
    single("log-driver"),
    option("log-opt", "log-opts", Kind::Map),
    option("default-ulimit", "default-ulimits", Kind::Map),
    list("dns"),
    option("dns-opt", "dns-opts", Kind::List),
    list("dns-search"),
    option("add-runtime", "runtimes", Kind::FileOnly),
    single("default-runtime"),
    option("label", "labels", Kind::List),
    single("log-level"),
    single("debug"),
    single("live-restore"),
    single("init-path"),
    single("init"),
    single("cgroup-parent"),
    single("no-new-privileges"),
    single("default-shm-size"),
    single("build-cache-size"),
    single("build-cache-age"),
    single("build-cache-entries"),
    option("", "builder", Kind::FileOnly),
    single("experimental"),
];

/// By either name.
pub fn find(name: &str) -> Option<&'static EngineOption> {
    ENGINE_OPTIONS
        .iter()
        .find(|option| option.flag == name)
        .or_else(|| ENGINE_OPTIONS.iter().find(|option| option.key == name))
}
