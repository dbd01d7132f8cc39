//! The head of a message, line by line, as far as it has come.

use super::fault::FramingError;
use super::framer::FramerLimits;
use super::scan::{ContentLength, HeadIndex};
use super::start_line::{StartLine, StartLineKind, parse_start_line};
use super::syntax::is_token;

#[derive(Debug)]
pub(super) struct HeadScan {
    pub(super) index: HeadIndex,
    /// Where the header begins that is not complete yet.
    pub(super) line_start: usize,
    /// Up to here no line feed is left to be found.
    searched: usize,
}

impl HeadScan {
    pub(super) fn new() -> Self {
        Self {
            index: HeadIndex::new(),
            line_start: 0,
            searched: 0,
        }
    }

    /// Takes in what has come. `bytes` begins with the message and has only grown since the last call.
    pub(super) fn advance(&mut self, bytes: &[u8], limits: &FramerLimits) -> HeadOutcome {
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
            StartLineKind::NotSip => return Err(FramingError::NotSip),
        }
        self.index.headers_start = line.len();
        Ok(())
    }
}

/// The head is complete: how long is the body, and can that be believed?
pub(super) fn body_length(
    index: &HeadIndex,
    bytes: &[u8],
    limits: &FramerLimits,
) -> Result<usize, FramingError> {
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
        None | Some(StartLine::Response { .. }) => return false,
        Some(StartLine::Request { method, .. }) => method.of_bytes(bytes),
    };
    // Known only now that the head has been read, so that there can be a 400 before the connection closes.
    if !is_token(method) {
        return true;
    }
    index.cseq.is_some_and(|cseq| {
        let expected = cseq.method.of_bytes(bytes);
        method.len() > expected.len() && method.ends_with(expected)
    })
}

pub(super) enum HeadOutcome {
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
