//! A context that arrives as a tar becomes a folder. The tar is a stranger's: what holds for layers ([`crate::layers`])
//! holds for it, but names with `.wh.` are plain names, and everything belongs to root.

use super::contents::KeptContents;
use super::failed;
use crate::archive::decode::{StreamReader, decoded};
use crate::archive::tar::TarEntry;
use crate::layers::{Contents, UnpackAs, UnpackError, UnpackLimits, unpack_as};
use engine::builds::files::{BuildFilesError, ContextForm};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, BufReader, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// Bytes that a compressed context may grow to, and how many entries it may have.
fn limits(folder: &Path) -> Result<UnpackLimits, BuildFilesError> {
    Ok(UnpackLimits {
        free: super::space(folder)?.room(),
        ..UnpackLimits::default()
    })
}

/// Digests of the contents of a context's files by their inode numbers, as they were received: they need not be read again
/// for a step's key. Files with attributes of their own are not among them.
pub(super) type Digests = HashMap<u64, [u8; 32]>;

/// So many are remembered of one context (some 50 bytes each).
const DIGESTS_MAX: usize = 200_000;

/// What is learnt of a context while it is unpacked.
struct Received<'a> {
    kept: Option<&'a KeptContents>,
    digests: RefCell<Digests>,
}

impl Contents for Received<'_> {
    fn place(
        &self,
        digest: &str,
        entry: &TarEntry,
        folder: BorrowedFd<'_>,
        name: &OsStr,
    ) -> io::Result<Option<u64>> {
        let Some(kept) = self.kept else {
            return Ok(None);
        };
        let placed = kept.place(digest, entry, folder, name)?;
        if placed.is_some() {
            // Its number may be that of a file which was here before.
            let facts = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            self.digests.borrow_mut().remove(&facts.st_ino);
        }
        Ok(placed)
    }

    fn keep(
        &self,
        digest: Option<&[u8; 32]>,
        entry: &TarEntry,
        facts: &Stat,
        folder: BorrowedFd<'_>,
        name: &OsStr,
    ) {
        let mut digests = self.digests.borrow_mut();
        match digest {
            Some(digest) if entry.xattrs.is_empty() && digests.len() < DIGESTS_MAX => {
                digests.insert(facts.st_ino, *digest);
            }
            // Numbers are used again when an archive has a name twice.
            _ => drop(digests.remove(&facts.st_ino)),
        }
        drop(digests);
        if let Some(kept) = self.kept {
            kept.keep(digest, entry, facts, folder, name);
        }
    }
}

/// Unpacks into the empty folder. On a blocking thread.
pub(super) fn unpack(
    input: StreamReader,
    folder: &Path,
    form: ContextForm,
    kept: &KeptContents,
) -> Result<Digests, BuildFilesError> {
    let root: OwnedFd = rustix::fs::openat(
        CWD,
        folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| failed("open the folder of the context", error))?;
    let limits = limits(folder)?;
    let received = Received {
        kept: form.keep_contents.then_some(kept),
        digests: RefCell::default(),
    };
    let plain = decoded(input).map_err(unreadable)?;
    let mut plain = BufReader::with_capacity(BUFFER, plain);
    let unpacked =
        unpack_as(UnpackAs::Files(Some(&received)), &mut plain, &root, &limits).map_err(refusal)?;
    // To the end, or the sender would see a broken connection.
    io::copy(&mut plain.take(TRAILER_MAX), &mut io::sink()).map_err(unreadable)?;
    if let Some(link) = unpacked.links_below.first() {
        return Err(BuildFilesError::Invalid(format!(
            "{:?} in the build context is a hard link to {:?}, which is not there",
            String::from_utf8_lossy(&link.path),
            String::from_utf8_lossy(&link.target)
        )));
    }
    if form.keep_contents {
        kept.used();
        kept.make_room();
    }
    Ok(received.digests.into_inner())
}

/// Bytes that are read at once.
const BUFFER: usize = 128 * 1024;

/// What may follow the archive's end: tar pads to whole records, and nobody needs more.
const TRAILER_MAX: u64 = 64 << 20;

fn unreadable(error: io::Error) -> BuildFilesError {
    BuildFilesError::Invalid(format!("cannot read the build context: {error}"))
}

