//! The rows about machines: how long until the API answers over TLS, held against how long the same kernel takes to an
//! init that does nothing; how large the image is; what an idle machine costs.

use crate::memory;
use crate::table::{Table, median};
use anyhow::{Context, Result, bail};
use guest_contract::manifest::{MANIFEST_FILE, Manifest};
use harness::machine::Store;
use harness::programs::image;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Boots of each kind; the median counts.
const ROUNDS: usize = 5;
const NAME: &str = "bench";
/// Machines in one list.
const MANY: usize = 50;
/// After a start the guest gives memory back for some fifteen seconds, see docs/design/boot.md.
const SETTLED: Duration = Duration::from_secs(25);
/// A boot that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(180);

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    println!("Machines: {ROUNDS} boots of each kind, in turn, emulated (TCG)");
    let folder = image().context("the image was there a moment ago")?;
    let manifest: Manifest = serde_json::from_slice(&std::fs::read(folder.join(MANIFEST_FILE))?)?;
    table.figure(
        "image, compressed",
        "MB",
        manifest.download_bytes as f64 / 1e6,
        Some(28.0),
    );

    let store = Store::new();
    let created = store.create(NAME, &[]);
    if created.code != Some(0) {
        bail!("no machine: {}", created.report());
    }
    let verbs = median((0..ROUNDS).map(|_| verb(&store)).collect::<Result<_>>()?);
    table.figure(
        "machine ip (a verb that needs no VM), wall",
        "ms",
        verbs,
        Some(30.0),
    );

    table.figure(
        "machine rm, while it asks: largest memory",
        "MB",
        asking_verb(&store)?,
        Some(12.0),
    );
    many_machines(table)?;

    let address = expect(&store, "ip")?;
    let trivial = trivial_initrd()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        expect(&store, "stop")?;
        theirs.push(boot_trivial(
            &folder.join(&manifest.kernel),
            trivial.path(),
            &manifest.command_line,
        )?);
        ours.push(boot_machine(&store, address.trim())?);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    table.ratio(
        "machine start to API over TLS / QEMU's start to a trivial init",
        "ms",
        ours,
        theirs,
        Some(2.0),
    );

    std::thread::sleep(SETTLED);
    // Before anybody talks to it, which takes memory as well.
    let qemu = qemu_of(&store).context("the machine runs")?;
    table.figure(
        "idle machine of 768 MB, QEMU's RSS",
        "MB",
        memory::resident_mb(qemu),
        Some(200.0),
    );
    table.figure(
        "idle engine in the guest, RSS",
        "MB",
        engine_resident(&store)?,
        Some(25.0),
    );
    crate::vm_ports::measure(&store, NAME, address.trim(), table)
}

fn expect(store: &Store, verb: &str) -> Result<String> {
    let output = store.run(&[verb, NAME]);
    if output.code != Some(0) {
        bail!("{}", output.report());
    }
    Ok(output.stdout)
}

/// A verb of the release build where there is one, since that is what people have.
fn machine(store: &Store, arguments: &[&str]) -> Command {
    let release = harness::programs::target().join("release/machine");
    if !release.is_file() {
        return store.machine(arguments);
    }
    let mut command = Command::new(release);
    command
        .env("MACHINE_STORAGE_PATH", store.path())
        .env("HOME", store.home())
        .args(arguments);
    command
}

/// Milliseconds of a verb.
fn wall_of(mut command: Command) -> Result<f64> {
    let start = Instant::now();
    let output = command.output()?;
    let wall = start.elapsed();
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(wall.as_secs_f64() * 1000.0)
}

/// Milliseconds of `machine ip`.
fn verb(store: &Store) -> Result<f64> {
    wall_of(machine(store, &["ip", NAME]))
}

/// A verb that waits for an answer can be looked at: it has read the store and parsed its command line by then.
fn asking_verb(store: &Store) -> Result<f64> {
    let mut asking = machine(store, &["rm", NAME])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = Vec::new();
    let mut stdout = asking.stdout.take().context("a pipe")?;
    let mut byte = [0];
    while !said.ends_with(b"(y/n): ") {
        if stdout.read(&mut byte)? == 0 {
            bail!("machine rm did not ask");
        }
        said.push(byte[0]);
    }
    let largest = memory::largest_resident_mb(asking.id());
    asking.stdin.take().context("a pipe")?.write_all(b"n\n")?;
    asking.wait()?;
    Ok(largest)
}

/// `ls` of machines that all answer: fifty names for one engine on loopback, each asked over mutual TLS.
fn many_machines(table: &mut Table) -> Result<()> {
    let store = Store::new();
    let url = harness::agent::loopback_url();
    for number in 0..MANY {
        let name = format!("m{number}");
        wall_of(machine(
            &store,
            &["create", "-d", "none", "--url", &url, &name],
        ))?;
    }
    let Some(_agent) = harness::agent::Agent::start_for_store(released_agent(), store.path(), &url)
    else {
        return Ok(());
    };
    let listed = run_ls(&store)?;
    let answered = listed
        .lines()
        .filter(|line| line.contains("Running") && !line.contains("Unknown"));
    if answered.count() != MANY {
        bail!("not all machines answered:\n{listed}");
    }
    let walls = (0..ROUNDS).map(|_| wall_of(machine(&store, &["ls"])));
    let wall = median(walls.collect::<Result<_>>()?);
    table.figure(
        "machine ls of 50 machines that answer, wall",
        "ms",
        wall,
        Some(100.0),
    );
    Ok(())
}

