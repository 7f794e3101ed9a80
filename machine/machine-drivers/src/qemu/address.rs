//! A loopback address of its own for every machine, so that two machines can both publish port 80. macOS has only
//! 127.0.0.1 configured: there every machine gets free ports instead.

use super::files::stable_hash;
use guest_contract::{API_PORT, DESKTOP_SSH_PORT};
use machine_core::driver::{DriverError, MachinePlace};
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::time::{Duration, Instant};

const EVERY_MACHINE_HAS_ITS_OWN: bool = cfg!(any(target_os = "linux", target_os = "windows"));
const ATTEMPTS: u64 = 64;

/// Where a machine is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    pub ip: Ipv4Addr,
    pub api_port: u16,
    pub ssh_port: u16,
}

/// Chooses an address that no other machine of the store has and that is free now. Called under the store's lock.
pub fn choose(place: &MachinePlace) -> Result<Chosen, DriverError> {
    if !EVERY_MACHINE_HAS_ITS_OWN {
        let ip = Ipv4Addr::LOCALHOST;
        return Ok(Chosen {
            ip,
            api_port: free_port(ip)?,
            ssh_port: free_port(ip)?,
        });
    }
    let taken = taken(place);
    let mut last = None;
    for attempt in 0..ATTEMPTS {
        let ip = candidate(place, attempt);
        if taken.contains(&ip) {
            continue;
        }
        match bind(ip, API_PORT) {
            Ok(()) => {
                let ssh_port = match bind(ip, DESKTOP_SSH_PORT) {
                    Ok(()) => DESKTOP_SSH_PORT,
                    Err(_) => free_port(ip)?,
                };
                return Ok(Chosen {
                    ip,
                    api_port: API_PORT,
                    ssh_port,
                });
            }
            Err(error) => last = Some(error),
        }
    }
    Err(port_taken(
        format!(
            "port {API_PORT} is taken on every loopback address{}",
            last.map(|error| format!(" ({error})")).unwrap_or_default()
        ),
        API_PORT,
    ))
}

/// A QEMU that was killed a moment ago keeps its sockets until its last thread is gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// Checks that a machine's own ports are still free before it is started.
pub fn check(chosen: &Chosen) -> Result<(), DriverError> {
    let end = Instant::now() + PATIENCE;
    for port in [chosen.api_port, chosen.ssh_port] {
        let mut bound = bind(chosen.ip, port);
        while bound
            .as_ref()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
            && Instant::now() < end
        {
            std::thread::sleep(Duration::from_millis(20));
            bound = bind(chosen.ip, port);
        }
        if let Err(error) = bound {
            return Err(port_taken(
                format!(
                    "port {port} of the machine's address {} is taken ({error})",
                    chosen.ip
                ),
                port,
            ));
        }
    }
    Ok(())
}

fn port_taken(what: String, port: u16) -> DriverError {
    DriverError::NotReady {
        what,
        hint: format!(
            "find the program that listens with `{}`; one that listens on all addresses must be told to use its own",
            super::system::who_listens(port)
        ),
    }
}

fn bind(ip: Ipv4Addr, port: u16) -> std::io::Result<()> {
    TcpListener::bind(SocketAddrV4::new(ip, port)).map(drop)
}

fn free_port(ip: Ipv4Addr) -> Result<u16, DriverError> {
    TcpListener::bind(SocketAddrV4::new(ip, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| DriverError::failed(format!("find a free port on {ip}"), error))
}

/// The same name in the same store gets the same address again, as long as it is free. 127.0.x.y is left to others.
fn candidate(place: &MachinePlace, attempt: u64) -> Ipv4Addr {
    let mut text = place.store.as_os_str().as_encoded_bytes().to_vec();
    text.push(0);
    text.extend(place.name.as_bytes());
    text.extend(attempt.to_le_bytes());
    let hash = stable_hash(&text);
    // FNV's low bits are its best.
    let part = |shift: u32, from: u64, to: u64| (from + (hash >> shift) % (to - from + 1)) as u8;
    Ipv4Addr::new(127, part(0, 16, 250), part(16, 1, 254), part(32, 2, 254))
}

/// Addresses of the store's other machines, running or not.
fn taken(place: &MachinePlace) -> HashSet<Ipv4Addr> {
    let Ok(entries) = std::fs::read_dir(place.store.join("machines")) else {
        return HashSet::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy() != place.name)
        .filter_map(|entry| std::fs::read(entry.path().join("config.json")).ok())
        .filter_map(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
        .filter_map(|config| config["Driver"]["IPAddress"].as_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn place(store: &Path, name: &str) -> MachinePlace {
        MachinePlace {
            name: name.into(),
            folder: store.join("machines").join(name),
            store: store.to_path_buf(),
        }
    }

    #[test]
    fn an_address_of_another_machine_is_not_given_again() {
        if !EVERY_MACHINE_HAS_ITS_OWN {
            eprintln!("skipped: this system has one loopback address");
            return;
        }
        let store = tempfile::tempdir().unwrap();
        let first = candidate(&place(store.path(), "dev"), 0);
        let other = store.path().join("machines/other");
        std::fs::create_dir_all(&other).unwrap();
        std::fs::write(
            other.join("config.json"),
            serde_json::json!({"Driver": {"IPAddress": first.to_string()}}).to_string(),
        )
        .unwrap();
        let chosen = choose(&place(store.path(), "dev")).unwrap();
        assert_ne!(chosen.ip, first);
        assert!(chosen.ip.is_loopback());
        assert_eq!(chosen.api_port, 2376);
    }

    #[test]
    fn a_taken_port_is_named_with_a_hint() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = check(&Chosen {
            ip: Ipv4Addr::LOCALHOST,
            api_port: port,
            ssh_port: port,
        })
        .unwrap_err();
        assert!(error.to_string().contains(&port.to_string()), "{error}");
        assert!(
            error
                .hint()
                .unwrap()
                .contains(&crate::qemu::system::who_listens(port))
        );
    }

    #[test]
    fn names_spread_over_the_loopback_network() {
        let store = Path::new("/s");
        let all: HashSet<Ipv4Addr> = (0..500)
            .map(|n| candidate(&place(store, &format!("m{n}")), 0))
            .collect();
        assert!(all.len() > 495, "{}", all.len());
        assert_eq!(
            candidate(&place(store, "dev"), 0),
            candidate(&place(store, "dev"), 0)
        );
    }
}
