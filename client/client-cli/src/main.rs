//! `berth`: runs containers on the engine that the environment points at (`DOCKER_HOST`, `DOCKER_TLS_VERIFY`,
//! `DOCKER_CERT_PATH`), with docker's verbs, output forms and exit codes. One file a verb under `commands`.
//!
//! Exit codes: 125 the engine or `berth` itself failed, 126 the program cannot be executed, 127 it was not found, else
//! the program's own (`run`, `exec`); every other verb ends with 0 or 1.

mod archive;
mod commands;
mod credentials;
mod engine;
mod environment;
mod parse;
mod prompt;
mod show;
mod streams;

use clap::{CommandFactory, Parser, Subcommand};
use engine::Engine;
use std::process::ExitCode;

/// Runs containers.
#[derive(Parser)]
#[command(
    name = "berth",
    version,
    propagate_version = false,
    disable_help_subcommand = true
)]
#[command(
    after_help = "The engine is the one that DOCKER_HOST names; 'eval $(machine env NAME)' sets it."
)]
struct Arguments {
    /// Engine to talk to, for example unix:///run/berth.sock or tcp://127.0.0.1:2376
    #[arg(
        short = 'H',
        long,
        global = true,
        env = "DOCKER_HOST",
        hide_env_values = true
    )]
    host: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create a container and run a program in it
    Run(commands::run::Options),
    /// Create a container, to be started later
    Create(commands::create::Options),
    /// Build an image from a Dockerfile
    Build(commands::build::Options),
    /// Look after the cache of builds
    #[command(subcommand)]
    Builder(commands::builder::Verb),
    /// List containers
    #[command(visible_alias = "list")]
    Ps(commands::ps::Options),
    /// List images
    Images(commands::images::Options),
    /// Work with images
    Image(commands::image::Options),
    /// Make, list and remove volumes
    Volume(commands::volume::Options),
    /// Download an image
    Pull(commands::pull::Options),
    /// Send an image to a registry
    Push(commands::push::Options),
    /// Give an image one more name
    Tag(commands::tag::Options),
    /// Show how an image was made
    History(commands::history::Options),
    /// Search a registry for images
    Search(commands::search::Options),
    /// Sign in to a registry
    Login(commands::login::Options),
    /// Forget the credentials for a registry
    Logout(commands::logout::Options),
    /// Write images to a tar
    Save(commands::save::Options),
    /// Take in images from a tar of `docker save`
    Load(commands::load::Options),
    /// Show what a container wrote
    Logs(commands::logs::Options),
    /// Run a program in a running container
    Exec(commands::exec::Options),
    /// Start stopped containers
    Start(commands::start::Options),
    /// Stop running containers
    Stop(commands::stop::Options),
    /// Restart containers
    Restart(commands::restart::Options),
    /// Join the streams of a running container
    Attach(commands::attach::Options),
    /// Stop the processes of containers from running
    Pause(commands::pause::Options),
    /// Let the processes of paused containers run on
    Unpause(commands::unpause::Options),
    /// Change limits and restart policy of containers
    Update(commands::update::Options),
    /// Give a container another name
    Rename(commands::rename::Options),
    /// Show what containers use of processors, memory, network and disks
    Stats(commands::stats::Options),
    /// Show the processes of a container
    Top(commands::top::Options),
    /// Show where a container's ports are published
    Port(commands::port::Options),
    /// Show what happens in the engine
    Events(commands::events::Options),
    /// Do something to many containers
    #[command(subcommand)]
    Container(ContainerCommand),
    /// Copy files between a container and this computer
    Cp(commands::cp::Options),
    /// Show what a container changed in its file system
    Diff(commands::diff::Options),
    /// Write a container's whole file system as a tar
    Export(commands::export::Options),
    /// Make an image of a container
    Commit(commands::commit::Options),
    /// Make an image of a tar of a file system
    Import(commands::import::Options),
    /// Send a signal to containers
    Kill(commands::kill::Options),
    /// Wait until containers stop, then print their exit codes
    Wait(commands::wait::Options),
    /// Remove containers
    Rm(commands::rm::Options),
    /// Remove images
    Rmi(commands::rmi::Options),
    /// Show everything about containers, images, volumes or networks
    Inspect(commands::inspect::Options),
    /// Make, list, connect and remove networks
    #[command(subcommand)]
    Network(commands::network::Verb),
    /// Show the versions of client and engine
    Version(commands::version::Options),
    /// Show the state of the engine
    Info(commands::info::Options),
    /// Print a completion script
    Completion { shell: clap_complete::Shell },
    /// Write manual pages
    Man(commands::man::Options),
}

#[derive(Subcommand)]
enum ContainerCommand {
    /// Remove all stopped containers
    Prune(commands::container_prune::Options),
}

fn main() -> ExitCode {
    // Bad usage ends as docker's does: 125 for `run` and `exec`, 1 for the others.
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            let verb = std::env::args().nth(1).unwrap_or_default();
            return match (error.exit_code(), verb.as_str()) {
                (0, _) => ExitCode::SUCCESS,
                (_, "run" | "exec") => ExitCode::from(125),
                _ => ExitCode::FAILURE,
            };
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("berth: cannot start: {error}");
            return ExitCode::from(125);
        }
    };
    let code = runtime.block_on(dispatch(arguments));
    streams::restore_terminal();
    // A thread that waits for the terminal's next key must not hold us.
    std::process::exit(i32::from(code));
}

