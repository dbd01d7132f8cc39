//! TCP bytes → whole messages. Resumable: no byte of a head is looked at twice, however the stream is cut.
//!
//! Strict where framing is at stake, because a wrong cut on a shared connection harms thousands of users; content
//! with everything else, because bytes are only passed on. `spec` for each case is the table of tests below.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

use super::raw_message::RawMessage;
use super::scan::{ContentLength, HeadIndex, RefusalReason};
use super::start_line::{StartLine, StartLineKind, parse_start_line};

/// Bounds on one message. Beyond any of them the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramerLimits {
    pub start_line_bytes_max: usize,
    /// One header with its folded lines.
    pub header_line_bytes_max: usize,
    /// Start line, headers and empty line together.
    pub head_bytes_max: usize,
    pub header_count_max: usize,
    pub body_bytes_max: usize,
}

impl Default for FramerLimits {
    fn default() -> Self {
        Self {
            start_line_bytes_max: 8 * 1024,
            header_line_bytes_max: 16 * 1024,
            head_bytes_max: 64 * 1024,
            header_count_max: 512,
            body_bytes_max: 1024 * 1024,
        }
    }
}

/// What the stream held next.
#[derive(Debug, Clone)]
pub enum Frame {
    Message(RawMessage),
    /// RFC 5626 §4.4.1: answer CRLF; never pass it on.
    KeepAlivePing,
    /// Framing is intact: answer a request with `reason.status()` if it may be answered, and go on.
    Refused {
        message: RawMessage,
        reason: RefusalReason,
    },
    /// Framing is lost: send the answer if there is one, then close. Nothing follows.
    Lost {
        answer: Option<(RawMessage, u16)>,
        reason: FramingError,
    },
}

/// What the bytes at hand are the beginning of. The shell keeps absolute deadlines by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing: between two messages.
    Boundary,
    /// One to three bytes of CRLFCRLF.
    KeepAlive,
    Head,
    Body,
}

/// Why nobody can say any more where the next message begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FramingError {
    NotSip,
    TlsOnPlainPort,
    /// A start line with the rest of an earlier body before it.
    LeftoverBytes,
    StartLineTooLong,
    HeaderLineTooLong,
    HeadTooLarge,
    TooManyHeaders,
    BodyTooLarge,
    ContentLengthMissing,
    ContentLengthMalformed,
    ContentLengthDuplicate,
}

impl FramingError {
    /// All of them, for metrics that want every label from the start.
    pub const ALL: [Self; 11] = [
        Self::NotSip,
        Self::TlsOnPlainPort,
        Self::LeftoverBytes,
        Self::StartLineTooLong,
        Self::HeaderLineTooLong,
        Self::HeadTooLarge,
        Self::TooManyHeaders,
        Self::BodyTooLarge,
        Self::ContentLengthMissing,
        Self::ContentLengthMalformed,
        Self::ContentLengthDuplicate,
    ];

    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NotSip => "not_sip",
            Self::TlsOnPlainPort => "tls_on_plain_port",
            Self::LeftoverBytes => "leftover_bytes",
            Self::StartLineTooLong => "start_line_too_long",
            Self::HeaderLineTooLong => "header_line_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyHeaders => "too_many_headers",
            Self::BodyTooLarge => "body_too_large",
            Self::ContentLengthMissing => "content_length_missing",
            Self::ContentLengthMalformed => "content_length_malformed",
            Self::ContentLengthDuplicate => "content_length_duplicate",
        }
    }

    fn status(self) -> u16 {
        match self {
            Self::StartLineTooLong | Self::HeaderLineTooLong | Self::HeadTooLarge | Self::BodyTooLarge => 513,
            Self::NotSip
            | Self::TlsOnPlainPort
            | Self::LeftoverBytes
            | Self::TooManyHeaders
            | Self::ContentLengthMissing
            | Self::ContentLengthMalformed
            | Self::ContentLengthDuplicate => 400,
        }
    }
}

