//! `BuildService`: from a request to an image.
//!
//! ```text
//! context (tar, git, address) --> folder      Dockerfile --> Plan: stages that are needed, and what waits for what
//!                                   |                          |
//!                                   '-------> Runner (one task a stage, steps in order) ---> layers, cache entries
//!                                               FROM: pull   RUN: run.rs   COPY, ADD: copy.rs   the rest: memory only
//!                                                              |
//!                                              one write: image, names, cache entries
//! ```
//!
//! Nothing is collected while a build runs, and nothing of a build is recorded before its end: an engine that is killed
//! meanwhile leaves layers without a record, which the next start removes, and containers with a label, which
//! [`BuildService::recover`] removes.

use super::cache::{self, CacheLimits, Uses};
use super::caches::CacheLocks;
use super::error::BuildError;
use super::event::{BuildEvent, BuildSink, Finding};
use super::files::BuildFiles;
use super::ignore::Ignore;
use super::instruction::Instruction;
use super::plan::Plan;
use super::request::{BuildOutcome, BuildOutput, BuildRequest, Context, DockerfileSource};
use super::runner::{self, StageResult};
use super::sources::GitFetcher;
use super::{Dockerfile, arguments, dockerfile, lint};
use crate::containers::ContainerService;
use crate::containers::remove::RemoveOptions;
use crate::error::full_message;
use crate::images::records::{BuildRecord, ImageRecords};
use crate::images::{BorrowedRoot, ByteStream, ImageService, Layers, Platform};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use time::OffsetDateTime;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

/// On containers of steps.
pub const STEP_LABEL: &str = "berth.build.step";

/// What builds stand on.
pub struct BuildBackends {
    pub images: ImageService,
    pub containers: Arc<ContainerService>,
    pub files: Arc<dyn BuildFiles>,
    pub git: Arc<dyn GitFetcher>,
}

/// Choices of the administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildOptions {
    pub limits: CacheLimits,
    /// Steps of one build that work at the same time.
    pub at_once: usize,
}

