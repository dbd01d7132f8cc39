//! Answers to requests of which only the bytes are known.

use bytes::{BufMut, Bytes, BytesMut};

use super::raw_message::RawMessage;
use super::syntax::split_address;

/// Writes a final answer without a body.
///
/// Every Via and Record-Route, From, To, Call-ID and CSeq are copied as received, since clients compare them byte for
/// byte; header names are written in full, since some read no others. What the request lacks, the answer lacks. A To
/// without a tag is given `to_tag`, unless that is empty.
#[must_use]
pub fn write_answer(
    request: &RawMessage,
    status: u16,
    reason: &str,
    to_tag: &str,
    extra_headers: &[(&str, &str)],
) -> Bytes {
    let mut answer = BytesMut::with_capacity(request.bytes().len().min(COPIED_BYTES_EXPECTED) + 256);
    put_all(
        &mut answer,
        &[
            b"SIP/2.0 ",
            status.to_string().as_bytes(),
            b" ",
            &one_line(reason),
            b"\r\n",
        ],
    );
    for copied in COPIED {
        for (name, value) in request.headers().filter(|(name, _)| copied.is_named(name)) {
            debug_assert!(!name.is_empty());
            put_all(&mut answer, &[copied.long.as_bytes(), b": ", value]);
            if copied.long == "To" && request.to_tag().is_none() && may_take_tag(value, to_tag) {
                put_all(&mut answer, &[b";tag=", &one_line(to_tag)]);
            }
            answer.put_slice(b"\r\n");
        }
    }
    for (name, value) in extra_headers {
        put_all(&mut answer, &[&one_line(name), b": ", &one_line(value), b"\r\n"]);
    }
    answer.put_slice(b"Content-Length: 0\r\n\r\n");
    answer.freeze()
}

/// A parameter behind an unclosed quote would be part of the quote.
fn may_take_tag(to: &[u8], to_tag: &str) -> bool {
    !to_tag.is_empty() && split_address(to).is_ok()
}

fn put_all(answer: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        answer.put_slice(part);
    }
}

/// No value of ours may begin a line of its own.
fn one_line(text: &str) -> Vec<u8> {
    text.bytes()
        .map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte })
        .collect()
}

struct Copied {
    long: &'static str,
    compact: Option<u8>,
}

impl Copied {
    fn is_named(&self, name: &[u8]) -> bool {
        match name {
            [letter] => self.compact == Some(letter.to_ascii_lowercase()),
            _ => name.eq_ignore_ascii_case(self.long.as_bytes()),
        }
    }
}

const COPIED: &[Copied] = &[
    Copied {
        long: "Via",
        compact: Some(b'v'),
    },
    Copied {
        long: "Record-Route",
        compact: None,
    },
    Copied {
        long: "From",
        compact: Some(b'f'),
    },
    Copied {
        long: "To",
        compact: Some(b't'),
    },
    Copied {
        long: "Call-ID",
        compact: Some(b'i'),
    },
    Copied {
        long: "CSeq",
        compact: None,
    },
];

const COPIED_BYTES_EXPECTED: usize = 4096;
