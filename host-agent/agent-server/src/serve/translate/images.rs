//! Images between wire and domain. Every key that dockerd fills is filled: clients index them.

use crate::serve::error::{ApiError, ApiResult};
use crate::serve::extract::Query;
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use engine::clock::{ZERO_TIME, rfc3339};
use engine::images::config::{ContainerSide, MadeOf};
use engine::images::distribution::Distribution;
use engine::images::registry::{Credentials, Found};
use engine::images::{
    Digest, HistoryLine, ImageConfig, ImageFilter, ImageView, Progress, PruneFilter, Removed,
};
use engine_api::{ApiVersion, Filters};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// The filters of `docker images`.
pub fn filter(query: &Query) -> ApiResult<ImageFilter> {
    let filters = query.filters()?;
    filters.only(&["dangling", "label", "before", "since", "reference", "until"])?;
    let list = |name: &str| filters.values(name).map(str::to_owned).collect::<Vec<_>>();
    let mut filter = ImageFilter {
        all: query.flag("all"),
        dangling: filters.flag("dangling")?,
        labels: list("label"),
        before: list("before"),
        since: list("since"),
        references: list("reference"),
        until: until(&filters)?,
    };
    // `filter=name` is the form of API versions before 1.25, which docker-py still sends for `name=`.
    filter
        .references
        .extend(query.text("filter").map(str::to_owned));
    Ok(filter)
}

/// Their `until`.
fn until(filters: &Filters) -> ApiResult<Option<OffsetDateTime>> {
    engine::containers::list::until(filters, OffsetDateTime::now_utc()).map_err(ApiError::invalid)
}

fn time_text(at: Option<OffsetDateTime>) -> String {
    at.map_or_else(|| ZERO_TIME.to_owned(), rfc3339)
}

/// One entry of `GET /images/json`.
///
/// `shared`: bytes of its layers that other images have too, where they were asked for.
pub fn summary(image: &ImageView, shared: Option<u64>, version: ApiVersion) -> Value {
    let labels = &image.details.config.labels;
    let mut summary = json!({
        "Containers": -1,
        "Created": image.details.created.map_or(0, OffsetDateTime::unix_timestamp),
        "Id": image.id,
        "Labels": (!labels.is_empty()).then_some(labels),
        "ParentId": image.record.parent.as_ref().map_or("", Digest::as_str),
        "RepoDigests": image.repo_digests,
        "RepoTags": image.repo_tags,
        "SharedSize": shared.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        "Size": image.size(),
    });
    if version.has_virtual_size() {
        summary["VirtualSize"] = json!(image.size());
        // Clients of that time expect a placeholder where newer ones get an empty list.
        if image.repo_tags.is_empty() {
            summary["RepoTags"] = json!(["<none>:<none>"]);
        }
        if image.repo_digests.is_empty() {
            summary["RepoDigests"] = json!(["<none>@<none>"]);
        }
    }
    summary
}

/// `GET /images/{name}/json`.
pub fn inspect(
    image: &ImageView,
    (driver, data): (String, BTreeMap<String, String>),
    version: ApiVersion,
) -> Value {
    let details = &image.details;
    let mut shown = json!({
        "Architecture": details.platform.architecture,
        "Author": details.author,
        "Comment": details.comment,
        "Config": config(&details.config, details.side.as_ref()),
        "Created": time_text(details.created),
        "DockerVersion": details.docker_version,
        "GraphDriver": {"Data": data, "Name": driver},
        "Id": image.id,
        "Metadata": {"LastTagTime": time_text(image.record.last_tagged)},
        "Os": details.platform.os,
        "Parent": image.record.parent.as_ref().map_or("", Digest::as_str),
        "RepoDigests": image.repo_digests,
        "RepoTags": image.repo_tags,
        "RootFS": {"Type": "layers", "Layers": details.diff_ids},
        "Size": image.size(),
    });
    if !details.platform.variant.is_empty() {
        shown["Variant"] = json!(details.platform.variant);
    }
    if !details.os_version.is_empty() {
        shown["OsVersion"] = json!(details.os_version);
    }
    if version.has_virtual_size() {
        shown["VirtualSize"] = json!(image.size());
    }
    if version.shows_containers_of_images() {
        let unknown = MadeOf::default();
        let made_of = details.made_of.as_ref().unwrap_or(&unknown);
        shown["Container"] = json!(made_of.container);
        shown["ContainerConfig"] = config(&made_of.config, Some(&made_of.side));
    }
    shown
}

