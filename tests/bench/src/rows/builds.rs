//! Builds beside dockerd's classic builder and podman's: over the HTTP API, the context in the request.

use super::{Cost, median, settle};
use crate::engines::Engine;
use crate::table::Table;
use anyhow::{Context, Result, ensure};
use harness::image::LayerTar;
use std::time::Instant;

/// Rounds: each takes seconds with dockerd. The first is not counted.
const ROUNDS: usize = 3;
const SMALL_FILES: usize = 10_000;

/// As people have them: a base, settings, files, programs.
const TEN_STEPS: &str = "FROM busybox:latest\n\
    ENV LANG=C.UTF-8\n\
    WORKDIR /srv\n\
    RUN echo one > /one\n\
    COPY a /srv/a\n\
    RUN cat /one > /two\n\
    COPY b /srv/b\n\
    RUN mkdir -p /var/app && echo three > /var/app/three\n\
    LABEL who=bench\n\
    RUN ls -lR /srv > /listing\n\
    CMD [\"cat\", \"/listing\"]\n";

/// Each stage does what takes a core for a while.
fn four_stages() -> String {
    let mut text = String::new();
    for stage in ["one", "two", "three", "four"] {
        text.push_str(&format!(
            "FROM busybox:latest AS {stage}\nRUN dd if=/dev/zero bs=1M count=600 2>/dev/null | sha256sum > /{stage}\n"
        ));
    }
    text.push_str("FROM busybox:latest\n");
    for stage in ["one", "two", "three", "four"] {
        text.push_str(&format!("COPY --from={stage} /{stage} /\n"));
    }
    text
}

fn context(dockerfile: &str, files: usize) -> Vec<u8> {
    let mut tar = LayerTar::new();
    tar.file("Dockerfile", 0o644, dockerfile.as_bytes());
    tar.file("a", 0o644, &[b'a'; 1000]);
    tar.file("b", 0o644, &[b'b'; 1000]);
    for number in 0..files {
        let name = format!("files/{}/{number}", number % 100);
        let content = format!("{number} ").repeat(100);
        tar.file(&name, 0o644, content.as_bytes());
    }
    tar.finish()
}

fn build(engine: &Engine, context: &[u8], no_cache: bool) -> Result<()> {
    let parent = engine.group.parent();
    let path = format!(
        "/build?t=built:latest&networkmode=none&rm=1&nocache={}&cgroupparent={parent}",
        u8::from(no_cache)
    );
    let told = engine.api().build(&path, context)?;
    ensure!(!told.contains("errorDetail"), "build: {told}");
    ensure!(told.contains("Successfully built"), "build: {told}");
    Ok(())
}

pub(super) fn measure(
    ours: &Engine,
    theirs: &Engine,
    podman: Option<&Engine>,
    table: &mut Table,
) -> Result<()> {
    let engines: Vec<&Engine> = [ours, theirs].into_iter().chain(podman).collect();
    println!("Builds: {ROUNDS} rounds");
    let ten = context(TEN_STEPS, 0);
    let cold = rounds(&engines, |engine| build(engine, &ten, true)).context("ten steps")?;
    ratios(
        table,
        "build of ten steps",
        &cold,
        Some(1.0 / 12.0),
        Some(0.2),
    );
    for engine in &engines {
        build(engine, &ten, false)?;
    }
    let cached =
        rounds(&engines, |engine| build(engine, &ten, false)).context("ten steps, cached")?;
    ratios(table, "the same, cached", &cached, Some(0.2), None);
    let many = context("FROM busybox:latest\nCOPY files /files\n", SMALL_FILES);
    let many = rounds(&engines, |engine| build(engine, &many, true)).context("10,000 files")?;
    ratios(
        table,
        "build of 10,000 small files",
        &many,
        Some(0.125),
        None,
    );
    let stages = context(&four_stages(), 0);
    let stages = rounds(&engines, |engine| build(engine, &stages, true)).context("four stages")?;
    ratios(table, "four stages with work", &stages, None, Some(0.5));
    Ok(())
}

fn ratios(
    table: &mut Table,
    what: &str,
    costs: &[Cost],
    cpu_bound: Option<f64>,
    wall_bound: Option<f64>,
) {
    let (a, b) = (costs[0], costs[1]);
    table.ratio(&format!("{what}, CPU"), "ms", a.cpu, b.cpu, cpu_bound);
    table.ratio(&format!("{what}, wall"), "ms", a.wall, b.wall, wall_bound);
    if let Some(c) = costs.get(2) {
        table.ratio(&format!("{what}, CPU, podman"), "ms", a.cpu, c.cpu, None);
        table.ratio(&format!("{what}, wall, podman"), "ms", a.wall, c.wall, None);
    }
}

/// A warm-up each, then in turn.
fn rounds(engines: &[&Engine], mut work: impl FnMut(&Engine) -> Result<()>) -> Result<Vec<Cost>> {
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); engines.len()];
    for round in 0..=ROUNDS {
        for (engine, list) in engines.iter().copied().zip(&mut costs) {
            settle(engine)?;
            let before = engine.group.cpu_ms()?;
            let start = Instant::now();
            work(engine)?;
            let wall = start.elapsed().as_secs_f64() * 1000.0;
            settle(engine)?;
            let cpu = engine.group.cpu_ms()? - before;
            if round > 0 {
                list.push(Cost { cpu, wall });
            }
        }
    }
    Ok(costs.into_iter().map(median).collect())
}
