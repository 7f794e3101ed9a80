//! `machine create`

use crate::Context;
use clap::Args;
use machine_core::driver::FlagValues;
use machine_core::store::record::{EngineOptions, SwarmOptions};
use machine_core::use_cases::create::CreateRequest;

#[derive(Debug, Args)]
#[command(
    after_help = "`create -d DRIVER --help` shows the options of that driver.",
    next_line_help = false
)]
pub(crate) struct Arguments {
    /// The new machine: letters, digits, '.' and '-'
    name: String,
    /// The driver that makes it [default: qemu]
    #[arg(short, long, env = "MACHINE_DRIVER")]
    driver: Option<String>,
    #[command(flatten)]
    engine: Engine,
    /// One more name or address the engine's certificate is good for
    #[arg(long, value_name = "NAME")]
    tls_san: Vec<String>,
    #[command(flatten)]
    swarm: Swarm,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Options of the engine")]
struct Engine {
    /// A mirror for images of Docker Hub
    #[arg(long, value_name = "URL")]
    engine_registry_mirror: Vec<String>,
    /// A registry to be talked to without TLS's checks
    #[arg(long, value_name = "HOST")]
    engine_insecure_registry: Vec<String>,
    /// A label, KEY=VALUE
    #[arg(long, value_name = "LABEL")]
    engine_label: Vec<String>,
    /// Any option of dockerd, KEY=VALUE
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true)]
    engine_opt: Vec<String>,
    /// HTTP_PROXY, HTTPS_PROXY or NO_PROXY of the engine, NAME=VALUE; the value may be env:NAME, file:PATH or cmd:COMMAND
    /// [default for a machine on this computer: this computer's own]
    #[arg(long, value_name = "VARIABLE")]
    engine_env: Vec<String>,
    /// The storage driver
    #[arg(long, value_name = "NAME")]
    engine_storage_driver: Option<String>,
    /// Accepted for docker-machine's scripts: the engine is part of the image
    #[arg(
        long,
        value_name = "URL",
        env = "MACHINE_DOCKER_INSTALL_URL",
        hide = true
    )]
    engine_install_url: Option<String>,
}

/// Classic Swarm: remembered for the tools that read config.json, nothing more.
#[derive(Debug, Args)]
struct Swarm {
    #[arg(long = "swarm", hide = true)]
    is_swarm: bool,
    #[arg(
        long,
        hide = true,
        default_value = "swarm:latest",
        env = "MACHINE_SWARM_IMAGE"
    )]
    swarm_image: String,
    #[arg(long, hide = true)]
    swarm_master: bool,
    #[arg(long, hide = true, default_value = "")]
    swarm_discovery: String,
    #[arg(long, hide = true, default_value = "spread")]
    swarm_strategy: String,
    #[arg(long, hide = true)]
    swarm_opt: Vec<String>,
    #[arg(long, hide = true)]
    swarm_join_opt: Vec<String>,
    #[arg(long, hide = true, default_value = "tcp://0.0.0.0:3376")]
    swarm_host: String,
    #[arg(long, hide = true, default_value = "")]
    swarm_addr: String,
    #[arg(long, hide = true)]
    swarm_experimental: bool,
}

pub(crate) fn run(
    context: &Context,
    arguments: Arguments,
    driver_values: FlagValues,
) -> anyhow::Result<()> {
    let request = request(context, arguments, driver_values);
    context.console.catch_interrupts()?;
    let machine = context.machines.create(&request, &context.console)?;
    if machine.engine_was_asked() {
        context.console.print("Docker is up and running!");
    }
    context.console.print(&format!(
        "To see how to connect your Docker Client to the Docker Engine running on this virtual machine, run: {} env {}",
        context.program(),
        machine.name()
    ));
    Ok(())
}

fn request(context: &Context, arguments: Arguments, values: FlagValues) -> CreateRequest {
    let Arguments {
        name,
        driver,
        engine,
        tls_san,
        swarm,
    } = arguments;
    if swarm.is_swarm || swarm.swarm_master || !swarm.swarm_discovery.is_empty() {
        context.console.warn(
            "classic Swarm has ended: the --swarm flags are remembered in config.json and do nothing",
        );
    }
    let install_url = engine.engine_install_url.unwrap_or_default();
    if !install_url.is_empty() {
        context.console.warn(
            "--engine-install-url is remembered and does nothing: the engine is part of the image",
        );
    }
    CreateRequest {
        name,
        driver: driver
            .filter(|driver| !driver.is_empty())
            .unwrap_or_else(|| machine_drivers::DEFAULT_DRIVER.into()),
        values,
        engine: EngineOptions {
            registry_mirror: or_from_variable(engine.engine_registry_mirror),
            insecure_registry: engine.engine_insecure_registry,
            labels: engine.engine_label,
            arbitrary_flags: engine.engine_opt,
            env: engine.engine_env,
            storage_driver: engine.engine_storage_driver.unwrap_or_default(),
            install_url,
            ..EngineOptions::default()
        },
        swarm: SwarmOptions {
            is_swarm: swarm.is_swarm,
            address: swarm.swarm_addr,
            discovery: swarm.swarm_discovery,
            agent: swarm.is_swarm,
            master: swarm.swarm_master,
            host: swarm.swarm_host,
            image: swarm.swarm_image,
            strategy: swarm.swarm_strategy,
            arbitrary_flags: swarm.swarm_opt,
            arbitrary_join_flags: swarm.swarm_join_opt,
            is_experimental: swarm.swarm_experimental,
            ..SwarmOptions::default()
        },
        proxies: machine_core::desktop::proxies(&|name| std::env::var(name).ok()),
        tls_sans: tls_san,
    }
}

/// ENGINE_REGISTRY_MIRROR holds mirrors separated by commas, as docker-machine has it.
fn or_from_variable(given: Vec<String>) -> Vec<String> {
    if !given.is_empty() {
        return given;
    }
    let variable = std::env::var("ENGINE_REGISTRY_MIRROR").unwrap_or_default();
    let parts = variable.split(',').map(str::trim);
    parts
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}
