//! A container image of Debian's static busybox, as the tar that `docker load` takes.

use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The tools tests and demo use, each a link to busybox.
const TOOLS: &[&str] = &[
    "sh",
    "true",
    "false",
    "echo",
    "cat",
    "ls",
    "id",
    "env",
    "uname",
    "sleep",
    "head",
    "tail",
    "wc",
    "seq",
    "yes",
    "dd",
    "mkdir",
    "rm",
    "touch",
    "mount",
    "umount",
    "mknod",
    "ps",
    "kill",
    "hostname",
    "httpd",
    "wget",
    "nc",
    "ip",
    "stat",
    "chmod",
    "chown",
    "grep",
    "sed",
    "sort",
    "test",
    "printf",
    "stty",
    "tty",
    "sha256sum",
    "date",
    "df",
    "free",
    "pwd",
    "unshare",
    "ping",
    "nslookup",
    "top",
    "vi",
    "find",
    "xargs",
    "tr",
    "cut",
    "trap",
    "expr",
    "basename",
    "readlink",
];

/// Where Debian puts it.
pub const PROGRAM: &str = "/bin/busybox";

/// The archive of an image named `reference`. The label makes its id its own: two tags never share one.
pub fn archive(reference: &str, label: &str) -> std::io::Result<Vec<u8>> {
    archive_of(Path::new(PROGRAM), reference, label)
}

fn archive_of(busybox: &Path, reference: &str, label: &str) -> std::io::Result<Vec<u8>> {
    let program = std::fs::read(busybox)?;
    let layer = layer(&program)?;
    let layer_hex = hex::encode(Sha256::digest(&layer));
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["sh"],
            "Labels": { "berth.test": label },
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_hex}")] },
        "history": [{ "created": "2026-01-01T00:00:00Z", "created_by": "busybox" }],
    })
    .to_string();
    let config_name = format!("{}.json", hex::encode(Sha256::digest(config.as_bytes())));
    let layer_name = format!("{layer_hex}/layer.tar");
    let manifest =
        json!([{ "Config": config_name, "RepoTags": [reference], "Layers": [layer_name] }])
            .to_string();

    let mut archive = tar::Builder::new(Vec::new());
    file(&mut archive, &config_name, config.as_bytes(), 0o644)?;
    file(&mut archive, &layer_name, &layer, 0o644)?;
    file(&mut archive, "manifest.json", manifest.as_bytes(), 0o644)?;
    archive.into_inner()
}

fn layer(program: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    for folder in [
        "bin/", "etc/", "root/", "tmp/", "var/", "var/www/", "dev/", "proc/", "sys/",
    ] {
        let mut header = header(0, if folder == "tmp/" { 0o1777 } else { 0o755 });
        header.set_entry_type(tar::EntryType::Directory);
        layer.append_data(&mut header, folder, std::io::empty())?;
    }
    file(&mut layer, "bin/busybox", program, 0o755)?;
    for tool in TOOLS {
        let mut header = header(0, 0o777);
        header.set_entry_type(tar::EntryType::Symlink);
        layer.append_link(&mut header, format!("bin/{tool}"), "busybox")?;
    }
    file(
        &mut layer,
        "etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000::/tmp:/bin/sh\n",
        0o644,
    )?;
    file(
        &mut layer,
        "etc/group",
        b"root:x:0:\nada:x:1000:\nstaff:x:50:ada\n",
        0o644,
    )?;
    layer.into_inner()
}

fn file(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    data: &[u8],
    mode: u32,
) -> std::io::Result<()> {
    archive.append_data(&mut header(data.len() as u64, mode), path, data)
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_767_225_600);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_labels_make_two_images() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let program = folder.path().join("busybox");
        std::fs::write(&program, "not really").expect("written");
        let one = archive_of(&program, "busybox:1", "one").expect("an archive");
        let two = archive_of(&program, "busybox:2", "two").expect("an archive");
        let configs = |bytes: &[u8]| -> Vec<String> {
            let mut archive = tar::Archive::new(bytes);
            let entries = archive
                .entries()
                .expect("a tar")
                .map(|entry| entry.expect("an entry"));
            let names =
                entries.map(|entry| entry.path().expect("a path").to_string_lossy().into_owned());
            names
                .filter(|name| name.ends_with(".json") && name != "manifest.json")
                .collect()
        };
        assert_eq!(configs(&one).len(), 1);
        assert_ne!(configs(&one), configs(&two));
    }
}
