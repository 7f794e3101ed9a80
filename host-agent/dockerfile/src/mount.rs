//! `RUN --mount=type=...`

use crate::fields::{self, FieldsError};

/// A mount for one `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub kind: MountKind,
    /// In the container; absolute or relative to the working directory. Empty where the kind has a place of its own.
    pub target: String,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, or of a stage or image.
    Bind {
        from: Option<String>,
        source: String,
    },
    Cache {
        id: String,
        sharing: Sharing,
        from: Option<String>,
        source: String,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Tmpfs {
        size: Option<u64>,
    },
    Secret {
        id: String,
        /// Name of a variable that gets the secret's content; there is a file too where a target is named.
        variable: Option<String>,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    Ssh {
        id: String,
        required: bool,
        mode: u32,
        uid: u32,
        gid: u32,
    },
}

/// What happens when two builds want one cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Both use it.
    Shared,
    /// The second gets one of its own.
    Private,
    /// The second waits.
    Locked,
}

/// Why a mount cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    #[error("unsupported mount type {0:?}")]
    Type(String),
    #[error("unexpected key '{key}' for mount type '{kind}'")]
    Key { key: String, kind: &'static str },
    #[error("invalid value for '{key}': {value}")]
    Value { key: String, value: String },
    #[error("invalid field '{0}' must be a key=value pair")]
    Pair(String),
    #[error("a mount of type '{0}' needs a target")]
    Target(&'static str),
    #[error("a mount of type 'secret' needs an id or a target")]
    Secret,
    #[error("failed to parse csv mounts: {0}")]
    Fields(#[from] FieldsError),
}

/// Every key, before it is known which ones the type has.
#[derive(Default)]
struct Fields(Vec<(String, Option<String>)>);

impl Fields {
    fn take(&mut self, names: &[&str]) -> Option<(String, Option<String>)> {
        let at = self
            .0
            .iter()
            .position(|(key, _)| names.contains(&key.as_str()))?;
        Some(self.0.remove(at))
    }

    fn text(&mut self, names: &[&str]) -> Result<Option<String>, MountError> {
        match self.take(names) {
            None => Ok(None),
            Some((_, Some(value))) => Ok(Some(value)),
            Some((key, None)) => Err(MountError::Pair(key)),
        }
    }

    fn flag(&mut self, names: &[&str]) -> Result<Option<bool>, MountError> {
        match self.take(names) {
            None => Ok(None),
            Some((_, None)) => Ok(Some(true)),
            // As Go's `ParseBool` has them.
            Some((key, Some(value))) => match value.as_str() {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
                _ => Err(MountError::Value { key, value }),
            },
        }
    }

    fn number(&mut self, name: &str, radix: u32, default: u32) -> Result<u32, MountError> {
        match self.text(&[name])? {
            None => Ok(default),
            Some(value) => u32::from_str_radix(&value, radix).map_err(|_| MountError::Value {
                key: name.to_owned(),
                value,
            }),
        }
    }

    fn owner(&mut self) -> Result<(u32, u32), MountError> {
        Ok((self.number("uid", 10, 0)?, self.number("gid", 10, 0)?))
    }
}

impl Mount {
    /// Reads `type=cache,target=/x,...`. Without a type it is a bind mount.
    pub fn parse(text: &str) -> Result<Mount, MountError> {
        Mount::parse_with(text, |value| Ok(value.to_owned()))
    }

    /// The same with variables in its values: what they stand for parts no fields.
    pub fn parse_with<E: From<MountError>>(
        text: &str,
        expand: impl Fn(&str) -> Result<String, E>,
    ) -> Result<Mount, E> {
        let mut read = Fields::default();
        for field in fields::split(text).map_err(MountError::from)? {
            match field.split_once('=') {
                Some((key, value)) => read
                    .0
                    .push((key.to_ascii_lowercase(), Some(expand(value)?))),
                None if field.is_empty() => {}
                None => read.0.push((field.to_ascii_lowercase(), None)),
            }
        }
        Ok(Mount::of(read)?)
    }

    fn of(mut fields: Fields) -> Result<Mount, MountError> {
        let kind = fields.text(&["type"])?.unwrap_or_else(|| "bind".to_owned());
        let target = fields.text(&["target", "dst", "destination"])?;
        let read_only = fields.flag(&["readonly", "ro"])?;
        let writable = fields.flag(&["readwrite", "rw"])?;
        let chosen = read_only.or(writable.map(|writable| !writable));
        let (name, kind, default_read_only, needs_target) = match kind.to_ascii_lowercase().as_str()
        {
            "bind" => {
                let kind = MountKind::Bind {
                    from: fields.text(&["from"])?,
                    source: fields.text(&["source", "src"])?.unwrap_or_default(),
                };
                ("bind", kind, true, true)
            }
            "cache" => {
                let id = fields
                    .text(&["id"])?
                    .or_else(|| target.clone())
                    .unwrap_or_default();
                let value = fields.text(&["sharing"])?;
                let sharing = match value.as_deref().map(str::to_ascii_lowercase).as_deref() {
                    None | Some("shared") => Sharing::Shared,
                    Some("private") => Sharing::Private,
                    Some("locked") => Sharing::Locked,
                    Some(_) => {
                        return Err(MountError::Value {
                            key: "sharing".into(),
                            value: value.unwrap_or_default(),
                        });
                    }
                };
                let (uid, gid) = fields.owner()?;
                let kind = MountKind::Cache {
                    id,
                    sharing,
                    from: fields.text(&["from"])?,
                    source: fields.text(&["source", "src"])?.unwrap_or_default(),
                    mode: fields.number("mode", 8, 0o755)?,
                    uid,
                    gid,
                };
                ("cache", kind, false, true)
            }
            "tmpfs" => {
                let size = match fields.text(&["size"])? {
                    None => None,
                    Some(value) => Some(bytes(&value).ok_or(MountError::Value {
                        key: "size".into(),
                        value,
                    })?),
                };
                ("tmpfs", MountKind::Tmpfs { size }, false, true)
            }
            "secret" => {
                let id = match fields.text(&["id"])? {
                    Some(id) => id,
                    None => {
                        let file = target
                            .as_deref()
                            .and_then(|target| target.rsplit('/').next());
                        file.filter(|id| !id.is_empty())
                            .ok_or(MountError::Secret)?
                            .to_owned()
                    }
                };
                let (uid, gid) = fields.owner()?;
                let variable = fields.text(&["env"])?;
                if let Some(name) = variable
                    .clone()
                    .filter(|name| name.is_empty() || name.contains(['=', '\0']))
                {
                    return Err(MountError::Value {
                        key: "env".into(),
                        value: name,
                    });
                }
                let kind = MountKind::Secret {
                    id,
                    variable,
                    required: fields.flag(&["required"])?.unwrap_or(false),
                    mode: fields.number("mode", 8, 0o400)?,
                    uid,
                    gid,
                };
                ("secret", kind, true, false)
            }
            "ssh" => {
                let (uid, gid) = fields.owner()?;
                let kind = MountKind::Ssh {
                    id: fields
                        .text(&["id"])?
                        .unwrap_or_else(|| "default".to_owned()),
                    required: fields.flag(&["required"])?.unwrap_or(false),
                    mode: fields.number("mode", 8, 0o600)?,
                    uid,
                    gid,
                };
                ("ssh", kind, true, false)
            }
            _ => return Err(MountError::Type(kind)),
        };
        if let Some((key, _)) = fields.0.pop() {
            return Err(MountError::Key { key, kind: name });
        }
        let target = target.unwrap_or_default();
        if needs_target && target.is_empty() {
            return Err(MountError::Target(name));
        }
        Ok(Mount {
            kind,
            target,
            read_only: chosen.unwrap_or(default_read_only),
        })
    }
}

/// `64m` and the like; powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.trim_end_matches('b').trim_end_matches('i');
    let (digits, shift) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 10),
        b'm' => (&lower[..lower.len() - 1], 20),
        b'g' => (&lower[..lower.len() - 1], 30),
        _ => (lower, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_buildkit_documents_them() {
        let bind = Mount::parse("target=/src").unwrap();
        assert_eq!(
            bind.kind,
            MountKind::Bind {
                from: None,
                source: String::new()
            }
        );
        assert!(bind.read_only);
        assert!(!Mount::parse("type=bind,target=/s,rw").unwrap().read_only);
        assert!(
            Mount::parse("type=Cache,target=/s,ro=TRUE")
                .unwrap()
                .read_only
        );
        assert!(!Mount::parse("target=/s,ro=F").unwrap().read_only);
        let with_comma = Mount::parse("\"source=a,b\",target=/s").unwrap();
        assert!(matches!(with_comma.kind, MountKind::Bind { source, .. } if source == "a,b"));
        let expanded = |value: &str| Ok::<_, MountError>(value.replace("$x", "c,d"));
        let expanded = Mount::parse_with("source=$x,target=/s", expanded).unwrap();
        assert!(matches!(expanded.kind, MountKind::Bind { source, .. } if source == "c,d"));
        let cache = Mount::parse("type=cache,target=/c,sharing=locked,mode=0700,uid=5").unwrap();
        assert!(
            matches!(&cache.kind, MountKind::Cache { id, sharing: Sharing::Locked, mode: 0o700, uid: 5, gid: 0, .. } if id == "/c")
        );
        assert!(!cache.read_only);
        assert_eq!(
            Mount::parse("type=tmpfs,target=/t,size=2m").unwrap().kind,
            MountKind::Tmpfs {
                size: Some(2 << 20)
            }
        );
        let secret = Mount::parse("type=secret,target=/root/.aws/key,required").unwrap();
        assert!(
            matches!(&secret.kind, MountKind::Secret { id, required: true, mode: 0o400, .. } if id == "key")
        );
        assert!(matches!(
            Mount::parse("type=ssh").unwrap().kind,
            MountKind::Ssh { .. }
        ));
    }

    #[test]
    fn wrong_mounts_say_what_is_wrong() {
        for (text, expected) in [
            ("type=magic,target=/x", "unsupported mount type \"magic\""),
            (
                "type=tmpfs,target=/x,id=3",
                "unexpected key 'id' for mount type 'tmpfs'",
            ),
            ("type=cache", "a mount of type 'cache' needs a target"),
            (
                "type=cache,target=/x,sharing=some",
                "invalid value for 'sharing': some",
            ),
            ("type=cache,target=/x,mode=9", "invalid value for 'mode': 9"),
            (
                "type=secret",
                "a mount of type 'secret' needs an id or a target",
            ),
            (
                "type=bind,target",
                "invalid field 'target' must be a key=value pair",
            ),
            (
                "type=bind,target=\"/x\"",
                "failed to parse csv mounts: bare \" in non-quoted-field",
            ),
            ("type=secret,id=x,env=", "invalid value for 'env': "),
            ("type=secret,id=x,env=A=B", "invalid value for 'env': A=B"),
            (
                "type=bind,target=/x,ro=maybe",
                "invalid value for 'ro': maybe",
            ),
        ] {
            assert_eq!(
                Mount::parse(text).unwrap_err().to_string(),
                expected,
                "{text}"
            );
        }
    }
}
