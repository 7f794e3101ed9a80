//! Machines on this computer: QEMU with direct kernel boot, owned by a [`keeper`].
//!
//! What the driver remembers of a machine is its hardware and its loopback address; whether it runs is asked of the
//! keeper, never of what was stored.

pub mod accelerator;
mod address;
mod arguments;
mod boot;
mod files;
mod flags;
mod image;
pub mod keeper;
mod process;
mod shares;

use accelerator::Accelerator;
use address::Chosen;
use files::Files;
use flags::{Settings, Wanted};
use image::Image;
use keeper::status::{Conversation, Heard, KeeperRecord, Phase, Request};
use machine_core::driver::{
    Address, Capabilities, Change, Checkpoint, Driver, DriverError, DriverState, Flag, FlagValue,
    FlagValues, MachinePlace, Progress, SeedFiles, Status,
};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MIB: u64 = 1024 * 1024;
/// A sparse disk takes nothing at first; below this the first image pulled would fail.
const LEAST_FREE_SPACE: u64 = 1024 * MIB;
/// The keeper ends the machine itself after 35 s.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Memory of some GiB on a slow disk.
const SUSPEND_LIMIT: Duration = Duration::from_secs(900);
const STATUS_LIMIT: Duration = Duration::from_secs(5);
const SSH_USER: &str = "docker";

/// The driver `qemu`.
pub struct QemuDriver {
    /// The program whose verb `keeper` runs [`keeper::main`].
    keeper: Option<PathBuf>,
}

impl QemuDriver {
    /// Keepers are this program again.
    pub fn new() -> QemuDriver {
        QemuDriver { keeper: None }
    }

    /// Keepers are another program: `PROGRAM keeper FOLDER`.
    pub fn with_keeper(program: PathBuf) -> QemuDriver {
        QemuDriver {
            keeper: Some(program),
        }
    }

    fn keeper(&self) -> Result<PathBuf, DriverError> {
        match &self.keeper {
            Some(program) => Ok(program.clone()),
            None => std::env::current_exe()
                .map_err(|error| DriverError::failed("find this program's own path", error)),
        }
    }

    /// Starts what `state` describes; the files of the machine are there.
    fn boot(
        &self,
        place: &MachinePlace,
        state: &mut DriverState,
        seed: &SeedFiles,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let files = Files::of(place);
        let known = Known::read(state)?;
        let image = Image::open(&known.image(place))?;
        let program = accelerator::find_program(known.program.as_deref(), &image.program())?;
        address::check(&known.address)?;
        let wanted = flags::wanted(&known.accelerator)?;
        let choice = accelerator::choose(wanted, &program, &image, &place.store, progress)?;
        if progress.interrupted() {
            return Err(DriverError::Interrupted);
        }
        let mounts = shares::of(&known.mounts, std::env::home_dir().as_deref())?;
        boot::write_seed(&files.seed(), &shares::add_to_seed(seed, &mounts))?;
        files
            .make_socket_folder()
            .map_err(|error| DriverError::failed("make a folder for sockets", error))?;
        let hardware = arguments::Hardware {
            accelerator: choice.accelerator,
            cpus: known.cpus,
            memory_mib: known.memory_mib,
            address: known.address,
        };
        let mut arguments = arguments::of(&hardware, &image, &files, mounts.len());
        let resumes = files.memory().exists();
        if resumes {
            arguments.extend(arguments::incoming(&files));
        } else {
            grow_disk(&files.disk(), known.disk_mib)?;
        }
        let plan = keeper::VmPlan {
            version: keeper::PLAN_VERSION,
            program,
            arguments,
            resumes,
            shares: shares::for_keeper(&mounts),
            ip: known.address.ip,
            api_port: known.address.api_port,
        };
        if !resumes {
            progress.say(&booting(&choice));
        }
        let ssh = (known.address.ip, known.address.ssh_port);
        boot::run(&files, &plan, ssh, &self.keeper()?, progress)?;
        if resumes {
            // Once the machine goes on, its old memory must never meet its new disk.
            std::fs::remove_file(files.memory())
                .map_err(|error| DriverError::failed("remove the saved memory", error))?;
            let _ = std::fs::remove_file(files.shares_state());
        }
        Ok(())
    }
}

impl Default for QemuDriver {
    fn default() -> QemuDriver {
        QemuDriver::new()
    }
}

