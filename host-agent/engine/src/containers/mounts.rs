//! Mounts: from `-v`, `--mount`, `--tmpfs` and the image's volumes to one list of mount points.

use super::error::ContainerError;
use super::spec::{HostSettings, MountKind, MountPoint, MountRequest};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Why a bind mount cannot be: its source is not there. `shared`: the desktop's folders, in a machine of a desktop.
pub fn missing_source(source: &Path, shared: Option<&[String]>) -> ContainerError {
    let mut text = format!(
        "invalid mount config for type \"bind\": bind source path does not exist: {}",
        source.display()
    );
    if let Some(shared) = shared {
        let seen = match shared {
            [] => "shares no folder of the desktop".to_owned(),
            shared => format!("shares of the desktop only {}", shared.join(", ")),
        };
        text.push_str(&format!(
            " (this machine {seen}; to share the folder: machine set NAME --mount {}, then machine restart NAME)",
            source.display()
        ));
    }
    ContainerError::invalid(text)
}

/// A mount point with nothing special about it.
pub(crate) fn plain(kind: MountKind, destination: String) -> MountPoint {
    MountPoint {
        kind,
        name: None,
        source: PathBuf::new(),
        destination,
        driver: None,
        mode: String::new(),
        read_write: true,
        propagation: String::new(),
        recursive: true,
        anonymous: false,
        copy_up: false,
        create_source: false,
        tmpfs_options: Vec::new(),
        subpath: String::new(),
        image: None,
        volume_labels: BTreeMap::new(),
        volume_options: BTreeMap::new(),
        submounts_writable: false,
        from_mount_flag: false,
    }
}

/// Removes `.`, `..`, double and trailing slashes of an absolute path.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Docker's rule for volume names: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub fn is_volume_name(name: &str) -> bool {
    super::names::parse(name) == Some(name)
}

fn destination(text: &str, spec: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err(format!(
            "invalid volume specification: '{spec}': invalid mount config for type \"volume\": invalid mount path: '{text}' mount path must be absolute"
        ));
    }
    let path = clean(text);
    if path == "/" {
        return Err(format!(
            "invalid volume specification: '{spec}': invalid specification: destination can't be '/'"
        ));
    }
    Ok(path)
}

/// A path of Windows at the beginning of `-v` or in `--mount`, as the machines of a desktop have it: `C:\Users\me:/src` is
/// `/c/Users/me:/src`. Clients on Windows send it as it was typed, and compose makes it of every relative path.
fn from_windows(text: &str) -> Cow<'_, str> {
    let [drive, b':', b'\\' | b'/', ..] = text.as_bytes() else {
        return Cow::Borrowed(text);
    };
    if !drive.is_ascii_alphabetic() {
        return Cow::Borrowed(text);
    }
    let (path, more) = match text[2..].find(':') {
        Some(colon) => text[2..].split_at(colon),
        None => (&text[2..], ""),
    };
    let drive = char::from(drive.to_ascii_lowercase());
    Cow::Owned(format!("/{drive}{}{more}", path.replace('\\', "/")))
}

