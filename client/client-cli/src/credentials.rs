//! Credentials for registries, where docker keeps them: `config.json` and the programs of credential helpers
//! (`docker-credential-NAME`, github.com/docker/docker-credential-helpers).

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Docker Hub's name in configuration files.
pub(crate) const HUB: &str = "https://index.docker.io/v1/";
/// The user name that says a secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// What is known of one registry's user. Cannot be printed by accident.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) identity_token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

impl Credentials {
    /// As the engine's API takes them.
    pub(crate) fn to_body(&self, server: &str) -> Value {
        let mut body = json!({ "username": self.username, "serveraddress": server });
        match self.identity_token.is_empty() {
            true => body["password"] = json!(self.password),
            false => body["identitytoken"] = json!(self.identity_token),
        }
        body
    }
}

/// The registry of an image's name, as configuration files call it.
pub(crate) fn registry_of(image: &str) -> String {
    let first = image.split_once('/').map(|(first, _)| first);
    let registry = first
        .filter(|first| first.contains(['.', ':']) || *first == "localhost")
        .unwrap_or(HUB);
    server_name(registry)
}

/// What a server is called in configuration files: its host and port; Docker Hub has an address.
pub(crate) fn server_name(server: &str) -> String {
    let bare = host_of(server);
    match bare {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB.to_owned(),
        bare => bare.to_owned(),
    }
}

