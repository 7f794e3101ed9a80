//! What `berth build` and the engine have beside Docker's classic builder: further contexts, several outputs, keys, caches in
//! registries, what is kept and what is removed, large contexts.

use crate::engine_with_busybox;
use harness::agent::{Agent, LIMIT};
use harness::image::LayerTar;
use harness::registry::Registry;
use harness::run::{Output, run, run_with_input};
use std::path::Path;
use std::process::Command;

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

fn build(agent: &Agent, folder: &Path, flags: &[&str]) -> Output {
    let mut arguments = vec!["build", "--network=none", "--progress=plain"];
    arguments.extend_from_slice(flags);
    arguments.push(text(folder));
    agent.run(&arguments)
}

fn in_image(agent: &Agent, image: &str, script: &str) -> String {
    let arguments = ["run", "--rm", "--network=none", image, "sh", "-c", script];
    agent.run(&arguments).success()
}

#[test]
fn further_contexts_are_files_and_images() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let other = context(&[
        ("lib/code", "shared\n"),
        ("lib/left-out.log", "x"),
        (".dockerignore", "**/*.log"),
    ]);
    let folder = context(&[(
        "Dockerfile",
        "FROM base\nRUN --mount=type=bind,from=lib,target=/m,rw echo changed > /m/lib/code\nCOPY --from=lib lib /lib/\nRUN --mount=type=bind,from=lib,target=/m cat /m/lib/code > /seen\n",
    )]);
    let lib = format!("lib={}", text(other.path()));
    let flags = [
        "-t",
        "contexts",
        "--build-context",
        &lib,
        "--build-context",
        "base=docker-image://busybox",
    ];
    build(&agent, folder.path(), &flags).success();
    assert_eq!(
        in_image(&agent, "contexts", "cat /lib/code /seen; ls /lib | wc -l"),
        "shared\nshared\n1\n"
    );
    // They stand in for stages and for images of any spelling; files may be what a stage begins with.
    let replaced = context(&[(
        "Dockerfile",
        "FROM nowhere.invalid/alpine AS lib\nRUN exit 9\nFROM lib AS next\nENV A=1\n\
         FROM docker.io/library/base:latest\nCOPY --from=lib lib/code /one\nCOPY --from=next /lib/code /two\n\
         COPY --from=0 /lib/code /three\n",
    )]);
    build(&agent, replaced.path(), &flags).success();
    assert_eq!(
        in_image(
            &agent,
            "contexts",
            "cat /one /two /three; ls / | grep -c lib; true"
        ),
        "shared\nshared\nshared\n0\n"
    );
    let stage = [
        "-t",
        "contexts",
        "--build-context",
        "lib=docker-image://busybox",
    ];
    let text = "FROM nowhere.invalid/x AS lib\nRUN exit 9\nFROM lib\nCOPY --from=lib /bin/busybox /copied\n";
    build(&agent, context(&[("Dockerfile", text)]).path(), &stage).success();
    assert_eq!(in_image(&agent, "contexts", "ls /copied"), "/copied\n");
    // Triggers of an image are done where it stands in for an image, and not where it does for a stage.
    let text = "FROM busybox\nONBUILD RUN touch /triggered\n";
    build(
        &agent,
        context(&[("Dockerfile", text)]).path(),
        &["-t", "armed"],
    )
    .success();
    let text = "FROM nowhere.invalid/x AS lib\nFROM lib\nRUN touch /own\n";
    let built_on = context(&[("Dockerfile", text)]);
    for (name, expected) in [("lib", "0\n"), ("nowhere.invalid/x", "1\n")] {
        let context = format!("{name}=docker-image://armed");
        let flags = ["-t", "contexts", "--build-context", &context];
        build(&agent, built_on.path(), &flags).success();
        let seen = in_image(&agent, "contexts", "ls / | grep -c triggered; true");
        assert_eq!(seen, expected, "{name}");
    }
    let flags = ["-t", "contexts", "--target", "lib"];
    let flags = [&flags[..], &["--build-context", "lib=docker-image://armed"]].concat();
    build(&agent, built_on.path(), &flags).success();
    let shown = agent.run(&[
        "inspect",
        "--format",
        "{{json .Config.OnBuild}}",
        "contexts",
    ]);
    assert_eq!(shown.success(), "null\n");
    let wrong = build(
        &agent,
        folder.path(),
        &["--build-context", "Not a name=docker-image://busybox"],
    );
    assert!(
        wrong
            .fails_with(1)
            .contains("invalid context name Not a name")
    );
    let missing = build(&agent, folder.path(), &["--build-context", "lib=/nowhere"]);
    assert!(missing.fails_with(1).contains("is not a folder"));
}

