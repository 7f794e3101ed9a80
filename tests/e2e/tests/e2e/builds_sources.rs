//! Where a build's files and images come from: repositories, web servers, registries with a password, caches in images.

use crate::builds_engine::{build, build_text, context, docker, engine, id, in_image, said};
use crate::engine_with_busybox;
use harness::agent::{Agent, LIMIT};
use harness::http::request;
use harness::image::{LayerTar, digest};
use harness::programs::find;
use harness::registry::{PASSWORD, Registry, USER};
use harness::run::{Output, run, run_with_input};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

/// Serves the files of a folder over http, as long as the test runs; answers the address.
fn serve(folder: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let folder = folder.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines();
            let request = lines.next().and_then(Result::ok).unwrap_or_default();
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
            let path = request.split(' ').nth(1).unwrap_or("/");
            let path = path.split('?').next().unwrap_or(path);
            let (status, content) = match std::fs::read(folder.join(path.trim_start_matches('/'))) {
                Ok(content) => ("200 OK", content),
                Err(_) => ("404 Not Found", Vec::new()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                content.len()
            );
            let _ = (&stream).write_all(head.as_bytes());
            let _ = (&stream).write_all(&content);
        }
    });
    address
}

/// Runs git in a folder.
fn git(folder: &Path, arguments: &[&str]) {
    let mut git = Command::new("git");
    git.current_dir(folder)
        .args(["-c", "user.name=t", "-c", "user.email=t@example.com"])
        .args(arguments);
    run(&mut git, LIMIT).success();
}

/// Puts a repository into a web server's folder (plain files are enough for that): branch `main`, annotated tag `v1`.
/// False, with a line, where there is no git.
fn add_repository(served: &Path) -> bool {
    if find("git").is_none() {
        println!("skipped: there is no git here");
        return false;
    }
    let repository = served.join("r.git");
    let work = context(&[
        ("in/side", "from git"),
        ("built/Dockerfile", "FROM busybox\nCOPY side /\n"),
        ("built/side", "remote"),
    ]);
    git(work.path(), &["init", "--quiet", "-b", "main"]);
    git(work.path(), &["add", "."]);
    git(work.path(), &["commit", "--quiet", "-m", "x"]);
    git(work.path(), &["tag", "-a", "v1", "-m", "tagged"]);
    std::fs::write(work.path().join("in/side"), "newer").expect("a file");
    git(work.path(), &["commit", "--quiet", "-am", "y"]);
    let place = repository.display().to_string();
    git(work.path(), &["clone", "--quiet", "--bare", ".", &place]);
    git(&repository, &["update-server-info"]);
    true
}

/// What an `ADD` is refused for.
#[track_caller]
fn check_refused(agent: &Agent, add: &str, why: &str) {
    let text = format!("FROM busybox\nADD {add} /\n");
    let said = build_text(agent, "wrong", &text, &[]).fails_with(1);
    assert!(said.contains(why), "{add}: {said}");
}

#[test]
fn files_come_from_web_servers() {
    let Some(agent) = engine() else { return };
    let served = context(&[("file.txt", "from the web")]);
    let address = serve(served.path());
    let right = digest(b"from the web");
    let text = format!("FROM busybox\nADD --checksum={right} http://{address}/file.txt /\n");
    build_text(&agent, "fetched", &text, &[]).success();
    let out = in_image(&agent, "fetched", "cat /file.txt; stat -c ' %a' /file.txt");
    assert_eq!(out, "from the web 600");
    let wrong = format!("sha256:{}", "0".repeat(64));
    let add = format!("--checksum={wrong} http://{address}/file.txt");
    check_refused(&agent, &add, "digest mismatch");
    let add = format!("--checksum={right} file.txt");
    check_refused(&agent, &add, "requires HTTP(S) or Git sources");
    let add = format!("http://{address}/r.git?rev=main");
    check_refused(&agent, &add, "unexpected query \"rev\"");
}

#[test]
fn files_come_from_repositories() {
    let Some(agent) = engine() else { return };
    let served = tempfile::tempdir().expect("a folder");
    if !add_repository(served.path()) {
        return;
    }
    let address = serve(served.path());
    let text = format!(
        "FROM busybox\nADD http://{address}/r.git#main:in /git/\n\
         ADD http://{address}/r.git?tag=v1&subdir=in /tagged/\n\
         ADD --keep-git-dir=true http://{address}/r.git?branch=main /whole/\n"
    );
    build_text(&agent, "fetched", &text, &[]).success();
    let script = "cat /git/side; echo; ls -A /git; cat /tagged/side; echo; ls -A /whole";
    let out = in_image(&agent, "fetched", script);
    assert_eq!(out, "newer\nside\nfrom git\n.git\nbuilt\nin");
    let add = format!("http://{address}/r.git?ref=main&commit={}", "0".repeat(40));
    check_refused(&agent, &add, "expected checksum to match 000");
}

