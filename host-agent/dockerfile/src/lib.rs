//! Dockerfiles as text: instructions, words and their variables, build arguments, `.dockerignore`. What the engine does
//! with them is the engine's; `berth` reads them too, to send only what a build needs.

pub mod arguments;
pub mod duration;
pub mod fields;
pub mod file;
mod here;
pub mod ignore;
pub mod instruction;
pub mod mode;
pub mod mount;
pub mod nearest;
pub mod needs;
pub mod pairs;
pub mod pattern;
pub mod words;

pub use file::{Dockerfile, DockerfileError};
