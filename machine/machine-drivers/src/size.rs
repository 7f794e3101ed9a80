//! Sizes as people write them.

const MIB: u64 = 1024 * 1024;

/// A plain number counts MiB, as docker-machine's flags do; otherwise a number and a unit.
pub(crate) fn mebibytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => MIB,
        "g" | "gb" | "gib" => 1024 * MIB,
        "t" | "tb" | "tib" => 1024 * 1024 * MIB,
        _ => return None,
    };
    // 64 TiB is more than QEMU's raw files reach on any desktop, and keeps the arithmetic far from overflow.
    number
        .checked_mul(unit / MIB)
        .filter(|mebibytes| *mebibytes <= 64 * 1024 * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("1024", Some(1024)),
            ("20G", Some(20480)),
            ("20 GiB", Some(20480)),
            ("2t", Some(2 * 1024 * 1024)),
            ("512mb", Some(512)),
            ("", None),
            ("G", None),
            ("-1", None),
            ("1.5G", None),
            ("10X", None),
            ("99999999999999999999", None),
            ("18446744073709551615T", None),
        ] {
            assert_eq!(mebibytes(text), expected, "{text}");
        }
    }
}
