//! What the engine does with builds: cache, stages at once, mounts, cancelled and killed builds, hostile contexts. The
//! client is the stock one; what it has no words for is in the Dockerfile.

use crate::engine_with_busybox;
use harness::agent::{Agent, LIMIT};
use harness::http::request;
use harness::image::LayerTar;
use harness::run::{Output, eventually, run, run_with_input};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The engine, where there is a stock client, too.
pub(crate) fn engine() -> Option<Agent> {
    let agent = engine_with_busybox(&[])?;
    agent.docker(&[])?;
    Some(agent)
}

pub(crate) fn docker(agent: &Agent, arguments: &[&str]) -> Command {
    let mut command = agent.docker(arguments).expect("it was there");
    command.env("DOCKER_BUILDKIT", "0");
    command
}

pub(crate) fn said(agent: &Agent, arguments: &[&str]) -> String {
    let output = run(&mut docker(agent, arguments), LIMIT).success();
    output.trim_end().to_owned()
}

/// A folder with files for a build; `Dockerfile` is one of them.
pub(crate) fn context(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, content) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    }
    folder
}

pub(crate) fn build(agent: &Agent, folder: &Path, tag: &str, flags: &[&str]) -> Output {
    let place = folder.display().to_string();
    let mut arguments = vec!["build", "--network", "none", "-t", tag];
    arguments.extend(flags);
    arguments.push(&place);
    run(&mut docker(agent, &arguments), LIMIT)
}

/// Builds a Dockerfile without a context's files.
pub(crate) fn build_text(agent: &Agent, tag: &str, text: &str, flags: &[&str]) -> Output {
    build(agent, context(&[("Dockerfile", text)]).path(), tag, flags)
}

pub(crate) fn id(agent: &Agent, image: &str) -> String {
    said(agent, &["image", "inspect", "--format", "{{.Id}}", image])
}

pub(crate) fn in_image(agent: &Agent, image: &str, script: &str) -> String {
    let arguments = [
        "run",
        "--rm",
        "--network",
        "none",
        image,
        "sh",
        "-c",
        script,
    ];
    said(agent, &arguments)
}

pub(crate) fn containers(agent: &Agent) -> String {
    said(agent, &["ps", "-aq"])
}

#[test]
fn a_build_is_done_once_and_found_again() {
    let Some(agent) = engine() else { return };
    let folder = context(&[
        (
            "Dockerfile",
            "FROM busybox\nENV A=1\nRUN echo ran > /made\nCOPY file /file\nCMD [\"cat\", \"/file\"]\n",
        ),
        ("file", "one"),
    ]);
    let first = build(&agent, folder.path(), "cached", &[]).success();
    assert!(
        first.contains("Step 3/5 : RUN echo ran > /made") && first.contains("Running in"),
        "{first}"
    );
    assert_eq!(in_image(&agent, "cached", "cat /made /file"), "ran\none");
    let record = agent.data_root().join("images.json");
    let written = || {
        std::fs::metadata(&record)
            .expect("it is there")
            .modified()
            .expect("a time")
    };
    let (before, image) = (written(), id(&agent, "cached"));
    let again = build(&agent, folder.path(), "cached", &[]).success();
    assert_eq!(again.matches("Using cache").count(), 4, "{again}");
    assert_eq!(
        id(&agent, "cached"),
        image,
        "the same steps are the same image"
    );
    assert_eq!(written(), before, "nothing is written");
    // Another file: what is above it in the Dockerfile stays.
    std::fs::write(folder.path().join("file"), "two").expect("a file");
    let changed = build(&agent, folder.path(), "cached", &[]).success();
    assert_eq!(changed.matches("Using cache").count(), 2, "{changed}");
    assert_eq!(in_image(&agent, "cached", "cat /file"), "two");
    // A restarted engine still knows.
    let usage = said(
        &agent,
        &["system", "df", "--format", "{{.Type}} {{.TotalCount}}"],
    );
    assert!(usage.contains("Build Cache"), "{usage}");
    let again = build(&agent, folder.path(), "cached", &["--no-cache"]).success();
    assert_eq!(again.matches("Using cache").count(), 0, "{again}");
    assert_ne!(id(&agent, "cached"), image);
    said(&agent, &["rmi", "-f", "cached"]);
    said(&agent, &["builder", "prune", "-af"]);
    let after = build(&agent, folder.path(), "cached", &[]).success();
    assert_eq!(after.matches("Using cache").count(), 0, "{after}");
    assert_eq!(containers(&agent), "");
}

