//! Images: pull, push, save, load and removal beside dockerd and podman, against one registry's storage that is served on
//! each engine's own loopback; and pulls as multiples of the same work done by a pipe of the system's own tools.

use super::{Cost, median, settle};
use crate::cgroup::Group;
use crate::engines::{Engine, Kind};
use crate::table::Table;
use anyhow::{Context, Result, bail, ensure};
use harness::image::{Layer, LayerTar, Packing, TestImage};
use harness::registry::Registry;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Rounds of pulls: each takes seconds. The first is not counted.
const ROUNDS: usize = 3;
/// The port of the registry in each engine's namespace.
const PORT: u16 = 5000;
/// Unpacked bytes of the two images.
const SIX_LAYERS: u64 = 420 << 20;
const ONE_LAYER: u64 = 120 << 20;
/// Where files as people have them in images come from.
const SOURCES: [&str; 4] = ["/usr/bin", "/usr/lib", "/usr/share", "/usr/sbin"];
/// Larger ones would be most of a layer.
const FILE_MAX: u64 = 16 << 20;

/// The registry's program in an engine's namespace.
struct Served {
    child: Child,
}

impl Served {
    fn start(engine: &Engine, config: &Path) -> Result<Served> {
        let child = Command::new("nsenter")
            .arg(format!("--net={}", engine.namespace()))
            .args(["docker-registry", "serve"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the registry in a namespace")?;
        Ok(Served { child })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the rows can be measured here.
pub(super) fn obstacle() -> Option<String> {
    (!Registry::is_available_or_skip()).then(|| "no registry".to_owned())
}

pub(super) fn measure(ours: &Engine, theirs: &Engine, table: &mut Table) -> Result<()> {
    if let Some(why) = obstacle() {
        println!("skipped: image rows: {why}");
        return Ok(());
    }
    println!("Images: {ROUNDS} rounds");
    let storage = tempfile::tempdir().context("a folder for the registry")?;
    let files = files_of_this_host()?;
    {
        let registry = Registry::start_at(0, storage.path())?;
        registry.push("six", "1", &image_of(&files, SIX_LAYERS, 6)?)?;
        registry.push("one", "1", &image_of(&files, ONE_LAYER, 1)?)?;
    }
    let own = format!("127.0.0.1:{PORT}");
    let config = registry_config(storage.path(), &own)?;
    let podman = match harness::programs::find("podman") {
        Some(_) => Some(Engine::start(Kind::Podman)?),
        None => None,
    };
    let mut engines = vec![ours, theirs];
    engines.extend(&podman);
    let _served: Vec<Served> = engines
        .iter()
        .map(|engine| Served::start(engine, &config))
        .collect::<Result<_>>()?;
    for engine in &engines {
        wait_for_registry(engine, &own)?;
    }

    // What follows is also told as a multiple of what a pipe of tools costs for the same image.
    let (of_six, of_one) = (limit_of(ours, "six")?, limit_of(ours, "one")?);
    for (name, what, wall_bound, limit) in [
        ("six", "six layers", 0.5, of_six),
        ("one", "one layer", 0.6, of_one),
    ] {
        let costs = rounds(&engines, Some(name), |engine| pull(engine, name))?;
        let bound = (name == "six").then_some(0.5);
        ratios(
            table,
            &format!("pull {what}"),
            &costs,
            bound,
            Some(wall_bound),
        );
        of_tools(table, &format!("pull {what}"), costs[0], limit);
    }

    // From here on everybody has both.
    let again = rounds(&engines[..2], None, |engine| pull(engine, "six"))?;
    let answers = registrys_answers(ours)?;
    table.figure(
        "pull again, wall beyond the registry's answer",
        "ms",
        (again[0].wall - answers).max(0.0),
        Some(20.0),
    );
    ratios(table, "pull again", &again, None, None);
    of_tools(table, "pull again", again[0], of_six);

    let pushed = pushes(&engines[..2])?;
    ratios(table, "push of a pulled image", &pushed, Some(0.1), None);
    of_tools(table, "push of a pulled image", pushed[0], of_six);
    let saved = rounds(&engines[..2], None, |engine| {
        let image = format!("127.0.0.1:{PORT}/one:1");
        engine
            .api()
            .download(&format!("/images/get?names={image}"))?;
        Ok(())
    })?;
    ratios(table, "save", &saved, Some(0.2), None);
    of_tools(table, "save", saved[0], of_one);
    let archive = archive_of(ours)?;
    let loaded = rounds(&engines[..2], Some("one"), |engine| {
        engine.api().load(&archive)?;
        Ok(())
    })?;
    ratios(table, "load", &loaded, Some(0.5), None);
    of_tools(table, "load", loaded[0], of_one);
    let mut removed: Vec<Vec<Cost>> = vec![Vec::new(); 2];
    for _ in 0..ROUNDS {
        for (engine, list) in engines.iter().zip(&mut removed) {
            pull(engine, "six")?;
            list.push(timed(engine, || remove(engine, "six"))?);
        }
    }
    let removed: Vec<Cost> = removed.into_iter().map(median).collect();
    // Nearly all of its CPU is the kernel's, for each file alike whoever asks: the bound is on what the user waits.
    ratios(table, "rmi of six layers", &removed, None, Some(0.5));
    of_tools(table, "rmi of six layers", removed[0], of_six);
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

/// Our cost as a multiple of the limit: download, two digests, inflate, untar, written as a pipe of tools.
fn of_tools(table: &mut Table, what: &str, ours: Cost, limit: Cost) {
    let (cpu, wall) = (
        format!("{what}, CPU, of a pipe of tools"),
        format!("{what}, wall, of a pipe of tools"),
    );
    table.ratio(&cpu, "ms", ours.cpu, limit.cpu, None);
    table.ratio(&wall, "ms", ours.wall, limit.wall, None);
}

/// A warm-up each, then in turn. What is named is removed before each.
fn rounds(
    engines: &[&Engine],
    removed: Option<&str>,
    mut work: impl FnMut(&Engine) -> Result<()>,
) -> Result<Vec<Cost>> {
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); engines.len()];
    for round in 0..=ROUNDS {
        for (engine, list) in engines.iter().zip(&mut costs) {
            if let Some(name) = removed {
                let _ = remove(engine, name);
            }
            let cost = timed(engine, || work(engine))?;
            if round > 0 {
                list.push(cost);
            }
        }
    }
    Ok(costs.into_iter().map(median).collect())
}

fn timed(engine: &Engine, work: impl FnOnce() -> Result<()>) -> Result<Cost> {
    // What the other engines, or this one in the round before, have not written yet is not this one's work.
    let _ = Command::new("sync").status();
    settle(engine)?;
    let before = engine.group.cpu_ms()?;
    let start = Instant::now();
    work()?;
    let wall = start.elapsed().as_secs_f64() * 1000.0;
    settle(engine)?;
    let cpu = engine.group.cpu_ms()? - before;
    Ok(Cost { cpu, wall })
}

fn pull(engine: &Engine, name: &str) -> Result<()> {
    let told = engine.api().post_text(&format!(
        "/images/create?fromImage=127.0.0.1:{PORT}/{name}&tag=1"
    ))?;
    ensure!(!told.contains("errorDetail"), "pull: {told}");
    Ok(())
}

/// Pushes of the six layers. A registry that has every blob gets none, and one that an engine pushed to before is asked
/// to mount: so each push goes to a registry of its own, which is empty, and whose name the engine has never heard.
fn pushes(engines: &[&Engine]) -> Result<Vec<Cost>> {
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); engines.len()];
    let mut serial = 0;
    for round in 0..=ROUNDS {
        for (engine, list) in engines.iter().zip(&mut costs) {
            serial += 1;
            let storage = tempfile::tempdir().context("a folder for a registry")?;
            let host = format!("127.0.1.{serial}:{PORT}");
            let config = registry_config(storage.path(), &host)?;
            let _served = Served::start(engine, &config)?;
            wait_for_registry(engine, &host)?;
            let target = format!("{host}/pushed");
            engine.api().post(
                &format!("/images/127.0.0.1:{PORT}/six:1/tag?repo={target}&tag=1"),
                None,
            )?;
            let cost = timed(engine, || {
                let told = engine
                    .api()
                    .post_text(&format!("/images/{target}/push?tag=1"))?;
                ensure!(!told.contains("errorDetail"), "push: {told}");
                ensure!(
                    told.contains("\"Pushed\"") && !told.contains("Mounted from"),
                    "nothing was sent: {told}"
                );
                Ok(())
            })?;
            // Else a removal of the image would only take one of its names away.
            engine.api().delete(&format!("/images/{target}:1"))?;
            if round > 0 {
                list.push(cost);
            }
        }
    }
    Ok(costs.into_iter().map(median).collect())
}

/// Writes the configuration of a registry that keeps its content in `storage`.
fn registry_config(storage: &Path, host: &str) -> Result<PathBuf> {
    let config = storage.join("served.yml");
    std::fs::write(
        &config,
        format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
            storage.join("data").display()
        ),
    )?;
    Ok(config)
}

