//! The OCI configuration (config.json) of a plan.
//!
//! For the built-in runtime some things are left out that its [`super::executor`] does itself, because libcontainer
//! does them at the wrong moment or not at all: capabilities and seccomp (the filter has to be installed while the
//! process still has CAP_SYS_ADMIN), the working directory (it may have to be made), the out-of-memory score
//! (libcontainer would set the shim's own).

use super::devices::{Kind, Node, Rule};
use super::protocol::Refusal;
use super::seccomp::profile::{Action, Comparison, Profile};
use super::users::Identity;
use crate::cgroup::Version;
use engine::runtime::{
    LaunchPlan, MountPlan, MountSource, NetworkNamespace, ProcessPlan, ResourcePlan, Rlimit,
    SharedNamespace, TtySize,
};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Who will run the configuration.
#[derive(Clone, Copy)]
pub enum Runner<'a> {
    BuiltIn,
    /// Another OCI runtime, which gets everything, with this seccomp profile.
    Program(Option<&'a Profile>),
}

/// What the plan's process is on this host and in this image.
pub struct Resolved {
    pub identity: Identity,
    pub environment: Vec<String>,
    pub rlimits: Vec<Rlimit>,
}

/// The whole configuration.
pub fn config(
    plan: &LaunchPlan,
    resolved: &Resolved,
    nodes: &[Node],
    rules: &[Rule],
    version: Version,
    runner: Runner,
) -> Value {
    let mut linux = json!({
        "namespaces": namespaces(plan),
        "cgroupsPath": plan.cgroup,
        "maskedPaths": plan.masked_paths,
        "readonlyPaths": plan.read_only_paths,
        "sysctl": plan.sysctls,
    });
    if !nodes.is_empty() {
        linux["devices"] = nodes
            .iter()
            .map(|node| {
                json!({
                    "path": node.path, "type": if node.kind == Kind::Block { "b" } else { "c" },
                    "major": node.major, "minor": node.minor,
                    "fileMode": node.mode, "uid": node.uid, "gid": node.gid,
                })
            })
            .collect();
    }
    if let Some(propagation) = root_propagation(&plan.mounts) {
        linux["rootfsPropagation"] = json!(propagation);
    }
    if let Runner::Program(_) = runner {
        linux["resources"] = resources(&plan.resources, rules, version);
    }
    if let Runner::Program(Some(profile)) = runner {
        linux["seccomp"] = seccomp(profile, &plan.process.capabilities);
    }
    // The built-in runtime mounts v1's many hierarchies itself ([`super::cgroup_mounts`]).
    let mounts_cgroups = version == Version::V2 || matches!(runner, Runner::Program(_));
    let own_uts = plan.namespaces.uts == SharedNamespace::Own;
    let mut config = json!({
        "ociVersion": "1.1.0",
        "root": { "path": plan.rootfs, "readonly": plan.read_only_root },
        "mounts": mounts(plan, mounts_cgroups),
        "process": process(&plan.process, resolved, runner),
        "linux": linux,
        "annotations": plan.annotations,
    });
    if own_uts {
        config["hostname"] = json!(plan.hostname);
        if !plan.domain_name.is_empty() {
            config["domainname"] = json!(plan.domain_name);
        }
    }
    config
}

/// The `process` object, also of an exec.
pub fn process(plan: &ProcessPlan, resolved: &Resolved, runner: Runner) -> Value {
    let mut process = json!({
        "terminal": plan.tty,
        "args": plan.args,
        "env": resolved.environment,
        "cwd": "/",
        "user": {
            "uid": resolved.identity.uid,
            "gid": resolved.identity.gid,
            "additionalGids": resolved.identity.groups,
        },
        "rlimits": resolved.rlimits.iter().map(|limit| json!({
            "type": format!("RLIMIT_{}", limit.name.to_uppercase()),
            "soft": limit.soft, "hard": limit.hard,
        })).collect::<Vec<_>>(),
    });
    if plan.no_new_privileges {
        process["noNewPrivileges"] = json!(true);
    }
    if let Some(profile) = crate::apparmor::profile(&plan.apparmor) {
        process["apparmorProfile"] = json!(profile);
    }
    if let Runner::Program(_) = runner {
        process["cwd"] = json!(plan.working_directory);
        process["oomScoreAdj"] = json!(plan.oom_score_adj);
        let all = &plan.capabilities;
        process["capabilities"] = if resolved.identity.uid == 0 {
            json!({ "bounding": all, "effective": all, "permitted": all })
        } else {
            json!({ "bounding": all })
        };
        if let Some(TtySize { rows, columns }) = plan.tty_size {
            process["consoleSize"] = json!({ "height": rows, "width": columns });
        }
    }
    process
}

