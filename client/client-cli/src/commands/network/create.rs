//! `berth network create`

use super::pairs;
use crate::engine::Engine;
use crate::show;
use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::net::IpAddr;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How it is made: bridge, macvlan or ipvlan
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// Address range, for example 10.9.0.0/24; one for each family, or several
    #[arg(long)]
    subnet: Vec<String>,
    /// Part of a subnet that containers get their addresses from
    #[arg(long)]
    ip_range: Vec<String>,
    /// Address of the gateway in a subnet
    #[arg(long)]
    gateway: Vec<String>,
    /// Addresses that are somebody else's: name=address
    #[arg(long)]
    aux_address: Vec<String>,
    /// Driver option: name=value
    #[arg(short, long)]
    opt: Vec<String>,
    /// Label: name=value
    #[arg(long)]
    label: Vec<String>,
    /// No way to the outside
    #[arg(long)]
    internal: bool,
    /// With IPv6
    #[arg(long)]
    ipv6: bool,
    /// Containers may be connected by hand (for Swarm; remembered)
    #[arg(long)]
    attachable: bool,
    name: String,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let made = engine
        .post("/networks/create", Some(&body(options)?))
        .await?;
    if let Some(warning) = made["Warning"].as_str().filter(|text| !text.is_empty()) {
        eprintln!("WARNING: {warning}");
    }
    let id = made["Id"]
        .as_str()
        .context("the engine gave the network no id")?;
    show::print(&format!("{id}\n"))?;
    Ok(0)
}

fn body(options: &Options) -> Result<Value> {
    Ok(json!({
        "Name": options.name,
        "Driver": options.driver,
        "Internal": options.internal,
        "EnableIPv6": options.ipv6,
        "Attachable": options.attachable,
        "Options": pairs(&options.opt, "--opt")?,
        "Labels": pairs(&options.label, "--label")?,
        "IPAM": { "Driver": "default", "Config": ranges(options)? },
    }))
}

/// Ranges, gateways and addresses go to the subnet that contains them.
fn ranges(options: &Options) -> Result<Vec<Value>> {
    let mut subnets: Vec<(IpNet, Map<String, Value>)> = Vec::new();
    for text in &options.subnet {
        let net: IpNet = text
            .parse()
            .with_context(|| format!("invalid --subnet '{text}'"))?;
        subnets.push((net, Map::from_iter([("Subnet".to_owned(), json!(text))])));
    }
    let mut put = |flag: &str, text: &str, address: IpAddr, key: &str, name: Option<&str>| {
        let Some((_, config)) = subnets.iter_mut().find(|(net, _)| net.contains(&address)) else {
            bail!("no --subnet contains {flag} '{text}'");
        };
        match name {
            None if config.contains_key(key) => bail!("{flag} is given twice for one subnet"),
            None => drop(config.insert(key.to_owned(), json!(text))),
            Some(name) => {
                let all = config.entry(key).or_insert_with(|| json!({}));
                all[name] = json!(address);
            }
        }
        Ok(())
    };
    for text in &options.ip_range {
        let net: IpNet = text
            .parse()
            .with_context(|| format!("invalid --ip-range '{text}'"))?;
        put("--ip-range", text, net.addr(), "IPRange", None)?;
    }
    for text in &options.gateway {
        let address = text
            .parse()
            .with_context(|| format!("invalid --gateway '{text}'"))?;
        put("--gateway", text, address, "Gateway", None)?;
    }
    for text in &options.aux_address {
        let split = text.split_once('=').context("expected name=address");
        let (name, address) = split.with_context(|| format!("invalid --aux-address '{text}'"))?;
        let address = address
            .parse()
            .with_context(|| format!("invalid --aux-address '{text}'"))?;
        put(
            "--aux-address",
            text,
            address,
            "AuxiliaryAddresses",
            Some(name),
        )?;
    }
    Ok(subnets
        .into_iter()
        .map(|(_, config)| Value::Object(config))
        .collect())
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

    fn parsed(words: &str) -> Result<Value> {
        body(&Line::try_parse_from(std::iter::once("create").chain(words.split(' ')))?.options)
    }

    #[test]
    fn flags_become_the_body() {
        let body = parsed(
            "--subnet 10.9.0.0/16 --subnet fd00::/64 --gateway fd00::5 --ip-range 10.9.1.0/24 --aux-address a=10.9.0.7 \
             --internal --ipv6 -o com.docker.network.driver.mtu=1400 --label x front",
        )
        .expect("good");
        assert_eq!(body["Name"], "front");
        assert_eq!(
            body["IPAM"]["Config"],
            json!([
                {"Subnet": "10.9.0.0/16", "IPRange": "10.9.1.0/24", "AuxiliaryAddresses": {"a": "10.9.0.7"}},
                {"Subnet": "fd00::/64", "Gateway": "fd00::5"},
            ])
        );
        assert_eq!(
            body["Options"],
            json!({"com.docker.network.driver.mtu": "1400"})
        );
        assert_eq!(
            (&body["Internal"], &body["Labels"]),
            (&json!(true), &json!({"x": ""}))
        );
    }

    #[test]
    fn mistakes_are_refused() {
        for bad in [
            "--subnet nowhere n",
            "--gateway 10.0.0.1 n",
            "--subnet 10.0.0.0/24 --gateway 10.1.0.1 n",
            "--subnet 10.0.0.0/24 --gateway 10.0.0.1 --gateway 10.0.0.2 n",
            "--subnet 10.0.0.0/24 --aux-address 10.0.0.9 n",
            "--label =x n",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
