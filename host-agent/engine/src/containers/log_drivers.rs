//! Where a container's output goes: log drivers and their options, checked as Docker checks them (moby
//! `daemon/logger/factory.go`, `jsonfilelog`, `local`) and turned into what the runtime writes.

use super::spec::{ContainerSpec, LogSettings};
use crate::id::ContainerId;
use crate::runtime::LogPlan;
use go_template::Template;
use regex::Regex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Docker's size of the buffer of `mode=non-blocking`, bytes (moby daemon/logger/ring.go).
const DEFAULT_BUFFER: u64 = 1_000_000;

/// Path of the log file, as Docker names it.
pub fn path(folder: &Path, id: &ContainerId) -> PathBuf {
    folder.join(format!("{id}-json.log"))
}

/// `10m`, `1g`, `1024`: bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = lower[digits.len()..]
        .trim_end_matches("ib")
        .trim_end_matches('b');
    let factor: u64 = match unit {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return None,
    };
    digits.trim().parse::<u64>().ok()?.checked_mul(factor)
}

/// Checks log settings; the error is Docker's sentence.
pub fn check(log: &LogSettings) -> Result<(), String> {
    let option = |name: &str| log.options.get(name).map(String::as_str);
    let known: &[&str] = match log.driver.as_str() {
        "json-file" => &[
            "max-size",
            "max-file",
            "compress",
            "labels",
            "labels-regex",
            "env",
            "env-regex",
            "tag",
        ],
        "local" => &["max-size", "max-file", "compress"],
        // Docker asks nobody about the options of no log.
        "none" => return Ok(()),
        other => {
            return Err(format!(
                "logger: no log driver named '{other}' is registered"
            ));
        }
    };
    // For every driver.
    let mode = option("mode").unwrap_or_default();
    if !["", "blocking", "non-blocking"].contains(&mode) {
        return Err(format!("logger: logging mode not supported: {mode}"));
    }
    if let Some(size) = option("max-buffer-size") {
        if mode != "non-blocking" {
            return Err(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'".into(),
            );
        }
        if parse_size(size).is_none() {
            return Err(format!(
                "error parsing option max-buffer-size: invalid size: '{size}'"
            ));
        }
    }
    for (name, value) in &log.options {
        let good = match name.as_str() {
            "mode" | "max-buffer-size" => true,
            name if !known.contains(&name) => {
                return Err(format!(
                    "unknown log opt '{name}' for {} log driver",
                    log.driver
                ));
            }
            "max-size" => {
                parse_size(value).is_some_and(|size| size > 0)
                    || (value == "-1" && log.driver == "json-file")
            }
            "max-file" if value.parse::<u32>() == Ok(0) => {
                return Err("max-file cannot be less than 1".into());
            }
            "max-file" => value.parse::<u32>().is_ok(),
            "compress" => parse_bool(value).is_some(),
            "labels-regex" | "env-regex" => Regex::new(value).is_ok(),
            "tag" => {
                tag(value, &TagFacts::default())?;
                true
            }
            _ => true,
        };
        if !good {
            return Err(format!("invalid value for log opt '{name}': {value}"));
        }
    }
    let compressed = option("compress").and_then(parse_bool) == Some(true);
    if log.driver == "json-file" && compressed {
        let files = option("max-file").and_then(|text| text.parse::<u32>().ok());
        if files.unwrap_or(1) < 2 || option("max-size").is_none_or(|size| size == "-1") {
            return Err(
                "compress cannot be true when max-file is less than 2 or max-size is not set"
                    .into(),
            );
        }
    }
    Ok(())
}

/// Go's strconv.ParseBool.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// What a tag's template may name (moby `daemon/logger/loginfo.go`).
#[derive(Default)]
pub(super) struct TagFacts<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub image_id: &'a str,
    pub image: &'a str,
    pub args: &'a [String],
    pub created: &'a str,
}

