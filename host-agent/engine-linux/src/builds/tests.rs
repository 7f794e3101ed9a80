use super::*;
use engine::builds::files::FillForm;
use engine::builds::ignore::Ignore;
use engine::builds::mode::FileMode;
use std::os::unix::fs::{PermissionsExt, symlink};

struct Bench {
    _data: tempfile::TempDir,
    files: DiskBuildFiles,
    tree: Arc<BorrowedRoot>,
}

async fn bench(files: &[(&str, &str)]) -> Bench {
    let data = tempfile::tempdir().unwrap();
    let build = DiskBuildFiles::open(data.path(), data.path()).unwrap();
    let tree = Arc::new(build.new_folder().await.unwrap());
    for (path, content) in files {
        let path = tree.path.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    Bench {
        _data: data,
        files: build,
        tree,
    }
}

impl Bench {
    async fn select(&self, sources: &[&str], exclude: &str) -> Result<Selection, BuildFilesError> {
        let what = CopyFrom {
            sources: sources.iter().map(|&source| source.to_owned()).collect(),
            exclude: Arc::new(Ignore::parse(exclude).unwrap()),
            ..CopyFrom::default()
        };
        self.files.select(self.tree.clone(), what).await
    }

    async fn leave_out(&self, rules: &str) {
        let rules = Ignore::parse(rules).unwrap();
        let left_out = self.files.leave_out(self.tree.clone(), rules);
        left_out.await.unwrap();
    }

    /// Fills an empty folder; what `take` says is moved.
    async fn fill(
        &self,
        selection: Selection,
        form: FillForm,
        take: bool,
    ) -> Result<tempfile::TempDir, BuildFilesError> {
        let below = tempfile::tempdir().unwrap();
        let below = Arc::new(BorrowedRoot::new(below.path().to_owned(), below));
        let folder = tempfile::tempdir_in(self._data.path()).unwrap();
        let part = FillPart {
            tree: self.tree.clone(),
            selection,
            form,
            take,
        };
        let filled = self.files.fill(folder.path(), Some(below), vec![part]);
        filled.await.map(|()| folder)
    }

    /// What comes of it, folders with a slash. Moved or copied, it is the same.
    async fn names(&self, selection: Selection, form: FillForm) -> Vec<String> {
        let folder = self.fill(selection, form, false).await.unwrap();
        listing(folder.path())
    }
}

fn listing(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let root = File::open(root).unwrap();
    walk(root.as_fd(), &mut |found| {
        let name = String::from_utf8_lossy(found.path);
        let slash = match found.kind() {
            rustix::fs::FileType::Directory => "/",
            _ => "",
        };
        names.push(format!("{name}{slash}"));
        Ok(Descend::Yes)
    })
    .unwrap();
    names
}

/// Name, mode, owner, time and content or target of everything.
fn facts_of(root: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt;
    listing(root)
        .iter()
        .map(|name| {
            let path = root.join(name.trim_end_matches('/'));
            let facts = std::fs::symlink_metadata(&path).unwrap();
            let content = match facts.is_file() {
                true => std::fs::read_to_string(&path).unwrap(),
                false => std::fs::read_link(&path)
                    .map(|target| target.display().to_string())
                    .unwrap_or_default(),
            };
            let (mode, owner) = (facts.mode(), (facts.uid(), facts.gid()));
            format!("{name} {mode:o} {owner:?} {} {content}", facts.mtime())
        })
        .collect()
}

#[tokio::test]
async fn files_folders_and_patterns_are_selected_as_docker_does() {
    if !crate::host::lets_tests("giving files away") {
        return;
    }
    let bench = bench(&[("a.txt", "1"), ("b.txt", "2"), ("d/x", "3"), ("d/e/y", "4")]).await;
    let form = || FillForm {
        prefix: "to/".into(),
        ..FillForm::default()
    };
    let one = bench.select(&["a.txt"], "").await.unwrap();
    assert_eq!(bench.names(one, form()).await, ["to/", "to/a.txt"]);
    let folder = bench.select(&["d"], "").await.unwrap();
    assert_eq!(
        bench.names(folder, form()).await,
        ["to/", "to/e/", "to/e/y", "to/x"]
    );
    let several = bench.select(&["*.txt", "d"], "e").await.unwrap();
    assert_eq!(
        bench.names(several, form()).await,
        ["to/", "to/a.txt", "to/b.txt", "to/x"]
    );
    let renamed = bench.select(&["/a.txt"], "").await.unwrap();
    let form = FillForm {
        rename: Some("c".into()),
        mode: Some(FileMode::Bits(0o700)),
        ..FillForm::default()
    };
    assert_eq!(bench.names(renamed, form).await, ["c"]);
}

/// The rules of a `.dockerignore` are of the context, whoever reads it.
#[tokio::test]
async fn what_is_left_out_is_not_there() {
    let files = ["a.txt", "b.txt", "d/x", "d/e/y", "d/e/z", "e/x"].map(|path| (path, ""));
    for (rules, left) in [
        (
            "b.txt\nd/e\ne",
            &["a.txt", "d/", "d/x", "link", "outside"][..],
        ),
        ("**\n!d/e/y", &["d/", "d/e/", "d/e/y"]),
        // Nothing of the folder is taken back, and a link is not what it leads to.
        ("*\n!e/no*\n!link", &["link"]),
    ] {
        let bench = bench(&files).await;
        symlink("/etc", bench.tree.path.join("outside")).unwrap();
        symlink("a.txt", bench.tree.path.join("link")).unwrap();
        bench.leave_out(rules).await;
        assert_eq!(listing(&bench.tree.path), left, "{rules:?}");
        assert!(Path::new("/etc/passwd").exists());
    }
}

#[tokio::test]
async fn symbolic_modes_know_folders_and_programs() {
    if !crate::host::lets_tests("giving files away") {
        return;
    }
    let files = [("d/plain", "1"), ("d/program", "2"), ("d/e/x", "3")];
    for take in [false, true] {
        let bench = bench(&files).await;
        for (name, mode) in [("d/plain", 0o600), ("d/program", 0o711), ("d/e", 0o700)] {
            let path = bench.tree.path.join(name);
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        }
        let form = FillForm {
            mode: Some("u=rwX,go=rX".parse().unwrap()),
            ..FillForm::default()
        };
        let all = bench.select(&["d"], "").await.unwrap();
        let filled = bench.fill(all, form, take).await.unwrap();
        let modes = ["plain", "program", "e", "e/x"].map(|name| {
            let facts = std::fs::metadata(filled.path().join(name)).unwrap();
            facts.permissions().mode() & 0o7777
        });
        assert_eq!(modes, [0o644, 0o755, 0o755, 0o644], "{modes:?}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_in_dockers_words() {
    let bench = bench(&[("a", "1"), ("secret", "2")]).await;
    bench.leave_out("secret").await;
    for (source, expected) in [
        (
            "nope",
            "file not found in build context or excluded by .dockerignore: stat nope: file does not exist",
        ),
        (
            "secret",
            "file not found in build context or excluded by .dockerignore: stat secret: file does not exist",
        ),
        ("*.no", "no source files were specified"),
        ("[", "syntax error in pattern"),
    ] {
        let error = bench.select(&[source], "").await.unwrap_err().to_string();
        assert!(error.contains(expected), "{source}: {error}");
    }
}

#[tokio::test]
async fn the_digest_is_of_names_modes_and_contents() {
    let bench = bench(&[("d/a", "1"), ("d/b", "2")]).await;
    let digest = async || bench.select(&["d"], "").await.unwrap().digest;
    let first = digest().await;
    std::fs::write(bench.tree.path.join("d/a"), "1").unwrap();
    assert_eq!(digest().await, first, "a new time changes nothing");
    std::fs::write(bench.tree.path.join("d/a"), "x").unwrap();
    let content = digest().await;
    assert_ne!(content, first);
    std::fs::set_permissions(
        bench.tree.path.join("d/a"),
        PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    let mode = digest().await;
    assert_ne!(mode, content);
    std::fs::rename(bench.tree.path.join("d/b"), bench.tree.path.join("d/c")).unwrap();
    assert_ne!(digest().await, mode);
}

#[tokio::test]
async fn links_lead_to_the_contexts_own_files() {
    if !crate::host::lets_tests("giving files away") {
        return;
    }
    let bench = bench(&[("etc/passwd", "inside"), ("d/x", "1")]).await;
    symlink("/etc/passwd", bench.tree.path.join("link")).unwrap();
    symlink("../../../../etc", bench.tree.path.join("folder")).unwrap();
    for source in ["link", "folder/passwd", "../../../etc/passwd"] {
        let selection = bench.select(&[source], "").await.unwrap();
        let folder = bench.fill(selection, FillForm::default(), false).await;
        let folder = folder.unwrap();
        let name = &listing(folder.path())[0];
        let content = std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(content, "inside", "{source}");
    }
    assert_eq!(
        bench
            .files
            .read(bench.tree.clone(), "link", 100)
            .await
            .unwrap()
            .unwrap(),
        b"inside"
    );
    assert_eq!(
        bench
            .files
            .read(bench.tree.clone(), "none", 100)
            .await
            .unwrap(),
        None
    );
    assert!(
        bench
            .files
            .read(bench.tree.clone(), "link", 3)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn destinations_are_followed_inside_of_the_image() {
    let bench = bench(&[
        ("file", "1"),
        ("run/there", "1"),
        ("etc/passwd", "ada:x:7:8::/:/bin/sh\n"),
    ])
    .await;
    symlink("/run", bench.tree.path.join("var-run")).unwrap();
    symlink("../../../../run/new/deep", bench.tree.path.join("dangling")).unwrap();
    symlink("loop", bench.tree.path.join("loop")).unwrap();
    let place = async |path: &str, owner: Option<&str>| {
        bench
            .files
            .place(bench.tree.clone(), path, Links::Followed, owner)
            .await
    };
    let check = async |path: &str, real: &str, is_folder: bool, missing: &[&str]| {
        let found = place(path, None).await.unwrap();
        assert_eq!(
            (found.path.as_str(), found.is_folder),
            (real, is_folder),
            "{path}"
        );
        assert_eq!(found.missing, missing, "{path}");
    };
    check("/", "", true, &[]).await;
    check("/var-run", "run", true, &[]).await;
    check("/var-run/there", "run/there", false, &[]).await;
    check("/var-run/a/b/c", "run/a/b/c", false, &["run/a", "run/a/b"]).await;
    check(
        "/dangling/x",
        "run/new/deep/x",
        false,
        &["run/new", "run/new/deep"],
    )
    .await;
    check("/../../run", "run", true, &[]).await;
    let error = place("/file/x", None).await.unwrap_err().to_string();
    assert_eq!(error, "/file/x: not a directory");
    let error = place("/loop/x", None).await.unwrap_err().to_string();
    assert!(error.contains("too many levels"), "{error}");
    for (owner, expected) in [
        ("ada", (7, 8)),
        ("5", (5, 5)),
        ("ada:3", (7, 3)),
        ("1:2", (1, 2)),
    ] {
        assert_eq!(
            place("/x", Some(owner)).await.unwrap().owner,
            Some(expected),
            "{owner}"
        );
    }
    assert!(place("/x", Some("nobody-here")).await.is_err());
}

#[tokio::test]
async fn links_make_room_for_what_is_copied_beside_them() {
    let bench = bench(&[("run/there", "1"), ("a", "2")]).await;
    symlink("/run", bench.tree.path.join("sym")).unwrap();
    let check = async |path: &str, is: (bool, bool), missing: &[&str]| {
        let place = bench
            .files
            .place(bench.tree.clone(), path, Links::Replaced, None);
        let found = place.await.unwrap();
        assert_eq!(found.path, path.trim_matches('/'));
        assert_eq!((found.is_there, found.is_folder), is, "{path}");
        assert_eq!(found.missing, missing, "{path}");
    };
    check("/sym/", (false, false), &[]).await;
    check("/sym/a/b", (false, false), &["sym", "sym/a"]).await;
    check("/run/", (true, true), &[]).await;
    check("/run/there", (false, false), &[]).await;
    check("/", (true, true), &[]).await;
    // The folder comes where the link is.
    let selection = bench.select(&["a"], "").await.unwrap();
    let form = FillForm {
        new_folders: vec!["sym".into()],
        prefix: "sym/".into(),
        ..FillForm::default()
    };
    assert_eq!(bench.names(selection, form).await, ["sym/", "sym/a"]);
}

#[tokio::test]
async fn places_for_mounts_leave_no_trace() {
    let bench = bench(&[("run/there", "1")]).await;
    let root = bench.tree.path.clone();
    let time = || {
        std::fs::metadata(root.join("run"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let before = time();
    let paths = ["/run/secrets/key", "/run/there", "/cache/a/b"];
    let paths = paths.iter().map(|&path| path.to_owned()).collect();
    let missing = bench
        .files
        .missing(bench.tree.clone(), paths)
        .await
        .unwrap();
    assert_eq!(missing.len(), 2);
    std::fs::create_dir_all(root.join("run/secrets")).unwrap();
    std::fs::write(root.join("run/secrets/key"), "").unwrap();
    std::fs::create_dir_all(root.join("cache/a/b")).unwrap();
    std::fs::write(root.join("cache/kept"), "by the step").unwrap();
    bench
        .files
        .remove_missing(bench.tree.clone(), missing)
        .await
        .unwrap();
    assert!(!root.join("run/secrets").exists() && !root.join("cache/a").exists());
    assert!(root.join("cache/kept").exists() && root.join("run/there").exists());
    assert_eq!(time(), before);
}

#[tokio::test]
async fn cache_mounts_are_kept_until_they_are_removed() {
    if !crate::host::lets_tests("giving files away") {
        return;
    }
    let bench = bench(&[("seed/a", "1")]).await;
    let content = Some((bench.tree.clone(), "seed".to_owned()));
    let path = bench
        .files
        .cache("/var/cache", content, 0o700, (5, 6))
        .await
        .unwrap();
    assert_eq!(std::fs::read_to_string(path.join("a")).unwrap(), "1");
    std::fs::write(path.join("b"), "22").unwrap();
    let again = bench
        .files
        .cache("/var/cache", None, 0o755, (0, 0))
        .await
        .unwrap();
    assert_eq!(again, path);
    let all = bench.files.caches().await.unwrap();
    assert_eq!(
        (all.len(), all[0].id.as_str(), all[0].size),
        (1, "/var/cache", 3)
    );
    DiskBuildFiles::open(bench._data.path(), bench._data.path()).unwrap();
    assert!(path.join("b").exists(), "an engine's start keeps them");
    assert!(bench.files.remove_cache("../contexts").await.is_err());
    bench.files.remove_cache(&all[0].name).await.unwrap();
    assert!(bench.files.caches().await.unwrap().is_empty() && !path.exists());
}

#[tokio::test]
async fn names_that_would_hide_files_are_refused() {
    let bench = bench(&[("d/.wh.x", "1")]).await;
    let selection = bench.select(&["d"], "").await.unwrap();
    let outcome = bench.fill(selection, FillForm::default(), true).await;
    let error = engine::error::full_message(&outcome.unwrap_err());
    assert!(error.contains(".wh."), "{error}");
}

#[tokio::test]
async fn what_is_moved_is_what_would_be_copied() {
    if !crate::host::lets_tests("giving files away") {
        return;
    }
    let files = [("d/a", "1"), ("d/e/b", "2"), ("d/e/f/c", "3"), ("x/y", "4")];
    let forms = [
        FillForm::default(),
        FillForm {
            prefix: "srv/in/".into(),
            new_folders: vec!["srv".into(), "srv/in".into()],
            new_folders_time: 1_000,
            ..FillForm::default()
        },
        FillForm {
            owner: Some((3, 4)),
            ..FillForm::default()
        },
        FillForm {
            mode: Some(FileMode::Bits(0o4711)),
            latest: Some(500_000_000),
            ..FillForm::default()
        },
    ];
    for form in forms {
        for (sources, exclude) in [(&["d"][..], ""), (&["d", "x"], "e/b"), (&["."], "")] {
            let bench = bench(&files).await;
            symlink("../a", bench.tree.path.join("d/e/link")).unwrap();
            for (name, mode) in [("d/e", 0o700), ("d/a", 0o4755)] {
                let path = bench.tree.path.join(name);
                std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
            }
            let select = || bench.select(sources, exclude);
            let copied = bench.fill(select().await.unwrap(), form.clone(), false);
            let copied = copied.await.unwrap();
            let moved = bench.fill(select().await.unwrap(), form.clone(), true);
            let moved = moved.await.unwrap();
            // Folders that a layer only has on the way are as old as they are.
            let implied = |fact: &String| !fact.starts_with("srv/ ");
            let facts = |root: &Path| -> Vec<String> {
                facts_of(root).into_iter().filter(implied).collect()
            };
            assert_eq!(facts(copied.path()), facts(moved.path()), "{form:?}");
            assert!(!bench.tree.path.join("d/a").exists());
            assert_eq!(bench.tree.path.join("d/e/b").exists(), !exclude.is_empty());
        }
    }
}

#[tokio::test]
async fn a_file_with_many_names_is_copied() {
    if !crate::host::lets_tests("giving files away") {
        return;
    }
    let bench = bench(&[("d/a", "1")]).await;
    for name in ["b", "c"] {
        let path = bench.tree.path.join("d").join(name);
        std::fs::hard_link(bench.tree.path.join("d/a"), path).unwrap();
    }
    let selection = bench.select(&["d"], "").await.unwrap();
    assert!(!selection.sources[0].is_whole);
    let folder = bench.fill(selection, FillForm::default(), true).await;
    let folder = folder.unwrap();
    assert_eq!(listing(folder.path()), ["a", "b", "c"]);
    assert_eq!(listing(&bench.tree.path.join("d")), ["a", "b", "c"]);
}

#[tokio::test]
async fn folders_on_the_way_are_as_they_are_below() {
    if !crate::host::lets_tests("giving files away") {
        return;
    }
    let bench = bench(&[("file", "1"), ("etc/old", "2")]).await;
    let etc = bench.tree.path.join("etc");
    std::fs::set_permissions(&etc, PermissionsExt::from_mode(0o750)).unwrap();
    std::os::unix::fs::chown(&etc, Some(5), Some(6)).unwrap();
    let selection = bench.select(&["file"], "").await.unwrap();
    let folder = tempfile::tempdir_in(bench._data.path()).unwrap();
    let part = FillPart {
        tree: bench.tree.clone(),
        selection,
        form: FillForm {
            prefix: "etc/new/".into(),
            new_folders: vec!["etc/new".into()],
            ..FillForm::default()
        },
        take: false,
    };
    let below = Some(bench.tree.clone());
    let filled = bench.files.fill(folder.path(), below, vec![part]);
    filled.await.unwrap();
    let facts = facts_of(folder.path());
    assert!(facts[0].starts_with("etc/ 40750 (5, 6)"), "{facts:?}");
    assert!(facts[1].starts_with("etc/new/ 40755 (0, 0) 0"), "{facts:?}");
    assert_eq!(facts.len(), 3);
}

/// A disk of its own that goes with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> SmallDisk {
        let folder = tempfile::tempdir().unwrap();
        let options = Some(c"size=8m");
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", folder.path(), "tmpfs", flags, options).unwrap();
        SmallDisk(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn an_archive_that_grows_leaves_some_of_the_disk_free() {
    if !crate::host::lets_tests("mounting a disk") {
        return;
    }
    let disk = SmallDisk::mount();
    let files = DiskBuildFiles::open(disk.0.path(), disk.0.path()).unwrap();
    let (free, room) = (
        files.free_bytes().await.unwrap(),
        files.room().await.unwrap(),
    );
    assert_eq!(free - room, (8 << 20) / 20);
    for (size, fits) in [(room + 1, false), (room - 64 * 1024, true)] {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(size);
        builder
            .append_data(&mut header, "zeros", std::io::repeat(0).take(size))
            .unwrap();
        let bomb = zstd::encode_all(&builder.into_inner().unwrap()[..], 1).unwrap();
        assert!(bomb.len() < 64 * 1024);
        let content: ByteStream =
            Box::pin(futures_util::stream::iter([Ok(bytes::Bytes::from(bomb))]));
        let outcome = files.unpack_context(content, ContextForm::default()).await;
        match outcome {
            Ok(_) => assert!(fits, "{size} of {room}"),
            Err(error) => {
                let error = engine::error::full_message(&error);
                assert!(
                    !fits && error.contains("unpack the build context"),
                    "{error}"
                );
            }
        }
    }
}

#[tokio::test]
async fn contexts_go_with_the_build_and_with_the_engine() {
    let bench = bench(&[("a", "1")]).await;
    let (path, data) = (bench.tree.path.clone(), bench._data.path().to_owned());
    DiskBuildFiles::open(&data, &data).unwrap();
    assert!(!path.exists());
    let tree = bench.files.new_folder().await.unwrap();
    let path = tree.path.clone();
    drop(tree);
    assert!(!path.exists());
}
