//! `berth run`: create, attach, start, wait.

use crate::engine::{Engine, EngineError, escape, query};
use crate::show::progress::Place;
use crate::{commands, parse, show, streams};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run in the background and print the container's id
    #[arg(short, long)]
    detach: bool,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,
    /// Remove the container when it ends
    #[arg(long)]
    rm: bool,
    /// Name of the container
    #[arg(long)]
    name: Option<String>,
    /// Set an environment variable: NAME=value, or NAME to pass ours on
    #[arg(short, long)]
    env: Vec<String>,
    /// File of environment variables, one a line
    #[arg(long)]
    env_file: Vec<String>,
    /// Working directory
    #[arg(short, long, default_value = "")]
    workdir: String,
    /// User name or number, and group: user[:group]
    #[arg(short, long, default_value = "")]
    user: String,
    /// Mount a volume or a folder: [name or path:]/path/in/container[:ro]
    #[arg(short, long)]
    volume: Vec<String>,
    /// Mount a tmpfs: /path[:options]
    #[arg(long)]
    tmpfs: Vec<String>,
    /// Publish a port: [address:][host port:]container port[/udp]
    #[arg(short, long)]
    publish: Vec<String>,
    /// Publish every exposed port at a free port
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Network: a name, bridge, host, none or container:NAME; several are all joined
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
    #[arg(long)]
    dns_option: Vec<String>,
    /// Domain that short names are looked up in
    #[arg(long)]
    dns_search: Vec<String>,
    /// Program to run instead of the image's own
    #[arg(long)]
    entrypoint: Option<String>,
    /// Host name
    #[arg(long, default_value = "")]
    hostname: String,
    /// Label: name=value
    #[arg(short, long)]
    label: Vec<String>,
    /// When to start it again: no, on-failure[:times], always, unless-stopped
    #[arg(long, default_value = "no")]
    restart: String,
    /// Memory limit, for example 512m
    #[arg(short, long)]
    memory: Option<String>,
    /// CPUs it may use, for example 1.5
    #[arg(long)]
    cpus: Option<f64>,
    /// Add a capability
    #[arg(long)]
    cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long)]
    cap_drop: Vec<String>,
    /// Give it every right on the host
    #[arg(long)]
    privileged: bool,
    /// Mount the root file system read-only
    #[arg(long)]
    read_only: bool,
    /// Run a small init that reaps processes and passes signals on
    #[arg(long)]
    init: bool,
    /// Add a line to /etc/hosts: name:address
    #[arg(long)]
    add_host: Vec<String>,
    /// When to download the image: missing, always or never
    #[arg(long, default_value = "missing")]
    pull: String,
    /// Platform of the image, for example linux/amd64
    #[arg(long)]
    platform: Option<String>,
    /// Do not show the progress of the download
    #[arg(short, long)]
    quiet: bool,
    /// Pass signals on to the program
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    sig_proxy: bool,
    /// Keys that detach from the terminal
    #[arg(long)]
    detach_keys: Option<String>,
    image: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: Options) -> Result<u8> {
    if options.tty && options.interactive && !options.detach && !streams::stdin_is_terminal() {
        bail!("the input device is not a TTY: leave out -t, or run berth in a terminal");
    }
    let body = body(&options)?;
    let id = create(engine, &options, &body).await?;
    if options.detach {
        engine
            .post(&format!("/containers/{id}/start"), None)
            .await?;
        show::print(&format!("{id}\n"))?;
        return Ok(0);
    }
    // Attached before it starts, so that its first byte is not lost; waited for before it starts, so that its end
    // is not missed.
    let mut pairs = vec![
        ("stream", "1".to_owned()),
        ("stdout", "1".to_owned()),
        ("stderr", "1".to_owned()),
        ("stdin", u8::from(options.interactive).to_string()),
    ];
    pairs.extend(options.detach_keys.clone().map(|keys| ("detachKeys", keys)));
    let stream = engine
        .hijack(&format!("/containers/{id}/attach{}", query(&pairs)), None)
        .await?;
    let condition = if options.rm { "removed" } else { "next-exit" };
    let wait_path = format!("/containers/{id}/wait?condition={condition}");
    let mut waited = std::pin::pin!(engine.stream(http::Method::POST, &wait_path, &[]));
    // The engine answers with headers at once and with the body at the end: from here on nothing is missed.
    let exit = waited.as_mut().await?;
    let terminal = options.tty && streams::stdin_is_terminal();
    if terminal && options.interactive {
        streams::raw_terminal()?;
    }
    engine
        .post(&format!("/containers/{id}/start"), None)
        .await?;
    let resize = format!("/containers/{id}/resize");
    tokio::select! {
        joined = streams::join(stream, !options.tty, options.interactive) => joined?,
        () = streams::follow_window(engine, &resize), if terminal => {}
        () = streams::forward_signals(engine, &id), if options.sig_proxy && !options.tty => {}
    }
    streams::restore_terminal();
    commands::attach::exit_code(engine, &id, options.tty, exit).await
}

