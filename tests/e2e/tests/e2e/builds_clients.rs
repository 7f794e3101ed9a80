//! Builds as people start them: `berth build` with what it has for secrets, outputs and caches, and a day in a workshop: an
//! image is built, tagged, run with a published port, pushed, pulled by podman and run there.

use crate::{busybox_archive, engine_with_busybox, fetch};
use harness::agent::{Agent, LIMIT};
use harness::programs::find;
use harness::registry::Registry;
use harness::run::{eventually, run, run_with_input};
use harness::terminal::run_at_terminal;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn context(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, content) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}

const SITE: &str = "FROM busybox\nCOPY site /www\nEXPOSE 80\nCMD [\"httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/www\"]\n";

#[test]
fn a_web_server_is_built_run_pushed_and_run_by_podman() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    if !Registry::is_available_or_skip() {
        return;
    }
    let registry = Registry::start().expect("a registry");
    let folder = context(&[("Dockerfile", SITE), ("site/index.html", "made here\n")]);
    let name = format!("{}/me/site:1", registry.host());
    let path = text(folder.path()).to_owned();
    // By the stock client, where there is one.
    match agent.docker(&["build", "-t", &name, &path]) {
        Some(mut docker) => {
            let told = run(docker.env("DOCKER_BUILDKIT", "0"), LIMIT).success();
            assert!(
                told.contains(&format!("Successfully tagged {name}")),
                "{told}"
            );
        }
        None => drop(agent.run(&["build", "-t", &name, &path]).success()),
    }
    agent
        .run(&["run", "-d", "--name", "site", "-p", "127.0.0.1::80", &name])
        .success();
    let address = agent.run(&["port", "site", "80"]).success();
    let page = eventually("the site answers", Duration::from_secs(30), || {
        fetch(address.trim())
    });
    assert!(page.contains("made here"), "{page}");
    agent.run(&["rm", "-f", "site"]).success();
    agent.run(&["push", &name]).success();
    let Some(podman) = find("podman") else {
        println!("skipped: there is no podman here");
        return;
    };
    let storage = tempfile::tempdir().expect("a folder");
    let podman = |arguments: &[&str]| {
        let mut command = Command::new(&podman);
        command
            .args(["--root", text(&storage.path().join("root"))])
            .args(["--runroot", text(&storage.path().join("run"))])
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
            .args(arguments);
        command
    };
    let mut pull = podman(&["pull", "--tls-verify=false", &name]);
    run(&mut pull, LIMIT).success();
    let mut inspect = podman(&["image", "inspect", "--format", "{{.Config.Cmd}}", &name]);
    let shown = run(&mut inspect, LIMIT).success();
    assert!(shown.contains("httpd"), "{shown}");
    // Its usual runtime knows control groups of one version only, and its usual limits are higher than some hosts allow.
    let runtime: &[&str] = match find("runc") {
        Some(_) => &["--runtime=runc", "run"],
        None => &["run", "--cgroups=disabled"],
    };
    let podman_run = |image: &str, words: &[&str]| {
        let flags = [
            "--rm",
            "--network=none",
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1024:1024",
            image,
        ];
        run(&mut podman(&[runtime, &flags, words].concat()), LIMIT)
    };
    // Whether it runs anything here is seen with an image that is none of ours.
    let archive = busybox_archive("others:1");
    let loaded = run_with_input(&mut podman(&["load"]), &archive, LIMIT).success();
    let others = loaded.trim().rsplit(' ').next().expect("a name");
    let ran = podman_run(others, &["true"]);
    if ran.code != Some(0) {
        println!(
            "skipped: podman cannot run containers here: {}",
            ran.stderr.trim()
        );
        return;
    }
    let page = podman_run(&name, &["cat", "/www/index.html"]).success();
    assert_eq!(page, "made here\n");
}

fn build(agent: &Agent, folder: &Path, flags: &[&str]) -> harness::run::Output {
    let mut arguments = vec!["build"];
    arguments.extend_from_slice(flags);
    arguments.push(text(folder));
    agent.run(&arguments)
}