fn released_agent() -> PathBuf {
    let release = harness::programs::target().join(crate::engines::AGENT);
    match release.is_file() {
        true => release,
        false => harness::programs::program("host-agent"),
    }
}

fn run_ls(store: &Store) -> Result<String> {
    let output = machine(store, &["ls"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Milliseconds from QEMU's start until an init that does nothing speaks.
fn boot_trivial(kernel: &Path, initrd: &Path, command_line: &str) -> Result<f64> {
    let start = Instant::now();
    let mut qemu = Command::new("qemu-system-x86_64")
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-machine",
            "q35,vmport=off",
        ])
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "qemu64,+rdrand,+ssse3,+sse4.1,+sse4.2,+popcnt",
        ])
        .args(["-smp", "2", "-m", "768", "-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", command_line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start qemu-system-x86_64")?;
    let mut lines = BufReader::new(qemu.stdout.take().context("a pipe")?).lines();
    let spoke = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.contains(TRIVIAL_WORD));
    let wall = start.elapsed();
    let _ = qemu.kill();
    qemu.wait()?;
    if !spoke {
        bail!("the trivial init did not speak");
    }
    Ok(wall.as_secs_f64() * 1000.0)
}

const TRIVIAL_WORD: &str = "trivial-init-is-up";

/// busybox and a script as init, in cpio's newc format (kernel: Documentation/driver-api/early-userspace).
fn trivial_initrd() -> Result<tempfile::NamedTempFile> {
    let script = format!("#!/busybox sh\necho {TRIVIAL_WORD}\n/busybox sleep 1000\n");
    let mut archive = Vec::new();
    entry(&mut archive, "dev", 0o040_755, (0, 0), b"");
    entry(&mut archive, "dev/console", 0o020_600, (5, 1), b"");
    entry(
        &mut archive,
        "busybox",
        0o100_755,
        (0, 0),
        &std::fs::read(harness::image::BUSYBOX)?,
    );
    entry(&mut archive, "init", 0o100_755, (0, 0), script.as_bytes());
    entry(&mut archive, "TRAILER!!!", 0, (0, 0), b"");
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(&archive)?;
    Ok(file)
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
    let size = data.len() as u32;
    let fields = [
        0,
        mode,
        0,
        0,
        1,
        0,
        size,
        0,
        0,
        device.0,
        device.1,
        name.len() as u32 + 1,
        0,
    ];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// Milliseconds from `machine start` until the API answers over TLS.
fn boot_machine(store: &Store, address: &str) -> Result<f64> {
    let config = Arc::new(tls(&store.folder_of(NAME))?);
    let start = Instant::now();
    let mut starter = machine(store, &["start", NAME])
        .stdout(Stdio::null())
        .spawn()?;
    while ping(address, &config).is_err() {
        if start.elapsed() > LIMIT {
            bail!("the API did not answer");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let wall = start.elapsed();
    starter.wait()?;
    Ok(wall.as_secs_f64() * 1000.0)
}

fn qemu_of(store: &Store) -> Option<u32> {
    memory::processes_naming(store.path())
        .into_iter()
        .find(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
                String::from_utf8_lossy(program).contains("qemu-system")
            })
        })
}

fn tls(folder: &Path) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(folder.join("ca.pem"))? {
        roots.add(certificate?)?;
    }
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(folder.join("cert.pem"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"))?;
    Ok(rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()?
    .with_root_certificates(roots)
    .with_client_auth_cert(chain, key)?)
}

fn ping(address: &str, config: &Arc<rustls::ClientConfig>) -> Result<()> {
    let mut stream = TcpStream::connect((address, guest_contract::API_PORT))?;
    // QEMU accepts before the guest listens: an answer must come soon or be asked for again.
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let name = ServerName::try_from(address.to_owned())?;
    let mut session = rustls::ClientConnection::new(config.clone(), name)?;
    let mut tls = rustls::Stream::new(&mut session, &mut stream);
    tls.write_all(b"GET /_ping HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = [0u8; 15];
    tls.read_exact(&mut answer)?;
    if &answer != b"HTTP/1.1 200 OK" {
        bail!("no ping");
    }
    Ok(())
}

/// Resident memory of the largest `host-agent serve` in the guest.
fn engine_resident(store: &Store) -> Result<f64> {
    let script = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep -q 'exe serve ' && grep VmRSS $p/status; done";
    let text = store.run(&["ssh", NAME, script]).stdout;
    let sizes = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    let kilobytes = sizes.fold(0.0, f64::max);
    if kilobytes == 0.0 {
        bail!("no engine found in the guest: {text}");
    }
    Ok(kilobytes * 1024.0 / 1e6)
}
