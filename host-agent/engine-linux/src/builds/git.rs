//! Git repositories, fetched by the `git` program of the host.
//!
//! What a Dockerfile says reaches the program only as checked words behind `--`; helpers that run commands (`ext::`) and
//! local paths are switched off, as are the host's own configuration and questions to a terminal.

use async_trait::async_trait;
use engine::builds::sources::{GitAddress, GitFetcher, SourceError};
use engine::images::BorrowedRoot;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// Protocols git may speak.
const PROTOCOLS: &str = "http:https:git:ssh";

/// Fetches into folders below the contexts of a build.
#[derive(Debug, Clone)]
pub struct GitProgram {
    folder: PathBuf,
}

impl super::DiskBuildFiles {
    /// Fetches repositories into folders of this.
    pub fn git(&self) -> GitProgram {
        GitProgram {
            folder: self.folder.clone(),
        }
    }
}

fn failed(
    address: &GitAddress,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> SourceError {
    SourceError::Failed {
        address: address.remote.clone(),
        source: source.into(),
    }
}

impl GitProgram {
    /// Runs git and returns what it writes to its standard output.
    async fn run<I, S>(
        &self,
        address: &GitAddress,
        folder: &Path,
        words: I,
    ) -> Result<String, SourceError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let output = Command::new("git")
            .args([
                "-c",
                "core.hooksPath=/dev/null",
                "-c",
                "protocol.ext.allow=never",
            ])
            .args(words)
            .current_dir(folder)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ALLOW_PROTOCOL", PROTOCOLS)
            .env(
                "GIT_SSH_COMMAND",
                "ssh -oBatchMode=yes -oStrictHostKeyChecking=accept-new",
            )
            .env("LC_ALL", "C")
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => SourceError::NoGit {
                    address: address.remote.clone(),
                },
                _ => failed(address, error),
            })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(SourceError::Refused {
                address: address.remote.clone(),
                said: said.trim().replace('\n', "; "),
            });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Removes a clone.
struct Clone(PathBuf);

impl Drop for Clone {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a git repository stays behind");
        }
    }
}

fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[async_trait]
impl GitFetcher for GitProgram {
    async fn resolve(&self, address: &GitAddress) -> Result<String, SourceError> {
        address.check()?;
        if is_commit(&address.reference) {
            return Ok(address.reference.clone());
        }
        let wanted = match address.reference.as_str() {
            "" => "HEAD",
            reference => reference,
        };
        let words = [
            "ls-remote",
            "--",
            &address.remote,
            wanted,
            &format!("{wanted}^{{}}"),
        ];
        let listed = self.run(address, &self.folder, words).await?;
        let lines: Vec<(&str, &str)> = listed
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .filter(|(commit, _)| is_commit(commit))
            .collect();
        // An annotated tag's commit, then the exact names, then whatever ends so.
        let candidates = [
            format!("{wanted}^{{}}"),
            format!("refs/tags/{wanted}^{{}}"),
            format!("refs/heads/{wanted}"),
            format!("refs/tags/{wanted}"),
            wanted.to_owned(),
        ];
        candidates
            .iter()
            .find_map(|name| lines.iter().find(|(_, found)| found == name))
            .or(lines.first())
            .map(|(commit, _)| (*commit).to_owned())
            .ok_or_else(|| SourceError::Refused {
                address: address.remote.clone(),
                said: format!("repository does not contain ref {wanted}"),
            })
    }

    async fn fetch(
        &self,
        address: &GitAddress,
        commit: &str,
        keep_git_folder: bool,
    ) -> Result<BorrowedRoot, SourceError> {
        address.check()?;
        if !is_commit(commit) {
            return Err(SourceError::Invalid(format!("{commit:?} is no commit")));
        }
        let name = super::random_name().map_err(|error| failed(address, error))?;
        let path = self.folder.join(name);
        std::fs::create_dir(&path).map_err(|error| failed(address, error))?;
        let guard = Clone(path.clone());
        self.run(address, &path, ["init", "--quiet"]).await?;
        // Servers give away what a name leads to; not all of them give single commits.
        let shallow = [
            "fetch",
            "--quiet",
            "--depth=1",
            "--no-tags",
            "--",
            &address.remote,
            commit,
        ];
        if self.run(address, &path, shallow).await.is_err() {
            let all = [
                "fetch",
                "--quiet",
                "--no-tags",
                "--",
                &address.remote,
                "+refs/heads/*:refs/berth/heads/*",
                "+refs/tags/*:refs/berth/tags/*",
            ];
            self.run(address, &path, all).await?;
        }
        self.run(address, &path, ["checkout", "--quiet", "--detach", commit])
            .await?;
        if address.submodules && path.join(".gitmodules").exists() {
            let submodules = [
                "submodule",
                "--quiet",
                "update",
                "--init",
                "--recursive",
                "--depth=1",
            ];
            self.run(address, &path, submodules).await?;
        }
        let (clone, folder) = (path.clone(), address.folder.clone());
        let inner = super::blocking(move || {
            if !keep_git_folder {
                remove_git(&clone).map_err(|error| super::failed("remove .git", error))?;
            }
            let tree = super::Tree(super::tree::open_tree(&clone)?);
            let real = tree
                .follow(&folder)
                .map_err(|error| super::failed("look into the repository", error))?;
            Ok((real.whole(), real.is_folder()))
        })
        .await
        .map_err(|error| failed(address, error))?;
        match inner {
            (inner, true) => Ok(BorrowedRoot::new(path.join(inner), guard)),
            (inner, false) => Err(SourceError::Invalid(format!(
                "{} has no folder {inner:?}",
                address.remote
            ))),
        }
    }
}

/// Also those of submodules, which are files.
fn remove_git(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        match (entry.file_name() == ".git", kind.is_dir()) {
            (true, true) => std::fs::remove_dir_all(entry.path())?,
            (true, false) => std::fs::remove_file(entry.path())?,
            (false, true) => remove_git(&entry.path())?,
            (false, false) => {}
        }
    }
    Ok(())
}
