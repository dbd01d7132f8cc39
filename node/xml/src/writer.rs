//! Writing: what goes out is escaped.

use super::is_xml_character;

/// Writes one document.
#[derive(Debug)]
pub struct Writer {
    text: String,
}

impl Writer {
    pub fn document(root: &str, namespace: &str, content: impl FnOnce(&mut Self)) -> String {
        Self::document_with(root, &[("xmlns", namespace)], content)
    }

    pub fn document_with(root: &str, attributes: &[(&str, &str)], content: impl FnOnce(&mut Self)) -> String {
        let mut writer = Self {
            text: String::with_capacity(DOCUMENT_BYTES_USUAL),
        };
        writer.tag(&["<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"]);
        writer.element_with(root, attributes, content);
        writer.text
    }

    pub fn element(&mut self, name: &str, content: impl FnOnce(&mut Self)) {
        self.tag(&["<", name, ">"]);
        content(self);
        self.tag(&["</", name, ">"]);
    }

    /// An element that changes the default namespace.
    pub fn element_in(&mut self, name: &str, namespace: &str, content: impl FnOnce(&mut Self)) {
        self.element_with(name, &[("xmlns", namespace)], content);
    }

    pub fn element_with(&mut self, name: &str, attributes: &[(&str, &str)], content: impl FnOnce(&mut Self)) {
        self.start(name, attributes);
        self.tag(&[">"]);
        content(self);
        self.tag(&["</", name, ">"]);
    }

    pub fn empty(&mut self, name: &str) {
        self.tag(&["<", name, "/>"]);
    }

    pub fn empty_with(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.start(name, attributes);
        self.tag(&["/>"]);
    }

    pub fn leaf(&mut self, name: &str, text: &str) {
        self.element(name, |writer| writer.characters(text));
    }

    /// A character that XML cannot carry becomes U+FFFD; a carriage return is referenced, since a reader would
    /// turn it into a line feed.
    pub fn characters(&mut self, text: &str) {
        text.chars().for_each(|character| self.character(character));
    }

    fn character(&mut self, character: char) {
        match character {
            '&' => self.text.push_str("&amp;"),
            '<' => self.text.push_str("&lt;"),
            '>' => self.text.push_str("&gt;"),
            '\r' => self.text.push_str("&#13;"),
            character if is_xml_character(character) => self.text.push(character),
            _ => self.text.push(char::REPLACEMENT_CHARACTER),
        }
    }

    /// A reader makes a space of white space in an attribute unless it is referenced.
    fn attribute_value(&mut self, value: &str) {
        for character in value.chars() {
            match character {
                '"' => self.text.push_str("&quot;"),
                '\t' => self.text.push_str("&#9;"),
                '\n' => self.text.push_str("&#10;"),
                character => self.character(character),
            }
        }
    }

    fn start(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.tag(&["<", name]);
        for (name, value) in attributes {
            self.tag(&[" ", name, "=\""]);
            self.attribute_value(value);
            self.tag(&["\""]);
        }
    }

    fn tag(&mut self, parts: &[&str]) {
        parts.iter().for_each(|part| self.text.push_str(part));
    }
}

const DOCUMENT_BYTES_USUAL: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Element, Limits};

    #[test]
    fn whatever_is_written_is_read_again() {
        let value = "a<b>&\"c'\t\nd\re";
        let document = Writer::document_with("p:a", &[("x", value)], |writer| {
            writer.leaf("p:b", value);
            writer.empty_with("c", &[("y", "]]>")]);
        });
        let limits = Limits {
            document_bytes_max: 1000,
            depth_max: 4,
            elements_max: 4,
        };
        let root = Element::parse(document.as_bytes(), limits).unwrap();
        assert_eq!(root.attribute("x").as_deref(), Some(value));
        assert_eq!(root.child_text("b"), Some(value));
        let y = root.child("c").and_then(|element| element.attribute("y"));
        assert_eq!(y.as_deref(), Some("]]>"));
    }
}
