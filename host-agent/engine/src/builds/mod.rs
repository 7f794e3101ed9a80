//! Building images from Dockerfiles. The text itself is read by the crate `dockerfile`.

pub mod cache;
mod caches;
pub mod classic;
mod contexts;
mod copy;
pub mod error;
pub mod event;
pub mod fake;
pub mod files;
mod lint;
pub mod plan;
pub mod request;
mod root;
mod run;
mod runner;
pub mod service;
pub mod sources;
pub mod stage_state;
mod trim;

pub use ::dockerfile::{Dockerfile, DockerfileError};
pub use ::dockerfile::{
    arguments, duration, file as dockerfile, ignore, instruction, mode, mount, nearest, needs,
    pattern, words,
};
pub use error::BuildError;
pub use event::{BuildEvent, BuildSink};
pub use request::{BuildOutcome, BuildRequest};
pub use service::{BuildBackends, BuildOptions, BuildService};
