//! What every [`NetworkBackend`] must do. Called by the tests of each implementation, with nobody attached.

use super::{
    Attachment, Driver, EndpointRequest, EndpointSettings, Network, NetworkBackend, NetworkError,
    PortRequest, Protocol, Subnet, fake,
};
use crate::id::ContainerId;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// A wish to be in this network, and nothing more.
pub fn place(network: &Arc<Network>) -> EndpointRequest {
    EndpointRequest {
        network: network.clone(),
        settings: EndpointSettings::default(),
        preferred: Vec::new(),
        names: Vec::new(),
        links: BTreeMap::new(),
    }
}

/// The default bridge of a backend.
pub fn bridge(backend: &dyn NetworkBackend) -> Arc<Network> {
    Arc::new(backend.predefined().swap_remove(0))
}

/// A new container's wish to be in these networks.
pub fn wish(endpoints: Vec<EndpointRequest>, ports: Vec<PortRequest>) -> Attachment {
    Attachment {
        container: ContainerId::random(),
        endpoints,
        ports,
        dns: Vec::new(),
    }
}

fn on_bridge(backend: &dyn NetworkBackend, ports: Vec<PortRequest>) -> Attachment {
    wish(vec![place(&bridge(backend))], ports)
}

fn port(host_address: Option<IpAddr>, host_ports: (u16, u16), protocol: Protocol) -> PortRequest {
    PortRequest {
        container_port: 80,
        protocol,
        host_address,
        host_ports,
    }
}

/// Panics where the backend does not keep the contract.
pub async fn check(backend: &dyn NetworkBackend) {
    backend.recover(Vec::new()).await.expect("recover nobody");
    the_built_in_networks_are_there(backend);
    addresses_are_lent_once(backend).await;
    ports_are_given_once(backend).await;
    an_error_leaves_nothing(backend).await;
    none_has_no_endpoint(backend).await;
    a_network_of_its_own(backend).await;
    containers_come_and_go_while_they_run(backend).await;
    ports_come_and_go_with_the_way_out(backend).await;
    a_lost_network_is_told_by_recover(backend).await;
}

fn the_built_in_networks_are_there(backend: &dyn NetworkBackend) {
    let networks = backend.predefined();
    let known: Vec<(&str, Driver)> = networks
        .iter()
        .map(|network| (network.name.as_str(), network.driver))
        .collect();
    assert_eq!(
        known,
        [
            ("bridge", Driver::Bridge),
            ("host", Driver::Host),
            ("none", Driver::Null)
        ]
    );
    assert_eq!(networks[0].subnets.len(), 1);
    for network in &networks {
        assert!(backend.endpoints(&network.id).is_empty());
    }
    assert!(backend.resolv_conf(false).contains("nameserver "));
}

async fn addresses_are_lent_once(backend: &dyn NetworkBackend) {
    let first = on_bridge(backend, Vec::new());
    let mut second = on_bridge(backend, Vec::new());
    second.endpoints[0].settings.mac_address = Some("02:42:00:00:00:07".into());
    let one = backend.attach(first.clone()).await.expect("attach");
    let other = backend.attach(second.clone()).await.expect("attach");
    backend
        .attach(first.clone())
        .await
        .expect_err("a container is attached once");
    let one = one.endpoints[0].clone();
    let other = other.endpoints[0].clone();
    assert_ne!(one.address, other.address);
    assert_eq!(one.gateway, other.gateway);
    assert_ne!(one.address, one.gateway);
    assert_eq!(one.network_name, "bridge");
    assert!(one.mac_address.starts_with("02:42:"), "{}", one.mac_address);
    assert_eq!(other.mac_address, "02:42:00:00:00:07");
    assert!(crate::id::is_full_id(&one.endpoint_id));
    let endpoints = || backend.endpoints(&bridge(backend).id);
    assert_eq!(endpoints().len(), 2);
    assert!(endpoints().contains(&(first.container.clone(), one)));
    for container in [&first.container, &second.container, &first.container] {
        backend.detach(container).await.expect("detach, also twice");
    }
    assert!(endpoints().is_empty());
    // Known again after a detach.
    backend.attach(first.clone()).await.expect("attach again");
    backend.detach(&first.container).await.expect("detach");
}

