//! Short licence names from a Debian package's copyright file.

use std::collections::BTreeSet;

/// Reads `usr/share/doc/<package>/copyright`: the `License:` fields of the machine-readable form
/// (debian.org/doc/packaging-manuals/copyright-format/1.0), else the licence files of /usr/share/common-licenses that an
/// older form refers to. Sorted; empty if it names none.
pub(crate) fn short_names(copyright: &str) -> Vec<String> {
    let mut names = BTreeSet::new();
    if copyright.trim_start().starts_with("Format:") {
        for line in copyright.lines() {
            let Some(value) = line.strip_prefix("License:") else {
                continue;
            };
            for part in value.split([',', '(', ')']) {
                for name in part.split(" or ").flat_map(|part| part.split(" and ")) {
                    let name = name.trim();
                    let name = name.split(" with ").next().unwrap_or(name).trim();
                    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && !name.contains(' ')
                    {
                        names.insert(name.to_owned());
                    }
                }
            }
        }
    } else {
        const FOLDER: &str = "/usr/share/common-licenses/";
        for (at, _) in copyright.match_indices(FOLDER) {
            let rest = &copyright[at + FOLDER.len()..];
            let end = rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '+')))
                .unwrap_or(rest.len());
            let name = rest[..end].trim_end_matches('.');
            if !name.is_empty() {
                names.insert(name.to_owned());
            }
        }
    }
    names.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(copyright: &str, expected: &[&str]) {
        assert_eq!(short_names(copyright), expected);
    }

    #[test]
    fn both_forms_are_read() {
        check(
            "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
             Files: *\nLicense: GPL-2+ and BSD-3-clause\n text\n\nFiles: lib/*\n\
             License: LGPL-2.1+ with exception or Expat\n\nLicense: GPL-2+\n words\n",
            &["BSD-3-clause", "Expat", "GPL-2+", "LGPL-2.1+"],
        );
        check(
            "This is Linux. See /usr/share/common-licenses/GPL-2.\n also `/usr/share/common-licenses/LGPL-2.1'",
            &["GPL-2", "LGPL-2.1"],
        );
        check("Public domain.", &[]);
    }
}
