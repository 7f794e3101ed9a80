//! `docs/reference/docker-api.md` says what is so: every endpoint of the router, every field of the wire types, every
//! exception of the compat tier is in it, and what it calls served is served.

use super::networks;
use crate::serve::testing;
use engine_api::containers::{
    BindOptionsBody, ContainerCreate, EndpointBody, HealthcheckBody, HostConfigBody,
    ImageOptionsBody, IpamBody, MountBody, NetworkingConfigBody, TmpfsOptionsBody,
    VolumeOptionsBody,
};
use http::Method;
use serde::de::{Deserialize, Deserializer, Visitor};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn page() -> String {
    let path = workspace().join("docs/reference/docker-api.md");
    std::fs::read_to_string(path).expect("the page is there")
}

/// Rows of the tables between two headings, as cells without backquotes around the first words.
fn rows(section: &str) -> Vec<Vec<String>> {
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| {
            line.split(" | ")
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect()
}

/// The text below a heading, up to the next one of its kind or above.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = page
        .find(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("the page has no heading {heading:?}"))
        + heading.len()
        + 2;
    let rest = &page[start..];
    let marks = heading.split(' ').next().expect("a first word");
    let end = rest
        .lines()
        .scan(0, |at, line| {
            let here = *at;
            *at += line.len() + 1;
            Some((here, line))
        })
        .find(|(_, line)| {
            line.starts_with('#') && line.split(' ').next().unwrap_or_default().len() <= marks.len()
        })
        .map_or(rest.len(), |(at, _)| at);
    &rest[..end]
}

struct Endpoint {
    method: Method,
    path: String,
    is_served: bool,
}

fn endpoints() -> Vec<Endpoint> {
    let page = page();
    rows(section(&page, "## Endpoints"))
        .into_iter()
        .filter(|row| row[0] != "method")
        .map(|row| Endpoint {
            method: row[0].parse().expect("a method"),
            path: row[1].trim_matches('`').to_owned(),
            is_served: match row[3].split([' ', ':']).next() {
                Some("`yes`") => true,
                Some("`no`") => false,
                _ => panic!("{} {} says neither yes nor no", row[0], row[1]),
            },
        })
        .collect()
}

#[tokio::test]
async fn endpoints_that_the_page_calls_served_are_served_and_the_others_are_not() {
    let mut wrong = Vec::new();
    for endpoint in endpoints() {
        let path = endpoint
            .path
            .replace("{id}", "nothing")
            .replace("{name}", "nothing");
        let answer = testing::send(testing::services(), endpoint.method.clone(), &path, "{}");
        // What does not end (events) is served.
        let is_served = match tokio::time::timeout(Duration::from_secs(2), answer).await {
            Err(_) => true,
            Ok(answer) => {
                let text = answer.text();
                let absent = match answer.status.as_u16() {
                    404 => text.contains("page not found") || text.contains("plugin"),
                    501 => true,
                    503 => text.contains("swarm"),
                    _ => false,
                };
                !absent
            }
        };
        if is_served != endpoint.is_served {
            wrong.push(format!("{} {}", endpoint.method, endpoint.path));
        }
    }
    assert!(wrong.is_empty(), "the page is wrong about {wrong:?}");
}

#[test]
fn every_route_is_on_the_page() {
    let listed: BTreeSet<String> = endpoints()
        .iter()
        .map(|endpoint| format!("{} {}", endpoint.method, endpoint.path))
        .collect();
    let mut missing = Vec::new();
    for (methods, path) in routes() {
        // The catch-alls of areas that are absent, image names, which may have slashes, and what is always refused.
        if path.contains("{*")
            || ["/build/cancel", "/grpc", "/containers/{id}/{alias}"].contains(&path.as_str())
        {
            continue;
        }
        for method in methods {
            let endpoint = format!("{method} {path}");
            if !listed.contains(&endpoint) {
                missing.push(endpoint);
            }
        }
    }
    assert!(missing.is_empty(), "not on the page: {missing:?}");
}