#[test]
fn one_build_has_several_outputs() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let folder = context(&[(
        "Dockerfile",
        "FROM busybox AS made\nRUN mkdir /out && echo result > /out/file\nFROM scratch\nCOPY --from=made /out /\n",
    )]);
    let place = tempfile::tempdir().expect("a folder");
    let (local, tar) = (place.path().join("local"), place.path().join("files.tar"));
    let archive = place.path().join("image.tar");
    let flags = [
        "-o".to_owned(),
        text(&local).to_owned(),
        "-o".to_owned(),
        format!("type=tar,dest={}", text(&tar)),
        "-o".to_owned(),
        format!("type=oci,dest={},name=nn/x:3", text(&archive)),
        "-t".to_owned(),
        "several".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    build(&agent, folder.path(), &flags).success();
    assert_eq!(
        std::fs::read_to_string(local.join("file")).expect("there"),
        "result\n"
    );
    let names = |tar: &Path| run(Command::new("tar").arg("tf").arg(tar), LIMIT).success();
    assert!(names(&tar).contains("file"));
    assert!(names(&archive).contains("index.json"));
    let manifest = run(
        Command::new("tar")
            .arg("xOf")
            .arg(&archive)
            .arg("manifest.json"),
        LIMIT,
    );
    let manifest = manifest.success();
    assert!(
        manifest.contains("\"nn/x:3\"") && manifest.contains("\"several:latest\""),
        "{manifest}"
    );
    assert!(agent.run(&["images", "-q", "several"]).success().len() > 5);
}

#[test]
fn an_image_that_was_built_here_is_carried_to_another_engine() {
    let (Some(one), Some(other)) = (engine_with_busybox(&[]), engine_with_busybox(&[])) else {
        return;
    };
    let folder = context(&[
        (
            "Dockerfile",
            "FROM busybox\nRUN rm /bin/wget; mkdir -p /a/b && echo x > /a/b/c && ln /a/b/c /a/d\nCOPY --chmod=750 file /a/b/\nWORKDIR /w\n",
        ),
        ("file", "content\n"),
    ]);
    build(&one, folder.path(), &["-t", "carried"]).success();
    let place = tempfile::tempdir().expect("a folder");
    let archive = place.path().join("image.tar");
    one.run(&["save", "-o", text(&archive), "carried"])
        .success();
    other.run(&["load", "-i", text(&archive)]).success();
    let id = |agent: &Agent| {
        let format = ["inspect", "--format", "{{.Id}}", "carried"];
        agent.run(&format).success()
    };
    assert_eq!(id(&one), id(&other));
    let script =
        "cat /a/b/c /a/d /a/b/file; stat -c '%a %h' /a/b/file /a/d; ls /bin/wget 2>&1; pwd";
    let seen = in_image(&one, "carried", script);
    assert_eq!(seen, in_image(&other, "carried", script));
    assert!(seen.starts_with("x\nx\ncontent\n750 1\n"), "{seen}");
}

/// A tar comes whole: its `.dockerignore` holds in the engine, for mounts as for copies.
#[test]
fn no_step_sees_what_a_context_that_comes_whole_leaves_out() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let text = "FROM busybox\nRUN --mount=type=bind,target=/m ls /m > /seen\n\
        RUN --mount=type=bind,target=/m,rw ls /m >> /seen\nCOPY . /copied/\n";
    for (number, secret) in ["one", "two"].iter().enumerate() {
        let mut tar = LayerTar::new();
        tar.file("Dockerfile", 0o644, text.as_bytes());
        tar.file(".dockerignore", 0o644, b"secret*\nDockerfile\n");
        tar.file("kept", 0o644, b"");
        tar.file("secret", 0o644, secret.as_bytes());
        let arguments = [
            "build",
            "--progress=plain",
            "--network=none",
            "-t",
            "whole",
            "-",
        ];
        let output = run_with_input(&mut agent.berth(&arguments), &tar.finish(), LIMIT);
        assert_eq!(output.code, Some(0), "{}", output.report());
        // Nor do they depend on it.
        let cached = output.stderr.matches("CACHED").count();
        assert_eq!(cached, number * 3, "{}", output.report());
    }
    assert_eq!(
        in_image(&agent, "whole", "cat /seen; ls /copied"),
        "kept\nkept\nkept\n"
    );
}

