//! Which repositories may be pulled from and pushed to: the administrator's `allow-pull`, `block-pull`, `allow-push` and
//! `block-push`, so that images stay where they should.
//!
//! A pattern is a full name `registry/repository` in which `*` stands for any characters and `?` for one; a pattern without
//! a slash is a registry: all it has. What a block pattern fits is refused; where there are allow patterns, what none of
//! them fits is refused, too.
//!
//! What counts is where a name leads and not how it is written: port 443 is the same as none, `10.1` is 10.0.0.1, and
//! Docker Hub is `docker.io` by each of its host names. Names are not resolved: another name in the DNS is another
//! registry here.

use super::Repository;
use crate::error::{Class, Classify};
use std::fmt;

/// What may be done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Pull,
    Push,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Pull => "pull",
            Direction::Push => "push",
        })
    }
}

/// The patterns of one direction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    pub allow: Vec<String>,
    pub block: Vec<String>,
}

/// All of them. Without patterns everything is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    pub pull: Rules,
    pub push: Rules,
}

/// A pattern that can fit nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid {rule} pattern {pattern:?}: write registry or registry/repository, with * for any characters"
)]
pub struct PatternError {
    pub rule: String,
    pub pattern: String,
}

/// The rule that forbids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    #[error(
        "{direction}ing {repository} is not allowed on this engine: block-{direction} {pattern:?} forbids it"
    )]
    Blocked {
        direction: Direction,
        repository: String,
        pattern: String,
    },
    #[error(
        "{direction}ing {repository} is not allowed on this engine: it fits no allow-{direction} pattern ({})",
        patterns.join(", ")
    )]
    NotAllowed {
        direction: Direction,
        repository: String,
        patterns: Vec<String>,
    },
}

impl Classify for Forbidden {
    fn class(&self) -> Class {
        Class::Denied
    }
}

