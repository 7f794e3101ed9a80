//! From a container's settings to what the runtime is asked to do. Pure: every default is applied here.

use super::capabilities;
use super::etc_files;
use super::log_drivers;
use super::merge;
use super::mounts::clean;
use super::resources;
use super::security::{self, Security};
use super::spec::{ContainerSpec, IpcMode, MountKind, NamespaceMode};
use crate::id::ContainerId;
use crate::images::LayerFolders;
use crate::runtime::{
    AppArmor, LaunchPlan, MountPlan, MountSource, NamespacePlan, NetworkNamespace, ProcessPlan,
    SharedNamespace,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names of the files in a container's folder.
pub const HOSTNAME_FILE: &str = "hostname";
pub const HOSTS_FILE: &str = "hosts";
pub const RESOLV_CONF_FILE: &str = "resolv.conf";

/// Names under which clients know the built-in runtime, where no program of that name is configured.
pub const NAMES_OF_BUILT_IN: [&str; 2] = ["runc", "io.containerd.runc.v2"];

/// Whether a name is one of those.
pub fn names_built_in(runtime: &str) -> bool {
    NAMES_OF_BUILT_IN.contains(&runtime)
}

/// Where a /dev/shm that several containers share is mounted on the host.
pub fn shared_memory_path(folder: &Path) -> PathBuf {
    folder.join("mounts/shm")
}

/// What only the start knows.
pub struct Surroundings {
    /// The container's name, for the tags of its log.
    pub name: String,
    pub rootfs: PathBuf,
    pub folder: PathBuf,
    pub network: NetworkNamespace,
    /// Process whose PID namespace is joined.
    pub pid_of: Option<u32>,
    /// Process whose IPC namespace is joined.
    pub ipc_of: Option<u32>,
    /// The /dev/shm of this container where it is shared: a folder on the host.
    pub shared_memory: Option<PathBuf>,
    /// Where the files of the images that it mounts are, by the place of the mount.
    pub images: BTreeMap<String, LayerFolders>,
    /// The container's own, or that of the container whose network it joins.
    pub hostname: String,
    /// `NAME=value`, where the container's own settings do not say otherwise: its links.
    pub environment: Vec<String>,
}

/// The whole plan.
pub fn launch(
    id: &ContainerId,
    spec: &ContainerSpec,
    around: Surroundings,
) -> Result<LaunchPlan, String> {
    let host = &spec.host;
    let security = security::parse(&host.security)?;
    let hostname = around.hostname;
    let own_ipc = matches!(
        host.ipc,
        IpcMode::Private | IpcMode::Shareable | IpcMode::None
    );
    let unmasked = host.privileged || security.unmasked;
    let paths = |given: &Option<Vec<String>>, defaults: &[&str]| match given {
        _ if unmasked => Vec::new(),
        Some(paths) => paths.clone(),
        None => defaults.iter().map(|path| (*path).to_owned()).collect(),
    };
    let shared = |mode: &NamespaceMode, pid: Option<u32>| match (mode, pid) {
        (NamespaceMode::Own, _) => SharedNamespace::Own,
        (NamespaceMode::Host, _) => SharedNamespace::Host,
        (NamespaceMode::Container(_), Some(pid)) => SharedNamespace::OfProcess(pid),
        (NamespaceMode::Container(_), None) => SharedNamespace::Own,
    };
    let mut process = first_process(spec, &hostname, around.environment, &security);
    merge::replace_env(&mut process.env, &spec.hidden_env.0);
    Ok(LaunchPlan {
        id: id.clone(),
        rootfs: around.rootfs,
        read_only_root: host.read_only_root,
        process,
        domain_name: spec.config.domain_name.clone(),
        mounts: mounts(spec, &around.folder, around.shared_memory, around.images),
        namespaces: NamespacePlan {
            network: around.network,
            pid: shared(&host.pid, around.pid_of),
            ipc: match (&host.ipc, around.ipc_of) {
                (IpcMode::Host, _) => SharedNamespace::Host,
                (IpcMode::Container(_), Some(pid)) => SharedNamespace::OfProcess(pid),
                _ => SharedNamespace::Own,
            },
            uts: shared(&host.uts, None),
            cgroup: shared(&host.cgroup_namespace, None),
        },
        resources: resources::plan(host),
        devices: host.devices.clone(),
        device_rules: host.device_rules.clone(),
        all_devices: host.privileged,
        sysctls: host.sysctls.clone(),
        masked_paths: paths(&host.masked_paths, security::MASKED_PATHS),
        read_only_paths: paths(&host.read_only_paths, security::READ_ONLY_PATHS),
        cgroup: if host.cgroup_parent.is_empty() {
            format!("/berth/{id}")
        } else {
            // Without `..`: it must not lead out of the hierarchy.
            let parent = clean(&host.cgroup_parent);
            format!("{}/{id}", parent.trim_end_matches('/'))
        },
        shm_size: (own_ipc && host.ipc != IpcMode::None).then_some(host.shm_size),
        init: host.init.unwrap_or(false),
        log: log_drivers::plan(
            &log_drivers::path(&around.folder, id),
            spec,
            id,
            &around.name,
        )?,
        runtime: host.runtime.clone(),
        runtime_arguments: Vec::new(),
        folder: around.folder,
        annotations: host.annotations.clone(),
        hostname,
    })
}

fn first_process(
    spec: &ContainerSpec,
    hostname: &str,
    mut environment: Vec<String>,
    security: &Security,
) -> ProcessPlan {
    let host = &spec.host;
    let config = &spec.config;
    environment.extend(config.env.iter().cloned());
    ProcessPlan {
        args: spec.args().cloned().collect(),
        env: merge::process_env(hostname, config.tty, &environment),
        working_directory: working_directory(&config.working_directory),
        user: config.user.clone(),
        additional_groups: host.group_add.clone(),
        tty: config.tty,
        tty_size: host
            .console_size
            .filter(|size| size.rows > 0 && size.columns > 0),
        open_stdin: config.open_stdin,
        capabilities: capabilities::effective(host.privileged, &host.cap_add, &host.cap_drop),
        no_new_privileges: security.no_new_privileges,
        rlimits: host.ulimits.clone(),
        oom_score_adj: Some(host.oom_score_adj),
        seccomp: if host.privileged && security.seccomp == crate::runtime::Seccomp::Default {
            crate::runtime::Seccomp::Unconfined
        } else {
            security.seccomp.clone()
        },
        apparmor: match &security.apparmor {
            AppArmor::Default if host.privileged => AppArmor::Unconfined,
            chosen => chosen.clone(),
        },
    }
}

fn working_directory(given: &str) -> String {
    if given.is_empty() {
        "/".into()
    } else {
        given.to_owned()
    }
}

/// A process in a running container.
#[derive(Debug, Clone, Default)]
pub struct ExecSettings {
    pub args: Vec<String>,
    /// `NAME=value`, where the container's own settings do not say otherwise: its links.
    pub linked: Vec<String>,
    pub env: Vec<String>,
    pub working_directory: String,
    pub user: String,
    pub tty: bool,
    pub tty_size: Option<crate::runtime::TtySize>,
    pub open_stdin: bool,
    pub privileged: bool,
}

/// The plan of an exec'ed process: what it does not say is as in the container.
pub fn exec_process(
    id: &ContainerId,
    spec: &ContainerSpec,
    exec: &ExecSettings,
) -> Result<ProcessPlan, String> {
    let security = security::parse(&spec.host.security)?;
    let hostname = etc_files::hostname(spec, id.short());
    let mut process = first_process(spec, &hostname, Vec::new(), &security);
    process.args.clone_from(&exec.args);
    let own = [exec.linked.as_slice(), &spec.config.env].concat();
    process.env = merge::process_env(&hostname, exec.tty, &own);
    merge::replace_env(&mut process.env, &exec.env);
    if !exec.working_directory.is_empty() {
        process
            .working_directory
            .clone_from(&exec.working_directory);
    }
    if !exec.user.is_empty() {
        process.user.clone_from(&exec.user);
    }
    process.tty = exec.tty;
    process.tty_size = exec.tty_size;
    process.open_stdin = exec.open_stdin;
    if exec.privileged {
        process.capabilities = capabilities::effective(true, &[], &[]);
        process.seccomp = crate::runtime::Seccomp::Unconfined;
        process.apparmor = AppArmor::Unconfined;
    }
    Ok(process)
}

fn mounts(
    spec: &ContainerSpec,
    folder: &Path,
    shared_memory: Option<PathBuf>,
    mut images: BTreeMap<String, LayerFolders>,
) -> Vec<MountPlan> {
    let mut all: Vec<MountPlan> = spec
        .mounts
        .iter()
        .map(|mount| MountPlan {
            target: mount.destination.clone(),
            read_only: !mount.read_write,
            submounts_writable: mount.submounts_writable,
            source: match mount.kind {
                MountKind::Tmpfs => MountSource::Tmpfs {
                    options: mount.tmpfs_options.clone(),
                },
                MountKind::Image => MountSource::Image {
                    layers: images.remove(&mount.destination).unwrap_or_default(),
                    subpath: mount.subpath.clone(),
                },
                MountKind::Bind | MountKind::Volume => MountSource::Bind {
                    path: mount.source.clone(),
                    subpath: mount.subpath.clone(),
                    recursive: mount.recursive,
                    propagation: if mount.propagation.is_empty() {
                        "rprivate".into()
                    } else {
                        mount.propagation.clone()
                    },
                },
            },
        })
        .collect();
    let mut own = |target: &str, path: PathBuf, read_only: bool| {
        if !all.iter().any(|mount| mount.target == target) {
            let source = MountSource::Bind {
                path,
                subpath: String::new(),
                recursive: true,
                propagation: "rprivate".into(),
            };
            all.push(MountPlan {
                target: target.to_owned(),
                source,
                read_only,
                submounts_writable: false,
            });
        }
    };
    let read_only = spec.host.read_only_root;
    own("/etc/hostname", folder.join(HOSTNAME_FILE), read_only);
    own("/etc/hosts", folder.join(HOSTS_FILE), read_only);
    own("/etc/resolv.conf", folder.join(RESOLV_CONF_FILE), read_only);
    match (&spec.host.ipc, shared_memory) {
        (_, Some(path)) => own("/dev/shm", path, false),
        // Joining a container that shares the host's: so does this one.
        (IpcMode::Host | IpcMode::Container(_), None) => {
            own("/dev/shm", "/dev/shm".into(), false);
        }
        _ => {}
    }
    all.sort_by_key(|mount| mount.target.matches('/').count());
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::spec::HiddenEnv;
    use crate::containers::testing;

    fn plan(spec: &ContainerSpec) -> LaunchPlan {
        let around = Surroundings {
            name: "web".into(),
            rootfs: "/root".into(),
            folder: "/folder".into(),
            network: NetworkNamespace::Host,
            pid_of: None,
            ipc_of: None,
            shared_memory: None,
            images: BTreeMap::new(),
            hostname: "web".into(),
            environment: Vec::new(),
        };
        launch(&ContainerId::random(), spec, around).expect("the settings are good")
    }

    #[test]
    fn a_plain_container_has_docker_s_defaults() {
        let plan = plan(&testing::spec());
        assert_eq!(plan.process.capabilities.len(), 14);
        assert_eq!(plan.process.working_directory, "/");
        assert!(plan.masked_paths.contains(&"/proc/kcore".to_owned()));
        assert!(plan.read_only_paths.contains(&"/proc/sys".to_owned()));
        assert_eq!(plan.cgroup, format!("/berth/{}", plan.id));
        let targets: Vec<_> = plan
            .mounts
            .iter()
            .map(|mount| mount.target.as_str())
            .collect();
        assert_eq!(targets, ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"]);
        assert_eq!(plan.hostname, "web");
        assert!(plan.process.env.contains(&"HOSTNAME=web".to_owned()));
    }

    #[test]
    fn privileged_masks_nothing_and_may_everything() {
        let mut spec = testing::spec();
        spec.host.privileged = true;
        let plan = plan(&spec);
        assert!(
            plan.all_devices && plan.masked_paths.is_empty() && plan.read_only_paths.is_empty()
        );
        assert_eq!(plan.process.seccomp, crate::runtime::Seccomp::Unconfined);
    }

    #[test]
    fn hidden_variables_are_the_first_process_s_alone() {
        let mut spec = testing::spec();
        spec.config.env = vec!["A=1".into(), "B=2".into()];
        spec.hidden_env = HiddenEnv(vec!["A=hidden".into()]);
        let env = plan(&spec).process.env;
        assert!(env.contains(&"A=hidden".to_owned()), "{env:?}");
        assert!(!env.contains(&"A=1".to_owned()), "{env:?}");
        let written = serde_json::to_string(&spec).expect("plain data");
        let printed = format!("{spec:?}");
        assert!(!written.contains("A=hidden"), "{written}");
        assert!(!printed.contains("A=hidden"), "{printed}");
    }

    #[test]
    fn an_exec_inherits_what_it_does_not_say() {
        let mut spec = testing::spec();
        spec.config.env = vec!["A=1".into(), "B=2".into()];
        spec.config.user = "me".into();
        let exec = ExecSettings {
            args: vec!["env".into()],
            linked: vec!["DB_NAME=/web/db".into(), "B=linked".into()],
            env: vec!["A=9".into()],
            tty: true,
            ..ExecSettings::default()
        };
        let process = exec_process(&ContainerId::random(), &spec, &exec).expect("good");
        assert!(process.env.contains(&"A=9".to_owned()) && process.env.contains(&"B=2".to_owned()));
        assert!(process.env.contains(&"TERM=xterm".to_owned()));
        assert!(process.env.contains(&"DB_NAME=/web/db".to_owned()));
        assert_eq!(process.user, "me");
    }
}
