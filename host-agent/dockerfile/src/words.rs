//! Docker's word expansion: quotes, escapes and `$variables` in the arguments of a Dockerfile's instructions, as the
//! reference describes them ("Environment replacement") and BuildKit does them.

use crate::pattern::Wildcard;

/// What an expansion may be longer than its text, bytes: one argument or variable cannot be longer for the kernel
/// (MAX_ARG_STRLEN is 128 KiB), so that more is a mistake or an attack. A here-document may be long by itself.
pub const EXPANDED_MAX: usize = 256 * 1024;
/// `${a:-${b:-...}}` within each other.
const DEPTH_MAX: usize = 32;

/// Why a word cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordError {
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    #[error("unexpected end of statement while looking for matching {0}-quote")]
    OpenQuote(&'static str),
    #[error("unsupported modifier ({0}) in substitution")]
    Modifier(String),
    #[error("{name}: {message}")]
    Required { name: String, message: String },
    #[error("the expansion adds more than {EXPANDED_MAX} bytes, or takes too long")]
    TooLong,
    #[error("substitutions are nested deeper than {DEPTH_MAX}")]
    TooDeep,
}

/// What `$name` stands for; `None` where the variable is not set.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How to read a text.
#[derive(Clone, Copy)]
pub struct Expander<'a> {
    /// `\` or, by a parser directive, a backquote.
    pub escape: char,
    pub lookup: Lookup<'a>,
    /// Quotes are kept as they are: in here-documents.
    pub raw_quotes: bool,
}

impl Expander<'_> {
    /// One word: whitespace in it is kept.
    pub fn word(&self, text: &str) -> Result<String, WordError> {
        let mut reader = Reader::new(self, text);
        let (word, _) = reader.until(None, false)?;
        Ok(word)
    }

    /// Several words: unquoted whitespace parts them, also that of variables' values.
    pub fn words(&self, text: &str) -> Result<Vec<String>, WordError> {
        let mut reader = Reader::new(self, text);
        let (_, words) = reader.until(None, false)?;
        Ok(words)
    }
}

struct Reader<'a> {
    expander: &'a Expander<'a>,
    characters: std::iter::Peekable<std::str::Chars<'a>>,
    depth: usize,
    /// What a text may grow to, bytes.
    longest: usize,
}

/// Collects words while the whole text is collected beside it.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
    in_word: bool,
}

impl Words {
    fn split(&mut self, character: char) {
        if character.is_whitespace() {
            self.end();
        } else {
            self.keep(character);
        }
    }

    fn keep(&mut self, character: char) {
        self.current.push(character);
        self.in_word = true;
    }

    fn keep_all(&mut self, text: &str) {
        self.current.push_str(text);
        // An empty pair of quotes is a word too.
        self.in_word = true;
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.in_word) {
            self.done.push(std::mem::take(&mut self.current));
        }
    }
}

