//! Manifests as registries serve them: Docker's schema 2 and OCI's, single or lists for several platforms.

use super::{Digest, Platform};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// What we accept, in the order we like it; schema 1 is asked for too so that its refusal can say why.
pub const ACCEPTED: [&str; 5] = [
    DOCKER_MANIFEST,
    DOCKER_LIST,
    OCI_INDEX,
    OCI_MANIFEST,
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// Bytes of a manifest, list or index; 4 MiB is what registries allow (OCI distribution spec).
pub const MANIFEST_MAX: u64 = 4 << 20;
/// Bytes of an image configuration.
pub const CONFIG_MAX: u64 = 8 << 20;
/// Layers in one image. Docker stops at 125 and overlayfs at 500.
pub const LAYERS_MAX: usize = 500;
/// Entries in a list.
const LIST_MAX: usize = 10_000;

/// Points at a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Set by attestations and other things that are not images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// Whether it is something about an image, as attestations are, and not an image.
    pub fn is_of_another(&self) -> bool {
        self.artifact_type.is_some() || self.annotations.contains_key("vnd.docker.reference.type")
    }
}

/// An image of one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    pub schema_version: u32,
    #[serde(default)]
    pub media_type: String,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// A manifest that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    Image(ImageManifest),
    /// One manifest for each of several platforms.
    List(Vec<Descriptor>),
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error(
        "the image has a manifest of schema version 1, which Docker itself no longer supports: push it again with a newer client"
    )]
    SchemaOne,
    #[error("unsupported manifest media type {media_type:?}")]
    MediaType { media_type: String },
    #[error("invalid manifest: {why}")]
    Invalid { why: String },
    #[error("no matching manifest for {platform} in the manifest list entries")]
    NoPlatform { platform: Platform },
    #[error("unsupported layer media type {media_type:?}")]
    LayerMediaType { media_type: String },
    #[error(
        "{media_type} is not an image configuration: this is an artifact for another program, not a container image"
    )]
    NotAnImage { media_type: String },
}

impl Manifest {
    /// Reads a manifest. `media_type` is the registry's Content-Type (may be empty or plain JSON's); the manifest's
    /// own `mediaType`, and at last its shape, decide where that says nothing.
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let invalid = |error: serde_json::Error| ManifestError::Invalid {
            why: error.to_string(),
        };
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Probe {
            #[serde(default)]
            schema_version: u32,
            #[serde(default)]
            media_type: String,
            manifests: Option<serde_json::Value>,
            layers: Option<serde_json::Value>,
        }
        let probe: Probe = serde_json::from_slice(bytes).map_err(invalid)?;
        if probe.schema_version == 1 {
            return Err(ManifestError::SchemaOne);
        }
        // A document that is both could be read as one thing here and another elsewhere (CVE-2021-41190).
        if probe.manifests.is_some() && probe.layers.is_some() {
            return Err(ManifestError::Invalid {
                why: "it has both layers and manifests".into(),
            });
        }
        let given = media_type.split(';').next().unwrap_or_default().trim();
        let known =
            |text: &str| [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX].contains(&text);
        let media_type = if known(given) {
            given
        } else if !probe.media_type.is_empty() {
            &probe.media_type
        } else if probe.manifests.is_some() {
            OCI_INDEX
        } else if probe.layers.is_some() {
            OCI_MANIFEST
        } else {
            given
        };
        match media_type {
            DOCKER_MANIFEST | OCI_MANIFEST => {
                let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(invalid)?;
                manifest.check()?;
                Ok(Manifest::Image(manifest))
            }
            DOCKER_LIST | OCI_INDEX => {
                #[derive(Deserialize)]
                struct List {
                    manifests: Vec<Descriptor>,
                }
                let list: List = serde_json::from_slice(bytes).map_err(invalid)?;
                if list.manifests.len() > LIST_MAX {
                    return Err(ManifestError::Invalid {
                        why: format!("it lists {} manifests", list.manifests.len()),
                    });
                }
                Ok(Manifest::List(list.manifests))
            }
            other => Err(ManifestError::MediaType {
                media_type: other.to_owned(),
            }),
        }
    }
}

impl ImageManifest {
    fn check(&self) -> Result<(), ManifestError> {
        if self.layers.len() > LAYERS_MAX {
            return Err(ManifestError::Invalid {
                why: format!(
                    "it has {} layers, more than {LAYERS_MAX}",
                    self.layers.len()
                ),
            });
        }
        if self.config.size > CONFIG_MAX {
            return Err(ManifestError::Invalid {
                why: format!("its configuration has {} bytes", self.config.size),
            });
        }
        match self.config.media_type.as_str() {
            // Old pushes by some tools gave the configuration no proper type.
            "" | DOCKER_CONFIG | OCI_CONFIG | "application/octet-stream" | "application/json" => {}
            other => {
                return Err(ManifestError::NotAnImage {
                    media_type: other.to_owned(),
                });
            }
        }
        for layer in &self.layers {
            check_layer_media_type(&layer.media_type)?;
        }
        Ok(())
    }
}

/// Which layers we can unpack. The bytes themselves tell the compression; the type tells foreign and encrypted ones.
fn check_layer_media_type(media_type: &str) -> Result<(), ManifestError> {
    let supported = match media_type
        .strip_prefix("application/vnd.oci.image.layer.v1.tar")
        .or_else(|| {
            media_type.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar")
        }) {
        Some(suffix) => matches!(suffix, "" | "+gzip" | "+zstd"),
        None => matches!(
            media_type,
            "" | DOCKER_LAYER
                | DOCKER_LAYER_GZIP
                | "application/vnd.docker.image.rootfs.diff.tar.zstd"
                | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
                | "application/octet-stream"
        ),
    };
    supported
        .then_some(())
        .ok_or_else(|| ManifestError::LayerMediaType {
            media_type: media_type.to_owned(),
        })
}

