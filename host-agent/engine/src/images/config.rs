//! The image configuration: the JSON document whose digest is the image's id (OCI image spec, `config.md`; Docker's
//! own fields too).

use super::{Digest, Healthcheck, Image, ImageConfig, Platform};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// A configuration that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageDetails {
    pub created: Option<OffsetDateTime>,
    pub author: String,
    pub comment: String,
    pub docker_version: String,
    pub platform: Platform,
    pub os_version: String,
    pub config: ImageConfig,
    /// `None` where the configuration leaves those keys out.
    pub side: Option<ContainerSide>,
    pub made_of: Option<MadeOf>,
    /// Digests of the uncompressed layers, bottom first.
    pub diff_ids: Vec<Digest>,
    pub history: Vec<HistoryEntry>,
}

/// Keys of `config` that mean something to containers only: Docker writes those of the container an image was made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerSide {
    pub hostname: String,
    #[serde(rename = "Domainname")]
    pub domain_name: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    /// As the container's creator named it.
    pub image: String,
}

/// The container an image was made of, as Docker's own keys tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MadeOf {
    /// Its id.
    pub container: String,
    /// What it was told.
    pub config: ImageConfig,
    pub side: ContainerSide,
}

/// One step of an image's making.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryEntry {
    pub created: Option<OffsetDateTime>,
    pub created_by: String,
    pub author: String,
    pub comment: String,
    /// The step made no layer.
    pub empty_layer: bool,
    /// The build cache's key of the step, where it depends on more than `created_by` says: another image is the cache of
    /// its like only.
    pub cache_key: Option<String>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("invalid image configuration")]
    Json(#[from] serde_json::Error),
    #[error("invalid image configuration: {why}")]
    Invalid { why: String },
}

impl ImageDetails {
    /// Whether it was made of the other image by one step more (dockerd's `checkValidParent`).
    pub fn is_child_of(&self, parent: &ImageDetails) -> bool {
        match self.history.split_last() {
            Some((_, before)) => *before == parent.history[..],
            None => parent.history.is_empty(),
        }
    }