fn tag(template: &str, facts: &TagFacts) -> Result<String, String> {
    let short = |id: &str| id.chars().take(12).collect::<String>();
    let image_id = facts.image_id;
    let command: Vec<&str> = facts.args.iter().map(String::as_str).collect();
    let value = serde_json::json!({
        "ID": short(facts.id),
        "FullID": facts.id,
        "Name": facts.name,
        "ContainerID": facts.id,
        "ContainerName": format!("/{}", facts.name),
        "ContainerImageID": image_id,
        "ContainerImageName": facts.image,
        "ContainerEntrypoint": command.first().copied().unwrap_or_default(),
        "ContainerArgs": command.get(1..).unwrap_or_default(),
        "ContainerCreated": facts.created,
        "ImageID": short(image_id.strip_prefix("sha256:").unwrap_or(image_id)),
        "ImageFullID": image_id,
        "ImageName": facts.image,
        "Command": command.join(" "),
        "DaemonName": "docker",
    });
    Template::parse(template)
        .and_then(|template| template.render(&value))
        .map_err(|error| error.to_string())
}

/// What the runtime writes for a container of this name.
pub(super) fn plan(
    path: &Path,
    spec: &ContainerSpec,
    id: &ContainerId,
    name: &str,
) -> Result<LogPlan, String> {
    let log = &spec.host.log;
    check(log)?;
    if log.driver == "none" {
        return Ok(LogPlan::None);
    }
    let option = |name: &str| log.options.get(name).map(String::as_str);
    let local = log.driver == "local";
    let facts = TagFacts {
        id: id.as_str(),
        name,
        image_id: spec.image.as_str(),
        image: &spec.config.image,
        args: &spec.args().cloned().collect::<Vec<_>>(),
        created: "",
    };
    let mut attributes = attributes(log, spec);
    if let Some(template) = option("tag").filter(|text| !text.is_empty()) {
        attributes.insert("tag".to_owned(), tag(template, &facts)?);
    }
    Ok(LogPlan::JsonFile {
        path: path.to_owned(),
        // Docker's defaults: json-file grows without end, local keeps 5 files of 20 MB.
        max_size: option("max-size")
            .and_then(parse_size)
            .or(local.then_some(20 << 20)),
        max_files: option("max-file")
            .and_then(|text| text.parse().ok())
            .unwrap_or(if local { 5 } else { 1 }),
        compress: option("compress").map_or(local, |text| parse_bool(text) == Some(true)),
        attributes,
        buffer: (option("mode") == Some("non-blocking")).then(|| {
            let size = option("max-buffer-size").and_then(parse_size);
            size.unwrap_or(DEFAULT_BUFFER)
        }),
    })
}

