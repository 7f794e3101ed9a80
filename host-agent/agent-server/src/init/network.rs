//! The guest's own network: loopback, and the first virtio card by DHCP, its lease kept fresh.

use super::dhcp::{self, Kind, Lease, Question, Reply};
use anyhow::{Context, Result, bail};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

/// How long a first answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Brings up loopback and `card`, and returns the lease.
pub fn bring_up(card: &str) -> Result<Lease> {
    let index = index_of(card)?;
    link_up(1).context("cannot bring up the loopback interface")?;
    link_up(index).with_context(|| format!("cannot bring up {card}"))?;
    let lease = ask(card, None).with_context(|| format!("no DHCP lease on {card}"))?;
    apply(index, &lease).with_context(|| format!("cannot configure {card}"))?;
    Ok(lease)
}

/// Whether the lease is of QEMU's user network.
pub fn is_qemus(lease: &Lease) -> bool {
    let is = |address: Ipv4Addr, text: &str| address.to_string() == text;
    is(lease.address, guest_contract::QEMU_GUEST_ADDRESS)
        && is(lease.server, guest_contract::QEMU_HOST_ADDRESS)
        && lease
            .resolvers
            .iter()
            .any(|resolver| is(*resolver, guest_contract::QEMU_DNS_ADDRESS))
}

/// Renews the lease for ever. Runs on a thread of its own.
pub fn keep(card: &str, mut lease: Lease) {
    loop {
        // RFC 2131 4.4.5: at half of the time.
        std::thread::sleep(lease.duration / 2);
        match ask(card, Some(&lease)).or_else(|_| ask(card, None)) {
            Ok(next) => {
                if (next.address, next.gateway, &next.resolvers)
                    != (lease.address, lease.gateway, &lease.resolvers)
                    && let Err(error) = index_of(card).and_then(|index| apply(index, &next))
                {
                    super::say(&format!("the new lease cannot be applied: {error:#}"));
                }
                lease = next;
            }
            Err(error) => {
                super::say(&format!("the lease was not renewed: {error:#}"));
                lease.duration = Duration::from_secs(60);
            }
        }
    }
}

fn index_of(card: &str) -> Result<u32> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{card}/ifindex"))?;
    Ok(text.trim().parse()?)
}

fn mac_of(card: &str) -> Result<[u8; 6]> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{card}/address"))?;
    let bytes: Vec<u8> = text
        .trim()
        .split(':')
        .map(|part| u8::from_str_radix(part, 16))
        .collect::<Result<_, _>>()?;
    bytes
        .try_into()
        .ok()
        .context("the card has no Ethernet address")
}

/// One exchange: discover, offer, request, acknowledgement; with a lease held only the last two.
fn ask(card: &str, held: Option<&Lease>) -> Result<Lease> {
    let mac = mac_of(card)?;
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_broadcast(true)?;
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(card.as_bytes()))?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, dhcp::CLIENT_PORT).into())?;
    let socket: std::net::UdpSocket = socket.into();

    let mut number = [0u8; 4];
    getrandom::fill(&mut number).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let transaction = u32::from_be_bytes(number);
    let mut question = Question {
        kind: if held.is_some() {
            Kind::Request
        } else {
            Kind::Discover
        },
        transaction,
        mac,
        held: held.map(|lease| lease.address),
        requested: None,
    };
    let target = held.map_or(Ipv4Addr::BROADCAST, |lease| lease.server);
    let target = SockAddr::from(SocketAddrV4::new(target, dhcp::SERVER_PORT));
    let deadline = Instant::now() + ANSWER_WITHIN;
    let mut wait = Duration::from_millis(100);
    let mut buffer = [0u8; 1500];
    loop {
        // A link that is not quite up refuses; the next round tries again.
        let _ = socket.send_to(
            &dhcp::encode(&question),
            target.as_socket().context("an IPv4 address")?,
        );
        let round = Instant::now() + wait;
        wait = (wait * 2).min(Duration::from_secs(4));
        while let Some(left) = round
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            socket.set_read_timeout(Some(left))?;
            let Ok(count) = socket.recv(&mut buffer) else {
                break;
            };
            match dhcp::decode(&buffer[..count], transaction, mac) {
                Some(Reply::Offer(lease)) if question.kind == Kind::Discover => {
                    question.kind = Kind::Request;
                    question.requested = Some((lease.address, lease.server));
                    socket.send_to(
                        &dhcp::encode(&question),
                        target.as_socket().context("an IPv4 address")?,
                    )?;
                }
                Some(Reply::Ack(lease)) if question.kind == Kind::Request => return Ok(lease),
                Some(Reply::Nak) if held.is_some() => bail!(
                    "the server no longer grants {}",
                    question.held.unwrap_or(Ipv4Addr::UNSPECIFIED)
                ),
                Some(Reply::Nak) => {
                    question.kind = Kind::Discover;
                    question.requested = None;
                }
                _ => {}
            }
        }
        if Instant::now() > deadline {
            bail!("no server answered within {} s", ANSWER_WITHIN.as_secs());
        }
    }
}

fn link_up(index: u32) -> Result<()> {
    netlink(async move |handle| {
        handle
            .link()
            .set(LinkUnspec::new_with_index(index).up().build())
            .execute()
            .await
    })
}

fn apply(index: u32, lease: &Lease) -> Result<()> {
    let (address, prefix, gateway) = (lease.address, lease.prefix, lease.gateway);
    netlink(async move |handle| {
        handle
            .address()
            .add(index, address.into(), prefix)
            .replace()
            .execute()
            .await?;
        if let Some(gateway) = gateway {
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .gateway(gateway)
                .build();
            handle.route().add(route).replace().execute().await?;
        }
        Ok(())
    })?;
    let resolvers: String = lease
        .resolvers
        .iter()
        .map(|resolver| format!("nameserver {resolver}\n"))
        .collect();
    std::fs::create_dir_all("/etc")?;
    std::fs::write("/etc/resolv.conf", resolvers).context("cannot write /etc/resolv.conf")
}

/// Speaks netlink for one conversation; the rest of PID 1 is plain threads.
fn netlink<F>(conversation: impl FnOnce(rtnetlink::Handle) -> F) -> Result<()>
where
    F: Future<Output = Result<(), rtnetlink::Error>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        conversation(handle).await?;
        Ok(())
    })
}