/// The line that says what the machine runs on.
fn booting(choice: &accelerator::Choice) -> String {
    let name = match choice.accelerator {
        Accelerator::Kvm => "KVM",
        Accelerator::Hvf => "HVF",
        Accelerator::Tcg => "TCG",
    };
    match &choice.why {
        Some(why) => format!("Booting ({name}, slower: {why})..."),
        None => format!("Booting ({name})..."),
    }
}

impl Driver for QemuDriver {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            boots_our_image: true,
            provisions_over_ssh: false,
            start_stop: true,
            has_engine: true,
        }
    }

    fn flags(&self) -> Result<Vec<Flag>, DriverError> {
        Ok(flags::all())
    }

    fn check(&self, place: &MachinePlace, values: &FlagValues) -> Result<(), DriverError> {
        let settings = Settings::read(values)?;
        let image = Image::open(
            &settings
                .image
                .clone()
                .unwrap_or_else(|| image::default_folder(&place.store)),
        )?;
        accelerator::find_program(settings.program.as_deref(), &image.program())?;
        check_memory(settings.memory_mib)?;
        shares::check(&settings.mounts)?;
        check_space(&place.store)
    }

    fn plan(&self, place: &MachinePlace, values: &FlagValues) -> Result<DriverState, DriverError> {
        let settings = Settings::read(values)?;
        let address = address::choose(place)?;
        Ok(Known {
            address,
            cpus: settings.cpus,
            memory_mib: settings.memory_mib,
            disk_mib: settings.disk_mib,
            accelerator: match settings.accelerator {
                Wanted::Auto => "auto".into(),
                Wanted::Named(accelerator) => accelerator.name().into(),
            },
            image: settings.image.as_deref().map(absolute).transpose()?,
            program: settings.program.as_deref().map(absolute).transpose()?,
            mounts: settings.mounts,
        }
        .write(place))
    }

    fn create(
        &self,
        place: &MachinePlace,
        state: &mut DriverState,
        seed: &SeedFiles,
        checkpoint: &mut dyn Checkpoint,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let files = Files::of(place);
        let known = Known::read(state)?;
        checkpoint.save(state)?;
        let made = make_disk(&files.disk(), known.disk_mib)
            .and_then(|()| self.boot(place, state, seed, progress));
        if made.is_err() {
            boot::end(&files, None);
            if let Err(error) = files.remove_all() {
                tracing::warn!(%error, folder = %files.folder().display(), "not everything was removed");
            }
        }
        made
    }

    fn start(
        &self,
        place: &MachinePlace,
        state: &mut DriverState,
        seed: &SeedFiles,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let files = Files::of(place);
        if !files.disk().exists() {
            return Err(DriverError::NotReady {
                what: format!("the machine's disk {} is gone", files.disk().display()),
                hint: format!(
                    "remove the machine with `machine rm {}` and create it again",
                    place.name
                ),
            });
        }
        self.status(place, state)?; // ends what a killed keeper left behind
        self.boot(place, state, seed, progress)
    }

    fn stop(
        &self,
        place: &MachinePlace,
        _state: &mut DriverState,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let files = Files::of(place);
        if let Ok(mut conversation) = Conversation::open(&files.keeper_socket(), Request::Stop) {
            let deadline = Instant::now() + STOP_LIMIT;
            while Instant::now() < deadline {
                if let Heard::End = conversation.listen(Duration::from_millis(50)) {
                    break;
                }
                if progress.interrupted() {
                    // The stop goes on by itself.
                    return Err(DriverError::Interrupted);
                }
            }
        }
        finish(&files)
    }

    fn kill(&self, place: &MachinePlace, _state: &mut DriverState) -> Result<(), DriverError> {
        let files = Files::of(place);
        finish(&files)?;
        // What was saved of a suspended machine goes, too: `kill` is the way out when it cannot be resumed.
        match std::fs::remove_file(files.memory()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(DriverError::failed("remove the saved memory", error))
            }
            _ => Ok(()),
        }
    }

    fn remove(&self, place: &MachinePlace, _state: &mut DriverState) -> Result<(), DriverError> {
        let files = Files::of(place);
        finish(&files)?;
        files
            .remove_all()
            .map_err(|error| DriverError::failed("remove the machine's files", error))
    }

    fn status(&self, place: &MachinePlace, _state: &DriverState) -> Result<Status, DriverError> {
        let files = Files::of(place);
        Ok(match ask_keeper(&files) {
            Asked::Status(status) => match status.phase {
                Phase::Booting => Status::Starting,
                Phase::Running => Status::Running,
                Phase::Stopping => Status::Stopping,
                Phase::Ended => Status::Stopped,
            },
            Asked::Nobody => {
                finish_orphan(&files)?;
                match files.memory().exists() {
                    true => Status::Saved,
                    false => Status::Stopped,
                }
            }
            Asked::End => Status::Stopped,
            // It listens but does not answer (stopped by SIGSTOP, or a computer that swaps).
            Asked::Silence => Status::Timeout,
        })
    }

    fn port_problems(&self, place: &MachinePlace) -> Vec<String> {
        match ask_keeper(&Files::of(place)) {
            Asked::Status(status) => {
                let sentence = |problem: &String| format!("published port {problem}");
                status.port_problems.iter().map(sentence).collect()
            }
            _ => Vec::new(),
        }
    }

    fn address(&self, _place: &MachinePlace, state: &DriverState) -> Result<Address, DriverError> {
        let known = Known::read(state)?;
        Ok(Address {
            ip: known.address.ip.into(),
            api_port: known.address.api_port,
            ssh_port: known.address.ssh_port,
            ssh_user: SSH_USER.into(),
            ssh_host: None,
        })
    }

    fn change(
        &self,
        place: &MachinePlace,
        state: &mut DriverState,
        change: &Change,
    ) -> Result<(), DriverError> {
        let mut known = Known::read(state)?;
        let values = FlagValues(
            [
                ("qemu-cpus", change.cpus.map(i64::from)),
                ("qemu-memory", change.memory_mib.map(|mib| mib as i64)),
                ("qemu-disk-size", change.disk_mib.map(|mib| mib as i64)),
            ]
            .into_iter()
            .filter_map(|(flag, value)| Some((flag.to_owned(), FlagValue::Int(value?))))
            .collect(),
        );
        let settings = Settings::read(&values)?;
        if change.cpus.is_some() {
            known.cpus = settings.cpus;
        }
        if change.memory_mib.is_some() {
            check_memory(settings.memory_mib)?;
            known.memory_mib = settings.memory_mib;
        }
        if change.disk_mib.is_some() {
            if settings.disk_mib < known.disk_mib {
                return Err(DriverError::InvalidFlag {
                    flag: "disk".into(),
                    why: format!("a disk only grows; this one has {} MiB", known.disk_mib),
                });
            }
            known.disk_mib = settings.disk_mib;
        }
        if let Some(mounts) = &change.mounts {
            shares::check(mounts)?;
            known.mounts.clone_from(mounts);
        }
        // Keys of others, such as the ssh key's, stay.
        for (key, value) in known.write(place) {
            if ["CPU", "Memory", "DiskSize", "Mounts"].contains(&key.as_str()) {
                state.insert(key, value);
            }
        }
        Ok(())
    }

    fn suspend(
        &self,
        place: &MachinePlace,
        _state: &mut DriverState,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        let files = Files::of(place);
        let failed = |why: String| DriverError::failed("write the machine's memory to a file", why);
        let mut conversation = Conversation::open(&files.keeper_socket(), Request::Suspend)
            .map_err(|error| failed(error.to_string()))?;
        let deadline = Instant::now() + SUSPEND_LIMIT;
        let mut began = false;
        while Instant::now() < deadline {
            match conversation.listen(Duration::from_millis(100)) {
                Heard::End => break,
                Heard::Status(status) => {
                    if let Some(why) = status.suspend_problem.filter(|_| began) {
                        return Err(failed(why));
                    }
                    began |= status.phase == Phase::Stopping;
                }
                Heard::Nothing if progress.interrupted() => return Err(DriverError::Interrupted),
                Heard::Nothing => {}
            }
        }
        finish(&files)?;
        match files.memory().exists() {
            true => Ok(()),
            false => Err(failed("its keeper ended without having done so".into())),
        }
    }

    fn disks(&self, place: &MachinePlace) -> Vec<PathBuf> {
        let files = Files::of(place);
        let mut disks = vec![files.disk()];
        for file in [files.memory(), files.shares_state()] {
            if files.memory().exists() && file.exists() {
                disks.push(file);
            }
        }
        disks
    }

    fn plan_copy(
        &self,
        place: &MachinePlace,
        state: &DriverState,
    ) -> Result<DriverState, DriverError> {
        let mut known = Known::read(state)?;
        known.address = address::choose(place)?;
        Ok(known.write(place))
    }

    fn logs(&self, place: &MachinePlace) -> Vec<PathBuf> {
        let files = Files::of(place);
        vec![files.console(), files.keeper_log()]
    }
}

