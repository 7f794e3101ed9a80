//! Signing in: Basic, and Bearer with a token from the realm the registry names (distribution's token specification).

use super::asking::is_wrong_way;
use super::client::Clients;
use super::endpoint::Endpoint;
use super::patience::retry_after;
use super::{is_temporary, protocol, read_limited, unreachable};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::images::registry::{Credentials, RegistryError};
use reqwest::header::HeaderValue;
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Bytes of a token server's answer.
const TOKEN_MAX: u64 = 1 << 20;
/// Where the token server does not say (token specification).
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// A token that ends sooner is not used any more.
const TOKEN_SLACK: Duration = Duration::from_secs(5);

/// One `WWW-Authenticate` challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: String,
        scope: String,
    },
}

/// Why signing in failed.
pub(super) enum SignInError {
    /// The registry says no without saying how to sign in.
    NoChallenge,
    /// The token server cannot now; perhaps it says how long to wait.
    Busy {
        status: StatusCode,
        wait: Option<Duration>,
        error: RegistryError,
    },
    Registry(RegistryError),
}

impl From<RegistryError> for SignInError {
    fn from(error: RegistryError) -> SignInError {
        SignInError::Registry(error)
    }
}

/// How to sign in, by endpoint, scope and user.
#[derive(Default)]
pub(super) struct TokenCache {
    known: Mutex<HashMap<Key, (Known, Instant)>>,
}

enum Known {
    /// The password is not kept: each request brings it.
    Basic,
    Token(HeaderValue),
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    base: String,
    scope: String,
    /// A digest of the credentials: they are not kept.
    user: String,
}

impl Key {
    fn new(endpoint: &Endpoint, scope: &str, credentials: Option<&Credentials>) -> Key {
        Key {
            base: endpoint.base.to_string(),
            scope: scope.to_owned(),
            user: user_of(credentials),
        }
    }
}

/// What tells users apart: a digest of their credentials.
pub(super) fn user_of(credentials: Option<&Credentials>) -> String {
    credentials.map_or_else(String::new, |credentials| {
        let words = [
            &credentials.username,
            &credentials.password,
            &credentials.identity_token,
        ];
        engine::images::config::digest_of(format!("{words:?}").as_bytes()).to_string()
    })
}

impl TokenCache {
    /// The header to send, where we know one.
    pub fn authorization(
        &self,
        endpoint: &Endpoint,
        scope: &str,
        credentials: Option<&Credentials>,
    ) -> Option<HeaderValue> {
        if let Some(credentials) = credentials
            && !credentials.registry_token.is_empty()
        {
            return secret(&format!("Bearer {}", credentials.registry_token));
        }
        let known = self
            .known
            .lock()
            .expect("no code panics while it holds this lock");
        known
            .get(&Key::new(endpoint, scope, credentials))
            .filter(|(_, until)| *until > Instant::now())
            .and_then(|(known, _)| match known {
                Known::Basic => credentials.and_then(basic),
                Known::Token(header) => Some(header.clone()),
            })
    }

    /// Answers a challenge; afterwards [`authorization`](Self::authorization) knows the header.
    pub async fn sign_in(
        &self,
        clients: &Clients,
        endpoint: &Endpoint,
        scope: &str,
        challenges: &[String],
        credentials: Option<&Credentials>,
    ) -> Result<(), SignInError> {
        let challenges: Vec<Challenge> = challenges.iter().filter_map(|text| parse(text)).collect();
        // Bearer first, where both are offered: the password then goes to the token server only.
        let bearer = challenges
            .iter()
            .find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        let unsendable = "the token it gave cannot be sent";
        let (known, life) = match bearer.or(challenges.first()) {
            None => return Err(SignInError::NoChallenge),
            Some(Challenge::Basic) => {
                if credentials.is_none_or(|credentials| credentials.username.is_empty()) {
                    // Docker's words.
                    let message = "no basic auth credentials".into();
                    return Err(RegistryError::Denied { message }.into());
                }
                (Known::Basic, Duration::from_secs(3600))
            }
            Some(Challenge::Bearer {
                realm,
                service,
                scope: asked,
            }) => {
                let scope = joined(scope, asked);
                let token = fetch_token(
                    clients,
                    endpoint,
                    realm,
                    service,
                    &scope,
                    credentials,
                    TokenKind::Access,
                )
                .await?;
                let header = token
                    .header
                    .ok_or_else(|| protocol(&endpoint.base, unsendable))?;
                (Known::Token(header), token.life)
            }
        };
        let mut headers = self
            .known
            .lock()
            .expect("no code panics while it holds this lock");
        let now = Instant::now();
        headers.retain(|_, (_, until)| *until > now);
        headers.insert(
            Key::new(endpoint, scope, credentials),
            (known, now + life.saturating_sub(TOKEN_SLACK)),
        );
        Ok(())
    }
}

