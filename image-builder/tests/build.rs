//! Whole builds against a fake archive: what comes out, and what every failure leaves behind.

mod fake_archive;

use assert_cmd::Command;
use fake_archive::fake_elf::dynamic_elf;
use fake_archive::{Archive, RECIPE, Server, Signer, key, write_keyring};
use guest_contract::manifest::Manifest;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An archive, a server, and a folder with keyring, recipe, agent, cache and output.
struct Setting {
    archive: Archive,
    server: Server,
    folder: tempfile::TempDir,
}

impl Setting {
    fn new() -> Setting {
        Setting::with(Archive::new())
    }

    fn with(archive: Archive) -> Setting {
        let folder = tempfile::tempdir().unwrap();
        write_keyring(&archive.key, &folder.path().join("keyring.gpg"));
        std::fs::write(folder.path().join("recipe.toml"), RECIPE).unwrap();
        std::fs::write(folder.path().join("agent"), dynamic_elf(None, &[])).unwrap();
        std::fs::create_dir(folder.path().join("images")).unwrap();
        let server = Server::start(archive.files());
        Setting {
            archive,
            server,
            folder,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn output(&self) -> PathBuf {
        self.path("images/test")
    }

    /// The command, with a home of its own and no proxy.
    fn command(&self) -> Command {
        let mut command = Command::cargo_bin("image-builder").unwrap();
        command
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("NO_PROXY", "127.0.0.1")
            .arg("build")
            .args(["--mirror", &self.server.url])
            .arg("--recipe")
            .arg(self.path("recipe.toml"))
            .arg("--agent")
            .arg(self.path("agent"))
            .arg("--keyring")
            .arg(self.path("keyring.gpg"))
            .arg("--cache")
            .arg(self.path("cache"))
            .arg("--output")
            .arg(self.output());
        command
    }

    #[track_caller]
    fn build(&self, more: &[&str]) -> Manifest {
        self.command().args(more).assert().success();
        image_builder::inspect(&self.output()).unwrap()
    }

    /// Runs a build that must fail; returns what it said. Nothing may be left beside what was there.
    #[track_caller]
    fn fail(&self, more: &[&str], expected: &[&str]) -> String {
        let before = self.images();
        let output = self.command().args(more).assert().failure().code(1);
        let text = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        for words in expected {
            assert!(text.contains(words), "{words:?} is not in: {text}");
        }
        assert_eq!(self.images(), before, "{text}");
        text
    }

    /// Path -> bytes of everything in the folder of images, but the lock.
    fn images(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn visit(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    found.insert(path.clone(), Vec::new());
                    visit(&path, found);
                } else if path.extension().is_none_or(|ending| ending != "lock") {
                    found.insert(path.clone(), std::fs::read(&path).unwrap());
                }
            }
        }
        let mut found = BTreeMap::new();
        visit(&self.path("images"), &mut found);
        found
    }
}

/// Names and types in an initrd, over all its archives.
fn names_in(initrd: &[u8]) -> BTreeMap<String, u32> {
    let mut names = BTreeMap::new();
    let mut rest = initrd;
    while !rest.is_empty() {
        let reader = cpio::newc::Reader::new(rest).unwrap();
        if reader.entry().is_trailer() {
            rest = reader.finish().unwrap();
            let padding = rest.iter().take_while(|byte| **byte == 0).count();
            rest = &rest[padding..];
            continue;
        }
        names.insert(reader.entry().name().to_owned(), reader.entry().mode());
        rest = reader.finish().unwrap();
    }
    names
}

