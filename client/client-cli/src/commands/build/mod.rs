//! `berth build`

mod cache;
mod context;
mod contexts;
mod outputs;
mod proxies;
mod secrets;
mod ssh;
mod upload;

use crate::engine::Engine;
use crate::show::build::{Form, Wish};
use crate::{archive, parse, show};
use anyhow::{Context as _, Result, bail};
use cache::{CacheFrom, CacheTo, Carrier};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use upload::Source;

#[derive(clap::Args)]
#[command(
    after_help = "Of a folder only what the Dockerfile needs is sent, and of that only what the engine does not have from earlier builds.
.dockerignore (or DOCKERFILE.dockerignore) leaves files out.

Examples:
  berth build -t me/web .
  berth build --secret id=token,src=token.txt --ssh default -t me/app .
  berth build --target binaries -o out .
  berth build -f - . < other.Dockerfile
  berth build https://host.example/me/web.git#main:docker"
)]
pub(crate) struct Options {
    /// The Dockerfile; - is standard input [default: Dockerfile of the context]
    #[arg(short, long)]
    file: Option<String>,
    /// NAME[:TAG] of the image; may be repeated
    #[arg(short, long)]
    tag: Vec<String>,
    /// Stage to build, by name or number
    #[arg(long, default_value = "")]
    target: String,
    /// Value of an ARG: NAME=value, or NAME to pass ours on
    #[arg(long)]
    build_arg: Vec<String>,
    /// Label of the image: name=value
    #[arg(long)]
    label: Vec<String>,
    /// Platform of the image; engines build for their own
    #[arg(long)]
    platform: Option<String>,
    /// Run every step
    #[arg(long)]
    no_cache: bool,
    /// Download base images even where they are there
    #[arg(long)]
    pull: bool,
    /// Take steps from: an image, type=registry,ref=NAME or type=local,src=FOLDER
    #[arg(long)]
    cache_from: Vec<String>,
    /// Leave steps at: type=inline, type=registry,ref=NAME or type=local,dest=FOLDER
    #[arg(long)]
    cache_to: Vec<String>,
    /// What becomes of the result: FOLDER, - (a tar), or type=local|tar|oci|docker|image|registry|cacheonly[,dest=..];
    /// may be repeated
    #[arg(short, long)]
    output: Vec<String>,
    /// Write the image's id to a file (nothing, where no image is made)
    #[arg(long)]
    iidfile: Option<PathBuf>,
    /// Print only the image's id
    #[arg(short, long)]
    quiet: bool,
    /// What RUN --mount=type=secret may use: id=ID,src=FILE or id=ID,env=VARIABLE
    #[arg(long)]
    secret: Vec<String>,
    /// Agent or keys that RUN --mount=type=ssh may use: default, ID=SOCKET or ID=KEY[,KEY]
    #[arg(long)]
    ssh: Vec<String>,
    /// More files, or an image instead of another: NAME=FOLDER, NAME=docker-image://IMAGE or NAME=URL
    #[arg(long)]
    build_context: Vec<String>,
    /// How it is shown, on standard error
    #[arg(long, value_enum, default_value_t = Form::Auto)]
    progress: Form,
    /// One more line in /etc/hosts of steps: name:address
    #[arg(long)]
    add_host: Vec<String>,
    /// Network of steps: default, none or host
    #[arg(long, default_value = "")]
    network: String,
    /// Size of /dev/shm of steps, for example 128m
    #[arg(long)]
    shm_size: Option<String>,
    /// Limit of steps: name=soft[:hard]
    #[arg(long)]
    ulimit: Vec<String>,
    /// Look for mistakes in the Dockerfile and build nothing
    #[arg(long)]
    check: bool,
    /// Folder with the files; a URL of a git repository, a tar or a Dockerfile; or - for a tar or Dockerfile from standard
    /// input
    #[arg(value_name = "PATH | URL | -")]
    context: String,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    // Everything is looked at before anything is done.
    if !options.quiet && !options.check {
        show::build::check(options.progress)?;
    }
    let outputs = outputs::parse_all(&options.output)?;
    let contexts = contexts::parse(&options.build_context)?;
    let cache_from = all(&options.cache_from, CacheFrom::parse)?;
    let cache_to = all(&options.cache_to, CacheTo::parse)?;
    let secrets = secrets::secrets(&options.secret)?;
    let agents = ssh::agents(&options.ssh)?;
    let source = Source::of(&options.context, options.file.as_deref())?;
    let mut pairs = parameters(options)?;
    if options
        .platform
        .as_ref()
        .is_some_and(|text| text.contains(','))
    {
        bail!("--platform: an engine builds for one platform, its own");
    }
    if let Some(file) = &options.iidfile {
        let _ = std::fs::remove_file(file);
    }

