//! What a volume may be called.

/// Says in Docker's words what is wrong with a name.
pub(super) fn check(name: &str) -> Result<(), String> {
    const ALLOWED: &str = "[a-zA-Z0-9][a-zA-Z0-9_.-]";
    if name.len() == 1 {
        return Err(
            "volume name is too short, names should be at least two alphanumeric characters".into(),
        );
    }
    // A name is part of a folder's name, which may have 255 bytes.
    if name.len() > 240 {
        return Err("volume name is too long, names have at most 240 characters".into());
    }
    let mut bytes = name.bytes();
    let good = bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if good {
        return Ok(());
    }
    Err(format!(
        "{name:?} includes invalid characters for a local volume name, only {ALLOWED:?} are allowed. If you intended to pass a host directory, use absolute path"
    ))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn names_are_words_without_separators() {
        for good in ["ab", "a.b-c_d", "0x", &"a".repeat(240)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a",
            "-ab",
            ".ab",
            "a b",
            "a/b",
            "ä1",
            "..",
            &"a".repeat(241),
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert_eq!(
            check("a b").unwrap_err(),
            "\"a b\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        );
    }
}