/// The `Config` object; those of its keys that only containers use have their empty values where the image has none.
fn config(config: &ImageConfig, side: Option<&ContainerSide>) -> Value {
    let unknown = ContainerSide::default();
    let side = side.unwrap_or(&unknown);
    let set = |names: &[String]| {
        names
            .iter()
            .map(|name| (name.clone(), json!({})))
            .collect::<Map<String, Value>>()
    };
    let or_null = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let mut shown = json!({
        "ArgsEscaped": false,
        "AttachStderr": side.attach_stderr,
        "AttachStdin": side.attach_stdin,
        "AttachStdout": side.attach_stdout,
        "Cmd": config.cmd,
        "Domainname": side.domain_name,
        "Entrypoint": config.entrypoint,
        "Env": or_null(&config.env),
        "Hostname": side.hostname,
        "Image": side.image,
        "Labels": (!config.labels.is_empty()).then_some(&config.labels),
        "OnBuild": or_null(&config.on_build),
        "OpenStdin": side.open_stdin,
        "StdinOnce": side.stdin_once,
        "Tty": side.tty,
        "User": config.user,
        "Volumes": (!config.volumes.is_empty()).then(|| set(&config.volumes)),
        "WorkingDir": config.working_directory,
    });
    // Docker leaves these out where an image does not have them.
    if !config.exposed_ports.is_empty() {
        shown["ExposedPorts"] = Value::Object(set(&config.exposed_ports));
    }
    if let Some(signal) = &config.stop_signal {
        shown["StopSignal"] = json!(signal);
    }
    if let Some(timeout) = config.stop_timeout {
        shown["StopTimeout"] = json!(timeout);
    }
    if let Some(shell) = &config.shell {
        shown["Shell"] = json!(shell);
    }
    if let Some(check) = &config.healthcheck {
        let mut health = json!({"Test": check.test});
        for (key, value) in [
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("Retries", check.retries),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
        ] {
            if value != 0 {
                health[key] = json!(value);
            }
        }
        shown["Healthcheck"] = health;
    }
    shown
}

/// One entry of `GET /images/{name}/history`.
pub fn history(line: &HistoryLine) -> Value {
    json!({
        "Comment": line.comment,
        "Created": line.created.map_or(0, OffsetDateTime::unix_timestamp),
        "CreatedBy": line.created_by,
        "Id": line.id.as_ref().map_or("<missing>", |id| id.as_str()),
        "Size": line.size,
        "Tags": (!line.tags.is_empty()).then_some(&line.tags),
    })
}

/// One entry of `DELETE /images/{name}`.
pub fn removed(removed: &Removed) -> Value {
    match removed {
        Removed::Untagged(name) => json!({"Untagged": name}),
        Removed::Deleted(digest) => json!({"Deleted": digest}),
    }
}

/// One line of a stream.
pub fn progress(message: &Progress) -> Bytes {
    let value = match message {
        Progress::Status { id, status } if id.is_empty() => json!({"status": status}),
        Progress::Status { id, status } => {
            // Docker's words for what one layer does come with an empty bar.
            match status.starts_with("Pulling from") {
                true => json!({"status": status, "id": id}),
                false => json!({"status": status, "progressDetail": {}, "id": id}),
            }
        }
        Progress::Amount {
            id,
            status,
            current,
            total,
        } => {
            let detail = match total {
                0 => json!({"current": current}),
                total => json!({"current": current, "total": total}),
            };
            json!({
                "status": status,
                "progressDetail": detail,
                "progress": bar(*current, *total),
                "id": id,
            })
        }
        Progress::Line(line) => json!({"stream": line}),
        Progress::Pushed { tag, digest, size } => json!({
            "progressDetail": {},
            "aux": {"Tag": tag, "Digest": digest, "Size": size},
        }),
    };
    line_of(&value)
}

/// The filters of `docker image prune`; without any, images without a tag go.
pub fn prune_filter(query: &Query) -> ApiResult<PruneFilter> {
    let filters = query.filters()?;
    filters.only(&["dangling", "label", "label!", "until"])?;
    let list = |name: &str| filters.values(name).map(str::to_owned).collect::<Vec<_>>();
    Ok(PruneFilter {
        dangling_only: filters.flag("dangling")?.unwrap_or(true),
        labels: list("label"),
        without_labels: list("label!"),
        until: until(&filters)?,
    })
}

