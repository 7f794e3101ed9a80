//! TLS for tcp, with certificates that may be renewed under a running engine.

use crate::serve::config::TlsFiles;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Serves with what the files hold now: they are looked at (three stat calls) for every connection.
#[derive(Debug)]
pub(crate) struct ReloadingTls {
    files: TlsFiles,
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    stamp: Stamp,
    config: Arc<ServerConfig>,
}

/// Size, inode and time of change of each file: enough to see that one was replaced.
type Stamp = Vec<Option<(u64, u64, i64, i64)>>;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {what} {path}")]
    Unreadable {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("{path} holds no certificate")]
    Empty { path: PathBuf },
    #[error("the certificate authority {path} cannot be used")]
    Authority {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("certificate {cert} and key {key} cannot be used together")]
    Pair {
        cert: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
}

impl ReloadingTls {
    pub(crate) fn load(files: TlsFiles) -> Result<ReloadingTls, TlsError> {
        let stamp = stamp(&files);
        let config = load(&files)?;
        Ok(ReloadingTls {
            files,
            loaded: Mutex::new(Loaded { stamp, config }),
        })
    }

    /// Reads the files again whether they changed or not. What cannot be used (a half-finished renewal) leaves what was.
    pub(crate) fn reload(&self) {
        let stamp = stamp(&self.files);
        self.replace(&mut self.loaded(), stamp);
    }

    fn replace(&self, loaded: &mut Loaded, stamp: Stamp) {
        match load(&self.files) {
            Ok(config) => {
                tracing::info!(cert = %self.files.cert.display(), "certificates were read again");
                loaded.config = config;
            }
            Err(error) => tracing::error!(
                error = engine::error::full_message(&error),
                "the new certificates cannot be used; the old ones stay"
            ),
        }
        // Also after a failure, or each connection would try and complain again.
        loaded.stamp = stamp;
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded
            .lock()
            .expect("no code panics while it holds this lock")
    }

    fn current(&self) -> Arc<ServerConfig> {
        let stamp = stamp(&self.files);
        let mut loaded = self.loaded();
        if loaded.stamp != stamp {
            self.replace(&mut loaded, stamp);
        }
        loaded.config.clone()
    }

    /// Does the handshake. A client that speaks HTTP without TLS is told so in HTTP, in the words Go's server uses, which
    /// docker CLIs recognise.
    pub(crate) async fn accept(&self, mut stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let mut first = [0];
        let peeked = stream.peek(&mut first).await?;
        if peeked == 1 && first[0].is_ascii_uppercase() {
            // Read first: closing with unread bytes resets the connection, and the answer with it.
            let mut request = [0; 8192];
            let _ = stream.read(&mut request).await?;
            stream
                .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
                .await?;
            stream.shutdown().await?;
            return Err(io::Error::other("the client spoke HTTP without TLS"));
        }
        TlsAcceptor::from(self.current()).accept(stream).await
    }
}

fn stamp(files: &TlsFiles) -> Stamp {
    [
        Some(&files.cert),
        Some(&files.key),
        files.client_ca.as_ref(),
    ]
    .into_iter()
    .flatten()
    .map(|path| {
        let facts = std::fs::metadata(path).ok()?;
        Some((facts.len(), facts.ino(), facts.mtime(), facts.mtime_nsec()))
    })
    .collect()
}

fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let certificates = certificates("the certificate", &files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::Unreadable {
        what: "the key",
        path: files.key.clone(),
        source,
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of TLS 1.2 and 1.3");
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let unusable = |source| TlsError::Authority {
                path: path.clone(),
                source,
            };
            let mut roots = RootCertStore::empty();
            for certificate in self::certificates("the certificate authority", path)? {
                roots
                    .add(certificate)
                    .map_err(|error| unusable(error.into()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                .build()
                .map_err(|error| unusable(error.into()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(certificates, key)
        .map_err(|source| TlsError::Pair {
            cert: files.cert.clone(),
            key: files.key.clone(),
            source,
        })?;
    // Nothing else: attach takes the connection over, which HTTP/2 has no way for.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::Unreadable {
        what,
        path: path.to_owned(),
        source,
    };
    let list: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if list.is_empty() {
        return Err(TlsError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(list)
}