fn finish(files: &Files) -> Result<(), DriverError> {
    if boot::end(files, None) {
        return Ok(());
    }
    Err(DriverError::failed(
        format!("end the machine in {}", files.folder().display()),
        "its processes do not end",
    ))
}

/// What asking the keeper for its status brought.
enum Asked {
    Status(Box<keeper::status::Status>),
    /// There is no keeper.
    Nobody,
    /// It ended while it was asked.
    End,
    Silence,
}

fn ask_keeper(files: &Files) -> Asked {
    let Ok(mut conversation) = Conversation::open(&files.keeper_socket(), Request::Status) else {
        return Asked::Nobody;
    };
    let deadline = Instant::now() + STATUS_LIMIT;
    while Instant::now() < deadline {
        match conversation.listen(Duration::from_millis(200)) {
            Heard::Status(status) => return Asked::Status(Box::new(status)),
            Heard::Nothing => {}
            Heard::End => return Asked::End,
        }
    }
    Asked::Silence
}

/// Nobody answers. Usually the machine is just off; where a killed keeper left QEMU behind it is ended now: it has no
/// ports, no clock and no one to stop it in order.
fn finish_orphan(files: &Files) -> Result<(), DriverError> {
    let Some(record) = KeeperRecord::load(files) else {
        return Ok(());
    };
    // A keeper that has just been started may not listen yet.
    if record.keeper.is_some_and(process::ProcessId::is_alive) {
        return Ok(());
    }
    if record.vm.is_some_and(process::ProcessId::is_alive) {
        boot::note(files, "keeper: was gone; its QEMU was ended");
    }
    finish(files)
}

