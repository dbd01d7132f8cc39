//! TOML text to typed values; all problems at once.
//!
//! Owns the walk through a configuration document and the sections that both binaries share. Does not own what a
//! binary makes of its own sections. What always holds: a value that leaves here is valid, and a document with
//! several mistakes is answered with all of them, each by its key with what would be accepted, because whoever
//! mends a file at night wants to start the program once more, not once per mistake.

mod cluster;
mod pairs;
mod places;
mod process;
#[cfg(test)]
mod property_tests;
mod section;

use std::cell::RefCell;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use thiserror::Error;

pub use cluster::{ClusterMember, ClusterSection, LogBounds, PeerSecurity};
pub use pairs::PairTransport;
pub use process::{AdminConfig, LogConfig, LogFormat, TlsFiles};
pub use section::{Number, Section};

use self::places::Places;
use self::section::Folders;

/// Reads and checks the file; `read` takes what it wants out of the document's root. Relative paths in the file
/// start at the file's own directory; a mere name is looked for in `$CREDENTIALS_DIRECTORY` before.
pub fn read_file<C>(path: &Path, read: impl FnOnce(&mut Section) -> Option<C>) -> Result<C, ConfigError> {
    read_text(path, &text_of(path)?, read)
}

/// The document in a file, not looked at any further.
///
/// # Errors
/// When it cannot be read, is longer than 64 MiB, or is not TOML.
pub fn read_table(path: &Path) -> Result<toml::Table, ConfigError> {
    parse(path, &text_of(path)?)
}

fn text_of(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_path_buf(),
        source,
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let read_bytes = file
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if read_bytes as u64 > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge {
            path: path.to_path_buf(),
        });
    }
    Ok(text)
}

fn parse(path: &Path, text: &str) -> Result<toml::Table, ConfigError> {
    text.parse()
        .map_err(|source: toml::de::Error| ConfigError::Syntax {
            path: path.to_path_buf(),
            source: Box::new(source),
        })
}

