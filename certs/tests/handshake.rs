//! The certificates under real TLS: rustls on both sides, then openssl and curl as strangers.

use certs::{Authority, CertificateError, Issued, SubjectAlternativeName, Validity, files};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use time::{Duration, OffsetDateTime};

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn names(list: &[&str]) -> Vec<SubjectAlternativeName> {
    list.iter()
        .map(|name| name.parse().expect("a good name"))
        .collect()
}

fn ended() -> Validity {
    let now = OffsetDateTime::now_utc();
    Validity {
        from: now - Duration::days(10),
        until: now - Duration::days(1),
    }
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .expect("good PEM")
}

fn key(issued: &Issued) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(issued.key.expose().as_bytes()).expect("good PEM")
}

fn roots(authority: &Authority) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots
        .add(chain(authority.certificate()).remove(0))
        .expect("a good root");
    roots
}

fn server_config(authority: &Authority, server: &Issued) -> Arc<ServerConfig> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)), provider())
            .build()
            .expect("a verifier");
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(&server.certificate), key(server))
        .expect("certificate and key fit");
    Arc::new(config)
}

fn client_config(authority: &Authority, client: Option<&Issued>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots(authority));
    Arc::new(match client {
        Some(issued) => builder
            .with_client_auth_cert(chain(&issued.certificate), key(issued))
            .expect("certificate and key fit"),
        None => builder.with_no_client_auth(),
    })
}

/// Runs a handshake in memory and returns the first error of either side.
fn handshake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: &str,
) -> Result<(), rustls::Error> {
    let mut client = ClientConnection::new(
        client,
        ServerName::try_from(name.to_owned()).expect("a server name"),
    )
    .expect("client");
    let mut server = ServerConnection::new(server).expect("server");
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("memory");
        }
        let mut reader = &bytes[..];
        while !reader.is_empty() {
            server.read_tls(&mut reader).expect("memory");
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).expect("memory");
        }
        let mut reader = &bytes[..];
        while !reader.is_empty() {
            client.read_tls(&mut reader).expect("memory");
            client.process_new_packets()?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(())
}

struct World {
    authority: Authority,
    server: Issued,
    client: Issued,
}

fn world() -> World {
    let authority =
        Authority::create("ada", Validity::days(Validity::AUTHORITY_DAYS)).expect("an authority");
    let server = authority
        .issue_server(
            "dev",
            &names(&["127.0.0.1", "::1", "localhost", "dev"]),
            Validity::days(Validity::LEAF_DAYS),
        )
        .expect("a server certificate");
    let client = authority
        .issue_client("ada", Validity::days(Validity::LEAF_DAYS))
        .expect("a client certificate");
    World {
        authority,
        server,
        client,
    }
}

