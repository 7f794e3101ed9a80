//! Pushing to registries that are honest, picky, and broken.

use super::*;
use engine::images::BlobStore;
use engine::images::blobs::stream_of;
use engine::images::fake::MemoryBlobs;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is pushed: two pieces of 4 MiB and a bit.
fn content() -> Vec<u8> {
    (0..(9u32 << 20)).map(|n| (n % 251) as u8).collect()
}

pub(super) struct Pushed {
    pub(super) outcome: Result<Uploaded, RegistryError>,
    sent: u64,
}

async fn push(
    fake: &Fake,
    content: &[u8],
    mount_from: &[&str],
    credentials: Option<&Credentials>,
) -> Pushed {
    push_by(&registry_with(&[]), fake, content, mount_from, credentials).await
}

pub(super) async fn push_by(
    registry: &HttpRegistry,
    fake: &Fake,
    content: &[u8],
    mount_from: &[&str],
    credentials: Option<&Credentials>,
) -> Pushed {
    let blobs = MemoryBlobs::default();
    let digest = digest_of(content);
    blobs
        .put(&digest, stream_of(content.to_vec()))
        .await
        .expect("memory");
    let repository = Repository::parse(&format!("{}/a", fake.address)).expect("good");
    let mount_from: Vec<Repository> = mount_from
        .iter()
        .map(|name| Repository::parse(&format!("{}/{name}", fake.address)).expect("good"))
        .collect();
    let sent = Arc::new(AtomicU64::new(0));
    let counter = sent.clone();
    let outcome = registry
        .upload_blob(BlobUpload {
            repository: &repository,
            digest: &digest,
            size: content.len() as u64,
            mount_from: &mount_from,
            blobs: &blobs,
            credentials,
            sent: Arc::new(move |bytes| counter.store(bytes, Ordering::Relaxed)),
        })
        .await;
    Pushed {
        outcome,
        sent: sent.load(Ordering::Relaxed),
    }
}

fn methods(fake: &Fake) -> Vec<String> {
    fake.seen()
        .iter()
        .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
        .collect()
}

const NOT_THERE: &str = "404 Not Found";

#[tokio::test]
async fn what_is_there_is_not_sent() {
    let fake = Fake::start(|_, asked| {
        assert_eq!(asked.method, "HEAD");
        response("200 OK", "", b"")
    })
    .await;
    // The fake's length is 0, which is not the blob's: then it would be sent.
    let pushed = push(&fake, b"", &[], None).await;
    assert_eq!(pushed.outcome.expect("there"), Uploaded::Existed);
    assert_eq!(methods(&fake), ["HEAD"]);
}

#[tokio::test]
async fn a_blob_is_mounted_from_a_repository_that_has_it_with_a_token_for_both() {
    let fake = Fake::start(|host, asked| {
        if asked.path.starts_with("/token") {
            return response(
                "200 OK",
                "",
                format!("{{\"token\":\"{}\"}}", hex::encode(&asked.path)).as_bytes(),
            );
        }
        let token = asked
            .header("authorization")
            .strip_prefix("Bearer ")
            .and_then(|token| String::from_utf8(hex::decode(token).ok()?).ok())
            .unwrap_or_default();
        let wanted: &[&str] = match asked.method.as_str() {
            "POST" => &["repository%3Aa%3Apull%2Cpush", "repository%3Aother%3Apull"],
            _ => &["repository%3Aa%3Apull%2Cpush"],
        };
        if !wanted.iter().all(|scope| token.contains(scope)) {
            return response(
                "401 Unauthorized",
                &format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\",scope=\"repository:a:pull\"\r\n"),
                b"",
            );
        }
        match asked.method.as_str() {
            "HEAD" => response(NOT_THERE, "", b""),
            "POST" if asked.path.contains("mount=sha256") => response("201 Created", "", b""),
            _ => response("500 No", "", b""),
        }
    })
    .await;
    let pushed = push(&fake, b"blob", &["other"], Some(&user())).await;
    let Uploaded::Mounted { from } = pushed.outcome.expect("mounted") else {
        panic!("it should have been mounted");
    };
    assert_eq!((from.path(), pushed.sent), ("other", 0));
}