/// `source:target[:mode]` (or only `target`, an anonymous volume).
pub fn parse_bind(spec: &str, volume_driver: &str) -> Result<MountPoint, String> {
    let parts: Vec<&str> = spec.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, mode] => (*source, *target, *mode),
        _ => return Err(format!("invalid volume specification: '{spec}'")),
    };
    if target.is_empty() || (source.is_empty() && parts.len() > 1) {
        return Err(format!("invalid volume specification: '{spec}'"));
    }
    let target = destination(target, spec)?;
    let mut mount = if source.starts_with('/') {
        let mut mount = plain(MountKind::Bind, target);
        mount.source = PathBuf::from(clean(source));
        mount.propagation = "rprivate".into();
        // `-v` makes a missing folder; `--mount` does not.
        mount.create_source = true;
        mount
    } else {
        let mut mount = plain(MountKind::Volume, target);
        if source.is_empty() {
            mount.anonymous = true;
        } else if is_volume_name(source) {
            mount.name = Some(source.to_owned());
        } else {
            return Err(format!(
                "create {source}: \"{source}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
            ));
        }
        mount.driver = Some(driver_or_local(volume_driver));
        mount.copy_up = true;
        mount
    };
    let mut kinds = BTreeSet::new();
    for word in mode.split(',').filter(|word| !word.is_empty()) {
        // Of each kind one.
        let kind = match word {
            "ro" | "rw" => "access",
            "z" | "Z" => "label",
            "consistent" | "cached" | "delegated" | "default" => "consistency",
            "nocopy" => "copy",
            _ => "propagation",
        };
        if !kinds.insert(kind) {
            return Err(format!("invalid mode: {mode}"));
        }
        match word {
            "ro" | "rw" => mount.read_write = word == "rw",
            // SELinux labels: there is nothing to label on a host without SELinux, as in Docker.
            "z" | "Z" | "consistent" | "cached" | "delegated" | "default" => {}
            "nocopy" if mount.kind == MountKind::Volume => mount.copy_up = false,
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave"
                if mount.kind == MountKind::Bind =>
            {
                mount.propagation = word.to_owned();
            }
            _ => return Err(format!("invalid mode: {mode}")),
        }
    }
    if parts.len() == 3 && mode.is_empty() {
        return Err(format!("invalid volume specification: '{spec}'"));
    }
    mode.clone_into(&mut mount.mode);
    Ok(mount)
}

fn driver_or_local(driver: &str) -> String {
    if driver.is_empty() {
        "local".into()
    } else {
        driver.to_owned()
    }
}

