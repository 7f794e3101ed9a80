//! Docker's rules for the paths of `docker cp`. They are only about text; what a path leads to is the kernel's matter.

/// Absolute and without `.` and `..`, but with a slash or `/.` at its end where `path` has it: they say that a folder is
/// meant, or only what is in it (moby `archive.PreserveTrailingDotOrSeparator`).
pub(super) fn absolute(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    let mut result = format!("/{}", parts.join("/"));
    if base(path) == "." && !path.is_empty() {
        if !result.ends_with('/') {
            result.push('/');
        }
        result.push('.');
    }
    if path.ends_with('/') && !result.ends_with('/') {
        result.push('/');
    }
    result
}

/// The last part, without slashes at the end; `/` for the root.
pub(super) fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit('/').next() {
        Some("") | None => "/",
        Some(name) => name,
    }
}

/// The folder (with its slash) and the last name of an absolute path that ends with a name.
pub(super) fn split(path: &str) -> (&str, &str) {
    let slash = path.rfind('/').map_or(0, |slash| slash + 1);
    path.split_at(slash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(path: &str, clean: &str, name: &str) {
        let absolute = absolute(path);
        assert_eq!(
            (absolute.as_str(), base(&absolute)),
            (clean, name),
            "{path:?}"
        );
    }

    /// The cases of moby's integration test TestCopyFromContainer, and some more.
    #[test]
    fn paths_are_cleaned_as_docker_does() {
        check("/", "/", "/");
        check(".", "/.", ".");
        check("/.", "/.", ".");
        check("./", "/./", ".");
        check("/./", "/./", ".");
        check("/bar/root", "/bar/root", "root");
        check("/bar/root/", "/bar/root/", "root");
        check("/bar/root/.", "/bar/root/.", ".");
        check("bar//quux/../baz", "/bar/baz", "baz");
        check("../../etc/passwd", "/etc/passwd", "passwd");
        check("/..", "/", "/");
        check("a/..", "/", "/");
    }

    proptest! {
        #[test]
        fn no_path_keeps_its_dots(path in "[a./]{0,20}") {
            let absolute = absolute(&path);
            prop_assert!(absolute.starts_with('/'));
            prop_assert!(absolute.split('/').all(|part| part != ".."));
        }
    }
}
