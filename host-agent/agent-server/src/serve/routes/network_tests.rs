//! `/networks` in process, over fakes.

use super::*;
use crate::serve::testing::{self, Answer, send, send_to};
use http::Method;

async fn post(state: &AppState, path: &str, body: &str) -> Answer {
    send_to(state, Method::POST, path, body.to_owned()).await
}

async fn get(state: &AppState, path: &str) -> Answer {
    send_to(state, Method::GET, path, "").await
}

#[track_caller]
fn check(answer: &Answer, status: u16, part: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert!(answer.text().contains(part), "{}", answer.text());
}

#[tokio::test]
async fn networks_are_listed_and_found_by_name_and_id() {
    let state = AppState::new(testing::services());
    let list = get(&state, "/networks").await.json();
    assert_eq!(list[0]["Name"], "bridge");
    assert_eq!(list[0]["IPAM"]["Config"][0]["Subnet"], "172.17.0.0/16");
    let id = list[0]["Id"].as_str().unwrap().to_owned();
    for asked in ["bridge", &id, &id[..12]] {
        let one = get(&state, &format!("/networks/{asked}")).await.json();
        assert_eq!(one["Name"], "bridge", "{asked}");
    }
    let filters = "%7B%22driver%22%3A%5B%22host%22%5D%7D";
    let hosts = get(&state, &format!("/networks?filters={filters}"))
        .await
        .json();
    assert_eq!(hosts.as_array().unwrap().len(), 1);
    assert_eq!(hosts[0]["Name"], "host");
}

#[tokio::test]
async fn what_cannot_be_done_is_said() {
    for (method, path, body, status, part) in [
        (
            Method::GET,
            "/networks/nowhere",
            "",
            404,
            "network nowhere not found",
        ),
        (Method::DELETE, "/networks/bridge", "", 403, "pre-defined"),
        (
            Method::POST,
            "/networks/create",
            r#"{"Name":"x","ConfigOnly":true}"#,
            400,
            "configuration-only",
        ),
        (
            Method::POST,
            "/networks/create",
            r#"{"Name":"x","Driver":"y"}"#,
            404,
            "plugin",
        ),
        (
            Method::POST,
            "/networks/create",
            r#"{"Name":"bridge"}"#,
            403,
            "not permitted on predefined",
        ),
        (
            Method::POST,
            "/networks/bridge/connect",
            r#"{"Container":"nobody"}"#,
            404,
            "No such container: nobody",
        ),
        (
            Method::POST,
            "/networks/nowhere/connect",
            r#"{"Container":"nobody"}"#,
            404,
            "network nowhere not found",
        ),
    ] {
        let answer = send(testing::services(), method, path, body).await;
        check(&answer, status, part);
    }
}

