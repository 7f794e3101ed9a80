//! Volumes with the stock client.

use crate::engine_with_busybox;
use harness::agent::{Agent, LIMIT};
use harness::run::{Output, run};

fn docker(agent: &Agent, arguments: &[&str]) -> Option<Output> {
    Some(run(&mut agent.docker(arguments)?, LIMIT))
}

fn mounted(agent: &Agent, volume: &str) -> bool {
    let path = agent.data_root().join("volumes").join(volume);
    let path = path.to_str().expect("plain");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("it is there");
    mounts.lines().any(|line| line.contains(path))
}

#[test]
fn options_mount_memory_and_folders_while_containers_run() {
    let Some(mut agent) = engine_with_busybox(&[]) else {
        return;
    };
    let Some(made) = docker(
        &agent,
        &[
            "volume",
            "create",
            "--opt",
            "type=tmpfs",
            "--opt",
            "device=tmpfs",
            "--opt",
            "o=size=2m,uid=1000",
            "memory",
        ],
    ) else {
        return;
    };
    assert_eq!(made.success(), "memory\n");
    let say = |agent: &Agent, words: &[&str]| docker(agent, words).expect("there is docker");
    assert_eq!(
        say(
            &agent,
            &["volume", "inspect", "-f", "{{.Options.o}}", "memory"]
        )
        .success(),
        "size=2m,uid=1000\n"
    );
    assert!(!mounted(&agent, "memory"));
    for name in ["one", "two"] {
        say(
            &agent,
            &[
                "run",
                "-d",
                "--name",
                name,
                "--network",
                "none",
                "-v",
                "memory:/data",
                "busybox",
                "sleep",
                "1000",
            ],
        )
        .success();
    }
    assert!(mounted(&agent, "memory"));
    say(
        &agent,
        &["exec", "one", "sh", "-c", "echo text > /data/file"],
    )
    .success();
    assert_eq!(
        say(
            &agent,
            &[
                "exec",
                "two",
                "sh",
                "-c",
                "cat /data/file; df -k /data | tail -1 | awk '{print $2}'; stat -c %u /data"
            ]
        )
        .success(),
        "text\n2048\n1000\n"
    );
    // An engine that was killed finds what is mounted.
    agent.kill_serve();
    agent.serve();
    say(&agent, &["rm", "-f", "one"]).success();
    assert!(mounted(&agent, "memory"), "the other still has it");
    let busy = say(&agent, &["volume", "rm", "memory"]).fails_with(1);
    assert!(
        busy.contains("remove memory: volume is in use - ["),
        "{busy}"
    );
    say(&agent, &["rm", "-f", "two"]).success();
    assert!(!mounted(&agent, "memory"));
    say(&agent, &["volume", "rm", "memory"]).success();

    let folder = agent.folder().join("elsewhere");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("file"), "here\n").expect("a file");
    let device = format!("device={}", folder.display());
    say(
        &agent,
        &[
            "volume",
            "create",
            "-o",
            "type=none",
            "-o",
            "o=bind",
            "-o",
            &device,
            "bound",
        ],
    )
    .success();
    assert_eq!(
        say(
            &agent,
            &[
                "run",
                "--rm",
                "--network",
                "none",
                "-v",
                "bound:/d",
                "busybox",
                "cat",
                "/d/file"
            ]
        )
        .success(),
        "here\n"
    );
    say(&agent, &["volume", "rm", "bound"]).success();
    assert!(
        folder.join("file").exists(),
        "what was bound is not the volume's"
    );
    say(
        &agent,
        &[
            "volume",
            "create",
            "-o",
            "type=none",
            "-o",
            "o=bind",
            "-o",
            "device=/no/such/folder",
            "lost",
        ],
    )
    .success();
    let text = say(
        &agent,
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "lost:/d",
            "busybox",
            "true",
        ],
    )
    .fails_with(127);
    assert!(
        text.contains("failed to mount local volume: mount /no/such/folder:")
            && text.contains("no such file or directory"),
        "{text}"
    );
    let text = say(&agent, &["volume", "create", "-o", "type=tmpfs"]).fails_with(1);
    assert!(
        text.contains("missing required option: \"device\""),
        "{text}"
    );
}

