//! Where a destination leads in an image's files. The image is a stranger's: every link is followed here, one after the
//! other, and can only lead to the image's own files.

use super::failed;
use super::tree::Tree;
use engine::builds::files::{BuildFilesError, Links, Missing, Place};
use engine::builds::ignore;
use engine::runtime::RuntimeError;
use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// Links followed at most, as the kernel does.
const LINKS_MAX: usize = 40;

impl Tree {
    /// What is at a path without links in its folders; a link at its end is not followed.
    pub(super) fn facts_of(&self, path: &str) -> rustix::io::Result<Stat> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() {
            return rustix::fs::fstat(&self.0);
        }
        let folder = self.at(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn link_at(&self, path: &str) -> rustix::io::Result<String> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let folder = self.at(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let target = rustix::fs::readlinkat(&folder, name, Vec::new())?;
        Ok(target.to_string_lossy().into_owned())
    }

    /// The path as it is named. Where it meets something that is no folder, nothing is there.
    fn plain(&self, path: &str) -> rustix::io::Result<Followed> {
        let path = ignore::clean(&format!("/{path}"));
        let names = path.split('/').filter(|name| !name.is_empty());
        let mut followed = Followed {
            path: names.map(str::to_owned).collect(),
            first_missing: None,
            is_folder: true,
        };
        for count in 1..=followed.path.len() {
            let is_folder = match self.facts_of(&followed.path[..count].join("/")) {
                Ok(facts) => FileType::from_raw_mode(facts.st_mode) == FileType::Directory,
                Err(Errno::NOENT) => false,
                Err(error) => return Err(error),
            };
            if !is_folder {
                followed.first_missing = Some(count - 1);
                followed.is_folder = false;
                break;
            }
        }
        Ok(followed)
    }

    /// The path without links, as far as there is something; what is not there is taken as it is named.
    pub(super) fn follow(&self, path: &str) -> rustix::io::Result<Followed> {
        let mut left: VecDeque<String> = ignore::clean(&format!("/{path}"))
            .split('/')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        let mut at: Vec<String> = Vec::new();
        let mut first_missing: Option<usize> = None;
        let mut is_folder = true;
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    at.pop();
                    if first_missing.is_some_and(|missing| at.len() <= missing) {
                        first_missing = None;
                    }
                    is_folder = first_missing.is_none();
                    continue;
                }
                _ => at.push(name),
            }
            if first_missing.is_some() {
                continue;
            }
            let so_far = at.join("/");
            let facts = match self.facts_of(&so_far) {
                Ok(facts) => facts,
                Err(Errno::NOENT) => {
                    first_missing = Some(at.len() - 1);
                    is_folder = false;
                    continue;
                }
                Err(error) => return Err(error),
            };
            is_folder = false;
            match FileType::from_raw_mode(facts.st_mode) {
                FileType::Directory => is_folder = true,
                FileType::Symlink => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    let target = self.link_at(&so_far)?;
                    at.pop();
                    if target.starts_with('/') {
                        at.clear();
                    }
                    for name in target.split('/').rev().filter(|name| !name.is_empty()) {
                        left.push_front(name.to_owned());
                    }
                    is_folder = true;
                }
                _ if !left.is_empty() => return Err(Errno::NOTDIR),
                _ => {}
            }
        }
        Ok(Followed {
            path: at,
            first_missing,
            is_folder,
        })
    }
}

/// A path whose links were followed.
pub(super) struct Followed {
    path: Vec<String>,
    /// Index of the first part that is not there.
    first_missing: Option<usize>,
    is_folder: bool,
}

impl Followed {
    pub(super) fn whole(&self) -> String {
        self.path.join("/")
    }

    pub(super) fn is_folder(&self) -> bool {
        self.is_folder
    }
}

