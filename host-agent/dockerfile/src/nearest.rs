//! "did you mean ...?": the known word that is nearest to one that is not known.

/// Changes of a letter, at most, as BuildKit has it.
const DISTANCE_MAX: usize = 2;
/// Longer words, in letters, are not looked at.
const LENGTH_MAX: usize = 100;

/// ` (did you mean NEAR?)`, or nothing where nothing is near.
pub fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or_else(String::new, |near| format!(" (did you mean {near}?)"))
}

/// The first of those that differ least; `None` where the word itself is among them, as it is not what is wrong then.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.chars().nth(LENGTH_MAX).is_some() {
        return None;
    }
    let mut best = None;
    for option in known {
        let distance = distance(word, option);
        if distance == 0 {
            return None;
        }
        if distance <= DISTANCE_MAX && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, option));
        }
    }
    best.map(|(_, option)| option)
}

/// Levenshtein's; more than [`DISTANCE_MAX`] need not be exact.
fn distance(one: &str, other: &str) -> usize {
    let one: Vec<char> = one.chars().collect();
    let other: Vec<char> = other.chars().take(LENGTH_MAX + DISTANCE_MAX + 1).collect();
    if one.len().abs_diff(other.len()) > DISTANCE_MAX {
        return DISTANCE_MAX + 1;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.iter().enumerate() {
        let mut above_left = row[0];
        row[0] = at + 1;
        for (column, expected) in other.iter().enumerate() {
            let replaced = above_left + usize::from(letter != expected);
            above_left = row[column + 1];
            row[column + 1] = replaced.min(above_left + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found() {
        let known = ["chown", "chmod", "from", "alpine"];
        for (word, expected) in [
            ("chow", Some("chown")),
            ("chwon", Some("chown")),
            ("chmd", Some("chmod")),
            ("frm", Some("from")),
            ("alpin", Some("alpine")),
            ("from", None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
        assert_eq!(hint("fro", known), " (did you mean from?)");
        assert_eq!(hint("other", known), "");
        assert_eq!(nearest(&"x".repeat(1_000_000), known), None);
    }
}
