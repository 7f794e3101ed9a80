//! Files of containers between wire and domain.

use base64::Engine as _;
use engine::clock::rfc3339;
use engine::containers::files::PathStat;
use engine::images::{Change, ChangeKind};
use http::HeaderValue;
use serde_json::{Value, json};

/// What `X-Docker-Container-Path-Stat` has.
pub fn path_stat(stat: &PathStat) -> HeaderValue {
    let text = json!({
        "name": stat.name,
        "size": stat.size,
        "mode": go_mode(stat.mode),
        "mtime": rfc3339(stat.modified),
        "linkTarget": stat.link_target,
    })
    .to_string();
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    HeaderValue::from_str(&encoded).expect("base64 is ASCII")
}

/// The kernel's mode as Go's `os.FileMode`, which has bits of its own for everything but permissions (Go `io/fs`,
/// `fs.FileMode`; `os.fillFileStatFromSys`).
pub fn go_mode(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => 1 << 26 | 1 << 21,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let bit = |ours: u32, theirs: u32| if mode & ours == 0 { 0 } else { 1 << theirs };
    mode & 0o777 | kind | bit(0o4000, 23) | bit(0o2000, 22) | bit(0o1000, 20)
}

/// `GET /containers/{id}/changes`; no changes are `null`, as Go writes an empty list that was never made.
pub fn changes(changes: &[Change]) -> Value {
    if changes.is_empty() {
        return Value::Null;
    }
    let line = |change: &Change| {
        let kind = match change.kind {
            ChangeKind::Modified => 0,
            ChangeKind::Added => 1,
            ChangeKind::Deleted => 2,
        };
        json!({ "Path": change.path, "Kind": kind })
    };
    changes.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_go_s() {
        // Values printed by a Go program for such files.
        for (unix, go) in [
            (0o100_644, 0o644),
            (0o040_755, 0x8000_0000 | 0o755),
            (0o041_777, 0x8010_0000 | 0o777),
            (0o120_777, 0x0800_0000 | 0o777),
            (0o104_755, 0x0080_0000 | 0o755),
            (0o102_755, 0x0040_0000 | 0o755),
            (0o020_666, 0x0420_0000 | 0o666),
            (0o060_660, 0x0400_0000 | 0o660),
            (0o010_644, 0x0200_0000 | 0o644),
            (0o140_755, 0x0100_0000 | 0o755),
        ] {
            assert_eq!(go_mode(unix), go, "{unix:o}");
        }
    }
}