/// The filters of `docker search`.
#[derive(Debug, Default)]
pub struct SearchFilter {
    stars: i64,
    is_official: Option<bool>,
    is_automated: Option<bool>,
}

/// Reads them.
pub fn search_filter(query: &Query) -> ApiResult<SearchFilter> {
    let filters = query.filters()?;
    filters.only(&["stars", "is-official", "is-automated"])?;
    let mut filter = SearchFilter {
        is_official: filters.flag("is-official")?,
        is_automated: filters.flag("is-automated")?,
        ..SearchFilter::default()
    };
    for stars in filters.values("stars") {
        let stars = stars
            .parse()
            .map_err(|_| ApiError::invalid(format!("invalid filter 'stars=[{stars}]'")))?;
        filter.stars = filter.stars.max(stars);
    }
    Ok(filter)
}

impl SearchFilter {
    pub fn fits(&self, found: &Found) -> bool {
        found.stars >= self.stars
            && self
                .is_official
                .is_none_or(|wanted| wanted == found.is_official)
            && self
                .is_automated
                .is_none_or(|wanted| wanted == found.is_automated)
    }
}

/// One entry of `GET /images/search`.
pub fn found(found: &Found) -> Value {
    json!({
        "star_count": found.stars,
        "is_official": found.is_official,
        "name": found.name,
        "is_automated": found.is_automated,
        "description": found.description,
    })
}

/// `GET /distribution/{name}/json`.
pub fn distribution(found: &Distribution) -> Value {
    let platforms: Vec<Value> = found
        .platforms
        .iter()
        .map(|platform| {
            let mut shown = json!({"architecture": platform.architecture, "os": platform.os});
            if !platform.variant.is_empty() {
                shown["variant"] = json!(platform.variant);
            }
            shown
        })
        .collect();
    json!({
        "Descriptor": {
            "mediaType": found.media_type,
            "digest": found.digest,
            "size": found.size,
        },
        "Platforms": platforms,
    })
}

/// The last line of a stream that failed.
pub fn progress_error(error: &ApiError) -> Bytes {
    line_of(&json!({
        "errorDetail": {"message": error.message()},
        "error": error.message(),
    }))
}

pub(super) fn line_of(value: &Value) -> Bytes {
    // Docker ends each with CR LF.
    format!("{value}\r\n").into()
}

/// `[=====>     ]   1.2MB/3.4MB`, for clients that show the daemon's own bar (moby, `jsonmessage.go`).
fn bar(current: u64, total: u64) -> String {
    const WIDTH: usize = 50;
    let current_text = size_text(current);
    if total == 0 {
        return format!("{current_text:>8}");
    }
    let done = (current.min(total) as u128 * WIDTH as u128 / u128::from(total)) as usize;
    format!(
        "[{}>{}] {current_text:>8}/{}",
        "=".repeat(done),
        " ".repeat(WIDTH - done),
        size_text(total)
    )
}

/// Four significant digits with a decimal unit, as go-units' HumanSize.
fn size_text(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"].iter();
    let mut unit = "B";
    for next in units.by_ref() {
        unit = next;
        if value < 1000.0 {
            break;
        }
        if *next != "EB" {
            value /= 1000.0;
        }
    }
    let digits = match value {
        value if value >= 1000.0 => 0,
        value if value >= 100.0 => 1,
        value if value >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{unit}")
}

/// What clients send to sign in, in `X-Registry-Auth` and to `POST /auth`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct AuthBody {
    username: String,
    password: String,
    /// Base64 of `user:password`, of old clients.
    auth: String,
    serveraddress: String,
    identitytoken: String,
    registrytoken: String,
}

impl AuthBody {
    /// The registry's domain and the credentials.
    pub fn into_parts(self) -> (String, Credentials) {
        let domain = domain(&self.serveraddress);
        (domain, self.into_credentials())
    }

    fn into_credentials(mut self) -> Credentials {
        if self.username.is_empty()
            && let Some(pair) = base64::engine::general_purpose::STANDARD
                .decode(&self.auth)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
            && let Some((username, password)) = pair.split_once(':')
        {
            self.username = username.to_owned();
            self.password = password.trim_end_matches('\0').to_owned();
        }
        Credentials {
            username: self.username,
            password: self.password,
            identity_token: self.identitytoken,
            registry_token: self.registrytoken,
        }
    }
}