#[test]
fn berth_builds_with_secrets_that_stay_out_of_the_image() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let folder = context(&[(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=secret,id=token sha256sum /run/secrets/token | grep -q ^7b426ad1d26dc08e && echo it fits\n",
    )]);
    let secret = folder.path().join("token.txt");
    std::fs::write(&secret, "hidden-word").expect("written");
    let flag = format!("id=token,src={}", text(&secret));
    let output = build(&agent, folder.path(), &["-t", "fits", "--secret", &flag]);
    assert!(output.stderr.contains("it fits"), "{}", output.report());
    output.success();
    let history = agent.run(&["history", "--no-trunc", "fits"]).success();
    assert!(!history.contains("hidden-word"), "{history}");
    assert!(!agent.log().contains("hidden-word"));
    // Without it the step fails, and the line of the Dockerfile is named.
    let failed = build(&agent, folder.path(), &["--no-cache"]).fails_with(1);
    assert!(
        failed.contains("non-zero code") && failed.contains("line 2"),
        "{failed}"
    );
}

/// Files in the engine's folders that have the word in them.
fn files_with(folders: &[&Path], word: &str) -> String {
    let mut grep = Command::new("grep");
    grep.args(["-r", "-l", "-a", "-s", "-D", "skip", word])
        .args(folders);
    run(&mut grep, LIMIT).stdout
}

#[test]
fn variables_with_secrets_are_nowhere_on_the_disk() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let folder = context(&[(
        "Dockerfile",
        "FROM busybox\nENV TOKEN=none\nRUN --mount=type=cache,target=/meet --mount=type=secret,id=token,env=TOKEN \
         printf %s \"$TOKEN\" | sha256sum | grep -q ^7b426ad1d26dc08e && touch /meet/begun; \
         for i in $(seq 600); do [ -e /meet/end ] && exit 7; sleep 0.1; done\n",
    )]);
    let secret = folder.path().join("token.txt");
    std::fs::write(&secret, "hidden-word").expect("written");
    let flag = format!("id=token,src={}", text(&secret));
    let place = text(folder.path());
    let mut client = agent.berth(&["build", "--network=none", "--secret", &flag, place]);
    let client = client
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("berth starts");
    let caches = agent.data_root().join("builds/caches");
    let begun = eventually("the step has begun", Duration::from_secs(30), || {
        let mut find = Command::new("find");
        let found = run(find.arg(&caches).args(["-name", "begun"]), LIMIT);
        let path = found.stdout.lines().next()?;
        Some(Path::new(path).to_owned())
    });
    let step = agent.run(&["ps", "-q", "--no-trunc"]).success();
    let step = step.trim();
    let shown = agent.run(&["inspect", step]).success();
    assert!(shown.contains("TOKEN=none"), "{shown}");
    assert!(!shown.contains("hidden-word"), "{shown}");
    assert_eq!(files_with(&[&agent.data_root()], "hidden-word"), "");
    std::fs::write(begun.with_file_name("end"), "").expect("written");
    let output = client.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("non-zero code: 7"), "{said}");
    // What it has done with the secret is nobody's to look at.
    assert_eq!(agent.run(&["ps", "-aq"]).success(), "");
    let folders = [&*agent.data_root(), &*agent.exec_root()];
    assert_eq!(files_with(&folders, "hidden-word"), "");
    assert!(!agent.log().contains("hidden-word"));
}

