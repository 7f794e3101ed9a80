//! Chooses kernel modules. Debian's package has no `modules.dep` (its maintainer script makes it), so dependencies are
//! read from the modules themselves, and what `modprobe` needs is written here.

use crate::deb::{self, Entries, Entry};
use crate::elf;
use crate::recipe::ModulesRecipe;
use crate::tree::Tree;
use guest_contract::{MODULES_BOOT_LIST, MODULES_ENGINE_LIST};
use std::collections::{BTreeMap, BTreeSet};

/// Why the modules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModulesError {
    #[error("the package holds no folder usr/lib/modules/<release>")]
    NoModules,
    #[error("the kernel {release} has no module {name}{needed_by}", needed_by = .needed_by.as_ref().map(|by| format!(", which {by} needs")).unwrap_or_default())]
    Missing {
        release: String,
        name: String,
        needed_by: Option<String>,
    },
    #[error("the module {path} cannot be decompressed")]
    Decompress {
        path: String,
        source: std::io::Error,
    },
    #[error("the module {path} cannot be read: {why}")]
    Elf { path: String, why: String },
}

/// A chosen module.
#[derive(Debug)]
struct Module {
    /// Below the release's folder, uncompressed: `kernel/fs/overlayfs/overlay.ko`.
    path: String,
    data: Vec<u8>,
    depends: Vec<String>,
    /// Loaded before it where they exist. May be aliases, which are the kernel's business at run time.
    wishes: Vec<String>,
    aliases: Vec<String>,
}

/// The modules of one kernel that go into an image.
#[derive(Debug)]
pub(crate) struct Modules<'a> {
    /// `uname -r` of the kernel.
    pub(crate) release: String,
    /// Name -> where it is in the package.
    packed: BTreeMap<String, (&'a str, &'a [u8])>,
    built_in: BTreeSet<String>,
    built_in_text: Vec<u8>,
    chosen: BTreeMap<String, Module>,
}

