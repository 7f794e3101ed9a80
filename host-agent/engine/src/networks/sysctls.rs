//! Settings of the kernel for one link of a container: Docker's option of an endpoint for them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The option's name.
pub const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

/// One setting. It is given as `net.ipv4.conf.IFNAME.log_martians=1`, where `IFNAME` stands for the link's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSysctl {
    /// `ipv4`, `ipv6` or `mpls`.
    protocol: String,
    /// `conf`, say, or `neigh`.
    group: String,
    name: String,
    pub value: String,
}

impl LinkSysctl {
    /// Those that an endpoint's options ask for. The error is Docker's sentence.
    pub fn asked_for(options: &BTreeMap<String, String>) -> Result<Vec<LinkSysctl>, String> {
        let Some(text) = options.get(SYSCTLS) else {
            return Ok(Vec::new());
        };
        let each = text.split(',');
        each.map(|setting| {
            LinkSysctl::parse(setting).ok_or_else(|| {
                format!(
                    "invalid endpoint settings:\nunrecognised network interface sysctl '{setting}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
                )
            })
        })
        .collect()
    }

    fn parse(text: &str) -> Option<LinkSysctl> {
        let (key, value) = text.split_once('=')?;
        let parts: Vec<&str> = key.split('.').collect();
        // Docker's client writes options in small letters.
        let [
            "net",
            protocol @ ("ipv4" | "ipv6" | "mpls"),
            group,
            "IFNAME" | "ifname",
            name,
        ] = parts[..]
        else {
            return None;
        };
        // It becomes a path.
        let is_word = |text: &str| {
            let mut bytes = text.bytes();
            !text.is_empty()
                && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        (is_word(group) && is_word(name)).then(|| LinkSysctl {
            protocol: protocol.to_owned(),
            group: group.to_owned(),
            name: name.to_owned(),
            value: value.to_owned(),
        })
    }

    /// Its file, for a link of this name.
    pub fn file(&self, link: &str) -> String {
        let LinkSysctl {
            protocol,
            group,
            name,
            ..
        } = self;
        format!("/proc/sys/net/{protocol}/{group}/{link}/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_for(text: &str) -> Result<Vec<LinkSysctl>, String> {
        LinkSysctl::asked_for(&[(SYSCTLS.to_owned(), text.to_owned())].into())
    }

    #[test]
    fn settings_are_files_of_a_link() {
        let text = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.ifname.accept_ra=2";
        let asked = asked_for(text).expect("good");
        let files: Vec<(String, &str)> = asked
            .iter()
            .map(|one| (one.file("eth.1"), one.value.as_str()))
            .collect();
        assert_eq!(
            files,
            [
                ("/proc/sys/net/ipv4/conf/eth.1/log_martians".into(), "1"),
                ("/proc/sys/net/ipv6/conf/eth.1/accept_ra".into(), "2"),
            ]
        );
        assert_eq!(LinkSysctl::asked_for(&BTreeMap::new()), Ok(Vec::new()));
    }

    #[test]
    fn nothing_else_is_a_setting_of_a_link() {
        for bad in [
            "",
            "net.ipv4.conf.IFNAME.log_martians",
            "net.ipv4.conf.eth0.log_martians=1",
            "net.ipv4.conf.IFNAME.log_martians=1,",
            "net.core.conf.IFNAME.x=1",
            "kernel.ipv4.conf.IFNAME.x=1",
            "net.ipv4.conf.IFNAME.a.b=1",
            "net.ipv4.conf.IFNAME./x=1",
            "net.ipv4..IFNAME.x=1",
        ] {
            let why = asked_for(bad).expect_err(bad);
            assert!(
                why.contains("unrecognised network interface sysctl '"),
                "{why}"
            );
        }
    }
}
