//! `--build-context`: more files than those of the context, and images in the place of others.
//!
//! ```text
//! NAME=FOLDER --tar, less .dockerignore--> POST /build/context/TOKEN      NAME=docker-image://IMAGE, NAME=URL
//!                                                    '----- named in the preamble of POST /build -----'
//! ```

use super::context::{Context, Recipe};
use crate::engine::Engine;
use anyhow::{Context as _, Result, bail};
use dockerfile::needs::{self, Taken};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where a named context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    Folder(PathBuf),
    /// An image of the engine or a registry.
    Image(String),
    /// A git repository or an archive; the engine fetches it.
    Url(String),
}

/// Reads every `NAME=VALUE`; names are as they are compared.
pub(super) fn parse(texts: &[String]) -> Result<BTreeMap<String, Named>> {
    let mut contexts = BTreeMap::new();
    for text in texts {
        let (name, value) = text
            .split_once('=')
            .filter(|(name, value)| !name.is_empty() && !value.is_empty())
            .with_context(|| {
                format!("invalid --build-context '{text}': expected NAME=FOLDER, NAME=docker-image://IMAGE or NAME=URL")
            })?;
        let schemes = ["http://", "https://", "git://", "ssh://", "git@"];
        let named = if let Some(image) = value.strip_prefix("docker-image://") {
            Named::Image(image.to_owned())
        } else if schemes.iter().any(|scheme| value.starts_with(scheme)) {
            Named::Url(value.to_owned())
        } else if let Some((scheme, _)) = value.split_once("://") {
            bail!(
                "--build-context '{text}': {scheme}:// is not supported; there are folders, docker-image:// and addresses of git repositories and archives"
            )
        } else {
            let folder = PathBuf::from(value);
            if !folder.is_dir() {
                bail!("--build-context '{text}': {value} is not a folder");
            }
            Named::Folder(folder)
        };
        contexts.insert(needs::context_name(name), named);
    }
    Ok(contexts)
}

/// Sends the folders; answers what the preamble says of all.
pub(super) async fn send(engine: &Engine, contexts: &BTreeMap<String, Named>) -> Result<Value> {
    let mut said = Map::new();
    for (name, named) in contexts {
        let value = match named {
            Named::Image(image) => json!({ "image": image }),
            Named::Url(url) => json!({ "url": url }),
            Named::Folder(folder) => {
                let sent = send_folder(engine, folder.clone()).await;
                json!({ "token": sent.with_context(|| format!("cannot send the context {name}"))? })
            }
        };
        said.insert(name.clone(), value);
    }
    Ok(Value::Object(said))
}

async fn send_folder(engine: &Engine, folder: PathBuf) -> Result<String> {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    let token = super::context::hex(&random);
    let collected = tokio::task::spawn_blocking(move || {
        let recipe = Recipe::rules_alone(&folder)?;
        Context::collect(&folder, recipe, &Taken::Everything)
    });
    let context = collected.await??;
    let tar = crate::archive::written(move |output| context.write(output))?;
    let path = format!("/build/context/{token}");
    let answer = engine
        .upload(Method::POST, &path, "application/x-tar", &[], tar)
        .await?;
    answer.collect().await.context("the engine hung up")?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_images_and_addresses() {
        let one = |text: &str| parse(&[text.to_owned()]).map(|all| all.into_values().next());
        let folder = tempfile::tempdir().expect("a folder");
        let text = format!("x={}", folder.path().display());
        let named = one(&text).expect("good");
        assert_eq!(named, Some(Named::Folder(folder.path().to_owned())));
        for (text, expected) in [
            ("a=docker-image://b:1", Named::Image("b:1".into())),
            (
                "a=https://h/x.git#v1",
                Named::Url("https://h/x.git#v1".into()),
            ),
        ] {
            assert_eq!(one(text).expect(text), Some(expected));
        }
        for bad in ["a", "=b", "a=", "a=/nowhere/at/all", "a=oci-layout://x"] {
            assert!(one(bad).is_err(), "{bad}");
        }
    }
}