/// One `--mount`.
pub fn parse_mount(request: &MountRequest) -> Result<MountPoint, String> {
    let kind = request.kind.name();
    let refuse = |why: String| format!("invalid mount config for type \"{kind}\": {why}");
    if request.target.is_empty() {
        return Err(refuse("field Target must not be empty".into()));
    }
    if !request.target.starts_with('/') {
        return Err(refuse(format!(
            "invalid mount path: '{}' mount path must be absolute",
            request.target
        )));
    }
    let target = clean(&request.target);
    if target == "/" {
        return Err(refuse(
            "invalid specification: destination can't be '/'".into(),
        ));
    }
    let mut mount = plain(request.kind, target);
    mount.read_write = !request.read_only;
    mount.from_mount_flag = true;
    for (owner, name, present) in [
        (MountKind::Bind, "BindOptions", request.bind.is_some()),
        (MountKind::Volume, "VolumeOptions", request.volume.is_some()),
        (MountKind::Image, "ImageOptions", request.image.is_some()),
        (MountKind::Tmpfs, "TmpfsOptions", request.tmpfs.is_some()),
    ] {
        if present && request.kind != owner {
            return Err(refuse(format!("field {name} must not be specified")));
        }
    }
    match request.kind {
        MountKind::Bind => {
            if request.source.is_empty() {
                return Err(refuse("field Source must not be empty".into()));
            }
            if !request.source.starts_with('/') {
                return Err(refuse(format!(
                    "invalid mount path: '{}' mount path must be absolute",
                    request.source
                )));
            }
            mount.source = PathBuf::from(clean(&request.source));
            mount.propagation = "rprivate".into();
            if let Some(options) = &request.bind {
                if !options.propagation.is_empty() {
                    let known = [
                        "private", "rprivate", "shared", "rshared", "slave", "rslave",
                    ];
                    if !known.contains(&options.propagation.as_str()) {
                        return Err(refuse(format!(
                            "invalid propagation mode: {}",
                            options.propagation
                        )));
                    }
                    mount.propagation.clone_from(&options.propagation);
                }
                mount.recursive = !options.non_recursive;
                mount.create_source = options.create_mount_point;
                mount.submounts_writable = options.read_only_non_recursive;
                let word = |name: &str, given| if given { Some(name.to_owned()) } else { None };
                let asked = word("ReadOnlyNonRecursive", options.read_only_non_recursive).or(word(
                    "ReadOnlyForceRecursive",
                    options.read_only_force_recursive,
                ));
                if let Some(name) = asked
                    && !request.read_only
                {
                    return Err(refuse(format!(
                        "mount source is not read-only: {name} needs ReadOnly"
                    )));
                }
                if options.read_only_force_recursive
                    && (options.read_only_non_recursive || options.non_recursive)
                {
                    return Err(refuse(
                        "ReadOnlyForceRecursive contradicts NonRecursive and ReadOnlyNonRecursive"
                            .into(),
                    ));
                }
            }
        }
        MountKind::Volume => {
            if request.source.is_empty() {
                mount.anonymous = true;
            } else if is_volume_name(&request.source) {
                mount.name = Some(request.source.clone());
            } else {
                return Err(refuse(format!(
                    "invalid volume name: \"{}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed",
                    request.source
                )));
            }
            let options = request.volume.clone().unwrap_or_default();
            check_subpath(&options.subpath).map_err(refuse)?;
            mount.mode = "z".into();
            mount.driver = Some(driver_or_local(&options.driver));
            mount.copy_up = !options.no_copy;
            mount.subpath = options.subpath;
            mount.volume_labels = options.labels;
            mount.volume_options = options.driver_options;
        }
        MountKind::Image => {
            if request.source.is_empty() {
                return Err(refuse("field Source must not be empty".into()));
            }
            let options = request.image.clone().unwrap_or_default();
            check_subpath(&options.subpath).map_err(refuse)?;
            mount.name = Some(request.source.clone());
            mount.subpath = options.subpath;
            // Whatever is asked for: other containers have the same layers.
            mount.read_write = false;
            mount.propagation = "rprivate".into();
        }
        MountKind::Tmpfs => {
            if !request.source.is_empty() {
                return Err(refuse("field Source must not be specified".into()));
            }
            let options = request.tmpfs.clone().unwrap_or_default();
            if options.size < 0 {
                return Err(refuse("size must not be negative".into()));
            }
            let mut words: Vec<String> = ["noexec", "nosuid", "nodev"].map(String::from).into();
            if options.mode != 0 {
                words.push(format!("mode={:o}", options.mode));
            }
            if options.size > 0 {
                words.push(format!("size={}", options.size));
            }
            for pair in &options.options {
                match pair.as_slice() {
                    [word] if ["exec", "noexec"].contains(&word.as_str()) => {
                        words.retain(|old| old != "noexec" && old != "exec");
                        words.push(word.clone());
                    }
                    _ => return Err(refuse(format!("invalid tmpfs option: {}", pair.join("=")))),
                }
            }
            mount.tmpfs_options = words;
        }
    }
    Ok(mount)
}

/// The words are the same for images (moby `volume/mounts`, `errInvalidSubpath`).
fn check_subpath(subpath: &str) -> Result<(), String> {
    if subpath.starts_with('/') || subpath.split('/').any(|part| part == "..") {
        return Err("subpath must be a relative path within the volume".into());
    }
    Ok(())
}

