//! Containers as Docker lists them.

use super::container_views::{Networks, mount_point, networks};
use engine::containers::Container;
use engine::containers::health::HealthStatus;
use engine::containers::lifecycle::ContainerState;
use engine::containers::ports::exposed;
use engine::containers::spec::ContainerSpec;
use engine::containers::status::Status;
use engine::images::ContainerDiskUsage;
use engine::networks::{Protocol, PublishedPort};
use serde::Serialize;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use time::OffsetDateTime;

/// One of `GET /containers/json`. Typed, unlike the other answers: a list may have hundreds, and making a tree of values
/// first costs ten times as much as writing them out.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Summary<'a> {
    id: &'a str,
    names: [String; 1],
    image: &'a str,
    #[serde(rename = "ImageID")]
    image_id: &'a str,
    command: String,
    created: i64,
    ports: Vec<Value>,
    labels: &'a BTreeMap<String, String>,
    state: &'a str,
    status: String,
    host_config: SummaryHost<'a>,
    network_settings: SummaryNetworks<'a>,
    mounts: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SummaryHost<'a> {
    network_mode: Cow<'a, str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SummaryNetworks<'a> {
    networks: Networks<'a>,
}

pub fn summary<'a>(
    container: &'a Container,
    status: &'a Status,
    now: OffsetDateTime,
    size: Option<ContainerDiskUsage>,
) -> Summary<'a> {
    let spec = &*container.spec;
    Summary {
        id: container.id.as_str(),
        names: [format!("/{}", container.name())],
        image: &spec.config.image,
        image_id: spec.image.as_str(),
        command: command(spec.args()),
        created: container.created.unix_timestamp(),
        ports: ports(spec, status),
        labels: &spec.config.labels,
        state: status.state.name(),
        status: status_text(status, now),
        host_config: SummaryHost {
            network_mode: spec.host.network.text(),
            annotations: &spec.host.annotations,
        },
        network_settings: SummaryNetworks {
            networks: networks(status).of_list(),
        },
        mounts: spec.mounts.iter().map(mount_point).collect(),
        size_rw: size.as_ref().map(|size| size.writable.into()),
        size_root_fs: size.as_ref().map(|size| size.total.into()),
    }
}

/// The command line, with words that need it quoted as Docker does.
fn command<'a>(args: impl Iterator<Item = &'a String>) -> String {
    let mut line = String::new();
    for (index, word) in args.enumerate() {
        if index == 0 {
            line.push_str(word);
        } else if word.contains(' ') {
            line.extend([" '", word, "'"]);
        } else {
            line.extend([" ", word]);
        }
    }
    line
}

fn ports(spec: &ContainerSpec, status: &Status) -> Vec<Value> {
    let Some(network) = &status.network else {
        return Vec::new();
    };
    // Routed ones are, like those that are only exposed, reached by the container's own number.
    let (published, routed): (Vec<&PublishedPort>, Vec<_>) =
        network.ports.iter().partition(|port| port.host_port != 0);
    let mut shown: Vec<Value> = published
        .iter()
        .map(|port| {
            json!({
                "IP": port.host_address.to_string(),
                "PrivatePort": port.container_port,
                "PublicPort": port.host_port,
                "Type": port.protocol.name(),
            })
        })
        .collect();
    let own = |port: &&PublishedPort| (port.container_port, port.protocol);
    let mut known: BTreeSet<(u16, Protocol)> = published.iter().map(own).collect();
    for (number, protocol) in exposed(&spec.config.exposed_ports).chain(routed.iter().map(own)) {
        if known.insert((number, protocol)) {
            shown.push(json!({ "PrivatePort": number, "Type": protocol.name() }));
        }
    }
    shown
}

/// `Up 5 minutes`, `Exited (0) 3 seconds ago` ...
fn status_text(status: &Status, now: OffsetDateTime) -> String {
    let since =
        |at: Option<OffsetDateTime>| human_duration(at.map_or(0, |at| (now - at).whole_seconds()));
    match &status.state {
        ContainerState::Created => "Created".into(),
        ContainerState::Running { started, .. } => {
            let health = match status.health.as_ref().map(|health| health.status) {
                None => "",
                Some(HealthStatus::Starting) => " (health: starting)",
                Some(HealthStatus::Healthy) => " (healthy)",
                Some(HealthStatus::Unhealthy) => " (unhealthy)",
            };
            format!("Up {}{health}", since(Some(*started)))
        }
        ContainerState::Paused { started, .. } => format!("Up {} (Paused)", since(Some(*started))),
        ContainerState::Restarting { code } => {
            format!("Restarting ({code}) {} ago", since(status.finished_at))
        }
        ContainerState::Exited { code, at } => format!("Exited ({code}) {} ago", since(Some(*at))),
        ContainerState::Removing => "Removal In Progress".into(),
        ContainerState::Dead { .. } => "Dead".into(),
    }
}

/// Docker's `units.HumanDuration`.
fn human_duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    // Go rounds hours; everything longer is cut.
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_as_docker_does() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (3_599, "59 minutes"),
            (3_600, "About an hour"),
            (3 * 3_600, "3 hours"),
            (72 * 3_600, "3 days"),
            (20 * 86_400, "2 weeks"),
            (100 * 86_400, "3 months"),
            (1_000 * 86_400, "2 years"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }

    #[test]
    fn commands_are_quoted_where_they_have_spaces() {
        let words = ["sh", "-c", "echo hi"].map(String::from);
        assert_eq!(command(words.iter()), "sh -c 'echo hi'");
    }
}
