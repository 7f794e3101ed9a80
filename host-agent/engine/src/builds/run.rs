//! `RUN`: a container for one step, whose changes become a layer.

use super::copy::Named;
use super::error::BuildError;
use super::event::{BuildEvent, OutputOf};
use super::files::CopyFrom;
use super::mount::{Mount, MountKind};
use super::request::RemoveContainers;
use super::runner::{MadeLayer, Runner, StepKey};
use super::service::{Build, STEP_LABEL, locked};
use super::stage_state::{RunNetwork, RunWork};
use crate::containers::mounts;
use crate::containers::remove::RemoveOptions;
use crate::containers::spec::{
    BuildStep, Config, CreateRequest, HiddenEnv, HostSettings, LogSettings, MountKind as PointKind,
    MountPoint, NetworkChoice,
};
use crate::containers::wait::WaitCondition;
use crate::error::full_message;
use crate::images::config::digest_of;
use crate::images::records::BuildLayer;
use crate::images::{BorrowedRoot, Image, ImageConfig};
use crate::runtime::StreamKind;
use std::any::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What the mounts of a step need and bring.
#[derive(Default)]
struct Mounts {
    points: Vec<MountPoint>,
    env: Vec<String>,
    hidden_env: HiddenEnv,
    /// target -> options
    tmpfs: BTreeMap<String, String>,
    /// Held until the step is over.
    held: Vec<Box<dyn Any + Send + Sync>>,
}

/// Kills and removes a step's container, unless it is to stay.
struct StepContainer {
    build: Arc<Build>,
    id: String,
    keep: bool,
}

impl Drop for StepContainer {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let (containers, id) = (self.build.service.inner.containers.clone(), self.id.clone());
        let removal = tokio::spawn(async move {
            let options = RemoveOptions {
                force: true,
                volumes: true,
            };
            if let Err(error) = containers.remove(&id, options).await {
                tracing::warn!(
                    container = id,
                    error = full_message(&error),
                    "a step's container stays behind"
                );
            }
        });
        locked(&self.build.removals).push(removal);
    }
}

/// Does a `RUN`; answers whether it was in the cache.
pub(super) async fn run(
    runner: &mut Runner<'_>,
    before: String,
    created_by: String,
    command: Vec<String>,
    work: RunWork,
) -> Result<bool, BuildError> {
    let network = network(runner, &work);
    let mut reads = Vec::new();
    if network != NetworkChoice::Bridge {
        reads.push(format!("network {}", network.text()));
    }
    let hosts = runner.build.request.extra_hosts.iter();
    reads.extend(hosts.map(|host| format!("host {host}")));
    if let Some((name, content)) = &work.script {
        reads.push(format!("script {name} {content}"));
    }
    for mount in &work.mounts {
        reads.push(reads_of(runner, mount).await?);
    }
    let key = StepKey::of(&before, &created_by, reads.iter().map(String::as_str));
    if let Some(found) = runner.look_up(&key, &created_by).await? {
        runner.done(Some(found), key, created_by, command, None);
        return Ok(true);
    }
    // Waits for locked caches before it takes a place.
    let mounts = make_mounts(runner, &work).await?;
    let slot = runner.slot().await?;
    let layer = execute(runner, &work, mounts).await?;
    drop(slot);
    runner.done(None, key, created_by, command, layer);
    Ok(false)
}

/// What a mount brings into the step, for its key. Secrets, sockets and caches do not count.
async fn reads_of(runner: &Runner<'_>, mount: &Mount) -> Result<String, BuildError> {
    let about = format!("{} {}", mount.target, mount.read_only);
    Ok(match &mount.kind {
        MountKind::Bind { from, source } => {
            let named = match from {
                Some(name) => Some(runner.named(name).await?),
                None => None,
            };
            let identity = named.as_ref().and_then(|named| named.identity());
            if let Some(identity) = identity {
                return Ok(format!("bind {about} {source} {identity}"));
            }
            let tree = match named {
                Some(named) => runner.open(named).await?,
                None => runner.context().await?,
            };
            let what = CopyFrom {
                sources: vec![escaped_source(source)],
                ..CopyFrom::default()
            };
            let files = &runner.build.service.inner.files;
            let selection = files.select(tree, what).await?;
            format!("bind {about} {source} {}", selection.digest)
        }
        MountKind::Cache { id, .. } => format!("cache {about} {id}"),
        MountKind::Tmpfs { .. } => format!("tmpfs {about}"),
        MountKind::Secret { id, variable, .. } => format!("secret {about} {id} {variable:?}"),
        MountKind::Ssh { id, .. } => format!("ssh {about} {id}"),
    })
}

