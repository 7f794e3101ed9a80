//! `docker ps`: which containers are listed.

use super::container::Container;
use super::error::ContainerError;
use super::service::ContainerService;
use super::status::Status;
use super::{mounts, ports};
use engine_api::Filters;
use std::sync::Arc;
use time::OffsetDateTime;

/// What is listed.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Those that do not run, too.
    pub all: bool,
    /// Only the newest so many, whatever their state.
    pub limit: Option<usize>,
    pub filters: Filters,
}

/// Every filter Docker documents.
const FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "expose",
    "exited",
    "health",
    "id",
    "isolation",
    "is-task",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];
const STATES: &[&str] = &[
    "created",
    "restarting",
    "running",
    "removing",
    "paused",
    "exited",
    "dead",
];

impl ContainerService {
    /// The containers that fit, newest first.
    pub async fn list(
        &self,
        options: &ListOptions,
    ) -> Result<Vec<(Arc<Container>, Status)>, ContainerError> {
        let filters = &options.filters;
        filters.only(FILTERS)?;
        for state in filters.values("status") {
            if !STATES.contains(&state) {
                return Err(ContainerError::invalid(format!(
                    "invalid filter 'status={state}'"
                )));
            }
        }
        let exit_codes: Vec<i32> = filters
            .values("exited")
            .map(|text| {
                text.parse()
                    .map_err(|_| ContainerError::invalid(format!("invalid filter 'exited={text}'")))
            })
            .collect::<Result<_, _>>()?;
        // `before` and `since` name containers; an unknown one is an error, as in Docker.
        let border = |name: &str| -> Result<Option<OffsetDateTime>, ContainerError> {
            let found = filters
                .values(name)
                .next()
                .map(|asked| self.find(asked))
                .transpose()?;
            Ok(found.map(|container| container.created))
        };
        let (before, since) = (border("before")?, border("since")?);
        let mut ancestors = Vec::new();
        for name in filters.values("ancestor") {
            // An image that is not there has no containers.
            if let Ok(image) = self.deps.images.resolve(name).await {
                ancestors.push(image.id);
            }
        }
        let published = port_filter(filters, "publish")?;
        let exposed = port_filter(filters, "expose")?;
        let asked_for_states = filters.has("status") || filters.has("exited");

        let mut listed: Vec<(Arc<Container>, Status)> = Vec::new();
        for container in self.all() {
            let status = container.status();
            if status.removed {
                continue;
            }
            let everything = options.all
                || options.limit.is_some()
                || asked_for_states
                || before.is_some()
                || since.is_some();
            if !everything && !status.state.is_running() {
                continue;
            }
            let spec = &container.spec;
            let name = container.name();
            let in_any = |name: &str, fits: &dyn Fn(&str) -> bool| {
                !filters.has(name) || filters.values(name).any(fits)
            };
            let fits = in_any("id", &|value| container.id.as_str().starts_with(value))
                && in_any("name", &|value| name_fits(&name, value))
                && filters.labels(&spec.config.labels)
                && filters.exact("status", status.state.name())
                && (exit_codes.is_empty()
                    || (!status.state.is_running()
                        && status.started_at.is_some()
                        && exit_codes.contains(&status.exit_code)))
                && before.is_none_or(|border| container.created < border)
                && since.is_none_or(|border| container.created > border)
                && (!filters.has("ancestor") || ancestors.contains(&spec.image))
                && in_any("volume", &|value| {
                    mounts::volume_names(spec).any(|volume| volume == value)
                        || spec.mounts.iter().any(|mount| {
                            mount.destination == value || mount.source.to_str() == Some(value)
                        })
                })
                && in_any("network", &|value| {
                    let endpoint = status.network.as_ref().and_then(|network| network.endpoint.as_ref());
                    spec.host.network.text() == value
                        || endpoint.is_some_and(|endpoint| {
                            endpoint.network_name == value || endpoint.network.as_str() == value
                        })
                })
                && (exposed.is_empty() || spec.config.exposed_ports.iter().any(|port| exposed.contains(port)))
                && (published.is_empty()
                    || status.network.iter().flat_map(|network| &network.ports).any(|port| {
                        published.contains(&format!("{}/{}", port.host_port, port.protocol.name()))
                            || published.contains(&format!("{}/{}", port.container_port, port.protocol.name()))
                    }))
                // No health checks are run yet: every container has none.
                && filters.exact("health", "none")
                && filters.flag("is-task")?.is_none_or(|task| !task);
            if fits {
                listed.push((container, status));
            }
        }
        listed.sort_by(|(a, _), (b, _)| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        if let Some(limit) = options.limit {
            listed.truncate(limit);
        }
        Ok(listed)
    }
}

/// Docker matches regular expressions; what people write is a part of the name, `^name`, `name$` or `^/name$`.
fn name_fits(name: &str, pattern: &str) -> bool {
    let (pattern, at_start) = match pattern.strip_prefix('^') {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    let (pattern, at_end) = match pattern.strip_suffix('$') {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    match (at_start, at_end) {
        (true, true) => name == pattern,
        (true, false) => name.starts_with(pattern),
        (false, true) => name.ends_with(pattern),
        (false, false) => name.contains(pattern),
    }
}

fn port_filter(filters: &Filters, name: &str) -> Result<Vec<String>, ContainerError> {
    let mut all = Vec::new();
    for text in filters.values(name) {
        let (first, last, protocol) = ports::parse_container_port(text).map_err(|why| {
            ContainerError::invalid(format!("invalid filter '{name}={text}': {why}"))
        })?;
        all.extend((first..=last).map(|port| format!("{port}/{}", protocol.name())));
    }
    Ok(all)
}

/// Seconds since 1970 (with a fraction), RFC 3339, or a Go duration before now (`1h30m`).
pub fn parse_time(text: &str, now: OffsetDateTime) -> Option<OffsetDateTime> {
    use time::format_description::well_known::Rfc3339;
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return Some(at);
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if let (Ok(seconds), true) = (
        whole.parse::<i64>(),
        fraction.bytes().all(|byte| byte.is_ascii_digit()),
    ) {
        let nanoseconds: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
        return Some(
            OffsetDateTime::from_unix_timestamp(seconds).ok()?
                + time::Duration::nanoseconds(nanoseconds),
        );
    }
    let mut total = 0f64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let length = unit
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(unit.len());
        total += number
            * match &unit[..length] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &unit[length..];
    }
    (!text.is_empty()).then(|| now - time::Duration::seconds_f64(total.min(1e12)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_in_part_or_with_anchors() {
        assert!(name_fits("web-1", "web"));
        assert!(name_fits("web-1", "^/web-1$"));
        assert!(!name_fits("web-1", "^web$"));
        assert!(name_fits("web-1", "^web"));
        assert!(name_fits("my-web", "web$"));
    }

    #[test]
    fn times_in_every_form() {
        let now = OffsetDateTime::from_unix_timestamp(1_000_000).expect("in range");
        let at = |seconds: i64| OffsetDateTime::from_unix_timestamp(seconds).ok();
        assert_eq!(parse_time("1000", now), at(1000));
        assert_eq!(parse_time("1970-01-01T00:16:40Z", now), at(1000));
        assert_eq!(parse_time("1h30m", now), at(1_000_000 - 5400));
        assert_eq!(
            parse_time("1000.5", now),
            at(1000).map(|at| at + time::Duration::milliseconds(500))
        );
        assert_eq!(parse_time("soon", now), None);
        assert_eq!(parse_time("", now), None);
    }
}