#[test]
fn stages_run_at_once_and_unused_ones_not_at_all() {
    let Some(agent) = engine() else { return };
    // Of four stages as many run at once as the engine allows, and no more: each waits until so many have begun, and counts
    // those that have not ended.
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let most = allowed.min(4);
    let stage = |name: &str| {
        format!(
            "FROM busybox AS {name}\n\
             RUN --mount=type=cache,target=/meet mkdir -p /meet/now && touch /meet/now/{name} /meet/begun-{name}; \
             ls /meet/now | wc -l >> /meet/seen; \
             for i in $(seq 600); do [ $(ls /meet/begun-* | wc -l) -ge {most} ] && break; sleep 0.1; done; \
             ls /meet/now | wc -l >> /meet/seen; rm /meet/now/{name}; \
             [ $i != 600 ] && echo {name} > /{name}\n"
        )
    };
    let text = format!(
        "{}{}{}{}FROM busybox AS unused\nRUN exit 9\nFROM busybox\n\
         COPY --from=a /a /\nCOPY --from=b /b /\nCOPY --from=c /c /\nCOPY --from=d /d /\n\
         RUN --mount=type=cache,target=/meet sort -n /meet/seen | tail -n 1 > /most\n",
        stage("a"),
        stage("b"),
        stage("c"),
        stage("d"),
    );
    let output = build_text(&agent, "stages", &text, &[]).success();
    assert!(!output.contains("exit 9"), "{output}");
    assert_eq!(
        in_image(
            &agent,
            "stages",
            "cat /a /b /c /d /most; ls -d /meet 2>&1 || true"
        ),
        format!("a\nb\nc\nd\n{most}\nls: /meet: No such file or directory")
    );
}

#[test]
fn mounts_are_there_for_their_step_only() {
    let Some(agent) = engine() else { return };
    let folder = context(&[
        (
            "Dockerfile",
            "FROM busybox AS made\nRUN echo made > /made && mkdir /deep && echo deep > /deep/file\n\
             FROM busybox\n\
             RUN --mount=type=bind,from=made,source=/deep,target=/b cat /b/file > /out && ! touch /b/x\n\
             RUN --mount=type=bind,target=/ctx cat /ctx/own >> /out\n\
             RUN --mount=type=bind,target=/ctx,rw touch /ctx/new && ls /ctx >> /out\n\
             RUN --mount=type=tmpfs,target=/t echo x > /t/x && mount | grep -q ' /t type tmpfs'\n\
             RUN --mount=type=cache,target=/c,id=k echo line >> /c/lines; cat /c/lines >> /out\n\
             RUN --mount=type=cache,target=/c,id=k,sharing=locked echo line >> /c/lines; cat /c/lines >> /out\n\
             RUN <<EOF\necho document >> /out\nEOF\n\
             RUN <<EOF\n#!/bin/sh\necho script $0 >> /out\nEOF\n\
             COPY <<one <<two /docs/\nfirst\none\nsecond\ntwo\n",
        ),
        ("own", "own\n"),
    ]);
    build(&agent, folder.path(), "mounts", &[]).success();
    let out = in_image(
        &agent,
        "mounts",
        "cat /out; cat /docs/one /docs/two; ls -d /b /ctx /t /c 2>/dev/null; true",
    );
    assert_eq!(
        out,
        "deep\nown\nDockerfile\nnew\nown\nline\nline\nline\ndocument\nscript /dev/pipes/EOF\nfirst\nsecond"
    );
    assert!(!folder.path().join("new").exists());
    for (line, expected) in [
        (
            "RUN --security=insecure true",
            "security.insecure is not allowed",
        ),
        (
            "RUN --mount=type=magic,target=/x true",
            "unsupported mount type",
        ),
        (
            "RUN --mount=type=secret,id=k,required true",
            "secret k: not found",
        ),
        ("RUN --network=wrong true", "invalid network mode"),
        ("COPY --from=1 / /", "invalid from flag value 1"),
        ("COPY --nonsense a /", "unknown flag: --nonsense"),
        (
            "RUN exit 3",
            "The command '/bin/sh -c exit 3' returned a non-zero code: 3",
        ),
    ] {
        let output = build_text(
            &agent,
            "wrong",
            &format!("FROM busybox\n{line}\n"),
            &["--force-rm"],
        );
        assert_ne!(output.code, Some(0), "{line}");
        assert!(
            output.stderr.contains(expected),
            "{line}: {}",
            output.stderr
        );
    }
    assert_eq!(containers(&agent), "");
}

