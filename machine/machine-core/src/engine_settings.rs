//! `--engine-*` flags of `create` as dockerd's `daemon.json`.
//! Names and kinds of the keys: <https://docs.docker.com/reference/cli/dockerd/#daemon-configuration-file>.

use crate::desktop;
use crate::secrets;
use crate::store::record::EngineOptions;
use guest_contract::engine_options::{self, Kind};
use serde_json::{Map, Value};

/// The contents of daemon.json.
pub type DaemonJson = Map<String, Value>;

/// What is wrong with an engine option.
#[derive(Debug, thiserror::Error)]
pub enum EngineOptionError {
    #[error("invalid value \"{value}\" for --engine-{flag}: {why}")]
    Invalid {
        flag: &'static str,
        value: String,
        why: &'static str,
    },
    #[error(
        "a Docker engine that is adopted keeps its own settings: --engine-* flags cannot change them"
    )]
    Adopted,
    #[error(transparent)]
    Secret(#[from] secrets::SecretError),
}

/// Refuses settings that would bring a password into config.json. A record that docker-machine wrote may have one, and its
/// machine works all the same.
pub fn refuse_passwords(options: &EngineOptions) -> Result<(), EngineOptionError> {
    let env = options.env.iter().map(|text| ("env", text));
    let arbitrary = options.arbitrary_flags.iter().map(|text| ("opt", text));
    for (flag, text) in env.chain(arbitrary) {
        if has_password(text) {
            let name = text.split('=').next().unwrap_or_default();
            return Err(EngineOptionError::Invalid {
                flag,
                // What stands after the sign is not repeated.
                value: name.to_owned(),
                why: match proxy_key(name) {
                    Some(_) => {
                        "a password does not belong into config.json; refer to it: NAME=env:VARIABLE, file:PATH or cmd:COMMAND"
                    }
                    None => "a password does not belong into config.json",
                },
            });
        }
    }
    Ok(())
}

/// Empties the settings that [`refuse_passwords`] refuses, for those who look at a record from elsewhere.
pub fn blank_passwords(options: &mut EngineOptions) {
    for text in options.env.iter_mut().chain(&mut options.arbitrary_flags) {
        if has_password(text) {
            text.truncate(text.find('=').map_or(0, |sign| sign + 1));
        }
    }
}

/// Whether a `NAME=VALUE` has a URL with a password in it.
fn has_password(setting: &str) -> bool {
    let (name, value) = setting.split_once('=').unwrap_or_default();
    // A proxy may be named without its scheme.
    (proxy_key(name).is_some() || value.contains("://"))
        && !secrets::is_reference(value)
        && desktop::has_password(value)
}

