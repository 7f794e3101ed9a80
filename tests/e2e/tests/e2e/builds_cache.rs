//! What a build leaves behind: the cache and its limits, what is not sent twice, what is there after `kill -9`.

use crate::builds_engine::{
    LONG, begin, build, build_text, containers, context, engine, in_image, said,
};
use crate::engine_with_busybox;
use harness::agent::{Agent, LIMIT};
use harness::http::request;
use harness::run::{eventually, run};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A socket before the engine's that counts the bytes clients send.
struct Counter {
    folder: tempfile::TempDir,
    sent: Arc<AtomicU64>,
}

impl Counter {
    fn before(agent: &Agent) -> Counter {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("socket")).expect("a socket");
        let (engine, sent) = (agent.socket(), Arc::new(AtomicU64::new(0)));
        let counted = sent.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(engine) = UnixStream::connect(&engine) else {
                    continue;
                };
                let (Ok(client_too), Ok(engine_too)) = (client.try_clone(), engine.try_clone())
                else {
                    continue;
                };
                let counted = counted.clone();
                std::thread::spawn(move || pass_on(client, engine, &counted));
                std::thread::spawn(move || pass_on(engine_too, client_too, &AtomicU64::new(0)));
            }
        });
        Counter { folder, sent }
    }

    /// Builds a folder through it; answers the bytes that were sent for it.
    fn build(&self, agent: &Agent, folder: &Path, tag: &str) -> u64 {
        let before = self.sent.load(Ordering::SeqCst);
        let place = folder.display().to_string();
        let mut berth = agent.berth(&["build", "--network=none", "-t", tag, &place]);
        let host = format!("unix://{}", self.folder.path().join("socket").display());
        run(berth.env("DOCKER_HOST", host), LIMIT).success();
        self.sent.load(Ordering::SeqCst) - before
    }
}

