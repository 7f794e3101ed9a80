//! Resource limits of a process: the one list of their names.

use serde::{Deserialize, Serialize};

/// A resource limit; the name is lower-case without `RLIMIT_`, for example `nofile`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    pub name: String,
    pub soft: u64,
    pub hard: u64,
}

impl Rlimit {
    /// The limits Linux has (setrlimit(2)), by the names of the OCI runtime specification. `docker run --ulimit` knows all
    /// of them but `as`, which other clients of the API may ask for.
    pub const NAMES: [&'static str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];

    /// A limit in Docker's numbers, where -1 is without limit; the error is Docker's sentence.
    pub fn checked(name: &str, soft: i64, hard: i64) -> Result<Rlimit, String> {
        let name = name.to_ascii_lowercase();
        if !Self::NAMES.contains(&name.as_str()) {
            return Err(format!("invalid ulimit type: {name}"));
        }
        if hard >= 0 && soft < 0 {
            return Err(format!(
                "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {hard}"
            ));
        }
        if hard >= 0 && soft > hard {
            return Err(format!(
                "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
            ));
        }
        let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
        Ok(Rlimit {
            name,
            soft: number(soft),
            hard: number(hard),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(name: &str, soft: u64, hard: u64) -> Result<Rlimit, String> {
        Ok(Rlimit {
            name: name.to_owned(),
            soft,
            hard,
        })
    }

    #[test]
    fn minus_one_is_without_limit() {
        assert_eq!(Rlimit::checked("nofile", 1, 2), limit("nofile", 1, 2));
        assert_eq!(
            Rlimit::checked("CORE", -1, -1),
            limit("core", u64::MAX, u64::MAX)
        );
        assert_eq!(Rlimit::checked("as", 5, -1), limit("as", 5, u64::MAX));
    }

    #[test]
    fn contradictions_and_unknown_names_are_refused_in_dockers_words() {
        for (name, soft, hard, why) in [
            ("files", 1, 1, "invalid ulimit type: files"),
            (
                "nofile",
                2,
                1,
                "ulimit soft limit must be less than or equal to hard limit: 2 > 1",
            ),
            (
                "nofile",
                -1,
                1,
                "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: 1",
            ),
        ] {
            assert_eq!(Rlimit::checked(name, soft, hard), Err(why.to_owned()));
        }
    }
}