#[tokio::test]
async fn a_blob_goes_in_one_piece_and_a_broken_attempt_is_begun_anew() {
    let whole = content();
    let expected = whole.clone();
    let fake = Fake::start(move |_, asked| match asked.method.as_str() {
        "HEAD" => response(NOT_THERE, "", b""),
        "POST" => response(
            "202 Accepted",
            &format!(
                "Location: /v2/a/blobs/uploads/{}?_state=x%3D\r\n",
                asked.times
            ),
            b"",
        ),
        "PUT" => {
            assert!(
                asked.path.contains("_state=x%3D&digest=sha256%3A"),
                "{}",
                asked.path
            );
            assert!(asked.body == expected, "the body is the blob");
            match asked.path.contains("/uploads/1?") {
                true => response("201 Created", "", b""),
                false => response("503 Service Unavailable", "", b""),
            }
        }
        other => panic!("{other} is not expected"),
    })
    .await;
    let pushed = push(&fake, &whole, &[], None).await;
    assert_eq!(pushed.outcome.expect("sent"), Uploaded::Sent);
    assert_eq!(pushed.sent, whole.len() as u64);
    assert_eq!(methods(&fake), ["HEAD", "POST", "PUT", "POST", "PUT"]);
}

#[tokio::test]
async fn a_registry_that_takes_small_bodies_only_gets_pieces_and_tells_how_far_they_came() {
    let whole = content();
    let stored = Arc::new(Mutex::new(Vec::<u8>::new()));
    let (kept, expected) = (stored.clone(), whole.clone());
    let fake = Fake::start(move |_, asked| {
        let mut kept = kept.lock().expect("not poisoned");
        match asked.method.as_str() {
            "HEAD" => response(NOT_THERE, "", b""),
            "POST" => response("202 Accepted", "Location: /up/0\r\n", b""),
            "PUT" if !asked.body.is_empty() => response("413 Too Large", "", b""),
            "PATCH" => {
                assert!(asked.body.len() <= 4 << 20);
                let range = asked.header("content-range").to_owned();
                assert!(range.starts_with(&format!("{}-", kept.len())), "{range}");
                // The second piece breaks in the middle.
                if kept.len() == 4 << 20 && asked.times == 0 {
                    kept.extend_from_slice(&asked.body[..1000]);
                    return response("502 Bad Gateway", "", b"");
                }
                kept.extend_from_slice(&asked.body);
                response(
                    "202 Accepted",
                    &format!(
                        "Location: /up/{}\r\nRange: 0-{}\r\n",
                        kept.len(),
                        kept.len() - 1
                    ),
                    b"",
                )
            }
            "GET" => response(
                "204 No Content",
                &format!("Location: /up/after\r\nRange: 0-{}\r\n", kept.len() - 1),
                b"",
            ),
            "PUT" => {
                assert!(asked.path.contains("digest=sha256%3A"));
                match *kept == expected {
                    true => response("201 Created", "", b""),
                    false => response(
                        "400 Bad Request",
                        "",
                        b"{\"errors\":[{\"code\":\"DIGEST_INVALID\"}]}",
                    ),
                }
            }
            other => panic!("{other} is not expected"),
        }
    })
    .await;
    let pushed = push(&fake, &whole, &[], None).await;
    assert_eq!(pushed.outcome.expect("sent"), Uploaded::Sent);
    assert!(*stored.lock().expect("not poisoned") == whole);
    assert!(
        fake.seen().iter().any(|line| line.starts_with("/up/")),
        "it was asked how far"
    );
}

