//! Reads what people write after `-p`, `-v`, `-e`, `-m` and the like.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

/// Adds one `-p` value: `[address:][host port[-last]:]container port[-last][/protocol]`.
pub(crate) fn publish(
    text: &str,
    exposed: &mut Map<String, Value>,
    bindings: &mut Map<String, Value>,
) -> Result<()> {
    let bad = || {
        format!(
            "invalid publish '{text}': expected [address:][host port:]container port[/tcp|udp|sctp]"
        )
    };
    let (ports, protocol) = match text.rsplit_once('/') {
        Some((ports, protocol)) => (ports, protocol.to_ascii_lowercase()),
        None => (text, "tcp".to_owned()),
    };
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        bail!("{}: unknown protocol '{protocol}'", bad());
    }
    let (rest, container) = match ports.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, ports),
    };
    let (address, host) = match rest {
        None => ("", ""),
        Some(rest) if rest.starts_with('[') => {
            let (address, host) = rest[1..].split_once(']').with_context(bad)?;
            (address, host.strip_prefix(':').unwrap_or(""))
        }
        Some(rest) => rest.rsplit_once(':').unwrap_or(("", rest)),
    };
    if !address.is_empty() {
        address
            .parse::<std::net::IpAddr>()
            .with_context(|| format!("{}: '{address}' is no address", bad()))?;
    }
    let (first, last) = range(container).with_context(bad)?;
    let hosts = if host.is_empty() {
        None
    } else {
        Some(range(host).with_context(bad)?)
    };
    for port in first..=last {
        let host_port = match hosts {
            None => String::new(),
            Some((low, high)) if high - low == last - first => (low + (port - first)).to_string(),
            // One container port, several host ports: the engine takes the first that is free.
            Some((low, high)) if first == last => format!("{low}-{high}"),
            Some(_) => bail!("{}: the ranges differ in length", bad()),
        };
        let key = format!("{port}/{protocol}");
        exposed.insert(key.clone(), json!({}));
        let list = bindings.entry(key).or_insert_with(|| json!([]));
        list.as_array_mut()
            .expect("made as a list")
            .push(json!({ "HostIp": address, "HostPort": host_port }));
    }
    Ok(())
}

/// Adds one `--expose` value: `port[-last][/protocol]`.
pub(crate) fn expose(text: &str, exposed: &mut Map<String, Value>) -> Result<()> {
    let (ports, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let (first, last) = range(ports)
        .ok()
        .filter(|_| matches!(protocol.as_str(), "tcp" | "udp" | "sctp"))
        .with_context(|| format!("invalid range format for --expose: {text}"))?;
    for port in first..=last {
        exposed.insert(format!("{port}/{protocol}"), json!({}));
    }
    Ok(())
}

fn range(text: &str) -> Result<(u16, u16)> {
    let number = |text: &str| -> Result<u16> {
        let number: u16 = text
            .parse()
            .with_context(|| format!("'{text}' is no port"))?;
        if number == 0 {
            bail!("port 0 is not a port");
        }
        Ok(number)
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first > last {
        bail!("'{text}' runs backwards");
    }
    Ok((first, last))
}

/// A `-v` value: an anonymous volume (a path alone), or a bind. Relative paths on this side become absolute.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Volume {
    Anonymous(String),
    Bind(String),
}

/// Reads `[name or path:]path[:options]`.
pub(crate) fn volume(text: &str) -> Result<Volume> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [path] if path.starts_with('/') => Ok(Volume::Anonymous((*path).to_owned())),
        [source, path] | [source, path, _] if path.starts_with('/') && !source.is_empty() => {
            if !source.starts_with('.') && !source.starts_with('~') {
                return Ok(Volume::Bind(text.to_owned()));
            }
            let absolute = std::path::absolute(source)
                .with_context(|| format!("cannot tell where '{source}' is"))?;
            let options = parts
                .get(2)
                .map(|options| format!(":{options}"))
                .unwrap_or_default();
            Ok(Volume::Bind(format!(
                "{}:{path}{options}",
                absolute.display()
            )))
        }
        _ => bail!("invalid volume '{text}': expected [name or path:]/path/in/container[:ro]"),
    }
}

