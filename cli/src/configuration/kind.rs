//! Whose configuration a file is.

use toml::{Table, Value};

/// What reads the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    FrontEnd,
    Node,
    Directory,
}

impl FileKind {
    /// Told by the sections that only one of them has. `None`: it has none of them, or those of several.
    #[must_use]
    pub fn of(document: &Table) -> Option<Self> {
        let kinds = [
            (
                Self::FrontEnd,
                has_any(document, &["listener", "outbound"]) || is_list(document, "node"),
            ),
            (
                Self::Node,
                has_any(document, &["cti", "sip"]) || is_table(document, "node"),
            ),
            (Self::Directory, has_any(document, &["user", "device", "line"])),
        ];
        let mut fitting = kinds.into_iter().filter(|(_, fits)| *fits);
        match (fitting.next(), fitting.next()) {
            (Some((kind, _)), None) => Some(kind),
            (Some(_), Some(_)) | (None, _) => None,
        }
    }

    /// As people call it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::FrontEnd => "configuration of tandem-lb",
            Self::Node => "configuration of tandem-node",
            Self::Directory => "directory",
        }
    }
}

fn has_any(document: &Table, keys: &[&str]) -> bool {
    keys.iter().any(|key| document.contains_key(*key))
}

/// `[[node]]` of a front end.
fn is_list(document: &Table, key: &str) -> bool {
    document.get(key).is_some_and(Value::is_array)
}

/// `[node]` of a node.
fn is_table(document: &Table, key: &str) -> bool {
    document.get(key).is_some_and(Value::is_table)
}

#[cfg(test)]
mod tests {
    use super::super::plan::Plan;
    use super::super::plan::tests::wanted;
    use super::super::{front_end_file, node_file};
    use super::*;

    fn of(text: &str) -> Option<FileKind> {
        FileKind::of(&text.parse().unwrap())
    }

    #[test]
    fn sections_tell_whose_a_file_is() {
        let plan = Plan::new(wanted()).unwrap();
        assert_eq!(of(&front_end_file(&plan)), Some(FileKind::FrontEnd));
        assert_eq!(of(&node_file(&plan, 1)), Some(FileKind::Node));
        assert_eq!(of("[[user]]\nid = \"joe\""), Some(FileKind::Directory));
        assert_eq!(of("[log]\nformat = \"text\""), None);
        assert_eq!(of("[[user]]\nid = \"joe\"\n[sip]\n"), None);
    }
}
