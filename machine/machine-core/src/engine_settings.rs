//! `--engine-*` flags of `create` as dockerd's `daemon.json`.
//! Names and kinds of the keys: <https://docs.docker.com/reference/cli/dockerd/#daemon-configuration-file>.

use crate::store::record::EngineOptions;
use serde_json::{Map, Value};

/// The contents of daemon.json.
pub type DaemonJson = Map<String, Value>;

/// What is wrong with an engine option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineOptionError {
    #[error("invalid value \"{value}\" for --engine-{flag}: {why}")]
    Invalid {
        flag: &'static str,
        value: String,
        why: &'static str,
    },
}

/// Options that are lists in daemon.json: (the command line's name, the file's key).
const LISTS: [(&str, &str); 7] = [
    ("dns", "dns"),
    ("dns-opt", "dns-opts"),
    ("dns-search", "dns-search"),
    ("host-gateway-ip", "host-gateway-ips"),
    ("insecure-registry", "insecure-registries"),
    ("label", "labels"),
    ("registry-mirror", "registry-mirrors"),
];

/// The other options our engine has (`serve/options.rs` in agent-server). It refuses to start with any other, so they are
/// refused here, before a machine is made.
const SINGLE: [&str; 20] = [
    "bip",
    "bridge",
    "debug",
    "default-runtime",
    "fixed-cidr",
    "fixed-cidr-v6",
    "icc",
    "ip",
    "ip-forward",
    "ip-masq",
    "ip6tables",
    "iptables",
    "ipv6",
    "live-restore",
    "log-driver",
    "log-level",
    "max-concurrent-downloads",
    "mtu",
    "storage-driver",
    "userland-proxy",
];

/// Set by the machine itself; an option would cut the desktop off or lose the data disk.
const OURS: [&str; 13] = [
    "H",
    "host",
    "hosts",
    "tls",
    "tlsverify",
    "tlscacert",
    "tlscert",
    "tlskey",
    "config-file",
    "data-root",
    "exec-root",
    "pidfile",
    "group",
];

/// Makes daemon.json. `driver` becomes the label `provider`, as docker-machine does.
pub fn daemon_json(options: &EngineOptions, driver: &str) -> Result<DaemonJson, EngineOptionError> {
    let mut json = DaemonJson::new();
    let mut labels = vec![format!("provider={driver}")];
    for label in &options.labels {
        key_value("label", label)?;
        labels.push(label.clone());
    }
    json.insert("labels".into(), labels.into());
    // The engine refuses these too, but only once the machine has booted.
    for mirror in &options.registry_mirror {
        if !mirror.starts_with("http://") && !mirror.starts_with("https://") {
            return Err(EngineOptionError::Invalid {
                flag: "registry-mirror",
                value: mirror.clone(),
                why: "it must begin with http:// or https://",
            });
        }
    }
    for registry in &options.insecure_registry {
        if registry.contains("://") {
            return Err(EngineOptionError::Invalid {
                flag: "insecure-registry",
                value: registry.clone(),
                why: "give HOST, HOST:PORT or a network, without http://",
            });
        }
    }
    list(&mut json, "dns", &options.dns);
    list(&mut json, "insecure-registries", &options.insecure_registry);
    list(&mut json, "registry-mirrors", &options.registry_mirror);
    for (key, value) in [
        ("storage-driver", &options.storage_driver),
        ("log-level", &options.log_level),
    ] {
        if !value.is_empty() {
            json.insert(key.into(), value.as_str().into());
        }
    }
    if let Some(variable) = options.env.first() {
        return Err(EngineOptionError::Invalid {
            flag: "env",
            value: variable.clone(),
            why: "this engine takes no variables; set proxies where the images come from, or use a mirror",
        });
    }
    for option in &options.arbitrary_flags {
        arbitrary(&mut json, option)?;
    }
    match json.get("storage-driver").and_then(Value::as_str) {
        None | Some("overlay2") => Ok(json),
        Some(other) => Err(EngineOptionError::Invalid {
            flag: "storage-driver",
            value: other.to_owned(),
            why: "this engine has overlay2 only",
        }),
    }
}

fn list(json: &mut DaemonJson, key: &str, values: &[String]) {
    for value in values {
        push(json, key, value);
    }
}

fn push(json: &mut DaemonJson, key: &str, value: &str) {
    match json.entry(key).or_insert_with(|| Value::Array(Vec::new())) {
        Value::Array(array) => array.push(value.into()),
        other => *other = vec![other.clone(), value.into()].into(),
    }
}