/// The manifest of a list that fits the platform best. Attestations and artifacts are never chosen.
pub fn choose<'a>(
    list: &'a [Descriptor],
    wanted: &Platform,
) -> Result<&'a Descriptor, ManifestError> {
    list.iter()
        .filter(|entry| {
            !entry.is_of_another()
                && (entry.media_type.is_empty()
                    || [DOCKER_MANIFEST, OCI_MANIFEST, DOCKER_LIST, OCI_INDEX]
                        .contains(&entry.media_type.as_str()))
        })
        .filter_map(|entry| {
            let rank = match &entry.platform {
                Some(platform) => wanted.rank(platform)?,
                // No word about the platform: taken if nothing better is there.
                None => u32::MAX,
            };
            Some((rank, entry))
        })
        // `min_by_key` keeps the first of equals, as the index orders them.
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, entry)| entry)
        .ok_or_else(|| ManifestError::NoPlatform {
            platform: wanted.clone(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest(digit: char) -> Digest {
        Digest::from_hex(&digit.to_string().repeat(64)).expect("64 digits")
    }

    fn entry(digit: char, platform: Option<&str>) -> Descriptor {
        Descriptor {
            media_type: OCI_MANIFEST.into(),
            digest: digest(digit),
            size: 10,
            platform: platform.map(|text| Platform::parse(text).expect("a platform")),
            annotations: BTreeMap::new(),
            artifact_type: None,
        }
    }

    #[test]
    fn the_best_platform_is_chosen_and_attestations_never() {
        let mut attestation = entry('9', None);
        attestation.annotations.insert(
            "vnd.docker.reference.type".into(),
            "attestation-manifest".into(),
        );
        let list = [
            attestation.clone(),
            entry('1', Some("linux/arm/v6")),
            entry('2', Some("linux/arm/v7")),
            entry('3', Some("linux/amd64")),
        ];
        let pick = |platform: &str| {
            choose(&list, &Platform::parse(platform).expect("good"))
                .map(|entry| entry.digest.clone())
        };
        assert_eq!(pick("linux/arm/v7").expect("fits"), digest('2'));
        assert_eq!(pick("linux/arm/v6").expect("fits"), digest('1'));
        assert_eq!(pick("linux/arm64").expect("fits"), digest('2'));
        assert_eq!(pick("linux/amd64").expect("fits"), digest('3'));
        assert_eq!(
            pick("linux/s390x").expect_err("none").to_string(),
            "no matching manifest for linux/s390x in the manifest list entries"
        );
        assert!(choose(&[attestation], &Platform::host()).is_err());
    }

    #[test]
    fn shapes_and_media_types() {
        let image = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{DOCKER_CONFIG}","digest":"{0}","size":5}},
               "layers":[{{"mediaType":"{DOCKER_LAYER_GZIP}","digest":"{0}","size":7}}]}}"#,
            digest('a')
        );
        for media_type in [
            DOCKER_MANIFEST,
            OCI_MANIFEST,
            "",
            "application/json; charset=utf-8",
        ] {
            assert!(
                matches!(
                    Manifest::parse(media_type, image.as_bytes()),
                    Ok(Manifest::Image(_))
                ),
                "{media_type}"
            );
        }
        let refuse = |text: &str| Manifest::parse("", text.as_bytes()).expect_err("refused");
        assert!(matches!(
            refuse(r#"{"schemaVersion":1,"fsLayers":[]}"#),
            ManifestError::SchemaOne
        ));
        assert!(matches!(
            refuse(r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#),
            ManifestError::Invalid { .. }
        ));
        assert!(matches!(
            refuse(r#"{"schemaVersion":2}"#),
            ManifestError::MediaType { .. }
        ));
        assert!(matches!(refuse("["), ManifestError::Invalid { .. }));
        // A digest names a file: it can be nothing else than one.
        for hostile in [
            "",
            "sha256:",
            "sha256:../../../../etc/passwd",
            "../x",
            "sha512:00",
        ] {
            let bad = image.replace(digest('a').as_str(), hostile);
            let error = refuse(&bad).to_string();
            assert!(error.contains("unsupported digest"), "{hostile}: {error}");
        }
        let helm = image.replace(DOCKER_CONFIG, "application/vnd.cncf.helm.config.v1+json");
        assert!(matches!(refuse(&helm), ManifestError::NotAnImage { .. }));
        let secret = image.replace(
            DOCKER_LAYER_GZIP,
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        );
        assert!(matches!(
            refuse(&secret),
            ManifestError::LayerMediaType { .. }
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Manifest::parse("", &bytes);
        }

        #[test]
        fn no_json_like_text_makes_it_panic(
            version in 0u32..4, digest in "(sha256:)?[0-9a-f]{0,70}", size in any::<i64>(), kind in "\\PC{0,30}",
        ) {
            let text = serde_json::json!({
                "schemaVersion": version, "mediaType": kind,
                "config": {"digest": digest, "size": size, "mediaType": kind},
                "layers": [{"digest": digest, "size": size}],
            }).to_string();
            for media_type in ["", DOCKER_MANIFEST, OCI_INDEX] {
                let _ = Manifest::parse(media_type, text.as_bytes());
            }
        }
    }
}