/// `NAME=value`, or `NAME` for the value in our own environment (left out where there is none).
pub(crate) fn variable(text: &str) -> Result<Option<String>> {
    match text.split_once('=') {
        Some(("", _)) => bail!("invalid environment variable '{text}': it has no name"),
        Some(_) => Ok(Some(text.to_owned())),
        None if text.is_empty() => bail!("invalid environment variable '': it has no name"),
        None => Ok(std::env::var(text)
            .ok()
            .map(|value| format!("{text}={value}"))),
    }
}

/// Lines of an `--env-file`: comments and empty lines are passed over.
pub(crate) fn variables_of_file(path: &str) -> Result<Vec<String>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read --env-file {path}"))?;
    let mut variables = Vec::new();
    for line in text
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        variables.extend(variable(line).with_context(|| format!("in {path}"))?);
    }
    Ok(variables)
}

/// Lines of a `--label-file`.
pub(crate) fn labels_of_file(path: &str) -> Result<Map<String, Value>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read --label-file {path}"))?;
    let lines = text
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned);
    Ok(pairs(&lines.collect::<Vec<_>>(), '='))
}

/// `key=value` words; without a value it is empty.
pub(crate) fn pairs(words: &[String], separator: char) -> Map<String, Value> {
    let split = words
        .iter()
        .map(|text| text.split_once(separator).unwrap_or((text, "")));
    split
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect()
}

/// `name=soft[:hard]` as the engine takes it.
pub(crate) fn ulimit(text: &str) -> Result<Value> {
    let bad = || format!("invalid --ulimit '{text}': expected name=soft[:hard]");
    let (name, limits) = text.split_once('=').with_context(bad)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| text.parse::<i64>().with_context(bad);
    Ok(json!({"Name": name, "Soft": number(soft)?, "Hard": number(hard)?}))
}

/// Go's words for yes and no.
pub(crate) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Bytes from `64m`, `1g`, `512k`, `100b`, `100`, in steps of 1024.
pub(crate) fn bytes(text: &str) -> Result<i64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower
        .trim_end_matches('b')
        .trim_end_matches('i')
        .trim_end_matches(['k', 'm', 'g', 't', 'p']);
    let unit: i64 = match lower[digits.len()..].chars().next() {
        None | Some('b') => 1,
        Some('k') => 1 << 10,
        Some('m') => 1 << 20,
        Some('g') => 1 << 30,
        Some('t') => 1 << 40,
        _ => 1 << 50,
    };
    let number: f64 = digits
        .parse()
        .ok()
        .filter(|number: &f64| *number >= 0.0 && number.is_finite())
        .with_context(|| format!("invalid size '{text}': expected a number with b, k, m or g"))?;
    Ok((number * unit as f64) as i64)
}

/// A filter map from `key=value` words.
pub(crate) fn filters(words: &[String]) -> Result<String> {
    let mut map: Map<String, Value> = Map::new();
    for word in words {
        let (key, value) = word
            .split_once('=')
            .with_context(|| format!("invalid filter '{word}': expected key=value"))?;
        let list = map
            .entry(key.trim().to_owned())
            .or_insert_with(|| json!([]));
        list.as_array_mut()
            .expect("made as a list")
            .push(Value::from(value.trim()));
    }
    Ok(Value::Object(map).to_string())
}

/// Unix seconds from themselves, a date, or an age.
pub(crate) fn moment(text: &str) -> Result<String> {
    if text.parse::<f64>().is_ok() {
        return Ok(text.to_owned());
    }
    let format = &time::format_description::well_known::Rfc3339;
    if let Ok(date) = time::OffsetDateTime::parse(text, format) {
        return Ok(format!(
            "{}.{:09}",
            date.unix_timestamp(),
            date.nanosecond()
        ));
    }
    let mut seconds = 0.0;
    let mut digits = String::new();
    for c in text.chars() {
        let unit = match c {
            '0'..='9' | '.' => {
                digits.push(c);
                continue;
            }
            's' => 1.0,
            'm' => 60.0,
            'h' => 3600.0,
            _ => bail!(
                "expected Unix seconds, a date like 2026-01-31T12:00:00Z, or an age like 1h30m"
            ),
        };
        seconds += unit
            * digits
                .parse::<f64>()
                .context("expected an age like 1h30m")?;
        digits.clear();
    }
    if !digits.is_empty() {
        bail!("expected an age like 1h30m");
    }
    let now = time::OffsetDateTime::now_utc();
    Ok(format!(
        "{:.3}",
        now.unix_timestamp() as f64 + f64::from(now.millisecond()) / 1000.0 - seconds
    ))
}

