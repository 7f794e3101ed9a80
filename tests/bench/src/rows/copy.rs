//! `docker cp` of 250 MB out of a container and into one, beside `tar | tar` of the same files and beside dockerd and podman.

use super::{create, remove};
use crate::engines::Engine;
use crate::table::{Table, median};
use anyhow::{Context, Result, bail};
use harness::programs::find;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Megabytes of one file, and how many there are.
const MEGABYTES: usize = 25;
const FILES: usize = 10;
const ROUNDS: usize = 15;

pub(super) fn measure(
    ours: &Engine,
    theirs: &Engine,
    podman: Option<&Engine>,
    table: &mut Table,
) -> Result<()> {
    let engines: Vec<&Engine> = [ours, theirs].into_iter().chain(podman).collect();
    let Some(docker) = find("docker") else {
        println!("skipped: rows about docker cp: there is no docker command here");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("source");
    fs::create_dir(&source)?;
    // No bytes that compress: nobody shall win by that.
    let mut state = 0x2545_f491_4f6c_dd1du64;
    for number in 0..FILES {
        let content: Vec<u8> = (0..MEGABYTES << 17)
            .flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            })
            .collect();
        fs::write(source.join(format!("file-{number}")), content)?;
    }
    let copy = |engine: &Engine, from: &str, to: &str| -> Result<()> {
        let output = Command::new(&docker)
            .arg("--host")
            .arg(format!("unix://{}", engine.api().socket.display()))
            .args(["cp", from, to])
            .env_remove("DOCKER_CONTEXT")
            .env("DOCKER_CONFIG", folder.path())
            .output()?;
        if !output.status.success() {
            bail!("docker cp: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    };
    let text = |path: &Path| path.display().to_string();
    let (mut put, mut got) = (
        vec![Vec::new(); engines.len()],
        vec![Vec::new(); engines.len()],
    );
    let mut piped = Vec::new();
    for round in 0..=ROUNDS {
        for (number, engine) in engines.iter().copied().enumerate() {
            // A container of its own each time: into a folder that is there a copy would go as one more folder.
            let id = create(engine, "none", &["true"], false)?;
            settle(folder.path())?;
            let in_time = timed(|| copy(engine, &text(&source), &format!("{id}:/in")))?;
            settle(folder.path())?;
            let target = folder.path().join("out");
            let out_time = timed(|| copy(engine, &format!("{id}:/in"), &text(&target)))?;
            check(&source, &target)?;
            fs::remove_dir_all(&target)?;
            remove(engine, &id)?;
            if round > 0 {
                put[number].push(in_time);
                got[number].push(out_time);
            }
        }
        let target = folder.path().join("tar");
        fs::create_dir(&target)?;
        settle(folder.path())?;
        let pipe_time = timed(|| tar_to_tar(&source, &target))?;
        check(&source, &target)?;
        fs::remove_dir_all(&target)?;
        if round > 0 {
            piped.push(pipe_time);
        }
    }
    let piped = median(piped);
    for (way, times) in [("in", put), ("out", got)] {
        let what = format!("docker cp {way}, 250 MB");
        let times: Vec<f64> = times.into_iter().map(median).collect();
        let peer = format!("{what}, peer tar | tar");
        table.ratio(&peer, "ms", times[0], piped, Some(1.3));
        table.ratio(&format!("{what}, wall"), "ms", times[0], times[1], None);
        if let Some(podman) = times.get(2) {
            table.ratio(
                &format!("{what}, wall, podman"),
                "ms",
                times[0],
                *podman,
                None,
            );
        }
    }
    Ok(())
}

/// Has the kernel take the memory that a copy fills, and free it again. A host that is itself a virtual machine gives
/// memory back that it does not use, and whoever is first to want more pays for that; and whoever comes after a copy would
/// share the disk with what that has left to be written. All shall find the same.
fn settle(folder: &Path) -> Result<()> {
    let file = folder.join("memory");
    fs::write(&file, vec![1; (MEGABYTES * FILES) << 20])?;
    fs::remove_file(file)?;
    if !Command::new("sync").status()?.success() {
        bail!("sync failed");
    }
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}

fn tar_to_tar(from: &Path, to: &Path) -> Result<()> {
    let mut packer = Command::new("tar")
        .arg("-C")
        .arg(from)
        .args(["-cf", "-", "."])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start tar")?;
    let pipe = packer.stdout.take().context("tar has no output")?;
    let unpacked = Command::new("tar")
        .arg("-C")
        .arg(to)
        .args(["-xf", "-"])
        .stdin(pipe)
        .status()?;
    if !(packer.wait()?.success() && unpacked.success()) {
        bail!("tar failed");
    }
    Ok(())
}

/// A copy that is not whole would be quick.
fn check(source: &Path, target: &Path) -> Result<()> {
    for number in 0..FILES {
        let name = format!("file-{number}");
        let size = |folder: &Path| fs::metadata(folder.join(&name)).map(|facts| facts.len());
        if size(source)? != size(target)? {
            bail!("{name} was not copied whole to {}", target.display());
        }
    }
    Ok(())
}
