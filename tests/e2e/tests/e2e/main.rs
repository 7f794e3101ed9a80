//! End to end, as a user's morning: the engine on this host, the clients against it, machines with the engine in them.

mod bad_input;
mod builds_cache;
mod builds_clients;
mod builds_compared;
mod builds_engine;
mod builds_front;
mod builds_sources;
mod compat;
mod compat_compose;
mod compat_shapes;
mod compat_suites;
mod compat_testcontainers;
mod confinement;
mod crash;
mod crash_mixed;
mod crash_networks;
mod damage;
mod dice;
mod engine;
mod files;
mod guest_limits;
mod host_config;
mod host_restart;
mod image_mounts;
mod images;
mod images_crash;
mod images_credentials;
mod images_memory;
mod images_power;
mod info;
mod kernel_limits;
mod life;
mod machine;
mod machine_attach;
mod machine_bad_input;
mod machine_create;
mod machine_guest;
mod machine_keeper;
mod mounts;
mod networks;
mod networks_hosts;
mod security;
mod traces;
mod volumes;
mod windows;

use harness::agent::Agent;
use harness::image::{TestImage, busybox_or_skip};
use harness::run::run_with_input;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An engine with the image `busybox` in it; `None`, with a line that says why, where this host cannot run one.
pub fn engine_with_busybox(flags: &[&str]) -> Option<Agent> {
    busybox_or_skip()?;
    let agent = Agent::start(flags)?;
    load_busybox(&agent, "busybox:latest");
    Some(agent)
}

/// Loads one more tag; its image has an id of its own.
pub fn load_busybox(agent: &Agent, reference: &str) {
    let archive = busybox_archive(reference);
    run_with_input(&mut agent.berth(&["load"]), &archive, harness::agent::LIMIT).success();
}

/// What `docker save` would write of an image of busybox with this name; its id is its own.
pub fn busybox_archive(reference: &str) -> Vec<u8> {
    let image = TestImage::busybox(reference).expect("busybox is there");
    image.docker_archive(&[reference])
}

/// What an HTTP server at the address says; `None` while it does not answer.
pub fn fetch(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.contains("200 OK").then_some(answer)
}
