//! Files of containers from outside, with the stock client and with ours: cp, diff, export, commit, import.

use crate::engine_with_busybox;
use harness::agent::{Agent, LIMIT};
use harness::programs::docker_is_old;
use harness::run::{Output, run, run_with_input};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// The stock client where there is one, else ours.
fn docker(agent: &Agent, arguments: &[&str]) -> Output {
    let mut command = agent
        .docker(arguments)
        .unwrap_or_else(|| agent.berth(arguments));
    run(&mut command, LIMIT)
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A folder with a file, a link, a second name and a name longer than a tar header takes.
fn sample(folder: &Path) -> String {
    let long = "long-".repeat(40);
    fs::create_dir_all(folder.join("inner")).expect("made");
    fs::write(folder.join("inner/file"), "content").expect("written");
    fs::write(folder.join(&long), "long").expect("written");
    fs::hard_link(folder.join("inner/file"), folder.join("same")).expect("linked");
    std::os::unix::fs::symlink("inner/file", folder.join("link")).expect("linked");
    // The owner first: a new one takes the setuid bit away.
    std::os::unix::fs::chown(folder.join("inner/file"), Some(1234), Some(5678)).expect("root");
    let mode = fs::Permissions::from_mode(0o4751);
    fs::set_permissions(folder.join("inner/file"), mode).expect("ours");
    long
}

fn check_sample(folder: &Path, long: &str) {
    assert_eq!(text(&folder.join("link")), "content");
    assert_eq!(text(&folder.join(long)), "long");
    let facts = fs::metadata(folder.join("same")).expect("there");
    assert_eq!(facts.nlink(), 2);
}

#[test]
fn files_go_in_and_out_of_running_and_stopped_containers() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let at = |name: &str| agent.folder().join(name);
    let here = |name: &str| at(name).display().to_string();
    let long = sample(&at("src"));
    agent
        .run(&[
            "run",
            "-d",
            "--name",
            "web",
            "-v",
            "data:/data",
            "busybox",
            "sleep",
            "1000",
        ])
        .success();
    for stopped in [false, true] {
        if stopped {
            agent.run(&["stop", "-t", "0", "web"]).success();
        }
        let round = if stopped { "stopped" } else { "running" };
        let inside = format!("web:/tmp/{round}");
        docker(&agent, &["cp", &here("src"), &inside]).success();
        let out = here(&format!("out-{round}"));
        docker(&agent, &["cp", "-a", &inside, &out]).success();
        check_sample(Path::new(&out), &long);
        let kept = here(&format!("kept-{round}"));
        agent.run(&["cp", "-a", &inside, &kept]).success();
        let facts = fs::metadata(Path::new(&kept).join("inner/file")).expect("there");
        assert_eq!((facts.uid(), facts.gid()), (1234, 5678));
        assert_eq!(facts.mode() & 0o7777, 0o4751);
        // Ours, both ways: into a volume, which is there though nothing runs.
        let inside = format!("web:/data/{round}");
        agent.run(&["cp", &here("src"), &inside]).success();
        let out = here(&format!("ours-{round}"));
        agent.run(&["cp", &inside, &out]).success();
        check_sample(Path::new(&out), &long);
        agent
            .run(&[
                "cp",
                "-L",
                &format!("web:/data/{round}/link"),
                &here("followed"),
            ])
            .success();
        assert_eq!(text(&at("followed")), "content");
        fs::remove_file(at("followed")).expect("there");
    }
    // Only what is in a folder.
    docker(
        &agent,
        &[
            "cp",
            "web:/tmp/running/.",
            &format!("{}/", here("contents")),
        ],
    )
    .success();
    check_sample(&at("contents"), &long);
    // A tar both ways.
    let tar = docker(&agent, &["cp", "web:/etc/passwd", "-"]).success();
    assert!(tar.contains("root:"), "{tar}");
    let listed = run_with_input(
        &mut agent.berth(&["cp", "-", "web:/tmp"]),
        tar.as_bytes(),
        LIMIT,
    );
    listed.success();
    docker(&agent, &["cp", "web:/tmp/passwd", &here("passwd")]).success();
    assert!(text(&at("passwd")).contains("ada"));
    // What the engine mounts for the container is shown, what only the kernel has is not.
    let hosts = docker(&agent, &["cp", "web:/etc/hostname", "-"]).success();
    assert!(hosts.contains("hostname"), "{hosts}");
    agent.run(&["cp", "web:/proc", &here("proc")]).success();
    assert_eq!(fs::read_dir(at("proc")).expect("there").count(), 0);
    agent.run(&["start", "web"]).success();
    let seen = agent.run(&[
        "exec",
        "web",
        "cat",
        "/tmp/stopped/inner/file",
        "/data/stopped/link",
    ]);
    assert_eq!(seen.success(), "contentcontent");
}

