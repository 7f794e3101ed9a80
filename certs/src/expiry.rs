//! Reading a certificate back: when it ends and what it is good for.

use crate::{CertificateError, SubjectAlternativeName};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

/// When a certificate begins and ends to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    pub from: OffsetDateTime,
    pub until: OffsetDateTime,
}

impl Expiry {
    /// Whole days left at `now`; negative when it has ended.
    pub fn days_left(&self, now: OffsetDateTime) -> i64 {
        (self.until - now).whole_days()
    }

    /// Whether it should be replaced at `now`: a thirtieth of its life, and at least a week, is all that is left.
    pub fn is_due(&self, now: OffsetDateTime) -> bool {
        let life: Duration = self.until - self.from;
        let margin = (life / 30i32).max(Duration::WEEK);
        now + margin >= self.until
    }
}

/// When the first certificate of a PEM text begins and ends.
pub fn expiry_of(pem: &str) -> Result<Expiry, CertificateError> {
    with_certificate(pem, |certificate| {
        let validity = certificate.validity();
        Expiry {
            from: validity.not_before.to_datetime(),
            until: validity.not_after.to_datetime(),
        }
    })
}

/// The names the first certificate of a PEM text is good for.
pub fn subject_alternative_names_of(
    pem: &str,
) -> Result<Vec<SubjectAlternativeName>, CertificateError> {
    with_certificate(pem, |certificate| {
        let Ok(Some(extension)) = certificate.subject_alternative_name() else {
            return Vec::new();
        };
        let address = |bytes: &[u8]| match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes).ok().map(std::net::IpAddr::from),
            16 => <[u8; 16]>::try_from(bytes).ok().map(std::net::IpAddr::from),
            _ => None,
        };
        let names = extension.value.general_names.iter();
        names
            .filter_map(|name| match name {
                GeneralName::DNSName(dns) => Some(SubjectAlternativeName::Dns((*dns).to_owned())),
                GeneralName::IPAddress(bytes) => {
                    address(bytes).map(SubjectAlternativeName::Address)
                }
                _ => None,
            })
            .collect()
    })
}

pub(crate) fn with_certificate<T>(
    pem: &str,
    read: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> T,
) -> Result<T, CertificateError> {
    let not_pem = |why: String| CertificateError::NotPem { why };
    let first = Pem::iter_from_buffer(pem.as_bytes())
        .next()
        .ok_or_else(|| not_pem("no PEM block".into()))?
        .map_err(|error| not_pem(error.to_string()))?;
    let certificate = first
        .parse_x509()
        .map_err(|error| not_pem(error.to_string()))?;
    Ok(read(&certificate))
}
