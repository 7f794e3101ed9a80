//! Makes a container with libcontainer, or a further process in one (see [`super::join`]). Runs in a process forked from the shim for this one
//! purpose: libcontainer changes its process's directory and memory at will, and the shim stays small.
//!
//! ```text
//! shim --fork--> this --libcontainer--> intermediate --clone(CLONE_PARENT)--> init
//! ```
//! The intermediate process is made as this one's sibling, so that both it and the container's first process are the
//! shim's children: the shim reaps them, and `PR_SET_PDEATHSIG` ties the container to the shim.

use super::cgroup_mounts::CgroupMounts;
use super::executor::{self, ContainerExecutor, MountChange, Steps};
use super::join::{self, Joining};
use super::program::{self, Program};
use super::protocol::Refusal;
use super::report::Traces;
use super::seccomp::{self, profile};
use super::spec::{self, Resolved, Runner};
use super::{Born, devices, propagation, subpath, users};
use crate::cgroup::{Cgroup, Version, limits::LimitError};
use engine::error::full_message;
use engine::runtime::{
    AppArmor, ExecPlan, LaunchPlan, MountSource, ProcessPlan, ResourcePlan, Rlimit, Seccomp,
};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::syscall::syscall::SyscallType;
use serde_json::Value;
use std::fs;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The new process's ends of its standard streams. With a terminal there are none, but a socket to send the terminal to.
#[derive(Default)]
pub struct Stdio {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pub console: Option<PathBuf>,
}

/// Where the parts of one container are.
pub struct Place<'a> {
    /// Run-time folder of the container.
    pub run: &'a Path,
    pub id: &'a str,
    /// Another OCI runtime.
    pub program: Option<&'a Program>,
    /// Where to tell failures; see [`super::report`].
    pub report: RawFd,
}

impl Place<'_> {
    fn bundle(&self) -> PathBuf {
        self.run.join("bundle")
    }

    /// libcontainer's (or the other runtime's) own state.
    pub fn state(&self) -> PathBuf {
        self.run.join("state")
    }
}

/// Creates and starts the first process; returns its id on the host. The control group is there; another runtime makes
/// it itself.
pub fn start(
    plan: &LaunchPlan,
    cgroup: &Cgroup,
    born: Born,
    place: &Place,
    stdio: Stdio,
) -> Result<i32, Refusal> {
    if plan.process.args.is_empty() {
        return Err(Refusal::Invalid {
            what: "command".to_owned(),
            why: "no command specified".to_owned(),
        });
    }
    propagation::check(&plan.mounts)?;
    let pinned = subpath::pin(plan, place.run)?;
    let plan = pinned.as_ref().unwrap_or(plan);
    spec::check_block_devices(&plan.resources)?;
    let (nodes, rules) = devices::of_plan(plan)?;
    let resolved = resolve(&plan.process, &plan.rootfs)?;
    let version = cgroup.version();
    let seccomp = profile_of(&plan.process)?;
    let runner = match place.program {
        Some(_) => Runner::Program(seccomp.as_ref()),
        None => Runner::BuiltIn,
    };
    let config = spec::config(plan, &resolved, &nodes, &rules, version, runner);
    let io = |step: &'static str| move |error: std::io::Error| Refusal::failed(step, error);
    fs::create_dir_all(place.bundle()).map_err(io("make the bundle folder"))?;
    fs::create_dir_all(place.state()).map_err(io("make the state folder"))?;
    write_json(&place.bundle().join("config.json"), &config)?;
    if plan.read_only_root {
        // The working directory cannot be made later.
        make_in_root(&plan.rootfs, &plan.process.working_directory);
    }
    if let Some(program) = place.program {
        return program::start(program, place, &place.bundle(), stdio);
    }
    let _ = tracing::subscriber::set_global_default(Traces(place.report));
    let mut steps = steps(&plan.process, &resolved, seccomp.as_ref(), place.report)?;
    steps.dies_with_shim = true;
    steps.makes_working_directory = true;
    steps.mount_changes = mount_changes(plan, version)?;
    if version == Version::V1 && !replaces_cgroups(plan) {
        let taken = CgroupMounts::take(cgroup).map_err(io("take the control groups"))?;
        steps.cgroup_mounts = Some(taken);
    }
    // Every process of the container is born in its group. How many there may be is said last: this one counts too.
    let all_but_pids = ResourcePlan {
        pids: None,
        ..plan.resources.clone()
    };
    let limited = |error: LimitError| {
        Refusal::failed("limit the container's resources", full_message(&error))
    };
    cgroup.limit(&all_but_pids).map_err(limited)?;
    if born == Born::Outside {
        cgroup
            .enter()
            .map_err(io("enter the container's control group"))?;
    }
    libcgroups::tell(libcgroups::Mounts {
        unified: version == Version::V2,
        points: cgroup.mount_points(),
    });
    let failed =
        |error: LibcontainerError| Refusal::failed("create the container", full_message(&error));
    let mut container = builder(place, stdio, steps)?
        .as_init(place.bundle())
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()
        .map_err(failed)?;
    devices::enforce(cgroup, &rules).map_err(io("enforce the device rules"))?;
    let pids = ResourcePlan {
        pids: plan.resources.pids,
        ..ResourcePlan::default()
    };
    cgroup.limit(&pids).map_err(limited)?;
    container.start().map_err(failed)?;
    container
        .pid()
        .map(|pid| pid.as_raw())
        .ok_or_else(|| Refusal::failed("create the container", "it has no process"))
}

