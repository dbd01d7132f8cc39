//! The framer once more, slow and plain, for tests and fuzzing to compare [`Framer`](super::Framer) with.
//!
//! It is told everything that the stream has held so far, begins at the first byte each time, and keeps nothing in
//! between: however the bytes came, [`read`] says what the framer must have said by now. It shares the limits and the
//! names of the faults with the framer, and no rule: those are written a second time, from RFC 3261 §7 and §25.1.
//! Built for tests, and with the feature `framer-model`.

use super::fault::{FramingError, RefusalReason};
use super::framer::{Frame, FramerLimits, Phase};
use super::raw_message::RawMessage;

/// Everything that a stream holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub outcomes: Vec<Outcome>,
    /// What the bytes behind the last outcome are the beginning of.
    pub phase: Phase,
}

/// A frame, in a form that compares whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Message(Fields),
    KeepAlivePing,
    Refused(Fields, RefusalReason),
    Lost {
        answer: Option<(Fields, u16)>,
        reason: FramingError,
    },
}

/// The bytes of a message, and what a front end routes by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    pub bytes: Vec<u8>,
    pub call_id: Vec<u8>,
    pub cseq: (u32, Vec<u8>),
    pub from_tag: Option<Vec<u8>>,
    pub to_tag: Option<Vec<u8>>,
    pub top_via: Vec<u8>,
    pub via_branch: Option<Vec<u8>>,
    pub may_be_answered: bool,
}

impl From<&Frame> for Outcome {
    fn from(frame: &Frame) -> Self {
        match frame {
            Frame::Message(message) => Self::Message(message.into()),
            Frame::KeepAlivePing => Self::KeepAlivePing,
            Frame::Refused { message, reason } => Self::Refused(message.into(), *reason),
            Frame::Lost { answer, reason } => Self::Lost {
                answer: answer.as_ref().map(|(message, status)| (message.into(), *status)),
                reason: *reason,
            },
        }
    }
}

impl From<&RawMessage> for Fields {
    fn from(message: &RawMessage) -> Self {
        Self {
            bytes: message.bytes().to_vec(),
            call_id: message.call_id().to_vec(),
            cseq: (message.cseq_number(), message.cseq_method().to_vec()),
            from_tag: message.from_tag().map(<[u8]>::to_vec),
            to_tag: message.to_tag().map(<[u8]>::to_vec),
            top_via: message.top_via().to_vec(),
            via_branch: message.via_branch().map(<[u8]>::to_vec),
            may_be_answered: message.may_be_answered(),
        }
    }
}

/// What a framer with these limits must have said of a stream that has held `received` so far.
#[must_use]
pub fn read(received: &[u8], limits: &FramerLimits) -> Reading {
    let mut outcomes = Vec::new();
    let mut rest = received;
    loop {
        let (outcome, length) = match next(rest, limits) {
            Next::Nothing(length) => {
                rest = &rest[length..];
                continue;
            }
            Next::Outcome(outcome, length) => (outcome, length),
            Next::Incomplete(phase) => return Reading { outcomes, phase },
        };
        let is_lost = matches!(outcome, Outcome::Lost { .. });
        outcomes.push(outcome);
        if is_lost {
            let phase = Phase::Boundary;
            return Reading { outcomes, phase };
        }
        rest = &rest[length..];
    }
}

enum Next {
    /// So many bytes that mean nothing.
    Nothing(usize),
    Outcome(Outcome, usize),
    Incomplete(Phase),
}

/// What a stream holds first, from a boundary between two messages on.
fn next(rest: &[u8], limits: &FramerLimits) -> Next {
    let lost = |reason| Next::Outcome(Outcome::Lost { answer: None, reason }, 0);
    if rest.is_empty() {
        return Next::Incomplete(Phase::Boundary);
    }
    if rest.len() < 4 && b"\r\n\r\n".starts_with(rest) {
        return Next::Incomplete(Phase::KeepAlive);
    }
    match rest {
        // RFC 5626 §4.4.1.
        [b'\r', b'\n', b'\r', b'\n', ..] => Next::Outcome(Outcome::KeepAlivePing, 4),
        // RFC 3261 §7.5.
        [b'\r', b'\n', ..] => Next::Nothing(2),
        [b'\n', ..] => Next::Nothing(1),
        [0x16, ..] => lost(FramingError::TlsOnPlainPort),
        [b' '..=b'~', ..] => message(rest, limits),
        _ => lost(FramingError::NotSip),
    }
}

