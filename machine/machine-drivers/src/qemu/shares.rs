//! Which folders of this computer a machine sees, and where: `--mount HOST:GUEST[:ro]`.

use super::keeper::share::SharedFolder;
use guest_contract::share::{MOST_SHARES, SHARES_JSON, SHARES_VERSION, Share, Shares};
use machine_core::driver::{DriverError, SeedFiles};
use std::path::{Path, PathBuf};

pub const FLAG: &str = "qemu-mount";
/// Shares nothing, not even the home.
const NONE: &str = "none";

/// Folders of the guest that are its own: a machine would not come up, or the engine would write into the desktop.
const OF_THE_GUEST: [&str; 13] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib64",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lib/berth",
    "/var/run",
];

/// One folder, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub host: PathBuf,
    pub guest: String,
    pub read_only: bool,
}

impl Mount {
    /// `HOST`, `HOST:GUEST`, either with `:ro` or `:rw`. Without a guest's path it is the same one, on Windows as
    /// [`in_guest`] has it.
    fn parse(text: &str) -> Result<Mount, String> {
        let (paths, read_only) = match text.rsplit_once(':') {
            Some((paths, "ro")) => (paths, true),
            Some((paths, "rw")) => (paths, false),
            _ => (text, false),
        };
        if paths.starts_with(r"\\") {
            return Err("give a network folder a drive's letter first".into());
        }
        // A drive's letter is no path of its own: C:\src:/src.
        let drive = if drive_of(paths).is_some() { 2 } else { 0 };
        let (host, guest) = match paths[drive..].find(':') {
            Some(colon) => (
                &paths[..drive + colon],
                paths[drive + colon + 1..].to_owned(),
            ),
            None => (paths, in_guest(paths).unwrap_or_else(|| paths.to_owned())),
        };
        let host = match cfg!(windows) {
            true => from_guest(host),
            false => None,
        }
        .unwrap_or_else(|| host.to_owned());
        if !Path::new(&host).is_absolute() {
            return Err(format!("{host:?} is not an absolute path"));
        }
        let guest = match guest.trim_end_matches('/') {
            "" => return Err("the machine's own root cannot be a folder of this computer".into()),
            guest => guest.to_owned(),
        };
        let odd = |part: &str| part.is_empty() || part == "." || part == "..";
        if !guest.starts_with('/') || guest[1..].split('/').any(odd) || guest.contains(['\n', '\0'])
        {
            return Err(format!(
                "{guest:?} is not a plain absolute path in the machine"
            ));
        }
        if let Some(own) = OF_THE_GUEST
            .iter()
            .find(|own| Path::new(&guest).starts_with(own))
        {
            return Err(format!("{own} is the machine's own"));
        }
        Ok(Mount {
            host: PathBuf::from(host),
            guest,
            read_only,
        })
    }
}

/// Where a folder of Windows is in the guest, as docker-machine had it: `C:\Users\me` is `/c/Users/me`. `None`: that is no path
/// of Windows.
pub fn in_guest(path: &str) -> Option<String> {
    let drive = drive_of(path)?.to_ascii_lowercase();
    let rest = path[2..].replace('\\', "/");
    Some(format!("/{drive}{}", rest.trim_end_matches('/')))
}

/// The other way: engines name folders as the guest sees them.
fn from_guest(path: &str) -> Option<String> {
    let mut parts = path.strip_prefix('/')?.splitn(2, '/');
    let drive = parts.next().filter(|drive| drive.len() == 1)?;
    let path = format!("{}:/{}", drive.to_ascii_uppercase(), parts.next()?);
    drive_of(&path).map(|_| path.replace('/', "\\"))
}

/// The letter of an absolute path of Windows.
fn drive_of(path: &str) -> Option<char> {
    let mut letters = path.chars();
    let drive = letters.next().filter(char::is_ascii_alphabetic)?;
    let is_absolute = letters.next() == Some(':') && matches!(letters.next(), Some('\\' | '/'));
    is_absolute.then_some(drive)
}

fn invalid(why: String) -> DriverError {
    DriverError::InvalidFlag {
        flag: "mount".into(),
        why,
    }
}

/// Checks what was given. Nothing given: the home, for reading, which is decided anew at every start.
pub fn check(given: &[String]) -> Result<(), DriverError> {
    for mount in parse(given)? {
        if !mount.host.is_dir() {
            return Err(invalid(format!(
                "{} is no folder of this computer",
                mount.host.display()
            )));
        }
    }
    Ok(())
}

fn parse(given: &[String]) -> Result<Vec<Mount>, DriverError> {
    if given.iter().any(|text| text == NONE) {
        return match given {
            [_] => Ok(Vec::new()),
            _ => Err(invalid(format!("{NONE:?} shares nothing; give it alone"))),
        };
    }
    let mut mounts = Vec::new();
    for text in given {
        mounts.push(Mount::parse(text).map_err(|why| invalid(format!("{text:?}: {why}")))?);
    }
    // A folder inside another one is mounted after it.
    mounts.sort_by(|a, b| a.guest.cmp(&b.guest));
    if let Some(twice) = mounts.windows(2).find(|two| two[0].guest == two[1].guest) {
        return Err(invalid(format!(
            "two folders are to be at {}",
            twice[0].guest
        )));
    }
    if mounts.len() > MOST_SHARES - 1 {
        return Err(invalid(format!("at most {} folders", MOST_SHARES - 1)));
    }
    Ok(mounts)
}