#[tokio::test]
async fn refusals_of_a_push_have_the_registrys_words() {
    let fake = Fake::start(|_, asked| match asked.method.as_str() {
        "HEAD" => response(NOT_THERE, "", b""),
        _ => response(
            "403 Forbidden",
            "",
            b"{\"errors\":[{\"code\":\"DENIED\",\"message\":\"requested access to the resource is denied\"}]}",
        ),
    })
    .await;
    let error = push(&fake, b"x", &[], Some(&user()))
        .await
        .outcome
        .expect_err("refused");
    assert_eq!(
        error.to_string(),
        "denied: requested access to the resource is denied"
    );
    let error = registry_with(&[])
        .put_manifest(
            &reference(&format!("{}/a:1", fake.address)),
            "application/json",
            Bytes::from_static(MANIFEST),
            None,
        )
        .await
        .expect_err("refused");
    assert!(error.to_string().starts_with("denied: "), "{error}");
}

#[tokio::test]
async fn an_upload_at_another_host_gets_no_credentials_and_a_manifest_its_type() {
    let storage = Fake::start(|_, asked| {
        assert_eq!(asked.header("authorization"), "");
        response("201 Created", "", b"")
    })
    .await;
    let there = storage.address.clone();
    let fake = Fake::start(move |_, asked| {
        if asked.header("authorization").is_empty() {
            return response(
                "401 Unauthorized",
                "WWW-Authenticate: Basic realm=\"x\"\r\n",
                b"",
            );
        }
        match asked.method.as_str() {
            "HEAD" => response(NOT_THERE, "", b""),
            "POST" => response(
                "202 Accepted",
                &format!("Location: http://{there}/bucket?sign=1\r\n"),
                b"",
            ),
            "PUT" => {
                assert_eq!(asked.path, "/v2/a/manifests/1");
                assert_eq!(asked.header("content-type"), "application/x-type");
                assert_eq!(asked.body, MANIFEST);
                response("201 Created", "", b"")
            }
            other => panic!("{other} is not expected"),
        }
    })
    .await;
    push(&fake, b"x", &[], Some(&user()))
        .await
        .outcome
        .expect("sent");
    assert!(storage.seen()[0].starts_with("PUT /bucket?sign=1&digest=sha256"));
    registry_with(&[])
        .put_manifest(
            &reference(&format!("{}/a:1", fake.address)),
            "application/x-type",
            Bytes::from_static(MANIFEST),
            Some(&user()),
        )
        .await
        .expect("stored");
}

#[tokio::test]
async fn an_identity_token_is_got_by_signing_in_and_used_afterwards() {
    let fake = Fake::start(|host, asked| {
        if asked.path.starts_with("/token") {
            return match asked.method.as_str() {
                "GET" => {
                    assert!(
                        asked.path.contains("offline_token=true")
                            && asked.path.contains("account=me")
                    );
                    response(
                        "200 OK",
                        "",
                        b"{\"token\":\"short\",\"refresh_token\":\"lasting\"}",
                    )
                }
                _ => {
                    let form = String::from_utf8_lossy(&asked.body).into_owned();
                    assert!(
                        form.contains("grant_type=refresh_token")
                            && form.contains("refresh_token=lasting"),
                        "{form}"
                    );
                    assert_eq!(asked.header("authorization"), "");
                    response("200 OK", "", b"{\"access_token\":\"short\"}")
                }
            };
        }
        match asked.header("authorization") {
            "Bearer short" => response("200 OK", "", MANIFEST),
            _ => response(
                "401 Unauthorized",
                &format!(
                    "WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\"\r\n"
                ),
                b"",
            ),
        }
    })
    .await;
    let token = registry_with(&[])
        .login(&fake.address, &user())
        .await
        .expect("signed in");
    assert_eq!(token.as_deref(), Some("lasting"));
    let credentials = Credentials {
        identity_token: "lasting".into(),
        ..Credentials::default()
    };
    registry_with(&[])
        .manifest(
            &reference(&format!("{}/a", fake.address)),
            Some(&credentials),
        )
        .await
        .expect("good");
}
