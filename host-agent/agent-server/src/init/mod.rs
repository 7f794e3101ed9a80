//! PID 1 of a guest.
//!
//! ```text
//!   mounts -> bus modules -> control port: stage kernel
//!      |-- disk modules -> seed disk -> hostname, clock -> data disk: stage disk --.
//!      |                                             '-> shared folders: FUSE ----------|
//!      |-- network modules -> DHCP: stage network ---------------------------------+-> serve: stage engine
//!      |-- the engine's modules ---------------------------------------------------'     -> /_ping: stage api
//!      '-- what nobody waits for: entropy, balloon, power button; then memory that is given back
//! ```
//!
//! Plain threads, one for each line: most of a boot is waiting for devices, and a virtual machine has the processors.
//! A stage that fails is told to the desktop and ends the guest; after `api` nothing but the power button does.

mod control;
mod devices;
mod dhcp;
mod disk;
mod memory;
mod modules;
mod mounts;
mod network;
mod power;
mod programs;
mod seed;
mod share;
mod supervise;

use anyhow::{Context, Result, bail};
use control::Reporter;
use guest_contract::control::ControlRequest;
use guest_contract::readiness::Stage;
use guest_contract::seed as names;
use guest_contract::share::{SHARES_JSON, Share};
use guest_contract::{
    API_PORT, API_SOCKET, DATA_DISK_SERIAL, DOCKER_SOCKET, SEED_DIR, SEED_DISK_SERIAL,
};
use modules::Loader;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use supervise::{Children, Service};

/// Where programs of the image are.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long the engine may take to answer after it was started.
const API_WITHIN: Duration = Duration::from_secs(60);
/// `serve` that ends this often before it answered once is not going to.
const API_ATTEMPTS: u32 = 4;

/// Differences from the desktop's clock that nobody notices.
const CLOCK_TOLERANCE_MS: u64 = 250;

static REPORTER: Reporter = Reporter::new();
static SERVE: Service = Service::new("serve");
static SSHD: Service = Service::new("sshd");
static ANSWERED: AtomicBool = AtomicBool::new(false);
/// The network is QEMU's own: behind its gateway is the desktop.
static ON_DESKTOP: AtomicBool = AtomicBool::new(false);

/// Runs until the guest is powered off.
pub fn main(_args: Vec<OsString>) -> ExitCode {
    if std::process::id() != 1 {
        eprintln!(
            "host-agent init is the first process of a guest; to run the engine here use `host-agent serve`"
        );
        return ExitCode::from(2);
    }
    std::panic::set_hook(Box::new(|panic| {
        REPORTER.failed(REPORTER.current_stage(), format!("init panicked: {panic}"));
        // The line must get through the port and the console before the machine is gone.
        std::thread::sleep(Duration::from_millis(300));
        power::at_once();
    }));
    let children: &'static Children = Box::leak(Box::default());
    if let Err(error) = boot(children) {
        give_up(REPORTER.current_stage(), &error);
    }
    wait_for_signals()
}

fn boot(children: &'static Children) -> Result<()> {
    mounts::kernel_file_systems()?;
    // Children find their programs, and get as many files as a server needs.
    let files = rustix::process::Rlimit {
        current: Some(1_048_576),
        maximum: Some(1_048_576),
    };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, files);
    start("reaper", || children.reap())?;

    let loader: &'static Loader = Box::leak(Box::new(Loader::open()?));
    let complain = |problems: Vec<String>| problems.iter().for_each(|problem| say(problem));
    complain(loader.load(modules::BUS));

    let disks = start("disk", move || {
        complain(loader.load(modules::DISK));
        disk_and_identity(children, loader)
    })?;
    let network = start("network", move || {
        complain(loader.load(modules::NETWORK));
        let card = devices::wait_for("virtio network card", devices::network_card)?;
        let lease = network::bring_up(&card)?;
        REPORTER.ready(Stage::Network, None, Some(lease.address.to_string()));
        ON_DESKTOP.store(network::is_qemus(&lease), Ordering::SeqCst);
        start("lease", move || network::keep(&card, lease))?;
        Ok(())
    })?;
    let engine = start("modules", move || {
        complain(loader.load_list(guest_contract::MODULES_ENGINE_LIST));
    })?;
    match devices::wait_for("control port", || {
        devices::serial_port(guest_contract::CONTROL_PORT_NAME)
    }) {
        Ok(device) => {
            let port = REPORTER
                .connect(&device)
                .context("cannot open the control port")?;
            start("control", move || control::listen(port, act))?;
        }
        // A guest without desktop: readiness is on the console, the power button still works.
        Err(error) => say(&format!("{error:#}")),
    }
    REPORTER.ready(Stage::Kernel, None, None);
    mounts::control_groups().context("cannot mount the control groups")?;

    let wanted = joined(disks, Stage::Disk)?;
    joined(network, Stage::Network)?;
    let _ = engine.join();

    start("serve", move || {
        SERVE.keep_running(children, move || serve(&wanted))
    })?;
    REPORTER.ready(Stage::Engine, None, None);
    // Standard tools inside the guest look for Docker's own path.
    let _ = std::os::unix::fs::symlink(API_SOCKET, DOCKER_SOCKET);
    wait_for_api()?;
    ANSWERED.store(true, Ordering::SeqCst);
    REPORTER.ready(Stage::Api, None, None);
    start("sshd", move || SSHD.keep_running(children, sshd))?;
    // Beside the engine's start it would take the processor from who is waited for.
    start("later", move || {
        complain(loader.load(modules::LATER));
        complain(loader.load_list(guest_contract::MODULES_BOOT_LIST));
        power::watch_buttons(request_power_off);
    })?;
    start("memory", memory::keep_giving_back)?;
    Ok(())
}

