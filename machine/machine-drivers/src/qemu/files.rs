//! Where everything of one local machine is. All names are here.

use guest_contract::share::MOST_SHARES;
use machine_core::driver::MachinePlace;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// `sun_path` holds 104 bytes on macOS and 108 on Linux, with a final NUL.
const LONGEST_SOCKET_PATH: usize = 103;

/// The files of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    folder: PathBuf,
    sockets: PathBuf,
}

impl Files {
    pub fn of(place: &MachinePlace) -> Files {
        Files::in_folder(&place.folder)
    }

    pub fn in_folder(folder: &Path) -> Files {
        let longest = folder.join(CONTROL_SOCKET).as_os_str().len();
        let sockets = if longest <= LONGEST_SOCKET_PATH {
            folder.to_path_buf()
        } else {
            // Not $XDG_RUNTIME_DIR: it differs between log-ins and vanishes with the last one; the machine stays.
            let user = rustix::process::getuid().as_raw();
            let name = format!(
                "{:016x}",
                stable_hash(folder.as_os_str().as_encoded_bytes())
            );
            PathBuf::from(format!("/tmp/berth-{user}")).join(name)
        };
        Files {
            folder: folder.to_path_buf(),
            sockets,
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The guest's data, a raw sparse file.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("data.raw")
    }

    /// The seed; holds the server's key.
    pub fn seed(&self) -> PathBuf {
        self.folder.join("seed.tar")
    }

    /// What the guest's kernel and `init` say; of the latest boot.
    pub fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// The memory of a suspended machine; it is suspended while this file is there.
    pub fn memory(&self) -> PathBuf {
        self.folder.join("memory.state")
    }

    /// The memory while it is being written.
    pub fn memory_being_written(&self) -> PathBuf {
        self.folder.join("memory.writing")
    }

    /// What the keeper is to run.
    pub fn plan(&self) -> PathBuf {
        self.folder.join("vm.json")
    }

    /// What the keeper and QEMU say.
    pub fn keeper_log(&self) -> PathBuf {
        self.folder.join("keeper.log")
    }

    /// Which processes run the machine, and which ports are published. Gone when it is stopped.
    pub fn keeper_record(&self) -> PathBuf {
        self.folder.join("keeper.json")
    }

    /// Where the keeper answers `machine`.
    pub fn keeper_socket(&self) -> PathBuf {
        self.sockets.join(KEEPER_SOCKET)
    }

    pub fn qmp_socket(&self) -> PathBuf {
        self.sockets.join("qmp.sock")
    }

    pub fn control_socket(&self) -> PathBuf {
        self.sockets.join(CONTROL_SOCKET)
    }

    /// Where QEMU connects the port of one shared folder.
    pub fn share_socket(&self, index: usize) -> PathBuf {
        self.sockets.join(format!("share{index}.sock"))
    }

    /// What a suspended machine's kernel knows of the shared folders.
    pub fn shares_state(&self) -> PathBuf {
        self.folder.join("shares.state")
    }

    /// Makes the folder of the sockets, when they are not in the machine's own, safe from other users of `/tmp`.
    pub fn make_socket_folder(&self) -> io::Result<()> {
        if self.sockets == self.folder {
            return Ok(());
        }
        let parent = self.sockets.parent().expect("two levels below /tmp");
        for folder in [parent, &self.sockets] {
            match std::fs::DirBuilder::new().mode(0o700).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let found = std::fs::symlink_metadata(folder)?;
            let ours = found.uid() == rustix::process::getuid().as_raw();
            if !found.is_dir() || !ours || found.mode() & 0o077 != 0 {
                return Err(io::Error::other(format!(
                    "{} is not a folder that only you can use",
                    folder.display()
                )));
            }
        }
        Ok(())
    }

    /// Removes what only a running machine has.
    pub fn remove_running(&self) {
        for path in [
            self.keeper_socket(),
            self.qmp_socket(),
            self.control_socket(),
            self.keeper_record(),
            self.plan(),
        ]
        .into_iter()
        .chain((0..MOST_SHARES).map(|index| self.share_socket(index)))
        {
            let _ = std::fs::remove_file(path);
        }
        if self.sockets != self.folder {
            let _ = std::fs::remove_dir(&self.sockets);
            // Succeeds for the last machine only.
            let _ = self.sockets.parent().map(std::fs::remove_dir);
        }
    }

    /// Removes all of the driver's files.
    pub fn remove_all(&self) -> io::Result<()> {
        self.remove_running();
        for path in [
            self.disk(),
            self.memory(),
            self.memory_being_written(),
            self.shares_state(),
            self.seed(),
            self.console(),
            self.keeper_log(),
        ] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

const KEEPER_SOCKET: &str = "keeper.sock";
const CONTROL_SOCKET: &str = "control.sock";

/// FNV-1a: the same in every process and version, which std's hasher does not promise.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_stay_with_the_machine_unless_their_path_is_too_long() {
        let short = Files::in_folder(Path::new("/home/a/.docker/machine/machines/dev"));
        assert!(
            short
                .keeper_socket()
                .starts_with("/home/a/.docker/machine/machines/dev")
        );
        let long = Files::in_folder(&Path::new("/home").join("x".repeat(100)));
        assert!(long.control_socket().as_os_str().len() <= LONGEST_SOCKET_PATH);
        assert!(long.keeper_socket().starts_with("/tmp"));
        assert_ne!(
            long.keeper_socket(),
            Files::in_folder(&Path::new("/home").join("y".repeat(100))).keeper_socket()
        );
    }
}
