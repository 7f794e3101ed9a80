//! `image-builder inspect`.

use image_builder::megabytes;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Arguments {
    /// The image's folder
    image: PathBuf,
}

pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let manifest = image_builder::inspect(&arguments.image)?;
    println!(
        "image         {} ({})",
        manifest.name, manifest.architecture
    );
    println!("kernel        {}", manifest.kernel_version);
    println!("agent         {}", manifest.agent_version);
    println!("command line  {}", manifest.command_line);
    println!("download      {}", megabytes(manifest.download_bytes));
    println!("files");
    for (name, entry) in &manifest.files {
        let size = megabytes(entry.bytes);
        println!("  {name:<14}{size:>10}  sha256:{}", entry.sha256);
    }
    println!("packages");
    for package in &manifest.packages {
        println!(
            "  {} {} ({})",
            package.name,
            package.version,
            package.licences.join(", ")
        );
    }
    Ok(())
}
