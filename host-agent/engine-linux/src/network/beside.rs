//! Beside another firewall: where a forward chain of iptables (its nf_tables form) drops what it does not know, as dockerd's
//! does, our own `accept` does not help: every chain must let a packet pass. Then two rules for each bridge of ours are put
//! in front of that chain, in the form iptables itself writes, and taken back with the bridge.
//!
//! `DOCKER-USER` is the administrator's: where it is, packets of our bridges pass it first, as those of dockerd's do. A
//! firewall of the old iptables (`iptables-legacy`) cannot be seen from here: there the administrator has to allow the
//! bridges.

use super::netlink::{Message, NLM_F_CREATE, Socket, attributes};
use super::nftables::batch;
use std::io;

const SUBSYSTEM: u16 = 10;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const DELRULE: u16 = 8;
/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const FAMILIES: [u8; 2] = [2, 10];
const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";
const USER_CHAIN: &str = "DOCKER-USER";
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFT_JUMP: u32 = (-3i32).cast_unsigned();
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
/// So that our rules are found again: userdata of a rule, `NFTNL_UDATA_RULE_COMMENT`.
const COMMENT: &str = "berth";

fn message(family: u8, kind: u16, flags: u16) -> Message {
    let mut message = Message::new((SUBSYSTEM << 8) | kind, flags, &[family, 0, 0, 0]);
    message.text(1, TABLE);
    message
}

/// Whether what nf_tables tells may be about that chain: a chain that is made or has another policy, or a rule of it that
/// is removed.
pub(super) fn is_concerned(kind: u16, payload: &[u8]) -> bool {
    if !matches!(kind, NEWCHAIN | DELRULE) {
        return false;
    }
    let named = |wanted: u16, name: &str| {
        let mut all = attributes(payload.get(4..).unwrap_or(&[]));
        all.any(|(kind, value)| kind == wanted && value.strip_suffix(&[0]) == Some(name.as_bytes()))
    };
    // A chain's name is its third attribute, that of a rule's chain the second.
    let place = if kind == NEWCHAIN { 3 } else { 2 };
    named(1, TABLE) && (named(place, CHAIN) || named(place, USER_CHAIN))
}

/// Lets a bridge through a foreign chain that would stop it. Only a help: what fails is logged.
pub(super) fn let_pass(socket: &mut Socket, bridge: &str) {
    for family in FAMILIES {
        let outcome = wanted(socket, family).and_then(|wanted| {
            let there = rules(socket, family, bridge)?;
            if there.len() == wanted.len() * 2 {
                return Ok(());
            }
            // In front of all, so the last one first.
            let added = wanted.iter().rev().flat_map(|target| {
                [META_OIFNAME, META_IIFNAME].map(|key| rule(family, key, bridge, *target))
            });
            let removed = there.iter().map(|handle| remove(family, handle));
            let messages: Vec<Message> = removed.chain(added).collect();
            socket.transaction(batch(messages))
        });
        if let Err(error) = outcome {
            tracing::warn!(bridge, %error, "iptables' FORWARD chain drops by default, and no exception could be made");
        }
    }
}

/// Takes the rules of a bridge back.
pub(super) fn take_back(socket: &mut Socket, bridge: &str) {
    for family in FAMILIES {
        let outcome = rules(socket, family, bridge).and_then(|handles| match handles.is_empty() {
            true => Ok(()),
            false => {
                let removed = handles.iter().map(|handle| remove(family, handle));
                socket.transaction(batch(removed.collect()))
            }
        });
        if let Err(error) = outcome {
            tracing::warn!(bridge, %error, "rules for a bridge are left over in iptables' FORWARD chain");
        }
    }
}

fn remove(family: u8, handle: &[u8; 8]) -> Message {
    let mut request = message(family, DELRULE, 0);
    request.text(2, CHAIN).attribute(3, handle);
    request
}

/// Where a rule leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// The administrator's chain, and on from there.
    User,
    Accept,
}

/// What our rules have to do in this family: nothing where nobody drops.
fn wanted(socket: &mut Socket, family: u8) -> io::Result<Vec<Target>> {
    if policy(socket, family, CHAIN)? != Some(Some(NF_DROP)) {
        return Ok(Vec::new());
    }
    Ok(match policy(socket, family, USER_CHAIN)? {
        Some(_) => vec![Target::User, Target::Accept],
        None => vec![Target::Accept],
    })
}

/// Of a chain, if it is there and has one.
fn policy(socket: &mut Socket, family: u8, chain: &str) -> io::Result<Option<Option<u32>>> {
    let mut request = message(family, GETCHAIN, 0);
    request.text(3, chain);
    let mut policy = None;
    let asked = socket.query(request, false, |payload| {
        for (kind, value) in attributes(payload.get(4..).unwrap_or(&[])) {
            if kind == 5 {
                policy = value.try_into().ok().map(u32::from_be_bytes);
            }
        }
    });
    match asked {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(None),
        other => other.map(|()| Some(policy)),
    }
}

fn userdata(bridge: &str) -> Vec<u8> {
    // Type 0 (comment), length, text with its closing zero.
    let text = format!("{COMMENT} {bridge}\0");
    let mut data = vec![0, text.len() as u8];
    data.extend_from_slice(text.as_bytes());
    data
}

/// `-i BRIDGE -j TARGET` or `-o BRIDGE -j TARGET`, at the head of the chain.
fn rule(family: u8, key: u32, bridge: &str, target: Target) -> Message {
    let mut request = message(family, NEWRULE, NLM_F_CREATE);
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
                    data.nest(2, |verdict| match target {
                        Target::Accept => {
                            verdict.number_be(1, NF_ACCEPT);
                        }
                        Target::User => {
                            verdict.number_be(1, NFT_JUMP).text(2, USER_CHAIN);
                        }
                    });
                });
            });
        })
        .attribute(7, &userdata(bridge));
    request
}

/// Handles of our rules for a bridge.
fn rules(socket: &mut Socket, family: u8, bridge: &str) -> io::Result<Vec<[u8; 8]>> {
    let mut request = message(family, GETRULE, 0);
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
