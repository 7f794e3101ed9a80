//! Image layers and containers' root file systems on overlayfs.
//!
//! ```text
//! layers/<chain id>/{layer.json, diff/}      one unpacked layer each; appears by one rename, complete and verified
//! layers/l/<short> -> ../<chain id>/diff     short names, so that many fit into mount options
//! layers/tmp-<random>/                       being unpacked, made or removed ([`collect`]); what is there at the start goes
//! layers/empty/                              stands in for the layers of an image that has none
//! containers/<id>/rw/{upper, work, merged}   a container's own part; `merged` is where its root file system is mounted
//! containers/<id>/rw/images                  the same of the images that it mounts; they are mounted for it alone
//! containers/<id>/rw/lower                   chain id of the image's top layer: layers below a container are kept
//! ```
//!
//! The mount is made in the agent's own mount namespace and outlives the agent: a new one finds it in `mountinfo`.
//! Nothing here is synced one by one: [`LayerStore::sync`] makes everything durable before the record of an image is
//! written, and layers that no record names are removed at the next start.

mod changes;
mod collect;
mod containers;
mod draft;
mod links;
mod lookup;
pub(crate) mod mount;
mod remove;
mod unpack;

pub use lookup::{normalise, times};
pub use remove::{remove_path, remove_tree};
pub use unpack::{Contents, UnpackAs, UnpackError, UnpackLimits, Unpacked, unpack, unpack_as};

use crate::archive::decode::{StreamReader, decoded, on_own_thread};
use crate::files::{CONTAINER_LAYER, CONTAINERS, LAYER_DIFF, LAYER_RECORD, LAYERS};
use async_trait::async_trait;
use collect::Removals;
use engine::id::ContainerId;
use engine::images::{
    ByteStream, Digest, DraftLayer, LayerError, LayerInfo, LayerSpec, LayerStore, StagedLayer,
};
use engine::record;
use rustix::fs::{IFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Begins the names of folders that are no layers (yet, or any more).
const TEMPORARY: &str = "tmp-";
/// The folder of short links.
const LINKS: &str = "l";
/// The empty layer.
const EMPTY: &str = "empty";
/// The layer below all others of a container that runs: places for the mounts that every container has.
const PLACES: &str = "places";
/// What is in it; folders end with a slash. A start need not make them in the container's own layer then, where each costs
/// several writes, and most images lack some.
const PLACES_WITHIN: [&str; 7] = [
    "dev/",
    "proc/",
    "sys/",
    "etc/",
    "etc/hostname",
    "etc/hosts",
    "etc/resolv.conf",
];
/// Within a container's `rw`.
const UPPER: &str = "upper";
const WORK: &str = "work";
const MERGED: &str = "merged";
const LOWER: &str = "lower";
const IMAGES: &str = "images";
/// Hex digits of a short link; more where two layers share them.
const LINK_DIGITS: usize = 8;

/// What is stored of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LayerRecord {
    diff_id: Digest,
    parent: Option<Digest>,
    size: u64,
    link: String,
}

impl LayerRecord {
    const VERSION: u32 = 1;

    fn info(&self, chain_id: &Digest) -> LayerInfo {
        LayerInfo {
            chain_id: chain_id.clone(),
            diff_id: self.diff_id.clone(),
            parent: self.parent.clone(),
            size: self.size,
        }
    }
}

/// Layers under a data root. Cheap to clone.
#[derive(Clone)]
pub struct OverlayLayers {
    inner: Arc<Inner>,
}

struct Inner {
    /// `layers`, absolute and without links, as mountinfo has it.
    folder: PathBuf,
    containers: PathBuf,
    limits: UnpackLimits,
    /// Whether containers' folders can be limited.
    limits_size: bool,
    state: Mutex<State>,
    removals: Arc<Removals>,
    /// One change of a container's mount at a time.
    container_locks: Mutex<HashMap<ContainerId, Arc<Mutex<()>>>>,
}

