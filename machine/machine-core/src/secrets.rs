//! What in a driver's record is a secret, by the names that drivers give their keys, and where it is kept: never in
//! config.json, which people pass around and tools print.
//!
//! A secret that was given is moved to `secrets.json` beside it (0600). One that was given as a reference (`env:NAME`,
//! `file:PATH`, `cmd:COMMAND`) is kept as that, and looked up each time it is needed.

use crate::driver::{DriverState, FlagValue, FlagValues};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};

/// What stands in config.json for a secret that is in `secrets.json`.
const MOVED: &str = "file:secrets.json";

/// Why a secret could not be looked up.
#[derive(Debug, thiserror::Error)]
#[error("the secret {reference} cannot be had: {why}")]
pub struct SecretError {
    pub reference: String,
    pub why: String,
}

/// Takes the secrets out; the keys of the result are JSON pointers.
pub fn take_out(state: &mut DriverState) -> BTreeMap<String, String> {
    let mut taken = BTreeMap::new();
    for_each(state, "", &mut |pointer, text| {
        if !text.is_empty() && !is_reference(text) {
            taken.insert(pointer, std::mem::replace(text, MOVED.to_owned()));
        }
    });
    taken
}

/// Shows every secret, however deep, with its JSON pointer.
fn for_each(state: &mut DriverState, pointer: &str, visit: &mut dyn FnMut(String, &mut String)) {
    for (key, value) in state.iter_mut() {
        let pointer = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
        look_into(value, is_secret(key), pointer, visit);
    }
}

fn look_into(
    value: &mut Value,
    is_secret: bool,
    pointer: String,
    visit: &mut dyn FnMut(String, &mut String),
) {
    match value {
        Value::String(text) if is_secret => visit(pointer, text),
        Value::Object(inner) => for_each(inner, &pointer, visit),
        Value::Array(list) => {
            for (index, value) in list.iter_mut().enumerate() {
                look_into(value, is_secret, format!("{pointer}/{index}"), visit);
            }
        }
        _ => {}
    }
}

/// Puts back what [`take_out`] took.
pub fn put_back(state: &mut DriverState, taken: &BTreeMap<String, String>) {
    let mut whole = Value::Object(std::mem::take(state));
    for (path, secret) in taken {
        if let Some(Value::String(text)) = whole.pointer_mut(path)
            && text == MOVED
        {
            *text = secret.clone();
        }
    }
    if let Value::Object(map) = whole {
        *state = map;
    }
}

/// Whether a text says where a secret is rather than being one.
pub fn is_reference(text: &str) -> bool {
    ["env:", "file:", "cmd:"]
        .iter()
        .any(|kind| text.starts_with(kind))
}