/// Docker's order and rules: HOME from the container's passwd and TERM for a terminal, where the plan has none.
pub fn environment(plan: &ProcessPlan, identity: &Identity) -> Vec<String> {
    let has = |name: &str| {
        plan.env
            .iter()
            .any(|one| one.split_once('=').is_some_and(|(key, _)| key == name))
    };
    let mut environment = plan.env.clone();
    if plan.tty && !has("TERM") {
        environment.push("TERM=xterm".to_owned());
    }
    if !has("HOME") {
        environment.push(format!("HOME={}", identity.home));
    }
    environment
}

fn namespaces(plan: &LaunchPlan) -> Value {
    let mut all = vec![json!({ "type": "mount" })];
    let mut add = |kind: &str, file: &str, namespace: &SharedNamespace| match namespace {
        SharedNamespace::Own => all.push(json!({ "type": kind })),
        SharedNamespace::Host => {}
        SharedNamespace::OfProcess(pid) => {
            all.push(json!({ "type": kind, "path": format!("/proc/{pid}/ns/{file}") }));
        }
    };
    add("pid", "pid", &plan.namespaces.pid);
    add("ipc", "ipc", &plan.namespaces.ipc);
    add("uts", "uts", &plan.namespaces.uts);
    add("cgroup", "cgroup", &plan.namespaces.cgroup);
    if let NetworkNamespace::At(path) = &plan.namespaces.network {
        all.push(json!({ "type": "network", "path": path }));
    }
    Value::Array(all)
}

fn mounts(plan: &LaunchPlan, cgroups: bool) -> Value {
    // Docker leaves /sys and the control groups of a privileged container writable.
    let access = if plan.all_devices { "rw" } else { "ro" };
    let mount = |target: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": source, "options": options });
    let mut defaults = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", access],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", access],
        ),
    ];
    // A new mount shows the queues of the namespace it is made in: the host's with `--ipc host`, whether or not the host
    // has it mounted itself.
    defaults.push(mount(
        "/dev/mqueue",
        "mqueue",
        "mqueue",
        &["nosuid", "noexec", "nodev"],
    ));
    match (&plan.namespaces.ipc, plan.shm_size) {
        (SharedNamespace::Host, _) => {
            defaults.push(mount(
                "/dev/shm",
                "bind",
                "/dev/shm",
                &["rbind", "nosuid", "nodev"],
            ));
        }
        // `--ipc none`: no /dev/shm; one that is shared is among the plan's mounts.
        (_, None) => {}
        (_, Some(size)) => {
            let size = format!("size={size}");
            defaults.push(mount(
                "/dev/shm",
                "tmpfs",
                "shm",
                &["nosuid", "noexec", "nodev", "mode=1777", &size],
            ));
        }
    }
    let own: Vec<&str> = plan
        .mounts
        .iter()
        .map(|mount| mount.target.as_str())
        .collect();
    defaults.retain(|mount| !own.iter().any(|target| mount["destination"] == *target));
    if !cgroups {
        defaults.retain(|mount| mount["type"] != "cgroup");
    }
    defaults.extend(
        plan.mounts
            .iter()
            .map(|mount| plan_mount(mount, &plan.rootfs)),
    );
    Value::Array(defaults)
}