/// One `--tmpfs target[:options]`.
pub fn parse_tmpfs(target: &str, options: &str) -> Result<MountPoint, String> {
    let mut mount = plain(MountKind::Tmpfs, destination(target, target)?);
    // Docker's defaults; a word given by the user replaces its opposite.
    let mut words: Vec<String> = ["noexec", "nosuid", "nodev"].map(String::from).into();
    for word in options.split(',').filter(|word| !word.is_empty()) {
        let name = word.split('=').next().unwrap_or(word);
        let known = [
            "exec",
            "noexec",
            "suid",
            "nosuid",
            "dev",
            "nodev",
            "ro",
            "rw",
            "sync",
            "async",
            "atime",
            "noatime",
            "diratime",
            "nodiratime",
            "relatime",
            "norelatime",
            "strictatime",
            "nostrictatime",
            "size",
            "mode",
            "uid",
            "gid",
            "nr_inodes",
            "nr_blocks",
            "mpol",
            "huge",
        ];
        if !known.contains(&name) {
            return Err(format!("invalid tmpfs option [\"{word}\"]"));
        }
        let opposite = match name.strip_prefix("no") {
            Some(positive) => positive.to_owned(),
            None => format!("no{name}"),
        };
        words.retain(|old| *old != opposite && old != word);
        match word {
            "ro" => mount.read_write = false,
            "rw" => mount.read_write = true,
            _ => words.push(word.to_owned()),
        }
    }
    mount.tmpfs_options = words;
    options.clone_into(&mut mount.mode);
    Ok(mount)
}

/// One `--volumes-from container[:mode]` -> (container, read-only).
pub fn parse_volumes_from(text: &str) -> Result<(&str, Option<bool>), String> {
    let (name, mode) = text.split_once(':').unwrap_or((text, ""));
    if name.is_empty() {
        return Err("empty volumes-from specification".into());
    }
    let mut read_only = None;
    for word in mode.split(',').filter(|word| !word.is_empty()) {
        match word {
            "ro" => read_only = Some(true),
            "rw" => read_only = Some(false),
            "z" | "Z" | "nocopy" => {}
            _ => return Err(format!("invalid mode: {mode}")),
        }
    }
    Ok((name, read_only))
}

/// Everything together, without sources of volumes. `from` are the mounts of the containers of `VolumesFrom`. In the machine
/// of a desktop sources may be paths of Windows.
/// Later kinds give way to earlier ones where Docker does so: `-v` and `--mount` win over inherited mounts, and an
/// image's anonymous volume is only made where nothing else is mounted.
pub fn collect(
    host: &HostSettings,
    volumes: &BTreeSet<String>,
    from: Vec<MountPoint>,
    of_a_desktop: bool,
) -> Result<Vec<MountPoint>, String> {
    let mut chosen: Vec<MountPoint> = Vec::new();
    let add = |mount: MountPoint, chosen: &mut Vec<MountPoint>| {
        check_proc(&mount)?;
        if chosen
            .iter()
            .any(|other| other.destination == mount.destination)
        {
            return Err(format!("Duplicate mount point: {}", mount.destination));
        }
        chosen.push(mount);
        Ok(())
    };
    for spec in &host.binds {
        let spec = match of_a_desktop {
            true => from_windows(spec),
            false => Cow::Borrowed(spec.as_str()),
        };
        add(parse_bind(&spec, &host.volume_driver)?, &mut chosen)?;
    }
    for request in &host.mounts {
        let mut request = Cow::Borrowed(request);
        if of_a_desktop && request.kind == MountKind::Bind {
            let source = from_windows(&request.source).into_owned();
            request.to_mut().source = source;
        }
        add(parse_mount(&request)?, &mut chosen)?;
    }
    for (target, options) in &host.tmpfs {
        add(parse_tmpfs(target, options)?, &mut chosen)?;
    }
    for mount in from {
        if !chosen
            .iter()
            .any(|other| other.destination == mount.destination)
        {
            chosen.push(mount);
        }
    }
    for path in volumes {
        let mut mount = plain(MountKind::Volume, destination(path, path)?);
        if chosen
            .iter()
            .any(|other| other.destination == mount.destination)
        {
            continue;
        }
        check_proc(&mount)?;
        mount.anonymous = true;
        mount.copy_up = true;
        mount.driver = Some(driver_or_local(&host.volume_driver));
        chosen.push(mount);
    }
    sort(&mut chosen);
    Ok(chosen)
}

