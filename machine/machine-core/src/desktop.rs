//! What this computer needs to reach the world, for machines on it: proxies, and authorities that only a company knows.

use crate::engine_settings::DaemonJson;
use guest_contract::QEMU_HOST_ADDRESS;
use serde_json::Value;
use std::path::Path;

/// The variables that name proxies, and the engine's option for each.
pub const PROXIES: [(&str, &str); 3] = [
    ("HTTP_PROXY", "http-proxy"),
    ("HTTPS_PROXY", "https-proxy"),
    ("NO_PROXY", "no-proxy"),
];

/// More than this is not what a company adds.
const MOST_BYTES: u64 = 2 << 20;

/// Where administrators put authorities of their own, by distribution; files of PEM.
const ANCHORS: [&str; 4] = [
    "/usr/local/share/ca-certificates",
    "/etc/pki/ca-trust/source/anchors",
    "/etc/pki/trust/anchors",
    "/etc/ca-certificates/trust-source/anchors",
];

/// This computer's proxies as `--engine-env` would name them. One with a password is only referred to.
pub fn proxies(variable: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, _) in PROXIES {
        // The lower-case one is the older custom, and curl's only one for HTTP.
        for spelling in [name.to_owned(), name.to_lowercase()] {
            if let Some(value) = variable(&spelling).filter(|value| !value.is_empty()) {
                found.push(match has_password(&value) {
                    true => format!("{name}=env:{spelling}"),
                    false => format!("{name}={value}"),
                });
                break;
            }
        }
    }
    found
}

/// `scheme://user:password@host`.
pub fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    authority
        .rsplit_once('@')
        .is_some_and(|(user, _)| user.contains(':'))
}

/// Proxies as seen from a machine on this computer: one on loopback has another address there, and the machine itself
/// needs none.
pub fn seen_from_a_guest(json: &mut DaemonJson) {
    let mut any = false;
    for key in ["http-proxy", "https-proxy"] {
        if let Some(Value::String(url)) = json.get_mut(key) {
            any = true;
            for local in ["localhost", "127.0.0.1", "[::1]"] {
                let (scheme, rest) = url.split_once("://").unwrap_or(("http", url.as_str()));
                let (user, host) = match rest.rsplit_once('@') {
                    Some((user, host)) => (format!("{user}@"), host),
                    None => (String::new(), rest),
                };
                if let Some(after) = host.strip_prefix(local)
                    && (after.is_empty() || after.starts_with([':', '/']))
                {
                    *url = format!("{scheme}://{user}{QEMU_HOST_ADDRESS}{after}");
                    break;
                }
            }
        }
    }
    if any {
        let given = json.get("no-proxy").and_then(Value::as_str).unwrap_or("");
        let own = format!("localhost,127.0.0.0/8,{QEMU_HOST_ADDRESS}");
        let list = match given {
            "" => own,
            given => format!("{given},{own}"),
        };
        json.insert("no-proxy".into(), list.into());
    }
}

/// PEM of the authorities that this computer trusts beyond those that everybody does.
pub fn authorities() -> Vec<u8> {
    let mut files: Vec<std::path::PathBuf> = std::env::var_os("SSL_CERT_FILE")
        .filter(|file| !file.is_empty())
        .map(Into::into)
        .into_iter()
        .collect();
    files.extend(ANCHORS.iter().map(Into::into));
    let mut found = collect(&files);
    if cfg!(target_os = "macos") {
        found.extend(system_keychain());
    }
    #[cfg(windows)]
    found.extend(root_store());
    found
}

/// What the store of roots has, the user's and all users', without those that Microsoft brings: guests have the usual ones.
#[cfg(windows)]
fn root_store() -> Vec<u8> {
    use schannel::cert_store::CertStore;
    let usual: std::collections::HashSet<Vec<u8>> = CertStore::open_local_machine("AuthRoot")
        .iter()
        .flat_map(CertStore::certs)
        .map(|usual| usual.to_der().to_vec())
        .collect();
    let mut found = Vec::new();
    for root in CertStore::open_current_user("ROOT")
        .iter()
        .flat_map(CertStore::certs)
    {
        let is_ours = !usual.contains(root.to_der()) && root.is_time_valid().unwrap_or(false);
        let text = root.to_pem().unwrap_or_default().replace('\r', "");
        if is_ours && ((found.len() + text.len()) as u64) <= MOST_BYTES {
            found.extend(text.into_bytes());
        }
    }
    found
}