fn plan_mount(mount: &MountPlan, rootfs: &Path) -> Value {
    match &mount.source {
        MountSource::Bind {
            path,
            recursive,
            propagation,
            subpath: _,
        } => {
            let mut options = vec![if *recursive { "rbind" } else { "bind" }];
            options.push(if mount.read_only { "ro" } else { "rw" });
            if mount.read_only && *recursive && !mount.submounts_writable {
                // As Docker since 25: what is mounted below is read-only as well.
                options.push("rro");
            }
            if !propagation.is_empty() {
                options.push(propagation);
            } else {
                options.push("rprivate");
            }
            json!({ "destination": mount.target, "type": "bind", "source": path, "options": options })
        }
        MountSource::Image { .. } => unreachable!("`subpath::pin` has put a path in its place"),
        MountSource::Tmpfs { options } => {
            let mut all = vec!["nosuid", "nodev", "noexec"];
            all.extend(options.iter().map(String::as_str));
            if mount.read_only {
                all.push("ro");
            }
            // As runc: what covers a folder is as open as it.
            let mode = mode_below(rootfs, &mount.target).map(|mode| format!("mode={mode:04o}"));
            if !options.iter().any(|option| option.starts_with("mode=")) {
                all.extend(mode.as_deref());
            }
            json!({ "destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": all })
        }
    }
}

/// The mode of the folder that an image has at `target`; the image's links end inside it.
fn mode_below(rootfs: &Path, target: &str) -> Option<u32> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let rootfs = rustix::fs::open(rootfs, flags, Mode::empty()).ok()?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let folder = rustix::fs::openat2(rootfs, target, flags, Mode::empty(), resolve).ok()?;
    Some(rustix::fs::fstat(folder).ok()?.st_mode & 0o7777)
}

/// A volume that shares mounts with the host needs a root that does.
fn root_propagation(mounts: &[MountPlan]) -> Option<&'static str> {
    let mut wanted = None;
    for mount in mounts {
        if let MountSource::Bind { propagation, .. } = &mount.source {
            match propagation.as_str() {
                "shared" | "rshared" => return Some("shared"),
                "slave" | "rslave" => wanted = Some("slave"),
                _ => {}
            }
        }
    }
    wanted
}

/// The `resources` object, for another runtime. `rules` are the device rules; nothing is allowed but what they say.
fn resources(plan: &ResourcePlan, rules: &[Rule], version: Version) -> Value {
    let mut all = Map::new();
    if !rules.is_empty() {
        let mut devices = vec![json!({ "allow": false, "access": "rwm" })];
        devices.extend(rules.iter().map(|rule| {
            let mut one = json!({
                "allow": true,
                "access": rule.access,
                "type": match rule.kind {
                    None => "a",
                    Some(Kind::Character) => "c",
                    Some(Kind::Block) => "b",
                },
            });
            if let Some(major) = rule.major {
                one["major"] = json!(major);
            }
            if let Some(minor) = rule.minor {
                one["minor"] = json!(minor);
            }
            one
        }));
        all.insert("devices".to_owned(), Value::Array(devices));
    }
    let mut section = |name: &str, fields: &[(&str, Value)]| {
        let fields: Map<String, Value> = fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect();
        if !fields.is_empty() {
            all.insert(name.to_owned(), Value::Object(fields));
        }
    };
    section(
        "memory",
        &[
            ("limit", json!(plan.memory)),
            ("swap", json!(plan.memory_swap)),
            ("reservation", json!(plan.memory_reservation)),
            // v2 has no swappiness.
            (
                "swappiness",
                json!(plan.memory_swappiness.filter(|_| version == Version::V1)),
            ),
            (
                "disableOOMKiller",
                json!(plan.oom_kill_disable.filter(|_| version == Version::V1)),
            ),
        ],
    );
    section(
        "cpu",
        &[
            ("shares", json!(plan.cpu_shares)),
            ("period", json!(plan.cpu_period)),
            ("quota", json!(plan.cpu_quota)),
            ("cpus", json!(plan.cpuset_cpus)),
            ("mems", json!(plan.cpuset_mems)),
        ],
    );
    section("pids", &[("limit", json!(plan.pids))]);
    section("blockIO", &block_io(plan));
    Value::Object(all)
}

