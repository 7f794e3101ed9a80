//! Which engine to talk to: docker's own environment variables.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Unix(PathBuf),
    Tcp {
        host: String,
        port: u16,
        tls: Option<PathBuf>,
    },
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            Endpoint::Tcp { host, port, .. } if host.contains(':') => {
                write!(f, "tcp://[{host}]:{port}")
            }
            Endpoint::Tcp { host, port, .. } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

const SOCKETS: [&str; 2] = ["/var/run/docker.sock", "/run/berth.sock"];

/// The engine that flag or environment name, else the local socket.
pub(crate) fn endpoint(host: Option<&str>) -> Result<Endpoint> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let folder = set("DOCKER_TLS_VERIFY").map(|_| match set("DOCKER_CERT_PATH") {
        Some(folder) => PathBuf::from(folder),
        None => set("HOME")
            .or_else(|| set("USERPROFILE"))
            .map_or_else(PathBuf::new, PathBuf::from)
            .join(".docker"),
    });
    parse(host.filter(|host| !host.is_empty()), folder)
}

fn parse(host: Option<&str>, tls: Option<PathBuf>) -> Result<Endpoint> {
    let Some(host) = host else {
        let found = SOCKETS.iter().find(|path| Path::new(path).exists());
        return Ok(Endpoint::Unix(found.unwrap_or(&SOCKETS[0]).into()));
    };
    let (scheme, rest) = host.split_once("://").unwrap_or(("tcp", host));
    match scheme {
        "unix" if rest.starts_with('/') => Ok(Endpoint::Unix(rest.into())),
        "unix" => bail!("bad engine address '{host}': a unix socket needs an absolute path"),
        "tcp" | "http" | "https" => {
            let rest = rest.trim_end_matches('/');
            let default = if tls.is_some() { 2376 } else { 2375 };
            let (name, port) = match rest.rsplit_once(':') {
                Some((name, port)) if !port.contains(']') => (
                    name,
                    port.parse().with_context(|| {
                        format!("bad engine address '{host}': no port '{port}'")
                    })?,
                ),
                _ => (rest, default),
            };
            let name = name.trim_start_matches('[').trim_end_matches(']');
            if name.is_empty() {
                bail!("bad engine address '{host}': no host");
            }
            Ok(Endpoint::Tcp {
                host: name.to_owned(),
                port,
                tls,
            })
        }
        "ssh" | "npipe" => bail!(
            "{scheme}:// addresses are not supported; use tcp:// with TLS (machine env) or unix://"
        ),
        other => bail!("bad engine address '{host}': unknown scheme '{other}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, tls: Option<&str>) -> Endpoint {
        Endpoint::Tcp {
            host: host.into(),
            port,
            tls: tls.map(PathBuf::from),
        }
    }

    #[test]
    fn addresses() {
        let read =
            |host: &str, tls: Option<&str>| parse(Some(host), tls.map(PathBuf::from)).expect(host);
        assert_eq!(
            read("unix:///run/x.sock", None),
            Endpoint::Unix("/run/x.sock".into())
        );
        assert_eq!(
            read("tcp://127.1.2.3:2376", Some("/c")),
            tcp("127.1.2.3", 2376, Some("/c"))
        );
        assert_eq!(read("tcp://h", None), tcp("h", 2375, None));
        assert_eq!(read("tcp://h", Some("/c")), tcp("h", 2376, Some("/c")));
        assert_eq!(read("tcp://[::1]:1", None), tcp("::1", 1, None));
        assert_eq!(read("h:9", None), tcp("h", 9, None));
    }

    #[test]
    fn bad_addresses_are_named() {
        for bad in ["unix://x", "ssh://h", "ftp://h", "tcp://:1", "tcp://h:x"] {
            assert!(parse(Some(bad), None).is_err(), "{bad}");
        }
    }
}
