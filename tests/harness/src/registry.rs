//! A real registry for tests and demonstrations: Debian's `docker-registry` on a free loopback port, with its storage in
//! a folder that goes away with it.

use crate::image::{TestImage, digest};
use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "/usr/bin/docker-registry";
/// Whom a registry with a password lets in.
pub const USER: &str = "ada";
pub const PASSWORD: &str = "pass-word-of-ada";
/// The line of an htpasswd file that says so (bcrypt, made with crypt(3)).
const PASSWORD_LINE: &str = "ada:$2b$05$abcdefghijklmnopqrstuuIDq6X7X3X16OrRmHhLcl/n4SJ4HZU4C\n";
/// In its storage: what went wrong, and a line for each request that was answered.
const LOG: &str = "registry.log";
/// Until it answers; it takes some 100 ms on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running registry; ended, and its storage removed, when dropped.
pub struct Registry {
    process: Child,
    port: u16,
    log: PathBuf,
    /// `None` where the storage is somebody else's and stays.
    _storage: Option<tempfile::TempDir>,
}

/// Who may come in.
#[derive(Debug, Clone, Copy)]
enum Guests {
    All,
    User,
}

impl Registry {
    /// Whether there is a registry program; if not, says so on one line.
    pub fn is_available_or_skip() -> bool {
        let is_there = Path::new(PROGRAM).exists();
        if !is_there {
            println!("skipped: {PROGRAM} is missing (Debian's docker-registry)");
        }
        is_there
    }

    /// Starts one on a free port.
    pub fn start() -> Result<Registry> {
        Registry::start_for(Guests::All)
    }

    /// The same, for [`USER`] with [`PASSWORD`] only.
    pub fn start_with_password() -> Result<Registry> {
        Registry::start_for(Guests::User)
    }

