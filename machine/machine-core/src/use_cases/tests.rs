mod authority;

use super::create::CreateRequest;
use super::*;
use crate::fake::{ENGINE_VERSION, FakeDriver, Step};
use crate::store::record::EngineOptions;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// So long a question may take in these tests.
const SOON: Duration = Duration::from_secs(20);

/// Remembers what was said; can be told that Ctrl-C was pressed once a certain line was said.
#[derive(Default)]
struct Heard {
    lines: Mutex<Vec<String>>,
    interrupt_at: Option<&'static str>,
    interrupted: AtomicBool,
}

impl Progress for Heard {
    fn say(&self, line: &str) {
        if self.interrupt_at.is_some_and(|part| line.contains(part)) {
            self.interrupted.store(true, Ordering::Relaxed);
        }
        self.lines.lock().unwrap().push(line.to_owned());
    }

    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}

impl Heard {
    fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }
}

struct Place {
    folder: tempfile::TempDir,
    driver: FakeDriver,
    machines: Machines,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("provider")).unwrap();
    let driver = FakeDriver::new(folder.path().join("provider"));
    let machines = machines(folder.path(), &driver);
    Place {
        folder,
        driver,
        machines,
    }
}

fn machines(folder: &Path, driver: &FakeDriver) -> Machines {
    let store = MachineStore::new(folder.join("store"));
    let paths = CertificatePaths::in_store(&store);
    Machines::new(store, paths, vec![Arc::new(driver.clone())])
}

fn request(name: &str) -> CreateRequest {
    CreateRequest {
        name: name.into(),
        driver: "fake".into(),
        ..CreateRequest::default()
    }
}

impl Place {
    /// Nothing of a machine is anywhere: no folder, no lock, nothing at the provider.
    #[track_caller]
    fn assert_nothing_left(&self) {
        for folder in ["store/machines", "provider"] {
            if let Ok(entries) = std::fs::read_dir(self.folder.path().join(folder)) {
                let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
                assert!(names.is_empty(), "{folder}: {names:?}");
            }
        }
    }
}

#[test]
fn a_machines_life() {
    let place = place();
    let (machines, heard) = (&place.machines, Heard::default());
    let request = CreateRequest {
        tls_sans: vec!["dev.example".into(), "10.9.8.7".into()],
        engine: EngineOptions {
            labels: vec!["a=b".into()],
            ..EngineOptions::default()
        },
        ..request("dev")
    };
    let machine = machines.create(&request, &heard).unwrap();
    assert!(!machine.record.is_half_made());
    assert_eq!(machine.status().unwrap(), Status::Running);
    let url = machine.url().unwrap();
    let version = machine.connect(Duration::from_secs(20)).unwrap();
    assert_eq!(version.version, ENGINE_VERSION);

    let folder = &machine.place.folder;
    let server = std::fs::read_to_string(folder.join(layout::SERVER_CERT)).unwrap();
    let names: Vec<String> = certs::subject_alternative_names_of(&server)
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        names,
        ["127.0.0.1", "localhost", "dev", "dev.example", "10.9.8.7"]
    );
    for file in [
        "config.json",
        "ca.pem",
        "cert.pem",
        "key.pem",
        "server.pem",
        "server-key.pem",
        "id_ed25519",
        "id_ed25519.pub",
    ] {
        assert!(folder.join(file).exists(), "{file}");
    }
    assert_eq!(machine.ssh_key().unwrap(), folder.join("id_ed25519"));
    assert_eq!(machines.active(&url, SOON).unwrap(), "dev");
    assert!(matches!(
        machines.active("tcp://192.0.2.1:2376", SOON),
        Err(MachineError::NoActive)
    ));

    let again = machines.create(&request, &heard).unwrap_err();
    assert!(matches!(
        again,
        MachineError::Store(crate::StoreError::NameInUse { .. })
    ));
    assert!(matches!(
        machines.start("dev", &heard),
        Err(MachineError::Already { .. })
    ));
    machines.stop("dev", &heard).unwrap();
    assert!(matches!(
        machines.stop("dev", &heard),
        Err(MachineError::Already { .. })
    ));
    let stopped = machines.open("dev").unwrap();
    assert!(matches!(
        stopped.connect(Duration::from_secs(5)),
        Err(MachineError::NotRunning { .. })
    ));
    assert!(matches!(
        machines.active(&url, SOON),
        Err(MachineError::NoActive)
    ));
    machines.start("dev", &heard).unwrap();
    assert_eq!(
        std::fs::read_to_string(folder.join(layout::SERVER_CERT)).unwrap(),
        server,
        "a good certificate is kept"
    );
    machines.restart("dev", &heard).unwrap();
    machines.kill("dev", &heard).unwrap();
    machines.restart("dev", &heard).unwrap();
    machines
        .open("dev")
        .unwrap()
        .connect(Duration::from_secs(20))
        .unwrap();

    machines.remove("dev", false, &heard).unwrap();
    place.assert_nothing_left();
    for force in [false, true] {
        assert!(matches!(
            machines.remove("dev", force, &heard),
            Err(MachineError::Store(crate::StoreError::NoSuchMachine { .. }))
        ));
    }
    place.assert_nothing_left();
}

