//! Warnings about a Dockerfile, by BuildKit's names (`docker build --check`).

use super::Dockerfile;
use super::event::Finding;
use super::plan::Plan;

/// What the rules find, in the order of lines.
pub(super) fn check(_file: &Dockerfile, _text: &str, _plan: &Plan) -> Vec<Finding> {
    Vec::new()
}