/// As [`read_file`], for text that is at hand. `path` is what messages call it, and where relative paths start.
pub fn read_text<C>(
    path: &Path,
    text: &str,
    read: impl FnOnce(&mut Section) -> Option<C>,
) -> Result<C, ConfigError> {
    let table = parse(path, text)?;
    let problems = Problems::default();
    let directory = path.parent().unwrap_or_else(|| Path::new(""));
    let folders = Folders {
        own: directory.to_path_buf(),
        credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
    };
    let mut root = Section::root(table, folders, problems.clone());
    let config = read(&mut root);
    // A section reports the keys that nobody asked for when it goes.
    drop(root);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        // Where they stand is looked for only now: a directory may have hundreds of thousands of lines.
        Some(_) | None => Err(ConfigError::Invalid {
            path: path.to_path_buf(),
            problems: problems.sorted(&Places::of(text)),
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
    #[error("{} is longer than {} MiB: is it the right file?", .path.display(), FILE_BYTES_MAX >> 20)]
    TooLarge { path: PathBuf },
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
    /// Of the document, counted from 1; of a key that is missing, where its table begins. `None` for the document itself.
    pub line: Option<usize>,
    /// From the root: `cluster.member[1].address`.
    pub key: String,
    /// The key in words: `cluster.member 2: address`.
    pub subject: String,
    /// What is wrong with it.
    pub what: String,
    /// What would be right.
    pub accepted: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(formatter, "line {line}: ")?;
        }
        write!(
            formatter,
            "{}: {}; accepted: {}",
            self.subject, self.what, self.accepted
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
            let key = key.into();
            problems.push(Problem {
                line: None,
                subject: key.clone(),
                key,
                what: what.into(),
                accepted: accepted.into(),
            });
        }
    }

    fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// In the order in which they stand in the document.
    fn sorted(&self, places: &Places) -> Vec<Problem> {
        let mut problems = self.0.borrow().clone();
        for problem in &mut problems {
            problem.line = places.line_of(&problem.key);
            problem.subject = places.in_words(&problem.key);
        }
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

/// A directory of some 380,000 users; enough to refuse `/dev/zero`.
const FILE_BYTES_MAX: u64 = 64 << 20;
const PROBLEMS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn problems_of<C>(text: &str, read: impl FnOnce(&mut Section) -> Option<C>) -> Vec<String> {
        match read_text(Path::new("/etc/tandem/lb.toml"), text, read) {
            Ok(_) => Vec::new(),
            Err(ConfigError::Invalid { problems, .. }) => problems
                .iter()
                .map(|problem| format!("{}: {}", problem.key, problem.what))
                .collect(),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once_each_by_its_key() {
        let text = r#"
            [log]
            format = "xml"
            colour = true
            [admin]
            listen = "0.0.0.0:9090"
            [cluster]
            listen = 7
            [[cluster.member]]
            id = 0
            kind = "node"
            address = "nowhere"
        "#;
        let problems = problems_of(text, |root| {
            LogConfig::read(root);
            AdminConfig::read(root, ([127, 0, 0, 1], 9090).into());
            ClusterSection::read(&mut root.section("cluster"), None)
        });
        assert_eq!(
            problems,
            [
                "log.format: \"xml\" is not accepted",
                "log.colour: is not a known key",
                "admin.listen: 0.0.0.0:9090 can be reached from elsewhere",
                "cluster.tls: is missing",
                "cluster.listen: 7 is not accepted",
                "cluster.member: there are 0 nodes",
                "cluster.member[0].id: 0 is not accepted",
                "cluster.member[0].address: \"nowhere\" is not accepted",
            ]
        );
    }

    #[test]
    fn the_message_names_the_file_and_what_would_be_accepted() {
        let read = |root: &mut Section| root.number::<u16>("port", 1..=9);
        let error = read_text(Path::new("/etc/x.toml"), "prot = 3", read).unwrap_err();
        let expected = "/etc/x.toml: 2 problems\n  \
            port: is missing; accepted: a whole number from 1 to 9\n  \
            line 1: prot: is not a known key; accepted: one of port";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn what_is_not_toml_is_told_with_its_line() {
        let error = read_text(Path::new("x.toml"), "a = 1\nb = = 2\n", |_| Some(())).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read_file(Path::new("/nowhere/lb.toml"), |_| Some(())).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nowhere/lb.toml");
    }

    #[test]
    fn values_come_out_as_what_they_are_and_defaults_where_there_is_none() {
        let text = "period_ms = 250\ntimeout_secs = 3\nfile = \"users.toml\"\nallow = [\"10.0.0.0/8\"]\nmode = \"b\"";
        let read = |root: &mut Section| {
            let any = Duration::ZERO..=Duration::from_secs(60);
            assert_eq!(
                root.duration_or("period_ms", Duration::ZERO, any.clone()),
                Duration::from_millis(250)
            );
            assert_eq!(
                root.duration_or("timeout_secs", Duration::ZERO, any.clone()),
                Duration::from_secs(3)
            );
            assert_eq!(
                root.duration_or("other_ms", Duration::from_millis(7), any),
                Duration::from_millis(7)
            );
            assert_eq!(root.path("file").unwrap(), Path::new("/etc/tandem/users.toml"));
            let allow: Vec<ipnet::IpNet> = root.parsed_list("allow", "a network");
            assert_eq!(allow.len(), 1);
            assert_eq!(root.choice("mode", &[("a", 1), ("b", 2)]), 2);
            assert_eq!(root.choice("other", &[("a", 1), ("b", 2)]), 1);
            assert!(root.optional_section("tls").is_none());
            assert!(root.sections("listener").is_empty());
            Some(())
        };
        assert_eq!(problems_of(text, read), Vec::<String>::new());
    }
}
