//! How much a folder may hold, where the file system keeps account by project: XFS mounted with `pquota`, ext4 with
//! `prjquota`. A folder gets a project of its own, which everything made in it inherits, and the project gets a limit.
//!
//! Formats and numbers: `linux/fs.h` (`struct fsxattr`), `linux/dqblk_xfs.h`, quotactl(2).

#![allow(unsafe_code)]

use nix::errno::Errno;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// `QCMD(command, PRJQUOTA)`
const fn of_projects(command: u32) -> u32 {
    command << 8 | 2
}

const SET_LIMIT: u32 = of_projects(0x5804);
const GET_QUOTA: u32 = of_projects(0x5803);
const GET_STATE: u32 = of_projects(0x5805);
/// `FS_QUOTA_PDQ_ENFD`: limits of projects are enforced.
const ENFORCED: u16 = 1 << 5;
/// `FS_XFLAG_PROJINHERIT`
const INHERIT: u32 = 0x200;
/// Limits are counted in these, bytes.
const BLOCK: u64 = 512;
/// Numbers below are left to administrators, who write theirs by hand.
const FIRST_PROJECT: u32 = 1 << 20;

/// `struct fsxattr`
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_on_write_extent_size: u32,
    padding: [u8; 8],
}

/// `FS_IOC_FSGETXATTR`
const GET_ATTRIBUTES: u32 = 0x801c_581f;
/// `FS_IOC_FSSETXATTR`
const SET_ATTRIBUTES: u32 = 0x401c_5820;

/// `struct fs_disk_quota`
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    version: i8,
    flags: i8,
    fields: u16,
    id: u32,
    hard_blocks: u64,
    soft_blocks: u64,
    hard_inodes: u64,
    soft_inodes: u64,
    blocks: u64,
    inodes: u64,
    /// Times, warnings, and the limits of real-time devices.
    rest: [u64; 7],
}

/// `struct fs_quota_stat`, of which only the flags are read.
#[repr(C)]
#[derive(Default)]
struct QuotaState {
    version: i8,
    flags: u16,
    rest: [u64; 12],
}

/// Whether folders of this file system can be limited.
pub(crate) fn is_supported(folder: &Path) -> bool {
    let state = || -> io::Result<QuotaState> {
        let mut state = QuotaState {
            // `FS_QSTAT_VERSION`
            version: 1,
            ..QuotaState::default()
        };
        quotactl(&File::open(folder)?, GET_STATE, 0, &mut state)?;
        Ok(state)
    };
    state().is_ok_and(|state| state.flags & ENFORCED != 0)
}

/// Lets these folders hold `bytes` together, with all that is made in them from now on. They are of one file system, and
/// empty.
pub(crate) fn limit(folders: &[&Path], bytes: u64) -> io::Result<()> {
    let Some(first) = folders.first() else {
        return Ok(());
    };
    let first = File::open(first)?;
    let project = free_project(&first)?;
    set_limit(&first, project, bytes)?;
    for folder in folders {
        let folder = File::open(folder)?;
        let mut attributes = attributes_of(&folder)?;
        attributes.project = project;
        attributes.flags |= INHERIT;
        exchange(&folder, SET_ATTRIBUTES, &mut attributes)?;
    }
    Ok(())
}

/// Forgets the limit of a folder that is about to be removed, if it has one of ours.
pub(crate) fn forget(folder: &Path) -> io::Result<()> {
    let folder = File::open(folder)?;
    let project = attributes_of(&folder)?.project;
    if project < FIRST_PROJECT {
        return Ok(());
    }
    set_limit(&folder, project, 0)
}

/// A project that nobody has anything in, and no limit.
fn free_project(file: &File) -> io::Result<u32> {
    for _ in 0..100 {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let project = u32::from_ne_bytes(bytes).max(FIRST_PROJECT);
        let mut quota = DiskQuota::default();
        match quotactl(file, GET_QUOTA, project, &mut quota) {
            // XFS knows nothing of a project that was never used.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(project),
            other => other?,
        }
        if quota.blocks == 0 && quota.inodes == 0 && quota.hard_blocks == 0 {
            return Ok(project);
        }
    }
    Err(io::Error::other("no project is free"))
}

