//! `ARG`: which build arguments a stage may use, and what they are.

use std::collections::{BTreeMap, BTreeSet};

/// A platform as the predefined arguments have it (`TARGETPLATFORM`, `BUILDARCH` ...), in Go's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlatformNames {
    pub os: String,
    pub architecture: String,
    /// Empty, or `v7`.
    pub variant: String,
}

impl PlatformNames {
    fn joined(&self) -> String {
        let parts = [&self.os, &self.architecture, &self.variant];
        let given = parts.into_iter().filter(|part| !part.is_empty());
        given.cloned().collect::<Vec<_>>().join("/")
    }
}

/// May be given without an `ARG` and stay out of the history and the cache: proxies differ from place to place.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The build arguments as one stage sees them.
#[derive(Debug, Clone, Default)]
pub struct Arguments {
    /// `--build-arg`.
    given: BTreeMap<String, String>,
    /// `ARG` before the first `FROM`, and the platform's arguments.
    global: BTreeMap<String, Option<String>>,
    /// `ARG` in this stage.
    declared: BTreeMap<String, Option<String>>,
}

impl Arguments {
    /// For the part before the first `FROM`. `native` is the platform that builds.
    pub fn new(
        given: BTreeMap<String, String>,
        target: &PlatformNames,
        native: &PlatformNames,
    ) -> Arguments {
        let mut global = BTreeMap::new();
        for (prefix, platform) in [("TARGET", target), ("BUILD", native)] {
            for (name, value) in [
                ("PLATFORM", platform.joined()),
                ("OS", platform.os.clone()),
                ("ARCH", platform.architecture.clone()),
                ("VARIANT", platform.variant.clone()),
            ] {
                global.insert(format!("{prefix}{name}"), Some(value));
            }
        }
        Arguments {
            given,
            global,
            declared: BTreeMap::new(),
        }
    }

    /// An `ARG` before the first `FROM`.
    pub fn declare_global(&mut self, name: String, default: Option<String>) {
        // The platform's arguments have values of their own.
        if default.is_some() || !self.global.contains_key(&name) {
            self.global.insert(name, default);
        }
    }

    /// An `ARG` in a stage.
    pub fn declare(&mut self, name: String, default: Option<String>) {
        self.declared.insert(name, default);
    }

    /// For a new stage: nothing is declared yet.
    pub fn for_stage(&self) -> Arguments {
        Arguments {
            declared: BTreeMap::new(),
            ..self.clone()
        }
    }

    /// For a stage that goes on where another ended.
    pub fn inherit(&mut self, base: &Arguments) {
        self.declared.clone_from(&base.declared);
    }

    /// What a `FROM` may use.
    pub fn global(&self, name: &str) -> Option<String> {
        let default = self.global.get(name)?;
        self.given.get(name).cloned().or_else(|| default.clone())
    }

    /// What an instruction of the stage may use.
    pub fn get(&self, name: &str) -> Option<String> {
        let default = match self.declared.get(name) {
            Some(default) => default,
            None if PROXIES.contains(&name) => return self.given.get(name).cloned(),
            None => return None,
        };
        self.given
            .get(name)
            .or(default.as_ref())
            .or_else(|| self.global.get(name).and_then(Option::as_ref))
            .cloned()
    }

    /// Variables for a `RUN` beside those of `ENV` (whose names are in `taken`): all, and those that belong to the
    /// history and the cache.
    pub fn for_run(&self, taken: &BTreeSet<&str>) -> (Vec<String>, Vec<String>) {
        let declared = self.declared.keys().map(String::as_str);
        let names: BTreeSet<&str> = declared
            .chain(PROXIES)
            .filter(|name| !taken.contains(name))
            .collect();
        let mut all = Vec::new();
        let mut recorded = Vec::new();
        for name in names {
            let Some(value) = self.get(name) else {
                continue;
            };
            let variable = format!("{name}={value}");
            if self.declared.contains_key(name) {
                recorded.push(variable.clone());
            }
            all.push(variable);
        }
        (all, recorded)
    }

    /// Names that this stage and those it goes on from have declared.
    pub fn declared(&self) -> impl Iterator<Item = &str> {
        self.declared.keys().map(String::as_str)
    }
}

/// Names given by `--build-arg` that nothing declares: a spelling mistake, most often. Proxies and what the builder itself
/// reads need no `ARG`.
pub fn unused<'a>(
    given: impl IntoIterator<Item = &'a str>,
    declared: &BTreeSet<&str>,
) -> Vec<&'a str> {
    let needs_none = |name: &str| {
        PROXIES.contains(&name) || name == "SOURCE_DATE_EPOCH" || name.starts_with("BUILDKIT_")
    };
    given
        .into_iter()
        .filter(|name| !declared.contains(name) && !needs_none(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(given: &[(&str, &str)]) -> Arguments {
        let given = given
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        let platform = PlatformNames {
            os: "linux".into(),
            architecture: "arm".into(),
            variant: "v7".into(),
        };
        Arguments::new(given, &platform, &platform)
    }

    #[test]
    fn a_stage_sees_only_what_it_declares() {
        let mut arguments = arguments(&[("B", "given"), ("HTTP_PROXY", "p")]);
        arguments.declare_global("A".into(), Some("1".into()));
        arguments.declare_global("B".into(), Some("1".into()));
        assert_eq!(arguments.global("A").as_deref(), Some("1"));
        assert_eq!(arguments.global("B").as_deref(), Some("given"));
        let mut stage = arguments.for_stage();
        assert_eq!(stage.get("A"), None);
        stage.declare("A".into(), None);
        assert_eq!(stage.get("A").as_deref(), Some("1"));
        stage.declare("A".into(), Some("2".into()));
        assert_eq!(stage.get("A").as_deref(), Some("2"));
        stage.declare("B".into(), None);
        stage.declare("TARGETOS".into(), None);
        assert_eq!(stage.get("TARGETOS").as_deref(), Some("linux"));
        let (all, recorded) = stage.for_run(&BTreeSet::from(["A"]));
        assert_eq!(all, ["B=given", "HTTP_PROXY=p", "TARGETOS=linux"]);
        assert_eq!(recorded, ["B=given", "TARGETOS=linux"]);
        stage.declare("BUILDPLATFORM".into(), None);
        assert_eq!(stage.get("BUILDPLATFORM").as_deref(), Some("linux/arm/v7"));
        assert_eq!(stage.get("HTTP_PROXY").as_deref(), Some("p"));
        let given = ["B", "C", "no_proxy", "SOURCE_DATE_EPOCH"];
        assert_eq!(unused(given, &stage.declared().collect()), ["C"]);
        assert_eq!(unused(given, &BTreeSet::new()), ["B", "C"]);
    }
}
