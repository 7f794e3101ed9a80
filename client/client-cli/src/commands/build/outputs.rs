//! `-o`: what becomes of the result.

use super::secrets::fields;
use crate::engine::{Engine, escape};
use crate::{archive, commands};
use anyhow::{Context, Result, bail};
use http::Method;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Where something is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// `-`
    Stdout,
    Path(PathBuf),
}

impl Place {
    fn of(text: &str) -> Place {
        match text {
            "-" => Place::Stdout,
            path => Place::Path(path.into()),
        }
    }
}

/// What is made of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Output {
    /// An image of the engine; the usual.
    Image {
        /// More names.
        names: Vec<String>,
        push: bool,
    },
    /// Its files in a folder.
    Local(PathBuf),
    /// Its files as a tar.
    Tar(Place),
    /// The image as an archive, which is an OCI layout and Docker's own form at once.
    Archive(Place),
    /// The image as a folder in OCI's layout.
    Layout(PathBuf),
    /// Only the cache is filled.
    Nothing,
}

impl Output {
    /// Reads one `-o`.
    pub(super) fn parse(text: &str) -> Result<Output> {
        if !text.contains('=') {
            return Ok(match Place::of(text) {
                Place::Stdout => Output::Tar(Place::Stdout),
                Place::Path(path) => Output::Local(path),
            });
        }
        let (mut kind, mut place, mut names, mut push, mut packed) =
            (None, None, Vec::new(), false, true);
        // Names of an image may be several, in quotes with commas: `"name=a,b"`.
        for (key, value) in fields("output", text.trim_matches('"'))? {
            match key.as_str() {
                "type" => kind = Some(value),
                "dest" => place = Some(Place::of(&value)),
                "name" => names.push(value),
                "push" => push = truth(text, &value)?,
                "tar" => packed = truth(text, &value)?,
                other => bail!("invalid --output '{text}': there is no field '{other}' here"),
            }
        }
        let needed = |place: Option<Place>| {
            place.with_context(|| format!("invalid --output '{text}': dest= is missing"))
        };
        let folder = |place: Option<Place>| match needed(place)? {
            Place::Path(path) => Ok(path),
            Place::Stdout => bail!("invalid --output '{text}': a folder is not a stream"),
        };
        let kind = kind.with_context(|| format!("invalid --output '{text}': type= is missing"))?;
        Ok(match (kind.as_str(), place) {
            ("local", place) => Output::Local(folder(place)?),
            ("tar", place) => Output::Tar(place.unwrap_or(Place::Stdout)),
            ("oci" | "docker", place) if !packed => Output::Layout(folder(place)?),
            ("oci", place) => Output::Archive(needed(place)?),
            ("docker", Some(place)) => Output::Archive(place),
            ("docker" | "image", None) => Output::Image { names, push },
            ("registry", None) => Output::Image { names, push: true },
            ("cacheonly", None) => Output::Nothing,
            ("image" | "registry" | "cacheonly", Some(_)) => {
                bail!("invalid --output '{text}': type={kind} has no dest")
            }
            (other, _) => bail!(
                "invalid --output '{text}': type '{other}' is not supported; there are local, tar, oci, docker, image, registry and cacheonly"
            ),
        })
    }

    /// As the preamble of the build names it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Output::Local(_) | Output::Tar(_) => "files",
            Output::Nothing => "nothing",
            Output::Image { .. } | Output::Archive(_) | Output::Layout(_) => "image",
        }
    }

    /// Does with the image what is left to be done. `tags` are those of `-t`.
    pub(super) async fn finish(&self, engine: &Engine, image: &str, tags: &[String]) -> Result<()> {
        // By its names, where it has some: they are in the archive then.
        let named: Vec<String> = match tags {
            [] => vec![image.to_owned()],
            tags => tags.to_vec(),
        };
        match self {
            Output::Image { names, push } => {
                for name in names {
                    tag(engine, image, name).await?;
                }
                if *push {
                    let all: Vec<&String> = tags.iter().chain(names).collect();
                    if all.is_empty() {
                        bail!("there is no name to push the image to: give -t or name=");
                    }
                    for name in all {
                        push_image(engine, name).await?;
                    }
                }
                Ok(())
            }
            Output::Archive(place) => save(engine, &named, place).await,
            Output::Layout(folder) => save_as_folder(engine, &named, folder).await,
            Output::Local(_) | Output::Tar(_) | Output::Nothing => Ok(()),
        }
    }
}

