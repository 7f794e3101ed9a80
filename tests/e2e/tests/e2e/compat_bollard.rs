//! bollard, the Rust client: its models are generated from Docker's specification and refuse what differs from it.

use crate::engine_with_busybox;
use bollard::Docker;
use bollard::container::{AttachContainerResults, LogOutput};
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, HostConfig, PortBinding, VolumeCreateRequest};
use bollard::query_parameters::*;
use futures_util::{Stream, StreamExt, TryStreamExt};
use harness::agent::Agent;
use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::AsyncWriteExt;

fn connect(agent: &Agent) -> Docker {
    let socket = agent.socket();
    let socket = socket.to_str().expect("a path of ours is text");
    Docker::connect_with_unix(socket, 60, bollard::API_DEFAULT_VERSION).expect("a client")
}

fn busybox(command: &[&str]) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some("busybox".into()),
        cmd: Some(command.iter().map(|&word| word.to_owned()).collect()),
        ..Default::default()
    }
}

async fn create(docker: &Docker, name: &str, body: ContainerCreateBody) {
    let options = CreateContainerOptionsBuilder::new().name(name).build();
    let made = docker.create_container(Some(options), body).await;
    assert_eq!(made.expect("created").warnings, Vec::<String>::new());
}

async fn remove(docker: &Docker, name: &str) {
    let options = RemoveContainerOptionsBuilder::new().force(true).build();
    let removed = docker.remove_container(name, Some(options)).await;
    removed.expect("removed");
}

