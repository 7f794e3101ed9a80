//! What a pull costs in memory: not more for a larger layer.

use harness::agent::Agent;
use harness::image::{Layer, LayerTar, Packing, TestImage, busybox_or_skip};
use harness::registry::Registry;

/// KiB that an engine may grow while it pulls.
const GROWTH_MAX: u64 = 64 << 10;
/// Bytes of the layers: one that shrinks to next to nothing, and one that does not shrink.
const ZEROS: usize = 300 << 20;
const NOISE: usize = 96 << 20;

/// A line of `/proc/<pid>/status` in KiB.
fn status(pid: u32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find(|line| line.starts_with(key));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.expect("the kernel tells")
}

#[test]
fn a_pull_takes_no_more_memory_for_a_larger_layer() {
    if busybox_or_skip().is_none() || !Registry::is_available_or_skip() {
        return;
    }
    let Some(agent) = Agent::start(&[]) else {
        return;
    };
    let registry = Registry::start().expect("a registry");
    {
        let layer = |content: &[u8], packing| {
            let mut tar = LayerTar::new();
            tar.file("large", 0o644, content);
            Layer::new(tar.finish(), packing)
        };
        let image = TestImage::new(
            vec![
                layer(&vec![0; ZEROS], Packing::Gzip),
                layer(&crate::images_crash::noise(NOISE, 7), Packing::Plain),
            ],
            serde_json::json!({"Cmd": ["sh"]}),
        );
        registry.push("large", "1", &image).expect("pushed");
    }
    let name = format!("{}/large:1", registry.host());
    // What is made once, whatever is pulled: threads, a client for the registry.
    registry
        .push_busybox("small", "1", "small")
        .expect("pushed");
    let small = format!("{}/small:1", registry.host());
    agent.run(&["pull", &small]).success();

    let before = status(agent.pid(), "VmRSS:");
    // The peak is forgotten (proc(5), clear_refs).
    std::fs::write(format!("/proc/{}/clear_refs", agent.pid()), "5").expect("ours");
    agent.run(&["pull", &name]).success();
    let peak = status(agent.pid(), "VmHWM:");
    println!("{before} KiB before, {peak} KiB at most");
    assert!(peak < before + GROWTH_MAX, "{before} KiB became {peak} KiB");
    agent.run(&["rmi", &name, &small]).success();
}
