//! Machines on this computer: QEMU with direct kernel boot, owned by a [`keeper`].
//!
//! What the driver remembers of a machine is its hardware and its loopback address; whether it runs is asked of the
//! keeper, never of what was stored.

pub mod accelerator;
mod address;
mod arguments;
mod asked;
mod boot;
mod files;
mod flags;
mod image;
pub mod keeper;
mod known;
mod process;
mod resources;
mod shares;
mod system;

use accelerator::Accelerator;
use asked::{Asked, finish};
use files::Files;
use flags::{Settings, Wanted};
use image::Image;
use keeper::status::{Conversation, Heard, Phase, Request};
use known::{Known, SSH_USER};
use machine_core::driver::{
    Address, Capabilities, Change, Checkpoint, Driver, DriverError, DriverState, Flag, FlagValue,
    FlagValues, MachinePlace, Progress, SeedFiles, Status,
};
use resources::{check_memory, check_space, grow_disk, make_disk};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The keeper ends the machine itself before that, and much earlier when the guest is silent.
const STOP_LIMIT: Duration = Duration::from_secs(guest_contract::STOP_TIMEOUT_SECONDS + 90);
/// Memory of some GiB on a slow disk.
const SUSPEND_LIMIT: Duration = Duration::from_secs(900);

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
        let resumes = files.memory().exists();
        if !resumes {
            known::remember_boot(state);
        }
        let known = Known::read(&known::booted(state))?;
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
            .renew_sockets()
            .map_err(|error| DriverError::failed("make a folder for sockets", error))?;
        let hardware = arguments::Hardware {
            accelerator: choice.accelerator,
            cpus: known.cpus,
            memory_mib: known.memory_mib,
            address: known.address,
        };
        let mut arguments = arguments::of(&hardware, &image, &files, mounts.len());
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
            emulated: choice.accelerator == Accelerator::Tcg,
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
        Accelerator::Whpx => "WHPX",
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
        let made = make_disk(&files.disk(), known.disk_mib, progress)
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
        self.status(place, state)?; // takes over, or ends, what a killed keeper left behind
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
        for file in [files.memory(), files.shares_state()] {
            match std::fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(DriverError::failed("remove the saved memory", error));
                }
                _ => {}
            }
        }
        Ok(())
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
        Ok(match asked::ask_or_adopt(&files, &self.keeper()?)? {
            Asked::Status(status) => match status.phase {
                Phase::Booting => Status::Starting,
                Phase::Running => Status::Running,
                Phase::Stopping => Status::Stopping,
                Phase::Ended => Status::Stopped,
            },
            Asked::Nobody => match files.memory().exists() {
                true => Status::Saved,
                false => Status::Stopped,
            },
            Asked::End => Status::Stopped,
            // It listens but does not answer (stopped by SIGSTOP, or a computer that swaps).
            Asked::Silence => Status::Timeout,
        })
    }

    fn port_problems(&self, place: &MachinePlace) -> Vec<String> {
        match asked::ask(&Files::of(place)) {
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
        vec![files.disk(), files.shares_state(), files.memory()]
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

fn absolute(path: &Path) -> Result<PathBuf, DriverError> {
    std::path::absolute(path)
        .map_err(|error| DriverError::failed(format!("find {}", path.display()), error))
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
    fn a_change_counts_from_the_next_boot() {
        let store = tempfile::tempdir().unwrap();
        let place = place(store.path());
        let driver = QemuDriver::new();
        let mut state = driver.plan(&place, &values(&[("qemu-cpus", "2")])).unwrap();
        let booted = |state: &DriverState| Known::read(&known::booted(state)).unwrap();
        known::remember_boot(&mut state);
        let change = Change {
            cpus: Some(3),
            mounts: Some(vec!["/tmp:/work:ro".into()]),
            ..Change::default()
        };
        driver.change(&place, &mut state, &change).unwrap();
        assert_eq!((booted(&state).cpus, booted(&state).mounts.len()), (2, 0));
        known::remember_boot(&mut state);
        assert_eq!((booted(&state).cpus, booted(&state).mounts.len()), (3, 1));
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
}
