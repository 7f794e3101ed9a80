//! The authority and what it issues.

use crate::{SecretPem, private_key};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use std::net::IpAddr;
use std::str::FromStr;
use time::{Duration, OffsetDateTime};

/// How long certificates hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub from: OffsetDateTime,
    pub until: OffsetDateTime,
}

impl Validity {
    /// Days an authority holds: ten years, so that machines outlive laptops' habits.
    pub const AUTHORITY_DAYS: i64 = 3650;
    /// Days a leaf holds from now: with the two days before, the 825 that Apple's verifier takes at most.
    pub const LEAF_DAYS: i64 = 823;

    /// From two days ago (clocks of guests and desktops differ, and a desktop's is now and then set back a day) for so many
    /// days from now.
    pub fn days(days: i64) -> Validity {
        let now = OffsetDateTime::now_utc();
        Validity {
            from: now - Duration::days(2),
            until: now + Duration::days(days),
        }
    }
}

/// A name or address a server may be called by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubjectAlternativeName {
    Address(IpAddr),
    Dns(String),
}

impl FromStr for SubjectAlternativeName {
    type Err = CertificateError;

    /// An IP address where it reads as one, else a DNS name.
    fn from_str(text: &str) -> Result<Self, CertificateError> {
        if let Ok(address) = text.parse() {
            return Ok(SubjectAlternativeName::Address(address));
        }
        let good = !text.is_empty()
            && text.len() <= 253
            && text.bytes().all(|byte| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'*' | b'_')
            });
        if good {
            Ok(SubjectAlternativeName::Dns(text.to_owned()))
        } else {
            Err(CertificateError::BadName {
                name: text.to_owned(),
            })
        }
    }
}

impl std::fmt::Display for SubjectAlternativeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SubjectAlternativeName::Address(address) => address.fmt(f),
            SubjectAlternativeName::Dns(name) => f.write_str(name),
        }
    }
}

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("'{name}' is neither an IP address nor a host name that a certificate can carry")]
    BadName { name: String },
    #[error("cannot make the certificate of {subject}")]
    Issue {
        subject: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("the authority's certificate cannot be read")]
    BadAuthority {
        #[source]
        source: rcgen::Error,
    },
    #[error(
        "this is not a key that can sign: one is PEM without a pass phrase, of RSA (2048 bits or more), ECDSA (P-256, P-384) or \
         Ed25519"
    )]
    BadKey,
    #[error("this is not a certificate in PEM: {why}")]
    NotPem { why: String },
    #[error("cannot {what} {path}")]
    File {
        what: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: SecretPem,
}

/// Signs certificates.
pub struct Authority {
    certificate: String,
    key: SecretPem,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority. `owner` (a user or host name) becomes its organisation.
    pub fn create(owner: &str, validity: Validity) -> Result<Authority, CertificateError> {
        let issue = |source| CertificateError::Issue {
            subject: format!("authority of {owner}"),
            source,
        };
        let mut params = parameters("Berth authority", owner, validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(issue)?;
        let certificate = params.self_signed(&key).map_err(issue)?.pem();
        let secret = SecretPem::new(key.serialize_pem());
        Ok(Authority {
            certificate,
            key: secret,
            issuer: Issuer::new(params, key),
        })
    }

    /// From `ca.pem` and `ca-key.pem`; RSA authorities made by docker-machine work too.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Authority, CertificateError> {
        let issuer = Issuer::from_ca_cert_pem(certificate, private_key::read(key)?)
            .map_err(|source| CertificateError::BadAuthority { source })?;
        Ok(Authority {
            certificate: certificate.to_owned(),
            key: SecretPem::new(key.to_owned()),
            issuer,
        })
    }

    /// `ca.pem`.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// `ca-key.pem`.
    pub fn key(&self) -> &SecretPem {
        &self.key
    }

    /// A certificate that lets its holder use every engine of this authority.
    pub fn issue_client(
        &self,
        owner: &str,
        validity: Validity,
    ) -> Result<Issued, CertificateError> {
        let mut params = parameters("Berth client", owner, validity);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, owner)
    }

    /// A certificate for the engine of `machine`, good for every name in `names`.
    pub fn issue_server(
        &self,
        machine: &str,
        names: &[SubjectAlternativeName],
        validity: Validity,
    ) -> Result<Issued, CertificateError> {
        self.issue(server_parameters(machine, names, validity)?, machine)
    }

    /// Signs the request of a machine that made its key itself, see [`request_server`]. Of the request only the key counts:
    /// who the machine is and what its certificate is good for is decided here.
    pub fn sign_server_request(
        &self,
        request: &str,
        machine: &str,
        names: &[SubjectAlternativeName],
        validity: Validity,
    ) -> Result<String, CertificateError> {
        let issue = |source| CertificateError::Issue {
            subject: machine.to_owned(),
            source,
        };
        let request = CertificateSigningRequestParams::from_pem(request).map_err(issue)?;
        let mut params = server_parameters(machine, names, validity)?;
        finish_leaf(&mut params);
        let certificate = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(issue)?;
        Ok(certificate.pem())
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        subject: &str,
    ) -> Result<Issued, CertificateError> {
        let issue = |source| CertificateError::Issue {
            subject: subject.to_owned(),
            source,
        };
        finish_leaf(&mut params);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(issue)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(issue)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: SecretPem::new(key.serialize_pem()),
        })
    }
}

/// A key made where it is used, and the request (PEM, PKCS #10) that an authority elsewhere signs.
pub fn request_server(machine: &str) -> Result<Requested, CertificateError> {
    let issue = |source| CertificateError::Issue {
        subject: machine.to_owned(),
        source,
    };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(issue)?;
    let now = Validity::days(Validity::LEAF_DAYS);
    let mut params = parameters(machine, "Berth machine", now);
    // A request has no serial number.
    params.serial_number = None;
    let request = params.serialize_request(&key).map_err(issue)?;
    Ok(Requested {
        request: request.pem().map_err(issue)?,
        key: SecretPem::new(key.serialize_pem()),
    })
}

/// A request for a certificate and its key.
#[derive(Debug, Clone)]
pub struct Requested {
    pub request: String,
    pub key: SecretPem,
}

fn server_parameters(
    machine: &str,
    names: &[SubjectAlternativeName],
    validity: Validity,
) -> Result<CertificateParams, CertificateError> {
    let mut params = parameters(machine, "Berth machine", validity);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in names {
        params.subject_alt_names.push(match name {
            SubjectAlternativeName::Address(address) => SanType::IpAddress(*address),
            SubjectAlternativeName::Dns(dns) => SanType::DnsName(
                dns.clone()
                    .try_into()
                    .map_err(|_| CertificateError::BadName { name: dns.clone() })?,
            ),
        });
    }
    Ok(params)
}

fn finish_leaf(params: &mut CertificateParams) {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
}

/// What all our certificates share. `CertificateParams::default` would give every one the same subject.
fn parameters(common_name: &str, organization: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    // RFC 5280 bounds both attributes to 64 characters.
    name.push(
        DnType::OrganizationName,
        organization.chars().take(64).collect::<String>(),
    );
    name.push(
        DnType::CommonName,
        common_name.chars().take(64).collect::<String>(),
    );
    params.distinguished_name = name;
    params.not_before = validity.from;
    params.not_after = validity.until;
    params.serial_number = Some(random_serial());
    params
}

/// 16 random bytes, the first bit clear so that the number is positive (RFC 5280, 4.1.2.2).
pub(crate) fn random_serial() -> SerialNumber {
    use ring::rand::SecureRandom;
    let mut bytes = [0u8; 16];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system has random numbers");
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}
