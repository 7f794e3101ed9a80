use crate::serve::state::{AppState, Services};
use crate::serve::testing::{self, Answer, send_to};
use axum::body::Body;
use engine::images::blobs::stream_of;
use engine::images::config::{ContainerSide, MadeOf};
use engine::images::fake::FakeImages;
use engine::images::make::NewImage;
use engine::images::{Digest, ImageConfig, ImageService, Reference};
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
        (
            "POST",
            "/images/create?fromSrc=-&changes=RUN+x",
            400,
            "RUN is not a valid change command",
        ),
        // As with dockerd the stream has begun by then.
        (
            "POST",
            "/images/there/push",
            200,
            "An image does not exist locally with the tag: there",
        ),
        (
            "POST",
            "/images/there/push?tag=%20",
            400,
            "invalid tag format",
        ),
        ("POST", "/images/UP/push", 400, "must be lowercase"),
        (
            "POST",
            "/images/prune?filters=%7B%22x%22%3A%5B%221%22%5D%7D",
            400,
            "invalid filter 'x'",
        ),
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
        (
            "POST",
            "/images/load",
            200,
            "\"errorDetail\":{\"message\":\"invalid archive",
        ),
        (
            "POST",
            "/images/load?platform=%7B",
            400,
            "failed to parse platform",
        ),
        (
            "DELETE",
            "/images/there?platforms=zzz",
            400,
            "unknown operating system or architecture",
        ),
        (
            "DELETE",
            "/images/there?platforms=%7B%22os%22%3A%22linux%22%7D",
            400,
            "both OS and Architecture must be provided",
        ),
        (
            "POST",
            "/images/create?fromSrc=-&platform=windows%2Famd64",
            400,
            "operating system is not supported",
        ),
        (
            "POST",
            "/images/create?fromImage=scratch&tag=latest",
            400,
            "'scratch' is a reserved name",
        ),
        (
            "POST",
            "/images/create?fromSrc=-&repo=sha256&tag=x",
            400,
            "refusing to create an ambiguous tag",
        ),
        (
            "GET",
            "/images/json?filters=%7B%22reference%22%3A%5B%22%5B%22%5D%7D",
            400,
            "syntax error in pattern",
        ),
        (
            "GET",
            "/images/json?filters=%7B%22until%22%3A%5B%22soon%22%5D%7D",
            400,
            "failed to parse value as time or duration",
        ),
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
async fn a_platform_is_heeded_on_every_route() {
    let (state, fakes) = state();
    fakes.registry.push_image("there", &["one"], json!({}));
    post(&state, "/images/create?fromImage=there&tag=latest").await;
    let other = "%7B%22os%22%3A%22linux%22%2C%22architecture%22%3A%22s390x%22%7D";
    let words = "image with reference there was found but does not provide the specified platform (linux/s390x)";
    for (method, path) in [
        ("DELETE", format!("/images/there?platforms={other}")),
        ("GET", format!("/images/there/json?platform={other}")),
        ("GET", format!("/images/there/history?platform={other}")),
        ("GET", format!("/images/there/get?platform={other}")),
        ("GET", format!("/images/get?names=there&platform={other}")),
    ] {
        let method = method.parse().expect("a method");
        let answer = send_to(&state, method, &path, Body::empty()).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text());
        // A save of a repository names the tag it found.
        let text = answer.text().replace("there:latest", "there");
        assert!(text.contains(words), "{path}: {text}");
    }
    // Of the storage of images that keeps several platforms: it may be left out.
    let shown = get(&state, "/images/there/json?manifests=1").await;
    assert_eq!(shown.status, 200);
}

#[tokio::test]
async fn times_have_all_of_dockers_forms() {
    let (state, fakes) = state();
    fakes.registry.push_image("there", &["one"], json!({}));
    post(&state, "/images/create?fromImage=there&tag=latest").await;
    for (until, count) in [
        ("2030-01-01", 1),
        ("2030-01-01T00:00:00", 1),
        ("1.5h", 1),
        ("0", 0),
        ("2001-02-03", 0),
    ] {
        let path = format!("/images/json?filters=%7B%22until%22%3A%5B%22{until}%22%5D%7D");
        let list = get(&state, &path).await.json();
        assert_eq!(list.as_array().map(Vec::len), Some(count), "{until}");
    }
}

