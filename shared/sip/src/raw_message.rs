//! One whole message as it came, and where its few fields lie.

use bytes::Bytes;

use super::fault::{FramingError, RefusalReason};
use super::scan::{HeadIndex, split_header};
use super::start_line::StartLine;

/// A message as received. Cloning it copies no bytes. Fields that are missing (in a refused message) read as empty.
#[derive(Debug, Clone)]
pub struct RawMessage {
    bytes: Bytes,
    index: HeadIndex,
}

impl RawMessage {
    pub(super) fn new(bytes: Bytes, index: HeadIndex) -> Self {
        Self { bytes, index }
    }

    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    #[must_use]
    pub fn body(&self) -> Bytes {
        self.bytes.slice(self.index.head_length.min(self.bytes.len())..)
    }

    #[must_use]
    pub fn is_request(&self) -> bool {
        matches!(self.index.start_line, Some(StartLine::Request { .. }))
    }

    #[must_use]
    pub fn method(&self) -> Option<&[u8]> {
        match self.index.start_line {
            Some(StartLine::Request { method, .. }) => Some(method.of_bytes(&self.bytes)),
            Some(StartLine::Response { .. }) | None => None,
        }
    }

    #[must_use]
    pub fn request_uri(&self) -> Option<&[u8]> {
        match self.index.start_line {
            Some(StartLine::Request { uri, .. }) => Some(uri.of_bytes(&self.bytes)),
            Some(StartLine::Response { .. }) | None => None,
        }
    }

    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self.index.start_line {
            Some(StartLine::Response { status, .. }) => Some(status),
            Some(StartLine::Request { .. }) | None => None,
        }
    }

    /// What stands behind the status of a response.
    #[must_use]
    pub fn reason(&self) -> Option<&[u8]> {
        match self.index.start_line {
            Some(StartLine::Response { reason, .. }) => Some(reason.of_bytes(&self.bytes)),
            Some(StartLine::Request { .. }) | None => None,
        }
    }

    #[must_use]
    pub fn call_id(&self) -> &[u8] {
        self.index.call_id.map_or(b"", |span| span.of_bytes(&self.bytes))
    }

    #[must_use]
    pub fn cseq_number(&self) -> u32 {
        self.index.cseq.map_or(0, |cseq| cseq.number)
    }

    #[must_use]
    pub fn cseq_method(&self) -> &[u8] {
        self.index
            .cseq
            .map_or(b"", |cseq| cseq.method.of_bytes(&self.bytes))
    }

    #[must_use]
    pub fn from_tag(&self) -> Option<&[u8]> {
        self.index.from?.tag.map(|tag| tag.of_bytes(&self.bytes))
    }

    #[must_use]
    pub fn to_tag(&self) -> Option<&[u8]> {
        self.index.to?.tag.map(|tag| tag.of_bytes(&self.bytes))
    }

    /// The first value of the first Via line, as received.
    #[must_use]
    pub fn top_via(&self) -> &[u8] {
        self.index.via.map_or(b"", |via| via.value.of_bytes(&self.bytes))
    }

    #[must_use]
    pub fn via_branch(&self) -> Option<&[u8]> {
        self.index.via?.branch.map(|branch| branch.of_bytes(&self.bytes))
    }

    /// Via, From, To, Call-ID and CSeq (RFC 3261 §8.1.1, without Max-Forwards: no answer needs it).
    #[must_use]
    pub fn contains_required_fields(&self) -> bool {
        self.index.has_required_fields()
    }

    /// A request that opens a session.
    #[must_use]
    pub fn is_opening_invite(&self) -> bool {
        self.method() == Some(b"INVITE") && self.to_tag().is_none()
    }

    /// RFC 3261 §17: a request other than ACK; and there is a Via to send the answer by.
    #[must_use]
    pub fn may_be_answered(&self) -> bool {
        let is_ack = self.method() == Some(b"ACK") || self.cseq_method() == b"ACK";
        self.is_request() && !is_ack && self.index.via.is_some()
    }

    /// Some line of the head ended in LF alone.
    #[must_use]
    pub fn has_bare_line_feeds(&self) -> bool {
        self.index.bare_line_feed
    }

    #[must_use]
    pub fn transaction_key(&self) -> TransactionKey {
        TransactionKey {
            top_via: self.top_via().into(),
            call_id: self.call_id().into(),
            from_tag: self.from_tag().map(Into::into),
            cseq_number: self.cseq_number(),
        }
    }

    /// Every header, name and value as received, in order; folded lines belong to the value.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        HeaderLines {
            rest: self.header_bytes(),
        }
        .filter_map(split_header)
    }

    /// Why the message must not be passed on, though its framing is intact.
    pub(super) fn refusal(&self) -> Option<RefusalReason> {
        if let Some(reason) = self.index.refusal {
            return Some(reason);
        }
        if !self.contains_required_fields() {
            return Some(RefusalReason::HeaderMissing);
        }
        // RFC 3261 §8.1.1.5; and no peer may take the message for another kind than the front end did.
        let mismatch = self.method().is_some_and(|method| method != self.cseq_method());
        mismatch.then_some(RefusalReason::CSeqMethodMismatch)
    }

    fn header_bytes(&self) -> &[u8] {
        let head = &self.bytes[..self.index.head_length.min(self.bytes.len())];
        let headers = head.get(self.index.headers_start..).unwrap_or(b"");
        memchr::memchr(b'\n', headers).map_or(b"", |line_feed| &headers[line_feed + 1..])
    }
}