#[test]
fn a_new_volume_is_filled_by_the_image_and_goes_with_its_container() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let Some(filled) = docker(
        &agent,
        &[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "web:/www",
            "busybox",
            "cat",
            "/www/index.html",
        ],
    ) else {
        return;
    };
    assert_eq!(filled.success(), "hello from berth\n");
    let say = |words: &[&str]| docker(&agent, words).expect("there is docker");
    assert_eq!(
        say(&[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "bare:/www:nocopy",
            "busybox",
            "ls",
            "/www"
        ])
        .success(),
        ""
    );
    say(&[
        "run",
        "--name",
        "donor",
        "--network",
        "none",
        "-v",
        "/anonymous",
        "-v",
        "web:/www",
        "busybox",
        "touch",
        "/anonymous/x",
    ])
    .success();
    let text = say(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--volumes-from",
        "donor:ro",
        "busybox",
        "sh",
        "-c",
        "ls /anonymous; touch /www/y 2>&1",
    ]);
    assert!(
        text.stdout.starts_with("x\n") && text.stdout.contains("Read-only"),
        "{}",
        text.report()
    );
    // With our client: Debian 12's knows neither subpaths nor `--all`.
    let part = "type=volume,src=web,dst=/p,volume-subpath=index.html";
    assert_eq!(
        agent
            .run(&[
                "run",
                "--rm",
                "--network",
                "none",
                "--mount",
                part,
                "busybox",
                "cat",
                "/p"
            ])
            .success(),
        "hello from berth\n"
    );
    assert_eq!(
        say(&["volume", "ls", "-q", "-f", "dangling=false"])
            .success()
            .lines()
            .count(),
        2
    );
    say(&["rm", "-v", "donor"]).success();
    assert_eq!(say(&["volume", "ls", "-q"]).success(), "bare\nweb\n");
    let pruned = agent.run(&["volume", "prune", "-f", "--all"]).success();
    assert!(
        pruned.contains("bare")
            && pruned.contains("web")
            && pruned.contains("Total reclaimed space"),
        "{pruned}"
    );
    // Times of the client are whole seconds.
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let soon = (now.as_secs() + 2).to_string();
    let events = say(&[
        "events",
        "--since",
        "1h",
        "--until",
        &soon,
        "-f",
        "type=volume",
        "--format",
        "{{.Action}}",
    ])
    .success();
    for action in ["create", "mount", "unmount", "destroy", "prune"] {
        assert!(
            events.lines().any(|line| line == action),
            "{action}: {events}"
        );
    }
}

#[test]
fn our_own_client_has_the_verbs() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let say = |words: &[&str]| agent.run(words).success();
    assert_eq!(
        say(&["volume", "create", "--label", "a=b", "data"]),
        "data\n"
    );
    let unnamed = say(&["volume", "create"]);
    assert_eq!(unnamed.trim().len(), 64, "{unnamed}");
    assert_eq!(
        say(&["volume", "ls", "-q", "--filter", "label=a"]),
        "data\n"
    );
    let listed = say(&["volume", "ls"]);
    assert!(
        listed.starts_with("DRIVER") && listed.contains("local     data"),
        "{listed}"
    );
    assert_eq!(
        say(&["volume", "inspect", "-f", "{{.Labels.a}}", "data"]),
        "b\n"
    );
    let pruned = say(&["volume", "prune", "-f"]);
    assert!(
        pruned.contains(unnamed.trim()) && !pruned.contains("data"),
        "{pruned}"
    );
    assert_eq!(say(&["volume", "rm", "data"]), "data\n");
    let text = agent.run(&["volume", "rm", "data"]).fails_with(1);
    assert!(text.contains("get data: no such volume"), "{text}");
    let text = agent.run(&["volume", "create", "a/b"]).fails_with(1);
    assert!(text.contains("includes invalid characters"), "{text}");
}

#[test]
fn what_a_stopped_container_has_mounted_is_copied_and_unmounted_again() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let source = agent.folder().join("elsewhere");
    std::fs::create_dir(&source).expect("a folder");
    std::fs::write(source.join("word"), "there").expect("a file");
    let device = format!("device={}", source.display());
    let options = ["-o", "type=none", "-o", "o=bind", "-o", &device];
    let mut words = vec!["volume", "create"];
    words.extend(options);
    words.push("other");
    let Some(made) = docker(&agent, &words) else {
        return;
    };
    made.success();
    let say = |words: &[&str]| docker(&agent, words).expect("there is docker");
    say(&[
        "create",
        "--name",
        "still",
        "-v",
        "other:/far",
        "busybox",
        "true",
    ])
    .success();
    let out = agent.folder().join("out");
    say(&["cp", "still:/far/word", out.to_str().expect("plain")]).success();
    assert_eq!(std::fs::read_to_string(&out).expect("copied"), "there");
    std::fs::write(&out, "back").expect("a file");
    say(&["cp", out.to_str().expect("plain"), "still:/far/answer"]).success();
    let answer = std::fs::read_to_string(source.join("answer"));
    assert_eq!(answer.expect("copied"), "back");
    let limit = std::time::Duration::from_secs(10);
    harness::run::eventually("it is unmounted", limit, || {
        (!mounted(&agent, "other")).then_some(())
    });
}
