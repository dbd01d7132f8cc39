//! Splits the answer to GetStreamingEvents, which is one document after another, where each root element ends.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

/// Turns the bytes of a stream into whole documents. After an error it yields nothing more.
///
/// Memory: the incomplete document, at most the bound, and what was pushed since the last
/// [`Self::next_document`] said `None`.
#[derive(Debug)]
pub struct StreamSplitter {
    buffer: BytesMut,
    /// How much of the buffer has been scanned.
    scanned: usize,
    scan: Scan,
    document_bytes_max: usize,
    failed: bool,
}

/// The server's fault; where the next document begins is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SplitError {
    #[error("a document of the stream is larger than {document_bytes_max} bytes")]
    TooLarge { document_bytes_max: usize },
    #[error("the stream does not consist of XML documents")]
    NotXml,
    #[error("a document type declaration is not accepted")]
    DocumentTypeRefused,
}

impl StreamSplitter {
    #[must_use]
    pub fn new(document_bytes_max: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            scanned: 0,
            scan: Scan::default(),
            document_bytes_max,
            failed: false,
        }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        if !self.failed {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next whole document; `None` until there is one.
    pub fn next_document(&mut self) -> Option<Result<Bytes, SplitError>> {
        if self.failed {
            return None;
        }
        let found = self.find_end().transpose()?;
        if found.is_err() {
            self.failed = true;
            self.buffer.clear();
        }
        Some(found)
    }

    fn find_end(&mut self) -> Result<Option<Bytes>, SplitError> {
        self.skip_between_documents();
        if self.scanned == 0 && BYTE_ORDER_MARK.starts_with(&self.buffer) {
            return Ok(None);
        }
        while let Some(&byte) = self.buffer.get(self.scanned) {
            if self.scanned >= self.document_bytes_max {
                return Err(SplitError::TooLarge {
                    document_bytes_max: self.document_bytes_max,
                });
            }
            self.scanned += 1;
            if self.scan.take(byte)? == Progress::RootEnded {
                return Ok(Some(self.take_document()));
            }
        }
        Ok(None)
    }

    /// White space and byte order marks belong to no document.
    fn skip_between_documents(&mut self) {
        if self.scanned > 0 {
            return;
        }
        while let Some(length) = length_of_filling(&self.buffer) {
            self.buffer.advance(length);
        }
    }

    fn take_document(&mut self) -> Bytes {
        let document = self.buffer.split_to(self.scanned);
        self.scanned = 0;
        self.scan = Scan::default();
        document.freeze()
    }
}

fn length_of_filling(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b' ' | b'\t' | b'\r' | b'\n', ..] => Some(1),
        bytes if bytes.starts_with(BYTE_ORDER_MARK) => Some(BYTE_ORDER_MARK.len()),
        _ => None,
    }
}

/// The position of the scan in a document: just enough of XML to recognise markup.
#[derive(Debug, Default)]
struct Scan {
    state: State,
    /// Open elements.
    depth: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Text,
    /// After `<`.
    Markup,
    /// In a start tag.
    StartTag {
        /// The last byte was `/`.
        slash: bool,
    },
    /// In an attribute's value.
    Quoted {
        by: u8,
    },
    EndTag,
    /// After `<?`.
    Instruction {
        question_mark: bool,
    },
    /// After `<!`, and this many bytes of `--`.
    Declaration {
        dashes: usize,
    },
    /// After this many bytes of `<![CDATA[`, counted from the bracket.
    CdataOpening {
        matched: usize,
    },
    /// How many dashes came last, two at most.
    Comment {
        dashes: usize,
    },
    /// How many brackets came last, two at most.
    Cdata {
        brackets: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Inside,
    RootEnded,
}

impl Scan {
    fn take(&mut self, byte: u8) -> Result<Progress, SplitError> {
        if self.state == (State::StartTag { slash: true }) && byte == b'>' {
            self.state = State::Text;
            return Ok(self.progress());
        }
        if self.state == State::EndTag && byte == b'>' {
            self.state = State::Text;
            self.depth = self.depth.checked_sub(1).ok_or(SplitError::NotXml)?;
            return Ok(self.progress());
        }
        self.state = self.next_state(byte)?;
        Ok(Progress::Inside)
    }

    fn progress(&self) -> Progress {
        if self.depth == 0 {
            Progress::RootEnded
        } else {
            Progress::Inside
        }
    }