fn truth(text: &str, value: &str) -> Result<bool> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => bail!("invalid --output '{text}': '{other}' is neither true nor false"),
    }
}

/// Gives an image one more name.
pub(super) async fn tag(engine: &Engine, image: &str, name: &str) -> Result<()> {
    let (repository, tag) = commands::commit::name_and_tag(name);
    let tag = if tag.is_empty() { "latest" } else { tag };
    let path = format!(
        "/images/{}/tag?repo={}&tag={}",
        escape(image),
        escape(repository),
        escape(tag)
    );
    engine.post(&path, None).await?;
    Ok(())
}

/// Sends an image to its registry; progress goes to standard error.
pub(super) async fn push_image(engine: &Engine, name: &str) -> Result<()> {
    eprintln!("pushing {name}");
    commands::push::upload(engine, name).await
}

fn archive_path(names: &[String]) -> String {
    let names: Vec<(&str, String)> = names.iter().map(|name| ("names", name.clone())).collect();
    format!("/images/get{}", crate::engine::query(&names))
}

async fn save(engine: &Engine, names: &[String], place: &Place) -> Result<()> {
    let body = engine
        .stream(Method::GET, &archive_path(names), &[])
        .await?;
    let place = place.clone();
    archive::read_body(body, move |input| write_to(input, &place)).await
}

/// Copies a stream to a file (which appears when it is complete) or to standard output.
pub(super) fn write_to(input: &mut dyn Read, place: &Place) -> Result<()> {
    match place {
        Place::Stdout => {
            let mut stdout = std::io::stdout().lock();
            std::io::copy(input, &mut stdout).context("cannot write to standard output")?;
            stdout.flush().context("cannot write to standard output")
        }
        Place::Path(path) => {
            let step = || format!("cannot write {}", path.display());
            let mut partial = path.clone().into_os_string();
            partial.push(".part");
            let mut file = std::fs::File::create(&partial).with_context(step)?;
            let copied = std::io::copy(input, &mut file);
            if let Err(error) = copied {
                let _ = std::fs::remove_file(&partial);
                return Err(error).with_context(step);
            }
            drop(file);
            std::fs::rename(&partial, path).with_context(step)
        }
    }
}

/// An image's archive, unpacked.
pub(super) async fn save_as_folder(engine: &Engine, names: &[String], folder: &Path) -> Result<()> {
    let body = engine
        .stream(Method::GET, &archive_path(names), &[])
        .await?;
    let folder = folder.to_owned();
    archive::read_body(body, move |input| unpack_files(input, &folder)).await
}

/// Unpacks a tar whose names are relative to the folder.
pub(super) fn unpack_files(input: &mut dyn Read, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    archive::unpack_into(input, folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Output) {
        assert_eq!(Output::parse(text).expect(text), expected);
    }

    #[test]
    fn dockers_forms() {
        check("out", Output::Local("out".into()));
        check("-", Output::Tar(Place::Stdout));
        check("type=local,dest=out", Output::Local("out".into()));
        check("type=tar,dest=-", Output::Tar(Place::Stdout));
        check("type=tar", Output::Tar(Place::Stdout));
        check(
            "type=oci,dest=x.tar",
            Output::Archive(Place::Path("x.tar".into())),
        );
        check("type=oci,tar=false,dest=x", Output::Layout("x".into()));
        check("type=docker,dest=-", Output::Archive(Place::Stdout));
        let image = |names: &[&str], push| Output::Image {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            push,
        };
        check("type=docker", image(&[], false));
        check("type=image,name=a:1,push=true", image(&["a:1"], true));
        check("type=registry", image(&[], true));
        check("type=cacheonly", Output::Nothing);
    }

    #[test]
    fn what_is_not_there_is_told() {
        for (bad, why) in [
            ("type=x", "'x' is not supported"),
            ("dest=x", "type= is missing"),
            ("type=local", "dest= is missing"),
            ("type=local,dest=-", "not a stream"),
            ("type=oci", "dest= is missing"),
            ("type=image,dest=x", "has no dest"),
            ("type=image,push=maybe", "neither true nor false"),
            ("type=local,dest=x,compression=zstd", "'compression'"),
        ] {
            let error = Output::parse(bad).expect_err(bad).to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
