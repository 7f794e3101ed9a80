//! Devices of the host as flags name them.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

/// `/dev/sda:amount`.
pub(super) fn amount(text: &str, key: &str, read: impl Fn(&str) -> Result<i64>) -> Result<Value> {
    let bad = || format!("'{text}': expected /dev/NAME:number");
    let (path, amount) = text
        .split_once(':')
        .filter(|(path, _)| path.starts_with("/dev/"))
        .with_context(bad)?;
    let amount = read(amount).ok().filter(|amount| *amount >= 0);
    Ok(json!({ "Path": path, key: amount.with_context(bad)? }))
}

/// `/dev/here[:/dev/there][:rwm]`.
pub(super) fn device(text: &str) -> Result<Value> {
    let bad = || format!("invalid --device '{text}': expected /dev/here[:/dev/there][:rwm]");
    let parts: Vec<&str> = text.split(':').collect();
    let is_mode =
        |mode: &str| !mode.is_empty() && mode.chars().all(|letter| "rwm".contains(letter));
    let (here, there, mode) = match parts.as_slice() {
        [here] => (*here, *here, "rwm"),
        [here, mode] if is_mode(mode) => (*here, *here, *mode),
        [here, there] => (*here, *there, "rwm"),
        [here, there, mode] if is_mode(mode) => (*here, *there, *mode),
        _ => bail!(bad()),
    };
    if here.is_empty() || !there.starts_with('/') {
        // docker tells a mode that is none apart; for people it is the same mistake.
        bail!(bad());
    }
    Ok(json!({ "PathOnHost": here, "PathInContainer": there, "CgroupPermissions": mode }))
}

/// `all`, a number, or `device=ID`, `count=N`, `driver=NAME` and `capabilities=NAME`, with commas between them.
pub(super) fn gpus(text: &str) -> Result<Value> {
    let (mut count, mut driver) = (None, "");
    let (mut ids, mut capabilities) = (Vec::new(), Vec::new());
    let number = |text: &str| match text {
        "all" => Ok(-1),
        _ => text
            .parse::<i64>()
            .with_context(|| format!("invalid --gpus: '{text}' is neither a number nor all")),
    };
    for field in text.split(',') {
        match field.split_once('=') {
            None => count = Some(number(field)?),
            Some(("count", value)) => count = Some(number(value)?),
            Some(("device", id)) => ids.push(id),
            Some(("driver", name)) => driver = name,
            Some(("capabilities", name)) => capabilities.push(name),
            Some((key, _)) => bail!("invalid --gpus '{text}': unexpected key '{key}'"),
        }
    }
    capabilities.push("gpu");
    let mut request = Map::new();
    request.insert("Driver".into(), driver.into());
    // Those that are named are not counted.
    let default = i64::from(ids.is_empty());
    request.insert("Count".into(), count.unwrap_or(default).into());
    request.insert("DeviceIDs".into(), json!(ids));
    request.insert("Capabilities".into(), json!([capabilities]));
    Ok(request.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_two_names_and_a_mode() {
        let seen = |text: &str| {
            let device = device(text).expect(text);
            let part = |key: &str| device[key].as_str().expect("a text").to_owned();
            [
                part("PathOnHost"),
                part("PathInContainer"),
                part("CgroupPermissions"),
            ]
            .join(" ")
        };
        assert_eq!(seen("/dev/a"), "/dev/a /dev/a rwm");
        assert_eq!(seen("/dev/a:r"), "/dev/a /dev/a r");
        assert_eq!(seen("/dev/a:/dev/b"), "/dev/a /dev/b rwm");
        assert_eq!(seen("/dev/a:/dev/b:mr"), "/dev/a /dev/b mr");
        for bad in [
            "",
            "/dev/a:x",
            "/dev/a:/dev/b:x",
            "/dev/a:/b:r:w",
            ":/dev/b",
        ] {
            assert!(device(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn amounts_belong_to_a_device() {
        let read = |text: &str| amount(text, "Rate", |text| Ok(text.parse()?));
        assert_eq!(
            read("/dev/a:7").expect("good"),
            json!({"Path": "/dev/a", "Rate": 7})
        );
        for bad in ["/dev/a", "a:7", "/dev/a:x", "/dev/a:-1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn gpus_are_counted_or_named() {
        assert_eq!(gpus("all").expect("good")["Count"], -1);
        assert_eq!(gpus("2").expect("good")["Count"], 2);
        let named = gpus("device=3,driver=nvidia,capabilities=utility").expect("good");
        assert_eq!(
            named,
            json!({"Driver": "nvidia", "Count": 0, "DeviceIDs": ["3"], "Capabilities": [["utility", "gpu"]]})
        );
        assert!(gpus("some").is_err() && gpus("x=1").is_err());
    }
}