async fn create(engine: &Engine, options: &Options, body: &Value) -> Result<String> {
    let image = commands::pull::with_tag(&options.image);
    // Standard output is the container's.
    let download = || {
        let platform = options.platform.as_deref();
        commands::pull::download(engine, &image, platform, options.quiet, Place::Errors)
    };
    match options.pull.as_str() {
        "always" => download().await?,
        "missing" | "never" => {}
        other => bail!("invalid --pull '{other}': it is missing, always or never"),
    }
    let mut pairs: Vec<(&str, String)> = Vec::new();
    pairs.extend(options.name.clone().map(|name| ("name", name)));
    pairs.extend(
        options
            .platform
            .clone()
            .map(|platform| ("platform", platform)),
    );
    let path = format!("/containers/create{}", query(&pairs));
    let created = match engine.post(&path, Some(body)).await {
        Err(error) if options.pull == "missing" && is_missing_image(&error) => {
            if !options.quiet {
                eprintln!("Unable to find image '{image}' locally");
            }
            download().await?;
            engine.post(&path, Some(body)).await?
        }
        other => other?,
    };
    for warning in created["Warnings"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        eprintln!("WARNING: {warning}");
    }
    Ok(escape(
        created["Id"]
            .as_str()
            .context("the engine gave the container no id")?,
    ))
}

fn is_missing_image(error: &anyhow::Error) -> bool {
    EngineError::is_not_found(error) && error.to_string().contains("No such image")
}

fn body(options: &Options) -> Result<Value> {
    let mut env = Vec::new();
    for file in &options.env_file {
        env.extend(parse::variables_of_file(file)?);
    }
    for text in &options.env {
        env.extend(parse::variable(text)?);
    }
    let (mut exposed, mut bindings) = (Map::new(), Map::new());
    for text in &options.publish {
        parse::publish(text, &mut exposed, &mut bindings)?;
    }
    let (mut volumes, mut binds) = (Map::new(), Vec::new());
    for text in &options.volume {
        match parse::volume(text)? {
            parse::Volume::Anonymous(path) => drop(volumes.insert(path, json!({}))),
            parse::Volume::Bind(bind) => binds.push(bind),
        }
    }
    let pairs = |list: &[String], separator: char| -> Map<String, Value> {
        let split = list
            .iter()
            .map(|text| text.split_once(separator).unwrap_or((text, "")));
        split
            .map(|(key, value)| (key.to_owned(), Value::from(value)))
            .collect()
    };
    let (policy, retries) = parse::restart_policy(&options.restart)?;
    let mut host = json!({
        "AutoRemove": options.rm,
        "Binds": binds,
        "PortBindings": bindings,
        "PublishAllPorts": options.publish_all,
        "NetworkMode": options.network.first().map_or("default", String::as_str),
        "Dns": options.dns,
        "DnsOptions": options.dns_option,
        "DnsSearch": options.dns_search,
        "RestartPolicy": { "Name": policy, "MaximumRetryCount": retries },
        "CapAdd": options.cap_add,
        "CapDrop": options.cap_drop,
        "Privileged": options.privileged,
        "ReadonlyRootfs": options.read_only,
        "ExtraHosts": options.add_host,
        "Tmpfs": pairs(&options.tmpfs, ':'),
    });
    let (endpoints, links) = endpoints(options);
    host["Links"] = links;
    if let Some(memory) = &options.memory {
        host["Memory"] = Value::from(parse::bytes(memory)?);
    }
    if let Some(cpus) = options.cpus {
        if !(cpus.is_finite() && cpus > 0.0) {
            bail!("invalid --cpus {cpus}: it must be more than 0");
        }
        host["NanoCpus"] = Value::from((cpus * 1e9) as i64);
    }
    if options.init {
        host["Init"] = Value::Bool(true);
    }
    let attached = !options.detach;
    let mut body = json!({
        "Image": options.image,
        "Hostname": options.hostname,
        "User": options.user,
        "AttachStdin": options.interactive && attached,
        "AttachStdout": attached,
        "AttachStderr": attached,
        "Tty": options.tty,
        "OpenStdin": options.interactive,
        "StdinOnce": options.interactive && attached,
        "Env": env,
        "WorkingDir": options.workdir,
        "Labels": pairs(&options.label, '='),
        "ExposedPorts": exposed,
        "Volumes": volumes,
        "HostConfig": host,
        "NetworkingConfig": { "EndpointsConfig": endpoints },
    });
    if !options.command.is_empty() {
        body["Cmd"] = json!(options.command);
    }
    if let Some(program) = &options.entrypoint {
        // docker's way to say "none": an empty word.
        body["Entrypoint"] = json!([program]);
    }
    Ok(body)
}

