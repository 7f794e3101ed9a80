//! Developer tasks: `cargo xtask TASK`. One file a task.

mod agent;
mod ci;
mod compat;
mod cross;
mod demo;
mod deny;
mod image;
mod layers;
mod process;
mod vm;

use clap::{Parser, Subcommand};

/// Developer tasks of Berth.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the static host-agent that goes into the guest image and onto Linux hosts
    Agent,
    /// Other people's test suites against our engine or Docker's: record SUITE, run SUITE [FILE]...
    Compat(compat::Options),
    /// All checks and tests, as continuous integration runs them
    Ci,
    /// Build the desktop's programs for Windows and macOS
    Cross(cross::Options),
    /// The main job from nothing: programs, image, a machine, containers on it
    Demo(demo::Options),
    /// Check licences, banned crates and sources of every dependency
    Deny,
    /// Assemble the guest image (builds the agent first)
    Image(image::Options),
    /// Check that dependencies between crates point the way ARCHITECTURE.md says
    Layers,
    /// Boot the guest image by hand with its console on this terminal
    Vm(vm::Options),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Agent => agent::run().map(|path| println!("{}", path.display())),
        Task::Compat(options) => compat::run(&options),
        Task::Ci => ci::run(),
        Task::Cross(options) => cross::run(&options),
        Task::Demo(options) => demo::run(&options),
        Task::Deny => deny::run(),
        Task::Image(options) => image::run(&options).map(|folder| println!("{}", folder.display())),
        Task::Layers => layers::run(),
        Task::Vm(options) => vm::run(&options),
    }
}
