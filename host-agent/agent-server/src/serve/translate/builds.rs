//! Builds between wire and domain: the parameters of `POST /build`, and what is told of a build.

use super::images::{line_of, progress};
use crate::serve::error::{ApiError, ApiResult};
use crate::serve::extract::Query;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use engine::builds::classic::ClassicMessage;
use engine::builds::error::BuildError;
use engine::builds::event::{BuildEvent, Finding, OutputOf, PlannedStep};
use engine::builds::request::{
    BuildOutput, BuildRequest, CacheUsage, DockerfileSource, Keep, PruneRequest, RemoveContainers,
    Secret,
};
use engine::clock::rfc3339;
use engine::containers::spec::NetworkChoice;
use engine::error::{Classify, full_message};
use engine::images::{ImageError, Platform, Reference};
use engine::runtime::{ResourcePlan, Rlimit};
use engine_api::ApiVersion;
use engine_api::builds::{BuildPreamble, OutputBody};
use engine_api::containers::UlimitBody;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// Docker's parameters of `POST /build` (moby, `build_routes.go`, `newImageBuildOptions`). The context and what is in
/// headers are added by the handler.
pub fn request(query: &Query) -> ApiResult<BuildRequest> {
    refuse(query)?;
    let positive = |name: &str| -> ApiResult<Option<u64>> {
        match integer(query, name)? {
            None => Ok(None),
            Some(value) => u64::try_from(value)
                .map(Some)
                .map_err(|_| ApiError::invalid(format!("invalid value for {name}: {value}"))),
        }
    };
    let text = |name: &str| query.text(name).map(str::to_owned);
    let dockerfile = query.text("dockerfile").unwrap_or("Dockerfile");
    let cache_from: Vec<String> = json_of(query, "cachefrom", "error reading cache-from")?;
    Ok(BuildRequest {
        only_cache_from: !cache_from.is_empty(),
        cache_from,
        dockerfile: DockerfileSource::Path(dockerfile.to_owned()),
        tags: tags(query.all("t"))?,
        target: text("target").unwrap_or_default(),
        arguments: json_of(query, "buildargs", "error reading build args")?,
        labels: json_of(query, "labels", "error reading labels")?,
        no_cache: query.flag("nocache"),
        pull: query.flag("pull"),
        platform: query.text("platform").map(platform).transpose()?,
        network: NetworkChoice::parse(query.text("networkmode").unwrap_or_default()),
        shm_size: positive("shmsize")?.unwrap_or(0),
        resources: ResourcePlan {
            memory: integer(query, "memory")?,
            memory_swap: integer(query, "memswap")?,
            cpu_shares: positive("cpushares")?,
            cpu_period: positive("cpuperiod")?,
            cpu_quota: integer(query, "cpuquota")?,
            cpuset_cpus: text("cpusetcpus"),
            cpuset_mems: text("cpusetmems"),
            ..ResourcePlan::default()
        },
        cgroup_parent: text("cgroupparent").unwrap_or_default(),
        extra_hosts: query
            .all("extrahosts")
            .filter(|host| !host.is_empty())
            .map(str::to_owned)
            .collect(),
        ulimits: ulimits(query)?,
        remove: remove(query),
        ..BuildRequest::default()
    })
}

/// What this engine does not do, in Docker's words where it has some.
fn refuse(query: &Query) -> ApiResult<()> {
    match query.text("version") {
        None | Some("1") => {}
        Some("2") => {
            return Err(ApiError::unsupported(
                "this engine has no BuildKit inside: set DOCKER_BUILDKIT=0, or use 'berth build', which has its own ways for secrets, ssh and outputs",
            ));
        }
        Some(other) => return Err(ApiError::invalid(format!("invalid version {other}"))),
    }
    if query.flag("squash") {
        return Err(ApiError::invalid(
            "squash is only supported with experimental mode",
        ));
    }
    if query.all("securityopt").any(|option| !option.is_empty()) {
        return Err(ApiError::invalid(
            "security options are not supported on linux",
        ));
    }
    if let Some(isolation) = query.text("isolation")
        && isolation != "default"
    {
        return Err(ApiError::invalid(format!(
            "unsupported isolation: {isolation:?}"
        )));
    }
    let outputs = query.text("outputs").map(str::trim);
    if outputs.is_some_and(|outputs| !matches!(outputs, "" | "null" | "[]")) {
        return Err(ApiError::unsupported(
            "outputs other than an image need BuildKit or 'berth build'",
        ));
    }
    if query.text("session").is_some() {
        return Err(ApiError::invalid(
            "experimental session with v1 builder is no longer supported, use builder version v2 (BuildKit) instead",
        ));
    }
    Ok(())
}