/// Whatever fails, and also Ctrl-C wherever it comes, leaves nothing.
#[test]
fn a_failed_create_leaves_nothing() {
    for step in [
        Step::Check,
        Step::Plan,
        Step::CreateEarly,
        Step::CreateLate,
        Step::Trust,
    ] {
        let place = place();
        place.driver.fail_at(&[step]);
        let error = place
            .machines
            .create(&request("dev"), &Heard::default())
            .unwrap_err();
        let fits = match step {
            Step::Check => matches!(error, MachineError::Check { .. }),
            Step::Trust => matches!(error, MachineError::Engine { .. }),
            _ => matches!(error, MachineError::Driver { .. }),
        };
        assert!(fits, "{step:?}: {error:?}");
        place.assert_nothing_left();
        // And nothing is in the way of the next try.
        place.driver.fail_at(&[]);
        place
            .machines
            .create(&request("dev"), &Heard::default())
            .unwrap();
    }
    for line in [
        "Running pre-create",
        "Creating CA",
        "Creating machine",
        "Booting",
        "Checking connection",
    ] {
        let place = place();
        let heard = Heard {
            interrupt_at: Some(line),
            ..Heard::default()
        };
        let error = place.machines.create(&request("dev"), &heard).unwrap_err();
        assert!(error.is_interruption(), "{line}: {error:?}");
        place.assert_nothing_left();
    }
}

#[test]
fn what_cannot_be_undone_is_told_and_can_be_removed_later() {
    let place = place();
    place.driver.fail_at(&[Step::CreateLate, Step::Remove]);
    let heard = Heard::default();
    let error = place.machines.create(&request("dev"), &heard).unwrap_err();
    let text = crate::error::chain(&error);
    assert!(text.contains("fake CreateLate"), "{text}");
    assert!(text.contains("fake Remove"), "{text}");
    let half = place.machines.open("dev").unwrap();
    assert!(half.record.is_half_made());
    assert_eq!(
        half.record.driver["Disk"], true,
        "the checkpoint was stored"
    );
    for error in [
        place.machines.start("dev", &heard).unwrap_err(),
        half.connect(Duration::from_secs(1)).unwrap_err(),
    ] {
        assert!(matches!(error, MachineError::HalfMade { .. }), "{error:?}");
    }
    let listed = place
        .machines
        .ask(place.machines.records().unwrap(), Duration::from_secs(5));
    assert!(listed[0].error.as_ref().unwrap().contains("half made"));

    // A new create clears the remains of a dead one away.
    place.driver.fail_at(&[]);
    place.machines.create(&request("dev"), &heard).unwrap();
    assert!(
        heard
            .text()
            .contains("Removing what an interrupted create left")
    );
    place.machines.remove("dev", false, &heard).unwrap();
    place.assert_nothing_left();
}

#[test]
fn bad_requests_touch_nothing() {
    let place = place();
    for (request, part) in [
        (request("-x"), "invalid machine name"),
        (request("a_b"), "invalid machine name"),
        (
            CreateRequest {
                driver: "warp".into(),
                ..request("dev")
            },
            "there is no driver \"warp\"; drivers are: fake",
        ),
        (
            CreateRequest {
                tls_sans: vec!["two words".into()],
                ..request("dev")
            },
            "two words",
        ),
        (
            CreateRequest {
                engine: EngineOptions {
                    labels: vec!["nonsense".into()],
                    ..EngineOptions::default()
                },
                ..request("dev")
            },
            "--engine-label",
        ),
        (
            CreateRequest {
                engine: EngineOptions {
                    arbitrary_flags: vec!["http-proxy=http://me:secret@p".into()],
                    ..EngineOptions::default()
                },
                ..request("dev")
            },
            "refer to it",
        ),
    ] {
        let error = place
            .machines
            .create(&request, &Heard::default())
            .unwrap_err();
        let text = crate::error::chain(&error);
        assert!(text.contains(part), "{text}");
        assert!(!place.machines.store().root().exists());
    }
}