/// Methods and path of each `.route("path", get(..).post(..))` in these files.
fn routes() -> Vec<(Vec<&'static str>, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/serve/routes");
    let mut found = Vec::new();
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("reference_tests.rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                found.extend(text.split(".route(").skip(1).filter_map(route));
            }
        }
    }
    assert!(
        found.len() > 50,
        "the routes are written in another way now"
    );
    found
}

fn route(call: &str) -> Option<(Vec<&'static str>, String)> {
    let rest = call.trim_start().strip_prefix('"')?;
    let (path, rest) = rest.split_once('"')?;
    // Up to the parenthesis that closes the call.
    let mut depth = 1;
    let end = rest.find(|character| {
        depth += match character {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        depth == 0
    })?;
    let handlers = &rest[..end];
    let methods = [
        ("GET", "get("),
        ("HEAD", "head("),
        ("POST", "post("),
        ("PUT", "put("),
        ("DELETE", "delete("),
    ];
    let methods = methods
        .into_iter()
        .filter(|(_, word)| {
            handlers.match_indices(word).any(|(at, _)| {
                !handlers[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
            })
        })
        .map(|(method, _)| method)
        .collect();
    Some((methods, path.to_owned()))
}

/// Takes the names of a struct's fields from what it asks of a deserializer.
struct FieldNames<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("only structs have fields"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.extend(fields);
        Err(serde::de::Error::custom("the names are all there is"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[track_caller]
fn check_fields<T: for<'de> Deserialize<'de>>(heading: &str) {
    let mut fields = Vec::new();
    let _ = T::deserialize(FieldNames(&mut fields));
    let fields: BTreeSet<&str> = fields.into_iter().collect();
    let page = page();
    let rows = rows(section(&page, heading));
    let listed: BTreeSet<&str> = rows
        .iter()
        .filter(|row| row[0] != "field")
        .map(|row| row[0].trim_matches('`'))
        .collect();
    assert_eq!(listed, fields, "{heading}");
}

#[test]
fn every_field_of_a_container_is_on_the_page() {
    check_fields::<ContainerCreate>("### Config: the body of `POST /containers/create`");
    check_fields::<HealthcheckBody>("### Healthcheck");
    check_fields::<HostConfigBody>("### HostConfig");
    check_fields::<MountBody>("### Mounts");
    check_fields::<BindOptionsBody>("### BindOptions");
    check_fields::<VolumeOptionsBody>("### VolumeOptions");
    check_fields::<ImageOptionsBody>("### ImageOptions");
    check_fields::<TmpfsOptionsBody>("### TmpfsOptions");
    check_fields::<NetworkingConfigBody>("### NetworkingConfig");
    check_fields::<EndpointBody>("### EndpointsConfig: each network");
    check_fields::<IpamBody>("### IPAMConfig");
}

#[test]
fn every_field_of_a_network_is_on_the_page() {
    check_fields::<networks::CreateBody>("### The body of `POST /networks/create`");
    check_fields::<networks::ConfigFrom>("### ConfigFrom");
    check_fields::<networks::IpamBody>("### IPAM");
    check_fields::<networks::SubnetBody>("### Config of IPAM: each range");
    check_fields::<networks::ConnectBody>("### The body of `POST /networks/{id}/connect`");
    check_fields::<networks::DisconnectBody>("### The body of `POST /networks/{id}/disconnect`");
}

#[test]
fn every_exception_of_the_judges_is_on_the_page() {
    let page = page();
    let judges = section(&page, "## Judges");
    let mut listed = BTreeSet::new();
    for name in ["docker-py", "bollard", "shapes"] {
        let file = format!("tests/e2e/compat/{name}.exceptions.toml");
        let text = std::fs::read_to_string(workspace().join(&file)).expect("the exceptions");
        for line in text.lines() {
            let Some(reason) = line.strip_prefix("reason = \"") else {
                continue;
            };
            let reason = reason.trim_end_matches('"');
            assert!(judges.contains(reason), "{file}: {reason}");
            listed.insert(reason.to_owned());
        }
    }
    let shown = judges.lines().filter(|line| line.starts_with("- ")).count();
    assert_eq!(
        shown,
        listed.len(),
        "the page has exceptions that there are not"
    );
}