/// A mount's source is one path and no pattern; as with BuildKit, nothing is above the files it is of.
fn escaped_source(source: &str) -> String {
    let mut path = String::new();
    for character in inside(source).chars() {
        if "*?[\\".contains(character) {
            path.push('\\');
        }
        path.push(character);
    }
    if path.is_empty() {
        ".".to_owned()
    } else {
        path
    }
}

/// The path as one in some files: `..` leads to their root and no further.
fn inside(path: &str) -> String {
    super::ignore::clean(&format!("/{path}"))
}

fn point(target: String, source: PathBuf, subpath: &str, writable: bool) -> MountPoint {
    let mut point = mounts::plain(PointKind::Bind, target);
    point.source = source;
    point.subpath = inside(subpath);
    point.read_write = writable;
    point
}

/// Whether what a step writes into files goes to a layer of nobody's, and away. Contexts are folders that every step reads.
fn is_written_apart(files: Option<&Named>) -> bool {
    matches!(files, Some(Named::Layers { .. }))
}

async fn make_mounts(runner: &Runner<'_>, work: &RunWork) -> Result<Mounts, BuildError> {
    let build = runner.build;
    let files = &build.service.inner.files;
    let workdir = &runner.now.state.config.working_directory;
    let absolute = |target: &str| match target.starts_with('/') {
        true => mounts::clean(target),
        false => mounts::clean(&format!("/{workdir}/{target}")),
    };
    let mut all = Mounts::default();
    let mut sockets = 0;
    let contents = contents(runner, &work.mounts).await?;
    let wanted = work.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Cache { id, sharing, .. } => Some((id.as_str(), *sharing)),
        _ => None,
    });
    let caches = build.service.inner.mounts.hold(wanted).await;
    if !caches.is_empty() {
        build.has_mounted_caches.store(true, Ordering::Relaxed);
    }
    for mount in &work.mounts {
        let target = absolute(&mount.target);
        if target == "/" && !matches!(mount.kind, MountKind::Secret { .. } | MountKind::Ssh { .. })
        {
            return Err(BuildError::Invalid("invalid mount target \"/\"".into()));
        }
        match &mount.kind {
            MountKind::Bind { from, source } => {
                let named = match from {
                    Some(name) => Some(runner.named(name).await?),
                    None => None,
                };
                let is_private = mount.read_only || is_written_apart(named.as_ref());
                let tree = match named {
                    Some(named) => runner.open(named).await?,
                    None => runner.context().await?,
                };
                let tree = match is_private {
                    true => tree,
                    // A context is everybody's: the step gets its own copy.
                    false => {
                        let what = CopyFrom {
                            sources: vec![".".to_owned()],
                            ..CopyFrom::default()
                        };
                        let copy = Arc::new(files.new_folder().await?);
                        let selection = files.select(tree.clone(), what).await?;
                        let part = super::files::FillPart {
                            tree,
                            selection,
                            form: Default::default(),
                            take: false,
                        };
                        files.fill(&copy.path, None, vec![part]).await?;
                        copy
                    }
                };
                all.points
                    .push(point(target, tree.path.clone(), source, !mount.read_only));
                all.held.push(Box::new(tree));
            }
            MountKind::Cache {
                id, mode, uid, gid, ..
            } => {
                let content = contents.get(&mount.target).cloned().flatten();
                let name = caches.name(id);
                let path = files.cache(name, content, *mode, (*uid, *gid)).await?;
                all.points.push(point(target, path, "", !mount.read_only));
            }
            MountKind::Tmpfs { size } => {
                let options = size.map_or_else(String::new, |size| format!("size={size}"));
                all.tmpfs.insert(target, options);
            }
            MountKind::Secret {
                id,
                variable,
                required,
                mode,
                uid,
                gid,
            } => {
                let Some(secret) = build.request.secrets.get(id) else {
                    if *required {
                        return Err(BuildError::Invalid(format!("secret {id}: not found")));
                    }
                    continue;
                };
                if let Some(variable) = variable {
                    let text = std::str::from_utf8(&secret.0).ok();
                    let Some(text) = text.filter(|text| !text.contains('\0')) else {
                        return Err(BuildError::Invalid(format!(
                            "secret {id} is no text and cannot be a variable"
                        )));
                    };
                    all.hidden_env.0.push(format!("{variable}={text}"));
                    if mount.target.is_empty() {
                        continue;
                    }
                }
                let target = match mount.target.as_str() {
                    "" => format!("/run/secrets/{id}"),
                    _ => target,
                };
                let file = files.secret(secret.0.clone(), *mode, (*uid, *gid)).await?;
                all.points.push(point(target, file.path.clone(), "", false));
                all.held.push(Box::new(file));
            }
            MountKind::Ssh {
                id,
                required,
                mode,
                uid,
                gid,
            } => {
                let Some(agent) = build.request.ssh.get(id) else {
                    if *required {
                        return Err(BuildError::Invalid(format!("ssh agent {id}: not found")));
                    }
                    continue;
                };
                let target = match mount.target.as_str() {
                    "" => format!("/run/buildkit/ssh_agent.{sockets}"),
                    _ => target,
                };
                if sockets == 0 {
                    all.env.push(format!("SSH_AUTH_SOCK={target}"));
                }
                sockets += 1;
                let socket =
                    agent
                        .socket(*mode, (*uid, *gid))
                        .map_err(|source| BuildError::SshAgent {
                            id: id.clone(),
                            source,
                        })?;
                all.points
                    .push(point(target, socket.path.clone(), "", true));
                all.held.push(Box::new(socket));
            }
        }
    }
    if let Some((name, content)) = &work.script {
        let file = files
            .secret(content.clone().into_bytes(), 0o755, (0, 0))
            .await?;
        let target = format!("/dev/pipes/{name}");
        all.points.push(point(target, file.path.clone(), "", false));
        all.held.push(Box::new(file));
    }
    all.held.push(Box::new(caches));
    Ok(all)
}

