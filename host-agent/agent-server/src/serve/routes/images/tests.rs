use crate::serve::state::{AppState, Services};
use crate::serve::testing::{self, Answer, send_to};
use axum::body::Body;
use engine::images::fake::FakeImages;
use http::Method;
use serde_json::{Value, json};

/// The routes over fakes, and the fakes.
fn state() -> (AppState, FakeImages) {
    let fakes = FakeImages::default();
    let services = Services {
        images: fakes.empty_service(),
        ..testing::services()
    };
    (AppState::new(services), fakes)
}

async fn post(state: &AppState, path: &str) -> Answer {
    send_to(state, Method::POST, path, Body::empty()).await
}

async fn get(state: &AppState, path: &str) -> Answer {
    send_to(state, Method::GET, path, Body::empty()).await
}

fn lines(answer: &Answer) -> Vec<Value> {
    answer
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect()
}

#[track_caller]
fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().expect("an object");
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn an_images_life_on_the_wire() {
    let (state, fakes) = state();
    let settings = json!({"Cmd": ["sh"], "Env": ["A=b"], "ExposedPorts": {"80/tcp": {}}});
    let id = fakes
        .registry
        .push_image("me/thing", &["one", "two"], settings);
    let answer = post(
        &state,
        "/v1.51/images/create?fromImage=me%2Fthing&tag=latest",
    )
    .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    let told = lines(&answer);
    assert_eq!(
        told[0],
        json!({"status": "Pulling from me/thing", "id": "latest"})
    );
    assert_eq!(told[1]["status"], "Pulling fs layer");
    assert_eq!(told[1]["progressDetail"], json!({}));
    assert_eq!(
        told.last().expect("lines"),
        &json!({"status": "Status: Downloaded newer image for me/thing:latest"})
    );

    let list = get(&state, "/v1.51/images/json").await.json();
    assert_eq!(
        keys(&list[0]),
        [
            "Containers",
            "Created",
            "Id",
            "Labels",
            "ParentId",
            "RepoDigests",
            "RepoTags",
            "SharedSize",
            "Size"
        ]
    );
    assert_eq!(list[0]["Id"], id.as_str());
    let old = get(&state, "/v1.41/images/json").await.json();
    assert_eq!(old[0]["VirtualSize"], 6);

    for path in [
        "/images/me/thing/json",
        "/images/me/thing:latest/json",
        "/images/docker.io/me/thing/json",
    ] {
        let image = get(&state, path).await.json();
        assert_eq!(image["Id"], id.as_str(), "{path}");
    }
    let image = get(&state, "/images/me/thing/json").await.json();
    assert_eq!(
        keys(&image),
        [
            "Architecture",
            "Author",
            "Comment",
            "Config",
            "Created",
            "DockerVersion",
            "GraphDriver",
            "Id",
            "Metadata",
            "Os",
            "Parent",
            "RepoDigests",
            "RepoTags",
            "RootFS",
            "Size"
        ]
    );
    assert_eq!(image["Config"]["Cmd"], json!(["sh"]));
    assert_eq!(image["Config"]["ExposedPorts"], json!({"80/tcp": {}}));
    assert_eq!(image["RootFS"]["Layers"].as_array().map(Vec::len), Some(2));

    let history = get(&state, "/images/me/thing/history").await.json();
    assert_eq!(history[0]["Tags"], json!(["me/thing:latest"]));
    assert_eq!(history[1]["Id"], "<missing>");

    let tagged = post(&state, "/images/me/thing/tag?repo=localhost:5000%2Fx&tag=2").await;
    assert_eq!(tagged.status, 201);
    let saved = get(&state, "/images/localhost:5000/x:2/get").await;
    assert_eq!(saved.headers["content-type"], "application/x-tar");
    let removed = send_to(
        &state,
        Method::DELETE,
        "/images/me/thing?force=1",
        Body::empty(),
    )
    .await
    .json();
    assert_eq!(removed[0], json!({"Untagged": "me/thing:latest"}));
    let removed = send_to(
        &state,
        Method::DELETE,
        "/images/localhost:5000/x:2",
        Body::empty(),
    )
    .await
    .json();
    assert_eq!(removed[1], json!({"Deleted": id.as_str()}));

    let loaded = send_to(&state, Method::POST, "/images/load?quiet=1", saved.body).await;
    assert_eq!(
        lines(&loaded),
        [json!({"stream": "Loaded image: localhost:5000/x:2\n"})]
    );
    let shown = get(&state, "/images/localhost:5000/x:2/json").await;
    assert_eq!(shown.status, 200);
}

