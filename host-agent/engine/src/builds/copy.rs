//! `COPY`, `ADD` and `WORKDIR`: a layer made of files, without a container.
//!
//! ```text
//! sources --> Part (tree, what of it) --digest--> key --> cache?
//!                                  '--> place in the stage's files --> folder --> layer
//! ```

use super::error::BuildError;
use super::files::{BuildFilesError, CopyFrom, FillForm, FillPart, Links, Place, Selection};
use super::ignore::Ignore;
use super::instruction::{CopyFiles, Source};
use super::mode::FileMode;
use super::plan;
use super::request::NamedContext;
use super::root;
use super::runner::{MadeLayer, Runner, StepKey};
use super::sources::{GitAddress, is_commit_of};
use super::stage_state::CopyWork;
use crate::images::records::BuildLayer;
use crate::images::{BorrowedRoot, Digest, ImageError};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bytes of a downloaded file, at most, where the disk has that much.
const DOWNLOAD_MAX: u64 = 64 << 30;

/// Files of one source.
struct Part {
    tree: Arc<BorrowedRoot>,
    selection: Selection,
    /// It was an archive: owners stay as they are in it.
    unpacked: bool,
    whose: Whose,
}

/// Who else reads the files of a source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// They were made for this copy.
    Ours,
    /// The build's: nobody else, once all others are done.
    Context,
    Others,
}

/// A stage, image or named context whose files are read.
pub(super) enum Named {
    Layers { top: Option<Digest> },
    Files(Arc<BorrowedRoot>),
}

impl Named {
    /// What it is, as far as that is known without reading it.
    pub fn identity(&self) -> Option<String> {
        match self {
            Named::Layers { top } => {
                Some(top.as_ref().map_or_else(String::new, ToString::to_string))
            }
            Named::Files(_) => None,
        }
    }
}

impl Runner<'_> {
    /// What a `from` stands for.
    pub(super) async fn named(&self, name: &str) -> Result<Named, BuildError> {
        let build = self.build;
        // What the client has put there comes before a stage of that name.
        let context = build.request.context_named(name);
        if let Some(NamedContext::Files(context)) = context {
            return Ok(Named::Files(context.files.clone()));
        }
        if context.is_none()
            && let Some(index) = plan::find_stage(&build.file.stages, name, self.stage)
        {
            let stage = build.stage(index).await?;
            return Ok(Named::Layers {
                top: stage.top().cloned(),
            });
        }
        if context.is_none() && name == "scratch" {
            return Ok(Named::Layers { top: None });
        }
        let image = build.image(self.index, name, None).await?;
        let top = image
            .record
            .layers
            .last()
            .map(|layer| layer.chain_id.clone());
        Ok(Named::Layers { top })
    }

    /// Its files.
    pub(super) async fn open(&self, named: Named) -> Result<Arc<BorrowedRoot>, BuildError> {
        match named {
            Named::Files(tree) => Ok(tree),
            Named::Layers { top } => Ok(root::mount(self.build.layers(), top.as_ref()).await?),
        }
    }

    /// The client's files.
    pub(super) async fn context(&self) -> Result<Arc<BorrowedRoot>, BuildError> {
        match &self.build.request.context {
            Some(context) => Ok(context.files.clone()),
            None => Ok(Arc::new(self.build.service.inner.files.new_folder().await?)),
        }
    }

    /// The stage's own files as they are now.
    pub(super) async fn own_files(&self) -> Result<Arc<BorrowedRoot>, BuildError> {
        Ok(root::mount(self.build.layers(), self.now.top()).await?)
    }
}

fn copy_failed(keyword: &'static str, source: BuildFilesError) -> BuildError {
    BuildError::Copy {
        what: keyword,
        source,
    }
}