#[test]
fn every_flag_of_a_build_has_its_effect() {
    let (Some(agent), Some(other)) = (engine_with_busybox(&[]), engine_with_busybox(&[])) else {
        return;
    };
    let folder = context(&[(
        "sub/other",
        "FROM busybox AS one\nARG A\nRUN echo $A $HOSTS > /arguments; grep extra /etc/hosts > /hosts; ulimit -n > /limit; \
         df -m /dev/shm | tail -1 | tr -s ' ' | cut -d ' ' -f 2 > /shm\nFROM one\nRUN exit 9\n",
    )]);
    let file = folder.path().join("sub/other");
    let place = tempfile::tempdir().expect("a folder");
    let archive = place.path().join("image.tar");
    let output = format!("type=docker,dest={}", text(&archive));
    let flags = [
        "--network=none",
        "-f",
        text(&file),
        "--target",
        "one",
        "--build-arg",
        "A=given",
        "--label",
        "x=a b",
        "--add-host",
        "extra:10.9.8.7",
        "--ulimit",
        "nofile=77",
        "--shm-size",
        "5m",
        "-t",
        "flags:1",
        "-t",
        "flags:2",
        "-o",
        &output,
        "-o",
        "type=image",
    ];
    build(
        &agent,
        folder.path(),
        &[&flags[..], &["--progress=plain"]].concat(),
    )
    .success();
    let shown = agent.run(&["inspect", "--format", "{{.Config.Labels.x}}", "flags:2"]);
    assert_eq!(shown.success(), "a b\n");
    let script = "cat /arguments /limit /shm; tr -s '\\t ' ' ' < /hosts";
    let seen = |agent: &Agent| {
        let words = [
            "run",
            "--rm",
            "--network=none",
            "flags:1",
            "sh",
            "-c",
            script,
        ];
        agent.run(&words).success()
    };
    assert_eq!(seen(&agent), "given\n77\n5\n10.9.8.7 extra\n");
    other.run(&["load", "-i", text(&archive)]).success();
    assert_eq!(seen(&other), seen(&agent));
    // The same again, told to programs.
    let raw = build(
        &agent,
        folder.path(),
        &[&flags[..], &["--progress=rawjson"]].concat(),
    );
    let lines = raw.stderr.lines();
    let told: Vec<serde_json::Value> = lines
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    assert!(
        told.iter().any(|line| line["vertexes"].is_array()),
        "{}",
        raw.report()
    );
    // Its own platform, and no other one.
    let version = agent
        .run(&["version", "--format", "{{.Server.Os}}/{{.Server.Arch}}"])
        .success();
    build(
        &agent,
        folder.path(),
        &[&flags[..], &["--platform", version.trim()]].concat(),
    )
    .success();
    let foreign = build(
        &agent,
        folder.path(),
        &[&flags[..], &["--platform", "linux/s390x"]].concat(),
    );
    let said = foreign.fails_with(1);
    assert!(said.contains("cannot build for linux/s390x"), "{said}");
}

