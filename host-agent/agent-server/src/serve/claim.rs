//! What one engine has for itself: its data root, its exec root and its pid file.

use engine_linux::files::LOCK;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Holds the locks; they end with it (or with the process, however that ends).
#[derive(Debug)]
pub struct Claim {
    _locks: [File; 2],
    pidfile: Option<PathBuf>,
}

/// Why the engine may not start here.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("cannot {step}")]
    Failed {
        step: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "{folder} is in use by another engine (process {holder}): stop that one, or give this one its own --data-root and --exec-root"
    )]
    Taken { folder: PathBuf, holder: String },
    #[error(
        "pid file {path} names process {pid}, which is running: ensure that no other engine is, or delete the file"
    )]
    PidfileTaken { path: PathBuf, pid: u32 },
}

impl Claim {
    /// Makes both folders and takes them; then writes the pid file.
    pub fn take(
        data_root: &Path,
        exec_root: &Path,
        pidfile: Option<&Path>,
    ) -> Result<Claim, ClaimError> {
        let locks = [lock(data_root)?, lock(exec_root)?];
        if let Some(path) = pidfile {
            write_pidfile(path)?;
        }
        Ok(Claim {
            _locks: locks,
            pidfile: pidfile.map(Path::to_owned),
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(path) = &self.pidfile {
            let _ = fs::remove_file(path);
        }
    }
}

fn failed(step: String) -> impl FnOnce(io::Error) -> ClaimError {
    move |source| ClaimError::Failed { step, source }
}

fn lock(folder: &Path) -> Result<File, ClaimError> {
    // Others may pass through (containers' files are theirs to protect) but not look.
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(folder)
        .map_err(failed(format!("create {}", folder.display())))?;
    let path = folder.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed(format!("open {}", path.display())))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            return Err(ClaimError::Taken {
                folder: folder.to_owned(),
                holder: holder.trim().to_owned(),
            });
        }
        Err(TryLockError::Error(source)) => {
            return Err(failed(format!("lock {}", path.display()))(source));
        }
    }
    let written = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(failed(format!("write {}", path.display())))?;
    Ok(file)
}

pub(crate) fn write_pidfile(path: &Path) -> Result<(), ClaimError> {
    if let Ok(text) = fs::read_to_string(path)
        && let Ok(pid) = text.trim().parse::<u32>()
        && pid != std::process::id()
        && is_running(pid)
    {
        return Err(ClaimError::PidfileTaken {
            path: path.to_owned(),
            pid,
        });
    }
    fs::write(path, format!("{}\n", std::process::id()))
        .map_err(failed(format!("write the pid file {}", path.display())))
}

/// A zombie runs no longer: a killed engine stays one until its parent has looked. See proc_pid_stat(5).
fn is_running(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The name before it is in parentheses and may contain anything.
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    !state.starts_with(['Z', 'X'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_engine() {
        let root = tempfile::tempdir().unwrap();
        let (data, run, other) = (
            root.path().join("data"),
            root.path().join("run"),
            root.path().join("other"),
        );
        let first = Claim::take(&data, &run, None).unwrap();
        let error = Claim::take(&data, &other, None).unwrap_err().to_string();
        assert!(error.contains("is in use by another engine"), "{error}");
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        let error = Claim::take(&other, &run, None).unwrap_err();
        assert!(matches!(error, ClaimError::Taken { folder, .. } if folder == run));
        drop(first);
        Claim::take(&data, &run, None).unwrap();
    }

    #[test]
    fn a_pid_file_of_a_dead_process_is_replaced_and_of_a_living_one_respected() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("pid");
        fs::write(&file, "1\n").unwrap();
        let error = Claim::take(root.path(), &root.path().join("run"), Some(&file)).unwrap_err();
        assert!(matches!(error, ClaimError::PidfileTaken { pid: 1, .. }));
        // No process has this number: it is above the kernel's largest.
        fs::write(&file, "4194999\n").unwrap();
        let claim = Claim::take(root.path(), &root.path().join("run"), Some(&file)).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.trim(), std::process::id().to_string());
        drop(claim);
        assert!(!file.exists());
    }

    /// Whoever started a killed engine may start the next one before it has waited for the first.
    #[test]
    fn a_pid_file_of_a_zombie_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("pid");
        let mut child = std::process::Command::new("sleep").arg("1000").spawn();
        let child = child.as_mut().unwrap();
        fs::write(&file, format!("{}\n", child.id())).unwrap();
        let take = || Claim::take(root.path(), &root.path().join("run"), Some(&file));
        let error = take().unwrap_err();
        assert!(matches!(error, ClaimError::PidfileTaken { pid, .. } if pid == child.id()));
        child.kill().unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while is_running(child.id()) {
            assert!(std::time::Instant::now() < end, "SIGKILL ends it");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(Path::new("/proc").join(child.id().to_string()).exists());
        take().unwrap();
        child.wait().unwrap();
    }
}
