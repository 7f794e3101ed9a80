//! What every runtime must do, as one suite that runs on all of them.

use super::{
    ExecPlan, LaunchPlan, LogPlan, NamespacePlan, NetworkNamespace, ProcessIo, ProcessPlan,
    Recovered, ResourcePlan, Runtime, RuntimeError, Seccomp, SharedNamespace, StreamKind,
};
use crate::id::{ContainerId, ExecId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A plan for these arguments with nothing special in it.
pub fn plan(args: &[&str]) -> LaunchPlan {
    let id = ContainerId::random();
    LaunchPlan {
        cgroup: format!("/berth-test/{id}"),
        id,
        rootfs: PathBuf::from("/nonexistent"),
        read_only_root: false,
        process: process(args),
        hostname: "box".to_owned(),
        domain_name: String::new(),
        mounts: Vec::new(),
        namespaces: NamespacePlan {
            network: NetworkNamespace::Host,
            pid: SharedNamespace::Own,
            ipc: SharedNamespace::Own,
            uts: SharedNamespace::Own,
            cgroup: SharedNamespace::Host,
        },
        resources: ResourcePlan::default(),
        devices: Vec::new(),
        device_rules: Vec::new(),
        all_devices: false,
        sysctls: BTreeMap::new(),
        masked_paths: Vec::new(),
        read_only_paths: Vec::new(),
        shm_size: None,
        init: false,
        runtime_arguments: Vec::new(),
        log: LogPlan::None,
        runtime: None,
        folder: PathBuf::from("/nonexistent"),
        annotations: BTreeMap::new(),
    }
}

/// A process with these arguments, root without capabilities.
pub fn process(args: &[&str]) -> ProcessPlan {
    ProcessPlan {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec!["PATH=/bin:/sbin".to_owned()],
        working_directory: "/".to_owned(),
        user: String::new(),
        additional_groups: Vec::new(),
        tty: false,
        tty_size: None,
        open_stdin: false,
        capabilities: Vec::new(),
        no_new_privileges: false,
        rlimits: Vec::new(),
        oom_score_adj: None,
        seccomp: Seccomp::Default,
        apparmor: super::AppArmor::Default,
    }
}

fn exec(args: &[&str]) -> ExecPlan {
    ExecPlan {
        id: ExecId::random(),
        process: process(args),
        privileged: false,
    }
}

async fn output(io: &mut ProcessIo) -> String {
    let mut text = Vec::new();
    while let Some((stream, data)) = io.output.recv().await {
        assert_eq!(stream, StreamKind::Stdout);
        text.extend_from_slice(&data);
    }
    String::from_utf8(text).expect("text")
}

/// Runs the whole suite. `plan` makes a plan that this runtime can start, for example with a root file system that
/// has `true`, `false`, `echo`, `cat`, `sleep` and `sh`.
///
/// # Panics
/// Where the runtime does not keep the contract.
pub async fn check(runtime: &dyn Runtime, plan: &(dyn Fn(&[&str]) -> LaunchPlan + Sync)) {
    let all = async {
        output_and_exit_codes(runtime, plan).await;
        a_missing_program(runtime, plan).await;
        input_reaches_the_process(runtime, plan).await;
        signals_end_it(runtime, plan).await;
        execs(runtime, plan).await;
        recovery(runtime, plan).await;
    };
    tokio::time::timeout(Duration::from_secs(120), all)
        .await
        .expect("the suite ends");
}

async fn output_and_exit_codes(
    runtime: &dyn Runtime,
    plan: &(dyn Fn(&[&str]) -> LaunchPlan + Sync),
) {
    for (args, code, text) in [
        (&["true"][..], 0, ""),
        (&["false"], 1, ""),
        (&["sh", "-c", "exit 42"], 42, ""),
        (&["echo", "two", "words"], 0, "two words\n"),
    ] {
        let plan = plan(args);
        let id = plan.id.clone();
        let (task, mut io) = runtime.start(plan).await.expect("it starts");
        assert!(task.pid() > 0);
        assert!(io.stdin.is_none());
        assert_eq!(output(&mut io).await, text, "{args:?}");
        assert_eq!(task.wait().await.code, code, "{args:?}");
        // Many may wait, and late.
        assert_eq!(task.wait().await.code, code, "{args:?}");
        assert!(matches!(
            task.signal(15).await,
            Err(RuntimeError::NotRunning)
        ));
        assert!(matches!(
            task.exec(exec(&["true"])).await,
            Err(RuntimeError::NotRunning)
        ));
        runtime.cleanup(&id).await.expect("it is cleaned up");
        runtime
            .cleanup(&id)
            .await
            .expect("cleaning up twice is fine");
    }
}

async fn a_missing_program(runtime: &dyn Runtime, plan: &(dyn Fn(&[&str]) -> LaunchPlan + Sync)) {
    let Err(error) = runtime.start(plan(&["no-such-program"])).await else {
        panic!("it started")
    };
    assert_eq!(
        error.to_string(),
        "exec: \"no-such-program\": executable file not found in $PATH"
    );
    assert_eq!(error.exit_code(), 127);
}

async fn input_reaches_the_process(
    runtime: &dyn Runtime,
    plan: &(dyn Fn(&[&str]) -> LaunchPlan + Sync),
) {
    let mut plan = plan(&["cat"]);
    plan.process.open_stdin = true;
    let id = plan.id.clone();
    let (task, mut io) = runtime.start(plan).await.expect("it starts");
    let stdin = io.stdin.take().expect("it has an input");
    stdin
        .send(Bytes::from_static(b"hello "))
        .await
        .expect("it reads");
    stdin
        .send(Bytes::from_static(b"there"))
        .await
        .expect("it reads");
    drop(stdin);
    assert_eq!(output(&mut io).await, "hello there");
    assert_eq!(task.wait().await.code, 0);
    runtime.cleanup(&id).await.expect("it is cleaned up");
}

async fn signals_end_it(runtime: &dyn Runtime, plan: &(dyn Fn(&[&str]) -> LaunchPlan + Sync)) {
    let plan = plan(&["sleep", "1000"]);
    let id = plan.id.clone();
    let (task, mut io) = runtime.start(plan).await.expect("it starts");
    assert!(
        task.processes()
            .await
            .expect("it runs")
            .contains(&task.pid())
    );
    task.pause().await.expect("it pauses");
    task.resume().await.expect("it resumes");
    match task.stats().await {
        Ok(stats) => {
            assert!(stats.pids.current >= 1, "{stats:?}");
            assert!(stats.memory.usage > 0, "{stats:?}");
        }
        // A host without these controllers says so.
        Err(error) => assert!(matches!(error, RuntimeError::Unsupported { .. }), "{error}"),
    }
    assert!(matches!(
        task.signal(4711).await,
        Err(RuntimeError::Invalid { .. })
    ));
    task.signal(9).await.expect("it gets the signal");
    assert_eq!(task.wait().await.code, 137);
    assert_eq!(output(&mut io).await, "");
    runtime.cleanup(&id).await.expect("it is cleaned up");
}

async fn execs(runtime: &dyn Runtime, plan: &(dyn Fn(&[&str]) -> LaunchPlan + Sync)) {
    let plan = plan(&["sleep", "1000"]);
    let id = plan.id.clone();
    let (task, _io) = runtime.start(plan).await.expect("it starts");
    let (one, mut io) = task
        .exec(exec(&["echo", "inside"]))
        .await
        .expect("it starts");
    assert_eq!(output(&mut io).await, "inside\n");
    assert_eq!(one.wait().await.code, 0);
    let (one, _io) = task
        .exec(exec(&["sh", "-c", "exit 5"]))
        .await
        .expect("it starts");
    assert_eq!(one.wait().await.code, 5);
    let Err(error) = task.exec(exec(&["no-such-program"])).await else {
        panic!("it started")
    };
    assert_eq!(error.exit_code(), 127);
    let (one, _io) = task
        .exec(exec(&["sleep", "1000"]))
        .await
        .expect("it starts");
    task.signal(9).await.expect("it gets the signal");
    assert_eq!(task.wait().await.code, 137);
    // A process does not outlive its container.
    assert_eq!(one.wait().await.code, 137);
    runtime.cleanup(&id).await.expect("it is cleaned up");
}

async fn recovery(runtime: &dyn Runtime, plan: &(dyn Fn(&[&str]) -> LaunchPlan + Sync)) {
    let plan = plan(&["sleep", "1000"]);
    let (id, folder) = (plan.id.clone(), plan.folder.clone());
    let (task, io) = runtime.start(plan).await.expect("it starts");
    let pid = task.pid();
    // The engine that started it goes.
    drop((task, io));
    let found = runtime.recover(&id, &folder).await.expect("it answers");
    let Recovered::Running(task, mut io) = found else {
        panic!("it runs")
    };
    assert_eq!(task.pid(), pid);
    task.signal(9).await.expect("it gets the signal");
    assert_eq!(task.wait().await.code, 137);
    assert_eq!(output(&mut io).await, "");
    let found = runtime.recover(&id, &folder).await.expect("it answers");
    let Recovered::Exited(status) = found else {
        panic!("it has ended")
    };
    assert_eq!(status.code, 137);
    runtime.cleanup(&id).await.expect("it is cleaned up");
    let unknown = runtime
        .recover(&ContainerId::random(), &PathBuf::from("/nonexistent"))
        .await;
    assert!(matches!(unknown, Ok(Recovered::Lost)));
}
