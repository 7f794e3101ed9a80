//! Everything of an image but the agent: it changes with the mirror and the recipe, seldom, and takes most of the work.
//! It is kept in the cache, so that a new agent makes a new image in moments.

use crate::archive::{Named, Package, Packages, names_of};
use crate::cache::{Cache, hex_sha256, write_whole};
use crate::deb::{self, Entry};
use crate::error::{BuildError, FileError};
use crate::fetch::Fetcher;
use crate::kernel::{self, KernelError};
use crate::licence;
use crate::modules::Modules;
use crate::progress::Progress;
use crate::recipe::{LoadedRecipe, Recipe};
use crate::tree::Tree;
use crate::userland::{self, Unpacked};
use guest_contract::manifest::PackageEntry;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub(crate) const KERNEL_FILE: &str = "vmlinux";
pub(crate) const ARCHIVE_FILE: &str = "base.cpio";
pub(crate) const LICENCES_FILE: &str = "licences.txt";
const DESCRIPTION_FILE: &str = "base.json";

/// A base in the cache: a folder with the three files above and their description.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) folder: PathBuf,
    pub(crate) description: Description,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) kernel_version: String,
    pub(crate) packages: Vec<PackageEntry>,
    /// File name -> sha256.
    pub(crate) files: BTreeMap<String, String>,
}

/// Where packages come from.
pub(crate) struct Archive<'a> {
    pub(crate) mirror: &'a str,
    pub(crate) suite: &'a str,
    /// The index, as the signed Release file names it.
    pub(crate) index: &'a Named,
}

impl Base {
    /// Takes the base from the cache, or makes it.
    pub(crate) fn get(
        recipe: &LoadedRecipe,
        archive: &Archive<'_>,
        fetcher: &Fetcher<'_>,
        cache: &Cache,
        progress: Progress,
    ) -> Result<Base, BuildError> {
        // All that decides about the bytes: this program, the recipe, and the index that names every package by digest.
        let key = hex_sha256(
            format!(
                "{} {} {}",
                env!("IMAGE_BUILDER_SOURCES"),
                hex_sha256(recipe.text.as_bytes()),
                archive.index.sha256
            )
            .as_bytes(),
        );
        let folder = cache.base(&key);
        if let Some(base) = Base::open(&folder) {
            return Ok(base);
        }
        remove_folder(&folder)?;
        let made = make(&recipe.recipe, archive, fetcher, progress)?;

        let parent = folder
            .parent()
            .expect("the cache names a folder in a folder");
        let staging = tempfile::tempdir_in(parent).map_err(FileError::on("write to", parent))?;
        let mut files = BTreeMap::new();
        for (name, data) in [
            (KERNEL_FILE, &made.kernel),
            (ARCHIVE_FILE, &made.archive),
            (LICENCES_FILE, &made.licences),
        ] {
            write_whole(&staging.path().join(name), data)?;
            files.insert(name.to_owned(), hex_sha256(data));
        }
        let description = Description {
            kernel_version: made.kernel_version,
            packages: made.packages,
            files,
        };
        let text = serde_json::to_vec_pretty(&description).expect("a description is plain data");
        write_whole(&staging.path().join(DESCRIPTION_FILE), &text)?;
        std::fs::rename(staging.keep(), &folder).map_err(FileError::on("write", &folder))?;
        Ok(Base {
            folder,
            description,
        })
    }

    /// `None` if there is none, or not a whole one. The digests of its files are checked when they are copied.
    fn open(folder: &Path) -> Option<Base> {
        let text = std::fs::read(folder.join(DESCRIPTION_FILE)).ok()?;
        Some(Base {
            folder: folder.to_owned(),
            description: serde_json::from_slice(&text).ok()?,
        })
    }

    /// Bytes of one of the files. `None` if the file is not what was once written; the base is then gone from the
    /// cache, and has to be made anew.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        let path = self.folder.join(name);
        let data = match std::fs::read(&path) {
            Ok(data) => data,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(FileError::on("read", &path)(error)),
        };
        if self.description.files.get(name) == Some(&hex_sha256(&data)) {
            return Ok(Some(data));
        }
        remove_folder(&self.folder)?;
        Ok(None)
    }
}