#[test]
fn caches_and_bases_come_from_a_registry() {
    let (Some(one), Some(other)) = (engine_with_busybox(&[]), engine_with_busybox(&[])) else {
        return;
    };
    if !Registry::is_available_or_skip() {
        return;
    }
    let registry = Registry::start().expect("a registry");
    let base = format!("{}/base:1", registry.host());
    let first = context(&[("Dockerfile", "FROM busybox\nRUN echo 1 > /base\n")]);
    build(&one, first.path(), &["-t", &base]).success();
    one.run(&["push", &base]).success();
    // The base is fetched by the build itself.
    let text = format!("FROM {base}\nRUN echo costly > /file\n");
    let folder = context(&[("Dockerfile", &text)]);
    let cache = format!("type=registry,ref={}/cache:1", registry.host());
    build(&one, folder.path(), &["-t", "mine", "--cache-to", &cache]).success();
    let output = build(
        &other,
        folder.path(),
        &["-t", "mine", "--cache-from", &cache],
    );
    assert!(output.stderr.contains("CACHED"), "{}", output.report());
    output.success();
    assert_eq!(in_image(&other, "mine", "cat /base /file"), "1\ncostly\n");
    // Another base of the same name counts when it is asked for, and not before.
    let second = context(&[("Dockerfile", "FROM busybox\nRUN echo 2 > /base\n")]);
    build(&one, second.path(), &["-t", &base]).success();
    one.run(&["push", &base]).success();
    build(&other, folder.path(), &["-t", "mine"]).success();
    assert_eq!(in_image(&other, "mine", "cat /base"), "1\n");
    build(&other, folder.path(), &["-t", "mine", "--pull"]).success();
    assert_eq!(in_image(&other, "mine", "cat /base"), "2\n");
}

#[test]
fn cache_mounts_are_locked_and_private() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    // Each says in the cache `meet` that it is there, and waits for the other one.
    // Then it locks two, one of them twice, in an order of its own.
    let stage = |own: &str, other: &str, first: &str, second: &str| {
        format!(
            "FROM busybox AS {own}\n\
             RUN --mount=type=cache,target=/meet --mount=type=cache,id=own,sharing=private,target=/own \
             touch /own/{own} /meet/{own}; \
             for i in $(seq 300); do [ -e /meet/{other} ] && break; sleep 0.1; done; ls /own > /private\n\
             RUN --mount=type=cache,id=one,sharing=locked,target=/one \
             [ ! -e /one/busy ] && touch /one/busy && sleep 0.3 && rm /one/busy && echo {own} >> /one/done\n\
             RUN --mount=type=cache,id={first},sharing=locked,target=/1 --mount=type=cache,id={second},sharing=locked,target=/2 \
             --mount=type=cache,id={first},sharing=locked,target=/3 touch /1/{own} && [ -e /3/{own} ]\n"
        )
    };
    let text = format!(
        "{}{}FROM busybox\nCOPY --from=a /private /a\nCOPY --from=b /private /b\n\
         RUN --mount=type=cache,id=one,sharing=locked,target=/one wc -l < /one/done > /done\n",
        stage("a", "b", "l1", "l2"),
        stage("b", "a", "l2", "l1")
    );
    let folder = context(&[("Dockerfile", &text)]);
    build(&agent, folder.path(), &["-t", "caches"]).success();
    assert_eq!(in_image(&agent, "caches", "cat /a /b /done"), "a\nb\n2\n");
}

#[test]
fn keys_are_lent_to_their_step() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let place = tempfile::tempdir().expect("a folder");
    let key = place.path().join("key");
    let mut keygen = Command::new("ssh-keygen");
    keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key);
    if harness::programs::find("ssh-keygen").is_none() {
        println!("skipped: there is no ssh-keygen here");
        return;
    }
    run(&mut keygen, LIMIT).success();
    let folder = context(&[(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=ssh,required [ -S \"$SSH_AUTH_SOCK\" ] && stat -c '%u %g %a' \"$SSH_AUTH_SOCK\" > /seen\n\
         RUN [ -z \"$SSH_AUTH_SOCK\" ] && [ ! -e /run/buildkit ]\n\
         RUN touch /other && chown 1234:567 /other\n\
         USER 1234:567\n\
         RUN --mount=type=ssh [ ! -w \"$SSH_AUTH_SOCK\" ]\n\
         RUN --mount=type=ssh,uid=1234,gid=567,mode=0660 [ -w \"$SSH_AUTH_SOCK\" ] && stat -c '%u %g %a' \"$SSH_AUTH_SOCK\" > /other\n",
    )]);
    let flag = format!("--ssh=default={}", text(&key));
    build(&agent, folder.path(), &["-t", "keys", &flag]).success();
    let seen = in_image(&agent, "keys", "cat /seen /other");
    assert_eq!(seen, "0 0 600\n1234 567 660\n");
    let without = build(&agent, folder.path(), &["--no-cache"]).fails_with(1);
    assert!(
        without.contains("ssh agent default: not found"),
        "{without}"
    );
}

