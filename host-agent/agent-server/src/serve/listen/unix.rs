//! The unix socket: made aside with its owner and mode and then renamed into place, so that it never exists with wrong ones.

use super::ListenError;
use crate::serve::config::Host;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// Who may use the socket without being root is as good as root: only this group.
const DEFAULT_GROUP: &str = "docker";

/// A bound socket; its file goes with it.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: the file is removed only while it is still ours.
    identity: (u64, u64),
}

impl Socket {
    pub(super) fn bind(path: &Path, group: Option<&str>) -> Result<Socket, ListenError> {
        make_way(path)?;
        let group = match group {
            Some(name) => Some(group_id(name).ok_or_else(|| ListenError::NoGroup {
                path: path.to_owned(),
                group: name.to_owned(),
            })?),
            None => group_id(DEFAULT_GROUP),
        };
        bind_aside(path, group).map_err(|source| ListenError::Bind {
            host: Host::Unix(path.to_owned()),
            source,
        })
    }

    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|facts| (facts.dev(), facts.ino()) == self.identity);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Refuses a path where a server answers or another kind of file is; a socket nobody answers on is replaced.
fn make_way(path: &Path) -> Result<(), ListenError> {
    match fs::symlink_metadata(path) {
        Ok(facts) if facts.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(ListenError::Answered {
                    path: path.to_owned(),
                });
            }
            Ok(())
        }
        Ok(_) => Err(ListenError::NoSocket {
            path: path.to_owned(),
        }),
        Err(_) => Ok(()),
    }
}

fn bind_aside(path: &Path, group: Option<u32>) -> io::Result<Socket> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&aside)?;
    fs::set_permissions(&aside, Permissions::from_mode(0o660))?;
    if let Some(group) = group {
        std::os::unix::fs::chown(&aside, None, Some(group))?;
    }
    let facts = fs::symlink_metadata(&aside)?;
    fs::rename(&aside, path)?;
    Ok(Socket {
        listener,
        path: path.to_owned(),
        identity: (facts.dev(), facts.ino()),
    })
}

/// By name or number. From the file and not through the C library: a static program has no name services.
fn group_id(name: &str) -> Option<u32> {
    if let Ok(id) = name.parse() {
        return Some(id);
    }
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a stale socket is there");
        let socket = Socket::bind(&path, None).unwrap();
        let facts = fs::metadata(&path).unwrap();
        assert_eq!(facts.permissions().mode() & 0o777, 0o660);
        let error = Socket::bind(&path, None).unwrap_err();
        assert!(matches!(error, ListenError::Answered { .. }), "{error}");
        drop(socket);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        let error = Socket::bind(&path, None).unwrap_err();
        assert!(matches!(error, ListenError::NoSocket { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let other = folder.path().join("t");
        let error = Socket::bind(&other, Some("no such group")).unwrap_err();
        assert!(matches!(error, ListenError::NoGroup { .. }), "{error}");
    }
}
