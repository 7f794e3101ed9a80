//! A host of the test's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Hosts of this process, counted.
static HOSTS: AtomicU32 = AtomicU32::new(0);

pub fn target() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_machine"))
        .ancestors()
        .nth(2)
        .unwrap()
        .to_path_buf()
}

pub fn agent() -> Option<PathBuf> {
    let given = std::env::var_os("BERTH_TEST_AGENT").map(PathBuf::from);
    let built = [
        "x86_64-unknown-linux-musl/release/host-agent",
        "debug/host-agent",
    ];
    let mut found: Vec<PathBuf> = built
        .iter()
        .map(|name| target().join(name))
        .filter(|path| path.is_file())
        .collect();
    // The newest: an old release build may lack what this test needs.
    found.sort_by_key(|path| path.metadata().and_then(|m| m.modified()).unwrap());
    given.or(found.pop())
}

/// The root file system, made once; others who want it at the same time wait.
pub fn debian() -> Result<PathBuf, String> {
    if !is_root() {
        return Err("needs root".into());
    }
    let root = target().join("debian-root");
    std::fs::create_dir_all(&root).unwrap();
    let lock = std::fs::File::create(target().join("debian-root.lock")).unwrap();
    lock.lock().unwrap();
    let wanted = ["usr/sbin/sshd", "sbin/openrc-run", "lib/systemd/systemd"];
    let done = wanted.map(|file| root.join(file));
    if !done.iter().all(|file| file.exists()) {
        let making = target().join("debian-root.making");
        let _ = std::fs::remove_dir_all(&making);
        let made = Command::new("debootstrap")
            .args([
                "--variant=minbase",
                "--include=openssh-server,sudo,iproute2,iptables,openrc,procps,systemd",
                "bookworm",
            ])
            .arg(&making)
            .stdout(Stdio::null())
            .status();
        match made {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(format!("debootstrap: {status}")),
            Err(error) => return Err(format!("debootstrap: {error}")),
        }
        // Empty, or of an earlier version of this test.
        std::fs::remove_dir_all(&root).unwrap();
        std::fs::rename(&making, &root).unwrap();
    }
    Ok(root)
}

/// What is process 1 of a host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// The ssh server alone.
    Sshd,
    Systemd,
}

/// A host, or a line that says why there is none.
pub fn start() -> Option<Host> {
    start_with(Init::Sshd)
}

