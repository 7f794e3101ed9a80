//! Networks on Linux: bridges with NAT and published ports, macvlan and ipvlan links, and `none`.
//!
//! ```text
//!              attach                         detach                     agent starts again
//!   janitor -> spare namespace -> container's -> janitor removes it      recover: books, firewall, ports, DNS
//!   (veth on   + address, route   namespace      and gives the address   from what runs; the rest is removed
//!    bridge)   + ports                           back
//! ```
//!
//! On the way of a start on the default bridge are four short exchanges with the kernel and no process: take a spare,
//! configure it, bind the published ports, add them to the firewall. In another network the links are made then, too.
//! Making and removing namespaces, which costs more, is done by the janitor, a thread of our own, before and after.
//!
//! Everything that outsiders may take from us, a bridge, the firewall's table, is looked for before it is used, and made
//! again where it is gone.

mod attach;
pub(crate) mod beside;
mod bridge;
mod carry;
mod connect;
mod conntrack;
mod dns;
mod janitor;
mod link;
mod mend;
mod namespace;
mod netlink;
mod networks;
mod nftables;
mod obstacles;
mod ports;
mod proxy;
mod publish;
mod records;
mod recover;
mod resolver;
mod user_chain;
mod watch;

pub use records::DiskNetworks;

use async_trait::async_trait;
use engine::id::{ContainerId, NetworkId};
use engine::networks::ipam::{self, Pool};
use engine::networks::link::{LinkSettings, is_link_name};
use engine::networks::{
    Attached, Attachment, Driver, Endpoint, EndpointRequest, HostFiles, Network, NetworkBackend,
    NetworkError, Subnet, Survivor, UsedRanges,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use namespace::{Namespace, Wiring, failed};
use netlink::Socket;
use nftables::{Family, Forward, Table};
use ports::Ports;
use proxy::Proxy;
use records::{NetworkRecord, Records};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use std::time::Duration;

const DEFAULT_BRIDGE: &str = "berth0";
/// After a start of the agent there is more urgent work than spares.
const SETTLING: Duration = Duration::from_millis(500);

/// How networks are set up. [`NetworkConfig::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Name of the default bridge; at most 15 bytes.
    pub bridge: String,
    /// Address and prefix of the default bridge (`--bip`). `None`: what it had, else the first of `pools` that fits.
    pub address: Option<Ipv4Net>,
    /// The part of the default bridge's subnet that addresses are lent from (`--fixed-cidr`).
    pub lend: Option<Ipv4Net>,
    /// Whether the default bridge has IPv6 (`--ipv6`), and in which subnet (`--fixed-cidr-v6`; else what it had, or a
    /// random one).
    pub ipv6: Option<Option<Ipv6Net>>,
    /// Containers on the default bridge may talk to each other (`--icc`).
    pub icc: bool,
    /// Where ports of the default bridge are published that name no address (`--ip`).
    pub port_address: Option<Ipv4Addr>,
    /// Make firewall rules (`--iptables`). Without them nobody is isolated or translated, and ports are the proxy's alone.
    pub firewall: bool,
    /// As `firewall`, for IPv6 (`--ip6tables`).
    pub firewall_ipv6: bool,
    /// Ranges to choose a subnet from.
    pub pools: Vec<Pool>,
    /// Name of our nf_tables table. `None`: `berth`, and for another bridge than `berth0` one of its own, so that several
    /// agents can share a host.
    pub table: Option<String>,
    /// Of the containers' links; `None`: the kernel's 1500.
    pub mtu: Option<u32>,
    /// Serve published ports on loopback and IPv6 addresses by a proxy in this process (`--userland-proxy`).
    pub userland_proxy: bool,
    /// Switch on the kernel's IP forwarding (`--ip-forward`).
    pub forwarding: bool,
    /// Hide containers of the default bridge behind the host's addresses (`--ip-masq`).
    pub masquerade: bool,
    /// Namespaces kept ready of each kind: connected to the bridge, and not.
    pub spares: usize,
    /// DNS servers instead of those in the host's /etc/resolv.conf.
    pub resolvers: Option<Vec<SocketAddr>>,
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
}

