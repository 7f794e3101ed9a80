//! `--cache-from` and `--cache-to`. The engine's own cache needs neither: they carry what was built from one engine to
//! another. An image's history says which step made which layer, so that the image itself is what is carried.

use super::outputs;
use super::secrets::fields;
use crate::engine::{Engine, escape};
use crate::show::progress::Place;
use crate::{archive, commands};
use anyhow::{Context, Result, bail};
use http_body_util::BodyExt;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where steps may be taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CacheFrom {
    /// An image of a registry, or of the engine.
    Image(String),
    /// A folder that `--cache-to type=local` made.
    Local(PathBuf),
}

/// Where they are left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CacheTo {
    /// In the image, which has them anyway.
    Inline,
    Registry(String),
    Local(PathBuf),
}

impl CacheFrom {
    pub(super) fn parse(text: &str) -> Result<CacheFrom> {
        if !text.contains('=') {
            return Ok(CacheFrom::Image(text.to_owned()));
        }
        let (kind, mut values) = typed("cache-from", text)?;
        let from = match kind.as_str() {
            "registry" => CacheFrom::Image(take(&mut values, "ref", "cache-from", text)?),
            "local" => CacheFrom::Local(take(&mut values, "src", "cache-from", text)?.into()),
            other => bail!("{}", unknown("cache-from", other, "registry and local")),
        };
        nothing_left("cache-from", text, &values)?;
        Ok(from)
    }
}

impl CacheTo {
    pub(super) fn parse(text: &str) -> Result<CacheTo> {
        // `--cache-to NAME` is short for a registry.
        if !text.contains('=') && text != "inline" {
            return Ok(CacheTo::Registry(text.to_owned()));
        }
        let (kind, mut values) = match text {
            "inline" => ("inline".to_owned(), Vec::new()),
            text => typed("cache-to", text)?,
        };
        if let Some(at) = values.iter().position(|(key, _)| key == "mode") {
            let (_, mode) = values.remove(at);
            match mode.as_str() {
                "min" => {}
                "max" => bail!(
                    "--cache-to '{text}': mode=max is not supported; build a stage with --target and keep the cache of that, too"
                ),
                _ => bail!("--cache-to '{text}': mode is min or max"),
            }
        }
        let to = match kind.as_str() {
            "inline" => CacheTo::Inline,
            "registry" => CacheTo::Registry(take(&mut values, "ref", "cache-to", text)?),
            "local" => CacheTo::Local(take(&mut values, "dest", "cache-to", text)?.into()),
            other => bail!(
                "{}",
                unknown("cache-to", other, "inline, registry and local")
            ),
        };
        nothing_left("cache-to", text, &values)?;
        Ok(to)
    }

    /// It takes an image to carry it.
    pub(super) fn is_carried(&self) -> bool {
        *self != CacheTo::Inline
    }

    /// Leaves the cache of a built image.
    pub(super) async fn store(&self, engine: &Engine, image: &str) -> Result<()> {
        match self {
            CacheTo::Inline => Ok(()),
            CacheTo::Registry(name) => {
                outputs::tag(engine, image, name).await?;
                outputs::push_image(engine, name)
                    .await
                    .with_context(|| format!("cannot leave the cache at {name}"))
            }
            CacheTo::Local(folder) => outputs::save_as_folder(engine, &[image.to_owned()], folder)
                .await
                .with_context(|| format!("cannot leave the cache in {}", folder.display())),
        }
    }
}

/// The image that carries the cache of a build which is asked for none.
pub(super) struct Carrier {
    /// Ids of the images that were there before.
    before: BTreeSet<String>,
}

impl Carrier {
    /// To be made before the build.
    pub(super) async fn new(engine: &Engine) -> Result<Carrier> {
        let images = engine.get("/images/json?all=1").await?;
        let ids = images.as_array().into_iter().flatten();
        Ok(Carrier {
            before: ids
                .filter_map(|image| image["Id"].as_str().map(str::to_owned))
                .collect(),
        })
    }

    /// The cache is where it should be: nobody wants the image any more.
    pub(super) async fn remove(&self, engine: &Engine, image: &str) {
        if self.before.contains(image) {
            return;
        }
        let path = format!("/images/{}?force=1", escape(image));
        if let Err(error) = engine.delete(&path).await {
            eprintln!("WARNING: the image that carried the cache stays: {error:#}");
        }
    }
}

type Values = Vec<(String, String)>;

fn typed(option: &str, text: &str) -> Result<(String, Values)> {
    let mut values = fields(option, text)?;
    let kind = take(&mut values, "type", option, text)?;
    Ok((kind, values))
}