#[test]
fn what_is_kept_of_contexts_is_shown_and_pruned() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let large = "x".repeat(400 * 1024);
    let folder = context(&[
        ("Dockerfile", "FROM busybox\nCOPY large /large\n"),
        ("large", &large),
    ]);
    build(&agent, folder.path(), &["-t", "kept"]).success();
    let usage = || agent.run(&["builder", "prune", "-f", "--filter", "type=source.local"]);
    let pruned = usage().success();
    assert!(pruned.contains("contexts"), "{pruned}");
    let again = usage().success();
    assert!(!again.contains("contexts"), "{again}");
    // It is sent again, and nothing of the image is lost.
    build(&agent, folder.path(), &["-t", "kept", "--no-cache"]).success();
    let size = in_image(&agent, "kept", "wc -c < /large");
    assert_eq!(size.trim(), large.len().to_string());
}

#[test]
fn proxies_of_the_configuration_reach_steps_and_stay_out_of_the_image() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let config = context(&[(
        "config.json",
        r#"{"proxies": {"default": {"httpProxy": "http://proxy.invalid:1"}}}"#,
    )]);
    let folder = context(&[(
        "Dockerfile",
        "FROM busybox\nRUN echo $http_proxy | sha256sum > /seen; echo saw $HTTP_PROXY\n",
    )]);
    let place = text(folder.path());
    let arguments = [
        "build",
        "--network=none",
        "--progress=plain",
        "-t",
        "proxied",
        place,
    ];
    let mut command = agent.berth(&arguments);
    let output = run(command.env("DOCKER_CONFIG", config.path()), LIMIT);
    assert!(
        output.stderr.contains("saw http://proxy.invalid:1"),
        "{}",
        output.report()
    );
    output.success();
    let history = agent.run(&["history", "--no-trunc", "proxied"]).success();
    assert!(!history.contains("proxy.invalid"), "{history}");
    // Another proxy is no reason to do it again.
    let other = ["--build-arg", "http_proxy=http://other.invalid:2"];
    let again = build(&agent, folder.path(), &other);
    assert!(again.stderr.contains("CACHED"), "{}", again.report());
}

#[test]
fn errors_name_line_and_column_and_show_the_line() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let at = |dockerfile: &str| {
        let folder = context(&[("Dockerfile", dockerfile)]);
        build(&agent, folder.path(), &[]).fails_with(1)
    };
    let unknown = at("FROM busybox\nRUN --speed=9 true\n");
    assert!(
        unknown.contains("line 2: unknown flag: --speed")
            && unknown.contains("   2 | RUN --speed=9 true\n     |     ^ column 5"),
        "{unknown}"
    );
    let word = at("FROM busybox\n  ENV A=1 B=${A\n");
    assert!(
        word.contains("line 2, column") && word.contains("missing '}'"),
        "{word}"
    );
    let failed = at("FROM busybox\nRUN exit 3\n");
    assert!(failed.contains("line 2, column 1: RUN exit 3"), "{failed}");
}

#[test]
fn a_context_of_a_hundred_thousand_files_is_built() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let mut tar = LayerTar::new();
    tar.file("Dockerfile", 0o644, b"FROM busybox\nCOPY files /files\n");
    for number in 0..100_000 {
        tar.file(&format!("files/{}/{number}", number % 100), 0o644, b"");
    }
    let arguments = ["build", "-q", "-t", "many", "-"];
    run_with_input(&mut agent.berth(&arguments), &tar.finish(), LIMIT).success();
    let count = in_image(&agent, "many", "find /files -type f | wc -l");
    assert_eq!(count.trim(), "100000");
    let contexts = agent.data_root().join("builds/contexts");
    let left = std::fs::read_dir(contexts).expect("it is there").count();
    assert_eq!(left, 0);
}