/// Starts one more process in the container whose first process is `init`.
pub fn exec(
    plan: &ExecPlan,
    init: i32,
    cgroup: &Cgroup,
    born: Born,
    place: &Place,
    stdio: Stdio,
) -> Result<i32, Refusal> {
    let mut process = plan.process.clone();
    if process.args.is_empty() {
        return Err(Refusal::Invalid {
            what: "command".to_owned(),
            why: "no command specified".to_owned(),
        });
    }
    if plan.privileged {
        process.capabilities = executor::all_capabilities();
        process.seccomp = Seccomp::Unconfined;
        process.apparmor = AppArmor::Unconfined;
    }
    // Through the first process's root, so that files mounted over the image's are seen.
    let resolved = resolve(&process, Path::new(&format!("/proc/{init}/root")))?;
    let seccomp = profile_of(&process)?;
    if let Some(program) = place.program {
        let file = place.run.join(format!("exec-{}.json", plan.id.short()));
        let runner = Runner::Program(seccomp.as_ref());
        write_json(&file, &spec::process(&process, &resolved, runner))?;
        let started = program::exec(program, place, &file, stdio);
        let _ = fs::remove_file(&file);
        return started;
    }
    let _ = tracing::subscriber::set_global_default(Traces(place.report));
    let steps = steps(&process, &resolved, seccomp.as_ref(), place.report)?;
    let apparmor = crate::apparmor::profile(&process.apparmor);
    let joining = Joining {
        init,
        cgroup: (born == Born::Outside).then_some(cgroup),
        run: place.run,
        resolved: &resolved,
        no_new_privileges: process.no_new_privileges,
        apparmor_profile: apparmor.as_deref(),
    };
    join::start(&joining, stdio, &steps)
}

fn builder(place: &Place, stdio: Stdio, steps: Steps) -> Result<ContainerBuilder, Refusal> {
    let mut builder = ContainerBuilder::new(place.id.to_owned(), SyscallType::default())
        .with_root_path(place.state())
        .map_err(|error| Refusal::failed("use the state folder", full_message(&error)))?
        .with_executor(ContainerExecutor(Rc::new(steps)))
        .with_console_socket(stdio.console);
    if let Some(fd) = stdio.stdin {
        builder = builder.with_stdin(fd);
    }
    if let Some(fd) = stdio.stdout {
        builder = builder.with_stdout(fd);
    }
    if let Some(fd) = stdio.stderr {
        builder = builder.with_stderr(fd);
    }
    Ok(builder)
}

fn steps(
    plan: &ProcessPlan,
    resolved: &Resolved,
    seccomp: Option<&profile::Profile>,
    report: RawFd,
) -> Result<Steps, Refusal> {
    Ok(Steps {
        args: plan.args.clone(),
        environment: resolved.environment.clone(),
        working_directory: plan.working_directory.clone(),
        uid: resolved.identity.uid,
        capabilities: executor::capability_mask(&plan.capabilities)?,
        filter: seccomp.map(|profile| seccomp::compile(profile, &plan.capabilities)),
        oom_score_adj: plan.oom_score_adj,
        tty_size: plan.tty_size,
        tty: plan.tty,
        mount_changes: Vec::new(),
        cgroup_mounts: None,
        dies_with_shim: false,
        makes_working_directory: false,
        report,
    })
}