#[test]
fn a_terminal_shows_what_is_done_and_what_is_being_done() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let run = "printf '10%%\\r\\033[1;31mhalf way\\033[0m\\n'; sleep 1";
    let good = format!("FROM busybox AS Made\nRUN {run}\nRUN true\n");
    let folder = context(&[("Dockerfile", &good)]);
    let build = |flags: &[&str]| {
        let arguments = [&["build", "--network=none"], flags, &[text(folder.path())]].concat();
        run_at_terminal(agent.berth(&arguments), 120, LIMIT)
    };
    // Times differ.
    let timeless = |lines: &[String]| -> Vec<String> {
        let cut = |line: &String| match line.rsplit_once("  ") {
            Some((start, time)) if time.ends_with('s') => start.to_owned(),
            _ => line.clone(),
        };
        lines.iter().map(cut).collect()
    };
    let seen = build(&["--progress=tty", "-t", "shown"]);
    assert_eq!(seen.code, Some(0), "{}", seen.text());
    assert!(seen.garbage.is_empty(), "{:?}", seen.garbage);
    let is_running = |lines: &Vec<String>| {
        let [first, second, ..] = lines.as_slice() else {
            return false;
        };
        first.starts_with(" => [made 1/3] FROM busybox")
            && second.starts_with(" => [made 2/3] RUN")
            && second.ends_with("s  half way")
    };
    assert!(seen.frames.iter().any(is_running), "{:#?}", seen.frames);
    let lines = timeless(&seen.lines);
    let step = format!(" => [made 2/3] RUN {run}");
    assert_eq!(
        lines[..3],
        [
            " => [made 1/3] FROM busybox AS Made",
            &step,
            " => [made 3/3] RUN true"
        ]
    );
    assert!(
        lines[3].starts_with(" => writing image sha256:"),
        "{lines:#?}"
    );
    assert!(lines[4].starts_with(" => naming to ") && lines[4].ends_with("shown:latest done"));
    let finding = seen.text();
    assert!(
        finding.contains("1 warning found") && finding.contains("\n - StageNameCasing: "),
        "{finding}"
    );
    // At a terminal it is what is shown if nothing is said.
    let again = build(&["--progress=auto", "-t", "shown"]);
    let mut cached = lines.clone();
    for line in &mut cached[1..3] {
        *line = line.replace(" => ", " => CACHED ");
    }
    assert_eq!(timeless(&again.lines), cached);
    let bad = "FROM busybox\nRUN echo first; printf '\\033[31mlast words'; exit 7\n";
    std::fs::write(folder.path().join("Dockerfile"), bad).expect("written");
    let failed = build(&[]);
    assert_eq!(failed.code, Some(1));
    let lines = timeless(&failed.lines);
    assert!(
        lines[1].starts_with(" => ERROR [stage-0 2/2] RUN"),
        "{lines:#?}"
    );
    assert_eq!(lines[2..6], ["------", "first", "last words", "------"]);
    assert!(failed.text().contains("non-zero code: 7"), "{lines:#?}");
    assert!(failed.garbage.is_empty(), "{:?}", failed.garbage);

    // Elsewhere bars are refused before anything is done, and lines are what is shown.
    std::fs::write(folder.path().join("Dockerfile"), &good).expect("written");
    let lines = agent.run(&["build", "--network=none", text(folder.path())]);
    assert!(lines.stderr.contains("#2 CACHED\n"), "{}", lines.report());
    let refused = agent.run(&[
        "build",
        "--progress=tty",
        "-t",
        "never",
        text(folder.path()),
    ]);
    let said = refused.fails_with(1);
    assert!(
        said.contains("failed to get console: standard error is not a terminal"),
        "{said}"
    );
    assert!(agent.run(&["inspect", "never"]).code != Some(0));
}

#[test]
fn results_are_folders_archives_and_ids() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let folder = context(&[(
        "Dockerfile",
        "FROM busybox AS made\nRUN mkdir /out && echo result > /out/file\nFROM scratch\nCOPY --from=made /out /\n",
    )]);
    let place = tempfile::tempdir().expect("a folder");
    let local = place.path().join("local");
    build(&agent, folder.path(), &["-o", text(&local)]).success();
    assert_eq!(
        std::fs::read_to_string(local.join("file")).expect("there"),
        "result\n"
    );
    let tar = place.path().join("files.tar");
    let flag = format!("type=tar,dest={}", text(&tar));
    build(&agent, folder.path(), &["-o", &flag]).success();
    let names = run(Command::new("tar").arg("tf").arg(&tar), LIMIT).success();
    assert!(names.lines().any(|name| name.ends_with("file")), "{names}");
    let archive = place.path().join("image.tar");
    let (flag, id_file) = (
        format!("type=oci,dest={}", text(&archive)),
        place.path().join("id"),
    );
    build(
        &agent,
        folder.path(),
        &["-o", &flag, "-t", "me/made", "--iidfile", text(&id_file)],
    )
    .success();
    let names = run(Command::new("tar").arg("tf").arg(&archive), LIMIT).success();
    assert!(names.contains("index.json"), "{names}");
    let id = std::fs::read_to_string(&id_file).expect("there");
    let shown = agent.run(&["inspect", "--format", "{{.Id}}", "me/made"]);
    assert_eq!(shown.success().trim(), id);
    // A Dockerfile from standard input, another from the context's outside, a stage by name.
    let mut command = agent.berth(&["build", "-q", "-"]);
    run_with_input(&mut command, b"FROM busybox\nENV A=b\n", LIMIT).success();
    let other = place.path().join("other.Dockerfile");
    std::fs::write(&other, "FROM busybox\nCOPY . /all\nRUN ls -A /all\n").expect("written");
    let output = build(
        &agent,
        folder.path(),
        &["-f", text(&other), "--progress=plain"],
    );
    assert!(
        !output.stderr.contains(".dockerfile."),
        "{}",
        output.report()
    );
    output.success();
    let output = build(&agent, folder.path(), &["--target", "none"]);
    assert!(output.fails_with(1).contains("none"));
    // Findings are told and are no build.
    let casing = context(&[("Dockerfile", "FROM busybox AS Upper\nRUN true\n")]);
    let checked = build(&agent, casing.path(), &["--check"]);
    assert!(
        checked.stdout.contains("StageNameCasing"),
        "{}",
        checked.report()
    );
    assert_eq!(checked.code, Some(1));
}

