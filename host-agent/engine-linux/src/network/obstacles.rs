//! Other firewalls that drop what they do not know. A packet has to pass every chain of the forward hook; where that is not
//! iptables' own (see [`super::beside`]) nobody but its administrator should open it, so it is only told of. A chain that
//! accepts by its policy and drops or rejects by its last rule cannot be judged from here.

use super::netlink::{Message, Socket, attributes};
use super::nftables::{FORWARD, message};
use std::io;

const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
const NF_DROP: u32 = 0;
/// `NFPROTO_UNSPEC`: chains of all families are listed.
const ANY: u8 = 0;
/// `NFPROTO_*` and what `nft` calls it.
const FAMILIES: [(u8, &str); 3] = [(1, "inet"), (2, "ip"), (10, "ip6")];
const IPV6: u8 = 10;

#[derive(Debug, PartialEq, Eq)]
struct Chain {
    family: u8,
    table: String,
    name: String,
}

/// What may cut containers on these bridges off, as sentences. `ipv6`: whether they have IPv6.
pub(super) fn obstacles(
    socket: &mut Socket,
    bridges: &[String],
    ipv6: bool,
) -> io::Result<Vec<String>> {
    let mut chains = Vec::new();
    socket.query(message(ANY, GETCHAIN, 0), true, |payload| {
        chains.extend(dropping(payload));
    })?;
    let mut sentences = Vec::new();
    for chain in chains {
        let Some((_, family)) = FAMILIES.iter().find(|(number, _)| *number == chain.family) else {
            continue;
        };
        // `beside` opens it.
        let is_of_iptables =
            *family != "inet" && chain.table == "filter" && chain.name == "FORWARD";
        if is_of_iptables || (chain.family == IPV6 && !ipv6) {
            continue;
        }
        let known = named(socket, &chain)?;
        let shut: Vec<&str> = bridges
            .iter()
            .filter(|bridge| !known.iter().any(|name| fits(name, bridge)))
            .map(String::as_str)
            .collect();
        let Some(first) = shut.first() else {
            continue;
        };
        let place = format!("{family} {} {}", chain.table, chain.name);
        sentences.push(format!(
            "the firewall's chain {place} drops what it does not accept, and no rule of it names {}: containers may reach nobody beyond the host, and nobody their ports. Let them pass: nft insert rule {place} iifname {first} accept, and the same with oifname",
            shut.join(", ")
        ));
    }
    Ok(sentences)
}

fn text(value: &[u8]) -> String {
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    String::from_utf8_lossy(value).into_owned()
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// A chain as the kernel tells of it, if it is one for what is carried on, and drops by its policy.
fn dropping(payload: &[u8]) -> Option<Chain> {
    let family = *payload.first()?;
    let (mut table, mut name, mut hook, mut policy) = (None, None, None, None);
    for (kind, value) in attributes(payload.get(4..)?) {
        match kind {
            1 => table = Some(text(value)),
            3 => name = Some(text(value)),
            4 => {
                let mut of_hook = attributes(value);
                hook = of_hook
                    .find(|(kind, _)| *kind == 1)
                    .and_then(|(_, value)| number(value));
            }
            5 => policy = number(value),
            _ => {}
        }
    }
    let drops = hook == Some(FORWARD) && policy == Some(NF_DROP);
    drops.then_some(Chain {
        family,
        table: table?,
        name: name?,
    })
}

/// What a chain's rules compare with: the names of links among it.
fn named(socket: &mut Socket, chain: &Chain) -> io::Result<Vec<Vec<u8>>> {
    let mut request: Message = message(chain.family, GETRULE, 0);
    request.text(1, &chain.table).text(2, &chain.name);
    let mut found = Vec::new();
    let child = |bytes: &[u8], wanted: u16| {
        let mut all = attributes(bytes);
        let value = all.find(|(kind, _)| *kind == wanted)?.1;
        Some(value.to_vec())
    };
    socket.query(request, true, |payload| {
        let expressions = child(payload.get(4..).unwrap_or(&[]), 4).unwrap_or_default();
        for (_, expression) in attributes(&expressions) {
            if child(expression, 1).as_deref() == Some(b"cmp\0") {
                let value = child(expression, 2)
                    .and_then(|cmp| child(&cmp, 3))
                    .and_then(|data| child(&data, 1));
                found.extend(value);
            }
        }
    })?;
    Ok(found)
}

/// Whether what a rule compares with is this link's name, or its beginning (`br-*`).
fn fits(compared: &[u8], link: &str) -> bool {
    match compared.iter().position(|byte| *byte == 0) {
        Some(end) => &compared[..end] == link.as_bytes(),
        None => compared.len() > 2 && link.as_bytes().starts_with(compared),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_links_whole_or_by_their_beginning() {
        assert!(fits(b"berth0\0\0\0\0\0\0\0\0\0\0", "berth0"));
        assert!(fits(b"br-", "br-0123456789ab"));
        assert!(!fits(b"berth\0\0", "berth0"));
        assert!(!fits(b"eth0\0", "berth0"));
        // A port, say.
        assert!(!fits(b"br", "br-0123456789ab"));
    }
}