#[test]
fn copies_do_what_their_options_say() {
    let Some(agent) = engine() else { return };
    let folder = context(&[
        (
            "Dockerfile",
            "FROM busybox\n\
             RUN mkdir -p /real && ln -s /real /link && ln -s /real /sym && echo ada:x:7:8::/:/bin/sh >> /etc/passwd && echo ada:x:8: >> /etc/group\n\
             COPY --chown=ada:ada --chmod=640 a /link/\n\
             COPY --parents d/e/y d/./x /p/\n\
             COPY --exclude=*.md docs /docs/\n\
             COPY --link a /linked/a\n\
             COPY --link a /sym/b\n\
             ADD https-free.tar /arch/\n\
             ADD --unpack=false https-free.tar /whole/\n\
             COPY --chmod=u=rwX,go= d /modes/\n\
             WORKDIR /real/w\n\
             USER ada\n\
             WORKDIR /home/of/ada\n\
             USER 9:9\n\
             WORKDIR /home/of/nine\n\
             USER nobody-knows\n\
             WORKDIR /home/of/nobody\n\
             USER root\n\
             WORKDIR /real/w\n",
        ),
        ("a", "a"),
        ("d/x", "x"),
        ("d/e/y", "y"),
        ("docs/a.md", "no"),
        ("docs/a.txt", "yes"),
    ]);
    let mut tar = LayerTar::new();
    tar.file("in/side", 0o600, b"packed");
    std::fs::write(folder.path().join("https-free.tar"), tar.finish()).expect("a file");
    build(&agent, folder.path(), "copies", &[]).success();
    let script = "stat -c '%U:%G %a' /real/a; [ -L /link ] && echo link; [ -L /sym ] || cat /sym/b; ls /real; find /p /docs /arch /whole /linked -type f | sort; \
                  cat /arch/in/side; pwd; stat -c %a /modes/x /modes/e; stat -c %u:%g /real/w /home /home/of/ada /home/of/nine /home/of/nobody";
    assert_eq!(
        in_image(&agent, "copies", script),
        "ada:ada 640\nlink\naa\nw\n/arch/in/side\n/docs/a.txt\n/linked/a\n/p/d/e/y\n/p/x\n/whole/https-free.tar\npacked/real/w\n600\n700\n0:0\n0:0\n1000:1000\n9:9\n0:0"
    );
}

#[test]
fn steps_are_confined_as_containers_are() {
    let Some(agent) = engine() else { return };
    let facts = "grep -E '^(Cap|Seccomp|NoNewPrivs)' /proc/self/status; unshare -U true 2>&1; \
                 grep -c proc /proc/mounts; ls /sys/class/net | wc -l";
    let text = format!(
        "FROM busybox\nRUN --network=default ({facts}) > /default\nRUN --network=none ({facts}) > /none\n"
    );
    let folder = context(&[("Dockerfile", &text)]);
    let place = folder.path().display().to_string();
    run(
        &mut docker(&agent, &["build", "-t", "confined", &place]),
        LIMIT,
    )
    .success();
    let container = |network: &str| {
        let arguments = [
            "run",
            "--rm",
            "--network",
            network,
            "busybox",
            "sh",
            "-c",
            facts,
        ];
        said(&agent, &arguments)
    };
    assert!(container("none").contains("Seccomp:\t2"));
    assert_eq!(in_image(&agent, "confined", "cat /none"), container("none"));
    assert_eq!(
        in_image(&agent, "confined", "cat /default"),
        container("bridge")
    );
    assert!(container("bridge").ends_with('2') && container("none").ends_with('1'));
}

