//! What is mounted into a container.

use crate::parse;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

#[derive(clap::Args)]
#[command(next_help_heading = "Files")]
pub(super) struct Mounts {
    /// Mount a volume or a folder: [name or path:]/path/in/container[:ro]
    #[arg(short, long)]
    volume: Vec<String>,
    /// Mount something: type=volume|bind|tmpfs|image,source=NAME,target=/path[,readonly][,OPTION=VALUE]
    #[arg(long)]
    mount: Vec<String>,
    /// Mount a tmpfs: /path[:options]
    #[arg(long)]
    tmpfs: Vec<String>,
    /// Mount the volumes of another container: NAME[:ro]
    #[arg(long)]
    volumes_from: Vec<String>,
    /// Driver of the volumes that are made
    #[arg(long, default_value = "")]
    volume_driver: String,
}

impl Mounts {
    /// Answers the anonymous volumes, which are no setting of the host's.
    pub(super) fn add(&self, host: &mut Map<String, Value>) -> Result<Map<String, Value>> {
        let (mut volumes, mut binds) = (Map::new(), Vec::new());
        for text in &self.volume {
            match parse::volume(text)? {
                parse::Volume::Anonymous(path) => drop(volumes.insert(path, json!({}))),
                parse::Volume::Bind(bind) => binds.push(bind),
            }
        }
        host.insert("Binds".into(), json!(binds));
        host.insert("Tmpfs".into(), parse::pairs(&self.tmpfs, ':').into());
        if !self.mount.is_empty() {
            let mounts = self.mount.iter().map(|text| mount(text));
            host.insert(
                "Mounts".into(),
                mounts.collect::<Result<Vec<Value>>>()?.into(),
            );
        }
        if !self.volumes_from.is_empty() {
            host.insert("VolumesFrom".into(), json!(self.volumes_from));
        }
        if !self.volume_driver.is_empty() {
            host.insert("VolumeDriver".into(), json!(self.volume_driver));
        }
        Ok(volumes)
    }
}

/// `type=bind,source=/here,target=/there,readonly`, with the options of Docker's client.
fn mount(text: &str) -> Result<Value> {
    let wrong = |why: String| format!("invalid --mount '{text}': {why}");
    let mut mount = Map::new();
    let mut options: Map<String, Value> = Map::new();
    let mut set = |group: &str, key: &str, value: Value| {
        let group = options.entry(group).or_insert_with(|| json!({}));
        group[key] = value;
    };
    let (mut labels, mut driver) = (Map::new(), Map::new());
    let mut driver_name = None;
    for field in fields(text).context(wrong("a quote has no end".into()))? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_ascii_lowercase(), Some(value)),
            None => (field.to_ascii_lowercase(), None),
        };
        let flag = || match value {
            None => Ok(true),
            Some(text) => parse::truth(text)
                .with_context(|| wrong(format!("invalid value for {key}: {text}"))),
        };
        if matches!(
            key.as_str(),
            "readonly" | "ro" | "volume-nocopy" | "bind-nonrecursive" | "bind-create-src"
        ) {
            let given = json!(flag()?);
            match key.as_str() {
                "volume-nocopy" => set("VolumeOptions", "NoCopy", given),
                "bind-nonrecursive" => set("BindOptions", "NonRecursive", given),
                "bind-create-src" => set("BindOptions", "CreateMountpoint", given),
                _ => drop(mount.insert("ReadOnly".into(), given)),
            }
            continue;
        }
        let value = value
            .filter(|value| !value.is_empty())
            .with_context(|| wrong(format!("invalid field '{field}' must be a key=value pair")))?;
        match key.as_str() {
            "type" => drop(mount.insert("Type".into(), json!(value.to_ascii_lowercase()))),
            "source" | "src" => drop(mount.insert("Source".into(), json!(value))),
            "target" | "dst" | "destination" => drop(mount.insert("Target".into(), json!(value))),
            "consistency" => drop(mount.insert("Consistency".into(), json!(value))),
            "bind-propagation" => set("BindOptions", "Propagation", json!(value)),
            "bind-recursive" => match value {
                "enabled" => {}
                "disabled" => set("BindOptions", "NonRecursive", json!(true)),
                "writable" => set("BindOptions", "ReadOnlyNonRecursive", json!(true)),
                "readonly" => set("BindOptions", "ReadOnlyForceRecursive", json!(true)),
                _ => bail!(wrong(format!(
                    "invalid value for bind-recursive: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                ))),
            },
            "volume-subpath" => set("VolumeOptions", "Subpath", json!(value)),
            "volume-driver" => driver_name = Some(value.to_owned()),
            "volume-label" | "volume-opt" => {
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                let map = if key == "volume-opt" {
                    &mut driver
                } else {
                    &mut labels
                };
                map.insert(name.to_owned(), value.into());
            }
            "image-subpath" => set("ImageOptions", "Subpath", json!(value)),
            "tmpfs-size" => set("TmpfsOptions", "SizeBytes", json!(parse::bytes(value)?)),
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8)
                    .with_context(|| wrong(format!("invalid value for {key}: {value}")))?;
                set("TmpfsOptions", "Mode", json!(mode));
            }
            _ => bail!(wrong(format!("unknown option '{key}' in '{field}'"))),
        }
    }
    if !labels.is_empty() {
        set("VolumeOptions", "Labels", labels.into());
    }
    if driver_name.is_some() || !driver.is_empty() {
        let driver = json!({ "Name": driver_name.unwrap_or_default(), "Options": driver });
        set("VolumeOptions", "DriverConfig", driver);
    }
    if !mount.contains_key("Target") {
        bail!(wrong("target is required".into()));
    }
    let kind = mount.entry("Type").or_insert_with(|| json!("volume"));
    if *kind == "bind"
        && let Some(Value::String(source)) = mount.get_mut("Source")
        && source.starts_with('.')
    {
        let absolute = std::path::absolute(&*source)
            .with_context(|| wrong(format!("cannot tell where '{source}' is")))?;
        *source = absolute.display().to_string();
    }
    mount.append(&mut options);
    Ok(mount.into())
}