#[tokio::test]
async fn a_network_is_made_shown_and_removed() {
    let state = AppState::new(testing::services());
    let body = json!({
        "Name": "front", "Driver": "bridge", "CheckDuplicate": true, "EnableIPv6": false, "Internal": true, "Attachable": true,
        "IPAM": {"Driver": "default", "Options": null, "Config": [
            {"Subnet": "10.5.0.0/16", "IPRange": "10.5.1.0/24", "Gateway": "10.5.0.9", "AuxiliaryAddresses": {"a": "10.5.0.10"}}]},
        "Options": {"com.docker.network.bridge.enable_icc": "false", "x": "y"}, "Labels": {"l": "1"},
    });
    let made = post(&state, "/networks/create", &body.to_string()).await;
    check(&made, 201, "Network option x means nothing");
    let shown = get(&state, "/networks/front?verbose=true").await.json();
    assert_eq!(
        shown["IPAM"]["Config"],
        json!([{"Subnet": "10.5.0.0/16", "IPRange": "10.5.1.0/24", "Gateway": "10.5.0.9", "AuxiliaryAddresses": {"a": "10.5.0.10"}}])
    );
    assert_eq!(
        (&shown["Internal"], &shown["Attachable"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(
        (&shown["Labels"], &shown["Options"]["x"]),
        (&json!({"l": "1"}), &json!("y"))
    );
    assert!(shown["IPAM"]["Options"].is_null());
    assert_eq!(shown["Services"], json!({}), "verbose");
    assert_eq!(shown["Scope"], "local");
    let swarm = get(&state, "/networks/front?scope=swarm").await;
    check(&swarm, 404, "network front not found");
    check(
        &post(&state, "/networks/create", r#"{"Name":"front"}"#).await,
        409,
        "already exists",
    );
    let gone = send_to(&state, Method::DELETE, "/networks/front", "").await;
    check(&gone, 204, "");
    check(&get(&state, "/networks/front").await, 404, "not found");
}

#[tokio::test]
async fn containers_are_connected_and_disconnected_running_or_not() {
    let state = AppState::new(testing::services());
    let subnet = r#"{"Name":"front","IPAM":{"Config":[{"Subnet":"10.5.0.0/16"}]}}"#;
    check(&post(&state, "/networks/create", subnet).await, 201, "");
    check(
        &post(&state, "/networks/create", r#"{"Name":"back"}"#).await,
        201,
        "",
    );
    let web = r#"{"Image":"busybox","Cmd":"sleep","HostConfig":{"NetworkMode":"front"},
        "NetworkingConfig":{"EndpointsConfig":{"front":{"Aliases":["www"],"IPAMConfig":{"IPv4Address":"10.5.0.77"}}}}}"#;
    check(
        &post(&state, "/containers/create?name=web", web).await,
        201,
        "",
    );
    let networks = async || {
        get(&state, "/containers/web/json").await.json()["NetworkSettings"]["Networks"].clone()
    };
    let before = networks().await;
    assert_eq!(before["front"]["Aliases"], json!(["www"]));
    assert_eq!(
        before["front"]["IPAMConfig"],
        json!({"IPv4Address": "10.5.0.77"})
    );
    assert_eq!(before["front"]["IPAddress"], "");
    let connect = r#"{"Container":"web","EndpointConfig":{"Aliases":["w"],"GwPriority":5,"DriverOpts":{"a":"b"}}}"#;
    check(
        &post(&state, "/networks/back/connect", connect).await,
        200,
        "",
    );
    check(
        &post(&state, "/networks/back/connect", connect).await,
        403,
        "already exists in network back",
    );
    check(&post(&state, "/containers/web/start", "").await, 204, "");
    let running = networks().await;
    assert_eq!(running["front"]["IPAddress"], "10.5.0.77");
    assert_eq!(running["back"]["GwPriority"], 5);
    assert_eq!(running["back"]["DriverOpts"], json!({"a": "b"}));
    let names = running["back"]["DNSNames"].as_array().unwrap();
    assert_eq!((&names[0], &names[1]), (&json!("web"), &json!("w")));
    let front = get(&state, "/networks/front").await.json();
    let connected = front["Containers"]
        .as_object()
        .unwrap()
        .values()
        .next()
        .unwrap();
    assert_eq!(
        (&connected["Name"], &connected["IPv4Address"]),
        (&json!("web"), &json!("10.5.0.77/16"))
    );
    for (path, told) in [("/v1.27/networks", true), ("/v1.28/networks", false)] {
        let list = get(&state, path).await.json();
        let mut all = list.as_array().unwrap().iter();
        let listed = all.find(|network| network["Name"] == "front").unwrap();
        let expected = if told {
            &front["Containers"]
        } else {
            &json!({})
        };
        assert_eq!(&listed["Containers"], expected, "{path}");
    }
    let removal = send_to(&state, Method::DELETE, "/networks/front", "").await;
    check(&removal, 403, "has active endpoints");
    let pruned = post(&state, "/networks/prune", "").await;
    assert_eq!(pruned.json(), json!({"NetworksDeleted": null}));
    let body = r#"{"Container":"web","Force":false}"#;
    check(
        &post(&state, "/networks/front/disconnect", body).await,
        200,
        "",
    );
    check(
        &post(&state, "/networks/front/disconnect", body).await,
        403,
        "is not connected to network front",
    );
    assert_eq!(networks().await.as_object().unwrap().len(), 1);
    check(
        &post(&state, "/networks/bridge/connect", r#"{"Container":"web"}"#).await,
        200,
        "",
    );
    check(
        &post(&state, "/networks/host/connect", r#"{"Container":"web"}"#).await,
        400,
        "host network",
    );
    let fixed = r#"{"Container":"web","EndpointConfig":{"IPAMConfig":{"IPv4Address":"10.6.0.1"}}}"#;
    check(
        &post(&state, "/networks/front/connect", fixed).await,
        400,
        "no configured subnet contains IP address",
    );
    let bridged = r#"{"Image":"busybox","NetworkingConfig":{"EndpointsConfig":{"bridge":{"IPAMConfig":{"IPv4Address":"172.17.0.9"}}}}}"#;
    check(
        &post(&state, "/containers/create", bridged).await,
        400,
        "on user defined networks only",
    );
    let aliased = r#"{"Image":"busybox","NetworkingConfig":{"EndpointsConfig":{"bridge":{"Aliases":["x"]}}}}"#;
    check(
        &post(&state, "/containers/create", aliased).await,
        400,
        "network-scoped alias",
    );
    let removed = send_to(&state, Method::DELETE, "/networks/front", "").await;
    check(&removed, 204, "");
}

/// Networks of a container that does not run, and what is shown of its place in one once it does: something under every key.
#[tokio::test]
async fn a_stopped_container_comes_and_goes_and_its_place_is_shown_whole() {
    let state = AppState::new(testing::services());
    let ask = async |path: &str, body: &str, status: u16| {
        check(&post(&state, path, body).await, status, "");
    };
    let six = r#"{"Name":"six","EnableIPv6":true,"IPAM":{"Config":[{"Subnet":"10.6.0.0/16"},{"Subnet":"fd00:6::/64"}]}}"#;
    ask("/networks/create", six, 201).await;
    ask("/networks/create", r#"{"Name":"back"}"#, 201).await;
    let web = r#"{"Image":"busybox","Cmd":"sleep"}"#;
    ask("/containers/create?name=web", web, 201).await;
    let place = r#"{"Container":"web","EndpointConfig":{"Aliases":["w"],"Links":["db:store"],"GwPriority":-3,
        "MacAddress":"02:42:00:00:00:66","DriverOpts":{"com.docker.network.endpoint.ifname":"six0"},
        "IPAMConfig":{"IPv4Address":"10.6.0.66","IPv6Address":"fd00:6::66","LinkLocalIPs":["169.254.6.6","fe80::6"]}}}"#;
    ask("/networks/six/connect", place, 200).await;
    let alone = r#"{"Container":"web"}"#;
    ask("/networks/back/connect", alone, 200).await;
    for network in ["back", "bridge"] {
        ask(&format!("/networks/{network}/disconnect"), alone, 200).await;
    }
    ask("/networks/back/disconnect", alone, 403).await;
    ask("/containers/web/start", "", 204).await;
    let shown = get(&state, "/containers/web/json").await.json();
    let networks = shown["NetworkSettings"]["Networks"].as_object().unwrap();
    assert_eq!(networks.keys().collect::<Vec<_>>(), ["six"]);
    let six = networks["six"].as_object().unwrap();
    for (key, value) in six {
        let nothing = [Value::Null, json!(""), json!(0), json!([]), json!({})];
        assert!(!nothing.contains(value), "{key}: {value}");
    }
    for (key, value) in [
        ("MacAddress", json!("02:42:00:00:00:66")),
        ("Links", json!(["db:store"])),
        ("GwPriority", json!(-3)),
        ("Gateway", json!("10.6.0.1")),
        ("IPAddress", json!("10.6.0.66")),
        ("IPPrefixLen", json!(16)),
        ("IPv6Gateway", json!("fd00:6::1")),
        ("GlobalIPv6Address", json!("fd00:6::66")),
        ("GlobalIPv6PrefixLen", json!(64)),
    ] {
        assert_eq!(six[key], value, "{key}");
    }
    let local = &six["IPAMConfig"]["LinkLocalIPs"];
    assert_eq!(*local, json!(["169.254.6.6", "fe80::6"]));
    let far =
        r#"{"Container":"web","EndpointConfig":{"IPAMConfig":{"LinkLocalIPs":["10.1.1.1"]}}}"#;
    let refused = post(&state, "/networks/back/connect", far).await;
    check(&refused, 400, "invalid link-local IP address: 10.1.1.1");
    let taken = r#"{"Image":"busybox","Cmd":"sleep","HostConfig":{"NetworkMode":"six"},
        "NetworkingConfig":{"EndpointsConfig":{"six":{"IPAMConfig":{"IPv4Address":"10.6.0.66"}}}}}"#;
    ask("/containers/create?name=other", taken, 201).await;
    let refused = post(&state, "/containers/other/start", "").await;
    check(&refused, 403, "Address already in use");
}

#[tokio::test]
async fn links_are_shown_and_removed() {
    let state = AppState::new(testing::services());
    let db = r#"{"Image":"busybox","Cmd":"sleep"}"#;
    check(
        &post(&state, "/containers/create?name=db", db).await,
        201,
        "",
    );
    let web = r#"{"Image":"busybox","Cmd":"sleep","HostConfig":{"Links":["db:store"]}}"#;
    check(
        &post(&state, "/containers/create?name=web", web).await,
        201,
        "",
    );
    let links =
        async || get(&state, "/containers/web/json").await.json()["HostConfig"]["Links"].clone();
    assert_eq!(links().await, json!(["/db:/web/store"]));
    check(
        &post(&state, "/containers/web/start", "").await,
        400,
        "Cannot link to a non running container: /db AS /web/store",
    );
    let remove = async |path: &str| send_to(&state, Method::DELETE, path, "").await;
    check(
        &remove("/containers/web/other?link=1").await,
        404,
        "No such link: /web/other",
    );
    check(
        &remove("/containers/web/store").await,
        404,
        "No such container",
    );
    check(&remove("/containers/web/store?link=1").await, 204, "");
    assert_eq!(links().await, Value::Null);
    check(&post(&state, "/containers/web/start", "").await, 204, "");
    let wrong = r#"{"Image":"busybox","HostConfig":{"Links":["nobody:x"]}}"#;
    check(
        &post(&state, "/containers/create", wrong).await,
        400,
        "could not get container for nobody",
    );
}

/// What the desktop says of ports is said of the containers that publish them, and in `info`.
#[tokio::test]
async fn ports_that_the_desktop_does_not_have_are_told() {
    let state = AppState::new(testing::services());
    let told = |body: &'static str| post(&state, "/berth/port-problems", body);
    check(
        &told(r#"{"8080/tcp":"another program has it"}"#).await,
        204,
        "",
    );
    let warnings = get(&state, "/info").await.json()["Warnings"].to_string();
    assert!(
        warnings.contains("published port 8080/tcp cannot be reached on the desktop"),
        "{warnings}"
    );
    check(&told("{}").await, 204, "");
    let warnings = get(&state, "/info").await.json()["Warnings"].to_string();
    assert!(!warnings.contains("8080"), "{warnings}");
    check(&told("[]").await, 400, "");
}

#[tokio::test]
async fn what_the_host_keeps_from_containers_is_told() {
    let info = get(&AppState::new(testing::services()), "/info").await;
    let warnings = info.json()["Warnings"].to_string();
    assert!(
        warnings.contains("WARNING: a firewall of the fake host's drops"),
        "{warnings}"
    );
}