fn pass_on(mut from: UnixStream, mut to: UnixStream, counted: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        counted.fetch_add(count as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

#[test]
fn only_what_is_needed_and_has_changed_goes_over_the_wire() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    const NEEDED: u64 = 500_000;
    let large = "needed ".repeat(NEEDED as usize / 7 + 1);
    let unused = "x".repeat(3_000_000);
    let folder = context(&[
        ("Dockerfile", "FROM busybox\nCOPY data /data\n"),
        ("data/large", &large),
        ("data/small", "one"),
        ("unused/file", &unused),
    ]);
    // Things that cannot be read and are not needed do no harm.
    std::os::unix::fs::symlink("/nowhere", folder.path().join("unused/link")).expect("made");
    let counter = Counter::before(&agent);
    let first = counter.build(&agent, folder.path(), "first");
    assert!(
        (NEEDED..NEEDED + 100_000).contains(&first),
        "{first} bytes for {NEEDED}"
    );
    std::fs::write(folder.path().join("data/small"), "another").expect("written");
    let second = counter.build(&agent, folder.path(), "second");
    assert!(second < 100_000, "{second} bytes for 7");
    let seen = in_image_of(&agent, "second", "wc -c < /data/large; cat /data/small");
    assert_eq!(seen, format!("{}\nanother", large.len()));
    // A file of the same content under another name is not sent either.
    std::fs::rename(
        folder.path().join("data/large"),
        folder.path().join("data/renamed"),
    )
    .expect("renamed");
    let third = counter.build(&agent, folder.path(), "third");
    assert!(third < 100_000, "{third} bytes for nothing new");
    let seen = in_image_of(&agent, "third", "ls /data; wc -c < /data/renamed");
    assert_eq!(seen, format!("renamed\nsmall\n{}", large.len()));
}

/// By our own client: there may be no other.
fn in_image_of(agent: &Agent, image: &str, script: &str) -> String {
    let arguments = ["run", "--rm", "--network=none", image, "sh", "-c", script];
    agent.run(&arguments).success().trim_end().to_owned()
}

/// Asks `/build/prune` and answers how many entries went.
fn prune(agent: &Agent, query: &str) -> usize {
    let path = format!("/build/prune?{query}");
    let reply = request(&agent.socket(), "POST", &path, b"").expect("an answer");
    assert_eq!(reply.status, 200, "{}", reply.body);
    let start = reply.body.find('{').expect("JSON");
    let end = reply.body.rfind('}').expect("JSON");
    let answer: serde_json::Value = serde_json::from_str(&reply.body[start..=end]).expect("JSON");
    answer["CachesDeleted"].as_array().map_or(0, Vec::len)
}

fn filters(text: &str) -> String {
    format!("filters={}", text.replace('"', "%22").replace(' ', "%20"))
}

/// A layer of its own size for each of the files.
fn layers_of(agent: &Agent, tag: &str, files: &[&str]) {
    let mut text = "FROM busybox\n".to_owned();
    for file in files {
        text.push_str(&format!("RUN head -c 100000 /dev/urandom > /{file}\n"));
    }
    build_text(agent, tag, &text, &[]).success();
}

/// The cache's entries as `docker system df -v` shows them, a line each.
fn entries(agent: &Agent, line: &str) -> String {
    let format = format!("{{{{range .BuildCache}}}}{line}\n{{{{end}}}}");
    said(agent, &["system", "df", "-v", "--format", &format])
}

#[test]
fn prunes_take_what_their_filters_say() {
    let Some(agent) = engine() else { return };
    layers_of(&agent, "kept", &["a", "b"]);
    layers_of(&agent, "gone", &["c", "d", "e"]);
    said(&agent, &["rmi", "gone"]);
    let listed = entries(&agent, "{{.ID}} {{.Shared}}");
    // Ids are shortened there.
    let ids: Vec<(&str, &str)> = listed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    assert_eq!(ids.len(), 5, "{listed}");
    let shared = ids.iter().filter(|(_, shared)| *shared == "true").count();
    assert_eq!(shared, 2, "{listed}");
    // None of these fits.
    for none in [
        r#"{"until":["2001-01-01T00:00:00Z"]}"#,
        r#"{"unused-for":["100h"]}"#,
        r#"{"inuse":["true"]}"#,
        r#"{"shared":["true"]}"#,
        r#"{"id":["0000000000000000"]}"#,
        r#"{"type":["exec.cachemount"]}"#,
    ] {
        assert_eq!(prune(&agent, &filters(none)), 0, "{none}");
    }
    let own: Vec<&str> = ids
        .iter()
        .filter(|(_, shared)| *shared == "false")
        .map(|(id, _)| *id)
        .collect();
    let by_id = format!(r#"{{"id":["{}"]}}"#, own[0]);
    assert_eq!(prune(&agent, &filters(&by_id)), 1);
    // Two of 100 kB are left that no image has: one may stay.
    assert_eq!(prune(&agent, "keep-storage=150000"), 1);
    assert_eq!(prune(&agent, "keep-storage=150000"), 0);
    assert_eq!(
        prune(
            &agent,
            &filters(r#"{"unused-for":["0s"],"shared":["false"]}"#)
        ),
        1
    );
    // What an image has goes with `all` only.
    assert_eq!(prune(&agent, ""), 0);
    assert_eq!(
        prune(
            &agent,
            &format!("all=1&{}", filters(r#"{"shared":["true"]}"#))
        ),
        2
    );
    assert_eq!(in_image(&agent, "kept", "wc -c < /b"), "100000");
}

#[test]
fn what_a_build_uses_is_not_pruned() {
    let Some(agent) = engine() else { return };
    let folder = context(&[("Dockerfile", LONG)]);
    let mut client = begin(&agent, folder.path());
    let runs =
        || said(&agent, &["ps", "--format", "{{.Command}}", "--no-trunc"]).contains("sleep 1000");
    eventually("the long step runs", LIMIT, || runs().then_some(()));
    prune(&agent, "all=1");
    client.kill().expect("it runs");
    let _ = client.wait();
    eventually("the step's container goes", LIMIT, || {
        containers(&agent).is_empty().then_some(())
    });
    let text = "FROM busybox\nRUN echo first > /first\n";
    let again = build_text(&agent, "again", text, &[]).success();
    assert!(again.contains("Using cache"), "{again}");
}

#[test]
fn a_running_engine_trims_its_cache() {
    let Some(agent) = engine_with_busybox(&["--build-cache-size", "250k"]) else {
        return;
    };
    if agent.docker(&[]).is_none() {
        return;
    }
    layers_of(&agent, "first", &["a", "b"]);
    said(&agent, &["rmi", "first"]);
    let held = || {
        let listed = entries(&agent, "{{.ID}}");
        listed.lines().filter(|line| !line.is_empty()).count()
    };
    assert_eq!(held(), 2);
    // With the third and fourth layer the first ones are too many: nobody else has them.
    layers_of(&agent, "second", &["c", "d"]);
    said(&agent, &["rmi", "second"]);
    layers_of(&agent, "third", &["e"]);
    assert!(held() <= 3, "{}", held());
    let layers = || folders(&agent.data_root().join("layers"), |name| name.len() == 64).len();
    // Those of busybox, and three of ours: what is below a layer that is kept stays, too.
    eventually("the layers' folders go, too", LIMIT, || {
        (layers() <= 2 + 3).then_some(())
    });
    assert_eq!(in_image(&agent, "third", "wc -c < /e"), "100000");
}

#[test]
fn cache_mounts_are_trimmed_after_builds_and_at_the_start() {
    let settings = tempfile::NamedTempFile::new().expect("a file");
    let set = |size: &str| {
        let text = format!(r#"{{"builder": {{"gc": {{"defaultKeepStorage": "{size}"}}}}}}"#);
        std::fs::write(settings.path(), text).expect("written");
    };
    set("250k");
    let path = settings.path().display().to_string();
    let Some(mut agent) = engine_with_busybox(&["--config-file", &path]) else {
        return;
    };
    let fill = |agent: &Agent, id: &str, bytes: u64| {
        let text = format!(
            "FROM busybox\nRUN --mount=type=cache,id={id},target=/c head -c {bytes} /dev/zero > /c/file\n"
        );
        cached_steps(agent, context(&[("Dockerfile", &text)]).path(), &[]);
    };
    let mounts = |agent: &Agent| {
        let caches = agent.data_root().join("builds/caches");
        folders(&caches, |name| !name.starts_with("tmp-")).len()
    };
    fill(&agent, "first", 100_000);
    fill(&agent, "second", 100_000);
    assert_eq!(mounts(&agent), 2);
    fill(&agent, "third", 100_000);
    eventually("one goes", LIMIT, || (mounts(&agent) == 2).then_some(()));
    agent.kill_serve();
    set("150k");
    agent.serve();
    eventually("one more goes", LIMIT, || {
        (mounts(&agent) == 1).then_some(())
    });
}

/// Builds a folder by our own client; answers how many steps were in the cache.
fn cached_steps(agent: &Agent, folder: &Path, flags: &[&str]) -> usize {
    let place = folder.display().to_string();
    let arguments = [
        &["build", "--network=none", "--progress=plain"],
        flags,
        &[&place],
    ];
    let output = agent.run(&arguments.concat());
    assert_eq!(output.code, Some(0), "{}", output.report());
    output.stderr.matches("CACHED").count()
}

#[test]
fn an_image_is_the_cache_of_the_same_steps_only() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    // Of a registry that is not there: the engine's own image counts.
    const NAME: &str = "127.0.0.1:1/made:1";
    const BIND: &str = "FROM busybox\nRUN --mount=type=bind,target=/m cat /m/side > /seen\n";
    let script =
        |word: &str| format!("FROM busybox\nRUN <<END\n#!/bin/sh\necho {word} > /seen\nEND\n");
    let mode = |mode: &str| format!("FROM busybox\nCOPY --chmod={mode} side /seen\n");
    let see = "stat -c %a /seen; cat /seen";
    for (text, side, expected) in [
        (BIND, "one\n", "644\none"),
        (BIND, "two\n", "644\ntwo"),
        (&script("one"), "", "644\none"),
        (&script("two"), "", "644\ntwo"),
        (&mode("600"), "copied\n", "600\ncopied"),
        (&mode("640"), "copied\n", "640\ncopied"),
    ] {
        let folder = context(&[("Dockerfile", text), ("side", side)]);
        // What has the name is the image of the case before.
        let flags = ["-t", NAME, "--cache-from", NAME];
        assert_eq!(cached_steps(&agent, folder.path(), &flags), 0, "{text}");
        assert_eq!(in_image_of(&agent, NAME, see), expected, "{text}");
    }
    // Another engine has nothing but the image.
    let other = engine_with_busybox(&[]).expect("the other one has started, too");
    let folder = context(&[
        (
            "Dockerfile",
            &format!("{BIND}COPY --chmod=640 side /copied\nENV A=1\n"),
        ),
        ("side", "one\n"),
    ]);
    cached_steps(&agent, folder.path(), &["-t", NAME]);
    let archive = folder.path().join("carried.tar").display().to_string();
    agent.run(&["save", "-o", &archive, NAME]).success();
    other.run(&["load", "-i", &archive]).success();
    std::fs::remove_file(&archive).expect("it was there");
    let flags = ["-t", "again", "--cache-from", NAME];
    let without = [&flags[..], &["--no-cache"]].concat();
    assert_eq!(cached_steps(&other, folder.path(), &without), 0);
    other.run(&["builder", "prune", "-af"]).success();
    assert_eq!(cached_steps(&other, folder.path(), &flags), 3);
    let id = |name: &str| {
        other
            .run(&["inspect", "--format", "{{.Id}}", name])
            .success()
    };
    assert_eq!(id("again"), id(NAME));
}

fn folders(place: &Path, wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let entries = std::fs::read_dir(place).expect("it is there").flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| wanted(name))
        .collect()
}

/// What must not be more after a kill than before a build.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    contexts: usize,
    drafts: BTreeSet<String>,
    mounts: usize,
    shims: usize,
}

impl Left {
    fn of(agent: &Agent) -> Left {
        let own = agent.folder().display().to_string();
        let data = agent.data_root().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("there are mounts");
        let processes = std::fs::read_dir("/proc")
            .expect("there are processes")
            .flatten();
        let commands =
            processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        let shims = commands.filter(|command| {
            let text = String::from_utf8_lossy(command);
            text.contains("shim") && text.contains(&own)
        });
        Left {
            contexts: folders(&agent.data_root().join("builds/contexts"), |_| true).len(),
            drafts: folders(&agent.data_root().join("layers"), |name| name.len() != 64),
            mounts: mounts.lines().filter(|line| line.contains(&data)).count(),
            shims: shims.count(),
        }
    }
}

#[test]
fn a_killed_engine_leaves_nothing_of_a_build() {
    let Some(mut agent) = engine() else { return };
    let folder = context(&[("Dockerfile", LONG)]);
    build_text(
        &agent,
        "before",
        "FROM busybox\nRUN echo kept > /kept\n",
        &[],
    )
    .success();
    let unused = Left::of(&agent);
    let mut client = begin(&agent, folder.path());
    eventually("the long step runs", LIMIT, || {
        said(&agent, &["ps", "--format", "{{.Command}}", "--no-trunc"])
            .contains("sleep 1000")
            .then_some(())
    });
    agent.kill_serve();
    let _ = client.wait();
    agent.serve();
    eventually("the step's container goes", LIMIT, || {
        containers(&agent).is_empty().then_some(())
    });
    eventually("nothing of it is left", LIMIT, || {
        (Left::of(&agent) == unused).then_some(())
    });
    let before = build_text(
        &agent,
        "before",
        "FROM busybox\nRUN echo kept > /kept\n",
        &[],
    )
    .success();
    assert!(before.contains("Using cache"), "{before}");
    let after = build_text(
        &agent,
        "after",
        "FROM busybox\nRUN echo first > /first\n",
        &[],
    )
    .success();
    assert!(after.contains("Running in"), "{after}");
    assert_eq!(in_image(&agent, "after", "cat /first"), "first");
    // Layers that nobody has are gone: the two of busybox, those of `before` and `after` are there.
    let layers = std::fs::read_dir(agent.data_root().join("layers")).expect("it is there");
    let layers = layers
        .flatten()
        .filter(|entry| entry.file_name().len() == 64)
        .count();
    assert_eq!(layers, 4);
}

#[test]
fn an_engine_that_is_killed_in_a_copy_leaves_only_what_is_whole() {
    let Some(mut agent) = engine() else { return };
    const FILES: usize = 1_500;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("files")).expect("a folder");
    for number in 0..FILES {
        let path = folder.path().join(format!("files/{number}"));
        std::fs::write(path, format!("content of {number}")).expect("a file");
    }
    // The first cannot move the files, as the second needs them, too.
    let text = "FROM busybox\nCOPY files /one\nCOPY files /two\n";
    std::fs::write(folder.path().join("Dockerfile"), text).expect("a file");
    let unused = Left::of(&agent);
    // While the context comes, and while the first layer is made.
    for in_copy in [false, true] {
        let mut client = begin(&agent, folder.path());
        eventually("it is on its way", LIMIT, || {
            let now = Left::of(&agent);
            let is_there = match in_copy {
                true => now.drafts != unused.drafts,
                false => now.contexts > 0,
            };
            // It may be over already: that is no harm.
            (is_there || matches!(client.try_wait(), Ok(Some(_)))).then_some(())
        });
        agent.kill_serve();
        let _ = client.wait();
        agent.serve();
        eventually("nothing of it is left", LIMIT, || {
            (Left::of(&agent) == unused).then_some(())
        });
    }
    build(&agent, folder.path(), "whole", &[]).success();
    let script = "for d in one two; do ls /$d | wc -l; cat /$d/* | wc -c; done";
    let size: usize = (0..FILES)
        .map(|number| format!("content of {number}").len())
        .sum();
    let expected = format!("{FILES}\n{size}\n{FILES}\n{size}");
    assert_eq!(in_image(&agent, "whole", script), expected);
    let again = build(&agent, folder.path(), "whole", &[]).success();
    assert_eq!(again.matches("Using cache").count(), 2, "{again}");
}
