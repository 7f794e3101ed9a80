//! Searching, and going through proxies.

use super::*;

#[tokio::test]
async fn docker_hubs_search_is_asked_in_its_form() {
    let fake = Fake::start(|_, asked| {
        assert_eq!(asked.path, "/v1/search?q=alp&n=2");
        response(
            "200 OK",
            "",
            br#"{"num_results":3,"results":[{"name":"alpine","description":"small","star_count":9,"is_official":true,"is_automated":false},{"name":"me/alp","description":null},{"name":"x"}]}"#,
        )
    })
    .await;
    let registry = HttpRegistry::new(RegistryOptions {
        index: Some(format!("http://{}/", fake.address)),
        ..RegistryOptions::default()
    })
    .expect("good options");
    let found = registry
        .search("docker.io", "alp", 2, None)
        .await
        .expect("found");
    assert_eq!(found.len(), 2);
    assert_eq!(
        found[0],
        Found {
            name: "alpine".into(),
            description: "small".into(),
            stars: 9,
            is_official: true,
            is_automated: false
        }
    );
    assert_eq!((found[1].stars, found[1].description.as_str()), (0, ""));
}

#[tokio::test]
async fn a_registry_without_search_shows_its_catalog_page_by_page() {
    let fake = Fake::start(|_, asked| match asked.path.as_str() {
        "/v2/_catalog" => response(
            "200 OK",
            "Link: </v2/_catalog?last=b>; rel=\"next\"\r\n",
            br#"{"repositories":["Team/alpha","b"]}"#,
        ),
        "/v2/_catalog?last=b" => response("200 OK", "", br#"{"repositories":["alpine"]}"#),
        _ => response("404 Not Found", "", b""),
    })
    .await;
    let found = registry_with(&[])
        .search(&fake.address, "ALP", 10, None)
        .await
        .expect("found");
    let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
    assert_eq!(
        names,
        [
            format!("{}/Team/alpha", fake.address),
            format!("{}/alpine", fake.address)
        ]
    );
}

#[tokio::test]
async fn a_proxy_is_gone_through_but_not_to_loopback() {
    let proxy = Fake::start(|_, asked| match asked.method.as_str() {
        // No TLS beyond it: then plain HTTP is tried.
        "CONNECT" => response("502 Bad Gateway", "", b""),
        _ => {
            assert_eq!(asked.path, "http://registry.invalid/v2/a/manifests/latest");
            response("200 OK", "", MANIFEST)
        }
    })
    .await;
    let direct = Fake::start(|_, _| response("200 OK", "", MANIFEST)).await;
    let options = RegistryOptions {
        insecure: vec!["registry.invalid".into()],
        attempts: Some(1),
        proxies: Proxies {
            http: Some(format!("http://{}", proxy.address)),
            https: Some(format!("http://{}", proxy.address)),
            none: Some("other.invalid".into()),
        },
        ..RegistryOptions::default()
    };
    let registry = quick(options);
    registry
        .manifest(&reference("registry.invalid/a"), None)
        .await
        .expect("through the proxy");
    let seen = proxy.seen().len();
    registry
        .manifest(&reference(&format!("{}/a", direct.address)), None)
        .await
        .expect("past the proxy");
    assert_eq!(proxy.seen().len(), seen);
    // What is named as reached without a proxy is not asked of it (there is nobody at that name).
    let without = RegistryOptions {
        insecure: vec!["registry.invalid".into()],
        attempts: Some(1),
        proxies: Proxies {
            http: Some(format!("http://{}", proxy.address)),
            https: Some(format!("http://{}", proxy.address)),
            none: Some("other.invalid,.invalid".into()),
        },
        ..RegistryOptions::default()
    };
    let registry = quick(without);
    registry
        .manifest(&reference("registry.invalid/a"), None)
        .await
        .expect_err("nobody is there");
    assert_eq!(proxy.seen().len(), seen);
    for bad in ["", "http://", "::"] {
        let options = RegistryOptions {
            proxies: Proxies {
                https: Some(bad.into()),
                ..Proxies::default()
            },
            ..RegistryOptions::default()
        };
        assert!(HttpRegistry::new(options).is_err(), "{bad:?}");
    }
}
