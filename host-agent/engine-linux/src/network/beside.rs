//! Beside another firewall: where a forward chain of iptables (its nf_tables form) drops what it does not know, as dockerd's
//! does, our own `accept` does not help: every chain must let a packet pass. Then two rules for each bridge of ours are put
//! in front of that chain, in the form iptables itself writes, and taken back with the bridge.
//!
//! `DOCKER-USER` is the administrator's and left alone. A firewall of the old iptables (`iptables-legacy`) cannot be seen from
//! here: there the administrator has to allow the bridges.

use super::netlink::{Message, NLM_F_CREATE, Socket, attributes};
use super::nftables::batch;
use std::io;

const SUBSYSTEM: u16 = 10;
const GETCHAIN: u16 = 4;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const DELRULE: u16 = 8;
const NFPROTO_IPV4: u8 = 2;
const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";
const NF_DROP: u32 = 0;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
/// So that our rules are found again: userdata of a rule, `NFTNL_UDATA_RULE_COMMENT`.
const COMMENT: &str = "berth";

fn message(kind: u16, flags: u16) -> Message {
    let mut message = Message::new((SUBSYSTEM << 8) | kind, flags, &[NFPROTO_IPV4, 0, 0, 0]);
    message.text(1, TABLE);
    message
}

/// Lets a bridge through a foreign chain that would stop it. Only a help: what fails is logged.
pub(super) fn let_pass(socket: &mut Socket, bridge: &str) {
    let outcome = drops(socket).and_then(|drops| {
        if !drops || !rules(socket, bridge)?.is_empty() {
            return Ok(());
        }
        let messages = [META_OIFNAME, META_IIFNAME]
            .map(|key| rule(key, bridge))
            .into();
        socket.transaction(batch(messages))
    });
    if let Err(error) = outcome {
        tracing::warn!(bridge, %error, "iptables' FORWARD chain drops by default, and no exception could be made");
    }
}

/// Takes the rules of a bridge back.
pub(super) fn take_back(socket: &mut Socket, bridge: &str) {
    let outcome = rules(socket, bridge).and_then(|handles| {
        for handle in handles {
            let mut request = message(DELRULE, 0);
            request.text(2, CHAIN).attribute(3, &handle);
            socket.transaction(batch(vec![request]))?;
        }
        Ok(())
    });
    if let Err(error) = outcome {
        tracing::warn!(bridge, %error, "rules for a bridge are left over in iptables' FORWARD chain");
    }
}

/// Whether there is such a chain and it drops by default.
fn drops(socket: &mut Socket) -> io::Result<bool> {
    let mut request = message(GETCHAIN, 0);
    request.text(3, CHAIN);
    let mut policy = None;
    let asked = socket.query(request, false, |payload| {
        for (kind, value) in attributes(payload.get(4..).unwrap_or(&[])) {
            if kind == 5 {
                policy = value.try_into().ok().map(u32::from_be_bytes);
            }
        }
    });
    match asked {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(false),
        other => other.map(|()| policy == Some(NF_DROP)),
    }
}

fn userdata(bridge: &str) -> Vec<u8> {
    // Type 0 (comment), length, text with its closing zero.
    let text = format!("{COMMENT} {bridge}\0");
    let mut data = vec![0, text.len() as u8];
    data.extend_from_slice(text.as_bytes());
    data
}

/// `-i BRIDGE -j ACCEPT` or `-o BRIDGE -j ACCEPT`, at the head of the chain.
fn rule(key: u32, bridge: &str) -> Message {
    let mut request = message(NEWRULE, NLM_F_CREATE);
    // As iptables writes it: the name with its closing zero.
    let mut name = bridge.as_bytes().to_vec();
    name.push(0);
    let expression = |rule: &mut Message, name: &str, fill: &dyn Fn(&mut Message)| {
        rule.nest(1, |element| {
            element.text(1, name).nest(2, fill);
        });
    };
    request
        .text(2, CHAIN)
        .nest(4, |rule| {
            expression(rule, "meta", &|meta| {
                meta.number_be(2, key).number_be(1, 1);
            });
            expression(rule, "cmp", &|cmp| {
                cmp.number_be(1, 1).number_be(2, 0).nest(3, |data| {
                    data.attribute(1, &name);
                });
            });
            expression(rule, "counter", &|_| {});
            expression(rule, "immediate", &|immediate| {
                immediate.number_be(1, 0).nest(2, |data| {
                    data.nest(2, |verdict| {
                        verdict.number_be(1, 1);
                    });
                });
            });
        })
        .attribute(7, &userdata(bridge));
    request
}

/// Handles of our rules for a bridge.
fn rules(socket: &mut Socket, bridge: &str) -> io::Result<Vec<[u8; 8]>> {
    let mut request = message(GETRULE, 0);
    request.text(2, CHAIN);
    let wanted = userdata(bridge);
    let mut handles = Vec::new();
    let asked = socket.query(request, true, |payload| {
        let (mut handle, mut data) = (None::<[u8; 8]>, None);
        for (kind, value) in attributes(payload.get(4..).unwrap_or(&[])) {
            match kind {
                3 => handle = value.try_into().ok(),
                7 => data = Some(value.to_vec()),
                _ => {}
            }
        }
        if data.as_ref() == Some(&wanted) {
            handles.extend(handle);
        }
    });
    match asked {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(Vec::new()),
        other => other.map(|()| handles),
    }
}
