//! `image-builder`: makes and checks guest images. Exit codes: 0 done, 1 failed, 2 wrong use.

mod commands;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(version, about = "Builds Berth's guest images from Debian packages")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build an image, or rebuild it with another agent
    Build(Box<commands::build::Arguments>),
    /// Check an image's files and show what it is made of
    Inspect(commands::inspect::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Build(arguments) => commands::build::run(*arguments),
        Command::Inspect(arguments) => commands::inspect::run(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if let Some(hint) = error
                .downcast_ref::<image_builder::BuildError>()
                .and_then(image_builder::BuildError::hint)
            {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}