async fn ports_are_given_once(backend: &dyn NetworkBackend) {
    let loopback = Some(IpAddr::from(Ipv4Addr::LOCALHOST));
    let first = on_bridge(
        backend,
        vec![
            port(None, (0, 0), Protocol::Tcp),
            port(loopback, (0, 0), Protocol::Udp),
            port(loopback, (0, 0), Protocol::Sctp),
        ],
    );
    let attached = backend.attach(first.clone()).await.expect("attach");
    let tcp: Vec<_> = attached
        .ports
        .iter()
        .filter(|port| port.protocol == Protocol::Tcp)
        .collect();
    assert!(tcp.iter().any(|port| port.host_address.is_unspecified()));
    assert!(tcp.iter().all(|port| port.host_port == tcp[0].host_port));
    assert_eq!(attached.ports.len(), tcp.len() + 2);
    for taken in &attached.ports {
        let address = taken.host_address;
        let exactly = (taken.host_port, taken.host_port);
        let rival = on_bridge(backend, vec![port(Some(address), exactly, taken.protocol)]);
        let error = backend.attach(rival).await.expect_err("the port is taken");
        let expected = format!(
            "driver failed programming external connectivity: Bind for {address}:{} failed: port is already allocated",
            taken.host_port
        );
        assert_eq!(error.to_string(), expected);
    }
    // A range goes past what is taken.
    let low = tcp[0].host_port;
    let range = on_bridge(
        backend,
        vec![port(loopback, (low, low.saturating_add(50)), Protocol::Tcp)],
    );
    let other = backend.attach(range.clone()).await.expect("a later port");
    assert!(other.ports[0].host_port > low);
    backend.detach(&range.container).await.expect("detach");
    backend.detach(&first.container).await.expect("detach");

    let again = on_bridge(backend, vec![port(None, (low, low), Protocol::Tcp)]);
    let attached = backend.attach(again.clone()).await.expect("it is free now");
    assert_eq!(attached.ports[0].host_port, low);
    backend.detach(&again.container).await.expect("detach");
}

async fn an_error_leaves_nothing(backend: &dyn NetworkBackend) {
    let holder = on_bridge(backend, vec![port(None, (0, 0), Protocol::Tcp)]);
    let held = backend.attach(holder.clone()).await.expect("attach").ports[0].host_port;
    let loser = on_bridge(
        backend,
        vec![
            port(None, (0, 0), Protocol::Udp),
            port(None, (held, held), Protocol::Tcp),
        ],
    );
    let error = backend.attach(loser.clone()).await.expect_err("taken");
    assert!(matches!(error, NetworkError::PortTaken { port, .. } if port == held));
    let endpoints = backend.endpoints(&bridge(backend).id).len();
    assert_eq!(endpoints, 1, "only the holder is attached");
    backend
        .detach(&loser.container)
        .await
        .expect("nothing to do");

    let unknown = wish(
        vec![
            place(&bridge(backend)),
            place(&Arc::new(fake::network("backend"))),
        ],
        Vec::new(),
    );
    let error = backend.attach(unknown).await.expect_err("no such network");
    assert_eq!(error.to_string(), "network backend not found");
    assert_eq!(backend.endpoints(&bridge(backend).id).len(), 1);
    backend.detach(&holder.container).await.expect("detach");
}

async fn none_has_no_endpoint(backend: &dyn NetworkBackend) {
    let lonely = wish(Vec::new(), Vec::new());
    let attached = backend.attach(lonely.clone()).await.expect("attach");
    assert_eq!(attached.endpoints, []);
    assert!(attached.ports.is_empty());
    backend.detach(&lonely.container).await.expect("detach");
}