impl NetworkConfig {
    pub fn new(data_root: PathBuf, exec_root: PathBuf) -> NetworkConfig {
        NetworkConfig {
            bridge: DEFAULT_BRIDGE.into(),
            address: None,
            lend: None,
            ipv6: None,
            icc: true,
            port_address: None,
            firewall: true,
            firewall_ipv6: true,
            pools: ipam::default_pools(),
            table: None,
            mtu: None,
            userland_proxy: true,
            forwarding: true,
            masquerade: true,
            spares: 3,
            resolvers: None,
            data_root,
            exec_root,
        }
    }

    fn table_name(&self) -> String {
        match &self.table {
            Some(name) => name.clone(),
            None if self.bridge == DEFAULT_BRIDGE => "berth".into(),
            None => format!("berth-{}", self.bridge),
        }
    }
}

/// The networks of this host. Acts on the network namespace of the thread that makes it (and of the runtime it runs
/// on, which must be the same). Dropping it leaves containers connected and removes the spares.
pub struct LinuxNetwork {
    inner: Arc<Inner>,
    chores: mpsc::Sender<Chore>,
    janitor: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Ends when dropped.
    _watch: Option<watch::Watch>,
}

struct Inner {
    config: NetworkConfig,
    namespaces: PathBuf,
    /// Name of our tables.
    table: String,
    /// By what the kernel calls us when it tells of changes of its rules.
    author: u32,
    /// Address of the default bridge.
    gateway: Ipv4Net,
    /// bridge, host, none.
    predefined: [Arc<Network>; 3],
    kernel: Mutex<Kernel>,
    books: Mutex<Books>,
    /// Told when addresses came back.
    returned: Condvar,
    /// Held while spare namespaces are made and not among the spares yet.
    making: Mutex<()>,
    spares: Mutex<Spares>,
    ports: Ports,
    directory: Arc<dns::Directory>,
    upstream: Arc<dns::Upstream>,
}

/// Never taken while `books` is held.
struct Kernel {
    route: Socket,
    netfilter: Socket,
    /// Whether there is a table for IPv6.
    ipv6: bool,
    /// Whether there is a table for bridges.
    guarded: bool,
}

struct Books {
    networks: HashMap<NetworkId, networks::Entry>,
    attached: HashMap<ContainerId, Entry>,
    /// Being attached: a second request for the same container must not get in between.
    arriving: BTreeSet<ContainerId>,
    /// Places that containers which run are on their way to, with their namespaces: guarded before their links are up.
    joining: Vec<(PathBuf, Endpoint)>,
    /// Given up by containers, but not free before the janitor has removed their namespaces.
    leaving: HashSet<(NetworkId, IpAddr)>,
}

struct Entry {
    attached: Attached,
    /// Keeps the namespace reachable when somebody takes its file away.
    anchor: Option<File>,
    forwards: Vec<Forward>,
    holding: Vec<Holding>,
    dns: Option<dns::Server>,
}

/// What keeps a published port ours.
enum Holding {
    Proxy(Proxy),
    Bound(#[allow(dead_code, reason = "held, not used: closing it frees the port")] OwnedFd),
}

#[derive(Default)]
struct Spares {
    wired: Vec<Namespace>,
    bare: Vec<Namespace>,
}

enum Chore {
    /// Make spares, when this time has passed.
    Refill {
        after: Duration,
    },
    Remove {
        namespace: PathBuf,
        leases: Vec<(NetworkId, IpAddr)>,
        /// Links inside that no other end of theirs goes with.
        inside: Vec<String>,
    },
    Stop,
}

impl LinuxNetwork {
    /// Sets up the default bridge, forwarding and the firewall. Call [`NetworkBackend::recover`] next.
    pub fn new(config: NetworkConfig) -> Result<LinuxNetwork, NetworkError> {
        let inner = Arc::new(Inner::open(config)?);
        let (chores, inbox) = mpsc::channel();
        let mut route = Socket::route().map_err(|error| failed("open rtnetlink", error))?;
        let janitor = std::thread::Builder::new()
            .name("network-janitor".into())
            .spawn({
                let inner = inner.clone();
                move || inner.keep_house(&inbox, &mut route)
            })
            .map_err(|error| failed("start the network janitor", error))?;
        let watch = watch::Watch::start(inner.clone());
        if let Err(error) = &watch {
            tracing::warn!(%error, "a bridge or rules that somebody takes away are only missed by the next operation");
        }
        Ok(LinuxNetwork {
            _watch: watch.ok(),
            inner,
            chores,
            janitor: Mutex::new(Some(janitor)),
        })
    }

