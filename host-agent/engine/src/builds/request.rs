//! What a client asks of a build, and what it gets.

use super::needs::context_name;
use crate::containers::spec::NetworkChoice;
use crate::images::registry::Credentials;
use crate::images::{BorrowedRoot, ByteStream, Digest, Platform, Reference, ReferenceError};
use crate::runtime::{ResourcePlan, Rlimit};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use time::OffsetDateTime;

/// The files of a context. They are removed when the last clone is dropped, or at the engine's next start.
#[derive(Clone)]
pub struct Context {
    /// Made for one build alone: what its rules leave out is taken away, and its last step that reads them may move them.
    pub(crate) files: Arc<BorrowedRoot>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({})", self.files.path.display())
    }
}

/// Where the Dockerfile is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerfileSource {
    /// In the context; Docker's default is `Dockerfile`. Its `<path>.dockerignore` counts before `.dockerignore`.
    Path(String),
    /// The text itself (`-f -`, `docker build -`); at most [`super::dockerfile::TEXT_MAX`] bytes.
    Text(Vec<u8>),
}

/// A secret's content. Cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// An ssh agent of the client's.
pub trait SshAgent: std::fmt::Debug + Send + Sync + 'static {
    /// A socket on this host for one mount, where programs reach the agent; it goes when the answer is dropped.
    fn socket(&self, mode: u32, owner: (u32, u32)) -> io::Result<BorrowedRoot>;
}

/// `--build-context name=...`
#[derive(Debug, Clone)]
pub enum NamedContext {
    Files(Context),
    /// Another image instead of the one of that name.
    Image(String),
}

/// When containers of steps are removed (`rm`, `forcerm`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RemoveContainers {
    /// After every step, also one that failed.
    #[default]
    Always,
    /// The one of a step that failed stays.
    OnSuccess,
    Never,
}

/// What is made of the target stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BuildOutput {
    /// An image in the image store, with the tags. Further forms (oci, docker) are saved from there.
    #[default]
    Image,
    /// The target's files as a tar ([`BuildOutcome::files`]); no image is left.
    Files,
    /// Both.
    ImageAndFiles,
    /// Nothing: only the cache is filled.
    Nothing,
    /// Nothing is run: warnings about the Dockerfile are told (`--check`).
    Check,
}

/// A build that is asked for. `BuildRequest::default()` is `docker build` of an empty context without flags.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// `None`: there are no files.
    pub context: Option<Context>,
    /// By [`BuildRequest::add_context`].
    pub contexts: BTreeMap<String, NamedContext>,
    pub dockerfile: DockerfileSource,
    pub tags: Vec<Reference>,
    /// A stage's name or number; empty: the last one.
    pub target: String,
    /// `None`: named without a value; it counts as not given.
    pub arguments: BTreeMap<String, Option<String>>,
    pub labels: BTreeMap<String, String>,
    pub no_cache: bool,
    /// Base images are pulled even where they are here.
    pub pull: bool,
    /// Images whose history may stand in for the cache (`--cache-from`), local ones; a front door that takes registry
    /// names pulls them first. Names that are not here are warned of.
    pub cache_from: Vec<String>,
    /// Nothing else stands in for a step then: Docker's classic builder does not look into its own cache where it was given
    /// images.
    pub only_cache_from: bool,
    /// `None`: this host's. Others than the native one are refused.
    pub platform: Option<Platform>,
    /// Of `RUN` steps.
    pub network: NetworkChoice,
    /// Bytes of /dev/shm; 0: the engine's default.
    pub shm_size: u64,
    pub resources: ResourcePlan,
    pub cgroup_parent: String,
    /// `name:address`
    pub extra_hosts: Vec<String>,
    pub ulimits: Vec<Rlimit>,
    /// `--security-opt`
    pub security: Vec<String>,
    /// By registry, as in `X-Registry-Config`; `docker.io` may be `https://index.docker.io/v1/`.
    pub credentials: BTreeMap<String, Credentials>,
    /// By id.
    pub secrets: BTreeMap<String, Secret>,
    /// By id (`default`).
    pub ssh: BTreeMap<String, Arc<dyn SshAgent>>,
    pub remove: RemoveContainers,
    pub output: BuildOutput,
    /// `SOURCE_DATE_EPOCH`: no time in the result is later. A build argument of that name counts, too.
    pub source_date: Option<OffsetDateTime>,
}

impl BuildRequest {
    /// Puts files or an image in the place of a stage or an image of this name.
    pub fn add_context(&mut self, name: &str, context: NamedContext) -> Result<(), ReferenceError> {
        Reference::parse(name)?;
        self.contexts.insert(context_name(name), context);
        Ok(())
    }

    pub(super) fn context_named(&self, name: &str) -> Option<&NamedContext> {
        self.contexts.get(&context_name(name))
    }

    pub(super) fn has_files_named(&self, name: &str) -> bool {
        matches!(self.context_named(name), Some(NamedContext::Files(_)))
    }
}

