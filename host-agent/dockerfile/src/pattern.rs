//! Wildcards: those of shell parameters (`${file%.*}`), of `COPY` sources and of `.dockerignore`.

/// A shell pattern over a string: `*` any characters, `?` one, the escape character takes the next as it is.
pub struct Wildcard(Vec<Token>);

/// Characters of a text times parts of a pattern, at most.
const WORK_MAX: usize = 32 << 20;

#[derive(Clone, Copy)]
enum Token {
    Any,
    One,
    Exactly(char),
}

impl Wildcard {
    pub fn new(pattern: &str, escape: char) -> Wildcard {
        let mut tokens = Vec::new();
        let mut characters = pattern.chars();
        while let Some(character) = characters.next() {
            tokens.push(match character {
                // Two of them are one.
                '*' if matches!(tokens.last(), Some(Token::Any)) => continue,
                '*' => Token::Any,
                '?' => Token::One,
                character if character == escape => {
                    Token::Exactly(characters.next().unwrap_or(escape))
                }
                character => Token::Exactly(character),
            });
        }
        Wildcard(tokens)
    }

    /// Whether it may be tried on a text: strangers choose both, and trying takes the product of both lengths.
    pub fn may_be_tried_on(&self, text: &str) -> bool {
        self.0.len().saturating_mul(text.len()) <= WORK_MAX
    }

    /// Byte offsets in `text` at which a match that starts at its beginning may end, ascending. Time is the product
    /// of both lengths, whatever the pattern.
    fn ends(&self, text: impl Iterator<Item = char>) -> Vec<usize> {
        let mut reached = vec![false; self.0.len() + 1];
        self.close(&mut reached, 0);
        let mut ends = Vec::new();
        let mut offset = 0;
        let mut rest = text;
        loop {
            if reached[self.0.len()] {
                ends.push(offset);
            }
            let Some(character) = rest.next() else { break };
            offset += character.len_utf8();
            let mut next = vec![false; self.0.len() + 1];
            for (at, token) in self.0.iter().enumerate() {
                if !reached[at] {
                    continue;
                }
                match token {
                    Token::Any => self.close(&mut next, at),
                    Token::One => self.close(&mut next, at + 1),
                    Token::Exactly(wanted) if *wanted == character => self.close(&mut next, at + 1),
                    Token::Exactly(_) => {}
                }
            }
            if !next.contains(&true) {
                break;
            }
            reached = next;
        }
        ends
    }

    /// Marks a position and those that follow it without a character.
    fn close(&self, reached: &mut [bool], mut at: usize) {
        reached[at] = true;
        while let Some(Token::Any) = self.0.get(at) {
            at += 1;
            reached[at] = true;
        }
    }

    /// The same pattern, read from its end.
    fn reversed(&self) -> Wildcard {
        Wildcard(self.0.iter().rev().copied().collect())
    }

    /// `text` without the shortest (or longest) beginning that matches.
    pub fn without_prefix<'t>(&self, text: &'t str, longest: bool) -> &'t str {
        let ends = self.ends(text.chars());
        let end = if longest { ends.last() } else { ends.first() };
        &text[end.copied().unwrap_or(0)..]
    }

    /// `text` without the shortest (or longest) ending that matches.
    pub fn without_suffix<'t>(&self, text: &'t str, longest: bool) -> &'t str {
        let lengths = self.reversed().ends(text.chars().rev());
        let length = if longest {
            lengths.last()
        } else {
            lengths.first()
        };
        &text[..text.len() - length.copied().unwrap_or(0)]
    }

    /// For each character of `text`, and its end: where the longest match that begins there ends, counted in characters.
    /// Found from the end on, so that time is the product of both lengths here, too.
    fn longest(&self, text: &[char]) -> Vec<Option<usize>> {
        let count = self.0.len();
        let mut longest = vec![None; text.len() + 1];
        // What the tokens from each one on reach, from the character after.
        let mut after: Vec<Option<usize>> = vec![None; count + 1];
        for at in (0..=text.len()).rev() {
            let mut here = vec![None; count + 1];
            here[count] = Some(at);
            for (number, token) in self.0.iter().enumerate().rev() {
                here[number] = match token {
                    Token::Any => here[number + 1].max(after[number]),
                    _ if at == text.len() => None,
                    Token::One => after[number + 1],
                    Token::Exactly(wanted) if *wanted == text[at] => after[number + 1],
                    Token::Exactly(_) => None,
                };
            }
            longest[at] = here[0];
            after = here;
        }
        longest
    }

    /// `text` with the first (or every) longest match replaced. Empty matches are left alone. `None`: it would be longer than
    /// `limit` bytes.
    pub fn replace(
        &self,
        text: &str,
        replacement: &str,
        all: bool,
        limit: usize,
    ) -> Option<String> {
        let characters: Vec<char> = text.chars().collect();
        let longest = self.longest(&characters);
        let mut replaced = String::new();
        let mut at = 0;
        let mut may_replace = true;
        while at < characters.len() {
            match longest[at] {
                Some(end) if end > at && may_replace => {
                    replaced.push_str(replacement);
                    at = end;
                    may_replace = all;
                }
                _ => {
                    replaced.push(characters[at]);
                    at += 1;
                }
            }
            if replaced.len() > limit {
                return None;
            }
        }
        Some(replaced)
    }
}

