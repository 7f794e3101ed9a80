//! Images as mounts, looked at from inside.

use crate::engine_with_busybox;
use crate::traces::{mounts, shim_processes};
use harness::agent::{Agent, LIMIT};
use harness::image::{Layer, LayerTar, Packing, TestImage};
use harness::run::{eventually, run_with_input};
use serde_json::json;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// The image `data`: two layers, and links that lead about and out.
fn load_data(agent: &Agent) {
    let mut lower = LayerTar::new();
    lower.file("hello", 0o644, b"lower\n");
    lower.file("removed", 0o644, b"");
    lower
        .folder("sub", 0o755)
        .file("sub/part", 0o644, b"part\n");
    lower.folder("hack", 0o755);
    lower.link("hack/good", "../sub");
    lower.link("hack/bad", "../../../../../../etc");
    lower.link("hack/root", "/");
    let mut upper = LayerTar::new();
    upper.file("hello", 0o644, b"upper\n");
    upper.file(".wh.removed", 0o644, b"");
    let layers = [lower, upper].map(|tar| Layer::new(tar.finish(), Packing::Plain));
    let archive = TestImage::new(layers.into(), json!({})).docker_archive(&["data:latest"]);
    run_with_input(&mut agent.berth(&["load"]), &archive, LIMIT).success();
}

/// What is mounted of containers and images.
fn left(agent: &Agent) -> Vec<String> {
    let run = mounts(&agent.exec_root().join("containers"));
    [mounts(&agent.data_root()), run].concat()
}

const DATA: &str = "type=image,source=data,target=/x";

#[test]
fn an_image_is_mounted_and_kept_as_long_as_its_container() {
    let Some(mut agent) = engine_with_busybox(&[]) else {
        return;
    };
    load_data(&agent);
    let run = |mount: &str, script: &str| {
        let words = ["run", "--rm", "--network", "none", "--mount", mount];
        agent.run(&[&words[..], &["busybox", "sh", "-c", script]].concat())
    };
    let look = "ls -A /x; cat /x/hello; echo more > /x/hello; mkdir /x/sub/new; rm /x/hello";
    let seen = run(&format!("{DATA},readonly=false"), look);
    assert_eq!(
        seen.stdout,
        "hack\nhello\nsub\nupper\n",
        "{}",
        seen.report()
    );
    let refusals = seen.stderr.matches("Read-only file system").count();
    assert_eq!(refusals, 3, "{}", seen.report());
    for (subpath, script, expected) in [
        ("sub", "cat /x/part", "part\n"),
        ("hack/good", "cat /x/part", "part\n"),
        ("hello", "cat /x; echo > /x || true", "upper\n"),
    ] {
        let seen = run(&format!("{DATA},image-subpath={subpath}"), script);
        assert_eq!(seen.success(), expected, "{subpath}");
    }
    for (subpath, why) in [
        ("hack/bad", "escapes the base directory"),
        ("hack/root", "escapes the base directory"),
        ("nowhere", "cannot access path"),
        (
            "../etc",
            "subpath must be a relative path within the volume",
        ),
    ] {
        let refused = run(&format!("{DATA},image-subpath={subpath}"), "ls /x");
        assert!(refused.code != Some(0), "{}", refused.report());
        assert!(refused.stderr.contains(why), "{}", refused.report());
    }
    let missing = run("type=image,source=nowhere,target=/x", "ls /x");
    let why = "No such image: nowhere:latest";
    assert!(missing.stderr.contains(why), "{}", missing.report());

    // The same image twice, whole and in part, and for another container.
    let words = "run -d --name keep --network none --mount type=image,src=data,dst=/x";
    let words = format!("{words} --mount type=image,src=data,dst=/y,image-subpath=sub busybox");
    let words: Vec<&str> = words.split(' ').chain(["sleep", "1000"]).collect();
    let id = agent.run(&words).success().trim().to_owned();
    let both = |agent: &Agent| {
        let seen = agent.run(&["exec", "keep", "cat", "/x/hello", "/y/part"]);
        assert_eq!(seen.success(), "upper\npart\n");
    };
    both(&agent);
    let words = "run --rm --network none --volumes-from keep busybox cat /y/part";
    let words: Vec<&str> = words.split(' ').collect();
    assert_eq!(agent.run(&words).success(), "part\n");
    let template = "{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.RW}},{{end}}";
    let shown = agent.run(&["inspect", "--format", template, "keep"]);
    assert_eq!(
        shown.success().trim(),
        "image data /x false,image data /y false,"
    );
    // On the host only its root file system is mounted.
    assert_eq!(left(&agent).len(), 1, "{:?}", left(&agent));

    let refused = agent.run(&["rmi", "data"]);
    let words = format!("container {} is using its referenced image", &id[..12]);
    assert!(refused.stderr.contains(&words), "{}", refused.report());
    agent.run(&["image", "prune", "-a", "-f"]).success();
    let listed = || agent.run(&["images", "-q", "data"]).success();
    assert_eq!(listed().lines().count(), 1, "it is in use");

    let there = agent.folder().join("there");
    let there_text = there.display().to_string();
    for (from, expected) in [("keep:/x/hello", "upper\n"), ("keep:/y/part", "part\n")] {
        agent.run(&["cp", from, &there_text]).success();
        assert_eq!(std::fs::read_to_string(&there).expect("copied"), expected);
    }
    let refused = agent.run(&["cp", &there_text, "keep:/x/sub"]);
    assert!(refused.stderr.contains("read-only"), "{}", refused.report());

    agent.kill_serve();
    agent.serve();
    both(&agent);
    agent.run(&["restart", "-t", "0", "keep"]).success();
    both(&agent);

    // Removed by force it goes, and its files stay for the container.
    agent.run(&["stop", "-t", "0", "keep"]).success();
    eventually("nothing is mounted", SOON, || {
        left(&agent).is_empty().then_some(())
    });
    agent.run(&["rmi", "-f", "data"]).success();
    assert_eq!(agent.run(&["images", "-q", "data"]).success(), "");
    agent.run(&["cp", "keep:/y/part", &there_text]).success();
    agent.kill_serve();
    agent.serve();
    agent.run(&["start", "keep"]).success();
    both(&agent);

    // However it ends.
    for (pid, _) in shim_processes(&agent) {
        let killed = Command::new("kill").args(["-9", &pid]).status();
        assert!(killed.expect("kill starts").success());
    }
    agent.run(&["rm", "-f", "keep"]).success();
    eventually("nothing is mounted", SOON, || {
        left(&agent).is_empty().then_some(())
    });
}
