//! Tars between this computer's files and the engine. What an engine sends is a container's: nothing of it is written
//! outside of the place it is meant for, and nothing through a link.

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use tokio::sync::mpsc;

/// The engine's answer as a reader for a blocking thread.
struct Pieces {
    queue: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.queue.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Gives an answer's body to `work` on a blocking thread.
pub(crate) async fn read_body<T: Send + 'static>(
    body: Incoming,
    work: impl FnOnce(&mut dyn Read) -> Result<T> + Send + 'static,
) -> Result<T> {
    read_rest(Bytes::new(), body, work).await
}

/// The same where some of the body has been read already.
pub(crate) async fn read_rest<T: Send + 'static>(
    first: Bytes,
    mut body: Incoming,
    work: impl FnOnce(&mut dyn Read) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, queue) = mpsc::channel(4);
    let worker = tokio::task::spawn_blocking(move || {
        let mut pieces = Pieces {
            queue,
            piece: first,
        };
        work(&mut pieces)
    });
    while let Some(frame) = body.frame().await {
        let piece = match frame {
            Ok(frame) => frame.into_data().map_or_else(|_| Ok(Bytes::new()), Ok),
            Err(error) => Err(io::Error::other(format!("the engine hung up: {error}"))),
        };
        let is_error = piece.is_err();
        // The worker has ended: its outcome says why.
        if sender.send(piece).await.is_err() || is_error {
            break;
        }
    }
    drop(sender);
    worker.await.context("the work was cut off")?
}

/// A reader of the tar that another thread writes. `name` is what the file or folder at `source` is called in it; empty:
/// only what is in the folder.
pub(crate) fn tar_of(source: PathBuf, name: String) -> Result<Box<dyn Read + Send>> {
    written(move |output| write_tar(&source, &name, output))
}

/// A reader of what another thread writes.
pub(crate) fn written(
    work: impl FnOnce(io::PipeWriter) -> io::Result<()> + Send + 'static,
) -> Result<Box<dyn Read + Send>> {
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    let writer_thread = std::thread::spawn(move || work(writer));
    Ok(Box::new(Written {
        reader,
        writer: Some(writer_thread),
    }))
}

/// A pipe whose end is only an end if its writer says so.
struct Written {
    reader: io::PipeReader,
    writer: Option<std::thread::JoinHandle<io::Result<()>>>,
}

impl Read for Written {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        if count == 0
            && !buffer.is_empty()
            && let Some(writer) = self.writer.take()
        {
            writer
                .join()
                .map_err(|_| io::Error::other("packing files was cut off"))??;
        }
        Ok(count)
    }
}

fn write_tar(source: &Path, name: &str, output: impl Write) -> io::Result<()> {
    let mut builder = tar::Builder::new(io::BufWriter::with_capacity(256 * 1024, output));
    builder.follow_symlinks(false);
    let mut links = HashMap::new();
    let name = if name.is_empty() { "." } else { name };
    let mut waiting = vec![(source.to_owned(), PathBuf::from(name))];
    while let Some((path, name)) = waiting.pop() {
        let facts = std::fs::symlink_metadata(&path)?;
        if facts.is_dir() {
            builder.append_dir(&name, &path)?;
            for entry in std::fs::read_dir(&path)? {
                let entry = entry?;
                waiting.push((entry.path(), name.join(entry.file_name())));
            }
            continue;
        }
        let first = file_number(&facts).map(|number| links.entry(number).or_insert(name.clone()));
        match first {
            Some(first) if *first != name => {
                let mut header = tar::Header::new_gnu();
                header.set_metadata(&facts);
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                builder.append_link(&mut header, &name, &*first)?;
            }
            _ => builder.append_path_with_name(&path, &name)?,
        }
    }
    builder.into_inner()?.flush()
}

/// What tells that two names are one file; `None` where there is only one.
#[cfg(unix)]
pub(crate) fn file_number(facts: &std::fs::Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    (facts.nlink() > 1).then(|| (facts.dev(), facts.ino()))
}

#[cfg(not(unix))]
pub(crate) fn file_number(_facts: &std::fs::Metadata) -> Option<(u64, u64)> {
    None
}

/// What the first part of an entry's name stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FirstName {
    Target,
    /// A thing in the target.
    Inside,
}

/// Unpacks a tar whose entries all begin with one name: that becomes `target`. With `archive` owners and all modes are
/// kept.
pub(crate) fn unpack(input: &mut dyn Read, target: &Path, archive: bool) -> Result<()> {
    unpack_named(input, target, archive, FirstName::Target)
}

