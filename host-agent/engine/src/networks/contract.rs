//! What every [`NetworkBackend`] must do. Called by the tests of each implementation, with nobody attached.

use super::{Attachment, NetworkBackend, NetworkError, NetworkMode, PortRequest, Protocol};
use crate::id::ContainerId;
use std::net::{IpAddr, Ipv4Addr};

fn wish(mode: NetworkMode, ports: Vec<PortRequest>) -> Attachment {
    Attachment {
        container: ContainerId::random(),
        mode,
        mac_address: None,
        ports,
    }
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
}

fn the_built_in_networks_are_there(backend: &dyn NetworkBackend) {
    let facts = backend.networks();
    let known: Vec<(&str, &str)> = facts
        .iter()
        .map(|fact| (fact.name.as_str(), fact.driver.as_str()))
        .collect();
    assert_eq!(
        known,
        [("bridge", "bridge"), ("host", "host"), ("none", "null")]
    );
    assert_eq!(facts[0].subnets.len(), 1);
    assert!(facts.iter().all(|fact| fact.endpoints.is_empty()));
    assert!(backend.resolv_conf().contains("nameserver "));
}

async fn addresses_are_lent_once(backend: &dyn NetworkBackend) {
    let first = wish(NetworkMode::Bridge, Vec::new());
    let mut second = wish(NetworkMode::Bridge, Vec::new());
    second.mac_address = Some("02:42:00:00:00:07".into());
    let one = backend.attach(first.clone()).await.expect("attach");
    let other = backend.attach(second.clone()).await.expect("attach");
    backend
        .attach(first.clone())
        .await
        .expect_err("a container is attached once");
    let one = one.endpoint.expect("on the bridge");
    let other = other.endpoint.expect("on the bridge");
    assert_ne!(one.address, other.address);
    assert_eq!(one.gateway, other.gateway);
    assert_ne!(Some(one.address), one.gateway);
    assert_eq!(one.network_name, "bridge");
    assert!(one.mac_address.starts_with("02:42:"), "{}", one.mac_address);
    assert_eq!(other.mac_address, "02:42:00:00:00:07");
    assert!(crate::id::is_full_id(&one.endpoint_id));
    let bridge = &backend.networks()[0];
    assert_eq!(bridge.id, one.network);
    assert_eq!(bridge.endpoints.len(), 2);
    assert!(bridge.endpoints.contains(&(first.container.clone(), one)));
    for container in [&first.container, &second.container, &first.container] {
        backend.detach(container).await.expect("detach, also twice");
    }
    assert!(backend.networks()[0].endpoints.is_empty());
    // Known again after a detach.
    backend.attach(first.clone()).await.expect("attach again");
    backend.detach(&first.container).await.expect("detach");
}

async fn ports_are_given_once(backend: &dyn NetworkBackend) {
    let loopback = Some(IpAddr::from(Ipv4Addr::LOCALHOST));
    let first = wish(
        NetworkMode::Bridge,
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
        let rival = wish(
            NetworkMode::Bridge,
            vec![port(Some(address), exactly, taken.protocol)],
        );
        let error = backend.attach(rival).await.expect_err("the port is taken");
        let expected = format!(
            "driver failed programming external connectivity: Bind for {address}:{} failed: port is already allocated",
            taken.host_port
        );
        assert_eq!(error.to_string(), expected);
    }
    // A range goes past what is taken.
    let low = tcp[0].host_port;
    let range = wish(
        NetworkMode::Bridge,
        vec![port(loopback, (low, low.saturating_add(50)), Protocol::Tcp)],
    );
    let other = backend.attach(range.clone()).await.expect("a later port");
    assert!(other.ports[0].host_port > low);
    backend.detach(&range.container).await.expect("detach");
    backend.detach(&first.container).await.expect("detach");

    let again = wish(
        NetworkMode::Bridge,
        vec![port(None, (low, low), Protocol::Tcp)],
    );
    let attached = backend.attach(again.clone()).await.expect("it is free now");
    assert_eq!(attached.ports[0].host_port, low);
    backend.detach(&again.container).await.expect("detach");
}

async fn an_error_leaves_nothing(backend: &dyn NetworkBackend) {
    let holder = wish(NetworkMode::Bridge, vec![port(None, (0, 0), Protocol::Tcp)]);
    let held = backend.attach(holder.clone()).await.expect("attach").ports[0].host_port;
    let loser = wish(
        NetworkMode::Bridge,
        vec![
            port(None, (0, 0), Protocol::Udp),
            port(None, (held, held), Protocol::Tcp),
        ],
    );
    let error = backend.attach(loser.clone()).await.expect_err("taken");
    assert!(matches!(error, NetworkError::PortTaken { port, .. } if port == held));
    let endpoints = backend.networks()[0].endpoints.len();
    assert_eq!(endpoints, 1, "only the holder is attached");
    backend
        .detach(&loser.container)
        .await
        .expect("nothing to do");

    let unknown = wish(NetworkMode::Named("backend".into()), Vec::new());
    let error = backend.attach(unknown).await.expect_err("no such network");
    assert_eq!(error.to_string(), "network backend not found");
    backend.detach(&holder.container).await.expect("detach");
}

async fn none_has_no_endpoint(backend: &dyn NetworkBackend) {
    let lonely = wish(NetworkMode::None, Vec::new());
    let attached = backend.attach(lonely.clone()).await.expect("attach");
    assert_eq!(attached.endpoint, None);
    assert!(attached.ports.is_empty());
    backend.detach(&lonely.container).await.expect("detach");
}
