//! What files are, besides their content: owners, attributes, devices, hard links to what is below, holes.

use super::*;
use crate::archive::sparse::testing::Holes;

#[tokio::test]
async fn owners_attributes_and_special_files_come_through_and_overlayfs_own_marks_do_not() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let layers = root.open();
    // vfs_cap_data of cap_net_raw=ep, version 2.
    let capability = [
        1u8, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let mut builder = ::tar::Builder::new(Vec::new());
    builder
        .append_pax_extensions([
            ("SCHILY.xattr.security.capability", &capability[..]),
            ("SCHILY.xattr.user.note", b"hello"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("uid", b"1000"),
            ("mtime", b"1000000000.25"),
        ])
        .expect("memory");
    let mut header = ::tar::Header::new_ustar();
    header.set_mode(0o6755);
    header.set_size(2);
    header.set_gid(1001);
    header.set_uid(0);
    builder
        .append_data(&mut header, "ping", &b"hi"[..])
        .expect("memory");
    for (kind, name) in [
        (::tar::EntryType::Fifo, "fifo"),
        (::tar::EntryType::Char, "null"),
    ] {
        let mut header = ::tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o666);
        header.set_size(0);
        header.set_device_major(1).expect("ustar");
        header.set_device_minor(3).expect("ustar");
        builder
            .append_data(&mut header, name, io::empty())
            .expect("memory");
    }
    let tar = builder.into_inner().expect("memory");
    let chain = put(&layers, &[tar]).await.expect("good");
    let diff = layers.files_of(&chain[0]);
    let facts = fs::metadata(diff.join("ping")).expect("there");
    assert_eq!(
        (
            facts.uid(),
            facts.gid(),
            facts.mode() & 0o7777,
            facts.mtime(),
            facts.mtime_nsec()
        ),
        (1000, 1001, 0o6755, 1_000_000_000, 250_000_000)
    );
    let xattr = |name: &str| {
        let mut value = [0u8; 100];
        rustix::fs::getxattr(diff.join("ping"), name, &mut value)
            .ok()
            .map(|length| value[..length].to_vec())
    };
    assert_eq!(
        xattr("security.capability").as_deref(),
        Some(&capability[..])
    );
    assert_eq!(xattr("user.note").as_deref(), Some(&b"hello"[..]));
    assert_eq!(xattr("trusted.overlay.redirect"), None);
    let null = fs::metadata(diff.join("null")).expect("there");
    assert!(null.file_type().is_char_device());
    assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(null.mode() & 0o777, 0o666);
    assert!(
        fs::metadata(diff.join("fifo"))
            .expect("there")
            .file_type()
            .is_fifo()
    );
}

#[tokio::test]
async fn a_hard_link_to_a_file_below_copies_it_up_as_overlayfs_does() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let layers = root.open();
    let bottom = tar_of(|tar| {
        tar.folder("usr", 0o750);
        tar.file("usr/program", 0o711, b"program");
        tar.file("gone", 0o644, b"gone");
        tar.folder("hidden", 0o755);
        tar.file("hidden/file", 0o644, b"hidden");
    });
    let top = tar_of(|tar| {
        tar.hard_link("bin/program", "usr/program");
        tar.hard_link("bin/again", "bin/program");
        tar.hard_link("bin/replaced", "usr/program");
        tar.file("bin/replaced", 0o644, b"own");
    });
    let chain = put(&layers, &[bottom.clone(), top]).await.expect("good");
    let diff = layers.files_of(&chain[1]);
    assert_eq!(
        names(&diff),
        [
            "bin/",
            "bin/again",
            "bin/program",
            "bin/replaced",
            "usr/",
            "usr/program"
        ]
    );
    let facts = |name: &str| fs::metadata(diff.join(name)).expect("there");
    assert_eq!(facts("bin/program").ino(), facts("usr/program").ino());
    assert_eq!(facts("bin/program").nlink(), 3);
    // dockerd gives the file the link's mode; the folder keeps the one it has below.
    assert_eq!(facts("bin/program").mode() & 0o7777, 0o755);
    assert_eq!(facts("usr").mode() & 0o7777, 0o750);
    assert_eq!(fs::read(diff.join("bin/again")).expect("there"), b"program");
    assert_eq!(fs::read(diff.join("bin/replaced")).expect("there"), b"own");
    // What a layer between hides is not there.
    let between = tar_of(|tar| {
        tar.file(".wh.gone", 0o644, b"");
        tar.folder("hidden", 0o755);
        tar.file("hidden/.wh..wh..opq", 0o644, b"");
    });
    for target in ["gone", "hidden/file", "never"] {
        let link = tar_of(|tar| {
            tar.hard_link("x", target);
        });
        let error = put(&layers, &[bottom.clone(), between.clone(), link])
            .await
            .expect_err("not there");
        let text = engine::error::full_message(&error);
        assert!(text.contains("nor below"), "{target}: {text}");
        assert!(matches!(error, LayerError::Invalid { .. }));
    }
}

#[tokio::test]
async fn files_with_holes_keep_them_in_every_form() {
    if !is_possible() {
        return;
    }
    let Some(archives) = Holes::pack() else {
        return;
    };
    for (form, archive) in &archives.packed {
        let root = Root::new();
        let layers = root.open();
        let chain = put(&layers, std::slice::from_ref(archive))
            .await
            .expect("good");
        archives.check(form, &layers.files_of(&chain[0]).join(Holes::NAME));
        let error = put(&layers, &[archive[..700].to_vec()]).await;
        assert!(error.is_err(), "{form} cut off");
    }
}

/// Says to this program, started again in a user namespace, that it is there.
const IN_NAMESPACE: &str = "BERTH_TEST_IN_USER_NAMESPACE";

#[tokio::test]
async fn devices_are_left_out_where_nobody_may_make_them() {
    if !is_possible() {
        return;
    }
    if std::env::var_os(IN_NAMESPACE).is_none() {
        let myself = std::env::current_exe().expect("this program");
        let inside = |arguments: &[&str]| {
            let mut unshare = std::process::Command::new("unshare");
            unshare.args(["--user", "--map-root-user", "--mount"]);
            unshare.args(arguments).env(IN_NAMESPACE, "1").output()
        };
        if !inside(&["true"]).is_ok_and(|output| output.status.success()) {
            println!("skipped: no user namespace can be made here");
            return;
        }
        let test = "layers::tests::files::devices_are_left_out_where_nobody_may_make_them";
        let output = inside(&[
            &myself.display().to_string(),
            "--exact",
            test,
            "--test-threads=1",
        ])
        .expect("it was there before");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    }
    let root = Root::new();
    let layers = root.open();
    let tar = tar_of(|tar| {
        tar.file("before", 0o644, b"1");
        tar.device("null", 1, 3);
        tar.file(".wh.hidden", 0o644, b"");
        tar.file("behind", 0o644, b"2");
    });
    let chain = put(&layers, &[tar]).await.expect("all but the device");
    assert_eq!(
        names(&layers.files_of(&chain[0])),
        ["before", "behind", "hidden"]
    );
}
