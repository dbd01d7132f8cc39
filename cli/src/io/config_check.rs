//! `tandem config check`: what the programs check of their files.

use std::path::{Path, PathBuf};

use tandem_node::directory::file;
use tandem_runtime::config::{ConfigError, read_text};
use tandem_runtime::io::certificates::with_causes;
use tandem_runtime::io::command_line::Outcome;
use tandem_runtime::io::tls::TlsError;
use thiserror::Error;

use super::files::{self, FileError};
use crate::configuration::kind::FileKind;

/// A line for each file that is valid; what is wrong with the others goes to standard error.
pub(super) fn check(paths: &[PathBuf]) -> Outcome {
    let mut outcome = Outcome::well("");
    for path in paths {
        match check_file(path) {
            Ok(kind) => {
                outcome
                    .text
                    .push_str(&format!("{}: valid {}\n", path.display(), kind.title()));
            }
            Err(error) => {
                outcome.well = false;
                eprintln!("tandem: {}", with_causes(&error));
            }
        }
    }
    outcome
}

fn check_file(path: &Path) -> Result<FileKind, CheckError> {
    let kind = kind_of(path)?;
    match kind {
        FileKind::FrontEnd => {
            let config = tandem_runtime::config::read_file(path, tandem_lb::config::Config::read)?;
            tandem_lb::io::named_files::check(&config)?;
        }
        FileKind::Node => {
            let config = tandem_runtime::config::read_file(path, tandem_node::config::read_with_files)?;
            tandem_node::io::named_files::check(&config)?;
        }
        FileKind::Directory => {
            file::read_file(path)?;
        }
    }
    Ok(kind)
}

/// Whose file it is.
pub(super) fn kind_of(path: &Path) -> Result<FileKind, CheckError> {
    let text = files::read_text(path)?;
    // What is not TOML is told of as by the programs.
    let document = text
        .parse::<toml::Table>()
        .or_else(|_| read_text(path, &text, |_| Some(toml::Table::new())))?;
    // A new directory has no sections yet.
    let is_new_directory = document.is_empty() && path.ends_with("directory.toml");
    let kind = FileKind::of(&document).or_else(|| is_new_directory.then_some(FileKind::Directory));
    kind.ok_or_else(|| CheckError::UnknownKind {
        path: path.to_path_buf(),
    })
}

/// Why a file is not valid.
#[derive(Debug, Error)]
pub(super) enum CheckError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "{} is not recognised: lb.toml has a [[listener]], node.toml [node] and [sip], directory.toml a [[user]] or a \
         [[line]]", .path.display()
    )]
    UnknownKind { path: PathBuf },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}