/// Builds a context that the engine fetches; answers what is in `/side` then.
#[track_caller]
fn built_from(agent: &Agent, remote: &str) -> String {
    let path = format!("/build?t=remote&networkmode=none&remote={remote}");
    let reply = request(&agent.socket(), "POST", &path, b"").expect("an answer");
    assert_eq!(reply.status, 200, "{remote}: {}", reply.body);
    let failed = reply.body.contains("errorDetail");
    assert!(!failed, "{remote}: {}", reply.body);
    in_image(agent, "remote", "cat /side")
}

#[test]
fn contexts_come_from_web_servers() {
    let Some(agent) = engine() else { return };
    let served = context(&[("bare", "FROM busybox\nRUN printf bare > /side\n")]);
    let address = serve(served.path());
    let mut tar = LayerTar::new();
    tar.file("Dockerfile", 0o644, b"FROM busybox\nCOPY side /\n");
    tar.file("side", 0o644, b"archived");
    std::fs::write(served.path().join("context.tar"), tar.finish()).expect("a file");
    // What it is is seen in its bytes, whatever it is called.
    let gzip = "gzip -c context.tar > packed; xz -c context.tar > packed.xz; zstd -q -c context.tar > packed.zst";
    let mut pack = Command::new("sh");
    let packed = run(pack.current_dir(served.path()).args(["-c", gzip]), LIMIT);
    assert!(served.path().join("packed").exists(), "{}", packed.report());
    for (name, content) in [
        ("context.tar", "archived"),
        ("packed", "archived"),
        ("packed.xz", "archived"),
        ("packed.zst", "archived"),
        ("bare", "bare"),
    ] {
        let is_there = served.path().join(name).metadata();
        if is_there.is_ok_and(|file| file.len() == 0) {
            println!("skipped: there is no program that packs {name}");
            continue;
        }
        let remote = format!("http://{address}/{name}");
        assert_eq!(built_from(&agent, &remote), content, "{name}");
    }
}

#[test]
fn contexts_come_from_repositories() {
    let Some(agent) = engine() else { return };
    let served = tempfile::tempdir().expect("a folder");
    if !add_repository(served.path()) {
        return;
    }
    let address = serve(served.path());
    for place in ["%23main:built", "%3Fref%3Dmain%26subdir%3Dbuilt"] {
        let remote = format!("http://{address}/r.git{place}");
        assert_eq!(built_from(&agent, &remote), "remote", "{place}");
    }
}

#[test]
fn a_base_is_found_by_its_digest() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    if !Registry::is_available_or_skip() {
        return;
    }
    let registry = Registry::start().expect("a registry");
    let name = format!("{}/base", registry.host());
    agent.run(&["tag", "busybox", &name]).success();
    agent.run(&["push", &name]).success();
    let format = ["inspect", "--format", "{{index .RepoDigests 0}}", &name];
    let exact = agent.run(&format).success().trim().to_owned();
    assert!(exact.starts_with(&format!("{name}@sha256:")), "{exact}");
    let build = |agent: &Agent, text: &str, tag: &str| {
        let folder = context(&[("Dockerfile", text)]);
        let place = folder.path().display().to_string();
        agent.run(&["build", "--network=none", "-t", tag, &place])
    };
    // Another image has the name by now.
    build(&agent, "FROM busybox\nRUN touch /newer\n", &name).success();
    agent.run(&["push", &name]).success();
    let empty = Agent::start(&[]).expect("the other one has started, too");
    let seen = |image: &str| {
        let script = "ls /newer 2> /dev/null; cat /made";
        let words = ["run", "--rm", "--network=none", image, "sh", "-c", script];
        empty.run(&words).success()
    };
    let tagged = exact.replace('@', ":latest@");
    for (base, expected) in [(&exact, "1\n"), (&tagged, "1\n"), (&name, "/newer\n1\n")] {
        let text = format!("FROM {base}\nRUN echo 1 > /made\n");
        build(&empty, &text, "made").success();
        assert_eq!(seen("made"), expected, "{base}");
    }
    let missing = format!("FROM {name}@sha256:{}\n", "0".repeat(64));
    let said = build(&empty, &missing, "made").fails_with(1);
    assert!(
        said.contains("not found") && said.contains("line 1"),
        "{said}"
    );
    // What is here is not asked for again.
    drop(registry);
    let text = format!("FROM {exact}\nRUN echo 2 > /made\n");
    build(&empty, &text, "made").success();
    assert_eq!(seen("made"), "2\n");
}

