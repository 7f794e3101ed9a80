//! What end-to-end tests and benchmarks stand on: engines, machines and clients that clean up after themselves.

pub mod agent;
pub mod dockerd;
pub mod http;
pub mod image;
pub mod listeners;
pub mod machine;
pub mod namespace;
pub mod programs;
pub mod registry;
pub mod run;
pub mod terminal;
