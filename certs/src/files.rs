//! The names certificates have on disk (docker's and docker-machine's own) and how they are written.

use crate::{CertificateError, Issued, SecretPem};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

/// The authority's certificate.
pub const CA: &str = "ca.pem";
/// The authority's key.
pub const CA_KEY: &str = "ca-key.pem";
/// A client's certificate.
pub const CLIENT: &str = "cert.pem";
/// A client's key.
pub const CLIENT_KEY: &str = "key.pem";
/// A server's certificate.
pub const SERVER: &str = "server.pem";
/// A server's key.
pub const SERVER_KEY: &str = "server-key.pem";

/// Writes a certificate (0644) so that a reader sees the old one or the new one, never a part.
pub fn write_certificate(path: &Path, pem: &str) -> Result<(), CertificateError> {
    write(path, pem, 0o644)
}

/// Writes a key (0600) so that a reader sees the old one or the new one, never a part.
pub fn write_key(path: &Path, key: &SecretPem) -> Result<(), CertificateError> {
    write(path, key.expose(), 0o600)
}

/// Writes a pair into `folder`, the key first: a certificate without its key would look complete.
pub fn write_pair(
    folder: &Path,
    issued: &Issued,
    certificate_name: &str,
    key_name: &str,
) -> Result<(), CertificateError> {
    write_key(&folder.join(key_name), &issued.key)?;
    write_certificate(&folder.join(certificate_name), &issued.certificate)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertificateError> {
    let failed = |what: &'static str| {
        let path = path.display().to_string();
        move |source| CertificateError::File { what, path, source }
    };
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let result = (|| {
        let mut file = create(&temporary, mode)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder(path)
    })();
    if result.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(failed("write"))
}

#[cfg(unix)]
fn create(path: &Path, mode: u32) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // A left-over of a crashed writer may have looser rights, which opening would keep.
    let _ = fs::remove_file(path);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
}

#[cfg(not(unix))]
fn create(path: &Path, _mode: u32) -> std::io::Result<File> {
    // The user's profile folder is private on Windows; files inherit that.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
}

#[cfg(unix)]
fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
fn sync_folder(_path: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn keys_are_for_their_owner_only_even_after_a_crashed_writer() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(SERVER_KEY);
        let left_over = path.with_extension(format!("tmp{}", std::process::id()));
        fs::write(&left_over, "half").expect("a left-over");
        fs::set_permissions(&left_over, fs::Permissions::from_mode(0o666)).expect("loose rights");
        write_key(&path, &SecretPem::new("secret".into())).expect("the key is written");
        let mode = fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).expect("readable"), "secret");
        assert!(!left_over.exists());
    }

    #[test]
    fn an_error_names_the_file() {
        let error = write_certificate(Path::new("/nonexistent/folder/ca.pem"), "x")
            .expect_err("no such folder");
        assert_eq!(error.to_string(), "cannot write /nonexistent/folder/ca.pem");
    }
}