impl fmt::Display for FramingError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotSip => "this is not SIP",
            Self::TlsOnPlainPort => "TLS on a port without TLS",
            Self::LeftoverBytes => "bytes beyond the declared body stand before the start line",
            Self::StartLineTooLong => "the start line is too long",
            Self::HeaderLineTooLong => "a header is too long",
            Self::HeadTooLarge => "the head is too large",
            Self::TooManyHeaders => "there are too many headers",
            Self::BodyTooLarge => "the body is too large",
            Self::ContentLengthMissing => "Content-Length is missing",
            Self::ContentLengthMalformed => "Content-Length is malformed",
            Self::ContentLengthDuplicate => "Content-Length stands more than once",
        })
    }
}

/// Cuts one stream. Feed it through [`Framer::buffer_mut`], then call [`Framer::next_frame`] until it has no more.
#[derive(Debug)]
pub struct Framer {
    limits: FramerLimits,
    buffer: BytesMut,
    state: State,
}

#[derive(Debug)]
enum State {
    Boundary,
    Head(HeadScan),
    Body { index: HeadIndex, length: usize },
    Lost,
}

#[derive(Debug)]
struct HeadScan {
    index: HeadIndex,
    /// Where the header begins that is not complete yet.
    line_start: usize,
    /// Up to here no line feed is left to be found.
    searched: usize,
}

impl Framer {
    #[must_use]
    pub fn new(limits: FramerLimits) -> Self {
        Self {
            limits,
            buffer: BytesMut::new(),
            state: State::Boundary,
        }
    }

    /// Where the shell reads into. It may hold any number of messages, whole or not.
    pub fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next frame that is complete. After [`Frame::Lost`] there is none, for ever.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let step = match &mut self.state {
                State::Boundary => self.pass_boundary(),
                State::Head(_) => self.scan_head(),
                State::Body { .. } => return self.cut_message(),
                State::Lost => return None,
            };
            match step {
                Step::GoOn => {}
                Step::Wait => return None,
                Step::Frame(frame) => return Some(frame),
                Step::Lost(reason) => return Some(self.lose(reason)),
            }
        }
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Boundary if self.buffer.is_empty() => Phase::Boundary,
            State::Boundary => Phase::KeepAlive,
            State::Head(_) => Phase::Head,
            State::Body { .. } => Phase::Body,
            State::Lost => Phase::Boundary,
        }
    }

    /// Forgets one to three bytes of a ping that never came whole: a late rest must not complete it.
    pub fn discard_half_ping(&mut self) {
        if self.phase() == Phase::KeepAlive {
            self.buffer.clear();
        }
    }

    fn pass_boundary(&mut self) -> Step {
        loop {
            let bytes: &[u8] = &self.buffer;
            if PING.starts_with(bytes) && bytes.len() < PING.len() {
                return Step::Wait;
            }
            if bytes.starts_with(PING) {
                self.buffer.advance(PING.len());
                return Step::Frame(Frame::KeepAlivePing);
            }
            // RFC 3261 §7.5: line ends ahead of a start line mean nothing.
            match bytes {
                [b'\n', ..] => self.buffer.advance(1),
                [b'\r', b'\n', ..] => self.buffer.advance(2),
                [TLS_HANDSHAKE, ..] => return Step::Lost(FramingError::TlsOnPlainPort),
                [b' '..=b'~', ..] => break,
                _ => return Step::Lost(FramingError::NotSip),
            }
        }
        self.state = State::Head(HeadScan {
            index: HeadIndex::new(),
            line_start: 0,
            searched: 0,
        });
        Step::GoOn
    }

    fn scan_head(&mut self) -> Step {
        let State::Head(scan) = &mut self.state else {
            return Step::GoOn;
        };
        let outcome = scan.advance(&self.buffer, &self.limits);
        match outcome {
            HeadOutcome::Incomplete => Step::Wait,
            HeadOutcome::Lost(reason) => Step::Lost(reason),
            HeadOutcome::Complete => match body_length(&scan.index, &self.buffer, &self.limits) {
                Ok(length) => {
                    self.state = State::Body {
                        index: scan.index,
                        length,
                    };
                    Step::GoOn
                }
                Err(reason) => Step::Lost(reason),
            },
        }
    }

    fn cut_message(&mut self) -> Option<Frame> {
        let State::Body { index, length } = &self.state else {
            return None;
        };
        let end = index.head_length + length;
        if self.buffer.len() < end {
            return None;
        }
        let message = RawMessage::new(self.buffer.split_to(end).freeze(), *index);
        self.state = State::Boundary;
        Some(match message.refusal() {
            Some(reason) => Frame::Refused { message, reason },
            None => Frame::Message(message),
        })
    }

    fn lose(&mut self, reason: FramingError) -> Frame {
        let answer = self.answerable(reason).map(|message| (message, reason.status()));
        self.state = State::Lost;
        self.buffer.clear();
        Frame::Lost { answer, reason }
    }

    /// What has been read of the message, when that is enough for an answer.
    fn answerable(&mut self, reason: FramingError) -> Option<RawMessage> {
        let State::Head(scan) = &self.state else {
            return None;
        };
        let mut index = scan.index;
        index.head_length = scan.line_start;
        let answered = reason != FramingError::NotSip && index.start_line.is_some();
        if !answered || !index.has_required_fields() {
            return None;
        }
        let message = RawMessage::new(self.buffer.split_to(scan.line_start).freeze(), index);
        message.may_be_answered().then_some(message)
    }
}