impl Default for BuildOptions {
    fn default() -> Self {
        BuildOptions {
            limits: CacheLimits::default(),
            at_once: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Builds images. Cheap to clone.
#[derive(Clone)]
pub struct BuildService {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) images: ImageService,
    pub(super) containers: Arc<ContainerService>,
    pub(super) files: Arc<dyn BuildFiles>,
    pub(super) git: Arc<dyn GitFetcher>,
    pub(super) options: BuildOptions,
    uses: Mutex<Uses>,
    running: Mutex<Vec<Weak<Build>>>,
    /// Contexts that wait for their build, by token.
    pub(super) offered: Mutex<HashMap<String, Context>>,
    pub(super) mounts: CacheLocks,
    /// Bytes of the cache mounts when they were measured last.
    pub(super) in_mounts: AtomicU64,
    pub(super) trimming: tokio::sync::Mutex<()>,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("no code panics while it holds this lock")
}

/// One build that runs.
pub(super) struct Build {
    pub service: BuildService,
    pub request: BuildRequest,
    pub file: Dockerfile,
    pub plan: Plan,
    pub sink: BuildSink,
    pub source_date: Option<OffsetDateTime>,
    pub platform: Platform,
    /// Steps that work.
    pub slots: Semaphore,
    /// One pull at a time.
    pub pulls: tokio::sync::Mutex<()>,
    stages: BTreeMap<usize, watch::Receiver<Option<Arc<StageResult>>>>,
    /// Entries that are new.
    made: Mutex<BTreeMap<String, BuildRecord>>,
    /// Keys of entries that were used.
    used: Mutex<BTreeSet<String>>,
    /// Steps that may still read the context.
    pub context_readers: AtomicUsize,
    /// A step has had cache mounts.
    pub has_mounted_caches: AtomicBool,
    /// Containers that are being removed.
    pub removals: Mutex<Vec<JoinHandle<()>>>,
}

impl Build {
    /// The outcome of another stage, once it is there. An error means that it failed.
    pub async fn stage(&self, index: usize) -> Result<Arc<StageResult>, BuildError> {
        let Some(receiver) = self.stages.get(&index) else {
            return Err(BuildError::Invalid(format!(
                "stage {index} is used by a trigger of the base image only: a COPY --from it has to be in this Dockerfile, too"
            )));
        };
        let mut receiver = receiver.clone();
        let result = receiver.wait_for(Option::is_some).await;
        let result = result.map_err(|_| BuildError::Cancelled)?;
        Ok(result.clone().expect("it was waited for"))
    }

    /// What stands in for a step.
    pub fn find(&self, key: &str) -> Option<BuildRecord> {
        let found = match locked(&self.made).get(key) {
            Some(made) => Some(made.clone()),
            None if self.request.no_cache || self.request.only_cache_from => None,
            None => self
                .service
                .inner
                .images
                .catalog()
                .records
                .builds
                .get(key)
                .cloned(),
        };
        if found.is_some() && locked(&self.used).insert(key.to_owned()) {
            let now = self.service.now();
            let mut uses = self.service.uses();
            let uses = uses.entry(key.to_owned()).or_insert((now, 0));
            *uses = (now, uses.1 + 1);
        }
        found
    }

    /// Remembers what a step made.
    pub fn remember(&self, key: String, entry: BuildRecord) {
        locked(&self.used).insert(key.clone());
        locked(&self.made).insert(key, entry);
    }

    /// What is told of build arguments that nothing declares, in Docker's words. Stages below the target do not count, nor
    /// do those above it that were not needed lack anything.
    fn unused_arguments(&self) -> Option<String> {
        let stages = &self.file.stages[..=self.plan.target];
        let steps = stages.iter().flat_map(|stage| &stage.steps);
        let mut declared: BTreeSet<&str> = BTreeSet::new();
        for step in self.file.arguments.iter().chain(steps) {
            if let Instruction::Arg(names) = &step.instruction {
                declared.extend(names.iter().map(|(name, _)| name.as_str()));
            }
        }
        // Triggers of base images declare some, too.
        let done: Vec<_> = self
            .stages
            .values()
            .filter_map(|stage| stage.borrow().clone())
            .collect();
        declared.extend(done.iter().flat_map(|done| done.state.arguments.declared()));
        let given = self.request.arguments.keys().map(String::as_str);
        let unused = arguments::unused(given, &declared);
        (!unused.is_empty()).then(|| {
            format!(
                "One or more build-args [{}] were not consumed",
                unused.join(" ")
            )
        })
    }

    pub fn layers(&self) -> &Arc<dyn Layers> {
        &self.service.inner.containers.deps().layers
    }

    pub async fn tell(&self, event: BuildEvent) {
        self.sink.send(event).await;
    }

    /// When something is made now.
    pub fn created(&self) -> OffsetDateTime {
        let now = self.service.now();
        self.source_date.map_or(now, |date| date.min(now))
    }
}

impl BuildService {
    pub fn new(backends: BuildBackends, options: BuildOptions) -> BuildService {
        BuildService {
            inner: Arc::new(Inner {
                images: backends.images,
                containers: backends.containers,
                files: backends.files,
                git: backends.git,
                options,
                uses: Mutex::default(),
                running: Mutex::default(),
                offered: Mutex::default(),
                mounts: CacheLocks::default(),
                in_mounts: AtomicU64::default(),
                trimming: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Removes the containers of builds that an earlier engine did not end. Call once, after the containers are there.
    pub async fn recover(&self) {
        let containers = &self.inner.containers;
        for container in containers.all() {
            if !container.spec.config.labels.contains_key(STEP_LABEL) {
                continue;
            }
            let options = RemoveOptions {
                force: true,
                volumes: true,
            };
            if let Err(error) = containers.remove(container.id.as_str(), options).await {
                tracing::warn!(container = %container.id, error = full_message(&error), "a container of a build stays behind");
            }
        }
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        self.inner.containers.deps().clock.now()
    }

    pub(super) fn uses(&self) -> MutexGuard<'_, Uses> {
        locked(&self.inner.uses)
    }

    /// Keys that builds have used which are not over.
    pub(super) fn keys_in_use(&self) -> BTreeSet<String> {
        let mut running = locked(&self.inner.running);
        running.retain(|build| build.strong_count() > 0);
        let builds = running.iter().filter_map(Weak::upgrade);
        builds
            .flat_map(|build| locked(&build.used).clone())
            .collect()
    }

    pub(super) fn is_cache_in_use(&self, id: &str) -> bool {
        self.inner.mounts.is_in_use(id)
    }

    /// Builds. Dropping the future, or the receiving end of the sink, cancels: containers are killed and removed. An error
    /// before the first event is one of the request.
    pub async fn build(
        &self,
        request: BuildRequest,
        sink: BuildSink,
    ) -> Result<BuildOutcome, BuildError> {
        // A task of its own: a build that nobody waits for any more still records what it has done.
        let (client, gone) = tokio::sync::oneshot::channel::<()>();
        let service = self.clone();
        let work = tokio::spawn(async move { service.build_now(request, sink, gone).await });
        let outcome = work.await;
        drop(client);
        outcome.unwrap_or(Err(BuildError::Cancelled))
    }

    /// Ends early when the other end of `gone` is dropped.
    async fn build_now(
        &self,
        request: BuildRequest,
        sink: BuildSink,
        gone: tokio::sync::oneshot::Receiver<()>,
    ) -> Result<BuildOutcome, BuildError> {
        let platform = self.platform(&request)?;
        let (text, ignore) = self.read_files(&request).await?;
        let mut file = Dockerfile::parse(&text)?;
        let given: BTreeMap<String, String> = request
            .arguments
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
            .collect();
        let source_date = match request.source_date {
            Some(date) => Some(date),
            None => source_date(&given)?,
        };
        let plan = Plan::of(
            &mut file,
            given,
            &platform,
            &request.target,
            &request.labels,
            |name| request.context_named(name).is_some(),
        )?;
        let (findings, is_error) = self.lint(&file, &text, &ignore);
        if request.output == BuildOutput::Check || is_error {
            for finding in findings {
                sink.send(BuildEvent::Lint(finding)).await;
            }
            return match is_error {
                true => Err(BuildError::Invalid(
                    "lint violation found for rules: the Dockerfile's check directive makes findings errors".into(),
                )),
                false => Ok(BuildOutcome::default()),
            };
        }
        if let Some(context) = &request.context
            && !ignore.is_empty()
        {
            let files = context.files.clone();
            self.inner.files.leave_out(files, ignore).await?;
        }
        let (senders, stages): (Vec<_>, BTreeMap<_, _>) = plan
            .stages
            .keys()
            .map(|index| {
                let (sender, receiver) = watch::channel(None);
                ((*index, sender), (*index, receiver))
            })
            .unzip();
        let context_readers = plan.context_readers(&file);
        let build = Arc::new(Build {
            service: self.clone(),
            request,
            file,
            plan,
            sink,
            source_date,
            platform,
            slots: Semaphore::new(self.inner.options.at_once.max(1)),
            pulls: tokio::sync::Mutex::default(),
            stages,
            made: Mutex::default(),
            used: Mutex::default(),
            context_readers: AtomicUsize::new(context_readers),
            has_mounted_caches: AtomicBool::default(),
            removals: Mutex::default(),
        });
        locked(&self.inner.running).push(Arc::downgrade(&build));
        // Nothing is collected until what the build makes is recorded.
        let storing = self.inner.images.begin_storing().await?;
        build
            .tell(BuildEvent::Planned(build.plan.steps.clone()))
            .await;
        for finding in findings {
            build.tell(BuildEvent::Lint(finding)).await;
        }
        let outcome = self.run_stages(&build, senders, gone).await;
        let outcome = match outcome {
            Ok(target) => {
                if let Some(text) = build.unused_arguments() {
                    build.tell(BuildEvent::Warning { step: None, text }).await;
                }
                self.finish(&build, &target).await
            }
            Err(error) => {
                // What was done is kept all the same.
                if let Err(error) = self.keep_entries(&build).await {
                    tracing::warn!(error = full_message(&error), "the cache of a build is lost");
                }
                Err(error)
            }
        };
        let removals = std::mem::take(&mut *locked(&build.removals));
        for removal in removals {
            let _ = removal.await;
        }
        drop(storing);
        if outcome.is_err() {
            self.inner.images.collect_later();
        }
        self.inner.images.collect_if_due().await;
        if build.has_mounted_caches.load(Ordering::Relaxed) {
            self.trim_later();
        }
        outcome
    }

    /// What the rules find, and whether that fails the build.
    fn lint(&self, file: &Dockerfile, text: &[u8], ignore: &Ignore) -> (Vec<Finding>, bool) {
        let env_of = |name: &str| {
            let image = self.inner.images.inspect(name).ok()?;
            Some(image.details.config.env.clone())
        };
        let platform_of = |name: &str| {
            let image = self.inner.images.inspect(name).ok()?;
            Some(image.details.platform.clone())
        };
        let around = lint::Surroundings {
            text: &String::from_utf8_lossy(text),
            ignore,
            env_of: &env_of,
            platform_of: &platform_of,
            platform: self.inner.images.platform(),
        };
        let checked = lint::check(file, &around);
        (checked.findings, checked.is_error)
    }

    fn platform(&self, request: &BuildRequest) -> Result<Platform, BuildError> {
        let native = self.inner.images.platform();
        match &request.platform {
            Some(wanted) if !native.is_built_as(wanted) => Err(BuildError::Invalid(format!(
                "cannot build for {wanted}: this host is {native}, and steps are run natively"
            ))),
            _ => Ok(native.clone()),
        }
    }

    /// The Dockerfile's text, and what is left out of the context.
    async fn read_files(&self, request: &BuildRequest) -> Result<(Vec<u8>, Ignore), BuildError> {
        let largest = dockerfile::TEXT_MAX as u64;
        let read = async |path: &str| match &request.context {
            None => Ok(None),
            Some(context) => {
                self.inner
                    .files
                    .read(context.files.clone(), path, largest)
                    .await
            }
        };
        let mut rules = None;
        let text = match &request.dockerfile {
            DockerfileSource::Text(text) => text.clone(),
            DockerfileSource::Path(path) => {
                let text = match read(path).await? {
                    Some(text) => text,
                    // As Docker does it: a lower-case name counts where the usual one is asked for.
                    None if path == "Dockerfile" => read("dockerfile")
                        .await?
                        .ok_or_else(|| BuildError::NoDockerfile { path: path.clone() })?,
                    None => return Err(BuildError::NoDockerfile { path: path.clone() }),
                };
                rules = read(&format!("{path}.dockerignore")).await?;
                text
            }
        };
        if rules.is_none() {
            rules = read(".dockerignore").await?;
        }
        let rules = String::from_utf8_lossy(rules.as_deref().unwrap_or_default()).into_owned();
        let ignore = Ignore::parse(&rules).map_err(|error| {
            BuildError::Invalid(format!("error reading .dockerignore: {error}"))
        })?;
        Ok((text, ignore))
    }

    async fn run_stages(
        &self,
        build: &Arc<Build>,
        senders: Vec<(usize, watch::Sender<Option<Arc<StageResult>>>)>,
        mut gone: tokio::sync::oneshot::Receiver<()>,
    ) -> Result<Arc<StageResult>, BuildError> {
        let mut tasks = JoinSet::new();
        for (index, sender) in senders {
            let build = build.clone();
            tasks.spawn(async move {
                let result = runner::run(&build, index).await?;
                sender.send_replace(Some(Arc::new(result)));
                Ok::<_, BuildError>(())
            });
        }
        let mut outcome = Ok(());
        loop {
            let joined = tokio::select! {
                joined = tasks.join_next() => joined,
                () = build.sink.closed() => {
                    outcome = Err(BuildError::Cancelled);
                    break;
                }
                _ = &mut gone => {
                    outcome = Err(BuildError::Cancelled);
                    break;
                }
            };
            match joined {
                None => break,
                Some(Ok(Ok(()))) => {}
                // It waited for a stage that failed; whose error is on its way.
                Some(Ok(Err(BuildError::Cancelled))) => outcome = Err(BuildError::Cancelled),
                Some(Ok(Err(error))) => {
                    outcome = Err(error);
                    break;
                }
                Some(Err(error)) => {
                    outcome = Err(BuildError::Invalid(format!("a stage was cut off: {error}")));
                    break;
                }
            }
        }
        tasks.shutdown().await;
        outcome?;
        build.stage(build.plan.target).await
    }

    /// Writes what the build has made.
    async fn finish(
        &self,
        build: &Arc<Build>,
        target: &StageResult,
    ) -> Result<BuildOutcome, BuildError> {
        let images = &self.inner.images;
        let mut outcome = BuildOutcome::default();
        match build.request.output {
            BuildOutput::Image => {}
            BuildOutput::ImageAndFiles => outcome.files = Some(self.files_of(build, target).await?),
            BuildOutput::Files => {
                self.keep_entries(build).await?;
                outcome.image = target.state_id();
                outcome.files = Some(self.files_of(build, target).await?);
                return Ok(outcome);
            }
            BuildOutput::Nothing | BuildOutput::Check => {
                self.keep_entries(build).await?;
                outcome.image = target.state_id();
                return Ok(outcome);
            }
        }
        let tags = &build.request.tags;
        let id = match &target.image {
            Some(id) => id.clone(),
            None => target.state_id().ok_or_else(|| {
                BuildError::Invalid("No image was generated. Is your Dockerfile empty?".into())
            })?,
        };
        let catalog = images.catalog();
        let is_here = catalog.records.images.contains_key(&id);
        let is_named = tags
            .iter()
            .all(|tag| catalog.records.references.get(&tag.to_string()) == Some(&id));
        let entries = Entries::take(build);
        if !is_here {
            let layers = target.layers.clone();
            let mut collect = false;
            images
                .record_made(target.image_details(), layers, None, tags, |catalog| {
                    collect = entries.write(&mut catalog.records);
                })
                .await?;
            self.collect_later_if(collect);
        } else if !is_named || !entries.made.is_empty() {
            self.sync(&entries).await?;
            let now = self.now();
            let collect = images
                .change(|catalog| {
                    for tag in tags {
                        catalog
                            .records
                            .references
                            .insert(tag.to_string(), id.clone());
                    }
                    if let Some(record) = catalog.records.images.get_mut(&id)
                        && !is_named
                    {
                        record.last_tagged = Some(now);
                    }
                    Ok(entries.write(&mut catalog.records))
                })
                .await?;
            self.collect_later_if(collect);
        }
        build.tell(BuildEvent::Built { image: id.clone() }).await;
        for tag in tags {
            images.publish("tag", id.as_str(), &tag.familiar());
            build
                .tell(BuildEvent::Tagged {
                    name: tag.familiar(),
                })
                .await;
        }
        outcome.image = Some(id);
        Ok(outcome)
    }
}

impl BuildService {
    /// The target's files as a tar.
    async fn files_of(
        &self,
        build: &Build,
        target: &StageResult,
    ) -> Result<ByteStream, BuildError> {
        let root = super::root::mount(build.layers(), target.top()).await?;
        let root = BorrowedRoot::new(root.path.clone(), root);
        let files = &self.inner.containers.deps().container_files;
        files.export(root).await.map_err(BuildError::Context)
    }

    fn collect_later_if(&self, collect: bool) {
        if collect {
            self.inner.images.collect_later();
        }
    }

    /// What entries name survives a power cut before they do.
    async fn sync(&self, entries: &Entries) -> Result<(), BuildError> {
        if entries.made.values().any(|entry| entry.layer.is_some()) {
            let backends = self.inner.images.backends();
            backends.layers.sync().await?;
            backends.blobs.sync().await?;
        }
        Ok(())
    }

    /// Records what a build has made that makes no image.
    async fn keep_entries(&self, build: &Build) -> Result<(), BuildError> {
        let entries = Entries::take(build);
        if entries.made.is_empty() {
            return Ok(());
        }
        self.sync(&entries).await?;
        let images = &self.inner.images;
        let collect = images
            .change(|catalog| Ok(entries.write(&mut catalog.records)))
            .await?;
        self.collect_later_if(collect);
        Ok(())
    }
}

/// What a build writes into the record.
struct Entries {
    service: BuildService,
    made: BTreeMap<String, BuildRecord>,
}

impl Entries {
    fn take(build: &Build) -> Entries {
        Entries {
            service: build.service.clone(),
            made: std::mem::take(&mut *locked(&build.made)),
        }
    }

    /// Answers whether older ones had to go.
    fn write(self, records: &mut ImageRecords) -> bool {
        records.builds.extend(self.made);
        let uses = std::mem::take(&mut *self.service.uses());
        cache::count_uses(records, uses);
        cache::enforce(
            records,
            &self.service.inner.options.limits,
            self.service.now(),
            self.service.inner.in_mounts.load(Ordering::Relaxed),
        )
    }
}

/// `SOURCE_DATE_EPOCH` as a build argument.
fn source_date(given: &BTreeMap<String, String>) -> Result<Option<OffsetDateTime>, BuildError> {
    let Some(text) = given
        .get("SOURCE_DATE_EPOCH")
        .filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    let date = text
        .parse()
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    match date {
        Some(date) => Ok(Some(date)),
        None => Err(BuildError::Invalid(format!(
            "invalid SOURCE_DATE_EPOCH: {text:?} is no number of seconds since 1970"
        ))),
    }
}