/// libcontainer 0.7 makes the whole tree of mounts a slave of the host's and leaves it so, whatever a mount's
/// propagation is. The v1 control groups are mounted writable.
fn mount_changes(plan: &LaunchPlan, version: Version) -> Result<Vec<MountChange>, Refusal> {
    let change = |path: &str, recursive, propagation| -> Result<MountChange, Refusal> {
        let path = std::ffi::CString::new(path).map_err(|_| Refusal::Invalid {
            what: format!("mount target {path:?}"),
            why: "it contains a NUL byte".to_owned(),
        })?;
        Ok(MountChange {
            path,
            recursive,
            read_only: false,
            propagation,
        })
    };
    let mut binds = Vec::new();
    for mount in &plan.mounts {
        if let MountSource::Bind {
            recursive,
            propagation,
            ..
        } = &mount.source
        {
            let flag = match propagation.as_str() {
                "" | "private" | "rprivate" => libc::MS_PRIVATE,
                "slave" | "rslave" => libc::MS_SLAVE,
                "shared" | "rshared" => libc::MS_SHARED,
                other => {
                    return Err(Refusal::Invalid {
                        what: format!("propagation {other:?}"),
                        why: "it is none of private, slave and shared".to_owned(),
                    });
                }
            };
            binds.push(change(&mount.target, *recursive, flag)?);
        }
    }
    let mut changes = if binds
        .iter()
        .all(|bind| bind.propagation == libc::MS_PRIVATE)
    {
        // One call for all.
        vec![change("/", true, libc::MS_PRIVATE)?]
    } else {
        binds
    };
    if version == Version::V1 && !plan.all_devices && !replaces_cgroups(plan) {
        changes.push(MountChange {
            read_only: true,
            ..change("/sys/fs/cgroup", true, 0)?
        });
    }
    Ok(changes)
}

/// Something else is mounted where control groups would be.
fn replaces_cgroups(plan: &LaunchPlan) -> bool {
    let places = ["/sys", "/sys/fs", "/sys/fs/cgroup"];
    plan.mounts
        .iter()
        .any(|mount| places.contains(&mount.target.as_str()))
}

fn profile_of(plan: &ProcessPlan) -> Result<Option<profile::Profile>, Refusal> {
    match &plan.seccomp {
        Seccomp::Unconfined => Ok(None),
        Seccomp::Default => Ok(Some(seccomp::default_profile())),
        Seccomp::Profile(json) => profile::parse(json)
            .map(Some)
            .map_err(|why| Refusal::Invalid {
                what: "seccomp profile".to_owned(),
                why,
            }),
    }
}

fn resolve(plan: &ProcessPlan, root: &Path) -> Result<Resolved, Refusal> {
    let identity = users::look_up(root, &plan.user, &plan.additional_groups)?;
    Ok(Resolved {
        environment: spec::environment(plan, &identity),
        identity,
        rlimits: plan.rlimits.iter().map(within_our_power).collect(),
    })
}

/// A hard limit above our own needs CAP_SYS_RESOURCE. Where root lacks it the limit is our own instead of a failure;
/// facts() says so.
fn within_our_power(wanted: &Rlimit) -> Rlimit {
    let mut limit = wanted.clone();
    if let Some(most) = super::hard_limit(&limit.name)
        && !super::may_raise_limits()
    {
        limit.hard = limit.hard.min(most);
        limit.soft = limit.soft.min(limit.hard);
    }
    limit
}

/// Makes folders in a root that will be read-only, without following links out of it. A failure shows later, as the
/// working directory that is not there.
fn make_in_root(root: &Path, path: &str) {
    if let Ok(root) = pathrs::Root::open(root) {
        use std::os::unix::fs::PermissionsExt;
        let _ = root.mkdir_all(path, &fs::Permissions::from_mode(0o755));
    }
}

fn write_json(path: &Path, value: &Value) -> Result<(), Refusal> {
    let bytes = serde_json::to_vec(value).expect("plain data");
    fs::write(path, bytes)
        .map_err(|error| Refusal::failed(format!("write {}", path.display()), error))
}
