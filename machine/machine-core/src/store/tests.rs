use super::record::Stage;
use super::*;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};

fn store() -> (tempfile::TempDir, MachineStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = MachineStore::new(folder.path().join("store"));
    (folder, store)
}

fn put(store: &MachineStore, name: &str, config: &str) {
    let folder = store.place(name).unwrap().folder;
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(layout::CONFIG), config).unwrap();
}

/// Written after docker-machine 0.16.2's own, by the generic driver on another computer.
const DOCKER_MACHINE_CONFIG: &str = include_str!("docker-machine-0.16.json");

#[test]
fn a_machine_of_docker_machine_is_read_and_its_paths_are_ours() {
    let (_folder, store) = store();
    put(&store, "old", DOCKER_MACHINE_CONFIG);
    let record = store.load("old").unwrap();
    assert_eq!(record.driver_name, "generic");
    assert!(!record.is_half_made());
    assert_eq!(record.driver["IPAddress"], "192.168.7.20");
    assert_eq!(record.host_options.engine_options.labels, ["rack=7"]);
    let place = store.place("old").unwrap();
    let folder = place.folder.to_str().unwrap();
    let auth = &record.host_options.auth_options;
    assert_eq!(auth.store_path, folder);
    assert_eq!(auth.server_key_path, format!("{folder}/server-key.pem"));
    assert_eq!(auth.cert_dir, store.certs().to_str().unwrap());
    assert_eq!(record.driver["SSHKeyPath"], format!("{folder}/id_rsa"));
    assert_eq!(record.driver["StorePath"], store.root().to_str().unwrap());
}

/// Whatever a tool put into the file is there after we rewrote it.
#[test]
fn rewriting_loses_no_key() {
    let (_folder, store) = store();
    let mut config: Value = serde_json::from_str(DOCKER_MACHINE_CONFIG).unwrap();
    config["RancherExtra"] = json!({"a": [1, null]});
    config["HostOptions"]["EngineOptions"]["New"] = json!("x");
    config["HostOptions"]["CustomInstallScript"] = json!("s");
    put(&store, "old", &config.to_string());
    store.save(&store.load("old").unwrap()).unwrap();

    let path = store.place("old").unwrap().folder.join(layout::CONFIG);
    let text = std::fs::read_to_string(path).unwrap();
    let written: Value = serde_json::from_str(&text).unwrap();
    assert!(text.contains("\n    \"ConfigVersion\": 3"), "{text}");
    has_all_of(&config, &written, "");
}

/// `null` may become an empty list or go away, paths change; the rest must be equal.
#[track_caller]
fn has_all_of(before: &Value, after: &Value, path: &str) {
    match before {
        Value::Object(map) => {
            for (key, value) in map {
                has_all_of(value, &after[key], &format!("{path}/{key}"));
            }
        }
        Value::Null => {}
        _ if path.ends_with("Path") || path.ends_with("CertDir") => {}
        _ => assert_eq!(before, after, "{path}"),
    }
}

#[test]
fn a_corrupt_record_is_named_and_harms_no_other() {
    let (_folder, store) = store();
    put(&store, "good", DOCKER_MACHINE_CONFIG);
    for (broken, part) in [
        ("", "EOF"),
        ("{\"ConfigVersion\": 3, ", "EOF"),
        ("[]", "invalid"),
        ("\u{0}\u{0}\u{0}", "expected value"),
        ("{\"ConfigVersion\":\"three\"}", "invalid type"),
    ] {
        put(&store, "bad", broken);
        let error = store.load("bad").unwrap_err();
        let text = crate::error::chain(&error);
        assert!(
            text.contains("machines/bad/config.json is corrupt"),
            "{text}"
        );
        assert!(text.contains(part), "{text}");
        assert!(error.hint().unwrap().contains("machine rm -f bad"));
        store.load("good").unwrap();
        assert_eq!(store.names().unwrap(), ["bad", "good"]);
    }
}

#[test]
fn other_versions_are_refused_politely() {
    let (_folder, store) = store();
    let mut config: Value = serde_json::from_str(DOCKER_MACHINE_CONFIG).unwrap();
    config["ConfigVersion"] = json!(4);
    put(&store, "newer", &config.to_string());
    config["ConfigVersion"] = json!(3);
    config["Berth"] = json!({"Version": 2, "Stage": "Created", "MadeBy": "9"});
    put(&store, "ours", &config.to_string());
    for name in ["newer", "ours"] {
        let error = store.load(name).unwrap_err();
        assert!(matches!(error, StoreError::OtherVersion { .. }), "{error}");
    }
}

#[test]
fn new_records_are_private_and_half_made() {
    let (_folder, store) = store();
    let place = store.place("dev").unwrap();
    let record = record::MachineRecord::new(&place, "fake", Default::default());
    store.save(&record).unwrap();
    let read = store.load("dev").unwrap();
    assert_eq!(read, record);
    assert_eq!(read.berth.as_ref().unwrap().stage, Stage::Creating);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(store.root()), 0o700);
        assert_eq!(mode(&place.folder), 0o700);
        assert_eq!(mode(&place.folder.join(layout::CONFIG)), 0o600);
    }
    let left: Vec<_> = std::fs::read_dir(&place.folder).unwrap().collect();
    assert_eq!(left.len(), 1, "no temporary file is left");
}

#[test]
fn names_that_are_no_names_reach_no_file() {
    let (_folder, store) = store();
    for name in ["../x", "", ".", "a/b", "-f"] {
        assert!(matches!(
            store.load(name),
            Err(StoreError::InvalidName { .. })
        ));
        assert!(store.lock_machine(name, &Endless).is_err());
    }
    assert!(!store.root().exists());
    assert_eq!(store.names().unwrap(), Vec::<String>::new());
}

/// Many threads take the lock and give it back, each time removing the file: never two at once.
#[test]
fn a_transient_lock_is_exclusive() {
    let (_folder, store) = store();
    let inside = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let lock = store.lock_machine("dev", &Endless).unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(lock);
                }
            });
        }
    });
    assert_eq!(
        std::fs::read_dir(store.machines()).unwrap().count(),
        0,
        "no lock file is left"
    );
}

#[test]
fn a_strangers_folder_is_not_cleared() {
    let (_folder, store) = store();
    let folder = store.place("dev").unwrap().folder;
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("thesis.txt"), "").unwrap();
    let error = store.clear_unfinished_folder("dev").unwrap_err();
    assert!(matches!(error, StoreError::NotAMachine { .. }));
    std::fs::remove_file(folder.join("thesis.txt")).unwrap();
    std::fs::write(folder.join(".writing-1-1"), "").unwrap();
    store.clear_unfinished_folder("dev").unwrap();
    assert!(!folder.exists());
}

/// A cloud driver's token is in no file that people show.
#[test]
fn secrets_are_beside_the_record() {
    let (_folder, store) = store();
    let place = store.place("dev").unwrap();
    let state = serde_json::from_str(r#"{"APIToken":"hush","Size":"s1"}"#).unwrap();
    let record = MachineRecord::new(&place, "cloud", state);
    store.save(&record).unwrap();
    let shown = std::fs::read_to_string(place.folder.join(layout::CONFIG)).unwrap();
    assert!(
        !shown.contains("hush") && shown.contains("file:secrets.json"),
        "{shown}"
    );
    assert_eq!(store.load("dev").unwrap().driver["APIToken"], "hush");
    assert_ne!(
        store.load_without_secrets("dev").unwrap().driver["APIToken"],
        "hush"
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = place
            .folder
            .join(layout::SECRETS)
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
