//! The power goes in the middle of what is done with images: what was not written to the disk is lost, in whatever order
//! the kernel writes. Afterwards every image there is must be whole, and what cannot be had again must be there.
//!
//! ext4 can be told that its disk is gone (`EXT4_IOC_SHUTDOWN`, as xfstests do it): nothing more is written, and the next
//! mount finds what a power cut leaves.

use crate::images_crash::{content, noise};
use harness::agent::{Agent, LIMIT};
use harness::http::request;
use harness::image::{Layer, LayerTar, Packing, TestImage, busybox_or_skip};
use harness::registry::Registry;
use harness::run::{eventually, run};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// `_IOR('X', 125, __u32)` (linux/fs/ext4/ext4.h) with `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const SHUT_DOWN: &str = r#"open(my $folder, "<", $ARGV[0]) or die "open: $!";
my $how = pack("L", 2);
ioctl($folder, 0x8004587d, $how) or die "ioctl: $!";"#;

/// A disk in a file, mounted over an engine's data root.
struct Disk {
    file: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn make(file: PathBuf, at: PathBuf) -> Option<Disk> {
        let sparse = std::fs::File::create(&file).and_then(|file| file.set_len(1 << 30));
        sparse.expect("a file for the disk");
        let made = Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", "nodiscard"])
            .arg(&file)
            .status();
        let disk = Disk { file, at };
        if !made.is_ok_and(|status| status.success()) || !disk.mount() {
            println!("skipped: no ext4 can be made and mounted here");
            return None;
        }
        Some(disk)
    }

    /// Metadata is written each second and contents when the kernel likes: the worst for us.
    fn mount(&self) -> bool {
        let status = Command::new("mount")
            .args(["-t", "ext4", "-o", "loop,commit=1"])
            .arg(&self.file)
            .arg(&self.at)
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    }

    fn unmount(&self) -> bool {
        let status = Command::new("umount")
            .arg(&self.at)
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    }

    /// From here on nothing reaches the disk.
    fn cut(&self) -> bool {
        let status = Command::new("perl")
            .args(["-e", SHUT_DOWN])
            .arg(&self.at)
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    }