#[test]
fn an_image_has_all_its_parts() {
    let setting = Setting::new();
    let manifest = setting.build(&["--agent-version", "7.8.9"]);
    assert_eq!(manifest.kernel_version, "6.12-test");
    assert_eq!(manifest.command_line, "console=ttyS0 quiet");
    assert_eq!(manifest.agent_version, "7.8.9");
    assert!(manifest.download_bytes > 0);
    let packages: Vec<_> = manifest.packages.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(
        packages,
        ["busybox-static", "libc6", "linux-image-6.12-test", "tool"]
    );
    for package in &manifest.packages {
        assert_eq!(package.licences, ["GPL-2"]);
        assert_eq!(package.version, "1.0-1");
    }
    let kernel = std::fs::read(setting.output().join(&manifest.kernel)).unwrap();
    assert!(kernel.starts_with(b"\x7fELF"));
    let initrd = std::fs::read(setting.output().join(&manifest.initrd)).unwrap();
    let names = names_in(&initrd);
    for (name, kind) in [
        ("init", 0o120_777),
        ("usr/bin/host-agent", 0o100_755),
        ("usr/bin/busybox", 0o100_755),
        ("usr/bin/sh", 0o120_777),
        ("usr/bin/tool", 0o100_755),
        ("usr/lib64/ld-linux.so.2", 0o100_755),
        ("usr/lib/x86_64-linux-gnu/libc.so.6", 0o100_755),
        ("usr/lib/modules/6.12-test/kernel/overlay.ko", 0o100_644),
        ("etc/modules-boot", 0o100_644),
        ("dev/console", 0o020_600),
        ("tmp", 0o041_777),
    ] {
        assert_eq!(names.get(name), Some(&kind), "{name} in {names:?}");
    }
    let inspected = Command::cargo_bin("image-builder")
        .unwrap()
        .arg("inspect")
        .arg(setting.output())
        .assert()
        .success();
    let text = String::from_utf8(inspected.get_output().stdout.clone()).unwrap();
    assert!(text.contains("busybox-static 1.0-1 (GPL-2)"), "{text}");
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let setting = Setting::new();
    setting.build(&[]);
    let first = setting.images();
    let other_cache = setting.path("other-cache");
    setting.build(&["--cache", other_cache.to_str().unwrap()]);
    assert_eq!(setting.images(), first);
}

#[test]
fn a_second_build_needs_no_mirror() {
    let setting = Setting::new();
    setting.build(&[]);
    let first = setting.images();
    let requests = setting.server.requests();
    setting.build(&[]);
    setting.build(&["--offline"]);
    assert_eq!(setting.server.requests(), requests);
    // Asked for fresh state, the builder makes do without, and says so.
    setting.server.break_down();
    let output = setting.command().arg("--refresh").assert().success();
    let text = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(text.contains("warning: cannot reach"), "{text}");
    assert_eq!(setting.images(), first);
}

#[test]
fn a_new_agent_changes_the_initrd_only() {
    let setting = Setting::new();
    let first = setting.build(&[]);
    let requests = setting.server.requests();
    let agent = dynamic_elf(None, &["another.so"]);
    std::fs::write(setting.path("agent"), agent).unwrap();
    let second = setting.build(&[]);
    assert_eq!(setting.server.requests(), requests);
    assert_eq!(first.files["vmlinux"], second.files["vmlinux"]);
    assert_ne!(first.files["initrd"], second.files["initrd"]);
}

#[test]
fn a_damaged_cache_is_repaired() {
    let setting = Setting::new();
    setting.build(&[]);
    let first = setting.images();
    for part in ["bases", "sha256"] {
        for entry in std::fs::read_dir(setting.path("cache").join(part)).unwrap() {
            let path = entry.unwrap().path();
            let file = if path.is_dir() {
                path.join("base.cpio")
            } else {
                path
            };
            std::fs::write(file, b"rot").unwrap();
        }
    }
    setting.build(&[]);
    assert_eq!(setting.images(), first);
}

#[test]
fn either_key_of_a_pair_may_sign() {
    let mut archive = Archive::new();
    archive.signer = Signer::Primary;
    Setting::with(archive).build(&[]);
}

#[test]
fn bad_signatures_are_refused() {
    let setting = Setting::new();
    setting.server.edit(|files| {
        let file = files.get_mut("dists/trixie/InRelease").unwrap();
        let text = String::from_utf8(file.clone()).unwrap();
        *file = text.replace("Origin: Test", "Origin: Tess").into_bytes();
    });
    setting.fail(&[], &["InRelease cannot be trusted", "changed", "hint: "]);

    setting.server.edit(|files| {
        files.insert("dists/trixie/InRelease".into(), b"Origin: Test\n".into());
    });
    setting.fail(&[], &["cannot be trusted", "not a clear-signed"]);
    assert!(
        !setting
            .path("cache/releases")
            .read_dir()
            .unwrap()
            .any(|_| true)
    );
}