    /// Address of the default bridge with its prefix.
    pub fn bridge_address(&self) -> Ipv4Net {
        self.inner.gateway
    }

    /// How many ports the firewall redirects or guards now.
    pub fn firewall_ports(&self) -> Result<usize, NetworkError> {
        let mut kernel = lock(&self.inner.kernel);
        let mut count = 0;
        for table in self.inner.tables(&kernel) {
            count += table
                .count(&mut kernel.netfilter)
                .map_err(|error| failed("list the firewall's ports", error))?;
        }
        Ok(count)
    }

    fn ask(&self, chore: Chore) {
        // The janitor ends only with us.
        let _ = self.chores.send(chore);
    }
}

impl Drop for LinuxNetwork {
    fn drop(&mut self) {
        if let Some(janitor) = self.dismiss_janitor() {
            let _ = janitor.join();
        }
    }
}

impl LinuxNetwork {
    /// Asks the janitor to end and to take the spare namespaces along; whom to wait for, the first time.
    fn dismiss_janitor(&self) -> Option<std::thread::JoinHandle<()>> {
        let janitor = lock(&self.janitor).take();
        if janitor.is_some() {
            self.ask(Chore::Stop);
        }
        janitor
    }
}

#[async_trait]
impl NetworkBackend for LinuxNetwork {
    fn predefined(&self) -> Vec<Network> {
        let networks = self.inner.predefined.iter();
        networks.map(|network| (**network).clone()).collect()
    }

    async fn used(&self, own: &str) -> Result<UsedRanges, NetworkError> {
        let (inner, own) = (self.inner.clone(), own.to_owned());
        blocking(move || {
            let mut ours: Vec<u32> = lock(&inner.books)
                .networks
                .values()
                .filter(|entry| entry.network.driver == Driver::Bridge)
                .map(|entry| entry.index)
                .collect();
            let mut kernel = lock(&inner.kernel);
            let own = link::find(&mut kernel.route, &own)
                .map_err(|error| failed(format!("look for the link {own}"), error))?;
            ours.extend(own.map(|own| own.index));
            bridge::used(&mut kernel.route, |link| {
                link.is_some_and(|link| ours.contains(&link))
            })
        })
        .await
    }

    async fn create(&self, network: Arc<Network>) -> Result<(), NetworkError> {
        let inner = self.inner.clone();
        blocking(move || inner.create_network(&network)).await
    }

    async fn remove(&self, network: &NetworkId) -> Result<(), NetworkError> {
        let (inner, network) = (self.inner.clone(), network.clone());
        blocking(move || inner.remove_network(&network)).await
    }

    fn endpoints(&self, network: &NetworkId) -> Vec<(ContainerId, Endpoint)> {
        let books = lock(&self.inner.books);
        let of_network = books.attached.iter().filter_map(|(container, entry)| {
            Some((container.clone(), entry.attached.endpoint(network)?.clone()))
        });
        let mut endpoints: Vec<(ContainerId, Endpoint)> = of_network.collect();
        endpoints.sort_by(|one, other| one.0.cmp(&other.0));
        endpoints
    }

    async fn attach(&self, attachment: Attachment) -> Result<Attached, NetworkError> {
        let inner = self.inner.clone();
        let chores = self.chores.clone();
        blocking(move || {
            let outcome = inner.attach(&attachment, &chores);
            if let Ok(attached) = &outcome {
                inner.guard(&attached.endpoints);
            }
            let _ = chores.send(Chore::Refill {
                after: Duration::ZERO,
            });
            outcome
        })
        .await
    }

    async fn connect(
        &self,
        container: &ContainerId,
        request: EndpointRequest,
    ) -> Result<Attached, NetworkError> {
        let (inner, container) = (self.inner.clone(), container.clone());
        blocking(move || inner.connect(&container, &request)).await
    }

