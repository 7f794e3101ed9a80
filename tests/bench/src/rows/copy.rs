//! `docker cp` of 250 MB out of a container and into one, beside `tar | tar` of the same files and beside dockerd.

use super::{create, remove};
use crate::engines::Engine;
use crate::table::Table;
use anyhow::{Context, Result, bail};
use harness::programs::find;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Megabytes of one file, and how many there are.
const MEGABYTES: usize = 25;
const FILES: usize = 10;
const ROUNDS: usize = 9;

pub(super) fn measure(ours: &Engine, theirs: &Engine, table: &mut Table) -> Result<()> {
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
    let mut costs: [Vec<f64>; 5] = Default::default();
    for round in 0..=ROUNDS {
        for (number, engine) in [ours, theirs].into_iter().enumerate() {
            // A container of its own each time: into a folder that is there a copy would go as one more folder.
            let id = create(engine, "none", &["true"], false)?;
            settle(folder.path())?;
            let put = timed(|| copy(engine, &text(&source), &format!("{id}:/in")))?;
            settle(folder.path())?;
            let target = folder.path().join("out");
            let got = timed(|| copy(engine, &format!("{id}:/in"), &text(&target)))?;
            check(&source, &target)?;
            fs::remove_dir_all(&target)?;
            remove(engine, &id)?;
            if round > 0 {
                costs[number].push(put);
                costs[2 + number].push(got);
            }
        }
        let target = folder.path().join("tar");
        fs::create_dir(&target)?;
        settle(folder.path())?;
        let piped = timed(|| tar_to_tar(&source, &target))?;
        check(&source, &target)?;
        fs::remove_dir_all(&target)?;
        if round > 0 {
            costs[4].push(piped);
        }
    }
    let [put, their_put, got, their_got, piped] = costs.map(middle);
    table.ratio(
        "docker cp in, 250 MB, peer tar | tar",
        "ms",
        put,
        piped,
        Some(1.3),
    );
    table.ratio(
        "docker cp out, 250 MB, peer tar | tar",
        "ms",
        got,
        piped,
        Some(1.3),
    );
    table.ratio("docker cp in, 250 MB, wall", "ms", put, their_put, None);
    table.ratio("docker cp out, 250 MB, wall", "ms", got, their_got, None);
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

fn middle(mut list: Vec<f64>) -> f64 {
    list.sort_by(f64::total_cmp);
    list[list.len() / 2]
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
