//! Published ports of a machine's containers on the desktop: how soon they are there and gone, and what they carry, as a
//! share of what QEMU's forwarding carries to a program of the guest that is in no container's network.

use crate::table::{Table, median};
use anyhow::{Result, ensure};
use harness::image::TestImage;
use harness::machine::Store;
use harness::programs::program;
use harness::run::run_with_input;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
/// What one connection carries, in MiB.
const LOAD: u32 = 32;
const IMAGE: &str = "bench-ports:latest";
/// A port that is not there by then never will be.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn measure(store: &Store, name: &str, address: &str, table: &mut Table) -> Result<()> {
    let archive = TestImage::busybox("bench-ports")?.docker_archive(&[IMAGE]);
    let mut load = store.client(&program("berth"), name, &["load"]);
    run_with_input(&mut load, &archive, harness::machine::LIMIT).success();
    let berth = |arguments: &[&str]| store.berth(name, arguments).success();

    // Published, and on the guest's own network. QEMU forwards the latter's port because of a container that publishes it
    // for IPv6 alone, so nothing in the guest redirects it.
    let serve = |port: &str| {
        format!(
            "dd if=/dev/zero of=/www/load bs=1M count={LOAD} && exec httpd -f -p 0.0.0.0:{port} -h /www"
        )
    };
    berth(&[
        "run",
        "-d",
        "--name",
        "published",
        "-p",
        "5301:80",
        IMAGE,
        "sh",
        "-c",
        &serve("80"),
    ]);
    berth(&[
        "run",
        "-d",
        "--name",
        "bare",
        "--network",
        "host",
        IMAGE,
        "sh",
        "-c",
        &serve("5302"),
    ]);
    berth(&[
        "run",
        "-d",
        "--name",
        "opener",
        "-p",
        "[::]:5302:80",
        IMAGE,
        "sleep",
        "10000",
    ]);

    until(|| connects(address, 5301))?;
    berth(&["kill", "published"]);
    until(|| is_free(address, 5301))?;
    let (mut opened, mut closed) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        berth(&["start", "published"]);
        opened.push(until(|| connects(address, 5301))?);
        berth(&["kill", "published"]);
        closed.push(until(|| is_free(address, 5301))?);
    }
    for (what, walls) in [("there after start", opened), ("gone after kill", closed)] {
        let slowest = walls.into_iter().fold(0.0, f64::max);
        let what = format!("published port on the desktop, {what}, slowest of {ROUNDS}");
        table.figure(&what, "ms", slowest, Some(200.0));
    }

    berth(&["start", "published"]);
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare.push(rate(address, 5302)?);
        ours.push(rate(address, 5301)?);
    }
    table.share(
        "from a container's published port, of QEMU's own forwarding",
        "MB/s",
        median(ours),
        median(bare),
        0.0,
    );
    berth(&["rm", "-f", "published", "bare", "opener"]);
    Ok(())
}

fn connects(address: &str, port: u16) -> bool {
    TcpStream::connect((address, port)).is_ok()
}

/// Whether anybody can have the port. Asked without a connection: each would be work for the guest that is being timed.
fn is_free(address: &str, port: u16) -> bool {
    TcpListener::bind((address, port)).is_ok()
}

/// Milliseconds until it is so.
fn until(is_so: impl Fn() -> bool) -> Result<f64> {
    let start = Instant::now();
    while !is_so() {
        ensure!(start.elapsed() < LIMIT, "a port did not change");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}

/// Megabytes a second of one connection. QEMU accepts before the server listens: nothing comes then.
fn rate(address: &str, port: u16) -> Result<f64> {
    let begin = Instant::now();
    loop {
        let start = Instant::now();
        if let Ok(mut stream) = TcpStream::connect((address, port)) {
            stream.write_all(b"GET /load HTTP/1.0\r\n\r\n")?;
            let mut buffer = vec![0; 1 << 16];
            let mut bytes = 0;
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                bytes += count;
            }
            if bytes > (LOAD as usize) << 20 {
                return Ok(bytes as f64 / 1e6 / start.elapsed().as_secs_f64());
            }
        }
        ensure!(begin.elapsed() < LIMIT, "nobody serves port {port}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
