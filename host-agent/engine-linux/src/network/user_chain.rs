//! `BERTH-USER`: a chain for the administrator's own rules, in a table of its own, passed before the engine's rules for all
//! that is carried to and from containers. It is made where it is missing and never changed; it goes with the engine's last
//! rules if nobody has put a rule there.
//!
//! ```text
//! nft add rule inet berth-user BERTH-USER ip saddr 192.0.2.0/24 drop
//! ```

use super::netlink::{Message, NLM_F_CREATE, Socket};
use super::nftables::{DELTABLE, FORWARD, NEWCHAIN, NEWTABLE, base_chain, batch, message};
use std::io;

const INET: u8 = 1;
const CHAIN: &str = "BERTH-USER";
const GETRULE: u16 = 7;
/// Before our own chain at 0.
const PRIORITY: i32 = -10;

fn table(name: &str, kind: u16, flags: u16) -> Message {
    let mut request = message(INET, kind, flags);
    request.text(1, &format!("{name}-user"));
    request
}

/// `name`: of the engine's own table. What fails is logged: containers do not need it.
pub(super) fn make(socket: &mut Socket, name: &str) {
    let mut chain = table(name, NEWCHAIN, NLM_F_CREATE);
    base_chain(&mut chain, CHAIN, "filter", FORWARD, PRIORITY);
    let messages = vec![table(name, NEWTABLE, NLM_F_CREATE), chain];
    if let Err(error) = socket.transaction(batch(messages)) {
        tracing::warn!(%error, "the chain {CHAIN} for the administrator's rules could not be made");
    }
}

/// Removes it if it is empty.
pub(super) fn take_back(socket: &mut Socket, name: &str) {
    let outcome = has_rules(socket, name).and_then(|has_rules| match has_rules {
        true => Ok(()),
        false => socket.transaction(batch(vec![table(name, DELTABLE, 0)])),
    });
    match outcome {
        Err(error) if error.raw_os_error() != Some(nix::libc::ENOENT) => {
            tracing::warn!(%error, "the chain {CHAIN} is left over");
        }
        _ => {}
    }
}

fn has_rules(socket: &mut Socket, name: &str) -> io::Result<bool> {
    let mut found = false;
    socket.query(table(name, GETRULE, 0), true, |_| found = true)?;
    Ok(found)
}
