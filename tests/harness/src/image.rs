//! Images made by test code: layers of given files, a configuration, a manifest; pushed, or written as an archive.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;

/// `sha256:...` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// How a layer's blob is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
    /// zstd that keeps a power of two of bytes at hand, as `zstd --long=LOG` makes it.
    ZstdLong(u32),
}

/// A layer: its tar, and the blob a registry holds.
#[derive(Debug, Clone)]
pub struct Layer {
    pub tar: Vec<u8>,
    pub blob: Vec<u8>,
    pub packing: Packing,
}

impl Layer {
    /// Of a finished tar.
    pub fn new(tar: Vec<u8>, packing: Packing) -> Layer {
        let blob = match packing {
            Packing::Plain => tar.clone(),
            Packing::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&tar).expect("memory takes everything");
                encoder.finish().expect("memory takes everything")
            }
            Packing::Zstd => zstd::encode_all(&tar[..], 1).expect("memory takes everything"),
            Packing::ZstdLong(window_log) => {
                let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("a level");
                encoder.window_log(window_log).expect("within bounds");
                encoder.write_all(&tar).expect("memory takes everything");
                encoder.finish().expect("memory takes everything")
            }
        };
        Layer { tar, blob, packing }
    }

    /// Of regular files: path, mode, content. Folders are made for them.
    pub fn of_files(files: &[(&str, u32, &[u8])]) -> Layer {
        let mut tar = LayerTar::new();
        let mut folders = std::collections::BTreeSet::new();
        for (path, mode, content) in files {
            for (at, _) in path.match_indices('/') {
                if folders.insert(path[..at].to_owned()) {
                    tar.folder(&path[..at], 0o755);
                }
            }
            tar.file(path, *mode, content);
        }
        Layer::new(tar.finish(), Packing::Gzip)
    }

    pub fn media_type(&self) -> &'static str {
        match self.packing {
            Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
            Packing::Gzip => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Packing::Zstd | Packing::ZstdLong(_) => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// Writes a layer's tar.
pub struct LayerTar {
    builder: tar::Builder<Vec<u8>>,
}

impl Default for LayerTar {
    fn default() -> Self {
        LayerTar::new()
    }
}

impl LayerTar {
    pub fn new() -> LayerTar {
        LayerTar {
            builder: tar::Builder::new(Vec::new()),
        }
    }

    fn append(&mut self, kind: tar::EntryType, path: &str, mode: u32, link: &str, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1_700_000_000);
        if !link.is_empty() {
            header.set_link_name(link).expect("a short link");
        }
        self.builder
            .append_data(&mut header, path, content)
            .expect("memory takes everything");
    }

    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> &mut LayerTar {
        self.append(tar::EntryType::Regular, path, mode, "", content);
        self
    }

    pub fn folder(&mut self, path: &str, mode: u32) -> &mut LayerTar {
        self.append(tar::EntryType::Directory, path, mode, "", &[]);
        self
    }

    pub fn link(&mut self, path: &str, target: &str) -> &mut LayerTar {
        self.append(tar::EntryType::Symlink, path, 0o777, target, &[]);
        self
    }

    /// One more name of a program: dockerd gives the file the link's mode.
    pub fn hard_link(&mut self, path: &str, target: &str) -> &mut LayerTar {
        self.append(tar::EntryType::Link, path, 0o755, target, &[]);
        self
    }

    /// A character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) -> &mut LayerTar {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Char);
        header.set_mode(0o666);
        header.set_size(0);
        header.set_device_major(major).expect("a GNU header");
        header.set_device_minor(minor).expect("a GNU header");
        self.builder
            .append_data(&mut header, path, std::io::empty())
            .expect("memory takes everything");
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.builder.into_inner().expect("memory takes everything")
    }
}

/// An image that can be pushed or written.
#[derive(Debug, Clone)]
pub struct TestImage {
    pub layers: Vec<Layer>,
    pub config: Vec<u8>,
}

impl TestImage {
    /// `settings` is the configuration's `config` object: `{"Cmd": ["sh"], "Env": [...]}`.
    pub fn new(layers: Vec<Layer>, settings: serde_json::Value) -> TestImage {
        TestImage::for_architecture(layers, settings, host_architecture())
    }

