//! `kill -9` and a full disk in the middle of what is done with images: the next start is consistent, the next pull goes
//! on, prune leaves no orphan.

use crate::busybox_archive;
use harness::agent::{Agent, LIMIT};
use harness::image::{Layer, LayerTar, Packing, TestImage, busybox_or_skip};
use harness::registry::Registry;
use harness::run::{eventually, run};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Bytes of the large layer.
const LARGE: usize = 48 << 20;

/// Bytes that cannot be packed (xorshift64), so that the blob is large, too.
pub(crate) fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        bytes.extend_from_slice(&seed.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// busybox with a large layer on top.
fn large_image() -> TestImage {
    let mut layers = TestImage::busybox("large").expect("busybox").layers;
    let mut tar = LayerTar::new();
    tar.file("noise", 0o644, &noise(LARGE, 0x1234_5678_9abc_def1));
    layers.push(Layer::new(tar.finish(), Packing::Plain));
    TestImage::new(
        layers,
        serde_json::json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}),
    )
}

/// The bytes of all files in a folder.
fn size_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .map(|facts| facts.len())
        .sum()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Starts a client whose engine will die.
fn begin(agent: &Agent, arguments: &[&str]) -> Child {
    agent
        .berth(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("berth starts")
}

/// Kills the engine once `is_there` says so.
fn kill_when(agent: &mut Agent, what: &str, mut client: Child, is_there: impl Fn() -> bool) {
    eventually(what, Duration::from_secs(60), || is_there().then_some(()));
    agent.kill_serve();
    let _ = client.kill();
    let _ = client.wait();
}

/// What content there is: layers, blobs, blobs half written, archives being loaded.
pub(crate) fn content(agent: &Agent) -> Vec<String> {
    let root = agent.data_root();
    let mut found: Vec<String> = names(&root.join("layers"))
        .into_iter()
        .filter(|name| !["l", "empty", "places"].contains(&name.as_str()))
        .collect();
    for folder in [
        "content/blobs/sha256",
        "content/ingest",
        "content/loads",
        "layers/l",
    ] {
        found.extend(names(&root.join(folder)));
    }
    found
}

#[test]
fn an_engine_killed_in_the_middle_of_images_goes_on() {
    if busybox_or_skip().is_none() || !Registry::is_available_or_skip() {
        return;
    }
    let Some(mut agent) = Agent::start(&[]) else {
        return;
    };
    let registry = Registry::start().expect("a registry");
    let image = large_image();
    let digest = registry.push("large", "1", &image).expect("pushed");
    let name = format!("{}/large:1", registry.host());
    let ingest = agent.data_root().join("content/ingest");

    // In the middle of a pull.
    let client = begin(&agent, &["pull", &name]);
    kill_when(&mut agent, "a part of the layer", client, || {
        size_of(&ingest) > 4 << 20
    });
    agent.serve();
    assert_eq!(agent.run(&["images", "-q"]).success(), "");
    agent.run(&["pull", &name]).success();
    // 206, "partial content": it went on where it was.
    let requests = registry.requests();
    assert!(requests.contains("\" 206 "), "{requests}");
    let shown = agent.run(&["inspect", "--format", "{{index .RepoDigests 0}}", &name]);
    assert!(shown.success().trim().ends_with(&digest));
    let run_it = |agent: &Agent| {
        let said = agent.run(&[
            "run",
            "--rm",
            "--network",
            "none",
            &name,
            "wc",
            "-c",
            "/noise",
        ]);
        assert_eq!(said.success(), format!("{LARGE} /noise\n"));
    };
    run_it(&agent);

    // In the middle of a removal, at several moments of it.
    for wait in [0, 3, 10] {
        let client = begin(&agent, &["rmi", &name]);
        std::thread::sleep(Duration::from_millis(15 + wait));
        kill_when(&mut agent, "now", client, || true);
        agent.serve();
        // Either it is whole or it is gone.
        if !agent.run(&["images", "-q"]).success().is_empty() {
            run_it(&agent);
        }
        agent.run(&["pull", &name]).success();
        run_it(&agent);
    }

    // In the middle of a load: nothing of it is left but what the next one uses.
    agent.run(&["rmi", &name]).success();
    let archive = agent.folder().join("large.tar");
    std::fs::write(&archive, image.docker_archive(&["loaded:1"])).expect("written");
    let input = archive.display().to_string();
    let loads = agent.data_root().join("content/loads");
    let in_loads = || -> u64 {
        let folders = names(&loads);
        folders
            .iter()
            .map(|folder| size_of(&loads.join(folder)))
            .sum()
    };
    let client = begin(&agent, &["load", "-i", &input]);
    kill_when(&mut agent, "a part of the archive", client, || {
        in_loads() > 4 << 20
    });
    agent.serve();
    // An answer first: the socket is there before the engine has looked around.
    assert_eq!(agent.run(&["images", "-q"]).success(), "");
    assert!(names(&loads).is_empty());
    agent.run(&["load", "-i", &input]).success();
    let said = agent.run(&[
        "run",
        "--rm",
        "--network",
        "none",
        "loaded:1",
        "wc",
        "-c",
        "/noise",
    ]);
    assert_eq!(said.success(), format!("{LARGE} /noise\n"));

    // In the middle of a commit: no image, and nothing of its layer.
    let write = format!(
        "dd if=/dev/urandom of=/more bs=1M count={} && sleep 1000",
        LARGE >> 20
    );
    let started = [
        "run",
        "-d",
        "--name",
        "writer",
        "--network",
        "none",
        "loaded:1",
    ];
    agent
        .run(&[&started[..], &["sh", "-c", &write]].concat())
        .success();
    eventually("it has written", LIMIT, || {
        let said = agent.run(&["exec", "writer", "pidof", "sleep"]);
        (said.code == Some(0)).then_some(())
    });
    let client = begin(&agent, &["commit", "writer", "committed:1"]);
    kill_when(&mut agent, "a part of the layer", client, || {
        size_of(&ingest) > 4 << 20
    });
    agent.serve();
    let listed = agent.run(&["images", "-q"]).success();
    assert_eq!(listed.lines().count(), 1, "{listed}");
    // Its pause was the commit's, and does not outlive it.
    let state = agent.run(&["inspect", "--format", "{{.State.Status}}", "writer"]);
    assert_eq!(state.success(), "running\n");
    agent.run(&["exec", "writer", "true"]).success();
    agent.run(&["commit", "writer", "committed:1"]).success();
    let said = agent.run(&[
        "run",
        "--rm",
        "--network",
        "none",
        "committed:1",
        "wc",
        "-c",
        "/more",
    ]);
    assert_eq!(said.success(), format!("{LARGE} /more\n"));
    agent.run(&["rm", "-f", "writer"]).success();
    agent.run(&["rmi", "committed:1"]).success();

    // A part that nobody comes back for is gone after a prune, with everything else.
    agent.run(&["rmi", "loaded:1"]).success();
    let client = begin(&agent, &["pull", &name]);
    kill_when(&mut agent, "a part of the layer", client, || {
        size_of(&ingest) > 4 << 20
    });
    agent.serve();
    agent.run(&["image", "prune", "-a", "-f"]).success();
    assert_eq!(content(&agent), Vec::<String>::new());
}

/// A small file system over an engine's data root; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Option<SmallDisk> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&at)
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            println!("skipped: no tmpfs can be mounted here");
            return None;
        }
        Some(SmallDisk(at))
    }

    fn used(&self) -> u64 {
        let output = Command::new("df")
            .args(["--output=used", "-B1"])
            .arg(&self.0)
            .output()
            .expect("df runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = text
            .lines()
            .nth(1)
            .and_then(|line| line.trim().parse().ok());
        number.expect("df tells")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_fills_during_a_pull_or_load_is_told_and_gets_its_space_back() {
    if busybox_or_skip().is_none() || !Registry::is_available_or_skip() {
        return;
    }
    let Some(mut agent) = Agent::start(&[]) else {
        return;
    };
    agent.kill_serve();
    let data_root = agent.data_root();
    let Some(disk) = SmallDisk::mount(data_root, "64m") else {
        agent.serve();
        return;
    };
    agent.serve();
    let before = disk.used();
    let registry = Registry::start().expect("a registry");
    // The blob alone fits, the blob and its files do not.
    let image = large_image();
    registry.push("large", "1", &image).expect("pushed");
    let name = format!("{}/large:1", registry.host());
    for _ in 0..2 {
        let told = agent.run(&["pull", &name]).fails_with(1);
        assert!(
            told.to_lowercase().contains("no space left on device"),
            "{told}"
        );
        // A file that is still being read somewhere goes a moment later.
        eventually("the space is given back", Duration::from_secs(10), || {
            (disk.used() < before + (1 << 20)).then_some(())
        });
    }
    let archive = agent.folder().join("large.tar");
    std::fs::write(&archive, image.docker_archive(&["loaded:1"])).expect("written");
    let input = archive.display().to_string();
    let told = agent.run(&["load", "-i", &input]).fails_with(1);
    assert!(
        told.to_lowercase().contains("no space left on device"),
        "{told}"
    );
    eventually("the space is given back", Duration::from_secs(10), || {
        (disk.used() < before + (1 << 20)).then_some(())
    });
    // And there is room for what fits.
    harness::run::run_with_input(
        &mut agent.berth(&["load"]),
        &busybox_archive("busybox:latest"),
        LIMIT,
    )
    .success();
    let mut said = agent.berth(&[
        "run",
        "--rm",
        "--network",
        "none",
        "busybox",
        "echo",
        "hello",
    ]);
    assert_eq!(run(&mut said, LIMIT).success(), "hello\n");
    agent.run(&["rmi", "busybox"]).success();
    agent.kill_serve();
    drop(disk);
    agent.serve();
}