/// The folders of the next start: what was given, and the home unless that says otherwise.
pub fn of(given: &[String], home: Option<&Path>) -> Result<Vec<Mount>, DriverError> {
    let mut mounts = parse(given)?;
    let none = given.iter().any(|text| text == NONE);
    if let Some(home) = home.filter(|_| !none)
        && home.is_dir()
        && let Some(text) = home.to_str()
        && let Ok(mut mount) = Mount::parse(text)
        && !mounts.iter().any(|other| other.guest == mount.guest)
    {
        mount.read_only = true;
        mounts.push(mount);
        mounts.sort_by(|a, b| a.guest.cmp(&b.guest));
    }
    if let Some(gone) = mounts.iter().find(|mount| !mount.host.is_dir()) {
        return Err(DriverError::NotReady {
            what: format!("the shared folder {} is gone", gone.host.display()),
            hint: "make it again, or share others: machine set NAME --mount HOST:GUEST".into(),
        });
    }
    Ok(mounts)
}

/// What the keeper serves.
pub fn for_keeper(mounts: &[Mount]) -> Vec<SharedFolder> {
    let folder = |mount: &Mount| SharedFolder {
        host: mount.host.clone(),
        read_only: mount.read_only,
    };
    mounts.iter().map(folder).collect()
}

/// The seed, and in it where the guest mounts which port. Without a shared folder, too: the engine is to know that what
/// is not there on the machine is nowhere.
pub fn add_to_seed(seed: &SeedFiles, mounts: &[Mount]) -> SeedFiles {
    let folder = |mount: &Mount| Share {
        path: mount.guest.clone(),
        read_only: mount.read_only,
    };
    let shares = Shares {
        version: SHARES_VERSION,
        folders: mounts.iter().map(folder).collect(),
    };
    let mut seed = seed.clone();
    let text = serde_json::to_vec(&shares).expect("plain data");
    seed.files.push((SHARES_JSON.into(), text));
    seed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_windows_have_a_place_in_the_guest() {
        let place = |path: &str| in_guest(path);
        assert_eq!(place(r"C:\Users\me").as_deref(), Some("/c/Users/me"));
        assert_eq!(place("d:/a b/c/").as_deref(), Some("/d/a b/c"));
        assert_eq!(place(r"C:\").as_deref(), Some("/c"));
        for other in ["/src", "C:", "C:x", r"\\server\x", "", "é:/x", "work:/src"] {
            assert_eq!(place(other), None, "{other}");
        }
        assert_eq!(from_guest("/c/Users/me").as_deref(), Some(r"C:\Users\me"));
        for other in ["/src", "/src/c", "c/x", "/c", "/1/x", "//x"] {
            assert_eq!(from_guest(other), None, "{other}");
        }
    }

    #[track_caller]
    fn check(text: &str, host: &str, guest: &str, read_only: bool) {
        let wanted = Mount {
            host: host.into(),
            guest: guest.into(),
            read_only,
        };
        assert_eq!(Mount::parse(text), Ok(wanted));
    }

    #[cfg(windows)]
    #[test]
    fn a_mount_of_windows_is_read() {
        check(r"C:\src", r"C:\src", "/c/src", false);
        check(r"C:\src:ro", r"C:\src", "/c/src", true);
        check("C:/src:/work", "C:/src", "/work", false);
        check(r"C:\src:/work:ro", r"C:\src", "/work", true);
        check("/c/src", r"C:\src", "/c/src", false);
        for odd in ["src", r"\src", r"C:src", r"\\server\share"] {
            assert!(Mount::parse(odd).is_err(), "{odd}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_mount_is_read() {
        check("/src", "/src", "/src", false);
        check("/src:ro", "/src", "/src", true);
        check("/src:/work/", "/src", "/work", false);
        check("/src:/work:ro", "/src", "/work", true);
        check("/src:/work:rw", "/src", "/work", false);
    }

    #[cfg(unix)]
    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        #[track_caller]
        fn check(given: &[&str], why: &str) {
            let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
            let error = super::check(&given).unwrap_err().to_string();
            assert!(error.contains("--mount") && error.contains(why), "{error}");
        }
        check(&["src"], "not an absolute path");
        check(&["/tmp:src"], "not a plain absolute path");
        check(&["/tmp:/a/../b"], "not a plain absolute path");
        check(&["/tmp:/"], "own root");
        check(&["/tmp:/etc/x"], "machine's own");
        check(&["/tmp:/var/lib/berth"], "machine's own");
        check(&["/not/here"], "no folder of this computer");
        check(&["/tmp:/a", "/usr:/a:ro"], "two folders");
        check(&["none", "/tmp"], "alone");
    }

    #[cfg(unix)]
    #[test]
    fn home_is_there_for_reading_unless_said_otherwise() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        let guests = |given: &[String]| {
            of(given, Some(home.path()))
                .unwrap()
                .into_iter()
                .map(|mount| (mount.guest, mount.read_only))
                .collect::<Vec<_>>()
        };
        assert_eq!(guests(&[]), [(path.to_owned(), true)]);
        assert_eq!(guests(&[path.to_owned()]), [(path.to_owned(), false)]);
        assert_eq!(guests(&["none".to_owned()]), []);
        // Inside the home: after it.
        let inside = home.path().join("src");
        std::fs::create_dir(&inside).unwrap();
        let inside = inside.to_str().unwrap().to_owned();
        assert_eq!(
            guests(std::slice::from_ref(&inside)),
            [(path.to_owned(), true), (inside.clone(), false)]
        );
        std::fs::remove_dir(&inside).unwrap();
        let error = of(&[inside], Some(home.path())).unwrap_err();
        assert!(error.to_string().contains("is gone"), "{error}");
        assert_eq!(of(&[], None).unwrap(), []);
    }
}