impl<'a> Modules<'a> {
    /// Reads what a kernel package has.
    pub(crate) fn find(package: &'a Entries) -> Result<Modules<'a>, ModulesError> {
        const ROOT: &str = "usr/lib/modules/";
        let mut release = None;
        let mut packed = BTreeMap::new();
        let mut built_in_text = Vec::new();
        for (path, entry) in package {
            let Some((found, rest)) = path
                .strip_prefix(ROOT)
                .and_then(|path| path.split_once('/'))
            else {
                continue;
            };
            let Entry::File { data, .. } = entry else {
                continue;
            };
            release = Some(found.to_owned());
            if rest == "modules.builtin" {
                built_in_text.clone_from(data);
            } else if let Some(name) = module_name(rest) {
                packed.insert(name, (rest, data.as_slice()));
            }
        }
        let built_in = String::from_utf8_lossy(&built_in_text)
            .lines()
            .filter_map(module_name)
            .collect();
        Ok(Modules {
            release: release.ok_or(ModulesError::NoModules)?,
            packed,
            built_in,
            built_in_text,
            chosen: BTreeMap::new(),
        })
    }

    /// Adds a module and what it depends on; appends the names to `order`, dependencies first, each once.
    fn choose(
        &mut self,
        name: &str,
        needed_by: Option<&str>,
        order: &mut Vec<String>,
    ) -> Result<(), ModulesError> {
        let name = normal_name(name);
        if order.contains(&name) || self.built_in.contains(&name) {
            return Ok(());
        }
        if !self.chosen.contains_key(&name) {
            let Some(&(path, data)) = self.packed.get(&name) else {
                return Err(ModulesError::Missing {
                    release: self.release.clone(),
                    name,
                    needed_by: needed_by.map(str::to_owned),
                });
            };
            self.chosen.insert(name.clone(), Module::read(path, data)?);
        }
        for wish in self.chosen[&name].wishes.clone() {
            if self.packed.contains_key(&wish) {
                self.choose(&wish, Some(&name), order)?;
            }
        }
        for dependency in self.chosen[&name].depends.clone() {
            self.choose(&dependency, Some(&name), order)?;
        }
        order.push(name);
        Ok(())
    }

    /// Chooses a recipe's modules and writes them, their lists and modprobe's indices into the tree.
    pub(crate) fn install(
        mut self,
        recipe: &ModulesRecipe,
        tree: &mut Tree,
    ) -> Result<(), ModulesError> {
        let mut boot = Vec::new();
        for name in &recipe.boot {
            self.choose(name, None, &mut boot)?;
        }
        let mut engine = Vec::new();
        for name in &recipe.engine {
            self.choose(name, None, &mut engine)?;
        }
        engine.retain(|name| !boot.contains(name));
        for name in &recipe.available {
            self.choose(name, None, &mut Vec::new())?;
        }

        let folder = format!("usr/lib/modules/{}", self.release);
        let list = |names: &[String]| -> String {
            names
                .iter()
                .map(|name| format!("/{folder}/{}\n", self.chosen[name].path))
                .collect()
        };
        tree.file(contract_path(MODULES_BOOT_LIST), 0o644, list(&boot));
        tree.file(contract_path(MODULES_ENGINE_LIST), 0o644, list(&engine));

        let mut dependencies = String::new();
        let mut aliases = String::new();
        for (name, module) in &self.chosen {
            // modprobe loads the last one named first.
            let mut order = Vec::new();
            self.order_of(name, &mut order);
            dependencies += &format!("{}:", module.path);
            for dependency in order.iter().rev().skip(1) {
                dependencies += &format!(" {}", self.chosen[dependency].path);
            }
            dependencies.push('\n');
            for alias in &module.aliases {
                aliases += &format!("alias {alias} {name}\n");
            }
        }
        tree.file(format!("{folder}/modules.dep"), 0o644, dependencies);
        tree.file(format!("{folder}/modules.alias"), 0o644, aliases);
        tree.file(
            format!("{folder}/modules.builtin"),
            0o644,
            self.built_in_text,
        );
        for module in self.chosen.into_values() {
            tree.file(format!("{folder}/{}", module.path), 0o644, module.data);
        }
        Ok(())
    }

    /// A chosen module's load order: everything it needs, then itself.
    fn order_of(&self, name: &str, order: &mut Vec<String>) {
        if order.iter().any(|known| known == name) {
            return;
        }
        let module = &self.chosen[name];
        for dependency in module.wishes.iter().chain(&module.depends) {
            if self.chosen.contains_key(dependency) {
                self.order_of(dependency, order);
            }
        }
        order.push(name.to_owned());
    }
}

impl Module {
    fn read(path: &str, packed: &[u8]) -> Result<Module, ModulesError> {
        let mut data =
            deb::decompress(path, packed).map_err(|source| ModulesError::Decompress {
                path: path.to_owned(),
                source,
            })?;
        data.truncate(length_without_signature(&data));
        let info = elf::section(&data, ".modinfo").map_err(|why| ModulesError::Elf {
            path: path.to_owned(),
            why,
        })?;
        let mut depends = Vec::new();
        let mut wishes = Vec::new();
        let mut aliases = Vec::new();
        // NUL-ended `key=value` texts.
        for text in info.unwrap_or_default().split(|byte| *byte == 0) {
            let text = String::from_utf8_lossy(text);
            match text.split_once('=') {
                Some(("depends", names)) => {
                    depends.extend(
                        names
                            .split(',')
                            .filter(|name| !name.is_empty())
                            .map(normal_name),
                    );
                }
                Some(("softdep", soft)) => {
                    // `pre: a b post: c`
                    let words = soft.split_whitespace().skip_while(|word| *word != "pre:");
                    let before = words.skip(1).take_while(|word| *word != "post:");
                    wishes.extend(before.map(normal_name));
                }
                Some(("alias", alias)) => aliases.push(alias.to_owned()),
                _ => {}
            }
        }
        let end = path.find(".ko").map_or(path.len(), |dot| dot + 3);
        Ok(Module {
            path: path[..end].to_owned(),
            data,
            depends,
            wishes,
            aliases,
        })
    }
}

/// Length of a module without the signature appended to it. Checking the signatures took 0.6 s of the boot without KVM
/// (26 modules), for nothing: the digests of the modules were checked here, and whoever could change them in the image
/// could as well change the program that loads them. Debian's kernels load unsigned modules (MODULE_SIG_FORCE is off).
/// Layout: include/linux/module_signature.h.
fn length_without_signature(data: &[u8]) -> usize {
    const MARKER: &[u8] = b"~Module signature appended~\n";
    let trailer = data
        .strip_suffix(MARKER)
        .and_then(|data| data.split_last_chunk::<12>());
    let Some((signed, trailer)) = trailer else {
        return data.len();
    };
    let [.., a, b, c, d] = *trailer;
    let signature = u32::from_be_bytes([a, b, c, d]) as usize;
    // The key's identity stood before the signature in old kernels; both lengths are 0 since 4.3.
    let identity = usize::from(trailer[3]) + usize::from(trailer[4]);
    signed
        .len()
        .checked_sub(signature + identity)
        .unwrap_or(data.len())
}

/// `kernel/drivers/char/hw_random/virtio-rng.ko.xz` -> `virtio_rng`; `None` for other files.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (stem, ending) = file.split_once(".ko")?;
    ["", ".xz", ".gz", ".zst"]
        .contains(&ending)
        .then(|| normal_name(stem))
}

