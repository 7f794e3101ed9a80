//! Between the wire's shapes and the domain's; nothing else knows both.

pub mod builds;
pub mod container_files;
pub mod container_list;
pub mod container_views;
pub mod containers;
pub mod images;
pub mod stats;
