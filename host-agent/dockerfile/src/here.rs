//! Here-documents of `RUN`, `COPY` and `ADD` (`<<EOF` ... `EOF`).
//!
//! The Dockerfile parser reads only those that begin a command. They are taken out of the text before it sees it: the
//! bodies are blanked and the markers made plain words, byte for byte as long as before, so that every span it reports
//! is also one of the original text. So it goes with `ENTRYPOINT []`, which takes an image's entry point away and which
//! the parser refuses, and with quoted blanks in flags, which the parser takes for their ends.

use std::ops::Range;

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HereDocument {
    /// The word after `<<`, without quotes: the file's name where it is copied.
    pub name: String,
    pub content: String,
    /// Variables in it are expanded: the word was not quoted.
    pub expand: bool,
    /// Where its marker (`<<EOF`) is in the Dockerfile, bytes.
    pub marker: Range<usize>,
    /// From the body's first byte to the end of the line that ends it.
    pub body: Range<usize>,
}

/// A here-document without its last line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unterminated {
    pub name: String,
    /// Byte offset of the marker.
    pub at: usize,
}

/// A Dockerfile without its here-documents.
#[derive(Debug)]
pub struct Masked {
    /// As long as the original.
    pub text: String,
    /// In the order of their markers.
    pub documents: Vec<HereDocument>,
}

/// Takes the here-documents out of a Dockerfile.
pub fn mask(text: &str, escape: char) -> Result<Masked, Unterminated> {
    let mut bytes = text.as_bytes().to_vec();
    let mut documents = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let (line, next) = logical_line(text, at, escape);
        at = next;
        if let Some(brackets) = empty_entrypoint(text, line.clone()) {
            bytes[brackets].fill(b'_');
        }
        for blank in blanks_in_flags(text, line.clone(), escape) {
            bytes[blank] = b'_';
        }
        for marker in markers(text, line) {
            let mut content = String::new();
            let body_start = at;
            loop {
                if at >= text.len() {
                    return Err(Unterminated {
                        name: marker.name,
                        at: marker.span.start,
                    });
                }
                let end = text[at..]
                    .find('\n')
                    .map_or(text.len(), |length| at + length + 1);
                let mut body_line = &text[at..end];
                if marker.strip_tabs {
                    body_line = body_line.trim_start_matches('\t');
                }
                at = end;
                if body_line.trim_end_matches(['\n', '\r']) == marker.name {
                    break;
                }
                content.push_str(body_line);
            }
            bytes[marker.at_signs.clone()].fill(b'_');
            for byte in &mut bytes[body_start..at] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
            documents.push(HereDocument {
                name: marker.name,
                content,
                expand: marker.expand,
                marker: marker.span,
                body: body_start..at,
            });
        }
    }
    Ok(Masked {
        text: String::from_utf8(bytes).expect("whole characters were replaced"),
        documents,
    })
}

/// The line at `at` with those that continue it, and where the next one begins. Empty for comments.
fn logical_line(text: &str, at: usize, escape: char) -> (Range<usize>, usize) {
    let mut end = at;
    let mut first = true;
    loop {
        let line_end = text[end..]
            .find('\n')
            .map_or(text.len(), |length| end + length + 1);
        let line = text[end..line_end].trim();
        let is_comment = line.starts_with('#');
        if first && (is_comment || line.is_empty()) {
            return (at..at, line_end);
        }
        end = line_end;
        let goes_on = is_comment || line.ends_with(escape) || (line.is_empty() && !first);
        first = false;
        if !goes_on || end >= text.len() {
            return (at..end, end);
        }
    }
}