#[test]
fn limits_of_the_request_hold_in_steps() {
    let Some(agent) = engine() else { return };
    // What the kernel has no control group for is warned of, in builds as in containers.
    let flags = [
        "--memory",
        "64m",
        "--cpu-shares",
        "512",
        "--cpuset-cpus",
        "0",
    ];
    let more = [
        "--ulimit",
        "nofile=77",
        "--shm-size",
        "5m",
        "--add-host",
        "extra:10.9.8.7",
    ];
    let facts = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max cpu/cpu.shares cpu.weight cpuset/cpuset.cpus \
                 cpuset.cpus 2>/dev/null; ulimit -n; df -m /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2; \
                 grep extra /etc/hosts | tr -s '\\t ' ' '";
    let text = format!("FROM busybox\nRUN ({facts}) > /facts\n");
    let flags = [&flags[..], &more].concat();
    build_text(&agent, "limited", &text, &flags).success();
    let container = ["run", "--rm", "--network", "none"];
    let container = [&container[..], &flags, &["busybox", "sh", "-c", facts]].concat();
    let seen = in_image(&agent, "limited", "cat /facts");
    assert_eq!(seen, said(&agent, &container));
    assert!(seen.ends_with("77\n5\n10.9.8.7 extra"), "{seen}");
}

#[test]
fn rules_leave_files_out_of_the_context() {
    let Some(agent) = engine() else { return };
    let mut tar = LayerTar::new();
    let text = b"FROM busybox\nCOPY . /all\n";
    for (name, content) in [
        ("Dockerfile", &text[..]),
        ("other.Dockerfile", text),
        (
            ".dockerignore",
            b"# rules\n*.log\n!keep.log\n**/tmp\nd/*/x\n",
        ),
        ("other.Dockerfile.dockerignore", b"*\n!a.log\n"),
        ("a.log", b""),
        ("keep.log", b""),
        ("d/a.log", b""),
        ("d/tmp/f", b""),
        ("d/e/x", b""),
        ("d/e/y", b""),
    ] {
        tar.file(name, 0o644, content);
    }
    let tar = tar.finish();
    // Sent whole, so that it is the engine which leaves them out.
    let built = |file: &str| {
        let path = format!("/build?t=ruled&dockerfile={file}");
        let reply = request(&agent.socket(), "POST", &path, &tar).expect("an answer");
        assert!(reply.body.contains("Successfully tagged"), "{}", reply.body);
        in_image(&agent, "ruled", "cd /all; find . -type f | sort")
    };
    assert_eq!(
        built("Dockerfile"),
        "./.dockerignore\n./Dockerfile\n./d/a.log\n./d/e/y\n./keep.log\n./other.Dockerfile\n./other.Dockerfile.dockerignore"
    );
    assert_eq!(built("other.Dockerfile"), "./a.log");
}

#[test]
fn the_same_inputs_make_the_same_bytes() {
    let Some(agent) = engine() else { return };
    let text = "FROM busybox\nARG SOURCE_DATE_EPOCH\nRUN date > /dev/null; echo x > /x; mkdir /d\nCOPY Dockerfile /new/\n";
    let folder = context(&[("Dockerfile", text)]);
    let flags = ["--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1000000000"];
    build(&agent, folder.path(), "same", &flags).success();
    let first = id(&agent, "same");
    std::thread::sleep(Duration::from_millis(1100));
    build(&agent, folder.path(), "same", &flags).success();
    assert_eq!(id(&agent, "same"), first);
    assert_eq!(
        in_image(&agent, "same", "stat -c %Y /x /d /new"),
        "1000000000\n1000000000\n1000000000"
    );
}

/// Whether a text is in a file below a folder.
fn is_below(folder: &Path, text: &str) -> bool {
    let mut grep = Command::new("grep");
    grep.args(["-rqF", text]).arg(folder);
    run(&mut grep, LIMIT).code == Some(0)
}

