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

/// As the container's first process is told of them.
#[tokio::test]
async fn an_exec_and_a_check_are_told_of_the_containers_links() {
    let world = World::default();
    let containers = world.service();
    let execs = ExecService::new(containers.clone(), Arc::new(SystemClock));
    let mut db = testing::request("db", &["sleep"]);
    db.config.exposed_ports = ["5432/tcp".to_owned()].into();
    containers.create(db).await.expect("create");
    let mut web = testing::request("web", &["sleep"]);
    web.host.links = vec!["db".into()];
    web.config.env = vec!["DB_NAME=mine".into()];
    web.config.healthcheck = Some(crate::images::Healthcheck {
        test: vec!["CMD".into(), "exit".into()],
        interval: 20_000_000,
        ..Default::default()
    });
    containers.create(web).await.expect("create");
    for name in ["db", "web"] {
        containers.start(name).await.expect("start");
    }
    let id = execs.create("web", request(&["env"])).expect("create");
    start(&execs, &id).await.expect("start");
    let told = || {
        let execs = world.runtime.execs.lock().unwrap();
        let told = |program: &str| {
            let mut ran = execs.iter().map(|plan| &plan.process);
            let process = ran.find(|process| process.args[0] == program)?;
            let mut env = process.env.iter();
            let linked = env.any(|one| one.starts_with("DB_PORT_5432_TCP=tcp://172.17.0."));
            Some(linked && process.env.contains(&"DB_NAME=mine".to_owned()))
        };
        Some((told("env")?, told("exit")?))
    };
    let checked = async {
        loop {
            match told() {
                Some(told) => break told,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(20), checked).await;
    assert_eq!(told.expect("it is checked"), (true, true));
    // One that is gone is no reason not to run.
    containers.kill("db", None).await.expect("kill");
    let id = execs.create("web", request(&["env"])).expect("create");
    start(&execs, &id).await.expect("start");
}