fn message(rest: &[u8], limits: &FramerLimits) -> Next {
    let mut head = Head::default();
    loop {
        let unit = unit_length(&rest[head.length..], head.length == 0);
        let end = head.length + unit.unwrap_or(rest.len() - head.length);
        if let Some(reason) = beyond_limit(head.length, end, limits) {
            return head.lost(rest, reason);
        }
        if unit.is_none() {
            return Next::Incomplete(Phase::Head);
        }
        let text = without_line_end(&rest[head.length..end]);
        head.length = end;
        match (&head.start, text.is_empty()) {
            (None, _) => match StartLine::read(text) {
                Some(start) => head.begin(start),
                None => return head.lost(rest, FramingError::NotSip),
            },
            (Some(_), true) => break,
            (Some(_), false) => head.add(text),
        }
        if head.header_count > limits.header_count_max {
            return head.lost(rest, FramingError::TooManyHeaders);
        }
    }
    let body_length = match head.body_length(limits) {
        Ok(length) => length,
        Err(reason) => return head.lost(rest, reason),
    };
    let length = head.length + body_length;
    if rest.len() < length {
        return Next::Incomplete(Phase::Body);
    }
    let fields = head.fields(&rest[..length]);
    let outcome = match head.refusal() {
        Some(reason) => Outcome::Refused(fields, reason),
        None => Outcome::Message(fields),
    };
    Next::Outcome(outcome, length)
}

/// The length of the start line, of the empty line, or of a header with its folded lines, line ends included. `None`
/// when it cannot be said yet where it ends: that is known of a header only when the byte behind it is (§7.3.1).
fn unit_length(bytes: &[u8], is_start_line: bool) -> Option<usize> {
    let mut length = 0;
    loop {
        length += bytes[length..].iter().position(|&byte| byte == b'\n')? + 1;
        let is_empty_line = without_line_end(&bytes[..length]).is_empty();
        if is_start_line || is_empty_line || !matches!(bytes.get(length)?, b' ' | b'\t') {
            return Some(length);
        }
    }
}

