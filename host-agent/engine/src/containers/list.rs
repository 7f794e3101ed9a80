//! `docker ps`: which containers are listed.

use super::container::Container;
use super::error::ContainerError;
use super::ports;
use super::service::ContainerService;
use super::status::Status;
use crate::patterns::Patterns;
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
const HEALTHS: &[&str] = &["starting", "healthy", "unhealthy", "none"];

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
        for health in filters.values("health") {
            if !HEALTHS.contains(&health) {
                return Err(ContainerError::invalid(format!(
                    "unrecognized filter value for health: {health}"
                )));
            }
        }
        let (ids, names) = (Patterns::of(filters, "id"), Patterns::of(filters, "name"));
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
            let named = || {
                let name = container.name();
                names.fit(&[&name, &format!("/{name}")])
            };
            let in_any = |name: &str, fits: &dyn Fn(&str) -> bool| {
                !filters.has(name) || filters.values(name).any(fits)
            };
            let fits = ids.fit(&[container.id.as_str()])
                && named()
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
                    // Docker's finds mounted images by their names, too.
                    spec.mounts.iter().any(|mount| {
                        mount.name.as_deref() == Some(value)
                            || mount.destination == value
                            || mount.source.to_str() == Some(value)
                    })
                })
                && in_any("network", &|value| {
                    spec.host.network.text() == value
                        || status.memberships.iter().any(|(name, membership)| {
                            let id = membership.network.as_ref();
                            name == value || id.is_some_and(|id| id.as_str() == value)
                        })
                })
                && (exposed.is_empty()
                    || ports::exposed(&spec.config.exposed_ports).any(|(port, protocol)| {
                        exposed.contains(&format!("{port}/{}", protocol.name()))
                    }))
                && (published.is_empty()
                    || status
                        .network
                        .iter()
                        .flat_map(|network| &network.ports)
                        .any(|port| {
                            published.contains(&format!(
                                "{}/{}",
                                port.host_port,
                                port.protocol.name()
                            )) || published.contains(&format!(
                                "{}/{}",
                                port.container_port,
                                port.protocol.name()
                            ))
                        }))
                && filters.exact(
                    "health",
                    status
                        .health
                        .as_ref()
                        .map_or("none", |health| health.status.name()),
                )
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

/// Docker's forms of a time (moby `api/types/time`): seconds since 1970 with a fraction, RFC 3339 with or without its time,
/// its seconds or its zone, or a Go duration before now (`1h30m`).
pub fn parse_time(text: &str, now: OffsetDateTime) -> Option<OffsetDateTime> {
    unix_time(text)
        .or_else(|| date(text))
        .or_else(|| Some(now - go_duration(text)?))
}

/// The time of a prune's or list's `until` filter; the errors are Docker's.
pub fn until(filters: &Filters, now: OffsetDateTime) -> Result<Option<OffsetDateTime>, String> {
    let mut values = filters.values("until");
    let (Some(text), None) = (values.next(), values.next()) else {
        return match filters.values("until").next() {
            None => Ok(None),
            Some(_) => Err("more than one until filter specified".into()),
        };
    };
    let at = parse_time(text, now);
    at.map(Some)
        .ok_or_else(|| format!("failed to parse value as time or duration: {text:?}"))
}

fn unix_time(text: &str) -> Option<OffsetDateTime> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanoseconds: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()?
        .checked_add(time::Duration::nanoseconds(nanoseconds))
}

/// What is left out is zero, and the zone is UTC: a container host has no other.
fn date(text: &str) -> Option<OffsetDateTime> {
    use time::format_description::well_known::Rfc3339;
    let (day, rest) = match text.split_once('T') {
        None => {
            let end = text.char_indices().nth(10).map_or(text.len(), |(at, _)| at);
            let (day, zone) = text.split_at(end);
            (day, format!("00:00:00{zone}"))
        }
        Some((day, rest)) => (day, rest.to_owned()),
    };
    let zone_at = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(zone_at);
    let clock = match clock.split(':').count() {
        1 => format!("{clock}:00:00"),
        2 => format!("{clock}:00"),
        _ => clock.to_owned(),
    };
    let zone = if zone.is_empty() { "Z" } else { zone };
    OffsetDateTime::parse(&format!("{day}T{clock}{zone}"), &Rfc3339).ok()
}

/// `1h30m`, `1.5s`, `-10ms`.
fn go_duration(text: &str) -> Option<time::Duration> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return None;
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let length = unit
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(unit.len());
        total += number
            * match &unit[..length] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &unit[length..];
    }
    // Further than the calendar goes is as good as its end.
    Some(time::Duration::seconds_f64(sign * total.min(1e11)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_is_given_once() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let read = |values: &[(&str, &str)]| until(&Filters::of(values.iter().copied()), now);
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[("until", "0")]), Ok(Some(now)));
        let error = read(&[("until", "soon")]).expect_err("no time");
        assert_eq!(error, "failed to parse value as time or duration: \"soon\"");
        let error = read(&[("until", "1"), ("until", "2")]).expect_err("two");
        assert_eq!(error, "more than one until filter specified");
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
        assert_eq!(parse_time("1970-01-01T00:16:40", now), at(1000));
        assert_eq!(parse_time("1970-01-01T00:16", now), at(960));
        assert_eq!(parse_time("1970-01-02", now), at(86_400));
        assert_eq!(parse_time("1970-01-02Z", now), at(86_400));
        assert_eq!(parse_time("1970-01-01T01:00:00+01:00", now), at(0));
        assert_eq!(parse_time("-10s", now), at(1_000_010));
        assert_eq!(parse_time("1.5h", now), at(1_000_000 - 5400));
        assert_eq!(parse_time("1970-13-01", now), None);
        assert_eq!(parse_time("soon", now), None);
        assert_eq!(parse_time("", now), None);
    }
}
