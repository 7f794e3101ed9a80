//! Every error of the engine has a class; one file of `agent-server` maps the class to an HTTP status.

/// What kind of trouble an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The request makes no sense (400).
    Invalid,
    /// The named thing is not there (404).
    NotFound,
    /// It clashes with the state of things (409).
    Conflict,
    /// Nothing to do: it is so already (304).
    NotModified,
    /// A rule or missing credentials forbid it (403).
    Denied,
    /// Credentials are missing or wrong (401).
    Unauthorized,
    /// We or this host cannot do it (501).
    Unsupported,
    /// Somebody we depend on does not answer (503).
    Unavailable,
    /// Our own fault, or the host's (500).
    Internal,
}

/// Implemented by every error of the engine, by an exhaustive match.
pub trait Classify: std::error::Error {
    fn class(&self) -> Class;
}

impl Classify for engine_api::filters::FilterError {
    fn class(&self) -> Class {
        Class::Invalid
    }
}

/// The error's message followed by those of its sources, each once, joined by `: `.
pub fn full_message(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let next = inner.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = inner.source();
    }
    text
}
