//! Real machines under QEMU, through the same use cases that `machine` calls. No libtest: the keeper is this program
//! again (`keeper` as its first argument), and virtual machines are booted one after the other.
//!
//! Needs QEMU and a guest image in `target/image` (`make image`) or in the folder that `BERTH_TEST_IMAGE` names.

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("skipped: this test looks at processes in /proc");
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(target_os = "linux")]
mod linux {
    use machine_core::certificates::CertificatePaths;
    use machine_core::driver::{DriverError, FlagValue, FlagValues, Progress, Status};
    use machine_core::use_cases::Machines;
    use machine_core::use_cases::create::CreateRequest;
    use machine_core::{MachineError, MachineStore};
    use machine_drivers::qemu::{QemuDriver, keeper};
    use rustix::process::{Pid, Signal, kill_process};
    use std::ffi::OsString;
    use std::net::TcpStream;
    use std::path::{Path, PathBuf};
    use std::process::{Command, ExitCode};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    const NAME: &str = "vm-test";

    pub fn main() -> ExitCode {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        if arguments.get(1).is_some_and(|verb| verb == keeper::VERB) {
            return keeper::main(arguments[2..].to_vec());
        }
        type Test = fn(&Path);
        let tests: [(&str, Test); 5] = [
            ("a_machine_lives_its_life", a_machine_lives_its_life),
            (
                "a_machine_sleeps_and_goes_back",
                a_machine_sleeps_and_goes_back,
            ),
            ("a_stage_that_fails_is_told", a_stage_that_fails_is_told),
            (
                "a_kernel_that_dies_shows_its_console",
                a_kernel_that_dies_shows_its_console,
            ),
            (
                "an_interrupted_create_leaves_nothing",
                an_interrupted_create_leaves_nothing,
            ),
        ];
        let given = |flag: &str| arguments.iter().any(|argument| argument == flag);
        // What test runners ask for, in libtest's form; listing must not boot anything.
        if given("--list") {
            if !given("--ignored") {
                for (name, _) in tests {
                    println!("{name}: test");
                }
            }
            return ExitCode::SUCCESS;
        }
        let Some(image) = image() else {
            println!("skipped: no guest image in target/image (make image)");
            return ExitCode::SUCCESS;
        };
        if Command::new("qemu-system-x86_64")
            .arg("--version")
            .output()
            .is_err()
        {
            println!("skipped: qemu-system-x86_64 is not installed");
            return ExitCode::SUCCESS;
        }
        let filter = arguments
            .iter()
            .skip(1)
            .filter_map(|argument| argument.to_str())
            .find(|text| !text.starts_with('-'));
        for (name, test) in tests {
            if filter.is_none_or(|filter| name.contains(filter)) {
                let since = Instant::now();
                test(&image);
                println!(
                    "test {name} ... ok ({:.1} s)",
                    since.elapsed().as_secs_f32()
                );
            }
        }
        ExitCode::SUCCESS
    }

    fn image() -> Option<PathBuf> {
        let folder = match std::env::var_os("BERTH_TEST_IMAGE") {
            Some(folder) => PathBuf::from(folder),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/image"),
        };
        let folder = folder.canonicalize().ok()?;
        folder.join("manifest.json").is_file().then_some(folder)
    }

    /// A store whose machine ends with it, even when the test fails.
    struct World {
        store: tempfile::TempDir,
        machines: Machines,
        image: PathBuf,
        /// Shared with the machine at /desk.
        desk: tempfile::TempDir,
    }

    impl World {
        fn new(image: &Path) -> World {
            let store = tempfile::Builder::new()
                .prefix("berth-vm")
                .tempdir()
                .unwrap();
            let machine_store = MachineStore::new(store.path().to_path_buf());
            let certificates = CertificatePaths::in_store(&machine_store);
            let drivers: Vec<Arc<dyn machine_core::driver::Driver>> =
                vec![Arc::new(QemuDriver::new())];
            World {
                machines: Machines::new(machine_store, certificates, drivers),
                store,
                image: image.to_path_buf(),
                desk: tempfile::tempdir().unwrap(),
            }
        }

        fn create(&self, progress: &dyn Progress) -> Result<(), MachineError> {
            let values = [
                ("qemu-image", self.image.to_str().unwrap()),
                ("qemu-disk-size", "2G"),
                ("qemu-memory", "512"),
                ("qemu-accel", "tcg"),
            ];
            let mut values: std::collections::BTreeMap<String, FlagValue> = values
                .map(|(name, text)| (name.to_owned(), FlagValue::Text(text.to_owned())))
                .into();
            // The home of whoever runs the tests is no business of theirs.
            let mount = format!("{}:/desk", self.desk.path().display());
            values.insert("qemu-mount".into(), FlagValue::List(vec![mount]));
            let request = CreateRequest {
                name: NAME.into(),
                driver: "qemu".into(),
                values: FlagValues(values),
                ..CreateRequest::default()
            };
            self.machines.create(&request, progress).map(drop)
        }

        fn status(&self) -> Status {
            self.machines.open(NAME).unwrap().status().unwrap()
        }

