//! Signal names, as `docker kill -s` and `STOPSIGNAL` take them.

/// Linux's numbers on x86-64 and arm64.
const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

pub const KILL: i32 = 9;
pub const TERM: i32 = 15;

/// From `KILL`, `SIGKILL`, `9`, `RTMIN+3`, any case. `None` is no signal.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        // glibc keeps 32 and 33 to itself, and Docker's table does not have them.
        let known = (1..=31).contains(&number) || (34..=64).contains(&number);
        return known.then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let number = if let Some(offset) = name.strip_prefix("RTMIN") {
        34 + offset_of(offset, '+')?
    } else {
        64 - offset_of(name.strip_prefix("RTMAX")?, '-')?
    };
    (34..=64).contains(&number).then_some(number)
}

fn offset_of(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() {
        return Some(0);
    }
    text.strip_prefix(sign)?
        .parse()
        .ok()
        .filter(|n| *n >= 0 && *n <= 30)
}

/// Docker's sentence for what is no signal.
pub fn refusal(text: &str) -> String {
    match text.parse::<i32>() {
        Ok(number) if number != 0 => format!("the linux daemon does not support signal {number}"),
        _ => format!("invalid signal: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<i32>) {
        assert_eq!(parse(text), expected, "{text:?}");
    }

    #[test]
    fn a_refusal_is_docker_s() {
        assert_eq!(refusal("0"), "invalid signal: 0");
        assert_eq!(refusal("FLY"), "invalid signal: FLY");
        assert_eq!(refusal("99"), "the linux daemon does not support signal 99");
        assert_eq!(refusal("-1"), "the linux daemon does not support signal -1");
    }

    #[test]
    fn names_and_numbers() {
        check("KILL", Some(9));
        check("sigterm", Some(15));
        check("15", Some(15));
        check("SIGRTMIN+3", Some(37));
        check("RTMAX-1", Some(63));
        check("0", None);
        check("65", None);
        check("32", None);
        check("-1", None);
        check("", None);
        check("SIGFLY", None);
        check("RTMIN+99", None);
        check("RTMIN-2", None);
    }
}