    /// Reads a configuration, leniently as Go does: `null` is "not given".
    pub fn parse(bytes: &[u8]) -> Result<ImageDetails, ConfigError> {
        let raw: RawFile = serde_json::from_slice(bytes)?;
        let Some(rootfs) = raw.rootfs else {
            return Err(ConfigError::Invalid {
                why: "it has no rootfs".into(),
            });
        };
        if rootfs.diff_ids.len() > super::manifest::LAYERS_MAX {
            return Err(ConfigError::Invalid {
                why: format!("it has {} layers", rootfs.diff_ids.len()),
            });
        }
        let diff_ids = rootfs
            .diff_ids
            .iter()
            .map(|text| {
                Digest::parse(text).ok_or_else(|| ConfigError::Invalid {
                    why: format!("{text:?} is not a layer digest"),
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(ImageDetails {
            created: raw.created.as_deref().and_then(parse_time),
            author: raw.author,
            comment: raw.comment,
            docker_version: raw.docker_version,
            platform: Platform {
                os: raw.os,
                architecture: raw.architecture,
                variant: raw.variant,
            },
            os_version: raw.os_version,
            side: raw.config.as_ref().and_then(RawConfig::side),
            config: raw.config.map(RawConfig::into_config).unwrap_or_default(),
            made_of: raw.container_config.map(|config| MadeOf {
                container: raw.container,
                side: config.side().unwrap_or_default(),
                config: config.into_config(),
            }),
            diff_ids,
            history: raw
                .history
                .into_iter()
                .map(|entry| HistoryEntry {
                    created: entry.created.as_deref().and_then(parse_time),
                    created_by: entry.created_by,
                    author: entry.author,
                    comment: entry.comment,
                    empty_layer: entry.empty_layer,
                    cache_key: entry.cache_key,
                })
                .collect(),
        })
    }

    /// Chain ids of the layers, bottom first.
    pub fn chain_ids(&self) -> Vec<Digest> {
        chain_ids(&self.diff_ids)
    }

    /// The image as containers need it.
    pub fn image(&self, id: Digest) -> Image {
        Image {
            id,
            config: self.config.clone(),
            top_layer: self.chain_ids().pop(),
            os: self.platform.os.clone(),
            architecture: self.platform.architecture.clone(),
            created: self.created,
        }
    }
}

/// Writes a configuration with the keys that Docker and the OCI image specification know.
pub fn encode(details: &ImageDetails) -> Vec<u8> {
    let mut file = serde_json::Map::new();
    let mut put = |key: &str, value: serde_json::Value| {
        // Go leaves out what is empty.
        let is_empty = value.is_null() || value.as_str() == Some("");
        if !is_empty {
            file.insert(key.to_owned(), value);
        }
    };
    let time = |at: Option<OffsetDateTime>| at.map(crate::clock::rfc3339);
    put("architecture", json!(details.platform.architecture));
    put("author", json!(details.author));
    put("comment", json!(details.comment));
    put("config", settings(&details.config, details.side.as_ref()));
    if let Some(made_of) = &details.made_of {
        put("container", json!(made_of.container));
        let config = settings(&made_of.config, Some(&made_of.side));
        put("container_config", config);
    }
    put("created", json!(time(details.created)));
    put("docker_version", json!(details.docker_version));
    let history: Vec<_> = details
        .history
        .iter()
        .map(|entry| {
            let mut shown = serde_json::Map::new();
            if let Some(at) = time(entry.created) {
                shown.insert("created".into(), json!(at));
            }
            for (key, text) in [
                ("author", &entry.author),
                ("created_by", &entry.created_by),
                ("comment", &entry.comment),
            ] {
                if !text.is_empty() {
                    shown.insert(key.into(), json!(text));
                }
            }
            if entry.empty_layer {
                shown.insert("empty_layer".into(), json!(true));
            }
            if let Some(key) = &entry.cache_key {
                shown.insert("berth.cache.v1".into(), json!(key));
            }
            serde_json::Value::Object(shown)
        })
        .collect();
    put("history", json!(history));
    put("os", json!(details.platform.os));
    put("os.version", json!(details.os_version));
    put(
        "rootfs",
        json!({ "type": "layers", "diff_ids": details.diff_ids }),
    );
    put("variant", json!(details.platform.variant));
    serde_json::to_vec(&file).expect("plain data with text keys")
}

fn settings(config: &ImageConfig, side: Option<&ContainerSide>) -> serde_json::Value {
    let keys = |names: &[String]| {
        let set: serde_json::Map<_, _> =
            names.iter().map(|name| (name.clone(), json!({}))).collect();
        (!set.is_empty()).then_some(set)
    };
    let mut shown = json!({
        "User": config.user,
        "Env": config.env,
        "Cmd": config.cmd,
        "Volumes": keys(&config.volumes),
        "WorkingDir": config.working_directory,
        "Entrypoint": config.entrypoint,
        "OnBuild": (!config.on_build.is_empty()).then_some(&config.on_build),
        "Labels": config.labels,
    });
    if let (Some(side), Some(keys)) = (side, shown.as_object_mut())
        && let serde_json::Value::Object(side) = json!(side)
    {
        keys.extend(side);
    }
    let optional = [
        ("ExposedPorts", json!(keys(&config.exposed_ports))),
        ("StopSignal", json!(config.stop_signal)),
        ("StopTimeout", json!(config.stop_timeout)),
        ("Shell", json!(config.shell)),
    ];
    for (key, value) in optional {
        if !value.is_null() {
            shown[key] = value;
        }
    }
    if let Some(check) = &config.healthcheck {
        let mut health = json!({ "Test": check.test });
        for (key, value) in [
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
            ("Retries", check.retries),
        ] {
            if value != 0 {
                health[key] = json!(value);
            }
        }
        shown["Healthcheck"] = health;
    }
    shown
}

/// The digest of some bytes.
pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_hex(&hex::encode(Sha256::digest(bytes))).expect("a sha256 has 64 digits")
}

/// Chain ids (OCI image spec, "Layer ChainID"): the first is the diff id itself, each further one the digest of
/// `<chain id below> <diff id>`.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(parent) => digest_of(format!("{parent} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

/// RFC 3339; Go's zero time is "not given".
fn parse_time(text: &str) -> Option<OffsetDateTime> {
    let at = OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
    (at.year() > 1).then_some(at)
}

/// `null` reads as the default.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct RawFile {
    created: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    author: String,
    #[serde(default, deserialize_with = "or_default")]
    comment: String,
    #[serde(default, deserialize_with = "or_default")]
    docker_version: String,
    #[serde(default, deserialize_with = "or_default")]
    architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    variant: String,
    #[serde(default, deserialize_with = "or_default")]
    os: String,
    #[serde(default, rename = "os.version", deserialize_with = "or_default")]
    os_version: String,
    config: Option<RawConfig>,
    #[serde(default, deserialize_with = "or_default")]
    container: String,
    container_config: Option<RawConfig>,
    rootfs: Option<RawRootFs>,
    #[serde(default, deserialize_with = "or_default")]
    history: Vec<RawHistory>,
}

#[derive(Deserialize)]
struct RawRootFs {
    #[serde(default, deserialize_with = "or_default")]
    diff_ids: Vec<String>,
}

#[derive(Deserialize)]
struct RawHistory {
    created: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    created_by: String,
    #[serde(default, deserialize_with = "or_default")]
    author: String,
    #[serde(default, deserialize_with = "or_default")]
    comment: String,
    #[serde(default, deserialize_with = "or_default")]
    empty_layer: bool,
    #[serde(default, rename = "berth.cache.v1")]
    cache_key: Option<String>,
}

/// The `config` object in Docker's spelling.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
    entrypoint: Option<Words>,
    cmd: Option<Words>,
    #[serde(deserialize_with = "or_default")]
    working_dir: String,
    #[serde(deserialize_with = "or_default")]
    exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "or_default")]
    volumes: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
    stop_signal: Option<String>,
    stop_timeout: Option<i64>,
    shell: Option<Words>,
    healthcheck: Option<RawHealthcheck>,
    #[serde(deserialize_with = "or_default")]
    on_build: Vec<String>,
    hostname: Option<String>,
    domainname: Option<String>,
    attach_stdin: Option<bool>,
    attach_stdout: Option<bool>,
    attach_stderr: Option<bool>,
    tty: Option<bool>,
    open_stdin: Option<bool>,
    stdin_once: Option<bool>,
    image: Option<String>,
}