#[test]
fn what_cannot_be_copied_is_said_in_docker_s_words() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let file = agent.folder().join("file");
    fs::write(&file, "x").expect("written");
    let file = file.display().to_string();
    // A refusal comes while the client is still sending: it must be read all the same.
    let large = agent.folder().join("large");
    let content = fs::File::create(&large).expect("made");
    content.set_len(32 << 20).expect("lengthened");
    let large = large.display().to_string();
    let folder = agent.folder().join("folder");
    fs::create_dir(&folder).expect("made");
    let folder = folder.display().to_string();
    agent
        .run(&[
            "run",
            "-d",
            "--name",
            "web",
            "--read-only",
            "-v",
            "data:/data",
            "-v",
            "fixed:/fixed:ro",
            "busybox",
            "sleep",
            "1000",
        ])
        .success();
    for (arguments, part) in [
        (
            ["cp", "web:/nothing", "."],
            "Could not find the file /nothing in container web",
        ),
        (
            ["cp", &file, "web:/no/where"],
            "Could not find the file /no in container web",
        ),
        (
            ["cp", &file, "web:/tmp"],
            "container rootfs is marked read-only",
        ),
        (
            ["cp", &large, "web:/tmp"],
            "container rootfs is marked read-only",
        ),
        (
            ["cp", &file, "web:/fixed"],
            "mounted volume is marked read-only",
        ),
        (["cp", &folder, "web:/etc/passwd"], "cannot copy directory"),
        (["cp", "nobody:/etc", "."], "No such container: nobody"),
    ] {
        for output in [docker(&agent, &arguments), agent.run(&arguments)] {
            assert_ne!(output.code, Some(0), "{arguments:?}");
            // Old clients say it in words of their own.
            let is_head = arguments[1].starts_with("nobody")
                || (docker_is_old() && output.stderr.contains("No such container:path"));
            assert!(
                output.stderr.contains(part) || is_head,
                "{arguments:?}: {}",
                output.report()
            );
        }
    }
    agent.run(&["cp", &file, "web:/data/file"]).success();
    let seen = agent.run(&["exec", "web", "cat", "/data/file"]);
    assert_eq!(seen.success(), "x");
}

/// The container does its worst while files go in and out: nothing of the host is read or written.
#[test]
fn a_container_that_swaps_links_reaches_nothing_of_the_host() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let trap = agent.folder().join("trap");
    fs::create_dir(&trap).expect("made");
    fs::write(trap.join("secret"), "the host's secret").expect("written");
    let script = format!(
        "mkdir -p /w/real /w{trap}; echo inside > /w/real/secret; cd /w; \
         while true; do mv real away; ln -s {trap} real; ln -s ../../../../../../..{trap} up; \
         rm real up; mv away real; done",
        trap = trap.display()
    );
    agent
        .run(&[
            "run", "-d", "--name", "mean", "busybox", "sh", "-c", &script,
        ])
        .success();
    let source = agent.folder().join("evil");
    fs::create_dir(&source).expect("made");
    fs::write(source.join("evil"), "evil").expect("written");
    let source = source.display().to_string();
    let mut came_out = 0;
    for round in 0..25 {
        // Whether each works or not is a matter of luck; where it ends up is not.
        for inside in ["mean:/w/real/", "mean:/w/up"] {
            agent.run(&["cp", &format!("{source}/."), inside]);
        }
        let out = agent.folder().join(format!("out-{round}"));
        agent.run(&["cp", "mean:/w/real/", &out.display().to_string()]);
        for name in ["secret", "real/secret"] {
            if let Ok(text) = fs::read_to_string(out.join(name)) {
                assert_eq!(text, "inside\n");
                came_out += 1;
            }
        }
        let names: Vec<_> = fs::read_dir(&trap).expect("there").flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        assert_eq!(text(&trap.join("secret")), "the host's secret");
    }
    println!("{came_out} of 25 copies met the folder");
    agent.run(&["rm", "-f", "mean"]).success();
}

