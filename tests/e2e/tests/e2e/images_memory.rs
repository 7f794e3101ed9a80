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
    let layer = |content: &[u8], packing| {
        let mut tar = LayerTar::new();
        tar.file("large", 0o644, content);
        Layer::new(tar.finish(), packing)
    };
    let push = |name: &str, layers: Vec<Layer>| {
        let image = TestImage::new(layers, serde_json::json!({"Cmd": ["sh"]}));
        registry.push(name, "1", &image).expect("pushed");
        format!("{}/{name}:1", registry.host())
    };
    let noise = crate::images_crash::noise;
    let large = push(
        "large",
        vec![
            layer(&vec![0; ZEROS], Packing::Gzip),
            layer(&noise(NOISE, 7), Packing::Plain),
        ],
    );
    // Windows of 4 MiB and of 32: two of those are never unpacked at a time.
    let windows = [(22, 8), (25, 9), (25, 10)]
        .map(|(log, seed)| layer(&noise((1 << log) + (4 << 20), seed), Packing::ZstdLong(log)));
    let long = push("long", windows.to_vec());
    let refused_layer = layer(b"little", Packing::ZstdLong(27));
    let refused_digest = harness::image::digest(&refused_layer.blob);
    let too_long = push("toolong", vec![refused_layer]);
    // What is made once, whatever is pulled: threads, a client for the registry.
    registry
        .push_busybox("small", "1", "small")
        .expect("pushed");
    let small = format!("{}/small:1", registry.host());
    agent.run(&["pull", &small]).success();

    for name in [&large, &long] {
        let before = status(agent.pid(), "VmRSS:");
        // The peak is forgotten (proc(5), clear_refs).
        std::fs::write(format!("/proc/{}/clear_refs", agent.pid()), "5").expect("ours");
        agent.run(&["pull", name]).success();
        let peak = status(agent.pid(), "VmHWM:");
        println!("{name}: {before} KiB before, {peak} KiB at most");
        assert!(
            peak < before + GROWTH_MAX,
            "{name}: {before} KiB became {peak} KiB"
        );
    }
    let refused = agent.run(&["pull", &too_long]).fails_with(1);
    for said in [
        "failed to register layer",
        &refused_digest,
        "at most 32 MiB",
        "without --long",
    ] {
        assert!(refused.contains(said), "{refused}");
    }
    agent.run(&["rmi", &large, &long, &small]).success();
}
