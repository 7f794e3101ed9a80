//! Recipes: which packages, files and kernel modules make an image.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The recipes that are compiled in, by name.
pub const BUILT_IN: &[(&str, &str)] = &[("berth", include_str!("../recipes/berth.toml"))];

/// A recipe file. Unknown keys are refused: a misspelt one would otherwise be dropped in silence.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    pub name: String,
    /// `x86_64`; the name Rust and the manifest use, not Debian's.
    pub architecture: String,
    /// Debian suites in order of preference: the first one that the mirror has is used.
    pub suites: Vec<String>,
    /// Component of the archive, `main`.
    pub component: String,
    pub kernel: KernelRecipe,
    pub packages: Vec<PackageRecipe>,
    pub libraries: LibrariesRecipe,
    /// Program in `/usr/bin` -> further names for it in `/usr/bin`.
    #[serde(default)]
    pub links: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct KernelRecipe {
    pub package: String,
    pub command_line: String,
    pub modules: ModulesRecipe,
}

/// Module names; `-` and `_` mean the same. Dependencies are added.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ModulesRecipe {
    /// Listed in `guest_contract::MODULES_BOOT_LIST`.
    pub boot: Vec<String>,
    /// Listed in `guest_contract::MODULES_ENGINE_LIST`.
    pub engine: Vec<String>,
    /// In the image for `modprobe`.
    pub available: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PackageRecipe {
    /// A package, or several as `a | b`: the first one that exists.
    pub name: String,
    /// Absolute paths; the last component may hold one `*`. Each must match something.
    pub files: Vec<String>,
    /// Write the files, in the order of their names, into this one file instead.
    pub concatenate: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LibrariesRecipe {
    /// Packages to take needed shared libraries from.
    pub packages: Vec<String>,
}

/// Why there is no recipe.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("there is no recipe {0:?}: neither a built-in one ({known}) nor a readable file", known = built_in_names())]
    Unknown(String),
    #[error("cannot read the recipe {path}", path = .path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the recipe {name} is not valid")]
    Parse {
        name: String,
        source: toml::de::Error,
    },
    #[error("the recipe {name} is not valid: {why}")]
    Invalid { name: String, why: String },
}

fn built_in_names() -> String {
    let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// A recipe and the text it was read from; the text is part of the cache key of what is made from it.
#[derive(Debug, Clone)]
pub struct LoadedRecipe {
    pub recipe: Recipe,
    pub text: String,
}

impl LoadedRecipe {
    /// Finds a recipe: a built-in name, else a path.
    pub fn find(name_or_path: &str) -> Result<LoadedRecipe, RecipeError> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_path) {
            return LoadedRecipe::parse(name, text);
        }
        let path = Path::new(name_or_path);
        match std::fs::read_to_string(path) {
            Ok(text) => LoadedRecipe::parse(name_or_path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(RecipeError::Unknown(name_or_path.to_owned()))
            }
            Err(source) => Err(RecipeError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Reads and checks a recipe; `name` is used in messages only.
    pub fn parse(name: &str, text: &str) -> Result<LoadedRecipe, RecipeError> {
        let recipe: Recipe = toml::from_str(text).map_err(|source| RecipeError::Parse {
            name: name.to_owned(),
            source,
        })?;
        let invalid = |why: &str| RecipeError::Invalid {
            name: name.to_owned(),
            why: why.to_owned(),
        };
        if recipe.architecture != "x86_64" {
            return Err(invalid(
                "the only architecture this builder can make is \"x86_64\"",
            ));
        }
        if recipe.suites.is_empty() {
            return Err(invalid("`suites` is empty"));
        }
        let file_paths = recipe.packages.iter().flat_map(|package| &package.files);
        let targets = recipe
            .packages
            .iter()
            .filter_map(|package| package.concatenate.as_ref());
        for path in file_paths.chain(targets) {
            if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
                return Err(invalid(&format!(
                    "{path:?} is not an absolute path without `..`"
                )));
            }
        }
        Ok(LoadedRecipe {
            recipe,
            text: text.to_owned(),
        })
    }
}

impl Recipe {
    /// Debian's name of the architecture.
    pub(crate) fn debian_architecture(&self) -> &'static str {
        match self.architecture.as_str() {
            "x86_64" => "amd64",
            other => unreachable!("LoadedRecipe::parse refuses {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_recipes_are_valid() {
        for (name, _) in BUILT_IN {
            let loaded = LoadedRecipe::find(name).unwrap();
            assert_eq!(&loaded.recipe.name, name);
            assert!(
                !loaded.recipe.kernel.command_line.contains('\n'),
                "a command line is one line: {:?}",
                loaded.recipe.kernel.command_line
            );
        }
    }

    #[track_caller]
    fn check_refused(edit: impl Fn(String) -> String, expected: &str) {
        let error = LoadedRecipe::parse("test", &edit(BUILT_IN[0].1.to_owned())).unwrap_err();
        let text = format!("{error} {:?}", std::error::Error::source(&error));
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn faulty_recipes_are_refused() {
        check_refused(|text| text.replace("suites =", "suite ="), "unknown field");
        check_refused(|text| text.replace("x86_64", "riscv64"), "architecture");
        check_refused(
            |text| text.replace("/usr/sbin/nft", "/usr/../nft"),
            "absolute path",
        );
        check_refused(|text| text.replace("/usr/sbin/nft", "nft"), "absolute path");
        let error = LoadedRecipe::find("no-such-recipe").unwrap_err();
        assert!(error.to_string().contains("berth"), "{error}");
    }
}