/// The engine's option for a proxy, which `--engine-env` calls by its variable and `--engine-opt` by itself.
fn proxy_key(name: &str) -> Option<&'static str> {
    let name = name.trim_start_matches('-');
    let proxies = desktop::PROXIES.iter();
    proxies
        .filter(|(variable, key)| variable.eq_ignore_ascii_case(name) || *key == name)
        .map(|(_, key)| *key)
        .next()
}

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
    for variable in &options.env {
        environment(&mut json, variable)?;
    }
    for option in &options.arbitrary_flags {
        arbitrary(&mut json, option)?;
    }
    if let Some(Value::Array(mirrors)) = json.get("registry-mirrors") {
        mirrors
            .iter()
            .filter_map(Value::as_str)
            .try_for_each(mirror)?;
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

/// Docker's rules for mirrors, as far as they can be broken by habit.
fn mirror(url: &str) -> Result<(), EngineOptionError> {
    let invalid = |value: &str, why| {
        Err(EngineOptionError::Invalid {
            flag: "registry-mirror",
            value: value.to_owned(),
            why,
        })
    };
    let Some(("http" | "https", rest)) = url.split_once("://") else {
        return invalid(url, "it must begin with http:// or https://");
    };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((_, host)) => invalid(
            host,
            "user and password are not allowed in the address of a mirror",
        ),
        None => Ok(()),
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

/// docker-machine's `--engine-env`: the variables that an engine heeds are those of proxies.
fn environment(json: &mut DaemonJson, variable: &str) -> Result<(), EngineOptionError> {
    let (name, value) = key_value("env", variable)?;
    let Some(key) = proxy_key(name) else {
        return Err(EngineOptionError::Invalid {
            flag: "env",
            // What stands after the sign may be a secret.
            value: name.to_owned(),
            why: "this engine heeds HTTP_PROXY, HTTPS_PROXY and NO_PROXY; containers get variables with `docker run -e`",
        });
    };
    proxy(json, key, value)
}

/// A proxy may be a reference (`env:NAME`, `file:PATH`, `cmd:COMMAND`), looked up whenever the engine is set up.
fn proxy(json: &mut DaemonJson, key: &str, value: &str) -> Result<(), EngineOptionError> {
    json.insert(key.into(), secrets::look_up(value)?.into());
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
    let known = match name {
        "H" | "config-file" => Some((name, Kind::Machine)),
        _ => engine_options::find(name).map(|option| (option.key, option.kind)),
    };
    let (key, kind) = known.ok_or_else(|| invalid("this engine has no such option"))?;
    match (kind, value) {
        (Kind::Machine, _) => {
            return Err(invalid(
                "the machine sets this itself, so that its API can be reached",
            ));
        }
        (Kind::FileOnly, _) => return Err(invalid("it has no form on a command line")),
        (Kind::Map, Some(value)) => {
            let (name, inner) = value
                .split_once('=')
                .ok_or_else(|| invalid("it must be OPTION=KEY=VALUE"))?;
            let inner = match key {
                "default-ulimits" => ulimit(name, inner)
                    .ok_or_else(|| invalid("a limit is SOFT or SOFT:HARD, numbers both"))?,
                _ => inner.into(),
            };
            let map = json.entry(key).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = map {
                map.insert(name.into(), inner);
            }
        }
        (Kind::List, Some(value)) => push(json, key, value),
        (Kind::Single, Some(value)) if proxy_key(key).is_some() => proxy(json, key, value)?,
        (Kind::List | Kind::Map, None) => return Err(invalid("it must be KEY=VALUE")),
        (Kind::Single, value) => {
            let value = match (value, value.map(str::parse::<i64>)) {
                (None | Some("true"), _) => Value::Bool(true),
                (Some("false"), _) => Value::Bool(false),
                (_, Some(Ok(number))) => number.into(),
                (Some(text), _) => text.into(),
            };
            json.insert(key.into(), value);
        }
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
        let made = daemon_json(&options, "qemu").unwrap();
        assert_eq!(Value::Object(made), expected);
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
                env: texts(&["HTTP_PROXY=http://p:1", "no_proxy=.lan"]),
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
                "http-proxy": "http://p:1",
                "no-proxy": ".lan",
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
            ("no-such-option=x", "no such option"),
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

    fn env(variable: &str) -> EngineOptions {
        EngineOptions {
            env: texts(&[variable]),
            ..EngineOptions::default()
        }
    }

    fn opt(option: &str) -> EngineOptions {
        EngineOptions {
            arbitrary_flags: texts(&[option]),
            ..EngineOptions::default()
        }
    }

    #[test]
    fn a_password_is_refused_and_never_shown() {
        for (options, part) in [
            (env("HTTPS_PROXY=http://me:secret@p"), "refer to it"),
            (env("http_proxy=me:secret@p"), "refer to it"),
            (opt("https-proxy=http://me:secret@p"), "refer to it"),
            (opt("--http-proxy=me:secret@p:3128"), "refer to it"),
            (opt("log-opt=gelf-address=udp://me:secret@p"), "config.json"),
        ] {
            let error = refuse_passwords(&options).unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{error}");
            let mut blank = options;
            blank_passwords(&mut blank);
            assert!(!format!("{blank:?}").contains("secret"), "{blank:?}");
            assert!(refuse_passwords(&blank).is_ok());
        }
        for options in [
            env("HTTPS_PROXY=http://p:3128"),
            env("HTTPS_PROXY=cmd:pass show http://me:x@p"),
            opt("https-proxy=env:PROXY"),
            opt("label=mail=me:you@host"),
            opt("live-restore"),
        ] {
            refuse_passwords(&options).unwrap();
            let mut same = options.clone();
            blank_passwords(&mut same);
            assert_eq!(same, options);
        }
    }

    #[test]
    fn a_mirror_has_no_password() {
        let flag = EngineOptions {
            registry_mirror: texts(&["https://me:secret@m:5000/x"]),
            ..EngineOptions::default()
        };
        for options in [flag, opt("registry-mirror=https://me:secret@m:5000")] {
            let error = daemon_json(&options, "qemu").unwrap_err().to_string();
            assert!(
                error.contains("\"m:5000\"") && !error.contains("secret"),
                "{error}"
            );
        }
        assert!(daemon_json(&opt("registry-mirror=m:5000"), "qemu").is_err());
    }

    #[test]
    fn a_proxy_is_looked_up_and_one_that_docker_machine_wrote_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("proxy");
        std::fs::write(&file, "http://me:secret@p\n").unwrap();
        for options in [
            env(&format!("HTTPS_PROXY=file:{}", file.display())),
            opt(&format!("https-proxy=file:{}", file.display())),
            env("https_proxy=http://me:secret@p"),
        ] {
            let json = daemon_json(&options, "qemu").unwrap();
            assert_eq!(json["https-proxy"], "http://me:secret@p");
        }
        let error = daemon_json(&env("HTTPS_PROXY=file:/not/here"), "qemu").unwrap_err();
        assert!(error.to_string().contains("file:/not/here"), "{error}");
    }
}