fn take(values: &mut Values, key: &str, option: &str, text: &str) -> Result<String> {
    let at = values.iter().position(|(name, _)| name == key);
    at.map(|at| values.remove(at).1)
        .filter(|value| !value.is_empty())
        .with_context(|| format!("invalid --{option} '{text}': {key}= is missing"))
}

fn unknown(option: &str, kind: &str, known: &str) -> String {
    format!("--{option} type={kind} is not supported; there are {known}")
}

fn nothing_left(option: &str, text: &str, values: &Values) -> Result<()> {
    match values.first() {
        None => Ok(()),
        Some((key, _)) => bail!("invalid --{option} '{text}': there is no field '{key}' here"),
    }
}

/// Brings everything into the engine; answers the names of images that the build may look at. What cannot be had is told
/// and left out: a build goes without a cache, too.
pub(super) async fn fetch(engine: &Engine, from: &[CacheFrom]) -> Vec<String> {
    let mut names = Vec::new();
    for source in from {
        let outcome = match source {
            CacheFrom::Image(name) => {
                let tagged = commands::pull::with_tag(name);
                let pulled = commands::pull::download(engine, &tagged, None, true, Place::Errors);
                match pulled.await {
                    Ok(()) => Ok(tagged),
                    // It may be one that was never pushed.
                    Err(error) => match engine.get(&format!("/images/{tagged}/json")).await {
                        Ok(_) => Ok(tagged),
                        Err(_) => Err(error),
                    },
                }
            }
            CacheFrom::Local(folder) => load(engine, folder).await,
        };
        match outcome {
            Ok(name) => names.push(name),
            Err(error) => eprintln!("WARNING: no cache from {source:?}: {error:#}"),
        }
    }
    names
}

/// Loads an image's folder; answers its id.
async fn load(engine: &Engine, folder: &Path) -> Result<String> {
    if !folder.join("index.json").is_file() {
        bail!("{} has no index.json", folder.display());
    }
    let tar = archive::tar_of(folder.to_owned(), String::new())?;
    let body = engine
        .upload(
            http::Method::POST,
            "/images/load?quiet=1",
            "application/x-tar",
            &[],
            tar,
        )
        .await?;
    let text = body
        .collect()
        .await
        .context("the engine hung up")?
        .to_bytes();
    loaded_image(&text).context("the engine did not say what it has loaded")
}

/// `Loaded image ID: sha256:...` or `Loaded image: name`.
fn loaded_image(answer: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(answer).ok()?;
    text.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line.trim()).ok()?;
        let said = message["stream"].as_str()?.trim();
        let name = said
            .strip_prefix("Loaded image ID: ")
            .or_else(|| said.strip_prefix("Loaded image: "))?;
        Some(name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_forms() {
        let from = |text: &str| CacheFrom::parse(text).expect(text);
        assert_eq!(from("a:1"), CacheFrom::Image("a:1".into()));
        assert_eq!(
            from("type=registry,ref=h:5000/a"),
            CacheFrom::Image("h:5000/a".into())
        );
        assert_eq!(from("type=local,src=x"), CacheFrom::Local("x".into()));
        let to = |text: &str| CacheTo::parse(text).expect(text);
        assert_eq!(to("type=inline"), CacheTo::Inline);
        assert_eq!(to("inline"), CacheTo::Inline);
        assert_eq!(
            to("type=registry,ref=a,mode=min"),
            CacheTo::Registry("a".into())
        );
        assert_eq!(to("type=local,dest=x"), CacheTo::Local("x".into()));
    }

    #[test]
    fn what_is_not_there_is_told() {
        for (bad, why) in [
            ("type=gha", "not supported"),
            ("type=registry", "ref= is missing"),
            ("type=registry,ref=a,mode=max", "mode=max is not supported"),
            ("type=registry,ref=a,mode=x", "min or max"),
            ("type=local", "dest= is missing"),
            ("type=local,dest=a,compression=gzip", "'compression'"),
            ("ref=a", "type= is missing"),
        ] {
            let error = format!("{:#}", CacheTo::parse(bad).expect_err(bad));
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert!(CacheFrom::parse("type=s3,bucket=x").is_err());
        assert!(CacheFrom::parse("type=local").is_err());
    }

    #[test]
    fn the_answer_of_a_load_is_read() {
        let answer = b"{\"stream\":\"Loaded image ID: sha256:ab\\n\"}\r\n";
        assert_eq!(loaded_image(answer).as_deref(), Some("sha256:ab"));
        assert_eq!(loaded_image(b"{\"stream\":\"x\"}"), None);
    }
}