/// The secret that a reference names; any other text as it is.
pub fn look_up(text: &str) -> Result<String, SecretError> {
    let failed = |why: String| SecretError {
        reference: text.to_owned(),
        why,
    };
    let found = match text.split_once(':') {
        Some(("env", name)) => std::env::var(name).map_err(|error| failed(error.to_string()))?,
        Some(("file", path)) => {
            std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?
        }
        Some(("cmd", line)) => {
            let (shell, flag) = if cfg!(windows) {
                ("cmd", "/C")
            } else {
                ("sh", "-c")
            };
            let output = Command::new(shell)
                .args([flag, line])
                .stdin(Stdio::null())
                .stderr(Stdio::inherit())
                .output()
                .map_err(|error| failed(error.to_string()))?;
            if !output.status.success() {
                return Err(failed(format!("it ended with {}", output.status)));
            }
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        _ => return Ok(text.to_owned()),
    };
    Ok(found.trim_end_matches(['\n', '\r']).to_owned())
}

/// The state with its references looked up.
pub fn looked_up(state: &DriverState) -> Result<DriverState, SecretError> {
    let mut state = state.clone();
    for (key, value) in state.iter_mut() {
        if let Value::String(text) = value
            && is_secret(key)
            && is_reference(text)
        {
            *text = look_up(text)?;
        }
    }
    Ok(state)
}

/// What was a reference before stays one, whatever a driver made of it.
pub fn keep_references(before: &DriverState, state: &mut DriverState) {
    for (key, value) in before {
        if let Value::String(text) = value
            && is_secret(key)
            && is_reference(text)
        {
            state.insert(key.clone(), value.clone());
        }
    }
}

/// What flags were given, without those that are secrets themselves.
pub fn without_secrets(values: &FlagValues) -> BTreeMap<String, FlagValue> {
    let given = values.0.iter().filter(|(name, value)| match value {
        FlagValue::Text(text) => !is_secret(name) || is_reference(text),
        FlagValue::List(_) => !is_secret(name),
        FlagValue::Bool(_) | FlagValue::Int(_) => true,
    });
    given
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Parts of names that say so; keys that only name a file are none.
const SECRET: [&str; 7] = [
    "token",
    "secret",
    "password",
    "passwd",
    "apikey",
    "accesskey",
    "credential",
];
const HARMLESS: [&str; 2] = ["path", "file"];

pub fn is_secret(key: &str) -> bool {
    let plain: String = key
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    SECRET.iter().any(|part| plain.contains(part))
        && !HARMLESS.iter().any(|part| plain.ends_with(part))
}

/// Empties every secret.
pub fn blank(state: &mut DriverState) {
    for_each(state, "", &mut |_, text| text.clear());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_out_and_come_back_and_references_stay() {
        let text = r#"{"APIToken":"x","Size":1,"Inner":{"Pass/Password":"y"},"SecretKey":"env:KEY","Token2":"",
            "Tokens":["z"],"Users":[{"Password":"v","Name":"n"},{"Password":"w"}]}"#;
        let given: DriverState = serde_json::from_str(text).unwrap();
        let mut state = given.clone();
        let taken = take_out(&mut state);
        let left = serde_json::to_string(&state).unwrap();
        for secret in ["x", "y", "z", "v", "w"] {
            assert!(!left.contains(&format!("\"{secret}\"")), "{left}");
        }
        assert!(left.contains("env:KEY"), "{left}");
        put_back(&mut state, &taken);
        assert_eq!(state, given);
        let mut new = given.clone();
        new.insert("SecretKey".into(), "resolved".into());
        keep_references(&given, &mut new);
        assert_eq!(new, given);
    }

    #[test]
    fn secrets_given_as_flags_are_left_out() {
        let text = |text: &str| FlagValue::Text(text.into());
        let given = [
            ("x-token", text("secret")),
            ("x-password", text("env:PASSWORD")),
            ("x-size", FlagValue::Int(7)),
            ("x-tag", text("a")),
            ("x-secrets", FlagValue::List(vec!["secret".into()])),
        ];
        let values = FlagValues(given.map(|(name, value)| (name.to_owned(), value)).into());
        let kept: Vec<String> = without_secrets(&values).into_keys().collect();
        assert_eq!(kept, ["x-password", "x-size", "x-tag"]);
    }

    #[test]
    fn references_are_looked_up() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("s");
        std::fs::write(&file, "secret\n").unwrap();
        assert_eq!(
            look_up(&format!("file:{}", file.display())).unwrap(),
            "secret"
        );
        assert_eq!(look_up("plain:text").unwrap(), "plain:text");
        if cfg!(unix) {
            assert_eq!(look_up("cmd:printf secret").unwrap(), "secret");
        }
        for bad in ["env:NO_SUCH_VARIABLE_HERE", "file:/nowhere", "cmd:exit 3"] {
            assert!(look_up(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_known_by_their_names() {
        for key in [
            "AccessToken",
            "SecretKey",
            "APIKey",
            "Password",
            "access-key",
            "ClientSecret",
        ] {
            assert!(is_secret(key), "{key}");
        }
        for key in ["SSHKeyPath", "IPAddress", "SSHKey", "TokenFile", "Memory"] {
            assert!(!is_secret(key), "{key}");
        }
        let mut state: DriverState =
            serde_json::from_str(r#"{"APIToken":"x","Inner":{"Password":"y","Size":1},"All":[{"Password":"z"}],"Tokens":["w"]}"#)
                .unwrap();
        blank(&mut state);
        assert_eq!(
            serde_json::to_string(&state).unwrap(),
            r#"{"APIToken":"","Inner":{"Password":"","Size":1},"All":[{"Password":""}],"Tokens":[""]}"#
        );
    }
}
