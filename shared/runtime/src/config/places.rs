//! Where the keys of a configuration document stand: what a message says so that an operator finds the line at once.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The line of each key, and the name of each table of an array of tables.
#[derive(Debug, Default)]
pub(super) struct Places {
    lines: BTreeMap<String, usize>,
    names: BTreeMap<String, String>,
}

impl Places {
    /// Of a document that is TOML; nothing is known of another one.
    pub(super) fn of(text: &str) -> Self {
        let mut reader = Reader {
            line_ends: text.match_indices('\n').map(|(at, _)| at).collect(),
            places: Self::default(),
        };
        if let Ok(table) = DeTable::parse(text) {
            reader.read_table("", table.get_ref());
        }
        reader.places
    }

    /// The line of a key, counted from 1; of one that is missing, where its table begins. `None` when that is the document
    /// itself.
    pub(super) fn line_of(&self, key: &str) -> Option<usize> {
        let mut known = key;
        loop {
            if let Some(line) = self.lines.get(known) {
                return Some(*line);
            }
            known = known.rfind(['.', '[']).map(|end| &known[..end])?;
        }
    }

    /// A key in words: `listener[0].address` is `listener "ocs": address` when that listener has a name.
    pub(super) fn in_words(&self, key: &str) -> String {
        let (mut words, mut path) = (String::new(), String::new());
        for segment in key.split('.') {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(segment);
            match (segment.split_once('['), self.names.get(&path)) {
                (Some((kind, _)), Some(name)) => words.push_str(&format!("{kind} {name}: ")),
                (Some(_) | None, _) => words.push_str(&format!("{segment}.")),
            }
        }
        words.trim_end_matches([':', ' ', '.']).to_owned()
    }
}

struct Reader {
    line_ends: Vec<usize>,
    places: Places,
}

impl Reader {
    fn read_table(&mut self, path: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let dot = if path.is_empty() { "" } else { "." };
            let path = format!("{path}{dot}{}", key.get_ref());
            self.note(&path, key.span().start);
            self.read_value(&path, value);
        }
    }

    fn read_value(&mut self, path: &str, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => self.read_table(path, table),
            DeValue::Array(values) => {
                for (index, value) in values.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    self.note(&path, value.span().start);
                    if let Some(name) = name_of(value.get_ref()) {
                        self.places.names.insert(path.clone(), name);
                    }
                    self.read_value(&path, value);
                }
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {}
        }
    }

    fn note(&mut self, path: &str, offset: usize) {
        let line = self.line_ends.partition_point(|end| *end < offset) + 1;
        self.places.lines.insert(path.to_owned(), line);
    }
}

/// What the table is called in the document itself.
fn name_of(value: &DeValue<'_>) -> Option<String> {
    let table = value.as_table()?;
    if let Some(DeValue::String(name)) = table.get("name").map(Spanned::get_ref) {
        return Some(format!("{name:?}"));
    }
    match table.get("id").map(Spanned::get_ref) {
        Some(DeValue::Integer(id)) => Some(id.to_string()),
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a = 1\n[log]\nformat = \"text\"\n\n[[listener]]\nname = \"ocs\"\naddress = \"x\"\n\n[[listener]]\naddress = \"y\"\n[[node]]\nid = 7\n";

    #[test]
    fn a_key_is_found_and_a_missing_one_at_its_table() {
        let places = Places::of(TEXT);
        assert_eq!(places.line_of("a"), Some(1));
        assert_eq!(places.line_of("log.format"), Some(3));
        assert_eq!(places.line_of("log.filter"), Some(2));
        assert_eq!(places.line_of("listener[0].address"), Some(7));
        assert_eq!(places.line_of("listener[1].name"), Some(9));
        assert_eq!(places.line_of("cluster.listen"), None);
        assert_eq!(Places::of("a = = 1").line_of("a"), None);
    }

    #[test]
    fn a_table_that_has_a_name_is_called_by_it() {
        let places = Places::of(TEXT);
        assert_eq!(
            places.in_words("listener[0].address"),
            "listener \"ocs\": address"
        );
        assert_eq!(places.in_words("listener[1].address"), "listener[1].address");
        assert_eq!(places.in_words("node[0].address"), "node 7: address");
        assert_eq!(places.in_words("node[0]"), "node 7");
        assert_eq!(places.in_words("log.format"), "log.format");
    }
}
