//! The images that the suites pull from Docker's hub, made here of Debian's busybox under the same names: each has an id
//! of its own. Both engines get the same.

use crate::reaper;
use anyhow::{Context, Result};
use harness::image::{Layer, LayerTar, Packing, TestImage, busybox_tree};
use harness::registry::Registry;
use std::io::Write;

/// Where the registry is inside an arena's network.
pub const REGISTRY: &str = "127.0.0.1:5000";
/// The same by name: bollard's tests have it in their texts.
pub const REGISTRY_NAME: &str = "localhost:5000";
const PORT: u16 = 5000;

/// What [`serve`] says when everything can be pulled.
pub const READY: &str = "ready";

/// Repository, tag, and what kind of image.
const IMAGES: &[(&str, &str, Kind)] = &[
    // docker-py and testcontainers, through the mirror
    ("library/alpine", "latest", Kind::Distribution),
    ("library/alpine", "3.10", Kind::Distribution),
    ("library/busybox", "latest", Kind::Distribution),
    ("library/hello-world", "latest", Kind::Hello),
    // bollard
    ("alpine", "latest", Kind::Distribution),
    ("hello-world", "latest", Kind::Hello),
    ("hello-world", "linux", Kind::Hello),
    ("fussybeaver/uhttpd", "latest", Kind::Server),
];

/// The reaper that testcontainers for Python pulls.
const REAPER: (&str, &str) = ("testcontainers/ryuk", "0.8.1");

#[derive(Clone, Copy)]
enum Kind {
    /// A shell and the usual commands.
    Distribution,
    /// Prints a greeting and ends.
    Hello,
    /// A web server.
    Server,
}

/// Serves all images on [`REGISTRY`] until standard input ends.
pub fn serve() -> Result<()> {
    let storage = tempfile::tempdir().context("make a folder for the registry")?;
    let registry = Registry::start_at(PORT, storage.path())?;
    for (repository, tag, kind) in IMAGES {
        let image = image(&format!("{repository}:{tag}"), *kind)?;
        registry.push(repository, tag, &image)?;
    }
    match reaper_image() {
        Ok(image) => drop(registry.push(REAPER.0, REAPER.1, &image)?),
        // Only testcontainers needs it, and looks itself.
        Err(error) => eprintln!("{error:#}"),
    }
    println!("{READY}");
    std::io::stdout().flush()?;
    // Whoever started us holds the other end: when it is gone, however it ended, so are we.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// One layer, as the originals have: docker-py counts them. The name goes into a label, so that ids differ.
fn image(name: &str, kind: Kind) -> Result<TestImage> {
    let mut tar = busybox_tree()?;
    accounts(&mut tar);
    tar.folder("var/opt", 0o755);
    tar.file("etc/alpine-release", 0o644, b"3.10.9\n");
    let command = match kind {
        Kind::Distribution => serde_json::json!(["/bin/sh"]),
        Kind::Hello => {
            let greeting = b"#!/bin/sh\necho\necho 'Hello from Docker!'\n";
            tar.file("hello", 0o755, greeting);
            serde_json::json!(["/hello"])
        }
        Kind::Server => {
            let server = b"#!/bin/sh\nexec /bin/httpd \"$@\"\n";
            tar.file("usr/sbin/run_uhttpd", 0o755, server);
            tar.folder("etc/config", 0o755);
            tar.file("etc/config/uhttpd", 0o644, b"\nconfig uhttpd main\n");
            serde_json::json!(["/usr/sbin/run_uhttpd", "-f", "-p", "80", "-h", "/www"])
        }
    };
    let layer = Layer::new(tar.finish(), Packing::Gzip);
    let settings = serde_json::json!({
        "Cmd": command,
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Labels": {"berth.fixture": name},
    });
    Ok(TestImage::new(vec![layer], settings))
}

/// Nothing but the program, as in the original.
fn reaper_image() -> Result<TestImage> {
    let path = reaper::program()?;
    let program = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let layer = Layer::of_files(&[("bin/reaper", 0o755, &program)]);
    let settings = serde_json::json!({"Cmd": ["/bin/reaper"]});
    Ok(TestImage::new(vec![layer], settings))
}

/// Alpine's accounts that tests name.
fn accounts(tar: &mut LayerTar) {
    tar.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nbin:x:1:1:bin:/bin:/sbin/nologin\ndaemon:x:2:2:daemon:/sbin:/sbin/nologin\noperator:x:11:0:operator:/root:/sbin/nologin\nguest:x:405:100:guest:/dev/null:/sbin/nologin\npostgres:x:70:70::/var/lib/postgresql:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    );
    tar.file(
        "etc/group",
        0o644,
        b"root:x:0:root\nbin:x:1:root,bin,daemon\ndaemon:x:2:root,bin,daemon\nwheel:x:10:root\nusers:x:100:games\npostgres:x:70:\nnogroup:x:65533:\nnobody:x:65534:\n",
    );
}
