//! A private key that does not print.

use std::fmt;

/// A private key in PEM. `Debug` and `Display` hide it; [`SecretPem::expose`] is the one way to the text.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretPem(String);

impl SecretPem {
    pub fn new(pem: String) -> SecretPem {
        SecretPem(pem)
    }

    /// The key itself, for writing to a 0600 file or handing to a TLS library.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretPem(…)")
    }
}

impl fmt::Display for SecretPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}
