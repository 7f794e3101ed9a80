//! Stop, restart and kill, where they meet `--rm`, a pause, a restart policy or a client that does not read.

use super::*;

/// A `docker run` that somebody has suspended does not read, and the next run has clients of its own.
#[tokio::test]
async fn a_client_that_does_not_read_holds_up_no_later_run() {
    let world = World::default();
    let service = world.service();
    let mut request = request("web", &["cat"]);
    request.config.open_stdin = true;
    create(&service, request).await;
    let options = AttachOptions {
        stdin: true,
        stdout: true,
        stream: true,
        ..AttachOptions::default()
    };
    let suspended = service.attach("web", &options).await.expect("attach");
    service.start("web").await.expect("start");
    let typed = suspended.stdin.expect("asked for");
    let old = Bytes::from_static(b"old");
    // Until nothing moves any more.
    let blocked = async { while typed.send(old.clone()).await.is_ok() {} };
    let blocked = tokio::time::timeout(Duration::from_millis(200), blocked).await;
    blocked.expect_err("it waits for the client");
    service.kill("web", None).await.expect("kill");
    assert_eq!(state(&service, "web").name(), "exited");

    let client = service.attach("web", &options).await.expect("attach");
    service.start("web").await.expect("start again");
    drop(suspended.output);
    drop(typed);
    let (typed, mut output) = (client.stdin.expect("asked"), client.output.expect("asked"));
    for _ in 0..3 {
        typed.send(Bytes::from_static(b"new")).await.expect("taken");
        let read = tokio::time::timeout(Duration::from_secs(20), output.recv()).await;
        let (_, data) = read.expect("in time").expect("it goes on");
        assert_eq!(data, "new");
    }
}
