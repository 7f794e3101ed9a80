//! `--secret`: what a build may use and an image never has.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;

/// BuildKit's bound, bytes.
const SECRET_MAX: usize = 500 * 1024;

/// A secret's content. Cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// The `key=value` pairs of an option, as CSV: `"key=a,b"` has a comma in its value.
pub(super) fn fields(option: &str, text: &str) -> Result<Vec<(String, String)>> {
    let split = dockerfile::fields::split(text);
    split
        .with_context(|| format!("invalid --{option} '{text}'"))?
        .into_iter()
        .map(|field| {
            let (key, value) = field.split_once('=').with_context(|| {
                format!("invalid --{option} '{text}': '{field}' is not key=value")
            })?;
            Ok((key.trim().to_ascii_lowercase(), value.to_owned()))
        })
        .collect()
}

/// Reads every `--secret id=ID[,src=FILE|,env=NAME][,type=file|env]`.
pub(super) fn secrets(options: &[String]) -> Result<BTreeMap<String, Secret>> {
    let mut secrets = BTreeMap::new();
    for text in options {
        let (mut id, mut file, mut variable, mut kind) = (None, None, None, None);
        for (key, value) in fields("secret", text)? {
            match key.as_str() {
                "id" => id = Some(value),
                "src" | "source" => file = Some(value),
                "env" => variable = Some(value),
                "type" if matches!(value.as_str(), "file" | "env") => kind = Some(value),
                "type" => bail!("invalid --secret '{text}': the type is file or env"),
                other => bail!("invalid --secret '{text}': there is no field '{other}'"),
            }
        }
        // With `type=env`, `src` is a variable's name.
        if kind.as_deref() == Some("env") && variable.is_none() {
            variable = file.take();
        }
        let id = id
            .or_else(|| file.clone())
            .or_else(|| variable.clone())
            .filter(|id| !id.is_empty())
            .with_context(|| format!("invalid --secret '{text}': it has no id"))?;
        let content = match (file, variable) {
            (Some(_), Some(_)) => {
                bail!("invalid --secret '{text}': a secret is a file or a variable, not both")
            }
            (Some(file), None) => of_file(&file)?,
            (None, Some(name)) => of_variable(&name)?,
            // As BuildKit has it: a variable of that name, else a file.
            (None, None) if kind.is_none() && std::env::var_os(&id).is_some() => of_variable(&id)?,
            (None, None) if kind.as_deref() == Some("env") => of_variable(&id)?,
            (None, None) => of_file(&id)?,
        };
        if content.len() > SECRET_MAX {
            bail!("the secret '{id}' is larger than {SECRET_MAX} bytes");
        }
        secrets.insert(id, Secret(content));
    }
    Ok(secrets)
}

fn of_file(path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read the secret {path}"))
}

fn of_variable(name: &str) -> Result<Vec<u8>> {
    let value = std::env::var(name)
        .ok()
        .with_context(|| format!("there is no variable {name} for the secret"))?;
    Ok(value.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<BTreeMap<String, Secret>> {
        secrets(&[text.to_owned()])
    }

    #[test]
    fn secrets_are_files_or_variables() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, "from the file").expect("written");
        let file = file.display();
        let read = |text: &str| {
            let secrets = one(text).expect(text);
            assert!(!format!("{secrets:?}").contains("from"));
            secrets
                .into_iter()
                .map(|(id, secret)| (id, String::from_utf8(secret.0).expect("text")))
                .next()
                .expect("one")
        };
        assert_eq!(
            read(&format!("id=a,src={file}")),
            ("a".into(), "from the file".into())
        );
        assert_eq!(
            read(&format!("type=file,id=a,source={file}")).1,
            "from the file"
        );
        assert_eq!(read(&format!("src={file}")).1, "from the file");
        let path = std::env::var("PATH").expect("cargo sets it");
        assert_eq!(read("id=p,env=PATH"), ("p".into(), path.clone()));
        assert_eq!(read("id=p,type=env,src=PATH").1, path);
        assert_eq!(read("id=PATH").1, path);
    }

    #[test]
    fn mistakes_are_told() {
        for (bad, why) in [
            ("x", "not key=value"),
            ("src=", "no id"),
            ("id=a,src=/nowhere/x", "/nowhere/x"),
            ("id=a,env=BERTH_NO_SUCH_VARIABLE", "BERTH_NO_SUCH_VARIABLE"),
            ("id=a,src=b,env=c", "not both"),
            ("id=a,type=vault", "file or env"),
            ("id=a,mode=1", "'mode'"),
        ] {
            let error = format!("{:#}", one(bad).expect_err(bad));
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
