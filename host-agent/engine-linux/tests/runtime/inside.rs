//! What a container sees from inside: the security defaults are in force, its files and devices are there.

use super::host::*;
use engine::runtime::*;
use std::path::PathBuf;

async fn shell(host: &Host, script: &str) -> String {
    shell_with(host, script, |_| {}).await
}

async fn shell_with(host: &Host, script: &str, change: impl FnOnce(&mut LaunchPlan)) -> String {
    let mut plan = host.container().shell(script);
    change(&mut plan);
    let (_, out, err) = run(&host.runtime(), plan).await;
    out + &err
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_and_filter_are_dockers_defaults() {
    let Some(host) = Host::new() else { return };
    // Not through a shell: it ignores signals of its own.
    let look = |plan: &mut LaunchPlan| {
        let pattern = "Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp:|Sig(Blk|Ign)";
        plan.process.args = ["grep", "-E", pattern, "/proc/self/status"]
            .map(str::to_owned)
            .to_vec();
    };
    let text = shell_with(&host, "", look).await;
    for wanted in [
        "CapInh:\t0000000000000000",
        "CapPrm:\t00000000a80425fb",
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t0",
        "Seccomp:\t2",
        "SigBlk:\t0000000000000000",
        "SigIgn:\t0000000000000000",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
    let text = shell_with(&host, "", |plan| {
        look(plan);
        plan.process.user = "web".to_owned();
        plan.process.no_new_privileges = true;
    })
    .await;
    for wanted in [
        "CapPrm:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t00000000a80425fb",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forbidden_calls_fail_even_with_the_capability_for_them() {
    let Some(host) = Host::new() else { return };
    let script = "mount -t tmpfs x /tmp && echo MOUNTED; unshare -m true && echo UNSHARED; chroot / true && echo chrooted";
    let text = shell(&host, script).await;
    assert!(
        !text.contains("MOUNTED") && !text.contains("UNSHARED"),
        "{text}"
    );
    assert!(text.contains("chrooted"), "{text}");
    // Refused by the filter, not by missing rights: a user's profile that allows all but mkdir.
    let text = shell_with(&host, "mkdir /tmp/x; ls / > /dev/null && echo listed", |plan| {
        plan.process.seccomp = Seccomp::Profile(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}"#.to_owned(),
        );
    })
    .await;
    assert!(
        text.contains("not supported") && text.contains("listed"),
        "{text}"
    );
    let text = shell_with(&host, "unshare -m true && echo UNSHARED", |plan| {
        plan.process.seccomp = Seccomp::Unconfined;
        plan.process.capabilities.push("CAP_SYS_ADMIN".to_owned());
    })
    .await;
    assert!(text.contains("UNSHARED"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn masked_and_read_only_paths() {
    let Some(host) = Host::new() else { return };
    let text = shell(&host, "cat /proc/keys | wc -c; ls /sys/firmware | wc -l; \
        echo 1 > /proc/sys/kernel/domainname; touch /sys/x; touch /sys/fs/cgroup/x; touch /sys/fs/cgroup/*/x; head -c 1 /proc/timer_list | wc -c").await;
    assert!(text.starts_with("0\n0\n"), "{text}");
    assert!(text.matches("Read-only file system").count() >= 3, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_the_default_ones_and_others_cannot_be_used() {
    let Some(host) = Host::new() else { return };
    let text = shell(&host, "ls /dev; stat -c %a /dev/null; stat -f -c %T /dev/shm /dev/mqueue 2>/dev/null; \
        mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg; mknod /tmp/sda b 8 0 && cat /tmp/sda; echo x > /dev/null && echo null; \
        head -c 4 /dev/urandom | wc -c; readlink /dev/ptmx /dev/fd").await;
    for name in [
        "null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd",
        "stdin", "stdout", "stderr",
    ] {
        assert!(
            text.lines().any(|line| line == name),
            "{name} is not in {text}"
        );
    }
    for name in ["kmsg", "mem", "sda", "kvm", "loop0"] {
        assert!(
            !text.lines().any(|line| line == name),
            "{name} is in {text}"
        );
    }
    assert_eq!(text.matches("Operation not permitted").count(), 2, "{text}");
    assert!(
        text.contains("\n666\n") && text.contains("null\n4\n"),
        "{text}"
    );
    let text = shell_with(
        &host,
        "ls -l /dev/mine; head -c 1 /dev/mine; echo $?",
        |plan| {
            plan.devices.push(DevicePlan {
                path_on_host: PathBuf::from("/dev/zero"),
                path_in_container: PathBuf::from("/dev/mine"),
                permissions: "rwm".to_owned(),
            });
        },
    )
    .await;
    assert!(text.contains("1,   5") && text.ends_with("0\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_home_path_and_folders() {
    let Some(host) = Host::new() else { return };
    let text = shell(
        &host,
        "hostname; echo $HOME; pwd; echo $$; echo /proc/[0-9]*; umask",
    )
    .await;
    assert_eq!(text, "box\n/root\n/\n1\n/proc/1\n0022\n");
    let text = shell_with(
        &host,
        "id; pwd; echo ok > /dev/stdout; stat -c %u /here/there",
        |plan| {
            plan.process.user = "web".to_owned();
            plan.process.additional_groups = vec!["audio".to_owned(), "777".to_owned()];
            plan.process.working_directory = "/here/there".to_owned();
            plan.domain_name = "example".to_owned();
        },
    )
    .await;
    assert_eq!(
        text,
        "uid=1000(web) gid=1000(web) groups=29(audio),777,1000(web)\n/here/there\nok\n0\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_of_folders_files_and_memory() {
    let Some(host) = Host::new() else { return };
    let shared = host.folder.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "content\n").unwrap();
    let bind = |target: &str, path: PathBuf, read_only| MountPlan {
        target: target.to_owned(),
        source: MountSource::Bind {
            path,
            subpath: String::new(),
            recursive: true,
            propagation: "rprivate".to_owned(),
        },
        read_only,
        submounts_writable: false,
    };
    let place = host.container();
    // A link in the image must not lead a mount out of it.
    let outside = host.folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, place.rootfs.join("link")).unwrap();
    std::fs::create_dir_all(place.rootfs.join(outside.strip_prefix("/").unwrap())).unwrap();
    let mut plan = place.shell("cat /data/deep/file /etc/resolv.conf /link/x/file; echo new > /data/deep/new; echo no > /ro/file; \
        df -k /small | tail -1 | cut -c1-5; touch /top; cat /proc/mounts | grep ' /ro '");
    plan.mounts = vec![
        bind("/data/deep", shared.clone(), false),
        bind("/ro", shared.clone(), true),
        bind("/etc/resolv.conf", shared.join("file"), false),
        bind("/link/x", shared.clone(), false),
        MountPlan {
            target: "/small".to_owned(),
            source: MountSource::Tmpfs {
                options: vec!["size=1m".to_owned()],
            },
            read_only: false,
            submounts_writable: false,
        },
    ];
    plan.read_only_root = true;
    let (_, out, err) = run(&host.runtime(), plan).await;
    assert!(
        out.starts_with("content\ncontent\ncontent\n"),
        "{out} {err}"
    );
    assert!(out.contains("tmpfs"), "{out}");
    assert_eq!(
        std::fs::read_to_string(shared.join("new")).unwrap(),
        "new\n"
    );
    assert_eq!(
        std::fs::read_to_string(shared.join("file")).unwrap(),
        "content\n"
    );
    assert_eq!(err.matches("Read-only file system").count(), 2, "{err}");
    assert_eq!(
        std::fs::read_dir(&outside).unwrap().count(),
        0,
        "the mount left the root"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_settings() {
    let Some(host) = Host::new() else { return };
    let text = shell_with(&host, "ulimit -n; ulimit -Hn; cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/msgmax; cat /proc/self/oom_score_adj; df -k /dev/shm | tail -1 | awk '{print $2}'", |plan| {
        plan.process.rlimits = vec![Rlimit { name: "nofile".to_owned(), soft: 123, hard: 456 },
            Rlimit { name: "memlock".to_owned(), soft: u64::MAX, hard: u64::MAX }];
        plan.sysctls.insert("kernel.msgmax".to_owned(), "4242".to_owned());
        plan.process.oom_score_adj = Some(321);
        plan.shm_size = Some(2 << 20);
    })
    .await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        (lines[0], lines[1], lines[3], lines[4], lines[5]),
        ("123", "456", "4242", "321", "2048"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_privileged_one_has_everything() {
    let Some(host) = Host::new() else { return };
    let text = shell_with(&host, "mount -t tmpfs x /tmp && echo MOUNTED; touch /tmp/x && echo TOUCHED; ls /dev | wc -l; cat /proc/self/status | grep Seccomp:", |plan| {
        plan.all_devices = true;
        plan.masked_paths.clear();
        plan.read_only_paths.clear();
        plan.process.seccomp = Seccomp::Unconfined;
        plan.process.capabilities = ["CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_DAC_OVERRIDE"].map(str::to_owned).to_vec();
    })
    .await;
    assert!(
        text.contains("MOUNTED\nTOUCHED\n") && text.contains("Seccomp:\t0"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_are_shared_where_asked() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let place = host.container();
    let (task, _io) = runtime.start(place.plan(&["sleep", "1000"])).await.unwrap();
    let pid = task.pid();
    let text = shell_with(
        &host,
        "for n in pid ipc uts; do readlink /proc/self/ns/$n; done; ps | grep -c 'sleep 1000'",
        |plan| {
            plan.namespaces.pid = SharedNamespace::OfProcess(pid);
            plan.namespaces.ipc = SharedNamespace::OfProcess(pid);
            plan.namespaces.uts = SharedNamespace::Host;
        },
    )
    .await;
    let link = |pid: String, name: &str| {
        std::fs::read_link(format!("/proc/{pid}/ns/{name}"))
            .unwrap()
            .display()
            .to_string()
    };
    let wanted = format!(
        "{}\n{}\n{}\n",
        link(pid.to_string(), "pid"),
        link(pid.to_string(), "ipc"),
        link("self".to_owned(), "uts")
    );
    assert!(text.starts_with(&wanted), "{text} is not {wanted}");
    task.signal(9).await.unwrap();
    task.wait().await;
    runtime.cleanup(&place.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_of_the_host_reach_a_container_only_where_asked() {
    let Some(host) = Host::new() else { return };
    let source = host.folder.path().join("source");
    std::fs::create_dir_all(source.join("below")).unwrap();
    let mount = |args: &[&str]| {
        let run = std::process::Command::new("mount")
            .args(args)
            .status()
            .unwrap();
        assert!(run.success(), "mount {args:?}");
    };
    let name = source.to_str().unwrap();
    mount(&["--bind", name, name]);
    let _undo = Unmount(source.clone());
    mount(&["--make-shared", name]);
    let runtime = host.runtime();
    for (propagation, seen) in [("rprivate", "no\n"), ("rslave", "yes\n")] {
        let place = host.container();
        let mut plan = place.shell("while [ ! -e /go ]; do sleep 0.05; done; [ -e /data/below/file ] && echo yes || echo no");
        plan.mounts = vec![MountPlan {
            target: "/data".to_owned(),
            source: MountSource::Bind {
                path: source.clone(),
                subpath: String::new(),
                recursive: true,
                propagation: propagation.to_owned(),
            },
            read_only: false,
            submounts_writable: false,
        }];
        let (task, mut io) = runtime.start(plan).await.unwrap();
        let below = source.join("below");
        mount(&["-t", "tmpfs", "tmpfs", below.to_str().unwrap()]);
        let undo = Unmount(below.clone());
        std::fs::write(below.join("file"), "").unwrap();
        std::fs::write(place.rootfs.join("go"), "").unwrap();
        assert_eq!(collect(&mut io).await.0, seen, "{propagation}");
        task.wait().await;
        drop(undo);
        runtime.cleanup(&place.id).await.unwrap();
    }
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

fn mount_of(target: &str, path: PathBuf, subpath: &str, propagation: &str) -> MountPlan {
    MountPlan {
        target: target.to_owned(),
        source: MountSource::Bind {
            path,
            subpath: subpath.to_owned(),
            recursive: true,
            propagation: propagation.to_owned(),
        },
        read_only: false,
        submounts_writable: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_volume_is_mounted_and_links_in_it_lead_nowhere_else() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let volume = host.folder.path().join("volume");
    std::fs::create_dir_all(volume.join("part/inner")).unwrap();
    std::fs::write(volume.join("part/inner/file"), "inner\n").unwrap();
    std::fs::write(volume.join("single"), "single\n").unwrap();
    std::os::unix::fs::symlink("part/inner", volume.join("within")).unwrap();
    std::os::unix::fs::symlink("/etc", volume.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../../..", volume.join("up")).unwrap();
    let place = host.container();
    let mut plan = place.shell("cat /a/file /b/file /c; ls /a; echo new > /a/new");
    plan.mounts = vec![
        mount_of("/a", volume.clone(), "part/inner", "rprivate"),
        mount_of("/b", volume.clone(), "within", "rprivate"),
        mount_of("/c", volume.clone(), "single", "rprivate"),
    ];
    let (code, out, err) = run(&runtime, plan).await;
    assert_eq!(
        (code, out.as_str()),
        (0, "inner\ninner\nsingle\nfile\n"),
        "{err}"
    );
    assert!(volume.join("part/inner/new").exists());
    for (subpath, part) in [
        ("absolute", "path concatenation escapes the base directory"),
        ("up", "path concatenation escapes the base directory"),
        (
            "part/../../..",
            "path concatenation escapes the base directory",
        ),
        ("missing", "cannot access path"),
    ] {
        let mut plan = host.container().shell("ls /a");
        plan.mounts = vec![mount_of("/a", volume.clone(), subpath, "rprivate")];
        let Err(error) = runtime.start(plan).await else {
            panic!("{subpath} was mounted")
        };
        let text = engine::error::full_message(&error);
        assert!(text.contains(part), "{subpath}: {text}");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains("subpath-"),
        "the host sees parts of volumes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_mount_reaches_the_host_and_a_private_one_does_not() {
    let Some(host) = Host::new() else { return };
    let source = host.folder.path().join("source");
    std::fs::create_dir_all(source.join("below")).unwrap();
    let mount = |args: &[&str]| {
        let run = std::process::Command::new("mount").args(args).status();
        assert!(run.unwrap().success(), "mount {args:?}");
    };
    let name = source.to_str().unwrap();
    mount(&["--bind", name, name]);
    let _undo = Unmount(source.clone());
    mount(&["--make-shared", name]);
    let runtime = host.runtime();
    for (propagation, seen) in [("rshared", true), ("rslave", false), ("rprivate", false)] {
        let place = host.container();
        let script = "mount -t tmpfs x /data/below && touch /data/below/file && while [ ! -e /go ]; do sleep 0.05; done";
        let mut plan = place.shell(&format!("echo up; {script}"));
        plan.mounts = vec![mount_of("/data", source.clone(), "", propagation)];
        plan.process.capabilities.push("CAP_SYS_ADMIN".to_owned());
        plan.process.seccomp = Seccomp::Unconfined;
        let (task, mut io) = runtime.start(plan).await.unwrap();
        let inside = PathBuf::from(format!("/proc/{}/root/data/below/file", task.pid()));
        for _ in 0..400 {
            if inside.exists() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        }
        assert!(inside.exists(), "{propagation}: nothing was mounted inside");
        assert_eq!(source.join("below/file").exists(), seen, "{propagation}");
        std::fs::write(place.rootfs.join("go"), "").unwrap();
        collect(&mut io).await;
        assert_eq!(task.wait().await.code, 0);
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(source.join("below"))
            .stderr(std::process::Stdio::null())
            .status();
        runtime.cleanup(&place.id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_reaches_below_unless_told_not_to() {
    let Some(host) = Host::new() else { return };
    let source = host.folder.path().join("source");
    std::fs::create_dir_all(source.join("below")).unwrap();
    let below = source.join("below");
    let run_mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "tmpfs"])
        .arg(&below)
        .status();
    assert!(run_mount.unwrap().success());
    let _undo = Unmount(below);
    for (writable, expected) in [(false, "no\nno\n"), (true, "no\nyes\n")] {
        let text = shell_with(
            &host,
            "touch /data/x 2>/dev/null && echo yes || echo no; touch /data/below/x 2>/dev/null && echo yes || echo no",
            |plan| {
                plan.mounts = vec![MountPlan {
                    read_only: true,
                    submounts_writable: writable,
                    ..mount_of("/data", source.clone(), "", "rprivate")
                }];
            },
        )
        .await;
        assert_eq!(text, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_size_there_is_no_shared_memory() {
    let Some(host) = Host::new() else { return };
    let text = shell_with(&host, "grep -c ' /dev/shm ' /proc/mounts", |plan| {
        plan.shm_size = None
    })
    .await;
    assert_eq!(text, "0\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_cannot_propagate_is_refused() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let source = host.folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let mount = |args: &[&str]| {
        let run = std::process::Command::new("mount").args(args).status();
        assert!(run.unwrap().success(), "mount {args:?}");
    };
    let name = source.to_str().unwrap();
    mount(&["--bind", name, name]);
    let _undo = Unmount(source.clone());
    mount(&["--make-private", name]);
    for (propagation, words) in [
        ("rshared", "a shared mount"),
        ("slave", "a shared or slave mount"),
    ] {
        let mut plan = host.container().shell("true");
        plan.mounts = vec![mount_of("/data", source.clone(), "", propagation)];
        let Err(error) = runtime.start(plan).await else {
            panic!("{propagation} was taken")
        };
        let wanted = format!("path {name} is mounted on {name} but it is not {words}");
        assert!(error.to_string().contains(&wanted), "{error}");
    }
}
