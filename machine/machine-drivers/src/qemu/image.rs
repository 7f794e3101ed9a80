//! The guest image on this desktop.

use guest_contract::manifest::{MANIFEST_FILE, MANIFEST_VERSION, Manifest};
use machine_core::driver::{DriverError, image_cache};
use std::path::{Path, PathBuf};

/// An image whose files are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub command_line: String,
    pub architecture: String,
    pub kernel_version: String,
}

/// The folder of the image where none was named: the store's cache, else what was installed with this program
/// (`image` beside it or one folder up, as in a build tree, or `share/berth/image`).
pub fn default_folder(store: &Path) -> PathBuf {
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(Path::parent);
    let installed = ["image", "../image", "../share/berth/image"];
    std::iter::once(image_cache(store))
        .chain(
            beside
                .into_iter()
                .flat_map(|folder| installed.map(|name| folder.join(name))),
        )
        .find(|folder| folder.join(MANIFEST_FILE).is_file())
        .unwrap_or_else(|| image_cache(store))
}

impl Image {
    pub fn open(folder: &Path) -> Result<Image, DriverError> {
        let path = folder.join(MANIFEST_FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(DriverError::NotReady {
                    what: format!("there is no guest image in {}", folder.display()),
                    hint: "build one with `make image`, or name a folder with --qemu-image".into(),
                });
            }
            Err(error) => {
                return Err(DriverError::failed(
                    format!("read {}", path.display()),
                    error,
                ));
            }
        };
        let broken = |why: String| DriverError::NotReady {
            what: format!(
                "the guest image in {} cannot be used: {why}",
                folder.display()
            ),
            hint: "build it again with `make image`".into(),
        };
        #[derive(serde::Deserialize)]
        struct Version {
            version: u32,
        }
        let version: Version = serde_json::from_slice(&text)
            .map_err(|error| broken(format!("{MANIFEST_FILE}: {error}")))?;
        if version.version > MANIFEST_VERSION {
            return Err(DriverError::NotReady {
                what: format!(
                    "the guest image in {} is newer (version {}) than this program (version {MANIFEST_VERSION})",
                    folder.display(),
                    version.version
                ),
                hint: "update this program, or name another image with --qemu-image".into(),
            });
        }
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| broken(format!("{MANIFEST_FILE}: {error}")))?;
        // Sizes, not digests: reading 100 MB at every start would cost more than it finds.
        for (name, entry) in &manifest.files {
            let bytes = std::fs::metadata(folder.join(name)).map(|found| found.len());
            match bytes {
                Ok(bytes) if bytes == entry.bytes => {}
                Ok(bytes) => {
                    return Err(broken(format!(
                        "{name} has {bytes} bytes instead of {}",
                        entry.bytes
                    )));
                }
                Err(error) => return Err(broken(format!("{name}: {error}"))),
            }
        }
        let plain = |name: &str| -> Result<PathBuf, DriverError> {
            if name.is_empty() || name.contains(['/', '\\', ':']) || name.starts_with('.') {
                return Err(broken(format!("{name:?} is not a file name")));
            }
            Ok(folder.join(name))
        };
        Ok(Image {
            kernel: plain(&manifest.kernel)?,
            initrd: plain(&manifest.initrd)?,
            command_line: manifest.command_line,
            architecture: manifest.architecture,
            kernel_version: manifest.kernel_version,
        })
    }

    /// The usual name of the QEMU that runs it.
    pub fn program(&self) -> String {
        format!("qemu-system-{}", self.architecture)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn write(folder: &Path, change: impl Fn(&mut serde_json::Value)) {
        std::fs::write(folder.join("vmlinux"), b"kernel").unwrap();
        std::fs::write(folder.join("initrd"), b"files").unwrap();
        let mut manifest = serde_json::json!({
            "version": 1, "name": "t", "architecture": "x86_64", "kernel_version": "6", "kernel": "vmlinux",
            "initrd": "initrd", "command_line": "quiet", "packages": [], "agent_version": "0", "download_bytes": 1,
            "files": {"vmlinux": {"bytes": 6, "sha256": ""}, "initrd": {"bytes": 5, "sha256": ""}}
        });
        change(&mut manifest);
        std::fs::write(folder.join(MANIFEST_FILE), manifest.to_string()).unwrap();
    }

    /// Writes a program. Not by ourselves: a file that any thread of this process has open for writing, or a child it
    /// is just starting, cannot be executed ("text file busy").
    pub(crate) fn script(path: &Path, text: &str) {
        let status = std::process::Command::new("sh")
            .args([
                "-c",
                "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod 755 \"$2\"",
                "sh",
                text,
            ])
            .arg(path)
            .status()
            .unwrap();
        assert!(status.success());
    }

    #[track_caller]
    fn refused(change: impl Fn(&mut serde_json::Value), why: &str) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), change);
        let error = Image::open(folder.path()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn a_whole_image_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), |_| {});
        let image = Image::open(folder.path()).unwrap();
        assert_eq!(image.kernel, folder.path().join("vmlinux"));
        assert_eq!(image.program(), "qemu-system-x86_64");
    }

    #[test]
    fn what_is_missing_broken_or_newer_is_refused_with_a_hint() {
        let empty = tempfile::tempdir().unwrap();
        let error = Image::open(empty.path()).unwrap_err();
        assert!(
            error.to_string().contains("no guest image")
                && error.hint().unwrap().contains("make image")
        );
        refused(|m| m["version"] = 2.into(), "newer");
        refused(
            |m| m["files"]["initrd"]["bytes"] = 9.into(),
            "5 bytes instead of 9",
        );
        refused(
            |m| m["files"]["gone"] = serde_json::json!({"bytes": 1, "sha256": ""}),
            "gone",
        );
        refused(
            |m| m["kernel"] = "../../etc/passwd".into(),
            "not a file name",
        );
        refused(|m| m["kernel"] = serde_json::Value::Null, "manifest.json");
    }
}
