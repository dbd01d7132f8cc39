//! `tandem config check`: what the programs check of their files.

use std::path::{Path, PathBuf};

use tandem_node::directory::file;
use tandem_runtime::config::{ConfigError, read_file, read_table};
use tandem_runtime::io::certificates::with_causes;
use tandem_runtime::io::command_line::Outcome;
use tandem_runtime::io::tls::TlsError;
use thiserror::Error;

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
            let config = read_file(path, tandem_lb::config::Config::read)?;
            tandem_lb::io::named_files::check(&config)?;
        }
        FileKind::Node => {
            let config = read_file(path, tandem_node::config::read_with_files)?;
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
    let document = read_table(path)?;
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
