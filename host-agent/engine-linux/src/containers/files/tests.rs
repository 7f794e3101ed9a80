//! What can be tested without a container: unpacking into a folder, and reading it again.

use super::*;
use crate::archive::sparse::testing::Holes;
use crate::archive::write::{EntryKind, NewEntry, TarWriter};
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

fn entry(kind: EntryKind, path: &str, link: &str) -> NewEntry {
    NewEntry {
        kind,
        path: path.into(),
        link: link.into(),
        mode: 0o640,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        size: 0,
        mtime: 1_000_000_000,
        device: (0, 0),
        xattrs: Vec::new(),
    }
}

fn file(writer: &mut TarWriter<Vec<u8>>, path: &str, content: &str) {
    let entry = NewEntry {
        size: content.len() as u64,
        ..entry(EntryKind::File, path, "")
    };
    writer.file(&entry, content.as_bytes()).expect("memory");
}

fn archive(fill: impl FnOnce(&mut TarWriter<Vec<u8>>)) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    fill(&mut writer);
    writer.finish().expect("memory")
}

/// A root with a folder `in` to unpack into, a folder `other` in it, and beside it a folder that must stay as it is.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        for path in ["root/in", "root/other", "outside"] {
            fs::create_dir_all(folder.path().join(path)).expect("made");
        }
        fs::write(folder.path().join("outside/secret"), "secret").expect("written");
        Place { folder }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("root").join(path)
    }

    fn extract_with(&self, archive: &[u8], keep_kinds: bool) -> Result<(), FileError> {
        let root = Root::at(&self.path(""));
        Extractor::new(&root, "/in", keep_kinds, None, None).extract(archive)
    }

    fn extract(&self, archive: &[u8]) -> Result<(), FileError> {
        self.extract_with(archive, false)
    }

    #[track_caller]
    fn outside_is_untouched(&self) {
        let outside = self.folder.path().join("outside");
        assert_eq!(fs::read_dir(&outside).expect("there").count(), 1);
        let secret = fs::read_to_string(outside.join("secret")).expect("there");
        assert_eq!(secret, "secret");
        let names = fs::read_dir(self.folder.path()).expect("there").count();
        assert_eq!(names, 2);
    }
}

#[test]
fn what_leads_out_of_the_folder_by_name_is_refused() {
    for path in ["../x", "a/../../x", "/../x"] {
        let place = Place::new();
        let bytes = archive(|writer| file(writer, path, "x"));
        let error = place.extract(&bytes).expect_err("refused");
        assert!(error.to_string().contains("is outside"), "{path}: {error}");
        place.outside_is_untouched();
    }
    for link in ["../../outside/secret", "/etc/passwd", "in"] {
        let place = Place::new();
        let bytes = archive(|writer| {
            writer
                .entry(&entry(EntryKind::HardLink, "x", link))
                .expect("memory");
        });
        let error = place.extract(&bytes).expect_err("refused");
        assert!(
            error.to_string().contains("invalid hardlink"),
            "{link}: {error}"
        );
    }
}

#[test]
fn links_in_the_way_lead_to_places_inside_only() {
    let place = Place::new();
    let bytes = archive(|writer| {
        for (path, link) in [
            ("up", "../../outside"),
            ("absolute", "/outside"),
            ("side", "../other"),
        ] {
            writer
                .entry(&entry(EntryKind::Symlink, path, link))
                .expect("memory");
        }
        file(writer, "side/file", "side");
    });
    place.extract(&bytes).expect("good");
    assert_eq!(
        fs::read_to_string(place.path("other/file")).expect("there"),
        "side"
    );
    for way in ["up", "absolute"] {
        let bytes = archive(|writer| file(writer, &format!("{way}/secret"), "changed"));
        // There is no such folder inside.
        assert!(place.extract(&bytes).is_err(), "{way}");
        place.outside_is_untouched();
    }
    // The last name is never followed.
    symlink("../../outside/secret", place.path("in/last")).expect("made");
    place
        .extract(&archive(|writer| file(writer, "last", "new")))
        .expect("good");
    assert!(
        place
            .path("in/last")
            .symlink_metadata()
            .expect("there")
            .is_file()
    );
    place.outside_is_untouched();
}

