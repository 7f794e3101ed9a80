//! Where everything of one local machine is. All names are here.

use super::system::SocketPlace;
use guest_contract::share::MOST_SHARES;
use machine_core::driver::MachinePlace;
use std::io;
use std::path::{Path, PathBuf};

/// The files of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    folder: PathBuf,
    sockets: SocketPlace,
}

impl Files {
    pub fn of(place: &MachinePlace) -> Files {
        Files::in_folder(&place.folder)
    }

    pub fn in_folder(folder: &Path) -> Files {
        Files {
            folder: folder.to_path_buf(),
            sockets: SocketPlace::of(folder),
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
        self.sockets.path(KEEPER)
    }

    pub fn qmp_socket(&self) -> PathBuf {
        self.sockets.path(QMP)
    }

    pub fn control_socket(&self) -> PathBuf {
        self.sockets.path(CONTROL)
    }

    /// Where QEMU connects the port of one shared folder.
    pub fn share_socket(&self, index: usize) -> PathBuf {
        self.sockets.path(&share(index))
    }

    /// What a suspended machine's kernel knows of the shared folders.
    pub fn shares_state(&self) -> PathBuf {
        self.folder.join("shares.state")
    }

    /// Where the machine that is about to start has its sockets.
    pub fn renew_sockets(&self) -> io::Result<()> {
        self.sockets.renew()
    }

    /// Makes sure of the place that [`renew_sockets`](Self::renew_sockets) made.
    pub fn make_socket_folder(&self) -> io::Result<()> {
        self.sockets.make()
    }

    /// Removes what only a running machine has.
    pub fn remove_running(&self) {
        for path in [self.keeper_record(), self.plan()] {
            let _ = std::fs::remove_file(path);
        }
        let shares: Vec<String> = (0..MOST_SHARES).map(share).collect();
        let names: Vec<&str> = [KEEPER, QMP, CONTROL]
            .into_iter()
            .chain(shares.iter().map(String::as_str))
            .collect();
        self.sockets.remove(&names);
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

const KEEPER: &str = "keeper";
const QMP: &str = "qmp";
const CONTROL: &str = "control";

fn share(index: usize) -> String {
    format!("share{index}")
}

/// FNV-1a: the same in every process and version, which std's hasher does not promise.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
