//! A machine that starts when somebody logs in: the unit, as systemd looks for it.
#![cfg(target_os = "linux")]

use super::*;

#[test]
fn a_machine_that_starts_at_log_in() {
    let bench = bench();
    let (stdout, stderr) = bench.run(&[
        "machine create dev",
        "machine autostart dev",
        "machine autostart dev",
    ]);
    assert_eq!(stderr, "");
    assert!(stdout.contains("starts when you log in"), "{stdout}");
    let folder = bench.folder.path().join(".config/systemd/user");
    let link = folder.join("default.target.wants/berth-dev.service");
    assert_eq!(
        std::fs::read_link(&link).unwrap(),
        folder.join("berth-dev.service")
    );
    bench.run(&["machine autostart --off dev"]);
    assert!(!link.exists() && !folder.join("berth-dev.service").exists());
}

/// What starts a machine goes with it.
#[test]
fn a_unit_follows_its_machine() {
    let bench = bench();
    let folder = bench.folder.path().join(".config/systemd/user");
    let unit = |name: &str| folder.join(format!("berth-{name}.service"));
    let link = |name: &str| {
        folder
            .join("default.target.wants")
            .join(format!("berth-{name}.service"))
    };
    let (_, stderr) = bench.run(&[
        "machine create dev",
        "machine stop dev",
        "machine autostart dev",
        "machine rename dev web",
    ]);
    assert_eq!(stderr, "");
    assert!(!unit("dev").exists() && link("dev").symlink_metadata().is_err());
    assert_eq!(std::fs::read_link(link("web")).unwrap(), unit("web"));
    let text = std::fs::read_to_string(unit("web")).unwrap();
    assert!(
        text.contains(" start web\n") && !text.contains("dev"),
        "{text}"
    );

    // Another store's machine of that name has nothing to do with it.
    let other = bench.folder.path().join("other").display().to_string();
    let create = format!("machine -s {other} create -d none --url tcp://127.0.0.1:1 web");
    for line in [create, format!("machine -s {other} rm -y web")] {
        let mut command = Command::new(machine_program());
        bench.environment(&mut command);
        let status = command.args(line.split(' ').skip(1)).output().unwrap();
        assert!(status.status.success(), "{line}: {status:?}");
    }
    assert!(unit("web").exists());

    let (stdout, stderr) = bench.run(&["machine rm -y web"]);
    assert!(stderr.is_empty(), "{stdout}{stderr}");
    assert!(!unit("web").exists() && link("web").symlink_metadata().is_err());
}