/// Everything a container's masks protect is in its own /proc, and the runtime itself writes there: only that of the
/// host may stand in its place, and only a few files that say something of the machine may be covered (runc's rules,
/// `checkProcMount`).
fn check_proc(mount: &MountPoint) -> Result<(), String> {
    const FILES: [&str; 11] = [
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "net/dev",
        "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    ];
    if mount.destination == "/proc" && mount.source != Path::new("/proc") {
        return Err(
            "invalid specification: destination can't be '/proc': it is not of type proc".into(),
        );
    }
    match mount.destination.strip_prefix("/proc/") {
        Some(file) if !FILES.contains(&file) => Err(format!(
            "invalid specification: {:?} cannot be mounted because it is inside /proc",
            mount.destination
        )),
        _ => Ok(()),
    }
}

/// Parents before children.
fn sort(mounts: &mut [MountPoint]) {
    mounts.sort_by_key(|mount| {
        (
            mount.destination.matches('/').count(),
            mount.destination.clone(),
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::spec::ImageOptions;
    use proptest::prelude::*;

    #[test]
    fn binds_and_volumes_are_told_apart_by_the_slash() {
        let bind = parse_bind("/src/:/a//b/../c:ro,rshared", "").expect("good");
        assert_eq!(bind.kind, MountKind::Bind);
        assert_eq!(bind.source, PathBuf::from("/src"));
        assert_eq!(bind.destination, "/a/c");
        assert!(!bind.read_write);
        assert_eq!(bind.propagation, "rshared");
        for mode in ["nocopy,nocopy", "ro,rw", "z,Z", "cached,delegated"] {
            let refused = parse_bind(&format!("data:/d:{mode}"), "");
            assert_eq!(refused, Err(format!("invalid mode: {mode}")));
        }
        let refused = parse_bind("/d:/d:shared,slave", "");
        assert_eq!(refused, Err("invalid mode: shared,slave".to_owned()));
        let volume = parse_bind("data:/d:nocopy", "").expect("good");
        assert_eq!(volume.name.as_deref(), Some("data"));
        assert!(!volume.copy_up && volume.read_write);
        assert!(parse_bind("/d", "").expect("good").anonymous);
    }

    #[track_caller]
    fn refused(spec: &str, fragment: &str) {
        let why = parse_bind(spec, "").expect_err("Docker refuses this");
        assert!(why.contains(fragment), "{spec}: {why}");
    }

    #[test]
    fn bad_binds_are_refused_in_docker_s_words() {
        refused("a:b:c:d", "invalid volume specification: 'a:b:c:d'");
        refused("/a:/b:fast", "invalid mode: fast");
        refused("/a:/b:ro,rw", "invalid mode: ro,rw");
        refused("/a:b", "mount path must be absolute");
        refused("/a:/", "destination can't be '/'");
        refused("/a:", "invalid volume specification");
        refused(":/b", "invalid volume specification");
        refused(
            "we ird:/b",
            "includes invalid characters for a local volume name",
        );
        refused(
            "./here:/b",
            "If you intended to pass a host directory, use absolute path",
        );
        refused("data:/b:rshared", "invalid mode: rshared");
    }

    #[test]
    fn the_same_place_twice_is_refused_and_the_image_s_volume_gives_way() {
        let mut host = HostSettings {
            binds: vec!["/a:/data".into(), "bb:/data/".into()],
            ..Default::default()
        };
        assert_eq!(
            collect(&host, &BTreeSet::new(), Vec::new(), false),
            Err("Duplicate mount point: /data".into())
        );
        host.binds.pop();
        let all = collect(
            &host,
            &BTreeSet::from(["/data".into(), "/data/inner".into(), "/z".into()]),
            Vec::new(),
            false,
        )
        .expect("good");
        let places: Vec<_> = all.iter().map(|mount| mount.destination.as_str()).collect();
        assert_eq!(places, ["/data", "/z", "/data/inner"]);
        assert_eq!(all[0].kind, MountKind::Bind);
    }

    #[test]
    fn tmpfs_options_replace_the_defaults_they_contradict() {
        let mount = parse_tmpfs("/run", "rw,exec,size=64k").expect("good");
        assert_eq!(mount.tmpfs_options, ["nosuid", "nodev", "exec", "size=64k"]);
        assert!(parse_tmpfs("/run", "bogus").is_err());
    }

    #[test]
    fn a_mount_that_names_fields_of_another_type_is_refused() {
        let request = MountRequest {
            kind: MountKind::Tmpfs,
            source: "x".into(),
            target: "/x".into(),
            read_only: false,
            consistency: String::new(),
            bind: None,
            volume: None,
            tmpfs: None,
            image: None,
        };
        assert_eq!(
            parse_mount(&request),
            Err(
                "invalid mount config for type \"tmpfs\": field Source must not be specified"
                    .into()
            )
        );
        let bind = MountRequest {
            kind: MountKind::Bind,
            source: String::new(),
            ..request
        };
        assert_eq!(
            parse_mount(&bind),
            Err("invalid mount config for type \"bind\": field Source must not be empty".into())
        );
    }

    #[test]
    fn an_image_is_mounted_read_only_whatever_is_asked() {
        let request = MountRequest {
            kind: MountKind::Image,
            source: "busybox".into(),
            target: "/x/".into(),
            read_only: false,
            consistency: String::new(),
            bind: None,
            volume: None,
            tmpfs: None,
            image: Some(ImageOptions {
                subpath: "bin/..data".into(),
            }),
        };
        let mount = parse_mount(&request).expect("good");
        assert_eq!(mount.name.as_deref(), Some("busybox"));
        assert_eq!(
            (mount.destination.as_str(), mount.read_write),
            ("/x", false)
        );
        assert_eq!((mount.subpath.as_str(), mount.driver), ("bin/..data", None));
        let change = |change: &dyn Fn(&mut MountRequest)| {
            let mut request = request.clone();
            change(&mut request);
            parse_mount(&request).expect_err("Docker refuses this")
        };
        for (error, expected) in [
            (
                change(&|request| request.source.clear()),
                "type \"image\": field Source must not be empty",
            ),
            (
                change(&|request| request.bind = Some(Default::default())),
                "type \"image\": field BindOptions must not be specified",
            ),
            (
                change(&|request| request.volume = Some(Default::default())),
                "type \"image\": field VolumeOptions must not be specified",
            ),
            (
                change(&|request| request.tmpfs = Some(Default::default())),
                "type \"image\": field TmpfsOptions must not be specified",
            ),
            (
                change(&|request| request.kind = MountKind::Volume),
                "type \"volume\": field ImageOptions must not be specified",
            ),
            (
                change(&|request| request.target = "/".into()),
                "destination can't be '/'",
            ),
        ] {
            assert!(error.contains(expected), "{error}");
        }
        for subpath in ["../etc", "/etc", "a/../../b", ".."] {
            let options = ImageOptions {
                subpath: subpath.into(),
            };
            let error = change(&|request| request.image = Some(options.clone()));
            assert_eq!(
                error,
                "invalid mount config for type \"image\": subpath must be a relative path within the volume"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in ".{0,24}") {
            let _ = parse_bind(&text, "");
            let _ = parse_tmpfs(&text, &text);
            let _ = parse_volumes_from(&text);
        }

        #[test]
        fn a_destination_is_absolute_and_clean(path in "/[a-z./]{0,20}") {
            if let Ok(mount) = parse_bind(&format!("/src:{path}"), "") {
                prop_assert!(mount.destination.starts_with('/'));
                prop_assert!(mount.destination.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != ".."));
            }
        }

        #[test]
        fn parents_come_before_children(paths in proptest::collection::btree_set("/[ab](/[ab]){0,3}", 1..6)) {
            let all = collect(&HostSettings::default(), &paths, Vec::new(), false).expect("good");
            for (index, mount) in all.iter().enumerate() {
                for later in &all[index + 1..] {
                    let parent = format!("{}/", later.destination);
                    prop_assert!(!mount.destination.starts_with(&parent));
                }
            }
        }
    }
}
