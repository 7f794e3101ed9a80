//! Building images from Dockerfiles. The text itself is read by the crate `dockerfile`.

pub mod files;
pub mod stage_state;

pub use ::dockerfile::{Dockerfile, DockerfileError};
pub use ::dockerfile::{
    arguments, duration, file as dockerfile, ignore, instruction, mount, pattern, words,
};
