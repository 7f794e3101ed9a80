//! `berth commit`

use crate::engine::{Engine, query};
use anyhow::{Context, Result};
use serde_json::Value;

#[derive(clap::Args)]
#[command(
    after_help = "The new image is the container's image with one layer more: what 'berth diff' shows. Volumes are not in it.

Examples:
  berth commit web me/web:fixed
  berth commit -c 'CMD [\"nginx\", \"-g\", \"daemon off;\"]' -c 'EXPOSE 8080' web me/web"
)]
pub(crate) struct Options {
    /// Who made it
    #[arg(short, long, default_value = "")]
    author: String,
    /// Dockerfile instruction to apply: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long)]
    change: Vec<String>,
    /// What was done
    #[arg(short, long, default_value = "")]
    message: String,
    /// Pause the container meanwhile; --pause=false lets it run on
    #[arg(short, long, default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pause: bool,
    container: String,
    /// NAME[:TAG] of the image
    name: Option<String>,
}

/// Name and tag; the tag is empty where none is given.
pub(super) fn name_and_tag(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        // The colon of a registry's port.
        Some((_, behind)) if behind.contains('/') => (name, ""),
        Some((name, tag)) => (name, tag),
        None => (name, ""),
    }
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let (name, tag) = name_and_tag(options.name.as_deref().unwrap_or_default());
    let mut pairs = vec![
        ("container", options.container.clone()),
        ("repo", name.to_owned()),
        ("tag", tag.to_owned()),
        ("author", options.author.clone()),
        ("comment", options.message.clone()),
        ("pause", options.pause.to_string()),
    ];
    pairs.extend(
        options
            .change
            .iter()
            .map(|change| ("changes", change.clone())),
    );
    let made = engine
        .post(&format!("/commit{}", query(&pairs)), Some(&Value::Null))
        .await?;
    let id = made["Id"].as_str().context("the engine gave no id")?;
    crate::show::print(&format!("{id}\n"))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::name_and_tag;

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(name_and_tag("me/web:v1"), ("me/web", "v1"));
        assert_eq!(name_and_tag("host:5000/web"), ("host:5000/web", ""));
        assert_eq!(name_and_tag("host:5000/web:v1"), ("host:5000/web", "v1"));
        assert_eq!(name_and_tag("web"), ("web", ""));
    }
}
