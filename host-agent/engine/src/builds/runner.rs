//! One stage: its steps in order, each from the cache or done now.

use super::arguments::Arguments;
use super::error::BuildError;
use super::event::{BuildEvent, OutputOf};
use super::instruction::Step;
use super::plan::{Base, may_read_context};
use super::request::NamedContext;
use super::service::Build;
use super::stage_state::{Applied, StageState, Work};
use super::{Dockerfile, copy, nearest, needs, run};
use crate::containers::merge::DEFAULT_PATH;
use crate::error::{Class, Classify};
use crate::images::config::{ImageDetails, MadeOf, digest_of, encode};
use crate::images::records::{BuildLayer, BuildRecord, LayerRecord};
use crate::images::{
    ByteStream, Digest, DraftLayer, HistoryEntry, ImageConfig, ImageError, ImageView, Platform,
    ProgressSink, PullRequest, Reference,
};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use time::OffsetDateTime;
use tokio::sync::SemaphorePermit;

/// Images whose names are suggested, as BuildKit does it.
const COMMON_IMAGES: [&str; 7] = [
    "alpine", "busybox", "centos", "debian", "fedora", "golang", "ubuntu",
];

/// A stage that is done.
pub(super) struct StageResult {
    pub state: StageState,
    pub details: ImageDetails,
    pub layers: Vec<LayerRecord>,
    /// The image it still is: no step changed anything.
    pub image: Option<Digest>,
    /// Docker's `container_config`, of the last step.
    container_config: ImageConfig,
}

impl StageResult {
    /// What is told of the image.
    pub fn image_details(&self) -> ImageDetails {
        ImageDetails {
            side: None,
            made_of: Some(MadeOf {
                config: self.container_config.clone(),
                ..MadeOf::default()
            }),
            ..self.details.clone()
        }
    }

    /// What the state is called: the id of the image it would be. `None` for `FROM scratch` alone.
    pub fn state_id(&self) -> Option<Digest> {
        match &self.image {
            Some(image) => Some(image.clone()),
            // Images may come without a history; what begins with one of them is something.
            None if self.details.history.is_empty() && self.layers.is_empty() => None,
            None => Some(digest_of(&encode(&self.image_details()))),
        }
    }

    /// The layer on top.
    pub fn top(&self) -> Option<&Digest> {
        self.layers.last().map(|layer| &layer.chain_id)
    }
}

/// A stage on its way.
pub(super) struct Runner<'b> {
    pub build: &'b Arc<Build>,
    /// Position in the Dockerfile.
    pub stage: usize,
    /// The step that is being done.
    pub index: usize,
    pub now: StageResult,
    /// Key of the step before.
    parent: Option<String>,
    /// It is an instruction of the base image's; there may be more of them than the plan knows.
    is_trigger: bool,
}

/// What a step has made.
pub(super) enum MadeLayer {
    /// The folder itself.
    Draft(Box<dyn DraftLayer>),
    /// A plain tar.
    Tar(ByteStream),
}

/// Something that steps can be looked up by and are remembered by.
pub(super) struct StepKey {
    pub key: String,
    /// Of the same step, known before all of what it reads was read.
    pub quick: Option<String>,
    /// The state before and the history line are not all that the step depends on.
    is_beyond_line: bool,
}

