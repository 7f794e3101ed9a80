//! Networks that a container joins, and what of it is reached.

use super::mounts::fields;
use crate::parse;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

#[derive(clap::Args)]
#[command(next_help_heading = "Networks")]
pub(super) struct Networks {
    /// Publish a port: [address:][host port:]container port[/udp]
    #[arg(short, long)]
    publish: Vec<String>,
    /// Publish every exposed port at a free port
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Expose a port, or several: port[-last][/udp]
    #[arg(long)]
    expose: Vec<String>,
    /// Network: a name, bridge, host, none or container:NAME; or name=NAME[,alias=..][,ip=..][,ip6=..][,mac-address=..]
    /// [,link-local-ip=..][,driver-opt=KEY=VALUE][,gw-priority=..]; several are all joined
    #[arg(long, visible_alias = "net")]
    network: Vec<String>,
    /// One more name in its (first) network
    #[arg(long, visible_alias = "net-alias")]
    network_alias: Vec<String>,
    /// IPv4 address in its (first) network
    #[arg(long, default_value = "")]
    ip: String,
    /// IPv6 address in its (first) network
    #[arg(long, default_value = "")]
    ip6: String,
    /// One more address, of its link only, in its (first) network
    #[arg(long)]
    link_local_ip: Vec<String>,
    /// Hardware address in its (first) network
    #[arg(long, default_value = "")]
    mac_address: String,
    /// A name of its own for another container: container[:alias]
    #[arg(long)]
    link: Vec<String>,
    /// DNS server
    #[arg(long)]
    dns: Vec<String>,
    /// DNS option, for example timeout:1
    #[arg(long, alias = "dns-opt")]
    dns_option: Vec<String>,
    /// Domain that short names are looked up in
    #[arg(long)]
    dns_search: Vec<String>,
    /// Add a line to /etc/hosts: name:address
    #[arg(long)]
    add_host: Vec<String>,
}

/// A network, and what is asked of it.
struct Joined {
    name: String,
    endpoint: Map<String, Value>,
}

impl Networks {
    /// Answers the exposed ports and what is asked of each network, which are no settings of the host's.
    pub(super) fn add(&self, host: &mut Map<String, Value>) -> Result<(Map<String, Value>, Value)> {
        let (mut exposed, mut bindings) = (Map::new(), Map::new());
        for text in &self.publish {
            parse::publish(text, &mut exposed, &mut bindings)?;
        }
        for text in &self.expose {
            parse::expose(text, &mut exposed)?;
        }
        let mut joined: Vec<Joined> = self
            .network
            .iter()
            .map(|text| join(text))
            .collect::<Result<_>>()?;
        if joined.is_empty() {
            joined.push(join("default")?);
        }
        let several = joined.len() > 1;
        let first = &mut joined[0];
        let on_default = matches!(first.name.as_str(), "default" | "bridge");
        self.ask(&mut first.endpoint, on_default)?;
        // Links of the default network are the container's, those of another one are that network's.
        let links = if on_default { &self.link[..] } else { &[] };
        for (key, value) in [
            ("PortBindings", json!(bindings)),
            ("PublishAllPorts", json!(self.publish_all)),
            ("NetworkMode", json!(first.name)),
            ("Dns", json!(self.dns)),
            ("DnsOptions", json!(self.dns_option)),
            ("DnsSearch", json!(self.dns_search)),
            ("ExtraHosts", json!(self.add_host)),
            ("Links", json!(links)),
        ] {
            host.insert(key.into(), value);
        }
        let endpoints: Map<String, Value> = joined
            .into_iter()
            .filter(|one| several || !one.endpoint.is_empty())
            .map(|one| (one.name, one.endpoint.into()))
            .collect();
        Ok((exposed, endpoints.into()))
    }

    /// What flags of their own ask of the first network.
    fn ask(&self, endpoint: &mut Map<String, Value>, on_default: bool) -> Result<()> {
        for text in &self.network_alias {
            push(endpoint, "Aliases", text);
        }
        for (key, flag, text) in [
            ("IPv4Address", "ip", &self.ip),
            ("IPv6Address", "ip6", &self.ip6),
        ] {
            if !text.is_empty() {
                let addresses = endpoint.entry("IPAMConfig").or_insert_with(|| json!({}));
                if !addresses[key].is_null() {
                    bail!(
                        "conflicting options: cannot specify both --{flag} and per-network {flag}"
                    );
                }
                addresses[key] = json!(text);
            }
        }
        for text in &self.link_local_ip {
            push_address(endpoint, text);
        }
        if !self.mac_address.is_empty() {
            endpoint.insert("MacAddress".into(), json!(self.mac_address));
        }
        if !on_default && !self.link.is_empty() {
            endpoint.insert("Links".into(), json!(self.link));
        }
        Ok(())
    }
}

fn push(endpoint: &mut Map<String, Value>, key: &str, text: &str) {
    let list = endpoint.entry(key).or_insert_with(|| json!([]));
    let list = list.as_array_mut().expect("made as a list");
    list.push(text.into());
}

fn push_address(endpoint: &mut Map<String, Value>, text: &str) {
    let addresses = endpoint.entry("IPAMConfig").or_insert_with(|| json!({}));
    let addresses = addresses.as_object_mut().expect("made as an object");
    push(addresses, "LinkLocalIPs", text);
}

/// A name, or `name=NAME,alias=OTHER,...`.
fn join(text: &str) -> Result<Joined> {
    let mut joined = Joined {
        name: text.to_owned(),
        endpoint: Map::new(),
    };
    if !text.contains('=') {
        return Ok(joined);
    }
    let wrong = |why: String| format!("invalid --network '{text}': {why}");
    joined.name.clear();
    let endpoint = &mut joined.endpoint;
    for field in fields(text).with_context(|| wrong("a quote has no end".into()))? {
        let (key, value) = field
            .split_once('=')
            .with_context(|| wrong(format!("invalid field {field}")))?;
        let key = key.trim().to_ascii_lowercase();
        match key.as_str() {
            "name" => value.clone_into(&mut joined.name),
            "alias" => push(endpoint, "Aliases", value),
            "ip" | "ip6" => {
                let family = if key == "ip" {
                    "IPv4Address"
                } else {
                    "IPv6Address"
                };
                let addresses = endpoint.entry("IPAMConfig").or_insert_with(|| json!({}));
                addresses[family] = json!(value);
            }
            "link-local-ip" => push_address(endpoint, value),
            "mac-address" => drop(endpoint.insert("MacAddress".into(), json!(value))),
            "driver-opt" => {
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                endpoint.entry("DriverOpts").or_insert_with(|| json!({}))[name] = json!(value);
            }
            "gw-priority" => {
                let priority: i64 = value
                    .parse()
                    .with_context(|| wrong(format!("invalid gw-priority ({value})")))?;
                endpoint.insert("GwPriority".into(), json!(priority));
            }
            _ => bail!(wrong(format!("invalid field key {key}"))),
        }
    }
    if joined.name.is_empty() {
        bail!(wrong("network name/id is not specified".into()));
    }
    Ok(joined)
}
