//! Archives: reading strangers' tars, and the streams they come in.

pub mod decode;
pub mod tar;
