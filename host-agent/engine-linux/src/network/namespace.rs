//! Network namespaces: made ahead of need, kept by a bound file under `<exec-root>/netns/`, and removed.
//!
//! A namespace is made on a thread that does nothing else: `unshare` moves only the calling thread, and such a thread
//! must never go back to a pool. The rtnetlink socket opened there stays in the namespace, so configuring it later
//! needs no entering.

use super::link;
use super::netlink::Socket;
use engine::networks::sysctls::SYSCTLS;
use engine::networks::{Endpoint, NetworkError};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, statfs};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The name of a container's link, inside.
const INSIDE: &str = "eth0";

/// What Docker sets in every network namespace of a container: low ports and ping need no privilege there.
/// New links have no IPv6 unless their network has.
const SETTINGS: [(&str, &str); 3] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
    ("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1"),
];

/// `linux/magic.h`
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);

/// A namespace nobody uses yet.
pub(crate) struct Namespace {
    pub path: PathBuf,
    /// Opened inside.
    pub socket: Socket,
    /// Index of `eth0` inside; `None`: only loopback.
    pub inside: Option<u32>,
}

/// What a namespace is connected to.
#[derive(Debug, Clone)]
pub(crate) struct Wiring {
    pub bridge_index: u32,
    pub mtu: Option<u32>,
    /// Away from the bridge's other ports.
    pub isolated: bool,
}

/// Error of one step.
pub(crate) fn failed(
    step: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> NetworkError {
    NetworkError::Failed {
        step: step.into(),
        source: source.into(),
    }
}

/// The name of the host's end of a pair, from the namespace's file name and the number of the link.
pub(crate) fn outside_name(path: &Path, slot: u8) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = (name.len() >= 8 && name.is_ascii()).then(|| &name[..8])?;
    Some(match slot {
        0 => format!("veth{name}"),
        slot => format!("veth{name}_{slot}"),
    })
}

/// What a link's name was made from, if it was made so: the beginning of the namespace file's name, and the number of the
/// link.
pub(crate) fn of_outside_name(link: &str) -> Option<(&str, u8)> {
    let name = link.strip_prefix("veth")?;
    let (name, slot) = match name.split_once('_') {
        Some((name, slot)) => (name, slot.parse().ok()?),
        None => (name, 0),
    };
    let is_ours = name.len() == 8 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_ours.then_some((name, slot))
}

/// Whether a namespace's file is called so.
pub(crate) fn begins_with(path: &Path, prefix: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(prefix))
}

/// Whether the file is a namespace, and not what is below its mount.
pub(crate) fn is_there(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Binds a namespace that is reached by `source` to its file again.
pub(crate) fn bind_again(source: &Path, path: &Path) -> Result<(), NetworkError> {
    let step = || format!("bind the network namespace to {} again", path.display());
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|error| failed(step(), error))?;
    mount(
        Some(source),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|error| failed(step(), error))
}

/// Does `work` on a thread in the namespace: such a thread must never go back to a pool.
pub(crate) fn within<T: Send>(
    path: &Path,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NetworkError> {
    let step = || format!("enter the network namespace {}", path.display());
    let file = File::open(path).map_err(|error| failed(step(), error))?;
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("in-netns".into())
            .spawn_scoped(scope, || {
                setns(&file, CloneFlags::CLONE_NEWNET).map_err(|error| failed(step(), error))?;
                Ok(work())
            })
            .map_err(|error| failed(step(), error))?
            .join()
            .map_err(|_| failed(step(), "the thread panicked"))?
    })
}

/// An rtnetlink socket in the namespace.
pub(crate) fn socket_in(path: &Path) -> Result<Socket, NetworkError> {
    within(path, Socket::route)?.map_err(|error| failed("open rtnetlink", error))
}

/// Lets a link in the namespace have IPv6 addresses: by default none has.
pub(crate) fn enable_ipv6(path: &Path, interface: &str) -> Result<(), NetworkError> {
    let file = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    within(path, || std::fs::write(&file, "0"))?
        .map_err(|error| failed(format!("write 0 to {file}"), error))
}

/// What the kernel is told about a place's link in the namespace.
pub(crate) fn set_sysctls(path: &Path, endpoint: &Endpoint) -> Result<(), NetworkError> {
    within(path, || {
        for sysctl in &endpoint.sysctls {
            let file = sysctl.file(&endpoint.interface);
            if let Err(error) = std::fs::write(&file, &sysctl.value) {
                return Err(match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                        NetworkError::Unsupported {
                            what: format!("{file} (option {SYSCTLS})"),
                            why:
                                "this kernel has no such setting that can be written; leave it out"
                                    .into(),
                        }
                    }
                    _ => failed(
                        format!("write {:?} to {file} (option {SYSCTLS})", sysctl.value),
                        error,
                    ),
                });
            }
        }
        Ok(())
    })?
}