/// Which bound a line breaks that begins at `start` and goes on to `end` at least: the one that lies first.
fn beyond_limit(start: usize, end: usize, limits: &FramerLimits) -> Option<FramingError> {
    let (line_max, too_long) = match start {
        0 => (limits.start_line_bytes_max, FramingError::StartLineTooLong),
        _ => (limits.header_line_bytes_max, FramingError::HeaderLineTooLong),
    };
    let bounds = [
        (start + line_max, too_long),
        (limits.head_bytes_max, FramingError::HeadTooLarge),
    ];
    let (bound, reason) = bounds.into_iter().min_by_key(|(bound, _)| *bound)?;
    (end > bound).then_some(reason)
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The head of one message, as far as it is complete.
#[derive(Default)]
struct Head {
    length: usize,
    start: Option<StartLine>,
    header_count: usize,
    /// What is wrong, in the order in which it stands, with framing intact.
    faults: Vec<RefusalReason>,
    fields: Fields,
    has_from: bool,
    has_to: bool,
    has_via: bool,
    has_cseq: bool,
    /// The values of all length headers.
    lengths: Vec<Vec<u8>>,
}

impl Head {
    fn begin(&mut self, start: StartLine) {
        self.faults.extend(start.fault);
        self.start = Some(start);
    }

    fn add(&mut self, text: &[u8]) {
        self.header_count += 1;
        let Some((name, value)) = name_and_value(text) else {
            return self.faults.push(RefusalReason::HeaderMalformed);
        };
        let folded = text.split(|&byte| byte == b'\n').skip(1);
        if folded.clone().any(reads_like_a_length) {
            self.faults.push(RefusalReason::ContentLengthLookAlike);
        }
        match &*name {
            "v" | "via" => self.add_via(value),
            "f" | "from" => self.add_from(value),
            "t" | "to" => self.add_to(value),
            "i" | "call-id" => self.add_call_id(value),
            "cseq" => self.add_cseq(value),
            "l" | "content-length" => self.lengths.push(value.to_vec()),
            "content_length" => self.faults.push(RefusalReason::ContentLengthLookAlike),
            _ => {}
        }
    }

    /// Only the first value of the first Via that can be read counts.
    fn add_via(&mut self, value: &[u8]) {
        if self.has_via {
            return;
        }
        let Some((top_via, branch)) = top_via(value) else {
            return self.faults.push(RefusalReason::ViaMalformed);
        };
        self.has_via = true;
        self.fields.top_via = top_via.to_vec();
        self.fields.via_branch = branch;
    }

    fn add_from(&mut self, value: &[u8]) {
        match (self.has_from, tag(value)) {
            (true, _) => self.faults.push(RefusalReason::HeaderDuplicate),
            (false, Ok(tag)) => self.fields.from_tag = tag,
            (false, Err(Malformed)) => self.faults.push(RefusalReason::AddressMalformed),
        }
        self.has_from = true;
    }

    fn add_to(&mut self, value: &[u8]) {
        match (self.has_to, tag(value)) {
            (true, _) => self.faults.push(RefusalReason::HeaderDuplicate),
            (false, Ok(tag)) => self.fields.to_tag = tag,
            (false, Err(Malformed)) => self.faults.push(RefusalReason::AddressMalformed),
        }
        self.has_to = true;
    }

    fn add_call_id(&mut self, value: &[u8]) {
        if !self.fields.call_id.is_empty() {
            self.faults.push(RefusalReason::HeaderDuplicate);
        } else if value.is_empty() {
            self.faults.push(RefusalReason::HeaderMissing);
        }
        if self.fields.call_id.is_empty() {
            self.fields.call_id = value.to_vec();
        }
    }

    fn add_cseq(&mut self, value: &[u8]) {
        match (self.has_cseq, cseq(value)) {
            (true, _) => self.faults.push(RefusalReason::HeaderDuplicate),
            (false, Some(cseq)) => {
                self.has_cseq = true;
                self.fields.cseq = cseq;
            }
            (false, None) => self.faults.push(RefusalReason::CSeqMalformed),
        }
    }

    /// `None` in a response.
    fn method(&self) -> Option<&[u8]> {
        self.start.as_ref()?.method.as_deref()
    }

    fn body_length(&self, limits: &FramerLimits) -> Result<usize, FramingError> {
        if self.begins_with_leftover() {
            return Err(FramingError::LeftoverBytes);
        }
        let value = match &self.lengths[..] {
            [] => return Err(FramingError::ContentLengthMissing),
            [value] => std::str::from_utf8(value).unwrap_or("no number"),
            [_, _, ..] => return Err(FramingError::ContentLengthDuplicate),
        };
        if value.is_empty() || !value.chars().all(|digit| digit.is_ascii_digit()) {
            return Err(FramingError::ContentLengthMalformed);
        }
        match value.trim_start_matches('0') {
            "" => Ok(0),
            // Nine digits are far beyond every limit, and fit into every integer.
            digits if digits.len() > 9 => Err(FramingError::BodyTooLarge),
            digits => match digits.parse() {
                Ok(length) if length <= limits.body_bytes_max => Ok(length),
                _ => Err(FramingError::BodyTooLarge),
            },
        }
    }

    /// The rest of a body that was longer than it said stands before the method: `…/a>INVITE`, `123INVITE`.
    fn begins_with_leftover(&self) -> bool {
        let Some(method) = self.method() else {
            return false;
        };
        let expected = &self.fields.cseq.1;
        !is_token(method) || (self.has_cseq && method != expected && method.ends_with(expected))
    }

    fn lacks_a_field(&self) -> bool {
        let has_call_id = !self.fields.call_id.is_empty();
        !(self.has_via && self.has_from && self.has_to && self.has_cseq && has_call_id)
    }

    fn refusal(&self) -> Option<RefusalReason> {
        let missing = self.lacks_a_field().then_some(RefusalReason::HeaderMissing);
        let is_mismatch = self.method().is_some_and(|method| method != self.fields.cseq.1);
        let mismatch = is_mismatch.then_some(RefusalReason::CSeqMethodMismatch);
        self.faults.first().copied().or(missing).or(mismatch)
    }

    fn may_be_answered(&self) -> bool {
        let is_ack = self.fields.cseq.1 == b"ACK" || self.method() == Some(b"ACK");
        self.method().is_some() && !is_ack && self.has_via
    }

    fn fields(&self, bytes: &[u8]) -> Fields {
        Fields {
            bytes: bytes.to_vec(),
            may_be_answered: self.may_be_answered(),
            ..self.fields.clone()
        }
    }

    /// What is complete of the head is answered, when that is enough for an answer.
    fn lost(&self, rest: &[u8], reason: FramingError) -> Next {
        let answered = reason != FramingError::NotSip && !self.lacks_a_field() && self.may_be_answered();
        let answer = answered.then(|| (self.fields(&rest[..self.length]), reason.status()));
        Next::Outcome(Outcome::Lost { answer, reason }, 0)
    }
}

struct StartLine {
    /// `None` in a response.
    method: Option<Vec<u8>>,
    fault: Option<RefusalReason>,
}

impl StartLine {
    /// RFC 3261 §7.1, §7.2. `None` when it does not show a SIP version where one stands.
    fn read(line: &[u8]) -> Option<Self> {
        let is_response = line
            .get(..4)
            .is_some_and(|name| name.eq_ignore_ascii_case(b"SIP/"));
        let (method, version, is_well_formed) = if is_response {
            let words: Vec<&[u8]> = line.splitn(3, |&byte| byte == b' ').collect();
            let status = words.get(1).copied().unwrap_or(b"");
            (None, words[0], is_status(status))
        } else {
            let text = line.trim_ascii_end();
            let words: Vec<&[u8]> = text.split(|byte| b" \t".contains(byte)).collect();
            let ([method, between @ .., version], [_, _, ..]) = (&words[..], &words[..]) else {
                return None;
            };
            let has_one_uri = matches!(between, [uri] if !uri.is_empty());
            let is_well_formed =
                is_token(method) && has_one_uri && !text.contains(&b'\t') && text.len() == line.len();
            (Some(method.to_vec()), *version, is_well_formed)
        };
        let fault = match (is_two(version)?, is_well_formed) {
            (true, true) => None,
            (true, false) => Some(RefusalReason::StartLineMalformed),
            (false, _) => Some(RefusalReason::VersionNotSupported),
        };
        Some(Self { method, fault })
    }
}

/// Whether a SIP version is 2.0. `None` when it is no SIP version.
fn is_two(version: &[u8]) -> Option<bool> {
    let text = std::str::from_utf8(version).ok()?.to_ascii_uppercase();
    let (major, minor) = text.strip_prefix("SIP/")?.split_once('.')?;
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(major) && is_number(minor)).then_some((major, minor) == ("2", "0"))
}