#[test]
fn a_cache_is_carried_to_another_engine() {
    let (Some(one), Some(other)) = (engine_with_busybox(&[]), engine_with_busybox(&[])) else {
        return;
    };
    let folder = context(&[("Dockerfile", "FROM busybox\nRUN echo costly > /file\n")]);
    let place = tempfile::tempdir().expect("a folder");
    let to = format!("type=local,dest={}", text(place.path()));
    build(&one, folder.path(), &["-q", "--cache-to", &to]).success();
    let from = format!("type=local,src={}", text(place.path()));
    let output = build(
        &other,
        folder.path(),
        &["--progress=plain", "--cache-from", &from],
    );
    assert!(output.stderr.contains("#2 CACHED"), "{}", output.report());
    output.success();
    let refused = build(
        &one,
        folder.path(),
        &["--cache-to", "type=registry,ref=a,mode=max"],
    );
    assert!(refused.fails_with(1).contains("mode=max"));
    // Pruned, it is gone.
    let pruned = one.run(&["builder", "prune", "-a", "-f"]).success();
    assert!(pruned.contains("Total:"), "{pruned}");
}

#[test]
fn a_cache_is_left_where_no_image_is_wanted() {
    let (Some(one), Some(other)) = (engine_with_busybox(&[]), engine_with_busybox(&[])) else {
        return;
    };
    let place = tempfile::tempdir().expect("a folder");
    let id_file = place.path().join("id");
    let images = |agent: &Agent| agent.run(&["images", "-aq", "--no-trunc"]).success();
    let files = place.path().join("files");
    for (output, step) in [("type=cacheonly", "first"), (text(&files), "second")] {
        let dockerfile = format!("FROM busybox\nRUN echo {step} > /{step}\n");
        let folder = context(&[("Dockerfile", &dockerfile)]);
        let before = images(&one);
        let cache = place.path().join(step);
        let to = format!("type=local,dest={}", text(&cache));
        let id = text(&id_file);
        let flags = [
            "-q",
            "-o",
            output,
            "-t",
            "no",
            "--cache-to",
            &to,
            "--iidfile",
            id,
        ];
        assert_eq!(build(&one, folder.path(), &flags).success(), "");
        assert_eq!(std::fs::read_to_string(&id_file).expect("there"), "");
        assert_eq!(images(&one), before, "{output}");
        one.run(&["inspect", "no"]).fails_with(1);
        let from = format!("type=local,src={}", text(&cache));
        let flags = ["--progress=plain", "--cache-from", &from];
        for agent in [&one, &other] {
            let again = build(agent, folder.path(), &flags);
            assert!(again.stderr.contains("#2 CACHED"), "{}", again.report());
            again.success();
        }
        // An image that was there before stays.
        build(&one, folder.path(), &["-t", step]).success();
        build(
            &one,
            folder.path(),
            &["-o", "type=cacheonly", "--cache-to", &to],
        )
        .success();
        let there = one.run(&["images", "-q", step]).success();
        assert_ne!(there, "", "{output}");
    }
    assert!(files.join("second").exists());
}
