//! Networks on Linux: the default bridge with NAT and published ports, and `none`.
//!
//! ```text
//!              attach                         detach                     agent starts again
//!   janitor -> spare namespace -> container's -> janitor removes it      recover: books, firewall, ports
//!   (veth on   + address, route   namespace      and gives the address   from what runs; the rest is removed
//!    bridge)   + ports                           back
//! ```
//!
//! On the way of a container's start are four short exchanges with the kernel and no process: take a spare, configure
//! it, bind the published ports, add them to the firewall. Making and removing namespaces, which costs more, is done by
//! the janitor, a thread of our own, before and after.
//!
//! Absent on purpose: user-defined networks and IPv6 inside networks (a `[::]` port is served by the proxy over IPv4).

mod attach;
mod bridge;
mod conntrack;
mod janitor;
mod link;
mod namespace;
mod netlink;
mod nftables;
mod ports;
mod proxy;
mod records;
mod resolver;
mod subnet;

use async_trait::async_trait;
use engine::id::{ContainerId, NetworkId};
use engine::networks::{
    Attached, Attachment, NetworkBackend, NetworkError, NetworkFacts, PublishedPort, Subnet,
};
use ipnet::Ipv4Net;
use namespace::{Namespace, Wiring, failed};
use netlink::Socket;
use nftables::{Forward, Table};
use ports::Ports;
use proxy::Proxy;
use records::{NetworkRecord, Records};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::Duration;
use subnet::Leases;

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
    /// Ranges to choose a subnet from.
    pub pools: Vec<Ipv4Net>,
    /// Name of our nf_tables table. `None`: `berth`, and for another bridge than `berth0` one of its own, so that several
    /// agents can share a host.
    pub table: Option<String>,
    /// Of the containers' links; `None`: the kernel's 1500.
    pub mtu: Option<u32>,
    /// Serve published ports on loopback and IPv6 addresses by a proxy in this process (`--userland-proxy`).
    pub userland_proxy: bool,
    /// Namespaces kept ready of each kind: connected to the bridge, and not.
    pub spares: usize,
    pub data_root: PathBuf,
    pub exec_root: PathBuf,
}

