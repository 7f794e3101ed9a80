//! A container as flags describe it.

use super::health::Health;
use super::isolation::Isolation;
use super::limits::Limits;
use super::mounts::Mounts;
use super::networks::Networks;
use crate::engine::{Engine, EngineError, escape, query};
use crate::show::progress::Place;
use crate::{commands, parse};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// `-h` is the host name, as docker has it.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Container {
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Streams to join: stdin, stdout, stderr [default: both outputs, and the input with -i]
    #[arg(short, long, ignore_case = true)]
    attach: Vec<Stream>,
    /// Remove the container when it ends
    #[arg(long)]
    pub(crate) rm: bool,
    /// Name of the container
    #[arg(long)]
    name: Option<String>,
    /// Write the container's id to a file
    #[arg(long)]
    cidfile: Option<PathBuf>,
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
    /// Program to run instead of the image's own
    #[arg(long)]
    entrypoint: Option<String>,
    /// Host name
    #[arg(short = 'h', long, default_value = "")]
    hostname: String,
    /// Domain of the host
    #[arg(long, default_value = "")]
    domainname: String,
    /// Label: name=value
    #[arg(short, long)]
    label: Vec<String>,
    /// File of labels, one a line
    #[arg(long)]
    label_file: Vec<String>,
    /// Note for the program that runs it: name=value
    #[arg(long)]
    annotation: Vec<String>,
    /// When to start it again: no, on-failure[:times], always, unless-stopped
    #[arg(long, default_value = "no")]
    restart: String,
    /// Signal that asks it to end
    #[arg(long, default_value = "")]
    stop_signal: String,
    /// Seconds it has for its end; -1 is as long as it takes
    #[arg(long, allow_negative_numbers = true)]
    stop_timeout: Option<i64>,
    /// Where its output is kept: json-file, local or none
    #[arg(long, default_value = "")]
    log_driver: String,
    /// How its output is kept: max-size=10m and the like
    #[arg(long)]
    log_opt: Vec<String>,
    /// When to download the image: missing, always or never
    #[arg(long, default_value = "missing")]
    pull: String,
    /// Platform of the image, for example linux/amd64
    #[arg(long)]
    platform: Option<String>,
    /// Do not show the progress of the download
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    networks: Networks,
    #[command(flatten)]
    mounts: Mounts,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    isolation: Isolation,
    #[command(flatten)]
    health: Health,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    image: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Stream {
    Stdin,
    Stdout,
    Stderr,
}

/// Which streams the client joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attached {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

impl Container {
    /// Those that are named; else both outputs, and the input where it is kept open.
    pub(crate) fn attached(&self) -> Attached {
        let named = |stream, default| match self.attach.is_empty() {
            true => default,
            false => self.attach.contains(&stream),
        };
        Attached {
            stdin: named(Stream::Stdin, self.interactive),
            stdout: named(Stream::Stdout, true),
            stderr: named(Stream::Stderr, true),
        }
    }

    /// Whether `-a` was given.
    pub(crate) fn names_streams(&self) -> bool {
        !self.attach.is_empty()
    }