impl<'a> Reader<'a> {
    fn new(expander: &'a Expander<'a>, text: &'a str) -> Reader<'a> {
        Reader {
            expander,
            characters: text.chars().peekable(),
            depth: 0,
            longest: text.len() + EXPANDED_MAX,
        }
    }

    /// Reads up to `stop` (which is consumed) or to the end. `raw_escapes` keeps escape characters: patterns read them.
    fn until(
        &mut self,
        stop: Option<char>,
        raw_escapes: bool,
    ) -> Result<(String, Vec<String>), WordError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(WordError::TooDeep);
        }
        let mut text = String::new();
        let mut words = Words::default();
        loop {
            if text.len() > self.longest {
                return Err(WordError::TooLong);
            }
            let Some(character) = self.characters.next() else {
                if stop.is_some() {
                    return Err(WordError::MissingBrace);
                }
                break;
            };
            if Some(character) == stop {
                break;
            }
            match character {
                '\'' if !self.expander.raw_quotes => {
                    let quoted = self.single_quoted()?;
                    text.push_str(&quoted);
                    words.keep_all(&quoted);
                }
                '"' if !self.expander.raw_quotes => {
                    let quoted = self.double_quoted()?;
                    text.push_str(&quoted);
                    words.keep_all(&quoted);
                }
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|character| words.split(character));
                    text.push_str(&value);
                }
                character if character == self.expander.escape => {
                    if raw_escapes {
                        text.push(character);
                        words.keep(character);
                    }
                    // At the very end it stands for nothing.
                    if let Some(escaped) = self.characters.next() {
                        text.push(escaped);
                        words.keep(escaped);
                    }
                }
                character => {
                    text.push(character);
                    words.split(character);
                }
            }
        }
        self.depth -= 1;
        words.end();
        Ok((text, words.done))
    }

    fn single_quoted(&mut self) -> Result<String, WordError> {
        let mut text = String::new();
        loop {
            match self.characters.next() {
                None => return Err(WordError::OpenQuote("single")),
                Some('\'') => return Ok(text),
                Some(character) => text.push(character),
            }
        }
    }

    fn double_quoted(&mut self) -> Result<String, WordError> {
        let mut text = String::new();
        loop {
            if text.len() > self.longest {
                return Err(WordError::TooLong);
            }
            match self.characters.next() {
                None => return Err(WordError::OpenQuote("double")),
                Some('"') => return Ok(text),
                Some('$') => text.push_str(&self.dollar()?),
                Some(escape) if escape == self.expander.escape => match self.characters.peek() {
                    // Between double quotes only these can be escaped.
                    Some(&next) if next == '"' || next == '$' || next == escape => {
                        text.push(next);
                        self.characters.next();
                    }
                    _ => text.push(escape),
                },
                Some(character) => text.push(character),
            }
        }
    }

    /// What follows a `$`.
    fn dollar(&mut self) -> Result<String, WordError> {
        if self.characters.peek() != Some(&'{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok((self.expander.lookup)(&name).unwrap_or_default());
        }
        self.characters.next();
        match self.characters.peek() {
            None => return Err(WordError::MissingBrace),
            Some('{' | '}' | ':') => return Err(WordError::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        let mut modifier = String::new();
        let Some(mut operator) = self.characters.next() else {
            return Err(WordError::MissingBrace);
        };
        modifier.push(operator);
        let value = (self.expander.lookup)(&name);
        if operator == '}' {
            return Ok(value.unwrap_or_default());
        }
        let empty_is_unset = operator == ':';
        if empty_is_unset {
            operator = self.characters.next().ok_or(WordError::MissingBrace)?;
            modifier.push(operator);
        }
        let is_set = match &value {
            Some(value) => !(empty_is_unset && value.is_empty()),
            None => false,
        };
        match operator {
            '-' => {
                let (word, _) = self.until(Some('}'), false)?;
                Ok(if is_set {
                    value.unwrap_or_default()
                } else {
                    word
                })
            }
            '+' => {
                let (word, _) = self.until(Some('}'), false)?;
                Ok(if is_set { word } else { String::new() })
            }
            '?' => {
                let (word, _) = self.until(Some('}'), false)?;
                match value {
                    Some(value) if is_set => Ok(value),
                    value => Err(WordError::Required {
                        name,
                        message: match (word.is_empty(), value) {
                            (false, _) => word,
                            (true, None) => "is not allowed to be unset".to_owned(),
                            (true, Some(_)) => "is not allowed to be empty".to_owned(),
                        },
                    }),
                }
            }
            '#' | '%' if !empty_is_unset => {
                let greedy = self.characters.next_if_eq(&operator).is_some();
                let (pattern, _) = self.until(Some('}'), true)?;
                let pattern = Wildcard::new(&pattern, self.expander.escape);
                let value = value.unwrap_or_default();
                if !pattern.may_be_tried_on(&value) {
                    return Err(WordError::TooLong);
                }
                Ok(match operator {
                    '#' => pattern.without_prefix(&value, greedy).to_owned(),
                    _ => pattern.without_suffix(&value, greedy).to_owned(),
                })
            }
            '/' if !empty_is_unset => {
                let all = self.characters.next_if_eq(&'/').is_some();
                let (pattern, _) = self.until(Some('/'), true)?;
                let (replacement, _) = self.until(Some('}'), false)?;
                let pattern = Wildcard::new(&pattern, self.expander.escape);
                let value = value.unwrap_or_default();
                if !pattern.may_be_tried_on(&value) {
                    return Err(WordError::TooLong);
                }
                pattern
                    .replace(&value, &replacement, all, self.longest)
                    .ok_or(WordError::TooLong)
            }
            _ => Err(WordError::Modifier(modifier)),
        }
    }

    /// A variable's name: letters, digits and `_`; or digits alone; or one of the shell's special parameters.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.characters.peek() {
            Some(first) if first.is_ascii_digit() => {
                while let Some(digit) = self.characters.next_if(char::is_ascii_digit) {
                    name.push(digit);
                }
                return name;
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                name.extend(self.characters.next());
                return name;
            }
            _ => {}
        }
        while let Some(character) = self
            .characters
            .next_if(|character| character.is_alphanumeric() || *character == '_')
        {
            name.push(character);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lookup(name: &str) -> Option<String> {
        let value = match name {
            "PWD" => "/home",
            "EMPTY" => "",
            "WORDS" => "a  b",
            "FILE" => "archive.tar.gz",
            "PATH_" => "/usr/local/bin",
            "STAR" => "a*b",
            _ => return None,
        };
        Some(value.to_owned())
    }

    const EXPANDER: Expander<'static> = Expander {
        escape: '\\',
        lookup: &lookup,
        raw_quotes: false,
    };

    #[test]
    fn words_expand_as_docker_documents_them() {
        for (text, expected) in [
            ("hello", "hello"),
            ("he'll'o", "hello"),
            ("'single $PWD'", "single $PWD"),
            ("\"double $PWD\"", "double /home"),
            ("\"a\\\"b\"", "a\"b"),
            ("\"a\\b\"", "a\\b"),
            ("a\\ b", "a b"),
            ("\\$PWD", "$PWD"),
            ("$PWD", "/home"),
            ("${PWD}x", "/homex"),
            ("$PWDx", ""),
            ("he$", "he$"),
            ("$.", "$."),
            ("$?", ""),
            ("${NONE:-fall back}", "fall back"),
            ("${NONE-fall}", "fall"),
            ("${EMPTY-fall}", ""),
            ("${EMPTY:-fall}", "fall"),
            ("${NONE:-$PWD/x}", "/home/x"),
            ("${NONE:-${NONE2:-deep}}", "deep"),
            ("${PWD:+set}", "set"),
            ("${EMPTY:+set}", ""),
            ("${EMPTY+set}", "set"),
            ("${NONE+set}", ""),
            ("${PWD:?}", "/home"),
            ("${FILE%.*}", "archive.tar"),
            ("${FILE%%.*}", "archive"),
            ("${FILE#*.}", "tar.gz"),
            ("${FILE##*.}", "gz"),
            ("${FILE%.zip}", "archive.tar.gz"),
            ("${PATH_/bin/sbin}", "/usr/local/sbin"),
            ("${FILE//a/o}", "orchive.tor.gz"),
            ("${FILE/a/o}", "orchive.tar.gz"),
            ("${FILE//?r/--}", "--chive.t--.gz"),
            ("${STAR#a\\*}", "b"),
            ("${NONE#x}", ""),
            ("trailing\\", "trailing"),
        ] {
            assert_eq!(EXPANDER.word(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn words_split_at_whitespace_that_is_not_quoted() {
        for (text, expected) in [
            ("a b", vec!["a", "b"]),
            ("$WORDS", vec!["a", "b"]),
            ("\"$WORDS\"", vec!["a  b"]),
            ("'' x", vec!["", "x"]),
            ("a\\ b c", vec!["a b", "c"]),
            ("$NONE", vec![]),
        ] {
            assert_eq!(EXPANDER.words(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        for (text, expected) in [
            ("${", "syntax error: missing '}'"),
            ("${PWD", "syntax error: missing '}'"),
            ("${PWD:-x", "syntax error: missing '}'"),
            ("${}", "syntax error: bad substitution"),
            ("${:x}", "syntax error: bad substitution"),
            ("${PWD^}", "unsupported modifier (^) in substitution"),
            ("${PWD:=x}", "unsupported modifier (:=) in substitution"),
            ("${PWD:#x}", "unsupported modifier (:#) in substitution"),
            (
                "'x",
                "unexpected end of statement while looking for matching single-quote",
            ),
            (
                "\"x",
                "unexpected end of statement while looking for matching double-quote",
            ),
            ("${NONE?}", "NONE: is not allowed to be unset"),
            ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
            ("${NONE?say so}", "NONE: say so"),
        ] {
            assert_eq!(
                EXPANDER.word(text).unwrap_err().to_string(),
                expected,
                "{text}"
            );
        }
        let deep = format!("{}x{}", "${NONE:-".repeat(1000), "}".repeat(1000));
        assert_eq!(EXPANDER.word(&deep), Err(WordError::TooDeep));
        let big = |_: &str| Some("x".repeat(EXPANDED_MAX / 2));
        let expander = Expander {
            lookup: &big,
            ..EXPANDER
        };
        assert_eq!(expander.word("$a$b$c"), Err(WordError::TooLong));
    }

    #[test]
    fn here_documents_keep_their_quotes() {
        let expander = Expander {
            raw_quotes: true,
            ..EXPANDER
        };
        assert_eq!(
            expander.word("say \"$PWD\" 'x'").unwrap(),
            "say \"/home\" 'x'"
        );
        let long = "x".repeat(2 * EXPANDED_MAX);
        assert_eq!(expander.word(&long).as_ref(), Ok(&long));
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_an_end(text in ".{0,200}") {
            let _ = EXPANDER.word(&text);
            let _ = EXPANDER.words(&text);
        }

        /// Substitutions within substitutions, of variables that are long.
        #[test]
        fn no_expansion_is_longer_than_its_bound(
            text in "(\\$\\{?[ab][:+#%/-]{0,3}|\\$[ab]|[}'\"\\\\ x*?]){0,60}", long in 0usize..3_000,
        ) {
            let value = "x".repeat(long);
            let lookup = |name: &str| (name == "a").then(|| value.clone());
            for raw_quotes in [false, true] {
                let expander = Expander { escape: '\\', lookup: &lookup, raw_quotes };
                if let Ok(word) = expander.word(&text) {
                    prop_assert!(word.len() <= text.len() + EXPANDED_MAX);
                }
                if let Ok(words) = expander.words(&text) {
                    prop_assert!(words.iter().map(String::len).sum::<usize>() <= text.len() + EXPANDED_MAX);
                }
            }
        }

        #[test]
        fn nesting_ends(depth in 0usize..5_000, open in "\\$\\{a:-|\\$\\{b:\\+|\\$\\{a#") {
            let text = format!("{}{}", open.repeat(depth), "}".repeat(depth));
            let expanded = EXPANDER.word(&text);
            prop_assert!(depth < DEPTH_MAX || matches!(expanded, Ok(_) | Err(WordError::TooDeep)), "{expanded:?}");
        }

        #[test]
        fn a_quoted_text_stays_as_it_is(text in "[^']{0,50}") {
            prop_assert_eq!(EXPANDER.word(&format!("'{text}'")).unwrap(), text);
        }
    }
}