    pub fn for_architecture(
        layers: Vec<Layer>,
        settings: serde_json::Value,
        architecture: &str,
    ) -> TestImage {
        let diff_ids: Vec<String> = layers.iter().map(|layer| digest(&layer.tar)).collect();
        let history: Vec<serde_json::Value> = layers
            .iter()
            .map(|_| {
                serde_json::json!({"created": "2024-01-02T03:04:05Z", "created_by": "/bin/sh -c #(nop) ADD files in / "})
            })
            .collect();
        let config = serde_json::json!({
            "architecture": architecture,
            "os": "linux",
            "created": "2024-01-02T03:04:05.000000006Z",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        TestImage {
            layers,
            config: config.to_string().into_bytes(),
        }
    }

    /// Debian's static busybox with its usual links. `variant` becomes a label, so that two variants differ.
    pub fn busybox(variant: &str) -> Result<TestImage> {
        let tar = busybox_tree()?;
        let mut accounts = LayerTar::new();
        accounts.folder("etc", 0o755);
        accounts.file(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nada:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
        );
        accounts.file(
            "etc/group",
            0o644,
            b"root:x:0:\ndaemon:x:1:\nwheel:x:10:root\nstaff:x:50:ada\nada:x:1000:\nnogroup:x:65534:\n",
        );
        let layers = vec![
            Layer::new(tar.finish(), Packing::Gzip),
            Layer::new(accounts.finish(), Packing::Gzip),
        ];
        Ok(TestImage::new(
            layers,
            serde_json::json!({
                "Cmd": ["sh"],
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Labels": {"berth.variant": variant},
            }),
        ))
    }

    /// Docker's schema 2 manifest.
    pub fn manifest(&self) -> Vec<u8> {
        let layers: Vec<serde_json::Value> = self
            .layers
            .iter()
            .map(|layer| {
                serde_json::json!({
                    "mediaType": layer.media_type(),
                    "size": layer.blob.len(),
                    "digest": digest(&layer.blob),
                })
            })
            .collect();
        serde_json::json!({
            "schemaVersion": 2,
            "mediaType": self.manifest_media_type(),
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": self.config.len(),
                "digest": digest(&self.config),
            },
            "layers": layers,
        })
        .to_string()
        .into_bytes()
    }

    pub fn manifest_media_type(&self) -> &'static str {
        "application/vnd.docker.distribution.manifest.v2+json"
    }

    /// The image's id.
    pub fn id(&self) -> String {
        digest(&self.config)
    }

    /// What `docker save` of old wrote: one folder for each layer, `manifest.json`.
    pub fn docker_archive(&self, tags: &[&str]) -> Vec<u8> {
        let mut tar = LayerTar::new();
        let mut paths = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            let path = format!("layer{number}/layer.tar");
            tar.file(&path, 0o644, &layer.tar);
            paths.push(path);
        }
        let config = format!("{}.json", &self.id()["sha256:".len()..]);
        tar.file(&config, 0o644, &self.config);
        let manifest = serde_json::json!([{"Config": config, "RepoTags": tags, "Layers": paths}]);
        tar.file("manifest.json", 0o644, manifest.to_string().as_bytes());
        tar.finish()
    }
}

/// The folders of a small distribution with Debian's static busybox under all its names; more can be added.
pub fn busybox_tree() -> Result<LayerTar> {
    let program =
        std::fs::read(BUSYBOX).context("read /bin/busybox: install Debian's busybox-static")?;
    let mut tar = LayerTar::new();
    for (folder, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("usr", 0o755),
        ("usr/bin", 0o755),
        ("usr/sbin", 0o755),
        ("sbin", 0o755),
        ("var", 0o755),
        ("var/www", 0o755),
        ("www", 0o755),
    ] {
        tar.folder(folder, mode);
    }
    tar.file("bin/busybox", 0o755, &program);
    for name in applets() {
        tar.hard_link(&format!("bin/{name}"), "bin/busybox");
    }
    tar.link("usr/bin/env", "/bin/env");
    tar.file("www/index.html", 0o644, b"hello from berth\n");
    Ok(tar)
}

/// Where Debian puts its static busybox.
pub const BUSYBOX: &str = "/bin/busybox";

/// The commands this busybox has.
fn applets() -> Vec<String> {
    let listed = std::process::Command::new(BUSYBOX)
        .arg("--list")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    listed
        .lines()
        .filter(|name| !name.is_empty() && !name.contains('/') && *name != "busybox")
        .map(str::to_owned)
        .collect()
}

/// Go's name of this machine's architecture.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Where Debian's static busybox is, for tests that need it; `None` with the reason printed.
pub fn busybox_or_skip() -> Option<&'static Path> {
    let path = Path::new(BUSYBOX);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: /bin/busybox is missing (Debian's busybox-static)");
    None
}
