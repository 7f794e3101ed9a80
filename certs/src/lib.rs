//! Certificates for mutual TLS between Docker clients and our engine: one authority for each store, a client
//! certificate for the people who use it, a server certificate for each machine. What is made is ECDSA P-256; an authority
//! that is brought along, or was made by docker-machine, may be RSA.
//!
//! ```text
//! Authority::create ──┬── issue_client ──> cert.pem, key.pem          (who may talk to the engine)
//!   ca.pem, ca-key.pem├── issue_server ──> server.pem, server-key.pem (who the engine is: its SANs)
//!                     ├── sign_server_request: the same for a machine that made its key itself
//!                     └── renewed ───────> ca.pem                   (the same key and subject for longer)
//! ```
//!
//! Names matter: OpenSSL takes a leaf whose subject equals its issuer's for self-signed and refuses the chain, so
//! authority, client and server never share a subject.

mod authority;
mod expiry;
pub mod files;
mod private_key;
mod renewal;
mod secret;

pub use authority::{
    Authority, CertificateError, Issued, Requested, SubjectAlternativeName, Validity,
    request_server,
};
pub use expiry::{Expiry, expiry_of, subject_alternative_names_of};
pub use renewal::same_authority;
pub use secret::SecretPem;