fn absolute(path: &Path) -> Result<PathBuf, DriverError> {
    std::path::absolute(path)
        .map_err(|error| DriverError::failed(format!("find {}", path.display()), error))
}

/// The guest grows its file system when the disk has grown.
fn grow_disk(path: &Path, mebibytes: u64) -> Result<(), DriverError> {
    let failed = |error| DriverError::failed(format!("grow the disk {}", path.display()), error);
    let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() < mebibytes * MIB {
        file.set_len(mebibytes * MIB).map_err(failed)?;
    }
    Ok(())
}

/// A new raw file that takes no space yet.
fn make_disk(path: &Path, mebibytes: u64) -> Result<(), DriverError> {
    let failed = |error| DriverError::failed(format!("make the disk {}", path.display()), error);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.set_len(mebibytes * MIB).map_err(failed)
}

fn check_memory(wanted_mib: u64) -> Result<(), DriverError> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
    });
    match total.map(|kibibytes| kibibytes / 1024) {
        Some(total) if wanted_mib > total => Err(DriverError::InvalidFlag {
            flag: "qemu-memory".into(),
            why: format!("{wanted_mib} MiB is more than this computer has ({total} MiB)"),
        }),
        _ => Ok(()),
    }
}

fn check_space(store: &Path) -> Result<(), DriverError> {
    // The store may not exist yet.
    let existing = store
        .ancestors()
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"));
    let Ok(space) = rustix::fs::statvfs(existing) else {
        return Ok(());
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < LEAST_FREE_SPACE {
        return Err(DriverError::NotReady {
            what: format!(
                "only {} MiB are free where {} is",
                free / MIB,
                store.display()
            ),
            hint: format!(
                "free at least {} MiB, or put the store elsewhere with MACHINE_STORAGE_PATH",
                LEAST_FREE_SPACE / MIB
            ),
        });
    }
    Ok(())
}

/// What the driver remembers of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    address: Chosen,
    cpus: u32,
    memory_mib: u64,
    disk_mib: u64,
    accelerator: String,
    image: Option<PathBuf>,
    program: Option<PathBuf>,
    /// As they were given; none: the home.
    mounts: Vec<String>,
}