fn is_status(code: &[u8]) -> bool {
    code.len() == 3 && code.iter().all(u8::is_ascii_digit) && (b'1'..=b'6').contains(&code[0])
}

/// Of a header with its folded lines: the name in lower case, and the value. RFC 3261 §25.1, HCOLON: spaces and tabs
/// may stand before the colon, and nothing else.
fn name_and_value(text: &[u8]) -> Option<(String, &[u8])> {
    let colon = text.iter().position(|&byte| byte == b':')?;
    let mut name = &text[..colon];
    while let Some(shorter) = name.strip_suffix(b" ").or_else(|| name.strip_suffix(b"\t")) {
        name = shorter;
    }
    let lower = String::from_utf8(name.to_ascii_lowercase()).ok()?;
    is_token(name).then(|| (lower, trimmed(&text[colon + 1..])))
}

/// A folded line that would be a length header if it were not folded.
fn reads_like_a_length(line: &[u8]) -> bool {
    let mut parts = line.splitn(2, |&byte| byte == b':');
    let name = trimmed(parts.next().unwrap_or(b"")).to_ascii_lowercase();
    let names: [&[u8]; 3] = [b"l", b"content-length", b"content_length"];
    parts.next().is_some() && names.contains(&&*name)
}

/// The first value of a Via, and its branch.
fn top_via(value: &[u8]) -> Option<(&[u8], Option<Vec<u8>>)> {
    let (first, _) = cut(value, b',').ok()?;
    let first = trimmed(first);
    let (_, parameters) = cut(first, b';').ok()?;
    let branch = parameter(parameters, b"branch").ok()?;
    let branch = branch.filter(|branch| !branch.is_empty());
    (!first.is_empty()).then_some((first, branch))
}

