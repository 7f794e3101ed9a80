//! Docker's Engine API as data: the versions of it, the small query language of its `filters`, and the bodies of
//! requests, as lenient as Docker's. Answers are put together in `agent-server`'s `translate`, every key filled: generated
//! models leave out what is empty, and clients index it. No I/O.

pub mod builds;
pub mod containers;
pub mod filters;
pub mod version;

pub use filters::Filters;
pub use version::ApiVersion;
