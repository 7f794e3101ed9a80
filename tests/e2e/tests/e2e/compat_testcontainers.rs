//! testcontainers for Rust and for Python see no difference: starting, waiting, mapped ports, clean-up, the reaper.

use e2e::arena::{self, Arena, Kind};
use e2e::{python, reaper};
use harness::agent::LIMIT;
use harness::http::request;
use harness::programs::workspace;
use harness::run::{eventually, run};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use testcontainers::core::{ExecCommand, Healthcheck, IntoContainerPort, WaitFor};
use testcontainers::runners::AsyncRunner;
use testcontainers::{GenericImage, ImageExt};

/// testcontainers and all that it needs.
const PACKAGES: &[&str] = &[
    "certifi==2024.8.30",
    "charset-normalizer==3.4.0",
    "docker==7.1.0",
    "idna==3.10",
    "python-dotenv==1.0.1",
    "requests==2.32.3",
    "testcontainers==4.15.0",
    "typing_extensions==4.12.2",
    "urllib3==2.2.3",
    "wrapt==1.16.0",
];

fn arena() -> Option<Arena> {
    let why =
        arena::obstacle().or_else(|| reaper::program().err().map(|error| format!("{error:#}")));
    if let Some(why) = why {
        println!("skipped: {why}");
        return None;
    }
    let helper = Path::new(env!("CARGO_BIN_EXE_compat"));
    Some(Arena::start(Kind::Berth, helper).expect("an arena"))
}

fn containers(arena: &Arena) -> String {
    let path = "/containers/json?all=1";
    request(&arena.socket(), "GET", path, b"")
        .expect("an answer")
        .body
}

#[test]
fn testcontainers_for_python_spends_a_day_and_its_reaper_cleans_up() {
    let python = match python::environment("testcontainers-python", PACKAGES) {
        Ok(python) => python,
        Err(error) => {
            println!("skipped: testcontainers cannot be had: {error:#}");
            return;
        }
    };
    let Some(arena) = arena() else { return };
    let script = |verb: &str| -> Command {
        let mut command = arena.command(&python);
        command
            .arg(workspace().join("tests/e2e/compat/testcontainers_day.py"))
            .arg(verb)
            .env("DOCKER_CONFIG", "/nowhere")
            .env("RYUK_RECONNECTION_TIMEOUT", "1s");
        command
    };
    let left = run(&mut script("leave"), LIMIT).success();
    assert!(left.ends_with("left\n"), "{left}");
    let done = run(&mut script("day"), LIMIT).success();
    assert!(done.ends_with("done\n"), "{done}");
    // Both reapers end after their processes, remove what those left, and are removed themselves.
    eventually("the reapers clean up", Duration::from_secs(60), || {
        (containers(&arena).trim() == "[]").then_some(())
    });
}

#[test]
fn testcontainers_for_rust_spends_a_day() {
    let Some(arena) = arena() else { return };
    // In the arena's network, where the mapped ports are.
    let this = std::env::current_exe().expect("this program");
    let mut day = arena.command(this);
    day.args(["--exact", "compat_testcontainers::a_day_in_rust"])
        .args(["--ignored", "--nocapture"]);
    let output = run(&mut day, LIMIT);
    assert!(output.stdout.contains("1 passed"), "{}", output.report());
    assert_eq!(containers(&arena).trim(), "[]");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "testcontainers_for_rust_spends_a_day runs it in its arena"]
async fn a_day_in_rust() {
    let serve = "mkdir -p /www; echo '<h1>berth</h1>' > /www/index.html; echo serving; exec httpd -f -p 8080 -h /www";
    let server = GenericImage::new("alpine", "latest")
        .with_exposed_port(8080.tcp())
        .with_wait_for(WaitFor::message_on_stdout("serving"))
        .with_cmd(["sh", "-c", serve])
        .with_env_var("COLOUR", "blue")
        .with_copy_to("/etc/greeting", b"hello".to_vec())
        .start()
        .await
        .expect("a server");
    let port = server.get_host_port_ipv4(8080).await.expect("a port");
    let page = eventually("the server answers", Duration::from_secs(30), || {
        crate::fetch(&format!("127.0.0.1:{port}"))
    });
    assert!(page.ends_with("<h1>berth</h1>\n"), "{page}");
    let mut exec = server
        .exec(ExecCommand::new([
            "sh",
            "-c",
            "cat /etc/greeting; echo $COLOUR; exit 3",
        ]))
        .await
        .expect("an exec");
    let said = exec.stdout_to_vec().await.expect("its output");
    assert_eq!(String::from_utf8_lossy(&said), "helloblue\n");
    assert_eq!(exec.exit_code().await.expect("its code"), Some(3));

    let healthy = GenericImage::new("alpine", "latest")
        .with_wait_for(WaitFor::healthcheck())
        .with_cmd(["sh", "-c", "sleep 1; touch /tmp/ready; sleep 1000"])
        .with_health_check(
            Healthcheck::cmd_shell("test -e /tmp/ready")
                .with_interval(Duration::from_millis(300))
                .with_retries(30),
        )
        .start()
        .await
        .expect("a healthy container");
    healthy.stop_with_timeout(Some(0)).await.expect("stopped");
    assert!(!healthy.is_running().await.expect("inspected"));
    healthy.rm().await.expect("removed");
    // The other one goes when it is dropped.
}
