//! Which repositories may be pulled from and pushed to: the administrator's `allow-pull`, `block-pull`, `allow-push` and
//! `block-push`, so that images stay where they should.
//!
//! A pattern is a full name `registry/repository` in which `*` stands for any characters and `?` for one; a pattern without
//! a slash is a registry: all it has. What a block pattern fits is refused; where there are allow patterns, what none of
//! them fits is refused, too.

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
        if let Some(pattern) = rules.block.iter().find(|pattern| fits(pattern, repository)) {
            return Err(Forbidden::Blocked {
                direction,
                repository: repository.to_string(),
                pattern: pattern.clone(),
            });
        }
        if !rules.allow.is_empty() && !rules.allow.iter().any(|pattern| fits(pattern, repository)) {
            return Err(Forbidden::NotAllowed {
                direction,
                repository: repository.to_string(),
                patterns: rules.allow.clone(),
            });
        }
        Ok(())
    }
}

fn fits(pattern: &str, repository: &Repository) -> bool {
    let name = repository.to_string().to_ascii_lowercase();
    let pattern = pattern.to_ascii_lowercase();
    // Docker Hub's other name.
    let pattern = match pattern.strip_prefix("index.docker.io") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("docker.io{rest}"),
        _ => pattern,
    };
    match pattern.contains('/') {
        true => matches(pattern.as_bytes(), name.as_bytes()),
        false => matches(
            pattern.as_bytes(),
            repository.domain().to_ascii_lowercase().as_bytes(),
        ),
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