/// 0 is "not set" in Docker's numbers.
fn integer(query: &Query, name: &str) -> ApiResult<Option<i64>> {
    Ok(query.number::<i64>(name)?.filter(|value| *value != 0))
}

fn json_of<T: DeserializeOwned + Default>(query: &Query, name: &str, what: &str) -> ApiResult<T> {
    let Some(text) = query.text(name) else {
        return Ok(T::default());
    };
    serde_json::from_str::<Option<T>>(text)
        .map(Option::unwrap_or_default)
        .map_err(|error| ApiError::invalid(format!("{what}: {error}")))
}

/// Each name once, with its tag; Docker's `sanitizeRepoAndTags`.
fn tags<'a>(given: impl Iterator<Item = &'a str>) -> ApiResult<Vec<Reference>> {
    let mut tags: Vec<Reference> = Vec::new();
    for name in given.filter(|name| !name.is_empty()) {
        let reference = Reference::parse(name).map_err(ImageError::from)?;
        reference.check_as_name().map_err(ImageError::from)?;
        if reference.digest.is_some() {
            return Err(ApiError::invalid("build tag cannot contain a digest"));
        }
        let reference = reference.or_latest();
        if !tags.contains(&reference) {
            tags.push(reference);
        }
    }
    Ok(tags)
}

/// What Go's `platforms.Parse` takes for an operating system or an architecture when it stands alone.
const LONE_NAMES: [&str; 27] = [
    "linux", "windows", "darwin", "freebsd", "386", "i386", "amd64", "x86_64", "x86-64", "arm",
    "armhf", "armel", "arm64", "aarch64", "ppc64", "ppc64le", "mips", "mipsle", "mips64",
    "mips64le", "riscv64", "s390x", "s390", "loong64", "sparc64", "ppc", "wasm",
];

fn platform(text: &str) -> ApiResult<Platform> {
    if !text.contains('/') && !LONE_NAMES.contains(&text.to_ascii_lowercase().as_str()) {
        return Err(ApiError::invalid(format!(
            "{text:?}: unknown operating system or architecture: invalid argument"
        )));
    }
    Platform::parse(text).ok_or_else(|| {
        ApiError::invalid(format!(
            "{text:?} is an invalid OS/architecture: write linux/amd64 or linux/arm64/v8, for example"
        ))
    })
}

fn ulimits(query: &Query) -> ApiResult<Vec<Rlimit>> {
    let bodies: Vec<UlimitBody> = json_of(query, "ulimits", "error reading ulimit settings")?;
    let checked = bodies.into_iter().map(|body| {
        Rlimit::checked(
            &body.name.unwrap_or_default(),
            body.soft.unwrap_or(0),
            body.hard.unwrap_or(0),
        )
    });
    checked.collect::<Result<_, _>>().map_err(ApiError::invalid)
}

fn remove(query: &Query) -> RemoveContainers {
    match (query.flag("forcerm"), query.flag_or("rm", true)) {
        (true, _) => RemoveContainers::Always,
        (false, true) => RemoveContainers::OnSuccess,
        (false, false) => RemoveContainers::Never,
    }
}

/// Adds what the preamble of `berth build` says, but for what is only the handler's.
pub fn add_preamble(request: &mut BuildRequest, preamble: &BuildPreamble) -> ApiResult<()> {
    for (id, content) in &preamble.secrets {
        let content = STANDARD
            .decode(content)
            .map_err(|_| ApiError::invalid(format!("the secret {id:?} is not base64")))?;
        request.secrets.insert(id.clone(), Secret(content));
    }
    request.output = match preamble.output {
        OutputBody::Image => BuildOutput::Image,
        OutputBody::Files => BuildOutput::Files,
        OutputBody::ImageAndFiles => BuildOutput::ImageAndFiles,
        OutputBody::Nothing => BuildOutput::Nothing,
        OutputBody::Check => BuildOutput::Check,
    };
    if let Some(seconds) = preamble.source_date {
        let date = OffsetDateTime::from_unix_timestamp(seconds)
            .map_err(|_| ApiError::invalid(format!("{seconds} is no time")))?;
        request.source_date = Some(date);
    }
    Ok(())
}

