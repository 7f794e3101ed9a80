//! A folder of this computer, and nothing outside it. Unix walks from descriptor to descriptor; Windows, which has
//! handles, links and names of its own, does the same with cap-std. One contract holds for both.

#[cfg(any(windows, test))]
mod portable;
#[cfg(unix)]
mod unix;

#[cfg(windows)]
pub use portable::{Folder, attributes_of};
#[cfg(unix)]
pub use unix::{Folder, attributes_of};

use super::wire::Errno;
use std::ffi::OsStr;

/// How a file is opened: the lower bits of Linux's `open` flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Access {
    pub read: bool,
    pub write: bool,
    pub append: bool,
}

impl Access {
    pub fn from_flags(flags: u32) -> Access {
        Access {
            read: flags & 3 != 1,
            write: flags & 3 != 0,
            append: flags & 0o2000 != 0,
        }
    }
}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: Vec<u8>,
    pub inode: u64,
    /// `DT_REG` and so on.
    pub kind: u32,
}

/// A time to set.
#[derive(Debug, Clone, Copy)]
pub enum Time {
    Keep,
    Now,
    At(i64, u32),
}

/// A guest's name of a file, as this computer has it.
#[cfg(unix)]
pub fn name(name: &[u8]) -> Result<&OsStr, Errno> {
    use std::os::unix::ffi::OsStrExt;
    Ok(OsStr::from_bytes(name))
}

#[cfg(windows)]
pub fn name(name: &[u8]) -> Result<&OsStr, Errno> {
    name_for_windows(name).map(OsStr::new)
}

/// A guest's name as a name that a file of Windows can have. What the guest's kernel takes for one name may lead
/// elsewhere there (`..\x`, `C:x`), be a part of another file (`x:y`), a device (`NUL`) or another name (`x.`).
#[cfg(any(windows, test))]
pub fn name_for_windows(name: &[u8]) -> Result<&str, Errno> {
    const FORBIDDEN: [char; 8] = ['\\', ':', '*', '?', '"', '<', '>', '|'];
    let text = std::str::from_utf8(name).map_err(|_| Errno::INVAL)?;
    let stem = text.split('.').next().unwrap_or_default();
    let stem = stem.trim_end().to_uppercase();
    let numbered = |device: &str| {
        let number = stem.strip_prefix(device).map(|number| number.chars());
        number.is_some_and(|mut number| {
            matches!(number.next(), Some('0'..='9' | '¹' | '²' | '³')) && number.next().is_none()
        })
    };
    let device = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&&*stem);
    let forbidden = |letter: char| letter < ' ' || FORBIDDEN.contains(&letter);
    if text.contains(forbidden)
        || text.ends_with(['.', ' '])
        || device
        || numbered("COM")
        || numbered("LPT")
    {
        return Err(Errno::INVAL);
    }
    Ok(text)
}