#[test]
fn secrets_stay_out_of_layers_records_and_disks() {
    let Some(agent) = engine() else { return };
    // Not as one word in any command: only the step puts it together.
    let secret = format!("hunter{}", "2".repeat(9));
    let folder = context(&[(
        "Dockerfile",
        "FROM busybox\n\
         RUN --mount=type=secret,id=k,required,mode=0440 sha256sum < /run/secrets/k > /sum; stat -c %a /run/secrets/k >> /sum\n\
         RUN --mount=type=secret,id=k,env=PASS echo ${#PASS} >> /sum; [ ! -e /run/secrets ]\n",
    )]);
    let file = tempfile::tempdir().expect("a folder");
    let path = file.path().join("secret");
    std::fs::write(&path, &secret).expect("a file");
    let given = format!("id=k,src={}", path.display());
    let place = folder.path().display().to_string();
    let arguments = [
        "build",
        "--network",
        "none",
        "-t",
        "secret",
        "--secret",
        &given,
        &place,
    ];
    run(&mut agent.berth(&arguments), LIMIT).success();
    let out = in_image(&agent, "secret", "cut -c1-10 /sum; [ ! -e /run ]");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(&lines[1..3], ["440", "15"], "{out}");
    assert!(
        !is_below(&agent.data_root(), &secret),
        "the secret is on the disk"
    );
    assert!(
        !is_below(&agent.exec_root(), &secret),
        "the secret is still in memory's files"
    );
    // Another secret is no reason to do it again.
    std::fs::write(&path, "other").expect("a file");
    let again = run(&mut agent.berth(&arguments), LIMIT);
    assert_eq!(again.code, Some(0), "{}", again.report());
    assert_eq!(
        in_image(&agent, "secret", "cut -c1-10 /sum"),
        lines.join("\n")
    );
}

pub(crate) fn begin(agent: &Agent, folder: &Path) -> Child {
    let place = folder.display().to_string();
    docker(
        agent,
        &["build", "--network", "none", "-t", "begun", &place],
    )
    .stdin(Stdio::null())
    .stdout(Stdio::null())
    .stderr(Stdio::null())
    .spawn()
    .expect("docker starts")
}

pub(crate) const LONG: &str = "FROM busybox\nRUN echo first > /first\nRUN sleep 1000\n";

#[test]
fn a_build_ends_with_its_client() {
    let Some(agent) = engine() else { return };
    let folder = context(&[("Dockerfile", LONG)]);
    let mut client = begin(&agent, folder.path());
    eventually("the long step runs", LIMIT, || {
        said(&agent, &["ps", "--format", "{{.Command}}", "--no-trunc"])
            .contains("sleep 1000")
            .then_some(())
    });
    client.kill().expect("it runs");
    let _ = client.wait();
    eventually("the step's container goes", LIMIT, || {
        containers(&agent).is_empty().then_some(())
    });
    assert_eq!(said(&agent, &["images", "-q", "begun"]), "");
    // What was done before is in the cache.
    let text = "FROM busybox\nRUN echo first > /first\n";
    let again = build_text(&agent, "again", text, &[]).success();
    assert!(again.contains("Using cache"), "{again}");
}

/// The stock client sends such a context without the end of its last file, and it names arguments that nothing declares.
#[test]
fn a_dockerfile_may_come_apart_from_its_context() {
    let Some(agent) = engine() else { return };
    let folder = context(&[("a", "in the context")]);
    let place = folder.path().display().to_string();
    let flags = [
        "build",
        "--network",
        "none",
        "--build-arg",
        "FOO=1",
        "-t",
        "apart",
    ];
    let text = b"FROM busybox\nCOPY a /\n";
    let arguments = [&flags[..], &["-f", "-", &place]].concat();
    let said = run_with_input(&mut docker(&agent, &arguments), text, LIMIT).success();
    let warning = "\n[Warning] One or more build-args [FOO] were not consumed\nSuccessfully built";
    assert!(said.contains(warning), "{said}");
    assert_eq!(in_image(&agent, "apart", "cat /a"), "in the context");
    let elsewhere = context(&[("Dockerfile", "FROM busybox\nARG FOO\nCOPY a /b\n")]);
    let file = elsewhere.path().join("Dockerfile").display().to_string();
    let arguments = [&flags[..], &["-f", &file, &place]].concat();
    let said = run(&mut docker(&agent, &arguments), LIMIT).success();
    assert!(!said.contains("not consumed"), "{said}");
    assert_eq!(in_image(&agent, "apart", "cat /b"), "in the context");
}

