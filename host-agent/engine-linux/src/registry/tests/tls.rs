//! A registry with TLS: authorities and client certificates of `certs.d`.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio_rustls::TlsAcceptor;

/// An authority and what it signs.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("good names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "test authority");
        let key = KeyPair::generate().expect("a key");
        Authority {
            issuer: CertifiedIssuer::self_signed(params, key).expect("signed"),
        }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Certificate and key.
    fn signed(&self, name: &str) -> (String, String) {
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a good name");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }

    /// A server of 127.0.0.1, which may ask for certificates this authority signed.
    fn acceptor(&self, asks_for_certificates: bool) -> TlsAcceptor {
        let (certificate, key) = self.signed("127.0.0.1");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("ring has them");
        let builder = match asks_for_certificates {
            false => builder.with_no_client_auth(),
            true => {
                let mut roots = rustls::RootCertStore::empty();
                roots
                    .add(CertificateDer::from_pem_slice(self.pem().as_bytes()).expect("pem"))
                    .expect("an authority");
                let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
                    Arc::new(roots),
                    provider,
                )
                .build()
                .expect("a verifier");
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("pem")],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("pem"),
            )
            .expect("they fit");
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A registry that checks loopback's certificates, too.
fn checking_registry(certificates: &std::path::Path) -> HttpRegistry {
    let options = RegistryOptions {
        certificates: vec![certificates.join("nothing"), certificates.to_owned()],
        attempts: Some(1),
        ..RegistryOptions::default()
    };
    let mut registry = quick(options);
    let inner = Arc::get_mut(&mut registry.inner).expect("nobody else has it yet");
    inner.endpoints.distrust_loopback();
    registry
}

async fn ask(registry: &HttpRegistry, fake: &Fake) -> Result<(), String> {
    registry
        .manifest(&reference(&format!("{}/a", fake.address)), None)
        .await
        .map(|_| ())
        .map_err(|error| engine::error::full_message(&error))
}

#[tokio::test]
async fn only_known_authorities_are_trusted_unless_the_registry_is_insecure() {
    let authority = Authority::new();
    let fake = Fake::start_with(Some(authority.acceptor(false)), |_, _| {
        response("200 OK", "", MANIFEST)
    })
    .await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let registry = checking_registry(folder.path());
    let refused = ask(&registry, &fake)
        .await
        .expect_err("an unknown authority");
    assert!(refused.contains("certificate"), "{refused}");
    assert!(fake.seen().is_empty());
    // Loopback is insecure unless a test says otherwise.
    ask(&registry_with(&[]), &fake).await.expect("not checked");

    let own = folder.path().join(&fake.address);
    std::fs::create_dir(&own).expect("made");
    std::fs::write(own.join("ca.crt"), authority.pem()).expect("written");
    ask(&registry, &fake).await.expect("known now");
}

#[tokio::test]
async fn a_registry_that_asks_for_a_certificate_is_shown_its_own() {
    let authority = Authority::new();
    let fake = Fake::start_with(Some(authority.acceptor(true)), |_, _| {
        response("200 OK", "", MANIFEST)
    })
    .await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let own = folder.path().join(&fake.address);
    std::fs::create_dir(&own).expect("made");
    std::fs::write(own.join("ca.crt"), authority.pem()).expect("written");
    let error = ask(&checking_registry(folder.path()), &fake)
        .await
        .expect_err("it shows none");
    assert!(error.contains("certificate required"), "{error}");

    let (certificate, key) = authority.signed("client");
    std::fs::write(own.join("client.cert"), certificate).expect("written");
    let error = ask(&checking_registry(folder.path()), &fake)
        .await
        .expect_err("half a pair");
    assert!(
        error.contains("missing key for client certificate"),
        "{error}"
    );
    std::fs::write(own.join("client.key"), key).expect("written");
    ask(&checking_registry(folder.path()), &fake)
        .await
        .expect("shown");
    std::fs::write(own.join("ca.crt"), "no certificate").expect("written");
    let error = ask(&checking_registry(folder.path()), &fake)
        .await
        .expect_err("no certificate");
    assert!(error.contains("ca.crt"), "{error}");
}

#[tokio::test]
async fn certificates_that_are_written_over_are_read_again() {
    let authority = Authority::new();
    let fake = Fake::start_with(Some(authority.acceptor(false)), |_, _| {
        response("200 OK", "", MANIFEST)
    })
    .await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let own = folder.path().join(&fake.address);
    std::fs::create_dir(&own).expect("made");
    std::fs::write(own.join("ca.crt"), Authority::new().pem()).expect("written");
    let registry = checking_registry(folder.path());
    assert!(ask(&registry, &fake).await.is_err());
    // In place: the folder stays as it is.
    std::fs::write(own.join("ca.crt"), authority.pem()).expect("written");
    ask(&registry, &fake).await.expect("known now");
}

#[tokio::test]
async fn a_registrys_certificates_count_for_its_token_server_and_where_it_redirects() {
    let authority = Authority::new();
    let content = b"the blob".as_slice();
    let other = Fake::start_with(Some(authority.acceptor(true)), move |_, asked| match asked
        .path
        .starts_with("/token")
    {
        true => response("200 OK", "", b"{\"token\":\"t0k\"}"),
        false => response("200 OK", "", content),
    })
    .await;
    let there = other.address.clone();
    let fake = Fake::start_with(Some(authority.acceptor(false)), move |_, asked| match asked
        .header("authorization")
    {
        "Bearer t0k" => response(
            "307 Temporary Redirect",
            &format!("Location: https://{there}/stored\r\n"),
            b"",
        ),
        _ => response(
            "401 Unauthorized",
            &format!("WWW-Authenticate: Bearer realm=\"https://{there}/token\"\r\n"),
            b"",
        ),
    })
    .await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let own = folder.path().join(&fake.address);
    std::fs::create_dir(&own).expect("made");
    let (certificate, key) = authority.signed("client");
    std::fs::write(own.join("ca.crt"), authority.pem()).expect("written");
    std::fs::write(own.join("client.cert"), certificate).expect("written");
    std::fs::write(own.join("client.key"), key).expect("written");
    let name = reference(&format!("{}/a", fake.address));
    let registry = checking_registry(folder.path());
    let got = fetch_blob(&registry, &name, content, None).await;
    assert_eq!(got.expect("trusted"), content);
}

#[tokio::test]
async fn a_registry_may_change_between_tls_and_plain_http() {
    let authority = Authority::new();
    let fake = Fake::start(|_, _| response("200 OK", "", MANIFEST)).await;
    let registry = registry_with(&[]);
    for has_tls in [false, true, false, true] {
        *fake.tls.lock().expect("not poisoned") = has_tls.then(|| authority.acceptor(false));
        for _ in 0..2 {
            ask(&registry, &fake).await.expect("asked as it is now");
        }
        registry
            .login(&fake.address, &user())
            .await
            .expect("asked as it is now");
    }
}

#[tokio::test]
async fn what_a_registry_answers_in_one_way_is_not_asked_in_the_other() {
    let authority = Authority::new();
    let fake = Fake::start_with(Some(authority.acceptor(false)), |_, _| {
        response("404 Not Found", "", b"")
    })
    .await;
    let error = ask(&registry_with(&[]), &fake).await.expect_err("missing");
    assert!(error.starts_with("manifest unknown"), "{error}");
    assert_eq!(fake.seen().len(), 1);
}