/// `KEY=VALUE`, or `KEY` for a switch, as on dockerd's command line.
fn arbitrary(json: &mut DaemonJson, option: &str) -> Result<(), EngineOptionError> {
    let invalid = |why| EngineOptionError::Invalid {
        flag: "opt",
        value: option.to_owned(),
        why,
    };
    let option_text = option.trim_start_matches('-');
    let (name, value) = match option_text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option_text, None),
    };
    if name.is_empty() {
        return Err(invalid("it must be KEY=VALUE"));
    }
    if OURS.contains(&name) {
        return Err(invalid(
            "the machine sets this itself, so that its API can be reached",
        ));
    }
    let list = LISTS
        .iter()
        .find(|(flag, key)| *flag == name || *key == name);
    match (name, list, value) {
        ("log-opt" | "default-ulimit", _, Some(value)) => {
            let (key, inner) = value
                .split_once('=')
                .ok_or_else(|| invalid("it must be OPTION=KEY=VALUE"))?;
            let (map, inner) = match name {
                "log-opt" => ("log-opts", inner.into()),
                _ => (
                    "default-ulimits",
                    ulimit(key, inner)
                        .ok_or_else(|| invalid("a limit is SOFT or SOFT:HARD, numbers both"))?,
                ),
            };
            let map = json.entry(map).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = map {
                map.insert(key.into(), inner);
            }
        }
        (_, Some((_, key)), Some(value)) => push(json, key, value),
        _ if SINGLE.contains(&name) => {
            let value = match (value, value.map(str::parse::<i64>)) {
                (None | Some("true"), _) => Value::Bool(true),
                (Some("false"), _) => Value::Bool(false),
                (_, Some(Ok(number))) => number.into(),
                (Some(text), _) => text.into(),
            };
            json.insert(name.into(), value);
        }
        (_, Some(_), None) | ("log-opt" | "default-ulimit", _, None) => {
            return Err(invalid("it must be KEY=VALUE"));
        }
        _ => return Err(invalid("this engine has no such option")),
    }
    Ok(())
}

/// One of daemon.json's `default-ulimits`.
fn ulimit(name: &str, text: &str) -> Option<Value> {
    let (soft, hard) = text.split_once(':').unwrap_or((text, text));
    let (soft, hard): (i64, i64) = (soft.parse().ok()?, hard.parse().ok()?);
    Some(serde_json::json!({"Name": name, "Soft": soft, "Hard": hard}))
}

fn key_value<'a>(
    flag: &'static str,
    text: &'a str,
) -> Result<(&'a str, &'a str), EngineOptionError> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key, value)),
        _ => Err(EngineOptionError::Invalid {
            flag,
            value: text.to_owned(),
            why: "it must be KEY=VALUE",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(options: EngineOptions, expected: Value) {
        let made = daemon_json(&options, "qemu").map(Value::Object);
        assert_eq!(made, Ok(expected));
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| text.to_string()).collect()
    }

    #[test]
    fn flags_become_daemon_json() {
        check(
            EngineOptions::default(),
            json!({"labels": ["provider=qemu"]}),
        );
        check(
            EngineOptions {
                registry_mirror: texts(&["http://m:5000"]),
                insecure_registry: texts(&["r:5000", "10.0.0.0/8"]),
                labels: texts(&["a=b"]),
                storage_driver: "overlay2".into(),
                arbitrary_flags: texts(&[
                    "dns=1.1.1.1",
                    "dns=8.8.8.8",
                    "max-concurrent-downloads=7",
                    "live-restore",
                    "--userland-proxy=false",
                    "log-opt=max-size=1m",
                    "bip=10.1.0.1/16",
                    "label=c=d",
                    "default-ulimit=nofile=64:128",
                ]),
                ..EngineOptions::default()
            },
            json!({
                "labels": ["provider=qemu", "a=b", "c=d"],
                "registry-mirrors": ["http://m:5000"],
                "insecure-registries": ["r:5000", "10.0.0.0/8"],
                "storage-driver": "overlay2",
                "dns": ["1.1.1.1", "8.8.8.8"],
                "max-concurrent-downloads": 7,
                "live-restore": true,
                "userland-proxy": false,
                "log-opts": {"max-size": "1m"},
                "bip": "10.1.0.1/16",
                "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 64, "Hard": 128}},
            }),
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for (option, part) in [
            ("=x", "KEY=VALUE"),
            ("host=tcp://0.0.0.0:1", "sets this itself"),
            ("tlsverify=false", "sets this itself"),
            ("log-opt=x", "OPTION=KEY=VALUE"),
            ("default-ulimit=nofile=x", "SOFT:HARD"),
            ("dns", "KEY=VALUE"),
            ("cgroup-parent=x", "no such option"),
            ("storage-driver=aufs", "overlay2 only"),
        ] {
            let options = EngineOptions {
                arbitrary_flags: texts(&[option]),
                ..EngineOptions::default()
            };
            let error = daemon_json(&options, "qemu").unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        for options in [
            EngineOptions {
                labels: texts(&["nonsense"]),
                ..EngineOptions::default()
            },
            EngineOptions {
                env: texts(&["PATH=/x"]),
                ..EngineOptions::default()
            },
        ] {
            assert!(daemon_json(&options, "qemu").is_err());
        }
    }
}
