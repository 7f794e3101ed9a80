use super::*;

async fn start(execs: &Arc<ExecService>, id: &ExecId) -> Result<ProcessIo, ContainerError> {
    let claim = execs.claim(id.as_str())?;
    execs
        .start_attached(claim, ExecStartOptions::default())
        .await
}

use crate::clock::SystemClock;
use crate::containers::testing::{self, World};

async fn world() -> (World, Arc<ContainerService>, Arc<ExecService>) {
    let world = World::default();
    let containers = world.service();
    let execs = ExecService::new(containers.clone(), Arc::new(SystemClock));
    containers
        .create(testing::request("web", &["sleep"]))
        .await
        .expect("create");
    (world, containers, execs)
}

fn request(args: &[&str]) -> ExecRequest {
    ExecRequest {
        args: args.iter().map(|word| (*word).to_owned()).collect(),
        ..ExecRequest::default()
    }
}

#[tokio::test]
async fn an_exec_runs_and_its_exit_code_can_be_read() {
    let (world, containers, execs) = world().await;
    containers.start("web").await.expect("start");
    let id = execs
        .create("web", request(&["exit", "3"]))
        .expect("create");
    let facts = execs.inspect(id.as_str()).expect("it is there");
    assert_eq!((facts.running, facts.exit_code), (false, None));
    let io = start(&execs, &id).await.expect("start");
    let mut output = io.output;
    while output.recv().await.is_some() {}
    assert_eq!(execs.inspect(id.as_str()).expect("kept").exit_code, Some(3));
    let again = start(&execs, &id).await;
    assert!(matches!(again, Err(ContainerError::Conflict { .. })));
    let unused = execs.create("web", request(&["exit"])).expect("create");
    drop(execs.claim(unused.as_str()).expect("free"));
    let claim = execs.claim(unused.as_str()).expect("given back");
    assert!(execs.claim(unused.as_str()).is_err(), "only one at a time");
    drop(claim);
    assert!(world.actions().contains(&"exec_create: exit 3".to_owned()));
}

#[tokio::test]
async fn an_exec_needs_a_running_container_and_a_program() {
    let (_world, containers, execs) = world().await;
    let error = execs
        .create("web", request(&["ls"]))
        .expect_err("it does not run");
    assert!(error.to_string().ends_with("is not running"), "{error}");
    containers.start("web").await.expect("start");
    assert!(execs.create("web", request(&[])).is_err());
    let id = execs.create("web", request(&["missing"])).expect("create");
    let error = start(&execs, &id).await.expect_err("no such program");
    assert!(
        error
            .to_string()
            .contains("executable file not found in $PATH"),
        "{error}"
    );
    assert_eq!(
        execs.inspect(id.as_str()).expect("kept").exit_code,
        Some(127)
    );
    assert!(matches!(
        execs.inspect("nothing"),
        Err(ContainerError::NoSuchExec { .. })
    ));
}
