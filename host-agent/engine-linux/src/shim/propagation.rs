//! Mounts that are to propagate need a mount on the host that does: elsewhere nothing would ever come through, without
//! a word. dockerd refuses them, too (moby `daemon/oci_linux.go`, `ensureShared`).

use super::protocol::Refusal;
use engine::runtime::{MountPlan, MountSource};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use std::io;
use std::path::Path;

/// Refuses a bind whose propagation the host's mount cannot give.
pub fn check(mounts: &[MountPlan]) -> Result<(), Refusal> {
    for mount in mounts {
        let MountSource::Bind {
            path, propagation, ..
        } = &mount.source
        else {
            continue;
        };
        let (needed, words): (&[&str], _) = match propagation.as_str() {
            "shared" | "rshared" => (&["shared:"], "a shared mount"),
            "slave" | "rslave" => (&["shared:", "master:"], "a shared or slave mount"),
            _ => continue,
        };
        let found = mount_of(path).map_err(|error| {
            Refusal::failed(format!("find the mount of {}", path.display()), error)
        })?;
        let Some((point, fields)) = found else {
            continue;
        };
        let has = |kind: &&str| fields.iter().any(|field| field.starts_with(*kind));
        if !needed.iter().any(has) {
            return Err(Refusal::Invalid {
                what: format!("propagation {propagation}"),
                why: format!(
                    "path {} is mounted on {point} but it is not {words}",
                    path.display()
                ),
            });
        }
    }
    Ok(())
}

/// Mount point and optional fields (proc(5), mountinfo) of the mount a path is in.
fn mount_of(path: &Path) -> io::Result<Option<(String, Vec<String>)>> {
    let facts = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?;
    let id = facts.stx_mnt_id.to_string();
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        if fields.first() != Some(&id.as_str()) {
            return None;
        }
        let optional = fields.iter().skip(6).take_while(|field| **field != "-");
        Some((
            (*fields.get(4)?).to_owned(),
            optional.map(|field| (*field).to_owned()).collect(),
        ))
    }))
}
