//! Containers run for real: needs root, skipped with a line elsewhere.

mod host;

use engine::runtime::*;
use host::*;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn output_exit_code_and_log() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let place = host.container();
    let (code, out, err) = run(&runtime, place.shell("echo hello; echo oops >&2; exit 7")).await;
    assert_eq!((code, out.as_str(), err.as_str()), (7, "hello\n", "oops\n"));
    let log = std::fs::read_to_string(place.log()).unwrap();
    assert!(log.contains(r#"{"log":"hello\n","stream":"stdout","time":""#), "{log}");
    assert!(log.contains(r#"{"log":"oops\n","stream":"stderr","time":""#), "{log}");
    assert!(place.folder.join("exit.json").exists());
    assert!(!host.folder.path().join("run/containers").join(place.id.as_str()).exists());
}
