//! Docker contexts of machines, in the files that the docker CLI keeps them in: `contexts/meta/ID/meta.json` and
//! `contexts/tls/ID/docker/{ca,cert,key}.pem`, where ID is the SHA-256 of the context's name
//! (<https://github.com/docker/cli/tree/master/cli/context/store>).
//!
//! A context we wrote says so in its metadata; one that somebody else made under the same name is left alone.

use crate::driver::MachinePlace;
use crate::store::{StoreError, atomic, layout};
use serde_json::{Map, Value, json};
use std::io;
use std::path::{Path, PathBuf};

/// In the metadata of our contexts: the folder of the machine.
const MARK: &str = "MachineFolder";

/// Why a context could not be written or removed.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is a Docker context \"{name}\" that is not this machine's")]
    Foreign { name: String },
    #[error("there is no Docker context \"{name}\"")]
    Missing { name: String },
    #[error("{} cannot be understood", path.display())]
    Malformed {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

impl ContextError {
    /// What to try next.
    pub fn hint(&self) -> Option<String> {
        match self {
            ContextError::Store(error) => error.hint(),
            ContextError::Foreign { name } => Some(format!(
                "choose another name with --name, or remove that one: docker context rm {name}"
            )),
            ContextError::Missing { .. } => Some("`docker context ls` lists them".into()),
            ContextError::Malformed { .. } => Some("mend the file".into()),
        }
    }
}

/// The docker CLI's folder.
pub struct DockerContexts {
    root: PathBuf,
}

impl DockerContexts {
    /// `root` is `DOCKER_CONFIG`, usually `~/.docker`.
    pub fn new(root: PathBuf) -> DockerContexts {
        DockerContexts { root }
    }

    /// Where the docker CLI looks.
    pub fn default_root() -> Result<PathBuf, StoreError> {
        if let Some(folder) = std::env::var_os("DOCKER_CONFIG").filter(|value| !value.is_empty()) {
            return Ok(folder.into());
        }
        match std::env::home_dir() {
            Some(home) if !home.as_os_str().is_empty() => Ok(home.join(".docker")),
            _ => Err(StoreError::NoHome),
        }
    }

    /// Writes the context `name` for the machine at `place`, whose engine is at `url`.
    pub fn write(&self, name: &str, place: &MachinePlace, url: &str) -> Result<(), ContextError> {
        match self.owner(name)? {
            Some(Some(owner)) if owner == place.folder => {}
            None => {}
            Some(_) => return Err(ContextError::Foreign { name: name.into() }),
        }
        let tls = self.tls(name).join("docker");
        for (from, to) in [
            (layout::CA_CERT, "ca.pem"),
            (layout::CLIENT_CERT, "cert.pem"),
            (layout::CLIENT_KEY, "key.pem"),
        ] {
            let from = place.folder.join(from);
            let contents =
                std::fs::read(&from).map_err(|source| StoreError::io("read", &from, source))?;
            self.put(&tls.join(to), &contents)?;
        }
        let meta = json!({
            "Name": name,
            "Metadata": {
                "Description": format!("machine {}", place.name),
                MARK: place.folder.to_string_lossy(),
            },
            "Endpoints": {"docker": {"Host": url, "SkipTLSVerify": false}},
        });
        // Last: a context with its metadata is whole.
        self.put(
            &self.meta(name).join("meta.json"),
            meta.to_string().as_bytes(),
        )
    }

    /// Removes the context `name` of the machine at `place`.
    pub fn remove(&self, name: &str, place: &MachinePlace) -> Result<(), ContextError> {
        match self.owner(name)? {
            None => return Err(ContextError::Missing { name: name.into() }),
            Some(Some(owner)) if owner == place.folder => {}
            Some(_) => return Err(ContextError::Foreign { name: name.into() }),
        }
        self.delete(name)?;
        let mut config = self.config()?;
        if config.get("currentContext").and_then(Value::as_str) == Some(name) {
            config.remove("currentContext");
            self.save_config(&config)?;
        }
        Ok(())
    }

    /// Removes every context of the machine at `place`; says which.
    pub fn forget_machine(&self, place: &MachinePlace) -> Result<Vec<String>, ContextError> {
        let folder = self.root.join("contexts").join("meta");
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(StoreError::io("read", &folder, source).into()),
        };
        let mut removed = Vec::new();
        for entry in entries.flatten() {
            // Another program's broken context is not ours to complain about.
            let Ok(text) = std::fs::read(entry.path().join("meta.json")) else {
                continue;
            };
            let Ok(meta) = serde_json::from_slice::<Value>(&text) else {
                continue;
            };
            let owner = meta["Metadata"][MARK].as_str().map(Path::new);
            if let (Some(name), true) = (meta["Name"].as_str(), owner == Some(&place.folder)) {
                self.remove(name, place)?;
                removed.push(name.to_owned());
            }
        }
        Ok(removed)
    }

    /// Makes `name` the context that the docker CLI uses when nothing else is said.
    pub fn make_current(&self, name: &str) -> Result<(), ContextError> {
        let mut config = self.config()?;
        config.insert("currentContext".into(), name.into());
        self.save_config(&config)
    }

    /// `None`: no such context; `Some(None)`: somebody else's.
    fn owner(&self, name: &str) -> Result<Option<Option<PathBuf>>, ContextError> {
        let path = self.meta(name).join("meta.json");
        match std::fs::read(&path) {
            Ok(text) => {
                let meta: Value = serde_json::from_slice(&text)
                    .map_err(|source| ContextError::Malformed { path, source })?;
                Ok(Some(meta["Metadata"][MARK].as_str().map(PathBuf::from)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::io("read", &path, source).into()),
        }
    }

    fn delete(&self, name: &str) -> Result<(), ContextError> {
        for folder in [self.meta(name), self.tls(name)] {
            match std::fs::remove_dir_all(&folder) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", &folder, source).into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn config(&self) -> Result<Map<String, Value>, ContextError> {
        let path = self.root.join("config.json");
        match std::fs::read(&path) {
            Ok(text) if text.trim_ascii().is_empty() => Ok(Map::new()),
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|source| ContextError::Malformed { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Map::new()),
            Err(source) => Err(StoreError::io("read", &path, source).into()),
        }
    }

    /// The docker CLI writes its file with tabs.
    fn save_config(&self, config: &Map<String, Value>) -> Result<(), ContextError> {
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
        serde::Serialize::serialize(config, &mut serializer).expect("plain data");
        let path = self.root.join("config.json");
        // A link to the file (dotfile managers make them) stays one.
        let path = path.canonicalize().unwrap_or(path);
        self.put(&path, &text)
    }

    fn put(&self, path: &Path, contents: &[u8]) -> Result<(), ContextError> {
        if let Some(folder) = path.parent() {
            atomic::make_private_folder(folder)
                .map_err(|source| StoreError::io("make", folder, source))?;
        }
        Ok(
            atomic::write(path, contents)
                .map_err(|source| StoreError::io("write", path, source))?,
        )
    }

    fn meta(&self, name: &str) -> PathBuf {
        self.root.join("contexts").join("meta").join(id(name))
    }

    fn tls(&self, name: &str) -> PathBuf {
        self.root.join("contexts").join("tls").join(id(name))
    }
}

fn id(name: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(root: &Path) -> MachinePlace {
        let folder = root.join("store/machines/dev");
        std::fs::create_dir_all(&folder).unwrap();
        for file in ["ca.pem", "cert.pem", "key.pem"] {
            std::fs::write(folder.join(file), file).unwrap();
        }
        MachinePlace {
            name: "dev".into(),
            folder,
            store: root.join("store"),
        }
    }

    #[test]
    fn a_context_comes_and_goes_and_others_stay() {
        let root = tempfile::tempdir().unwrap();
        let place = place(root.path());
        let docker = root.path().join("docker");
        let contexts = DockerContexts::new(docker.clone());
        contexts
            .write("dev", &place, "tcp://127.0.0.9:2376")
            .unwrap();
        contexts
            .write("dev", &place, "tcp://127.0.0.9:2377")
            .unwrap();
        std::fs::write(docker.join("config.json"), "{\"auths\": {\"r\": {}}}").unwrap();
        contexts.make_current("dev").unwrap();
        let config = std::fs::read_to_string(docker.join("config.json")).unwrap();
        assert!(config.contains("auths") && config.contains("\"currentContext\": \"dev\""));
        // The digest is docker's: a known one of its own documentation and tests.
        assert_eq!(
            id("default"),
            "37a8eec1ce19687d132fe29051dca629d164e2c4958ba141d5f4133a33f0688f"
        );
        let foreign = docker.join("contexts/meta").join(id("other"));
        std::fs::create_dir_all(&foreign).unwrap();
        std::fs::write(
            foreign.join("meta.json"),
            "{\"Name\":\"other\",\"Metadata\":{}}",
        )
        .unwrap();
        assert!(matches!(
            contexts.write("other", &place, "tcp://x"),
            Err(ContextError::Foreign { .. })
        ));
        assert_eq!(contexts.forget_machine(&place).unwrap(), ["dev"]);
        assert!(foreign.exists());
        let config = std::fs::read_to_string(docker.join("config.json")).unwrap();
        assert!(config.contains("auths") && !config.contains("currentContext"));
        assert!(matches!(
            contexts.remove("dev", &place),
            Err(ContextError::Missing { .. })
        ));
    }
}
