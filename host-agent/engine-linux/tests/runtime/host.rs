//! A runtime with a root file system of busybox, for the tests that need root.

use engine::id::{ContainerId, ExecId};
use engine::runtime::*;
use engine_linux::cgroup::{Cgroup, Hierarchies};
use engine_linux::runtime::{LinuxRuntime, Program, RuntimeConfig};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Host {
    pub folder: tempfile::TempDir,
    pub runtimes: BTreeMap<String, Program>,
}

/// Says on one line why a test cannot run here.
pub fn skip(why: &str) {
    println!("skipped: {why}");
}

/// The program shims are started from; BERTH_TEST_AGENT names another, such as a static build.
pub fn agent() -> PathBuf {
    let other = std::env::var_os("BERTH_TEST_AGENT").map(PathBuf::from);
    let ours = option_env!("CARGO_BIN_EXE_shim-for-tests").map(PathBuf::from);
    other.or(ours).expect("an agent")
}

impl Host {
    /// `None` where containers cannot be run here.
    pub fn new() -> Option<Host> {
        if !rustix::process::geteuid().is_root() {
            skip("needs root");
            return None;
        }
        if !Path::new("/bin/busybox").exists() {
            skip("needs /bin/busybox (Debian's busybox-static)");
            return None;
        }
        if !Path::new("/sys/fs/cgroup").is_dir() {
            skip("needs control groups");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let host = Host {
            folder,
            runtimes: BTreeMap::new(),
        };
        Some(host)
    }

    pub fn runtime(&self) -> LinuxRuntime {
        LinuxRuntime::new(RuntimeConfig {
            exec_root: self.folder.path().join("run"),
            agent_program: agent(),
            runtimes: self.runtimes.clone(),
            init: None,
            open_files: None,
        })
        .unwrap()
    }

    /// A fresh root file system and container folder.
    pub fn container(&self) -> Place {
        let id = ContainerId::random();
        let rootfs = self.folder.path().join("roots").join(id.short());
        for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "sbin"] {
            std::fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        let busybox = Command::new("/bin/busybox").arg("--list").output().unwrap();
        for name in String::from_utf8(busybox.stdout).unwrap().lines() {
            let _ = std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name));
        }
        std::fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(
            rootfs.join("etc/group"),
            "root:x:0:\nweb:x:1000:\naudio:x:29:web\n",
        )
        .unwrap();
        let folder = self.folder.path().join("containers").join(id.as_str());
        std::fs::create_dir_all(&folder).unwrap();
        Place { id, rootfs, folder }
    }
}

/// A test that failed has not cleaned up.
impl Drop for Host {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.folder.path().join("containers"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let path = format!("/berth-test/{}", entry.file_name().to_string_lossy());
            let _ = Cgroup::new(&Hierarchies::of_this_host(), &path).remove();
        }
    }
}

pub struct Place {
    pub id: ContainerId,
    pub rootfs: PathBuf,
    pub folder: PathBuf,
}

impl Place {
    pub fn log(&self) -> PathBuf {
        self.folder.join("json.log")
    }

    pub fn plan(&self, args: &[&str]) -> LaunchPlan {
        LaunchPlan {
            id: self.id.clone(),
            rootfs: self.rootfs.clone(),
            read_only_root: false,
            process: process(args),
            hostname: "box".to_owned(),
            domain_name: String::new(),
            mounts: Vec::new(),
            namespaces: NamespacePlan {
                network: NetworkNamespace::Host,
                pid: SharedNamespace::Own,
                ipc: SharedNamespace::Own,
                uts: SharedNamespace::Own,
                cgroup: SharedNamespace::Host,
            },
            resources: ResourcePlan::default(),
            devices: Vec::new(),
            device_rules: Vec::new(),
            all_devices: false,
            sysctls: BTreeMap::new(),
            masked_paths: MASKED.iter().map(|path| (*path).to_owned()).collect(),
            read_only_paths: READ_ONLY.iter().map(|path| (*path).to_owned()).collect(),
            cgroup: format!("/berth-test/{}", self.id),
            shm_size: Some(64 << 20),
            init: false,
            runtime_arguments: Vec::new(),
            log: LogPlan::JsonFile {
                path: self.log(),
                max_size: None,
                max_files: 1,
                compress: false,
                attributes: BTreeMap::new(),
                buffer: None,
            },
            runtime: None,
            folder: self.folder.clone(),
            annotations: BTreeMap::new(),
        }
    }

    pub fn shell(&self, script: &str) -> LaunchPlan {
        self.plan(&["sh", "-c", script])
    }
}

const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Docker's default capabilities.
pub const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

pub fn process(args: &[&str]) -> ProcessPlan {
    ProcessPlan {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec!["PATH=/bin:/sbin".to_owned()],
        working_directory: "/".to_owned(),
        user: String::new(),
        additional_groups: Vec::new(),
        tty: false,
        tty_size: None,
        open_stdin: false,
        capabilities: CAPABILITIES.iter().map(|name| (*name).to_owned()).collect(),
        no_new_privileges: false,
        rlimits: Vec::new(),
        oom_score_adj: None,
        seccomp: Seccomp::Default,
        apparmor: AppArmor::Default,
    }
}

pub fn exec_plan(args: &[&str]) -> ExecPlan {
    ExecPlan {
        id: ExecId::random(),
        process: process(args),
        privileged: false,
    }
}

/// Everything a process writes, by stream, until its output ends.
pub async fn collect(io: &mut ProcessIo) -> (String, String) {
    let mut texts = (Vec::new(), Vec::new());
    while let Some((stream, data)) = io.output.recv().await {
        match stream {
            StreamKind::Stdout => texts.0.extend_from_slice(&data),
            StreamKind::Stderr => texts.1.extend_from_slice(&data),
        }
    }
    (
        String::from_utf8_lossy(&texts.0).into_owned(),
        String::from_utf8_lossy(&texts.1).into_owned(),
    )
}

/// Runs to the end: code, stdout, stderr. Cleans up.
pub async fn run(runtime: &dyn Runtime, plan: LaunchPlan) -> (i32, String, String) {
    let id = plan.id.clone();
    let (task, mut io) = runtime
        .start(plan)
        .await
        .unwrap_or_else(|error| panic!("{}", engine::error::full_message(&error)));
    let (out, err) = collect(&mut io).await;
    let status = task.wait().await;
    runtime.cleanup(&id).await.unwrap();
    (status.code, out, err)
}