/// A network with a subnet that nobody else has, in all tests that run at once on one host.
pub fn network(name: &str, range: &str, gateway: &str) -> Arc<Network> {
    let mut network = fake::network(name);
    network.subnets = vec![Subnet {
        configured: true,
        ..Subnet::of(
            range.parse().expect("a range"),
            gateway.parse().expect("an address"),
        )
    }];
    Arc::new(network)
}

async fn a_network_of_its_own(backend: &dyn NetworkBackend) {
    let network = network("own", "10.213.7.0/24", "10.213.7.1");
    backend.create(network.clone()).await.expect("create");
    backend
        .create(network.clone())
        .await
        .expect("what is there is repaired");
    let mut first = wish(vec![place(&network)], Vec::new());
    first.endpoints[0].settings.ipv4 = Some(Ipv4Addr::new(10, 213, 7, 9));
    let attached = backend.attach(first.clone()).await.expect("attach");
    let endpoint = &attached.endpoints[0];
    assert_eq!(endpoint.address, Some([10, 213, 7, 9].into()));
    assert_eq!(endpoint.gateway, Some([10, 213, 7, 1].into()));
    assert_eq!((endpoint.prefix_length, endpoint.slot), (24, 0));
    let mut second = wish(vec![place(&network)], Vec::new());
    second.endpoints[0].settings.ipv4 = Some(Ipv4Addr::new(10, 213, 7, 9));
    let error = backend.attach(second.clone()).await.expect_err("taken");
    assert_eq!(error.to_string(), "Address already in use");
    second.endpoints[0].settings.ipv4 = Some(Ipv4Addr::new(10, 213, 8, 9));
    let error = backend.attach(second.clone()).await.expect_err("elsewhere");
    assert!(
        error.to_string().contains("no configured subnet"),
        "{error}"
    );
    second.endpoints[0].settings.ipv4 = None;
    second.endpoints[0].preferred = vec![[10, 213, 7, 44].into()];
    let attached = backend.attach(second.clone()).await.expect("attach");
    assert_eq!(attached.endpoints[0].address, Some([10, 213, 7, 44].into()));
    assert_eq!(backend.endpoints(&network.id).len(), 2);
    let error = backend.remove(&network.id).await.expect_err("in use");
    assert!(
        error.to_string().contains("has active endpoints"),
        "{error}"
    );
    for container in [&first.container, &second.container] {
        backend.detach(container).await.expect("detach");
    }
    backend.remove(&network.id).await.expect("remove");
    backend.remove(&network.id).await.expect("remove again");
    let error = backend.attach(first).await.expect_err("no such network");
    assert_eq!(error.to_string(), "network own not found");
}

async fn containers_come_and_go_while_they_run(backend: &dyn NetworkBackend) {
    let front = network("front", "10.213.8.0/24", "10.213.8.1");
    let mut hidden = fake::network("hidden");
    hidden.internal = true;
    hidden.subnets = network("", "10.213.9.0/24", "10.213.9.1").subnets.clone();
    let hidden = Arc::new(hidden);
    for network in [&front, &hidden] {
        backend.create(network.clone()).await.expect("create");
    }
    let container = on_bridge(backend, Vec::new());
    backend.attach(container.clone()).await.expect("attach");
    let id = &container.container;
    let attached = backend.connect(id, place(&front)).await.expect("connect");
    assert_eq!(attached.endpoints.len(), 2);
    assert_eq!(attached.endpoints[1].slot, 1);
    assert_eq!(attached.endpoints[1].interface, "eth1");
    let attached = backend.connect(id, place(&hidden)).await.expect("connect");
    assert_eq!(attached.endpoint(&hidden.id).expect("there").gateway, None);
    // By name: bridge comes before front.
    let way_out = |attached: &super::Attached| {
        attached
            .way_out()
            .map(|endpoint| endpoint.network_name.clone())
    };
    assert_eq!(way_out(&attached).as_deref(), Some("bridge"));
    let bridge = bridge(backend);
    let attached = backend
        .disconnect(id, &bridge.id)
        .await
        .expect("disconnect");
    assert_eq!(way_out(&attached).as_deref(), Some("front"));
    assert!(backend.endpoints(&bridge.id).is_empty());
    backend
        .disconnect(id, &bridge.id)
        .await
        .expect_err("it is not there any more");
    let attached = backend.disconnect(id, &front.id).await.expect("disconnect");
    assert_eq!(way_out(&attached), None);
    // The first place that is free again.
    let mut back = place(&bridge);
    back.settings.gateway_priority = 7;
    let attached = backend.connect(id, back).await.expect("connect");
    assert_eq!(way_out(&attached).as_deref(), Some("bridge"));
    backend.detach(id).await.expect("detach");
    for network in [&front, &hidden] {
        backend.remove(&network.id).await.expect("remove");
    }
}

