//! `image-builder build`.

use anyhow::{Context, bail};
use image_builder::{DOWNLOAD_LIMIT, LoadedRecipe, Network, Progress, Request, megabytes};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Instant;

// The last of a repeated option counts, so that scripts can pass their user's options on after their own.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub struct Arguments {
    /// A built-in recipe's name, or a recipe file
    #[arg(long, default_value = "berth")]
    recipe: String,
    /// The static host-agent program to put in
    #[arg(long, value_name = "FILE")]
    agent: PathBuf,
    /// Version of the agent, for the manifest
    #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
    agent_version: String,
    /// The folder to write; an image in it is replaced
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Base address of a Debian archive [default: from apt's configuration, where there is one]
    #[arg(long, value_name = "URL", env = "BERTH_MIRROR")]
    mirror: Option<String>,
    /// The Debian suite to take [default: the first of the recipe's that the mirror has]
    #[arg(long)]
    suite: Option<String>,
    /// OpenPGP keys to believe [default: debian-archive-keyring, else Debian's keys in this program]
    #[arg(long, value_name = "FILE")]
    keyring: Option<PathBuf>,
    /// Where downloads are kept [default: berth/packages in your cache folder]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Use only what is in the cache
    #[arg(long, conflicts_with = "refresh")]
    offline: bool,
    /// Ask the mirror for its newest state, even if it was asked today
    #[arg(long)]
    refresh: bool,
    /// Say nothing but errors
    #[arg(long, short)]
    quiet: bool,
}

/// `berth/image-builder.toml` in the user's configuration folder.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    mirror: Option<String>,
    keyring: Option<PathBuf>,
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let started = Instant::now();
    let configuration = read_configuration()?;
    let Some(cache) = arguments.cache.or_else(image_builder::default_cache) else {
        bail!("there is no home folder to keep downloads in; name a folder with --cache");
    };
    let network = match (arguments.offline, arguments.refresh) {
        (true, _) => Network::Offline,
        (false, true) => Network::Refresh,
        (false, false) => Network::Online,
    };
    let progress = match arguments.quiet {
        true => Progress::Silent,
        false => Progress::for_stderr(),
    };
    let recipe = LoadedRecipe::find(&arguments.recipe).map_err(image_builder::BuildError::from)?;
    let manifest = image_builder::build(Request {
        recipe,
        agent: arguments.agent,
        agent_version: arguments.agent_version,
        output: arguments.output.clone(),
        mirror: arguments.mirror.or(configuration.mirror),
        suite: arguments.suite,
        keyring: arguments.keyring.or(configuration.keyring),
        cache,
        network,
        progress,
    })?;
    let uncompressed: u64 = manifest.files.values().map(|file| file.bytes).sum();
    progress.step(&format!(
        "{}: kernel {}, {} packages, {} ({} to download), in {:.1} s",
        arguments.output.display(),
        manifest.kernel_version,
        manifest.packages.len(),
        megabytes(uncompressed),
        megabytes(manifest.download_bytes),
        started.elapsed().as_secs_f64(),
    ));
    if manifest.download_bytes > DOWNLOAD_LIMIT {
        eprintln!(
            "warning: the download is larger than {}",
            megabytes(DOWNLOAD_LIMIT)
        );
    }
    Ok(())
}

fn read_configuration() -> anyhow::Result<Configuration> {
    use etcetera::BaseStrategy;
    let Ok(strategy) = etcetera::choose_base_strategy() else {
        return Ok(Configuration::default());
    };
    let path = strategy.config_dir().join("berth/image-builder.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).with_context(|| format!("cannot use {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Configuration::default()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