fn remove_folder(folder: &Path) -> Result<(), FileError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::on("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

struct Made {
    kernel_version: String,
    kernel: Vec<u8>,
    archive: Vec<u8>,
    licences: Vec<u8>,
    packages: Vec<PackageEntry>,
}

fn make(
    recipe: &Recipe,
    archive: &Archive<'_>,
    fetcher: &Fetcher<'_>,
    progress: Progress,
) -> Result<Made, BuildError> {
    let names: BTreeSet<&str> = recipe
        .packages
        .iter()
        .map(|package| &package.name)
        .chain(&recipe.libraries.packages)
        .chain([&recipe.kernel.package])
        .flat_map(|names| names_of(names))
        .collect();
    let index = fetcher.file(archive.mirror, archive.index)?;
    progress.step("Choosing packages");
    let ending = match index.as_slice() {
        [0xfd, b'7', ..] => ".xz",
        [0x1f, 0x8b, ..] => ".gz",
        _ => "",
    };
    let index = deb::decoder(ending, index.as_slice())
        .expect("the endings are decoder's own")
        .map_err(crate::archive::ArchiveError::Read)?;
    let packages = Packages::read(
        std::io::BufReader::with_capacity(256 * 1024, index),
        archive.suite,
        |name| names.contains(name) || name.starts_with("linux-image-"),
    )?;

    let mut tree = Tree::default();
    let mut credits = Credits::default();
    let get = |package: &Package, wanted: &dyn Fn(&str) -> bool| {
        let data = fetcher.file(archive.mirror, &package.file)?;
        // A package's copyright file may be under another package's name, when one is a link to the other.
        let is_copyright =
            |path: &str| path.starts_with("usr/share/doc/") && path.ends_with("/copyright");
        let entries = deb::unpack(&data, |path| wanted(path) || is_copyright(path));
        let entries = entries.map_err(|source| BuildError::Deb {
            package: package.name.clone(),
            source,
        })?;
        Ok::<_, BuildError>(Unpacked {
            name: package.name.clone(),
            entries,
        })
    };

    let package = packages.find_kernel(&recipe.kernel.package)?;
    let unpacked = get(package, &|path| {
        path.starts_with("boot/vmlinuz-") || path.starts_with("usr/lib/modules/")
    })?;
    progress.step("Unpacking the kernel and its modules");
    let kernel_error = |source| BuildError::Kernel {
        package: package.name.clone(),
        source,
    };
    let image = unpacked
        .entries
        .iter()
        .find_map(|(path, entry)| match entry {
            Entry::File { data, .. } if path.starts_with("boot/vmlinuz-") => Some(data),
            _ => None,
        });
    let image = image.ok_or_else(|| kernel_error(KernelError::NoImage))?;
    let kernel = kernel::uncompressed(image).map_err(kernel_error)?;
    let modules_error = |source| BuildError::Modules {
        package: package.name.clone(),
        source,
    };
    let modules = Modules::find(&unpacked.entries).map_err(modules_error)?;
    let kernel_version = modules.release.clone();
    modules
        .install(&recipe.kernel.modules, &mut tree)
        .map_err(modules_error)?;
    credits.add(package, &unpacked);

    progress.step("Unpacking the guest's programs");
    for wanted in &recipe.packages {
        let package = packages.find(&wanted.name)?;
        let unpacked = get(package, &|path| userland::is_wanted(wanted, path))?;
        userland::install_package(wanted, &unpacked, &mut tree)?;
        credits.add(package, &unpacked);
    }
    let mut libraries = Vec::new();
    for name in &recipe.libraries.packages {
        libraries.push(get(packages.find(name)?, &userland::is_library)?);
    }
    let used = userland::install_libraries(&libraries, &mut tree)?;
    for unpacked in &libraries {
        if used.contains(&unpacked.name) {
            credits.add(packages.find(&unpacked.name)?, unpacked);
        } else {
            progress.step(&format!(
                "note: nothing in the image needs the library package {}",
                unpacked.name
            ));
        }
    }
    userland::install_skeleton(recipe, &mut tree)?;

    let mut bytes = Vec::new();
    tree.write_cpio(&mut bytes)
        .expect("writing to memory fails for no reason of the disk");
    let (packages, licences) = credits.finish();
    Ok(Made {
        kernel_version,
        kernel,
        archive: bytes,
        licences,
        packages,
    })
}

/// The packages that are inside, and their copyright files, which have to go where the packages go.
#[derive(Default)]
struct Credits {
    packages: BTreeMap<String, PackageEntry>,
    /// Copyright text -> packages: several packages of one source have the same.
    texts: BTreeMap<String, BTreeSet<String>>,
}

impl Credits {
    fn add(&mut self, package: &Package, unpacked: &Unpacked) {
        let text: String = unpacked
            .entries
            .iter()
            .filter_map(|(path, entry)| match entry {
                Entry::File { data, .. } if path.ends_with("/copyright") => {
                    Some(String::from_utf8_lossy(data))
                }
                _ => None,
            })
            .collect();
        self.packages.insert(
            package.name.clone(),
            PackageEntry {
                name: package.name.clone(),
                version: package.version.clone(),
                sha256: package.file.sha256.clone(),
                licences: licence::short_names(&text),
            },
        );
        self.texts
            .entry(text)
            .or_default()
            .insert(package.name.clone());
    }

    fn finish(self) -> (Vec<PackageEntry>, Vec<u8>) {
        let mut texts: Vec<_> = self.texts.into_iter().collect();
        texts.sort_by(|left, right| left.1.cmp(&right.1));
        let mut joined = String::from(
            "This image contains programs of Debian. Their copyright files follow; their sources are in Debian's\n\
             archive, under the versions that manifest.json names.\n",
        );
        for (text, names) in texts {
            let names: Vec<_> = names.into_iter().collect();
            joined += &format!("\n==== {} ====\n\n{text}", names.join(", "));
        }
        (self.packages.into_values().collect(), joined.into_bytes())
    }
}