/// What is asked of each network, and the links of the default one: those of another network are the network's.
fn endpoints(options: &Options) -> (Value, Value) {
    let mut endpoints = Map::new();
    let first = options.network.first().map_or("default", String::as_str);
    let on_default = matches!(first, "default" | "bridge");
    let own = json!({
        "Aliases": options.network_alias,
        "Links": if on_default { json!([]) } else { json!(options.link) },
        "MacAddress": options.mac_address,
        "IPAMConfig": { "IPv4Address": options.ip, "IPv6Address": options.ip6 },
    });
    let asked = !options.network_alias.is_empty()
        || ![&options.ip, &options.ip6, &options.mac_address]
            .iter()
            .all(|text| text.is_empty())
        || (!on_default && !options.link.is_empty());
    if asked || options.network.len() > 1 {
        endpoints.insert(first.to_owned(), own);
    }
    for network in options.network.iter().skip(1) {
        endpoints.insert(network.clone(), json!({}));
    }
    let links = if on_default {
        json!(options.link)
    } else {
        json!([])
    };
    (Value::Object(endpoints), links)
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
        body(&Line::try_parse_from(std::iter::once("run").chain(words.split(' ')))?.options)
    }

    #[test]
    fn flags_become_the_body() {
        let body = parsed("--rm -it -p 8080:80 -v data:/data -v /cache -e A=1 -w /w -u 1:2 -m 64m --cpus 1.5 img sh -c x")
            .expect("good");
        assert_eq!(body["Image"], "img");
        assert_eq!(body["Cmd"], json!(["sh", "-c", "x"]));
        assert_eq!(body["Env"], json!(["A=1"]));
        assert_eq!(body["Volumes"], json!({ "/cache": {} }));
        assert_eq!(body["HostConfig"]["Binds"], json!(["data:/data"]));
        assert_eq!(body["HostConfig"]["Memory"], 64 << 20);
        assert_eq!(body["HostConfig"]["NanoCpus"], 1_500_000_000);
        assert_eq!(body["HostConfig"]["AutoRemove"], true);
        assert_eq!(body["ExposedPorts"], json!({ "80/tcp": {} }));
        assert_eq!(
            (&body["Tty"], &body["StdinOnce"]),
            (&json!(true), &json!(true))
        );
        assert_eq!(body["HostConfig"]["Init"], Value::Null);
    }

    #[test]
    fn networks_and_names() {
        let body = parsed("--network front --network back --network-alias www --ip 10.1.0.9 --link db:database --dns 192.0.2.1 img").expect("good");
        assert_eq!(body["HostConfig"]["NetworkMode"], "front");
        assert_eq!(body["HostConfig"]["Dns"], json!(["192.0.2.1"]));
        let endpoints = &body["NetworkingConfig"]["EndpointsConfig"];
        assert_eq!(endpoints["front"]["Aliases"], json!(["www"]));
        assert_eq!(endpoints["front"]["Links"], json!(["db:database"]));
        assert_eq!(endpoints["front"]["IPAMConfig"]["IPv4Address"], "10.1.0.9");
        assert_eq!(endpoints["back"], json!({}));
        let body = parsed("--link db img").expect("good");
        assert_eq!(body["HostConfig"]["Links"], json!(["db"]));
        assert_eq!(body["NetworkingConfig"]["EndpointsConfig"], json!({}));
    }

    #[test]
    fn words_after_the_image_belong_to_the_program() {
        let body = parsed("img ls --rm -p").expect("good");
        assert_eq!(body["Cmd"], json!(["ls", "--rm", "-p"]));
        assert_eq!(body["HostConfig"]["AutoRemove"], false);
    }

    #[test]
    fn mistakes_are_refused() {
        for bad in [
            "-p x img",
            "-v a:b img",
            "-m lots img",
            "--cpus 0 img",
            "--restart sometimes img",
            "-e =x img",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
