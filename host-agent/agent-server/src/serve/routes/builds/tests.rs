use crate::serve::routes;
use crate::serve::state::{AppState, Services};
use crate::serve::testing::{self, Answer, send_to};
use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::builds::{BuildBackends, BuildOptions, BuildService};
use engine::containers::testing::World;
use engine::images::config::digest_of;
use engine_api::builds::BUILD_CONTENT_TYPE;
use engine_linux::builds::DiskBuildFiles;
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt;

/// The routes over fakes, but contexts are real folders.
struct Place {
    _folder: tempfile::TempDir,
    state: AppState,
}

fn place() -> Place {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::default();
    let services = testing::services_over(&world);
    let files = DiskBuildFiles::open(folder.path(), folder.path()).expect("opened");
    let backends = BuildBackends {
        images: services.images.clone(),
        containers: services.containers.clone(),
        git: Arc::new(files.git()),
        files: Arc::new(files),
    };
    let builds = BuildService::new(backends, BuildOptions::default());
    Place {
        _folder: folder,
        state: AppState::new(Services { builds, ..services }),
    }
}

fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder
            .append_data(&mut header, name, content.as_bytes())
            .expect("memory");
    }
    builder.into_inner().expect("memory")
}

fn dockerfile(text: &str) -> Vec<u8> {
    tar_of(&[("Dockerfile", text)])
}

async fn build(place: &Place, query: &str, body: Vec<u8>) -> Answer {
    let path = format!("/v1.43/build?{query}");
    send_to(&place.state, Method::POST, &path, body).await
}

fn lines(answer: &Answer) -> Vec<Value> {
    answer
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect()
}

#[track_caller]
fn check(answer: &Answer, status: u16, text: &str) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
    assert!(answer.text().contains(text), "{}", answer.text());
}

const SIMPLE: &str = "FROM scratch\nLABEL a=b\nENV C=d\n";

#[tokio::test]
async fn a_build_is_told_as_dockerd_tells_it() {
    let place = place();
    let answer = build(&place, "t=me/thing&t=other:1&rm=1", dockerfile(SIMPLE)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.headers["content-type"], "application/json");
    assert!(answer.text().contains("}\r\n"));
    let lines = lines(&answer);
    let said: String = lines
        .iter()
        .filter_map(|line| line["stream"].as_str())
        .collect();
    for part in [
        "Step 1/3 : FROM scratch\n",
        "Step 2/3 : LABEL a=b\n",
        "Step 3/3 : ENV C=d\n",
        "Successfully built ",
        "Successfully tagged me/thing:latest\n",
        "Successfully tagged other:1\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let id = lines
        .iter()
        .find_map(|line| line["aux"]["ID"].as_str())
        .expect("an id");
    assert!(said.contains(&id["sha256:".len()..][..12]), "{said}");
    let path = "/images/me/thing/json";
    let image = send_to(&place.state, Method::GET, path, Body::empty()).await;
    assert_eq!(image.json()["Id"], id);
    assert_eq!(image.json()["Config"]["Labels"]["a"], "b");
}

/// An image as others make it, too: with a layer and no history.
fn archive_without_history() -> Vec<u8> {
    let layer = "files";
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"OnBuild": ["RUN never"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer.as_bytes())]},
    });
    let manifest =
        json!([{"Config": "config.json", "RepoTags": ["bare:1"], "Layers": ["layer.tar"]}]);
    tar_of(&[
        ("manifest.json", &manifest.to_string()),
        ("config.json", &config.to_string()),
        ("layer.tar", layer),
    ])
}

#[tokio::test]
async fn stages_without_a_step_are_what_they_begin_with() {
    let place = place();
    let id_of = async |name: &str| {
        let path = format!("/images/{name}/json");
        let answer = send_to(&place.state, Method::GET, &path, Body::empty()).await;
        answer.json()["Id"].as_str().expect("an id").to_owned()
    };
    for text in ["FROM scratch\n", "FROM scratch AS a\nFROM a AS b\n"] {
        let answer = build(&place, "t=nothing", dockerfile(text)).await;
        check(
            &answer,
            200,
            "No image was generated. Is your Dockerfile empty?",
        );
    }
    let answer = build(&place, "t=base:1", dockerfile(SIMPLE)).await;
    check(&answer, 200, "Successfully tagged base:1");
    let base = id_of("base:1").await;
    let renamed = SIMPLE.replace("scratch", "scratch AS first") + "FROM first AS a\nFROM a AS b\n";
    for (text, query) in [
        ("FROM base:1\n", "t=same:1"),
        ("FROM base:1 AS a\nFROM a AS b\n", "t=same:2&target=b"),
        (&renamed, "t=same:3&target=b"),
    ] {
        let answer = build(&place, query, dockerfile(text)).await;
        check(&answer, 200, "Successfully tagged");
        let name = query[2..].split('&').next().expect("a name");
        assert_eq!(id_of(name).await, base, "{text}");
    }
    let load = send_to(
        &place.state,
        Method::POST,
        "/images/load",
        archive_without_history(),
    );
    check(&load.await, 200, "Loaded image");
    // In a stage's place: what the image has for ONBUILD is not done, and not handed on.
    let preamble = json!({"contexts": {"a": {"image": "bare:1"}}});
    let text = dockerfile("FROM scratch AS a\n");
    let answer = berth(&place, "t=replaced:1", preamble, text).await;
    check(&answer, 200, "replaced:1");
    assert_ne!(id_of("replaced:1").await, id_of("bare:1").await);
}