pub fn start_with(init: Init) -> Option<Host> {
    if agent().is_none() {
        println!("skipped: host-agent is not built");
        return None;
    }
    match debian() {
        Ok(debian) => Some(Host::start(&debian, init)),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().any(|line| line.starts_with("Uid:\t0\t0"))
}

pub fn child_of(pid: u32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A host that ends with the test, whatever happens.
pub struct Host {
    pub folder: tempfile::TempDir,
    init: Child,
    pub address: String,
    link: String,
    /// What its process 1 and all others are in, of every hierarchy; systemd's alone.
    groups: Vec<PathBuf>,
    /// Its process 1, as this computer numbers it.
    pub inner: u32,
}

impl Host {
    pub fn start(debian: &Path, kind: Init) -> Host {
        let folder = tempfile::Builder::new()
            .prefix("berth-generic")
            .tempdir()
            .unwrap();
        let key = folder.path().join("key");
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key));
        let authorized = std::fs::read_to_string(key.with_extension("pub")).unwrap();
        // Two hosts of a process at most. A network of four addresses that is this one's alone, as far as numbers go.
        let index = HOSTS.fetch_add(1, Ordering::SeqCst);
        let number = std::process::id() * 2 + index;
        let net = format!("10.{}.{}", 200 + number / 250 / 64 % 50, number % 250);
        let base = number / 250 % 64 * 4;
        let (ours, theirs) = (format!("{net}.{}", base + 1), format!("{net}.{}", base + 2));
        let link = format!("bg{number}");
        let systems = match kind {
            Init::Sshd => {
                "mount --rbind /dev dev; mount -t sysfs sysfs sys; mount --rbind /sys/fs/cgroup sys/fs/cgroup"
            }
            Init::Systemd => SYSTEMD_MOUNTS,
        };
        let process_1 = match kind {
            Init::Sshd => "/usr/sbin/sshd -D -e -o UsePAM=no",
            Init::Systemd => "/usr/bin/env container=berth /lib/systemd/systemd",
        };
        let script = format!(
            r#"set -e
cd {folder}
mount --make-rprivate /
mkdir tmp && mount -t tmpfs none tmp && mkdir tmp/upper tmp/work tmp/root
mount -t overlay -o lowerdir={debian},upperdir=tmp/upper,workdir=tmp/work none tmp/root
cd tmp/root
mount -t proc proc proc
{systems}
mount -t tmpfs none run
mount -t tmpfs none var/lib
mkdir -p run/sshd root/.ssh home/worker/.ssh
grep -q worker etc/passwd || chroot . useradd -p '*' -s /bin/bash worker
echo '{authorized}' > root/.ssh/authorized_keys
cp root/.ssh/authorized_keys home/worker/.ssh/
chmod 700 root/.ssh home/worker/.ssh; chroot . chown -R worker home/worker
echo 'worker ALL=(ALL) NOPASSWD:ALL' > etc/sudoers.d/worker
ip link set lo up
n=0; until ip link show {link}b >/dev/null 2>&1; do sleep 0.05; n=$((n+1)); [ $n -lt 200 ]; done
ip addr add {theirs}/30 dev {link}b; ip link set {link}b up
exec chroot . {process_1}
"#,
            folder = folder.path().display(),
            debian = debian.display(),
            authorized = authorized.trim(),
        );
        let groups = match kind {
            Init::Sshd => Vec::new(),
            Init::Systemd => groups(&link),
        };
        let join: String = groups
            .iter()
            .map(|group| format!("echo $$ > {}/cgroup.procs && ", group.display()))
            .collect();
        let mut init = Command::new("sh");
        init.args(["-c", &format!("{join}exec unshare \"$@\""), "sh"])
            .args(["--mount", "--pid", "--fork", "--kill-child", "--net"])
            .args(["--uts", "--ipc"]);
        if kind == Init::Systemd {
            // What it mounts below /sys/fs/cgroup is its own part, then.
            init.arg("--cgroup");
        }
        let init = init
            .args(["sh", "-c"])
            .arg(script)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("sshd.log")).unwrap())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let inner = loop {
            if let Some(pid) = child_of(init.id()) {
                break pid;
            }
            assert!(Instant::now() < deadline, "unshare did not start");
            std::thread::sleep(Duration::from_millis(10));
        };
        let host = Host {
            folder,
            init,
            address: theirs,
            link,
            groups,
            inner,
        };
        let link = &host.link;
        run(Command::new("ip").args([
            "link",
            "add",
            link,
            "type",
            "veth",
            "peer",
            "name",
            &format!("{link}b"),
            "netns",
            &host.inner.to_string(),
        ]));
        run(Command::new("ip").args(["addr", "add", &format!("{ours}/30"), "dev", link]));
        run(Command::new("ip").args(["link", "set", link, "up"]));
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect((host.address.as_str(), 22)).is_err() {
            assert!(Instant::now() < deadline, "sshd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        host
    }

    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key")
    }

    pub fn machine(&self, store: &str, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_machine"));
        command
            .args(line.split(' '))
            .env("MACHINE_STORAGE_PATH", self.folder.path().join(store))
            .env("DOCKER_CONFIG", self.folder.path().join("docker"))
            .env("MACHINE_AGENT", agent().unwrap())
            .stdin(Stdio::null());
        command
    }

    pub fn create(&self, more: &str) -> String {
        format!(
            "create -d generic --generic-ip-address {} --generic-ssh-key {} {more}",
            self.address,
            self.key().display()
        )
    }

    /// A command as root on the host.
    pub fn on(&self, line: &str) -> std::process::Output {
        Command::new("nsenter")
            .args(["-t", &self.inner.to_string(), "-m", "-n", "-p", "-u", "-i"])
            .args(["-C", "-r", "-w", "sh", "-c", line])
            .output()
            .unwrap()
    }

    /// A file of the host.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.inner))
    }

    pub fn refused(&self, store: &str, line: &str) -> String {
        let output = self.machine(store, line).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        said
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in [
                self.folder.path().join("sshd.log"),
                self.file("/var/log/berth.log"),
            ] {
                eprintln!(
                    "{}:\n{}",
                    log.display(),
                    std::fs::read_to_string(&log).unwrap_or_default()
                );
            }
        }
        let _ = self.init.kill();
        let _ = self.init.wait();
        let _ = Command::new("ip")
            .args(["link", "del", &self.link])
            .stderr(Stdio::null())
            .status();
        // Its processes end with process 1, which takes the kernel a moment.
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.groups.iter().any(|group| !removed(group)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// What systemd wants of whoever contains it (systemd: CONTAINER_INTERFACE): devices, /sys to read only, and its own part of
/// the control groups to write.
const SYSTEMD_MOUNTS: &str = r#"mount -t tmpfs none dev
for d in null zero full random urandom tty net/tun fuse; do [ -c /dev/$d ] || continue; mkdir -p dev/${d%/*}; rmdir dev/$d 2>/dev/null || :; touch dev/$d; mount --bind /dev/$d dev/$d; done
ln -s /proc/self/fd dev/fd; mkdir -p dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts; ln -s pts/ptmx dev/ptmx
mount -t sysfs -o ro sysfs sys
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then mount -t cgroup2 cgroup sys/fs/cgroup; else
mount -t tmpfs none sys/fs/cgroup
for dir in /sys/fs/cgroup/*; do
name=${dir##*/}; [ -d $dir ] && [ ! -L $dir ] || continue
mkdir sys/fs/cgroup/$name
case $name in
unified) mount -t cgroup2 cgroup sys/fs/cgroup/unified;;
systemd) mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd;;
*) mount -t cgroup -o $name cgroup sys/fs/cgroup/$name;;
esac
done
fi
mount -t tmpfs none tmp"#;

/// A new group in every hierarchy of this computer.
fn groups(name: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = match top.join("cgroup.procs").exists() {
        true => vec![top.to_owned()],
        false => std::fs::read_dir(top)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            // A link is one more name of a hierarchy.
            .filter(|path| path.join("cgroup.procs").exists() && !path.is_symlink())
            .collect(),
    };
    hierarchies
        .into_iter()
        .map(|hierarchy| {
            let group = hierarchy.join(name);
            std::fs::create_dir(&group).unwrap();
            // A new cpuset has no processor, and takes nobody before it has.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(all) = std::fs::read_to_string(hierarchy.join(file)) {
                    let _ = std::fs::write(group.join(file), all.trim());
                }
            }
            group
        })
        .collect()
}

/// Removes a group with those below it; false while somebody is in one.
fn removed(group: &Path) -> bool {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            removed(&entry.path());
        }
    }
    std::fs::remove_dir(group).is_ok() || !group.exists()
}