fn block_io(plan: &ResourcePlan) -> Vec<(&'static str, Value)> {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &str, key: &str, value: Value| -> Option<Value> {
        let number = std::fs::metadata(Path::new(path)).ok()?.rdev();
        let mut one =
            json!({ "major": rustix::fs::major(number), "minor": rustix::fs::minor(number) });
        one[key] = value;
        Some(one)
    };
    let rates = |list: &[(String, u64)]| -> Value {
        if list.is_empty() {
            return Value::Null;
        }
        list.iter()
            .filter_map(|(path, rate)| device(path, "rate", json!(rate)))
            .collect()
    };
    let weights = if plan.blkio_weight_devices.is_empty() {
        Value::Null
    } else {
        plan.blkio_weight_devices
            .iter()
            .filter_map(|(path, weight)| device(path, "weight", json!(weight)))
            .collect()
    };
    vec![
        ("weight", json!(plan.blkio_weight)),
        ("weightDevice", weights),
        ("throttleReadBpsDevice", rates(&plan.blkio_read_bps)),
        ("throttleWriteBpsDevice", rates(&plan.blkio_write_bps)),
        ("throttleReadIOPSDevice", rates(&plan.blkio_read_iops)),
        ("throttleWriteIOPSDevice", rates(&plan.blkio_write_iops)),
    ]
}

/// Says which options name a device that is not there, before anything is started.
pub fn check_block_devices(plan: &ResourcePlan) -> Result<(), Refusal> {
    let weights = plan.blkio_weight_devices.iter().map(|(path, _)| path);
    let rates = [
        &plan.blkio_read_bps,
        &plan.blkio_write_bps,
        &plan.blkio_read_iops,
        &plan.blkio_write_iops,
    ];
    for path in weights.chain(rates.into_iter().flatten().map(|(path, _)| path)) {
        if let Err(error) = std::fs::metadata(path) {
            return Err(Refusal::Invalid {
                what: format!("block device {path}"),
                why: error.to_string(),
            });
        }
    }
    Ok(())
}

/// A profile in the OCI form, conditions decided.
fn seccomp(profile: &Profile, capabilities: &[String]) -> Value {
    let (default, errno) = action(profile.default);
    let architectures = match std::env::consts::ARCH {
        "x86_64" => json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
        _ => json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
    };
    let rules: Vec<Value> = profile
        .rules
        .iter()
        .filter(|rule| rule.holds(capabilities, std::env::consts::ARCH))
        .map(|rule| {
            let (name, errno) = action(rule.action);
            let mut one = json!({
                "names": rule.names,
                "action": name,
                "args": rule.arguments.iter().map(|argument| json!({
                    "index": argument.index, "value": argument.value,
                    "valueTwo": argument.second, "op": comparison(argument.comparison),
                })).collect::<Vec<_>>(),
            });
            if let Some(errno) = errno {
                one["errnoRet"] = json!(errno);
            }
            one
        })
        .collect();
    let mut all =
        json!({ "defaultAction": default, "architectures": architectures, "syscalls": rules });
    if let Some(errno) = errno {
        all["defaultErrnoRet"] = json!(errno);
    }
    all
}

fn action(action: Action) -> (&'static str, Option<u16>) {
    match action {
        Action::Allow => ("SCMP_ACT_ALLOW", None),
        Action::Errno(errno) => ("SCMP_ACT_ERRNO", Some(errno)),
        Action::KillThread => ("SCMP_ACT_KILL_THREAD", None),
        Action::KillProcess => ("SCMP_ACT_KILL_PROCESS", None),
        Action::Trap => ("SCMP_ACT_TRAP", None),
        Action::Trace(data) => ("SCMP_ACT_TRACE", Some(data)),
        Action::Log => ("SCMP_ACT_LOG", None),
    }
}

fn comparison(comparison: Comparison) -> &'static str {
    match comparison {
        Comparison::NotEqual => "SCMP_CMP_NE",
        Comparison::Less => "SCMP_CMP_LT",
        Comparison::LessOrEqual => "SCMP_CMP_LE",
        Comparison::Equal => "SCMP_CMP_EQ",
        Comparison::GreaterOrEqual => "SCMP_CMP_GE",
        Comparison::Greater => "SCMP_CMP_GT",
        Comparison::MaskedEqual => "SCMP_CMP_MASKED_EQ",
    }
}