/// Unpacks a tar whose names are below `folder`.
pub(crate) fn unpack_into(input: &mut dyn Read, folder: &Path) -> Result<()> {
    unpack_named(input, folder, false, FirstName::Inside)
}

fn unpack_named(
    input: &mut dyn Read,
    target: &Path,
    archive: bool,
    first: FirstName,
) -> Result<()> {
    let mut tar = tar::Archive::new(input);
    tar.set_preserve_permissions(archive);
    tar.set_preserve_ownerships(archive);
    tar.set_overwrite(true);
    let mut folder_times = Vec::new();
    for entry in tar.entries().context("the engine sent no tar")? {
        let mut entry = entry.context("the engine's tar is damaged")?;
        let name = entry.path().context("a name in the tar")?.into_owned();
        let place = place(target, &name, first)?;
        let show = place.display().to_string();
        check_way(target, &place)?;
        let kind = entry.header().entry_type();
        if let Ok(facts) = std::fs::symlink_metadata(&place) {
            // A container must not decide that a folder of this computer goes, nor that one is put where a file is.
            match (facts.is_dir(), kind.is_dir()) {
                (true, false) => bail!("cannot overwrite directory {show:?} with non-directory"),
                (false, true) => bail!("cannot overwrite non-directory {show:?} with directory"),
                (false, false) => std::fs::remove_file(&place)
                    .with_context(|| format!("cannot replace {show}"))?,
                (true, true) => {}
            }
        }
        match kind {
            tar::EntryType::Directory => {
                match std::fs::create_dir(&place) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(error).with_context(|| format!("cannot make {show}"));
                    }
                    _ => {}
                }
                // Its mode may forbid to put anything in, and what is put in changes its time.
                folder_times.push((place, entry.header().clone()));
            }
            tar::EntryType::Link => {
                let link = entry.link_name().context("a link in the tar")?;
                let link = link.context("a hard link to nowhere")?.into_owned();
                let original = self::place(target, &link, first)?;
                check_way(target, &original)?;
                if std::fs::symlink_metadata(&original).is_ok_and(|facts| facts.is_symlink()) {
                    bail!("{show} is a hard link to a symbolic link");
                }
                if std::fs::hard_link(&original, &place).is_err() {
                    std::fs::copy(&original, &place)
                        .with_context(|| format!("cannot link {show}"))?;
                }
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::Symlink => {
                entry
                    .unpack(&place)
                    .with_context(|| format!("cannot write {show}"))?;
            }
            _ => eprintln!("berth: {show} is a device or a pipe and was left out"),
        }
    }
    for (place, header) in folder_times.iter().rev() {
        finish_folder(place, header, archive)?;
    }
    Ok(())
}

fn place(target: &Path, name: &Path, first: FirstName) -> Result<PathBuf> {
    let mut parts = name.components().filter_map(|part| match part {
        Component::Normal(part) => Some(Ok(part)),
        Component::CurDir | Component::RootDir => None,
        _ => Some(Err(())),
    });
    let is_contents = name.starts_with(".") || name.starts_with("/");
    if first == FirstName::Target && !is_contents {
        parts.next();
    }
    let mut place = target.to_owned();
    for part in parts {
        match part {
            Ok(part) => place.push(part),
            Err(()) => bail!("{:?} leads out of the place it belongs to", name.display()),
        }
    }
    Ok(place)
}

/// No part between the target and the last name may be a link.
fn check_way(target: &Path, place: &Path) -> Result<()> {
    let inside = place.strip_prefix(target).unwrap_or(Path::new(""));
    let mut way = target.to_owned();
    let mut parts = inside.components().peekable();
    while let Some(part) = parts.next() {
        way.push(part);
        if parts.peek().is_some()
            && std::fs::symlink_metadata(&way).is_ok_and(|facts| facts.is_symlink())
        {
            bail!("{} is a link: nothing is written through it", way.display());
        }
    }
    Ok(())
}

#[cfg(unix)]
fn finish_folder(place: &Path, header: &tar::Header, archive: bool) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let step = || format!("cannot finish {}", place.display());
    if archive {
        let owner = |number: io::Result<u64>| number.ok().and_then(|number| number.try_into().ok());
        std::os::unix::fs::lchown(place, owner(header.uid()), owner(header.gid()))
            .with_context(step)?;
    }
    let mask = if archive { 0o7777 } else { 0o777 };
    let mode = header.mode().with_context(step)? & mask;
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(mode)).with_context(step)?;
    set_time(place, header);
    Ok(())
}