async fn ports_come_and_go_with_the_way_out(backend: &dyn NetworkBackend) {
    let mut hidden = (*network("hidden", "10.213.11.0/24", "10.213.11.1")).clone();
    hidden.internal = true;
    let hidden = Arc::new(hidden);
    backend.create(hidden.clone()).await.expect("create");
    let bridge = bridge(backend);
    let in_hidden = |host_ports| {
        let ports = vec![port(None, host_ports, Protocol::Tcp)];
        wish(vec![place(&hidden)], ports)
    };
    let container = in_hidden((0, 0));
    let id = &container.container;
    let attached = backend.attach(container.clone()).await.expect("attach");
    assert_eq!(attached.ports, [], "nobody can come in");
    let attached = backend.connect(id, place(&bridge)).await.expect("connect");
    let held = attached.ports[0].host_port;
    assert_ne!(held, 0);
    // Who asks for the same port does not get it, nor the network that it would be published by.
    let rival = in_hidden((held, held));
    backend.attach(rival.clone()).await.expect("attach");
    let taken = backend.connect(&rival.container, place(&bridge)).await;
    let error = taken.expect_err("the port is taken");
    assert!(matches!(error, NetworkError::PortTaken { port, .. } if port == held));
    assert_eq!(backend.endpoints(&bridge.id).len(), 1);
    // With the way out the port is given up.
    let attached = backend.disconnect(id, &bridge.id).await;
    let attached = attached.expect("disconnect");
    assert_eq!(attached.ports, []);
    let rivals = backend.connect(&rival.container, place(&bridge)).await;
    assert_eq!(rivals.expect("it is free").ports[0].host_port, held);
    // An engine that starts again knows what was asked for.
    let survivor = |container: &Attachment, attached| super::Survivor {
        container: container.container.clone(),
        attached,
        process: None,
    };
    backend.detach(&rival.container).await.expect("detach");
    let survivors = vec![survivor(&container, attached)];
    backend.recover(survivors).await.expect("recover");
    let attached = backend.connect(id, place(&bridge)).await.expect("connect");
    assert_eq!(attached.ports[0].container_port, 80);
    backend.detach(id).await.expect("detach");
    backend.remove(&hidden.id).await.expect("remove");
}

async fn a_lost_network_is_told_by_recover(backend: &dyn NetworkBackend) {
    let network = network("kept", "10.213.10.0/24", "10.213.10.1");
    backend.create(network.clone()).await.expect("create");
    let container = wish(vec![place(&network)], Vec::new());
    let attached = backend.attach(container.clone()).await.expect("attach");
    // What an engine that starts again says of a container it knows.
    backend
        .recover(vec![super::Survivor {
            container: container.container.clone(),
            attached: attached.clone(),
            process: None,
        }])
        .await
        .expect("recover");
    let endpoints = backend.endpoints(&network.id);
    assert_eq!(
        endpoints,
        [(container.container.clone(), attached.endpoints[0].clone())]
    );
    let other = wish(vec![place(&network)], Vec::new());
    let others = backend.attach(other.clone()).await.expect("attach");
    assert_ne!(others.endpoints[0].address, attached.endpoints[0].address);
    for container in [&container.container, &other.container] {
        backend.detach(container).await.expect("detach");
    }
    backend.remove(&network.id).await.expect("remove");
}
