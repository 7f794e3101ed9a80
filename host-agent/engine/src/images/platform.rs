//! Platforms: `os/architecture[/variant]`, and which of several images fits one best.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What an image runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl From<&Platform> for dockerfile::arguments::PlatformNames {
    fn from(platform: &Platform) -> Self {
        Self {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
        }
    }
}

/// Go's names of processors that containers run on (containerd's platforms package, `isKnownArch`).
const ARCHITECTURES: [&str; 15] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
    "ppc64le", "riscv64", "s390x", "sparc64", "wasm",
];

impl Platform {
    /// The platform this program was built for, in Go's words, as OCI wants them.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "x86" => ("386", ""),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.into(),
        }
    }

    /// Reads `linux/arm/v7`, `linux/x86_64`, `amd64` or `linux`; what is missing is the host's.
    pub fn parse(text: &str) -> Option<Platform> {
        let parts: Vec<&str> = text.split('/').collect();
        let good = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        if !parts.iter().all(good) {
            return None;
        }
        let host = Platform::host();
        let platform = match parts.as_slice() {
            [one] if matches!(*one, "linux" | "windows" | "darwin" | "freebsd") => Platform {
                os: (*one).into(),
                ..host
            },
            // Alone it must be known: it could be either.
            [architecture] => {
                let platform = Platform {
                    architecture: (*architecture).into(),
                    variant: String::new(),
                    os: host.os,
                };
                let platform = platform.normalised();
                ARCHITECTURES
                    .contains(&platform.architecture.as_str())
                    .then_some(platform)?
            }
            [os, architecture] => Platform {
                os: (*os).into(),
                architecture: (*architecture).into(),
                variant: String::new(),
            },
            [os, architecture, variant] => Platform {
                os: (*os).into(),
                architecture: (*architecture).into(),
                variant: (*variant).into(),
            },
            _ => return None,
        };
        Some(platform.normalised())
    }

    /// [`Platform::parse`], or what is wrong with the text in the words of containerd's platforms package.
    pub fn parse_or_explain(text: &str) -> Result<Platform, String> {
        Platform::parse(text).ok_or_else(|| match text.contains('/') {
            false => {
                format!("{text:?}: unknown operating system or architecture: invalid argument")
            }
            true => format!(
                "{text:?} is an invalid OS/architecture: write linux/amd64 or linux/arm64/v8, for example"
            ),
        })
    }

    /// Whether what is built here without any emulation is for the other platform.
    pub fn is_built_as(&self, wanted: &Platform) -> bool {
        self.rank(wanted).is_some()
            && self.clone().normalised().architecture == wanted.clone().normalised().architecture
    }

    /// Whether an image counts as one for this platform. Many configurations leave out the variant (dockerd's
    /// `OnlyPlatformWithFallback`); one that says nothing fits.
    pub fn is_served_by(&self, image: &Platform) -> bool {
        if image.os.is_empty() || image.architecture.is_empty() {
            return true;
        }
        let (wanted, found) = (self.clone().normalised(), image.clone().normalised());
        let is_same = wanted.os == found.os && wanted.architecture == found.architecture;
        self.rank(image).is_some() || (image.variant.is_empty() && is_same)
    }

    /// Without the variant every processor of the architecture has: how Docker's messages name it.
    pub fn familiar(&self) -> String {
        let mut shown = self.clone().normalised();
        if matches!(
            (shown.architecture.as_str(), shown.variant.as_str()),
            ("arm64", "v8") | ("arm", "v7")
        ) {
            shown.variant.clear();
        }
        shown.to_string()
    }

    /// Other names of the same thing made one (containerd's platforms package, `database.go`).
    pub fn normalised(mut self) -> Platform {
        self.os = self.os.to_ascii_lowercase();
        self.architecture = self.architecture.to_ascii_lowercase();
        self.variant = self.variant.to_ascii_lowercase();
        match self.architecture.as_str() {
            "x86_64" | "x86-64" => self.architecture = "amd64".into(),
            "aarch64" => self.architecture = "arm64".into(),
            "i386" | "i686" => self.architecture = "386".into(),
            "armhf" => {
                self.architecture = "arm".into();
                self.variant = "v7".into();
            }
            "armel" => {
                self.architecture = "arm".into();
                self.variant = "v6".into();
            }
            _ => {}
        }
        match (self.architecture.as_str(), self.variant.as_str()) {
            ("arm64", "" | "8") => self.variant = "v8".into(),
            ("arm", "" | "7") => self.variant = "v7".into(),
            ("arm", number @ ("5" | "6" | "8")) => self.variant = format!("v{number}"),
            ("amd64", "v1") => self.variant.clear(),
            _ => {}
        }
        self
    }

    /// How well an image for `offered` runs here: `None` not at all, smaller is better. A machine runs what was built
    /// for its own variant or an earlier one (`arm/v7` runs `arm/v6`; `arm64` runs 32-bit `arm` and `amd64` runs `386` as
    /// the last choice, as containerd's matcher has it).
    pub fn rank(&self, offered: &Platform) -> Option<u32> {
        let wanted = self.clone().normalised();
        let offered = offered.clone().normalised();
        if wanted.os != offered.os {
            return None;
        }
        let level = |platform: &Platform| match platform.variant.trim_start_matches('v') {
            "" => Some(if platform.architecture == "arm" { 7 } else { 1 }),
            number => number.parse::<u32>().ok().filter(|level| *level < 100),
        };
        if wanted.architecture == offered.architecture {
            if wanted.variant == offered.variant {
                return Some(0);
            }
            return level(&wanted)?.checked_sub(level(&offered)?);
        }
        match (wanted.architecture.as_str(), offered.architecture.as_str()) {
            ("arm64", "arm") => Some(100 + 8u32.checked_sub(level(&offered)?)?),
            ("amd64", "386") => Some(100),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn rank(wanted: &str, offered: &str) -> Option<u32> {
        let parse = |text| Platform::parse(text).expect("a platform");
        parse(wanted).rank(&parse(offered))
    }

    #[test]
    fn the_own_variant_is_best_then_earlier_ones() {
        assert_eq!(rank("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(rank("linux/amd64", "linux/x86_64"), Some(0));
        assert_eq!(rank("linux/amd64", "linux/arm64"), None);
        assert_eq!(rank("linux/amd64", "linux/amd64/v3"), None);
        assert_eq!(rank("linux/amd64/v3", "linux/amd64"), Some(2));
        assert_eq!(rank("linux/arm/v7", "linux/arm/v7"), Some(0));
        assert_eq!(rank("linux/arm/v7", "linux/arm"), Some(0));
        assert_eq!(rank("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(rank("linux/arm64", "linux/arm64/v8"), Some(0));
        assert!(rank("linux/arm64", "linux/arm/v7") < rank("linux/arm64", "linux/arm/v6"));
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
        assert!(rank("linux/amd64", "linux/386") > rank("linux/amd64/v3", "linux/amd64"));
        assert_eq!(rank("linux/386", "linux/amd64"), None);
        let parse = |text| Platform::parse(text).expect("a platform");
        assert!(!parse("linux/amd64").is_built_as(&parse("linux/386")));
        assert!(parse("linux/amd64").is_built_as(&parse("linux/x86_64")));
    }

    #[test]
    fn an_image_that_leaves_out_its_variant_serves_every_one() {
        let arm = Platform {
            os: "linux".into(),
            architecture: "arm".into(),
            variant: String::new(),
        };
        let v6 = Platform::parse("linux/arm/v6").expect("good");
        let v7 = Platform::parse("linux/arm/v7").expect("good");
        assert!(v6.is_served_by(&arm) && v7.is_served_by(&v6) && !v6.is_served_by(&v7));
        assert!(v6.is_served_by(&Platform::default()));
        assert_eq!(v7.familiar(), "linux/arm");
        assert_eq!(v6.familiar(), "linux/arm/v6");
    }

    #[test]
    fn text_forms() {
        assert_eq!(
            Platform::parse("linux/arm64").expect("good").to_string(),
            "linux/arm64/v8"
        );
        assert_eq!(Platform::parse("armhf").expect("good").variant, "v7");
        assert_eq!(Platform::parse("foobar"), None);
        assert_eq!(Platform::parse(""), None);
        assert_eq!(Platform::parse("a/b/c/d"), None);
        assert_eq!(Platform::parse("linux/ä"), None);
    }
}