    fn next_state(&mut self, byte: u8) -> Result<State, SplitError> {
        Ok(match self.state {
            State::Text => self.after_text(byte)?,
            State::Markup => self.after_markup(byte)?,
            State::StartTag { .. } => self.after_start_tag(byte),
            State::Quoted { by } if byte == by => State::StartTag { slash: false },
            State::Quoted { by } => State::Quoted { by },
            State::EndTag => State::EndTag,
            State::Instruction { question_mark: true } if byte == b'>' => State::Text,
            State::Instruction { .. } => State::Instruction {
                question_mark: byte == b'?',
            },
            State::Declaration { dashes } => self.after_declaration(byte, dashes)?,
            State::CdataOpening { matched } => after_cdata_opening(byte, matched)?,
            State::Comment { dashes: 2 } if byte == b'>' => State::Text,
            State::Comment { dashes } => State::Comment {
                dashes: count_last(byte == b'-', dashes),
            },
            State::Cdata { brackets: 2 } if byte == b'>' => State::Text,
            State::Cdata { brackets } => State::Cdata {
                brackets: count_last(byte == b']', brackets),
            },
        })
    }

    fn after_text(&self, byte: u8) -> Result<State, SplitError> {
        match byte {
            b'<' => Ok(State::Markup),
            b' ' | b'\t' | b'\r' | b'\n' => Ok(State::Text),
            _ if self.depth > 0 => Ok(State::Text),
            _ => Err(SplitError::NotXml),
        }
    }

    fn after_markup(&self, byte: u8) -> Result<State, SplitError> {
        match byte {
            b'!' => Ok(State::Declaration { dashes: 0 }),
            b'?' => Ok(State::Instruction { question_mark: false }),
            b'/' => Ok(State::EndTag),
            b'<' | b'>' | b' ' | b'\t' | b'\r' | b'\n' => Err(SplitError::NotXml),
            _ => Ok(State::StartTag { slash: false }),
        }
    }

    /// Whether a start tag that ends here leaves its element open.
    fn after_start_tag(&mut self, byte: u8) -> State {
        match byte {
            b'>' => {
                self.depth += 1;
                State::Text
            }
            b'"' | b'\'' => State::Quoted { by: byte },
            _ => State::StartTag { slash: byte == b'/' },
        }
    }

