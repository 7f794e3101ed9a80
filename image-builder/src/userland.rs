//! The guest's programs: the files a recipe names, the shared libraries they need, links, and the few files of /etc that
//! every Linux system has. The agent is not among them; it is packed by itself (see `image`).

use crate::deb::{self, Entries, Entry};
use crate::elf;
use crate::recipe::{PackageRecipe, Recipe};
use crate::tree::{Node, Tree};
use guest_contract::{AGENT_PATH, DATA_ROOT};
use std::collections::BTreeSet;

/// Folders that Debian's program loader searches, without a cache to be built.
const LIBRARY_FOLDERS: &[&str] = &["usr/lib/x86_64-linux-gnu", "usr/lib"];
/// Links that may be followed from a library to its file.
const MAX_LINKS: usize = 8;

/// Why the programs cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum UserlandError {
    #[error("the package {package} has no file {pattern}")]
    NoFile { package: String, pattern: String },
    #[error("{path} needs {library}, which no package under `libraries` has")]
    MissingLibrary { path: String, library: String },
    #[error("{path} cannot be read: {why}")]
    Elf { path: String, why: String },
    #[error("the recipe links names to {target}, which is not in the image")]
    NoLinkTarget { target: String },
    #[error("the recipe links {name} to {target}, but another file has that name")]
    LinkOverFile { name: String, target: String },
}

/// A package and its unpacked files.
pub(crate) struct Unpacked {
    pub(crate) name: String,
    pub(crate) entries: Entries,
}

/// Is this file of a program package worth unpacking? Everything a pattern of the recipe may match.
pub(crate) fn is_wanted(package: &PackageRecipe, path: &str) -> bool {
    package.files.iter().any(|pattern| matches(pattern, path))
}

/// Is this file of a library package worth unpacking?
pub(crate) fn is_library(path: &str) -> bool {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    (LIBRARY_FOLDERS.contains(&folder) || folder == "usr/lib64") && file.contains(".so")
}

/// Puts a program package's files into the tree.
pub(crate) fn install_package(
    recipe: &PackageRecipe,
    package: &Unpacked,
    tree: &mut Tree,
) -> Result<(), UserlandError> {
    let mut joined = Vec::new();
    for pattern in &recipe.files {
        let mut found = false;
        for (path, entry) in &package.entries {
            if !matches(pattern, path) {
                continue;
            }
            found = true;
            match (entry, &recipe.concatenate) {
                (Entry::File { data, .. }, Some(_)) => {
                    joined.extend_from_slice(data);
                    if !data.ends_with(b"\n") {
                        joined.push(b'\n');
                    }
                }
                (Entry::Symlink { .. }, Some(_)) => {}
                (entry, None) => put_entry(tree, path, entry),
            }
        }
        if !found {
            return Err(UserlandError::NoFile {
                package: package.name.clone(),
                pattern: pattern.clone(),
            });
        }
    }
    if let Some(target) = &recipe.concatenate {
        tree.file(target.trim_start_matches('/'), 0o644, joined);
    }
    Ok(())
}

/// Adds the shared libraries and the program loader that the programs in the tree need. Returns the names of the
/// packages that were of use.
pub(crate) fn install_libraries(
    libraries: &[Unpacked],
    tree: &mut Tree,
) -> Result<BTreeSet<String>, UserlandError> {
    let mut used = BTreeSet::new();
    let mut to_check: Vec<String> = tree.iter().map(|(path, _)| path.clone()).collect();
    while let Some(path) = to_check.pop() {
        let Some(Node::File { data, .. }) = tree.get(&path) else {
            continue;
        };
        if !elf::is_elf(data) || path.ends_with(".ko") {
            continue;
        }
        let facts = elf::facts(data).map_err(|why| UserlandError::Elf {
            path: path.clone(),
            why,
        })?;
        let missing = |library: &str| UserlandError::MissingLibrary {
            path: path.clone(),
            library: library.to_owned(),
        };
        let mut wanted: Vec<Vec<String>> = Vec::new();
        if let Some(interpreter) = &facts.interpreter {
            let place = deb::normal_path(interpreter).ok_or_else(|| missing(interpreter))?;
            wanted.push(vec![place]);
        }
        for library in &facts.needed {
            let places = LIBRARY_FOLDERS.iter();
            wanted.push(places.map(|folder| format!("{folder}/{library}")).collect());
        }
        for places in wanted {
            if places.iter().any(|place| tree.get(place).is_some()) {
                continue;
            }
            let found = places.iter().find_map(|place| find(libraries, place));
            let library = places[0].rsplit('/').next().unwrap_or(&places[0]);
            let (package, chain) = found.ok_or_else(|| missing(library))?;
            used.insert(package.to_owned());
            for (path, entry) in chain {
                put_entry(tree, &path, entry);
                to_check.push(path);
            }
        }
    }
    Ok(used)
}