#[tokio::test]
async fn a_health_check_has_every_time_it_was_given() {
    let place = place();
    let text = "FROM scratch\nHEALTHCHECK --interval=5m --timeout=3s --start-period=1m --start-interval=2s --retries=4 CMD [\"x\"]\n";
    let answer = build(&place, "t=checked", dockerfile(text)).await;
    check(&answer, 200, "Successfully tagged");
    let path = "/images/checked/json";
    let image = send_to(&place.state, Method::GET, path, Body::empty()).await;
    let second = 1_000_000_000u64;
    assert_eq!(
        image.json()["Config"]["Healthcheck"],
        json!({
            "Test": ["CMD", "x"],
            "Interval": 300 * second,
            "Timeout": 3 * second,
            "StartPeriod": 60 * second,
            "StartInterval": 2 * second,
            "Retries": 4,
        })
    );
}

#[tokio::test]
async fn a_base_of_another_platform_is_refused() {
    let place = place();
    let answer = build(&place, "t=base:1", dockerfile(SIMPLE)).await;
    check(&answer, 200, "Successfully tagged");
    let text = dockerfile("FROM --platform=$BUILDPLATFORM base:1\nENV E=f\n");
    check(&build(&place, "", text).await, 200, "Successfully built");
    let text = dockerfile("FROM --platform=linux/s390x base:1\nENV E=f\n");
    let answer = build(&place, "", text.clone()).await;
    let why = "cannot use an image for linux/s390x: this host is ";
    check(&answer, 200, why);
    assert!(!answer.text().contains("Successfully"), "{}", answer.text());
    let told = berth(&place, "", json!({}), text).await;
    let last = lines(&told).pop().expect("lines");
    assert_eq!(last["errorDetail"]["line"], 1, "{}", told.text());
}

#[tokio::test]
async fn quiet_builds_say_the_id_and_no_more() {
    let place = place();
    let answer = build(&place, "q=1", dockerfile(SIMPLE)).await;
    let lines = lines(&answer);
    assert_eq!(lines.len(), 1, "{}", answer.text());
    let id = lines[0]["stream"].as_str().expect("an id");
    assert!(id.starts_with("sha256:") && id.ends_with('\n'), "{id}");
}

#[tokio::test]
async fn what_is_wrong_before_the_first_step_is_the_answers_status() {
    let place = place();
    for (query, body, status, text) in [
        ("", dockerfile("NOTHING x\n"), 400, "NOTHING"),
        ("", dockerfile(""), 400, "empty"),
        (
            "dockerfile=other",
            dockerfile(SIMPLE),
            400,
            "Cannot locate specified Dockerfile: other",
        ),
        ("target=none", dockerfile(SIMPLE), 400, "none"),
        ("", b"no tar".repeat(200), 400, "build context"),
        ("squash=1", dockerfile(SIMPLE), 400, "experimental"),
        ("version=2", dockerfile(SIMPLE), 501, "BuildKit"),
        (
            "remote=ftp://x/y",
            Vec::new(),
            400,
            "remoteURL (ftp://x/y) could not be recognized as URL",
        ),
        ("remote=client-session", Vec::new(), 400, "session"),
        ("remote=git://-x/y.git", Vec::new(), 400, "git address"),
    ] {
        let answer = build(&place, query, body).await;
        check(&answer, status, text);
        assert!(answer.json()["message"].is_string());
    }
}

#[tokio::test]
async fn what_goes_wrong_later_is_the_last_line() {
    let place = place();
    let text = "FROM scratch\nLABEL a=b\nCOPY missing /x\n";
    for query in ["", "q=1"] {
        let answer = build(&place, query, dockerfile(text)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let lines = lines(&answer);
        let last = lines.last().expect("lines");
        let message = last["errorDetail"]["message"].as_str().expect("a message");
        assert!(message.contains("missing"), "{message}");
        assert_eq!(last["error"], message);
        assert!(
            lines.len() > 1,
            "also what was held back: {}",
            answer.text()
        );
    }
}

/// A request of `berth build`.
async fn berth(place: &Place, query: &str, preamble: Value, tar: Vec<u8>) -> Answer {
    let mut body = format!("{preamble}\n").into_bytes();
    body.extend_from_slice(&tar);
    // In pieces that end anywhere.
    let pieces: Vec<_> = body
        .chunks(100)
        .map(|piece| Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(piece)))
        .collect();
    let request = Request::post(format!("/build?{query}"))
        .header("content-type", BUILD_CONTENT_TYPE)
        .body(Body::from_stream(futures_util::stream::iter(pieces)))
        .expect("a good request");
    let response = routes::router(place.state.clone())
        .oneshot(request)
        .await
        .expect("a router does not fail");
    let (parts, body) = response.into_parts();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.expect("readable").to_bytes(),
    }
}