/// Does a `COPY` or `ADD`; answers whether it was in the cache.
pub(super) async fn copy(
    runner: &mut Runner<'_>,
    before: String,
    work: CopyWork,
) -> Result<bool, BuildError> {
    let options = options_of(&work.files);
    let beyond_line = (options != options_of(&CopyFiles::default())).then_some(options.as_str());
    // A stage or image that is the same as before need not be read again.
    let named = match &work.files.from {
        Some(name) => Some(runner.named(name).await?),
        None => None,
    };
    let quick = named.as_ref().and_then(Named::identity).map(|identity| {
        let sources = format!("{:?}", work.files.sources);
        let more = ["quick", &identity, &sources, &options];
        StepKey::of(&before, &work.destination, more).key
    });
    if let Some(quick) = &quick
        && let Some(found) = runner.build.find(quick)
    {
        let created_by = found.created_by.clone();
        let digest = digest_in(&created_by, &work);
        let command = runner.now.state.copied(&work, &digest);
        let mut key = StepKey::of(&before, &created_by, beyond_line);
        if command.join(" ") == created_by
            && let Some(found) = runner.look_up(&key, &created_by).await?
        {
            key.quick = Some(quick.clone());
            runner.done(Some(found), key, created_by, command, None);
            return Ok(true);
        }
    }
    let slot = runner.slot().await?;
    let parts = parts(runner, &work, named).await?;
    let digest = digest(&parts);
    let command = runner.now.state.copied(&work, &digest);
    let created_by = command.join(" ");
    let mut key = StepKey::of(&before, &created_by, beyond_line);
    key.quick = quick;
    if let Some(found) = runner.look_up(&key, &created_by).await? {
        drop(slot);
        runner.done(Some(found), key, created_by, command, None);
        return Ok(true);
    }
    let layer = make_layer(runner, &work, parts).await?;
    drop(slot);
    runner.done(None, key, created_by, command, layer);
    Ok(false)
}

/// Options that the history line does not have.
fn options_of(files: &CopyFiles) -> String {
    serde_json::json!([
        files.chmod,
        files.link,
        files.parents,
        files.exclude,
        files.keep_git_folder,
        files.unpack,
    ])
    .to_string()
}

/// Begins a stage with all files of a named context.
pub(super) async fn begin_with_files(
    runner: &mut Runner<'_>,
    name: &str,
) -> Result<(), BuildError> {
    let before = runner.state_digest();
    let work = CopyWork {
        keyword: "COPY",
        files: CopyFiles {
            sources: vec![Source::Path("/".to_owned())],
            destination: "/".to_owned(),
            from: Some(name.to_owned()),
            ..CopyFiles::default()
        },
        destination: "/".to_owned(),
    };
    copy(runner, before, work).await.map(drop)
}

/// The digest in a history line that [`super::stage_state::StageState::copied`] made.
fn digest_in(created_by: &str, work: &CopyWork) -> String {
    let end = format!(" in {} ", work.files.destination);
    let start = created_by.strip_suffix(&end).unwrap_or(created_by);
    let word = start.rsplit(' ').next().unwrap_or_default();
    let owner = work.files.chown.as_deref().unwrap_or_default();
    let digest = word
        .strip_prefix("--chown=")
        .and_then(|word| word.strip_prefix(owner));
    digest.unwrap_or(word).to_owned()
}

/// As Docker names it in the history.
fn digest(parts: &[Part]) -> String {
    match parts {
        [part] => {
            let kind = match part.selection.sources.as_slice() {
                // It was one file.
                _ if part.unpacked => "file",
                [source] if source.is_folder => "dir",
                [_] => "file",
                _ => "multi",
            };
            format!("{kind}:{}", part.selection.digest)
        }
        parts => {
            let mut hash = Sha256::new();
            for part in parts {
                hash.update(&part.selection.digest);
            }
            format!("multi:{}", hex::encode(hash.finalize()))
        }
    }
}