#[derive(Default)]
struct State {
    layers: BTreeMap<Digest, LayerRecord>,
    /// Folders that have a layer's name but no record that can be read: an interruption of the host leaves such.
    unreadable: BTreeSet<Digest>,
    /// Containers that have a writable layer, and the top layer below it.
    containers: HashMap<ContainerId, Option<Digest>>,
    /// Top layers of the images that containers mount.
    images: HashMap<ContainerId, Vec<Digest>>,
    mounted: HashSet<ContainerId>,
    /// Mounted for their own sake and not only because somebody borrowed them.
    wanted: HashSet<ContainerId>,
    /// How many borrowers a container's root has.
    borrowers: HashMap<ContainerId, usize>,
}

impl OverlayLayers {
    /// Uses (and makes) `<data root>/layers`, finds what is there, and removes what a crash left.
    pub fn open(data_root: &Path) -> Result<OverlayLayers, LayerError> {
        OverlayLayers::open_with(data_root, UnpackLimits::default())
    }

    /// The same with other bounds on layers.
    pub fn open_with(data_root: &Path, limits: UnpackLimits) -> Result<OverlayLayers, LayerError> {
        open(data_root, limits)
            .map_err(|source| failed(format!("open {}", data_root.display()), source))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .expect("no code panics while it holds this lock")
    }

    /// Runs file system work off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> String,
        work: impl FnOnce(&OverlayLayers) -> io::Result<T> + Send + 'static,
    ) -> Result<T, LayerError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || work(&this))
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|source| failed(step(), source))
    }

    fn rw(&self, container: &ContainerId) -> PathBuf {
        self.inner
            .containers
            .join(container.as_str())
            .join(CONTAINER_LAYER)
    }

    fn files_of(&self, chain_id: &Digest) -> PathBuf {
        self.inner.folder.join(chain_id.hex()).join(LAYER_DIFF)
    }

    /// Folders of the files of layers, from the top layer down.
    fn diffs(&self, top: Option<&Digest>) -> Vec<String> {
        let state = self.state();
        let mut next = top;
        let mut diffs = Vec::new();
        while let Some(chain_id) = next {
            diffs.push(self.files_of(chain_id).display().to_string());
            next = state
                .layers
                .get(chain_id)
                .and_then(|layer| layer.parent.as_ref());
        }
        diffs
    }

    /// Short links from the top layer down.
    fn links(&self, top: Option<&Digest>) -> Result<Vec<String>, LayerError> {
        let state = self.state();
        let mut links = Vec::new();
        let mut next = top.cloned();
        while let Some(chain_id) = next {
            let Some(layer) = state.layers.get(&chain_id) else {
                return Err(LayerError::Missing { chain_id });
            };
            links.push(layer.link.clone());
            next = layer.parent.clone();
        }
        if links.is_empty() {
            links.push(format!("../{EMPTY}"));
        }
        Ok(links)
    }
}

fn failed(
    step: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> LayerError {
    LayerError::Failed {
        step: step.into(),
        source: source.into(),
    }
}

/// Whose fault it is that a layer could not be unpacked.
fn unpack_failed(step: String, error: UnpackError) -> LayerError {
    match error.is_the_layers_fault() {
        true => LayerError::Invalid {
            step,
            source: error.into(),
        },
        false => failed(step, error),
    }
}

fn make_places(folder: &Path) -> io::Result<()> {
    for name in PLACES_WITHIN {
        let path = folder.join(name);
        let (made, mode) = match name.ends_with('/') {
            true => (fs::create_dir(&path), 0o755),
            false => (fs::File::create_new(&path).map(drop), 0o644),
        };
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            // Whatever the umask says.
            _ => fs::set_permissions(&path, fs::Permissions::from_mode(mode))?,
        }
    }
    Ok(())
}

