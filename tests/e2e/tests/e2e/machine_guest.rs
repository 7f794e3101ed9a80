//! What a machine takes from the desktop and gives back: memory, disk, and whom the desktop trusts.

use harness::machine::{LIMIT, Store};
use harness::programs::find;
use harness::run::{eventually, run};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);
/// What an idle machine may cost, in bytes.
const IDLE: u64 = 200_000_000;

/// A machine that has just started and does nothing.
pub fn an_idle_machine_is_small(store: &Store, name: &str) {
    // Nobody talks to it meanwhile: that takes memory as well.
    eventually("an idle machine is small", PATIENCE, || {
        (resident(store, name) <= IDLE).then_some(())
    });
    // Its programs have left the memory, and are there.
    let line = "grep -o '^/dev/[a-z]* /usr ext4' /proc/mounts && nft list tables >/dev/null && modprobe dummy && echo works";
    let told = store.run(&["ssh", name, line]).success();
    assert!(told.ends_with("/usr ext4\nworks\n"), "{told}");
}

/// Memory that a container had comes back when it ends. The machine has the image busybox.
pub fn memory_comes_back(store: &Store, name: &str) {
    let before = resident(store, name);
    // dd's buffer.
    let fill = "exec dd if=/dev/zero of=/dev/null bs=300M";
    let line = ["run", "-d", "--name", "busy", "busybox", "sh", "-c", fill];
    store.berth(name, &line).success();
    eventually("the container has its memory", PATIENCE, || {
        (resident(store, name) > before + (250 << 20)).then_some(())
    });
    store.berth(name, &["rm", "-f", "busy"]).success();
    eventually("the memory is back", PATIENCE, || {
        (resident(store, name) < before + (40 << 20)).then_some(())
    });
}

/// What is deleted in the guest takes no room on the desktop.
pub fn disk_comes_back(store: &Store, name: &str) {
    let disk = store.folder_of(name).join("data.raw");
    let allocated = || disk.metadata().expect("the disk").blocks() * 512;
    let guest = |line: &str| store.run(&["ssh", name, line]).success();
    let file = "/var/lib/berth/junk";
    guest("sync; fstrim /var/lib/berth");
    let before = allocated();
    guest(&format!(
        "dd if=/dev/urandom of={file} bs=1M count=64 2>/dev/null; sync"
    ));
    let full = allocated();
    assert!(full > before + (56 << 20), "{before} {full}");
    guest(&format!("rm {file}; sync"));
    eventually("the disk file has shrunk", PATIENCE, || {
        (allocated() < before + (32 << 20)).then_some(())
    });
}

/// The data disk of a machine that was stopped has no journal to replay: ext4's superblock says so (kernel documentation,
/// "ext4 super block", `s_feature_incompat`).
pub fn the_disk_was_unmounted(store: &Store, name: &str) {
    const NEEDS_RECOVERY: u8 = 4;
    let mut disk = File::open(store.folder_of(name).join("data.raw")).expect("the disk");
    let mut head = [0; 2048];
    disk.read_exact(&mut head).expect("a superblock");
    assert_eq!(&head[1024 + 0x38..1024 + 0x3a], &[0x53, 0xef]);
    assert_eq!(head[1024 + 0x60] & NEEDS_RECOVERY, 0);
}

/// An authority that only this desktop knows, and servers with its certificates.
pub struct Company {
    folder: tempfile::TempDir,
}

/// The desktop, as a guest sees it.
const DESKTOP: &str = "10.0.2.2";

impl Company {
    /// `None`, with a line that says why, where nothing can be signed.
    pub fn new() -> Option<Company> {
        if find("openssl").is_none() {
            println!("skipped: there is no openssl to sign with");
            return None;
        }
        let company = Company {
            folder: tempfile::tempdir().expect("a folder"),
        };
        for owner in ["company", "stranger"] {
            let mut sign = Command::new("sh");
            sign.args(["-c", SIGN, "sh"]);
            sign.arg(company.folder.path()).args([owner, DESKTOP]);
            run(&mut sign, LIMIT).success();
        }
        Some(company)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the variable `SSL_CERT_FILE` of the desktop names.
    pub fn authority(&self) -> PathBuf {
        self.path("company.ca")
    }

    /// The guest of the machine trusts it, as its engine does; and nobody else.
    pub fn is_trusted_by(&self, store: &Store, name: &str) {
        let authority = std::fs::read_to_string(self.authority()).expect("a certificate");
        let trusted = store.run(&["ssh", name, "cat /etc/ssl/certs/ca-certificates.crt"]);
        let trusted = trusted.success();
        assert!(trusted.contains(authority.trim()), "not in the guest");
        assert!(
            trusted.matches("BEGIN CERTIFICATE").count() > 50,
            "the others are gone"
        );
        let pull = |owner: &str| {
            let server = self.server(owner);
            let reference = format!("{DESKTOP}:{}/some/thing", server.port);
            store.berth(name, &["pull", &reference]).fails_with(1)
        };
        // It is no registry, but its certificate is good.
        let told = pull("company");
        assert!(!told.contains("certificate"), "{told}");
        assert!(told.contains("manifest"), "{told}");
        let told = pull("stranger");
        assert!(told.contains("certificate"), "{told}");
    }

    fn server(&self, owner: &str) -> Server {
        let path = |ending: &str| self.path(&format!("{owner}.{ending}"));
        Server::start(&path("cert"), &path("key"))
    }
}

/// Makes `$1/$2.ca` and a certificate for the address $3 that it signed.
const SIGN: &str = r#"set -e
cd "$1"
key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1"; }
key "$2.ca-key"; key "$2.key"
openssl req -x509 -new -key "$2.ca-key" -subj "/CN=the $2" -days 2 -out "$2.ca"
openssl req -new -key "$2.key" -subj "/CN=server of the $2" -out "$2.request"
printf 'subjectAltName=IP:%s\nextendedKeyUsage=serverAuth\n' "$3" > "$2.extensions"
openssl x509 -req -in "$2.request" -CA "$2.ca" -CAkey "$2.ca-key" -set_serial 7 -days 2 \
    -extfile "$2.extensions" -out "$2.cert""#;

/// An HTTPS server on loopback that has an answer to everything.
struct Server {
    process: Child,
    /// It would end with nobody to tell.
    _told: BufReader<ChildStdout>,
    port: u16,
}

impl Server {
    fn start(certificate: &Path, key: &Path) -> Server {
        let mut process = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-www"])
            .arg("-cert")
            .arg(certificate)
            .arg("-key")
            .arg(key)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl starts");
        let mut told = BufReader::new(process.stdout.take().expect("a pipe"));
        let port = told
            .by_ref()
            .lines()
            .map_while(Result::ok)
            .find_map(|line| {
                let address = line.strip_prefix("ACCEPT ")?;
                address.rsplit(':').next()?.parse().ok()
            });
        Server {
            process,
            _told: told,
            port: port.expect("openssl says where it listens"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// QEMU's resident memory, in bytes.
fn resident(store: &Store, name: &str) -> u64 {
    let text = std::fs::read(store.folder_of(name).join("keeper.json")).expect("keeper.json");
    let record: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let status = format!("/proc/{}/status", record["vm"]["pid"]);
    let status = std::fs::read_to_string(status).expect("QEMU runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.expect("a number") * 1024
}