        fn folder(&self) -> PathBuf {
            self.store.path().join("machines").join(NAME)
        }

        fn record(&self) -> serde_json::Value {
            let text = std::fs::read(self.folder().join("keeper.json")).unwrap();
            serde_json::from_slice(&text).unwrap()
        }

        /// QEMU and keepers: processes whose command line names this store. (A zombie has no command line.)
        fn processes(&self) -> Vec<Pid> {
            let wanted = self.store.path().to_str().unwrap().as_bytes();
            std::fs::read_dir("/proc")
                .unwrap()
                .flatten()
                .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
                .filter(|pid| {
                    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    line.windows(wanted.len()).any(|window| window == wanted)
                })
                .filter_map(Pid::from_raw)
                .collect()
        }

        #[track_caller]
        fn nothing_is_left(&self) {
            assert_eq!(self.processes(), [], "processes");
            let left: Vec<_> = std::fs::read_dir(self.store.path().join("machines"))
                .map(|entries| entries.flatten().map(|entry| entry.file_name()).collect())
                .unwrap_or_default();
            assert!(!left.iter().any(|name| name == NAME), "files: {left:?}");
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            if std::thread::panicking() {
                for name in ["keeper.log", "console.log"] {
                    let text =
                        std::fs::read_to_string(self.folder().join(name)).unwrap_or_default();
                    eprintln!("--- {name}\n{text}");
                }
            }
            for pid in self.processes() {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }

    struct Patient;
    impl Progress for Patient {
        fn say(&self, line: &str) {
            println!("  {line}");
        }
        fn interrupted(&self) -> bool {
            false
        }
    }

    /// Presses Ctrl-C as soon as the machine boots.
    struct InAHurry(AtomicBool);
    impl Progress for InAHurry {
        fn say(&self, line: &str) {
            if line.contains("Booting") {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        fn interrupted(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[track_caller]
    fn eventually(what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn a_machine_lives_its_life(image: &Path) {
        let world = World::new(image);
        world.create(&Patient).unwrap();
        assert_eq!(world.status(), Status::Running);
        let address = world.machines.open(NAME).unwrap().address().unwrap();
        assert!(address.ip.is_loopback());
        let api = (address.ip, address.api_port);
        assert!(TcpStream::connect(api).is_ok());

        world.machines.stop(NAME, &Patient).unwrap();
        assert_eq!(world.status(), Status::Stopped);
        assert_eq!(world.processes(), []);
        assert!(TcpStream::connect(api).is_err());
        let console = std::fs::read_to_string(world.folder().join("console.log")).unwrap();
        assert!(console.contains("init: power off"), "{console}");

        // The same disk, the same address.
        world.machines.start(NAME, &Patient).unwrap();
        assert_eq!(world.status(), Status::Running);
        let record = world.record();
        let events = record["status"]["events"].as_array().unwrap();
        let disk = events
            .iter()
            .find(|event| event["stage"] == "disk")
            .unwrap();
        let message = disk["message"].as_str().unwrap();
        assert!(!message.contains("formatted"), "{message}");
        assert_eq!(
            world.machines.open(NAME).unwrap().address().unwrap(),
            address
        );

        world.machines.kill(NAME, &Patient).unwrap();
        assert_eq!(world.status(), Status::Stopped);
        world.machines.remove(NAME, false, &Patient).unwrap();
        world.nothing_is_left();
    }

    /// Suspended, resumed, put back to a snapshot with its memory, with new certificates and a larger disk: the guest's own boot is
    /// the same all along, until it is restarted.
    fn a_machine_sleeps_and_goes_back(image: &Path) {
        let world = World::new(image);
        world.create(&Patient).unwrap();
        let run = |line: &str| {
            let route = world.machines.open(NAME).unwrap().ssh_route().unwrap();
            let limit = Duration::from_secs(120);
            let output = route
                .run(line, &mut std::io::empty(), limit, &|| false)
                .unwrap();
            assert_eq!(output.code, Some(0), "{line}: {}", output.stderr);
            output.stdout.trim().to_owned()
        };
        let boot = run("cat /proc/sys/kernel/random/boot_id");
        run("echo one > /run/mark");
        // A file of the desktop, open while the machine sleeps, and somebody who goes on reading folders.
        std::fs::write(world.desk.path().join("note"), "kept open\n").unwrap();
        run(
            "setsid sh -c 'exec 3</desk/note; while sleep 0.1; do ls /desk; done' </dev/null >/dev/null 2>&1 & \
             setsid sh -c 'exec 4</desk/note; while [ ! -e /run/go ]; do sleep 0.2; done; cat <&4 > /desk/answer' </dev/null >/dev/null 2>&1 & true",
        );

        world.machines.suspend(NAME, &Patient).unwrap();
        assert_eq!(world.status(), Status::Saved);
        assert_eq!(world.processes(), []);
        let slept = Instant::now();
        std::thread::sleep(Duration::from_secs(8));
        world.machines.resume(NAME, &Patient).unwrap();
        assert_eq!(world.status(), Status::Running);
        assert!(!world.folder().join("memory.state").exists());
        assert!(!world.folder().join("shares.state").exists());
        assert_eq!(run("cat /proc/sys/kernel/random/boot_id"), boot);
        run("touch /run/go; ls /desk; cat /desk/note");
        let answer = world.desk.path().join("answer");
        eventually("the open file is read to its end", || {
            std::fs::read(&answer).is_ok_and(|text| text == b"kept open\n")
        });
        let there: i64 = run("date +%s").parse().unwrap();
        let here = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs() as i64;
        // ssh itself takes its time under emulation.
        assert!(
            (there - here).abs() <= 5,
            "{there} {here} after {:?}",
            slept.elapsed()
        );

        // New certificates without a new boot.
        let path = world.folder().join("server.pem");
        let old = std::fs::read_to_string(&path).unwrap();
        world
            .machines
            .regenerate_certificates(NAME, &Patient)
            .unwrap();
        assert_ne!(std::fs::read_to_string(&path).unwrap(), old);
        assert_eq!(
            run("cat /run/berth-seed/server.pem").trim(),
            std::fs::read_to_string(&path).unwrap().trim()
        );
        world
            .machines
            .open(NAME)
            .unwrap()
            .connect(Duration::from_secs(60))
            .unwrap();
        assert_eq!(run("cat /proc/sys/kernel/random/boot_id"), boot);

        world
            .machines
            .create_snapshot(NAME, "one", &Patient)
            .unwrap();
        assert_eq!(world.status(), Status::Running);
        run("echo two > /run/mark; sync");
        world.machines.kill(NAME, &Patient).unwrap();
        world
            .machines
            .restore_snapshot(NAME, "one", &Patient)
            .unwrap();
        assert_eq!(world.status(), Status::Saved);
        world.machines.resume(NAME, &Patient).unwrap();
        assert_eq!(run("cat /run/mark"), "one");
        assert_eq!(run("cat /proc/sys/kernel/random/boot_id"), boot);

        let change = machine_core::driver::Change {
            mounts: None,
            cpus: Some(1),
            memory_mib: Some(640),
            disk_mib: Some(3072),
        };
        assert_eq!(
            world.machines.change(NAME, &change, &Patient).unwrap(),
            Status::Running
        );
        // Asleep it is woken with what it was booted with, so that what its kernel has not written yet is not lost.
        run("echo late > /var/lib/berth/late");
        world.machines.suspend(NAME, &Patient).unwrap();
        world.machines.restart(NAME, &Patient).unwrap();
        assert_ne!(run("cat /proc/sys/kernel/random/boot_id"), boot);
        assert_eq!(run("cat /var/lib/berth/late"), "late");
        assert_eq!(run("nproc"), "1");
        let memory: u64 = run("grep MemTotal /proc/meminfo | tr -dc 0-9")
            .parse()
            .unwrap();
        assert!(memory > 560 * 1024, "{memory}");
        let disk: u64 = run("df -k /var/lib/berth | tail -1 | awk '{print $2}'")
            .parse()
            .unwrap();
        assert!(disk > 2_700_000, "{disk}");
        world.machines.remove(NAME, false, &Patient).unwrap();
        world.nothing_is_left();
    }

    /// The image with a longer command line.
    fn changed(image: &Path, more: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(image).unwrap().flatten() {
            std::os::unix::fs::symlink(entry.path(), folder.path().join(entry.file_name()))
                .unwrap();
        }
        let path = folder.path().join("manifest.json");
        let text = std::fs::read(&path).unwrap();
        let mut manifest: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let line = format!("{} {more}", manifest["command_line"].as_str().unwrap());
        manifest["command_line"] = line.into();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, manifest.to_string()).unwrap();
        folder
    }

    #[track_caller]
    fn fails_at_boot(image: &Path, wanted: &str, console_has: &str) {
        let world = World::new(image);
        let error = world.create(&Patient).unwrap_err();
        let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        let mut boot = None;
        while let Some(inner) = next {
            if let Some(DriverError::Boot { stage, console, .. }) =
                inner.downcast_ref::<DriverError>()
            {
                boot = Some((stage.clone(), console.join("\n")));
            }
            next = inner.source();
        }
        let (stage, console) = boot.unwrap_or_else(|| panic!("no boot error: {error:?}"));
        assert_eq!(stage, wanted, "{console}");
        assert!(console.contains(console_has), "{console}");
        world.nothing_is_left();
    }

    fn a_stage_that_fails_is_told(image: &Path) {
        // The simplest failure that needs no other image: a driver that is not let in.
        let folder = changed(image, "module_blacklist=virtio_net");
        fails_at_boot(folder.path(), "network", "network FAILED");
    }

    fn a_kernel_that_dies_shows_its_console(image: &Path) {
        let folder = changed(image, "rdinit=/none init=/none");
        fails_at_boot(folder.path(), "kernel", "Kernel panic");
    }

    fn an_interrupted_create_leaves_nothing(image: &Path) {
        let world = World::new(image);
        let since = Instant::now();
        let error = world.create(&InAHurry(AtomicBool::new(false))).unwrap_err();
        assert!(error.is_interruption(), "{error:?}");
        assert!(since.elapsed() < Duration::from_secs(60));
        world.nothing_is_left();
    }
}
