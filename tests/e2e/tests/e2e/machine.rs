//! A user's morning with a machine: create, containers, stop, start, remove.

use crate::{busybox_archive, fetch, machine_guest};
use harness::machine::Store;
use harness::programs;
use harness::programs::find;
use harness::run::{eventually, run, run_with_input};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

#[test]
fn a_morning_with_a_machine() {
    let Some(store) = Store::for_machines() else {
        return;
    };
    let desktop = Desktop::new();
    let mount = desktop.path("work");
    let company = machine_guest::Company::new();
    let mut create = store.creating("dev", &["--engine-label", "desk=left", "--mount", &mount]);
    if let Some(company) = &company {
        create.env("SSL_CERT_FILE", company.authority());
    }
    let created = run(&mut create, harness::machine::LIMIT);
    assert!(
        created.stdout.contains("Docker is up and running!"),
        "{}",
        created.report()
    );
    assert_eq!(created.code, Some(0), "{}", created.report());
    assert_eq!(store.run(&["status", "dev"]).success(), "Running\n");
    let address = store.run(&["ip", "dev"]).success().trim().to_owned();
    assert_eq!(
        store.run(&["url", "dev"]).success(),
        format!("tcp://{address}:2376\n")
    );
    assert!(store.run(&["ls"]).success().contains("dev"));
    store.run(&["ssh", "dev", "exit 7"]).fails_with(7);
    assert_eq!(store.run(&["ssh", "dev", "hostname"]).success(), "dev\n");
    // The same without an ssh program.
    let native = |line: &str| store.run(&["--native-ssh", "ssh", "dev", line]);
    assert_eq!(native("hostname; echo also >&2").success(), "dev\n");
    native("exit 7").fails_with(7);
    let mut command = store.machine(&["--native-ssh", "ssh", "dev", "cat"]);
    let echoed = run_with_input(&mut command, b"to and fro", harness::machine::LIMIT);
    assert_eq!(echoed.success(), "to and fro");

    // Containers, by our client and by docker's.
    let archive = busybox_archive("busybox:latest");
    let mut load = store.client(&programs::program("berth"), "dev", &["load"]);
    run_with_input(&mut load, &archive, harness::machine::LIMIT).success();
    assert_eq!(
        store
            .berth("dev", &["run", "--rm", "busybox", "echo", "hello"])
            .success(),
        "hello\n"
    );
    store
        .berth("dev", &["run", "--rm", "busybox", "sh", "-c", "exit 3"])
        .fails_with(3);
    store
        .berth(
            "dev",
            &[
                "run",
                "--rm",
                "-v",
                "data:/data",
                "busybox",
                "sh",
                "-c",
                "echo kept > /data/file",
            ],
        )
        .success();
    let limits = "cat /sys/fs/cgroup/memory.max; cat /proc/self/status | grep Seccomp:";
    let text = store
        .berth(
            "dev",
            &["run", "--rm", "-m", "32m", "busybox", "sh", "-c", limits],
        )
        .success();
    assert_eq!(
        text.split_whitespace().collect::<Vec<_>>(),
        [(32 << 20).to_string().as_str(), "Seccomp:", "2"]
    );
    let text = store.berth(
        "dev",
        &[
            "run",
            "--rm",
            "busybox",
            "sh",
            "-c",
            "mknod /tmp/d b 254 0 && cat /tmp/d",
        ],
    );
    assert!(text.stderr.contains("not permitted"), "{}", text.report());
    if let Some(docker) = find("docker") {
        let mut command = store.client(
            &docker,
            "dev",
            &["run", "--rm", "busybox", "echo", "from docker"],
        );
        assert_eq!(
            run(&mut command, harness::machine::LIMIT).success(),
            "from docker\n"
        );
        let mut info = store.client(
            &docker,
            "dev",
            &["info", "--format", "{{.Labels}} {{.CgroupVersion}}"],
        );
        assert_eq!(
            run(&mut info, harness::machine::LIMIT).success(),
            "[provider=qemu desk=left] 2\n"
        );
        crate::guest_limits::check(&store, "dev", &docker);
    } else {
        println!("skipped: there is no docker command here");
    }

    folders_are_shared(&store, &desktop);
    machine_guest::memory_comes_back(&store, "dev");
    machine_guest::disk_comes_back(&store, "dev");
    if let Some(company) = &company {
        company.is_trusted_by(&store, "dev");
    }

    // A web server, published; the port appears at the machine's own address and goes with the container.
    let server = "echo hello from a port > /var/www/index.html; exec httpd -f -p 80 -h /var/www";
    store
        .berth(
            "dev",
            &[
                "run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c", server,
            ],
        )
        .success();
    let published = format!("{address}:8080");
    let answer = eventually("the port answers", Duration::from_secs(15), || {
        fetch(&published)
    });
    assert!(answer.ends_with("hello from a port\n"), "{answer}");
    nothing_listens_elsewhere(&store, &address);
    // Containers of the machine find the desktop, and a port that is taken there is told.
    let desktop = crate::networks::serve_on_host();
    let page = format!("http://host.docker.internal:{desktop}/");
    let told = store.berth("dev", &["exec", "web", "wget", "-qO-", &page]);
    assert_eq!(told.success(), "the host\n");
    let taken = TcpListener::bind((address.as_str(), 0)).expect("a port of the machine's address");
    let number = taken.local_addr().expect("an address").port();
    let publish = format!("{number}:80");
    store
        .berth(
            "dev",
            &[
                "run", "-d", "--name", "late", "-p", &publish, "busybox", "sleep", "1000",
            ],
        )
        .success();
    let problem = eventually("the taken port is told", Duration::from_secs(15), || {
        let text = store.run(&["status", "dev"]).stderr;
        text.contains("published port").then_some(text)
    });
    let expected = format!("{number}/tcp: another program has it on {address}");
    assert!(problem.contains(&expected), "{problem}");
    let listed = store.run(&["ls", "--format", "{{.Error}}"]).success();
    assert!(listed.contains(&expected), "{listed}");
    // The desktop tells the engine a moment after it has told us.
    eventually(
        "the container has a warning",
        Duration::from_secs(15),
        || {
            let shown = store.berth("dev", &["inspect", "-f", "{{json .Warnings}}", "late"]);
            let expected = format!("another program has it on {address}");
            shown.stdout.contains(&expected).then_some(())
        },
    );
    drop(taken);
    eventually("the port is opened", Duration::from_secs(15), || {
        TcpStream::connect((address.as_str(), number)).ok()
    });
    store.berth("dev", &["rm", "-f", "late"]).success();
    // One more process in it, on the guest's cgroup v2; and the engine killed under it, which init starts again.
    let exec = |script: &str| store.berth("dev", &["exec", "web", "sh", "-c", script]);
    assert_eq!(exec("echo inside").success(), "inside\n");
    exec("exit 9").fails_with(9);
    store
        .run(&["ssh", "dev", "pkill -9 -f '[e]xe serve '; true"])
        .success();
    eventually("the engine is back", Duration::from_secs(30), || {
        (exec("echo again").stdout == "again\n").then_some(())
    });
    store.berth("dev", &["rm", "-f", "web"]).success();
    eventually("the port is gone", Duration::from_secs(15), || {
        TcpStream::connect(&published).err()
    });

    // Stopped and started: what volumes hold is there.
    store.run(&["stop", "dev"]).success();
    assert_eq!(store.run(&["status", "dev"]).success(), "Stopped\n");
    machine_guest::the_disk_was_unmounted(&store, "dev");
    let text = store.run(&["env", "dev"]).fails_with(1);
    assert!(text.contains("dev"), "{text}");
    store.run(&["start", "dev"]).success();
    machine_guest::an_idle_machine_is_small(&store, "dev");
    assert_eq!(
        store
            .berth(
                "dev",
                &[
                    "run",
                    "--rm",
                    "-v",
                    "data:/data",
                    "busybox",
                    "cat",
                    "/data/file"
                ]
            )
            .success(),
        "kept\n"
    );

    // Removed: no process, no file, no port.
    store.run(&["rm", "-f", "-y", "dev"]).success();
    assert!(!store.folder_of("dev").exists());
    eventually("every process is gone", Duration::from_secs(10), || {
        store.processes().is_empty().then_some(())
    });
    assert!(TcpStream::connect((address.as_str(), 2376)).is_err());
    assert_eq!(store.run(&["ls", "-q"]).success(), "");
}

