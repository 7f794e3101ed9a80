//! Puts the request of a build together and sends it.

use super::Options;
use super::context::{Context, DockerfileFrom, Recipe};
use super::contexts::{self, Named};
use super::secrets::Secret;
use crate::engine::{Engine, EngineError, query};
use crate::show::build::Form;
use crate::show::progress::Place as Shown;
use crate::{commands, credentials};
use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use dockerfile::Dockerfile;
use dockerfile::arguments::{Arguments, PlatformNames};
use dockerfile::needs::{self, Base, Taken};
use http::Method;
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Content type of a request that has more than Docker's (`engine_api::builds`).
const BUILD_CONTENT_TYPE: &str = "application/vnd.berth.build";
/// Digests in one question.
const DIGESTS_AT_ONCE: usize = 20_000;

/// Where the files are.
pub(super) enum Source {
    Folder {
        path: PathBuf,
        dockerfile: Dockerfiles,
    },
    /// The engine fetches them.
    Remote(String),
    /// A tar or a Dockerfile.
    Stdin,
}

/// Which Dockerfile belongs to a folder.
pub(super) enum Dockerfiles {
    Usual,
    File(PathBuf),
    Stdin,
}

impl Source {
    /// From `PATH | URL | -` and `-f`.
    pub(super) fn of(context: &str, file: Option<&str>) -> Result<Source> {
        if context == "-" {
            if file == Some("-") {
                bail!("invalid argument: can't use stdin for both build context and dockerfile");
            }
            return Ok(Source::Stdin);
        }
        let is_local = Path::new(context).is_dir();
        let schemes = [
            "http://",
            "https://",
            "git://",
            "ssh://",
            "git@",
            "github.com/",
        ];
        if !is_local && schemes.iter().any(|scheme| context.starts_with(scheme)) {
            if file == Some("-") {
                bail!("a Dockerfile from standard input and a remote context do not go together");
            }
            return Ok(Source::Remote(context.to_owned()));
        }
        Ok(Source::Folder {
            path: context.into(),
            dockerfile: match file {
                None => Dockerfiles::Usual,
                Some("-") => Dockerfiles::Stdin,
                Some(file) => Dockerfiles::File(file.into()),
            },
        })
    }
}

/// A build that is to be asked for.
pub(super) struct Build<'a> {
    pub(super) options: &'a Options,
    pub(super) source: Source,
    pub(super) pairs: Vec<(&'static str, String)>,
    /// Of the output, as the preamble names it.
    pub(super) kind: &'static str,
    pub(super) secrets: BTreeMap<String, Secret>,
    pub(super) agents: BTreeMap<String, PathBuf>,
    pub(super) contexts: BTreeMap<String, Named>,
}

/// Sends it and answers what the engine says.
pub(super) async fn send(engine: &Engine, build: Build<'_>) -> Result<Incoming> {
    let is_berth = engine.is_berth().await?;
    if !is_berth {
        for (given, what) in [
            (!build.secrets.is_empty(), "--secret"),
            (!build.agents.is_empty(), "--ssh"),
            (!build.contexts.is_empty(), "--build-context"),
            (build.kind == "check", "--check"),
            (build.kind != "image", "this --output"),
        ] {
            if given {
                bail!("{what} needs Berth's engine, and this is another one");
            }
        }
    }
    let mut tokens = Map::new();
    for (id, place) in &build.agents {
        tokens.insert(id.clone(), lend_agent(engine, place).await?.into());
    }
    let mut request = Request {
        engine,
        is_berth,
        pairs: build.pairs,
        preamble: json!({
            "output": build.kind,
            "ssh": tokens,
            "secrets": build
                .secrets
                .iter()
                .map(|(id, secret)| (id.clone(), Value::from(STANDARD.encode(&secret.0))))
                .collect::<Map<_, _>>(),
            "contexts": contexts::send(engine, &build.contexts).await?,
            "sourceDate": source_date()?,
            "keepContents": false,
        }),
        registries: Map::new(),
    };
    match build.source {
        Source::Remote(url) => {
            request.registries = all_registries();
            request.pairs.push(("remote", url));
            if let Some(file) = &build.options.file {
                request.pairs.push(("dockerfile", file.clone()));
            }
            request.send(Box::new(io::empty())).await
        }
        Source::Stdin => {
            request.registries = all_registries();
            let (name, body) = tokio::task::spawn_blocking(from_stdin).await??;
            let name = build.options.file.clone().or(name);
            request.pairs.extend(name.map(|name| ("dockerfile", name)));
            request.send(body).await
        }
        Source::Folder { path, dockerfile } => {
            let place = Place {
                folder: &path,
                contexts: &build.contexts,
            };
            send_folder(request, build.options, build.kind, place, dockerfile).await
        }
    }
}

