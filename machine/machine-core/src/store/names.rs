//! Machine names: which are allowed, and in what order people expect them.

use std::cmp::Ordering;

/// `[a-zA-Z0-9][a-zA-Z0-9.-]*`, at most 63 bytes: the name becomes a hostname and a folder.
pub fn is_valid(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-')
}

/// `node2` comes before `node10`.
pub fn natural_order(left: &str, right: &str) -> Ordering {
    let (mut left_rest, mut right_rest) = (left, right);
    loop {
        let (left_part, left_next) = split_part(left_rest);
        let (right_part, right_next) = split_part(right_rest);
        let order = match (number(left_part), number(right_part)) {
            (Some(a), Some(b)) => (a.len(), a).cmp(&(b.len(), b)),
            _ => left_part.cmp(right_part),
        };
        if order != Ordering::Equal {
            return order;
        }
        if left_part.is_empty() {
            // Equal but for leading zeros: any fixed order will do.
            return left.cmp(right);
        }
        (left_rest, right_rest) = (left_next, right_next);
    }
}

/// The longest beginning that is all digits or has none.
fn split_part(text: &str) -> (&str, &str) {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text
        .find(|c: char| c.is_ascii_digit() != digits)
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Digits without leading zeros: longer is greater, so no number is too big.
fn number(part: &str) -> Option<&str> {
    part.starts_with(|c: char| c.is_ascii_digit())
        .then(|| part.trim_start_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "dev", "0", "Node-1.lan", "a.", "x-"] {
            assert!(is_valid(good), "{good}");
        }
        let long = "a".repeat(64);
        for bad in [
            "", "-a", ".a", "a b", "a/b", "..", "a_b", "ä", "a\n", "a:b", &long,
        ] {
            assert!(!is_valid(bad), "{bad}");
        }
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        let mut names = ["node10", "b", "node2", "a", "node", "node02", "node2a"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(
            names,
            ["a", "b", "node", "node02", "node2", "node2a", "node10"]
        );
    }
}