impl Policy {
    /// Refuses patterns that can fit nothing: a rule with a slip in it must not look like protection.
    pub fn check(&self) -> Result<(), PatternError> {
        for (rule, patterns) in [
            ("allow-pull", &self.pull.allow),
            ("block-pull", &self.pull.block),
            ("allow-push", &self.push.allow),
            ("block-push", &self.push.block),
        ] {
            for pattern in patterns {
                let good = |byte: u8| {
                    byte.is_ascii_lowercase()
                        || byte.is_ascii_digit()
                        || b"*?._-/:[]".contains(&byte)
                };
                // Registries may have upper-case letters; paths may not.
                let is_good = !pattern.is_empty()
                    && !pattern.contains("://")
                    && !pattern.starts_with('/')
                    && !pattern.ends_with('/')
                    && pattern
                        .split_once('/')
                        .map_or("", |(_, path)| path)
                        .bytes()
                        .all(good)
                    && pattern.bytes().all(|byte| byte.is_ascii_graphic())
                    && !pattern.contains('@');
                if !is_good {
                    return Err(PatternError {
                        rule: rule.into(),
                        pattern: pattern.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Whether the rules let something be done with a repository.
    pub fn permit(&self, direction: Direction, repository: &Repository) -> Result<(), Forbidden> {
        let rules = match direction {
            Direction::Pull => &self.pull,
            Direction::Push => &self.push,
        };
        let names = Names::of(repository);
        if let Some(pattern) = rules.block.iter().find(|pattern| names.fit(pattern, true)) {
            return Err(Forbidden::Blocked {
                direction,
                repository: repository.to_string(),
                pattern: pattern.clone(),
            });
        }
        if !rules.allow.is_empty() && !rules.allow.iter().any(|pattern| names.fit(pattern, false)) {
            return Err(Forbidden::NotAllowed {
                direction,
                repository: repository.to_string(),
                patterns: rules.allow.clone(),
            });
        }
        Ok(())
    }
}

/// Docker Hub's registry and its other host names.
const HUB: [&str; 5] = [
    "docker.io",
    "index.docker.io",
    "registry-1.docker.io",
    "registry.hub.docker.com",
    "registry.docker.io",
];

/// A registry as it may be written, its first spelling the shortest.
fn spellings(registry: &str) -> Vec<String> {
    // What the client makes of it, for example of `0x0a.99.1` or of a port with zeros before it.
    let Some(url) = url::Url::parse(&format!("https://{registry}/")).ok() else {
        return vec![registry.to_ascii_lowercase()];
    };
    let host = match url.host() {
        Some(url::Host::Ipv6(address)) => match address.to_ipv4_mapped() {
            Some(address) => address.to_string(),
            None => format!("[{address}]"),
        },
        Some(other) => other.to_string(),
        None => return vec![registry.to_ascii_lowercase()],
    };
    match url.port() {
        Some(port) => vec![format!("{host}:{port}")],
        None if HUB.contains(&host.as_str()) => {
            let mut all = vec![HUB[0].to_owned(), format!("{}:443", HUB[0])];
            all.extend((host != HUB[0]).then_some(host));
            all
        }
        None => vec![host.clone(), format!("{host}:443")],
    }
}

/// A repository as it may be written.
struct Names {
    registries: Vec<String>,
    /// An insecure registry is also asked at port 80: one that must not be asked must not be asked there.
    without_port: Option<String>,
    path: String,
}

impl Names {
    fn of(repository: &Repository) -> Names {
        let registries = spellings(repository.domain());
        let is_hub = registries[0] == HUB[0];
        Names {
            without_port: registries[0].strip_suffix(":80").map(str::to_owned),
            // By another of its names the Hub's official images may be asked for without their folder.
            path: match repository.path() {
                path if is_hub && !path.contains('/') => format!("library/{path}"),
                path => path.to_owned(),
            },
            registries,
        }
    }

    fn fit(&self, pattern: &str, is_block: bool) -> bool {
        let (registry, path) = match pattern.split_once('/') {
            Some((registry, path)) => (registry, Some(path)),
            None => (pattern, None),
        };
        let registry = match registry.contains(['*', '?']) {
            true => registry.to_ascii_lowercase(),
            false => spellings(registry).swap_remove(0),
        };
        let other = self.without_port.as_ref().filter(|_| is_block);
        self.registries.iter().chain(other).any(|ours| match path {
            Some(path) => matches(
                format!("{registry}/{path}").as_bytes(),
                format!("{ours}/{}", self.path).as_bytes(),
            ),
            None => matches(registry.as_bytes(), ours.as_bytes()),
        })
    }
}

/// `*` is any characters, `?` one.
fn matches(mut pattern: &[u8], mut text: &[u8]) -> bool {
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.first(), text.first()) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                pattern = &pattern[1..];
                retry = Some((pattern, text));
                continue;
            }
            (Some(wanted), Some(byte)) if wanted == byte || *wanted == b'?' => {
                pattern = &pattern[1..];
                text = &text[1..];
                continue;
            }
            _ => {}
        }
        match retry {
            Some((behind_star, [_, rest @ ..])) => {
                retry = Some((behind_star, rest));
                (pattern, text) = (behind_star, rest);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str], block: &[&str]) -> Policy {
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Policy {
            push: Rules {
                allow: list(allow),
                block: list(block),
            },
            ..Policy::default()
        }
    }

    #[track_caller]
    fn check(allow: &[&str], block: &[&str], name: &str, is_permitted: bool) {
        let repository = Repository::parse(name).expect("a good name");
        let outcome = policy(allow, block).permit(Direction::Push, &repository);
        assert_eq!(outcome.is_ok(), is_permitted, "{name}: {outcome:?}");
    }

    #[test]
    fn patterns_allow_and_block() {
        check(&[], &[], "alpine", true);
        check(&["corp.example/*"], &[], "alpine", false);
        check(&["corp.example/*"], &[], "corp.example/team/thing", true);
        check(&["corp.example"], &[], "corp.example/team/thing", true);
        check(&["corp.example"], &[], "corp.example.evil.org/thing", false);
        check(&["*.corp.example:*"], &[], "a.corp.example:5000/x", true);
        check(&[], &["docker.io"], "alpine", false);
        check(&[], &["index.docker.io/library/*"], "alpine", false);
        check(&[], &["docker.io/library/*"], "me/thing", true);
        check(&["*"], &["*/secret*"], "ghcr.io/a/secret-thing", false);
        check(&[], &["GHCR.io"], "ghcr.io/a", false);
        check(&[], &["ghcr.io/a?c"], "ghcr.io/abc", false);
    }

    #[test]
    fn another_spelling_of_a_registry_is_the_same_registry() {
        for name in [
            "registry-1.docker.io/me/x",
            "registry-1.docker.io:443/me/x",
            "docker.io:443/me/x",
            "index.docker.io:0443/me/x",
            "registry.hub.docker.com/me/x",
            "Docker.IO/me/x",
        ] {
            check(&[], &["docker.io"], name, false);
            check(&[], &["docker.io/me/*"], name, false);
            check(&[], &["registry-1.docker.io"], name, false);
            check(&["docker.io"], &[], name, true);
        }
        check(
            &[],
            &["docker.io/library/*"],
            "registry-1.docker.io/alpine",
            false,
        );
        for name in [
            "secret.example:443/a",
            "secret.example:80/a",
            "SECRET.example/a",
        ] {
            check(&[], &["secret.example"], name, false);
        }
        check(&[], &["secret.example:443"], "secret.example/a", false);
        check(&["secret.example"], &[], "secret.example:443/a", true);
        // Another port may be another registry.
        check(&["secret.example"], &[], "secret.example:80/a", false);
        check(&[], &["secret.example"], "secret.example:5000/a", true);
        check(&[], &["*:5000"], "secret.example/a", true);
        check(&[], &["*:443"], "secret.example/a", false);
        for name in [
            "10.99.0.1:5443/r",
            "10.99.1:5443/r",
            "10.99.1:05443/r",
            "012.99.1:5443/r",
            "0x0a.0x630001:5443/r",
            "[::ffff:a63:1]:5443/r",
        ] {
            check(&[], &["10.99.0.1:5443"], name, false);
            check(&[], &["10.99.1:5443"], name, false);
            check(&["10.99.0.1:5443/r"], &[], name, true);
        }
        check(&[], &["[::1]:5000"], "[0:0:0::1]:5000/r", false);
    }

    #[test]
    fn the_message_names_the_rule() {
        let name = Repository::parse("ghcr.io/a/b").expect("good");
        let text = |policy: Policy| {
            policy
                .permit(Direction::Push, &name)
                .expect_err("refused")
                .to_string()
        };
        assert_eq!(
            text(policy(&[], &["ghcr.io/*"])),
            "pushing ghcr.io/a/b is not allowed on this engine: block-push \"ghcr.io/*\" forbids it"
        );
        assert_eq!(
            text(policy(&["a.b", "c.d/*"], &[])),
            "pushing ghcr.io/a/b is not allowed on this engine: it fits no allow-push pattern (a.b, c.d/*)"
        );
    }

    #[test]
    fn patterns_with_a_slip_are_refused() {
        for bad in [
            "",
            "https://ghcr.io/*",
            "/x",
            "ghcr.io/",
            "ghcr.io/A",
            "a b",
            "x/y@sha256",
        ] {
            assert!(policy(&[], &[bad]).check().is_err(), "{bad}");
        }
        assert!(policy(&["*", "[::1]:5000/*"], &["a.b/c-?"]).check().is_ok());
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_hangs_or_panics(pattern in "[*?a/.]{0,20}", text in "[a/.]{0,60}") {
            let _ = matches(pattern.as_bytes(), text.as_bytes());
        }
    }
}