fn tag(value: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let (address, parameters) = cut(value, b';')?;
    let tag = parameter(parameters, b"tag")?;
    if trimmed(address).is_empty() || tag.as_ref().is_some_and(Vec::is_empty) {
        return Err(Malformed);
    }
    Ok(tag)
}

fn cseq(value: &[u8]) -> Option<(u32, Vec<u8>)> {
    let at = value.iter().position(|byte| !byte.is_ascii_digit())?;
    let (number, method) = value.split_at(at);
    let number = std::str::from_utf8(number).ok()?.parse().ok()?;
    let is_apart = WHITE.contains(&method[0]);
    let method = trimmed(method);
    (is_apart && is_token(method)).then(|| (number, method.to_vec()))
}

/// The value of the parameter of that name; empty when it stands without one. Nothing behind it is looked at.
fn parameter(parameters: Option<&[u8]>, name: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let mut rest = parameters;
    while let Some(parameters) = rest {
        let (first, behind) = cut(parameters, b';')?;
        let mut sides = first.splitn(2, |&byte| byte == b'=').map(trimmed);
        if sides.next().is_some_and(|found| found.eq_ignore_ascii_case(name)) {
            return Ok(Some(sides.next().unwrap_or(b"").to_vec()));
        }
        rest = behind;
    }
    Ok(None)
}

/// A quoted string or an angle bracket that is not closed stands before the place that is looked for.
#[derive(Clone, Copy)]
struct Malformed;

/// What stands before and behind the first `separator` that is neither quoted nor in angle brackets.
fn cut(bytes: &[u8], separator: u8) -> Result<(&[u8], Option<&[u8]>), Malformed> {
    let mut closing = None;
    let mut is_escaped = false;
    for (at, &byte) in bytes.iter().enumerate() {
        match (closing, byte) {
            (Some(b'"'), b'\\') if !is_escaped => {
                is_escaped = true;
                continue;
            }
            (Some(close), _) if byte == close && !is_escaped => closing = None,
            (None, _) if byte == separator => return Ok((&bytes[..at], Some(&bytes[at + 1..]))),
            (None, b'"') => closing = Some(b'"'),
            (None, b'<') => closing = Some(b'>'),
            (Some(_) | None, _) => {}
        }
        is_escaped = false;
    }
    match closing {
        Some(_) => Err(Malformed),
        None => Ok((bytes, None)),
    }
}

fn trimmed(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && WHITE.contains(first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && WHITE.contains(last)
    {
        bytes = rest;
    }
    bytes
}

/// RFC 3261 §25.1.
fn is_token(bytes: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_part)
}