fn open(data_root: &Path, limits: UnpackLimits) -> io::Result<OverlayLayers> {
    fs::create_dir_all(data_root)?;
    let data_root = data_root.canonicalize()?;
    let folder = data_root.join(LAYERS);
    let containers = data_root.join(CONTAINERS);
    for (path, mode) in [
        (folder.clone(), 0o700),
        (folder.join(LINKS), 0o700),
        (folder.join(EMPTY), 0o755),
        (folder.join(PLACES), 0o755),
        (containers.clone(), 0o701),
    ] {
        DirBuilder::new().recursive(true).mode(mode).create(path)?;
    }
    make_places(&folder.join(PLACES))?;
    spread(&folder);
    // A container alone has a dozen files here, and its removal frees as many.
    spread(&containers);
    let mut state = State::default();
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name.starts_with(TEMPORARY) {
            if let Err(error) = remove_path(&entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "cannot remove what a crash left");
            }
        } else if let Some(chain_id) = Digest::from_hex(&name) {
            match read_layer(&entry.path()) {
                Ok(record) => {
                    state.layers.insert(chain_id, record);
                }
                Err(error) => {
                    tracing::error!(layer = name, %error,
                        "a layer's record cannot be read; the layer is not used until it is pulled again");
                    state.unreadable.insert(chain_id);
                }
            }
        }
    }
    mend_links(&folder, &state)?;
    for entry in fs::read_dir(&containers)? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(ContainerId::parse) else {
            continue;
        };
        let rw = entry.path().join(CONTAINER_LAYER);
        if let Ok(text) = fs::read_to_string(rw.join(IMAGES)) {
            let images = text.lines().filter_map(Digest::parse).collect();
            state.images.insert(id.clone(), images);
        }
        if let Ok(text) = fs::read_to_string(rw.join(LOWER)) {
            state.containers.insert(id, Digest::parse(text.trim()));
        }
    }
    for point in mount::mount_points()? {
        let mounted = point
            .strip_prefix(&containers)
            .ok()
            .and_then(|path| {
                path.to_str()?
                    .strip_suffix(&format!("/{CONTAINER_LAYER}/{MERGED}"))
            })
            .and_then(ContainerId::parse);
        state.wanted.extend(mounted.clone());
        state.mounted.extend(mounted);
    }
    Ok(OverlayLayers {
        inner: Arc::new(Inner {
            folder,
            limits_size: crate::quota::is_supported(&containers),
            containers,
            limits,
            state: Mutex::new(state),
            removals: Arc::default(),
            container_locks: Mutex::default(),
        }),
    })
}

/// Tells ext4 that the folders in here have nothing to do with each other (chattr(1), `T`), so that each gets a part of the
/// disk of its own. Else all layers crowd into one block group: those that are unpacked side by side wait for each other
/// there, and after a removal every new file walks over all inodes that were freed in the last minutes
/// (`recently_deleted`, fs/ext4/ialloc.c): a pull after an rmi took three times the CPU.
pub(crate) fn spread(folder: &Path) {
    let set = || -> io::Result<()> {
        let folder = fs::File::open(folder)?;
        let flags = rustix::fs::ioctl_getflags(&folder)?;
        if !flags.contains(IFlags::TOPDIR) {
            rustix::fs::ioctl_setflags(&folder, flags | IFlags::TOPDIR)?;
        }
        Ok(())
    };
    // Only a hint, and other file systems have nothing like it.
    if let Err(error) = set() {
        tracing::debug!(%error, "this file system takes no hint about where layers go");
    }
}

fn read_layer(folder: &Path) -> io::Result<LayerRecord> {
    let bytes = fs::read(folder.join(LAYER_RECORD))?;
    record::decode(LayerRecord::VERSION, &bytes).map_err(io::Error::other)
}

/// Makes links that are missing and removes those of layers that are gone.
fn mend_links(folder: &Path, state: &State) -> io::Result<()> {
    let links = folder.join(LINKS);
    let wanted: HashSet<&str> = state
        .layers
        .values()
        .map(|layer| layer.link.as_str())
        .collect();
    for entry in fs::read_dir(&links)? {
        let entry = entry?;
        if !entry
            .file_name()
            .to_str()
            .is_some_and(|name| wanted.contains(name))
        {
            fs::remove_file(entry.path())?;
        }
    }
    for (chain_id, layer) in &state.layers {
        make_link(&links, chain_id, &layer.link)?;
    }
    Ok(())
}