/// In words of a context.
fn refusal(error: UnpackError) -> BuildFilesError {
    match error {
        UnpackError::Archive(error) => unreadable(error),
        UnpackError::Outside { path } => {
            BuildFilesError::Invalid(format!("{path:?} leads out of the build context"))
        }
        UnpackError::Invalid { path, why } => {
            BuildFilesError::Invalid(format!("{path:?} in the build context: {why}"))
        }
        UnpackError::TooLarge { limit } => BuildFilesError::Invalid(format!(
            "the files of the build context have more than {limit} bytes"
        )),
        UnpackError::ContentGone { path } => BuildFilesError::ContentGone { path },
        UnpackError::NoSpace { .. } => failed(
            "unpack the build context",
            io::Error::from(io::ErrorKind::StorageFull),
        ),
        error @ UnpackError::Entry { .. } if error.is_the_layers_fault() => {
            BuildFilesError::Invalid(format!(
                "the build context cannot be unpacked: {}",
                engine::error::full_message(&error)
            ))
        }
        UnpackError::Entry { step, path, source } => {
            failed(format!("{step} {path:?} of the build context"), source)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::DiskBuildFiles;
    use bytes::Bytes;
    use engine::builds::files::{BuildFiles, BuildFilesError, ContextForm, CopyFrom};
    use engine::images::{BorrowedRoot, ByteStream};
    use sha2::{Digest, Sha256};
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;
    use tar::EntryType;

    fn stream(bytes: Vec<u8>) -> ByteStream {
        // Odd pieces, so that nothing depends on their ends.
        let pieces: Vec<_> = bytes
            .chunks(777)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        Box::pin(futures_util::stream::iter(pieces))
    }

    /// Kind, name, link or content.
    fn tar_of(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, name, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o640);
            header.set_uid(1234);
            header.set_gid(1234);
            header.set_mtime(1_000_000_000);
            let is_file = *kind == EntryType::Regular;
            header.set_size(if is_file { text.len() as u64 } else { 0 });
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            if !is_file {
                header.set_link_name_literal(text).expect("short");
            }
            header.set_cksum();
            let content: &[u8] = if is_file { text.as_bytes() } else { &[] };
            builder.append(&header, content).expect("memory");
        }
        builder.into_inner().expect("memory")
    }

    /// A file without its content.
    fn known(builder: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, content: &str) {
        let digest = hex::encode(Sha256::digest(content));
        builder
            .append_pax_extensions([("BERTH.sha256", digest.as_bytes())])
            .expect("memory");
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(mode);
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        header.set_path(name).expect("short");
        header.set_cksum();
        builder.append(&header, &[][..]).expect("memory");
    }

    struct Place {
        _folder: tempfile::TempDir,
        files: DiskBuildFiles,
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        let files = DiskBuildFiles::open(folder.path(), folder.path()).expect("opened");
        Place {
            _folder: folder,
            files,
        }
    }

    async fn unpack(place: &Place, tar: Vec<u8>) -> Result<Arc<BorrowedRoot>, BuildFilesError> {
        let form = ContextForm::default();
        place
            .files
            .unpack_context(stream(tar), form)
            .await
            .map(Arc::new)
    }

    use EntryType::{Directory, Link, Regular, Symlink};

    #[tokio::test]
    async fn a_context_is_unpacked_as_it_is_and_belongs_to_root() {
        if !crate::host::lets_tests("giving files away") {
            return;
        }
        let place = place();
        let tar = tar_of(&[
            (Directory, "sub/", ""),
            (Regular, "sub/.wh.file", "text"),
            (Regular, "./a", "A"),
            (Symlink, "link", "/etc/passwd"),
            (Link, "same", "a"),
        ]);
        let mut packed = Vec::new();
        std::io::Write::write_all(
            &mut flate2::write::GzEncoder::new(&mut packed, flate2::Compression::fast()),
            &tar,
        )
        .expect("memory");
        let zstd = zstd::encode_all(&tar[..], 1).expect("memory");
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).expect("memory");
        std::io::Write::write_all(&mut xz, &tar).expect("memory");
        let xz = xz.finish().expect("memory");
        for bytes in [tar, packed, zstd, xz] {
            let root = unpack(&place, bytes).await.expect("good");
            let read = |name: &str| std::fs::read_to_string(root.path.join(name)).expect("there");
            assert_eq!(read("sub/.wh.file"), "text");
            assert_eq!((read("a"), read("same")), ("A".into(), "A".into()));
            let link = std::fs::read_link(root.path.join("link")).expect("a link");
            assert_eq!(link.to_str(), Some("/etc/passwd"));
            let facts = std::fs::metadata(root.path.join("a")).expect("there");
            assert_eq!(facts.mode() & 0o7777, 0o640);
            assert_eq!(facts.mtime(), 1_000_000_000);
            let own = std::fs::metadata(&root.path).expect("there");
            assert_eq!((facts.uid(), facts.gid()), (own.uid(), own.gid()));
            let path = root.path.clone();
            drop(root);
            assert!(!path.exists());
        }
    }

    /// What is known of contents from their arrival is what is read of them later.
    #[tokio::test]
    async fn a_selection_of_what_was_received_is_one_of_what_is_there() {
        let place = place();
        let form = ContextForm {
            keep_contents: true,
        };
        let mut builder = tar::Builder::new(tar_of(&[
            (Regular, "a", "first"),
            (Regular, "a", "second"),
            (Regular, "b", "bb"),
            (Link, "c", "b"),
        ]));
        // The two blocks of the first archive's end go.
        let length = builder.get_ref().len() - 1024;
        builder.get_mut().truncate(length);
        known(&mut builder, "b", 0o600, "second");
        let tar = builder.into_inner().expect("memory");
        let root = place.files.unpack_context(stream(tar), form).await;
        let root = Arc::new(root.expect("good"));
        let select = async |root: Arc<BorrowedRoot>| {
            let what = CopyFrom {
                sources: vec![".".to_owned()],
                ..CopyFrom::default()
            };
            place.files.select(root, what).await.expect("read").digest
        };
        let received = select(root.clone()).await;
        // The same files under a path that nothing is known of.
        let copy = tempfile::tempdir().expect("a folder");
        for (name, content) in [("a", "second"), ("b", "second"), ("c", "bb")] {
            let path = copy.path().join(name);
            std::fs::write(&path, content).expect("written");
            let mode = std::fs::metadata(root.path.join(name))
                .expect("there")
                .permissions();
            std::fs::set_permissions(&path, mode).expect("set");
            assert_eq!(
                std::fs::read_to_string(root.path.join(name)).expect("there"),
                content
            );
        }
        let copy = Arc::new(BorrowedRoot::new(copy.path().to_owned(), copy));
        assert_eq!(received, select(copy).await);
    }

    #[tokio::test]
    async fn hostile_contexts_are_refused_and_leave_nothing() {
        let place = place();
        for (entries, why) in [
            (
                vec![(Regular, "../evil", "x")],
                "leads out of the build context",
            ),
            (
                vec![(Regular, "a/../../evil", "x")],
                "leads out of the build context",
            ),
            (
                vec![(Link, "hard", "../../etc/passwd")],
                "leads out of the build context",
            ),
            (vec![(Link, "hard", "nowhere")], "which is not there"),
            (
                vec![(Regular, "file", "x"), (Regular, "file/below", "x")],
                "cannot be unpacked",
            ),
        ] {
            let error = unpack(&place, tar_of(&entries)).await.err().expect(why);
            let text = engine::error::full_message(&error);
            assert!(text.contains(why), "{entries:?}: {text}");
        }
        // A link that leads out is followed within the context only.
        let inside = tar_of(&[
            (Symlink, "out", "/../../../.."),
            (Regular, "out/file", "inside"),
        ]);
        let root = unpack(&place, inside).await.expect("good");
        let text = std::fs::read_to_string(root.path.join("file")).expect("inside");
        assert_eq!(text, "inside");
        for bytes in [
            b"not a tar at all".repeat(100),
            tar_of(&[(Regular, "a", "xyz")])[..514].to_vec(),
        ] {
            let error = unpack(&place, bytes).await.err().expect("no tar");
            let text = engine::error::full_message(&error);
            assert!(text.contains("cannot read the build context"), "{text}");
        }
        // The stock client's, whose last entry has no padding, nor anything behind it.
        let cut = tar_of(&[(Regular, "a", "A"), (Regular, "b", "B")])[..512 * 3 + 1].to_vec();
        let cut = unpack(&place, cut).await.expect("as Docker takes it");
        assert_eq!(std::fs::read(cut.path.join("b")).expect("there"), b"B");
        drop((root, cut));
        let left = std::fs::read_dir(place._folder.path().join("builds/contexts"));
        assert_eq!(left.expect("there").count(), 0);
    }

    #[tokio::test]
    async fn contents_are_kept_and_need_not_come_again() {
        let place = place();
        let form = ContextForm {
            keep_contents: true,
        };
        let first = tar_of(&[(Regular, "a", "content of a"), (Regular, "b", "b")]);
        let root = place
            .files
            .unpack_context(stream(first), form)
            .await
            .expect("good");
        drop(root);
        let digest = |text: &str| hex::encode(Sha256::digest(text));
        let asked = vec![
            digest("content of a"),
            digest("other"),
            digest("b"),
            "../x".into(),
        ];
        let missing = place.files.missing_contents(asked).await.expect("asked");
        assert_eq!(missing, [digest("other"), "../x".to_owned()]);

        let mut builder = tar::Builder::new(Vec::new());
        known(&mut builder, "same", 0o640, "content of a");
        known(&mut builder, "sub/program", 0o755, "content of a");
        let second = builder.into_inner().expect("memory");
        let root = place
            .files
            .unpack_context(stream(second.clone()), form)
            .await
            .expect("good");
        for (name, mode) in [("same", 0o640), ("sub/program", 0o755)] {
            let path = root.path.join(name);
            assert_eq!(
                std::fs::read_to_string(&path).expect("there"),
                "content of a"
            );
            let facts = std::fs::metadata(&path).expect("there");
            assert_eq!(facts.mode() & 0o7777, mode, "{name}");
            assert_eq!(facts.mtime(), 1_000_000_000, "{name}");
        }
        drop(root);
        assert!(place.files.forget_contents().await.expect("forgotten") > 0);
        let error = place.files.unpack_context(stream(second), form).await;
        assert!(matches!(
            error.err().expect("gone"),
            BuildFilesError::ContentGone { path } if path == "same"
        ));
    }
}
