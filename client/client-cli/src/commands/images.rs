//! `berth images`

use crate::engine::{Engine, query};
use crate::{parse, show};
use anyhow::Result;
use serde_json::{Value, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// All images, intermediate ones too
    #[arg(short, long)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// Only those that fit, for example dangling=true
    #[arg(short, long)]
    filter: Vec<String>,
    /// Show by a Go template: 'table ...', 'json' or a template a line
    #[arg(long)]
    format: Option<String>,
    /// Only images of this name
    repository: Option<String>,
}

const HEADINGS: [(&str, &str); 7] = [
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
];

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let mut filters = options.filter.clone();
    filters.extend(
        options
            .repository
            .iter()
            .map(|name| format!("reference={name}")),
    );
    let query = query(&[
        ("all", options.all.to_string()),
        ("filters", parse::filters(&filters)?),
    ]);
    let images = engine.get(&format!("/images/json{query}")).await?;
    let mut rows = Vec::new();
    for image in images.as_array().into_iter().flatten() {
        rows.extend(rows_of(image, options));
    }
    let quiet = "{{.ID}}";
    let plain = "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
    let digests =
        "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}";
    let default = if options.quiet {
        quiet
    } else if options.digests {
        digests
    } else {
        plain
    };
    show::rows(&rows, options.format.as_deref(), default, &HEADINGS)?;
    Ok(0)
}

/// A row a name; an image without names has one row of `<none>`.
fn rows_of(image: &Value, options: &Options) -> Vec<Value> {
    let list = |key: &str| -> Vec<&str> {
        let names = image[key]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        names.filter(|name| !name.starts_with("<none>")).collect()
    };
    let (tags, digests) = (list("RepoTags"), list("RepoDigests"));
    let digest_of = |repository: &str| {
        let found = digests
            .iter()
            .filter_map(|name| name.split_once('@'))
            .find(|(name, _)| *name == repository);
        found.map_or("<none>", |(_, digest)| digest).to_owned()
    };
    let created = image["Created"].as_i64().unwrap_or_default();
    let row = |repository: &str, tag: &str| {
        json!({
            "Repository": repository,
            "Tag": tag,
            "Digest": digest_of(repository),
            "ID": show::id(image["Id"].as_str().unwrap_or_default(), options.no_trunc),
            "CreatedSince": show::ago(created),
            "CreatedAt": created,
            "Size": show::size(image["Size"].as_i64().unwrap_or_default()),
        })
    };
    if tags.is_empty() {
        let repository = digests
            .first()
            .and_then(|name| name.split_once('@'))
            .map_or("<none>", |(name, _)| name);
        return vec![row(repository, "<none>")];
    }
    let mut rows: Vec<Value> = tags
        .iter()
        .map(|name| {
            let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "<none>"));
            row(repository, tag)
        })
        .collect();
    if options.quiet {
        rows.truncate(1);
    }
    rows
}