/// A folder, and what is beside it.
struct Place<'a> {
    folder: &'a Path,
    contexts: &'a BTreeMap<String, Named>,
}

async fn send_folder(
    mut request: Request<'_>,
    options: &Options,
    kind: &str,
    place: Place<'_>,
    from: Dockerfiles,
) -> Result<Incoming> {
    let folder = place.folder;
    let recipe = match from {
        Dockerfiles::Usual => Recipe::read(folder, DockerfileFrom::File(None))?,
        Dockerfiles::File(file) => Recipe::read(folder, DockerfileFrom::File(Some(&file)))?,
        Dockerfiles::Stdin => {
            let mut text = Vec::new();
            io::stdin()
                .take(dockerfile::file::TEXT_MAX as u64 + 1)
                .read_to_end(&mut text)
                .context("cannot read the Dockerfile from standard input")?;
            Recipe::read(folder, DockerfileFrom::Text(text))?
        }
    };
    let file = Dockerfile::parse(&recipe.text)?;
    request.pairs.push(("dockerfile", recipe.path.clone()));
    let taken = match kind {
        "check" => Taken::Paths(BTreeSet::new()),
        _ => taken(&mut request, options, &file, place.contexts).await?,
    };
    let folder = folder.to_owned();
    let asks = request.is_berth;
    let collected = tokio::task::spawn_blocking(move || {
        let mut context = Context::collect(&folder, recipe, &taken)?;
        let digests = match asks {
            true => context.digests()?,
            false => Vec::new(),
        };
        Ok::<_, anyhow::Error>((context, digests))
    });
    let (mut context, digests) = collected.await??;
    if !digests.is_empty() {
        context.set_known(known(request.engine, digests).await?);
        request.preamble["keepContents"] = true.into();
    }
    let context = Arc::new(context);
    match request.send(tar_of(context.clone())?).await {
        // What was there a moment ago has made room for something else.
        Err(error) if context.leaves_out() && EngineError::is_conflict(&error) => {
            let Ok(mut context) = Arc::try_unwrap(context) else {
                return Err(error);
            };
            context.set_known(HashSet::new());
            request.send(tar_of(Arc::new(context))?).await
        }
        outcome => outcome,
    }
}

/// Of the digests, those whose contents the engine has.
async fn known(engine: &Engine, digests: Vec<String>) -> Result<HashSet<String>> {
    let mut known = HashSet::new();
    for part in digests.chunks(DIGESTS_AT_ONCE) {
        let question = json!({ "Digests": part });
        let answer = engine.post("/build/contents", Some(&question)).await?;
        let missing: HashSet<&str> = answer["Missing"]
            .as_array()
            .context("the engine did not say what it lacks")?
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let there = part
            .iter()
            .filter(|digest| !missing.contains(digest.as_str()));
        known.extend(there.cloned());
    }
    Ok(known)
}

/// What the Dockerfile takes of the folder. Base images are looked at for it, and downloaded where they are not there: the
/// build would do that anyway.
async fn taken(
    request: &mut Request<'_>,
    options: &Options,
    file: &Dockerfile,
    contexts: &BTreeMap<String, Named>,
) -> Result<Taken> {
    let engine = request.engine;
    let arguments = arguments(engine, request).await?;
    let replaced: BTreeSet<String> = contexts.keys().cloned().collect();
    let images = needs::base_images(file, &options.target, &arguments, &replaced)?;
    let mut bases = BTreeMap::new();
    for name in &images {
        let image = match contexts.get(&needs::context_name(name)) {
            None => name,
            Some(Named::Image(other)) => other,
            // Files, of which none are the main context's.
            Some(Named::Folder(_) | Named::Url(_)) => {
                bases.insert(name.clone(), Base::default());
                continue;
            }
        };
        let registry = credentials::registry_of(image);
        if let Some(found) = credentials::Config::load()?.get(&registry)? {
            let body = found.to_body(&registry);
            request.registries.insert(registry, body);
        }
        if let Some(base) = base(engine, options, image).await {
            bases.insert(name.clone(), base);
        }
    }
    let taken = needs::taken(file, &options.target, &arguments, &replaced, &bases)?;
    Ok(taken)
}