/// A header that does not show up in debug output.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn basic(credentials: &Credentials) -> Option<HeaderValue> {
    let pair = format!("{}:{}", credentials.username, credentials.password);
    secret(&format!("Basic {}", STANDARD.encode(pair)))
}

/// What we need, and what the registry asks for where that is something else (a catalog, or names of its own).
fn joined(ours: &str, asked: &str) -> String {
    let resource = |word: &str| {
        word.rsplit_once(':')
            .map_or("", |(resource, _)| resource)
            .to_owned()
    };
    let mut words: Vec<&str> = ours.split_whitespace().collect();
    for word in asked.split_whitespace() {
        if !words.iter().any(|known| resource(known) == resource(word)) {
            words.push(word);
        }
    }
    words.join(" ")
}

/// What is wanted of a token server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenKind {
    Access,
    /// One that lasts, too, to be kept instead of a password (`docker login`).
    Lasting,
}

/// What a token server gave.
struct Token {
    header: Option<HeaderValue>,
    life: Duration,
    refresh: Option<String>,
}

async fn fetch_token(
    clients: &Clients,
    endpoint: &Endpoint,
    realm: &str,
    service: &str,
    scope: &str,
    credentials: Option<&Credentials>,
    kind: TokenKind,
) -> Result<Token, SignInError> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        refresh_token: Option<String>,
        expires_in: Option<u64>,
    }
    let mut url = Url::parse(realm)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| protocol(&endpoint.base, format!("its token realm is {realm:?}")))?;
    if url.scheme() == "http" && !endpoint.is_insecure {
        return Err(protocol(
            &endpoint.base,
            format!("its token realm {realm} would send passwords without TLS"),
        )
        .into());
    }
    let client = clients.for_url(&url, endpoint)?;
    let request = match credentials {
        Some(credentials) if !credentials.identity_token.is_empty() => {
            let form = [
                ("grant_type", "refresh_token"),
                ("refresh_token", &credentials.identity_token),
                ("service", service),
                ("scope", scope),
                ("client_id", "berth"),
            ];
            client
                .post(url.clone())
                .header("content-type", "application/x-www-form-urlencoded")
                .body(form_encoded(&form))
        }
        _ => {
            {
                let mut query = url.query_pairs_mut();
                if !service.is_empty() {
                    query.append_pair("service", service);
                }
                for part in scope.split_whitespace() {
                    query.append_pair("scope", part);
                }
                if kind == TokenKind::Lasting {
                    query
                        .append_pair("offline_token", "true")
                        .append_pair("client_id", "berth");
                }
                if let Some(credentials) = credentials
                    && !credentials.username.is_empty()
                {
                    query.append_pair("account", &credentials.username);
                }
            }
            let request = client.get(url.clone());
            match credentials
                .filter(|credentials| !credentials.username.is_empty())
                .and_then(basic)
            {
                Some(header) => request.header("authorization", header),
                None => request,
            }
        }
    };
    let response = request
        .send()
        .await
        .map_err(|error| unreachable(&url, error))?;
    let status = response.status();
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Err(match credentials {
            Some(_) => RegistryError::Unauthorized {
                message: "incorrect username or password".into(),
            },
            None => RegistryError::Denied {
                message: "denied: requested access to the resource is denied".into(),
            },
        }
        .into());
    }
    if !status.is_success() {
        let error = RegistryError::Status {
            url: realm.to_owned(),
            status: status.as_u16(),
            message: "the token server failed".into(),
        };
        return Err(match is_temporary(status) {
            true => SignInError::Busy {
                status,
                wait: retry_after(&response),
                error,
            },
            false => error.into(),
        });
    }
    let body = read_limited(response, TOKEN_MAX).await?;
    let token: Answer = serde_json::from_slice(&body)
        .map_err(|error| protocol(&url, format!("not a token: {error}")))?;
    let life = token
        .expires_in
        .map_or(TOKEN_LIFE, Duration::from_secs)
        .clamp(TOKEN_LIFE, Duration::from_secs(3600));
    let text = token
        .token
        .filter(|token| !token.is_empty())
        .or(token.access_token)
        .ok_or_else(|| protocol(&url, "it gave no token"))?;
    Ok(Token {
        header: secret(&format!("Bearer {text}")),
        life,
        refresh: token.refresh_token.filter(|token| !token.is_empty()),
    })
}