/// Makes `count` namespaces with loopback up, connected as `wiring` says.
pub(crate) fn make(
    directory: &Path,
    count: usize,
    wiring: Option<&Wiring>,
    host: &mut Socket,
) -> Result<Vec<Namespace>, NetworkError> {
    let (made, mut trouble) = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns-maker".into())
            .spawn_scoped(scope, || {
                let mut made = Vec::new();
                while made.len() < count {
                    match make_bare(directory) {
                        Ok(namespace) => made.push(namespace),
                        Err(error) => return (made, Some(error)),
                    }
                }
                (made, None)
            })
            .map_err(|error| failed("start a thread to make network namespaces", error))?
            .join()
            .map_err(|_| failed("make network namespaces", "the thread panicked"))
    })?;
    let mut ready = Vec::new();
    for mut namespace in made {
        let wired = match (wiring, &trouble) {
            (_, Some(_)) => {
                remove(&namespace.path, host);
                continue;
            }
            (Some(wiring), None) => wire(&mut namespace, wiring, host),
            (None, None) => Ok(()),
        };
        match wired {
            Ok(()) => ready.push(namespace),
            Err(error) => {
                remove(&namespace.path, host);
                trouble = Some(error);
            }
        }
    }
    match trouble {
        Some(error) => {
            for namespace in ready {
                remove(&namespace.path, host);
            }
            Err(error)
        }
        None => Ok(ready),
    }
}

/// Must run on a thread of its own: it stays in the new namespace.
fn make_bare(directory: &Path) -> Result<Namespace, NetworkError> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|error| failed("create a network namespace", error))?;
    for (file, value) in SETTINGS {
        match std::fs::write(file, value) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(format!("write {value} to {file}"), error));
            }
            _ => {}
        }
    }
    let mut random = [0; 6];
    getrandom::fill(&mut random)
        .map_err(|error| failed("get random numbers", error.to_string()))?;
    let path = directory.join(hex::encode(random));
    File::create_new(&path).map_err(|error| failed(format!("create {}", path.display()), error))?;
    let keep = || -> Result<Socket, NetworkError> {
        mount(
            Some("/proc/thread-self/ns/net"),
            &path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(|error| {
            failed(
                format!("bind the network namespace to {}", path.display()),
                error,
            )
        })?;
        let mut socket = Socket::route().map_err(|error| failed("open rtnetlink", error))?;
        socket
            .execute(vec![link::up_by_name("lo")])
            .map_err(|error| failed("set loopback up", error))?;
        Ok(socket)
    };
    match keep() {
        Ok(socket) => Ok(Namespace {
            path,
            socket,
            inside: None,
        }),
        Err(error) => {
            unbind(&path);
            Err(error)
        }
    }
}

fn wire(namespace: &mut Namespace, wiring: &Wiring, host: &mut Socket) -> Result<(), NetworkError> {
    let (path, socket) = (&namespace.path, &mut namespace.socket);
    let index = connect(path, socket, wiring, INSIDE, 0, host)?;
    socket
        .execute(vec![link::up(index)])
        .map_err(|error| failed(format!("set {INSIDE} up"), error))?;
    socket.rest();
    namespace.inside = Some(index);
    Ok(())
}

/// Connects a namespace and a bridge by a pair of links; the one inside, whose index is returned, is still down.
pub(crate) fn connect(
    path: &Path,
    socket: &mut Socket,
    wiring: &Wiring,
    inside: &str,
    slot: u8,
    host: &mut Socket,
) -> Result<u32, NetworkError> {
    let file =
        File::open(path).map_err(|error| failed(format!("open {}", path.display()), error))?;
    let outside = outside_name(path, slot).ok_or_else(|| failed("name a link", "bad file name"))?;
    link::create_pair(
        host,
        &outside,
        wiring.bridge_index,
        wiring.mtu,
        inside,
        file.as_fd(),
    )
    .map_err(|error| {
        let step = format!("create the links {outside} and {inside}");
        match error.raw_os_error() {
            // BR_MAX_PORTS
            Some(libc::EXFULL) => failed(
                step,
                "the bridge is full: Linux gives one 1023 ports; put further containers into another network",
            ),
            _ => failed(step, error),
        }
    })?;
    // A bridge port needs no address of its own, and none of the chatter that IPv6 starts for one.
    let _ = std::fs::write(
        format!("/proc/sys/net/ipv6/conf/{outside}/disable_ipv6"),
        "1",
    );
    let up = host
        .execute(vec![link::up_as_port(&outside, wiring.isolated)])
        .map_err(|error| failed(format!("set {outside} up"), error))
        .and_then(|()| index_of(socket, inside));
    if up.is_err() {
        let _ = link::remove(host, &outside);
    }
    up
}

/// The index of a link in the namespace of `socket`.
pub(crate) fn index_of(socket: &mut Socket, name: &str) -> Result<u32, NetworkError> {
    let step = || format!("look for {name}");
    let link = link::find(socket, name).map_err(|error| failed(step(), error))?;
    link.map(|link| link.index)
        .ok_or_else(|| failed(step(), "it is not there"))
}

/// Removes a namespace and its links; what is gone already is no error, what cannot be removed is logged: the next
/// start of the agent tries again.
pub(crate) fn remove(path: &Path, host: &mut Socket) {
    if let Some(outside) = outside_name(path, 0)
        && let Err(error) = link::remove(host, &outside)
    {
        tracing::warn!(link = outside, %error, "cannot remove the link of a container");
    }
    unbind(path);
}

fn unbind(path: &Path) {
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot unmount a network namespace")
        }
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove a network namespace's file");
        }
        _ => {}
    }
}