#[test]
fn folders_are_joined_and_other_things_replaced() {
    let place = Place::new();
    fs::create_dir_all(place.path("in/folder/inner")).expect("made");
    fs::write(place.path("in/folder/old"), "old").expect("written");
    fs::write(place.path("in/file"), "old").expect("written");
    let bytes = archive(|writer| {
        let mode = NewEntry {
            mode: 0o1750,
            ..entry(EntryKind::Folder, "folder/", "")
        };
        writer.entry(&mode).expect("memory");
        file(writer, "folder/new", "new");
        file(writer, "file", "new");
        file(writer, "deep/er/file", "deep");
    });
    place.extract(&bytes).expect("good");
    for (path, text) in [
        ("in/folder/old", "old"),
        ("in/folder/new", "new"),
        ("in/file", "new"),
        ("in/deep/er/file", "deep"),
    ] {
        assert_eq!(fs::read_to_string(place.path(path)).expect("there"), text);
    }
    let facts = fs::metadata(place.path("in/folder")).expect("there");
    assert_eq!(
        (facts.mode() & 0o7777, facts.mtime()),
        (0o1750, 1_000_000_000)
    );
}

#[test]
fn kinds_are_kept_where_that_is_asked_for() {
    let over_folder = archive(|writer| file(writer, "thing", "file"));
    let over_file = archive(|writer| {
        writer
            .entry(&entry(EntryKind::Folder, "thing/", ""))
            .expect("memory");
    });
    let place = Place::new();
    fs::create_dir_all(place.path("in/thing/inner")).expect("made");
    let error = place.extract_with(&over_folder, true).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "cannot overwrite directory \"/in/thing\" with non-directory \"/in\""
    );
    place.extract(&over_folder).expect("good");
    assert!(place.path("in/thing").is_file());
    let error = place.extract_with(&over_file, true).expect_err("refused");
    assert!(
        error
            .to_string()
            .starts_with("cannot overwrite non-directory \"/in/thing\""),
        "{error}"
    );
    place.extract(&over_file).expect("good");
    assert!(place.path("in/thing").is_dir());
}

#[test]
fn an_archive_that_is_none_or_ends_early_is_the_senders_fault() {
    let place = Place::new();
    let whole = archive(|writer| file(writer, "file", "content"));
    for bytes in [
        &whole[..515],
        b"this is no tar archive but a text".as_slice(),
    ] {
        let error = place.extract(bytes).expect_err("refused");
        assert!(matches!(error, FileError::Archive(_)), "{error}");
    }
    place
        .extract(b"")
        .expect("nothing is an archive of nothing");
    place.extract(&[0; 1024]).expect("so is this");
}

#[test]
fn files_with_holes_keep_them() {
    let Some(archives) = Holes::pack() else {
        return;
    };
    for (form, archive) in &archives.packed {
        let place = Place::new();
        let root = Root::at(&place.path(""));
        let owner = Some((
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        ));
        let extractor = |largest| Extractor::new(&root, "/in", false, owner, largest);
        extractor(None).extract(&archive[..]).expect(form);
        archives.check(form, &place.path("in/holes"));
        // Holes count where there is a bound, for they may be filled later.
        let error = extractor(Some(1 << 20)).extract(&archive[..]);
        let error = error.expect_err(form).to_string();
        assert!(error.contains("more than the 1048576 bytes"), "{error}");
        assert!(extractor(None).extract(&archive[..700]).is_err(), "{form}");
    }
}

#[test]
fn links_resolve_inside_and_as_far_as_they_lead() {
    let place = Place::new();
    for (path, target) in [
        ("in/absolute", "/other/./file"),
        ("in/up", "../../../other"),
        ("in/missing", "nowhere/else"),
        ("circle", "circle"),
    ] {
        symlink(target, place.path(path)).expect("made");
    }
    fs::write(place.path("other/file"), "x").expect("written");
    let root = Root::at(&place.path(""));
    let check = |path: &str, expected: &str| {
        assert_eq!(root.resolve(path).expect("readable"), expected, "{path}");
    };
    check("/in/absolute", "/other/file");
    check("/in/up", "/other");
    check("/in/up/file", "/other/file");
    check("/in/missing", "/in/nowhere/else");
    check("/in/../../..", "/");
    assert!(root.resolve("/circle").is_err());
    let stat = stat_now(&root, "/in/up").expect("there");
    assert_eq!(
        (stat.name.as_str(), stat.link_target.as_str()),
        ("up", "/other")
    );
    assert_eq!(stat.mode & 0o170_000, 0o120_000);
    let stat = stat_now(&root, "/in/up/").expect("there");
    assert_eq!(
        (stat.mode & 0o170_000, stat.link_target.as_str()),
        (0o40_000, "")
    );
    for path in ["/nothing", "/in/missing/"] {
        assert!(
            matches!(stat_now(&root, path), Err(FileError::NotFound)),
            "{path}"
        );
    }
    let error = stat_now(&root, "/other/file/").expect_err("no folder");
    assert_eq!(error.to_string(), "/other/file/: not a directory");
}