impl HeadScan {
    fn advance(&mut self, bytes: &[u8], limits: &FramerLimits) -> HeadOutcome {
        loop {
            let found = memchr::memchr(b'\n', &bytes[self.searched..]).map(|at| self.searched + at);
            let line_end = found.map_or(bytes.len(), |line_feed| line_feed + 1);
            if let Err(reason) = self.check_limits(line_end, limits) {
                return HeadOutcome::Lost(reason);
            }
            let Some(line_feed) = found else {
                self.searched = bytes.len();
                return HeadOutcome::Incomplete;
            };
            match self.end_of_line(bytes, line_feed) {
                LineEnd::GoOn => {}
                LineEnd::NeedsNextByte => {
                    self.searched = line_feed;
                    return HeadOutcome::Incomplete;
                }
                LineEnd::HeadComplete => return HeadOutcome::Complete,
                LineEnd::Lost(reason) => return HeadOutcome::Lost(reason),
            }
            if self.index.header_count > limits.header_count_max {
                return HeadOutcome::Lost(FramingError::TooManyHeaders);
            }
        }
    }

    /// Whichever bound lies first in the stream is the one that counts, so the outcome does not hang on the cuts.
    fn check_limits(&self, end: usize, limits: &FramerLimits) -> Result<(), FramingError> {
        let (line_max, line_reason) = if self.line_start == 0 {
            (limits.start_line_bytes_max, FramingError::StartLineTooLong)
        } else {
            (limits.header_line_bytes_max, FramingError::HeaderLineTooLong)
        };
        let line_end_max = self.line_start + line_max;
        if end <= line_end_max.min(limits.head_bytes_max) {
            Ok(())
        } else if line_end_max <= limits.head_bytes_max {
            Err(line_reason)
        } else {
            Err(FramingError::HeadTooLarge)
        }
    }

    fn end_of_line(&mut self, bytes: &[u8], line_feed: usize) -> LineEnd {
        let next = line_feed + 1;
        let text_end = self.text_end(bytes, line_feed);
        if self.line_start == 0 {
            return match self.take_start_line(&bytes[..text_end]) {
                Ok(()) => self.begin_line(next),
                Err(reason) => LineEnd::Lost(reason),
            };
        }
        if text_end == self.line_start {
            self.index.head_length = next;
            self.line_start = next;
            return LineEnd::HeadComplete;
        }
        match bytes.get(next) {
            None => LineEnd::NeedsNextByte,
            // RFC 3261 §7.3.1: a line that begins with white space goes on with the header before it.
            Some(b' ' | b'\t') => {
                self.searched = next;
                LineEnd::GoOn
            }
            Some(_) => {
                self.index.add_header(bytes, self.line_start, text_end);
                self.begin_line(next)
            }
        }
    }

