//! Reading: one document as a tree of elements.

use std::borrow::Cow;

use quick_xml::events::Event as XmlEvent;
use quick_xml::events::attributes::Attributes;
use quick_xml::{Reader, XmlVersion};

use super::{Limits, XmlError, is_xml_character, shorten, trim};

/// One element with its text (trimmed) and children.
#[derive(Debug, Default)]
pub struct Element<'a> {
    /// The local name.
    pub name: &'a str,
    /// The source text between the name and the end of the start tag.
    attributes: &'a str,
    pub text: Cow<'a, str>,
    pub children: Vec<Self>,
}

impl<'a> Element<'a> {
    /// Reads one document. A document type is refused, and no entity but the five of XML itself and character
    /// references is known.
    pub fn parse(bytes: &'a [u8], limits: Limits) -> Result<Self, XmlError> {
        if bytes.len() > limits.document_bytes_max {
            return Err(XmlError::TooLarge { bytes: bytes.len() });
        }
        let text = std::str::from_utf8(bytes).map_err(|error| XmlError::NotUtf8 {
            position: error.valid_up_to(),
        })?;
        // A byte order mark is no part of the document, and the reader would not count it.
        Builder::new(text.trim_start_matches('\u{feff}'), limits).build()
    }

    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of a child that is there and is not empty.
    pub fn child_text(&self, name: &str) -> Option<&str> {
        self.child(name)
            .map(|child| child.text.as_ref())
            .filter(|text| !text.is_empty())
    }

    pub fn descendant(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |element, name| element.child(name))
    }

    /// By local name, unescaped; one that is not well-formed is as good as absent.
    pub fn attribute(&self, name: &str) -> Option<Cow<'a, str>> {
        let mut attributes = Attributes::new(self.attributes, 0);
        attributes
            .with_checks(false)
            .flatten()
            .find(|attribute| local_name(attribute.key.0) == name)
            .and_then(|attribute| attribute.normalized_value(XmlVersion::Implicit1_0).ok())
    }

    fn append_text(&mut self, addition: &'a str) {
        if self.text.is_empty() {
            self.text = Cow::Borrowed(addition);
        } else {
            self.text.to_mut().push_str(addition);
        }
    }

    fn finish(mut self) -> Self {
        self.text = match self.text {
            Cow::Borrowed(text) => Cow::Borrowed(trim(text)),
            Cow::Owned(text) => Cow::Owned(trim(&text).to_owned()),
        };
        self
    }
}

struct Builder<'a> {
    text: &'a str,
    reader: Reader<&'a [u8]>,
    /// The open elements, outermost first.
    open: Vec<Element<'a>>,
    root: Option<Element<'a>>,
    elements: usize,
    limits: Limits,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str, limits: Limits) -> Self {
        Self {
            text,
            reader: Reader::from_str(text),
            open: Vec::new(),
            root: None,
            elements: 0,
            limits,
        }
    }

    fn build(mut self) -> Result<Element<'a>, XmlError> {
        loop {
            let from = self.position();
            let event = self.reader.read_event().map_err(|error| XmlError::Malformed {
                position: from,
                detail: error.to_string(),
            })?;
            let source = self.text.get(from..self.position()).unwrap_or_default();
            match event {
                XmlEvent::Start(_) => self.start(source)?,
                XmlEvent::Empty(_) => {
                    self.start(source)?;
                    self.end();
                }
                XmlEvent::End(_) => self.end(),
                XmlEvent::Text(_) => self.characters(source)?,
                XmlEvent::CData(_) => self.characters(cdata_content(source))?,
                XmlEvent::GeneralRef(reference) => {
                    let character = resolve(&reference)?;
                    self.character(character)?;
                }
                XmlEvent::DocType(_) => return Err(XmlError::DocumentTypeRefused),
                XmlEvent::Comment(_) | XmlEvent::Decl(_) | XmlEvent::PI(_) => {}
                XmlEvent::Eof => break,
            }
        }
        if let Some(unclosed) = self.open.pop() {
            return Err(self.malformed(format!("<{}> is not closed", shorten(unclosed.name))));
        }
        self.root.ok_or(XmlError::Empty)
    }

    fn start(&mut self, source: &'a str) -> Result<(), XmlError> {
        self.elements += 1;
        if self.elements > self.limits.elements_max {
            return Err(XmlError::TooManyElements);
        }
        if self.open.len() >= self.limits.depth_max {
            return Err(XmlError::TooDeep);
        }
        if self.open.is_empty() && self.root.is_some() {
            return Err(self.malformed("a second root element".to_owned()));
        }
        let (name, attributes) = split_tag(source);
        let name = local_name(name);
        if !is_name(name) {
            return Err(self.malformed(format!("an element cannot be called {:?}", shorten(name))));
        }
        self.open.push(Element {
            name,
            attributes,
            ..Element::default()
        });
        Ok(())
    }

    /// The reader has checked that this end belongs to the innermost open element.
    fn end(&mut self) {
        let Some(element) = self.open.pop() else { return };
        let element = element.finish();
        match self.open.last_mut() {
            Some(parent) => parent.children.push(element),
            None => self.root = Some(element),
        }
    }

    fn characters(&mut self, text: &'a str) -> Result<(), XmlError> {
        if let Some(character) = text.chars().find(|character| !is_xml_character(*character)) {
            return Err(self.malformed(format!("{character:?} is no character of XML")));
        }
        match self.open.last_mut() {
            Some(element) => element.append_text(text),
            None if trim(text).is_empty() => {}
            None => return Err(self.malformed("text outside the root element".to_owned())),
        }
        Ok(())
    }

    fn character(&mut self, character: char) -> Result<(), XmlError> {
        match self.open.last_mut() {
            Some(element) => element.text.to_mut().push(character),
            None => return Err(self.malformed("text outside the root element".to_owned())),
        }
        Ok(())
    }

    fn position(&self) -> usize {
        usize::try_from(self.reader.buffer_position())
            .unwrap_or(usize::MAX)
            .min(self.text.len())
    }

    fn malformed(&self, detail: String) -> XmlError {
        XmlError::Malformed {
            position: self.position(),
            detail,
        }
    }
}

