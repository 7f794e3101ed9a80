//! Several to ask: what one lacks, sends damaged or cannot serve now.

use super::*;

/// A registry whose Hub is behind a proxy that nobody serves.
async fn without_hub(mirrors: &[&Fake]) -> HttpRegistry {
    quick(options_without_hub(mirrors).await)
}

pub(super) async fn options_without_hub(mirrors: &[&Fake]) -> RegistryOptions {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let nobody = listener.local_addr().expect("bound");
    drop(listener);
    RegistryOptions {
        mirrors: mirrors
            .iter()
            .map(|fake| format!("http://{}", fake.address))
            .collect(),
        proxies: Proxies {
            https: Some(format!("http://{nobody}")),
            none: Some("127.0.0.1".into()),
            ..Proxies::default()
        },
        ..RegistryOptions::default()
    }
}

const PAGE: &[u8] = b"<html>Welcome to this network</html>";

#[tokio::test]
async fn a_mirror_that_answers_with_anything_is_passed_over() {
    let content = b"the content of a blob".as_slice();
    let bad = Fake::start(|_, _| response("200 OK", "Content-Type: text/html\r\n", PAGE)).await;
    let good = Fake::start(move |_, asked| match asked.path.contains("/blobs/") {
        true => response("200 OK", "", content),
        false => response("200 OK", "", MANIFEST),
    })
    .await;
    let registry = without_hub(&[&bad, &good]).await;
    let name = reference("alpine");
    let manifest = registry.manifest(&name, None).await.expect("the second's");
    assert_eq!(manifest.bytes, MANIFEST);
    let by_digest = name.repository.clone().with_digest(digest_of(MANIFEST));
    registry.manifest(&by_digest, None).await.expect("the same");
    let got = fetch_blob(&registry, &name, content, None).await;
    assert_eq!(got.expect("the second's"), content);
    assert_eq!(bad.seen().len(), 3);

    // Where nobody has better, its answer is told.
    let registry = without_hub(&[&bad]).await;
    let error = registry.manifest(&name, None).await.expect_err("a page");
    assert!(error.to_string().contains("no manifest"), "{error}");
}

#[tokio::test]
async fn a_mirror_that_sent_a_damaged_blob_is_not_asked_for_it_again() {
    let content = b"the content".as_slice();
    let bad = Fake::start(|_, _| response("200 OK", "", b"THE CONTENT")).await;
    let good = Fake::start(move |_, _| response("200 OK", "", content)).await;
    let registry = without_hub(&[&bad, &good]).await;
    let name = reference("alpine");
    let digest = digest_of(content);
    let fetch = async || {
        let got = fetch_blob(&registry, &name, content, None).await;
        got.expect("whole")
    };
    assert_eq!(fetch().await, b"THE CONTENT");
    assert!(registry.distrust(&digest), "there is another");
    assert_eq!(fetch().await, content);
    assert_eq!(bad.seen().len(), 1);
    // If that was wrong, too, it is the Hub's turn; then nobody's.
    assert!(registry.distrust(&digest));
    assert!(!registry.distrust(&digest));
    assert!(!registry.distrust(&digest_of(b"another")));
}

#[tokio::test]
async fn a_mirror_that_breaks_off_is_asked_after_the_others() {
    let content = b"the content".as_slice();
    // Ended in order, but too early; and cut off, with nothing more to be had there.
    let early = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n4\r\nthe \r\n0\r\n\r\n";
    let cut = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\nthe ",
        content.len()
    );
    for answer in [early.to_owned(), cut] {
        let bad = Fake::start(move |_, asked| match asked.times {
            0 => answer.clone().into_bytes(),
            _ => response("416 Requested Range Not Satisfiable", "", b""),
        })
        .await;
        let good = Fake::start(move |_, asked| {
            assert_eq!(asked.header("range"), "bytes=4-");
            let range = "Content-Range: bytes 4-10/11\r\n";
            response("206 Partial Content", range, &content[4..])
        })
        .await;
        let registry = without_hub(&[&bad, &good]).await;
        let got = fetch_blob(&registry, &reference("alpine"), content, None).await;
        assert_eq!(got.expect("the second's"), content);
        assert_eq!((bad.seen().len(), good.seen().len()), (1, 1));
        // Where there is nobody else, it is asked again.
        let registry = without_hub(&[&bad]).await;
        let digest = digest_of(content);
        let outcome = registry
            .blob(&reference("alpine").repository, &digest, 11, 4, None)
            .await;
        assert!(outcome.is_err());
        assert_eq!(bad.seen().len(), 2);
    }
}

