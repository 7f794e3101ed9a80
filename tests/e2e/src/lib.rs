//! The judges: test suites that others wrote for Docker, run as they are against our engine, and against Docker's own to
//! record what is expected.
//!
//! ```text
//! recorded outcomes (tests/e2e/compat/*.recorded.toml)   <- cargo xtask compat record: the suite on a private dockerd
//!         |  what passed there ...
//!         v
//! suite in an arena (own network, registry, engine)      -> outcomes here
//!         |  ... passes here, but for what
//!         v
//! exceptions with reasons (*.exceptions.toml)            -> verdict
//! ```

pub mod arena;
pub mod bollard;
pub mod docker_py;
pub mod fixtures;
pub mod judge;
pub mod outcomes;
pub mod python;
pub mod reaper;
pub mod shapes;
pub mod version_proxy;
