//! The traits of `engine` made real on Linux. The only crate with `unsafe`.

pub mod shim;
