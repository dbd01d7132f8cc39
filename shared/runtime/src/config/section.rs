//! One table of a configuration document: typed getters that note what is wrong and go on.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::{Table, Value};

use super::Problems;

/// A table being read. Every getter takes its key out; what is left when the section is dropped was never asked
/// for and is reported, with the keys that exist.
#[derive(Debug)]
pub struct Section {
    path: String,
    folders: Folders,
    table: Table,
    known: Vec<String>,
    problems: Problems,
}

/// Where relative paths start.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    /// That of the configuration file.
    pub(super) own: PathBuf,
    /// Where the service manager has put secrets for this process, if it has.
    pub(super) credentials: Option<PathBuf>,
}

impl Folders {
    fn locate(&self, path: &str) -> PathBuf {
        let is_mere_name = !path.contains('/');
        let handed_over = self.credentials.as_ref().filter(|_| is_mere_name);
        let handed_over = handed_over.map(|credentials| credentials.join(path));
        handed_over
            .filter(|file| file.is_file())
            .unwrap_or_else(|| self.own.join(path))
    }
}

impl Section {
    pub(super) fn root(table: Table, folders: Folders, problems: Problems) -> Self {
        Self {
            path: String::new(),
            folders,
            table,
            known: Vec::new(),
            problems,
        }
    }

    /// Whether the key is there and nobody has taken it yet.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The key as the operator sees it: from the root of the document.
    #[must_use]
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Notes a problem with a key of this section, for rules that no getter knows.
    pub fn problem(&self, key: &str, what: impl Into<String>, accepted: impl Into<String>) {
        self.problems.add(self.path_of(key), what, accepted);
    }

    /// The table under `key`; an empty one when it is absent, so that its own getters say what is missing.
    pub fn section(&mut self, key: &str) -> Self {
        let table = match self.take(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(value) => {
                self.wrong_type(key, &value, "a table");
                Table::new()
            }
        };
        self.child(self.path_of(key), table)
    }

    /// As [`Self::section`]; `None` when it is absent.
    pub fn optional_section(&mut self, key: &str) -> Option<Self> {
        if self.has(key) {
            return Some(self.section(key));
        }
        self.known.push(key.to_owned());
        None
    }

