//! What `berth build` says beside Docker's own parameters of `POST /build`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Content type of a body that begins with one line of JSON, a [`BuildPreamble`]; the context's tar follows.
pub const BUILD_CONTENT_TYPE: &str = "application/vnd.berth.build";

/// Longest preamble with its newline, bytes: BuildKit's largest secret has 500 kB.
pub const PREAMBLE_MAX: usize = 8 * 1024 * 1024;

/// What Docker's query string has no place for. It has secrets in it, so it cannot be printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct BuildPreamble {
    /// Content by id, base64.
    pub secrets: BTreeMap<String, String>,
    /// By id, the token of the `POST /build/ssh/{token}` whose connection leads to the agent.
    pub ssh: BTreeMap<String, String>,
    pub output: OutputBody,
    /// No image, folder or container of the build gets a time later than this: seconds since 1970.
    pub source_date: Option<i64>,
    /// Further contexts, by name.
    pub contexts: BTreeMap<String, ContextBody>,
    /// Contents of files are kept for later contexts, and files may be sent by digest.
    pub keep_contents: bool,
}

impl std::fmt::Debug for BuildPreamble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BuildPreamble(hidden)")
    }
}

/// `--build-context`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ContextBody {
    /// That of the `POST /build/context/{token}` which brought its files.
    Token(String),
    /// An image in the place of another.
    Image(String),
    /// A git repository or an archive.
    Url(String),
}

/// What is made of the target stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputBody {
    #[default]
    Image,
    /// Its files as a tar, behind the line `{"files":true}` of the answer.
    Files,
    /// The image, and then its files.
    ImageAndFiles,
    /// Nothing; the cache is filled.
    Nothing,
    /// Nothing is run: findings about the Dockerfile.
    Check,
}

/// Body of `POST /build/contents`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContentsBody {
    /// `sha256` of contents, 64 hex digits.
    pub digests: Option<Vec<String>>,
}