/// Everything of a stream, each piece as `stdout`, `stderr` or `console`, in the order of arrival; neighbours joined.
async fn collect(
    output: impl Stream<Item = Result<LogOutput, Error>>,
) -> Vec<(&'static str, String)> {
    let mut all: Vec<(&'static str, String)> = Vec::new();
    let mut output = std::pin::pin!(output);
    while let Some(piece) = output.next().await {
        let (name, message) = match piece.expect("a frame") {
            LogOutput::StdOut { message } => ("stdout", message),
            LogOutput::StdErr { message } => ("stderr", message),
            LogOutput::StdIn { message } => ("stdin", message),
            LogOutput::Console { message } => ("console", message),
        };
        let text = String::from_utf8_lossy(&message);
        match all.last_mut() {
            Some((last, so_far)) if *last == name => so_far.push_str(&text),
            _ => all.push((name, text.into_owned())),
        }
    }
    all
}

/// The exit code: bollard makes an error of one that is not 0.
async fn wait(docker: &Docker, name: &str) -> i64 {
    let mut ends = std::pin::pin!(docker.wait_container(name, None::<WaitContainerOptions>));
    match ends.next().await.expect("an answer") {
        Ok(end) => end.status_code,
        Err(Error::DockerContainerWaitError { code, .. }) => code,
        Err(error) => panic!("wait for {name}: {error}"),
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, code: u16, words: &str) {
    match result.expect_err("it must be refused") {
        Error::DockerResponseServerError {
            status_code,
            message,
        } => {
            assert_eq!(status_code, code, "{message}");
            assert!(message.contains(words), "{message}");
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bollard_reads_every_answer() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let docker = connect(&agent);
    let version = docker.version().await.expect("a version");
    assert_eq!(version.os.as_deref(), Some("linux"));
    let info = docker.info().await.expect("the facts");
    assert_eq!(info.images, Some(1));
    docker.ping().await.expect("an answer");

    let mut body = busybox(&["sleep", "1000"]);
    body.exposed_ports = Some(vec!["80/tcp".into()]);
    body.labels = Some(HashMap::from([("role".into(), "web".into())]));
    body.host_config = Some(HostConfig {
        binds: Some(vec!["things:/things".into()]),
        memory: Some(64 << 20),
        port_bindings: Some(HashMap::from([(
            "80/tcp".into(),
            Some(vec![PortBinding {
                host_ip: Some("127.0.0.1".into()),
                host_port: None,
            }]),
        )])),
        ..Default::default()
    });
    create(&docker, "web", body).await;
    docker.start_container("web", None).await.expect("started");
    let options = ListContainersOptionsBuilder::new()
        .all(true)
        .size(true)
        .filters(&HashMap::from([("label", vec!["role=web"])]))
        .build();
    let listed = docker.list_containers(Some(options)).await.expect("a list");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].names, Some(vec!["/web".to_owned()]));
    assert_eq!(listed[0].ports.as_ref().expect("ports")[0].private_port, 80);
    assert_eq!(
        listed[0].mounts.as_ref().expect("mounts")[0].name,
        Some("things".into())
    );
    let options = InspectContainerOptionsBuilder::new().size(true).build();
    let shown = docker
        .inspect_container("web", Some(options))
        .await
        .expect("the container");
    assert_eq!(shown.name.as_deref(), Some("/web"));
    assert!(shown.size_root_fs > Some(0));
    assert_eq!(shown.state.expect("a state").running, Some(true));
    assert_eq!(shown.host_config.expect("settings").memory, Some(64 << 20));
    let layers = shown.graph_driver.expect("a driver").data;
    assert!(layers["UpperDir"].starts_with(agent.data_root().to_str().expect("text")));
    let top = docker
        .top_processes("web", None::<TopOptions>)
        .await
        .expect("processes");
    assert_eq!(top.processes.expect("a list").len(), 1);

    let volumes = docker
        .list_volumes(None::<ListVolumesOptions>)
        .await
        .expect("a list");
    assert_eq!(volumes.volumes.expect("volumes")[0].name, "things");
    let networks = docker
        .list_networks(None::<ListNetworksOptions>)
        .await
        .expect("a list");
    let bridge = networks
        .iter()
        .find(|network| network.name.as_deref() == Some("bridge"))
        .expect("the default network");
    assert!(bridge.ipam.as_ref().expect("addresses").config.is_some());
    let inside = docker
        .inspect_network("bridge", None::<InspectNetworkOptions>)
        .await
        .expect("it");
    assert_eq!(inside.containers.expect("containers").len(), 1);
    remove(&docker, "web").await;
    let volume = docker
        .create_volume(VolumeCreateRequest {
            name: Some("more".into()),
            ..Default::default()
        })
        .await
        .expect("made");
    assert_eq!(volume.driver, "local");
    let volume = docker.inspect_volume("more").await.expect("there");
    assert!(
        volume.mountpoint.ends_with("/more/_data"),
        "{}",
        volume.mountpoint
    );
    for name in ["more", "things"] {
        docker
            .remove_volume(name, None::<RemoveVolumeOptions>)
            .await
            .expect("removed");
    }

    let inspected = docker
        .inspect_container("nobody", None::<InspectContainerOptions>)
        .await;
    refused(inspected, 404, "No such container: nobody");
    refused(
        docker.inspect_image("nobody/nothing").await,
        404,
        "No such image",
    );
    let body = ContainerCreateBody {
        image: Some("nobody/nothing".into()),
        ..Default::default()
    };
    let made = docker
        .create_container(None::<CreateContainerOptions>, body)
        .await;
    refused(made, 404, "No such image: nobody/nothing:latest");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bollard_streams() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let docker = connect(&agent);
    for tty in [false, true] {
        let name = if tty { "with-terminal" } else { "with-pipes" };
        let mut body = busybox(&["sh", "-c", "read line; echo got $line; exit 4"]);
        (body.open_stdin, body.tty) = (Some(true), Some(tty));
        create(&docker, name, body).await;
        let options = AttachContainerOptionsBuilder::new()
            .stdin(true)
            .stdout(true)
            .stderr(true)
            .stream(true)
            .build();
        let AttachContainerResults { output, mut input } = docker
            .attach_container(name, Some(options))
            .await
            .expect("attached");
        docker.start_container(name, None).await.expect("started");
        input.write_all(b"word\n").await.expect("sent");
        let heard = tokio::time::timeout(Duration::from_secs(60), collect(output)).await;
        let heard = heard.expect("the stream ends with the container");
        // bollard cannot know whether there is a terminal, and calls what has no frames `console`.
        let (stream, text) = match tty {
            false => ("stdout", "got word\n"),
            true => ("console", "word\r\ngot word\r\n"),
        };
        assert_eq!(heard, [(stream, text.to_owned())]);
        assert_eq!(wait(&docker, name).await, 4);
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).build();
        let logged = collect(docker.logs(name, Some(options))).await;
        assert_eq!(logged, [(stream, text.to_owned())]);
        remove(&docker, name).await;
    }

    create(&docker, "busy", busybox(&["sleep", "1000"])).await;
    docker.start_container("busy", None).await.expect("started");
    let exec = docker
        .create_exec(
            "busy",
            CreateExecOptions {
                attach_stdin: Some(true),
                attach_stdout: Some(true),
                attach_stderr: Some(true),
                cmd: Some(vec![
                    "sh",
                    "-c",
                    "read line; echo $line; sleep 0.1; echo err >&2; exit 9",
                ]),
                ..Default::default()
            },
        )
        .await
        .expect("made")
        .id;
    match docker.start_exec(&exec, None).await.expect("started") {
        StartExecResults::Attached { output, mut input } => {
            input.write_all(b"through\n").await.expect("sent");
            assert_eq!(
                collect(output).await,
                [
                    ("stdout", "through\n".to_owned()),
                    ("stderr", "err\n".to_owned())
                ]
            );
        }
        StartExecResults::Detached => panic!("it was to be attached"),
    }
    let facts = docker.inspect_exec(&exec).await.expect("kept");
    assert_eq!((facts.running, facts.exit_code), (Some(false), Some(9)));
    remove(&docker, "busy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bollard_works_with_images() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let docker = connect(&agent);
    let listed = docker
        .list_images(None::<ListImagesOptions>)
        .await
        .expect("a list");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].repo_tags, ["busybox:latest"]);
    let image = docker.inspect_image("busybox").await.expect("there");
    assert_eq!(image.id, Some(listed[0].id.clone()));
    assert_eq!(
        image.root_fs.expect("layers").layers.expect("a list").len(),
        2
    );
    let history = docker.image_history("busybox").await.expect("a list");
    assert_eq!(history[0].id, listed[0].id);
    let options = TagImageOptionsBuilder::new()
        .repo("example.com/box")
        .tag("1")
        .build();
    docker
        .tag_image("busybox", Some(options))
        .await
        .expect("tagged");
    let removed = docker
        .remove_image("example.com/box:1", None::<RemoveImageOptions>, None)
        .await
        .expect("removed");
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].untagged.as_deref(), Some("example.com/box:1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bollard_hears_events() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let docker = connect(&agent);
    create(&docker, "brief", busybox(&["true"])).await;
    docker
        .start_container("brief", None)
        .await
        .expect("started");
    assert_eq!(wait(&docker, "brief").await, 0);
    remove(&docker, "brief").await;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let options = EventsOptionsBuilder::new()
        .since("0")
        .until(&(now.as_secs() + 1).to_string())
        .filters(&HashMap::from([
            ("container", vec!["brief"]),
            ("type", vec!["container"]),
        ]))
        .build();
    let events: Vec<_> = docker
        .events(Some(options))
        .try_collect()
        .await
        .expect("events");
    let actions: Vec<&str> = events
        .iter()
        .filter_map(|event| event.action.as_deref())
        .collect();
    assert_eq!(actions, ["create", "start", "die", "destroy"]);
}
