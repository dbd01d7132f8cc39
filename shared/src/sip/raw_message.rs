//! One whole message as it came, and where its few fields lie.

use bytes::Bytes;

use super::framer::FramingError;
use super::scan::{HeadIndex, RefusalReason, split_header};
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
    pub fn from_value(&self) -> &[u8] {
        self.index
            .from
            .map_or(b"", |from| from.value.of_bytes(&self.bytes))
    }

    #[must_use]
    pub fn from_tag(&self) -> Option<&[u8]> {
        self.index.from?.tag.map(|tag| tag.of_bytes(&self.bytes))
    }

    #[must_use]
    pub fn to_value(&self) -> &[u8] {
        self.index.to.map_or(b"", |to| to.value.of_bytes(&self.bytes))
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
        self.method().is_some_and(|method| method != b"ACK") && self.index.via.is_some()
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