    async fn disconnect(
        &self,
        container: &ContainerId,
        network: &NetworkId,
    ) -> Result<Attached, NetworkError> {
        let (inner, container, network) = (self.inner.clone(), container.clone(), network.clone());
        blocking(move || inner.disconnect(&container, &network)).await
    }

    fn rename(&self, container: &ContainerId, names: &BTreeMap<NetworkId, Vec<String>>) {
        let mut books = lock(&self.inner.books);
        let Some(entry) = books.attached.get_mut(container) else {
            return;
        };
        for endpoint in &mut entry.attached.endpoints {
            if let Some(names) = names.get(&endpoint.network) {
                self.inner.directory.remove(container, endpoint);
                endpoint.names.clone_from(names);
                self.inner.directory.add(container, endpoint);
            }
        }
    }

    async fn detach(&self, container: &ContainerId) -> Result<(), NetworkError> {
        let Some(entry) = lock(&self.inner.books).attached.remove(container) else {
            return Ok(());
        };
        for endpoint in &entry.attached.endpoints {
            self.inner.directory.remove(container, endpoint);
        }
        drop(entry.dns);
        let ports = &entry.attached.ports;
        self.inner.release(entry.holding, ports).await;
        // The way in is closed before the address may go to somebody else.
        let closed = if entry.forwards.is_empty() {
            Ok(())
        } else {
            let inner = self.inner.clone();
            let forwards = entry.forwards;
            blocking(move || inner.close(&forwards)).await
        };
        self.inner.guard(&entry.attached.endpoints);
        let leases = leases_of(&entry.attached.endpoints);
        lock(&self.inner.books)
            .leaving
            .extend(leases.iter().cloned());
        let inside = self.inner.inside_only(&entry.attached.endpoints);
        self.ask(Chore::Remove {
            namespace: entry.attached.namespace,
            leases,
            inside,
        });
        closed
    }

    async fn recover(&self, running: Vec<Survivor>) -> Result<(), NetworkError> {
        let inner = self.inner.clone();
        blocking(move || inner.recover(running)).await?;
        self.ask(Chore::Refill { after: SETTLING });
        Ok(())
    }

    async fn close(&self) {
        if let Some(janitor) = self.dismiss_janitor() {
            // What it could not remove it has logged; the next start tries again.
            let _ = tokio::task::spawn_blocking(move || janitor.join()).await;
        }
        self.inner.leave_other_firewalls();
    }

    fn resolv_conf(&self, ipv6: bool) -> String {
        resolver::for_containers(ipv6)
    }

    fn host_files(&self) -> HostFiles {
        resolver::of_host()
    }