/// Zero bytes: no limit.
fn set_limit(file: &File, project: u32, bytes: u64) -> io::Result<()> {
    let blocks = bytes.div_ceil(BLOCK);
    let mut quota = DiskQuota {
        // `FS_DQUOT_VERSION`
        version: 1,
        // `FS_PROJ_QUOTA`
        flags: 2,
        // `FS_DQ_BSOFT | FS_DQ_BHARD`
        fields: 1 << 2 | 1 << 3,
        id: project,
        hard_blocks: blocks,
        soft_blocks: blocks,
        ..DiskQuota::default()
    };
    quotactl(file, SET_LIMIT, project, &mut quota)
}

fn attributes_of(file: &File) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    exchange(file, GET_ATTRIBUTES, &mut attributes)?;
    Ok(attributes)
}

fn exchange(file: &File, request: u32, attributes: &mut Attributes) -> io::Result<()> {
    // SAFETY: both requests take a pointer to `struct fsxattr`, which this is; it outlives the call. The type of a request
    // is another one in musl than in glibc.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request as _, &raw mut *attributes) };
    Errno::result(result)?;
    Ok(())
}

/// quotactl_fd(2): of the file system that `file` is on. `T` is the structure that the command reads or fills.
fn quotactl<T>(file: &File, command: u32, id: u32, data: &mut T) -> io::Result<()> {
    // SAFETY: every command used here takes a pointer to the structure its callers pass, which is at least as large as the
    // kernel's and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_raw_fd(),
            command,
            id,
            std::ptr::from_mut(data),
        )
    };
    Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use std::process::Command;

    #[test]
    fn structures_are_the_kernels() {
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(size_of::<DiskQuota>(), 112);
        assert_eq!(std::mem::offset_of!(DiskQuota, blocks), 40);
        assert_eq!(std::mem::offset_of!(QuotaState, flags), 2);
    }

    #[test]
    fn a_file_system_without_account_limits_nothing() {
        let folder = Path::new("/proc");
        assert!(!is_supported(folder));
        limit(&[folder], 1 << 20).expect_err("/proc keeps no account");
    }

    /// A file system in a file, mounted in a mount namespace of the thread's own.
    #[test]
    fn folders_hold_no_more_than_their_limit() {
        let all = [
            (
                "ext4",
                &["-q", "-O", "quota,project", "-E", "quotatype=prjquota"][..],
                "prjquota",
            ),
            ("xfs", &["-q"], "pquota"),
        ];
        let test = std::thread::spawn(move || {
            let own = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS);
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            if own.is_err()
                || mount(None::<&str>, "/", None::<&str>, private, None::<&str>).is_err()
            {
                println!("skipped: mount namespaces need root");
                return;
            }
            for (kind, options, mount_option) in all {
                let root = tempfile::tempdir().unwrap();
                let (image, place) = (root.path().join("image"), root.path().join("place"));
                std::fs::create_dir(&place).unwrap();
                File::create(&image).unwrap().set_len(512 << 20).unwrap();
                let made = Command::new(format!("mkfs.{kind}"))
                    .args(options)
                    .arg(&image)
                    .output();
                if !made.is_ok_and(|made| made.status.success()) {
                    println!("skipped: there is no mkfs.{kind} that makes quotas here");
                    continue;
                }
                let mounted = Command::new("mount")
                    .args(["-o", &format!("loop,{mount_option}")])
                    .args([&image, &place])
                    .output();
                if !mounted.is_ok_and(|mounted| mounted.status.success()) || !is_supported(&place) {
                    println!("skipped: this kernel has no project quotas on {kind}");
                    let _ = umount2(&place, MntFlags::MNT_DETACH);
                    continue;
                }
                on_mounted(&place);
                umount2(&place, MntFlags::MNT_DETACH).unwrap();
            }
        });
        test.join().unwrap();
    }

    fn on_mounted(place: &Path) {
        let folders = ["one", "two"].map(|name| place.join(name));
        for folder in &folders {
            std::fs::create_dir(folder).unwrap();
        }
        let [one, two] = &folders;
        limit(&[one.as_path(), two.as_path()], 4 << 20).unwrap();
        let write = |path: &Path, megabytes: usize| std::fs::write(path, vec![1; megabytes << 20]);
        std::fs::create_dir(one.join("inner")).unwrap();
        write(&one.join("inner/fits"), 3).unwrap();
        let full = write(&two.join("too much"), 3).unwrap_err();
        assert!(
            matches!(full.raw_os_error(), Some(libc::EDQUOT | libc::ENOSPC)),
            "{full}"
        );
        write(&place.join("elsewhere"), 8).unwrap();
        forget(one).unwrap();
        write(&two.join("too much"), 8).unwrap();
    }
}