/// Without scheme and path.
fn host_of(server: &str) -> &str {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// Docker's configuration file.
pub(crate) struct Config {
    path: PathBuf,
    content: Map<String, Value>,
}

impl Config {
    /// Reads `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`; a missing one is empty.
    pub(crate) fn load() -> Result<Config> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let folder = match set("DOCKER_CONFIG") {
            Some(folder) => PathBuf::from(folder),
            None => set("HOME")
                .or_else(|| set("USERPROFILE"))
                .map(PathBuf::from)
                .context("neither DOCKER_CONFIG nor HOME says where config.json is")?
                .join(".docker"),
        };
        Config::read(folder.join("config.json"))
    }

    fn read(path: PathBuf) -> Result<Config> {
        let content = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Map::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
            Ok(text) if text.trim().is_empty() => Map::new(),
            Ok(text) => serde_json::from_str(&text)
                .with_context(|| format!("{} is not a configuration file", path.display()))?,
        };
        Ok(Config { path, content })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Registries that the file names.
    pub(crate) fn registries(&self) -> Vec<String> {
        let of = |name: &str| self.content.get(name).and_then(Value::as_object);
        let named = [of("auths"), of("credHelpers")].into_iter().flatten();
        named
            .flat_map(|registries| registries.keys().cloned())
            .collect()
    }

    /// The proxies for an engine at `host`, or for all of them.
    pub(crate) fn proxies(&self, host: &str) -> Option<&Value> {
        let proxies = self.content.get("proxies")?;
        proxies.get(host).or_else(|| proxies.get("default"))
    }

    /// The helper that keeps a registry's credentials; `None`: the file itself does.
    pub(crate) fn helper(&self, registry: &str) -> Option<&str> {
        self.content
            .get("credHelpers")
            .and_then(|helpers| helpers.get(registry))
            .or_else(|| self.content.get("credsStore"))
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
    }

    /// What is known of a registry's user.
    pub(crate) fn get(&self, registry: &str) -> Result<Option<Credentials>> {
        match self.helper(registry) {
            Some(helper) => from_helper(helper, registry),
            None => Ok(self.entry(registry).and_then(from_entry)),
        }
    }

    fn entry(&self, registry: &str) -> Option<&Value> {
        let auths = self.content.get("auths")?.as_object()?;
        // Some tools write `https://host/v1/` where others write `host`.
        auths.get(registry).or_else(|| {
            auths
                .iter()
                .find(|(key, _)| host_of(key) == host_of(registry))
                .map(|(_, entry)| entry)
        })
    }

    /// Keeps credentials, with a helper or in the file.
    pub(crate) fn store(&mut self, registry: &str, credentials: &Credentials) -> Result<()> {
        let entry = match self.helper(registry).map(str::to_owned) {
            Some(helper) => {
                let (user, secret) = match credentials.identity_token.is_empty() {
                    true => (credentials.username.as_str(), &credentials.password),
                    false => (TOKEN_USER, &credentials.identity_token),
                };
                let body = json!({"ServerURL": registry, "Username": user, "Secret": secret});
                ask_helper(&helper, "store", &body.to_string())?;
                json!({})
            }
            None => {
                let pair = format!("{}:{}", credentials.username, credentials.password);
                let mut entry = json!({ "auth": STANDARD.encode(pair) });
                if !credentials.identity_token.is_empty() {
                    entry["identitytoken"] = json!(credentials.identity_token);
                }
                entry
            }
        };
        let auths = self.content.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        auths[registry] = entry;
        self.save()
    }

    /// Forgets credentials; tells whether there were any.
    pub(crate) fn erase(&mut self, registry: &str) -> Result<bool> {
        let auths = self.content.get_mut("auths").and_then(Value::as_object_mut);
        let mut was_there = auths.is_some_and(|auths| {
            let before = auths.len();
            auths.retain(|key, _| key != registry && host_of(key) != host_of(registry));
            auths.len() != before
        });
        if let Some(helper) = self.helper(registry) {
            was_there |= from_helper(helper, registry)?.is_some();
            ask_helper(helper, "erase", registry)?;
        }
        if was_there {
            self.save()?;
        }
        Ok(was_there)
    }

    /// Beside the old one, then over it: nobody sees half a file.
    fn save(&self) -> Result<()> {
        // Where the file is a link, what it points at is changed.
        let path = self
            .path
            .canonicalize()
            .unwrap_or_else(|_| self.path.clone());
        let write = || -> std::io::Result<()> {
            let folder = path.parent().unwrap_or_else(|| Path::new("."));
            std::fs::create_dir_all(folder)?;
            let temporary = folder.join(format!(".config.json.{}", std::process::id()));
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create(true).truncate(true);
            #[cfg(unix)]
            {
                use std::os::unix::fs::OpenOptionsExt;
                options.mode(0o600);
            }
            let mut file = options.open(&temporary)?;
            let text = format!("{:#}\n", Value::Object(self.content.clone()));
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

fn from_entry(entry: &Value) -> Option<Credentials> {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let mut credentials = Credentials {
        username: text("username"),
        password: text("password"),
        identity_token: text("identitytoken"),
    };
    if let Some((username, password)) = STANDARD
        .decode(text("auth"))
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .as_deref()
        .and_then(|pair| pair.split_once(':'))
    {
        credentials.username = username.to_owned();
        credentials.password = password.trim_end_matches('\0').to_owned();
    }
    (credentials != Credentials::default()).then_some(credentials)
}

fn from_helper(helper: &str, registry: &str) -> Result<Option<Credentials>> {
    let Some(answer) = ask_helper(helper, "get", registry)? else {
        return Ok(None);
    };
    let answer: Value = serde_json::from_str(&answer)
        .with_context(|| format!("docker-credential-{helper} did not answer with JSON"))?;
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    let (username, secret) = (text("Username"), text("Secret"));
    if secret.is_empty() && username.is_empty() {
        return Ok(None);
    }
    Ok(Some(match username == TOKEN_USER {
        true => Credentials {
            identity_token: secret,
            ..Credentials::default()
        },
        false => Credentials {
            username,
            password: secret,
            ..Credentials::default()
        },
    }))
}

/// Runs a helper; `None` where it does not have what it was asked for.
fn ask_helper(helper: &str, verb: &str, input: &str) -> Result<Option<String>> {
    // It is a part of a program's name, never a path.
    if helper.contains(['/', '\\']) {
        bail!("invalid credential helper {helper:?}: it is the NAME of docker-credential-NAME");
    }
    let program = format!("docker-credential-{helper}");
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| {
            format!("cannot start {program}, which config.json names: install it, or take it out of credsStore and credHelpers")
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read has its reasons; its exit status tells.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .with_context(|| format!("cannot hear from {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(Some(text));
    }
    if text.contains("credentials not found") {
        return Ok(None);
    }
    bail!("{program} {verb} failed: {text}")
}

/// The `X-Registry-Auth` header for an image; a helper that fails is told and counts as no credentials, as in docker.
pub(crate) fn header(image: &str) -> String {
    let registry = registry_of(image);
    let found = Config::load().and_then(|config| config.get(&registry));
    let body = match found {
        Ok(Some(credentials)) => credentials.to_body(&registry),
        Ok(None) => json!({}),
        Err(error) => {
            eprintln!("berth: warning: no credentials for {registry}: {error:#}");
            json!({})
        }
    };
    URL_SAFE.encode(body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, Config) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).expect("written");
        let config = Config::read(path).expect("good");
        (folder, config)
    }

    fn user(name: &str, password: &str) -> Credentials {
        Credentials {
            username: name.into(),
            password: password.into(),
            ..Credentials::default()
        }
    }

    #[test]
    fn servers_and_registries_have_dockers_names() {
        for (image, registry) in [
            ("alpine", HUB),
            ("me/thing", HUB),
            ("docker.io/x", HUB),
            ("localhost/x", "localhost"),
            ("a.example:5000/x/y", "a.example:5000"),
        ] {
            assert_eq!(registry_of(image), registry, "{image}");
        }
        assert_eq!(server_name("https://a.example/v1/"), "a.example");
        assert_eq!(server_name(""), HUB);
    }

    #[test]
    fn the_file_keeps_credentials_and_everything_else() {
        let (_folder, mut file) =
            config(r#"{"auths":{"https://a.example/v1/":{"auth":"dTpw"}},"other":[1]}"#);
        assert_eq!(file.get("a.example").expect("good"), Some(user("u", "p")));
        assert_eq!(file.get("b.example").expect("good"), None);
        file.store("b.example", &user("n", "a:b")).expect("stored");
        let token = Credentials {
            username: "n".into(),
            identity_token: "t".into(),
            ..Credentials::default()
        };
        file.store(HUB, &token).expect("stored");
        let mut again = Config::read(file.path().to_owned()).expect("good");
        assert_eq!(
            again.get("b.example").expect("good"),
            Some(user("n", "a:b"))
        );
        assert_eq!(again.get(HUB).expect("good"), Some(token));
        assert_eq!(again.content["other"], json!([1]));
        assert!(again.erase("a.example").expect("good"));
        assert!(!again.erase("a.example").expect("good"));
        assert_eq!(again.get("a.example").expect("good"), None);
    }

    #[cfg(unix)]
    #[test]
    fn helpers_are_chosen_by_registry() {
        let (_folder, file) =
            config(r#"{"credsStore":"all","credHelpers":{"a.example":"one"},"auths":{}}"#);
        assert_eq!(file.helper("a.example"), Some("one"));
        assert_eq!(file.helper("b.example"), Some("all"));
        let error = ask_helper("../x", "get", "").expect_err("a path");
        assert!(error.to_string().contains("NAME"), "{error}");
        let error = file.get("b.example").expect_err("not installed");
        assert!(
            error.to_string().contains("docker-credential-all"),
            "{error}"
        );
    }
}