/// A pattern that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern {0:?}")]
pub struct PatternError(pub String);

/// A pattern over a path with `/` between its names, as Go's `filepath.Match` has them: `*` and `?` stay within one
/// name, `[a-z]` and `[^a-z]` are classes, `\` escapes; and `**` as a whole name stands for any number of names.
#[derive(Debug, Clone)]
pub struct PathPattern(Vec<Name>);

#[derive(Debug, Clone)]
enum Name {
    /// `**`
    AnyNames,
    One(Vec<Part>),
}

#[derive(Debug, Clone)]
enum Part {
    Any,
    One,
    Exactly(char),
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl PathPattern {
    /// Of a cleaned path: no empty names, no `.` and no `..`.
    pub fn new(pattern: &str) -> Result<PathPattern, PatternError> {
        pattern
            .split('/')
            .map(|name| match name {
                "**" => Ok(Name::AnyNames),
                name => parts(name)
                    .map(Name::One)
                    .ok_or_else(|| PatternError(pattern.to_owned())),
            })
            .collect::<Result<_, _>>()
            .map(PathPattern)
    }

    /// Whether `path` itself matches.
    pub fn matches(&self, path: &str) -> bool {
        self.reach(path).1
    }

    /// Whether `path` or a folder above it matches.
    pub fn covers(&self, path: &str) -> bool {
        self.reach(path).0
    }

    /// Whether something below `folder` could match.
    pub fn may_match_below(&self, folder: &str) -> bool {
        let mut reached = self.start();
        for name in folder.split('/') {
            reached = self.step(&reached, name);
        }
        reached[..self.0.len()].contains(&true)
    }

    fn start(&self) -> Vec<bool> {
        let mut reached = vec![false; self.0.len() + 1];
        self.close(&mut reached, 0);
        reached
    }

    /// (some beginning of the path that ends at a `/` or the path itself matches, the path itself matches)
    fn reach(&self, path: &str) -> (bool, bool) {
        let mut reached = self.start();
        let mut covered = false;
        for name in path.split('/') {
            reached = self.step(&reached, name);
            covered |= reached[self.0.len()];
            if !reached.contains(&true) {
                return (covered, false);
            }
        }
        (covered, reached[self.0.len()])
    }

    fn step(&self, reached: &[bool], name: &str) -> Vec<bool> {
        let mut next = vec![false; self.0.len() + 1];
        for (at, part) in self.0.iter().enumerate() {
            if !reached[at] {
                continue;
            }
            match part {
                Name::AnyNames => {
                    self.close(&mut next, at);
                    // A last `**` stands for at least one name.
                    if at + 1 == self.0.len() {
                        next[at + 1] = true;
                    }
                }
                Name::One(parts) => {
                    if name_matches(parts, name) {
                        self.close(&mut next, at + 1);
                    }
                }
            }
        }
        next
    }

    fn close(&self, reached: &mut [bool], mut at: usize) {
        reached[at] = true;
        while let Some(Name::AnyNames) = self.0.get(at) {
            at += 1;
            if at == self.0.len() {
                break;
            }
            reached[at] = true;
        }
    }
}

fn parts(name: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut characters = name.chars().peekable();
    while let Some(character) = characters.next() {
        parts.push(match character {
            '*' => {
                // `a**b` is `a*b`.
                while characters.next_if_eq(&'*').is_some() {}
                Part::Any
            }
            '?' => Part::One,
            '\\' => Part::Exactly(characters.next()?),
            '[' => {
                let negated = characters.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    let first = match characters.next()? {
                        ']' if !ranges.is_empty() => break,
                        ']' | '-' => return None,
                        '\\' => characters.next()?,
                        character => character,
                    };
                    let last = if characters.next_if_eq(&'-').is_some() {
                        match characters.next()? {
                            ']' | '-' => return None,
                            '\\' => characters.next()?,
                            character => character,
                        }
                    } else {
                        first
                    };
                    ranges.push((first, last));
                }
                Part::Class { negated, ranges }
            }
            character => Part::Exactly(character),
        });
    }
    Some(parts)
}

