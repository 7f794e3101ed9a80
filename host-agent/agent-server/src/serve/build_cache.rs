//! How much of the build cache is kept: `--build-cache-*`, or dockerd's `builder` in daemon.json.

use super::options::Builder;
use engine::builds::cache::CacheLimits;
use engine::builds::duration;
use engine::containers::log_drivers::parse_size;
use std::time::Duration;

const UNLIMITED: &str = "unlimited";

/// Puts the options together; an error is a sentence that names the option.
pub fn limits(
    size: Option<String>,
    age: Option<String>,
    entries: Option<usize>,
    builder: Option<Builder>,
) -> Result<CacheLimits, String> {
    let mut limits = CacheLimits::default();
    let gc = builder.and_then(|builder| builder.gc).unwrap_or_default();
    if gc.enabled == Some(false) {
        limits = CacheLimits::UNLIMITED;
    }
    let in_file = gc.default_reserved_space.or(gc.default_keep_storage);
    if size.is_some() && in_file.is_some() {
        return Err("--build-cache-size and builder.gc in daemon.json say the same".into());
    }
    if let Some(text) = size.or(in_file) {
        limits.bytes = match text.as_str() {
            UNLIMITED => u64::MAX,
            text => parse_size(text).ok_or_else(|| {
                format!("--build-cache-size {text}: expected a size as 20g, or {UNLIMITED}")
            })?,
        };
    }
    if let Some(text) = age {
        limits.age = match text.as_str() {
            UNLIMITED => Duration::MAX,
            text => duration::parse(text)
                .and_then(|nanoseconds| u64::try_from(nanoseconds).ok())
                .map(Duration::from_nanos)
                .ok_or_else(|| {
                    format!("--build-cache-age {text}: expected a time as 1440h, or {UNLIMITED}")
                })?,
        };
    }
    limits.entries = entries.unwrap_or(limits.entries);
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::super::options::BuilderGc;
    use super::*;

    fn of(size: &str, age: &str, gc: BuilderGc) -> Result<CacheLimits, String> {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        limits(
            given(size),
            given(age),
            None,
            Some(Builder { gc: Some(gc) }),
        )
    }

    #[test]
    fn both_forms_are_read() {
        let none = BuilderGc::default;
        assert_eq!(limits(None, None, None, None), Ok(CacheLimits::default()));
        let ours = of("3g", "90m", none()).expect("good");
        assert_eq!((ours.bytes, ours.age), (3 << 30, Duration::from_secs(5400)));
        let all = of("unlimited", "unlimited", none()).expect("good");
        assert_eq!((all.bytes, all.age), (u64::MAX, Duration::MAX));
        let dockers = BuilderGc {
            default_keep_storage: Some("10GB".into()),
            ..none()
        };
        assert_eq!(of("", "", dockers.clone()).expect("good").bytes, 10 << 30);
        let off = BuilderGc {
            enabled: Some(false),
            ..none()
        };
        assert_eq!(of("", "", off).expect("good").entries, usize::MAX);
        assert!(of("1g", "", dockers).is_err());
        for (size, age) in [("much", ""), ("-1", ""), ("", "long"), ("", "-1h")] {
            let error = of(size, age, none()).expect_err("wrong");
            assert!(error.contains("--build-cache-"), "{error}");
        }
    }
}