fn form_encoded(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish()
}

/// Tries credentials at a registry, with TLS or without as it has it. There must be an endpoint. The answer is an
/// identity token, where there is one.
pub(super) async fn login(
    clients: &Clients,
    endpoints: &[Endpoint],
    credentials: &Credentials,
) -> Result<Option<String>, RegistryError> {
    let mut last = None;
    for endpoint in endpoints {
        match login_at(clients, endpoint, credentials).await {
            Err(error)
                if matches!(error, RegistryError::Unreachable { .. })
                    || is_wrong_way(endpoint, &error) =>
            {
                last.get_or_insert(error);
            }
            outcome => return outcome,
        }
    }
    Err(last.expect("the caller has looked for endpoints"))
}

async fn login_at(
    clients: &Clients,
    endpoint: &Endpoint,
    credentials: &Credentials,
) -> Result<Option<String>, RegistryError> {
    let url = endpoint.url("")?;
    let client = clients.for_url(&url, endpoint)?;
    let response = client
        .get(url.clone())
        .send()
        .await
        .map_err(|error| unreachable(&url, error))?;
    let failed = |status: StatusCode| RegistryError::Status {
        url: url.to_string(),
        status: status.as_u16(),
        message: "login attempt failed".into(),
    };
    match response.status() {
        StatusCode::UNAUTHORIZED => {}
        status if status.is_success() => return Ok(None),
        status => return Err(failed(status)),
    }
    let refused = |message: &str| RegistryError::Unauthorized {
        message: message.to_owned(),
    };
    let challenges: Vec<Challenge> = super::challenges_of(&response)
        .iter()
        .filter_map(|text| parse(text))
        .collect();
    let bearer = challenges
        .iter()
        .find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    let (header, refresh) = match bearer.or(challenges.first()) {
        None => return Err(refused("authentication required")),
        Some(Challenge::Basic) => (basic(credentials), None),
        Some(Challenge::Bearer {
            realm,
            service,
            scope,
        }) => {
            let token = fetch_token(
                clients,
                endpoint,
                realm,
                service,
                scope,
                Some(credentials),
                TokenKind::Lasting,
            )
            .await
            .map_err(|error| match error {
                SignInError::NoChallenge => refused("authentication required"),
                SignInError::Busy { error, .. } | SignInError::Registry(error) => error,
            })?;
            (token.header, token.refresh)
        }
    };
    let mut request = client.get(url.clone());
    if let Some(header) = header {
        request = request.header("authorization", header);
    }
    let response = request
        .send()
        .await
        .map_err(|error| unreachable(&url, error))?;
    match response.status() {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(refused("incorrect username or password"))
        }
        status if status.is_success() => Ok(refresh),
        status => Err(failed(status)),
    }
}

/// Reads `Bearer realm="...",service="...",scope="..."` (RFC 9110, 11.6.1). One challenge in one header is what
/// registries send.
fn parse(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters: HashMap<String, String> = HashMap::new();
    let mut rest = rest.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_ascii_lowercase();
        let mut value = String::new();
        let mut end = after.len();
        if let Some(quoted) = after.strip_prefix('"') {
            let mut is_escaped = false;
            for (at, character) in quoted.char_indices() {
                match character {
                    _ if is_escaped => {
                        value.push(character);
                        is_escaped = false;
                    }
                    '\\' => is_escaped = true,
                    '"' => {
                        end = at + 2;
                        break;
                    }
                    other => value.push(other),
                }
            }
        } else {
            end = after.find(',').unwrap_or(after.len());
            value = after[..end].trim().to_owned();
        }
        parameters.insert(key, value);
        rest = &after[end..];
    }
    let mut take = |key: &str| parameters.remove(key).unwrap_or_default();
    Some(Challenge::Bearer {
        realm: take("realm"),
        service: take("service"),
        scope: take("scope"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        assert_eq!(
            parse("Bearer realm=\"https://a/t\",service=\"s, t\",scope=\"repository:x:pull,push\""),
            Some(Challenge::Bearer {
                realm: "https://a/t".into(),
                service: "s, t".into(),
                scope: "repository:x:pull,push".into()
            })
        );
        assert_eq!(
            parse("bearer realm=\"a\\\"b\", service=plain"),
            Some(Challenge::Bearer {
                realm: "a\"b".into(),
                service: "plain".into(),
                scope: String::new()
            })
        );
        assert_eq!(parse("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(parse("Negotiate"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_challenge_makes_it_panic(text in "(Bearer )?\\PC{0,60}") {
            let _ = parse(&text);
        }
    }
}
