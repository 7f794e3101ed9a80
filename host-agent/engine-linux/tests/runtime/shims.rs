//! What happens when serve or a shim is killed.

use super::host::*;
use engine::runtime::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

/// The shim is the parent of the container's first process.
fn parent_of(pid: u32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap();
    line.trim().parse().unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} did not happen");
}

fn gone(pid: u32) -> bool {
    // A zombie whose parent is another process of this test run is gone as well.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

/// Runs `work` in a runtime that is then torn down with everything serve has: tasks, connections.
fn serve<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    std::thread::spawn(|| {
        let serve = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let result = serve.block_on(work);
        serve.shutdown_background();
        result
    })
    .join()
    .unwrap()
}

#[test]
fn a_container_lives_on_without_serve_and_its_log_has_no_gap() {
    let Some(host) = Host::new() else { return };
    let place = host.container();
    let plan = place.shell("i=0; while [ ! -e /stop ]; do echo line $i; i=$((i+1)); sleep 0.005; done; echo last $i; exit 6");
    let runtime = host.runtime();
    let pid = serve(async move {
        let (task, mut io) = runtime.start(plan).await.unwrap();
        // Some output is read, some is on its way when serve goes.
        io.output.recv().await.unwrap();
        task.pid()
    });
    std::thread::sleep(Duration::from_millis(300));
    let (runtime, id, folder, rootfs) = (
        host.runtime(),
        place.id.clone(),
        place.folder.clone(),
        place.rootfs.clone(),
    );
    serve(async move {
        let Recovered::Running(task, mut io) = runtime.recover(&id, &folder).await.unwrap() else {
            panic!("it runs")
        };
        assert_eq!(task.pid(), pid);
        assert!(io.output.recv().await.is_some());
        let (exec, mut exec_io) = task.exec(exec_plan(&["echo", "still"])).await.unwrap();
        assert_eq!(collect(&mut exec_io).await.0, "still\n");
        assert_eq!(exec.wait().await.code, 0);
        std::fs::write(rootfs.join("stop"), "").unwrap();
        collect(&mut io).await;
        assert_eq!(task.wait().await.code, 6);
        runtime.cleanup(&id).await.unwrap();
    });
    let log = std::fs::read_to_string(place.log()).unwrap();
    let texts: Vec<String> = log
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["log"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let (last, lines) = texts.split_last().unwrap();
    for (number, text) in lines.iter().enumerate() {
        assert_eq!(text, &format!("line {number}\n"));
    }
    assert_eq!(last, &format!("last {}\n", lines.len()));
    assert!(lines.len() > 20);
}

#[test]
fn an_end_without_serve_is_known_to_the_next() {
    let Some(host) = Host::new() else { return };
    let place = host.container();
    let (runtime, plan) = (host.runtime(), place.shell("sleep 0.3; exit 9"));
    let pid = serve(async move { runtime.start(plan).await.unwrap().0.pid() });
    let exit = place.folder.join("exit.json");
    for _ in 0..500 {
        if exit.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let (runtime, id, folder) = (host.runtime(), place.id.clone(), place.folder.clone());
    serve(async move {
        let Recovered::Exited(status) = runtime.recover(&id, &folder).await.unwrap() else {
            panic!("it has ended")
        };
        assert_eq!(status.code, 9);
        until("the container's end", || gone(pid)).await;
        runtime.cleanup(&id).await.unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_takes_its_container_with_it() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let place = host.container();
    let (task, mut io) = runtime
        .start(place.shell("sleep 1000 & sleep 1000; true"))
        .await
        .unwrap();
    let pid = task.pid();
    let mut all = Vec::new();
    while all.len() < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        all = task.processes().await.unwrap();
    }
    kill(Pid::from_raw(parent_of(pid)), Signal::SIGKILL).unwrap();
    let status = tokio::time::timeout(Duration::from_secs(20), task.wait())
        .await
        .unwrap();
    assert_eq!(status.code, 137);
    collect(&mut io).await;
    until("the end of every process", || {
        all.iter().all(|pid| gone(*pid))
    })
    .await;
    assert!(matches!(
        task.signal(9).await,
        Err(RuntimeError::NotRunning)
    ));
    let found = runtime.recover(&place.id, &place.folder).await.unwrap();
    assert!(matches!(
        found,
        Recovered::Exited(ExitStatus { code: 137, .. })
    ));
    runtime.cleanup(&place.id).await.unwrap();
}

#[test]
fn a_shim_killed_without_serve_leaves_a_lost_container() {
    let Some(host) = Host::new() else { return };
    let place = host.container();
    let (runtime, plan) = (host.runtime(), place.shell("sleep 1000 & sleep 1000; true"));
    let pid = serve(async move { runtime.start(plan).await.unwrap().0.pid() });
    kill(Pid::from_raw(parent_of(pid)), Signal::SIGKILL).unwrap();
    let (runtime, id, folder) = (host.runtime(), place.id.clone(), place.folder.clone());
    serve(async move {
        assert!(matches!(
            runtime.recover(&id, &folder).await.unwrap(),
            Recovered::Lost
        ));
        until("the container's end", || gone(pid)).await;
        runtime.cleanup(&id).await.unwrap();
        runtime.cleanup(&id).await.unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_output_is_logged_whole() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let place = host.container();
    let mut plan = place.shell("head -c 300000 /bin/busybox; echo; head -c 100000 /dev/zero | tr '\\0' y; echo; printf 'no newline'");
    if let LogPlan::JsonFile {
        max_size,
        max_files,
        compress,
        ..
    } = &mut plan.log
    {
        *max_size = Some(200_000);
        *max_files = 20;
        *compress = true;
    }
    let (code, out, _) = run(&runtime, plan).await;
    assert_eq!(code, 0);
    assert!(out.ends_with("y\nno newline"));
    let log = std::fs::read_to_string(place.log()).unwrap();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(last["log"], "no newline");
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    assert!(
        engine_linux::shim::log_writer::rotated(&place.log(), 1, true).exists()
            || engine_linux::shim::log_writer::rotated(&place.log(), 1, false).exists()
    );
}

/// A log that nobody can write to for a while: a named pipe that nobody reads. The container goes on, what is too much for
/// its buffer is lost, and all that was kept is written in order when it can be.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_does_not_wait_for_a_slow_log_where_it_need_not() {
    use std::io::{BufRead, BufReader};
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let place = host.container();
    nix::unistd::mkfifo(&place.log(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Open for writing, too: it can be opened without waiting for others.
    let reader = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(place.log())
        .unwrap();
    let script = "i=0; while [ $i -lt 6000 ]; do echo $i aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; i=$((i+1)); done
        touch /tmp/said; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo the end";
    let mut plan = place.shell(script);
    if let LogPlan::JsonFile { buffer, .. } = &mut plan.log {
        *buffer = Some(10_000);
    }
    let (task, mut io) = runtime.start(plan).await.unwrap();
    let said = place.rootfs.join("tmp/said");
    until("the container has said all", || said.exists()).await;
    let lines = std::thread::spawn(move || {
        let mut lines = Vec::new();
        for line in BufReader::new(reader).lines() {
            let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            let text = line["log"].as_str().unwrap().trim_end().to_owned();
            if text == "the end" {
                break;
            }
            let number = text.split(' ').next().unwrap();
            lines.push(number.parse::<usize>().unwrap());
        }
        lines
    });
    // Its buffer is empty again when the last line comes.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    std::fs::write(place.rootfs.join("tmp/go"), "").unwrap();
    let (out, _) = collect(&mut io).await;
    assert_eq!(out.lines().count(), 6001, "who is attached gets everything");
    assert_eq!(task.wait().await.code, 0);
    let lines = tokio::task::spawn_blocking(move || lines.join().unwrap())
        .await
        .unwrap();
    assert_eq!(lines[..100], (0..100).collect::<Vec<_>>());
    assert!(lines.is_sorted(), "in order");
    assert!((100..5900).contains(&lines.len()), "{} lines", lines.len());
    runtime.cleanup(&place.id).await.unwrap();
}

/// Clean pages of the program that are in a process's memory, kB.
fn file_pages(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("RssFile:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_shim_gives_its_memory_back_and_goes_on() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let place = host.container();
    let (task, mut io) = runtime
        .start(place.plan(&["cat"]))
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    // No input is open: it ends at once. One that stays:
    assert_eq!(collect(&mut io).await.0, "");
    task.wait().await;
    runtime.cleanup(&place.id).await.unwrap();
    let place = host.container();
    let (task, mut io) = runtime
        .start(place.shell("sleep 4; echo awake; exit 3"))
        .await
        .unwrap();
    let shim = parent_of(task.pid());
    let before = file_pages(shim);
    until("the return of the shim's pages", || {
        file_pages(shim) < before / 2
    })
    .await;
    let (exec, mut exec_io) = task.exec(exec_plan(&["echo", "inside"])).await.unwrap();
    assert_eq!(collect(&mut exec_io).await.0, "inside\n");
    assert_eq!(exec.wait().await.code, 0);
    assert_eq!(collect(&mut io).await.0, "awake\n");
    assert_eq!(task.wait().await.code, 3);
    runtime.cleanup(&place.id).await.unwrap();
}