/// Files that a cache mount begins with, and the folder of them.
type Content = Option<(Arc<BorrowedRoot>, String)>;

/// Opens what the cache mounts of a step begin with, by target. That may take until another stage is done, so that it comes
/// before the locks: that stage may want them, too.
async fn contents(
    runner: &Runner<'_>,
    mounts: &[Mount],
) -> Result<BTreeMap<String, Content>, BuildError> {
    let mut contents = BTreeMap::new();
    for mount in mounts {
        let MountKind::Cache { from, source, .. } = &mount.kind else {
            continue;
        };
        let content = match from {
            Some(name) => {
                let tree = runner.open(runner.named(name).await?).await?;
                Some((tree, source.clone()))
            }
            None => None,
        };
        contents.insert(mount.target.clone(), content);
    }
    Ok(contents)
}

async fn execute(
    runner: &Runner<'_>,
    work: &RunWork,
    mut mounts: Mounts,
) -> Result<Option<BuildLayer>, BuildError> {
    let build = runner.build;
    let containers = &build.service.inner.containers;
    let files = &build.service.inner.files;
    // Places that the step does not have yet, which must not become part of the layer.
    let mut targets: Vec<String> = mounts
        .points
        .iter()
        .map(|point| point.destination.clone())
        .collect();
    targets.extend(mounts.tmpfs.keys().cloned());
    targets.retain(|target| !target.starts_with("/dev/"));
    let missing = match targets.is_empty() {
        true => Vec::new(),
        false => files.missing(runner.own_files().await?, targets).await?,
    };
    // What a step has done with a secret is nobody's to look at, or to commit.
    let has_secrets = work.mounts.iter().any(|mount| {
        matches!(&mount.kind, MountKind::Secret { id, .. } if build.request.secrets.contains_key(id))
    });
    let request = request(runner, work, &mut mounts);
    let created = containers.create(request).await?;
    let id = created.id.to_string();
    for text in created.warnings {
        let step = Some(runner.index);
        build.tell(BuildEvent::Warning { step, text }).await;
    }
    let mut own = StepContainer {
        build: build.clone(),
        id: id.clone(),
        keep: false,
    };
    build
        .tell(BuildEvent::Running {
            step: runner.index,
            container: id.clone(),
        })
        .await;
    let container = containers.find(&id)?;
    let (_, mut output) = container.hub.run().subscribe(true, true);
    let ended = containers.wait(&id, WaitCondition::NextExit)?;
    if let Err(error) = containers.start(&id).await {
        return Err(error.into());
    }
    while let Some((kind, bytes)) = output.recv().await {
        let of = match kind {
            StreamKind::Stdout => OutputOf::Stdout,
            StreamKind::Stderr => OutputOf::Stderr,
        };
        let step = runner.index;
        build.tell(BuildEvent::Output { step, of, bytes }).await;
    }
    let answer = ended.done().await;
    if !answer.error.is_empty() {
        return Err(BuildError::Invalid(answer.error));
    }
    if answer.exit_code != 0 {
        own.keep = build.request.remove != RemoveContainers::Always && !has_secrets;
        return Err(BuildError::Exit {
            command: work.args.join(" "),
            code: i64::from(answer.exit_code),
        });
    }
    let layers = build.layers();
    if !missing.is_empty() {
        let root = layers.borrow(&container.id, runner.now.top()).await?;
        files.remove_missing(Arc::new(root), missing).await?;
    }
    own.keep = build.request.remove == RemoveContainers::Never && !has_secrets;
    let made = match own.keep {
        // The container keeps its files.
        true => {
            if let Some(date) = build.source_date {
                let folders = layers.folders(&container.id, runner.now.top());
                if let Some(upper) = folders.get("UpperDir") {
                    let latest = date.unix_timestamp();
                    files.clamp_times(upper.into(), latest).await?;
                }
            }
            MadeLayer::Tar(layers.diff(&container.id, runner.now.top()).await?)
        }
        false => {
            let store = &build.service.inner.images.backends().layers;
            let draft = store.draft_of(&container.id, runner.now.top()).await?;
            if let Some(date) = build.source_date {
                let latest = date.unix_timestamp();
                files.clamp_times(draft.folder().into(), latest).await?;
            }
            MadeLayer::Draft(draft)
        }
    };
    let layer = runner.add_layer(made).await?;
    if !own.keep {
        build
            .tell(BuildEvent::Removed {
                step: runner.index,
                container: id,
            })
            .await;
    }
    drop(own);
    Ok(layer)
}