/// Where a link of Windows leads, as the guest reads it: a drive is a folder of the root there.
#[cfg(any(windows, test))]
pub fn target_for_guest(target: &str) -> String {
    let target = target.strip_prefix(r"\\?\").unwrap_or(target);
    crate::qemu::shares::in_guest(target).unwrap_or_else(|| target.replace('\\', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_name_is_one_name_on_windows() {
        for name in [
            "a", "a.b", ".git", "Ünicode", "console", "com", "COM10", "a b", "nul1",
        ] {
            assert_eq!(name_for_windows(name.as_bytes()), Ok(name));
        }
        for name in [
            r"..\x", r"a\b", "C:", "C:x", "a:stream", "NUL", "nul.txt", "Com1", "LPT9.log", "con ",
            "CONOUT$", "a.", "a ", "a\u{1}", "what?", "COM¹",
        ] {
            assert_eq!(
                name_for_windows(name.as_bytes()),
                Err(Errno::INVAL),
                "{name}"
            );
        }
        assert_eq!(name_for_windows(b"\xff"), Err(Errno::INVAL));
    }

    #[test]
    fn links_of_windows_lead_to_the_same_place_in_the_guest() {
        assert_eq!(target_for_guest(r"..\a\b"), "../a/b");
        assert_eq!(target_for_guest(r"C:\Users\me"), "/c/Users/me");
        assert_eq!(target_for_guest(r"\\?\D:\x"), "/d/x");
    }

    /// What holds for every form.
    macro_rules! contract {
        ($name:ident, $form:ident) => {
            mod $name {
                use super::super::$form::{Folder, attributes_of};
                use super::super::{Access, Time};
                use crate::qemu::keeper::share::wire::Errno;
                use crate::qemu::system;
                use std::path::Path;

                const BOTH: Access = Access {
                    read: true,
                    write: true,
                    append: false,
                };

                fn shared() -> (tempfile::TempDir, Folder) {
                    let outside = tempfile::tempdir().unwrap();
                    std::fs::create_dir(outside.path().join("shared")).unwrap();
                    std::fs::write(outside.path().join("secret"), "s").unwrap();
                    let folder = Folder::open(&outside.path().join("shared")).unwrap();
                    (outside, folder)
                }

                fn path(text: &str) -> &Path {
                    Path::new(text)
                }

                #[test]
                fn files_are_made_written_read_and_removed() {
                    let (_outside, folder) = shared();
                    folder.make_folder(path("sub"), 0o755).unwrap();
                    assert_eq!(
                        folder.make_folder(path("sub"), 0o755),
                        Err(Errno(17)),
                        "EEXIST"
                    );
                    let inside = Path::new("sub").join("file");
                    let file = folder.create(&inside, BOTH, true, 0o644).unwrap();
                    assert!(folder.create(&inside, BOTH, true, 0o644).is_err());
                    system::write_all_at(&file, b"hello", 3).unwrap();
                    let mut data = [0; 8];
                    assert_eq!(system::read_at(&file, &mut data, 2).unwrap(), 6);
                    assert_eq!(&data[..6], b"\0hello");
                    let by_file = attributes_of(&file).unwrap();
                    let by_name = folder.stat(&inside).unwrap();
                    assert_eq!((by_name.size, by_name.mode & 0o170_000), (8, 0o100_000));
                    assert_eq!(
                        (by_file.device, by_file.inode),
                        (by_name.device, by_name.inode)
                    );
                    drop(file);
                    // A second opening finds the same file, and may only do what was asked for.
                    let reading = Access {
                        write: false,
                        ..BOTH
                    };
                    let again = folder.open_file(&inside, reading).unwrap();
                    assert!(system::write_all_at(&again, b"x", 0).is_err());
                    drop(again);
                    assert_eq!(
                        folder.remove_folder(path("sub")),
                        Err(Errno(39)),
                        "ENOTEMPTY"
                    );
                    folder.remove_file(&inside).unwrap();
                    assert_eq!(folder.stat(&inside).unwrap_err(), Errno(2), "ENOENT");
                    folder.remove_folder(path("sub")).unwrap();
                    assert_eq!(folder.stat(path("sub")).unwrap_err(), Errno(2));
                    assert!(folder.space().unwrap().blocks > 0);
                    folder.sync(path("")).unwrap();
                }

                #[test]
                fn names_are_listed_and_moved() {
                    let (_outside, folder) = shared();
                    for name in ["a", "b"] {
                        drop(folder.create(path(name), BOTH, true, 0o644).unwrap());
                    }
                    folder.make_folder(path("c"), 0o755).unwrap();
                    let names = |at: &str| {
                        let listed = folder.list(path(at)).unwrap();
                        let mut names: Vec<(String, u32)> = listed
                            .into_iter()
                            .map(|entry| (String::from_utf8(entry.name).unwrap(), entry.kind))
                            .filter(|(name, _)| name != "." && name != "..")
                            .collect();
                        names.sort();
                        names
                    };
                    let file = |name: &str| (name.to_owned(), 8);
                    assert_eq!(names(""), [file("a"), file("b"), ("c".to_owned(), 4)]);
                    assert_eq!(
                        folder.rename(path("a"), path("b"), false),
                        Err(Errno(17)),
                        "EEXIST"
                    );
                    let to = Path::new("c").join("d");
                    let identity = folder.stat(path("a")).unwrap().inode;
                    folder.rename(path("a"), &to, false).unwrap();
                    assert_eq!(folder.stat(&to).unwrap().inode, identity);
                    folder.rename(path("b"), &to, true).unwrap();
                    assert_eq!(names(""), [("c".to_owned(), 4)]);
                    assert_eq!(names("c"), [file("d")]);
                    folder.link(&to, path("e")).unwrap();
                    assert_eq!(folder.stat(path("e")).unwrap().links, 2);
                }

                #[test]
                fn times_and_rights_are_set() {
                    let (_outside, folder) = shared();
                    drop(folder.create(path("a"), BOTH, true, 0o644).unwrap());
                    folder
                        .set_times(path("a"), Time::Keep, Time::At(1_000_000_000, 0))
                        .unwrap();
                    assert_eq!(folder.stat(path("a")).unwrap().modified.0, 1_000_000_000);
                    folder.set_mode(path("a"), 0o444).unwrap();
                    assert_eq!(folder.stat(path("a")).unwrap().mode & 0o222, 0);
                    folder.set_mode(path("a"), 0o644).unwrap();
                    assert_ne!(folder.stat(path("a")).unwrap().mode & 0o200, 0);
                    // What is so already is no change.
                    let is = folder.stat(path("a")).unwrap();
                    folder
                        .set_owner(path("a"), Some(is.user), Some(is.group))
                        .unwrap();
                }

                #[test]
                fn links_are_kept_and_devices_not_made() {
                    let (_outside, folder) = shared();
                    folder.make_node(path("file"), 0o100_644).unwrap();
                    assert_eq!(folder.stat(path("file")).unwrap().size, 0);
                    assert_eq!(folder.make_node(path("disk"), 0o060_644), Err(Errno::PERM));
                    match folder.symlink(b"file", path("link")) {
                        // Not everybody may, on Windows.
                        Err(errno) => assert!(cfg!(windows) && errno == Errno::PERM, "{errno:?}"),
                        Ok(()) => assert_eq!(folder.read_link(path("link")).unwrap(), b"file"),
                    }
                }

                #[test]
                fn nothing_leads_out() {
                    let (outside, folder) = shared();
                    folder.make_folder(path("sub"), 0o755).unwrap();
                    for escape in ["../secret", "sub/../../secret"] {
                        assert!(folder.open_file(path(escape), BOTH).is_err(), "{escape}");
                        assert!(folder.create(path(escape), BOTH, false, 0o644).is_err());
                    }
                    assert!(folder.remove_file(path("../secret")).is_err());
                    let absolute = outside.path().join("secret");
                    assert!(folder.open_file(&absolute, BOTH).is_err());
                    assert!(folder.stat(&absolute).is_err());
                    // Links, where this person may make them.
                    let root = outside.path().join("shared");
                    #[cfg(unix)]
                    let made = std::os::unix::fs::symlink(outside.path(), root.join("way"))
                        .and_then(|()| std::os::unix::fs::symlink(&absolute, root.join("link")));
                    #[cfg(windows)]
                    let made = std::os::windows::fs::symlink_dir(outside.path(), root.join("way"))
                        .and_then(|()| {
                            std::os::windows::fs::symlink_file(&absolute, root.join("link"))
                        });
                    if made.is_err() {
                        return;
                    }
                    let through = Path::new("way").join("secret");
                    assert!(folder.stat(&through).is_err());
                    assert!(folder.open_file(&through, BOTH).is_err());
                    assert!(folder.remove_file(&through).is_err());
                    assert!(folder.list(path("way")).is_err());
                    assert!(folder.open_file(path("link"), BOTH).is_err());
                    let link = folder.stat(path("link")).unwrap();
                    assert_eq!(link.mode & 0o170_000, 0o120_000);
                    folder.remove_file(path("link")).unwrap();
                    assert!(absolute.exists(), "the link went, not what it leads to");
                }
            }
        };
    }

    #[cfg(unix)]
    contract!(on_unix, unix);
    contract!(everywhere, portable);
}
