//! What a container sees of the host, and what it may do there.

use super::devices;
use crate::parse;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

#[derive(clap::Args)]
#[command(next_help_heading = "Isolation")]
pub(super) struct Isolation {
    /// Add a capability
    #[arg(long)]
    cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long)]
    cap_drop: Vec<String>,
    /// Give it every right on the host
    #[arg(long)]
    privileged: bool,
    /// no-new-privileges, seccomp=FILE, apparmor=PROFILE, systempaths=unconfined and the like
    #[arg(long)]
    security_opt: Vec<String>,
    /// Mount the root file system read-only
    #[arg(long)]
    read_only: bool,
    /// Give it a device: /dev/here[:/dev/there][:rwm]
    #[arg(long)]
    device: Vec<String>,
    /// Let it use devices: c 1:3 rwm
    #[arg(long)]
    device_cgroup_rule: Vec<String>,
    /// Give it graphics processors: all, a number or device=ID
    #[arg(long)]
    gpus: Vec<String>,
    /// One more group of its user, by name or number
    #[arg(long)]
    group_add: Vec<String>,
    /// Setting of the kernel: name=value
    #[arg(long)]
    sysctl: Vec<String>,
    /// Processes it sees: host or container:NAME
    #[arg(long, default_value = "")]
    pid: String,
    /// Shared memory it sees: none, private, shareable, host or container:NAME
    #[arg(long, default_value = "")]
    ipc: String,
    /// Host name it sees: host
    #[arg(long, default_value = "")]
    uts: String,
    /// Users it sees: host
    #[arg(long, default_value = "")]
    userns: String,
    /// Control groups it sees: host or private
    #[arg(long, default_value = "")]
    cgroupns: String,
    /// Control group it is put below
    #[arg(long, default_value = "")]
    cgroup_parent: String,
    /// Program that runs it, by its name in the engine's settings
    #[arg(long, default_value = "")]
    runtime: String,
    /// How it is kept apart; on Linux: default
    #[arg(long, default_value = "")]
    isolation: String,
    /// Run a small init that reaps processes and passes signals on
    #[arg(long)]
    init: bool,
}

impl Isolation {
    pub(super) fn add(&self, host: &mut Map<String, Value>) -> Result<()> {
        for (key, value) in [
            ("CapAdd", json!(self.cap_add)),
            ("CapDrop", json!(self.cap_drop)),
            ("Privileged", json!(self.privileged)),
            ("ReadonlyRootfs", json!(self.read_only)),
        ] {
            host.insert(key.into(), value);
        }
        for (key, list) in [
            ("DeviceCgroupRules", &self.device_cgroup_rule),
            ("GroupAdd", &self.group_add),
        ] {
            if !list.is_empty() {
                host.insert(key.into(), json!(list));
            }
        }
        for (key, text) in [
            ("PidMode", &self.pid),
            ("IpcMode", &self.ipc),
            ("UTSMode", &self.uts),
            ("UsernsMode", &self.userns),
            ("CgroupnsMode", &self.cgroupns),
            ("CgroupParent", &self.cgroup_parent),
            ("Runtime", &self.runtime),
            ("Isolation", &self.isolation),
        ] {
            if !text.is_empty() {
                host.insert(key.into(), json!(text));
            }
        }
        type Reads = fn(&str) -> Result<Value>;
        let lists: [(&str, &[String], Reads); 2] = [
            ("Devices", &self.device, devices::device),
            ("DeviceRequests", &self.gpus, devices::gpus),
        ];
        for (key, texts, read) in lists {
            if !texts.is_empty() {
                let list = texts.iter().map(|text| read(text));
                host.insert(key.into(), list.collect::<Result<Vec<Value>>>()?.into());
            }
        }
        if !self.sysctl.is_empty() {
            host.insert("Sysctls".into(), parse::pairs(&self.sysctl, '=').into());
        }
        if self.init {
            host.insert("Init".into(), json!(true));
        }
        self.add_security(host)
    }

    /// A profile is a file of ours, and its text is what the engine gets.
    fn add_security(&self, host: &mut Map<String, Value>) -> Result<()> {
        let mut options = Vec::new();
        for text in &self.security_opt {
            let (key, value) = match text.split_once(['=', ':']) {
                Some((key, value)) => (key, value),
                None if text == "no-new-privileges" => (text.as_str(), ""),
                None => bail!("invalid --security-opt '{text}': expected name=value"),
            };
            match (key, value) {
                ("systempaths", "unconfined") => {
                    host.insert("MaskedPaths".into(), json!([]));
                    host.insert("ReadonlyPaths".into(), json!([]));
                }
                ("seccomp", path) if !matches!(path, "unconfined" | "builtin") => {
                    let profile = std::fs::read(path)
                        .with_context(|| format!("opening seccomp profile ({path}) failed"))?;
                    let profile: Value = serde_json::from_slice(&profile).with_context(|| {
                        format!("compacting json for seccomp profile ({path}) failed")
                    })?;
                    options.push(format!("seccomp={profile}"));
                }
                _ => options.push(text.clone()),
            }
        }
        if !options.is_empty() {
            host.insert("SecurityOpt".into(), json!(options));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        isolation: Isolation,
    }

    fn security(words: &[&str]) -> Result<Map<String, Value>> {
        let words = words.iter().flat_map(|word| ["--security-opt", word]);
        let line = Line::try_parse_from(std::iter::once("run").chain(words))?;
        let mut host = Map::new();
        line.isolation.add(&mut host)?;
        Ok(host)
    }

    #[test]
    fn a_seccomp_profile_is_sent_and_system_paths_are_lists() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("profile.json");
        std::fs::write(&file, "{ \"defaultAction\":\n \"SCMP_ACT_ALLOW\" }").expect("written");
        let profile = format!("seccomp={}", file.display());
        let words = [
            "no-new-privileges",
            "apparmor=unconfined",
            "systempaths=unconfined",
            &profile,
        ];
        let host = security(&words).expect("good");
        assert_eq!(
            host["SecurityOpt"],
            json!([
                "no-new-privileges",
                "apparmor=unconfined",
                "seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}"
            ])
        );
        assert_eq!(host["MaskedPaths"], json!([]));
        assert_eq!(host["ReadonlyPaths"], json!([]));
        let host = security(&["seccomp=unconfined"]).expect("good");
        assert_eq!(host["SecurityOpt"], json!(["seccomp=unconfined"]));
        assert!(security(&["seccomp=/no/such/file"]).is_err());
        assert!(security(&["something"]).is_err());
    }
}
