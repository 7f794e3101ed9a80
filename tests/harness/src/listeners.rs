//! At which addresses processes take TCP connections, as the kernel has it: a listening socket belongs to whoever has its inode
//! among the open files.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// The state of a listening socket in `/proc/net/tcp`.
const LISTENS: &str = "0A";

/// The addresses at which these processes listen, of both families.
pub fn of(processes: &[u32]) -> BTreeSet<SocketAddr> {
    let inodes: BTreeSet<String> = processes.iter().flat_map(|pid| sockets(*pid)).collect();
    let mut found = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // A computer without IPv6 has no second table.
        let text = std::fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[3] == LISTENS && inodes.contains(fields[9]) {
                found.insert(address(fields[1]));
            }
        }
    }
    found
}

/// The inodes of a process's sockets.
fn sockets(pid: u32) -> Vec<String> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let targets = files
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok());
    targets
        .filter_map(|target| {
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect()
}

/// `0100007F:0948`: words of the processor's own order, then the port.
fn address(text: &str) -> SocketAddr {
    let (ip, port) = text.split_once(':').expect("an address and a port");
    let bytes: Vec<u8> = (0..ip.len() / 8)
        .map(|word| &ip[word * 8..][..8])
        .map(|word| u32::from_str_radix(word, 16).expect("hexadecimal"))
        .flat_map(u32::to_ne_bytes)
        .collect();
    let ip = match <[u8; 4]>::try_from(&bytes[..]) {
        Ok(four) => IpAddr::from(four),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(&bytes[..]).expect("four words")),
    };
    let port = u16::from_str_radix(port, 16).expect("hexadecimal");
    SocketAddr::new(ip, port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn listeners_of_both_families_are_found_until_they_are_closed() {
        let mut sockets = vec![TcpListener::bind("127.0.0.3:0").unwrap()];
        sockets.extend(TcpListener::bind("[::1]:0"));
        let addresses: Vec<SocketAddr> = sockets
            .iter()
            .map(|socket| socket.local_addr().unwrap())
            .collect();
        let here = || of(&[std::process::id()]);
        let found = here();
        assert!(
            addresses.iter().all(|it| found.contains(it)),
            "{addresses:?} {found:?}"
        );
        assert!(of(&[]).is_empty());
        drop(sockets);
        let found = here();
        assert!(
            !addresses.iter().any(|it| found.contains(it)),
            "{addresses:?} {found:?}"
        );
    }
}