    let names = cache::fetch(engine, &cache_from).await;
    if !names.is_empty() {
        pairs.push(("cachefrom", json!(names).to_string()));
    }
    let has_image = outputs::have_image(&outputs);
    let carrier = match !has_image && !options.check && cache_to.iter().any(CacheTo::is_carried) {
        true => {
            // The names are the wanted image's, and there is none.
            pairs.retain(|(name, _)| *name != "t");
            Some(Carrier::new(engine).await?)
        }
        false => None,
    };
    let kind = if options.check {
        "check"
    } else {
        outputs::kind(&outputs, carrier.is_some())
    };
    let body = upload::send(
        engine,
        upload::Build {
            options,
            source,
            pairs,
            kind,
            secrets,
            agents: agents.sockets(),
            contexts,
        },
    )
    .await?;
    let wish = Wish {
        form: options.progress,
        quiet: options.quiet,
        check: options.check,
        dockerfile: match options.file.as_deref() {
            None | Some("-") => "Dockerfile".to_owned(),
            Some(file) => file.to_owned(),
        },
    };
    let outcome = show::build::show(body, &wish).await?;
    if options.check {
        return Ok(u8::from(outcome.findings > 0));
    }
    if let Some((first, rest)) = outcome.files {
        let outputs = outputs.clone();
        archive::read_rest(first, rest, move |input| {
            outputs::write_files(input, &outputs)
        })
        .await?;
    }
    if let Some(image) = &outcome.image {
        for output in &outputs {
            output.finish(engine, image, &options.tag).await?;
        }
        let stored = store(engine, &cache_to, image).await;
        if let Some(carrier) = carrier {
            carrier.remove(engine, image).await;
        }
        stored?;
    } else if has_image || carrier.is_some() {
        bail!("the engine did not say which image it has built");
    }
    let id = outcome.image.filter(|_| has_image);
    if let Some(file) = &options.iidfile {
        // As with buildx it is empty where no image was asked for.
        std::fs::write(file, id.as_deref().unwrap_or_default())
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(id) = id.filter(|_| options.quiet) {
        show::print(&format!("{id}\n"))?;
    }
    Ok(0)
}

async fn store(engine: &Engine, cache_to: &[CacheTo], image: &str) -> Result<()> {
    for place in cache_to {
        place.store(engine, image).await?;
    }
    Ok(())
}

fn all<T>(texts: &[String], parse: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    texts.iter().map(|text| parse(text)).collect()
}

/// The parameters of `POST /build` but for the file's name and the cache's images.
fn parameters(options: &Options) -> Result<Vec<(&'static str, String)>> {
    let mut pairs: Vec<(&'static str, String)> = vec![
        ("rm", "1".to_owned()),
        ("version", "1".to_owned()),
        ("target", options.target.clone()),
        ("networkmode", options.network.clone()),
    ];
    pairs.extend(options.tag.iter().map(|tag| ("t", tag.clone())));
    for (name, given) in [
        ("nocache", options.no_cache),
        ("pull", options.pull),
        ("q", options.quiet),
    ] {
        if given {
            pairs.push((name, "1".to_owned()));
        }
    }
    let mut arguments = Map::new();
    for text in &options.build_arg {
        match text.split_once('=') {
            Some(("", _)) => bail!("invalid --build-arg '{text}': it has no name"),
            Some((name, value)) => arguments.insert(name.to_owned(), value.into()),
            // Without a value here it counts as not given.
            None => arguments.insert(
                text.clone(),
                std::env::var(text).map_or(Value::Null, Value::from),
            ),
        };
    }
    let mut labels = Map::new();
    for text in &options.label {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        if name.is_empty() {
            bail!("invalid --label '{text}': it has no name");
        }
        labels.insert(name.to_owned(), value.into());
    }
    proxies::add(&mut arguments)?;
    for (name, map) in [("buildargs", arguments), ("labels", labels)] {
        if !map.is_empty() {
            pairs.push((name, Value::Object(map).to_string()));
        }
    }
    let limits = options
        .ulimit
        .iter()
        .map(|text| parse::ulimit(text))
        .collect::<Result<Vec<_>>>()?;
    if !limits.is_empty() {
        pairs.push(("ulimits", Value::Array(limits).to_string()));
    }
    if let Some(size) = &options.shm_size {
        pairs.push(("shmsize", parse::bytes(size)?.to_string()));
    }
    for text in &options.add_host {
        let (name, address) = text
            .split_once('=')
            .or_else(|| text.split_once(':'))
            .filter(|(name, address)| !name.is_empty() && !address.is_empty())
            .with_context(|| format!("invalid --add-host '{text}': expected name:address"))?;
        pairs.push(("extrahosts", format!("{name}:{address}")));
    }
    pairs.extend(options.platform.clone().map(|name| ("platform", name)));
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    /// Everything that the help and the documentation show, as it is written there.
    #[test]
    fn options_take_their_values_behind_a_blank() {
        for words in [
            "--ssh default .",
            "--ssh=default .",
            "--ssh id=/socket -t a .",
        ] {
            let line = Line::try_parse_from(std::iter::once("build").chain(words.split(' ')))
                .expect(words);
            assert_eq!(line.options.context, ".", "{words}");
            assert_eq!(line.options.ssh.len(), 1, "{words}");
        }
    }

    fn read(words: &str) -> Result<Vec<(&'static str, String)>> {
        let line = Line::try_parse_from(std::iter::once("build").chain(words.split(' ')))?;
        parameters(&line.options)
    }

    #[test]
    fn flags_become_parameters() {
        let pairs = read("-t a -t b:1 --build-arg A=1=2 --build-arg BERTH_NO_SUCH_VARIABLE --label x=y --ulimit nofile=1:2 --shm-size 1m --add-host a=1.2.3.4 --no-cache --pull --target t .")
            .expect("good");
        let value = |name: &str| {
            let found: Vec<&str> = pairs
                .iter()
                .filter(|(key, _)| *key == name)
                .map(|(_, value)| value.as_str())
                .collect();
            found.join(" ")
        };
        assert_eq!(value("t"), "a b:1");
        assert_eq!(
            value("buildargs"),
            r#"{"A":"1=2","BERTH_NO_SUCH_VARIABLE":null}"#
        );
        assert_eq!(value("labels"), r#"{"x":"y"}"#);
        assert_eq!(value("ulimits"), r#"[{"Name":"nofile","Soft":1,"Hard":2}]"#);
        assert_eq!(value("shmsize"), "1048576");
        assert_eq!(value("extrahosts"), "a:1.2.3.4");
        assert_eq!((value("nocache"), value("pull")), ("1".into(), "1".into()));
        assert_eq!(value("target"), "t");
    }

    #[test]
    fn mistakes_are_refused() {
        for bad in [
            "--build-arg =x .",
            "--label =x .",
            "--ulimit x .",
            "--ulimit nofile=a .",
            "--shm-size lots .",
            "--add-host a .",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
