//! Where a Debian machine gets its packages from, read from apt's own configuration, so that no mirror has to be named.

use std::path::{Path, PathBuf};
use std::process::Command;

/// One place that apt is told to fetch binary packages from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub uri: String,
    pub suites: Vec<String>,
    pub components: Vec<String>,
}

/// Base addresses of mirrors that apt knows under `root` (`/` but in tests), best first: archives of whole suites only,
/// no security or update pockets, fetched over HTTP or HTTPS. Empty where there is no apt.
pub fn mirrors(root: &Path, component: &str) -> Vec<String> {
    let folder = root.join("etc/apt");
    let mut files = vec![folder.join("sources.list")];
    if let Ok(entries) = std::fs::read_dir(folder.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let mut mirrors = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else {
            continue;
        };
        let sources = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => one_line_sources(&text),
            Some("sources") => deb822_sources(&text),
            _ => continue,
        };
        for source in sources {
            let uri = source.uri.trim_end_matches('/').to_owned();
            let whole_suite = source.suites.iter().any(|suite| !is_pocket(suite));
            let has_component = source.components.iter().any(|name| name == component);
            let is_http = uri.starts_with("http://") || uri.starts_with("https://");
            if whole_suite && has_component && is_http && !mirrors.contains(&uri) {
                mirrors.push(uri);
            }
        }
    }
    // Third-party archives never end in /debian; Debian's own nearly always do.
    mirrors.sort_by_key(|uri| !uri.ends_with("/debian"));
    mirrors
}

/// `true` for suites that only hold changes to another one.
fn is_pocket(suite: &str) -> bool {
    ["-security", "-updates", "-backports", "-proposed-updates"]
        .iter()
        .any(|ending| suite.trim_end_matches('/').ends_with(ending))
        || suite.contains('/')
}

/// sources.list(5), one-line style: `deb [options] uri suite component...`.
fn one_line_sources(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        let Some(rest) = line
            .strip_prefix("deb")
            .filter(|rest| rest.starts_with(char::is_whitespace) || rest.starts_with('['))
        else {
            continue;
        };
        let mut rest = rest.trim_start();
        if let Some(options) = rest.strip_prefix('[') {
            let Some((_, after)) = options.split_once(']') else {
                continue;
            };
            rest = after;
        }
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else {
            continue;
        };
        sources.push(Source {
            uri,
            suites: vec![suite],
            components: words.collect(),
        });
    }
    sources
}

/// sources.list(5), deb822 style: paragraphs of `Key: value` with continued lines.
fn deb822_sources(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let without_comments: String = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    for paragraph in without_comments.split("\n\n") {
        let field = |name: &str| -> Vec<String> {
            let mut words = Vec::new();
            let mut inside = false;
            for line in paragraph.lines() {
                if line.starts_with([' ', '\t']) {
                    if inside {
                        words.extend(line.split_whitespace().map(str::to_owned));
                    }
                    continue;
                }
                let (key, value) = line.split_once(':').unwrap_or((line, ""));
                inside = key.trim().eq_ignore_ascii_case(name);
                if inside {
                    words.extend(value.split_whitespace().map(str::to_owned));
                }
            }
            words
        };
        if field("Enabled").iter().any(|word| word == "no")
            || !field("Types").iter().any(|word| word == "deb")
        {
            continue;
        }
        for uri in field("URIs") {
            sources.push(Source {
                uri,
                suites: field("Suites"),
                components: field("Components"),
            });
        }
    }
    sources
}

/// The proxy that apt is told to use for `http://` or `https://` addresses; `None` where there is no apt or no proxy.
/// `DIRECT` (apt's word for "none") is `None` too.
pub fn proxy(scheme: &str) -> Option<String> {
    let name = format!("Acquire::{scheme}::Proxy");
    let output = Command::new("apt-config")
        .args(["shell", "proxy", &name])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let value = text.trim().strip_prefix("proxy=")?.trim_matches('\'');
    (!value.is_empty() && value != "DIRECT" && value != "false").then(|| value.to_owned())
}

/// The keyring of Debian's package `debian-archive-keyring`, where it is installed.
pub fn archive_keyring() -> Option<PathBuf> {
    ["gpg", "pgp"]
        .iter()
        .map(|ending| {
            PathBuf::from(format!(
                "/usr/share/keyrings/debian-archive-keyring.{ending}"
            ))
        })
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, text: &str, expected: &[&str]) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("etc/apt").join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        assert_eq!(mirrors(root.path(), "main"), expected);
    }

    #[test]
    fn one_line_style() {
        check(
            "sources.list",
            "# deb http://old.example/debian trixie main\n\
             deb-src http://source.example/debian trixie main\n\
             deb [arch=amd64 signed-by=/x.gpg] http://other.example/apt stable main\n\
             deb cdrom:[Debian]/ trixie main\n\
             deb http://mirror.example/debian/ bookworm main contrib # nearest\n\
             deb http://mirror.example/debian-security bookworm-security main\n\
             deb http://contrib.example/debian bookworm contrib\n",
            &["http://mirror.example/debian", "http://other.example/apt"],
        );
    }

    #[test]
    fn deb822_style() {
        check(
            "sources.list.d/debian.sources",
            "Types: deb deb-src\n# a comment\nURIs: http://one.example/debian\n https://two.example/debian\n\
             Suites: trixie trixie-updates\nComponents: main\n\n\
             Types: deb\nURIs: http://sec.example/debian-security\nSuites: trixie-security\nComponents: main\n\n\
             Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: trixie\nComponents: main\n",
            &["http://one.example/debian", "https://two.example/debian"],
        );
    }

    #[test]
    fn other_files_and_no_apt_give_nothing() {
        check(
            "sources.list.d/third.sources.disabled",
            "Types: deb\nURIs: http://off.example/debian\nSuites: trixie\nComponents: main\n",
            &[],
        );
        assert!(mirrors(Path::new("/nonexistent"), "main").is_empty());
    }
}