/// `https://index.docker.io/v1/` is Docker Hub's old name.
fn domain(address: &str) -> String {
    let host = address
        .split_once("://")
        .map_or(address, |(_, rest)| rest)
        .split('/')
        .next()
        .unwrap_or_default();
    match host {
        "" | "index.docker.io" | "registry-1.docker.io" | "docker.io" => "docker.io".into(),
        other => other.to_owned(),
    }
}

/// Reads the `X-Registry-Auth` header.
pub fn credentials(header: &[u8]) -> Option<Credentials> {
    serde_json::from_slice::<AuthBody>(&decoded(header)?)
        .ok()
        .map(AuthBody::into_credentials)
}

/// What the `X-Registry-Config` header, an object of registries, has for one of them.
pub fn credentials_of_config(header: &[u8], wanted: &str) -> Option<Credentials> {
    serde_json::from_slice::<BTreeMap<String, AuthBody>>(&decoded(header)?)
        .ok()?
        .into_iter()
        .find(|(address, _)| domain(address) == wanted)
        .map(|(_, body)| body.into_credentials())
}

/// All of an `X-Registry-Config` header, by the registry's domain.
pub fn all_credentials(header: &[u8]) -> BTreeMap<String, Credentials> {
    decoded(header)
        .and_then(|json| serde_json::from_slice::<BTreeMap<String, AuthBody>>(&json).ok())
        .unwrap_or_default()
        .into_iter()
        .map(|(address, body)| (domain(&address), body.into_credentials()))
        .filter(|(_, credentials)| !credentials.is_empty())
        .collect()
}

fn decoded(header: &[u8]) -> Option<Vec<u8>> {
    // Clients send the URL alphabet, some without padding, and some the standard alphabet.
    let lenient = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let header: Vec<u8> = header
        .iter()
        .map(|byte| match byte {
            b'+' => b'-',
            b'/' => b'_',
            other => *other,
        })
        .collect();
    GeneralPurpose::new(&URL_SAFE, lenient).decode(header).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_and_sizes_are_dockers() {
        assert_eq!(size_text(0), "0B");
        assert_eq!(size_text(999), "999B");
        assert_eq!(size_text(1000), "1kB");
        assert_eq!(size_text(1_234_567), "1.235MB");
        assert_eq!(size_text(12_345_678), "12.35MB");
        assert_eq!(
            bar(50, 100),
            format!("[{}>{}]      50B/100B", "=".repeat(25), " ".repeat(25))
        );
        assert_eq!(
            bar(100, 100),
            format!("[{}>]     100B/100B", "=".repeat(50))
        );
        assert_eq!(bar(7, 0), "      7B");
    }

    #[test]
    fn credentials_are_read_in_every_alphabet() {
        let json = r#"{"username":"u?","password":"p~~","serveraddress":"x"}"#;
        let url = base64::engine::general_purpose::URL_SAFE.encode(json);
        let bare = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json);
        let standard = base64::engine::general_purpose::STANDARD.encode(json);
        for text in [url, bare, standard] {
            let credentials = credentials(text.as_bytes()).expect("readable");
            assert_eq!(
                (credentials.username.as_str(), credentials.password.as_str()),
                ("u?", "p~~")
            );
        }
        assert!(credentials(b"%%%").is_none());
        assert!(credentials(b"e30=").expect("empty").is_empty());
        let config = base64::engine::general_purpose::URL_SAFE.encode(
            r#"{"a.example:5000":{"username":"u","password":"p"},"https://index.docker.io/v1/":{"auth":"aDpk"}}"#,
        );
        let user = |domain: &str| {
            credentials_of_config(config.as_bytes(), domain).map(|found| found.username)
        };
        assert_eq!(user("a.example:5000").as_deref(), Some("u"));
        assert_eq!(user("docker.io").as_deref(), Some("h"));
        assert_eq!(user("b.example"), None);
    }

    #[test]
    fn domains_of_server_addresses() {
        assert_eq!(domain("https://index.docker.io/v1/"), "docker.io");
        assert_eq!(domain("localhost:5000"), "localhost:5000");
        assert_eq!(domain("https://ghcr.io"), "ghcr.io");
    }
}