fn remove(engine: &Engine, name: &str) -> Result<()> {
    engine
        .api()
        .delete(&format!("/images/127.0.0.1:{PORT}/{name}:1?force=1"))
        .map(drop)
}

fn archive_of(engine: &Engine) -> Result<Vec<u8>> {
    engine
        .api()
        .bytes(&format!("/images/get?names=127.0.0.1:{PORT}/one:1"))
}

fn in_namespace(engine: &Engine, script: &str) -> Result<String> {
    let output = Command::new("nsenter")
        .arg(format!("--net={}", engine.namespace()))
        .args(["bash", "-ec", script])
        .output()
        .context("cannot start bash in a namespace")?;
    if !output.status.success() {
        bail!("{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn wait_for_registry(engine: &Engine, host: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while in_namespace(engine, &format!("curl -sf {host}/v2/")).is_err() {
        if Instant::now() > end {
            bail!("the registry does not answer in {}", engine.namespace());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Milliseconds that the registry takes to answer for a manifest.
fn registrys_answers(engine: &Engine) -> Result<f64> {
    let script = format!(
        "curl -s -o /dev/null -w '%{{time_total}}' -H 'Accept: {MANIFEST}' 127.0.0.1:{PORT}/v2/six/manifests/1"
    );
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(in_namespace(engine, &script)?.trim().parse::<f64>()? * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What the work costs at least with the system's tools: download, digest, inflate, digest, untar, written as a pipe, the
/// layers side by side as far as an engine pulls them.
fn limit_of(engine: &Engine, name: &str) -> Result<Cost> {
    let script = format!(
        "cd \"$0\"; echo $$ > \"$1\"
         base=127.0.0.1:{PORT}/v2/{name}
         curl -s -H 'Accept: {MANIFEST}' $base/manifests/1 | grep -o 'sha256:[0-9a-f]*' > digests
         number=0
         tail -n +2 digests > layers
         while read digest; do
           number=$((number + 1)); mkdir $number
           ( curl -s $base/blobs/$digest | tee >(sha256sum > $number.a) | gzip -dc | tee >(sha256sum > $number.b) | tar xf - -C $number ) &
           [ $((number % 3)) -ne 0 ] || wait
         done < layers
         wait"
    );
    let mut costs = Vec::new();
    for _ in 0..ROUNDS {
        let group = Group::create("limit")?;
        let folder = tempfile::tempdir()?;
        let start = Instant::now();
        let status = Command::new("nsenter")
            .arg(format!("--net={}", engine.namespace()))
            .args(["bash", "-ec", &script])
            .arg(folder.path())
            .arg(group.processes_file()?)
            .status()?;
        ensure!(status.success(), "the pipe of tools ended with {status}");
        let wall = start.elapsed().as_secs_f64() * 1000.0;
        let cpu = group.cpu_ms()?;
        costs.push(Cost { cpu, wall });
    }
    Ok(median(costs))
}

/// Regular files of this host, in an order that mixes folders but keeps neighbours together.
fn files_of_this_host() -> Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for source in SOURCES {
        let mut folders = vec![PathBuf::from(source)];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else {
                continue;
            };
            for entry in entries.flatten() {
                let Ok(facts) = entry.metadata() else {
                    continue;
                };
                if facts.is_dir() {
                    folders.push(entry.path());
                } else if facts.is_file()
                    && facts.len() <= FILE_MAX
                    // The classic header has 100 bytes for a path.
                    && entry.path().as_os_str().len() < 100
                {
                    files.push((entry.path(), facts.len()));
                }
            }
        }
    }
    files.sort();
    ensure!(
        !files.is_empty(),
        "this host has no files to make images of"
    );
    Ok(files)
}

/// An image of so many bytes in so many layers, of files spread over all that there are.
fn image_of(files: &[(PathBuf, u64)], bytes: u64, layers: usize) -> Result<TestImage> {
    let all: u64 = files.iter().map(|(_, size)| size).sum();
    let mut made = Vec::new();
    for number in 0..layers {
        let mut tar = LayerTar::new();
        let mut total = 0u64;
        // Every n-th run of 64 files, until there is enough.
        let share = bytes.min(all) / layers as u64;
        let runs = files.chunks(64).skip(number).step_by(layers);
        for (path, size) in runs.flatten() {
            if total + size > share {
                continue;
            }
            let Ok(content) = std::fs::read(path) else {
                continue;
            };
            total += size;
            let name = path.strip_prefix("/").unwrap_or(path);
            tar.file(&name.to_string_lossy(), 0o644, &content);
        }
        made.push(Layer::new(tar.finish(), Packing::Gzip));
    }
    let packed: usize = made.iter().map(|layer| layer.blob.len()).sum();
    println!("  an image of {layers} layers has {} MB gzip", packed >> 20);
    Ok(TestImage::new(made, serde_json::json!({"Cmd": ["true"]})))
}