#[tokio::test]
async fn bars_of_a_load_are_told_when_it_is_not_quiet() {
    let (state, fakes) = state();
    fakes.registry.push_image("x", &["one"], json!({}));
    post(&state, "/images/create?fromImage=x&tag=latest").await;
    let saved = get(&state, "/images/x/get").await.body;
    for (query, count) in [("", 1), ("?quiet=1", 1), ("?quiet=0", 2)] {
        let (other, _) = self::state();
        let path = format!("/images/load{query}");
        let answer = send_to(&other, Method::POST, &path, saved.clone()).await;
        let told = lines(&answer);
        assert_eq!(told.len(), count, "{query}: {}", answer.text());
        if count == 2 {
            assert_eq!(told[0]["status"], "Loading layer");
        }
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

#[tokio::test]
async fn pushing_and_pruning_on_the_wire() {
    let (state, fakes) = state();
    fakes
        .registry
        .push_image("a.example/x:1", &["one"], json!({}));
    post(&state, "/images/create?fromImage=a.example/x&tag=1").await;
    post(&state, "/images/a.example/x:1/tag?repo=b.example/y&tag=2").await;
    let told = lines(&post(&state, "/images/b.example/y/push?tag=2").await);
    assert_eq!(
        told[0],
        json!({"status": "The push refers to repository [b.example/y]"})
    );
    assert_eq!(told[1]["status"], "Preparing");
    assert_eq!(told[1]["progressDetail"], json!({}));
    let last = &told[told.len() - 1];
    assert_eq!(last["aux"]["Tag"], "2");
    assert_eq!(last["progressDetail"], json!({}));
    let text = told[told.len() - 2]["status"].as_str().expect("text");
    let digest = last["aux"]["Digest"].as_str().expect("text");
    assert_eq!(
        text,
        format!("2: digest: {digest} size: {}", last["aux"]["Size"])
    );

    let list = get(&state, "/images/json?shared-size=1").await.json();
    assert_eq!(list[0]["SharedSize"], 0);
    let nothing = post(&state, "/images/prune").await.json();
    assert_eq!(nothing, json!({"ImagesDeleted": null, "SpaceReclaimed": 0}));
    let all = "/images/prune?filters=%7B%22dangling%22%3A%5B%22false%22%5D%7D";
    let pruned = post(&state, all).await.json();
    assert_eq!(pruned["SpaceReclaimed"], 3);
    assert!(pruned["ImagesDeleted"].as_array().expect("a list").len() >= 3);
}

#[tokio::test]
async fn a_bad_archive_is_told_in_the_stream_as_dockerd_does() {
    let (state, fakes) = state();
    fakes.registry.push_image("x", &["one"], json!({}));
    post(&state, "/images/create?fromImage=x&tag=latest").await;
    let saved = get(&state, "/images/x/get").await.body;
    // One bit of the layer, then of the configuration.
    for wrong in [&b"one"[..], b"created"] {
        let mut bytes = saved.to_vec();
        let at = bytes
            .windows(wrong.len())
            .position(|window| window == wrong)
            .expect("it is in there");
        bytes[at] ^= 1;
        let (other, _) = self::state();
        let answer = send_to(&other, Method::POST, "/images/load", bytes).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(
            answer
                .text()
                .starts_with("{\"errorDetail\":{\"message\":\"invalid archive"),
            "{}",
            answer.text()
        );
    }
    let answer = send_to(&state, Method::POST, "/images/load", "").await;
    assert_eq!(answer.status, 200);
    let error = lines(&answer)[0]["errorDetail"]["message"].clone();
    let error = error.as_str().expect("text");
    assert!(error.contains("invalid archive"), "{error}");
}

/// An image of one more layer; answers its id.
async fn made_of(images: &ImageService, parent: &Digest, name: Option<&str>) -> Digest {
    let new = NewImage {
        parent: parent.clone(),
        config: ImageConfig::default(),
        side: ContainerSide::default(),
        made_of: MadeOf::default(),
        author: String::new(),
        comment: name.unwrap_or_default().to_owned(),
        name: name.map(|name| Reference::parse(name).expect("good").or_latest()),
    };
    let content = stream_of(name.unwrap_or("between").to_owned());
    images.commit(new, content).await.expect("made")
}

#[tokio::test]
async fn noprune_leaves_untagged_parents() {
    let fakes = FakeImages::default();
    let images = fakes.empty_service();
    let services = Services {
        images: images.clone(),
        ..testing::services()
    };
    let state = AppState::new(services);
    let base = fakes.registry.push_image("base", &["one"], json!({}));
    let pulled = post(&state, "/images/create?fromImage=base&tag=latest").await;
    assert_eq!(pulled.status, 200);
    let delete = async |path: &str| {
        let removed = send_to(&state, Method::DELETE, path, Body::empty()).await;
        assert_eq!(removed.status, 200, "{}", removed.text());
        let removed = removed.json();
        let list = removed.as_array().expect("a list").iter();
        let ids: Vec<String> = list
            .filter_map(|one| one["Deleted"].as_str().map(str::to_owned))
            .collect();
        ids
    };
    let is_there = async |id: &Digest| {
        let path = format!("/images/{id}/json");
        get(&state, &path).await.status == 200
    };
    let between = made_of(&images, &base, None).await;
    let top = made_of(&images, &between, Some("top")).await;
    let deleted = delete("/images/top?noprune=1").await;
    assert!(deleted.contains(&top.to_string()) && !deleted.contains(&between.to_string()));
    assert!(is_there(&between).await && !is_there(&top).await);

    let top = made_of(&images, &between, Some("top")).await;
    let deleted = delete("/images/top?noprune=0").await;
    for id in [&top, &between] {
        assert!(deleted.contains(&id.to_string()), "{deleted:?}");
        assert!(!is_there(id).await);
    }
    assert!(is_there(&base).await, "it has a name");
}