/// What an administrator added to all users' keychain.
fn system_keychain() -> Vec<u8> {
    let output = std::process::Command::new("/usr/bin/security")
        .args(["find-certificate", "-a", "-p"])
        .arg("/Library/Keychains/System.keychain")
        .output();
    output.map_or_else(|_| Vec::new(), |output| output.stdout)
}

/// Certificates of files and of the files in folders, in order; what is no certificate is left out.
fn collect(places: &[impl AsRef<Path>]) -> Vec<u8> {
    let mut found = Vec::new();
    for place in places {
        let place = place.as_ref();
        let mut files = match std::fs::read_dir(place) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(_) => vec![place.to_path_buf()],
        };
        files.sort();
        for file in files {
            let fits = |length: u64| length + found.len() as u64 <= MOST_BYTES;
            if !file
                .metadata()
                .is_ok_and(|is| is.is_file() && fits(is.len()))
            {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            for certificate in certificates(&text) {
                found.extend(certificate.as_bytes());
                found.push(b'\n');
            }
        }
    }
    found
}

/// The certificates of a PEM file, without what stands between them: a key beside one must not travel.
fn certificates(text: &str) -> impl Iterator<Item = &str> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    text.split(BEGIN).skip(1).filter_map(move |part| {
        let end = part.find(END)? + END.len();
        let start = part.as_ptr() as usize - text.as_ptr() as usize - BEGIN.len();
        text.get(start..start + BEGIN.len() + end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn proxies_of_the_environment_are_carried_without_passwords() {
        let variable = |name: &str| match name {
            "HTTP_PROXY" => Some("http://proxy.lan:3128".to_owned()),
            "https_proxy" => Some("http://me:secret@proxy.lan:3128".to_owned()),
            "NO_PROXY" => Some(String::new()),
            _ => None,
        };
        assert_eq!(
            proxies(&variable),
            [
                "HTTP_PROXY=http://proxy.lan:3128",
                "HTTPS_PROXY=env:https_proxy"
            ]
        );
        assert!(!has_password("http://user@proxy"));
        assert!(!has_password("http://proxy:80/a:b@c"));
    }

    #[test]
    fn a_proxy_on_loopback_is_reached_from_a_guest() {
        #[track_caller]
        fn check(url: &str, expected: &str) {
            let mut json = DaemonJson::new();
            json.insert("https-proxy".into(), url.into());
            seen_from_a_guest(&mut json);
            assert_eq!(json["https-proxy"], expected);
            assert_eq!(json["no-proxy"], "localhost,127.0.0.0/8,10.0.2.2");
        }
        check("http://localhost:3128", "http://10.0.2.2:3128");
        check("http://127.0.0.1", "http://10.0.2.2");
        check("http://u:p@[::1]:1/", "http://u:p@10.0.2.2:1/");
        check("http://localhost.lan:1", "http://localhost.lan:1");
        let mut nothing = DaemonJson::new();
        seen_from_a_guest(&mut nothing);
        assert!(nothing.is_empty());
        let mut some = DaemonJson::new();
        some.insert("http-proxy".into(), json!("http://p"));
        some.insert("no-proxy".into(), json!(".lan"));
        seen_from_a_guest(&mut some);
        assert_eq!(some["no-proxy"], ".lan,localhost,127.0.0.0/8,10.0.2.2");
    }

    #[test]
    fn certificates_are_found_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let certificate =
            |word: &str| format!("-----BEGIN CERTIFICATE-----\n{word}\n-----END CERTIFICATE-----");
        let file = folder.path().join("one.pem");
        let text = format!(
            "subject=x\n{}\n-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n{}\n-----BEGIN CERTIFICATE-----\ncut",
            certificate("aa"),
            certificate("bb")
        );
        std::fs::write(&file, text).unwrap();
        let anchors = folder.path().join("anchors");
        std::fs::create_dir(&anchors).unwrap();
        std::fs::write(anchors.join("b.crt"), certificate("dd")).unwrap();
        std::fs::write(anchors.join("a.crt"), certificate("cc")).unwrap();
        std::fs::write(anchors.join("binary.cer"), [0xff, 0x30]).unwrap();
        let missing = folder.path().join("none");
        let found = String::from_utf8(collect(&[file, missing, anchors])).unwrap();
        let expected = ["aa", "bb", "cc", "dd"].map(|word| certificate(word) + "\n");
        assert_eq!(found, expected.concat());
    }
}
