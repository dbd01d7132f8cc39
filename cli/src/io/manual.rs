//! Completions and manual pages.

use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::files::{self, FileError};
use crate::arguments::Arguments;

/// The completion script of a shell.
pub(super) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "tandem", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes `tandem.1` and a page for every noun and verb.
pub(super) fn write(directory: &Path) -> Result<String, FileError> {
    files::make_directory(directory)?;
    clap_mangen::generate_to(Arguments::command(), directory).map_err(|source: io::Error| {
        FileError::Unwritable {
            path: directory.to_path_buf(),
            source,
        }
    })?;
    Ok(format!("The manual pages are in {}.", directory.display()))
}