/// Does a stage.
pub(super) async fn run(build: &Arc<Build>, stage: usize) -> Result<StageResult, BuildError> {
    let planned = &build.plan.stages[&stage];
    let first = planned.first_step;
    let from = &build.file.stages[stage];
    let in_from = |error| BuildError::in_from(from, error);
    build.tell(BuildEvent::Started { step: first }).await;
    let mut begun = match begin(build, stage).await {
        Ok(begun) => begun,
        Err(error) => return Err(failed(build, first, error, in_from).await),
    };
    let triggers = std::mem::take(&mut begun.state.config.on_build);
    if planned.replaced && !triggers.is_empty() {
        // Nor are they what begins with this stage.
        begun.details.config.on_build.clear();
        begun.image = None;
    }
    let mut runner = Runner {
        build,
        stage,
        index: first,
        now: begun,
        parent: None,
        is_trigger: true,
    };
    if let Base::Image(name) = &planned.base
        && build.request.has_files_named(name)
        && let Err(error) = copy::begin_with_files(&mut runner, name).await
    {
        return Err(failed(build, first, error, in_from).await);
    }
    if planned.may_have_triggers()
        && !triggers.is_empty()
        && let Err(error) = runner.triggers(&triggers).await
    {
        return Err(failed(build, first, error, in_from).await);
    }
    let done = BuildEvent::Done {
        step: first,
        state: runner.now.state_id(),
        cached: false,
    };
    build.tell(done).await;
    if planned.may_have_triggers() {
        build.context_readers.fetch_sub(1, Ordering::SeqCst);
    }
    runner.is_trigger = false;
    for (at, step) in from.steps.iter().enumerate() {
        runner.index = first + 1 + at;
        build.tell(BuildEvent::Started { step: runner.index }).await;
        let cached = match runner.step(step).await {
            Ok(cached) => cached,
            Err(error) => {
                let in_step = |error| BuildError::in_step(step, error);
                return Err(failed(build, runner.index, error, in_step).await);
            }
        };
        if may_read_context(&step.instruction) {
            build.context_readers.fetch_sub(1, Ordering::SeqCst);
        }
        let done = BuildEvent::Done {
            step: runner.index,
            state: runner.now.state_id(),
            cached,
        };
        build.tell(done).await;
    }
    Ok(runner.now)
}

/// The error with its place, told.
async fn failed(
    build: &Build,
    step: usize,
    error: BuildError,
    place: impl FnOnce(BuildError) -> BuildError,
) -> BuildError {
    if matches!(error, BuildError::Cancelled) {
        return error;
    }
    let message = crate::error::full_message(&error);
    build.tell(BuildEvent::Failed { step, message }).await;
    place(error)
}

/// What a stage begins with.
async fn begin(build: &Arc<Build>, stage: usize) -> Result<StageResult, BuildError> {
    let planned = &build.plan.stages[&stage];
    let arguments = build.plan.arguments.for_stage();
    let escape = build.file.escape;
    let step = planned.first_step;
    let mut result = match &planned.base {
        Base::Stage(earlier) => {
            let base = build.stage(*earlier).await?;
            let mut arguments = arguments;
            arguments.inherit(&base.state.arguments);
            StageResult {
                state: StageState::new(
                    base.details.config.clone(),
                    String::new(),
                    arguments,
                    escape,
                ),
                details: base.details.clone(),
                layers: base.layers.clone(),
                image: base.image.clone(),
                container_config: base.container_config.clone(),
            }
        }
        Base::Scratch => empty_stage(build, arguments),
        // Its files come in as the first step.
        Base::Image(name) if build.request.has_files_named(name) => empty_stage(build, arguments),
        Base::Image(name) => {
            let image = build.image(step, name, planned.platform.as_deref()).await?;
            let details = (*image.details).clone();
            StageResult {
                state: StageState::new(details.config.clone(), String::new(), arguments, escape),
                details,
                layers: image.record.layers,
                image: Some(image.id),
                container_config: ImageConfig::default(),
            }
        }
    };
    let env = &mut result.state.config.env;
    if !env.iter().any(|variable| variable.starts_with("PATH=")) {
        env.push(DEFAULT_PATH.to_owned());
    }
    Ok(result)
}

fn empty_stage(build: &Build, arguments: Arguments) -> StageResult {
    StageResult {
        state: StageState::new(
            ImageConfig::default(),
            String::new(),
            arguments,
            build.file.escape,
        ),
        details: ImageDetails {
            platform: build.platform.clone(),
            ..ImageDetails::default()
        },
        layers: Vec::new(),
        image: None,
        container_config: ImageConfig::default(),
    }
}