/// What tells one transaction of a client from another: the whole top Via value, since a Via may lack a branch, and
/// Call-ID, From tag and CSeq number, since a branch may be reused. ACK and CANCEL share the key of their INVITE.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionKey {
    top_via: Box<[u8]>,
    call_id: Box<[u8]>,
    from_tag: Option<Box<[u8]>>,
    cseq_number: u32,
}

/// Bytes that should have been exactly one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotOneMessage {
    #[error("the message is not complete")]
    Incomplete,
    #[error("bytes follow the message")]
    TrailingBytes,
    #[error("this is a keep-alive")]
    KeepAlive,
    #[error("{0}")]
    Refused(RefusalReason),
    #[error("{0}")]
    Lost(FramingError),
}

/// Headers with their folded lines, without their line ends; stops at the empty line.
struct HeaderLines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for HeaderLines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if matches!(self.rest, [] | [b'\n', ..] | [b'\r', b'\n', ..]) {
            return None;
        }
        let end = memchr::memchr_iter(b'\n', self.rest)
            .find(|&line_feed| !matches!(self.rest.get(line_feed + 1), Some(b' ' | b'\t')))
            .unwrap_or(self.rest.len());
        let line = &self.rest[..end];
        self.rest = self.rest.get(end + 1..).unwrap_or(b"");
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(line: &str, replacement: &str) -> Result<RawMessage, NotOneMessage> {
        let text = "INFO sip:8000@gw.example.com SIP/2.0\r\n\
            Via: SIP/2.0/TCP 10.0.0.9:5060;branch=z9hG4bKa1\r\n\
            Via: SIP/2.0/TLS 10.1.1.5:50123\r\n\
            From: <sip:joe@example.com>;tag=f1;epid=ab12\r\n\
            To: <sip:8000@gw.example.com>;tag=n1-77\r\n\
            Call-ID: c1\r\n\
            CSeq: 2 INFO\r\n\
            Content-Length: 0\r\n\r\n";
        assert!(text.contains(line), "{line}");
        RawMessage::parse(Bytes::from(text.replace(line, replacement)))
    }

    fn refused(line: &str, replacement: &str) -> Option<RefusalReason> {
        match with(line, replacement) {
            Err(NotOneMessage::Refused(reason)) => Some(reason),
            Ok(_) | Err(_) => None,
        }
    }

    #[test]
    fn the_fields_of_a_request_are_found() {
        let raw = with("INFO", "INFO").unwrap();
        assert!(raw.is_request() && raw.contains_required_fields() && raw.may_be_answered());
        assert_eq!(raw.method(), Some(&b"INFO"[..]));
        assert_eq!(raw.request_uri(), Some(&b"sip:8000@gw.example.com"[..]));
        assert_eq!(raw.status(), None);
        assert_eq!(raw.call_id(), b"c1");
        assert_eq!((raw.cseq_number(), raw.cseq_method()), (2, &b"INFO"[..]));
        assert_eq!(raw.top_via(), b"SIP/2.0/TCP 10.0.0.9:5060;branch=z9hG4bKa1");
        assert_eq!(raw.via_branch(), Some(&b"z9hG4bKa1"[..]));
        assert_eq!(
            (raw.from_tag(), raw.to_tag()),
            (Some(&b"f1"[..]), Some(&b"n1-77"[..]))
        );
        assert!(!raw.is_opening_invite());
    }

    #[test]
    fn the_fields_of_a_response_are_found() {
        let line = "INFO sip:8000@gw.example.com SIP/2.0";
        let raw = with(line, "sip/2.0 486 Besetzt Ü").unwrap();
        assert!(!raw.is_request() && !raw.may_be_answered());
        assert_eq!(
            (raw.status(), raw.reason()),
            (Some(486), Some("Besetzt Ü".as_bytes()))
        );
        assert_eq!(with(line, "SIP/2.0 200").unwrap().status(), Some(200));
        for broken in [
            "SIP/2.0 99 x",
            "SIP/2.0 4294967301 x",
            "SIP/2.0 -20 x",
            "SIP/2.0 700 x",
            "SIP/2.0 20A",
        ] {
            assert_eq!(
                refused(line, broken),
                Some(RefusalReason::StartLineMalformed),
                "{broken}"
            );
        }
    }

    #[test]
    fn a_tag_is_never_taken_from_a_display_name_or_a_uri() {
        let from = "From: <sip:joe@example.com>;tag=f1;epid=ab12";
        let cases: [(&str, Option<&str>); 8] = [
            (
                "From: \"Joe;tag=no\" <sip:joe@example.com;tag=no>;tag=f1",
                Some("f1"),
            ),
            ("From: \"Joe \\\"<;tag=no\" <sip:joe@example.com>", None),
            ("From: <sip:joe@example.com;tag=no>", None),
            ("From: sip:joe@example.com;tag=f1", Some("f1")),
            (
                "f: <sip:joe@example.com> ;\ttag\r\n = f1 ; x=\"a;tag=no\"",
                Some("f1"),
            ),
            ("From: <sip:joe@example.com>;x=\"a;tag=no\";TAG=f1", Some("f1")),
            ("From: Joe <sip:joe@example.com>;epid=tag;xtag=no", None),
            ("From: <sip:joe@example.com>;tag=f=1", Some("f=1")),
        ];
        for (line, expected) in cases {
            let raw = with(from, line).unwrap();
            assert_eq!(raw.from_tag(), expected.map(str::as_bytes), "{line}");
        }
    }

    #[test]
    fn an_address_that_does_not_balance_is_refused() {
        let to = "To: <sip:8000@gw.example.com>;tag=n1-77";
        for line in [
            "To: \"8000 <sip:8000@gw.example.com>",
            "To: <sip:8000@gw.example.com;tag=n1-77",
            "To: ;tag=n1-77",
            "To: <sip:8000@gw.example.com>;tag=",
            "To: <sip:8000@gw.example.com>;tag",
        ] {
            assert_eq!(refused(to, line), Some(RefusalReason::AddressMalformed), "{line}");
        }
    }

    #[test]
    fn the_top_via_is_the_first_value_of_the_first_line() {
        let via = "Via: SIP/2.0/TCP 10.0.0.9:5060;branch=z9hG4bKa1";
        let cases: [(&str, &str, Option<&str>); 5] = [
            (
                "v: SIP/2.0/TLS 10.1.1.5:50123",
                "SIP/2.0/TLS 10.1.1.5:50123",
                None,
            ),
            (
                "Via: SIP/2.0/TCP a;branch=1,SIP/2.0/TCP b;branch=2",
                "SIP/2.0/TCP a;branch=1",
                Some("1"),
            ),
            (
                "Via: SIP/2.0/TCP a;x=\"1,2;branch=no\" ;Branch = 1 , b",
                "SIP/2.0/TCP a;x=\"1,2;branch=no\" ;Branch = 1",
                Some("1"),
            ),
            (
                "Via: SIP/2.0/TCP [2001:db8::9]:5060;branch=",
                "SIP/2.0/TCP [2001:db8::9]:5060;branch=",
                None,
            ),
            (
                "Via: SIP/2.0/TCP a\r\n ;branch\r\n =1",
                "SIP/2.0/TCP a\r\n ;branch\r\n =1",
                Some("1"),
            ),
        ];
        for (line, value, branch) in cases {
            let raw = with(via, line).unwrap();
            assert_eq!(
                (raw.top_via(), raw.via_branch()),
                (value.as_bytes(), branch.map(str::as_bytes)),
                "{line}"
            );
        }
        assert_eq!(refused(via, "Via:"), Some(RefusalReason::ViaMalformed));
        assert_eq!(
            refused(via, "Via: SIP/2.0/TCP a;x=\""),
            Some(RefusalReason::ViaMalformed)
        );
    }

    #[test]
    fn required_headers_are_required_once() {
        for (line, name) in [
            ("Call-ID: c1\r\n", "i: c2\r\n"),
            ("CSeq: 2 INFO\r\n", "CSEQ: 2 INFO\r\n"),
            (
                "From: <sip:joe@example.com>;tag=f1;epid=ab12\r\n",
                "f: <sip:a@b>\r\n",
            ),
            ("To: <sip:8000@gw.example.com>;tag=n1-77\r\n", "t: <sip:a@b>\r\n"),
        ] {
            assert_eq!(refused(line, ""), Some(RefusalReason::HeaderMissing), "{line}");
            let twice = format!("{line}{name}");
            assert_eq!(
                refused(line, &twice),
                Some(RefusalReason::HeaderDuplicate),
                "{line}"
            );
        }
        assert_eq!(
            refused("Call-ID: c1", "Call-ID:"),
            Some(RefusalReason::HeaderMissing)
        );
        let vias = "Via: SIP/2.0/TCP 10.0.0.9:5060;branch=z9hG4bKa1\r\nVia: SIP/2.0/TLS 10.1.1.5:50123\r\n";
        assert_eq!(refused(vias, ""), Some(RefusalReason::HeaderMissing));
    }

    #[test]
    fn the_cseq_method_is_the_request_method() {
        let cseq = "CSeq: 2 INFO";
        assert_eq!(
            refused(cseq, "CSeq: 2 BYE"),
            Some(RefusalReason::CSeqMethodMismatch)
        );
        assert_eq!(
            refused(cseq, "CSeq: 2 info"),
            Some(RefusalReason::CSeqMethodMismatch)
        );
        for line in [
            "CSeq: INFO",
            "CSeq: 2INFO",
            "CSeq: 36893488147419103232 INFO",
            "CSeq: -1 INFO",
            "CSeq: 2 IN FO",
        ] {
            assert_eq!(refused(cseq, line), Some(RefusalReason::CSeqMalformed), "{line}");
        }
    }

    #[test]
    fn a_header_without_a_name_is_refused() {
        for line in [
            "Call-ID: c1\r\nnonsense",
            "Call-ID: c1\r\n: x",
            "Call-ID: c1\r\nContent Length: 5",
        ] {
            assert_eq!(
                refused("Call-ID: c1", line),
                Some(RefusalReason::HeaderMalformed),
                "{line}"
            );
        }
        let line = "INFO sip:8000@gw.example.com SIP/2.0";
        assert_eq!(
            refused(line, &format!("{line}\r\n Subject: x")),
            Some(RefusalReason::HeaderMalformed)
        );
    }

    #[test]
    fn methods_nobody_knows_pass() {
        for method in [
            "SERVICE",
            "BENOTIFY",
            "!interesting-Method0123456789_*+`.%indeed'~",
        ] {
            let text = format!(
                "{method} sip:a SIP/2.0\r\nv: x\r\nf: <sip:a>\r\nt: <sip:b>\r\ni: 1\r\nCSeq: 0 {method}\r\nl: 0\r\n\r\n"
            );
            assert_eq!(
                RawMessage::parse(text.into()).unwrap().method(),
                Some(method.as_bytes())
            );
        }
    }

    #[test]
    fn a_transaction_is_told_by_the_whole_via_even_without_a_branch() {
        let via = "Via: SIP/2.0/TCP 10.0.0.9:5060;branch=z9hG4bKa1";
        let key = |line| with(via, line).unwrap().transaction_key();
        assert_eq!(
            key("Via: SIP/2.0/TLS 10.1.1.5:50123"),
            key("Via:  SIP/2.0/TLS 10.1.1.5:50123 ")
        );
        assert_ne!(
            key("Via: SIP/2.0/TLS 10.1.1.5:50123"),
            key("Via: SIP/2.0/TLS 10.1.1.5:50124")
        );
        let cancelled = with("CSeq: 2 INFO", "CSeq: 3 INFO").unwrap().transaction_key();
        assert_ne!(cancelled, with("CSeq", "CSeq").unwrap().transaction_key());
    }

    #[test]
    fn what_is_not_exactly_one_message_is_said_so() {
        assert_eq!(
            with("Content-Length: 0", "Content-Length: 1").unwrap_err(),
            NotOneMessage::Incomplete
        );
        assert_eq!(
            with("\r\n\r\n", "\r\n\r\nx").unwrap_err(),
            NotOneMessage::TrailingBytes
        );
        assert_eq!(
            RawMessage::parse(Bytes::from_static(b"\r\n\r\n")).unwrap_err(),
            NotOneMessage::KeepAlive
        );
    }
}
