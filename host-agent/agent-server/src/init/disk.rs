//! The data disk: formatted once, grown when it became larger, repaired when it says it is broken, never guessed at.

use super::supervise::Children;
use anyhow::{Context, Result, bail};
use guest_contract::{DATA_DISK_LABEL, DATA_ROOT};
use rustix::mount::{MountFlags, mount};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Command;

/// How much of either end must be empty for a disk to count as blank.
const BLANK_BYTES: usize = 1024 * 1024;

/// What a data disk holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Holds {
    Nothing,
    Ext4(Superblock),
    Unknown,
}

/// The fields of ext4's superblock that we decide by (kernel documentation, "ext4 super block").
#[derive(Debug, PartialEq, Eq)]
pub struct Superblock {
    pub blocks: u64,
    pub block_bytes: u64,
    /// The kernel found errors, or a file system without journal was not unmounted.
    pub needs_repair: bool,
    /// It keeps account by project, so containers can be limited (`docker run --storage-opt size=`). Disks of earlier
    /// versions do not.
    pub keeps_account: bool,
}

/// Looks at the first and last part of a disk.
pub fn holds(head: &[u8], tail: &[u8]) -> Holds {
    if let Some(superblock) = superblock(head) {
        return Holds::Ext4(superblock);
    }
    if head.iter().chain(tail).all(|byte| *byte == 0) {
        return Holds::Nothing;
    }
    Holds::Unknown
}

fn superblock(head: &[u8]) -> Option<Superblock> {
    let block = head.get(1024..2048)?;
    let short = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    let long =
        |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    const MAGIC: u16 = 0xef53;
    const STATE_ERRORS: u16 = 2;
    const INCOMPATIBLE_64BIT: u32 = 0x80;
    const READ_ONLY_QUOTA: u32 = 0x100;
    const READ_ONLY_PROJECT: u32 = 0x2000;
    const ACCOUNT: u32 = READ_ONLY_QUOTA | READ_ONLY_PROJECT;
    if short(0x38) != MAGIC {
        return None;
    }
    let mut blocks = u64::from(long(0x4));
    if long(0x60) & INCOMPATIBLE_64BIT != 0 {
        blocks |= u64::from(long(0x150)) << 32;
    }
    Some(Superblock {
        blocks,
        block_bytes: 1024u64
            .checked_shl(long(0x18))
            .filter(|bytes| *bytes <= 65536)?,
        needs_repair: short(0x3a) & STATE_ERRORS != 0,
        keeps_account: long(0x64) & ACCOUNT == ACCOUNT,
    })
}

/// Formats, repairs and mounts `device` at [`DATA_ROOT`], and lets the file system fill it. Returns what was done.
pub fn prepare(device: &Path, children: &Children) -> Result<String> {
    let (contents, bytes) =
        look(device).with_context(|| format!("cannot read {}", device.display()))?;
    let mut done = String::new();
    let known = match contents {
        Holds::Nothing => {
            format(device, children)?;
            done.push_str("formatted, ");
            None
        }
        Holds::Ext4(superblock) => {
            if superblock.needs_repair {
                repair(device, children)?;
                done.push_str("repaired, ");
            }
            Some(superblock)
        }
        Holds::Unknown => bail!(
            "the data disk holds something that is not ext4; it is left alone. If nothing on it is needed, delete the machine's disk file"
        ),
    };
    fs::create_dir_all(DATA_ROOT)?;
    // Discard: what containers delete is given back to the desktop's sparse file.
    let options = match &known {
        Some(superblock) if !superblock.keeps_account => c"discard",
        _ => c"discard,prjquota",
    };
    mount(
        device,
        DATA_ROOT,
        "ext4",
        MountFlags::NOATIME | MountFlags::NODEV,
        Some(options),
    )
    .with_context(|| format!("cannot mount {} as ext4", device.display()))?;
    if let Some(superblock) = known {
        let possible = bytes / superblock.block_bytes;
        // Less than one block group of growth is not worth it, and may only be rounding.
        if possible > superblock.blocks + 32768 {
            let root = File::open(DATA_ROOT)?;
            rustix::fs::ext4_ioc_resize_fs(&root, possible)
                .context("cannot grow the file system to the disk's size")?;
            done.push_str("grown, ");
        }
    }
    done.push_str(&format!("{} MiB", bytes / 1024 / 1024));
    Ok(done)
}