/// A line of the classic builder. `None` where the version did not have it.
pub fn classic(message: &ClassicMessage, version: ApiVersion) -> Option<Bytes> {
    Some(match message {
        ClassicMessage::Stream(text) => stream(text),
        ClassicMessage::Pull(message) => progress(message),
        ClassicMessage::Aux(_) if !version.tells_built_image() => return None,
        ClassicMessage::Aux(digest) => line_of(&json!({"aux": {"ID": digest}})),
    })
}

/// A line of output.
pub fn stream(text: &str) -> Bytes {
    line_of(&json!({ "stream": text }))
}

/// The last line of a build that failed, as dockerd tells it.
pub fn failure(error: &BuildError) -> Bytes {
    let message = full_message(error.without_place());
    line_of(&json!({"errorDetail": detail(error, &message), "error": message}))
}

fn detail(error: &BuildError, message: &str) -> Value {
    match error.exit_code() {
        Some(code) => json!({"code": code, "message": message}),
        None => json!({ "message": message }),
    }
}

/// An error before the first line.
pub fn refusal(error: &BuildError) -> ApiError {
    ApiError::new(error.class(), full_message(error.without_place()))
}

/// The same with the place in the Dockerfile.
pub fn refusal_with_place(error: &BuildError) -> ApiError {
    ApiError::new(error.class(), full_message(error))
}

/// The last line of a failed build for `berth`: with the place in the Dockerfile.
pub fn failure_with_place(error: &BuildError) -> Bytes {
    let message = full_message(error);
    let mut detail = detail(error, &message);
    if let Some((line, column)) = error.place() {
        detail["line"] = line.into();
        detail["column"] = column.into();
    }
    line_of(&json!({"errorDetail": detail, "error": message}))
}

/// An event for `berth`: one key, which names it.
pub fn event(event: &BuildEvent) -> Bytes {
    let value = match event {
        BuildEvent::Planned(steps) => {
            json!({"planned": steps.iter().map(planned).collect::<Vec<_>>()})
        }
        BuildEvent::Started { step } => json!({"started": {"step": step}}),
        BuildEvent::Pulling {
            step,
            progress: message,
        } => {
            let line = progress(message);
            let shown = serde_json::from_slice::<Value>(&line).unwrap_or_default();
            json!({"pulling": {"step": step, "progress": shown}})
        }
        BuildEvent::Running { step, container } => {
            json!({"running": {"step": step, "container": container}})
        }
        BuildEvent::Output { step, of, bytes } => {
            let of = match of {
                OutputOf::Stdout => 1,
                OutputOf::Stderr => 2,
            };
            json!({"output": {"step": step, "stream": of, "data": STANDARD.encode(bytes)}})
        }
        BuildEvent::Removed { step, container } => {
            json!({"removed": {"step": step, "container": container}})
        }
        BuildEvent::Done {
            step,
            state,
            cached,
        } => json!({"done": {"step": step, "state": state, "cached": cached}}),
        BuildEvent::Failed { step, message } => {
            json!({"failed": {"step": step, "message": message}})
        }
        BuildEvent::Warning { step, text } => json!({"warning": {"step": step, "text": text}}),
        BuildEvent::Lint(found) => json!({ "lint": finding(found) }),
        BuildEvent::Built { image } => json!({"built": {"image": image}}),
        BuildEvent::Tagged { name } => json!({"tagged": {"name": name}}),
    };
    line_of(&value)
}

fn planned(step: &PlannedStep) -> Value {
    json!({
        "stage": step.stage,
        "stageName": step.stage_name,
        "number": step.number,
        "of": step.of,
        "line": step.line,
        "text": step.text,
        "needs": step.needs,
    })
}

fn finding(finding: &Finding) -> Value {
    json!({
        "rule": finding.rule,
        "message": finding.message,
        "description": finding.description,
        "line": finding.line,
        "shown": finding.shown,
    })
}

/// Says that a tar follows.
pub fn files_follow() -> Bytes {
    line_of(&json!({"files": true}))
}

