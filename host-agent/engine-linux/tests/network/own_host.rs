//! A host of a test's own, its neighbour, and who talks to whom there.

use engine::id::ContainerId;
use engine::networks::contract::{bridge, place};
use engine::networks::{Attached, Attachment, NetworkBackend, PortRequest, Protocol, Survivor};
use engine_linux::network::{LinuxNetwork, NetworkConfig};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

pub(crate) const LONG: Duration = Duration::from_secs(20);
pub(crate) const SHORT: Duration = Duration::from_millis(700);

/// Runs `test` on a host of its own, with an async runtime whose threads are all there.
pub(crate) fn on_own_host<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: network namespaces need root");
        return;
    }
    let thread = std::thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS) {
            println!("skipped: cannot make network and mount namespaces: {error}");
            return;
        }
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )
        .unwrap();
        run("ip link set lo up");
        runtime().block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

#[track_caller]
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) struct Root {
    pub(crate) folder: tempfile::TempDir,
}

impl Root {
    pub(crate) fn new() -> Root {
        Root {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn config(&self) -> NetworkConfig {
        NetworkConfig::new(
            self.folder.path().join("data"),
            self.folder.path().join("exec"),
        )
    }

    pub(crate) fn namespaces(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("exec/netns"))
            .unwrap()
            .count()
    }
}

impl Drop for Root {
    /// Namespaces are mounts; a folder with mounts in it cannot be removed.
    fn drop(&mut self) {
        let namespaces = std::fs::read_dir(self.folder.path().join("exec/netns"));
        for namespace in namespaces.into_iter().flatten().flatten() {
            let _ = umount2(&namespace.path(), MntFlags::MNT_DETACH);
        }
    }
}

/// Does `work` in a container's namespace.
pub(crate) fn inside<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(File::open(namespace).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

/// A host on the same link: 192.0.2.2, where ours is 192.0.2.1. Lives as long as the channel.
pub(crate) struct Neighbour {
    pub(crate) work: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Neighbour {
    pub(crate) fn new() -> Neighbour {
        let (work, inbox) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (ready, is_ready) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(nix::unistd::gettid()).unwrap();
            while let Ok(work) = inbox.recv() {
                work();
            }
        });
        let thread = is_ready.recv().unwrap();
        run(&format!(
            "ip link add uplink type veth peer name eth0 netns {thread}"
        ));
        run("ip addr add 192.0.2.1/24 dev uplink");
        run("ip link set uplink up");
        let neighbour = Neighbour { work };
        neighbour.there(|| {
            run("ip link set lo up");
            run("ip addr add 192.0.2.2/24 dev eth0");
            run("ip link set eth0 up");
        });
        neighbour
    }

    pub(crate) fn there<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel();
        self.work
            .send(Box::new(move || answer.send(work()).unwrap()))
            .unwrap();
        answered.recv().expect("the neighbour's thread panicked")
    }
}

/// A neighbour in IPv6, too: the host is PREFIX::1, the neighbour PREFIX::2, and it answers on port 82. `None`, with a line
/// that says why, where the kernel has no IPv6.
pub(crate) fn neighbour_in_ipv6(prefix: &str) -> Option<Neighbour> {
    if !Path::new("/proc/net/if_inet6").exists() {
        println!("skipped: this kernel has no IPv6");
        return None;
    }
    let neighbour = Neighbour::new();
    run(&format!("ip addr add {prefix}::1/64 dev uplink nodad"));
    let theirs = format!("{prefix}::2");
    neighbour.there(move || {
        run(&format!("ip addr add {theirs}/64 dev eth0 nodad"));
        serve_tcp(format!("[{theirs}]:82").parse().unwrap());
    });
    Some(neighbour)
}

/// A server that tells every client whom it sees, then sends back what it gets until the end.
pub(crate) fn serve_tcp(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            std::thread::spawn(move || {
                let peer = client.peer_addr().unwrap().ip();
                let mut all = format!("{peer} ").into_bytes();
                if client.read_to_end(&mut all).is_ok() {
                    let _ = client.write_all(&all);
                }
            });
        }
    });
}

/// Says `hello`, ends its half, and returns what comes back.
pub(crate) fn ask_tcp(to: impl Into<SocketAddr>, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to.into(), patience)?;
    stream.set_read_timeout(Some(LONG))?;
    stream.write_all(b"hello")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(text)
}

pub(crate) fn serve_udp(address: SocketAddr) {
    let socket = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..length], from).unwrap();
        }
    });
}

pub(crate) fn ask_udp(to: SocketAddr) -> String {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
    socket.connect(to).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let mut buffer = [0; 2000];
    for _ in 0..5 {
        socket.send(b"datagram").unwrap();
        if let Ok(length) = socket.recv(&mut buffer) {
            return String::from_utf8(buffer[..length].to_vec()).unwrap();
        }
    }
    "nothing".into()
}

pub(crate) fn wish(network: &LinuxNetwork, ports: Vec<PortRequest>) -> Attachment {
    engine::networks::contract::wish(vec![place(&bridge(network))], ports)
}

pub(crate) fn port(
    container_port: u16,
    host: Option<&str>,
    host_port: u16,
    protocol: Protocol,
) -> PortRequest {
    PortRequest {
        container_port,
        protocol,
        host_address: host.map(|address| address.parse().unwrap()),
        host_ports: (host_port, host_port),
    }
}

/// Who is on the default bridge.
pub(crate) fn members(network: &LinuxNetwork) -> Vec<ContainerId> {
    let endpoints = network.endpoints(&bridge(network).id);
    endpoints
        .into_iter()
        .map(|(container, _)| container)
        .collect()
}

pub(crate) fn address(attached: &Attached) -> IpAddr {
    attached.endpoints[0].address.unwrap()
}

/// Waits until `done`, within reason.
#[track_caller]
pub(crate) fn eventually(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn container_links() -> usize {
    run("ip -o link show type veth")
        .lines()
        .filter(|line| line.contains("master berth0"))
        .count()
}

/// What an engine that starts again says of a container it knows.
pub(crate) fn survivor(container: &ContainerId, attached: &Attached) -> Survivor {
    Survivor {
        container: container.clone(),
        attached: attached.clone(),
        process: None,
    }
}