#[tokio::test]
async fn bad_requests_have_dockers_answers() {
    let (state, fakes) = state();
    fakes.registry.push_image("there", &["one"], json!({}));
    for (method, path, status, part) in [
        (
            "GET",
            "/images/none/json",
            404,
            "No such image: none:latest",
        ),
        ("GET", "/images/Bad/json", 400, "must be lowercase"),
        (
            "POST",
            "/images/create?fromImage=none&tag=latest",
            404,
            "pull access denied for none",
        ),
        (
            "POST",
            "/images/create?fromImage=there&tag=2",
            404,
            "manifest for there:2 not found",
        ),
        (
            "POST",
            "/images/create?fromImage=A%20b&tag=2",
            400,
            "invalid reference format",
        ),
        (
            "POST",
            "/images/create?fromImage=there&tag=a%2Fb",
            400,
            "invalid tag format",
        ),
        (
            "POST",
            "/images/create?fromImage=there&tag=latest&platform=a%2Fb%2Fc%2Fd",
            400,
            "invalid OS/architecture",
        ),
        ("POST", "/images/create?fromSrc=-", 501, "not supported"),
        ("POST", "/images/there/push", 501, "not supported"),
        ("POST", "/images/none/tag?repo=x", 404, "No such image"),
        (
            "POST",
            "/images/none/tag?repo=",
            400,
            "invalid reference format",
        ),
        ("DELETE", "/images/none", 404, "No such image: none:latest"),
        (
            "GET",
            "/images/json?filters=%7B%22size%22%3A%5B%221%22%5D%7D",
            400,
            "invalid filter 'size'",
        ),
        ("GET", "/images/get", 400, "no image was named"),
        ("GET", "/images/get?names=none", 404, "No such image"),
        ("POST", "/images/load", 400, "invalid archive"),
        ("GET", "/images/x", 404, "page not found"),
        ("GET", "/images/x/y", 404, "page not found"),
    ] {
        let method = method.parse().expect("a method");
        let answer = send_to(&state, method, path, Body::empty()).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(answer.text().contains(part), "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn an_error_after_the_first_message_is_the_last_line() {
    let (state, fakes) = state();
    let name = engine::images::Reference::parse("broken:latest").expect("good");
    let config = engine::images::config::digest_of(b"nowhere");
    let manifest =
        json!({"schemaVersion": 2, "config": {"digest": config, "size": 3}, "layers": []});
    fakes.registry.push_manifest(
        &name,
        engine::images::manifest::OCI_MANIFEST,
        manifest.to_string(),
    );
    let answer = post(&state, "/images/create?fromImage=broken&tag=latest").await;
    assert_eq!(answer.status, 200);
    let told = lines(&answer);
    let last = told.last().expect("lines");
    assert_eq!(keys(last), ["error", "errorDetail"]);
    assert_eq!(last["error"], last["errorDetail"]["message"]);
    assert!(
        last["error"]
            .as_str()
            .expect("text")
            .contains("blob unknown")
    );
}

#[tokio::test]
async fn signing_in_asks_the_registry() {
    let (state, _) = state();
    let ask = |password: &str| {
        let body = json!({"username": "me", "password": password, "serveraddress": "x:5000"});
        body.to_string()
    };
    let answer = send_to(&state, Method::POST, "/auth", ask("right")).await;
    assert_eq!(answer.json()["Status"], "Login Succeeded");
    let answer = send_to(&state, Method::POST, "/auth", ask("wrong")).await;
    assert_eq!(answer.status, 401);
    assert!(answer.text().contains("incorrect username or password"));
}