#[tokio::test]
async fn a_mirror_whose_manifest_is_another_is_passed_over() {
    let bad = Fake::start(|_, _| response("200 OK", "", b"{\"schemaVersion\":2}")).await;
    let missing = Fake::start(|_, _| response("404 Not Found", "", b"")).await;
    let good = Fake::start(|_, _| response("200 OK", "", MANIFEST)).await;
    let registry = without_hub(&[&bad, &missing, &good]).await;
    let name = reference("alpine").repository;
    let name = name.with_digest(digest_of(MANIFEST));
    let manifest = registry.manifest(&name, None).await.expect("the third's");
    assert_eq!(manifest.bytes, MANIFEST);
}

#[tokio::test]
async fn a_mirror_that_is_busy_is_asked_again_where_nobody_else_answers() {
    let content = b"the content".as_slice();
    let mirror = Fake::start(move |_, asked| match asked.times {
        0 => response("503 Service Unavailable", "", b""),
        1 => response("429 Too Many Requests", "Retry-After: 0\r\n", b""),
        _ if asked.path.contains("/blobs/") => response("200 OK", "", content),
        _ => response("200 OK", "", MANIFEST),
    })
    .await;
    let registry = without_hub(&[&mirror]).await;
    let name = reference("alpine");
    registry.manifest(&name, None).await.expect("at last");
    let got = fetch_blob(&registry, &name, content, None).await;
    assert_eq!(got.expect("at last"), content);
    assert_eq!(mirror.seen().len(), 6);
}

#[tokio::test]
async fn a_mirror_that_is_busy_is_not_waited_for_where_another_answers() {
    let busy =
        Fake::start(|_, _| response("503 Service Unavailable", "Retry-After: 20\r\n", b"")).await;
    let good = Fake::start(|_, _| response("200 OK", "", MANIFEST)).await;
    let registry = without_hub(&[&busy, &good]).await;
    let begin = std::time::Instant::now();
    registry
        .manifest(&reference("alpine"), None)
        .await
        .expect("the second's");
    assert!(begin.elapsed() < Duration::from_secs(15));
    assert_eq!(busy.seen().len(), 1);
}

#[tokio::test]
async fn a_blob_that_is_shorter_than_its_manifest_says_is_told_so() {
    let content = b"the content".as_slice();
    let fake = Fake::start(move |_, asked| {
        let is_chunked = asked.path.contains("/chunked/");
        match (is_chunked, asked.header("range")) {
            (false, "") => response("200 OK", "", content),
            (true, "") => {
                let head =
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
                let text = String::from_utf8_lossy(content);
                format!("{head}{:x}\r\n{text}\r\n0\r\n\r\n", text.len()).into_bytes()
            }
            _ => response("416 Requested Range Not Satisfiable", "", b""),
        }
    })
    .await;
    for name in ["plain", "chunked"] {
        let name = reference(&format!("{}/{name}/a", fake.address));
        let registry = registry_with(&[]);
        let outcome = registry
            .blob(&name.repository, &digest_of(content), 100, 0, None)
            .await;
        let text = match outcome {
            Ok(stream) => read(stream).await.expect_err("too short").to_string(),
            Err(error) => error.to_string(),
        };
        assert!(text.contains("its manifest says 100"), "{text}");
    }
    assert_eq!(fake.seen().len(), 3);
}