    fn start_for(guests: Guests) -> Result<Registry> {
        let storage = tempfile::Builder::new()
            .prefix("berth-registry-")
            .tempdir()
            .context("make a folder for the registry")?;
        // A port found free can be taken before the registry has it: then the next one.
        let mut last = None;
        for _ in 0..5 {
            let port = free_port()?;
            match Registry::start_process(port, storage.path(), guests) {
                Ok(process) => {
                    return Ok(Registry {
                        process,
                        port,
                        log: storage.path().join(LOG),
                        _storage: Some(storage),
                    });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("five attempts failed"))
    }

    /// The requests so far, a line each: `... "GET /v2/..." STATUS BYTES ...`.
    pub fn requests(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Starts one on this port (0: a free one) with its storage in a folder that stays.
    pub fn start_at(port: u16, storage: &Path) -> Result<Registry> {
        let port = match port {
            0 => free_port()?,
            port => port,
        };
        Ok(Registry {
            process: Registry::start_process(port, storage, Guests::All)?,
            port,
            log: storage.join(LOG),
            _storage: None,
        })
    }

    fn start_process(port: u16, storage: &Path, guests: Guests) -> Result<Child> {
        std::fs::create_dir_all(storage).with_context(|| format!("make {}", storage.display()))?;
        let config = storage.join("config.yml");
        let log = storage.join(LOG);
        let auth = match guests {
            Guests::All => String::new(),
            Guests::User => {
                let users = storage.join("users");
                std::fs::write(&users, PASSWORD_LINE).context("write the registry's users")?;
                format!(
                    "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
                    users.display()
                )
            }
        };
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: error\nstorage:\n  delete:\n    enabled: true\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{auth}",
                storage.join("data").display()
            ),
        )
        .context("write the registry's configuration")?;
        let log_file = File::create(&log).context("make the registry's log")?;
        let mut process = Command::new(PROGRAM)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log_file.try_clone()?)
            .stderr(log_file)
            // A group of its own, so that Ctrl-C at a demonstration ends us first and in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {PROGRAM}: install Debian's docker-registry"))?;
        let start = Instant::now();
        loop {
            if let Ok((200 | 401, _)) = request(port, "GET", "/v2/", &[], &[]) {
                return Ok(process);
            }
            let ended = process.try_wait()?;
            if ended.is_some() || start.elapsed() > START_LIMIT {
                let _ = process.kill();
                let _ = process.wait();
                bail!(
                    "{PROGRAM} on port {port} does not answer: {}",
                    std::fs::read_to_string(&log).unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `127.0.0.1:port`, as it stands in references.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `http://127.0.0.1:port`, as `--registry-mirror` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.host())
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until the registry ends (for a program that only serves).
    pub fn wait(mut self) -> Result<()> {
        self.process.wait()?;
        Ok(())
    }

    /// Pushes an image; returns its manifest's digest.
    pub fn push(&self, repository: &str, tag: &str, image: &TestImage) -> Result<String> {
        for layer in &image.layers {
            self.push_blob(repository, &layer.blob)?;
        }
        self.push_blob(repository, &image.config)?;
        self.push_manifest(
            repository,
            tag,
            image.manifest_media_type(),
            &image.manifest(),
        )
    }

    /// Pushes Debian's busybox; returns its manifest's digest.
    pub fn push_busybox(&self, repository: &str, tag: &str, variant: &str) -> Result<String> {
        self.push(repository, tag, &TestImage::busybox(variant)?)
    }

    /// Pushes a manifest, list or index as it is; returns its digest.
    pub fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<String> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let (status, answer) = request(
            self.port,
            "PUT",
            &path,
            &[("Content-Type", media_type)],
            bytes,
        )?;
        ensure!(
            status == 201,
            "PUT {path}: {status} {}",
            String::from_utf8_lossy(&answer.body)
        );
        Ok(digest(bytes))
    }

    pub fn push_blob(&self, repository: &str, bytes: &[u8]) -> Result<()> {
        let digest = digest(bytes);
        let path = format!("/v2/{repository}/blobs/{digest}");
        if let (200, _) = request(self.port, "HEAD", &path, &[], &[])? {
            return Ok(());
        }
        let path = format!("/v2/{repository}/blobs/uploads/");
        let (status, answer) = request(self.port, "POST", &path, &[], &[])?;
        ensure!(status == 202, "POST {path}: {status}");
        let location = answer
            .header("location")
            .context("the registry names no place for the upload")?;
        // Absolute or not, it is here.
        let location = match location.split_once("://") {
            Some((_, rest)) => &rest[rest.find('/').unwrap_or(rest.len())..],
            None => location,
        };
        let joint = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{joint}digest={digest}");
        let (status, answer) = request(
            self.port,
            "PUT",
            &path,
            &[("Content-Type", "application/octet-stream")],
            bytes,
        )?;
        ensure!(
            status == 201,
            "PUT {path}: {status} {}",
            String::from_utf8_lossy(&answer.body)
        );
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It keeps nothing that a kill could break: its storage goes with it or is made of whole files.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }
}

/// One HTTP request on a connection of its own. Answers are small and never chunked but for errors, where that does not
/// matter.
fn request(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<(u16, Answer)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))
        .with_context(|| format!("connect to the registry at {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("the registry's answer is no HTTP")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("the registry's answer has no status")?;
    Ok((
        status,
        Answer {
            head,
            body: bytes[end + 4..].to_vec(),
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::busybox_or_skip;

    #[test]
    fn busybox_is_pushed_and_the_registry_ends_with_its_owner() {
        if !Registry::is_available_or_skip() || busybox_or_skip().is_none() {
            return;
        }
        let registry = Registry::start().expect("a registry");
        let digest = registry
            .push_busybox("library/busybox", "latest", "one")
            .expect("pushed");
        let (status, answer) = request(
            registry.port(),
            "GET",
            "/v2/library/busybox/manifests/latest",
            &[(
                "Accept",
                "application/vnd.docker.distribution.manifest.v2+json",
            )],
            &[],
        )
        .expect("an answer");
        assert_eq!(status, 200);
        assert_eq!(
            answer.header("docker-content-digest"),
            Some(digest.as_str())
        );
        let process = format!("/proc/{}", registry.pid());
        drop(registry);
        assert!(!Path::new(&process).exists());
    }
}
