//! `.dockerignore`: which files of a context are left out. The rules are Docker's, which are not git's: patterns are
//! relative to the context's root, the last one that matches decides, and `!` takes files back in.

use crate::pattern::{PathPattern, PatternError};

/// The rules of one file.
#[derive(Debug, Clone, Default)]
pub struct Ignore(Vec<Rule>);

#[derive(Debug, Clone)]
struct Rule {
    pattern: PathPattern,
    /// `!pattern`
    takes_back: bool,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    #[error("illegal exclusion pattern: \"!\"")]
    Nothing,
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

impl Ignore {
    /// Reads the text of a `.dockerignore`.
    pub fn parse(text: &str) -> Result<Ignore, IgnoreError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let patterns = text.lines().filter(|line| !line.starts_with('#'));
        Ignore::of(patterns)
    }

    /// From patterns, one each, as `COPY --exclude` has them too.
    pub fn of<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Ignore, IgnoreError> {
        let mut rules = Vec::new();
        for line in patterns {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let (takes_back, pattern) = match line.strip_prefix('!') {
                Some(pattern) => (true, pattern.trim()),
                None => (false, line),
            };
            if pattern.is_empty() {
                return Err(IgnoreError::Nothing);
            }
            let pattern = clean(pattern);
            // `.` and `..` name the context itself or nothing in it: Docker's lines of that kind do nothing.
            if pattern.is_empty() || pattern == ".." || pattern.starts_with("../") {
                continue;
            }
            rules.push(Rule {
                pattern: PathPattern::new(&with_whole_stars(&pattern))?,
                takes_back,
            });
        }
        Ok(Ignore(rules))
    }

    /// Whether a file or folder is left out. `path` is relative, clean, with `/`.
    pub fn leaves_out(&self, path: &str) -> bool {
        self.0.iter().fold(false, |left_out, rule| {
            if left_out == rule.takes_back && rule.pattern.covers(path) {
                !left_out
            } else {
                left_out
            }
        })
    }

    /// Whether nothing below a folder that is left out can be taken back in, so that it need not be looked into.
    pub fn leaves_out_all_below(&self, folder: &str) -> bool {
        self.leaves_out(folder)
            && !self
                .0
                .iter()
                .any(|rule| rule.takes_back && rule.pattern.may_match_below(folder))
    }

    /// There are no rules.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `**` in front of a name, as moby's pattern matcher reads it: any folders, and where the pattern is nothing but that and
/// plain text, any beginning of the name, too.
fn with_whole_stars(pattern: &str) -> String {
    let is_ending = pattern
        .strip_prefix("**")
        .is_some_and(|rest| !rest.starts_with('/') && !rest.contains(['*', '?', '[', '\\']));
    if is_ending && pattern != "**" {
        return format!("**/*{}", &pattern[2..]);
    }
    let names = pattern
        .split('/')
        .map(|name| match name.strip_prefix("**") {
            Some(rest) if !rest.trim_matches('*').is_empty() => format!("**/{rest}"),
            _ => name.to_owned(),
        });
    names.collect::<Vec<_>>().join("/")
}

/// Go's `filepath.Clean` without the leading slash: no empty names, no `.`; `..` takes the name before it away.
pub fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => match names.last() {
                Some(&last) if last != ".." => {
                    names.pop();
                }
                _ if path.starts_with('/') => {}
                _ => names.push(".."),
            },
            name => names.push(name),
        }
    }
    names.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, path: &str, expected: bool) {
        let ignore = Ignore::parse(text).unwrap();
        assert_eq!(ignore.leaves_out(path), expected, "{text:?} on {path}");
    }

    #[test]
    fn dockers_examples() {
        check("*/temp*", "somedir/temporary.txt", true);
        check("*/temp*", "somedir/temp/deep/file", true);
        check("*/temp*", "temporary.txt", false);
        check("*/*/temp*", "somedir/subdir/temporary.txt", true);
        check("temp?", "tempa", true);
        check("temp?", "temp", false);
        check("**/*.go", "a/b/c.go", true);
        check("**/*.go", "c.go", true);
        check("*.md\n!README.md", "README.md", false);
        check(
            "*.md\n!README*.md\nREADME-secret.md",
            "README-secret.md",
            true,
        );
        check(
            "*.md\nREADME-secret.md\n!README*.md",
            "README-secret.md",
            false,
        );
        check("**.txt", "a/b/c.txt", true);
        check("**.txt", "c.txt", true);
        check("**.txt", "c.txt.gz", false);
        check("**.txt", "a.txt/below", true);
        check("**b/c", "a/bb/c", true);
        check("a/**.txt", "a/b/c.txt", false);
        check("a/**.txt", "a/b/.txt", true);
        check("***.txt", "a/b/c.txt", true);
        check("**.t?t", "a/b.txt", false);
        check("**", "a/b", true);
        check("/foo/bar", "foo/bar", true);
        check("foo/bar/", "foo/bar/x", true);
        check("./a//b/../c", "a/c", true);
        check("# comment\n\n  spaced  ", "spaced", true);
        check("\u{feff}first", "first", true);
        check(".", "anything", false);
        check("*\n!src/keep", "src/keep", false);
        check("*\n!src/keep", "src/other", true);
    }

    #[test]
    fn folders_are_skipped_only_when_nothing_is_taken_back() {
        let ignore = Ignore::parse("node_modules\n*\n!src/keep").unwrap();
        assert!(ignore.leaves_out_all_below("node_modules"));
        assert!(!ignore.leaves_out_all_below("src"));
        assert!(ignore.leaves_out("src"));
    }

    #[test]
    fn a_wrong_line_is_told() {
        assert_eq!(
            Ignore::parse("a\n!").unwrap_err().to_string(),
            "illegal exclusion pattern: \"!\""
        );
        assert_eq!(
            Ignore::parse("[").unwrap_err().to_string(),
            "syntax error in pattern \"[\""
        );
    }

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, expected) in [
            ("/a/b", "a/b"),
            ("a/../b", "b"),
            ("../a", "../a"),
            ("/../a", "a"),
            ("a/./b//c/", "a/b/c"),
            (".", ""),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }
}