    /// Makes it; answers its id. `attaches`: somebody will join its streams.
    pub(crate) async fn create(&self, engine: &Engine, attaches: bool) -> Result<String> {
        let body = self.body(attaches)?;
        if let Some(file) = &self.cidfile
            && file.exists()
        {
            bail!(
                "container ID file found, make sure the other container isn't running or delete {}",
                file.display()
            );
        }
        let image = commands::pull::with_tag(&self.image);
        // Standard output is the container's.
        let download = || {
            let platform = self.platform.as_deref();
            commands::pull::download(engine, &image, platform, self.quiet, Place::Errors)
        };
        match self.pull.as_str() {
            "always" => download().await?,
            "missing" | "never" => {}
            other => bail!("invalid --pull '{other}': it is missing, always or never"),
        }
        let mut pairs: Vec<(&str, String)> = Vec::new();
        pairs.extend(self.name.clone().map(|name| ("name", name)));
        pairs.extend(self.platform.clone().map(|platform| ("platform", platform)));
        let path = format!("/containers/create{}", query(&pairs));
        let created = match engine.post(&path, Some(&body)).await {
            Err(error)
                if self.pull == "missing"
                    && is_missing_image(&error)
                    && !is_of_a_mount(&error.to_string(), &body) =>
            {
                if !self.quiet {
                    eprintln!("Unable to find image '{image}' locally");
                }
                download().await?;
                engine.post(&path, Some(&body)).await?
            }
            other => other?,
        };
        let warnings = created["Warnings"].as_array().into_iter().flatten();
        for warning in warnings.filter_map(Value::as_str) {
            eprintln!("WARNING: {warning}");
        }
        let id = created["Id"]
            .as_str()
            .context("the engine gave the container no id")?;
        if let Some(file) = &self.cidfile {
            std::fs::write(file, id).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(escape(id))
    }

    fn body(&self, attaches: bool) -> Result<Value> {
        let mut env = Vec::new();
        for file in &self.env_file {
            env.extend(parse::variables_of_file(file)?);
        }
        for text in &self.env {
            env.extend(parse::variable(text)?);
        }
        let mut labels = Map::new();
        for file in &self.label_file {
            labels.extend(parse::labels_of_file(file)?);
        }
        labels.extend(parse::pairs(&self.label, '='));
        let (policy, retries) = parse::restart_policy(&self.restart)?;
        let mut host = Map::new();
        for (key, value) in [
            ("AutoRemove", json!(self.rm)),
            (
                "RestartPolicy",
                json!({ "Name": policy, "MaximumRetryCount": retries }),
            ),
        ] {
            host.insert(key.into(), value);
        }
        let (exposed, endpoints) = self.networks.add(&mut host)?;
        let volumes = self.mounts.add(&mut host)?;
        self.limits.add(&mut host)?;
        self.isolation.add(&mut host)?;
        if !self.annotation.is_empty() {
            let notes = parse::pairs(&self.annotation, '=');
            host.insert("Annotations".into(), notes.into());
        }
        if !self.log_driver.is_empty() || !self.log_opt.is_empty() {
            let options = parse::pairs(&self.log_opt, '=');
            let log = json!({ "Type": self.log_driver, "Config": options });
            host.insert("LogConfig".into(), log);
        }
        if let Some(file) = &self.cidfile {
            host.insert("ContainerIDFile".into(), json!(file));
        }
        let attached = self.attached();
        let mut body = json!({
            "Image": self.image,
            "Hostname": self.hostname,
            "Domainname": self.domainname,
            "User": self.user,
            "AttachStdin": attached.stdin && attaches,
            "AttachStdout": attached.stdout && attaches,
            "AttachStderr": attached.stderr && attaches,
            "Tty": self.tty,
            "OpenStdin": self.interactive,
            "StdinOnce": self.interactive && attached.stdin && attaches,
            "Env": env,
            "WorkingDir": self.workdir,
            "Labels": labels,
            "ExposedPorts": exposed,
            "Volumes": volumes,
            "HostConfig": host,
            "NetworkingConfig": { "EndpointsConfig": endpoints },
        });
        if !self.command.is_empty() {
            body["Cmd"] = json!(self.command);
        }
        if let Some(program) = &self.entrypoint {
            // docker's way to say "none": an empty word.
            body["Entrypoint"] = json!([program]);
        }
        if !self.stop_signal.is_empty() {
            body["StopSignal"] = json!(self.stop_signal);
        }
        if let Some(seconds) = self.stop_timeout {
            body["StopTimeout"] = json!(seconds);
        }
        if let Some(check) = self.health.check()? {
            body["Healthcheck"] = check;
        }
        Ok(body)
    }
}

fn is_missing_image(error: &anyhow::Error) -> bool {
    EngineError::is_not_found(error) && error.to_string().contains("No such image")
}

/// Whether the image that is missing is one that is to be mounted: as with Docker's client that is not downloaded, and
/// downloading the container's would not help.
fn is_of_a_mount(error: &str, body: &Value) -> bool {
    let mounts = body["HostConfig"]["Mounts"].as_array();
    let images = mounts
        .into_iter()
        .flatten()
        .filter(|mount| mount["Type"] == "image");
    let mut sources = images.filter_map(|mount| mount["Source"].as_str());
    sources.any(|source| {
        let missing = format!("No such image: {source}");
        error.ends_with(&missing) || error.ends_with(&format!("{missing}:latest"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_image_of_the_container_is_downloaded() {
        let body = json!({ "Image": "web", "HostConfig": { "Mounts": [
            { "Type": "volume", "Source": "web" },
            { "Type": "image", "Source": "data" },
        ] } });
        assert!(is_of_a_mount("No such image: data:latest", &body));
        assert!(!is_of_a_mount("No such image: web:latest", &body));
        assert!(!is_of_a_mount("No such image: data:1", &body));
        assert!(!is_of_a_mount("No such image: web:latest", &json!({})));
    }
    use clap::{CommandFactory, Parser};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        container: Container,
    }

    fn parsed(words: &str) -> Result<Value> {
        let line = Line::try_parse_from(std::iter::once("run").chain(words.split(' ')))?;
        line.container.body(true)
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
        let body = parsed("--network name=front,alias=a,alias=b,ip=10.1.0.9 --network name=back,driver-opt=k=v,gw-priority=2,mac-address=02:00:00:00:00:01 --network-alias c img").expect("good");
        assert_eq!(body["HostConfig"]["NetworkMode"], "front");
        let endpoints = &body["NetworkingConfig"]["EndpointsConfig"];
        assert_eq!(endpoints["front"]["Aliases"], json!(["a", "b", "c"]));
        assert_eq!(endpoints["front"]["IPAMConfig"]["IPv4Address"], "10.1.0.9");
        assert_eq!(
            endpoints["back"],
            json!({"DriverOpts": {"k": "v"}, "GwPriority": 2, "MacAddress": "02:00:00:00:00:01"})
        );
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

    /// Every flag of `docker create` (28.5) that says something about a container on Linux.
    #[test]
    fn every_flag_of_docker_has_its_place() {
        let at = |flag: &str, pointer: &'static str, value: Value| {
            let body = parsed(&format!("{flag} img")).expect(flag);
            assert_eq!(body.pointer(pointer), Some(&value), "{flag}");
        };
        let host = |flag: &str, key: &'static str, value: Value| {
            let body = parsed(&format!("{flag} img")).expect(flag);
            assert_eq!(body["HostConfig"][key], value, "{flag}");
        };
        at("-h box", "/Hostname", json!("box"));
        at(
            "--domainname example.org",
            "/Domainname",
            json!("example.org"),
        );
        at(
            "--expose 80-81/udp",
            "/ExposedPorts",
            json!({"80/udp": {}, "81/udp": {}}),
        );
        at("--stop-signal INT", "/StopSignal", json!("INT"));
        at("--stop-timeout 120", "/StopTimeout", json!(120));
        at("--stop-timeout -1", "/StopTimeout", json!(-1));
        at(
            "--no-healthcheck",
            "/Healthcheck",
            json!({"Test": ["NONE"]}),
        );
        at(
            "--health-cmd true --health-interval 1m30s --health-timeout 2s --health-retries 4 --health-start-period 0s --health-start-interval 250ms",
            "/Healthcheck",
            json!({"Test": ["CMD-SHELL", "true"], "Interval": 90_000_000_000_i64, "Timeout": 2_000_000_000_i64,
                "Retries": 4, "StartPeriod": 0, "StartInterval": 250_000_000}),
        );
        at(
            "--network n --link-local-ip 169.254.1.1",
            "/NetworkingConfig/EndpointsConfig/n/IPAMConfig/LinkLocalIPs",
            json!(["169.254.1.1"]),
        );
        at("-a stderr", "/AttachStdout", json!(false));
        at("-a stderr", "/AttachStderr", json!(true));
        at("-i -a stdin", "/StdinOnce", json!(true));
        host("--annotation a=b", "Annotations", json!({"a": "b"}));
        host("--blkio-weight 10", "BlkioWeight", json!(10));
        host(
            "--blkio-weight-device /dev/a:20",
            "BlkioWeightDevice",
            json!([{"Path": "/dev/a", "Weight": 20}]),
        );
        for (flag, key, amount) in [
            ("--device-read-bps /dev/a:1m", "BlkioDeviceReadBps", 1 << 20),
            ("--device-write-bps /dev/a:1k", "BlkioDeviceWriteBps", 1024),
            ("--device-read-iops /dev/a:7", "BlkioDeviceReadIOps", 7),
            ("--device-write-iops /dev/a:8", "BlkioDeviceWriteIOps", 8),
        ] {
            host(flag, key, json!([{"Path": "/dev/a", "Rate": amount}]));
        }
        host("--cgroup-parent /p", "CgroupParent", json!("/p"));
        host("--cgroupns host", "CgroupnsMode", json!("host"));
        host(
            "--cidfile /no/such/f",
            "ContainerIDFile",
            json!("/no/such/f"),
        );
        host("--cpu-period 1000", "CpuPeriod", json!(1000));
        host("--cpu-quota -1", "CpuQuota", json!(-1));
        host("--cpu-rt-period 5", "CpuRealtimePeriod", json!(5));
        host("--cpu-rt-runtime 6", "CpuRealtimeRuntime", json!(6));
        host("-c 512", "CpuShares", json!(512));
        host("--cpuset-cpus 0-1", "CpusetCpus", json!("0-1"));
        host("--cpuset-mems 0", "CpusetMems", json!("0"));
        host(
            "--device /dev/fuse:r",
            "Devices",
            json!([{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "r"}]),
        );
        host("--device-cgroup-rule x", "DeviceCgroupRules", json!(["x"]));
        host("--dns-opt ndots:1", "DnsOptions", json!(["ndots:1"]));
        host(
            "--gpus all",
            "DeviceRequests",
            json!([{"Driver": "", "Count": -1, "DeviceIDs": [], "Capabilities": [["gpu"]]}]),
        );
        host("--group-add 5", "GroupAdd", json!(["5"]));
        host("--ipc private", "IpcMode", json!("private"));
        host("--isolation default", "Isolation", json!("default"));
        host("--kernel-memory 8m", "KernelMemory", json!(8 << 20));
        host(
            "--log-driver local --log-opt max-size=1m",
            "LogConfig",
            json!({"Type": "local", "Config": {"max-size": "1m"}}),
        );
        host(
            "--memory-reservation 1m",
            "MemoryReservation",
            json!(1 << 20),
        );
        host("--memory-swap -1", "MemorySwap", json!(-1));
        host("--memory-swappiness 0", "MemorySwappiness", json!(0));
        host(
            "--mount source=d,target=/d",
            "Mounts",
            json!([{"Type": "volume", "Source": "d", "Target": "/d"}]),
        );
        host("--oom-kill-disable", "OomKillDisable", json!(true));
        host("--oom-score-adj -5", "OomScoreAdj", json!(-5));
        host("--pid host", "PidMode", json!("host"));
        host("--pids-limit -1", "PidsLimit", json!(-1));
        host("--runtime crun", "Runtime", json!("crun"));
        host(
            "--security-opt no-new-privileges",
            "SecurityOpt",
            json!(["no-new-privileges"]),
        );
        host("--shm-size 1m", "ShmSize", json!(1 << 20));
        host("--storage-opt size=1g", "StorageOpt", json!({"size": "1g"}));
        host("--sysctl a.b=1", "Sysctls", json!({"a.b": "1"}));
        host(
            "--ulimit nofile=1:2",
            "Ulimits",
            json!([{"Name": "nofile", "Soft": 1, "Hard": 2}]),
        );
        host("--userns host", "UsernsMode", json!("host"));
        host("--uts host", "UTSMode", json!("host"));
        host("--volume-driver d", "VolumeDriver", json!("d"));
        host("--volumes-from a:ro", "VolumesFrom", json!(["a:ro"]));
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("labels");
        std::fs::write(&file, "# one\na=1\n\nb\n").expect("written");
        let flags = format!("--label-file {} -l a=2", file.display());
        at(&flags, "/Labels", json!({"a": "2", "b": ""}));
        Line::command().debug_assert();
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
            "--expose 0 img",
            "-a stdother img",
            "--ulimit nofile img",
            "--network alias=a img",
            "--network name=a,colour=red img",
            "--network name=a,ip=10.0.0.1 --ip 10.0.0.2 img",
            "--health-interval soon img",
            "--no-healthcheck --health-cmd true img",
            "--device-read-bps sda:1 img",
            "--label-file /no/such/file img",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
