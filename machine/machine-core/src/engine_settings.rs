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
const LISTS: [(&str, &str); 9] = [
    ("dns", "dns"),
    ("dns-opt", "dns-opts"),
    ("dns-search", "dns-search"),
    ("exec-opt", "exec-opts"),
    ("insecure-registry", "insecure-registries"),
    ("label", "labels"),
    ("registry-mirror", "registry-mirrors"),
    ("storage-opt", "storage-opts"),
    ("default-address-pool", "default-address-pools"),
];

/// Set by the machine itself; an option would cut the desktop off.
const OURS: [&str; 9] = [
    "H",
    "host",
    "hosts",
    "tls",
    "tlsverify",
    "tlscacert",
    "tlscert",
    "tlskey",
    "config-file",
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
    list(&mut json, "dns", &options.dns);
    list(&mut json, "insecure-registries", &options.insecure_registry);
    list(&mut json, "registry-mirrors", &options.registry_mirror);
    for (key, value) in [
        ("storage-driver", &options.storage_driver),
        ("log-level", &options.log_level),
        ("data-root", &options.graph_dir),
    ] {
        if !value.is_empty() {
            json.insert(key.into(), value.as_str().into());
        }
    }
    if options.ipv6 {
        json.insert("ipv6".into(), true.into());
    }
    proxies(&mut json, &options.env)?;
    for option in &options.arbitrary_flags {
        arbitrary(&mut json, option)?;
    }
    Ok(json)
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

/// An engine's environment matters for its proxies; daemon.json has keys for those and for nothing else.
fn proxies(json: &mut DaemonJson, environment: &[String]) -> Result<(), EngineOptionError> {
    for variable in environment {
        let (name, value) = key_value("env", variable)?;
        let key = match name.to_ascii_uppercase().as_str() {
            "HTTP_PROXY" => "http-proxy",
            "HTTPS_PROXY" => "https-proxy",
            "NO_PROXY" => "no-proxy",
            _ => {
                return Err(EngineOptionError::Invalid {
                    flag: "env",
                    value: variable.clone(),
                    why: "only HTTP_PROXY, HTTPS_PROXY and NO_PROXY can be given to the engine",
                });
            }
        };
        let proxies = json
            .entry("proxies")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(proxies) = proxies {
            proxies.insert(key.into(), value.into());
        }
    }
    Ok(())
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
    let Some(value) = value else {
        json.insert(name.into(), true.into());
        return Ok(());
    };
    if name == "log-opt" {
        let (key, inner) = value
            .split_once('=')
            .ok_or_else(|| invalid("it must be log-opt=KEY=VALUE"))?;
        let options = json
            .entry("log-opts")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(options) = options {
            options.insert(key.into(), inner.into());
        }
        return Ok(());
    }
    if let Some((_, key)) = LISTS
        .iter()
        .find(|(flag, key)| *flag == name || *key == name)
    {
        push(json, key, value);
        return Ok(());
    }
    let value = match (value, value.parse::<i64>()) {
        ("true", _) => Value::Bool(true),
        ("false", _) => Value::Bool(false),
        (_, Ok(number)) => number.into(),
        _ => value.into(),
    };
    json.insert(name.into(), value);
    Ok(())
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
                env: texts(&["HTTP_PROXY=http://p:1", "no_proxy=x"]),
                storage_driver: "overlay2".into(),
                arbitrary_flags: texts(&[
                    "dns=1.1.1.1",
                    "dns=8.8.8.8",
                    "mtu=1400",
                    "live-restore",
                    "--icc=false",
                    "log-opt=max-size=1m",
                    "bip=10.1.0.1/16",
                    "label=c=d",
                ]),
                ..EngineOptions::default()
            },
            json!({
                "labels": ["provider=qemu", "a=b", "c=d"],
                "registry-mirrors": ["http://m:5000"],
                "insecure-registries": ["r:5000", "10.0.0.0/8"],
                "proxies": {"http-proxy": "http://p:1", "no-proxy": "x"},
                "storage-driver": "overlay2",
                "dns": ["1.1.1.1", "8.8.8.8"],
                "mtu": 1400,
                "live-restore": true,
                "icc": false,
                "log-opts": {"max-size": "1m"},
                "bip": "10.1.0.1/16",
            }),
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for (option, part) in [
            ("=x", "KEY=VALUE"),
            ("host=tcp://0.0.0.0:1", "sets this itself"),
            ("tlsverify=false", "sets this itself"),
            ("log-opt=x", "log-opt=KEY=VALUE"),
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