/// What the seed says of the engine.
struct Wanted {
    has_configuration: bool,
    /// Folders of the desktop; `None`: the desktop's programs know nothing of such.
    shared: Option<Vec<Share>>,
}

/// The seed, and what it says; then the data disk and the desktop's folders.
fn disk_and_identity(children: &Children, loader: &Loader) -> Result<Wanted> {
    let device = devices::wait_for("seed disk", || devices::disk_with_serial(SEED_DISK_SERIAL))?;
    let contents = std::fs::File::open(&device)
        .context("cannot open the seed disk")
        .and_then(seed::read)?;
    seed::install(&contents, Path::new(SEED_DIR)).context("cannot write the seed's files")?;
    rustix::system::sethostname(contents.seed.hostname.as_bytes())
        .context("cannot set the hostname")?;
    let _ = std::fs::write("/etc/hostname", format!("{}\n", contents.seed.hostname));
    let _ = std::fs::write(
        "/etc/hosts",
        format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\t{}\n",
            contents.seed.hostname
        ),
    );
    if let Some(authorities) = contents.files.get(names::COMPANY_AUTHORITIES) {
        trust(authorities).context("cannot add the desktop's authorities")?;
    }
    // The kernel read the hardware clock; certificates fail when that is wrong, so it is never before the desktop's.
    if unix_ms() < contents.seed.unix_ms {
        set_clock(contents.seed.unix_ms);
    }
    let device = devices::wait_for("data disk", || devices::disk_with_serial(DATA_DISK_SERIAL))?;
    let done = disk::prepare(&device, children)?;
    REPORTER.ready(Stage::Disk, Some(done), None);
    let shared = contents.files.get(SHARES_JSON);
    let shared = shared.map(|json| share::parse(json)).transpose()?;
    share::mount_all(shared.as_deref().unwrap_or_default(), loader)?;
    Ok(Wanted {
        has_configuration: contents.files.contains_key(names::DAEMON_JSON),
        shared,
    })
}

/// Before the engine starts, which reads the file once.
fn trust(authorities: &[u8]) -> std::io::Result<()> {
    const TRUSTED: &str = "/etc/ssl/certs/ca-certificates.crt";
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(TRUSTED)?;
    file.write_all(b"\n")?;
    file.write_all(authorities)
}