/// What the stock client sends as `X-Registry-Config`.
#[test]
fn a_private_base_image_is_fetched_with_the_clients_password() {
    let Some(agent) = engine() else { return };
    if !Registry::is_available_or_skip() {
        return;
    }
    let registry = Registry::start_with_password().expect("a registry");
    let name = format!("{}/team/base:1", registry.host());
    said(&agent, &["tag", "busybox", &name]);
    let login = |host: &str| {
        let words = ["login", "--username", USER, "--password-stdin", host];
        run_with_input(&mut docker(&agent, &words), PASSWORD.as_bytes(), LIMIT).success();
    };
    login(&registry.host());
    said(&agent, &["push", &name]);
    said(&agent, &["rmi", &name]);
    let text = format!("FROM {name}\nRUN echo made > /made\n");
    let built = build_text(&agent, "private", &text, &[]).success();
    assert!(built.contains("Pulling from team/base"), "{built}");
    assert_eq!(in_image(&agent, "private", "cat /made"), "made");
    // Files of an image are fetched so, too.
    said(&agent, &["rmi", &name]);
    let copied = format!("FROM busybox\nCOPY --from={name} /bin/busybox /copied\n");
    build_text(&agent, "copied", &copied, &[]).success();
    said(&agent, &["rmi", &name]);
    said(&agent, &["logout", &registry.host()]);
    let refused = build_text(&agent, "private", &text, &["--no-cache"]).fails_with(1);
    assert!(refused.contains("no basic auth credentials"), "{refused}");
    assert!(!agent.log().contains(PASSWORD));
}

/// How many steps of a build that went well were in the cache.
fn cached(output: &Output) -> usize {
    assert_eq!(output.code, Some(0), "{}", output.report());
    output.stderr.matches("CACHED").count()
}

#[test]
fn an_inline_cache_is_enough_for_an_empty_engine() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    if !Registry::is_available_or_skip() {
        return;
    }
    let registry = Registry::start().expect("a registry");
    let base = format!("{}/base:1", registry.host());
    agent.run(&["tag", "busybox", &base]).success();
    agent.run(&["push", &base]).success();
    let name = format!("{}/made:1", registry.host());
    let text = format!("FROM {base}\nRUN echo costly > /file\nCOPY side /side\nENV A=1\n");
    let folder = context(&[("Dockerfile", &text), ("side", "copied")]);
    let place = folder.path().display().to_string();
    let build = |agent: &Agent, flags: &[&str]| {
        let arguments = [
            &["build", "--network=none", "--progress=plain"],
            flags,
            &[&place],
        ];
        agent.run(&arguments.concat())
    };
    let flags = [
        "--cache-to",
        "type=inline",
        "-o",
        "type=registry",
        "-t",
        &name,
    ];
    build(&agent, &flags).success();
    let empty = Agent::start(&[]).expect("the other one has started, too");
    let flags = ["--cache-from", &name, "-t", "again"];
    assert_eq!(cached(&build(&empty, &flags)), 3);
    let id = |agent: &Agent, name: &str| {
        agent
            .run(&["inspect", "--format", "{{.Id}}", name])
            .success()
    };
    assert_eq!(id(&agent, &name), id(&empty, "again"));
    // What follows a change is done anew.
    std::fs::write(folder.path().join("side"), "changed").expect("a file");
    assert_eq!(cached(&build(&empty, &flags)), 1);
}

#[test]
fn names_that_nearly_fit_are_suggested() {
    let Some(agent) = engine() else { return };
    for (text, flags, expected) in [
        (
            "FROM busybox\nRUNN true\n",
            &[][..],
            "unknown instruction: RUNN (did you mean RUN?)",
        ),
        (
            "FROM busybox\nCOPY --chwon=1 a /\n",
            &[],
            "unknown flag: --chwon (did you mean chown?)",
        ),
        (
            "FROM busybox AS builder\n",
            &["--target", "bulider"],
            "failed to reach build target bulider in Dockerfile (did you mean builder?)",
        ),
    ] {
        let said = build_text(&agent, "near", text, flags).fails_with(1);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn two_stages_of_one_name_are_a_finding() {
    let Some(agent) = engine() else { return };
    let text = "FROM busybox AS a\nRUN echo 1 > /x\nFROM busybox AS a\nRUN echo 2 > /x\nFROM busybox\nCOPY --from=a /x /x\n";
    build_text(&agent, "twice", text, &[]).success();
    assert_eq!(in_image(&agent, "twice", "cat /x"), "2");
    let folder = context(&[("Dockerfile", text)]);
    let place = folder.path().display().to_string();
    let found = agent.run(&["build", "--check", &place]);
    let expected = "Duplicate stage name \"a\", stage names should be unique";
    assert!(found.stdout.contains(expected), "{}", found.report());
    let first = id(&agent, "twice");
    build(&agent, folder.path(), "twice", &[]).success();
    assert_eq!(id(&agent, "twice"), first);
}