fn resolve(reference: &quick_xml::events::BytesRef<'_>) -> Result<char, XmlError> {
    let character = if reference.is_char_ref() {
        reference.resolve_char_ref().ok().flatten()
    } else {
        quick_xml::escape::resolve_xml_entity(reference).and_then(|text| text.chars().next())
    };
    character
        .filter(|character| is_xml_character(*character))
        .ok_or_else(|| XmlError::UnknownEntity {
            name: shorten(reference).to_owned(),
        })
}

/// The source text of a start tag, `<p:name attribute="…">`, as its name and its attributes.
fn split_tag(tag: &str) -> (&str, &str) {
    let tag = tag.trim_start_matches('<');
    let end = tag.find(|character: char| character.is_ascii_whitespace() || matches!(character, '/' | '>'));
    let (name, rest) = tag.split_at(end.unwrap_or(tag.len()));
    let rest = rest.strip_suffix('>').unwrap_or(rest);
    (name, rest.strip_suffix('/').unwrap_or(rest))
}

fn local_name(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, local)| local)
}

/// XML 1.0 §2.3, production 5, without the colon. The reader takes any bytes between `<` and white space, and what it
/// took could not be written again.
fn is_name(name: &str) -> bool {
    let may_begin = |character: char| character.is_alphabetic() || character == '_';
    let may_follow =
        |character: char| may_begin(character) || character.is_numeric() || "-.".contains(character);
    name.starts_with(may_begin) && name.chars().all(may_follow)
}

fn cdata_content(source: &str) -> &str {
    source
        .strip_prefix("<![CDATA[")
        .and_then(|rest| rest.strip_suffix("]]>"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        document_bytes_max: 1000,
        depth_max: 8,
        elements_max: 20,
    };

    fn parse(document: &str) -> Result<Element<'_>, XmlError> {
        Element::parse(document.as_bytes(), LIMITS)
    }

    #[test]
    fn an_element_name_that_is_no_name_is_refused() {
        for document in ["<\"\t\"\"v\";/>", "<1/>", "<a\u{b}b/>", "<p:/>", "<-a></-a>"] {
            let parsed = parse(document);
            assert!(matches!(parsed, Err(XmlError::Malformed { .. })), "{document:?}");
        }
        assert!(parse("<p:Größe.1-a_b/>").is_ok());
    }

    #[test]
    fn text_that_xml_cannot_hold_is_refused() {
        assert!(parse("<a>\0</a>").is_err());
        assert!(parse("<a>\x1b</a>").is_err());
    }

    #[test]
    fn attributes_are_found_by_local_name_and_unescaped() {
        let root = parse("<p:a\n p:b = 'x &lt; &#121;' c=\"a>b/\" xmlns:b='n'/>").unwrap();
        assert_eq!(root.attribute("b").as_deref(), Some("x < y"));
        assert_eq!(root.attribute("c").as_deref(), Some("a>b/"));
        assert_eq!(root.attribute("d"), None);
        assert_eq!(parse("<a b='&c;'/>").unwrap().attribute("b"), None);
    }
}