/// A device and a pipe are copied as what they are, not what they would read, and back into a container.
#[test]
fn devices_are_copied_as_devices() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let script = "mkdir /odd && mknod /odd/null c 1 3 && mknod /odd/pipe p && exec sleep 1000";
    let arguments = ["run", "-d", "--name", "odd", "busybox", "sh", "-c", script];
    agent.run(&arguments).success();
    let tar = harness::run::eventually("the script is through", LIMIT, || {
        let copied = run(&mut agent.berth(&["cp", "odd:/odd", "-"]), LIMIT);
        let tar = copied.stdout.into_bytes();
        // Type flags of tar: 3 is a device of characters, 6 a pipe.
        let kinds: Vec<u8> = tar
            .chunks(512)
            .filter(|block| block.get(257..262) == Some(b"ustar"))
            .map(|block| block[156])
            .collect();
        (kinds.contains(&b'3') && kinds.contains(&b'6')).then_some(tar)
    });
    assert!(tar.len() < 20_000, "nothing was read from them");
    let mut back = agent.berth(&["cp", "-", "odd:/tmp"]);
    run_with_input(&mut back, &tar, LIMIT).success();
    let stat = [
        "exec",
        "odd",
        "stat",
        "-c",
        "%F %t %T",
        "/tmp/odd/null",
        "/tmp/odd/pipe",
    ];
    assert_eq!(
        agent.run(&stat).success(),
        "character special file 1 3\nfifo 0 0\n"
    );
    agent.run(&["rm", "-f", "odd"]).success();
}