/// Parameters of `POST /build/prune`. `reserved-space` is the newer name of `keep-storage`.
pub fn prune(query: &Query) -> ApiResult<PruneRequest> {
    let bytes = |name: &str| -> ApiResult<u64> {
        let given = query.number::<i64>(name)?.unwrap_or(0);
        u64::try_from(given)
            .map_err(|_| ApiError::invalid(format!("invalid value for {name}: {given}")))
    };
    let reserved = match bytes("reserved-space")? {
        0 => bytes("keep-storage")?,
        reserved => reserved,
    };
    let keep = Keep {
        reserved,
        most: bytes("max-used-space")?,
        least_free: bytes("min-free-space")?,
    };
    Ok(PruneRequest {
        all: query.flag("all"),
        keep,
        filters: query.filters()?,
    })
}

/// An entry of `/system/df`'s BuildCache.
pub fn cache_usage(entry: &CacheUsage, version: ApiVersion) -> Value {
    let mut shown = Map::new();
    shown.insert("ID".into(), json!(entry.id));
    match &entry.parent {
        None => {}
        Some(parent) if version.lists_cache_parents() => {
            shown.insert("Parents".into(), json!([parent]));
        }
        Some(parent) => {
            shown.insert("Parent".into(), json!(parent));
        }
    }
    for (name, value) in [
        ("Type", json!(entry.kind.name())),
        ("Description", json!(entry.description)),
        ("InUse", json!(entry.in_use)),
        ("Shared", json!(entry.shared)),
        ("Size", json!(entry.size)),
        ("CreatedAt", json!(rfc3339(entry.created))),
        ("LastUsedAt", json!(entry.last_used.map(rfc3339))),
        ("UsageCount", json!(entry.usage_count)),
    ] {
        shown.insert(name.into(), value);
    }
    Value::Object(shown)
}

