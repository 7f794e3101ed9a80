//! Proxies of docker's configuration file as build arguments. Engines know their names: no `ARG` is needed, and they are in
//! no history and no cache key.

use crate::credentials;
use anyhow::Result;
use serde_json::{Map, Value};

/// Keys of the file, and the variables they become (docker/cli, `ParseProxyConfig`).
const NAMES: [(&str, &str); 5] = [
    ("httpProxy", "HTTP_PROXY"),
    ("httpsProxy", "HTTPS_PROXY"),
    ("noProxy", "NO_PROXY"),
    ("ftpProxy", "FTP_PROXY"),
    ("allProxy", "ALL_PROXY"),
];

/// Adds what the command line does not give.
pub(super) fn add(arguments: &mut Map<String, Value>) -> Result<()> {
    let config = credentials::Config::load()?;
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    if let Some(proxies) = config.proxies(&host) {
        add_from(arguments, proxies);
    }
    Ok(())
}

fn add_from(arguments: &mut Map<String, Value>, proxies: &Value) {
    for (key, name) in NAMES {
        let Some(value) = proxies[key].as_str().filter(|value| !value.is_empty()) else {
            continue;
        };
        for name in [name.to_owned(), name.to_ascii_lowercase()] {
            arguments.entry(name).or_insert_with(|| value.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_spellings_are_set_and_what_is_given_counts() {
        let mut arguments = Map::from_iter([("http_proxy".to_owned(), json!("mine"))]);
        let proxies = json!({"httpProxy": "http://p:1", "noProxy": "a,b", "httpsProxy": ""});
        add_from(&mut arguments, &proxies);
        let expected = json!({
            "HTTP_PROXY": "http://p:1", "http_proxy": "mine", "NO_PROXY": "a,b", "no_proxy": "a,b",
        });
        assert_eq!(Value::Object(arguments), expected);
    }
}
