//! What in a driver's record is a secret, by the names that drivers give their keys.

use crate::driver::DriverState;
use serde_json::Value;

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

/// Empties every secret, nested ones too.
pub fn blank(state: &mut DriverState) {
    for (key, value) in state.iter_mut() {
        match value {
            Value::String(text) if is_secret(key) => text.clear(),
            Value::Object(inner) => blank(inner),
            Value::Array(list) => list.iter_mut().for_each(|value| {
                if let Value::Object(inner) = value {
                    blank(inner);
                }
            }),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            serde_json::from_str(r#"{"APIToken":"x","Inner":{"Password":"y","Size":1}}"#).unwrap();
        blank(&mut state);
        assert_eq!(
            serde_json::to_string(&state).unwrap(),
            r#"{"APIToken":"","Inner":{"Password":"","Size":1}}"#
        );
    }
}
