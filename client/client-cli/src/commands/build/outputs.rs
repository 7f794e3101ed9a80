//! `-o`: what becomes of the result.

use super::secrets::fields;
use crate::engine::{Engine, escape};
use crate::{archive, commands};
use anyhow::{Context, Result, bail};
use http::Method;
use std::io::{Read, Seek, Write};
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
    Archive {
        place: Place,
        /// More names.
        names: Vec<String>,
    },
    /// The image as a folder in OCI's layout.
    Layout {
        folder: PathBuf,
        /// More names.
        names: Vec<String>,
    },
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
        for (key, value) in fields("output", text)? {
            match key.as_str() {
                "type" => kind = Some(value),
                "dest" => place = Some(Place::of(&value)),
                // There may be several: `"name=a,b"`.
                "name" => names.extend(value.split(',').map(str::to_owned)),
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
            ("oci" | "docker", place) if !packed => Output::Layout {
                folder: folder(place)?,
                names,
            },
            ("oci", place) => Output::Archive {
                place: needed(place)?,
                names,
            },
            ("docker", Some(place)) => Output::Archive { place, names },
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

    /// It is made of the target's files, which come with the engine's answer.
    fn is_files(&self) -> bool {
        matches!(self, Output::Local(_) | Output::Tar(_))
    }

    fn is_stdout(&self) -> bool {
        matches!(
            self,
            Output::Tar(Place::Stdout)
                | Output::Archive {
                    place: Place::Stdout,
                    ..
                }
        )
    }

    /// Does with the image what is left to be done. `tags` are those of `-t`.
    pub(super) async fn finish(&self, engine: &Engine, image: &str, tags: &[String]) -> Result<()> {
        let names = match self {
            Output::Image { names, .. }
            | Output::Archive { names, .. }
            | Output::Layout { names, .. } => names.as_slice(),
            Output::Local(_) | Output::Tar(_) | Output::Nothing => &[],
        };
        for name in names {
            tag(engine, image, name).await?;
        }
        let named = saved_names(image, tags, names);
        match self {
            Output::Image { push, .. } => {
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
            Output::Archive { place, .. } => save(engine, &named, place).await,
            Output::Layout { folder, .. } => save_as_folder(engine, &named, folder).await,
            Output::Local(_) | Output::Tar(_) | Output::Nothing => Ok(()),
        }
    }
}

/// What an image is called in an archive: by all its names, where it has some.
fn saved_names(image: &str, tags: &[String], names: &[String]) -> Vec<String> {
    match (tags, names) {
        ([], []) => vec![image.to_owned()],
        (tags, names) => [tags, names].concat(),
    }
}

/// Every `-o`; without one an image is made.
pub(super) fn parse_all(texts: &[String]) -> Result<Vec<Output>> {
    let outputs: Vec<Output> = match texts {
        [] => vec![Output::Image {
            names: Vec::new(),
            push: false,
        }],
        texts => texts
            .iter()
            .map(|text| Output::parse(text))
            .collect::<Result<_>>()?,
    };
    if outputs.iter().filter(|output| output.is_stdout()).count() > 1 {
        bail!("only one --output can go to standard output");
    }
    Ok(outputs)
}

/// Whether one of them is an image, or made of one.
pub(super) fn have_image(outputs: &[Output]) -> bool {
    outputs
        .iter()
        .any(|output| !output.is_files() && *output != Output::Nothing)
}

/// What all of them need, as the preamble of the build names it; with `image` an image is made in any case.
pub(super) fn kind(outputs: &[Output], image: bool) -> &'static str {
    let files = outputs.iter().any(Output::is_files);
    match (image || have_image(outputs), files) {
        (true, true) => "imageandfiles",
        (true, false) => "image",
        (false, true) => "files",
        (false, false) => "nothing",
    }
}

/// Writes the target's files to everywhere they are wanted.
pub(super) fn write_files(input: &mut dyn Read, outputs: &[Output]) -> Result<()> {
    let wanted: Vec<&Output> = outputs.iter().filter(|output| output.is_files()).collect();
    let write = |input: &mut dyn Read, output: &Output| match output {
        Output::Local(folder) => unpack_files(input, folder),
        Output::Tar(place) => write_to(input, place),
        _ => Ok(()),
    };
    match wanted.as_slice() {
        [] => bail!("the engine sent files that nobody asked for"),
        [one] => write(input, one),
        several => {
            // They come once.
            let mut aside = Aside::new()?;
            let step = "cannot keep the files aside";
            std::io::copy(input, &mut aside.file).context(step)?;
            for output in several {
                aside.file.rewind().context(step)?;
                write(&mut aside.file, output)?;
            }
            Ok(())
        }
    }
}

/// A file for a while.
struct Aside {
    file: std::fs::File,
    path: PathBuf,
}

impl Aside {
    fn new() -> Result<Aside> {
        let mut random = [0u8; 8];
        getrandom::fill(&mut random)
            .map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
        let name = format!("berth-build-{}", super::context::hex(&random));
        let path = std::env::temp_dir().join(name);
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options
            .open(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Aside { file, path })
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
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
        let archive = |place, names: &[&str]| Output::Archive {
            place,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let file = || Place::Path("x.tar".into());
        check("type=oci,dest=x.tar", archive(file(), &[]));
        check(
            "type=docker,dest=x.tar,name=nn/x:3",
            archive(file(), &["nn/x:3"]),
        );
        check(
            "type=oci,dest=x.tar,\"name=a,b:2\"",
            archive(file(), &["a", "b:2"]),
        );
        let folder = "x".into();
        let names = vec!["a".to_owned()];
        check(
            "type=oci,tar=false,dest=x,name=a",
            Output::Layout { folder, names },
        );
        check("type=docker,dest=-", archive(Place::Stdout, &[]));
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
    fn archives_have_every_name() {
        let names = |tags: &[&str], names: &[&str]| {
            let owned = |names: &[&str]| -> Vec<String> {
                names.iter().map(|name| (*name).to_owned()).collect()
            };
            saved_names("sha256:1", &owned(tags), &owned(names)).join(" ")
        };
        assert_eq!(names(&[], &[]), "sha256:1");
        assert_eq!(names(&["t"], &[]), "t");
        assert_eq!(names(&[], &["a"]), "a");
        assert_eq!(names(&["t"], &["a", "b"]), "t a b");
    }

    #[test]
    fn several_outputs_are_one_build() {
        let all = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            parse_all(&texts)
        };
        for (texts, expected) in [
            (&[][..], "image"),
            (&["out", "type=tar,dest=x"], "files"),
            (
                &["out", "type=oci,dest=x", "type=cacheonly"],
                "imageandfiles",
            ),
            (&["type=cacheonly"], "nothing"),
        ] {
            let outputs = all(texts).expect("good");
            assert_eq!(kind(&outputs, false), expected, "{texts:?}");
            assert_eq!(have_image(&outputs), expected.starts_with("image"));
        }
        assert_eq!(kind(&all(&["out"]).expect("good"), true), "imageandfiles");
        assert_eq!(
            kind(&all(&["type=cacheonly"]).expect("good"), true),
            "image"
        );
        assert!(all(&["-", "type=docker,dest=-"]).is_err());
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        tar.append_data(&mut header, "file", &b"x"[..])
            .expect("memory");
        let tar = tar.into_inner().expect("memory");
        let place = tempfile::tempdir().expect("a folder");
        let (one, two) = (place.path().join("one"), place.path().join("two.tar"));
        let outputs = [
            Output::Local(one.clone()),
            Output::Tar(Place::Path(two.clone())),
        ];
        write_files(&mut &tar[..], &outputs).expect("written");
        assert_eq!(std::fs::read(one.join("file")).expect("there"), b"x");
        assert_eq!(std::fs::read(two).expect("there"), tar);
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
