//! `docker commit`: an image of what a container has become.

use super::container::{Command, Container};
use super::error::ContainerError;
use super::lifecycle::ContainerState;
use super::service::ContainerService;
use super::spec::Config;
use super::{etc_files, merge};
use crate::images::config::{ContainerSide, MadeOf};
use crate::images::make::NewImage;
use crate::images::{Digest, ImageConfig, ImageService, Reference, instructions};
use std::sync::Arc;

/// What the client wants.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    /// Instead of the container's own settings; what it leaves open comes from them.
    pub config: Option<Config>,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    pub name: Option<Reference>,
    pub author: String,
    pub comment: String,
    /// A running container is paused meanwhile.
    pub pause: bool,
}

impl ContainerService {
    /// Makes an image of a container; returns its id. Once begun, it goes to its end even where the client goes away: a
    /// container must not stay paused.
    pub async fn commit(
        self: &Arc<Self>,
        asked: &str,
        request: CommitRequest,
        images: &ImageService,
    ) -> Result<Digest, ContainerError> {
        let (this, asked, images) = (self.clone(), asked.to_owned(), images.clone());
        let work = async move { this.commit_now(&asked, request, &images).await };
        tokio::spawn(work)
            .await
            .map_err(|error| ContainerError::storage("make an image", error))?
    }

    async fn commit_now(
        &self,
        asked: &str,
        request: CommitRequest,
        images: &ImageService,
    ) -> Result<Digest, ContainerError> {
        let container = self.find(asked)?;
        let refuse = |what: &str| ContainerError::Conflict {
            why: format!(
                "You cannot commit container {} which is {what}",
                container.id
            ),
        };
        let state = container.status().state;
        match &state {
            ContainerState::Dead { .. } => return Err(refuse("Dead")),
            ContainerState::Removing => return Err(refuse("being removed")),
            _ => {}
        }
        let own = &container.spec.config;
        let side = container_side_of(own, &container);
        let container_config = image_config(own);
        let mut config = match request.config {
            None => container_config.clone(),
            Some(config) => image_config(&config),
        };
        instructions::change(&mut config, &request.changes)
            .map_err(|error| ContainerError::invalid(error.why))?;
        let config = image_config(&merge::with_image(
            container_side(config),
            &container_config,
        ));
        let is_paused = request.pause
            && matches!(state, ContainerState::Running { .. })
            && container.ask(Command::PauseForCommit).await.is_ok();
        let top_layer = container.spec.top_layer.as_ref();
        let made = match self.deps.layers.diff(&container.id, top_layer).await {
            Ok(content) => {
                let new = NewImage {
                    parent: container.spec.image.clone(),
                    config,
                    side: side.clone(),
                    made_of: MadeOf {
                        container: container.id.to_string(),
                        config: container_config,
                        side,
                    },
                    author: request.author,
                    comment: request.comment.clone(),
                    name: request.name.clone(),
                };
                images
                    .commit(new, content)
                    .await
                    .map_err(|error| ContainerError::MakeImage(Box::new(error)))
            }
            Err(error) => Err(error.into()),
        };
        if is_paused && let Err(error) = container.ask(Command::ResumeAfterCommit).await {
            tracing::warn!(container = %container.id, error = crate::error::full_message(&error), "the container is still paused");
        }
        let id = made?;
        let name = request.name.as_ref().map(Reference::familiar);
        let attributes = [
            ("comment", request.comment),
            ("imageID", id.to_string()),
            ("imageRef", name.unwrap_or_default()),
        ];
        self.deps.tell(&container, "commit", attributes);
        Ok(id)
    }
}

/// The part of a container's settings that says nothing to other containers.
fn container_side_of(config: &Config, container: &Container) -> ContainerSide {
    ContainerSide {
        hostname: etc_files::hostname(&container.spec, container.id.short()),
        domain_name: config.domain_name.clone(),
        attach_stdin: config.attach_stdin,
        attach_stdout: config.attach_stdout,
        attach_stderr: config.attach_stderr,
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        image: config.image.clone(),
    }
}

/// The part of a container's settings that images have.
fn image_config(config: &Config) -> ImageConfig {
    ImageConfig {
        user: config.user.clone(),
        env: config.env.clone(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        working_directory: config.working_directory.clone(),
        exposed_ports: config.exposed_ports.iter().cloned().collect(),
        volumes: config.volumes.iter().cloned().collect(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone(),
        stop_timeout: config.stop_timeout,
        shell: config.shell.clone(),
        healthcheck: config.healthcheck.clone(),
        on_build: config.on_build.clone(),
    }
}

fn container_side(config: ImageConfig) -> Config {
    Config {
        user: config.user,
        env: config.env,
        entrypoint: config.entrypoint,
        cmd: config.cmd,
        working_directory: config.working_directory,
        exposed_ports: config.exposed_ports.into_iter().collect(),
        volumes: config.volumes.into_iter().collect(),
        labels: config.labels,
        stop_signal: config.stop_signal,
        stop_timeout: config.stop_timeout,
        shell: config.shell,
        healthcheck: config.healthcheck,
        on_build: config.on_build,
        ..Config::default()
    }
}