pub(super) fn place(
    tree: &Tree,
    path: &str,
    links: Links,
    owner: Option<&str>,
) -> Result<Place, BuildFilesError> {
    let owner = owner.map(|owner| identity(tree, owner)).transpose()?;
    let followed = match links {
        Links::Followed => tree.follow(path),
        Links::Replaced => tree.plain(path),
    };
    let followed = followed.map_err(|error| match error {
        Errno::NOTDIR => BuildFilesError::Invalid(format!("{path}: not a directory")),
        Errno::LOOP => {
            BuildFilesError::Invalid(format!("{path}: too many levels of symbolic links"))
        }
        error => failed(format!("look at {path}"), error),
    })?;
    let missing = match followed.first_missing {
        None => Vec::new(),
        // The last part is what comes there.
        Some(first) => (first + 1..followed.path.len())
            .map(|count| followed.path[..count].join("/"))
            .collect(),
    };
    Ok(Place {
        path: followed.path.join("/"),
        is_there: followed.first_missing.is_none(),
        is_folder: followed.is_folder,
        missing,
        owner,
    })
}

/// `--chown` as numbers, by the image's own files. A number alone is user and group, as Docker documents it.
pub(super) fn identity(tree: &Tree, user: &str) -> Result<(u32, u32), BuildFilesError> {
    if let Ok(number) = user.parse::<u32>() {
        return Ok((number, number));
    }
    let root = PathBuf::from(crate::archive::tree::descriptor_path(tree.0.as_fd()));
    crate::shim::users::look_up(&root, user, &[])
        .map(|identity| (identity.uid, identity.gid))
        .map_err(|refusal| {
            let why = engine::error::full_message(&RuntimeError::from(refusal));
            BuildFilesError::Invalid(format!("invalid owner {user:?}: {why}"))
        })
}

/// Which of the places for mounts are not there.
pub(super) fn missing(tree: &Tree, paths: &[String]) -> Result<Vec<Missing>, BuildFilesError> {
    let mut all = Vec::new();
    for path in paths {
        let step = |error| failed(format!("look at {path}"), error);
        let Ok(followed) = tree.follow(path) else {
            // The start of the container says what is wrong with it.
            continue;
        };
        if let Some(first) = followed.first_missing {
            let folder = tree
                .facts_of(&followed.path[..first].join("/"))
                .map_err(step)?;
            all.push(Missing {
                path: followed.path.join("/"),
                first: followed.path[..=first].join("/"),
                folder_time: (folder.st_mtime, folder.st_mtime_nsec as i64),
            });
        }
    }
    Ok(all)
}

/// Removes places for mounts, from their ends up, as far as nothing was put there.
pub(super) fn remove_missing(tree: &Tree, places: &[Missing]) -> Result<(), BuildFilesError> {
    let split = |path: &str| match path.rsplit_once('/') {
        Some((parent, name)) => (parent.to_owned(), name.to_owned()),
        None => (String::new(), path.to_owned()),
    };
    // Deeper ones first, and the times when all is gone.
    let mut ordered: Vec<&Missing> = places.iter().collect();
    ordered.sort_by_key(|place| std::cmp::Reverse(place.path.len()));
    for place in &ordered {
        let mut path = place.path.clone();
        loop {
            let (parent, name) = split(&path);
            let Ok(facts) = tree.facts_of(&path) else {
                break;
            };
            let Ok(folder) = tree.at(&parent, OFlags::PATH | OFlags::DIRECTORY) else {
                break;
            };
            let removed = match FileType::from_raw_mode(facts.st_mode) {
                FileType::Directory => rustix::fs::unlinkat(&folder, &name, AtFlags::REMOVEDIR),
                FileType::RegularFile if facts.st_size == 0 => {
                    rustix::fs::unlinkat(&folder, &name, AtFlags::empty())
                }
                _ => break,
            };
            match removed {
                Ok(()) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => break,
                Err(error) => return Err(failed(format!("remove /{path}"), error)),
            }
            if path == place.first {
                break;
            }
            path = parent;
        }
    }
    for place in &ordered {
        if tree.facts_of(&place.first).is_ok() {
            continue;
        }
        let (parent, _) = split(&place.first);
        let step = |error| failed(format!("set the time of /{parent}"), error);
        let folder = tree
            .at(&parent, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(step)?;
        let facts = rustix::fs::fstat(&folder).map_err(step)?;
        let times = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec {
                tv_sec: facts.st_atime,
                tv_nsec: facts.st_atime_nsec as _,
            },
            last_modification: rustix::fs::Timespec {
                tv_sec: place.folder_time.0,
                tv_nsec: place.folder_time.1 as _,
            },
        };
        rustix::fs::futimens(&folder, &times).map_err(step)?;
    }
    Ok(())
}