fn normal_name(name: &str) -> String {
    name.replace('-', "_")
}

/// A path of the guest contract as the tree names it.
fn contract_path(path: &str) -> String {
    path.trim_start_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_elf::module_elf;
    use crate::tree::Node;

    fn package() -> Entries {
        let module = |depends: &str, more: &str| Entry::File {
            mode: 0o644,
            data: module_elf(format!("license=GPL\0depends={depends}\0{more}\0").as_bytes()),
        };
        let text = |text: &str| Entry::File {
            mode: 0o644,
            data: text.into(),
        };
        let folder = "usr/lib/modules/6.12-test";
        [
            ("modules.builtin", text("kernel/fs/ext4/ext4.ko\n")),
            (
                "kernel/a/bridge.ko",
                module("stp,llc", "alias=rtnl-link-bridge"),
            ),
            ("kernel/a/stp.ko", module("llc", "")),
            ("kernel/a/llc.ko", module("", "")),
            ("kernel/a/br-netfilter.ko", module("bridge,ext4", "")),
            (
                "kernel/a/soft.ko",
                module("", "softdep=pre: llc an-alias post: stp"),
            ),
            ("kernel/a/broken.ko", module("absent", "")),
            ("kernel/a/unwanted.ko", module("", "")),
        ]
        .map(|(path, entry)| (format!("{folder}/{path}"), entry))
        .into()
    }

    fn recipe(boot: &[&str], engine: &[&str], available: &[&str]) -> ModulesRecipe {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        ModulesRecipe {
            boot: owned(boot),
            engine: owned(engine),
            available: owned(available),
        }
    }

    #[test]
    fn dependencies_are_found_and_ordered() {
        let package = package();
        let mut tree = Tree::default();
        Modules::find(&package)
            .unwrap()
            .install(
                &recipe(&["stp", "ext4"], &["br_netfilter"], &["soft"]),
                &mut tree,
            )
            .unwrap();
        let text = |path: &str| match tree.get(path) {
            Some(Node::File { data, .. }) => String::from_utf8(data.clone()).unwrap(),
            other => panic!("{path}: {other:?}"),
        };
        let lines = |path: &str| -> Vec<String> {
            let name = |line: &str| line.rsplit('/').next().unwrap().to_owned();
            text(path.trim_start_matches('/'))
                .lines()
                .map(name)
                .collect()
        };
        assert_eq!(lines(MODULES_BOOT_LIST), ["llc.ko", "stp.ko"]);
        assert_eq!(lines(MODULES_ENGINE_LIST), ["bridge.ko", "br-netfilter.ko"]);
        let folder = "usr/lib/modules/6.12-test";
        assert_eq!(
            text(&format!("{folder}/modules.dep")),
            "kernel/a/br-netfilter.ko: kernel/a/bridge.ko kernel/a/stp.ko kernel/a/llc.ko\n\
             kernel/a/bridge.ko: kernel/a/stp.ko kernel/a/llc.ko\n\
             kernel/a/llc.ko:\n\
             kernel/a/soft.ko: kernel/a/llc.ko\n\
             kernel/a/stp.ko: kernel/a/llc.ko\n"
        );
        assert_eq!(
            text(&format!("{folder}/modules.alias")),
            "alias rtnl-link-bridge bridge\n"
        );
        assert!(
            tree.get(&format!("{folder}/kernel/a/unwanted.ko"))
                .is_none()
        );
    }

    #[test]
    fn signatures_are_cut_off() {
        let mut signed = b"module".to_vec();
        signed.extend_from_slice(b"signature");
        signed.extend_from_slice(&[0, 0, 2, 0, 0, 0, 0, 0]);
        signed.extend_from_slice(&9u32.to_be_bytes());
        signed.extend_from_slice(b"~Module signature appended~\n");
        assert_eq!(length_without_signature(&signed), 6);
        assert_eq!(length_without_signature(b"module"), 6);
        let lies = signed.len() - 28 - 1;
        signed[lies] = 200;
        assert_eq!(length_without_signature(&signed), signed.len());
    }

    #[track_caller]
    fn check_missing(name: &str, expected: &str) {
        let package = package();
        let modules = Modules::find(&package).unwrap();
        let error = modules
            .install(&recipe(&[name], &[], &[]), &mut Tree::default())
            .unwrap_err();
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn missing_modules_are_named() {
        check_missing("none", "the kernel 6.12-test has no module none");
        check_missing(
            "broken",
            "the kernel 6.12-test has no module absent, which broken needs",
        );
        let empty = Entries::new();
        let error = Modules::find(&empty).unwrap_err();
        assert!(matches!(error, ModulesError::NoModules));
    }
}