/// Finds, fetches and reads everything that is to be copied.
async fn parts(
    runner: &Runner<'_>,
    work: &CopyWork,
    named: Option<Named>,
) -> Result<Vec<Part>, BuildError> {
    let files = &runner.build.service.inner.files;
    let is_add = work.keyword == "ADD";
    check_checksum(work)?;
    let exclude = Ignore::of(work.files.exclude.iter().map(String::as_str))
        .map_err(|error| BuildError::Invalid(format!("--exclude: {error}")))?;
    let exclude = Arc::new(exclude);
    let mut parts = Vec::new();
    let mut paths = Vec::new();
    let mut documents = Vec::new();
    for source in &work.files.sources {
        match source {
            Source::Here(here) => {
                documents.push((here.name.clone(), here.content.clone().into_bytes()))
            }
            Source::Path(path) if is_add && is_address(path) => {
                parts.push(fetched(runner, work, path, &exclude).await?);
            }
            Source::Path(path) => paths.push(path.clone()),
        }
    }
    if !documents.is_empty() {
        let tree = Arc::new(files.new_folder().await?);
        let sources = documents.iter().map(|(name, _)| name.clone()).collect();
        files.write_files(tree.clone(), documents).await?;
        let what = CopyFrom {
            sources,
            ..CopyFrom::default()
        };
        parts.push(Part {
            selection: files.select(tree.clone(), what).await?,
            tree,
            unpacked: false,
            whose: Whose::Ours,
        });
    }
    if paths.is_empty() {
        return Ok(parts);
    }
    let (tree, whose) = match named {
        Some(named) => (runner.open(named).await?, Whose::Others),
        None => (runner.context().await?, Whose::Context),
    };
    let what = CopyFrom {
        sources: paths,
        exclude,
        parents: work.files.parents,
        with_owners: false,
    };
    let selection = files.select(tree.clone(), what.clone()).await;
    let selection = selection.map_err(|error| copy_failed(work.keyword, error))?;
    let unpack = is_add && work.files.unpack != Some(false);
    if !unpack {
        parts.push(Part {
            tree,
            selection,
            unpacked: false,
            whose,
        });
        return Ok(parts);
    }
    // Archives are unpacked one by one; their own digest is part of the key, what is in them follows from it.
    for source in &selection.sources {
        let archive = match source.is_folder {
            true => None,
            false => files.open_archive(tree.clone(), &source.path).await?,
        };
        let one = Selection {
            sources: vec![source.clone()],
            ..selection.clone()
        };
        let Some(content) = archive else {
            parts.push(Part {
                tree: tree.clone(),
                selection: one,
                unpacked: false,
                whose,
            });
            continue;
        };
        parts.push(unpacked(runner, content).await?);
    }
    if parts.iter().all(|part| !part.unpacked) {
        // Nothing to unpack: it is one copy.
        parts.truncate(parts.len() - selection.sources.len());
        parts.push(Part {
            tree,
            selection,
            unpacked: false,
            whose,
        });
    }
    Ok(parts)
}

async fn unpacked(
    runner: &Runner<'_>,
    content: crate::images::ByteStream,
) -> Result<Part, BuildError> {
    let files = &runner.build.service.inner.files;
    let tree = Arc::new(files.new_folder().await?);
    runner.build.service.unpack(&tree, content).await?;
    let what = CopyFrom {
        sources: vec![".".to_owned()],
        with_owners: true,
        ..CopyFrom::default()
    };
    Ok(Part {
        selection: files.select(tree.clone(), what).await?,
        tree,
        unpacked: true,
        whose: Whose::Ours,
    })
}

fn is_address(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://") || GitAddress::parse(text).is_some()
}

/// Only what is fetched has a digest that somebody else vouches for. The sentences are BuildKit's.
fn check_checksum(work: &CopyWork) -> Result<(), BuildError> {
    if work.files.checksum.is_none() {
        return Ok(());
    }
    let why = match work.files.sources.as_slice() {
        [Source::Path(path)] if is_address(path) => return Ok(()),
        [_] => "checksum requires HTTP(S) or Git sources",
        _ => "checksum can't be specified for multiple sources",
    };
    Err(BuildError::Invalid(why.to_owned()))
}

/// A repository or a file of a web server.
async fn fetched(
    runner: &Runner<'_>,
    work: &CopyWork,
    address: &str,
    exclude: &Arc<Ignore>,
) -> Result<Part, BuildError> {
    let inner = &runner.build.service.inner;
    let files = &inner.files;
    if let Some(git) = GitAddress::parse(address) {
        let commit = inner.git.resolve(&git).await?;
        check_commit(work.files.checksum.as_deref(), address, &commit)?;
        git.check_commit(&commit)?;
        let keep_git_folder = work.files.keep_git_folder || git.keep_git_folder;
        let tree = inner.git.fetch(&git, &commit, keep_git_folder).await?;
        let tree = Arc::new(tree);
        let what = CopyFrom {
            sources: vec![".".to_owned()],
            exclude: exclude.clone(),
            ..CopyFrom::default()
        };
        return Ok(Part {
            selection: files.select(tree.clone(), what).await?,
            tree,
            unpacked: false,
            whose: Whose::Ours,
        });
    }
    let name = match file_name(address) {
        Some(name) => name,
        None if work.destination.ends_with('/') => {
            return Err(BuildError::Invalid(format!(
                "cannot determine filename for source {address}: name the file in the destination"
            )));
        }
        None => "file".to_owned(),
    };
    let download = inner.images.backends().downloads.fetch(address).await;
    let download = download.map_err(ImageError::from)?;
    let tree = Arc::new(files.new_folder().await?);
    let largest = files.room().await?.min(DOWNLOAD_MAX);
    let modified = download.modified;
    let digest = files
        .write_stream(tree.clone(), &name, download.content, largest)
        .await?;
    if let Some(expected) = &work.files.checksum {
        let actual = format!("sha256:{digest}");
        if *expected != actual {
            return Err(BuildError::Invalid(format!(
                "digest mismatch for {address}: expected {expected}, got {actual}"
            )));
        }
    }
    // As Docker does it: readable by its owner, of the server's time.
    let time = modified.map_or(0, time::OffsetDateTime::unix_timestamp);
    files
        .set_facts(tree.clone(), &name, Some(time), 0o600)
        .await?;
    if work.files.unpack == Some(true)
        && let Some(content) = files.open_archive(tree.clone(), &name).await?
    {
        return unpacked(runner, content).await;
    }
    let what = CopyFrom {
        sources: vec![escaped(&name)],
        ..CopyFrom::default()
    };
    Ok(Part {
        selection: files.select(tree.clone(), what).await?,
        tree,
        unpacked: false,
        whose: Whose::Ours,
    })
}

