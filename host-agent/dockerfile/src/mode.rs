//! `--chmod`: permissions as a number, or in the words of the program `chmod` (`u=rwX,go=rX`, since syntax 1.14).

use std::str::FromStr;

/// What a class that is not named does not get, as with BuildKit: `+w` is `u+w`.
const MASK: u32 = 0o022;
const STICKY: u32 = 0o1000;
/// Everything but the sticky bit.
const STANDARD: u32 = 0o6777;

/// What becomes of a file's permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileMode {
    Bits(u32),
    /// One after the other.
    Changes(Vec<Change>),
}

/// `go=rX`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Bits of the classes; 0: none was named.
    who: u32,
    operator: Operator,
    bits: u32,
    /// `X`: for folders, and for what somebody may execute already.
    search: bool,
    /// Classes whose permissions are taken over, as shifts.
    copied: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

/// It is neither a number up to 07777 nor symbolic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it should be octal string and between 0 and 07777, or symbolic as in u=rwX,go=rX")]
pub struct ModeError;

impl FileMode {
    /// The permissions of something that has these.
    pub fn apply(&self, mode: u32, is_folder: bool) -> u32 {
        match self {
            FileMode::Bits(bits) => *bits,
            FileMode::Changes(changes) => changes.iter().fold(mode & 0o7777, |now, change| {
                change.apply(now, is_folder || mode & 0o111 != 0)
            }),
        }
    }
}

impl Change {
    fn apply(&self, mode: u32, may_search: bool) -> u32 {
        let mut bits = self.bits;
        if self.search && may_search {
            bits |= 0o111;
        }
        for shift in &self.copied {
            bits |= ((mode >> shift) & 0o7) * 0o111;
        }
        bits &= match self.who {
            0 => !MASK,
            who => who | (bits & STICKY),
        };
        match self.operator {
            Operator::Add => mode | bits,
            Operator::Remove => mode & !bits,
            Operator::Set => {
                let cleared = if self.who == 0 { STANDARD } else { self.who };
                mode & !cleared | bits
            }
        }
    }
}

impl FromStr for FileMode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<FileMode, ModeError> {
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(bits) if bits <= 0o7777 => Ok(FileMode::Bits(bits)),
                _ => Err(ModeError),
            };
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let end = clause.find(['+', '-', '=']).ok_or(ModeError)?;
            let (classes, mut rest) = clause.split_at(end);
            let mut who = 0;
            for class in classes.chars() {
                who |= match class {
                    'a' => STANDARD,
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o0007,
                    _ => return Err(ModeError),
                };
            }
            // `u+r-w`: several for the same classes.
            while let Some(sign) = rest.chars().next() {
                rest = &rest[1..];
                let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
                changes.push(change(who, sign, &rest[..end])?);
                rest = &rest[end..];
            }
        }
        Ok(FileMode::Changes(changes))
    }
}

fn change(who: u32, sign: char, permissions: &str) -> Result<Change, ModeError> {
    let mut change = Change {
        who,
        operator: match sign {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            _ => Operator::Set,
        },
        bits: 0,
        search: false,
        copied: Vec::new(),
    };
    for permission in permissions.chars() {
        match permission {
            'r' => change.bits |= 0o444,
            'w' => change.bits |= 0o222,
            'x' => change.bits |= 0o111,
            'X' => change.search = true,
            // Others alone have neither.
            's' if who != 0o0007 => change.bits |= 0o6000,
            't' if who != 0o0007 => change.bits |= STICKY,
            's' | 't' => {}
            'u' => change.copied.push(6),
            'g' => change.copied.push(3),
            'o' => change.copied.push(0),
            _ => return Err(ModeError),
        }
    }
    Ok(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_what_chmod_makes_of_them() {
        for (text, file, program, folder) in [
            ("755", 0o755, 0o755, 0o755),
            ("07777", 0o7777, 0o7777, 0o7777),
            ("u=rwX,go=rX", 0o644, 0o755, 0o755),
            ("+x", 0o755, 0o755, 0o755),
            ("a+X", 0o644, 0o755, 0o755),
            ("go-rwx", 0o600, 0o700, 0o700),
            ("go=", 0o600, 0o700, 0o700),
            ("+w", 0o644, 0o755, 0o755),
            ("a+w", 0o666, 0o777, 0o777),
            ("g=u", 0o664, 0o775, 0o775),
            ("go=u-w", 0o644, 0o755, 0o755),
            ("u+r-w,o=", 0o440, 0o550, 0o550),
            ("u+s,+t", 0o5644, 0o5755, 0o5755),
            ("o+st", 0o644, 0o755, 0o755),
            ("=rw,+X", 0o644, 0o755, 0o755),
        ] {
            let mode: FileMode = text.parse().expect(text);
            let made = [(0o644, false), (0o755, false), (0o755, true)]
                .map(|(mode_before, is_folder)| mode.apply(mode_before, is_folder));
            assert_eq!(made, [file, program, folder], "{text}: {made:?}");
        }
        for bad in ["", "8", "17777", "x", "z+x", "u+q", "u", "u=r,", ",u=r"] {
            assert!(bad.parse::<FileMode>().is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_mode_or_none(text in "[ugoarwxXst+=,0-9-]{0,12}|\\PC{0,6}", mode in 0u32..0o10000) {
            if let Ok(read) = text.parse::<FileMode>() {
                assert!(read.apply(mode, false) <= 0o7777);
            }
        }
    }
}