#[test]
fn unknown_and_expired_keys_are_refused() {
    let setting = Setting::new();
    write_keyring(&key(None), &setting.path("keyring.gpg"));
    setting.fail(
        &[],
        &[
            "does not have",
            "hint: install a newer debian-archive-keyring",
        ],
    );

    let mut archive = Archive::new();
    archive.key = key(Some(3600));
    for signer in [Signer::Primary, Signer::Subkey] {
        archive.signer = signer;
        let setting = Setting::with(archive);
        setting.fail(&[], &["has expired", "--keyring"]);
        archive = setting.archive;
    }
    archive.key = key(Some(u32::MAX));
    Setting::with(archive).build(&[]);
}

#[test]
fn a_faulty_keyring_is_refused() {
    let setting = Setting::new();
    std::fs::write(setting.path("keyring.gpg"), b"").unwrap();
    setting.fail(&[], &["no usable OpenPGP key"]);
    setting.fail(
        &["--keyring", "/nonexistent"],
        &["cannot read the keyring /nonexistent"],
    );
}

#[test]
fn wrong_digests_and_sizes_are_refused() {
    let setting = Setting::new();
    let deb = "pool/main/tool_1.0-1_amd64.deb";
    let last = |data: &mut Vec<u8>| *data.last_mut().unwrap() ^= 1;
    setting
        .server
        .edit(|files| last(files.get_mut(deb).unwrap()));
    setting.fail(&[], &["has the sha256", "tool_1.0", "hint: "]);
    setting
        .server
        .edit(|files| files.get_mut(deb).unwrap().push(0));
    setting.fail(
        &[],
        &["has not the", "bytes that the signed index gives it"],
    );
    setting
        .server
        .edit(|files| files.get_mut(deb).unwrap().truncate(100));
    setting.fail(&[], &["has not the"]);

    let setting = Setting::new();
    setting.server.edit(|files| {
        let index = files.iter_mut().find(|(path, _)| path.contains("by-hash"));
        last(index.unwrap().1);
    });
    setting.fail(&[], &["has the sha256"]);
}

#[test]
fn a_failed_build_leaves_the_image_of_the_last_one() {
    let mut setting = Setting::new();
    setting.build(&[]);
    let package = setting.archive.packages.get_mut("tool").unwrap();
    package.insert("sbin/tool".into(), dynamic_elf(None, &["libgone.so.1"]));
    let files = setting.archive.files();
    setting.server.edit(|served| *served = files);
    setting.fail(&["--refresh"], &["usr/bin/tool needs libgone.so.1"]);
    image_builder::inspect(&setting.output()).unwrap();
}

#[test]
fn a_mirror_out_of_reach_is_told() {
    let setting = Setting::new();
    // Port 1 (tcpmux): nobody listens there.
    let url = "http://127.0.0.1:1/debian";
    setting.fail(
        &["--mirror", url],
        &[
            "cannot reach http://127.0.0.1",
            "trying again",
            "hint: check the network",
        ],
    );
    setting.fail(
        &["--offline"],
        &["is not in the cache", "without --offline"],
    );
}

#[test]
fn an_older_suite_is_taken_only_where_the_newer_is_not() {
    let mut archive = Archive::new();
    archive.suite = "bookworm";
    let setting = Setting::with(archive);
    let output = setting.command().assert().success();
    let text = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(text.contains("suite bookworm"), "{text}");

    setting.fail(&["--suite", "sid"], &["none of the suites sid", "--suite"]);
    // A suite that is there, but not signed, is no reason to take another one.
    setting.server.edit(|files| {
        files.insert("dists/trixie/InRelease".into(), b"x".into());
    });
    setting.fail(&["--refresh"], &["trixie/InRelease cannot be trusted"]);
}