impl NetworkConfig {
    pub fn new(data_root: PathBuf, exec_root: PathBuf) -> NetworkConfig {
        NetworkConfig {
            bridge: DEFAULT_BRIDGE.into(),
            address: None,
            pools: subnet::default_pools(),
            table: None,
            mtu: None,
            userland_proxy: true,
            spares: 3,
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
}

struct Inner {
    config: NetworkConfig,
    namespaces: PathBuf,
    table: Table,
    gateway: Ipv4Net,
    bridge_index: u32,
    bridge: NetworkRecord,
    others: Vec<NetworkRecord>,
    kernel: Mutex<Kernel>,
    books: Mutex<Books>,
    spares: Mutex<Spares>,
    ports: Ports,
}

struct Kernel {
    route: Socket,
    netfilter: Socket,
}

struct Books {
    leases: Leases,
    attached: HashMap<ContainerId, Entry>,
    /// Being attached: a second request for the same container must not get in between.
    arriving: BTreeSet<ContainerId>,
}

struct Entry {
    attached: Attached,
    forwards: Vec<Forward>,
    holding: Vec<Holding>,
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
        lease: Option<Ipv4Addr>,
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
        Ok(LinuxNetwork {
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
        self.inner
            .table
            .count(&mut kernel.netfilter)
            .map_err(|error| failed("list the firewall's ports", error))
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
    async fn attach(&self, attachment: Attachment) -> Result<Attached, NetworkError> {
        let inner = self.inner.clone();
        let chores = self.chores.clone();
        blocking(move || {
            let outcome = inner.attach(&attachment, &chores);
            let _ = chores.send(Chore::Refill {
                after: Duration::ZERO,
            });
            outcome
        })
        .await
    }

    async fn detach(&self, container: &ContainerId) -> Result<(), NetworkError> {
        let Some(entry) = lock(&self.inner.books).attached.remove(container) else {
            return Ok(());
        };
        for holding in entry.holding {
            match holding {
                Holding::Proxy(proxy) => proxy.stop().await,
                Holding::Bound(socket) => drop(socket),
            }
        }
        for published in &entry.attached.ports {
            self.inner.ports.give_back(published);
        }
        // The way in is closed before the address may go to somebody else.
        let closed = if entry.forwards.is_empty() {
            Ok(())
        } else {
            let inner = self.inner.clone();
            let forwards = entry.forwards;
            blocking(move || inner.close(&forwards)).await
        };
        self.ask(Chore::Remove {
            namespace: entry.attached.namespace,
            lease: entry
                .attached
                .endpoint
                .and_then(|endpoint| v4(endpoint.address)),
        });
        closed
    }

    async fn recover(&self, running: Vec<(ContainerId, Attached)>) -> Result<(), NetworkError> {
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
    }

    fn networks(&self) -> Vec<NetworkFacts> {
        self.inner.facts()
    }

    fn resolv_conf(&self) -> String {
        resolver::for_containers()
    }
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

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// What the firewall does for a port; the proxy alone serves IPv6.
fn forward(published: &PublishedPort, container: Ipv4Addr) -> Option<Forward> {
    Some(Forward {
        host_address: v4(published.host_address)?,
        host_port: published.host_port,
        protocol: published.protocol,
        container_address: container,
        container_port: published.container_port,
    })
}

impl Inner {
    fn open(config: NetworkConfig) -> Result<Inner, NetworkError> {
        let named = |name: &str| {
            !name.is_empty()
                && name.len() <= 15
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        if !named(&config.bridge) {
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
        let mut netfilter = Socket::netfilter()
            .map_err(|error| failed("open nf_tables (is the kernel module there?)", error))?;
        netfilter.widen();

        let remembered = records.read("bridge")?;
        let (bridge_index, gateway) = bridge::set_up(
            &config,
            remembered.as_ref().and_then(|record| record.gateway),
            &mut route,
        )?;
        let bridge = remember(&records, remembered, "bridge", "bridge", Some(gateway))?;
        let host = remember(&records, records.read("host")?, "host", "host", None)?;
        let none = remember(&records, records.read("none")?, "none", "null", None)?;
        bridge::enable_forwarding()?;
        let table = Table {
            name: config.table_name(),
            bridge: config.bridge.clone(),
            subnet: gateway.trunc(),
        };
        // An old table serves running containers until `recover` replaces it in one step.
        let exists = table
            .exists(&mut netfilter)
            .map_err(|error| failed("ask nf_tables for our table", error))?;
        if !exists {
            table
                .install(&mut netfilter, &[])
                .map_err(|error| failed("install the firewall's table", error))?;
        }
        Ok(Inner {
            namespaces,
            table,
            gateway,
            bridge_index,
            bridge,
            others: vec![host, none],
            kernel: Mutex::new(Kernel { route, netfilter }),
            books: Mutex::new(Books {
                leases: Leases::new(gateway),
                attached: HashMap::new(),
                arriving: BTreeSet::new(),
            }),
            spares: Mutex::default(),
            ports: Ports::default(),
            config,
        })
    }

    fn wiring(&self) -> Wiring {
        Wiring {
            bridge_index: self.bridge_index,
            mtu: self.config.mtu,
        }
    }

    fn recover(&self, running: Vec<(ContainerId, Attached)>) -> Result<(), NetworkError> {
        let mut keep: BTreeSet<OsString> = BTreeSet::new();
        let mut all_forwards = Vec::new();
        let mut entries = Vec::new();
        for (container, attached) in running {
            keep.extend(attached.namespace.file_name().map(ToOwned::to_owned));
            let address = attached
                .endpoint
                .as_ref()
                .and_then(|endpoint| v4(endpoint.address));
            let mut entry = Entry {
                attached,
                forwards: Vec::new(),
                holding: Vec::new(),
            };
            if let Some(address) = address {
                lock(&self.books).leases.hold(address);
                for published in &entry.attached.ports {
                    entry.forwards.extend(forward(published, address));
                    let listening = self.config.userland_proxy;
                    let held = match self.ports.retake(published, listening) {
                        Ok(taken) => self.hold(taken, address, &mut entry.holding),
                        Err(error) => Err(engine::error::full_message(&error)),
                    };
                    if let Err(warning) = held {
                        tracing::warn!(
                            container = container.short(),
                            warning,
                            "a published port of a running container is served by the firewall alone"
                        );
                    }
                }
            }
            all_forwards.extend(entry.forwards.iter().copied());
            entries.push((container, entry));
        }

        let mut kernel = lock(&self.kernel);
        self.table
            .install(&mut kernel.netfilter, &all_forwards)
            .map_err(|error| failed("install the firewall's table", error))?;
        lock(&self.books).attached.extend(entries);

        // Our own spares, should there be any yet, are not leftovers.
        let spares = lock(&self.spares);
        for spare in spares.wired.iter().chain(&spares.bare) {
            keep.extend(spare.path.file_name().map(ToOwned::to_owned));
        }
        self.remove_leftovers(&keep, &mut kernel.route)
    }

    fn facts(&self) -> Vec<NetworkFacts> {
        let fact = |record: &NetworkRecord| NetworkFacts {
            id: record.id.clone(),
            name: record.name.clone(),
            driver: record.driver.clone(),
            subnets: Vec::new(),
            options: BTreeMap::new(),
            endpoints: Vec::new(),
            created: record.created,
        };
        let mut bridge = fact(&self.bridge);
        bridge.subnets = vec![Subnet {
            range: self.gateway.trunc().to_string(),
            gateway: Some(self.gateway.addr().to_string()),
        }];
        let mtu = self.config.mtu.unwrap_or(1500).to_string();
        bridge.options = [
            ("com.docker.network.bridge.default_bridge", "true"),
            ("com.docker.network.bridge.enable_icc", "true"),
            ("com.docker.network.bridge.enable_ip_masquerade", "true"),
            ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0"),
            ("com.docker.network.bridge.name", &self.config.bridge),
            ("com.docker.network.driver.mtu", &mtu),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
        bridge.endpoints = lock(&self.books)
            .attached
            .iter()
            .filter_map(|(container, entry)| {
                let endpoint = entry.attached.endpoint.clone()?;
                (endpoint.network == self.bridge.id).then(|| (container.clone(), endpoint))
            })
            .collect();
        bridge.endpoints.sort_by(|one, other| one.0.cmp(&other.0));
        let mut facts = vec![bridge];
        facts.extend(self.others.iter().map(fact));
        facts
    }
}

/// The record of a network as it is now; written when it is new or changed.
fn remember(
    records: &Records,
    old: Option<NetworkRecord>,
    name: &str,
    driver: &str,
    gateway: Option<Ipv4Net>,
) -> Result<NetworkRecord, NetworkError> {
    let record = match &old {
        Some(old) => NetworkRecord {
            gateway,
            ..old.clone()
        },
        None => NetworkRecord {
            id: NetworkId::random(),
            name: name.to_owned(),
            driver: driver.to_owned(),
            created: time::OffsetDateTime::now_utc(),
            gateway,
        },
    };
    if old.as_ref() != Some(&record) {
        records.write(&record)?;
    }
    Ok(record)
}