/// What LWS consists of.
const WHITE: &[u8] = b" \t\r\n";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use proptest::sample::{Index, select};
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

    use super::*;
    use crate::Framer;

    /// Feeds the pieces to a framer and compares after each what it has said by then with what the model says.
    fn compare(stream: &[u8], cuts: &Cuts, limits: FramerLimits) -> Result<(), TestCaseError> {
        let mut framer = Framer::new(limits);
        let mut outcomes = Vec::new();
        let mut start = 0;
        for end in cuts.ends(stream.len()) {
            framer.buffer_mut().extend_from_slice(&stream[start..end]);
            start = end;
            outcomes.extend(std::iter::from_fn(|| framer.next_frame()).map(|frame| Outcome::from(&frame)));
            let expected = read(&stream[..end], &limits);
            prop_assert_eq!(&outcomes, &expected.outcomes, "after {} bytes", end);
            prop_assert_eq!(framer.phase(), expected.phase, "after {} bytes", end);
        }
        Ok(())
    }

    #[derive(Debug, Clone)]
    enum Cuts {
        Nowhere,
        Everywhere,
        At(Vec<Index>),
    }

    impl Cuts {
        /// Where the pieces end, in order.
        fn ends(&self, length: usize) -> Vec<usize> {
            let mut ends = match self {
                Self::Nowhere => Vec::new(),
                Self::Everywhere => (1..length).collect(),
                Self::At(cuts) => cuts.iter().map(|cut| cut.index(length + 1)).collect(),
            };
            ends.push(length);
            ends.sort_unstable();
            ends
        }
    }

    fn cuts() -> impl Strategy<Value = Cuts> {
        prop_oneof![
            1 => Just(Cuts::Nowhere),
            1 => Just(Cuts::Everywhere),
            3 => proptest::collection::vec(any::<Index>(), 1..8).prop_map(Cuts::At),
        ]
    }

    /// The defaults, or bounds that a message of a few lines reaches.
    fn limits() -> impl Strategy<Value = FramerLimits> {
        let tight = (
            20_usize..80,
            30_usize..120,
            60_usize..600,
            3_usize..12,
            0_usize..30,
        );
        let tight = tight.prop_map(|(start_line, header_line, head, headers, body)| FramerLimits {
            start_line_bytes_max: start_line,
            header_line_bytes_max: header_line,
            head_bytes_max: head,
            header_count_max: headers,
            body_bytes_max: body,
        });
        prop_oneof![2 => Just(FramerLimits::default()), 1 => tight]
    }

    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            6 => messages(),
            1 => select(vec!["\r\n\r\n", "\r\n", "\n", "\r\n\r\n\r\n", "\r", "\r\n\r\n\r\n\r\n"])
                .prop_map(|line_ends| line_ends.as_bytes().to_vec()),
            1 => select(vec!["GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01", "x", "SIP/2.0 200 OK\r\n\r\n", "</a>"])
                .prop_map(|garbage| garbage.as_bytes().to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..12),
        ];
        let pieces = proptest::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat());
        let damage = proptest::option::weighted(0.3, (any::<Index>(), any::<u8>()));
        (pieces, damage).prop_map(|(mut stream, damage)| {
            if let Some((at, byte)) = damage
                && !stream.is_empty()
            {
                let at = at.index(stream.len());
                stream[at] = byte;
            }
            stream
        })
    }

    /// A message that is good in most places, and wrong in one or two.
    fn messages() -> impl Strategy<Value = Vec<u8>> {
        let start = or_odd(&["INVITE sip:a@b SIP/2.0"], START_LINES);
        let fields = (
            or_odd(&["Via: SIP/2.0/TCP a;branch=z9hG4bK1"], VIAS),
            or_odd(&["From: <sip:joe@a>;tag=f1"], FROMS),
            or_odd(&["To: <sip:8000@b>"], TOS),
            or_odd(&["Call-ID: c1"], CALL_IDS),
            or_odd(&["CSeq: 1 INVITE"], CSEQS),
        );
        let lengths = or_odd(&["Content-Length: 4", "l:4", "L : 04"], LENGTHS);
        let others = proptest::collection::vec(select(OTHERS), 0..3);
        let lines = (start, fields, lengths, others);
        let bodies = select(vec!["<a/>", "\r\n\r\n", "", "<a/></b>", "12", "\0\n\r\u{ff}"]);
        let line_ends = prop_oneof![5 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r\r\n")];
        (lines, bodies, line_ends, any::<Index>()).prop_map(
            |((start, fields, length, others), body, line_end, at)| {
                let (via, from, to, call_id, cseq) = fields;
                let mut headers = vec![via, from, to, call_id, cseq];
                headers.insert(at.index(headers.len() + 1), length);
                for other in others {
                    headers.insert(at.index(headers.len() + 1), other);
                }
                let mut text = format!("{start}\n");
                for header in headers.into_iter().filter(|header| !header.is_empty()) {
                    text.push_str(&format!("{header}\n"));
                }
                let head = format!("{text}\n").replace('\n', line_end);
                format!("{head}{body}").into_bytes()
            },
        )
    }

    fn or_odd(good: &'static [&str], odd: &'static [&str]) -> impl Strategy<Value = &'static str> {
        prop_oneof![8 => select(good), 1 => select(odd)]
    }

    const START_LINES: &[&str] = &[
        "ACK sip:a@b SIP/2.0",
        "INVITE  sip:a@b SIP/2.0",
        "INVITE sip:a@b SIP/2.0 ",
        "INVITE\tsip:a@b SIP/2.0",
        "INVITE sip:a@b; lr SIP/2.0",
        "INVITE SIP/2.0",
        " INVITE sip:a@b SIP/2.0",
        "INVITE sip:a@b sip/2.0",
        "INVITE sip:a@b SIP/7.0",
        "INVITE sip:a@b SIP/2.0.1",
        "INVITE sip:a@b SIP/02.0",
        "<b/>INVITE sip:a@b SIP/2.0",
        "12INVITE sip:a@b SIP/2.0",
        "INVITE sip:a@b HTTP/1.1",
        "nonsense",
        "SIP/2.0 200 OK",
        "SIP/2.0 200",
        "SIP/2.0 99 OK",
        "SIP/2.0 700 OK",
        "SIP/2.0\t200 OK",
        "SIP/3.0 200 OK",
        "sip/2.0 486 Besetzt Ü",
        "SIP/x 200 OK",
    ];

    const VIAS: &[&str] = &[
        "",
        "Via:",
        "v: SIP/2.0/TCP a, SIP/2.0/UDP b;branch=2",
        "Via: SIP/2.0/TCP a;x=\"1,2;branch=no\" ;Branch = 1 , b",
        "Via: SIP/2.0/TCP a;x=\"",
        "Via: SIP/2.0/TCP a;branch=",
        "Via: ,;branch=1",
        "Via\t:\n SIP/2.0/TCP a\n ;branch\n =1",
        "Via: <\nVia: SIP/2.0/TCP a;branch=2",
        "Via: a;branch=1;x=<",
    ];

    const FROMS: &[&str] = &[
        "",
        "f: sip:joe@a ; TAG = f1;x=<",
        "From: \"Joe \\\"<;tag=no\" <sip:joe@a;tag=no>;epid=1;tag=f1",
        "From: \"Joe <sip:joe@a>;tag=f1",
        "From: <sip:joe@a;tag=f1",
        "From: ;tag=f1",
        "From: <sip:joe@a>;tag",
        "From: <sip:joe@a>;tag=f1\nf: <sip:joe@a>;tag=f2",
        "From: \"\\",
    ];

    const TOS: &[&str] = &[
        "",
        "To: <sip:8000@b>;tag=n1-7",
        "T\n : <sip:8000@b>",
        "To\u{c}: <sip:8000@b>",
        "To: <sip:8000@b>;\n\ttag\n = n1-7 ; x=\"a;tag=no\"",
        "To: <sip:8000@b>;tag=",
        "To: \"<sip:8000@b>",
        "to: <sip:8000@b>\nT: <sip:8000@b>",
    ];

    const CALL_IDS: &[&str] = &["", "Call-ID:", "i:c2", "Call-ID: c1\nI: c1", "i:\nCall-ID: c3"];

    const CSEQS: &[&str] = &[
        "",
        "CSeq: 1 BYE",
        "CSeq: 1 ACK",
        "cseq: 0009\n  INVITE",
        "CSeq: 4294967296 INVITE",
        "CSeq: -1 INVITE",
        "CSeq: 1INVITE",
        "CSeq: 1",
        "CSeq: x\nCSeq: 1 INVITE",
        "CSeq: 1 INVITE\nCSEQ: 1 INVITE",
        "CSeq: 1 VITE",
    ];

    const LENGTHS: &[&str] = &[
        "",
        "Content-Length: 0",
        "Content-Length: 00000000000000000000000000000000004",
        "Content-Length:\n 4",
        "content-LENGTH \t: 4 ",
        "Content-Length\n : 4",
        "Content-Length\u{c}: 4",
        "Content-Length: 2",
        "Content-Length: 8",
        "Content-Length: -4",
        "Content-Length: +4",
        "Content-Length: 4 4",
        "Content-Length: 4,4",
        "Content-Length: 4\n 4",
        "Content-Length:",
        "Content-Length: \u{664}",
        "Content-Length: 99999999",
        "Content-Length: 99999999999999999999999999",
        "Content-Length: 4\nl: 4",
        "L: 0\nContent-Length: 4",
        "Content-Length: 4\nContent-Length: x",
        "Content_Length: 4",
        "Content_Length: 9\nContent-Length: 4",
        "X: a\n Content-Length: 9\nl: 4",
        "X: a\n\tL : 9\nl: 4",
    ];

    const OTHERS: &[&str] = &[
        "Subject: a\n b\n\tc",
        "Strange: ;;,,;;,\u{0}\r\u{ff}",
        "X:",
        "X: long long long long long long long long long long long long long long long long long",
        "nonsense",
        ": x",
        "Content Length: 5",
        " Subject: folded behind nothing",
        "X: a\n ",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_framer_says_what_the_model_says_after_every_piece(
            stream in streams(),
            cuts in cuts(),
            limits in limits(),
        ) {
            compare(&stream, &cuts, limits)?;
        }

        #[test]
        fn they_agree_about_any_bytes(
            stream in proptest::collection::vec(any::<u8>(), 0..300),
            cuts in cuts(),
        ) {
            compare(&stream, &cuts, FramerLimits::default())?;
        }
    }

    /// A comparison is worth what its streams reach.
    #[test]
    fn the_streams_hold_every_refusal_and_every_loss() {
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let mut seen = BTreeSet::new();
        for _ in 0..4_000 {
            let (stream, limits) = (streams(), limits()).new_tree(&mut runner).unwrap().current();
            for outcome in read(&stream, &limits).outcomes {
                seen.insert(match outcome {
                    Outcome::Message(_) => "message",
                    Outcome::KeepAlivePing => "ping",
                    Outcome::Refused(_, reason) => reason.label(),
                    Outcome::Lost { reason, .. } => reason.label(),
                });
            }
        }
        let refusals = RefusalReason::ALL.map(RefusalReason::label);
        let losses = FramingError::ALL.map(FramingError::label);
        let all: BTreeSet<&str> = ["message", "ping"]
            .into_iter()
            .chain(refusals)
            .chain(losses)
            .collect();
        assert_eq!(seen, all);
    }

    /// The cases of the table that the model is to be believed by, without the framer.
    #[test]
    fn the_model_reads_the_plain_cases_as_the_standard_has_them() {
        let head = "Via: SIP/2.0/TCP a;branch=z9hG4bK1\r\nf: <sip:joe@a>;tag=f1\r\nTo: <sip:b>\r\ni: c1\r\n";
        let good = format!("INVITE sip:a@b SIP/2.0\r\n{head}CSeq: 1 INVITE\r\nl: 4\r\n\r\n<a/>");
        let bad = good.replace("l: 4", "l: 4\r\nl: 4");
        let stream = format!(
            "\r\n\r\n\r\n{good}{}{bad}{good}",
            good.replace("SIP/2.0\r\n", "SIP/7.0\r\n")
        );
        let reading = read(stream.as_bytes(), &FramerLimits::default());
        let [ping, message, refused, lost] = &reading.outcomes[..] else {
            panic!("{:?}", reading.outcomes);
        };
        assert_eq!(ping, &Outcome::KeepAlivePing);
        let Outcome::Message(fields) = message else {
            panic!("{message:?}");
        };
        assert_eq!(fields.bytes, good.as_bytes());
        assert_eq!(
            (&*fields.call_id, &*fields.top_via),
            (&b"c1"[..], &b"SIP/2.0/TCP a;branch=z9hG4bK1"[..])
        );
        assert_eq!(
            (fields.from_tag.as_deref(), &fields.to_tag),
            (Some(&b"f1"[..]), &None)
        );
        assert_eq!(fields.cseq, (1, b"INVITE".to_vec()));
        assert!(matches!(
            refused,
            Outcome::Refused(_, RefusalReason::VersionNotSupported)
        ));
        let Outcome::Lost {
            answer: Some((_, 400)),
            reason,
        } = lost
        else {
            panic!("{lost:?}");
        };
        assert_eq!(*reason, FramingError::ContentLengthDuplicate);
    }
}