/// Two first creates at once share one authority: each engine is trusted through the store's certificates, and each
/// machine has an address of its own.
#[test]
fn first_creates_at_once_share_the_authority() {
    let place = place();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    std::thread::scope(|scope| {
        for name in names {
            // Each has its own Machines, as another process would.
            let machines = machines(place.folder.path(), &place.driver);
            scope.spawn(move || machines.create(&request(name), &Heard::default()).unwrap());
        }
    });
    let mut ports = Vec::new();
    for name in names {
        let machine = place.machines.open(name).unwrap();
        machine.connect(Duration::from_secs(20)).unwrap();
        // With the store's own certificates too, not only with the machine's copies.
        let address = machine.address().unwrap();
        let certs = place.machines.store().certs();
        EngineClient::new(&certs, address.ip, address.api_port)
            .unwrap()
            .version(Duration::from_secs(20))
            .unwrap();
        ports.push(address.api_port);
    }
    ports.sort();
    ports.dedup();
    assert_eq!(ports.len(), names.len());
}

/// The same from processes: this test runs itself anew as two creators.
#[test]
fn first_creates_of_two_processes_share_the_authority() {
    const ROLE: &str = "BERTH_TEST_CREATE_IN";
    if let Ok(folder) = std::env::var(ROLE) {
        let folder = Path::new(&folder);
        let name = std::env::var("BERTH_TEST_NAME").unwrap();
        let driver = FakeDriver::new(folder.join("provider"));
        let created = machines(folder, &driver).create(&request(&name), &Heard::default());
        created.unwrap().connect(Duration::from_secs(20)).unwrap();
        return;
    }
    let place = place();
    let test = "use_cases::tests::first_creates_of_two_processes_share_the_authority";
    let children: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|name| {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", test])
                .env(ROLE, place.folder.path())
                .env("BERTH_TEST_NAME", name)
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let certs = place.machines.store().certs();
    let ca = std::fs::read_to_string(certs.join(layout::CA_CERT)).unwrap();
    for name in ["a", "b", "c"] {
        let folder = place.machines.open(name).unwrap().place.folder;
        for (copy, original) in [
            (folder.join(layout::CA_CERT), &ca),
            (
                folder.join(layout::CLIENT_CERT),
                &std::fs::read_to_string(certs.join(layout::CLIENT_CERT)).unwrap(),
            ),
        ] {
            assert_eq!(&std::fs::read_to_string(copy).unwrap(), original);
        }
        // The engines ended with their processes; started here from the records, they must be trusted.
        place.machines.start(name, &Heard::default()).unwrap();
        let machine = place.machines.open(name).unwrap();
        machine.connect(Duration::from_secs(20)).unwrap();
    }
}

/// A company's own authority, kept somewhere else: it signs, and nothing of it is copied into the store.
#[test]
fn an_authority_that_was_brought_along_signs() {
    let place = place();
    let elsewhere = place.folder.path().join("company");
    std::fs::create_dir(&elsewhere).unwrap();
    let authority = certs::Authority::create("company", certs::Validity::days(30)).unwrap();
    let paths = CertificatePaths {
        ca_cert: elsewhere.join("ca.crt"),
        ca_key: elsewhere.join("ca.key"),
        client_cert: elsewhere.join("client.crt"),
        client_key: elsewhere.join("client.key"),
    };
    std::fs::write(&paths.ca_cert, authority.certificate()).unwrap();
    std::fs::write(&paths.ca_key, authority.key().expose()).unwrap();
    let store = MachineStore::new(place.folder.path().join("store"));
    let driver: Arc<dyn Driver> = Arc::new(place.driver.clone());
    let machines = Machines::new(store, paths.clone(), vec![driver]);
    let machine = machines.create(&request("dev"), &Heard::default()).unwrap();
    machine.connect(Duration::from_secs(20)).unwrap();
    let copy = std::fs::read_to_string(machine.place.folder.join(layout::CA_CERT)).unwrap();
    assert_eq!(copy, authority.certificate());
    assert!(
        paths.client_cert.is_file(),
        "its client's pair is made beside it"
    );
    assert!(
        !machines.store().certs().exists(),
        "the store has no authority"
    );
    // Without its key nothing can be signed, and nothing is made in its place.
    std::fs::remove_file(&paths.ca_key).unwrap();
    let error = machines
        .create(&request("other"), &Heard::default())
        .unwrap_err();
    assert!(
        error.hint().is_some_and(|hint| hint.contains("ca.key")),
        "{error}"
    );
    assert!(machines.open("other").is_err());
}

/// Proxies of this computer reach the engine of a machine on it, one with a password by reference only.
#[test]
fn proxies_of_the_desktop_reach_the_engine() {
    let place = place();
    let asked = CreateRequest {
        proxies: vec!["HTTP_PROXY=http://127.0.0.1:3128".into()],
        ..request("dev")
    };
    let machine = place.machines.create(&asked, &Heard::default()).unwrap();
    let json = machine.daemon_json().unwrap();
    assert_eq!(json["http-proxy"], "http://10.0.2.2:3128");
    let told = CreateRequest {
        engine: EngineOptions {
            env: vec!["HTTP_PROXY=http://other:1".into()],
            ..EngineOptions::default()
        },
        name: "told".into(),
        ..asked
    };
    let machine = place.machines.create(&told, &Heard::default()).unwrap();
    let json = machine.daemon_json().unwrap();
    assert_eq!(json["http-proxy"], "http://other:1");
}

#[test]
fn a_lost_authority_is_not_replaced_in_silence() {
    let place = place();
    let heard = Heard::default();
    place.machines.create(&request("dev"), &heard).unwrap();
    let certs = place.machines.store().certs();
    let key = std::fs::read(certs.join(layout::CA_KEY)).unwrap();
    for file in [layout::CA_CERT, layout::CA_KEY] {
        let saved = std::fs::read(certs.join(file)).unwrap();
        std::fs::remove_file(certs.join(file)).unwrap();
        let error = place.machines.create(&request("two"), &heard).unwrap_err();
        let text = crate::error::chain(&error);
        assert!(text.contains(file) && text.contains("is missing"), "{text}");
        std::fs::write(certs.join(file), saved).unwrap();
    }
    std::fs::write(certs.join(layout::CA_CERT), "nonsense").unwrap();
    let error = place.machines.create(&request("two"), &heard).unwrap_err();
    assert!(error.hint().unwrap().contains("ca.pem"), "{error:?}");
    assert_eq!(std::fs::read(certs.join(layout::CA_KEY)).unwrap(), key);
}

#[test]
fn a_certificate_that_ends_soon_is_renewed_by_start() {
    let place = place();
    let heard = Heard::default();
    let machine = place.machines.create(&request("dev"), &heard).unwrap();
    let store = place.machines.store();
    let shared =
        certificates::load_or_make(store, &CertificatePaths::in_store(store), &heard).unwrap();
    let names = certificates::server_names("dev", machine.address().unwrap().ip, &[]).unwrap();
    let short = shared
        .authority
        .issue_server("dev", &names, certs::Validity::days(3))
        .unwrap();
    certs::files::write_pair(
        &machine.place.folder,
        &short,
        layout::SERVER_CERT,
        layout::SERVER_KEY,
    )
    .unwrap();
    place.machines.restart("dev", &heard).unwrap();
    let path = machine.place.folder.join(layout::SERVER_CERT);
    let renewed = std::fs::read_to_string(path).unwrap();
    let left = certs::expiry_of(&renewed)
        .unwrap()
        .days_left(time::OffsetDateTime::now_utc());
    assert!(left > 100, "{left}");
    machine.connect(Duration::from_secs(20)).unwrap();
}

/// A certificate for yesterday's address is no use; the engine gets one for today's.
#[test]
fn an_address_that_changed_gets_a_certificate() {
    let place = place();
    let heard = Heard::default();
    let machine = place.machines.create(&request("dev"), &heard).unwrap();
    let store = place.machines.store();
    let shared =
        certificates::load_or_make(store, &CertificatePaths::in_store(store), &heard).unwrap();
    let elsewhere = certs::SubjectAlternativeName::Address([192, 0, 2, 7].into());
    let old = shared
        .authority
        .issue_server(
            "dev",
            std::slice::from_ref(&elsewhere),
            certs::Validity::days(300),
        )
        .unwrap();
    let folder = &machine.place.folder;
    certs::files::write_pair(folder, &old, layout::SERVER_CERT, layout::SERVER_KEY).unwrap();
    place.machines.restart("dev", &heard).unwrap();
    let renewed = std::fs::read_to_string(folder.join(layout::SERVER_CERT)).unwrap();
    let names = certs::subject_alternative_names_of(&renewed).unwrap();
    let address = machine.address().unwrap().ip;
    assert!(names.contains(&certs::SubjectAlternativeName::Address(address)));
    assert!(!names.contains(&elsewhere), "{names:?}");
    machine.connect(Duration::from_secs(20)).unwrap();
}

/// What clients need is there after every start; what is good already is not written again.
#[cfg(unix)]
#[test]
fn only_what_is_wrong_of_the_clients_copies_is_written() {
    use std::os::unix::fs::MetadataExt;
    let place = place();
    let heard = Heard::default();
    let machine = place.machines.create(&request("dev"), &heard).unwrap();
    let folder = &machine.place.folder;
    let inode = |name: &str| std::fs::metadata(folder.join(name)).unwrap().ino();
    let copies = || [layout::CLIENT_CERT, layout::CA_CERT].map(inode);
    let before = copies();
    std::fs::write(folder.join(layout::CLIENT_KEY), "damaged").unwrap();
    place.machines.restart("dev", &heard).unwrap();
    assert_eq!(copies(), before);
    machine.connect(Duration::from_secs(20)).unwrap();
}

#[test]
fn listing_waits_for_nobody() {
    let place = place();
    let heard = Heard::default();
    place.machines.create(&request("up"), &heard).unwrap();
    let mut hung = place.machines.create(&request("hung"), &heard).unwrap();
    hung.record.driver.insert("Hang".into(), true.into());
    place.machines.store().save(&hung.record).unwrap();
    place.machines.create(&request("down"), &heard).unwrap();
    place.machines.stop("down", &heard).unwrap();
    let bad = place.machines.store().place("broken").unwrap().folder;
    std::fs::create_dir(&bad).unwrap();
    std::fs::write(bad.join(layout::CONFIG), "{").unwrap();

    let started = Instant::now();
    let listed = place
        .machines
        .ask(place.machines.records().unwrap(), Duration::from_secs(3));
    assert!(started.elapsed() < Duration::from_secs(60));
    let shown: Vec<(&str, Status)> = listed.iter().map(|m| (m.name.as_str(), m.status)).collect();
    assert_eq!(
        shown,
        [
            ("broken", Status::Error),
            ("down", Status::Stopped),
            ("hung", Status::Timeout),
            ("up", Status::Running),
        ]
    );
    assert!(listed[0].error.as_ref().unwrap().contains("corrupt"));
    assert_eq!(listed[3].engine_version.as_deref(), Some(ENGINE_VERSION));
    assert_eq!(listed[1].url, None);

    // A record nobody can read is given up only by force.
    assert!(place.machines.remove("broken", false, &heard).is_err());
    assert!(bad.exists());
    place.machines.remove("broken", true, &heard).unwrap();
    assert!(!bad.exists());
    assert!(heard.text().contains("Warning"));
}

#[test]
fn force_forgets_what_cannot_be_removed() {
    let place = place();
    let heard = Heard::default();
    place.machines.create(&request("dev"), &heard).unwrap();
    place.driver.fail_at(&[Step::Remove]);
    assert!(place.machines.remove("dev", false, &heard).is_err());
    assert!(place.machines.open("dev").is_ok());
    place.machines.remove("dev", true, &heard).unwrap();
    assert!(place.machines.open("dev").is_err());
    assert!(heard.text().contains("fake Remove"));
}

/// `kill` is the way out while another verb holds the machine; others wait and can be interrupted.
#[test]
fn kill_does_not_wait_for_a_busy_machine() {
    let place = place();
    let heard = Heard::default();
    place.machines.create(&request("dev"), &heard).unwrap();
    let lock = place.machines.lock("dev", &heard).unwrap();
    let impatient = Heard {
        interrupt_at: Some("Waiting for another command"),
        ..Heard::default()
    };
    let error = place.machines.stop("dev", &impatient).unwrap_err();
    assert!(error.is_interruption());
    place.machines.kill("dev", &heard).unwrap();
    drop(lock);
    place.machines.start("dev", &heard).unwrap();
}

#[test]
fn new_certificates_work_and_old_ones_of_clients_go_on() {
    let place = place();
    let heard = Heard::default();
    let machine = place.machines.create(&request("dev"), &heard).unwrap();
    let read = |file: &str| std::fs::read_to_string(machine.place.folder.join(file)).unwrap();
    let before = [read(layout::SERVER_CERT), read(layout::CLIENT_CERT)];
    let old = machine.engine().unwrap();
    place
        .machines
        .regenerate_client_certificate(&heard)
        .unwrap();
    place
        .machines
        .regenerate_certificates("dev", &heard)
        .unwrap();
    assert_ne!(read(layout::SERVER_CERT), before[0]);
    assert_ne!(read(layout::CLIENT_CERT), before[1]);
    machine.connect(Duration::from_secs(20)).unwrap();
    old.version(Duration::from_secs(20)).unwrap();

    place.machines.stop("dev", &heard).unwrap();
    let before = read(layout::SERVER_CERT);
    place
        .machines
        .regenerate_certificates("dev", &heard)
        .unwrap();
    assert_ne!(read(layout::SERVER_CERT), before);
    assert_eq!(machine.status().unwrap(), Status::Stopped);
}

/// What sleeps is woken first: its memory has what its disk has not yet, and going on with it would be no restart.
#[test]
fn a_suspended_machine_is_woken_and_then_booted() {
    type Verb = fn(&Machines, &Heard) -> Result<(), MachineError>;
    let verbs: [(&str, Verb); 3] = [
        ("restart", |machines, heard| machines.restart("dev", heard)),
        ("upgrade", |machines, heard| machines.upgrade("dev", heard)),
        ("regenerate-certs", |machines, heard| {
            machines.regenerate_certificates("dev", heard)
        }),
    ];
    for (verb, run) in verbs {
        let place = place();
        let created = place.machines.create(&request("dev"), &Heard::default());
        let machine = created.unwrap();
        place.machines.suspend("dev", &Heard::default()).unwrap();
        let heard = Heard::default();
        run(&place.machines, &heard).unwrap();
        let text = heard.text();
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{verb}: {text}"));
        assert!(at("Going on (fake)") < at("Booting (fake)"), "{text}");
        assert_eq!(machine.status().unwrap(), Status::Running, "{verb}");
    }
}

/// Ctrl-C is no reason to restart a machine and its containers.
#[test]
fn an_interrupted_renewal_restarts_nothing() {
    let place = place();
    let created = place.machines.create(&request("dev"), &Heard::default());
    let machine = created.unwrap();
    let heard = Heard::default();
    heard.interrupted.store(true, Ordering::Relaxed);
    let renewed = place.machines.regenerate_certificates("dev", &heard);
    assert!(renewed.unwrap_err().is_interruption());
    assert_eq!(heard.text(), "");
    assert_eq!(machine.status().unwrap(), Status::Running);
}

/// A restore that is cut off, here by a memory that cannot be removed, has not cost the disk.
#[test]
fn a_restore_that_is_cut_off_keeps_the_disk() {
    let (place, heard) = (place(), Heard::default());
    let machine = place.machines.create(&request("dev"), &heard).unwrap();
    place.machines.stop("dev", &heard).unwrap();
    place
        .machines
        .create_snapshot("dev", "first", &heard)
        .unwrap();
    let (disk, memory) = (
        machine.place.folder.join("data.raw"),
        machine.place.folder.join("memory.state"),
    );
    std::fs::write(&disk, "newer").unwrap();
    std::fs::create_dir(&memory).unwrap();
    let restore = || place.machines.restore_snapshot("dev", "first", &heard);
    assert!(restore().is_err());
    assert_eq!(std::fs::read_to_string(&disk).unwrap(), "newer");
    std::fs::remove_dir(&memory).unwrap();
    std::fs::write(&memory, "memory").unwrap();
    restore().unwrap();
    assert_eq!(std::fs::read_to_string(&disk).unwrap(), "data");
    assert!(!memory.exists(), "it is another disk's");
}

#[test]
fn who_is_active_is_not_waited_for_without_end() {
    let (place, heard) = (place(), Heard::default());
    let mut hung = place.machines.create(&request("hung"), &heard).unwrap();
    hung.record.driver.insert("Hang".into(), true.into());
    place.machines.store().save(&hung.record).unwrap();
    let up = place.machines.create(&request("up"), &heard).unwrap();
    let active = |machine: &Machine, seconds| {
        let timeout = Duration::from_secs(seconds);
        place.machines.active(&machine.url().unwrap(), timeout)
    };
    assert_eq!(active(&up, 20).unwrap(), "up");
    assert!(matches!(
        active(&hung, 1),
        Err(MachineError::ActiveUnknown { seconds: 1 })
    ));
}
