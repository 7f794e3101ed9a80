//! A tiny Debian archive on loopback, signed with keys of its own.

#[path = "../../src/fake_elf.rs"]
#[allow(dead_code)]
pub mod fake_elf;

use fake_elf::{bz_image, dynamic_elf, kernel_elf, module_elf, with_length};
use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, KeyType, SecretKeyParamsBuilder, SignedPublicKey,
    SignedSecretKey, SubkeyParamsBuilder,
};
use pgp::packet::{SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::ser::Serialize;
use pgp::types::{Duration, KeyDetails, Password, Tag, Timestamp};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Which key of a pair signs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    Primary,
    Subkey,
}

/// A signing key. `lifetime` in seconds, counted from 2020-09-13.
pub fn key(lifetime: Option<u32>) -> SignedSecretKey {
    let created = Timestamp::from_secs(1_600_000_000);
    let subkey = SubkeyParamsBuilder::default()
        .key_type(KeyType::Ed25519Legacy)
        .can_sign(true)
        .created_at(created)
        .build()
        .unwrap();
    let mut builder = SecretKeyParamsBuilder::default();
    builder
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(true)
        .created_at(created)
        .primary_user_id("Test archive <archive@example.test>".into())
        .subkey(subkey);
    let mut random = rand::thread_rng();
    let mut key = builder.build().unwrap().generate(&mut random).unwrap();
    if let Some(seconds) = lifetime {
        let primary = &key.primary_key;
        let mut config =
            SignatureConfig::from_key(&mut random, primary, SignatureType::CertPositive).unwrap();
        config.hashed_subpackets = [
            SubpacketData::SignatureCreationTime(created),
            SubpacketData::IssuerFingerprint(primary.fingerprint()),
            SubpacketData::KeyExpirationTime(Duration::from_secs(seconds)),
        ]
        .map(|data| Subpacket::regular(data).unwrap())
        .into();
        let user = &key.details.users[0].id;
        let signature = config
            .sign_certification(
                primary,
                primary.public_key(),
                &Password::empty(),
                Tag::UserId,
                user,
            )
            .unwrap();
        key.details.users[0].signatures = vec![signature];
    }
    key
}

/// Writes the public half as a keyring file.
pub fn write_keyring(key: &SignedSecretKey, path: &Path) {
    let public = SignedPublicKey::from(key.clone());
    std::fs::write(path, public.to_bytes().unwrap()).unwrap();
}

/// The recipe that fits [`Archive::new`].
pub const RECIPE: &str = r#"
name = "test"
architecture = "x86_64"
suites = ["trixie", "bookworm"]
component = "main"

[kernel]
package = "linux-image-cloud-amd64"
command-line = "console=ttyS0 quiet"
modules = { boot = ["virtio_blk"], engine = ["overlay"], available = [] }

[[packages]]
name = "busybox-static"
files = ["/usr/bin/busybox"]

[[packages]]
name = "tool"
files = ["/usr/sbin/tool"]

[libraries]
packages = ["libc6-new | libc6"]

[links]
busybox = ["sh"]
"#;

/// The archive's files, and how they are made anew after a change.
pub struct Archive {
    pub key: SignedSecretKey,
    pub signer: Signer,
    pub suite: &'static str,
    /// Package name -> files in it.
    pub packages: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

impl Archive {
    pub fn new() -> Archive {
        let kernel = kernel_elf(true);
        let payload = with_length(zstd::encode_all(&kernel[..], 3).unwrap(), &kernel);
        let modules = "lib/modules/6.12-test";
        let mut packages = BTreeMap::new();
        let mut add = |name: &str, files: &[(&str, Vec<u8>)]| {
            let mut files: BTreeMap<String, Vec<u8>> = files
                .iter()
                .map(|(path, data)| ((*path).to_owned(), data.clone()))
                .collect();
            let copyright = "See /usr/share/common-licenses/GPL-2.\n";
            files.insert(format!("usr/share/doc/{name}/copyright"), copyright.into());
            packages.insert(name.to_owned(), files);
        };
        add("linux-image-cloud-amd64", &[]);
        add(
            "linux-image-6.12-test",
            &[
                ("boot/vmlinuz-6.12-test", bz_image(&payload)),
                (
                    &format!("{modules}/kernel/virtio_blk.ko"),
                    module_elf(b"depends=\0"),
                ),
                (
                    &format!("{modules}/kernel/overlay.ko"),
                    module_elf(b"depends=\0"),
                ),
                (&format!("{modules}/modules.builtin"), Vec::new()),
            ],
        );
        add("busybox-static", &[("bin/busybox", dynamic_elf(None, &[]))]);
        let loader = "/lib64/ld-linux.so.2";
        add(
            "tool",
            &[("sbin/tool", dynamic_elf(Some(loader), &["libc.so.6"]))],
        );
        add(
            "libc6",
            &[
                ("lib64/ld-linux.so.2", dynamic_elf(None, &[])),
                ("lib/x86_64-linux-gnu/libc.so.6", dynamic_elf(None, &[])),
            ],
        );
        Archive {
            key: key(None),
            signer: Signer::Subkey,
            suite: "trixie",
            packages,
        }
    }

