//! `berth pull`

use crate::engine::{Engine, query};
use crate::show::{self, progress};
use anyhow::Result;
use http::Method;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print only the image's name
    #[arg(short, long)]
    quiet: bool,
    /// Platform to take from an image made for several, for example linux/amd64
    #[arg(long)]
    platform: Option<String>,
    image: String,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let image = with_tag(&options.image);
    download(engine, &image, options.platform.as_deref(), options.quiet).await?;
    show::print(&format!("{image}\n"))?;
    Ok(0)
}

/// Downloads an image and shows the progress.
pub(crate) async fn download(
    engine: &Engine,
    image: &str,
    platform: Option<&str>,
    quiet: bool,
) -> Result<()> {
    let mut pairs = vec![("fromImage", image.to_owned())];
    pairs.extend(platform.map(|platform| ("platform", platform.to_owned())));
    let headers: Vec<(&str, String)> = registry_auth(image)
        .map(|auth| ("x-registry-auth", auth))
        .into_iter()
        .collect();
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let body = engine
        .stream(
            Method::POST,
            &format!("/images/create{}", query(&pairs)),
            &headers,
        )
        .await?;
    progress::show(body, quiet).await
}

/// Without tag and digest it is the tag `latest`; the engine would take all tags.
pub(crate) fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || image.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

/// What docker's own configuration file holds for the image's registry, as the header wants it.
fn registry_auth(image: &str) -> Option<String> {
    use base64::Engine as _;
    let folder = match std::env::var_os("DOCKER_CONFIG") {
        Some(folder) => std::path::PathBuf::from(folder),
        None => std::path::PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    let text = std::fs::read_to_string(folder.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    let first = image.split_once('/').map(|(first, _)| first);
    let registry = first.filter(|first| first.contains(['.', ':']) || *first == "localhost");
    let entry = config["auths"].get(registry.unwrap_or("https://index.docker.io/v1/"))?;
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(entry["auth"].as_str()?)
        .ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (user, password) = decoded.split_once(':')?;
    let auth =
        serde_json::json!({ "username": user, "password": password, "serveraddress": registry });
    Some(base64::engine::general_purpose::URL_SAFE.encode(auth.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_a_tag() {
        assert_eq!(with_tag("alpine"), "alpine:latest");
        assert_eq!(with_tag("host:5000/a/b"), "host:5000/a/b:latest");
        assert_eq!(with_tag("a:1"), "a:1");
        assert_eq!(with_tag("a@sha256:00"), "a@sha256:00");
    }
}
