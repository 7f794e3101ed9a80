//! Boots the guest image by hand: console on this terminal, no seed, no data disk. For looking at a boot.

use crate::process::{self, command, target};
use anyhow::{Context, Result};

/// How to boot it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Memory in MiB
    #[arg(long, default_value_t = 1024)]
    memory: u32,
    /// Words added to the kernel's command line
    #[arg(long, default_value = "")]
    append: String,
}

/// Runs QEMU until the guest powers off.
pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = target().join("image");
    let manifest = folder.join("manifest.json");
    let text = std::fs::read_to_string(&manifest).with_context(|| {
        format!(
            "cannot read {} (cargo xtask image makes it)",
            manifest.display()
        )
    })?;
    let manifest: serde_json::Value = serde_json::from_str(&text)?;
    let file = |key: &str| folder.join(manifest[key].as_str().unwrap_or_default());
    let line = format!(
        "{} console=ttyS0 {}",
        manifest["command_line"].as_str().unwrap_or_default(),
        options.append
    );
    let mut qemu = command("qemu-system-x86_64");
    qemu.args([
        "-machine",
        "q35",
        "-accel",
        "tcg",
        "-cpu",
        "qemu64,+rdrand",
        "-nodefaults",
        "-no-user-config",
    ]);
    qemu.args([
        "-display",
        "none",
        "-serial",
        "mon:stdio",
        "-no-reboot",
        "-m",
        &options.memory.to_string(),
    ]);
    qemu.args([
        "-netdev",
        "user,id=net0",
        "-device",
        "virtio-net-pci,netdev=net0",
    ]);
    qemu.arg("-kernel")
        .arg(file("kernel"))
        .arg("-initrd")
        .arg(file("initrd"))
        .args(["-append", &line]);
    process::run(&mut qemu)
}
