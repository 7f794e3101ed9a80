//! One verb per file.

pub mod build;
pub mod inspect;