/// Where blanks belong to the value of a flag, because they are quoted or escaped (moby/buildkit, `split_command.go`).
fn blanks_in_flags(text: &str, line: Range<usize>, escape: char) -> Vec<usize> {
    let bytes = text[line.clone()].as_bytes();
    let mut at = 0;
    let skip = |at: &mut usize, fits: &dyn Fn(u8) -> bool| {
        while bytes.get(*at).is_some_and(|byte| fits(*byte)) {
            *at += 1;
        }
    };
    let is_blank = |byte: u8| byte.is_ascii_whitespace();
    // Lines go on only behind an escape character.
    let is_gap = |byte: u8| is_blank(byte) || char::from(byte) == escape;
    for _ in 0..2 {
        skip(&mut at, &is_gap);
        let start = at;
        skip(&mut at, &|byte| byte.is_ascii_alphabetic());
        let keyword = &bytes[start..at];
        let is = |name: &str| keyword.eq_ignore_ascii_case(name.as_bytes());
        if is("ONBUILD") {
            continue;
        }
        if !["RUN", "COPY", "ADD", "HEALTHCHECK", "FROM"]
            .into_iter()
            .any(is)
        {
            return Vec::new();
        }
        break;
    }
    let mut found = Vec::new();
    loop {
        skip(&mut at, &is_gap);
        if !bytes[at..].starts_with(b"--") {
            return found;
        }
        let mut quote = None;
        while let Some(byte) = bytes.get(at) {
            match (quote, *byte) {
                (Some(open), byte) if byte == open => quote = None,
                (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
                (_, b'\\') => {
                    at += 1;
                    if matches!(bytes.get(at), Some(b' ' | b'\t')) {
                        found.push(line.start + at);
                    }
                }
                (Some(_), b' ' | b'\t') => found.push(line.start + at),
                (None, byte) if is_blank(byte) => break,
                _ => {}
            }
            at += 1;
        }
        at = at.min(bytes.len());
    }
}

/// The brackets of `ENTRYPOINT []`.
fn empty_entrypoint(text: &str, line: Range<usize>) -> Option<Range<usize>> {
    let rest = text[line.clone()].trim_start();
    let keyword = rest.get(.."ENTRYPOINT".len())?;
    let array = rest[keyword.len()..].trim();
    if !keyword.eq_ignore_ascii_case("ENTRYPOINT") || !is_empty_array(array) {
        return None;
    }
    let start = line.start + text[line].rfind('[')?;
    Some(start..start + array.len())
}

/// `[]`, also with blanks in it.
pub fn is_empty_array(text: &str) -> bool {
    let inside = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inside.is_some_and(|inside| inside.bytes().all(|byte| byte == b' '))
}

struct Marker {
    name: String,
    expand: bool,
    strip_tabs: bool,
    /// `0<<-"EOF"`
    span: Range<usize>,
    /// `<<`
    at_signs: Range<usize>,
}

/// The markers of one logical line, if it is of an instruction that takes here-documents.
fn markers(text: &str, line: Range<usize>) -> Vec<Marker> {
    let mut words = words(&text[line.clone()]).peekable();
    let is = |word: Option<&(usize, &str)>, names: &[&str]| {
        word.is_some_and(|(_, word)| names.iter().any(|name| word.eq_ignore_ascii_case(name)))
    };
    if is(words.peek(), &["ONBUILD"]) {
        words.next();
    }
    if !is(words.peek(), &["RUN", "COPY", "ADD"]) {
        return Vec::new();
    }
    words
        .skip(1)
        .filter_map(|(at, word)| marker(word, line.start + at))
        .collect()
}

/// `[digits]<<[-]word`
fn marker(word: &str, at: usize) -> Option<Marker> {
    let sign = word.find("<<")?;
    if !word[..sign].bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let rest = &word[sign + 2..];
    let strip_tabs = rest.starts_with('-');
    let quoted = rest.strip_prefix('-').unwrap_or(rest);
    let name: String = quoted
        .chars()
        .filter(|c| !matches!(c, '"' | '\''))
        .collect();
    if name.is_empty() || quoted.contains('<') {
        return None;
    }
    Some(Marker {
        expand: name == quoted,
        name,
        strip_tabs,
        span: at..at + word.len(),
        at_signs: at + sign..at + sign + 2,
    })
}

/// Words with their offsets; a quoted part belongs to its word.
fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut escaped = false;
    for (at, character) in line.char_indices() {
        match quote {
            Some(open) => {
                if character == open && !escaped {
                    quote = None;
                }
                escaped = character == '\\' && open == '"' && !escaped;
            }
            None if character.is_whitespace() => {
                escaped = false;
                if let Some(start) = start.take() {
                    words.push((start, &line[start..at]));
                }
            }
            None => {
                start.get_or_insert(at);
                if matches!(character, '"' | '\'') && !escaped {
                    quote = Some(character);
                }
                escaped = character == '\\' && !escaped;
            }
        }
    }
    if let Some(start) = start {
        words.push((start, &line[start..]));
    }
    words.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contents(text: &str) -> Vec<(String, String, bool)> {
        mask(text, '\\')
            .unwrap()
            .documents
            .into_iter()
            .map(|document| (document.name, document.content, document.expand))
            .collect()
    }

    fn one(name: &str, content: &str, expand: bool) -> (String, String, bool) {
        (name.to_owned(), content.to_owned(), expand)
    }

    #[test]
    fn documents_are_found_where_docker_finds_them() {
        assert_eq!(
            contents("RUN <<EOF\necho $x\nEOF\n"),
            [one("EOF", "echo $x\n", true)]
        );
        assert_eq!(
            contents("run cat <<'EOF' >/x\na\nEOF"),
            [one("EOF", "a\n", false)]
        );
        assert_eq!(contents("RUN <<-E\n\t\ta\n\tE\n"), [one("E", "a\n", true)]);
        assert_eq!(
            contents("COPY <<a.txt <<\"b.txt\" /dir/\n1\na.txt\n2\nb.txt\nRUN x\n"),
            [one("a.txt", "1\n", true), one("b.txt", "2\n", false)]
        );
        assert_eq!(
            contents("ONBUILD RUN 3<<E x\ny\nE\n"),
            [one("E", "y\n", true)]
        );
        assert_eq!(
            contents("RUN a \\\n # note\n\n <<E\nb\nE\n"),
            [one("E", "b\n", true)]
        );
        assert_eq!(
            contents("RUN <<E\n# no comment\nE\n"),
            [one("E", "# no comment\n", true)]
        );
        for without in [
            "CMD <<EOF\n",
            "RUN echo \"a <<EOF\"\n",
            "RUN echo a<<EOF\n",
            "RUN cat <<<word\n",
            "# RUN <<EOF\n",
            "RUN x << EOF\n",
        ] {
            assert_eq!(contents(without), [], "{without}");
        }
    }

    #[test]
    fn what_is_left_is_as_long_and_has_no_document() {
        let text = "FROM x\nRUN cat <<EOF | sh\nFROM ünsinn\nEOF\nCMD y\n";
        let masked = mask(text, '\\').unwrap();
        assert_eq!(masked.text.len(), text.len());
        assert_eq!(
            masked.text,
            "FROM x\nRUN cat __EOF | sh\n            \n   \nCMD y\n"
        );
    }

    #[test]
    fn quoted_blanks_of_flags_are_no_ends() {
        for (text, expected) in [
            ("RUN --a=\"b c\" 'd e'\n", "RUN --a=\"b_c\" 'd e'\n"),
            (
                "run --a='b  c' --d=e\\ f g h\n",
                "run --a='b__c' --d=e\\_f g h\n",
            ),
            (
                "ONBUILD COPY --a \\\n --b=\"\\\" c\" d e\n",
                "ONBUILD COPY --a \\\n --b=\"\\\"_c\" d e\n",
            ),
            ("CMD --a=\"b c\"\n", "CMD --a=\"b c\"\n"),
            ("RUN --a=\"b \\", "RUN --a=\"b_\\"),
        ] {
            assert_eq!(mask(text, '\\').unwrap().text, expected, "{text}");
        }
    }

    #[test]
    fn a_document_without_end_is_told() {
        let error = mask("FROM x\nRUN <<EOF\nabc\n", '\\').unwrap_err();
        assert_eq!((error.name.as_str(), error.at), ("EOF", 11));
    }

    proptest! {
        #[test]
        fn masking_keeps_every_offset(text in "(RUN|COPY|[a-z<\\\\\"' \nE#]|<<E){0,60}") {
            if let Ok(masked) = mask(&text, '\\') {
                prop_assert_eq!(masked.text.len(), text.len());
                prop_assert_eq!(masked.text.matches('\n').count(), text.matches('\n').count());
            }
        }
    }
}
