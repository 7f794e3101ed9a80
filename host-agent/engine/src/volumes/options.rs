//! The options of the `local` driver: `type`, `device` and `o` as mount(8) has them, and `size`.
//!
//! Rules and texts: moby `volume/local/local_unix.go`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// What is mounted over the folder of a volume with options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverMount {
    pub device: String,
    /// Of a file system; empty or `none` for a bind.
    pub kind: String,
    /// Comma-separated, flags and data together.
    pub options: String,
}

/// Says in Docker's words what is wrong with a volume's options.
pub(super) fn check(options: &BTreeMap<String, String>, limits_size: bool) -> Result<(), String> {
    for name in options.keys() {
        if !["type", "o", "device", "size"].contains(&name.as_str()) {
            return Err(format!("invalid option: {name:?}"));
        }
    }
    if let Some(text) = options.get("size") {
        let size = crate::containers::log_drivers::parse_size(text)
            .ok_or_else(|| format!("invalid size: '{text}'"))?;
        if size > 0 && !limits_size {
            return Err("quota size requested but no quota support".into());
        }
    }
    let needs: [(&str, &[&str]); 3] = [
        ("device", &["type"]),
        ("type", &["device"]),
        ("o", &["device", "type"]),
    ];
    for (option, others) in needs {
        if !options.contains_key(option) {
            continue;
        }
        if let Some(missing) = others.iter().find(|other| !options.contains_key(**other)) {
            return Err(format!("missing required option: {missing:?}"));
        }
    }
    Ok(())
}

/// How many bytes a volume may hold, where its maker said so.
pub(super) fn size_limit(options: &BTreeMap<String, String>) -> Option<u64> {
    let size = crate::containers::log_drivers::parse_size(options.get("size")?);
    size.filter(|size| *size > 0)
}

/// What has to be mounted; nothing for a plain folder.
pub(super) fn mount(options: &BTreeMap<String, String>) -> Option<DriverMount> {
    let option = |name: &str| options.get(name).cloned().unwrap_or_default();
    let mount = DriverMount {
        device: option("device"),
        kind: option("type"),
        options: option("o"),
    };
    (!mount.device.is_empty() || !mount.kind.is_empty()).then_some(mount)
}

impl DriverMount {
    /// The server's name in `addr=`, where the kernel, which takes numbers only, needs it looked up.
    pub fn host_to_look_up(&self) -> Option<&str> {
        if !["nfs", "cifs"].contains(&self.kind.as_str()) {
            return None;
        }
        let address = self
            .options
            .split(',')
            .find_map(|option| option.strip_prefix("addr="))?;
        let is_number = address.parse::<Ipv4Addr>().is_ok();
        (!address.is_empty() && !is_number).then_some(address)
    }

    /// The same with the server's address in place of its name.
    pub fn with_address(&self, host: &str, address: &str) -> DriverMount {
        let (old, new) = (format!("addr={host}"), format!("addr={address}"));
        DriverMount {
            options: self.options.replacen(&old, &new, 1),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[track_caller]
    fn refused(pairs: &[(&str, &str)], why: &str) {
        assert_eq!(check(&options(pairs), false), Err(why.to_owned()));
    }

    #[test]
    fn docker_s_rules() {
        for good in [
            &[][..],
            &[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")],
            &[("type", "none"), ("device", "/srv"), ("o", "bind")],
            &[("type", "nfs"), ("device", ":/export")],
            &[("size", "0")],
        ] {
            assert_eq!(check(&options(good), false), Ok(()), "{good:?}");
        }
        refused(&[("colour", "red")], "invalid option: \"colour\"");
        refused(&[("type", "tmpfs")], "missing required option: \"device\"");
        refused(&[("device", "/srv")], "missing required option: \"type\"");
        refused(&[("o", "bind")], "missing required option: \"device\"");
        refused(&[("size", "big")], "invalid size: 'big'");
        refused(
            &[("size", "10m")],
            "quota size requested but no quota support",
        );
        assert_eq!(check(&options(&[("size", "10m")]), true), Ok(()));
    }

    #[test]
    fn names_of_servers_are_looked_up_and_numbers_are_not() {
        let nfs = |address: &str| DriverMount {
            device: ":/export".into(),
            kind: "nfs".into(),
            options: format!("addr={address},rw"),
        };
        assert_eq!(nfs("192.0.2.1").host_to_look_up(), None);
        assert_eq!(
            nfs("files.example").host_to_look_up(),
            Some("files.example")
        );
        assert_eq!(
            nfs("files.example").with_address("files.example", "192.0.2.1"),
            nfs("192.0.2.1")
        );
        let bind = DriverMount {
            kind: "none".into(),
            ..nfs("x")
        };
        assert_eq!(bind.host_to_look_up(), None);
    }

    #[test]
    fn a_plain_volume_needs_no_mount() {
        assert_eq!(mount(&options(&[])), None);
        assert_eq!(mount(&options(&[("size", "1m")])), None);
        assert!(mount(&options(&[("type", "tmpfs"), ("device", "tmpfs")])).is_some());
        assert_eq!(size_limit(&options(&[("size", "1m")])), Some(1 << 20));
        assert_eq!(size_limit(&options(&[("size", "0")])), None);
    }
}
