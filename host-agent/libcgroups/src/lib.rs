//! Stands in for youki's crate of this name, which libcontainer 0.7 calls whatever its caller wants: it then reads the
//! table of mounts a dozen times for each container and moves the process in the slowest of ways.
//!
//! A container's control group is `engine_linux::cgroup`'s: made, limited and entered before libcontainer is called, so
//! that its processes are born in it. What is left here is what libcontainer needs to know for mounting
//! `/sys/fs/cgroup` in the container: where the host's hierarchies are. It is told once ([`tell`]) instead of looked for.
//!
//! The names and types are those libcontainer uses (libcgroups 0.7.0, Apache-2.0).

use std::path::PathBuf;
use std::sync::OnceLock;

/// The host's control groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounts {
    /// One hierarchy for all (cgroup v2).
    pub unified: bool,
    pub points: Vec<PathBuf>,
}

static MOUNTS: OnceLock<Mounts> = OnceLock::new();

/// Must be called before libcontainer is; the first call counts.
pub fn tell(mounts: Mounts) {
    let _ = MOUNTS.set(mounts);
}

/// Nobody has called [`tell`].
#[derive(Debug, thiserror::Error)]
#[error("the host's control groups are not known")]
pub struct NotTold;

fn mounts() -> Result<&'static Mounts, NotTold> {
    MOUNTS.get().ok_or(NotTold)
}

pub mod common {
    use super::{NotTold, mounts, stats};
    use nix::unistd::Pid;
    use oci_spec::runtime::LinuxResources;
    use std::path::PathBuf;

    pub const DEFAULT_CGROUP_ROOT: &str = "/sys/fs/cgroup";

    pub trait CgroupManager {
        type Error;
        fn add_task(&self, pid: Pid) -> Result<(), Self::Error>;
        fn apply(&self, options: &ControllerOpt) -> Result<(), Self::Error>;
        fn remove(&self) -> Result<(), Self::Error>;
        fn freeze(&self, state: FreezerState) -> Result<(), Self::Error>;
        fn stats(&self) -> Result<stats::Stats, Self::Error>;
        fn get_all_pids(&self) -> Result<Vec<Pid>, Self::Error>;
    }

    /// What libcontainer does with a container's group while it makes one is done already; the rest (killing, pausing,
    /// counting) is not asked of libcontainer and answered with [`AnyManagerError`].
    pub struct AnyCgroupManager(());

    impl AnyCgroupManager {
        #[must_use]
        pub fn with_rootless(self, _: bool) -> AnyCgroupManager {
            self
        }
    }

    impl CgroupManager for AnyCgroupManager {
        type Error = AnyManagerError;

        /// The process was born in the group.
        fn add_task(&self, _: Pid) -> Result<(), AnyManagerError> {
            Ok(())
        }

        /// The limits are set.
        fn apply(&self, _: &ControllerOpt) -> Result<(), AnyManagerError> {
            Ok(())
        }

        /// Whoever made the group removes it, also after a failure.
        fn remove(&self) -> Result<(), AnyManagerError> {
            Ok(())
        }

        fn freeze(&self, _: FreezerState) -> Result<(), AnyManagerError> {
            Err(AnyManagerError)
        }

        fn stats(&self) -> Result<stats::Stats, AnyManagerError> {
            Err(AnyManagerError)
        }

        fn get_all_pids(&self) -> Result<Vec<Pid>, AnyManagerError> {
            Err(AnyManagerError)
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("a container's control group is the engine's, not libcontainer's")]
    pub struct AnyManagerError;

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    pub struct CreateCgroupSetupError(#[from] NotTold);

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    pub struct GetCgroupSetupError(#[from] NotTold);

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum FreezerState {
        Undefined,
        Frozen,
        Thawed,
    }

    #[derive(Debug, Clone)]
    pub struct ControllerOpt<'a> {
        pub resources: &'a LinuxResources,
        pub disable_oom_killer: bool,
        pub oom_score_adj: Option<i32>,
        pub freezer_state: Option<FreezerState>,
    }

    #[derive(Debug, Clone)]
    pub struct CgroupConfig {
        pub cgroup_path: PathBuf,
        pub systemd_cgroup: bool,
        pub container_name: String,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum CgroupSetup {
        Hybrid,
        Legacy,
        Unified,
    }

    pub fn get_cgroup_setup() -> Result<CgroupSetup, GetCgroupSetupError> {
        Ok(if mounts()?.unified {
            CgroupSetup::Unified
        } else {
            CgroupSetup::Legacy
        })
    }

    pub fn create_cgroup_manager(
        _: CgroupConfig,
    ) -> Result<AnyCgroupManager, CreateCgroupSetupError> {
        mounts()?;
        Ok(AnyCgroupManager(()))
    }
}

pub mod stats {
    /// libcontainer prints it as JSON; see [`super::common::AnyCgroupManager`].
    #[derive(Debug, Default, serde::Serialize)]
    pub struct Stats {}
}

pub mod v1 {
    pub mod util {
        use crate::{NotTold, mounts};
        use std::path::PathBuf;

        /// Every v1 hierarchy's mount point.
        pub fn list_subsystem_mount_points() -> Result<Vec<PathBuf>, NotTold> {
            mounts().map(|mounts| mounts.points.clone())
        }
    }
}

pub mod v2 {
    pub mod util {
        use crate::{NotTold, mounts};
        use std::path::PathBuf;

        /// The v2 hierarchy's mount point.
        pub fn get_unified_mount_point() -> Result<PathBuf, NotTold> {
            mounts().and_then(|mounts| mounts.points.first().cloned().ok_or(NotTold))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libcontainer_hears_what_was_told() {
        assert!(common::get_cgroup_setup().is_err());
        tell(Mounts {
            unified: false,
            points: vec!["/sys/fs/cgroup/cpu".into()],
        });
        assert_eq!(
            common::get_cgroup_setup().unwrap(),
            common::CgroupSetup::Legacy
        );
        assert_eq!(
            v1::util::list_subsystem_mount_points().unwrap(),
            [PathBuf::from("/sys/fs/cgroup/cpu")]
        );
    }
}
