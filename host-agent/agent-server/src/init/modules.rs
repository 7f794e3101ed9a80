//! Loading kernel modules: what the boot waits for by name, in the order `modules.dep` gives; the rest from the lists
//! the image brings. `finit_module` does the work, each module once however many threads ask for it.

use anyhow::{Context, Result};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

/// `MODULE_INIT_COMPRESSED_FILE`: the kernel inflates .xz, .gz and .zst itself.
const COMPRESSED_FILE: i32 = 4;

/// What must be there before anything else can be: the bus, and the port that tells the desktop how far we are.
pub const BUS: &[&str] = &["virtio_pci", "virtio_console"];
/// The disks.
pub const DISK: &[&str] = &[
    "virtio_blk",
    "crc32c_generic",
    "crc32c_intel",
    "ext4",
    // ext4 asks for it by another name, `quota-format-4`, when it keeps account.
    "quota_v2",
];
/// The network card.
pub const NETWORK: &[&str] = &["virtio_net"];
/// What nobody waits for.
pub const LATER: &[&str] = &["virtio_rng", "virtio_balloon", "button", "evdev"];

/// `modules.dep`, read.
#[derive(Debug, Default, PartialEq)]
pub struct Dependencies {
    /// Module name -> (file relative to the folder, names it needs, in the order to load them).
    modules: HashMap<String, (String, Vec<String>)>,
}

impl Dependencies {
    /// Lines `path: dependency dependency ...`; depmod lists what is needed last first.
    pub fn parse(text: &str) -> Dependencies {
        let mut modules = HashMap::new();
        for line in text.lines() {
            let Some((file, needs)) = line.split_once(':') else {
                continue;
            };
            let needs = needs.split_whitespace().rev().map(name_of).collect();
            modules.insert(name_of(file), (file.trim().to_owned(), needs));
        }
        Dependencies { modules }
    }

    /// The files to load for `name`, in order; empty when the image has no such module (built in, or left out).
    pub fn order(&self, name: &str) -> Vec<String> {
        let mut order = Vec::new();
        self.visit(&name.replace('-', "_"), &mut Vec::new(), &mut order);
        order
    }

    fn visit(&self, name: &str, above: &mut Vec<String>, order: &mut Vec<String>) {
        // A circle cannot be loaded anyway; it must only not keep us here for ever.
        if above.iter().any(|other| other == name) || order.iter().any(|other| other == name) {
            return;
        }
        let Some((_, needs)) = self.modules.get(name) else {
            return;
        };
        above.push(name.to_owned());
        for need in needs {
            self.visit(need, above, order);
        }
        above.pop();
        order.push(name.to_owned());
    }
}

/// `kernel/net/nf-tables.ko.xz` is the module `nf_tables`.
fn name_of(file: &str) -> String {
    let base = file.trim().rsplit('/').next().unwrap_or_default();
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

/// How loading one module ended; shared by all who ask for it.
type Loaded = Arc<OnceLock<Option<String>>>;

pub struct Loader {
    folder: PathBuf,
    dependencies: Dependencies,
    loaded: Mutex<HashMap<String, Loaded>>,
}

impl Loader {
    /// Reads `modules.dep` of the running kernel. An image without modules is fine: all is built in.
    pub fn open() -> Result<Loader> {
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        let folder = Path::new("/lib/modules").join(release);
        let list = folder.join("modules.dep");
        let text = match std::fs::read_to_string(&list) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", list.display()));
            }
        };
        Ok(Loader {
            folder,
            dependencies: Dependencies::parse(&text),
            loaded: Mutex::default(),
        })
    }

    /// Loads modules and what they need. Returns what went wrong, one line each; whether it matters shows when the
    /// device or feature is looked for.
    pub fn load(&self, names: &[&str]) -> Vec<String> {
        let mut problems = Vec::new();
        for name in names {
            for module in self.dependencies.order(name) {
                if let Some(problem) = self.load_one(&module) {
                    problems.push(problem);
                }
            }
        }
        problems
    }

    /// Loads what one of the image's lists names, see `guest_contract::MODULES_ENGINE_LIST`: absolute paths in the
    /// right order already. A list that is missing is an image without such modules.
    pub fn load_list(&self, list: &str) -> Vec<String> {
        let text = std::fs::read_to_string(list).unwrap_or_default();
        text.lines()
            .map(str::trim)
            .filter(|line| line.starts_with('/'))
            .filter_map(|path| self.load_file(&name_of(path), Path::new(path)))
            .collect()
    }

    fn load_one(&self, module: &str) -> Option<String> {
        let (file, _) = self.dependencies.modules.get(module)?;
        self.load_file(module, &self.folder.join(file))
    }

    fn load_file(&self, module: &str, path: &Path) -> Option<String> {
        let cell = {
            let mut loaded = self
                .loaded
                .lock()
                .expect("no one panics while holding the list");
            loaded.entry(module.to_owned()).or_default().clone()
        };
        // A second asker waits here until the first has loaded it: its own module needs it.
        cell.get_or_init(|| {
            let plain = path.extension().is_some_and(|extension| extension == "ko");
            let flags = if plain { 0 } else { COMPRESSED_FILE };
            let result = File::open(path).and_then(|file| {
                rustix::system::finit_module(file, c"", flags).map_err(std::io::Error::from)
            });
            match result {
                Ok(()) => None,
                Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => None,
                // The processor or the bus has no such thing (crc32c_intel without SSE 4.2).
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => None,
                Err(error) => Some(format!("module {module}: {error}")),
            }
        })
        .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko \
        kernel/drivers/virtio/virtio.ko\n\
        kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko\n\
        kernel/net/core/failover.ko:\n\
        kernel/drivers/virtio/virtio.ko.xz:\n\
        kernel/net/netfilter/nft-odd.ko: kernel/net/a.ko\n\
        kernel/net/a.ko: kernel/net/b.ko\n\
        kernel/net/b.ko: kernel/net/a.ko\n";

    #[track_caller]
    fn check(name: &str, expected: &[&str]) {
        assert_eq!(Dependencies::parse(LIST).order(name), expected);
    }

    #[test]
    fn what_is_needed_comes_first() {
        check(
            "virtio_net",
            &["virtio", "failover", "net_failover", "virtio_net"],
        );
    }

    #[test]
    fn dashes_and_underscores_are_one() {
        check("nft_odd", &["b", "a", "nft_odd"]);
    }

    #[test]
    fn an_unknown_module_needs_nothing() {
        check("ext4", &[]);
    }

    #[test]
    fn nonsense_is_skipped() {
        assert_eq!(
            Dependencies::parse("# a comment\n\nno colon here\n"),
            Dependencies::default()
        );
    }
}
