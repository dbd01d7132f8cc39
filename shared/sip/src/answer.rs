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
        for (_, value) in request.headers().filter(|(name, _)| copied.is_named(name)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Frame, Framer, FramerLimits};
    use proptest::prelude::*;

    fn text(answer: &Bytes) -> String {
        String::from_utf8(answer.to_vec()).unwrap()
    }

    #[test]
    fn an_answer_copies_byte_for_byte_under_long_names() {
        let request = "INVITE sip:8000@gw SIP/2.0\r\n\
            v: SIP/2.0/TCP a ;branch = 1,  SIP/2.0/TLS b\r\n\
            Via: SIP/2.0/TLS c;ms-received-cid=1F00\r\n\
            Record-Route: <sip:pool.example.com;lr;ms-key-info=AAEAAQ==>\r\n\
            f: \"Joe\"\r\n <sip:joe@example.com> ; tag = 1\r\n\
            t:<sip:8000@gw>\r\n\
            i: c1\r\n\
            CSEQ: 0001  INVITE\r\n\
            Subject: not copied\r\n\
            l: 0\r\n\r\n";
        let raw = RawMessage::parse(request.into()).unwrap();
        let answer = write_answer(
            &raw,
            500,
            "Server Internal Error",
            "lb-1",
            &[("Retry-After", "5")],
        );
        let expected = "SIP/2.0 500 Server Internal Error\r\n\
            Via: SIP/2.0/TCP a ;branch = 1,  SIP/2.0/TLS b\r\n\
            Via: SIP/2.0/TLS c;ms-received-cid=1F00\r\n\
            Record-Route: <sip:pool.example.com;lr;ms-key-info=AAEAAQ==>\r\n\
            From: \"Joe\"\r\n <sip:joe@example.com> ; tag = 1\r\n\
            To: <sip:8000@gw>;tag=lb-1\r\n\
            Call-ID: c1\r\n\
            CSeq: 0001  INVITE\r\n\
            Retry-After: 5\r\n\
            Content-Length: 0\r\n\r\n";
        assert_eq!(text(&answer), expected);
    }

    #[test]
    fn a_tag_that_is_there_stays_alone() {
        let request = "BYE sip:a SIP/2.0\r\nv: x\r\nf: <sip:a>\r\nt: <sip:b>;tag=n1-7\r\ni: 1\r\nCSeq: 1 BYE\r\nl: 0\r\n\r\n";
        let raw = RawMessage::parse(request.into()).unwrap();
        let answer = RawMessage::parse(write_answer(&raw, 481, "Gone", "lb-1", &[])).unwrap();
        assert_eq!(answer.to_tag(), Some(&b"n1-7"[..]));
        assert_eq!(
            answer
                .bytes()
                .windows(4)
                .filter(|window| window == b"tag=")
                .count(),
            1
        );
    }

    #[test]
    fn a_refused_request_is_answered_with_what_it_has() {
        let mut framer = Framer::new(FramerLimits::default());
        let request = "INVITE sip:a SIP/2.0\r\nVia: SIP/2.0/TCP a\r\nTo: \"broken <sip:b>\r\nl: 0\r\n\r\n";
        framer.buffer_mut().extend_from_slice(request.as_bytes());
        let Some(Frame::Refused { message, reason }) = framer.next_frame() else {
            panic!("not refused")
        };
        assert!(message.may_be_answered());
        let answer = write_answer(&message, reason.status(), "Bad Request", "lb-1", &[]);
        let expected = "SIP/2.0 400 Bad Request\r\nVia: SIP/2.0/TCP a\r\nTo: \"broken <sip:b>\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(text(&answer), expected);
    }

    #[test]
    fn a_message_lost_halfway_is_answered_from_its_complete_lines() {
        let mut framer = Framer::new(FramerLimits::default());
        let head =
            "INVITE sip:a SIP/2.0\r\nv: x\r\nf: <sip:a>\r\nt: <sip:b>\r\ni: 1\r\nCSeq: 1 INVITE\r\nVia: ";
        framer
            .buffer_mut()
            .extend_from_slice(format!("{head}{}", "y".repeat(20_000)).as_bytes());
        let Some(Frame::Lost {
            answer: Some((message, 513)),
            ..
        }) = framer.next_frame()
        else {
            panic!("no 513")
        };
        let answer =
            RawMessage::parse(write_answer(&message, 513, "Message Too Large", "lb-1", &[])).unwrap();
        assert_eq!(answer.top_via(), b"x");
        assert_eq!(answer.headers().filter(|(name, _)| name == b"Via").count(), 1);
    }

    #[test]
    fn no_value_of_ours_begins_a_line() {
        let request =
            "BYE sip:a SIP/2.0\r\nv: x\r\nf: <sip:a>\r\nt: <sip:b>\r\ni: 1\r\nCSeq: 1 BYE\r\nl: 0\r\n\r\n";
        let raw = RawMessage::parse(request.into()).unwrap();
        let answer = write_answer(&raw, 500, "a\r\nb: c", "t\r\nd: e", &[("X", "f\r\n\r\ng")]);
        assert!(RawMessage::parse(answer).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_answer_is_a_message_of_the_same_transaction(
            via in "SIP/2.0/TCP [a-z]{1,8}(;[a-z]{1,3}=[a-z\"]{0,4}){0,2}( , x)?",
            from in "(\"[a-z;<]{0,4}\" )?<sip:[a-z]{1,4};tag=no>(;tag=[a-z0-9]{1,4})?(\r\n ;x=y)?",
            to in "(sip:[a-z]{1,3}|<sip:b>)(;tag=[a-z]{0,3})?",
            number in any::<u32>(),
        ) {
            let request = format!(
                "INFO sip:a SIP/2.0\r\nv: {via}\r\nf: {from}\r\nt: {to}\r\ni: 1\r\nCSeq: {number} INFO\r\nl: 0\r\n\r\n"
            );
            let Ok(raw) = RawMessage::parse(request.into()) else { return Ok(()) };
            let answer = RawMessage::parse(write_answer(&raw, 500, "No", "lb-1", &[])).unwrap();
            prop_assert_eq!(answer.transaction_key(), raw.transaction_key());
            prop_assert_eq!(answer.to_tag(), raw.to_tag().or(Some(b"lb-1")));
        }
    }
}