    /// The array of tables under `key`, in order; empty when it is absent.
    pub fn sections(&mut self, key: &str) -> Vec<Self> {
        let values = match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(values)) => values,
            Some(value) => {
                self.wrong_type(key, &value, "an array of tables");
                Vec::new()
            }
        };
        let mut sections = Vec::new();
        for (index, value) in values.into_iter().enumerate() {
            match value {
                Value::Table(table) => {
                    sections.push(self.child(format!("{}[{index}]", self.path_of(key)), table));
                }
                other @ (Value::String(_)
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Boolean(_)
                | Value::Datetime(_)
                | Value::Array(_)) => self.wrong_type(&format!("{key}[{index}]"), &other, "a table"),
            }
        }
        sections
    }

    /// Text that must be there and not be empty.
    pub fn text(&mut self, key: &str) -> Option<String> {
        self.required(key, "text", Self::optional_text)
    }

    pub fn text_or(&mut self, key: &str, default: &str) -> String {
        self.optional_text(key).unwrap_or_else(|| default.to_owned())
    }

    pub fn optional_text(&mut self, key: &str) -> Option<String> {
        let value = self.take(key)?;
        let text = value.as_str().filter(|text| !text.trim().is_empty());
        if text.is_none() {
            self.wrong_type(key, &value, "text that is not empty");
        }
        text.map(str::to_owned)
    }

    /// Text that `FromStr` understands; `accepted` says to a human what that is.
    pub fn parsed<T: FromStr>(&mut self, key: &str, accepted: &str) -> Option<T> {
        self.required(key, accepted, |section, key| {
            section.optional_parsed(key, accepted)
        })
    }

    pub fn optional_parsed<T: FromStr>(&mut self, key: &str, accepted: &str) -> Option<T> {
        let value = self.take(key)?;
        self.parse_value(key, &value, accepted)
    }

    /// A list of such texts, in order; empty when it is absent.
    pub fn parsed_list<T: FromStr>(&mut self, key: &str, accepted: &str) -> Vec<T> {
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(values)) => {
                let parse = |(index, value): (usize, &Value)| {
                    self.parse_value(&format!("{key}[{index}]"), value, accepted)
                };
                values.iter().enumerate().filter_map(parse).collect()
            }
            Some(value) => {
                self.wrong_type(key, &value, &format!("a list of {accepted}"));
                Vec::new()
            }
        }
    }

    pub fn address(&mut self, key: &str) -> Option<SocketAddr> {
        self.parsed(key, ADDRESS)
    }

    pub fn optional_address(&mut self, key: &str) -> Option<SocketAddr> {
        self.optional_parsed(key, ADDRESS)
    }

    pub fn address_or(&mut self, key: &str, default: SocketAddr) -> SocketAddr {
        self.optional_address(key).unwrap_or(default)
    }

    /// A path; a relative one starts at the directory of the configuration file. A mere name of a file that the service
    /// manager hands over (`LoadCredential=` of systemd.exec(5)) is that file.
    pub fn path(&mut self, key: &str) -> Option<PathBuf> {
        let path = self.required(key, "a path", Self::optional_text)?;
        Some(self.folders.locate(&path))
    }

    pub fn optional_path(&mut self, key: &str) -> Option<PathBuf> {
        let path = self.optional_text(key)?;
        Some(self.folders.locate(&path))
    }

    /// A whole number that must be there, within `range`.
    pub fn number<T: Number>(&mut self, key: &str, range: RangeInclusive<T>) -> Option<T> {
        let accepted = whole_number(&range);
        self.required(key, &accepted, |section, key| section.optional_number(key, range))
    }

    pub fn number_or<T: Number>(&mut self, key: &str, default: T, range: RangeInclusive<T>) -> T {
        self.optional_number(key, range).unwrap_or(default)
    }

    /// A list of numbers; `default` when it is absent.
    pub fn numbers_or<T: Number>(&mut self, key: &str, default: &[T], range: RangeInclusive<T>) -> Vec<T> {
        let accepted = format!("a list of numbers, each {}", whole_number(&range));
        let values = match self.take(key) {
            None => return default.to_vec(),
            Some(Value::Array(values)) => values,
            Some(value) => {
                self.wrong_type(key, &value, &accepted);
                return Vec::new();
            }
        };
        let numbers = values.iter().filter_map(|value| {
            let number = value.as_integer().and_then(|number| T::try_from(number).ok());
            let number = number.filter(|number| range.contains(number));
            if number.is_none() {
                self.wrong_type(key, value, &accepted);
            }
            number
        });
        numbers.collect()
    }

    pub fn optional_number<T: Number>(&mut self, key: &str, range: RangeInclusive<T>) -> Option<T> {
        let value = self.take(key)?;
        let number = value.as_integer().and_then(|number| T::try_from(number).ok());
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.wrong_type(key, &value, &whole_number(&range));
        }
        number
    }

    /// A span of time, in the unit that ends the key: `_ms` or `_secs`.
    pub fn duration_or(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        if key.ends_with("_ms") {
            let range = whole_millis(*range.start())..=whole_millis(*range.end());
            Duration::from_millis(self.number_or(key, whole_millis(default), range))
        } else {
            debug_assert!(key.ends_with("_secs"), "{key} carries no unit");
            let range = range.start().as_secs()..=range.end().as_secs();
            Duration::from_secs(self.number_or(key, default.as_secs(), range))
        }
    }

    /// Takes the key out if it holds exactly this word.
    pub fn is_word(&mut self, key: &str, word: &str) -> bool {
        let is_word = self.table.get(key).and_then(Value::as_str) == Some(word);
        if is_word {
            self.take(key);
        }
        is_word
    }

    pub fn flag_or(&mut self, key: &str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Boolean(flag)) => flag,
            Some(value) => {
                self.wrong_type(key, &value, "true or false");
                default
            }
        }
    }

    /// One of the words in `choices`; the first is the default.
    ///
    /// # Panics
    /// When there is no choice at all.
    pub fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> T {
        self.optional_choice(key, choices).unwrap_or(choices[0].1)
    }

    /// One of the words in `choices`, which must be there.
    pub fn required_choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let accepted = one_of(choices);
        self.required(key, &accepted, |section, key| {
            section.optional_choice(key, choices)
        })
    }

    fn optional_choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let value = self.take(key)?;
        let chosen = choices.iter().find(|(word, _)| value.as_str() == Some(word));
        if chosen.is_none() {
            self.wrong_type(key, &value, &one_of(choices));
        }
        chosen.map(|(_, choice)| *choice)
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.known.push(key.to_owned());
        self.table.remove(key)
    }

    fn required<T>(
        &mut self,
        key: &str,
        accepted: &str,
        read: impl FnOnce(&mut Self, &str) -> Option<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.problem(key, "is missing", accepted);
        }
        read(self, key)
    }

    fn parse_value<T: FromStr>(&self, key: &str, value: &Value, accepted: &str) -> Option<T> {
        let parsed = value.as_str().and_then(|text| text.parse().ok());
        if parsed.is_none() {
            self.wrong_type(key, value, accepted);
        }
        parsed
    }

    fn wrong_type(&self, key: &str, value: &Value, accepted: &str) {
        self.problem(key, format!("{} is not accepted", shown(value)), accepted);
    }

    fn child(&self, path: String, table: Table) -> Self {
        let (folders, problems) = (self.folders.clone(), self.problems.clone());
        Self {
            path,
            folders,
            table,
            known: Vec::new(),
            problems,
        }
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        self.known.sort();
        self.known.dedup();
        for key in self.table.keys() {
            self.problem(
                key,
                "is not a known key",
                format!("one of {}", self.known.join(", ")),
            );
        }
    }
}