    /// The next boot. Whoever copied the host's mounts a moment ago, as each new container's namespace does, still holds
    /// the disk that was shut down, and mounting finds that one again: so once more until it takes a file.
    fn comes_back(&self) {
        let probe = self.at.join("probe");
        eventually("the disk is back", LIMIT, || {
            // One that is still there is not mounted a second time.
            let _ = self.unmount();
            (self.mount() && std::fs::write(&probe, "").is_ok()).then_some(())
        });
        std::fs::remove_file(&probe).expect("removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

/// busybox with a layer of many small files and a large one.
fn image_of_many_files() -> TestImage {
    let mut layers = TestImage::busybox("power").expect("busybox").layers;
    let mut tar = LayerTar::new();
    tar.folder("tree", 0o755);
    for number in 0..400 {
        tar.file(&format!("tree/{number}"), 0o644, &noise(3000, number + 1));
    }
    tar.file("tree/large", 0o644, &noise(8 << 20, 77));
    layers.push(Layer::new(tar.finish(), Packing::Gzip));
    TestImage::new(
        layers,
        serde_json::json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}),
    )
}

/// The cut, the engine's end, and the next boot.
fn lose_power(agent: &mut Agent, disk: &Disk) {
    assert!(disk.cut(), "it could be done before");
    agent.kill_serve();
    disk.comes_back();
    // The file may have reached the disk, and the kernel's own number is the same as before: another boot has another.
    let boot = agent.data_root().join("boot-id");
    if boot.exists() {
        std::fs::write(boot, "the boot before\n").expect("written");
    }
    agent.serve();
}

/// What a container sees of every file of the image.
fn contents(agent: &Agent, image: &str) -> String {
    let script = "find /tree /etc/passwd /etc/group /bin/busybox -type f | sort | xargs sha256sum | sha256sum";
    let said = agent.run(&[
        "run",
        "--rm",
        "--network",
        "none",
        image,
        "sh",
        "-c",
        script,
    ]);
    said.success()
}

fn listed(agent: &Agent) -> Vec<String> {
    let listed = agent.run(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    listed.success().lines().map(str::to_owned).collect()
}

#[test]
fn after_a_power_cut_every_image_is_whole_or_gone() {
    if busybox_or_skip().is_none() || !Registry::is_available_or_skip() {
        return;
    }
    let Some(mut agent) = Agent::start(&[]) else {
        return;
    };
    agent.kill_serve();
    let Some(disk) = Disk::make(agent.folder().join("disk"), agent.data_root()) else {
        agent.serve();
        return;
    };
    if !disk.cut() {
        println!("skipped: this kernel or host cannot shut an ext4 down");
        drop(disk);
        agent.serve();
        return;
    }
    disk.comes_back();
    agent.serve();
    let registry = Registry::start().expect("a registry");
    let image = image_of_many_files();
    registry.push("many", "1", &image).expect("pushed");
    let name = format!("{}/many:1", registry.host());
    agent.run(&["pull", &name]).success();
    let whole = contents(&agent, &name);
    agent.run(&["rmi", &name]).success();

    // Shortly before and after the answer to a pull, when its content is partly on the disk.
    for (is_answered, wait) in [
        (false, 0),
        (false, 150),
        (false, 400),
        (true, 0),
        (true, 5),
        (true, 300),
    ] {
        let mut client = agent.berth(&["pull", &name]);
        let mut client = client
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("berth starts");
        if is_answered {
            assert!(client.wait().expect("it ends").success());
        }
        std::thread::sleep(Duration::from_millis(wait));
        lose_power(&mut agent, &disk);
        let _ = client.kill();
        let _ = client.wait();
        let found = listed(&agent);
        println!("cut {wait} ms later, answered: {is_answered}: {found:?}");
        for image in &found {
            assert_eq!(contents(&agent, image), whole, "{image}");
        }
        agent.run(&["pull", &name]).success();
        assert_eq!(contents(&agent, &name), whole);
        agent.run(&["rmi", &name]).success();
    }

    // A container is made of it at once: what it stands on must be there.
    agent.run(&["pull", &name]).success();
    let post = |agent: &Agent, path: &str, body: serde_json::Value| {
        let body = body.to_string();
        let reply = request(&agent.socket(), "POST", path, body.as_bytes()).expect("an answer");
        assert!(reply.status < 300, "{path}: {}", reply.body);
    };
    let body = serde_json::json!({
        "Image": name, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"},
    });
    post(&agent, "/containers/create?name=made", body);
    lose_power(&mut agent, &disk);
    assert_eq!(listed(&agent), std::slice::from_ref(&name));
    assert_eq!(contents(&agent, &name), whole);
    post(&agent, "/containers/made/start", serde_json::json!({}));
    let said = agent.run(&["exec", "made", "wc", "-c", "/tree/large"]);
    assert_eq!(said.success(), format!("{} /tree/large\n", 8 << 20));
    agent.run(&["stop", "-t", "0", "made"]).success();
    // What was committed and what was loaded cannot be had again.
    agent.run(&["commit", "made", "committed:1"]).success();
    lose_power(&mut agent, &disk);
    assert_eq!(contents(&agent, "committed:1"), whole);
    agent.run(&["rm", "-f", "made"]).success();
    agent.run(&["image", "prune", "-a", "-f"]).success();
    let archive = agent.folder().join("many.tar");
    std::fs::write(&archive, image.docker_archive(&["loaded:1"])).expect("written");
    let input = archive.display().to_string();
    agent.run(&["load", "-i", &input]).success();
    lose_power(&mut agent, &disk);
    assert_eq!(contents(&agent, "loaded:1"), whole);

    // In the middle of a removal.
    let mut remove = agent.berth(&["rmi", "loaded:1"]);
    let _ = run(&mut remove, LIMIT);
    lose_power(&mut agent, &disk);
    for image in listed(&agent) {
        assert_eq!(contents(&agent, &image), whole, "{image}");
    }
    agent.run(&["image", "prune", "-a", "-f"]).success();
    assert_eq!(content(&agent), Vec::<String>::new());
    agent.kill_serve();
    drop(disk);

    agent.serve();
}