fn look(device: &Path) -> Result<(Holds, u64)> {
    let mut file = File::open(device)?;
    let bytes = file.seek(SeekFrom::End(0))?;
    let part = BLANK_BYTES.min(usize::try_from(bytes / 2)?);
    let mut head = vec![0; part];
    let mut tail = vec![0; part];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut head)?;
    // Only a disk without file system is worth the second read.
    if superblock(&head).is_none() {
        file.seek(SeekFrom::End(-(part as i64)))?;
        file.read_exact(&mut tail)?;
    }
    Ok((holds(&head, &tail), bytes))
}

fn format(device: &Path, children: &Children) -> Result<()> {
    // Tables are zeroed lazily: the disk is a sparse file that reads as zeros. No reserved blocks: only the engine uses it.
    run(
        children,
        Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-L", DATA_DISK_LABEL, "-m", "0"])
            .args(["-O", "quota,project"])
            .args([
                "-E",
                "lazy_itable_init=1,lazy_journal_init=1,nodiscard,quotatype=prjquota",
            ])
            .arg(device),
        0,
    )
    .context("cannot format the data disk")
}

fn repair(device: &Path, children: &Children) -> Result<()> {
    // e2fsck(8): 1 is "errors corrected", 4 and more mean that a person must look.
    run(children, Command::new("e2fsck").arg("-p").arg(device), 1)
        .context("the data disk is damaged")
}

fn run(children: &Children, command: &mut Command, worst: i32) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.env("PATH", super::SEARCH_PATH);
    let (code, output) = children
        .run(command)
        .with_context(|| format!("cannot run {name}"))?;
    if code > worst || code < 0 {
        bail!("{name} ended with {code}: {}", output.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_emptiness_at_both_ends_is_blank() {
        let zero = vec![0u8; 4096];
        let mut table = zero.clone();
        table[4095] = 1;
        assert_eq!(holds(&zero, &zero), Holds::Nothing);
        assert_eq!(holds(&zero, &table), Holds::Unknown);
        assert_eq!(holds(&table, &zero), Holds::Unknown);
        assert_eq!(holds(&[1u8; 100], &zero), Holds::Unknown);
    }

    #[test]
    fn a_superblock_tells_size_and_state() {
        let mut head = vec![0u8; 4096];
        head[1024 + 0x38..1024 + 0x3a].copy_from_slice(&0xef53u16.to_le_bytes());
        head[1024 + 0x4..1024 + 0x8].copy_from_slice(&5000u32.to_le_bytes());
        head[1024 + 0x18] = 2;
        head[1024 + 0x3a] = 1;
        let good = Superblock {
            blocks: 5000,
            block_bytes: 4096,
            needs_repair: false,
            keeps_account: false,
        };
        assert_eq!(holds(&head, &[]), Holds::Ext4(good));
        head[1024 + 0x64..1024 + 0x68].copy_from_slice(&0x2100u32.to_le_bytes());
        assert!(matches!(
            holds(&head, &[]),
            Holds::Ext4(Superblock {
                keeps_account: true,
                ..
            })
        ));
        head[1024 + 0x3a] = 3;
        assert!(matches!(
            holds(&head, &[]),
            Holds::Ext4(Superblock {
                needs_repair: true,
                ..
            })
        ));
        head[1024 + 0x18] = 200;
        assert_eq!(
            holds(&head, &[]),
            Holds::Unknown,
            "a block size from nowhere is no ext4"
        );
    }
}
