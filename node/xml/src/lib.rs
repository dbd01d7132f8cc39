//! XML as far as CSTA and Exchange Web Services need it: a bounded element tree to read, and a writer that escapes.
//!
//! Owns well-formedness and bounds; what elements mean is a matter of the codecs. Prefixes are stripped and namespaces
//! not looked at: peers disagree about them. What always holds: whatever bytes come in, reading returns within the
//! given `Limits`; a document type is refused, and no entity is expanded but the five of XML itself.

mod element;
mod writer;

pub use element::Element;
pub use writer::Writer;

use thiserror::Error;

/// What a document may be at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub document_bytes_max: usize,
    pub depth_max: usize,
    pub elements_max: usize,
}

/// Why bytes are not a document that we read: the peer's fault.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum XmlError {
    #[error("document of {bytes} bytes is larger than it may be")]
    TooLarge { bytes: usize },
    #[error("not UTF-8 at byte {position}")]
    NotUtf8 { position: usize },
    #[error("not well-formed XML near byte {position}: {detail}")]
    Malformed { position: usize, detail: String },
    #[error("elements are nested too deeply")]
    TooDeep,
    #[error("too many elements")]
    TooManyElements,
    #[error("a document type declaration is not accepted")]
    DocumentTypeRefused,
    #[error("reference &{name}; is not accepted")]
    UnknownEntity { name: String },
    #[error("no root element")]
    Empty,
}

impl XmlError {
    /// For metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::NotUtf8 { .. } => "not_utf8",
            Self::Malformed { .. } => "malformed",
            Self::TooDeep => "too_deep",
            Self::TooManyElements => "too_many_elements",
            Self::DocumentTypeRefused => "document_type",
            Self::UnknownEntity { .. } => "unknown_entity",
            Self::Empty => "empty",
        }
    }
}

/// Enough of a peer's word to recognise it in a log.
pub fn shorten(text: &str) -> &str {
    shorten_to(text, SHOWN_CHARACTERS_MAX)
}

pub fn shorten_to(text: &str, characters_max: usize) -> &str {
    text.char_indices()
        .nth(characters_max)
        .map_or(text, |(end, _)| &text[..end])
}

/// XML 1.0 §2.3: white space is these four characters and no others.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r', '\n'])
}

/// XML 1.0 §2.2, production Char.
pub fn is_xml_character(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

const SHOWN_CHARACTERS_MAX: usize = 64;