    async fn warnings(&self) -> Vec<String> {
        let inner = self.inner.clone();
        blocking(move || Ok(inner.obstacles()))
            .await
            .unwrap_or_default()
    }
}

fn leases_of(endpoints: &[Endpoint]) -> Vec<(NetworkId, IpAddr)> {
    let each = endpoints.iter().flat_map(|endpoint| {
        endpoint
            .addresses()
            .map(|address| (endpoint.network.clone(), address))
    });
    each.collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(failed("run a network operation", error)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside stays usable after a panic elsewhere: every change is a single step.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Inner {
    fn open(config: NetworkConfig) -> Result<Inner, NetworkError> {
        if !is_link_name(&config.bridge) {
            return Err(NetworkError::Unsupported {
                what: format!("the bridge name {:?}", config.bridge),
                why: "a link's name has 1 to 15 letters, digits, '-', '_' or '.'".into(),
            });
        }
        if let Some(address) = config.address
            && (address.prefix_len() > 30
                || address.addr() == address.network()
                || address.addr() == address.broadcast())
        {
            return Err(NetworkError::Unsupported {
                what: format!("{address} as the bridge's address"),
                why: "it must be the address of a host in a subnet of /30 or wider".into(),
            });
        }
        let namespaces = config.exec_root.join(crate::files::NAMESPACES);
        std::fs::create_dir_all(&namespaces)
            .map_err(|error| failed(format!("create {}", namespaces.display()), error))?;
        let records = Records::open(&config.data_root)?;
        let mut route = Socket::route().map_err(|error| failed("open rtnetlink", error))?;
        let netfilter = Socket::netfilter()
            .map_err(|error| failed("open nf_tables (is the kernel module there?)", error))?;
        netfilter.widen();
        let author = netfilter
            .name()
            .map_err(|error| failed("ask for the name of our netlink socket", error))?;

        let remembered = records.read("bridge")?;
        let (index, gateway) = bridge::set_up_default(
            &config,
            remembered.as_ref().and_then(|record| record.gateway),
            &mut route,
        )?;
        if let Some(lend) = config.lend
            && !gateway.contains(&lend)
        {
            return Err(NetworkError::invalid(format!(
                "--fixed-cidr {lend} is not in the default bridge's subnet {}; choose that with --bip",
                gateway.trunc()
            )));
        }
        let gateway_ipv6 = config.ipv6.map(|asked| {
            let before = remembered.as_ref().and_then(|record| record.gateway_ipv6);
            bridge::choose_ipv6(asked, before)
        });
        let gateways = (Some(gateway), gateway_ipv6);
        let bridge = remember(&records, remembered, "bridge", "bridge", gateways)?;
        let nowhere = (None, None);
        let host = remember(&records, records.read("host")?, "host", "host", nowhere)?;
        let none = remember(&records, records.read("none")?, "none", "null", nowhere)?;
        if config.forwarding {
            bridge::enable_forwarding(false)?;
        }
        let default_bridge = default_bridge(&config, &bridge, gateway, gateway_ipv6);
        if default_bridge.ipv6 {
            bridge::configure(&default_bridge, index, &mut route)
                .map_err(|error| failed("give the default bridge IPv6", error))?;
            if config.forwarding {
                bridge::enable_forwarding(true)?;
            }
        }
        let predefined = [
            Arc::new(default_bridge),
            Arc::new(predefined(&host, Driver::Host)),
            Arc::new(predefined(&none, Driver::Null)),
        ];
        let entry = networks::Entry::new(predefined[0].clone(), index);
        let table = config.table_name();
        let mut kernel = Kernel {
            route,
            netfilter,
            ipv6: false,
            // Of an earlier agent, perhaps.
            guarded: true,
        };
        // A table for IPv6 of an earlier agent serves its containers; it is kept up to date until nobody needs it.
        let exists = |family: Family, kernel: &mut Kernel| {
            let name = table.clone();
            Table { name, family }
                .exists(&mut kernel.netfilter)
                .map_err(|error| failed("ask nf_tables for our table", error))
        };
        let there = !config.firewall || exists(Family::Ipv4, &mut kernel)?;
        kernel.ipv6 = config.firewall_ipv6 && exists(Family::Ipv6, &mut kernel)?;
        // Without one, `recover` makes it with the rest.
        kernel.ipv6 |= predefined[0].ipv6;
        if config.firewall {
            user_chain::make(&mut kernel.netfilter, &table);
            beside::let_pass(&mut kernel.netfilter, &config.bridge);
        }
        let inner = Inner {
            namespaces,
            table,
            author,
            gateway,
            kernel: Mutex::new(kernel),
            books: Mutex::new(Books {
                networks: HashMap::from([(predefined[0].id.clone(), entry)]),
                attached: HashMap::new(),
                arriving: BTreeSet::new(),
                joining: Vec::new(),
                leaving: HashSet::new(),
            }),
            returned: Condvar::new(),
            predefined,
            making: Mutex::default(),
            spares: Mutex::default(),
            ports: Ports::default(),
            directory: Arc::default(),
            upstream: Arc::new(dns::Upstream::new(config.resolvers.clone())),
            config,
        };
        for warning in inner.obstacles() {
            tracing::warn!("{warning}");
        }
        // An old table serves running containers until `recover` replaces it in one step.
        if !there {
            inner.install_firewall(&mut lock(&inner.kernel))?;
        }
        Ok(inner)
    }

    fn default_id(&self) -> NetworkId {
        self.predefined[0].id.clone()
    }

    /// How a spare is connected: to the default bridge.
    fn wiring(&self) -> Wiring {
        let books = lock(&self.books);
        let index = books
            .networks
            .get(&self.predefined[0].id)
            .map_or(0, |entry| entry.index);
        Wiring {
            bridge_index: index,
            mtu: self.config.mtu,
            isolated: !self.config.icc,
        }
    }

    /// Names of our bridges.
    fn bridges(&self) -> Vec<String> {
        let books = lock(&self.books);
        let networks = books.networks.values().map(|entry| &entry.network);
        let bridges = networks.filter(|network| network.driver == Driver::Bridge);
        bridges.map(|network| network.link.name.clone()).collect()
    }

    /// See [`obstacles`]. Who keeps us from making rules knows of the others.
    fn obstacles(&self) -> Vec<String> {
        if !self.config.firewall {
            return Vec::new();
        }
        let mut bridges = self.bridges();
        bridges.sort();
        let mut kernel = lock(&self.kernel);
        let ipv6 = kernel.ipv6;
        obstacles::obstacles(&mut kernel.netfilter, &bridges, ipv6).unwrap_or_else(|error| {
            tracing::warn!(%error, "the rules of other firewalls could not be looked at");
            Vec::new()
        })
    }

    /// Where nobody is connected any more, rules in other firewalls go with us.
    fn leave_other_firewalls(&self) {
        if !self.config.firewall || !lock(&self.books).attached.is_empty() {
            return;
        }
        let bridges = self.bridges();
        let mut kernel = lock(&self.kernel);
        for bridge in bridges {
            beside::take_back(&mut kernel.netfilter, &bridge);
        }
        user_chain::take_back(&mut kernel.netfilter, &self.table);
    }
}

fn predefined(record: &NetworkRecord, driver: Driver) -> Network {
    Network {
        id: record.id.clone(),
        name: record.name.clone(),
        driver,
        created: record.created,
        ipv4: true,
        ipv6: false,
        internal: false,
        attachable: false,
        subnets: Vec::new(),
        options: BTreeMap::new(),
        ipam_options: None,
        labels: BTreeMap::new(),
        link: LinkSettings::new(driver, &record.id),
    }
}

fn default_bridge(
    config: &NetworkConfig,
    record: &NetworkRecord,
    gateway: Ipv4Net,
    gateway_ipv6: Option<Ipv6Net>,
) -> Network {
    let mut network = predefined(record, Driver::Bridge);
    let subnet = Subnet::of(IpNet::V4(gateway.trunc()), gateway.addr().into());
    network.subnets = vec![Subnet {
        lend: config.lend.map(|lend| lend.trunc().into()),
        ..subnet
    }];
    if let Some(gateway) = gateway_ipv6 {
        network.ipv6 = true;
        let subnet = Subnet::of(IpNet::V6(gateway.trunc()), gateway.addr().into());
        network.subnets.push(subnet);
    }
    network.link.icc = config.icc;
    network.link.host_binding = config.port_address.map(IpAddr::from);
    network.link.name.clone_from(&config.bridge);
    network.link.mtu = config.mtu;
    network.link.masquerade = config.masquerade;
    let mtu = config.mtu.unwrap_or(1500).to_string();
    let flag = |set: bool| if set { "true" } else { "false" };
    let binding = config.port_address.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let binding = binding.to_string();
    network.options = [
        ("com.docker.network.bridge.default_bridge", "true"),
        ("com.docker.network.bridge.enable_icc", flag(config.icc)),
        (
            "com.docker.network.bridge.enable_ip_masquerade",
            flag(config.masquerade),
        ),
        ("com.docker.network.bridge.host_binding_ipv4", &binding),
        ("com.docker.network.bridge.name", &config.bridge),
        ("com.docker.network.driver.mtu", &mtu),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    network
}

/// The record of a network as it is now; written when it is new or changed.
fn remember(
    records: &Records,
    old: Option<NetworkRecord>,
    name: &str,
    driver: &str,
    (gateway, gateway_ipv6): (Option<Ipv4Net>, Option<Ipv6Net>),
) -> Result<NetworkRecord, NetworkError> {
    let record = match &old {
        Some(old) => NetworkRecord {
            gateway,
            gateway_ipv6: gateway_ipv6.or(old.gateway_ipv6),
            ..old.clone()
        },
        None => NetworkRecord {
            id: NetworkId::random(),
            name: name.to_owned(),
            driver: driver.to_owned(),
            created: time::OffsetDateTime::now_utc(),
            gateway,
            gateway_ipv6,
        },
    };
    if old.as_ref() != Some(&record) {
        records.write(&record)?;
    }
    Ok(record)
}
