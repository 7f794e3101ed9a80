//! Docker's Engine API as data: the versions of it, the small query language of its `filters`, and wire types where the
//! generated ones (`bollard-stubs`) do not fit. No I/O.

pub mod containers;
pub mod filters;
pub mod version;

pub use filters::Filters;
pub use version::ApiVersion;
