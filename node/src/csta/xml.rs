//! XML as far as CSTA needs it: a bounded element tree to read, and a writer that escapes.
//!
//! Prefixes are stripped and namespaces not looked at, attributes neither: peers disagree about them.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::Event as XmlEvent;

use super::codec::DecodeError;

/// One element with its text (trimmed) and children.
#[derive(Debug, Default)]
pub(super) struct Element<'a> {
    /// The local name.
    pub(super) name: &'a str,
    pub(super) text: Cow<'a, str>,
    pub(super) children: Vec<Self>,
}

impl<'a> Element<'a> {
    /// Reads one document. Its size, depth and number of elements are bounded, a document type is refused, and no
    /// entity but the five of XML itself and character references is known.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(DecodeError::TooLarge { bytes: bytes.len() });
        }
        let text = std::str::from_utf8(bytes).map_err(|error| DecodeError::NotUtf8 {
            position: error.valid_up_to(),
        })?;
        // A byte order mark is no part of the document, and the reader would not count it.
        Builder::new(text.trim_start_matches('\u{feff}')).build()
    }

    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of a child that is there and is not empty.
    pub(super) fn child_text(&self, name: &str) -> Option<&str> {
        self.child(name)
            .map(|child| child.text.as_ref())
            .filter(|text| !text.is_empty())
    }

    pub(super) fn descendant(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |element, name| element.child(name))
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
}

impl<'a> Builder<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            reader: Reader::from_str(text),
            open: Vec::new(),
            root: None,
            elements: 0,
        }
    }

    fn build(mut self) -> Result<Element<'a>, DecodeError> {
        loop {
            let from = self.position();
            let event = self.reader.read_event().map_err(|error| DecodeError::Malformed {
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
                XmlEvent::DocType(_) => return Err(DecodeError::DocumentTypeRefused),
                XmlEvent::Comment(_) | XmlEvent::Decl(_) | XmlEvent::PI(_) => {}
                XmlEvent::Eof => break,
            }
        }
        if let Some(unclosed) = self.open.pop() {
            return Err(self.malformed(format!("<{}> is not closed", shorten(unclosed.name))));
        }
        self.root.ok_or(DecodeError::Empty)
    }

    fn start(&mut self, source: &'a str) -> Result<(), DecodeError> {
        self.elements += 1;
        if self.elements > ELEMENTS_MAX {
            return Err(DecodeError::TooManyElements);
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(DecodeError::TooDeep);
        }
        if self.open.is_empty() && self.root.is_some() {
            return Err(self.malformed("a second root element".to_owned()));
        }
        let name = local_name(source);
        if !is_name(name) {
            return Err(self.malformed(format!("an element cannot be called {:?}", shorten(name))));
        }
        self.open.push(Element {
            name,
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

    fn characters(&mut self, text: &'a str) -> Result<(), DecodeError> {
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

    fn character(&mut self, character: char) -> Result<(), DecodeError> {
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

    fn malformed(&self, detail: String) -> DecodeError {
        DecodeError::Malformed {
            position: self.position(),
            detail,
        }
    }
}

fn resolve(reference: &quick_xml::events::BytesRef<'_>) -> Result<char, DecodeError> {
    let character = if reference.is_char_ref() {
        reference.resolve_char_ref().ok().flatten()
    } else {
        quick_xml::escape::resolve_xml_entity(reference).and_then(|text| text.chars().next())
    };
    character
        .filter(|character| is_xml_character(*character))
        .ok_or_else(|| DecodeError::UnknownEntity {
            name: shorten(reference).to_owned(),
        })
}

/// Of the source text of a start tag: `<p:name attribute="…">`.
fn local_name(tag: &str) -> &str {
    let name = tag.trim_start_matches('<');
    let end = name.find(|character: char| character.is_ascii_whitespace() || matches!(character, '/' | '>'));
    let name = &name[..end.unwrap_or(name.len())];
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

/// XML 1.0 §2.3: white space is these four characters and no others.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r', '\n'])
}

/// Enough of a peer's word to recognise it in a log.
pub(super) fn shorten(text: &str) -> &str {
    text.char_indices()
        .nth(SHOWN_CHARACTERS_MAX)
        .map_or(text, |(end, _)| &text[..end])
}

/// XML 1.0 §2.2, production Char.
fn is_xml_character(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Writes one document.
pub(super) struct Writer {
    text: String,
}

impl Writer {
    pub(super) fn document(root: &str, namespace: &str, content: impl FnOnce(&mut Self)) -> String {
        let mut writer = Self {
            text: String::with_capacity(DOCUMENT_BYTES_USUAL),
        };
        writer
            .text
            .push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        writer.element_in(root, namespace, content);
        writer.text
    }

    pub(super) fn element(&mut self, name: &str, content: impl FnOnce(&mut Self)) {
        self.tag(&["<", name, ">"]);
        content(self);
        self.tag(&["</", name, ">"]);
    }

    /// An element that changes the default namespace.
    pub(super) fn element_in(&mut self, name: &str, namespace: &str, content: impl FnOnce(&mut Self)) {
        self.tag(&["<", name, " xmlns=\"", namespace, "\">"]);
        content(self);
        self.tag(&["</", name, ">"]);
    }

    pub(super) fn empty(&mut self, name: &str) {
        self.tag(&["<", name, "/>"]);
    }

    pub(super) fn leaf(&mut self, name: &str, text: &str) {
        self.element(name, |writer| writer.characters(text));
    }

    /// A character that XML cannot carry becomes U+FFFD; a carriage return is referenced, since a reader would
    /// turn it into a line feed.
    pub(super) fn characters(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '&' => self.text.push_str("&amp;"),
                '<' => self.text.push_str("&lt;"),
                '>' => self.text.push_str("&gt;"),
                '\r' => self.text.push_str("&#13;"),
                character if is_xml_character(character) => self.text.push(character),
                _ => self.text.push(char::REPLACEMENT_CHARACTER),
            }
        }
    }

    fn tag(&mut self, parts: &[&str]) {
        parts.iter().for_each(|part| self.text.push_str(part));
    }
}

/// What fits one frame of ECMA-323 Annex J after its header; a SIP body may be no larger.
pub(super) const DOCUMENT_BYTES_MAX: usize = 65_527;
const DOCUMENT_BYTES_USUAL: usize = 1024;
const DEPTH_MAX: usize = 32;
const ELEMENTS_MAX: usize = 4096;
const SHOWN_CHARACTERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_name_that_is_no_name_is_refused() {
        for document in ["<\"\t\"\"v\";/>", "<1/>", "<a\u{b}b/>", "<p:/>", "<-a></-a>"] {
            let parsed = Element::parse(document.as_bytes());
            assert!(
                matches!(parsed, Err(DecodeError::Malformed { .. })),
                "{document:?}"
            );
        }
        assert!(Element::parse("<p:Größe.1-a_b/>".as_bytes()).is_ok());
    }

    #[test]
    fn text_that_xml_cannot_hold_is_refused() {
        assert!(Element::parse(b"<a>\0</a>").is_err());
        assert!(Element::parse(b"<a>\x1b</a>").is_err());
    }
}