#[cfg(not(unix))]
fn finish_folder(place: &Path, header: &tar::Header, _archive: bool) -> Result<()> {
    set_time(place, header);
    Ok(())
}

/// A time that cannot be set is no loss.
fn set_time(place: &Path, header: &tar::Header) {
    if let (Ok(folder), Ok(seconds)) = (std::fs::File::open(place), header.mtime()) {
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let _ = folder.set_modified(at);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::fs;

    /// Kind, path, link or content.
    fn tar_with(entries: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, path, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_mtime(1_000_000_000);
            let is_file = *kind == tar::EntryType::Regular;
            header.set_size(if is_file { text.len() as u64 } else { 0 });
            // As bytes: the crate itself refuses to write what we must refuse to read.
            let name = &mut header.as_mut_bytes()[..100];
            name[..path.len()].copy_from_slice(path.as_bytes());
            if !is_file {
                header.set_link_name_literal(text).expect("short");
            }
            header.set_cksum();
            let content: &[u8] = if is_file { text.as_bytes() } else { &[] };
            builder.append(&header, content).expect("memory");
        }
        builder.into_inner().expect("memory")
    }

    use tar::EntryType::{Directory, Link, Regular, Symlink};

    #[test]
    fn a_tree_goes_out_and_comes_back_under_another_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let from = folder.path().join("from");
        fs::create_dir_all(from.join("inner")).expect("made");
        fs::write(from.join("inner/file"), "text").expect("written");
        std::os::unix::fs::symlink("inner/file", from.join("link")).expect("made");
        fs::hard_link(from.join("inner/file"), from.join("same")).expect("made");
        let mut reader = tar_of(from, "from".into()).expect("a pipe");
        let target = folder.path().join("other");
        unpack(&mut *reader, &target, false).expect("good");
        assert_eq!(
            fs::read_to_string(target.join("link")).expect("there"),
            "text"
        );
        assert!(
            target
                .join("link")
                .symlink_metadata()
                .expect("there")
                .is_symlink()
        );
    }

    #[test]
    fn a_container_cannot_write_beside_the_target() {
        for entries in [
            vec![(Regular, "x/../../evil", "x")],
            vec![
                (Symlink, "x/out", "../../outside"),
                (Regular, "x/out/evil", "x"),
            ],
            vec![
                (Symlink, "x/out", "/tmp"),
                (Directory, "x/out/evil-folder", ""),
            ],
            vec![(Link, "x/hard", "x/../../outside/secret")],
            vec![
                (Symlink, "x/out", "../../outside"),
                (Link, "x/hard", "x/out/secret"),
            ],
            vec![
                (Symlink, "x/out", "../../outside/secret"),
                (Link, "x/hard", "x/out"),
            ],
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            fs::create_dir_all(folder.path().join("place/target")).expect("made");
            fs::create_dir(folder.path().join("outside")).expect("made");
            fs::write(folder.path().join("outside/secret"), "secret").expect("written");
            let bytes = tar_with(&entries);
            let target = folder.path().join("place/target");
            let outcome = unpack(&mut &bytes[..], &target, false);
            assert!(outcome.is_err(), "{entries:?}");
            let outside = folder.path().join("outside");
            assert_eq!(
                fs::read_dir(&outside).expect("there").count(),
                1,
                "{entries:?}"
            );
            assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 2);
        }
    }

    #[test]
    fn folders_and_files_do_not_replace_each_other() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("t/folder")).expect("made");
        fs::write(folder.path().join("t/file"), "old").expect("written");
        let target = folder.path().join("t");
        let over = |entries: &[_]| unpack(&mut &tar_with(entries)[..], &target, false);
        assert!(over(&[(Regular, "x/folder", "new")]).is_err());
        assert!(over(&[(Directory, "x/file", "")]).is_err());
        over(&[(Regular, "x/file", "new")]).expect("good");
        assert_eq!(
            fs::read_to_string(target.join("file")).expect("there"),
            "new"
        );
    }

    #[test]
    fn a_source_that_is_not_there_is_an_error_of_the_reader() {
        let mut reader = tar_of("/nowhere/at/all".into(), "x".into()).expect("a pipe");
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
    }
}
