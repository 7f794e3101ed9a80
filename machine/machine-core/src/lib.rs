//! The machine side's domain: the store, the driver contract and the use cases behind the verbs of `machine`.

pub mod driver;