/// Folders as people have them: a home with a folder of work in it.
struct Desktop {
    folder: tempfile::TempDir,
}

impl Desktop {
    fn new() -> Desktop {
        let folder = tempfile::tempdir().unwrap();
        for name in ["work", "other"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("work/note"), "from the desktop\n").unwrap();
        Desktop { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

/// What is shared is there under its own path, what is not is refused, and nothing is mounted empty.
fn folders_are_shared(store: &Store, desktop: &Desktop) {
    let work = desktop.path("work");
    let run = |bind: &str, script: &str| {
        let line = ["run", "--rm", "-v", bind, "busybox", "sh", "-c", script];
        store.berth("dev", &line)
    };
    let bind = format!("{work}:/src");
    let script = "cat /src/note; mkdir /src/made && echo made > /src/made/file && ls /src";
    assert_eq!(
        run(&bind, script).success(),
        "from the desktop\nmade\nnote\n"
    );
    let made = std::fs::read_to_string(desktop.folder.path().join("work/made/file"));
    assert_eq!(made.unwrap(), "made\n");
    // Somebody saves and runs again.
    std::fs::write(desktop.folder.path().join("work/note"), "a later text\n").unwrap();
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(run(&bind, "cat /src/note").success(), "a later text\n");
    // A good deal of data, there and back.
    let script = "dd if=/dev/urandom of=/src/big bs=1M count=8 2>/dev/null; sha256sum < /src/big";
    let sum = run(&bind, script).success();
    let big = std::fs::read(desktop.folder.path().join("work/big")).unwrap();
    assert_eq!(big.len(), 8 << 20);
    assert_eq!(
        sum.split(' ').next(),
        harness::image::digest(&big).strip_prefix("sha256:")
    );
    // The home is there, for reading.
    let home = store.home().display().to_string();
    std::fs::write(store.home().join("letter"), "dear\n").unwrap();
    let bind = format!("{home}:/home");
    assert_eq!(run(&bind, "cat /home/letter").success(), "dear\n");
    let text = run(&bind, "rm /home/letter").fails_with(1);
    assert!(text.contains("Read-only file system"), "{text}");
    assert!(store.home().join("letter").exists());
    // What is not shared.
    let other = desktop.path("other");
    let refused = run(&format!("{other}:/src"), "ls /src");
    assert_ne!(refused.code, Some(0));
    for part in [&other, &work, &home, "machine set"] {
        assert!(
            refused.stderr.contains(part),
            "{part}: {}",
            refused.report()
        );
    }
}

/// Whatever the machine's processes listen at is at its own address, IPv4 and IPv6 alike.
fn nothing_listens_elsewhere(store: &Store, address: &str) {
    let own: IpAddr = address.parse().unwrap();
    let listeners = store.listeners();
    for port in [2376, 2222, 8080] {
        assert!(listeners.contains(&(own, port).into()), "{listeners:?}");
    }
    let elsewhere = listeners.iter().find(|listener| listener.ip() != own);
    assert_eq!(elsewhere, None, "{listeners:?}");
}

#[test]
fn a_machine_that_dies_while_booting_leaves_nothing_but_words() {
    let Some(store) = Store::for_machines() else {
        return;
    };
    // An image whose kernel finds no first program and panics.
    let image = programs::image().expect("for_machines looked for it");
    let folder = store.path().join("broken-image");
    std::fs::create_dir(&folder).expect("a folder");
    for entry in std::fs::read_dir(&image).expect("the image").flatten() {
        std::fs::copy(entry.path(), folder.join(entry.file_name())).expect("a copy");
    }
    let manifest = folder.join("manifest.json");
    let text = std::fs::read(&manifest).expect("the manifest");
    let mut json: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let line = json["command_line"].as_str().expect("a command line");
    json["command_line"] = format!("{line} rdinit=/none init=/none").into();
    std::fs::write(&manifest, json.to_string()).expect("written");
    let path = folder.to_string_lossy().into_owned();
    let output = store.run(&[
        "create",
        "-d",
        "qemu",
        "--qemu-image",
        &path,
        "--accel",
        "tcg",
        "dev",
    ]);
    let report = output.report();
    let text = output.fails_with(1);
    // The stage it came to, and the console's last lines.
    assert!(
        text.contains("failed while booting, at stage kernel"),
        "{report}"
    );
    let (_, console) = text
        .split_once("The console's last lines:\n")
        .unwrap_or_else(|| panic!("{report}"));
    assert!(console.lines().count() > 3, "{report}");
    assert!(console.contains("Kernel panic"), "{report}");
    assert!(!store.folder_of("dev").exists(), "{report}");
    eventually("every process is gone", Duration::from_secs(10), || {
        store.processes().is_empty().then_some(())
    });
}