/// The usual walk with one point to come back to: the time is the product of both lengths at worst.
fn name_matches(parts: &[Part], name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    let (mut part, mut character) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while character < name.len() {
        let fits = match parts.get(part) {
            Some(Part::Any) => {
                back = Some((part, character));
                part += 1;
                continue;
            }
            Some(Part::One) => true,
            Some(Part::Exactly(wanted)) => *wanted == name[character],
            Some(Part::Class { negated, ranges }) => {
                let inside = ranges
                    .iter()
                    .any(|(first, last)| (first..=last).contains(&&name[character]));
                inside != *negated
            }
            None => false,
        };
        if fits {
            part += 1;
            character += 1;
        } else if let Some((any, from)) = back {
            back = Some((any, from + 1));
            part = any + 1;
            character = from + 1;
        } else {
            return false;
        }
    }
    parts[part..].iter().all(|part| matches!(part, Part::Any))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn path_patterns_match_as_gos_do() {
        for (pattern, path, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a", "a/b", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("a/*", "a/b", true),
            ("*.go", "main.go", true),
            ("*.go", "main.rs", false),
            ("a*b*c", "aXbYbZc", true),
            ("?", "ä", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[\\]a]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("**", "a/b/c", true),
            ("**/x", "x", true),
            ("**/x", "a/b/x", true),
            ("**/x", "a/bx", false),
            ("a/**", "a", false),
            ("a/**", "a/b/c", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/x/y/c", false),
            ("**/**/x", "x", true),
        ] {
            let read = PathPattern::new(pattern).unwrap();
            assert_eq!(read.matches(path), expected, "{pattern} on {path}");
        }
        for wrong in ["[", "[]", "[a", "[a-", "[-a]", "a\\", "[a-]"] {
            assert_eq!(
                PathPattern::new(wrong).unwrap_err().to_string(),
                format!("syntax error in pattern {wrong:?}")
            );
        }
    }

    #[test]
    fn a_folder_that_matches_covers_what_is_below() {
        let pattern = PathPattern::new("*/target").unwrap();
        assert!(pattern.covers("a/target/debug/x"));
        assert!(!pattern.covers("target/debug"));
        assert!(pattern.may_match_below("a"));
        assert!(!pattern.may_match_below("a/b"));
        assert!(PathPattern::new("**/x").unwrap().may_match_below("a/b/c"));
    }

    #[test]
    fn hostile_patterns_take_no_longer_than_their_lengths() {
        let long = "a".repeat(100_000);
        let pattern = Wildcard::new("*a*b", '\\');
        assert_eq!(pattern.without_suffix(&long, true), long);
        assert_eq!(
            pattern.replace(&long, "", true, long.len()).as_deref(),
            Some(&*long)
        );
        // Neither does the memory grow beyond the bound.
        let every = Wildcard::new("?", '\\');
        assert_eq!(every.replace(&long, &long, true, 1 << 20), None);
        assert!(!Wildcard::new(&"*a".repeat(50_000), '\\').may_be_tried_on(&long));
        let pattern = Wildcard::new(&"*a".repeat(200), '\\');
        assert_eq!(pattern.without_prefix(&"a".repeat(199), true).len(), 199);
        let name = PathPattern::new(&"*a".repeat(200)).unwrap();
        assert!(!name.matches(&"ab".repeat(1000)));
        let names = PathPattern::new("**/a/".repeat(50).trim_end_matches('/')).unwrap();
        assert!(!names.matches("a/b/".repeat(500).trim_end_matches('/')));
    }

    proptest! {
        #[test]
        fn an_escaped_path_matches_itself_and_nothing_else(path in "[a-z*?\\[\\]]{1,8}", other in "[a-z*?\\[\\]]{1,8}") {
            let escaped: String = path.chars().flat_map(|c| ['\\', c]).collect();
            let pattern = PathPattern::new(&escaped).unwrap();
            prop_assert!(pattern.matches(&path));
            prop_assert_eq!(pattern.matches(&other), path == other);
        }

        /// Patterns on which a matcher that tries everything would take for ever.
        #[test]
        fn a_pattern_of_many_stars_ends(pattern in "([ab]?\\*{1,2}/?){1,30}[ab]?", path in "[ab/]{0,300}") {
            if let Ok(pattern) = PathPattern::new(&pattern) {
                let _ = (pattern.matches(&path), pattern.covers(&path), pattern.may_match_below(&path));
            }
        }

        #[test]
        fn any_rules_of_a_dockerignore_end(text in "(!?[ab*?/\\[\\].\\\\#-]{0,8}\n){0,20}", path in "[ab/.]{0,20}") {
            if let Ok(rules) = crate::ignore::Ignore::parse(&text) {
                // What is left out with all below it is left out itself.
                prop_assert!(!rules.leaves_out_all_below(&path) || rules.leaves_out(&path));
            }
        }

        #[test]
        fn any_pattern_ends(pattern in ".{0,30}", path in ".{0,30}") {
            if let Ok(pattern) = PathPattern::new(&pattern) {
                let _ = (pattern.matches(&path), pattern.covers(&path), pattern.may_match_below(&path));
            }
        }
    }
}