/// The file at a place in one of the packages, with the links that lead to it.
fn find<'a>(libraries: &'a [Unpacked], place: &str) -> Option<(&'a str, Vec<(String, &'a Entry)>)> {
    libraries.iter().find_map(|package| {
        let mut chain = Vec::new();
        let mut path = place.to_owned();
        while chain.len() < MAX_LINKS {
            let entry = package.entries.get(&path)?;
            chain.push((path.clone(), entry));
            match entry {
                Entry::File { .. } => return Some((package.name.as_str(), chain)),
                Entry::Symlink { target } => path = link_target(&path, target)?,
            }
        }
        None
    })
}

/// Where a link leads, as a normal path.
fn link_target(link: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return deb::normal_path(target);
    }
    let folder = link.rsplit_once('/').map_or("", |(folder, _)| folder);
    deb::normal_path(&format!("{folder}/{target}"))
}

fn put_entry(tree: &mut Tree, path: &str, entry: &Entry) {
    match entry {
        Entry::File { mode, data } => tree.file(path, mode & 0o755, data.clone()),
        Entry::Symlink { target } => {
            // Absolute, because folders were merged: `../lib` may mean something else now.
            let target =
                link_target(path, target).map_or(target.clone(), |path| format!("/{path}"));
            tree.symlink(path, target);
        }
    }
}

/// Adds the links of a recipe, the usual folders and the files of /etc. `init` is a link to the agent.
pub(crate) fn install_skeleton(recipe: &Recipe, tree: &mut Tree) -> Result<(), UserlandError> {
    for (target, names) in &recipe.links {
        if tree.get(&format!("usr/bin/{target}")).is_none() {
            return Err(UserlandError::NoLinkTarget {
                target: target.clone(),
            });
        }
        for name in names {
            let path = format!("usr/bin/{name}");
            if tree.get(&path).is_some() {
                return Err(UserlandError::LinkOverFile {
                    name: name.clone(),
                    target: target.clone(),
                });
            }
            tree.symlink(path, target.clone());
        }
    }
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/bin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
        ("usr/sbin", "bin"),
        ("var/run", "/run"),
        ("var/lock", "/run/lock"),
        ("etc/mtab", "/proc/self/mounts"),
        ("init", AGENT_PATH),
    ] {
        tree.symlink(link, target);
    }
    for (folder, mode) in [
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        // Not /root: that is the home of whoever runs `machine` as root, and may be shared from there.
        ("home/docker", 0o700),
        ("mnt", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("run", 0o755),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("usr/lib64", 0o755),
        ("var/log", 0o755),
        ("var/tmp", 0o1777),
        (DATA_ROOT.trim_start_matches('/'), 0o711),
    ] {
        tree.folder(folder, mode);
    }
    // The kernel opens the console for init before init can mount /dev.
    for (path, mode, minor) in [("dev/console", 0o600, (5, 1)), ("dev/null", 0o666, (1, 3))] {
        let (major, minor) = minor;
        tree.put(path, Node::CharacterDevice { mode, major, minor });
    }
    for (path, mode, text) in [
        (
            "etc/passwd",
            0o644,
            "root:x:0:0:root:/home/docker:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
        ),
        ("etc/shadow", 0o600, "root:*:::::::\nnobody:*:::::::\n"),
        (
            "etc/group",
            0o644,
            "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
        ),
        (
            "etc/hosts",
            0o644,
            "127.0.0.1 localhost\n::1 localhost ip6-localhost\n",
        ),
        ("etc/nsswitch.conf", 0o644, "hosts: files dns\n"),
        (
            "etc/profile",
            0o644,
            "export PATH=/usr/bin HOME=/home/docker\n",
        ),
        ("etc/shells", 0o644, "/bin/sh\n"),
        (
            "etc/os-release",
            0o644,
            concat!(
                "NAME=\"Berth\"\nID=berth\nID_LIKE=debian\nVERSION_ID=\"",
                env!("CARGO_PKG_VERSION"),
                "\"\nPRETTY_NAME=\"Berth ",
                env!("CARGO_PKG_VERSION"),
                "\"\n"
            ),
        ),
    ] {
        tree.file(path, mode, text);
    }
    Ok(())
}