/// The whole numbers that a configuration may hold.
pub trait Number: Copy + PartialOrd + Display + TryFrom<i64> {}

impl Number for u8 {}
impl Number for u16 {}
impl Number for u32 {}
impl Number for u64 {}
impl Number for usize {}

/// What the operator wrote, short enough for a message.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{:?}", text.chars().take(SHOWN_CHARS_MAX).collect::<String>()),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        Value::Datetime(_) => "a date".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Table(_) => "a table".to_owned(),
    }
}

fn whole_number<T: Display>(range: &RangeInclusive<T>) -> String {
    format!("a whole number from {} to {}", range.start(), range.end())
}

fn one_of<T>(choices: &[(&str, T)]) -> String {
    let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
    words.join(" or ")
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const ADDRESS: &str = "an IP address and port, as \"192.0.2.1:5060\" or \"[2001:db8::1]:5060\"";
const SHOWN_CHARS_MAX: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_the_service_manager_hands_over_wins_over_a_file_of_that_name() {
        let own = tempfile::tempdir().unwrap();
        let credentials = tempfile::tempdir().unwrap();
        std::fs::write(credentials.path().join("peer.key"), "key").unwrap();
        let folders = Folders {
            own: own.path().to_path_buf(),
            credentials: Some(credentials.path().to_path_buf()),
        };
        assert_eq!(folders.locate("peer.key"), credentials.path().join("peer.key"));
        assert_eq!(folders.locate("peer.pem"), own.path().join("peer.pem"));
        assert_eq!(folders.locate("keys/peer.key"), own.path().join("keys/peer.key"));
        assert_eq!(folders.locate("/a/peer.key"), PathBuf::from("/a/peer.key"));
        let without = Folders {
            credentials: None,
            ..folders
        };
        assert_eq!(without.locate("peer.key"), own.path().join("peer.key"));
    }
}
