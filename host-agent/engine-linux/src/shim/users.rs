//! Who a container's process runs as: Docker's `User` looked up in the container's own /etc/passwd and /etc/group.
//!
//! The files are opened as seen from inside the root (`openat2` with RESOLVE_IN_ROOT): a symlink in an image cannot lead
//! to the host's files.

use super::protocol::Refusal;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The numbers behind a `User`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups, sorted.
    pub groups: Vec<u32>,
    pub home: String,
}

/// A file this big is not a user database; Docker has no bound, but the shim's memory has.
const LARGEST: u64 = 16 << 20;

/// Reads a file as seen from inside `root`; nothing where it is missing.
pub fn read_in_root(root: &Path, path: &str) -> std::io::Result<String> {
    let base = rustix::fs::open(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let opened = rustix::fs::openat2(
        &base,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    let file = match opened {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Looks a user up in the files of the container at `root`.
pub fn look_up(root: &Path, user: &str, additional: &[String]) -> Result<Identity, Refusal> {
    let read = |path: &str| {
        read_in_root(root, path)
            .map_err(|error| Refusal::failed(format!("read the container's /{path}"), error))
    };
    // Most containers run as root with no groups to add: still two small reads, for root's groups and home.
    identity(&read("etc/passwd")?, &read("etc/group")?, user, additional)
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or("");
        Some(Account {
            name,
            uid,
            gid,
            home,
        })
    })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn groups(file: &str) -> impl Iterator<Item = Group<'_>> {
    file.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields.next().unwrap_or("");
        Some(Group { name, gid, members })
    })
}

/// What a user or group is if it is a number, of any size.
fn number_of(text: &str) -> Result<Option<u32>, Refusal> {
    match text.parse::<i64>() {
        Ok(number) => match i32::try_from(number).map(u32::try_from) {
            Ok(Ok(id)) => Ok(Some(id)),
            _ => Err(Refusal::IdOutOfRange),
        },
        Err(_) => Ok(None),
    }
}

/// The rules of Docker (moby/sys/user GetExecUser): names win over numbers; an unknown number is taken as it is; with
/// a group given, the user's memberships do not count.
fn identity(
    passwd: &str,
    group_file: &str,
    user: &str,
    additional: &[String],
) -> Result<Identity, Refusal> {
    let (user_part, group_part) = user.split_once(':').unwrap_or((user, ""));
    let number = number_of(user_part)?;
    let found = accounts(passwd).find(|account| {
        if user_part.is_empty() {
            account.uid == 0
        } else {
            account.name == user_part || Some(account.uid) == number
        }
    });
    let mut identity = match (&found, number) {
        (Some(account), _) => Identity {
            uid: account.uid,
            gid: account.gid,
            groups: Vec::new(),
            home: account.home.to_owned(),
        },
        (None, number) => Identity {
            uid: match number {
                Some(uid) => uid,
                None if user_part.is_empty() => 0,
                _ => {
                    return Err(Refusal::UnknownUser {
                        user: user_part.to_owned(),
                    });
                }
            },
            gid: 0,
            groups: Vec::new(),
            home: String::new(),
        },
    };
    if identity.home.is_empty() {
        identity.home = "/".to_owned();
    }
    let group_id = |wanted: &str| {
        let number = number_of(wanted)?;
        groups(group_file)
            .find(|group| group.name == wanted || Some(group.gid) == number)
            .map(|group| group.gid)
            .or(number)
            .ok_or_else(|| Refusal::UnknownGroup {
                group: wanted.to_owned(),
            })
    };
    let mut all = BTreeSet::new();
    if group_part.is_empty() {
        if let Some(account) = &found {
            all.extend(
                groups(group_file)
                    .filter(|group| group.members.split(',').any(|name| name == account.name))
                    .map(|group| group.gid),
            );
        }
    } else {
        identity.gid = group_id(group_part)?;
    }
    for name in additional {
        all.insert(group_id(name)?);
    }
    // Docker puts the main group among them.
    all.insert(identity.gid);
    identity.groups = all.into_iter().collect();
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\nbob:x:1001:\ndisk:x:6:bob,eve\naudio:x:29:bob\n";

    #[track_caller]
    fn check(user: &str, additional: &[&str], uid: u32, gid: u32, groups: &[u32], home: &str) {
        let additional: Vec<String> = additional.iter().map(|s| (*s).to_owned()).collect();
        let wanted = Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        };
        assert_eq!(identity(PASSWD, GROUP, user, &additional).unwrap(), wanted);
    }

    #[test]
    fn users_are_found_as_docker_finds_them() {
        check("", &[], 0, 0, &[0], "/root");
        check("bob", &[], 1000, 1001, &[6, 29, 1001], "/home/bob");
        check("1000", &[], 1000, 1001, &[6, 29, 1001], "/home/bob");
        check("bob:disk", &[], 1000, 6, &[6], "/home/bob");
        check("4242", &[], 4242, 0, &[0], "/");
        check("4242:77", &[], 4242, 77, &[77], "/");
        check("", &["audio", "500"], 0, 0, &[0, 29, 500], "/root");
    }

    #[test]
    fn unknown_names_are_refused_by_name() {
        assert_eq!(
            identity(PASSWD, GROUP, "nobody", &[]),
            Err(Refusal::UnknownUser {
                user: "nobody".into()
            })
        );
        assert_eq!(
            identity(PASSWD, GROUP, "bob:staff", &[]),
            Err(Refusal::UnknownGroup {
                group: "staff".into()
            })
        );
    }

    #[test]
    fn numbers_out_of_range_are_refused_with_dockers_words() {
        for (user, group) in [
            ("-1", ""),
            ("4294967296", ""),
            ("1:-1", ""),
            ("1", "2147483648"),
        ] {
            let additional = [group.to_owned()];
            let additional = if group.is_empty() {
                &[][..]
            } else {
                &additional
            };
            let refused = identity(PASSWD, GROUP, user, additional);
            assert_eq!(refused, Err(Refusal::IdOutOfRange), "{user} {group}");
        }
    }

    #[test]
    fn an_image_without_files_has_only_numbers() {
        assert_eq!(identity("", "", "", &[]).unwrap().uid, 0);
        assert!(identity("", "", "bob", &[]).is_err());
    }

    #[test]
    fn links_stay_inside_the_root() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", root.path().join("etc/passwd")).unwrap();
        assert_eq!(read_in_root(root.path(), "etc/passwd").unwrap(), "");
        std::fs::write(root.path().join("etc/hostname"), "inside").unwrap();
        assert_eq!(read_in_root(root.path(), "etc/passwd").unwrap(), "inside");
    }
}