/// A name as a pattern for itself alone.
fn escaped(name: &str) -> String {
    let mut pattern = String::new();
    for character in name.chars() {
        if "*?[\\".contains(character) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

fn check_commit(expected: Option<&str>, address: &str, commit: &str) -> Result<(), BuildError> {
    match expected {
        Some(expected) if !is_commit_of(expected, commit) => Err(BuildError::Invalid(format!(
            "expected checksum to match {expected} for {address}, got {commit}"
        ))),
        _ => Ok(()),
    }
}

/// The last part of an address's path.
fn file_name(address: &str) -> Option<String> {
    let path = address.split_once("://")?.1;
    let path = path.split(['?', '#']).next()?;
    let (_, path) = path.split_once('/')?;
    let name = path.rsplit('/').next()?;
    (!name.is_empty() && !matches!(name, "." | "..") && !name.contains('\0'))
        .then(|| name.to_owned())
}

async fn make_layer(
    runner: &Runner<'_>,
    work: &CopyWork,
    parts: Vec<Part>,
) -> Result<Option<BuildLayer>, BuildError> {
    let files = &runner.build.service.inner.files;
    let own = runner.own_files().await?;
    let links = match work.files.link {
        // As if what is below was not known: the layer is good on any other.
        true => Links::Replaced,
        false => Links::Followed,
    };
    let place = files
        .place(
            own.clone(),
            &work.destination,
            links,
            work.files.chown.as_deref(),
        )
        .await
        .map_err(|error| copy_failed(work.keyword, error))?;
    let count: usize = parts.iter().map(|part| part.selection.sources.len()).sum();
    let into_folder = work.destination.ends_with('/')
        || place.is_folder
        || count > 1
        || parts.iter().any(|part| part.unpacked)
        || parts
            .iter()
            .flat_map(|part| &part.selection.sources)
            .any(|source| source.is_folder);
    if into_folder && place.is_there && !place.is_folder {
        return Err(BuildError::Invalid(format!(
            "cannot copy to non-directory: /{}",
            place.path
        )));
    }
    let mode: Option<FileMode> = work
        .files
        .chmod
        .as_deref()
        .and_then(|mode| mode.parse().ok());
    let latest = runner
        .build
        .source_date
        .map(time::OffsetDateTime::unix_timestamp);
    let is_last_reader = runner.is_last_reader() && !overlap(&parts);
    let parts = parts
        .into_iter()
        .map(|part| FillPart {
            form: FillForm {
                mode: mode.clone(),
                latest,
                keep_owners: part.unpacked,
                ..form(runner, &place, into_folder)
            },
            tree: part.tree,
            selection: part.selection,
            take: match part.whose {
                Whose::Ours => true,
                Whose::Context => is_last_reader,
                Whose::Others => false,
            },
        })
        .collect();
    fill(runner, own, parts).await
}

/// Whether two sources have files in common.
fn overlap(parts: &[Part]) -> bool {
    let sources = || parts.iter().flat_map(|part| &part.selection.sources);
    let paths: BTreeSet<&str> = sources().map(|source| source.path.as_str()).collect();
    let above = |path: &str| {
        let mut path = path;
        while let Some((parent, _)) = path.rsplit_once('/') {
            if paths.contains(parent) {
                return true;
            }
            path = parent;
        }
        false
    };
    paths.len() < sources().count()
        || (paths.len() > 1 && paths.contains(""))
        || paths.iter().any(|path| above(path))
}

/// Makes a layer of files.
async fn fill(
    runner: &Runner<'_>,
    own: Arc<BorrowedRoot>,
    parts: Vec<FillPart>,
) -> Result<Option<BuildLayer>, BuildError> {
    let inner = &runner.build.service.inner;
    let draft = inner.images.backends().layers.draft().await?;
    inner.files.fill(draft.folder(), Some(own), parts).await?;
    runner.add_layer(MadeLayer::Draft(draft)).await
}

/// Names of what arrives at a place.
fn form(runner: &Runner<'_>, place: &Place, into_folder: bool) -> FillForm {
    let mut new_folders = place.missing.clone();
    let (prefix, rename) = match into_folder {
        true => {
            if !place.is_folder {
                new_folders.push(place.path.clone());
            }
            let prefix = match place.path.as_str() {
                "" => String::new(),
                path => format!("{path}/"),
            };
            (prefix, None)
        }
        false => match place.path.rsplit_once('/') {
            Some((folder, name)) => (format!("{folder}/"), Some(name.to_owned())),
            None => (String::new(), Some(place.path.clone())),
        },
    };
    FillForm {
        new_folders,
        new_folders_time: runner.build.created().unix_timestamp(),
        owner: place.owner,
        prefix,
        rename,
        ..FillForm::default()
    }
}

/// `WORKDIR`: a layer with the folder, if it is not there.
pub(super) async fn make_folder(
    runner: &Runner<'_>,
    path: &str,
) -> Result<Option<BuildLayer>, BuildError> {
    let files = &runner.build.service.inner.files;
    let own = runner.own_files().await?;
    let place = files
        .place(own.clone(), path, Links::Followed, None)
        .await?;
    if place.is_folder {
        return Ok(None);
    }
    if place.is_there {
        return Err(BuildError::Invalid(format!(
            "Cannot mkdir: /{} is not a directory",
            place.path
        )));
    }
    // As with BuildKit it is the user's; a user whom the image does not know is root.
    let user = runner.now.state.config.user.as_str();
    let owner = match user {
        "" => None,
        user => {
            let places = files.place(own.clone(), path, Links::Followed, Some(user));
            places.await.ok().and_then(|place| place.owner)
        }
    };
    let place = Place { owner, ..place };
    let tree = Arc::new(files.new_folder().await?);
    let selection = Selection {
        digest: String::new(),
        sources: Vec::new(),
        from: Default::default(),
    };
    let part = FillPart {
        tree,
        selection,
        form: form(runner, &place, true),
        take: true,
    };
    fill(runner, own, vec![part]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_downloaded_files_are_the_last_part_of_the_path() {
        for (address, expected) in [
            ("http://a/b/c.txt", Some("c.txt")),
            ("http://a/b/c.txt?x=/y#z/", Some("c.txt")),
            ("http://a/", None),
            ("http://a", None),
            ("http://a/..", None),
        ] {
            assert_eq!(file_name(address).as_deref(), expected, "{address}");
        }
        assert_eq!(escaped("a*[b"), "a\\*\\[b");
    }

    #[test]
    fn checksums_are_of_one_fetched_source() {
        let checked = |sources: &[&str]| {
            let work = CopyWork {
                keyword: "ADD",
                files: CopyFiles {
                    sources: sources
                        .iter()
                        .map(|path| Source::Path((*path).to_owned()))
                        .collect(),
                    checksum: Some("sha256:0".into()),
                    ..Default::default()
                },
                destination: "/".into(),
            };
            check_checksum(&work).map_err(|error| error.to_string())
        };
        assert_eq!(checked(&["https://h.example/x"]), Ok(()));
        assert_eq!(checked(&["https://h.example/x.git"]), Ok(()));
        for (sources, why) in [
            (&["local"][..], "checksum requires HTTP(S) or Git sources"),
            (
                &["http://h.example/x", "http://h.example/y"],
                "checksum can't be specified for multiple sources",
            ),
        ] {
            assert_eq!(checked(sources), Err(why.to_owned()));
        }
    }

    #[test]
    fn commits_are_compared_by_their_beginning() {
        let commit = "0123456789012345678901234567890123456789";
        assert!(check_commit(None, "x", commit).is_ok());
        assert!(check_commit(Some("0123456"), "x", commit).is_ok());
        assert!(check_commit(Some("0123457"), "x", commit).is_err());
        assert!(check_commit(Some("01"), "x", commit).is_err());
    }
}