/// Sends an archive as a context.
fn build_archive(agent: &Agent, tar: Vec<u8>) -> Output {
    let arguments = ["build", "--network", "none", "-t", "hostile", "-"];
    run_with_input(&mut docker(agent, &arguments), &tar, LIMIT)
}

/// The archive with `xx` in its names made `..`, which libraries refuse to write.
fn climbing(mut tar: Vec<u8>) -> Vec<u8> {
    for block in (0..tar.len()).step_by(512) {
        let header = &mut tar[block..block + 512];
        if !header.starts_with(b"xx/") {
            continue;
        }
        let mut at = 0;
        while header[at..].starts_with(b"xx/") {
            header[at..at + 2].copy_from_slice(b"..");
            at += 3;
        }
        sign(header);
    }
    tar
}

/// Writes the checksum of a tar's header.
fn sign(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An archive whose first file says it has an exbibyte.
fn bomb() -> Vec<u8> {
    let mut tar = LayerTar::new();
    tar.file("big", 0o644, b"x");
    let mut tar = tar.finish();
    let header = &mut tar[..512];
    header[124..136].fill(0);
    header[124] = 0x80;
    header[128..136].copy_from_slice(&(1u64 << 60).to_be_bytes());
    sign(header);
    tar
}

#[test]
fn hostile_contexts_reach_nothing_outside() {
    let Some(agent) = engine() else { return };
    let victim = tempfile::tempdir().expect("a folder");
    let file = victim.path().join("file");
    std::fs::write(&file, "untouched").expect("a file");
    // Out of the folder by name.
    let mut tar = LayerTar::new();
    tar.file("Dockerfile", 0o644, b"FROM busybox\nCOPY . /all\n");
    tar.file("xx/xx/xx/xx/xx/xx/xx/xx/tmp/escaped-by-build", 0o644, b"x");
    let text = build_archive(&agent, climbing(tar.finish())).fails_with(1);
    assert!(text.contains("leads out of the build context"), "{text}");
    assert!(!Path::new("/tmp/escaped-by-build").exists());
    // Through a link that leads out, to write and to read.
    let mut tar = LayerTar::new();
    tar.file("Dockerfile", 0o644, b"FROM busybox\nCOPY . /all\n");
    tar.link("out", &victim.path().display().to_string());
    tar.file("out/file", 0o644, b"overwritten");
    let _ = build_archive(&agent, tar.finish());
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), "untouched");
    let mut tar = LayerTar::new();
    tar.file("Dockerfile", 0o644, b"FROM busybox\nCOPY link /copied\n");
    tar.link("link", &file.display().to_string());
    let text = build_archive(&agent, tar.finish()).fails_with(1);
    assert!(text.contains("file not found in build context"), "{text}");
    // The Dockerfile itself.
    let mut tar = LayerTar::new();
    tar.link("Dockerfile", &file.display().to_string());
    let text = build_archive(&agent, tar.finish()).fails_with(1);
    assert!(text.contains("Dockerfile"), "{text}");
    // One that never ends, /dev/zero: also what says which files are read.
    for name in ["Dockerfile", ".dockerignore"] {
        let mut tar = LayerTar::new();
        if name != "Dockerfile" {
            tar.file("Dockerfile", 0o644, b"FROM busybox\nCOPY . /all\n");
        }
        tar.device(name, 1, 5);
        let reply = request(&agent.socket(), "POST", "/build", &tar.finish()).expect("an answer");
        assert_eq!(reply.status, 400, "{}", reply.body);
        let expected = format!("{name} is not a regular file");
        assert!(reply.body.contains(&expected), "{}", reply.body);
    }
    // An archive that is unpacked to more than there is room for.
    let mut tar = LayerTar::new();
    tar.file("Dockerfile", 0o644, b"FROM busybox\nADD bomb.tar /\n");
    tar.file("bomb.tar", 0o644, &bomb());
    let text = build_archive(&agent, tar.finish()).fails_with(1);
    assert!(text.contains("bytes that there is room for"), "{text}");
    assert!(!in_image(&agent, "busybox", "ls /").contains("big"));
    // Names that mean deleted files.
    let mut tar = LayerTar::new();
    tar.file("Dockerfile", 0o644, b"FROM busybox\nCOPY . /all\n");
    tar.file(".wh.file", 0o644, b"x");
    let text = build_archive(&agent, tar.finish()).fails_with(1);
    assert!(text.contains(".wh."), "{text}");
    // Names in no encoding, with line ends and terminals' controls, stay what they are.
    let mut tar = LayerTar::new();
    tar.file("Dockerfile", 0o644, b"FROM busybox\nCOPY . /all\n");
    tar.file("d/XXXX", 0o644, b"odd");
    let mut tar = tar.finish();
    let at = tar.windows(6).position(|bytes| bytes == b"d/XXXX");
    let at = at.expect("the name") / 512 * 512;
    tar[at..at + 6].copy_from_slice(b"d/\xff\n\x1b*");
    sign(&mut tar[at..at + 512]);
    build_archive(&agent, tar).success();
    let name = in_image(
        &agent,
        "hostile",
        "cd /all/d; printf %s * | od -An -tx1; cat *",
    );
    assert_eq!(name, " ff 0a 1b 2a\nodd");
    // A destination in the image that leads out.
    let text = "FROM busybox\nRUN ln -s ../../../../../../../../tmp /sneaky\nCOPY Dockerfile /sneaky/build-was-here\n";
    build_text(&agent, "hostile", text, &[]).success();
    assert!(!Path::new("/tmp/build-was-here").exists());
    assert_eq!(in_image(&agent, "hostile", "ls /tmp"), "build-was-here");
    // A bind mount's source in a stage that leads out.
    let text = format!(
        "FROM busybox AS a\nRUN ln -s {} /out\nFROM busybox\nRUN --mount=type=bind,from=a,source=/out,target=/m cat /m/file > /stolen\n",
        victim.path().display()
    );
    build_text(&agent, "hostile", &text, &[]).fails_with(1);
}

