//! Containers run for real: needs root, skipped with a line elsewhere.

mod host;
mod inside;
mod shims;

use bytes::Bytes;
use engine::runtime::*;
use engine_linux::cgroup::Hierarchies;
use engine_linux::runtime::Program;
use host::*;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn linux_keeps_the_contract() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    contract::check(&runtime, &|args| host.container().plan(args)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_exit_code_and_log() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let place = host.container();
    let (code, out, err) = run(&runtime, place.shell("echo hello; echo oops >&2; exit 7")).await;
    assert_eq!((code, out.as_str(), err.as_str()), (7, "hello\n", "oops\n"));
    let log = std::fs::read_to_string(place.log()).unwrap();
    assert!(
        log.contains(r#"{"log":"hello\n","stream":"stdout","time":""#),
        "{log}"
    );
    assert!(
        log.contains(r#"{"log":"oops\n","stream":"stderr","time":""#),
        "{log}"
    );
    assert!(place.folder.join("exit.json").exists());
    assert!(
        !host
            .folder
            .path()
            .join("run/containers")
            .join(place.id.as_str())
            .exists()
    );
    assert!(
        !std::path::Path::new("/sys/fs/cgroup/memory/berth-test")
            .join(place.id.as_str())
            .exists()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_says_why_in_dockers_words() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    for (args, code, text) in [
        (
            &["nope"][..],
            127,
            "exec: \"nope\": executable file not found in $PATH",
        ),
        (
            &["/bin/nope"],
            127,
            "exec: \"/bin/nope\": stat /bin/nope: no such file or directory",
        ),
        (
            &["/etc/passwd"],
            126,
            "exec: \"/etc/passwd\": permission denied",
        ),
        (&["/etc"], 126, "exec: \"/etc\": is a directory"),
        (&["/script"], 126, "exec: \"/script\": exec format error"),
    ] {
        let place = host.container();
        let script = place.rootfs.join("script");
        std::fs::write(&script, "not a program\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let Err(error) = runtime.start(place.plan(args)).await else {
            panic!("{args:?} ran")
        };
        assert_eq!(error.to_string(), text);
        assert_eq!(error.exit_code(), code, "{args:?}");
        assert!(
            !host
                .folder
                .path()
                .join("run/containers")
                .join(place.id.as_str())
                .exists()
        );
    }
    let mut plan = host.container().plan(&["true"]);
    plan.process.user = "nobody-here".to_owned();
    let Err(error) = runtime.start(plan).await else {
        panic!("it ran")
    };
    assert_eq!(
        error.to_string(),
        "unable to find user nobody-here: no matching entries in passwd file"
    );
    let mut plan = host.container().plan(&["true"]);
    plan.process.seccomp = Seccomp::Profile("{".to_owned());
    let Err(error) = runtime.start(plan).await else {
        panic!("it ran")
    };
    assert!(matches!(error, RuntimeError::Invalid { .. }), "{error}");
    let mut plan = host.container().plan(&["true"]);
    plan.runtime = Some("strange".to_owned());
    let Err(error) = runtime.start(plan).await else {
        panic!("it ran")
    };
    assert!(error.to_string().contains("strange"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_at_once() {
    let Some(host) = Host::new() else { return };
    let runtime = std::sync::Arc::new(host.runtime());
    let mut all = tokio::task::JoinSet::new();
    for number in 0..20 {
        let plan = host
            .container()
            .shell(&format!("echo {number}; exit {number}"));
        let runtime = std::sync::Arc::clone(&runtime);
        all.spawn(async move { (number, run(&*runtime, plan).await) });
    }
    let mut count = 0;
    while let Some(done) = all.join_next().await {
        let (number, (code, out, _)) = done.unwrap();
        assert_eq!((code, out), (number, format!("{number}\n")));
        count += 1;
    }
    assert_eq!(count, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let place = host.container();
    let mut plan = place.shell(
        "stty size; tty; ls -l /dev/console; read line; echo got $line; read line; stty size",
    );
    plan.process.tty = true;
    plan.process.tty_size = Some(TtySize {
        rows: 11,
        columns: 77,
    });
    plan.process.open_stdin = true;
    let (task, mut io) = runtime.start(plan).await.unwrap();
    let stdin = io.stdin.take().unwrap();
    stdin.send(Bytes::from_static(b"word\n")).await.unwrap();
    let mut text = String::new();
    while !text.contains("got word") {
        let (stream, data) = io.output.recv().await.expect("it still writes");
        assert_eq!(stream, StreamKind::Stdout);
        text.push_str(&String::from_utf8_lossy(&data));
    }
    // What is typed is echoed, perhaps first.
    assert!(text.contains("11 77\r\n"), "{text:?}");
    assert!(text.contains("/dev/pts/0"), "{text:?}");
    task.resize(TtySize {
        rows: 30,
        columns: 99,
    })
    .await
    .unwrap();
    stdin.send(Bytes::from_static(b"\n")).await.unwrap();
    let (rest, _) = collect(&mut io).await;
    assert!(rest.contains("30 99"), "{rest:?}");
    assert_eq!(task.wait().await.code, 0);
    runtime.cleanup(&place.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn execs_with_streams_terminal_and_user() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let place = host.container();
    let (task, _io) = runtime.start(place.plan(&["sleep", "1000"])).await.unwrap();
    let mut plan = exec_plan(&[
        "sh",
        "-c",
        "id -u; id -G; echo $HOME; cat; echo err >&2; pwd",
    ]);
    plan.process.user = "web".to_owned();
    plan.process.open_stdin = true;
    // Made for the first process, but not for an exec.
    plan.process.working_directory = "/nowhere/at/all".to_owned();
    let error = task.exec(plan.clone()).await.map(|_| ()).unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.exit_code()),
        (
            "chdir to cwd (\"/nowhere/at/all\") set in config.json failed: no such file or directory",
            127
        )
    );
    plan.id = engine::id::ExecId::random();
    plan.process.working_directory = "/etc".to_owned();
    let (exec, mut io) = task.exec(plan).await.unwrap();
    let stdin = io.stdin.take().unwrap();
    stdin.send(Bytes::from_static(b"typed\n")).await.unwrap();
    drop(stdin);
    let (out, err) = collect(&mut io).await;
    assert_eq!(out, "1000\n1000 29\n/home/web\ntyped\n/etc\n");
    assert_eq!(err, "err\n");
    assert_eq!(exec.wait().await.code, 0);

    let mut plan = exec_plan(&["sh", "-c", "stty size; kill -9 $$"]);
    plan.process.tty = true;
    plan.process.tty_size = Some(TtySize {
        rows: 5,
        columns: 6,
    });
    let (exec, mut io) = task.exec(plan).await.unwrap();
    assert_eq!(collect(&mut io).await.0, "5 6\r\n");
    assert_eq!(exec.wait().await.code, 137);

    // A background process that holds the output does not hold up the exit status.
    let (exec, mut io) = task
        .exec(exec_plan(&["sh", "-c", "sleep 1000 & echo done"]))
        .await
        .unwrap();
    assert_eq!(io.output.recv().await.unwrap().1, "done\n");
    let status = tokio::time::timeout(Duration::from_secs(10), exec.wait())
        .await
        .unwrap();
    assert_eq!(status.code, 0);

    // Privileged ones have everything.
    let mut plan = exec_plan(&["grep", "-E", "CapEff|Seccomp:", "/proc/self/status"]);
    plan.privileged = true;
    let (_exec, mut io) = task.exec(plan).await.unwrap();
    let (out, _) = collect(&mut io).await;
    assert!(out.contains("Seccomp:\t0"), "{out}");
    let mask = out
        .lines()
        .next()
        .unwrap()
        .split('\t')
        .nth(1)
        .unwrap()
        .to_owned();
    assert!(
        u64::from_str_radix(&mask, 16).unwrap() & 1 << 21 != 0,
        "{out}"
    );
    task.signal(9).await.unwrap();
    task.wait().await;
    runtime.cleanup(&place.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_waits_holds_the_writer_and_loses_nothing() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let place = host.container();
    let plan = place.shell("i=0; while [ $i -lt 400 ]; do cat /bin/busybox | head -c 20000; i=$((i+1)); done; echo; echo end");
    let (task, mut io) = runtime.start(plan).await.unwrap();
    // Nobody reads: the container cannot finish, however long it had.
    let early = tokio::time::timeout(Duration::from_millis(700), task.wait()).await;
    assert!(early.is_err(), "8 MB were taken without a reader");
    let mut count = 0;
    let mut last = Bytes::new();
    while let Some((_, data)) = io.output.recv().await {
        count += data.len();
        last = data;
    }
    assert_eq!(count, 400 * 20000 + 5);
    assert!(last.ends_with(b"\nend\n"));
    assert_eq!(task.wait().await.code, 0);
    runtime.cleanup(&place.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pausing_and_limits() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let place = host.container();
    let mut plan = place.shell("while :; do date +%N; done");
    plan.resources.memory = Some(64 << 20);
    plan.resources.pids = Some(50);
    let (task, mut io) = runtime.start(plan).await.unwrap();
    task.pause().await.unwrap();
    let drained = async {
        while tokio::time::timeout(Duration::from_millis(300), io.output.recv())
            .await
            .is_ok()
        {}
    };
    drained.await;
    task.resume().await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_secs(10), io.output.recv())
            .await
            .unwrap()
            .is_some()
    );
    task.update(ResourcePlan {
        pids: Some(77),
        ..ResourcePlan::default()
    })
    .await
    .unwrap();
    let v1 = format!("/sys/fs/cgroup/pids/berth-test/{}/pids.max", place.id);
    let v2 = format!("/sys/fs/cgroup/berth-test/{}/pids.max", place.id);
    let limit = std::fs::read_to_string(v1)
        .or_else(|_| std::fs::read_to_string(v2))
        .unwrap();
    assert_eq!(limit.trim(), "77");
    task.pause().await.unwrap();
    // A paused container can be killed.
    task.signal(9).await.unwrap();
    drop(io);
    assert_eq!(task.wait().await.code, 137);
    runtime.cleanup(&place.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_memory_is_told() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    if !runtime.facts().memory_limit {
        return skip("needs the memory controller");
    }
    let place = host.container();
    let mut plan = place.shell("cat /dev/zero | head -c 200000000 | tail -c 100000000 | wc -c");
    plan.process.args = [
        "sh",
        "-c",
        "x=$(cat /dev/zero | tr '\\0' x | head -c 90000000); echo ${#x}",
    ]
    .map(str::to_owned)
    .to_vec();
    plan.resources.memory = Some(16 << 20);
    plan.resources.memory_swap = Some(16 << 20);
    let id = plan.id.clone();
    let (task, mut io) = runtime.start(plan).await.unwrap();
    let (out, err) = collect(&mut io).await;
    let status = task.wait().await;
    assert!(status.oom_killed, "{status:?} {out} {err}");
    runtime.cleanup(&id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn init_reaps_and_passes_signals_on() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let place = host.container();
    let orphan = "(sleep 0.1 &) ; sleep 0.5; ps -o stat | grep -c Z";
    let mut plan = place.shell(&format!(
        "trap 'exit 9' TERM; {orphan}; echo pid $$; while :; do sleep 0.1; done"
    ));
    plan.init = true;
    let (task, mut io) = match runtime.start(plan).await {
        Ok(started) => started,
        // A dynamic build on a host without anybody's static init.
        Err(RuntimeError::Unsupported { what, why }) => {
            assert_eq!(what, "--init");
            assert!(why.contains("--init-path"), "{why}");
            return skip("--init needs a static agent, docker-init or tini-static");
        }
        Err(error) => panic!("{}", engine::error::full_message(&error)),
    };
    let mut said = String::new();
    while !said.contains("pid") {
        let (_, piece) = io.output.recv().await.expect("it goes on");
        said.push_str(&String::from_utf8_lossy(&piece));
    }
    // No zombie is left of the orphan, and the program is not process 1.
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "0", "{said}");
    assert_ne!(lines[1], "pid 1", "{said}");
    task.signal(15).await.unwrap();
    assert_eq!(task.wait().await.code, 9);
    runtime.cleanup(&place.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_runs_out_is_told_while_the_container_goes_on() {
    let Some(host) = Host::new() else { return };
    if !Hierarchies::of_this_host().controls("memory") {
        return skip("needs a memory control group");
    }
    let runtime = host.runtime();
    let place = host.container();
    // The shell survives: the kernel takes the largest process.
    let mut plan = place.shell("sleep 3; tail /dev/zero; echo killed; sleep 30");
    plan.resources.memory = Some(16 << 20);
    plan.resources.memory_swap = Some(16 << 20);
    let (task, mut io) = runtime.start(plan).await.unwrap();
    let limit = std::time::Duration::from_secs(30);
    let times = tokio::time::timeout(limit, task.out_of_memory(0)).await;
    assert!(times.expect("it is told") >= 1);
    let mut said = String::new();
    while !said.contains("killed\n") {
        let (_, piece) = io.output.recv().await.expect("it goes on");
        said.push_str(&String::from_utf8_lossy(&piece));
    }
    task.signal(9).await.unwrap();
    assert!(task.wait().await.oom_killed);
    runtime.cleanup(&place.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_oci_runtime_runs_it() {
    let Some(mut host) = Host::new() else { return };
    let Some(runc) = ["/usr/sbin/runc", "/usr/bin/runc"]
        .iter()
        .map(std::path::PathBuf::from)
        .find(|path| path.exists())
    else {
        return skip("needs runc");
    };
    let program = Program {
        path: runc,
        arguments: vec!["--debug".to_owned()],
    };
    host.runtimes.insert("runc".to_owned(), program);
    let runtime = host.runtime();
    let place = host.container();
    let mut plan = place.shell("grep Seccomp: /proc/self/status; sleep 2; exit 3");
    plan.runtime = Some("runc".to_owned());
    let (task, mut io) = runtime
        .start(plan)
        .await
        .unwrap_or_else(|error| panic!("{}", engine::error::full_message(&error)));
    let (_exec, mut exec_io) = task
        .exec(exec_plan(&["echo", "inside"]))
        .await
        .unwrap_or_else(|error| panic!("{}", engine::error::full_message(&error)));
    assert_eq!(collect(&mut exec_io).await.0, "inside\n");
    assert_eq!(collect(&mut io).await.0, "Seccomp:\t2\n");
    assert_eq!(task.wait().await.code, 3);
    runtime.cleanup(&place.id).await.unwrap();
    let mut plan = host.container().plan(&["nope"]);
    plan.runtime = Some("runc".to_owned());
    let Err(error) = runtime.start(plan).await else {
        panic!("it ran")
    };
    assert_eq!(error.exit_code(), 127, "{error}");
}
