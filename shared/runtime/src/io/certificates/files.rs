//! How certificates and keys lie on the disk.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tandem_certificate::Certificate;

/// Writes a certificate as a PEM block under a line that says whose it is.
#[must_use]
pub fn pem_text(certificate: &Certificate) -> String {
    use base64::Engine as _;
    use std::fmt::Write as _;

    let encoded = base64::engine::general_purpose::STANDARD.encode(&certificate.der);
    let mut text = format!("# {}\n-----BEGIN CERTIFICATE-----\n", certificate.subject);
    let mut rest = encoded.as_str();
    while let Some((line, after)) = rest.split_at_checked(64) {
        let _ = writeln!(text, "{line}");
        rest = after;
    }
    if !rest.is_empty() {
        let _ = writeln!(text, "{rest}");
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

/// Whoever reads the file meanwhile, or after a crash, finds the old or the new one. The new one when this has returned: a key
/// that takes its place after its certificate must not be there before it.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let mut file = fs::File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    sync_directory(path)
}

/// Nobody but this user may read it, not even for a moment.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    if partial.exists() {
        fs::remove_file(&partial)?;
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    sync_directory(path)
}

/// Makes the names in the directory of this file durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
}