impl Build {
    /// An image by name, pulled where it is not here (or where the client wants it).
    pub async fn image(
        &self,
        step: usize,
        name: &str,
        platform: Option<&str>,
    ) -> Result<ImageView, BuildError> {
        let images = &self.service.inner.images;
        let written = name;
        let name = match self.request.context_named(name) {
            Some(NamedContext::Image(other)) => other.as_str(),
            _ => name,
        };
        let native = images.platform();
        let wanted = match platform {
            None => None,
            Some(text) => Some(Platform::parse(text).ok_or_else(|| {
                BuildError::Invalid(format!("\"{text}\" is an invalid platform"))
            })?),
        };
        if let Some(wanted) = &wanted
            && native.rank(wanted).is_none()
        {
            return Err(BuildError::Invalid(format!(
                "cannot use an image for {wanted}: this host is {native}, and steps are run natively"
            )));
        }
        let _one = self.pulls.lock().await;
        let reference = Reference::parse(name);
        let may_pull = self.request.pull && reference.is_ok() && Digest::parse(name).is_none();
        if !may_pull {
            match images.inspect(name) {
                Ok(image) => return Ok(image),
                Err(ImageError::Lookup(crate::images::ImageLookupError::NotFound { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let reference = reference.map_err(ImageError::from)?.or_latest();
        let credentials = self.credentials(&reference);
        let (progress, mut messages) = ProgressSink::new();
        let request = PullRequest {
            reference: reference.clone(),
            platform: wanted,
            credentials,
        };
        let pull = async {
            let outcome = images.pull(request, &progress).await;
            drop(progress);
            outcome
        };
        let tell = async {
            while let Some(progress) = messages.recv().await {
                self.tell(BuildEvent::Pulling { step, progress }).await;
            }
        };
        let (outcome, ()) = tokio::join!(pull, tell);
        if let Err(error) = outcome {
            return Err(self.with_hint(error.into(), written));
        }
        Ok(images.inspect(name)?)
    }

    /// Where no image has the name, a stage or a well-known image may nearly have it.
    fn with_hint(&self, error: BuildError, name: &str) -> BuildError {
        let known = needs::stage_names(&self.file).chain(COMMON_IMAGES);
        match nearest::hint(name, known) {
            hint if !hint.is_empty() && error.class() == Class::NotFound => BuildError::Near {
                error: Box::new(error),
                hint,
            },
            _ => error,
        }
    }

    fn credentials(&self, reference: &Reference) -> Option<crate::images::registry::Credentials> {
        let domain = reference.repository.domain();
        let given = &self.request.credentials;
        let plain = |key: &str| {
            let key = key
                .strip_prefix("https://")
                .or(key.strip_prefix("http://"))
                .unwrap_or(key);
            key.split('/').next().unwrap_or(key).to_owned()
        };
        let is_hub = |host: &str| {
            matches!(
                host,
                "docker.io" | "index.docker.io" | "registry-1.docker.io"
            )
        };
        given.get(domain).cloned().or_else(|| {
            given
                .iter()
                .find(|(key, _)| {
                    let host = plain(key);
                    host == domain || (is_hub(domain) && is_hub(&host))
                })
                .map(|(_, credentials)| credentials.clone())
        })
    }
}

impl<'b> Runner<'b> {
    /// Leave to work.
    pub(super) async fn slot(&self) -> Result<SemaphorePermit<'b>, BuildError> {
        let build: &'b Arc<Build> = self.build;
        build
            .slots
            .acquire()
            .await
            .map_err(|_| BuildError::Cancelled)
    }
}

impl Runner<'_> {
    /// The base's `ONBUILD` instructions.
    async fn triggers(&mut self, triggers: &[String]) -> Result<(), BuildError> {
        let many = if triggers.len() > 1 { "s" } else { "" };
        self.say(format!(
            "# Executing {} build trigger{many}\n",
            triggers.len()
        ))
        .await;
        for trigger in triggers {
            let text = format!("FROM scratch\n{trigger}\n");
            let parsed = Dockerfile::parse(text.as_bytes())?;
            let [step] = parsed.stages[0].steps.as_slice() else {
                return Err(BuildError::Invalid(format!(
                    "the base image's trigger {trigger:?} is not one instruction"
                )));
            };
            self.step(step).await?;
        }
        Ok(())
    }

    pub(super) async fn say(&self, text: String) {
        let output = BuildEvent::Output {
            step: self.index,
            of: OutputOf::Stdout,
            bytes: text.into(),
        };
        self.build.tell(output).await;
    }

    /// Does one step; answers whether it was in the cache.
    async fn step(&mut self, step: &Step) -> Result<bool, BuildError> {
        let before = self.state_digest();
        let applied = self.now.state.apply(step)?;
        let Applied {
            created_by,
            command,
            work,
        } = applied;
        match work {
            Work::Nothing => {
                let key = StepKey::of(&before, &created_by, []);
                let found = self.look_up(&key, &created_by).await?;
                let found = found.filter(|found| found.layer.is_none());
                let cached = found.is_some();
                self.done(found, key, created_by, command, None);
                Ok(cached)
            }
            Work::Folder(path) => {
                // Once it was root's, whoever the user was.
                let has_user = !self.now.state.config.user.is_empty();
                let more = has_user.then_some("of the user");
                let key = StepKey::of(&before, &created_by, more);
                if let Some(found) = self.look_up(&key, &created_by).await? {
                    self.done(Some(found), key, created_by, command, None);
                    return Ok(true);
                }
                let _slot = self.slot().await?;
                let layer = copy::make_folder(self, &path).await?;
                self.done(None, key, created_by, command, layer);
                Ok(false)
            }
            Work::Copy(work) => copy::copy(self, before, work).await,
            Work::Run(work) => run::run(self, before, created_by, command, work).await,
        }
    }

    /// Digest of everything that a step finds.
    pub(super) fn state_digest(&self) -> String {
        let facts = (
            &self.now.state.config,
            &self.now.details.diff_ids,
            self.now.details.platform.to_string(),
            &self.now.state.author,
            self.build.source_date.map(OffsetDateTime::unix_timestamp),
        );
        let bytes = serde_json::to_vec(&facts).expect("plain data with text keys");
        hex::encode(Sha256::digest(bytes))
    }

    /// Finds what stands in for a step: in the cache, or in an image that was named for it.
    pub(super) async fn look_up(
        &self,
        key: &StepKey,
        created_by: &str,
    ) -> Result<Option<BuildRecord>, BuildError> {
        let found = match self.build.find(&key.key) {
            Some(found) => Some(found),
            None if self.build.request.no_cache => None,
            None => self.in_named_images(key, created_by),
        };
        let Some(found) = found else { return Ok(None) };
        // A layer that somebody took away is made again.
        if let Some(layer) = &found.layer {
            let layers = &self.build.service.inner.images.backends().layers;
            if layers.find(&layer.record.chain_id).await?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(found))
    }

    /// `--cache-from`: the next step of an image that was made by the same steps so far. Docker's images say of them no
    /// more than the history's lines; where that is not all that a step depends on, the image has to have its key, too.
    fn in_named_images(&self, key: &StepKey, created_by: &str) -> Option<BuildRecord> {
        let images = &self.build.service.inner.images;
        let details = &self.now.details;
        let source_date = self.build.source_date;
        let (steps, layers) = (details.history.len(), details.diff_ids.len());
        self.build.request.cache_from.iter().find_map(|name| {
            let image = images.inspect(name).ok()?;
            let (history, diff_ids) = (&image.details.history, &image.details.diff_ids);
            let next = history.get(steps)?;
            let is_ours = next.created_by == created_by
                && next.cache_key.as_deref() == key.beyond_line()
                && source_date.is_none_or(|date| next.created == Some(date))
                && image.details.platform == details.platform
                && diff_ids.get(..layers)? == details.diff_ids
                && history[..steps]
                    .iter()
                    .zip(&details.history)
                    .all(|(a, b)| a.created_by == b.created_by && a.empty_layer == b.empty_layer);
            if !is_ours {
                return None;
            }
            let layer = match next.empty_layer {
                true => None,
                false => Some(BuildLayer {
                    diff_id: diff_ids.get(layers)?.clone(),
                    record: image.record.layers.get(layers)?.clone(),
                }),
            };
            let now = self.build.service.now();
            Some(BuildRecord {
                created_by: created_by.to_owned(),
                created: next.created?,
                layer,
                parent: None,
                last_used: now,
                used: 1,
            })
        })
    }

    /// The step is done: by what was found, or by what was just made.
    pub(super) fn done(
        &mut self,
        found: Option<BuildRecord>,
        key: StepKey,
        created_by: String,
        command: Vec<String>,
        layer: Option<BuildLayer>,
    ) {
        let is_new = found.is_none();
        let entry = found.unwrap_or_else(|| BuildRecord {
            created_by: created_by.clone(),
            created: self.build.created(),
            layer,
            parent: self.parent.clone(),
            last_used: self.build.service.now(),
            used: 0,
        });
        let now = &mut self.now;
        now.details.created = Some(entry.created);
        now.details.author.clone_from(&now.state.author);
        now.details.comment.clear();
        now.details.docker_version = env!("CARGO_PKG_VERSION").to_owned();
        now.details.config = now.state.config.clone();
        now.details.history.push(HistoryEntry {
            created: Some(entry.created),
            created_by,
            author: now.state.author.clone(),
            comment: String::new(),
            empty_layer: entry.layer.is_none(),
            cache_key: key.beyond_line().map(str::to_owned),
        });
        if let Some(layer) = &entry.layer {
            now.details.diff_ids.push(layer.diff_id.clone());
            now.layers.push(layer.record.clone());
        }
        now.image = None;
        now.container_config = ImageConfig {
            cmd: Some(command),
            ..now.state.config.clone()
        };
        if is_new || self.build.find(&key.key).is_none() {
            self.build.remember(key.key.clone(), entry.clone());
        }
        if let Some(quick) = key.quick
            && self.build.find(&quick).is_none()
        {
            self.build.remember(quick, entry);
        }
        self.parent = Some(key.key);
    }

    /// Whether nobody but this step reads the context any more.
    pub(super) fn is_last_reader(&self) -> bool {
        !self.is_trigger
            && self.build.request.context.is_some()
            && self.build.context_readers.load(Ordering::SeqCst) == 1
    }

    /// Puts what a step has made on top of the stage's layers; `None` where that is nothing.
    pub(super) async fn add_layer(
        &self,
        made: MadeLayer,
    ) -> Result<Option<BuildLayer>, BuildError> {
        let mut details = ImageDetails {
            diff_ids: self.now.details.diff_ids.clone(),
            ..ImageDetails::default()
        };
        let mut layers = self.now.layers.clone();
        let images = &self.build.service.inner.images;
        let added = match made {
            MadeLayer::Draft(draft) => images.add_draft(&mut details, &mut layers, draft).await?,
            MadeLayer::Tar(tar) => images.add_layer(&mut details, &mut layers, tar).await?,
        };
        if !added {
            return Ok(None);
        }
        Ok(details
            .diff_ids
            .pop()
            .zip(layers.pop())
            .map(|(diff_id, record)| BuildLayer { diff_id, record }))
    }
}

impl StepKey {
    /// From the digest of the state before, the history line, and whatever else the step depends on.
    pub(super) fn of<'a>(
        before: &str,
        created_by: &str,
        more: impl IntoIterator<Item = &'a str>,
    ) -> StepKey {
        let mut hash = Sha256::new();
        let mut field = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        field("1");
        field(before);
        field(created_by);
        let mut is_beyond_line = false;
        for more in more {
            is_beyond_line = true;
            field(more);
        }
        StepKey {
            key: hex::encode(hash.finalize()),
            quick: None,
            is_beyond_line,
        }
    }

    /// The key, where the history line does not stand for it.
    fn beyond_line(&self) -> Option<&str> {
        self.is_beyond_line.then_some(&self.key)
    }
}