fn network(runner: &Runner<'_>, work: &RunWork) -> NetworkChoice {
    match work.network {
        RunNetwork::Default => runner.build.request.network.clone(),
        RunNetwork::None => NetworkChoice::None,
        RunNetwork::Host => NetworkChoice::Host,
    }
}

fn request(runner: &Runner<'_>, work: &RunWork, mounts: &mut Mounts) -> CreateRequest {
    let asked = &runner.build.request;
    let config = &runner.now.state.config;
    let state = match runner.now.state_id() {
        Some(state) => state,
        None => digest_of(b""),
    };
    let mut env = work.env.clone();
    env.append(&mut mounts.env);
    let details = &runner.now.details;
    let image = Image {
        id: state.clone(),
        config: ImageConfig::default(),
        top_layer: runner.now.top().cloned(),
        os: details.platform.os.clone(),
        architecture: details.platform.architecture.clone(),
        created: details.created,
    };
    let mut labels = config.labels.clone();
    labels.insert(STEP_LABEL.to_owned(), runner.index.to_string());
    CreateRequest {
        config: Config {
            image: state.to_string(),
            user: config.user.clone(),
            working_directory: config.working_directory.clone(),
            env,
            cmd: Some(work.args.clone()),
            labels,
            stop_signal: config.stop_signal.clone(),
            ..Config::default()
        },
        host: HostSettings {
            network: network(runner, work),
            tmpfs: std::mem::take(&mut mounts.tmpfs),
            log: LogSettings {
                driver: "none".into(),
                ..LogSettings::default()
            },
            shm_size: asked.shm_size,
            resources: asked.resources.clone(),
            cgroup_parent: asked.cgroup_parent.clone(),
            extra_hosts: asked.extra_hosts.clone(),
            ulimits: asked.ulimits.clone(),
            security: asked.security.clone(),
            ..HostSettings::default()
        },
        step: Some(BuildStep {
            image,
            mounts: std::mem::take(&mut mounts.points),
            hidden_env: std::mem::take(&mut mounts.hidden_env),
        }),
        ..CreateRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_mounts_stay_in_their_files() {
        for (source, path) in [
            ("", "."),
            ("../..", "."),
            ("../a*", "a\\*"),
            ("a/../../b", "b"),
            ("/a/", "a"),
        ] {
            assert_eq!(escaped_source(source), path, "{source}");
        }
        assert_eq!(
            point("/t".into(), "/s".into(), "../../x", false).subpath,
            "x"
        );
    }

    #[test]
    fn only_layers_may_be_written_to() {
        let folder = std::sync::Arc::new(BorrowedRoot::new("/f".into(), ()));
        assert!(is_written_apart(Some(&Named::Layers { top: None })));
        assert!(!is_written_apart(Some(&Named::Files(folder))));
        assert!(!is_written_apart(None));
    }
}