/// Labels and variables that `labels`, `labels-regex`, `env` and `env-regex` choose.
fn attributes(log: &LogSettings, spec: &ContainerSpec) -> BTreeMap<String, String> {
    let option = |name: &str| log.options.get(name).map(String::as_str);
    let chosen = |list: &str, pattern: &str| {
        let names: Vec<String> = option(list)
            .unwrap_or_default()
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
        let pattern = option(pattern)
            .filter(|text| !text.is_empty())
            .and_then(|text| Regex::new(text).ok());
        move |name: &str| {
            names.iter().any(|one| one == name)
                || pattern.as_ref().is_some_and(|one| one.is_match(name))
        }
    };
    let label = chosen("labels", "labels-regex");
    let variable = chosen("env", "env-regex");
    let labels = spec.config.labels.iter();
    let labels = labels.filter(|(name, _)| label(name));
    let variables = spec
        .config
        .env
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .filter(|(name, _)| variable(name));
    labels
        .map(|(name, value)| (name.clone(), value.clone()))
        .chain(variables.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::testing;

    fn settings(driver: &str, options: &[(&str, &str)]) -> LogSettings {
        LogSettings {
            driver: driver.into(),
            options: options
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    #[track_caller]
    fn refused(driver: &str, options: &[(&str, &str)], why: &str) {
        let found = check(&settings(driver, options)).expect_err("Docker refuses this");
        assert!(found.contains(why), "{found}");
    }

    #[test]
    fn options_are_checked_in_docker_s_words() {
        for (driver, options) in [
            (
                "json-file",
                &[("max-size", "10m"), ("max-file", "3"), ("compress", "true")][..],
            ),
            ("json-file", &[("max-size", "-1")]),
            (
                "json-file",
                &[("mode", "non-blocking"), ("max-buffer-size", "4m")],
            ),
            ("json-file", &[("tag", "{{.ImageName}}/{{.Name}}/{{.ID}}")]),
            ("local", &[("max-size", "1k"), ("compress", "false")]),
            ("none", &[("anything", "goes")]),
        ] {
            assert_eq!(check(&settings(driver, options)), Ok(()), "{options:?}");
        }
        refused(
            "syslog",
            &[],
            "logger: no log driver named 'syslog' is registered",
        );
        refused(
            "json-file",
            &[("color", "red")],
            "unknown log opt 'color' for json-file log driver",
        );
        refused(
            "local",
            &[("tag", "x")],
            "unknown log opt 'tag' for local log driver",
        );
        refused(
            "json-file",
            &[("max-file", "0")],
            "max-file cannot be less than 1",
        );
        refused("json-file", &[("max-size", "ten")], "'max-size': ten");
        refused(
            "json-file",
            &[("compress", "true")],
            "compress cannot be true when max-file is less than 2",
        );
        refused(
            "json-file",
            &[("mode", "fast")],
            "logging mode not supported: fast",
        );
        refused(
            "json-file",
            &[("max-buffer-size", "1m")],
            "only supported with 'mode=non-blocking'",
        );
        refused("json-file", &[("labels-regex", "(")], "'labels-regex'");
        refused("json-file", &[("tag", "{{.Nope}}")], "Nope");
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("10m"), Some(10 << 20));
        assert_eq!(parse_size("1GiB"), Some(1 << 30));
        assert_eq!(parse_size("ten"), None);
    }

    #[test]
    fn attributes_are_chosen_by_name_and_by_pattern_and_the_tag_is_filled_in() {
        let mut spec = testing::spec();
        spec.config.image = "web:1".into();
        spec.config.labels = ["tier", "team.name", "other"]
            .map(|name| (name.to_owned(), format!("the {name}")))
            .into();
        spec.config.env = ["A=1", "B_ONE=2", "B_TWO=x=y", "C=4"]
            .map(String::from)
            .into();
        spec.host.log = settings(
            "json-file",
            &[
                ("labels", "tier,missing"),
                ("labels-regex", "^team\\."),
                ("env", "A"),
                ("env-regex", "^B_"),
                ("tag", "{{.Name}}|{{.ImageName}}|{{.ID}}"),
            ],
        );
        let id = ContainerId::random();
        let LogPlan::JsonFile { attributes, .. } =
            plan(Path::new("/log"), &spec, &id, "box").expect("good")
        else {
            panic!("it has a log")
        };
        let shown: Vec<String> = attributes
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let tag = format!("tag=box|web:1|{}", id.short());
        assert_eq!(
            shown,
            [
                "A=1",
                "B_ONE=2",
                "B_TWO=x=y",
                &tag,
                "team.name=the team.name",
                "tier=the tier"
            ]
        );
    }

    #[test]
    fn the_local_driver_rotates_and_compresses_unless_told_otherwise() {
        let mut spec = testing::spec();
        spec.host.log = settings("local", &[]);
        let found = plan(Path::new("/log"), &spec, &ContainerId::random(), "x").expect("good");
        let LogPlan::JsonFile {
            max_size,
            max_files,
            compress,
            ..
        } = found
        else {
            panic!("it has a log")
        };
        assert_eq!((max_size, max_files, compress), (Some(20 << 20), 5, true));
    }

    #[test]
    fn only_a_log_that_is_not_waited_for_has_a_buffer() {
        let mut spec = testing::spec();
        for (options, wanted) in [
            (&[][..], None),
            (&[("mode", "blocking")], None),
            (&[("mode", "non-blocking")], Some(DEFAULT_BUFFER)),
            (
                &[("mode", "non-blocking"), ("max-buffer-size", "4k")],
                Some(4096),
            ),
        ] {
            spec.host.log = settings("json-file", options);
            let found = plan(Path::new("/log"), &spec, &ContainerId::random(), "x").expect("good");
            let LogPlan::JsonFile { buffer, .. } = found else {
                panic!("it has a log")
            };
            assert_eq!(buffer, wanted, "{options:?}");
        }
    }
}