#[test]
fn unfit_agents_are_refused() {
    let setting = Setting::new();
    setting.fail(
        &["--agent", "/nonexistent"],
        &["host agent /nonexistent", "hint: build it"],
    );
    let requests = setting.server.requests();
    std::fs::write(setting.path("agent"), b"#!/bin/sh\n").unwrap();
    setting.fail(&[], &["no host agent", "no 64-bit ELF", "hint: build it"]);
    let dynamic = dynamic_elf(Some("/lib64/ld-linux-x86-64.so.2"), &["libc.so.6"]);
    std::fs::write(setting.path("agent"), dynamic).unwrap();
    setting.fail(&[], &["linked dynamically", "x86_64-unknown-linux-musl"]);
    assert_eq!(
        setting.server.requests(),
        requests,
        "checked before any download"
    );
}

#[test]
fn faulty_recipes_and_usage_are_told() {
    let setting = Setting::new();
    setting.fail(
        &["--recipe", "none"],
        &["there is no recipe \"none\"", "berth"],
    );
    let text = RECIPE.replace("\"overlay\"", "\"overlaid\"");
    std::fs::write(setting.path("recipe.toml"), text).unwrap();
    setting.fail(&[], &["no module overlaid"]);
    let text = RECIPE.replace("\"tool\"", "\"no-tool\"");
    std::fs::write(setting.path("recipe.toml"), text).unwrap();
    setting.fail(&[], &["has no package no-tool"]);
    setting
        .command()
        .arg("--nonsense")
        .assert()
        .failure()
        .code(2);
}

#[test]
fn two_builds_at_once_both_end_well() {
    let setting = Setting::new();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| setting.command().assert().success());
        }
    });
    image_builder::inspect(&setting.output()).unwrap();
    let names = setting
        .images()
        .into_keys()
        .filter(|path| path.parent() == Some(&setting.path("images")));
    assert_eq!(names.collect::<Vec<_>>(), [setting.output()]);
}

#[test]
fn a_changed_image_is_noticed() {
    let setting = Setting::new();
    setting.build(&[]);
    let check = |expected: &str| {
        let mut command = Command::cargo_bin("image-builder").unwrap();
        let command = command.arg("inspect").arg(setting.output());
        let output = command.assert().failure().code(1);
        let text = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
        assert!(text.contains(expected), "{text}");
    };
    std::fs::write(setting.output().join("vmlinux"), b"x").unwrap();
    check("vmlinux is not the one");
    std::fs::remove_file(setting.output().join("vmlinux")).unwrap();
    check("vmlinux is missing");
    let manifest = setting.output().join("manifest.json");
    std::fs::write(&manifest, b"{\"version\": 99}").unwrap();
    check("newer version");
    std::fs::remove_file(&manifest).unwrap();
    check("is no image");
}

/// A file system of a few pages in a mount namespace of its own, which ends with the command.
#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let setting = Setting::new();
    setting.build(&[]);
    let mount_point = setting.path("small");
    std::fs::create_dir(&mount_point).unwrap();
    let can_mount = std::process::Command::new("unshare")
        .args(["--mount", "mount", "-t", "tmpfs", "-o", "size=16k", "small"])
        .arg(&mount_point)
        .output()
        .is_ok_and(|output| output.status.success());
    if !can_mount {
        println!("skipped: mounting a small tmpfs needs root and unshare(1)");
        return;
    }
    // Incompressible, and larger than the file system.
    let mut agent = dynamic_elf(None, &[]);
    agent.extend((0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8));
    std::fs::write(setting.path("agent"), agent).unwrap();
    for argument in ["--output", "--cache"] {
        let builder = setting.command();
        let script = format!(
            "mount -t tmpfs -o size=16k small '{0}' && \"$@\" {argument} '{0}/it'; status=$?; ls -A '{0}' '{0}/it'; exit $status",
            mount_point.display()
        );
        let output = std::process::Command::new("unshare")
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(builder.get_program())
            .args(builder.get_args())
            .env("HOME", setting.folder.path())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("hint: the disk is full"), "{told}");
        let listing = String::from_utf8_lossy(&output.stdout);
        if argument == "--output" {
            assert!(
                !listing.contains("image-") && !listing.contains("initrd"),
                "{listing}"
            );
        }
    }
}
