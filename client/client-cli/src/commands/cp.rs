//! `berth cp`

use crate::archive;
use crate::engine::{Engine, EngineError, escape, query};
use anyhow::{Context, Result, bail};
use base64::Engine as _;
use http::Method;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Go's bits for folders and links in a file mode.
const FOLDER: u64 = 1 << 31;
const LINK: u64 = 1 << 27;

#[derive(clap::Args)]
#[command(
    after_help = "One side is CONTAINER:PATH, the other a path here, or - for a tar on standard input or output.

A folder is copied with everything in it: to a folder that is there, into it; to a name that is not, as it. 'FOLDER/.'
copies only what is in the folder. The container may run or not.

Examples:
  berth cp web:/var/log ./logs       the folder, as ./logs or, where that is there, as ./logs/log
  berth cp site/. web:/srv/www       what is in site
  berth cp web:/etc/hosts - | tar x  a tar to another program"
)]
pub(crate) struct Options {
    /// Keep owners, groups and all permission bits
    #[arg(short, long)]
    archive: bool,
    /// Copy what a link at the end of the source leads to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Print nothing about what was copied
    #[arg(short, long)]
    quiet: bool,
    /// CONTAINER:PATH, a path here, or -
    source: String,
    /// CONTAINER:PATH, a path here, or -
    target: String,
}

/// Either side.
#[derive(Debug, PartialEq, Eq)]
enum Side<'a> {
    Container { name: &'a str, path: &'a str },
    Here(&'a str),
}

/// A path with a colon is here if it is absolute or begins with a dot (docker's rule).
fn side(text: &str) -> Side<'_> {
    if Path::new(text).is_absolute() || text.starts_with('.') {
        return Side::Here(text);
    }
    match text.split_once(':') {
        Some((name, path)) if !name.is_empty() => Side::Container {
            name,
            path: if path.is_empty() { "/" } else { path },
        },
        _ => Side::Here(text),
    }
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    match (side(&options.source), side(&options.target)) {
        (Side::Container { name, path }, Side::Here(target)) => {
            from_container(engine, options, name, path, target).await?;
        }
        (Side::Here(source), Side::Container { name, path }) => {
            to_container(engine, options, source, name, path).await?;
        }
        (Side::Container { .. }, Side::Container { .. }) => {
            bail!("copying between containers is not supported: copy to a folder here first")
        }
        (Side::Here(_), Side::Here(_)) => {
            bail!(
                "one side must be CONTAINER:PATH: cp copies between a container and this computer"
            )
        }
    }
    Ok(0)
}

/// What is at a path of a container.
#[derive(Debug)]
struct Stat {
    is_folder: bool,
    is_link: bool,
    link_target: String,
}

fn address(container: &str, path: &str) -> String {
    let query = query(&[("path", path.to_owned())]);
    format!("/containers/{}/archive{query}", escape(container))
}

async fn stat(engine: &Engine, container: &str, path: &str) -> Result<Stat> {
    let headers = engine.head(&address(container, path)).await;
    let headers = headers.map_err(|error| match EngineError::is_not_found(&error) {
        // A HEAD has no body that says what is missing.
        true => error.context(format!(
            "Could not find the file {path} in container {container}"
        )),
        false => error,
    })?;
    let header = headers
        .get("x-docker-container-path-stat")
        .context("the engine does not say what is at the path")?;
    let text = base64::engine::general_purpose::STANDARD
        .decode(header)
        .context("the engine's answer about the path is not base64")?;
    let stat: Value =
        serde_json::from_slice(&text).context("the engine's answer about the path is not JSON")?;
    let mode = stat["mode"].as_u64().unwrap_or(0);
    Ok(Stat {
        is_folder: mode & FOLDER != 0,
        is_link: mode & LINK != 0,
        link_target: stat["linkTarget"].as_str().unwrap_or_default().to_owned(),
    })
}

fn wants_contents(path: &str) -> bool {
    path == "." || path.ends_with("/.") || path.ends_with("/./")
}

/// The last name of a path, if it has one.
fn base(path: &str) -> Option<&str> {
    let name = path.trim_end_matches('/').rsplit('/').next()?;
    (!["", ".", ".."].contains(&name)).then_some(name)
}