/// A list of words, or one string as very old images have it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Words {
    Many(Vec<String>),
    One(String),
}

impl Words {
    fn into_list(self) -> Vec<String> {
        match self {
            Words::Many(words) => words,
            Words::One(word) => vec![word],
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawHealthcheck {
    #[serde(deserialize_with = "or_default")]
    test: Vec<String>,
    interval: i64,
    timeout: i64,
    retries: i64,
    start_period: i64,
    start_interval: i64,
}

impl RawConfig {
    /// Nothing where none of the keys is there.
    fn side(&self) -> Option<ContainerSide> {
        let texts = [&self.hostname, &self.domainname, &self.image];
        let flags = [
            self.attach_stdin,
            self.attach_stdout,
            self.attach_stderr,
            self.tty,
            self.open_stdin,
            self.stdin_once,
        ];
        if texts.iter().all(|text| text.is_none()) && flags.iter().all(Option::is_none) {
            return None;
        }
        let [hostname, domain_name, image] = texts.map(|text| text.clone().unwrap_or_default());
        let [
            attach_stdin,
            attach_stdout,
            attach_stderr,
            tty,
            open_stdin,
            stdin_once,
        ] = flags.map(|flag| flag.unwrap_or(false));
        Some(ContainerSide {
            hostname,
            domain_name,
            attach_stdin,
            attach_stdout,
            attach_stderr,
            tty,
            open_stdin,
            stdin_once,
            image,
        })
    }

    fn into_config(self) -> ImageConfig {
        let text = |text: Option<String>| text.filter(|text| !text.is_empty());
        ImageConfig {
            user: self.user,
            env: self.env,
            entrypoint: self.entrypoint.map(Words::into_list),
            cmd: self.cmd.map(Words::into_list),
            working_directory: self.working_dir,
            exposed_ports: self.exposed_ports.into_keys().collect(),
            volumes: self.volumes.into_keys().collect(),
            labels: self.labels,
            stop_signal: text(self.stop_signal),
            stop_timeout: self.stop_timeout,
            shell: self.shell.map(Words::into_list),
            healthcheck: self.healthcheck.map(|check| Healthcheck {
                test: check.test,
                interval: check.interval,
                timeout: check.timeout,
                retries: check.retries,
                start_period: check.start_period,
                start_interval: check.start_interval,
            }),
            on_build: self.on_build,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_configuration_is_read_with_nulls_and_old_forms() {
        let details = ImageDetails::parse(
            br#"{"created":"2024-01-02T03:04:05.678Z","architecture":"amd64","os":"linux","author":null,
                "config":{"Env":["A=b"],"Cmd":"sh","Entrypoint":null,"Labels":null,"ExposedPorts":{"80/tcp":{}},
                          "Healthcheck":{"Test":["CMD","true"],"Interval":5}},
                "rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},
                "history":[{"created_by":"x","empty_layer":true},{"created":"0001-01-01T00:00:00Z"}]}"#,
        )
        .expect("good");
        assert_eq!(details.config.cmd, Some(vec!["sh".to_owned()]));
        assert_eq!(details.config.entrypoint, None);
        assert_eq!(details.config.exposed_ports, ["80/tcp"]);
        assert_eq!(
            details
                .config
                .healthcheck
                .as_ref()
                .map(|check| check.interval),
            Some(5)
        );
        assert_eq!(details.diff_ids.len(), 1);
        assert!(details.history[0].empty_layer && details.history[1].created.is_none());
        assert_eq!(details.chain_ids(), details.diff_ids);
        assert_eq!(details.created.map(|at| at.year()), Some(2024));
    }

    #[test]
    fn what_is_not_an_image_configuration_is_refused() {
        assert!(ImageDetails::parse(b"{}").is_err());
        assert!(ImageDetails::parse(b"[]").is_err());
        assert!(ImageDetails::parse(br#"{"rootfs":{"diff_ids":["sha256:../../x"]}}"#).is_err());
    }

    /// The example of the OCI image specification's own test data (image-spec, `identity/chainid_test.go`).
    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let a = digest_of(b"a");
        let b = digest_of(b"b");
        let chain = chain_ids(&[a.clone(), b.clone()]);
        assert_eq!(chain[0], a);
        assert_eq!(chain[1], digest_of(format!("{a} {b}").as_bytes()));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let words = |list: &[&str]| {
            list.iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        let details = ImageDetails {
            created: OffsetDateTime::from_unix_timestamp(1_700_000_000).ok(),
            author: "Ada".into(),
            comment: "by hand".into(),
            platform: Platform {
                os: "linux".into(),
                architecture: "arm64".into(),
                variant: "v8".into(),
            },
            config: ImageConfig {
                user: "ada".into(),
                env: words(&["A=b"]),
                cmd: Some(words(&["sh", "-c", "true"])),
                entrypoint: Some(words(&["/entry"])),
                working_directory: "/srv".into(),
                exposed_ports: words(&["80/tcp"]),
                volumes: words(&["/data"]),
                labels: [("a".to_owned(), "b".to_owned())].into(),
                stop_signal: Some("SIGQUIT".into()),
                stop_timeout: Some(3),
                shell: Some(words(&["/bin/bash", "-c"])),
                healthcheck: Some(Healthcheck {
                    test: words(&["CMD", "true"]),
                    interval: 5,
                    retries: 2,
                    ..Healthcheck::default()
                }),
                on_build: words(&["RUN x"]),
            },
            diff_ids: vec![digest_of(b"layer")],
            history: vec![HistoryEntry {
                author: "Ada".into(),
                created_by: "sh".into(),
                empty_layer: true,
                cache_key: Some("0123".into()),
                ..HistoryEntry::default()
            }],
            ..ImageDetails::default()
        };
        let side = ContainerSide {
            hostname: "box".into(),
            tty: true,
            image: "busybox:1".into(),
            ..ContainerSide::default()
        };
        let of_container = ImageDetails {
            made_of: Some(MadeOf {
                container: "0123".into(),
                config: details.config.clone(),
                side: side.clone(),
            }),
            side: Some(side),
            ..details.clone()
        };
        for image in [details, of_container, ImageDetails::default()] {
            assert_eq!(ImageDetails::parse(&encode(&image)).expect("ours"), image);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ImageDetails::parse(&bytes);
        }
    }
}