    fn begin_line(&mut self, at: usize) -> LineEnd {
        self.line_start = at;
        self.searched = at;
        LineEnd::GoOn
    }

    /// Where the text before a line feed ends, and notes lines that end in LF alone.
    fn text_end(&mut self, bytes: &[u8], line_feed: usize) -> usize {
        if line_feed > self.line_start && bytes[line_feed - 1] == b'\r' {
            return line_feed - 1;
        }
        self.index.bare_line_feed = true;
        line_feed
    }

    fn take_start_line(&mut self, line: &[u8]) -> Result<(), FramingError> {
        match parse_start_line(line) {
            StartLineKind::Good(start_line) => self.index.start_line = Some(start_line),
            StartLineKind::Refused(start_line, reason) => {
                self.index.start_line = Some(start_line);
                self.index.refuse(reason);
            }
            // Read on: the head behind it may be enough to say 400 before the connection closes.
            StartLineKind::Leftover => {}
            StartLineKind::NotSip => return Err(FramingError::NotSip),
        }
        self.index.headers_start = line.len();
        Ok(())
    }
}

/// The head is complete: how long is the body, and can that be believed?
fn body_length(index: &HeadIndex, bytes: &[u8], limits: &FramerLimits) -> Result<usize, FramingError> {
    if has_leftover(index, bytes) {
        return Err(FramingError::LeftoverBytes);
    }
    match index.content_length {
        ContentLength::Missing => Err(FramingError::ContentLengthMissing),
        ContentLength::Malformed => Err(FramingError::ContentLengthMalformed),
        ContentLength::Duplicate => Err(FramingError::ContentLengthDuplicate),
        ContentLength::Is(length) => match usize::try_from(length) {
            Ok(length) if length <= limits.body_bytes_max => Ok(length),
            _ => Err(FramingError::BodyTooLarge),
        },
    }
}

/// `23456INVITE sip:…` with `CSeq: 1 INVITE`: the end of a body that was longer than it said.
fn has_leftover(index: &HeadIndex, bytes: &[u8]) -> bool {
    let method = match index.start_line {
        None => return true,
        Some(StartLine::Response { .. }) => return false,
        Some(StartLine::Request { method, .. }) => method.of_bytes(bytes),
    };
    index.cseq.is_some_and(|cseq| {
        let expected = cseq.method.of_bytes(bytes);
        method.len() > expected.len() && method.ends_with(expected)
    })
}

impl RawMessage {
    /// Parses bytes that are one whole message and nothing else.
    pub fn parse(bytes: Bytes) -> Result<Self, super::raw_message::NotOneMessage> {
        use super::raw_message::NotOneMessage;
        let mut framer = Framer::new(FramerLimits::default());
        framer.buffer = BytesMut::from(bytes);
        let frame = framer.next_frame().ok_or(NotOneMessage::Incomplete)?;
        match frame {
            Frame::Message(_) if !framer.buffer.is_empty() => Err(NotOneMessage::TrailingBytes),
            Frame::Message(message) => Ok(message),
            Frame::KeepAlivePing => Err(NotOneMessage::KeepAlive),
            Frame::Refused { reason, .. } => Err(NotOneMessage::Refused(reason)),
            Frame::Lost { reason, .. } => Err(NotOneMessage::Lost(reason)),
        }
    }
}

enum Step {
    GoOn,
    Wait,
    Frame(Frame),
    Lost(FramingError),
}

enum HeadOutcome {
    Incomplete,
    Complete,
    Lost(FramingError),
}

enum LineEnd {
    GoOn,
    NeedsNextByte,
    HeadComplete,
    Lost(FramingError),
}

const PING: &[u8] = b"\r\n\r\n";
/// First byte of a TLS record that holds a handshake message (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