    fn after_declaration(&self, byte: u8, dashes: usize) -> Result<State, SplitError> {
        match (byte, dashes) {
            (b'-', 0) => Ok(State::Declaration { dashes: 1 }),
            (b'-', 1) => Ok(State::Comment { dashes: 0 }),
            (b'[', 0) if self.depth > 0 => Ok(State::CdataOpening { matched: 1 }),
            (b'D', 0) => Err(SplitError::DocumentTypeRefused),
            _ => Err(SplitError::NotXml),
        }
    }
}

fn after_cdata_opening(byte: u8, matched: usize) -> Result<State, SplitError> {
    if CDATA_OPENING.get(matched) != Some(&byte) {
        return Err(SplitError::NotXml);
    }
    let matched = matched + 1;
    if matched == CDATA_OPENING.len() {
        return Ok(State::Cdata { brackets: 0 });
    }
    Ok(State::CdataOpening { matched })
}

fn count_last(again: bool, before: usize) -> usize {
    if again { (before + 1).min(2) } else { 0 }
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const CDATA_OPENING: &[u8] = b"[CDATA[";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTES_MAX: usize = 4096;

    fn split(bytes: &[u8], piece: usize) -> Vec<Result<Bytes, SplitError>> {
        let mut splitter = StreamSplitter::new(BYTES_MAX);
        let mut documents = Vec::new();
        for piece in bytes.chunks(piece) {
            splitter.push(piece);
            documents.extend(std::iter::from_fn(|| splitter.next_document()));
        }
        documents
    }

    fn whole(documents: &[&str]) -> Vec<Result<Bytes, SplitError>> {
        let whole = |document: &&str| Ok(Bytes::copy_from_slice(document.as_bytes()));
        documents.iter().map(whole).collect()
    }

    #[test]
    fn documents_are_cut_with_and_without_declarations_and_filling() {
        let documents = [
            "<?xml version=\"1.0\"?><a><b/></a>",
            "<a/>",
            "<!-- 2 --><?pi?><s:a x='1'>\u{fc}</s:a >",
        ];
        let stream = format!(
            "\u{feff}{}{}\r\n \t\u{feff}{}\n",
            documents[0], documents[1], documents[2]
        );
        for piece in 1..stream.len() {
            assert_eq!(split(stream.as_bytes(), piece), whole(&documents), "{piece}");
        }
    }

    #[test]
    fn nothing_that_only_looks_like_markup_counts() {
        for document in [
            "<a><!-- </a> --></a>",
            "<a><!--></a>--></a>",
            "<a><!-- -></a>- --></a>",
            "<a><![CDATA[</a>]>]]]></a>",
            "<a><?x </a> ??></a>",
            "<a b='</a>' c=\"/>'\"></a>",
            "<a><b c='/'>/</b></a>",
            "<a><b c=\"'\"/></a>",
        ] {
            let twice = format!("{document}{document}");
            assert_eq!(
                split(twice.as_bytes(), 3),
                whole(&[document, document]),
                "{document}"
            );
        }
    }

    #[test]
    fn a_document_that_has_not_ended_is_waited_for() {
        for piece in 1..9 {
            assert_eq!(split(b"<a/><a><b></b>", piece), whole(&["<a/>"]));
        }
    }

    #[test]
    fn a_document_may_be_as_large_as_the_bound_and_no_larger() {
        let document = format!("<a>{}</a>", "x".repeat(BYTES_MAX - 7));
        assert_eq!(split(document.as_bytes(), 100), whole(&[&document]));
        let larger = format!("<a>{}</a>", "x".repeat(BYTES_MAX - 6));
        let error = SplitError::TooLarge {
            document_bytes_max: BYTES_MAX,
        };
        for piece in [1, 100, 10_000] {
            assert_eq!(split(larger.as_bytes(), piece), [Err(error)]);
        }
        let endless = [b"<a ".as_slice(), &[b'"'; 3 * BYTES_MAX + 1]].concat();
        assert_eq!(split(&endless, 1000), [Err(error)]);
    }

    #[test]
    fn what_is_no_xml_ends_the_stream_and_its_memory() {
        for (stream, error) in [
            ("HTTP", SplitError::NotXml),
            ("</a>", SplitError::NotXml),
            ("<>", SplitError::NotXml),
            ("<![CDATA[x]]>", SplitError::NotXml),
            ("<a><![CDTA[x]]></a>", SplitError::NotXml),
            ("<a><!ELEMENT b></a>", SplitError::NotXml),
            ("<!DOCTYPE a><a/>", SplitError::DocumentTypeRefused),
            ("\u{fffe}<a/>", SplitError::NotXml),
        ] {
            assert_eq!(split(stream.as_bytes(), 1), [Err(error)], "{stream}");
        }
        let mut splitter = StreamSplitter::new(BYTES_MAX);
        splitter.push(b"x");
        assert!(splitter.next_document().is_some_and(|document| document.is_err()));
        splitter.push(b"<a/>");
        assert_eq!(splitter.next_document(), None);
        assert!(splitter.buffer.is_empty());
    }

    /// Elements with everything in them that might mislead.
    fn document() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            "[a-z\u{fc}/>'\" \\]-]{0,8}",
            Just("<!-- </e> <e> '\" -->".to_owned()),
            Just("<![CDATA[ </e> ]] > ]]]]>".to_owned()),
            Just("<?pi </e> ? > ??>".to_owned()),
            Just("<e a='/>\"' b = \"</e>'\" />".to_owned()),
        ];
        let content = leaf.prop_recursive(4, 24, 4, |inner| {
            prop::collection::vec(inner, 0..4)
                .prop_map(|parts| format!("<p:e x=\"<>'/\">{}</p:e>", parts.concat()))
        });
        let prologue = prop_oneof![
            Just(""),
            Just("<?xml version='1.0'?>\n"),
            Just("<?xml version='1.0'?><!-- <e> -->")
        ];
        (prologue, content).prop_map(|(prologue, content)| format!("{prologue}<r>{content}</r>"))
    }

    proptest! {
        #[test]
        fn documents_are_the_same_wherever_the_stream_is_cut(
            documents in prop::collection::vec((document(), "[ \r\n\t\u{feff}]{0,3}"), 0..5),
            piece in 1_usize..40,
        ) {
            let stream: String = documents.iter().map(|(document, filling)| format!("{document}{filling}")).collect();
            let expected: Vec<_> = documents.iter().map(|(document, _)| document.as_str()).collect();
            prop_assert_eq!(split(stream.as_bytes(), piece), whole(&expected));
        }

        #[test]
        fn any_bytes_are_cut_alike_wherever_they_arrive(
            bytes in "[<>!?/\\[\\]CDATA\"' a\u{feff}-]{0,60}",
            piece in 1_usize..40,
        ) {
            prop_assert_eq!(split(bytes.as_bytes(), piece), split(bytes.as_bytes(), 1000));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, piece in 1_usize..50) {
            prop_assert_eq!(split(&bytes, piece), split(&bytes, 1000));
        }
    }
}