#[tokio::test]
async fn berth_gets_events() {
    let place = place();
    let answer = berth(&place, "t=a", json!({}), dockerfile(SIMPLE)).await;
    let lines = lines(&answer);
    assert_eq!(
        lines[0]["planned"][1]["text"],
        "LABEL a=b",
        "{}",
        answer.text()
    );
    assert_eq!(lines[0]["planned"][2]["of"], 3);
    assert!(lines.iter().any(|line| line["done"]["step"] == 2));
    assert!(
        lines
            .iter()
            .any(|line| line["tagged"]["name"] == "a:latest")
    );
    let text = "FROM scratch\nCOPY missing /x\n";
    let answer = berth(&place, "", json!({}), dockerfile(text)).await;
    let last = self::lines(&answer).pop().expect("lines");
    assert_eq!(last["errorDetail"]["line"], 2, "{}", answer.text());
}

#[tokio::test]
async fn preambles_that_are_not_understood_tell_nothing_of_secrets() {
    let place = place();
    let secret = STANDARD.encode("very secret");
    for preamble in [
        json!({"secrets": {"a": 5}, "x": secret}),
        json!({"secrets": {"a": "%"}, "ssh": {}}),
        json!({"ssh": {"default": "0123456789abcdef"}}),
    ] {
        let answer = berth(&place, "", preamble, dockerfile(SIMPLE)).await;
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(!answer.text().contains(&secret), "{}", answer.text());
    }
    let answer = berth(&place, "", json!({"output": "check"}), dockerfile(SIMPLE)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn further_contexts_have_good_names() {
    let place = place();
    let preamble = json!({"contexts": {"Bad Name": {"image": "x"}}});
    let answer = berth(&place, "", preamble, dockerfile(SIMPLE)).await;
    check(&answer, 400, "invalid context name Bad Name");
}

#[tokio::test]
async fn contents_that_are_kept_are_not_missing() {
    let place = place();
    let ask = async |digests: Value| {
        let body = json!({ "Digests": digests }).to_string();
        send_to(&place.state, Method::POST, "/build/contents", body).await
    };
    // sha256 of "content".
    let digest = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73";
    assert_eq!(
        ask(json!([digest])).await.json()["Missing"],
        json!([digest])
    );
    let tar = tar_of(&[("Dockerfile", SIMPLE), ("file", "content")]);
    let preamble = json!({"keepContents": true});
    let answer = berth(&place, "", preamble.clone(), tar).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(ask(json!([digest])).await.json()["Missing"], json!([]));
    // What is not there is a conflict: the client sends it then.
    let mut builder = tar::Builder::new(Vec::new());
    let other = "0".repeat(64);
    builder
        .append_pax_extensions([("BERTH.sha256", other.as_bytes())])
        .expect("memory");
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    builder
        .append_data(&mut header, "file", std::io::empty())
        .expect("memory");
    let answer = berth(&place, "", preamble, builder.into_inner().expect("memory")).await;
    check(&answer, 409, "not kept any more");
    let many: Vec<String> = vec![other; 50_001];
    check(&ask(json!(many)).await, 400, "ask in parts");
}

#[tokio::test]
async fn prunes_answer_as_dockerd_does() {
    let place = place();
    let prune = async |query: &str| {
        let path = format!("/build/prune?{query}");
        send_to(&place.state, Method::POST, &path, "").await
    };
    let answer = prune("").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["CachesDeleted"], Value::Null);
    assert_eq!(answer.json()["SpaceReclaimed"], 0);
    check(
        &prune("filters=%7B%22x%22%3A%5B%22y%22%5D%7D").await,
        400,
        "x",
    );
    check(&prune("min-free-space=1").await, 200, "SpaceReclaimed");
    check(&prune("min-free-space=-1").await, 400, "min-free-space");
    check(&prune("max-used-space=1").await, 200, "SpaceReclaimed");
    let usage = send_to(&place.state, Method::GET, "/system/df", Body::empty()).await;
    assert!(usage.json()["BuildCache"].is_array());
}

#[tokio::test]
async fn ssh_agents_need_a_good_token() {
    let place = place();
    let path = "/build/ssh/short";
    check(
        &send_to(&place.state, Method::POST, path, "").await,
        400,
        "at least 16",
    );
}