#[test]
fn changes_are_listed_and_become_an_image() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let script =
        "echo new > /new; rm /etc/group; mkdir /folder; echo more >> /etc/passwd; sleep 1000";
    agent
        .run(&[
            "run",
            "-d",
            "--name",
            "web",
            "-e",
            "A=1",
            "-v",
            "data:/data",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .success();
    let wanted = [
        "A /folder",
        "A /new",
        "C /etc",
        "C /etc/passwd",
        "D /etc/group",
    ];
    let changes = harness::run::eventually("the script is through", LIMIT, || {
        let listed = docker(&agent, &["diff", "web"]).success();
        listed.contains("C /etc/passwd").then_some(listed)
    });
    let mut lines: Vec<&str> = changes.lines().filter(|line| *line != "A /data").collect();
    lines.sort_unstable();
    assert_eq!(lines, wanted);
    assert_eq!(agent.run(&["diff", "web"]).success(), changes);

    let id = docker(
        &agent,
        &[
            "commit",
            "-a",
            "Ada",
            "-m",
            "by hand",
            "-c",
            "CMD [\"cat\", \"/new\"]",
            "-c",
            "ENV B=two C=$A",
            "-c",
            "EXPOSE 80",
            "-c",
            "LABEL made=here",
            "web",
            "me/web:v1",
        ],
    )
    .success();
    assert!(id.starts_with("sha256:"), "{id}");
    // It was paused, and runs again; the second time it was not.
    docker(&agent, &["commit", "--pause=false", "web", "me/moving"]).success();
    let state = docker(&agent, &["inspect", "web", "--format", "{{.State.Status}}"]).success();
    assert_eq!(state, "running\n");
    let until = crate::life::soon();
    let past = [
        "events",
        "--since",
        "1",
        "--until",
        &until,
        "--format",
        "{{.Action}}",
    ];
    let told = docker(
        &agent,
        &[&past[..], &["--filter", "container=web"]].concat(),
    )
    .success();
    let order: Vec<&str> = told
        .lines()
        .filter(|line| ["pause", "unpause", "commit"].contains(line))
        .collect();
    assert_eq!(order, ["pause", "unpause", "commit", "commit"]);
    assert_eq!(agent.run(&["run", "--rm", "me/web:v1"]).success(), "new\n");
    let seen = agent.run(&[
        "run",
        "--rm",
        "me/web:v1",
        "sh",
        "-c",
        "ls -d /folder /etc/group; echo $A $B $C",
    ]);
    assert!(
        seen.stdout.contains("/folder\n1 two 1\n"),
        "{}",
        seen.report()
    );
    assert!(seen.stderr.contains("/etc/group"), "{}", seen.report());
    let shown = docker(
        &agent,
        &["image", "inspect", "me/web:v1", "--format",
          "{{.Author}}|{{.Comment}}|{{.Config.Labels.made}}|{{.Config.ExposedPorts}}|{{len .RootFS.Layers}}"],
    )
    .success();
    assert_eq!(shown, "Ada|by hand|here|map[80/tcp:{}]|3\n");
    let history = docker(&agent, &["history", "--no-trunc", "me/web:v1"]).success();
    assert!(
        history
            .lines()
            .nth(1)
            .is_some_and(|line| line.contains("sh -c echo new")),
        "{history}"
    );
    // Nothing changed: no layer.
    agent
        .run(&["run", "--name", "still", "busybox", "true"])
        .success();
    agent.run(&["commit", "still", "me/still"]).success();
    let layers = docker(
        &agent,
        &[
            "image",
            "inspect",
            "me/still",
            "--format",
            "{{len .RootFS.Layers}}",
        ],
    );
    assert_eq!(layers.success(), "2\n");
    for (arguments, part) in [
        (
            ["commit", "-c", "RUN make", "web"],
            "RUN is not a valid change command",
        ),
        (
            ["commit", "-c", "EXPOSE x", "web"],
            "invalid containerPort: x",
        ),
        (["commit", "-m", "x", "nobody"], "No such container: nobody"),
    ] {
        let output = docker(&agent, &arguments);
        assert!(output.stderr.contains(part), "{}", output.report());
    }
}

#[test]
fn an_exported_container_is_imported_as_an_image() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    agent
        .run(&[
            "run",
            "--name",
            "web",
            "-v",
            "data:/data",
            "busybox",
            "sh",
            "-c",
            "echo new > /new; echo x > /data/x",
        ])
        .success();
    let tar = agent.folder().join("root.tar");
    docker(&agent, &["export", "-o", &tar.display().to_string(), "web"]).success();
    let bytes = fs::read(&tar).expect("written");
    let imported = run_with_input(
        &mut agent
            .docker(&[
                "import",
                "-c",
                "CMD [\"cat\", \"/new\"]",
                "-m",
                "flat",
                "-",
                "me/flat:v1",
            ])
            .unwrap_or_else(|| {
                agent.berth(&[
                    "import",
                    "-c",
                    "CMD [\"cat\", \"/new\"]",
                    "-m",
                    "flat",
                    "-",
                    "me/flat:v1",
                ])
            }),
        &bytes,
        LIMIT,
    );
    assert!(imported.success().starts_with("sha256:"));
    assert_eq!(agent.run(&["run", "--rm", "me/flat:v1"]).success(), "new\n");
    let listed = agent.run(&["run", "--rm", "me/flat:v1", "ls", "/data"]);
    assert_eq!(
        listed.success(),
        "",
        "a volume is not part of the file system"
    );
    // Ours, from a file.
    agent
        .run(&["export", "-o", &tar.display().to_string(), "web"])
        .success();
    agent
        .run(&[
            "import",
            "--change",
            "CMD echo imported",
            &tar.display().to_string(),
            "me/ours",
        ])
        .success();
    assert_eq!(
        agent.run(&["run", "--rm", "me/ours"]).success(),
        "imported\n"
    );
    let text = run_with_input(
        &mut agent.berth(&["import", "-"]),
        b"no tar at all, really not",
        LIMIT,
    );
    assert_ne!(text.code, Some(0), "{}", text.report());
}