/// Build arguments as the engine sees them.
async fn arguments(engine: &Engine, request: &Request<'_>) -> Result<Arguments> {
    let version = engine.get("/version").await?;
    let text = |name: &str| version[name].as_str().unwrap_or_default().to_owned();
    let native = PlatformNames {
        os: text("Os"),
        variant: match text("Arch").as_str() {
            "arm64" => "v8".to_owned(),
            "arm" => "v7".to_owned(),
            _ => String::new(),
        },
        architecture: text("Arch"),
    };
    let given = request
        .pairs
        .iter()
        .find(|(name, _)| *name == "buildargs")
        .and_then(|(_, text)| serde_json::from_str::<BTreeMap<String, Option<String>>>(text).ok())
        .unwrap_or_default();
    let given = given
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    Ok(Arguments::new(given.collect(), &native, &native))
}

/// `None` where the image cannot be had: the build says why.
async fn base(engine: &Engine, options: &Options, image: &str) -> Option<Base> {
    let path = format!("/images/{}/json", crate::engine::escape(image));
    let quiet = options.quiet || options.progress == Form::Rawjson;
    let pull = async || {
        let named = commands::pull::with_tag(image);
        let pulled = commands::pull::download(engine, &named, None, quiet, Shown::Errors).await;
        pulled.ok()?;
        engine.get(&path).await.ok()
    };
    let found = match options.pull {
        true => pull().await?,
        false => match engine.get(&path).await {
            Ok(found) => found,
            Err(error) if EngineError::is_not_found(&error) => pull().await?,
            Err(_) => return None,
        },
    };
    let list = |name: &str| -> Vec<String> {
        let values = found["Config"][name].as_array().into_iter().flatten();
        values
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    Some(Base {
        environment: list("Env"),
        on_build: list("OnBuild"),
    })
}

/// `SOURCE_DATE_EPOCH` of our own environment, as BuildKit's client passes it on.
fn source_date() -> Result<Option<i64>> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Err(_) => Ok(None),
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => text
            .parse()
            .map(Some)
            .with_context(|| format!("SOURCE_DATE_EPOCH={text} is no number of seconds")),
    }
}

/// Where it is not known which registries a build needs: those of the configuration file.
fn all_registries() -> Map<String, Value> {
    let mut registries = Map::new();
    let Ok(config) = credentials::Config::load() else {
        return registries;
    };
    for registry in config.registries() {
        if let Ok(Some(found)) = config.get(&registry) {
            let body = found.to_body(&registry);
            registries.insert(registry, body);
        }
    }
    registries
}

/// The name of the Dockerfile where it is the only file, and the tar.
fn from_stdin() -> Result<(Option<String>, Box<dyn Read + Send>)> {
    if crate::streams::stdin_is_terminal() {
        bail!("a context or a Dockerfile is not typed in: redirect standard input");
    }
    let mut start = vec![0; 512];
    let mut filled = 0;
    let step = "cannot read standard input";
    while filled < start.len() {
        match io::stdin().read(&mut start[filled..]).context(step)? {
            0 => break,
            count => filled += count,
        }
    }
    start.truncate(filled);
    if is_archive(&start) {
        let whole = io::Cursor::new(start).chain(io::stdin());
        return Ok((None, Box::new(whole)));
    }
    let limit = dockerfile::file::TEXT_MAX;
    io::stdin()
        .take(limit as u64)
        .read_to_end(&mut start)
        .context(step)?;
    // What is wrong with it is told here, with its line.
    Dockerfile::parse(&start)?;
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o600);
    header.set_size(start.len() as u64);
    builder.append_data(&mut header, "Dockerfile", &start[..])?;
    let tar = builder.into_inner()?;
    Ok((
        Some("Dockerfile".to_owned()),
        Box::new(io::Cursor::new(tar)),
    ))
}

