//! [`HostFiles`] on the real file system. Everything runs off the async threads.

use super::{copy_up, counters, processes};
use async_trait::async_trait;
use engine::containers::host::{HostFiles, HostLoad, InterfaceCounters, ProcessFacts};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A container can write what is read here.
const LARGEST_FILE: u64 = 1 << 20;

/// The host's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostFilesystem;

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

#[async_trait]
impl HostFiles for HostFilesystem {
    async fn write_all(&self, folder: &Path, files: Vec<(&'static str, String)>) -> io::Result<()> {
        let folder = folder.to_owned();
        blocking(move || {
            for (name, text) in files {
                // In place: a running container may have the file itself mounted.
                fs::write(folder.join(name), text)?;
            }
            Ok(())
        })
        .await
    }

    async fn read(&self, path: &Path) -> io::Result<String> {
        let path = path.to_owned();
        blocking(move || {
            let mut text = String::new();
            let file = fs::File::open(path)?;
            file.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
            match text.len() as u64 > LARGEST_FILE {
                true => Err(io::ErrorKind::FileTooLarge.into()),
                false => Ok(text),
            }
        })
        .await
    }

    async fn exists(&self, path: &Path) -> bool {
        let path = path.to_owned();
        blocking(move || Ok(path.try_exists().unwrap_or(false)))
            .await
            .unwrap_or(false)
    }

    async fn make_folder(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || DirBuilder::new().recursive(true).mode(0o755).create(path)).await
    }

    async fn mount_shared_memory(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)?;
            if crate::mounted::is_mount_point(&path)? {
                return Ok(());
            }
            use rustix::mount::MountFlags;
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            let options = std::ffi::CString::new(format!("mode=1777,size={bytes}"))?;
            Ok(rustix::mount::mount(
                "shm",
                &path,
                "tmpfs",
                flags,
                options.as_c_str(),
            )?)
        })
        .await
    }

    async fn unmount_shared_memory(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || crate::mounted::unmount(&path)).await
    }

    async fn copy_up(&self, rootfs: &Path, target: &str, volume: &Path) -> io::Result<()> {
        let (rootfs, target, volume): (PathBuf, String, PathBuf) =
            (rootfs.into(), target.into(), volume.into());
        blocking(move || copy_up::copy_up(&rootfs, &target, &volume)).await
    }

    async fn interfaces(&self, pid: u32) -> BTreeMap<String, InterfaceCounters> {
        blocking(move || Ok(counters::interfaces(pid)))
            .await
            .unwrap_or_default()
    }

    async fn load(&self) -> io::Result<HostLoad> {
        blocking(counters::load).await
    }

    async fn processes(&self, pids: Vec<u32>, threads: bool) -> Vec<ProcessFacts> {
        blocking(move || Ok(processes::read(&pids, threads)))
            .await
            .unwrap_or_default()
    }
}