/// Fields with commas between them; one that has commas stands in quotes. `None`: a quote has no end.
pub(super) fn fields(text: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let field = fields.last_mut().expect("there is always one");
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => field.push(letter),
        }
    }
    (!quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_dockers_client_does() {
        for (text, expected) in [
            (
                "source=data,target=/data",
                json!({"Type": "volume", "Source": "data", "Target": "/data"}),
            ),
            (
                "type=bind,src=/a,dst=/b,readonly,bind-propagation=rshared,bind-recursive=disabled",
                json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true,
                    "BindOptions": {"Propagation": "rshared", "NonRecursive": true}}),
            ),
            (
                "type=tmpfs,destination=/t,ro=false,tmpfs-size=1m,tmpfs-mode=1770",
                json!({"Type": "tmpfs", "Target": "/t", "ReadOnly": false,
                    "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770}}),
            ),
            (
                "target=/v,volume-nocopy,volume-subpath=s,volume-label=a=b,volume-driver=local,\"volume-opt=o=uid=1,gid=2\"",
                json!({"Type": "volume", "Target": "/v", "VolumeOptions": {"NoCopy": true, "Subpath": "s",
                    "Labels": {"a": "b"}, "DriverConfig": {"Name": "local", "Options": {"o": "uid=1,gid=2"}}}}),
            ),
            (
                "type=image,source=busybox,target=/i,image-subpath=bin",
                json!({"Type": "image", "Source": "busybox", "Target": "/i", "ImageOptions": {"Subpath": "bin"}}),
            ),
        ] {
            assert_eq!(mount(text).expect(text), expected, "{text}");
        }
        let near = mount("type=bind,source=./x,target=/x").expect("good");
        assert!(near["Source"].as_str().expect("text").starts_with('/'));
    }

    #[test]
    fn mistakes_are_told() {
        for (text, expected) in [
            ("type=bind,source=/a", "target is required"),
            ("target=/a,source", "must be a key=value pair"),
            ("target=/a,colour=red", "unknown option 'colour'"),
            ("target=/a,readonly=maybe", "invalid value for readonly"),
            ("target=/a,tmpfs-mode=9", "invalid value for tmpfs-mode"),
            ("target=/a,\"source=b", "a quote has no end"),
        ] {
            let error = format!("{:#}", mount(text).expect_err(text));
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