    /// All files of the archive by path.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut index = String::new();
        for (name, contents) in &self.packages {
            let deb = deb(contents);
            let path = format!("pool/main/{name}_1.0-1_amd64.deb");
            let depends = match name.as_str() {
                "linux-image-cloud-amd64" => "Depends: linux-image-6.12-test (= 1.0-1)\n",
                _ => "",
            };
            index += &format!(
                "Package: {name}\nVersion: 1.0-1\n{depends}Filename: {path}\nSize: {}\nSHA256: {}\n\n",
                deb.len(),
                sha256(&deb)
            );
            files.insert(path, deb);
        }
        let index = xz(index.as_bytes());
        let digest = sha256(&index);
        let suite = self.suite;
        let release = format!(
            "Origin: Test\nCodename: {suite}\nAcquire-By-Hash: yes\nSHA256:\n {digest} {} main/binary-amd64/Packages.xz\n",
            index.len()
        );
        let folder = format!("dists/{suite}/main/binary-amd64/by-hash/SHA256");
        files.insert(format!("{folder}/{digest}"), index);
        files.insert(format!("dists/{suite}/InRelease"), self.sign(&release));
        files
    }

    fn sign(&self, text: &str) -> Vec<u8> {
        let random = rand::thread_rng();
        let password = Password::empty();
        let message = match self.signer {
            Signer::Primary => {
                CleartextSignedMessage::sign(random, text, &self.key.primary_key, &password)
            }
            Signer::Subkey => {
                let subkey = &self.key.secret_subkeys[0].key;
                CleartextSignedMessage::sign(random, text, subkey, &password)
            }
        };
        let message = message.unwrap();
        message.to_armored_bytes(ArmorOptions::default()).unwrap()
    }
}

fn deb(contents: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, data) in contents {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, format!("./{path}"), &data[..])
            .unwrap();
    }
    let data = xz(&tar.into_inner().unwrap());
    let mut archive = ar::Builder::new(Vec::new());
    for (name, data) in [("debian-binary", &b"2.0\n"[..]), ("data.tar.xz", &data)] {
        let header = ar::Header::new(name.into(), data.len() as u64);
        archive.append(&header, data).unwrap();
    }
    archive.into_inner().unwrap()
}

fn xz(data: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

fn sha256(data: &[u8]) -> String {
    hex::encode(Sha256::digest(data))
}

/// Serves files over HTTP on loopback until it is dropped.
pub struct Server {
    pub url: String,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    requests: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
    broken: Arc<AtomicBool>,
}

impl Server {
    pub fn start(files: BTreeMap<String, Vec<u8>>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let files = Arc::new(Mutex::new(files));
        let requests = Arc::new(AtomicUsize::new(0));
        let stopped = Arc::new(AtomicBool::new(false));
        let broken = Arc::new(AtomicBool::new(false));
        let server = Server {
            url: format!("http://{address}/debian"),
            files: files.clone(),
            requests: requests.clone(),
            stopped: stopped.clone(),
            broken: broken.clone(),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                if broken.load(Ordering::SeqCst) {
                    continue;
                }
                let mut line = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                if reader.read_line(&mut line).is_err() {
                    continue;
                }
                let mut header = String::new();
                while reader.read_line(&mut header).is_ok_and(|n| n > 0) && header != "\r\n" {
                    header.clear();
                }
                requests.fetch_add(1, Ordering::SeqCst);
                let path = line.split(' ').nth(1).unwrap_or("");
                let path = path.trim_start_matches("/debian/");
                let file = files.lock().unwrap().get(path).cloned();
                let (status, body) = match file {
                    Some(body) => ("200 OK", body),
                    None => ("404 Not Found", b"no such file".to_vec()),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(&body);
                // Until the client has read all: closing at once could cut the answer off.
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = reader.read(&mut [0]);
            }
        });
        server
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// From now on hangs up on everybody. The port stays taken, so that no other test's server gets it.
    pub fn break_down(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }

    /// Changes the served files.
    pub fn edit(&self, edit: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) {
        edit(&mut self.files.lock().unwrap());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let address = self.url.trim_start_matches("http://");
        let address = address.split('/').next().unwrap_or(address);
        // Wakes the thread, so that the port is free again.
        let _ = std::net::TcpStream::connect(address);
    }
}