async fn from_container(
    engine: &Engine,
    options: &Options,
    container: &str,
    path: &str,
    target: &str,
) -> Result<()> {
    let mut path = path.to_owned();
    let name = base(&path).map(str::to_owned);
    if options.follow_link {
        let found = stat(engine, container, &path).await?;
        if found.is_link && !found.link_target.is_empty() {
            path = found.link_target;
        }
    }
    if target == "-" {
        let body = engine
            .stream(Method::GET, &address(container, &path), &[])
            .await?;
        return archive::read_body(body, |reader| {
            std::io::copy(reader, &mut std::io::stdout().lock()).context("cannot write the tar")?;
            Ok(())
        })
        .await;
    }
    let source = stat(engine, container, &path).await?;
    let here = PathBuf::from(target);
    let goal = match std::fs::metadata(&here) {
        Ok(facts) if facts.is_dir() => match &name {
            Some(name) if !wants_contents(&path) => here.join(name),
            _ => here,
        },
        Ok(_) if source.is_folder => bail!("cannot copy directory {path} over the file {target}"),
        Ok(_) if target.ends_with('/') => bail!("{target} is not a directory"),
        Ok(_) => here,
        Err(_) if target.ends_with('/') && !source.is_folder => {
            bail!("no such directory: {target}")
        }
        Err(_) => {
            let parent = here.parent().unwrap_or(Path::new(""));
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            if !parent.is_dir() {
                bail!(
                    "invalid output path: directory {:?} does not exist",
                    parent.display()
                );
            }
            here
        }
    };
    if source.is_folder {
        match std::fs::create_dir(&goal) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot make {}", goal.display()));
            }
            _ => {}
        }
    }
    let body = engine
        .stream(Method::GET, &address(container, &path), &[])
        .await?;
    let (keep, place) = (options.archive, goal.clone());
    archive::read_body(body, move |reader| archive::unpack(reader, &place, keep)).await?;
    if !options.quiet {
        eprintln!("Copied {container}:{path} to {}", goal.display());
    }
    Ok(())
}

async fn to_container(
    engine: &Engine,
    options: &Options,
    source: &str,
    container: &str,
    path: &str,
) -> Result<()> {
    let mut path = path.to_owned();
    let mut found = stat(engine, container, &path).await;
    if let Ok(link) = &found
        && link.is_link
        && !link.link_target.is_empty()
    {
        // Written where the link leads, whether that is there or not.
        path.clone_from(&link.link_target);
        found = stat(engine, container, &path).await;
    }
    let is_missing = found.as_ref().is_err_and(EngineError::is_not_found);
    if !is_missing {
        found
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error:#}"))?;
    }
    let goal_is_folder = found.as_ref().is_ok_and(|stat| stat.is_folder);
    if source == "-" {
        if crate::streams::stdin_is_terminal() {
            bail!("a tar is not typed in: redirect standard input");
        }
        if !is_missing && !goal_is_folder {
            bail!("destination \"{container}:{path}\" must be a directory");
        }
        return put(
            engine,
            options,
            container,
            &path,
            Box::new(std::io::stdin()),
        )
        .await;
    }
    let here = match options.follow_link {
        true => std::fs::canonicalize(source),
        false => Ok(PathBuf::from(source)),
    };
    let here = here.with_context(|| format!("cannot copy {source}"))?;
    let facts =
        std::fs::symlink_metadata(&here).with_context(|| format!("cannot copy {source}"))?;
    let own_name = match base(source) {
        Some(name) => name.to_owned(),
        // `..` and the like have a name when they are looked at.
        None => std::fs::canonicalize(source)
            .ok()
            .and_then(|path| {
                path.file_name()
                    .map(|name| name.to_string_lossy().into_owned())
            })
            .unwrap_or_default(),
    };
    let (folder, name) = if goal_is_folder {
        let name = match facts.is_dir() && wants_contents(source) {
            true => String::new(),
            false => own_name,
        };
        (path.clone(), name)
    } else {
        if !is_missing && facts.is_dir() {
            bail!("cannot copy directory {source} over the file {container}:{path}");
        }
        if path.ends_with('/') && !facts.is_dir() {
            bail!("no such directory: {container}:{path}");
        }
        let trimmed = path.trim_end_matches('/');
        let (folder, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        let folder = if folder.is_empty() { "/" } else { folder };
        (folder.to_owned(), name.to_owned())
    };
    let content = archive::tar_of(here, name)?;
    put(engine, options, container, &folder, content).await?;
    if !options.quiet {
        eprintln!("Copied {source} to {container}:{path}");
    }
    Ok(())
}

async fn put(
    engine: &Engine,
    options: &Options,
    container: &str,
    folder: &str,
    content: Box<dyn std::io::Read + Send>,
) -> Result<()> {
    let query = query(&[
        ("path", folder.to_owned()),
        ("noOverwriteDirNonDir", "true".to_owned()),
        ("copyUIDGID", options.archive.to_string()),
    ]);
    let address = format!("/containers/{}/archive{query}", escape(container));
    // The answer has nothing in it: that it is one says that everything is in its place.
    drop(
        engine
            .upload(Method::PUT, &address, "application/x-tar", &[], content)
            .await?,
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart_as_docker_does() {
        let container = |name, path| Side::Container { name, path };
        assert_eq!(side("web:/srv"), container("web", "/srv"));
        assert_eq!(side("web:"), container("web", "/"));
        assert_eq!(side("web:a:b"), container("web", "a:b"));
        for text in ["./web:/srv", "/web:/srv", "file", "-", "../a:b", ":/x"] {
            assert_eq!(side(text), Side::Here(text));
        }
    }

    #[test]
    fn names_of_paths() {
        assert_eq!(base("/a/b/"), Some("b"));
        assert_eq!(base("b"), Some("b"));
        for path in ["/", ".", "a/.", "a/..", ""] {
            assert_eq!(base(path), None, "{path}");
        }
        assert!(wants_contents("a/.") && wants_contents(".") && !wants_contents("a."));
    }
}
