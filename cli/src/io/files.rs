//! Files that are created once and never overwritten.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What went wrong with a file, and what to do.
#[derive(Debug, Error)]
pub(super) enum FileError {
    #[error("{} exists and is not overwritten: move it away, or choose another directory", .path.display())]
    Exists { path: PathBuf },
    #[error("cannot read {}: check the path and that this user may read it", .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is larger than {FILE_BYTES_MAX} bytes: is this the right file?", .path.display())]
    TooLarge { path: PathBuf },
    #[error("{} is not text", .path.display())]
    NotText { path: PathBuf },
    #[error("cannot write {}: check the directory, its rights and the space on the disk", .path.display())]
    Unwritable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Who may use a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readers {
    Owner,
    Everybody,
}

/// Creates a file, durable once this has returned. Fails when it exists.
pub(super) fn create(path: &Path, contents: &[u8], readers: Readers) -> Result<(), FileError> {
    let mode = match readers {
        Readers::Owner => 0o600,
        Readers::Everybody => 0o644,
    };
    let opened = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let written = opened.and_then(|mut file| {
        file.write_all(contents)?;
        file.sync_all()
    });
    written
        .and_then(|()| sync_directory(path))
        .map_err(unwritable(path))
}

/// Replaces a file atomically. For public files only.
pub(super) fn replace(path: &Path, contents: &[u8]) -> Result<(), FileError> {
    let partial = with_suffix(path, "partial");
    // A process that was killed here left it behind.
    if let Err(error) = fs::remove_file(&partial)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(unwritable(&partial)(error));
    }
    create(&partial, contents, Readers::Everybody)?;
    fs::rename(&partial, path)
        .and_then(|()| sync_directory(path))
        .map_err(unwritable(path))
}

/// Creates a directory and its parents, mode 700.
pub(super) fn make_directory(path: &Path) -> Result<(), FileError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(unwritable(path))
}

/// As [`make_directory`], mode 755: its files may lie in the configuration directory of a machine. Fails when it exists.
pub(super) fn make_new_directory(path: &Path) -> Result<(), FileError> {
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    let made = fs::DirBuilder::new().mode(0o755).create(path);
    made.map_err(unwritable(path))
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let unreadable = |source| FileError::Unreadable {
        path: path.to_path_buf(),
        source,
    };
    let mut contents = Vec::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut contents)
        .map_err(unreadable)?;
    if contents.len() as u64 > FILE_BYTES_MAX {
        let path = path.to_path_buf();
        return Err(FileError::TooLarge { path });
    }
    Ok(contents)
}

pub(super) fn read_text(path: &Path) -> Result<String, FileError> {
    String::from_utf8(read(path)?).map_err(|_| FileError::NotText {
        path: path.to_path_buf(),
    })
}

/// Renames a file to the first of `NAME.1`, `NAME.2` and so on that is free.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, FileError> {
    let mut names = (1..=SET_ASIDE_MAX).map(|number| with_suffix(path, &number.to_string()));
    let Some(aside) = names.find(|name| !name.exists()) else {
        let path = with_suffix(path, &SET_ASIDE_MAX.to_string());
        return Err(FileError::Exists { path });
    };
    fs::rename(path, &aside)
        .and_then(|()| sync_directory(path))
        .map_err(unwritable(path))?;
    Ok(aside)
}

/// The permission bits; `None` when the file is not there.
pub(super) fn mode(path: &Path) -> Option<u32> {
    let metadata = fs::metadata(path).ok()?;
    Some(metadata.permissions().mode() & 0o7777)
}

fn unwritable(path: &Path) -> impl Fn(io::Error) -> FileError {
    move |source| {
        let path = path.to_path_buf();
        match source.kind() == io::ErrorKind::AlreadyExists {
            true => FileError::Exists { path },
            false => FileError::Unwritable { path, source },
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Makes the names in the directory of this file durable.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// No certificate, request or password is longer.
const FILE_BYTES_MAX: u64 = 1 << 20;
const SET_ASIDE_MAX: u32 = 999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overwritten_and_what_makes_room_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer.key");
        create(&path, b"first", Readers::Owner).unwrap();
        assert_eq!(mode(&path), Some(0o600));
        let again = create(&path, b"second", Readers::Owner).unwrap_err();
        assert!(matches!(again, FileError::Exists { .. }), "{again}");
        let aside = set_aside(&path).unwrap();
        assert_eq!(aside, folder.path().join("peer.key.1"));
        create(&path, b"second", Readers::Owner).unwrap();
        assert_eq!(set_aside(&path).unwrap(), folder.path().join("peer.key.2"));
        assert_eq!(read(&aside).unwrap(), b"first");
        assert_eq!(mode(&path), None);
    }

    #[test]
    fn a_public_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peer-ca.pem");
        fs::write(with_suffix(&path, "partial"), "left behind").unwrap();
        for contents in ["one", "two"] {
            replace(&path, contents.as_bytes()).unwrap();
            assert_eq!(read_text(&path).unwrap(), contents);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_never_ends_is_refused() {
        let endless = read(Path::new("/dev/zero")).unwrap_err();
        assert!(matches!(endless, FileError::TooLarge { .. }), "{endless}");
    }
}
