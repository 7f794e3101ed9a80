//! Order of Debian versions (deb-version(7)).

use std::cmp::Ordering;

/// Compares two versions as dpkg does.
pub(crate) fn compare(left: &str, right: &str) -> Ordering {
    let (left_epoch, left) = split_epoch(left);
    let (right_epoch, right) = split_epoch(right);
    let (left_upstream, left_revision) = left.rsplit_once('-').unwrap_or((left, ""));
    let (right_upstream, right_revision) = right.rsplit_once('-').unwrap_or((right, ""));
    left_epoch
        .cmp(&right_epoch)
        .then_with(|| compare_part(left_upstream, right_upstream))
        .then_with(|| compare_part(left_revision, right_revision))
}

fn split_epoch(version: &str) -> (u64, &str) {
    match version.split_once(':') {
        Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
        None => (0, version),
    }
}

fn compare_part(mut left: &str, mut right: &str) -> Ordering {
    while !left.is_empty() || !right.is_empty() {
        let (left_text, left_rest) = split_while(left, |c| !c.is_ascii_digit());
        let (right_text, right_rest) = split_while(right, |c| !c.is_ascii_digit());
        let (left_number, left_rest) = split_while(left_rest, |c| c.is_ascii_digit());
        let (right_number, right_rest) = split_while(right_rest, |c| c.is_ascii_digit());
        let order = compare_text(left_text, right_text)
            .then_with(|| compare_number(left_number, right_number));
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

fn split_while(text: &str, test: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !test(c)).unwrap_or(text.len()))
}

/// `~` sorts before the end of the text, letters before everything else.
fn compare_text(left: &str, right: &str) -> Ordering {
    let weights = |text: &str| -> Vec<i32> {
        let weight = |c: char| match c {
            '~' => -1,
            c if c.is_ascii_alphabetic() => c as i32,
            c => c as i32 + 256,
        };
        text.chars().map(weight).chain([0]).collect()
    };
    weights(left).cmp(&weights(right))
}

fn compare_number(left: &str, right: &str) -> Ordering {
    let (left, right) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(smaller: &str, larger: &str) {
        assert_eq!(
            compare(smaller, larger),
            Ordering::Less,
            "{smaller} < {larger}"
        );
        assert_eq!(
            compare(larger, smaller),
            Ordering::Greater,
            "{larger} > {smaller}"
        );
        assert_eq!(compare(smaller, smaller), Ordering::Equal);
    }

    #[test]
    fn the_order_is_dpkgs() {
        check("6.12.9-1", "6.12.107-1");
        check("1.0~rc1", "1.0");
        check("1.0", "1.0+b1");
        check("1.0-1", "1.0-1+deb13u1");
        check("9.0-1", "1:1.0-1");
        check("1.0a", "1.0+");
        check("1.2", "1.2.1");
        check("2.41-12", "2.41-12+deb13u4");
        assert_eq!(compare("1.01", "1.1"), Ordering::Equal);
        assert_eq!(compare("0:1.0", "1.0"), Ordering::Equal);
    }
}