impl Default for BuildRequest {
    fn default() -> Self {
        BuildRequest {
            context: None,
            contexts: BTreeMap::new(),
            dockerfile: DockerfileSource::Path("Dockerfile".to_owned()),
            tags: Vec::new(),
            target: String::new(),
            arguments: BTreeMap::new(),
            labels: BTreeMap::new(),
            no_cache: false,
            pull: false,
            cache_from: Vec::new(),
            only_cache_from: false,
            platform: None,
            network: NetworkChoice::default(),
            shm_size: 0,
            resources: ResourcePlan::default(),
            cgroup_parent: String::new(),
            extra_hosts: Vec::new(),
            ulimits: Vec::new(),
            security: Vec::new(),
            credentials: BTreeMap::new(),
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            remove: RemoveContainers::default(),
            output: BuildOutput::default(),
            source_date: None,
        }
    }
}

/// What a build made.
#[derive(Default)]
pub struct BuildOutcome {
    /// `None` for [`BuildOutput::Check`]. For `Files` and `Nothing` it names a state of the cache, not an image.
    pub image: Option<Digest>,
    /// For [`BuildOutput::Files`]: a plain tar.
    pub files: Option<ByteStream>,
}

/// `/build/prune`.
#[derive(Debug, Clone, Default)]
pub struct PruneRequest {
    /// Also what images or later entries use. Without it, entries that an image's history still uses stay.
    pub all: bool,
    /// What of it stays.
    pub keep: Keep,
    /// `until`, `unused-for`, `id`, `parent`, `type`, `description`, `inuse`, `shared`, `private`; others are refused.
    pub filters: engine_api::Filters,
}

/// How much of the cache a prune leaves, in bytes; all 0: nothing. The least recently used goes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// `reserved-space`, `keep-storage`: so much stays in any case.
    pub reserved: u64,
    /// `max-used-space`: no more than this stays.
    pub most: u64,
    /// `min-free-space`: so much is to be free on the disk; where it is, nothing needs to go for it.
    pub least_free: u64,
}

impl Keep {
    /// How much of `held` bytes goes with so many `free` on the disk; `None` for all that may go (`calculateKeepBytes` of
    /// BuildKit).
    pub fn excess(self, held: u64, free: u64) -> Option<u64> {
        if self == Keep::default() {
            return None;
        }
        let for_disk = match self.least_free {
            0 => None,
            least => Some(held.saturating_sub(least.saturating_sub(free))),
        };
        let most = (self.most != 0).then_some(self.most);
        let allowed = most.into_iter().chain(for_disk).min().unwrap_or(0);
        Some(held.saturating_sub(allowed.max(self.reserved)))
    }
}

/// What a prune removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Ids of cache entries.
    pub deleted: Vec<String>,
    /// Bytes.
    pub reclaimed: u64,
}

/// What a cache entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheKind {
    /// The outcome of a step.
    Regular,
    /// The folder of `RUN --mount=type=cache`.
    CacheMount,
    /// Contents of contexts' files, so that they need not be sent again.
    Contexts,
}

impl CacheKind {
    /// Docker's `Type`.
    pub fn name(self) -> &'static str {
        match self {
            CacheKind::Regular => "regular",
            CacheKind::CacheMount => "exec.cachemount",
            CacheKind::Contexts => "source.local",
        }
    }
}

/// One line of `/system/df`'s BuildCache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheUsage {
    pub id: String,
    pub parent: Option<String>,
    pub kind: CacheKind,
    pub description: String,
    /// A build uses it right now.
    pub in_use: bool,
    /// An image has its layer.
    pub shared: bool,
    /// Bytes.
    pub size: u64,
    pub created: OffsetDateTime,
    pub last_used: Option<OffsetDateTime>,
    pub usage_count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prune_leaves_what_is_allowed_and_not_less_than_is_reserved() {
        for (reserved, most, least_free, expected) in [
            (0, 0, 0, None),
            (30, 0, 0, Some(70)),
            (0, 60, 0, Some(40)),
            (60, 30, 0, Some(40)),
            // 20 of them are free.
            (0, 0, 20, Some(0)),
            (0, 0, 50, Some(30)),
            (0, 0, 1_000, Some(100)),
            (90, 0, 50, Some(10)),
            (90, 0, 10, Some(0)),
            (0, 60, 50, Some(40)),
            (0, 90, 50, Some(30)),
            (200, 0, 0, Some(0)),
        ] {
            let keep = Keep {
                reserved,
                most,
                least_free,
            };
            assert_eq!(keep.excess(100, 20), expected, "{keep:?}");
        }
    }

    #[test]
    fn contexts_are_found_by_every_name_of_an_image() {
        let mut request = BuildRequest::default();
        let other = || NamedContext::Image("other".to_owned());
        for name in [
            "docker.io/library/alpine:latest",
            "host.example:5000/a:1",
            "lib",
        ] {
            request.add_context(name, other()).expect("good");
        }
        for name in [
            "alpine",
            "alpine:latest",
            "library/alpine",
            "host.example:5000/a:1",
            "lib:latest",
        ] {
            assert!(request.context_named(name).is_some(), "{name}");
        }
        for name in ["alpine:3", "host.example:5000/a", "Lib", ""] {
            assert!(request.context_named(name).is_none(), "{name}");
        }
        assert!(request.add_context("Not a name", other()).is_err());
    }
}
