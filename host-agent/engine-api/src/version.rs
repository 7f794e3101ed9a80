//! Versions of the Engine API, and everything that depends on them.
//!
//! A handler never compares numbers: what an older client must get differently is a method of [`ApiVersion`] here, named
//! after the difference.

use std::fmt;

/// A version as in `/v1.51/...`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    pub major: u16,
    pub minor: u16,
}

impl ApiVersion {
    /// The oldest we answer, as Docker 28 does.
    pub const MINIMUM: ApiVersion = ApiVersion {
        major: 1,
        minor: 24,
    };
    /// The newest we know; also what a request without a version gets.
    pub const MAXIMUM: ApiVersion = ApiVersion {
        major: 1,
        minor: 51,
    };

    /// The first with mounts of images.
    pub const IMAGE_MOUNTS: ApiVersion = ApiVersion {
        major: 1,
        minor: 48,
    };

    /// Reads `1.51`.
    pub fn parse(text: &str) -> Option<ApiVersion> {
        let (major, minor) = text.split_once('.')?;
        let number = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        };
        Some(ApiVersion {
            major: number(major)?,
            minor: number(minor)?,
        })
    }

    /// Says in Docker's words why this version is not served; `Ok` where it is.
    pub fn check(self) -> Result<ApiVersion, String> {
        if self < Self::MINIMUM {
            return Err(format!(
                "client version {self} is too old. Minimum supported API version is {}, please upgrade your client to a newer version",
                Self::MINIMUM
            ));
        }
        if self > Self::MAXIMUM {
            return Err(format!(
                "client version {self} is too new. Maximum supported API version is {}",
                Self::MAXIMUM
            ));
        }
        Ok(self)
    }

    /// Whether this is at least `1.<minor>`. For the methods below; handlers call those.
    fn since(self, minor: u16) -> bool {
        self >= ApiVersion { major: 1, minor }
    }

    /// From 1.42 a multiplexed attach stream has a content type of its own.
    pub fn names_multiplexed_streams(self) -> bool {
        self.since(42)
    }

    /// Before 1.44, `/images/json` and image inspect had `VirtualSize`.
    pub fn has_virtual_size(self) -> bool {
        !self.since(44)
    }

    /// Before 1.42, `/volumes/prune` took named volumes as well as anonymous ones.
    pub fn prunes_named_volumes(self) -> bool {
        !self.since(42)
    }

    /// Before 1.49, `/info` said which commits of its programs dockerd expected.
    pub fn shows_expected_commits(self) -> bool {
        !self.since(49)
    }

    /// Before 1.50, `/info` had `BridgeNfIptables` and `BridgeNfIp6tables`.
    pub fn shows_bridge_netfilter(self) -> bool {
        !self.since(50)
    }

    /// Up to 1.41 (dockerd 20.10) every exec that could not be started had the exit code 126; later 127 stands for a program
    /// that is not there, as it does for a container's.
    pub fn tells_missing_programs_of_execs(self) -> bool {
        self.since(42)
    }

    /// Before 1.45, image inspect had `Container` and `ContainerConfig`.
    pub fn shows_containers_of_images(self) -> bool {
        !self.since(45)
    }

    /// Before 1.28, `/networks` said of every network who is connected; later only the inspection of one does.
    pub fn lists_connected_containers(self) -> bool {
        !self.since(28)
    }

    /// From 1.30 a build tells the id of its image (`aux`).
    pub fn tells_built_image(self) -> bool {
        self.since(30)
    }

    /// From 1.42 an entry of the build cache has `Parents`; before, `Parent`.
    pub fn lists_cache_parents(self) -> bool {
        self.since(42)
    }

    /// From 1.42 a client says with `type` what `/system/df` counts; before, it was always everything.
    pub fn selects_disk_usage(self) -> bool {
        self.since(42)
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers_not_as_text() {
        let version = |text| ApiVersion::parse(text).expect("a version");
        assert!(version("1.9") < version("1.24"));
        assert!(version("2.0") > version("1.51"));
        for bad in ["", "1", "1.", ".5", "1.x", "v1.2", "1.+5", "1.99999"] {
            assert_eq!(ApiVersion::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn unserved_versions_are_refused_in_dockers_words() {
        let refusal = |text| ApiVersion::parse(text).expect("a version").check();
        assert_eq!(
            refusal("1.99").unwrap_err(),
            "client version 1.99 is too new. Maximum supported API version is 1.51"
        );
        assert_eq!(
            refusal("1.1").unwrap_err(),
            "client version 1.1 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"
        );
        assert!(refusal("1.24").is_ok());
        assert!(refusal("1.51").is_ok());
    }
}
