//! The whole host went down and came back: no process, no run-time state, no mount, no interface is left, and the kernel
//! has another boot id. Only the data root is there.

use crate::engine_with_busybox;
use crate::traces::{mounts, shim_processes, shims};
use harness::agent::Agent;
use harness::run::eventually;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn shell(script: &str, words: &[&str]) {
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .args(words)
        .status();
    assert!(status.expect("sh starts").success(), "{script}");
}

fn shown(agent: &Agent, name: &str, template: &str) -> String {
    let output = agent.run(&["inspect", "--format", template, name]);
    output.success().trim().to_owned()
}

/// Takes away what a host loses with its power.
fn power_off(agent: &mut Agent, ids: &[String]) {
    agent.kill_serve();
    // Shims first: none of them may note how its container ended. The containers' processes go with them.
    for (pid, _) in shim_processes(agent) {
        shell("kill -9 \"$1\"", &[&pid]);
    }
    eventually("the shims are gone", SOON, || {
        shims(agent).is_empty().then_some(())
    });
    for place in mounts(agent.folder()).into_iter().rev() {
        shell("umount -l \"$1\"", &[&place]);
    }
    std::fs::remove_dir_all(agent.exec_root()).expect("nothing is mounted there");
    for id in ids {
        let remove =
            "find /sys/fs/cgroup -depth -type d -path \"*/berth/$1*\" -exec rmdir {} + 2>/dev/null";
        eventually("its processes are gone", SOON, || {
            let status = Command::new("sh").args(["-c", remove, "sh", id]).status();
            status.is_ok_and(|status| status.success()).then_some(())
        });
    }
    shell(
        "ip link delete \"$1\"; nft delete table ip \"berth-$1\"; true",
        &[agent.bridge()],
    );
    std::fs::write(agent.data_root().join("boot-id"), "another\n").expect("the noted boot");
}

#[test]
fn containers_come_back_as_their_policies_say_in_the_order_they_were_made() {
    let Some(mut agent) = engine_with_busybox(&[]) else {
        return;
    };
    let mut ids = Vec::new();
    for (name, policy) in [
        ("zeta", "always"),
        ("once", "no"),
        ("alpha", "unless-stopped"),
        ("stopped", "unless-stopped"),
        ("failing", "on-failure:3"),
        ("halted", "always"),
        ("mid", "always"),
    ] {
        let script = "trap 'exit 0' TERM; echo started; while :; do sleep 1; done";
        let words = [
            "run",
            "-d",
            "--name",
            name,
            "--restart",
            policy,
            "-v",
            "kept:/kept",
            "--mount",
            "type=image,source=busybox,target=/image",
        ];
        let words = [&words[..], &["busybox", "sh", "-c", script]].concat();
        ids.push(agent.run(&words).success().trim().to_owned());
    }
    agent
        .run(&[
            "exec",
            "zeta",
            "sh",
            "-c",
            "echo here > /kept/file; echo here > /file",
        ])
        .success();
    agent.run(&["stop", "stopped", "halted"]).success();
    power_off(&mut agent, &ids);
    agent.serve();
    // Docker starts `always` again even if it was stopped by hand, and takes what went down with the host for a failure.
    let back = ["zeta", "alpha", "failing", "halted", "mid"];
    for name in back {
        eventually(&format!("{name} is back"), SOON, || {
            (shown(&agent, name, "{{.State.Status}}") == "running").then_some(())
        });
    }
    let mut starts: Vec<(String, &str)> = back
        .iter()
        .map(|name| (shown(&agent, name, "{{.State.StartedAt}}"), *name))
        .collect();
    // Go leaves out zeros at a fraction's end.
    starts.sort_by_key(|(at, _)| format!("{:0<32}", at.trim_end_matches('Z')));
    let order: Vec<&str> = starts.iter().map(|(_, name)| *name).collect();
    assert_eq!(order, back, "{starts:?}");
    assert_eq!(
        shown(&agent, "once", "{{.State.Status}} {{.State.ExitCode}}"),
        "exited 255"
    );
    assert_eq!(
        shown(&agent, "stopped", "{{.State.Status}} {{.State.ExitCode}}"),
        "exited 0"
    );
    let applet = ["exec", "zeta", "test", "-x", "/image/bin/busybox"];
    agent.run(&applet).success();
    for file in ["/kept/file", "/file"] {
        assert_eq!(
            agent.run(&["exec", "zeta", "cat", file]).success(),
            "here\n"
        );
    }
    // What they said before is still read, and what they say now comes behind it.
    eventually("the new start has spoken", SOON, || {
        (agent.run(&["logs", "zeta"]).success() == "started\nstarted\n").then_some(())
    });
    agent.run(&["run", "--rm", "busybox", "true"]).success();
}
