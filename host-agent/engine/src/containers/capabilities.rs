//! Which capabilities a container's processes have.

/// What Docker gives by default.
pub const DEFAULT: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability Linux has (capabilities(7), Linux 6.12).
pub const ALL: &[&str] = &[
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_AUDIT_WRITE",
    "CAP_BLOCK_SUSPEND",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_KILL",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYSLOG",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_CHROOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_NICE",
    "CAP_SYS_PACCT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
];

/// Brings names to the form `CAP_CHOWN` (or `ALL`); the error is Docker's sentence.
pub fn normalize(option: &str, names: &[String]) -> Result<Vec<String>, String> {
    names
        .iter()
        .map(|name| {
            let mut upper = name.to_ascii_uppercase();
            if upper == "ALL" {
                return Ok(upper);
            }
            if !upper.starts_with("CAP_") {
                upper.insert_str(0, "CAP_");
            }
            if ALL.contains(&upper.as_str()) {
                Ok(upper)
            } else {
                Err(format!("invalid {option}: unknown capability: \"{upper}\""))
            }
        })
        .collect()
}

/// The resulting set. `add` and `drop` are normalized.
pub fn effective(privileged: bool, add: &[String], drop: &[String]) -> Vec<String> {
    let all = || {
        ALL.iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    if privileged {
        return all();
    }
    let add_all = add.iter().any(|name| name == "ALL");
    let drop_all = drop.iter().any(|name| name == "ALL");
    let mut set: Vec<String> = match (add_all, drop_all) {
        (true, _) => all(),
        (false, true) => Vec::new(),
        (false, false) => DEFAULT.iter().map(|name| (*name).to_owned()).collect(),
    };
    set.retain(|name| !drop.contains(name));
    for name in add {
        if name != "ALL" && !set.contains(name) {
            set.push(name.clone());
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn add_and_drop() {
        assert_eq!(effective(false, &[], &[]).len(), 14);
        assert_eq!(effective(true, &[], &names(&["ALL"])).len(), ALL.len());
        let only = effective(false, &names(&["CAP_SYS_TIME"]), &names(&["ALL"]));
        assert_eq!(only, ["CAP_SYS_TIME"]);
        let without = effective(false, &names(&["ALL"]), &names(&["CAP_CHOWN"]));
        assert_eq!(without.len(), ALL.len() - 1);
    }

    #[test]
    fn names_are_taken_in_any_form() {
        assert_eq!(
            normalize("CapAdd", &names(&["net_admin", "CAP_Chown", "all"])),
            Ok(names(&["CAP_NET_ADMIN", "CAP_CHOWN", "ALL"]))
        );
        assert_eq!(
            normalize("CapDrop", &names(&["fly"])),
            Err("invalid CapDrop: unknown capability: \"CAP_FLY\"".into())
        );
    }

    proptest! {
        #[test]
        fn what_is_dropped_and_not_added_is_not_there(drop in proptest::sample::subsequence(ALL.to_vec(), 0..10)) {
            let drop = names(&drop);
            let set = effective(false, &[], &drop);
            prop_assert!(set.iter().all(|name| !drop.contains(name)));
        }
    }
}
