//! Secrets from files: who else could read them, and whether they are fit for use.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What is wrong with a secret. Never says what the secret is.
#[derive(Debug, Error)]
pub enum SecretError {
    #[error("{} cannot be read: {source}", .path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{} may be read by every user of this machine (mode {mode:o})", .path.display())]
    WorldReadable { path: PathBuf, mode: u32 },
    #[error("{} is empty", .path.display())]
    Empty { path: PathBuf },
    #[error("{} holds {length} bytes", .path.display())]
    TooShort {
        path: PathBuf,
        length: usize,
        least: usize,
    },
    #[error("{} is longer than {SECRET_BYTES_MAX} bytes", .path.display())]
    TooLong { path: PathBuf },
    #[error("{} is not UTF-8", .path.display())]
    NotText { path: PathBuf },
    #[error("the environment variable {name} is not set, or empty")]
    VariableMissing { name: String },
}

impl SecretError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Unreadable { path, .. } => {
                format!(
                    "a file that this service may read: check the path, then chown and chmod 600 {}",
                    path.display()
                )
            }
            Self::WorldReadable { path, .. } => {
                format!("a file of its owner alone: chmod 600 {}", path.display())
            }
            Self::Empty { path } => format!("the secret, alone, in {}", path.display()),
            Self::TooShort { path, least, .. } => {
                format!(
                    "at least {least} random bytes, the same on every node: openssl rand -hex {least} > {}",
                    path.display()
                )
            }
            Self::TooLong { .. } => "the secret and nothing else".to_owned(),
            Self::NotText { .. } => "the secret as UTF-8 text".to_owned(),
            Self::VariableMissing { name } => format!("the secret in {name}"),
        }
    }
}

/// The file's bytes without the line break that editors leave at the end.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, SecretError> {
    let unreadable = |source| SecretError::Unreadable {
        path: path.to_path_buf(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS != 0 {
        let path = path.to_path_buf();
        return Err(SecretError::WorldReadable { path, mode });
    }
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        let path = path.to_path_buf();
        return Err(SecretError::TooLong { path });
    }
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    if bytes.is_empty() {
        let path = path.to_path_buf();
        return Err(SecretError::Empty { path });
    }
    Ok(bytes)
}

pub(super) fn read_text(path: &Path) -> Result<String, SecretError> {
    String::from_utf8(read_bytes(path)?).map_err(|_| SecretError::NotText {
        path: path.to_path_buf(),
    })
}

pub(super) fn read_key(path: &Path, least: usize) -> Result<Vec<u8>, SecretError> {
    let bytes = read_bytes(path)?;
    if bytes.len() < least {
        return Err(SecretError::TooShort {
            path: path.to_path_buf(),
            length: bytes.len(),
            least,
        });
    }
    Ok(bytes)
}

pub(super) fn read_variable(name: &str) -> Result<String, SecretError> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    value.ok_or_else(|| SecretError::VariableMissing {
        name: name.to_owned(),
    })
}

const OTHERS: u32 = 0o007;
const SECRET_BYTES_MAX: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[test]
    fn the_line_break_of_an_editor_is_no_part_of_a_secret() {
        let (_folder, path) = file(b" S3cret \r\n", 0o640);
        assert_eq!(read_text(&path).unwrap(), " S3cret ");
    }

    #[test]
    fn a_file_that_everybody_may_read_is_refused_with_the_command_that_mends_it() {
        let (_folder, path) = file(b"S3cret", 0o644);
        let error = read_text(&path).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("by every user of this machine (mode 644)"),
            "{error}"
        );
        assert!(error.remedy().ends_with(&format!("chmod 600 {}", path.display())));
    }

    #[test]
    fn a_secret_that_is_no_use_is_refused_without_being_shown() {
        let (_folder, empty) = file(b"\n", 0o600);
        assert!(matches!(read_text(&empty), Err(SecretError::Empty { .. })));
        let (_folder, long) = file(&[b'a'; 4097], 0o600);
        assert!(matches!(read_text(&long), Err(SecretError::TooLong { .. })));
        let (_folder, short) = file(b"S3cret", 0o600);
        let error = read_key(&short, 32).unwrap_err();
        assert!(!format!("{error} {error:?} {}", error.remedy()).contains("S3cret"));
        assert!(error.remedy().contains("openssl rand -hex 32"));
        assert!(matches!(
            read_text(Path::new("/nowhere/secret")),
            Err(SecretError::Unreadable { .. })
        ));
        assert!(matches!(
            read_variable("TANDEM_NO_SUCH_VARIABLE"),
            Err(SecretError::VariableMissing { .. })
        ));
    }
}