fn make_link(links: &Path, chain_id: &Digest, link: &str) -> io::Result<()> {
    let target = format!("../{}/{LAYER_DIFF}", chain_id.hex());
    match std::os::unix::fs::symlink(target, links.join(link)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// A folder that goes when this is dropped, unless it was renamed away.
struct TemporaryFolder {
    path: PathBuf,
}

impl TemporaryFolder {
    fn new(parent: &Path) -> io::Result<TemporaryFolder> {
        let random = engine::id::ContainerId::random();
        let path = parent.join(format!("{TEMPORARY}{}", random.short()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(TemporaryFolder { path })
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(error) = remove_path(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a temporary folder");
        }
    }
}

struct Staged {
    layers: OverlayLayers,
    spec: LayerSpec,
    folder: TemporaryFolder,
    unpacked: Unpacked,
}

/// Counts, hashes and bounds the plain bytes of a layer.
struct Measured<R> {
    input: R,
    hash: Sha256,
    left: u64,
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other("it expands to more bytes than a layer may have"))?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

impl OverlayLayers {
    /// On a blocking thread.
    fn stage_now(&self, spec: LayerSpec, input: StreamReader) -> Result<Staged, LayerError> {
        let step = || format!("unpack layer {}", spec.diff_id);
        let folder =
            TemporaryFolder::new(&self.inner.folder).map_err(|error| failed(step(), error))?;
        let diff = folder.path.join(LAYER_DIFF);
        DirBuilder::new()
            .mode(0o755)
            .create(&diff)
            .map_err(|error| failed(step(), error))?;
        let root = open_path(&diff).map_err(|error| failed(step(), error))?;
        let limits = self.limits_now();
        let plain =
            decoded(input).map_err(|error| unpack_failed(step(), UnpackError::Archive(error)))?;
        let mut measured = Measured {
            input: plain,
            hash: Sha256::new(),
            // Headers and padding on top of the files; a layer of millions of empty files is mostly headers.
            left: limits
                .bytes
                .saturating_add(limits.tar.entries.saturating_mul(4096)),
        };
        let unpacked = on_own_thread(&mut measured, |reader| {
            let unpacked = unpack(reader, &root, &limits)?;
            // The digest is of everything, also of what follows the end mark.
            io::copy(reader, &mut io::sink()).map_err(UnpackError::Archive)?;
            Ok::<_, UnpackError>(unpacked)
        })
        .map_err(|error| unpack_failed(step(), error))?;
        let actual = Digest::from_hex(&hex::encode(measured.hash.finalize()))
            .expect("a sha256 has 64 digits");
        if actual != spec.diff_id {
            return Err(LayerError::Invalid {
                step: step(),
                source: format!("its content has the digest {actual}").into(),
            });
        }
        Ok(Staged {
            layers: self.clone(),
            spec,
            folder,
            unpacked,
        })
    }

    /// The bounds, tightened to what fits on the disk: better to say so than to fill it.
    fn limits_now(&self) -> UnpackLimits {
        let mut limits = self.inner.limits;
        if let Ok(facts) = rustix::fs::statvfs(&self.inner.folder) {
            limits.free = facts.f_bavail.saturating_mul(facts.f_frsize);
        }
        limits
    }

    fn commit_now(&self, staged: &Staged) -> Result<LayerInfo, LayerError> {
        let spec = &staged.spec;
        let step = || format!("register layer {}", spec.chain_id);
        let linked = self
            .adopt_from_below(staged)
            .map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => LayerError::Invalid {
                    step: step(),
                    source: error.into(),
                },
                _ => failed(step(), error),
            })?;
        let mut state = self.state();
        if let Some(layer) = state.layers.get(&spec.chain_id) {
            return Ok(layer.info(&spec.chain_id));
        }
        if let Some(parent) = &spec.parent
            && !state.layers.contains_key(parent)
        {
            return Err(LayerError::Missing {
                chain_id: parent.clone(),
            });
        }
        let hex = spec.chain_id.hex();
        let is_taken = |link: &str| state.layers.values().any(|layer| layer.link == link);
        let link = (LINK_DIGITS..=hex.len())
            .map(|digits| &hex[..digits])
            .find(|link| !is_taken(link))
            .unwrap_or(hex)
            .to_owned();
        let record = LayerRecord {
            diff_id: spec.diff_id.clone(),
            parent: spec.parent.clone(),
            size: staged.unpacked.size + linked,
            link,
        };
        let place = || {
            fs::write(
                staged.folder.path.join(LAYER_RECORD),
                record::encode(LayerRecord::VERSION, &record),
            )?;
            let target = self.inner.folder.join(hex);
            // Without a readable record it was not counted as a layer.
            remove_path(&target)?;
            fs::rename(&staged.folder.path, &target)?;
            make_link(&self.inner.folder.join(LINKS), &spec.chain_id, &record.link)
        };
        place().map_err(|error| failed(step(), error))?;
        let info = record.info(&spec.chain_id);
        state.unreadable.remove(&spec.chain_id);
        state.layers.insert(spec.chain_id.clone(), record);
        Ok(info)
    }

    /// Gives folders without an entry of their own the owner and mode they have below, and makes the hard links to files
    /// that are below. Returns the bytes that were copied for these.
    fn adopt_from_below(&self, staged: &Staged) -> io::Result<u64> {
        if staged.unpacked.implied.is_empty() && staged.unpacked.links_below.is_empty() {
            return Ok(0);
        }
        let root = open_path(&staged.folder.path.join(LAYER_DIFF))?;
        let mut below = Vec::new();
        let mut next = staged.spec.parent.clone();
        while let Some(chain_id) = next {
            below.push(open_path(&self.files_of(&chain_id))?);
            next = self
                .state()
                .layers
                .get(&chain_id)
                .and_then(|layer| layer.parent.clone());
        }
        for path in &staged.unpacked.implied {
            unpack::adopt_folder(&root, path, &below)?;
        }
        let mut copied = 0;
        for link in &staged.unpacked.links_below {
            copied += links::make(&root, link, &below)?;
        }
        Ok(copied)
    }
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

#[async_trait]
impl StagedLayer for Staged {
    async fn commit(self: Box<Self>) -> Result<LayerInfo, LayerError> {
        tokio::task::spawn_blocking(move || self.layers.commit_now(&self))
            .await
            .map_err(|error| failed("register a layer", error))?
    }
}

#[async_trait]
impl LayerStore for OverlayLayers {
    async fn find(&self, chain_id: &Digest) -> Result<Option<LayerInfo>, LayerError> {
        Ok(self
            .state()
            .layers
            .get(chain_id)
            .map(|layer| layer.info(chain_id)))
    }

    async fn stage(
        &self,
        spec: &LayerSpec,
        content: ByteStream,
    ) -> Result<Box<dyn StagedLayer>, LayerError> {
        let this = self.clone();
        let spec = spec.clone();
        let input = StreamReader::new(content);
        let staged = tokio::task::spawn_blocking(move || this.stage_now(spec, input))
            .await
            .map_err(|error| failed("unpack a layer", error))??;
        Ok(Box::new(staged))
    }

    async fn draft(&self) -> Result<Box<dyn DraftLayer>, LayerError> {
        self.new_draft().await
    }

    async fn draft_of(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<Box<dyn DraftLayer>, LayerError> {
        self.draft_of_container(container, top_layer).await
    }

    async fn archive(&self, chain_id: &Digest) -> Result<ByteStream, LayerError> {
        self.archive_of(chain_id)
    }

    async fn collect(&self, keep: &BTreeSet<Digest>) -> Result<Vec<Digest>, LayerError> {
        self.collect_unused(keep).await
    }

    async fn settle(&self) -> Result<(), LayerError> {
        self.wait_for_removals(u64::MAX).await
    }

    async fn make_room(&self) -> Result<(), LayerError> {
        self.wait_where_scarce().await
    }

    async fn sync(&self) -> Result<(), LayerError> {
        self.blocking(
            || "write layers to the disk".into(),
            |this| sync_file_system(&this.inner.folder),
        )
        .await
    }

    async fn driver_data(&self, chain_id: Option<&Digest>) -> (String, BTreeMap<String, String>) {
        let mut data = BTreeMap::new();
        if let Some(top) = chain_id {
            let text = |path: PathBuf| path.display().to_string();
            let folder = self.inner.folder.join(top.hex());
            let mut lower = self.diffs(Some(top));
            lower.remove(0);
            if !lower.is_empty() {
                data.insert("LowerDir".to_owned(), lower.join(":"));
            }
            data.insert("MergedDir".to_owned(), text(folder.join(MERGED)));
            data.insert("UpperDir".to_owned(), text(folder.join(LAYER_DIFF)));
            data.insert("WorkDir".to_owned(), text(folder.join(WORK)));
        }
        ("overlay2".to_owned(), data)
    }
}

/// Writes out everything on the file system a folder is on.
pub(crate) fn sync_file_system(folder: &Path) -> io::Result<()> {
    rustix::fs::syncfs(fs::File::open(folder)?)?;
    Ok(())
}

#[cfg(test)]
mod tests;