/// Docker's name of a policy and how often: `on-failure:3`.
pub(crate) fn restart_policy(text: &str) -> Result<(&str, u32)> {
    let (name, retries) = match text.split_once(':') {
        Some((name, times)) => (
            name,
            times
                .parse()
                .with_context(|| format!("invalid --restart '{text}': '{times}' is no number"))?,
        ),
        None => (text, 0),
    };
    if !matches!(name, "no" | "on-failure" | "always" | "unless-stopped") {
        bail!("invalid --restart '{text}': it is no, on-failure[:times], always or unless-stopped");
    }
    Ok((name, retries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn published(text: &str, expected: Value) {
        let (mut exposed, mut bindings) = (Map::new(), Map::new());
        publish(text, &mut exposed, &mut bindings).expect(text);
        assert_eq!(Value::Object(bindings.clone()), expected, "{text}");
        assert_eq!(
            exposed.keys().collect::<Vec<_>>(),
            bindings.keys().collect::<Vec<_>>()
        );
    }

    #[test]
    fn ports() {
        published("80", json!({"80/tcp": [{"HostIp": "", "HostPort": ""}]}));
        published(
            "8080:80",
            json!({"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}),
        );
        published(
            "127.0.0.1:8080:80/udp",
            json!({"80/udp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}),
        );
        published(
            "127.0.0.1::80",
            json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}),
        );
        published(
            "[::1]:8080:80",
            json!({"80/tcp": [{"HostIp": "::1", "HostPort": "8080"}]}),
        );
        published(
            "9000-9005:80",
            json!({"80/tcp": [{"HostIp": "", "HostPort": "9000-9005"}]}),
        );
        published(
            "8000-8001:80-81",
            json!({"80/tcp": [{"HostIp": "", "HostPort": "8000"}], "81/tcp": [{"HostIp": "", "HostPort": "8001"}]}),
        );
    }

    #[test]
    fn bad_ports_are_refused() {
        for bad in [
            "",
            "x",
            "0",
            "70000",
            "80/icmp",
            "1-2:1-3",
            "9-8",
            "1.2.3:80:80",
            "a:b:c",
        ] {
            assert!(
                publish(bad, &mut Map::new(), &mut Map::new()).is_err(),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn volumes() {
        assert_eq!(
            volume("/data").expect("good"),
            Volume::Anonymous("/data".into())
        );
        assert_eq!(
            volume("data:/data:ro").expect("good"),
            Volume::Bind("data:/data:ro".into())
        );
        assert_eq!(volume("/a:/b").expect("good"), Volume::Bind("/a:/b".into()));
        let Volume::Bind(text) = volume("./x:/b").expect("good") else {
            panic!("a bind")
        };
        assert!(text.starts_with('/') && text.ends_with("x:/b"), "{text}");
        for bad in ["", "data", "a:b", ":/b", "a:/b:c:d"] {
            assert!(volume(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("64m", 64 << 20),
            ("1g", 1 << 30),
            ("512K", 512 << 10),
            ("100", 100),
            ("1.5k", 1536),
        ] {
            assert_eq!(bytes(text).expect(text), expected, "{text}");
        }
        for bad in ["", "x", "-1", "1z", "nan"] {
            assert!(bytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn moments() {
        assert_eq!(moment("1700000000").expect("seconds"), "1700000000");
        assert_eq!(
            moment("2023-11-14T22:13:20Z").expect("a date"),
            "1700000000.000000000"
        );
        let age: f64 = moment("1h30m").expect("an age").parse().expect("a number");
        let now = time::OffsetDateTime::now_utc().unix_timestamp() as f64;
        assert!((now - 5400.0 - age).abs() < 5.0);
        for bad in ["x", "5", "1h5", "1d"] {
            assert_eq!(moment(bad).is_ok(), bad == "5", "{bad}");
        }
    }
}