/// Does a path (normal, no leading `/`) match a pattern with at most one `*` in its last component?
fn matches(pattern: &str, path: &str) -> bool {
    let Some(pattern) = deb::normal_path(pattern) else {
        return false;
    };
    match pattern.split_once('*') {
        None => pattern == path,
        Some((start, end)) => path
            .strip_prefix(start)
            .and_then(|rest| rest.strip_suffix(end))
            .is_some_and(|middle| !middle.contains('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_elf::dynamic_elf;

    fn file(data: &str) -> Entry {
        Entry::File {
            mode: 0o644,
            data: data.into(),
        }
    }

    fn unpacked(entries: &[(&str, Entry)]) -> Unpacked {
        let entries = entries
            .iter()
            .map(|(path, entry)| ((*path).to_owned(), entry.clone()));
        Unpacked {
            name: "sample".into(),
            entries: entries.collect(),
        }
    }

    fn recipe(files: &[&str], concatenate: Option<&str>) -> PackageRecipe {
        PackageRecipe {
            name: "sample".into(),
            files: files.iter().map(|file| (*file).to_owned()).collect(),
            concatenate: concatenate.map(str::to_owned),
        }
    }

    #[test]
    fn patterns() {
        assert!(matches("/sbin/mke2fs", "usr/bin/mke2fs"));
        assert!(matches("/usr/share/*.crt", "usr/share/a.crt"));
        assert!(!matches("/usr/share/*.crt", "usr/share/b/a.crt"));
        assert!(!matches("/usr/share/*.crt", "usr/share/a.pem"));
    }

    #[test]
    fn certificates_become_one_file() {
        let package = unpacked(&[("usr/c/b.crt", file("B")), ("usr/c/a.crt", file("A\n"))]);
        let mut tree = Tree::default();
        let recipe = recipe(&["/usr/c/*.crt"], Some("/etc/bundle.crt"));
        install_package(&recipe, &package, &mut tree).unwrap();
        let expected = Node::File {
            mode: 0o644,
            data: b"A\nB\n".to_vec(),
        };
        assert_eq!(tree.get("etc/bundle.crt"), Some(&expected));
        assert_eq!(tree.get("usr/c/a.crt"), None);
    }

    #[test]
    fn a_file_that_is_gone_from_a_package_is_an_error() {
        let package = unpacked(&[("usr/bin/tool", file("x"))]);
        let error = install_package(
            &recipe(&["/usr/bin/other"], None),
            &package,
            &mut Tree::default(),
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the package sample has no file /usr/bin/other"
        );
    }

    fn elf_file(interpreter: Option<&str>, needed: &[&str]) -> Entry {
        Entry::File {
            mode: 0o755,
            data: dynamic_elf(interpreter, needed),
        }
    }

    fn link(target: &str) -> Entry {
        Entry::Symlink {
            target: target.into(),
        }
    }

    #[test]
    fn libraries_are_followed_and_unneeded_ones_left_out() {
        let mut tree = Tree::default();
        let program = dynamic_elf(Some("/lib64/ld.so.2"), &["liba.so.1"]);
        tree.file("usr/bin/program", 0o755, program);
        let folder = "usr/lib/x86_64-linux-gnu";
        let place = |name: &str| format!("{folder}/{name}");
        let libraries = [
            unpacked(&[
                (&place("liba.so.1"), link("liba.so.1.5")),
                (&place("liba.so.1.5"), elf_file(None, &["libc.so.6"])),
                (&place("libunused.so.1"), elf_file(None, &[])),
            ]),
            Unpacked {
                name: "libc".into(),
                ..unpacked(&[
                    ("usr/lib64/ld.so.2", link("/lib/x86_64-linux-gnu/ld.so.2")),
                    (&place("ld.so.2"), elf_file(None, &[])),
                    (&place("libc.so.6"), elf_file(None, &["ld.so.2"])),
                ])
            },
            Unpacked {
                name: "unneeded".into(),
                ..unpacked(&[(&place("libother.so"), elf_file(None, &[]))])
            },
        ];
        let used = install_libraries(&libraries, &mut tree).unwrap();
        assert_eq!(used, ["libc".to_owned(), "sample".to_owned()].into());
        let files: Vec<_> = tree
            .iter()
            .filter(|(_, node)| !matches!(node, Node::Folder { .. }))
            .map(|(path, _)| path.trim_start_matches(folder))
            .collect();
        assert_eq!(
            files,
            [
                "usr/bin/program",
                "/ld.so.2",
                "/liba.so.1",
                "/liba.so.1.5",
                "/libc.so.6",
                "usr/lib64/ld.so.2"
            ]
        );
        let without_libc = install_libraries(&libraries[..1], &mut {
            let mut tree = Tree::default();
            tree.file("usr/bin/program", 0o755, dynamic_elf(None, &["liba.so.1"]));
            tree
        });
        assert_eq!(
            without_libc.unwrap_err().to_string(),
            "usr/lib/x86_64-linux-gnu/liba.so.1.5 needs libc.so.6, which no package under `libraries` has"
        );
    }

    #[test]
    fn links_must_lead_somewhere_and_hide_nothing() {
        let mut recipe = crate::recipe::LoadedRecipe::find("berth").unwrap().recipe;
        recipe.links = [("busybox".to_owned(), vec!["sh".to_owned()])].into();
        let error = install_skeleton(&recipe, &mut Tree::default()).unwrap_err();
        assert!(
            matches!(error, UserlandError::NoLinkTarget { .. }),
            "{error}"
        );
        let mut tree = Tree::default();
        tree.file("usr/bin/busybox", 0o755, "x");
        tree.file("usr/bin/sh", 0o755, "y");
        let error = install_skeleton(&recipe, &mut tree).unwrap_err();
        assert!(
            matches!(error, UserlandError::LinkOverFile { .. }),
            "{error}"
        );
    }
}
