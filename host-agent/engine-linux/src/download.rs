//! [`Downloads`] over http and https.

use crate::registry::ProxyRules;
use async_trait::async_trait;
use engine::images::download::{Download, DownloadError, Downloads};
use futures_util::StreamExt;
use reqwest::{Client, Url};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// A server that is silent for so long is taken for dead.
const SILENCE: Duration = Duration::from_secs(60);

/// Fetches files; a client is made for each, because this happens seldom and an idle engine should hold no memory for it.
#[derive(Debug, Clone, Default)]
pub struct HttpDownloads {
    proxies: ProxyRules,
}

impl HttpDownloads {
    /// Fetches through these proxies.
    pub fn new(proxies: ProxyRules) -> HttpDownloads {
        HttpDownloads { proxies }
    }
}

#[async_trait]
impl Downloads for HttpDownloads {
    async fn fetch(&self, url: &str) -> Result<Download, DownloadError> {
        let invalid = |why: String| DownloadError::Url {
            url: url.to_owned(),
            why,
        };
        let parsed = Url::parse(url).map_err(|error| invalid(error.to_string()))?;
        if !["http", "https"].contains(&parsed.scheme()) {
            return Err(invalid("only http and https are fetched".to_owned()));
        }
        let unreachable = |source: reqwest::Error| DownloadError::Unreachable {
            url: url.to_owned(),
            source: source.without_url().into(),
        };
        // The same provider everywhere: a second installation is refused and harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = self
            .proxies
            .apply(Client::builder())
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(30))
            .read_timeout(SILENCE)
            .build()
            .map_err(unreachable)?;
        let response = client.get(parsed).send().await.map_err(unreachable)?;
        let status = response.status();
        if !status.is_success() {
            return Err(DownloadError::Status {
                url: url.to_owned(),
                status: status.to_string(),
            });
        }
        let modified = response
            .headers()
            .get(reqwest::header::LAST_MODIFIED)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| {
                // HTTP dates end with GMT, which RFC 2822 knows as an old name of UTC.
                let text = text.replace("GMT", "+0000");
                OffsetDateTime::parse(&text, &Rfc2822).ok()
            });
        Ok(Download {
            modified,
            size: response.content_length(),
            content: Box::pin(
                response
                    .bytes_stream()
                    .map(|piece| piece.map_err(std::io::Error::other)),
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Proxies;
    use std::io::{Read, Write};

    /// A server for one request; its answer's head is given.
    fn serve_once(head: &'static str) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = write!(stream, "{head}\r\nContent-Length: 4\r\n\r\nfile");
        });
        format!("http://{address}/file.tar")
    }

    #[tokio::test]
    async fn files_are_fetched_and_refusals_are_told() {
        let url = serve_once("HTTP/1.1 200 OK");
        let mut download = HttpDownloads::default().fetch(&url).await.expect("served");
        assert_eq!(download.size, Some(4));
        let mut content = Vec::new();
        while let Some(piece) = download.content.next().await {
            content.extend_from_slice(&piece.expect("served"));
        }
        assert_eq!(content, b"file");
        let url = serve_once("HTTP/1.1 404 Not Found");
        let error = HttpDownloads::default()
            .fetch(&url)
            .await
            .err()
            .expect("refused");
        assert_eq!(
            error.to_string(),
            format!("failed to GET {url} with status 404 Not Found")
        );
        // Through the proxy that was chosen: nobody else knows this host.
        let proxy = serve_once("HTTP/1.1 200 OK");
        let chosen = Proxies {
            http: Some(proxy.trim_end_matches("file.tar").to_owned()),
            ..Proxies::default()
        };
        HttpDownloads::new(ProxyRules::new(chosen).expect("a good proxy"))
            .fetch("http://files.invalid/file.tar")
            .await
            .expect("served");
        for url in ["file:///etc/passwd", "not a url"] {
            let error = HttpDownloads::default()
                .fetch(url)
                .await
                .err()
                .expect("refused");
            assert!(matches!(error, DownloadError::Url { .. }), "{error}");
        }
    }
}
