//! `berth network connect`

use super::pairs;
use crate::engine::{Engine, escape};
use anyhow::Result;
use serde_json::{Value, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// One more name of the container in this network
    #[arg(long)]
    alias: Vec<String>,
    /// IPv4 address
    #[arg(long, default_value = "")]
    ip: String,
    /// IPv6 address
    #[arg(long, default_value = "")]
    ip6: String,
    /// Link-local address
    #[arg(long)]
    link_local_ip: Vec<String>,
    /// A name of its own for another container: container[:alias]
    #[arg(long)]
    link: Vec<String>,
    /// Driver option: name=value
    #[arg(long)]
    driver_opt: Vec<String>,
    /// The network with the highest one is the way out
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    gw_priority: i64,
    network: String,
    container: String,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let path = format!("/networks/{}/connect", escape(&options.network));
    engine.post(&path, Some(&body(options)?)).await?;
    Ok(0)
}

fn body(options: &Options) -> Result<Value> {
    Ok(json!({
        "Container": options.container,
        "EndpointConfig": {
            "Aliases": options.alias,
            "Links": options.link,
            "DriverOpts": pairs(&options.driver_opt, "--driver-opt")?,
            "GwPriority": options.gw_priority,
            "IPAMConfig": {
                "IPv4Address": options.ip,
                "IPv6Address": options.ip6,
                "LinkLocalIPs": options.link_local_ip,
            },
        },
    }))
}
