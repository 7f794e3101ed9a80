//! An authority that goes on: the same key and subject for longer, so that all it signed before stays good.

use crate::expiry::with_certificate;
use crate::{Authority, CertificateError, Validity, authority};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, KeyIdMethod,
};
use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;

impl Authority {
    /// Whether it stands for itself: one that another authority signed is that one's to renew.
    pub fn is_root(&self) -> bool {
        with_certificate(self.certificate(), |x509| {
            x509.issuer().as_raw() == x509.subject().as_raw()
        })
        .unwrap_or(false)
    }

    /// The same authority, which [is a root](Authority::is_root), with another validity.
    pub fn renewed(&self, validity: Validity) -> Result<Authority, CertificateError> {
        let bad = |source| CertificateError::BadAuthority { source };
        let mut params = with_certificate(self.certificate(), parameters_of)?.map_err(bad)?;
        params.not_before = validity.from;
        params.not_after = validity.until;
        params.serial_number = Some(authority::random_serial());
        params.key_usages = self.issuer.key_usages().to_vec();
        let certificate = params.self_signed(self.issuer.key()).map_err(bad)?.pem();
        // A subject that we cannot write as it was would cut off all that it signed.
        if !same_authority(&certificate, self.certificate()) {
            return Err(bad(rcgen::Error::CouldNotParseCertificate));
        }
        Authority::from_pem(&certificate, self.key().expose())
    }
}

/// Whether two certificates (PEM) are of one authority, by key and subject: what is good by the one is good by the other.
pub fn same_authority(one: &str, other: &str) -> bool {
    let who = |pem: &str| {
        with_certificate(pem, |x509| {
            let subject = x509.subject().as_raw().to_vec();
            (subject, x509.public_key().raw.to_vec())
        })
    };
    matches!((who(one), who(other)), (Ok(one), Ok(other)) if one == other)
}

fn parameters_of(x509: &X509Certificate<'_>) -> Result<CertificateParams, rcgen::Error> {
    let unreadable = || rcgen::Error::CouldNotParseCertificate;
    let mut name = DistinguishedName::new();
    for attribute in x509.subject().iter_attributes() {
        let kind = attribute.attr_type().iter().ok_or_else(unreadable)?;
        let text = attribute.as_str().map_err(|_| unreadable())?;
        // Verifiers compare names by their bytes.
        let value = match attribute.attr_value().tag() {
            Tag::PrintableString => DnValue::PrintableString(text.try_into()?),
            Tag::Ia5String => DnValue::Ia5String(text.try_into()?),
            _ => DnValue::Utf8String(text.into()),
        };
        name.push(DnType::CustomDnType(kind.collect()), value);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    let constraints = x509.basic_constraints().map_err(|_| unreadable())?;
    let depth = constraints.and_then(|found| found.value.path_len_constraint);
    params.is_ca = IsCa::Ca(match depth.map(u8::try_from) {
        Some(Ok(depth)) => BasicConstraints::Constrained(depth),
        _ => BasicConstraints::Unconstrained,
    });
    // What it signed names its key by this.
    for extension in x509.extensions() {
        if let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() {
            params.key_identifier_method = KeyIdMethod::PreSpecified(id.0.to_vec());
        }
    }
    Ok(params)
}
