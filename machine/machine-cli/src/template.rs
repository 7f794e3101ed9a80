//! `--format`: Go templates over JSON values.

use crate::failure::Failure;
use go_template::TemplateError;
use serde_json::Value;

/// Renders one value.
pub(crate) fn render(template: &str, value: &Value) -> Result<String, Failure> {
    go_template::render(template, value).map_err(|error| failure(template, &error))
}

pub(crate) fn failure(template: &str, error: &TemplateError) -> Failure {
    Failure::new(
        format!("cannot use the format {template:?}: {error}"),
        "a format is a Go template, for example {{.Name}}",
    )
}
