//! XML as a judge reads it: a small tree, strict about being well-formed, without opinion on the schema.

use std::collections::BTreeMap;

use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::Event;
use thiserror::Error;

/// Deeper documents are refused: no CSTA document comes near.
const DEPTH_MAX: usize = 32;

/// One element: local name (the prefix is dropped, as pidgin-sipe does), namespace declarations as written,
/// text and children.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    pub name: String,
    /// The value of `xmlns`, or of `xmlns:prefix` when the element has that prefix.
    pub namespace: Option<String>,
    /// As written, namespace declarations among them.
    pub attributes: BTreeMap<String, String>,
    pub text: String,
    pub children: Vec<Self>,
}

/// Why a text is no XML document.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum XmlError {
    #[error("not well-formed: {0}")]
    NotWellFormed(String),
    #[error("no root element, or more than one")]
    NotOneRoot,
    #[error("nested deeper than {DEPTH_MAX}")]
    TooDeep,
}

impl Element {
    /// Reads one document.
    pub fn parse(text: &str) -> Result<Self, XmlError> {
        let mut reader = Reader::from_str(text);
        let mut open: Vec<Self> = vec![Self::default()];
        loop {
            match reader.read_event().map_err(not_well_formed)? {
                Event::Start(start) => {
                    if open.len() > DEPTH_MAX {
                        return Err(XmlError::TooDeep);
                    }
                    open.push(Self::opened(&start)?);
                }
                Event::Empty(start) => last(&mut open).children.push(Self::opened(&start)?),
                Event::End(_) => {
                    let done = open.pop().ok_or(XmlError::NotOneRoot)?;
                    open.last_mut().ok_or(XmlError::NotOneRoot)?.children.push(done);
                }
                Event::Text(text) => last(&mut open).text.push_str(&text),
                Event::CData(text) => last(&mut open).text.push_str(&text),
                Event::GeneralRef(reference) => {
                    let reference = format!("&{};", &*reference);
                    last(&mut open)
                        .text
                        .push_str(&unescape(&reference).map_err(not_well_formed)?);
                }
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
                Event::Eof => break,
            }
        }
        single_root(open)
    }

    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    /// The first child of that name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// Descends name by name.
    #[must_use]
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |element, name| element.child(name))
    }

    /// The text found by [`Self::at`], without surrounding white space.
    #[must_use]
    pub fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path).map(|element| element.text.trim())
    }

    fn opened(start: &quick_xml::events::BytesStart<'_>) -> Result<Self, XmlError> {
        let name = start.name();
        let declaration = match name.prefix() {
            Some(prefix) => format!("xmlns:{}", prefix.into_inner()),
            None => "xmlns".to_owned(),
        };
        let mut attributes = BTreeMap::new();
        for attribute in start.attributes() {
            let attribute = attribute.map_err(not_well_formed)?;
            let value = unescape(&attribute.value).map_err(not_well_formed)?;
            attributes.insert(attribute.key.into_inner().to_owned(), value.into_owned());
        }
        Ok(Self {
            name: name.local_name().into_inner().to_owned(),
            namespace: attributes.get(&declaration).cloned(),
            attributes,
            ..Self::default()
        })
    }
}

fn single_root(mut open: Vec<Element>) -> Result<Element, XmlError> {
    let (Some(mut document), true) = (open.pop(), open.is_empty()) else {
        return Err(XmlError::NotWellFormed("an element is not closed".to_owned()));
    };
    match (document.children.pop(), document.children.is_empty()) {
        (Some(root), true) if document.text.trim().is_empty() => Ok(root),
        _ => Err(XmlError::NotOneRoot),
    }
}

fn last(open: &mut [Element]) -> &mut Element {
    open.last_mut()
        .expect("the document itself is never closed before the end")
}

fn not_well_formed(error: impl std::fmt::Display) -> XmlError {
    XmlError::NotWellFormed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_dropped_and_namespaces_kept() {
        let root = Element::parse("<a:X xmlns:a=\"urn:one\"><a:y>1 &amp; 2</a:y></a:X>").unwrap();
        assert_eq!(root.namespace.as_deref(), Some("urn:one"));
        assert_eq!(root.text_at(&["y"]), Some("1 & 2"));
    }

    #[test]
    fn what_is_not_one_closed_tree_is_refused() {
        for text in ["", "x", "<a>", "<a></b>", "<a/><b/>", "<a>&nope;</a>", "</a>"] {
            assert!(Element::parse(text).is_err(), "{text}");
        }
    }
}