/// Path, mode, owner, group, time, number of names, and content.
type Facts = (String, u32, u32, u32, i64, u64, Vec<u8>);

/// Everything of a folder that must survive the way out and in again.
fn picture(folder: &Path) -> Vec<Facts> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(path) = folders.pop() {
        for found in fs::read_dir(&path).expect("readable") {
            let found = found.expect("readable");
            let facts = found.metadata().expect("readable");
            let content = if facts.is_dir() {
                folders.push(found.path());
                Vec::new()
            } else if facts.is_symlink() {
                let target = fs::read_link(found.path()).expect("readable");
                target.as_os_str().as_bytes().to_vec()
            } else if facts.is_file() {
                fs::read(found.path()).expect("readable")
            } else {
                facts.rdev().to_string().into_bytes()
            };
            let name = found.path();
            let name = name
                .strip_prefix(folder)
                .expect("inside")
                .display()
                .to_string();
            let links = if facts.is_dir() { 0 } else { facts.nlink() };
            all.push((
                name,
                facts.mode(),
                facts.uid(),
                facts.gid(),
                facts.mtime(),
                links,
                content,
            ));
        }
    }
    all.sort();
    all
}

fn tar_of(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut tree = TreeWriter::new(&mut bytes);
    let opened = fs::File::open(folder).expect("there");
    tree.add_tree(opened.as_fd(), b"").expect("readable");
    tree.finish().expect("memory");
    bytes
}

proptest! {
    // Each case makes folders: an eighth of what is asked for (`PROPTEST_CASES`).
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..ProptestConfig::default() })]
    #[test]
    fn a_tree_comes_back_as_it_was(
        files in proptest::collection::btree_map(
            "[a-c]{1,3}(/[d-f]{1,120}){0,2}",
            (proptest::collection::vec(any::<u8>(), 0..3000), 0u32..0o10000, 0i64..4_000_000_000),
            1..8,
        ),
    ) {
        if !crate::host::lets_tests("reading files of any mode") {
            return Ok(());
        }
        let place = Place::new();
        let from = place.path("other");
        let mut made = Vec::new();
        for (path, (content, mode, mtime)) in &files {
            let path = from.join(path);
            // `a` may be a file already where `a/b` wants a folder.
            if fs::create_dir_all(path.parent().expect("below")).is_err() || path.exists() {
                continue;
            }
            fs::write(&path, content).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).expect("ours");
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(*mtime as u64);
            fs::File::open(&path).map(|file| file.set_modified(at)).ok();
            made.push(path);
        }
        if let Some(first) = made.first() {
            fs::hard_link(first, from.join("zz-again")).expect("made");
            symlink("a/b", from.join("zz-link")).expect("made");
        }
        place.extract(&tar_of(&from)).expect("our own archive");
        prop_assert_eq!(picture(&from), picture(&place.path("in")));
        place.outside_is_untouched();
    }

    /// Whatever a stranger sends: nothing outside is touched, and nothing panics.
    #[test]
    fn no_archive_reaches_out(
        entries in proptest::collection::vec(
            (0usize..6, "(\\.\\./|/|[ab]/){0,3}[ab.]{0,2}", "(\\.\\./|/|[ab]/){0,4}(outside/secret|[ab.]{0,2})"),
            1..12,
        ),
    ) {
        let place = Place::new();
        let bytes = archive(|writer| {
            for (kind, path, link) in &entries {
                let kind = [
                    EntryKind::File, EntryKind::HardLink, EntryKind::Symlink,
                    EntryKind::Folder, EntryKind::Fifo, EntryKind::File,
                ][*kind];
                let path = if path.is_empty() { "x" } else { path };
                writer.entry(&entry(kind, path, link)).expect("memory");
            }
        });
        let _ = place.extract(&bytes);
        place.outside_is_untouched();
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = Place::new().extract(&bytes);
    }
}
