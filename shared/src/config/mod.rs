//! TOML text to typed values; all problems at once.
//!
//! Owns the walk through a configuration document and the sections that both binaries share. Does not own what a
//! binary makes of its own sections. What always holds: a value that leaves here is valid, and a document with
//! several mistakes is answered with all of them, each by its key with what would be accepted, because whoever
//! mends a file at night wants to start the program once more, not once per mistake.

mod cluster;
mod common;
mod section;

use std::cell::RefCell;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use thiserror::Error;

pub use cluster::{ClusterMember, ClusterSection, MemberKind, PeerSecurity};
pub use common::{AdminConfig, LogConfig, LogFormat, TlsFiles};
pub use section::{Number, Section};

/// Reads and checks the file; `read` takes what it wants out of the document's root. Relative paths in the file
/// start at the file's own directory.
pub fn read_file<C>(path: &Path, read: impl FnOnce(&mut Section) -> Option<C>) -> Result<C, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_path_buf(),
        source,
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    read_text(path, &text, read)
}

/// As [`read_file`], for text that is at hand. `path` is what messages call it, and where relative paths start.
pub fn read_text<C>(
    path: &Path,
    text: &str,
    read: impl FnOnce(&mut Section) -> Option<C>,
) -> Result<C, ConfigError> {
    let table: toml::Table = text
        .parse()
        .map_err(|source: toml::de::Error| ConfigError::Syntax {
            path: path.to_path_buf(),
            source: Box::new(source),
        })?;
    let problems = Problems::default();
    let directory = path.parent().unwrap_or_else(|| Path::new(""));
    let mut root = Section::root(table, directory, problems.clone());
    let config = read(&mut root);
    // A section reports the keys that nobody asked for when it goes.
    drop(root);
    let problems = problems.sorted();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        Some(_) | None => Err(ConfigError::Invalid {
            path: path.to_path_buf(),
            problems,
        }),
    }
}

/// Why there is no configuration. All of it is the operator's to mend: exit code 78.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read {}", .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not TOML: {source}", .path.display())]
    Syntax {
        path: PathBuf,
        // Boxed: it is many times the size of the other variants. Displayed: it shows the line.
        source: Box<toml::de::Error>,
    },
    #[error("{}: {}", .path.display(), listing(.problems))]
    Invalid { path: PathBuf, problems: Vec<Problem> },
}

/// One mistake in a configuration document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// From the root: `cluster.member[1].address`.
    pub key: String,
    /// What is wrong with it.
    pub what: String,
    /// What would be right.
    pub accepted: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}: {}; accepted: {}",
            self.key, self.what, self.accepted
        )
    }
}

/// The mistakes found so far. A handle: the sections of one document share it.
#[derive(Debug, Clone, Default)]
pub struct Problems(Rc<RefCell<Vec<Problem>>>);

impl Problems {
    pub fn add(&self, key: impl Into<String>, what: impl Into<String>, accepted: impl Into<String>) {
        let mut problems = self.0.borrow_mut();
        if problems.len() < PROBLEMS_MAX {
            problems.push(Problem {
                key: key.into(),
                what: what.into(),
                accepted: accepted.into(),
            });
        }
    }

    fn sorted(&self) -> Vec<Problem> {
        let mut problems = self.0.borrow().clone();
        problems.sort();
        problems.dedup();
        problems
    }
}

fn listing(problems: &[Problem]) -> String {
    let count = problems.len();
    let lines = problems.iter().map(|problem| format!("\n  {problem}"));
    format!(
        "{count} problem{}{}",
        if count == 1 { "" } else { "s" },
        lines.collect::<String>()
    )
}

/// Far more than any real file; enough to refuse `/dev/zero`.
const FILE_BYTES_MAX: u64 = 4 << 20;
const PROBLEMS_MAX: usize = 200;