#[test]
fn accepted_by_every_name_in_the_certificate() {
    let world = world();
    for name in ["127.0.0.1", "::1", "localhost", "dev"] {
        handshake(
            server_config(&world.authority, &world.server),
            client_config(&world.authority, Some(&world.client)),
            name,
        )
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn accepted_after_the_authority_was_read_back_from_its_files() {
    let world = world();
    let again = Authority::from_pem(
        world.authority.certificate(),
        world.authority.key().expose(),
    )
    .expect("it reads");
    let client = again
        .issue_client("bob", Validity::days(1))
        .expect("a client certificate");
    handshake(
        server_config(&world.authority, &world.server),
        client_config(&again, Some(&client)),
        "dev",
    )
    .expect("the same authority");
}

/// Runs openssl in `folder`; its arguments are the words of `line`.
#[track_caller]
fn openssl(folder: &Path, line: &str) {
    let output = Command::new("openssl")
        .current_dir(folder)
        .args(line.split(' '))
        .output()
        .expect("openssl runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {said}");
}

/// An authority that openssl makes, as docker-machine did it: an organisation and no more, in a PrintableString, and no
/// identifier of its key. `key` are openssl's words for making that.
fn authority_of_openssl(folder: &Path, key: &str) -> Authority {
    let config = "[req]\nstring_mask=nombstr\nprompt=no\ndistinguished_name=name\nx509_extensions=extensions\n\
        [name]\nO=ann\n[extensions]\nbasicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=none\n\
        keyUsage=critical,digitalSignature,keyEncipherment,keyAgreement,keyCertSign\n";
    std::fs::write(folder.join("config"), config).expect("written");
    openssl(folder, &format!("{key} -out {}", files::CA_KEY));
    openssl(
        folder,
        &format!(
            "req -x509 -new -config config -key {} -days 20 -out {}",
            files::CA_KEY,
            files::CA
        ),
    );
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).expect("it is there");
    Authority::from_pem(&read(files::CA), &read(files::CA_KEY)).expect("it reads")
}

fn world_of(authority: Authority) -> World {
    let server = authority
        .issue_server("dev", &names(&["dev"]), Validity::days(9))
        .expect("a server certificate");
    let client = authority
        .issue_client("ada", Validity::days(9))
        .expect("a client certificate");
    World {
        authority,
        server,
        client,
    }
}

#[test]
fn keys_in_every_form_sign() {
    if !installed("openssl", "version") {
        return;
    }
    for (make, form) in [
        ("genrsa -traditional", "BEGIN RSA PRIVATE KEY"),
        ("genrsa", "BEGIN PRIVATE KEY"),
        // Its parameters are a block of their own, before the key.
        ("ecparam -genkey -name prime256v1", "BEGIN EC PRIVATE KEY"),
        ("ecparam -genkey -name secp384r1", "BEGIN EC PRIVATE KEY"),
        ("genpkey -algorithm ed25519", "BEGIN PRIVATE KEY"),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let world = world_of(authority_of_openssl(folder.path(), make));
        let text = std::fs::read_to_string(folder.path().join(files::CA_KEY)).expect("readable");
        assert!(text.contains(form), "{make} made another form");
        handshake(
            server_config(&world.authority, &world.server),
            client_config(&world.authority, Some(&world.client)),
            "dev",
        )
        .unwrap_or_else(|error| panic!("{make}: {error}"));
    }
}

#[test]
fn a_key_that_cannot_sign_is_told_apart_from_a_certificate() {
    let world = world();
    let certificate = world.authority.certificate();
    let key = world.authority.key().expose();
    for bad in [
        "",
        certificate,
        &key.replace("PRIVATE", "ENCRYPTED PRIVATE"),
    ] {
        let error = Authority::from_pem(certificate, bad).expect_err("no key");
        assert!(matches!(error, CertificateError::BadKey), "{error}");
    }
    let error = Authority::from_pem(key, key).expect_err("no certificate");
    assert!(matches!(error, CertificateError::BadAuthority { .. }));
}

/// What was signed before is good by the renewed one and the other way round, also for those who compare key identifiers and
/// look at the authority's own dates.
#[test]
fn a_renewed_authority_is_the_same() {
    let mut worlds = vec![world_of(
        Authority::create("ada", ended()).expect("an authority"),
    )];
    let folder = tempfile::tempdir().expect("a temporary folder");
    if installed("openssl", "version") {
        let old = authority_of_openssl(folder.path(), "genrsa -traditional");
        worlds.push(world_of(old));
    }
    for world in worlds {
        let old = &world.authority;
        assert!(old.is_root());
        let renewed = old
            .renewed(Validity::days(Validity::AUTHORITY_DAYS))
            .expect("it is renewed");
        let now = OffsetDateTime::now_utc();
        let due = |authority: &Authority| {
            let expiry = certs::expiry_of(authority.certificate());
            expiry.expect("it reads").is_due(now + Duration::days(15))
        };
        assert!(due(old) && !due(&renewed));
        assert!(certs::same_authority(
            old.certificate(),
            renewed.certificate()
        ));
        let young = world_of(renewed);
        for (one, other) in [(&world, &young), (&young, &world)] {
            handshake(
                server_config(&one.authority, &other.server),
                client_config(&one.authority, Some(&other.client)),
                "dev",
            )
            .expect("the same authority");
        }
        if installed("openssl", "version") {
            let folder = written(&World {
                authority: young.authority,
                ..world
            });
            for file in [files::SERVER, files::CLIENT] {
                openssl(
                    folder.path(),
                    &format!("verify -x509_strict -CAfile {} {file}", files::CA),
                );
            }
        }
    }
}

#[test]
fn an_authority_is_the_same_by_its_key_and_what_it_signed_is_no_root() {
    let world = world();
    let other = Authority::create("ada", Validity::days(9)).expect("an authority");
    assert!(!certs::same_authority(
        world.authority.certificate(),
        other.certificate()
    ));
    assert!(!certs::same_authority("", ""));
    let leaf = Authority::from_pem(&world.server.certificate, world.server.key.expose());
    assert!(!leaf.expect("it reads").is_root());
}

#[track_caller]
fn refused(server: Arc<ServerConfig>, client: Arc<ClientConfig>, name: &str, expected: &str) {
    let error = handshake(server, client, name).expect_err("the handshake must fail");
    let text = format!("{error:?}");
    assert!(
        text.contains(expected),
        "{text} does not speak of {expected}"
    );
}

#[test]
fn refused_without_a_client_certificate() {
    let world = world();
    let server = server_config(&world.authority, &world.server);
    refused(
        server,
        client_config(&world.authority, None),
        "dev",
        "NoCertificatesPresented",
    );
}

#[test]
fn refused_with_a_client_certificate_of_another_authority() {
    let world = world();
    let stranger = Authority::create("ada", Validity::days(10)).expect("an authority");
    let client = stranger
        .issue_client("ada", Validity::days(10))
        .expect("a client certificate");
    let server = server_config(&world.authority, &world.server);
    // Both authorities have the same name, so it is the signature that tells them apart.
    refused(
        server,
        client_config(&world.authority, Some(&client)),
        "dev",
        "BadSignature",
    );
}

#[test]
fn refused_when_the_client_certificate_has_ended() {
    let world = world();
    let client = world
        .authority
        .issue_client("ada", ended())
        .expect("a client certificate");
    let server = server_config(&world.authority, &world.server);
    refused(
        server,
        client_config(&world.authority, Some(&client)),
        "dev",
        "Expired",
    );
}

#[test]
fn refused_when_the_server_certificate_has_ended() {
    let world = world();
    let server = world
        .authority
        .issue_server("dev", &names(&["dev"]), ended())
        .expect("a server certificate");
    let client = client_config(&world.authority, Some(&world.client));
    refused(
        server_config(&world.authority, &server),
        client,
        "dev",
        "Expired",
    );
}

#[test]
fn refused_for_a_name_that_is_not_in_the_certificate() {
    let world = world();
    for name in ["prod", "127.0.0.2"] {
        let client = client_config(&world.authority, Some(&world.client));
        refused(
            server_config(&world.authority, &world.server),
            client,
            name,
            "NotValidForName",
        );
    }
}

#[test]
fn a_server_certificate_is_no_client_certificate() {
    let world = world();
    let server = server_config(&world.authority, &world.server);
    refused(
        server,
        client_config(&world.authority, Some(&world.server)),
        "dev",
        "InvalidPurpose",
    );
}

#[test]
fn expiry_and_names_can_be_read() {
    let world = world();
    let expiry = certs::expiry_of(&world.server.certificate).expect("it reads");
    let now = OffsetDateTime::now_utc();
    assert!((Validity::LEAF_DAYS - 1..=Validity::LEAF_DAYS).contains(&expiry.days_left(now)));
    assert!(!expiry.is_due(now));
    assert!(expiry.is_due(expiry.until - Duration::days(2)));
    let mut found =
        certs::subject_alternative_names_of(&world.server.certificate).expect("it reads");
    let mut expected = names(&["127.0.0.1", "::1", "localhost", "dev"]);
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert!(certs::expiry_of("hello").is_err());
}

#[test]
fn names_that_no_certificate_can_carry_are_refused() {
    for bad in ["", "a b", "ä.example", "a\nb"] {
        assert!(bad.parse::<SubjectAlternativeName>().is_err(), "{bad:?}");
    }
}

#[test]
fn keys_do_not_print() {
    let world = world();
    let text = format!(
        "{:?} {:?} {}",
        world.authority, world.server, world.client.key
    );
    assert!(!text.contains("PRIVATE KEY"), "{text}");
}

/// Whether a program is installed; says so in a line where it is not.
fn installed(program: &str, version: &str) -> bool {
    let found = Command::new(program)
        .arg(version)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

fn written(world: &World) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    files::write_certificate(
        &folder.path().join(files::CA),
        world.authority.certificate(),
    )
    .expect("written");
    files::write_pair(
        folder.path(),
        &world.client,
        files::CLIENT,
        files::CLIENT_KEY,
    )
    .expect("written");
    files::write_pair(
        folder.path(),
        &world.server,
        files::SERVER,
        files::SERVER_KEY,
    )
    .expect("written");
    folder
}

#[test]
fn openssl_verifies_both_chains() {
    if !installed("openssl", "version") {
        return;
    }
    let world = world();
    let folder = written(&world);
    for (file, purpose) in [(files::SERVER, "sslserver"), (files::CLIENT, "sslclient")] {
        let output = Command::new("openssl")
            .current_dir(folder.path())
            .args([
                "verify",
                "-x509_strict",
                "-CAfile",
                files::CA,
                "-purpose",
                purpose,
                file,
            ])
            .output()
            .expect("openssl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && text.contains("OK"),
            "{file}: {text}"
        );
    }
}

#[test]
fn curl_is_let_in_with_its_certificate_and_not_without() {
    if !installed("curl", "--version") {
        return;
    }
    let world = world();
    let folder = written(&world);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let config = server_config(&world.authority, &world.server);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            answer(stream, config.clone());
        }
    });
    let curl = |arguments: &[&str]| {
        Command::new("curl")
            .current_dir(folder.path())
            .args([
                "--silent",
                "--show-error",
                "--max-time",
                "20",
                "--noproxy",
                "*",
                "--cacert",
                files::CA,
            ])
            .args(arguments)
            .arg(format!("https://127.0.0.1:{port}/"))
            .output()
            .expect("curl runs")
    };
    let good = curl(&["--cert", files::CLIENT, "--key", files::CLIENT_KEY]);
    assert_eq!(
        String::from_utf8_lossy(&good.stdout),
        "OK",
        "{}",
        String::from_utf8_lossy(&good.stderr)
    );
    let bad = curl(&[]);
    assert!(!bad.status.success() && bad.stdout.is_empty());
}

/// Answers one HTTP request, or closes when the handshake fails.
fn answer(mut stream: TcpStream, config: Arc<ServerConfig>) {
    let mut connection = ServerConnection::new(config).expect("server");
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    let mut request = [0u8; 4096];
    if tls.read(&mut request).is_ok() {
        // The client may have gone: then there is nobody to tell.
        let _ =
            tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nOK");
        tls.conn.send_close_notify();
        let _ = tls.flush();
    }
}