/// By the first bytes: tar, gzip, bzip2, xz, zstd.
fn is_archive(start: &[u8]) -> bool {
    let magic: [&[u8]; 4] = [
        &[0x1f, 0x8b],
        b"BZh",
        &[0xfd, b'7', b'z', b'X', b'Z', 0],
        &[0x28, 0xb5, 0x2f, 0xfd],
    ];
    magic.iter().any(|magic| start.starts_with(magic)) || start.get(257..262) == Some(b"ustar")
}

/// A reader of the tar that a thread writes.
fn tar_of(context: Arc<Context>) -> Result<Box<dyn Read + Send>> {
    crate::archive::written(move |output| context.write(output))
}

/// What is the same for every kind of context.
struct Request<'a> {
    engine: &'a Engine,
    is_berth: bool,
    pairs: Vec<(&'static str, String)>,
    preamble: Value,
    registries: Map<String, Value>,
}

impl Request<'_> {
    async fn send(&self, tar: Box<dyn Read + Send>) -> Result<Incoming> {
        let path = format!("/build{}", query(&self.pairs));
        let registries = URL_SAFE.encode(Value::Object(self.registries.clone()).to_string());
        let headers = [("x-registry-config", registries.as_str())];
        let (kind, body): (&str, Box<dyn Read + Send>) = match self.is_berth {
            false => ("application/x-tar", tar),
            true => {
                let mut line = self.preamble.to_string().into_bytes();
                line.push(b'\n');
                (
                    BUILD_CONTENT_TYPE,
                    Box::new(io::Cursor::new(line).chain(tar)),
                )
            }
        };
        self.engine
            .upload(Method::POST, &path, kind, &headers, body)
            .await
    }
}

/// Opens a connection through which the engine reaches an ssh agent of ours; answers its token.
#[cfg(unix)]
async fn lend_agent(engine: &Engine, place: &Path) -> Result<String> {
    let mut random = [0u8; 16];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    let token = super::context::hex(&random);
    let mut agent = tokio::net::UnixStream::connect(place)
        .await
        .with_context(|| format!("cannot reach the ssh agent at {}", place.display()))?;
    let mut stream = engine.hijack(&format!("/build/ssh/{token}"), None).await?;
    tokio::spawn(async move {
        // It ends with the build, or with us.
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut agent).await;
    });
    Ok(token)
}

#[cfg(not(unix))]
async fn lend_agent(_: &Engine, _: &Path) -> Result<String> {
    bail!("--ssh needs a unix socket of an agent, which this system does not have")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        let kind = |context: &str, file: Option<&str>| match Source::of(context, file) {
            Ok(Source::Folder {
                dockerfile: Dockerfiles::Usual,
                ..
            }) => "folder",
            Ok(Source::Folder {
                dockerfile: Dockerfiles::File(_),
                ..
            }) => "folder and file",
            Ok(Source::Folder {
                dockerfile: Dockerfiles::Stdin,
                ..
            }) => "folder and stdin",
            Ok(Source::Remote(_)) => "remote",
            Ok(Source::Stdin) => "stdin",
            Err(_) => "error",
        };
        for (context, file, expected) in [
            (".", None, "folder"),
            ("sub", Some("x"), "folder and file"),
            (".", Some("-"), "folder and stdin"),
            ("-", None, "stdin"),
            ("-", Some("x"), "stdin"),
            ("-", Some("-"), "error"),
            ("https://h/x.git#a", None, "remote"),
            ("git@h:x", None, "remote"),
            ("github.com/a/b", Some("-"), "error"),
        ] {
            assert_eq!(kind(context, file), expected, "{context} {file:?}");
        }
    }

    #[test]
    fn archives_are_known_by_their_beginning() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert!(is_archive(&tar));
        assert!(is_archive(&[0x1f, 0x8b, 8]));
        assert!(!is_archive(b"FROM scratch\n"));
        assert!(!is_archive(b""));
    }
}