#[test]
fn hostile_dockerfiles_are_refused() {
    let Some(agent) = engine() else { return };
    let mut deep = "x".to_owned();
    for _ in 0..40 {
        deep = format!("${{A:-{deep}}}");
    }
    let mut doubling = "FROM busybox\nENV A0=xxxxxxxxxxxxxxxx\n".to_owned();
    for n in 1..30 {
        doubling.push_str(&format!("ENV A{n}=$A{}$A{}\n", n - 1, n - 1));
    }
    let many = format!("FROM busybox\n{}", "ENV A=1\n".repeat(10_001));
    for (text, expected) in [
        (format!("FROM busybox\nENV B={deep}\n"), "nested deeper"),
        (doubling, "adds more than"),
        (many, "too many"),
        // A shell takes no more, here as with Docker.
        (
            format!("FROM busybox\nRUN <<EOF\n{}EOF\n", "true\n".repeat(100_000)),
            "too long",
        ),
        (
            format!(
                "FROM busybox\nCOPY <<EOF /x\n{}EOF\n",
                "x\n".repeat(3_000_000)
            ),
            "larger than",
        ),
        (
            "FROM busybox AS a\nCOPY --from=b / /\nFROM a AS b\n".to_owned(),
            "circular",
        ),
        (
            "FROM busybox\nRUN <<EOF\nnever ends\n".to_owned(),
            "unterminated heredoc",
        ),
        (
            "FROM busybox\nADD git://-x/r.git /\n".to_owned(),
            "invalid git address",
        ),
        (
            "FROM busybox\nADD https://example.invalid/r.git#--upload-pack=x /\n".to_owned(),
            "no branch, tag or commit",
        ),
        (
            "FROM busybox\nADD http://127.0.0.1:9/x /\n".to_owned(),
            "failed to GET",
        ),
    ] {
        let target = if text.contains("AS b") {
            ["--target", "a"].as_slice()
        } else {
            &[]
        };
        let said = build_text(&agent, "hostile", &text, target).fails_with(1);
        let lower = said.to_lowercase();
        assert!(
            lower.contains(&expected.to_lowercase()),
            "{expected}: {said}"
        );
    }
    // A large document is a file as any other.
    let large = format!(
        "FROM busybox\nCOPY <<'EOF' /x\n{}EOF\n",
        "x\n".repeat(1_000_000)
    );
    build_text(&agent, "large", &large, &[]).success();
    assert_eq!(in_image(&agent, "large", "wc -c < /x"), "2000000");
}