impl Known {
    /// The keys are docker-machine's where it has one.
    fn write(&self, place: &MachinePlace) -> DriverState {
        let mut state = DriverState::new();
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let text = |path: Option<String>| path.unwrap_or_default();
        state.insert("IPAddress".into(), self.address.ip.to_string().into());
        state.insert("MachineName".into(), place.name.clone().into());
        state.insert("SSHUser".into(), SSH_USER.into());
        state.insert("SSHPort".into(), self.address.ssh_port.into());
        state.insert("SSHKeyPath".into(), "".into());
        state.insert("StorePath".into(), place.store.display().to_string().into());
        state.insert("EnginePort".into(), self.address.api_port.into());
        state.insert("CPU".into(), self.cpus.into());
        state.insert("Memory".into(), self.memory_mib.into());
        state.insert("DiskSize".into(), self.disk_mib.into());
        state.insert("Accelerator".into(), self.accelerator.clone().into());
        state.insert("Image".into(), text(path(&self.image)).into());
        state.insert("Program".into(), text(path(&self.program)).into());
        state.insert("Mounts".into(), self.mounts.clone().into());
        state
    }

    fn read(state: &DriverState) -> Result<Known, DriverError> {
        let broken = |key: &str| DriverError::NotReady {
            what: format!("the machine's record has no usable {key}"),
            hint: "restore the machine's config.json, or remove the machine and create it again"
                .into(),
        };
        let text = |key: &str| {
            state
                .get(key)
                .and_then(|value| value.as_str())
                .filter(|text| !text.is_empty())
        };
        let number = |key: &str| state.get(key).and_then(serde_json::Value::as_u64);
        let port = |key: &str| {
            number(key)
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0)
        };
        Ok(Known {
            address: Chosen {
                ip: text("IPAddress")
                    .and_then(|ip| ip.parse().ok())
                    .ok_or_else(|| broken("IPAddress"))?,
                api_port: port("EnginePort").ok_or_else(|| broken("EnginePort"))?,
                ssh_port: port("SSHPort").ok_or_else(|| broken("SSHPort"))?,
            },
            cpus: number("CPU")
                .and_then(|count| u32::try_from(count).ok())
                .ok_or_else(|| broken("CPU"))?,
            memory_mib: number("Memory").ok_or_else(|| broken("Memory"))?,
            disk_mib: number("DiskSize").ok_or_else(|| broken("DiskSize"))?,
            accelerator: text("Accelerator").unwrap_or("auto").to_owned(),
            image: text("Image").map(PathBuf::from),
            program: text("Program").map(PathBuf::from),
            // Machines made before there were shared folders have no such key.
            mounts: state.get("Mounts").map_or_else(Vec::new, |value| {
                let texts = value.as_array().into_iter().flatten();
                texts
                    .filter_map(|text| text.as_str().map(str::to_owned))
                    .collect()
            }),
        })
    }

    fn image(&self, place: &MachinePlace) -> PathBuf {
        self.image
            .clone()
            .unwrap_or_else(|| image::default_folder(&place.store))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Silent;
    impl Progress for Silent {
        fn say(&self, _line: &str) {}
        fn interrupted(&self) -> bool {
            false
        }
    }

    struct Counted(u32);
    impl Checkpoint for Counted {
        fn save(&mut self, _state: &DriverState) -> Result<(), DriverError> {
            self.0 += 1;
            Ok(())
        }
    }

    fn place(store: &Path) -> MachinePlace {
        let folder = store.join("machines/dev");
        std::fs::create_dir_all(&folder).unwrap();
        MachinePlace {
            name: "dev".into(),
            folder,
            store: store.to_path_buf(),
        }
    }

    fn values(pairs: &[(&str, &str)]) -> FlagValues {
        FlagValues(
            pairs
                .iter()
                .map(|(name, text)| ((*name).to_owned(), FlagValue::Text((*text).to_owned())))
                .collect(),
        )
    }

    #[test]
    fn what_is_remembered_comes_back() {
        let store = tempfile::tempdir().unwrap();
        let place = place(store.path());
        let driver = QemuDriver::new();
        let state = driver
            .plan(
                &place,
                &values(&[
                    ("qemu-memory", "2G"),
                    ("qemu-accel", "tcg"),
                    ("qemu-image", "/i"),
                ]),
            )
            .unwrap();
        let known = Known::read(&state).unwrap();
        assert_eq!(known.write(&place), state);
        assert_eq!(known.memory_mib, 2048);
        assert_eq!(known.accelerator, "tcg");
        assert_eq!(known.image(&place), Path::new("/i"));
        let address = driver.address(&place, &state).unwrap();
        assert!(address.ip.is_loopback());
        assert_eq!(driver.status(&place, &state).unwrap(), Status::Stopped);
    }

    #[test]
    fn a_machine_is_changed_and_its_disk_only_grows() {
        let store = tempfile::tempdir().unwrap();
        let place = place(store.path());
        let driver = QemuDriver::new();
        let mut state = driver.plan(&place, &FlagValues::default()).unwrap();
        state.insert("SSHKeyPath".into(), "/k".into());
        let change = |cpus, memory_mib, disk_mib| Change {
            cpus,
            memory_mib,
            disk_mib,
            mounts: None,
        };
        driver
            .change(&place, &mut state, &change(Some(3), None, Some(30_000)))
            .unwrap();
        let known = Known::read(&state).unwrap();
        assert_eq!(
            (known.cpus, known.memory_mib, known.disk_mib),
            (3, 1024, 30_000)
        );
        assert_eq!(state["SSHKeyPath"], "/k");
        for (bad, why) in [
            (change(None, None, Some(20_000)), "only grows"),
            (change(Some(0), None, None), "1 to 255"),
            (change(None, Some(10), None), "too little"),
        ] {
            let error = driver.change(&place, &mut state, &bad).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        let shared = Change {
            mounts: Some(vec!["/tmp:/work:ro".into()]),
            ..Change::default()
        };
        driver.change(&place, &mut state, &shared).unwrap();
        assert_eq!(state["Mounts"], serde_json::json!(["/tmp:/work:ro"]));
        let other = driver.plan_copy(&place, &state).unwrap();
        assert_eq!(other["Mounts"], state["Mounts"]);
        assert_eq!(other["SSHKeyPath"], "");
        assert_eq!(other["DiskSize"], 30_000);
    }

    #[test]
    fn a_damaged_record_is_told_not_guessed() {
        let store = tempfile::tempdir().unwrap();
        let place = place(store.path());
        let good = QemuDriver::new()
            .plan(&place, &FlagValues::default())
            .unwrap();
        for key in [
            "IPAddress",
            "EnginePort",
            "SSHPort",
            "CPU",
            "Memory",
            "DiskSize",
        ] {
            let mut state = good.clone();
            state.insert(key.into(), serde_json::Value::Null);
            let error = Known::read(&state).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[test]
    fn more_memory_than_there_is_is_refused() {
        assert!(check_memory(256).is_ok());
        if cfg!(target_os = "linux") {
            assert!(
                check_memory(1 << 40)
                    .unwrap_err()
                    .to_string()
                    .contains("more than this computer has")
            );
        }
    }

    #[test]
    fn a_create_that_fails_leaves_no_file_behind() {
        let store = tempfile::tempdir().unwrap();
        let place = place(store.path());
        let image = tempfile::tempdir().unwrap();
        image::tests::write(image.path(), |_| {});
        let qemu = image.path().join("qemu");
        image::tests::script(&qemu, "exit 1");
        let keeper = image.path().join("keeper");
        image::tests::script(
            &keeper,
            "echo 'keeper: QEMU did not connect: no such machine' >&2; exit 1",
        );
        let driver = QemuDriver::with_keeper(keeper);
        let values = values(&[
            ("qemu-image", image.path().to_str().unwrap()),
            ("qemu-program", qemu.to_str().unwrap()),
            ("qemu-accel", "tcg"),
        ]);
        driver.check(&place, &values).unwrap();
        let mut state = driver.plan(&place, &values).unwrap();
        let seed = SeedFiles {
            files: vec![("seed.json".into(), b"{}".to_vec())],
        };
        let mut saved = Counted(0);
        let error = driver
            .create(&place, &mut state, &seed, &mut saved, &Silent)
            .unwrap_err();
        let DriverError::Boot { stage, why, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(
            (stage.as_str(), why.as_str()),
            ("kernel", "QEMU did not connect: no such machine")
        );
        assert_eq!(saved.0, 1);
        let left: Vec<_> = std::fs::read_dir(&place.folder)
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        assert!(left.is_empty(), "{left:?}");
        driver.remove(&place, &mut state).unwrap();
        driver.remove(&place, &mut state).unwrap();
    }
}