/// `X-Registry-Config`: credentials by registry. As with dockerd, what cannot be read counts as none given.
pub fn credentials(
    headers: &http::HeaderMap,
) -> BTreeMap<String, engine::images::registry::Credentials> {
    headers
        .get("x-registry-config")
        .map(|value| super::images::all_credentials(value.as_bytes()))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> ApiResult<BuildRequest> {
        request(&Query::parse(text))
    }

    #[test]
    fn what_the_command_sends_is_read() {
        // `docker build` 28 without BuildKit.
        let request = read(
            "buildargs=%7B%22A%22%3A%221%22%2C%22B%22%3Anull%7D&cachefrom=%5B%22old%3A1%22%5D&cgroupparent=&cpuperiod=0&cpuquota=0&cpusetcpus=&cpusetmems=&cpushares=512&dockerfile=sub%2FDockerfile&labels=%7B%22x%22%3A%22y%22%7D&memory=67108864&memswap=-1&networkmode=none&nocache=1&pull=1&rm=1&shmsize=1024&t=me%2Fthing&t=me%2Fthing%3Alatest&t=other%3A1&target=last&ulimits=%5B%7B%22Name%22%3A%22nofile%22%2C%22Hard%22%3A20%2C%22Soft%22%3A10%7D%5D&version=1&extrahosts=a%3A1.2.3.4&platform=linux%2Famd64",
        )
        .expect("good");
        assert_eq!(
            request.arguments,
            BTreeMap::from([("A".into(), Some("1".into())), ("B".into(), None)])
        );
        assert_eq!(request.cache_from, ["old:1"]);
        assert!(request.only_cache_from);
        assert_eq!(
            request.dockerfile,
            DockerfileSource::Path("sub/Dockerfile".into())
        );
        assert_eq!(request.labels["x"], "y");
        let resources = &request.resources;
        assert_eq!(
            (resources.memory, resources.memory_swap),
            (Some(64 << 20), Some(-1))
        );
        assert_eq!(
            (resources.cpu_shares, resources.cpu_quota),
            (Some(512), None)
        );
        assert_eq!(request.network, NetworkChoice::None);
        assert!(request.no_cache && request.pull);
        assert_eq!(request.remove, RemoveContainers::OnSuccess);
        assert_eq!(request.shm_size, 1024);
        let tags: Vec<String> = request.tags.iter().map(Reference::familiar).collect();
        assert_eq!(tags, ["me/thing:latest", "other:1"]);
        assert_eq!(request.target, "last");
        assert_eq!((request.ulimits[0].soft, request.ulimits[0].hard), (10, 20));
        assert_eq!(request.extra_hosts, ["a:1.2.3.4"]);
        assert!(request.platform.is_some());
    }

    #[test]
    fn nothing_given_is_dockers_default() {
        let request = read("").expect("good");
        assert_eq!(
            request.dockerfile,
            DockerfileSource::Path("Dockerfile".into())
        );
        assert_eq!(request.remove, RemoveContainers::OnSuccess);
        assert_eq!(read("rm=0").expect("good").remove, RemoveContainers::Never);
        let forced = read("rm=0&forcerm=1").expect("good");
        assert_eq!(forced.remove, RemoveContainers::Always);
        assert!(
            read("buildargs=null&labels=null&cachefrom=null&ulimits=null&outputs=null").is_ok()
        );
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (query, status, text) in [
            ("version=2", 501, "DOCKER_BUILDKIT=0"),
            ("version=x", 400, "invalid version x"),
            ("squash=1", 400, "experimental"),
            ("securityopt=x", 400, "security options are not supported"),
            ("isolation=hyperv", 400, "unsupported isolation: \"hyperv\""),
            ("session=abc", 400, "session"),
            (
                "outputs=%5B%7B%22Type%22%3A%22tar%22%7D%5D",
                501,
                "berth build",
            ),
            ("buildargs=x", 400, "error reading build args"),
            ("labels=%5B%5D", 400, "error reading labels"),
            ("cachefrom=%7B%7D", 400, "error reading cache-from"),
            ("ulimits=1", 400, "error reading ulimit settings"),
            (
                "ulimits=%5B%7B%22Name%22%3A%22x%22%7D%5D",
                400,
                "invalid ulimit type: x",
            ),
            ("t=UPPER", 400, "must be lowercase"),
            (
                "t=a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                400,
                "cannot contain a digest",
            ),
            (
                "platform=foobar",
                400,
                "unknown operating system or architecture",
            ),
            ("platform=a/b/c/d", 400, "invalid OS/architecture"),
            ("shmsize=x", 400, "shmsize"),
            ("shmsize=-1", 400, "shmsize"),
            ("memory=lots", 400, "memory"),
        ] {
            let error = read(query).expect_err(query);
            assert_eq!(error.status().as_u16(), status, "{query}");
            assert!(
                error.message().contains(text),
                "{query}: {}",
                error.message()
            );
        }
    }

    #[test]
    fn prunes_are_read() {
        let prune = |text: &str| prune(&Query::parse(text));
        let keep = |reserved, most, least_free| Keep {
            reserved,
            most,
            least_free,
        };
        let request = prune("all=1&keep-storage=5").expect("good");
        assert!(request.all);
        assert_eq!(request.keep, keep(5, 0, 0));
        for (text, expected) in [
            ("", keep(0, 0, 0)),
            ("reserved-space=7&keep-storage=5", keep(7, 0, 0)),
            ("max-used-space=9&reserved-space=7", keep(7, 9, 0)),
            ("min-free-space=3", keep(0, 0, 3)),
        ] {
            assert_eq!(prune(text).expect(text).keep, expected, "{text}");
        }
        for name in ["keep-storage", "max-used-space", "min-free-space"] {
            assert!(prune(&format!("{name}=-1")).is_err(), "{name}");
        }
    }

    #[test]
    fn a_preamble_cannot_be_printed_and_is_read() {
        let preamble: BuildPreamble =
            serde_json::from_str(r#"{"secrets":{"token":"c2VjcmV0"},"output":"files"}"#)
                .expect("good");
        assert!(!format!("{preamble:?}").contains("c2Vj"));
        let mut request = BuildRequest::default();
        add_preamble(&mut request, &preamble).expect("good");
        assert_eq!(request.secrets["token"].0, b"secret");
        assert!(!format!("{request:?}").contains("115, 101"));
        assert_eq!(request.output, BuildOutput::Files);
        let bad = BuildPreamble {
            secrets: BTreeMap::from([("token".into(), "%".into())]),
            ..BuildPreamble::default()
        };
        let error = add_preamble(&mut request, &bad).expect_err("not base64");
        assert!(error.message().contains("token") && !error.message().contains('%'));
    }
}
