//! Building images from Dockerfiles.

pub mod arguments;
pub mod dockerfile;
pub mod duration;
pub mod files;
mod here;
pub mod ignore;
pub mod instruction;
pub mod mount;
mod pairs;
pub mod pattern;
pub mod stage_state;
pub mod words;

pub use dockerfile::{Dockerfile, DockerfileError};