fn serve(wanted: &Wanted) -> Command {
    let mut command = agent("serve");
    let seed = Path::new(SEED_DIR);
    command
        .args([
            "-H",
            &format!("unix://{API_SOCKET}"),
            "-H",
            &format!("tcp://0.0.0.0:{API_PORT}"),
        ])
        .arg("--tlsverify")
        .arg("--tlscacert")
        .arg(seed.join(names::CA_CERT))
        .arg("--tlscert")
        .arg(seed.join(names::SERVER_CERT))
        .arg("--tlskey")
        .arg(seed.join(names::SERVER_KEY));
    if let Some(shared) = &wanted.shared {
        let paths: Vec<&str> = shared.iter().map(|share| share.path.as_str()).collect();
        command.arg(format!("--desktop-folders={}", paths.join(":")));
    }
    let mut names_gateway = false;
    if wanted.has_configuration {
        let file = seed.join(names::DAEMON_JSON);
        let text = std::fs::read(&file).unwrap_or_default();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        names_gateway = ["host-gateway-ips", "host-gateway-ip"]
            .iter()
            .any(|key| json.get(key).is_some());
        command.arg("--config-file").arg(file);
    }
    // What containers call host.docker.internal is the desktop, not this guest.
    if ON_DESKTOP.load(Ordering::SeqCst) && !names_gateway {
        command
            .arg("--host-gateway-ip")
            .arg(guest_contract::QEMU_HOST_ADDRESS);
    }
    command
}

fn sshd() -> Command {
    agent("sshd")
}

fn agent(verb: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(verb)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("HOME", "/root")
        .current_dir("/")
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Waits until the engine answers on its socket and listens on its port.
fn wait_for_api() -> Result<()> {
    let deadline = Instant::now() + API_WITHIN;
    loop {
        if ping().unwrap_or(false) && std::net::TcpStream::connect(("127.0.0.1", API_PORT)).is_ok()
        {
            return Ok(());
        }
        let failures = SERVE.failures.load(Ordering::SeqCst);
        if failures >= API_ATTEMPTS {
            bail!(
                "serve ended {failures} times before it answered: {}",
                SERVE.last_words()
            );
        }
        if Instant::now() > deadline {
            bail!(
                "the engine did not answer within {} s",
                API_WITHIN.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn ping() -> std::io::Result<bool> {
    let mut stream = UnixStream::connect(API_SOCKET)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut start = [0u8; 12];
    stream.read_exact(&mut start)?;
    Ok(&start == b"HTTP/1.1 200")
}

/// What the desktop asks for.
fn act(request: ControlRequest) {
    match request {
        // A clock that jumps disturbs programs more than one that is a little off.
        ControlRequest::SetTime { unix_ms: right }
            if unix_ms().abs_diff(right) < CLOCK_TOLERANCE_MS => {}
        ControlRequest::SetTime { unix_ms } => set_clock(unix_ms),
        ControlRequest::PowerOff => request_power_off(),
        ControlRequest::Report => REPORTER.repeat(),
    }
}

fn request_power_off() {
    // Not on the caller's thread: it has requests or buttons to read.
    let _ = start("power", || power::off(&SERVE, &SSHD));
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

fn set_clock(unix_ms: u64) {
    let time = rustix::time::Timespec {
        tv_sec: (unix_ms / 1000) as i64,
        tv_nsec: ((unix_ms % 1000) * 1_000_000) as i64,
    };
    if let Err(error) = rustix::time::clock_settime(rustix::time::ClockId::Realtime, time) {
        say(&format!("cannot set the clock: {error}"));
    }
}

/// Waits for the signals by which programs inside ask for the end, as busybox's `poweroff` and `reboot` do.
fn wait_for_signals() -> ExitCode {
    use tokio::signal::unix::{SignalKind, signal};
    let ended: std::io::Result<()> = (|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut user = signal(SignalKind::user_defined2())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::select! {
                _ = terminate.recv() => {}
                _ = user.recv() => {}
                _ = interrupt.recv() => {}
            }
            Ok(())
        })
    })();
    if let Err(error) = ended {
        // Only the signals are lost; PID 1 must not end for that.
        say(&format!("cannot wait for signals: {error}"));
        loop {
            std::thread::park();
        }
    }
    power::off(&SERVE, &SSHD)
}

/// Tells the desktop which stage failed and ends the guest: a half-booted machine helps nobody.
fn give_up(stage: Stage, error: &anyhow::Error) -> ! {
    REPORTER.failed(stage, format!("{error:#}"));
    std::thread::sleep(Duration::from_millis(300));
    power::off(&SERVE, &SSHD)
}

fn joined<T>(thread: std::thread::JoinHandle<Result<T>>, stage: Stage) -> Result<T> {
    match thread.join() {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => give_up(stage, &error),
        // Its panic has already been told and the power is going off.
        Err(_) => bail!("the thread of stage {stage} panicked"),
    }
}

/// Starts a thread. What they do is small, and so are their stacks.
fn start<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(256 * 1024)
        .spawn(work)
}

/// One line on the console.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "init: {line}");
}
