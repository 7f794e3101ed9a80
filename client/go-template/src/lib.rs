//! Go's text/template, as far as `--format '{{...}}'` of docker and docker-machine goes, over JSON values.
//!
//! ```text
//! text --lexer--> tokens --parse--> nodes --evaluate(with a JSON value)--> text
//! ```
//!
//! Supported: text, fields, variables, pipelines, `if`/`else if`/`else`, `range` (with `break`, `continue`, `else`),
//! `with`, comments, trim markers, Go's built-in functions and docker's (`json`, `join`, `split`, ...). Not supported,
//! with a clear error: `define`, `template`, `block`.
//!
//! JSON has no types, Go has: an object all of whose keys are exported Go names (`ID`, `HostConfig`) is treated as a
//! struct, where an unknown field is an error; any other object is a map, where a missing key prints `<no value>`.

mod evaluate;
mod functions;
mod lexer;
mod parse;
mod print;
mod printf;
pub mod table;

use serde_json::Value;

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    nodes: Vec<parse::Node>,
}

/// Why a template could not be parsed or run. The texts follow Go's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("template parsing error: template: :{line}: {why}")]
    Parse { line: usize, why: String },
    #[error("template: :{line}: executing \"\" at <{at}>: {why}")]
    Execute {
        line: usize,
        at: String,
        why: String,
    },
}

/// Bounds the work of one rendering: nested loops over hostile input end.
const MAX_OUTPUT_BYTES: usize = 16 * 1024 * 1024;
/// Longest loop over a number.
const MAX_COUNT: u64 = 100_000;
/// Deepest nesting of blocks and parentheses.
const MAX_DEPTH: usize = 100;

impl Template {
    /// Parses the text.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        Ok(Template {
            nodes: parse::parse(text)?,
        })
    }

    /// Runs the template with `value` as dot.
    pub fn render(&self, value: &Value) -> Result<String, TemplateError> {
        evaluate::render(&self.nodes, value)
    }
}

/// Parses and runs in one go.
pub fn render(text: &str, value: &Value) -> Result<String, TemplateError> {
    Template::parse(text)?.render(value)
}

#[cfg(test)]
mod tests;
