//! The few fields a front end routes by, as offsets into the bytes: found line by line, without allocating.

use super::fault::RefusalReason;
use super::start_line::StartLine;
use super::syntax::{find_outside, is_token, is_white, parameter, split_address, trim};

/// Part of a message, as offsets. A message is far shorter than 4 GiB: the framer's limits see to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(super) fn new(start: usize, end: usize) -> Self {
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            start: offset(start),
            end: offset(end),
        }
    }

    /// Where `part`, a slice of `whole`, lies in it.
    fn of(part: &[u8], whole: &[u8]) -> Self {
        let start = (part.as_ptr().addr()).saturating_sub(whole.as_ptr().addr());
        Self::new(start, start + part.len())
    }

    pub(super) fn of_bytes(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start as usize..self.end as usize).unwrap_or(b"")
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Address {
    pub(super) tag: Option<Span>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct CSeqSpan {
    pub(super) number: u32,
    pub(super) method: Span,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct TopVia {
    pub(super) value: Span,
    pub(super) branch: Option<Span>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentLength {
    Missing,
    Is(u64),
    Malformed,
    Duplicate,
}

/// What the scan has found so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadIndex {
    pub(super) start_line: Option<StartLine>,
    pub(super) via: Option<TopVia>,
    pub(super) call_id: Option<Span>,
    pub(super) cseq: Option<CSeqSpan>,
    pub(super) from: Option<Address>,
    pub(super) to: Option<Address>,
    pub(super) content_length: ContentLength,
    /// The first fault that leaves the framing intact.
    pub(super) refusal: Option<RefusalReason>,
    pub(super) header_count: usize,
    /// Where the first header line begins, and where the head, its empty line included, ends.
    pub(super) headers_start: usize,
    pub(super) head_length: usize,
    /// Some line ended in LF alone: accepted, and counted by whoever listens.
    pub(super) bare_line_feed: bool,
}

impl HeadIndex {
    pub(super) fn new() -> Self {
        Self {
            start_line: None,
            via: None,
            call_id: None,
            cseq: None,
            from: None,
            to: None,
            content_length: ContentLength::Missing,
            refusal: None,
            header_count: 0,
            headers_start: 0,
            head_length: 0,
            bare_line_feed: false,
        }
    }

    pub(super) fn has_required_fields(&self) -> bool {
        self.via.is_some()
            && self.call_id.is_some()
            && self.cseq.is_some()
            && self.from.is_some()
            && self.to.is_some()
    }

    pub(super) fn refuse(&mut self, reason: RefusalReason) {
        self.refusal.get_or_insert(reason);
    }

    /// Takes in one header, its folded lines included: `bytes[start..end]`, where `bytes` begins with the message.
    pub(super) fn add_header(&mut self, bytes: &[u8], start: usize, end: usize) {
        self.header_count += 1;
        let line = &bytes[start..end];
        let Some((name, value)) = split_header(line) else {
            return self.refuse(RefusalReason::HeaderMalformed);
        };
        if has_look_alike_fold(line) {
            self.refuse(RefusalReason::ContentLengthLookAlike);
        }
        match Field::of(name) {
            Some(Field::Via) => self.add_via(bytes, value),
            Some(Field::From) => self.from = self.address(self.from, bytes, value),
            Some(Field::To) => self.to = self.address(self.to, bytes, value),
            Some(Field::CallId) => self.add_call_id(bytes, value),
            Some(Field::CSeq) => self.add_cseq(bytes, value),
            Some(Field::ContentLength) => self.add_content_length(value),
            Some(Field::LookAlike) => self.refuse(RefusalReason::ContentLengthLookAlike),
            None => {}
        }
    }

    fn add_via(&mut self, bytes: &[u8], value: &[u8]) {
        if self.via.is_some() {
            return;
        }
        match top_via(value) {
            Some((first, branch)) => {
                let branch = branch.map(|branch| Span::of(branch, bytes));
                self.via = Some(TopVia {
                    value: Span::of(first, bytes),
                    branch,
                });
            }
            None => self.refuse(RefusalReason::ViaMalformed),
        }
    }

    fn address(&mut self, earlier: Option<Address>, bytes: &[u8], value: &[u8]) -> Option<Address> {
        if earlier.is_some() {
            self.refuse(RefusalReason::HeaderDuplicate);
            return earlier;
        }
        match tag_of(value) {
            Ok(tag) => Some(Address {
                tag: tag.map(|tag| Span::of(tag, bytes)),
            }),
            Err(reason) => {
                self.refuse(reason);
                Some(Address { tag: None })
            }
        }
    }

    fn add_call_id(&mut self, bytes: &[u8], value: &[u8]) {
        if self.call_id.is_some() {
            self.refuse(RefusalReason::HeaderDuplicate);
        } else if value.is_empty() {
            self.refuse(RefusalReason::HeaderMissing);
        } else {
            self.call_id = Some(Span::of(value, bytes));
        }
    }

    fn add_cseq(&mut self, bytes: &[u8], value: &[u8]) {
        if self.cseq.is_some() {
            return self.refuse(RefusalReason::HeaderDuplicate);
        }
        match parse_cseq(value) {
            Some((number, method)) => {
                self.cseq = Some(CSeqSpan {
                    number,
                    method: Span::of(method, bytes),
                });
            }
            None => self.refuse(RefusalReason::CSeqMalformed),
        }
    }

    fn add_content_length(&mut self, value: &[u8]) {
        self.content_length = match self.content_length {
            // Equal or not, long or compact name: RFC 4475 §3.3.9, and no second reading for anybody.
            ContentLength::Is(_) | ContentLength::Malformed | ContentLength::Duplicate => {
                ContentLength::Duplicate
            }
            ContentLength::Missing => parse_length(value).map_or(ContentLength::Malformed, ContentLength::Is),
        };
    }
}

/// Name and trimmed value. `None` when there is no colon or what stands before it is no token.
///
/// RFC 3261 §25.1, HCOLON: spaces and tabs may stand before the colon, and nothing else. A name that ends in a form
/// feed or in a folded line would be read as another header, or as none, by the next reader.
pub(super) fn split_header(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', line)?;
    let before = &line[..colon];
    let name_end = before.iter().rposition(|byte| !matches!(byte, b' ' | b'\t'))? + 1;
    let name = &before[..name_end];
    is_token(name).then(|| (name, trim(&line[colon + 1..])))
}

enum Field {
    Via,
    From,
    To,
    CallId,
    CSeq,
    ContentLength,
    LookAlike,
}

impl Field {
    /// By length first: most headers are passed over after one comparison of integers.
    fn of(name: &[u8]) -> Option<Self> {
        let is = |long: &[u8]| name.eq_ignore_ascii_case(long);
        match name.len() {
            1 => match name[0].to_ascii_lowercase() {
                b'v' => Some(Self::Via),
                b'f' => Some(Self::From),
                b't' => Some(Self::To),
                b'i' => Some(Self::CallId),
                b'l' => Some(Self::ContentLength),
                _ => None,
            },
            2 => is(b"To").then_some(Self::To),
            3 => is(b"Via").then_some(Self::Via),
            4 if is(b"From") => Some(Self::From),
            4 if is(b"CSeq") => Some(Self::CSeq),
            7 => is(b"Call-ID").then_some(Self::CallId),
            14 if is(b"Content-Length") => Some(Self::ContentLength),
            14 if is(b"Content_Length") => Some(Self::LookAlike),
            _ => None,
        }
    }
}

/// A continuation line that a careless reader would take for a length header of its own.
fn has_look_alike_fold(line: &[u8]) -> bool {
    line.split(|&byte| byte == b'\n').skip(1).any(|continuation| {
        let name_end = memchr::memchr(b':', continuation).unwrap_or(0);
        let name = trim(&continuation[..name_end]);
        matches!(Field::of(name), Some(Field::ContentLength | Field::LookAlike))
    })
}

/// The first value of a Via line, and its branch.
fn top_via(value: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let end = find_outside(value, b',').ok()?.unwrap_or(value.len());
    let first = trim(&value[..end]);
    if first.is_empty() {
        return None;
    }
    let branch = match find_outside(first, b';').ok()? {
        Some(semicolon) => parameter(&first[semicolon + 1..], b"branch").ok()?,
        None => None,
    };
    Some((first, branch.filter(|branch| !branch.is_empty())))
}

/// The tag among the header parameters: never one inside the display name or the URI.
fn tag_of(value: &[u8]) -> Result<Option<&[u8]>, RefusalReason> {
    let malformed = |_| RefusalReason::AddressMalformed;
    let (address, parameters) = split_address(value).map_err(malformed)?;
    if address.is_empty() {
        return Err(RefusalReason::AddressMalformed);
    }
    match parameter(parameters, b"tag").map_err(malformed)? {
        // RFC 3261 §25.1: a tag is a token. With an empty one, dialogs could not be told apart.
        Some(b"") => Err(RefusalReason::AddressMalformed),
        tag => Ok(tag),
    }
}

fn parse_cseq(value: &[u8]) -> Option<(u32, &[u8])> {
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, method) = value.split_at(digits);
    let number = std::str::from_utf8(number).ok()?.parse().ok()?;
    let separated = method.first().is_some_and(|&byte| is_white(byte));
    let method = trim(method);
    (separated && is_token(method)).then_some((number, method))
}

/// Digits only; leading zeros are legal. More than a `u64` holds is as good as its maximum: over every limit.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |total: u64, byte: &u8| total.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
    Some(value.iter().fold(0, digit))
}
