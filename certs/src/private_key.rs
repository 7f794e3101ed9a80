//! Private keys as other programs write them: docker-machine and `openssl -traditional` in PKCS #1 and SEC 1. ring reads
//! PKCS #8 alone, which is these two in an envelope that names the algorithm.

use crate::CertificateError;
use rcgen::KeyPair;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

// AlgorithmIdentifiers in DER: RFC 8017 (A.1), RFC 5480 (2.1.1).
const RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
const P256: &[u8] =
    b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384: &[u8] = b"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";

const INTEGER_ZERO: &[u8] = b"\x02\x01\x00";
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// Reads a private key in PEM of any of the three forms.
pub(crate) fn read(pem: &str) -> Result<KeyPair, CertificateError> {
    let key =
        PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| CertificateError::BadKey)?;
    let envelopes = match &key {
        PrivateKeyDer::Pkcs1(key) => vec![envelope(RSA, key.secret_pkcs1_der())],
        // Which of the two it is ring finds out.
        PrivateKeyDer::Sec1(key) => [P256, P384]
            .map(|curve| envelope(curve, key.secret_sec1_der()))
            .into(),
        other => vec![other.secret_der().to_vec()],
    };
    envelopes
        .into_iter()
        .find_map(|der| KeyPair::try_from(&PrivateKeyDer::Pkcs8(der.into())).ok())
        .ok_or(CertificateError::BadKey)
}

/// PKCS #8 (RFC 5208): version, algorithm, key.
fn envelope(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let key = der(OCTET_STRING, key);
    der(SEQUENCE, &[INTEGER_ZERO, algorithm, &key].concat())
}

fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len().to_be_bytes();
    let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut bytes = vec![tag];
    // From 128 on, the length's own length goes before it.
    if contents.len() >= 0x80 {
        bytes.push(0x80 | length.len() as u8);
    }
    bytes.extend_from_slice(length);
    bytes.extend_from_slice(contents);
    bytes
}