async fn dispatch(arguments: Arguments) -> u8 {
    let is_run = matches!(arguments.command, Command::Run(_) | Command::Exec(_));
    match perform(arguments).await {
        Ok(code) => code,
        Err(error) => {
            streams::restore_terminal();
            eprintln!("berth: {error:#}");
            if let Some(hint) = hint(&error) {
                eprintln!("hint: {hint}");
            }
            if is_run { run_failure(&error) } else { 1 }
        }
    }
}

/// docker's exit code where a container could not be run.
fn run_failure(error: &anyhow::Error) -> u8 {
    let text = format!("{error:#}");
    if text.contains("executable file not found")
        || text.contains("no such file or directory: unknown")
    {
        127
    } else if text.contains("permission denied") || text.contains("is a directory") {
        126
    } else {
        125
    }
}

fn hint(error: &anyhow::Error) -> Option<String> {
    let failure = error.downcast_ref::<engine::EngineError>()?;
    failure.hint()
}

async fn perform(arguments: Arguments) -> anyhow::Result<u8> {
    if let Command::Completion { shell } = arguments.command {
        clap_complete::generate(
            shell,
            &mut Arguments::command(),
            "berth",
            &mut std::io::stdout(),
        );
        return Ok(0);
    }
    if let Command::Man(options) = &arguments.command {
        return commands::man::perform(options, Arguments::command());
    }
    let engine = Engine::new(environment::endpoint(arguments.host.as_deref())?);
    match arguments.command {
        Command::Run(options) => commands::run::perform(&engine, options).await,
        Command::Create(options) => commands::create::perform(&engine, &options).await,
        Command::Exec(options) => commands::exec::perform(&engine, options).await,
        Command::Build(options) => commands::build::perform(&engine, &options).await,
        Command::Builder(verb) => commands::builder::perform(&engine, verb).await,
        Command::Ps(options) => commands::ps::perform(&engine, &options).await,
        Command::Images(options) => commands::images::perform(&engine, &options).await,
        Command::Image(options) => commands::image::perform(&engine, options).await,
        Command::Volume(options) => commands::volume::perform(&engine, options).await,
        Command::Pull(options) => commands::pull::perform(&engine, &options).await,
        Command::Push(options) => commands::push::perform(&engine, &options).await,
        Command::Tag(options) => commands::tag::perform(&engine, &options).await,
        Command::History(options) => commands::history::perform(&engine, &options).await,
        Command::Search(options) => commands::search::perform(&engine, &options).await,
        Command::Login(options) => commands::login::perform(&engine, &options).await,
        Command::Logout(options) => commands::logout::perform(&options),
        Command::Save(options) => commands::save::perform(&engine, &options).await,
        Command::Load(options) => commands::load::perform(&engine, &options).await,
        Command::Logs(options) => commands::logs::perform(&engine, &options).await,
        Command::Start(options) => commands::start::perform(&engine, &options).await,
        Command::Stop(options) => commands::stop::perform(&engine, &options).await,
        Command::Restart(options) => commands::restart::perform(&engine, &options).await,
        Command::Attach(options) => commands::attach::perform(&engine, &options).await,
        Command::Pause(options) => commands::pause::perform(&engine, &options).await,
        Command::Unpause(options) => commands::unpause::perform(&engine, &options).await,
        Command::Update(options) => commands::update::perform(&engine, &options).await,
        Command::Rename(options) => commands::rename::perform(&engine, &options).await,
        Command::Stats(options) => commands::stats::perform(&engine, &options).await,
        Command::Top(options) => commands::top::perform(&engine, &options).await,
        Command::Port(options) => commands::port::perform(&engine, &options).await,
        Command::Events(options) => commands::events::perform(&engine, &options).await,
        Command::Container(ContainerCommand::Prune(options)) => {
            commands::container_prune::perform(&engine, &options).await
        }
        Command::Cp(options) => commands::cp::perform(&engine, &options).await,
        Command::Diff(options) => commands::diff::perform(&engine, &options).await,
        Command::Export(options) => commands::export::perform(&engine, &options).await,
        Command::Commit(options) => commands::commit::perform(&engine, &options).await,
        Command::Import(options) => commands::import::perform(&engine, &options).await,
        Command::Kill(options) => commands::kill::perform(&engine, &options).await,
        Command::Wait(options) => commands::wait::perform(&engine, &options).await,
        Command::Rm(options) => commands::rm::perform(&engine, &options).await,
        Command::Rmi(options) => commands::rmi::perform(&engine, &options).await,
        Command::Inspect(options) => commands::inspect::perform(&engine, &options).await,
        Command::Network(verb) => commands::network::perform(&engine, &verb).await,
        Command::Version(options) => commands::version::perform(&engine, &options).await,
        Command::Info(options) => commands::info::perform(&engine, &options).await,
        Command::Completion { .. } | Command::Man(_) => unreachable!("answered above"),
    }
}
