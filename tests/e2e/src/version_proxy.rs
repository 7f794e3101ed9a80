//! A unix socket in front of an engine's that puts another API version into every request's path. Clients that cannot be
//! told a version can be tried with any.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The longest head of a request.
const HEAD_LIMIT: usize = 64 * 1024;

/// Serves until it is dropped; connections that are open then go on.
pub struct VersionProxy {
    folder: tempfile::TempDir,
    ended: Arc<AtomicBool>,
}

impl VersionProxy {
    /// Starts one; `version` is that of dockerd's paths, `1.41`.
    pub fn start(engine: &Path, version: &str) -> Result<VersionProxy> {
        let folder = tempfile::tempdir().context("make a folder for the proxy")?;
        let listener = UnixListener::bind(folder.path().join("sock")).context("listen")?;
        let ended = Arc::new(AtomicBool::new(false));
        let proxy = VersionProxy {
            folder,
            ended: ended.clone(),
        };
        let (engine, version) = (engine.to_owned(), version.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (engine, version) = (engine.clone(), version.clone());
                std::thread::spawn(move || {
                    // A broken connection is the client's to report.
                    let _ = client.and_then(|client| forward(client, &engine, &version));
                });
            }
        });
        Ok(proxy)
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("sock")
    }
}

impl Drop for VersionProxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = UnixStream::connect(self.socket());
    }
}

/// One connection is one request: its head is read and changed, then bytes go both ways.
fn forward(mut client: UnixStream, engine: &Path, version: &str) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0u8; 4096];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let read = client.read(&mut buffer)?;
        if read == 0 || bytes.len() > HEAD_LIMIT {
            return Ok(());
        }
        bytes.extend_from_slice(&buffer[..read]);
    };
    let head = with_version(&String::from_utf8_lossy(&bytes[..end]), version);
    let mut engine = UnixStream::connect(engine)?;
    engine.write_all(head.as_bytes())?;
    engine.write_all(&bytes[end..])?;
    let (mut from_client, mut to_engine) = (client.try_clone()?, engine.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_engine);
        let _ = to_engine.shutdown(Shutdown::Write);
    });
    let outcome = std::io::copy(&mut engine, &mut client);
    let _ = client.shutdown(Shutdown::Both);
    outcome.map(drop)
}

/// The head with the path's version replaced, and with the connection ending after the answer: a second request on it
/// would go by unchanged.
fn with_version(head: &str, version: &str) -> String {
    let (line, rest) = head.split_once("\r\n").unwrap_or((head, ""));
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    if let Some(path) = words.get_mut(1)
        && let Some((_, tail)) = path
            .strip_prefix("/v1.")
            .and_then(|path| path.split_once('/'))
    {
        *path = format!("/v{version}/{tail}");
    }
    let is = |line: &str, name: &str| {
        line.split_once(':')
            .is_some_and(|(key, _)| key.eq_ignore_ascii_case(name))
    };
    let upgrades = rest.lines().any(|line| is(line, "upgrade"));
    let mut changed = words.join(" ") + "\r\n";
    for line in rest.lines().filter(|line| !line.is_empty()) {
        if upgrades || !is(line, "connection") {
            changed += line;
            changed += "\r\n";
        }
    }
    if !upgrades {
        changed += "Connection: close\r\n";
    }
    changed + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::with_version;

    #[track_caller]
    fn check(head: &str, changed: &str) {
        assert_eq!(
            with_version(&head.replace('\n', "\r\n"), "1.41"),
            changed.replace('\n', "\r\n")
        );
    }

    #[test]
    fn heads_get_the_version_and_one_request_a_connection() {
        check(
            "GET /v1.53/info?a=/v1.2/ HTTP/1.1\nHost: x\nConnection: keep-alive\n\n",
            "GET /v1.41/info?a=/v1.2/ HTTP/1.1\nHost: x\nConnection: close\n\n",
        );
        check(
            "GET /_ping HTTP/1.1\n\n",
            "GET /_ping HTTP/1.1\nConnection: close\n\n",
        );
        check(
            "POST /v1.53/exec/a/start HTTP/1.1\nconnection: Upgrade\nupgrade: tcp\n\n",
            "POST /v1.41/exec/a/start HTTP/1.1\nconnection: Upgrade\nupgrade: tcp\n\n",
        );
    }
}
