//! TCP bytes → whole messages. Resumable: no byte of a head is looked at twice, however the stream is cut.
//!
//! Strict where framing is at stake, because a wrong cut on a shared connection harms thousands of users; content
//! with everything else, because bytes are only passed on. The tests below go through the cases one by one.

use bytes::{Buf, Bytes, BytesMut};

use super::fault::{FramingError, RefusalReason};
use super::head_scan::{HeadOutcome, HeadScan, body_length};
use super::raw_message::{NotOneMessage, RawMessage};
use super::scan::HeadIndex;

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
        if self.phase() == Phase::KeepAlive && PING.starts_with(&self.buffer) {
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
        self.state = State::Head(HeadScan::new());
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

impl RawMessage {
    /// Parses bytes that are one whole message and nothing else.
    pub fn parse(bytes: Bytes) -> Result<Self, NotOneMessage> {
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

const PING: &[u8] = b"\r\n\r\n";
/// First byte of a TLS record that holds a handshake message (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str = "Via: SIP/2.0/TCP 10.0.0.9:5060;branch=z9hG4bKa1\r\n\
        From: <sip:joe@example.com>;tag=f1\r\n\
        To: <sip:8000@gw.example.com>\r\n\
        Call-ID: c1\r\n\
        CSeq: 1 INVITE\r\n";

    fn invite(more_headers: &str, body: &str) -> String {
        format!("INVITE sip:8000@gw.example.com SIP/2.0\r\n{HEAD}{more_headers}\r\n{body}")
    }

    fn good() -> String {
        invite("Content-Length: 5\r\n", "<a/>\n")
    }

    fn frames(stream: impl AsRef<[u8]>) -> Vec<String> {
        let stream = stream.as_ref();
        frames_of(std::iter::once(stream))
    }

    /// What came out, in words that compare whole.
    fn frames_of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut framer = Framer::new(FramerLimits::default());
        let mut frames = Vec::new();
        for piece in pieces {
            framer.buffer_mut().extend_from_slice(piece);
            frames.extend(std::iter::from_fn(|| framer.next_frame()).map(|frame| describe(&frame)));
        }
        frames
    }

    fn describe(frame: &Frame) -> String {
        match frame {
            Frame::Message(message) => format!("message {}", String::from_utf8_lossy(message.bytes())),
            Frame::KeepAlivePing => "ping".to_owned(),
            Frame::Refused { reason, .. } => format!("refused {} {}", reason.status(), reason.label()),
            Frame::Lost { answer, reason } => match answer {
                Some((_, status)) => format!("lost {status} {}", reason.label()),
                None => format!("lost {}", reason.label()),
            },
        }
    }

    fn message(text: &str) -> String {
        format!("message {text}")
    }

    #[test]
    fn a_hundred_pipelined_messages_come_out_in_order() {
        let messages: Vec<String> = (0..100)
            .map(|number| invite(&format!("X: {number}\r\nl: 2\r\n"), "ab"))
            .collect();
        let expected: Vec<String> = messages.iter().map(|text| message(text)).collect();
        assert_eq!(frames(messages.concat()), expected);
    }

    #[test]
    fn bytes_may_come_one_by_one() {
        let stream = format!("{}\r\n\r\n{}", good(), good());
        assert_eq!(
            frames_of(stream.as_bytes().chunks(1)),
            [message(&good()), "ping".into(), message(&good())]
        );
    }

    #[test]
    fn a_missing_content_length_loses_the_framing() {
        assert_eq!(frames(invite("", "")), ["lost 400 content_length_missing"]);
    }

    #[test]
    fn bytes_beyond_the_declared_body_lose_the_framing() {
        let short = invite("Content-Length: 2\r\n", "0123456789");
        let expected = message(&invite("Content-Length: 2\r\n", "01"));
        assert_eq!(
            frames(format!("{short}{}", good())),
            [expected.clone(), "lost 400 leftover_bytes".into()]
        );
        let markup = invite("Content-Length: 2\r\n", "01<x>");
        assert_eq!(
            frames(format!("{markup}{}", good())),
            [expected.clone(), "lost 400 leftover_bytes".into()]
        );
        let lines = invite("Content-Length: 2\r\n", "01v=0\r\n");
        assert_eq!(
            frames(format!("{lines}{}", good())),
            [expected, "lost not_sip".into()]
        );
    }

    #[test]
    fn a_body_that_does_not_come_is_waited_for() {
        let mut framer = Framer::new(FramerLimits::default());
        framer
            .buffer_mut()
            .extend_from_slice(invite("Content-Length: 1000000\r\n", "01").as_bytes());
        assert!(framer.next_frame().is_none());
        assert_eq!(framer.phase(), Phase::Body);
        assert!(
            framer.buffer_mut().capacity() < 10_000,
            "memory by declared length"
        );
    }

    #[test]
    fn a_malformed_length_loses_the_framing() {
        for value in ["-5", "+5", "0x5", "5, 5", "", " ", "5 5", "5\r\n 5", "5;", "٥"] {
            let stream = invite(&format!("Content-Length: {value}\r\n"), "01234");
            assert_eq!(frames(stream), ["lost 400 content_length_malformed"], "{value:?}");
        }
    }

    #[test]
    fn leading_zeros_are_legal() {
        let text = invite(&format!("Content-Length: {}5\r\n", "0".repeat(300)), "01234");
        assert_eq!(frames(&text), [message(&text)]);
    }

    #[test]
    fn a_huge_length_is_refused_at_once() {
        for value in ["1048577", "99999999999999", "99999999999999999999999999999999"] {
            let stream = invite(&format!("Content-Length: {value}\r\n"), "");
            assert_eq!(frames(stream), ["lost 513 body_too_large"], "{value}");
        }
    }

    #[test]
    fn two_lengths_lose_the_framing_even_when_equal() {
        for second in [
            "Content-Length: 5",
            "Content-Length: 13",
            "l: 0",
            "L : 5",
            "content-length: x",
        ] {
            let stream = invite(&format!("Content-Length: 5\r\n{second}\r\n"), "01234");
            assert_eq!(frames(stream), ["lost 400 content_length_duplicate"], "{second}");
        }
    }

    #[test]
    fn a_look_alike_of_the_length_costs_a_refusal_and_no_more() {
        let look_alikes = [
            "Content_Length: 50",
            "Subject: x\r\n Content-Length: 50",
            "Subject: x\r\n\tl : 50",
        ];
        for look_alike in look_alikes {
            let refused = "refused 400 content_length_look_alike".to_owned();
            let before = invite(&format!("{look_alike}\r\nContent-Length: 5\r\n"), "01234");
            assert_eq!(
                frames(before + &good()),
                [refused.clone(), message(&good())],
                "{look_alike}"
            );
            let after = invite(&format!("Content-Length: 5\r\n{look_alike}\r\n"), "01234");
            assert_eq!(
                frames(after + &good()),
                [refused, message(&good())],
                "{look_alike}"
            );
            let alone = invite(&format!("{look_alike}\r\n"), "");
            assert_eq!(frames(alone), ["lost 400 content_length_missing"], "{look_alike}");
        }
    }

    #[test]
    fn the_length_may_be_folded_spaced_compact_and_in_any_case() {
        for line in [
            "Content-Length:\r\n 5",
            "Content-Length \t: 5",
            "l:5",
            "cOnTeNt-LeNgTh: 5",
            "L:\t5 ",
        ] {
            let text = invite(&format!("{line}\r\n"), "01234");
            assert_eq!(frames(&text), [message(&text)], "{line:?}");
        }
    }

    #[test]
    fn nothing_but_spaces_and_tabs_may_stand_before_the_colon() {
        for line in ["Content-Length\u{c}: 5", "Content-Length\r\n : 5", "l\r: 5"] {
            let alone = invite(&format!("{line}\r\n"), "01234");
            assert_eq!(frames(alone), ["lost 400 content_length_missing"], "{line:?}");
            let before = invite(&format!("{line}\r\nContent-Length: 5\r\n"), "01234");
            let expected = ["refused 400 header_malformed".into(), message(&good())];
            assert_eq!(frames(before + &good()), expected, "{line:?}");
        }
    }

    #[test]
    fn lines_may_end_in_line_feeds_alone() {
        let text = good().replace("\r\n", "\n");
        assert_eq!(frames(&text), [message(&text)]);
        assert!(RawMessage::parse(text.into()).unwrap().has_bare_line_feeds());
        assert!(!RawMessage::parse(good().into()).unwrap().has_bare_line_feeds());
    }

    #[test]
    fn odd_bytes_in_a_header_pass_unchanged() {
        let mut text = invite("Subject: a\rb\0c_\r\nContent-Length: 0\r\n", "").into_bytes();
        let at = text.iter().position(|&byte| byte == b'_').unwrap();
        text[at] = 0xff;
        assert_eq!(RawMessage::parse(text.clone().into()).unwrap().bytes(), &text);
    }

    #[test]
    fn pings_are_counted_between_messages_and_other_line_ends_ignored() {
        assert_eq!(frames("\r\n\r\n"), ["ping"]);
        assert_eq!(frames("\r\n\r\n\r\n\r\n"), ["ping", "ping"]);
        assert_eq!(frames(format!("\r\n{}", good())), [message(&good())]);
        assert_eq!(
            frames(format!("\r\n\r\n\r\n{}", good())),
            ["ping".into(), message(&good())]
        );
        assert_eq!(frames(format!("\n\n\r\n{}", good())), [message(&good())]);
        for cut in 1..4 {
            let (first, second) = b"\r\n\r\n".split_at(cut);
            assert_eq!(frames_of([first, second]), ["ping"]);
        }
    }

    #[test]
    fn half_a_ping_is_told_from_silence_and_can_be_forgotten() {
        let mut framer = Framer::new(FramerLimits::default());
        assert_eq!(framer.phase(), Phase::Boundary);
        framer.buffer_mut().extend_from_slice(b"\r\n\r");
        assert!(framer.next_frame().is_none());
        assert_eq!(framer.phase(), Phase::KeepAlive);
        framer.discard_half_ping();
        assert_eq!(framer.phase(), Phase::Boundary);
        framer
            .buffer_mut()
            .extend_from_slice(format!("\n{}", good()).as_bytes());
        assert!(matches!(framer.next_frame(), Some(Frame::Message(_))));
    }

    #[test]
    fn other_protocols_are_lost_without_a_word() {
        let post = format!("POST / HTTP/1.1\r\nContent-Length: 900\r\n\r\n{}", good());
        for stream in [
            "GET / HTTP/1.1\r\n",
            &post,
            "PRI * HTTP/2.0\r\n",
            "\0\0\0\0",
            "hello\r\n",
            "\rX",
            "\u{e9}",
        ] {
            assert_eq!(frames(stream), ["lost not_sip"], "{stream:?}");
        }
        assert_eq!(frames([0x16, 3, 1]), ["lost tls_on_plain_port"]);
        assert_eq!(frames([0x16]), ["lost tls_on_plain_port"]);
    }

    #[test]
    fn nothing_follows_a_lost_framing() {
        let stream = format!("GET / HTTP/1.1\r\n\r\n{}", good());
        assert_eq!(
            frames_of([stream.as_bytes(), good().as_bytes()]),
            ["lost not_sip"]
        );
    }

    #[test]
    fn large_heads_and_bodies_pass_up_to_the_limits() {
        let wide = invite(
            &format!("X: {}\r\nl: 40000\r\n", "x".repeat(16_000)),
            &"b".repeat(40_000),
        );
        assert_eq!(frames(&wide), [message(&wide)]);
        let many = invite(&"X: 1\r\n".repeat(500), "").replace("\r\n\r\n", "\r\nl: 0\r\n\r\n");
        assert_eq!(frames(&many), [message(&many)]);
    }

    #[test]
    fn beyond_a_limit_the_answer_is_513_where_one_can_be_written() {
        let line = invite(&format!("X: {}\r\nl: 0\r\n", "x".repeat(17_000)), "");
        assert_eq!(frames(line), ["lost 513 header_line_too_long"]);
        let folded = invite(&format!("X: {}\r\nl: 0\r\n", "x\r\n ".repeat(5_000)), "");
        assert_eq!(frames(folded), ["lost 513 header_line_too_long"]);
        let header = format!("X: {}\r\n", "x".repeat(10_000));
        assert_eq!(frames(invite(&header.repeat(7), "")), ["lost 513 head_too_large"]);
        let unfinished = format!("INVITE sip:a SIP/2.0\r\nX: {}", "x".repeat(17_000));
        assert_eq!(frames(unfinished), ["lost header_line_too_long"]);
        assert_eq!(frames("a".repeat(8 * 1024 + 1)), ["lost start_line_too_long"]);
    }

    #[test]
    fn too_many_headers_are_refused() {
        assert_eq!(
            frames(invite(&"X: 1\r\n".repeat(1000), "")),
            ["lost 400 too_many_headers"]
        );
    }

    #[test]
    fn another_version_is_505_and_the_next_message_still_read() {
        let other = good().replace("SIP/2.0\r\n", "SIP/7.0\r\n");
        assert_eq!(
            frames(other + &good()),
            ["refused 505 version_not_supported".into(), message(&good())]
        );
    }

    #[test]
    fn a_broken_start_line_costs_one_refusal() {
        let lines = [
            "INVITE  sip:8000@gw.example.com SIP/2.0",
            "INVITE sip:8000@gw.example.com SIP/2.0 ",
            "INVITE sip:8000@gw.example.com; lr SIP/2.0",
            "INVITE SIP/2.0",
        ];
        for line in lines {
            let broken = good().replace("INVITE sip:8000@gw.example.com SIP/2.0", line);
            let expected = ["refused 400 start_line_malformed".into(), message(&good())];
            assert_eq!(frames(broken + &good()), expected, "{line}");
        }
    }

    #[test]
    fn a_message_that_is_valid_in_every_odd_way_passes() {
        let text = "INVITE sip:8000@gw.example.com;unknown SIP/2.0\r\n\
            TO :\r\n sip:8000@gw.example.com ;   tag    = n1-77\r\n\
            from   : \"A \\\\\\\" <sip:x;tag=no>\"       <sip:joe@example.com>\r\n  ;\r\n  tag = f1\r\n\
            MaX-fOrWaRdS: 0068\r\n\
            I: odd@10.0.0.9\r\n\
            Content-Length   : 3\r\n\
            cseq: 0009\r\n  INVITE\r\n\
            Via  : SIP  /   2.0\r\n /UDP\r\n    10.0.0.9;branch=390skdjuw\r\n\
            s :\r\n\
            Strange: ;;,,;;,;\r\n\
            v:  SIP  / 2.0  / TCP     one.example.com   ;\r\n  branch  =   z9hG4bKx  ,\r\n SIP / 2.0 / UDP b\r\n\
            \r\nabc";
        assert_eq!(frames(text), [message(text)]);
        let raw = RawMessage::parse(Bytes::from_static(text.as_bytes())).unwrap();
        assert_eq!(raw.from_tag(), Some(&b"f1"[..]));
        assert_eq!(raw.to_tag(), Some(&b"n1-77"[..]));
        assert_eq!((raw.cseq_number(), raw.cseq_method()), (9, &b"INVITE"[..]));
        assert_eq!(raw.via_branch(), Some(&b"390skdjuw"[..]));
        assert_eq!(raw.headers().count(), 10);
    }

    #[test]
    fn a_response_that_loses_the_framing_is_not_answered() {
        let response = format!("SIP/2.0 200 OK\r\n{HEAD}\r\n");
        assert_eq!(frames(response), ["lost content_length_missing"]);
    }

    #[test]
    fn an_ack_that_loses_the_framing_is_not_answered() {
        assert_eq!(
            frames(invite("", "").replace("INVITE", "ACK")),
            ["lost content_length_missing"]
        );
    }

    fn stream_pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => Just(good().into_bytes()),
            1 => Just(good().replace("\r\n", "\n").into_bytes()),
            1 => Just(b"\r\n\r\n".to_vec()),
            1 => Just(b"\r\n".to_vec()),
            1 => Just(invite("X: a\r\n b\r\n\tl: 7\r\nl: 3\r\n", "abc").into_bytes()),
            1 => Just(invite("Content-Length: 2\r\n", "abcdef").into_bytes()),
            1 => Just(invite("", "abc").into_bytes()),
            1 => Just(invite(&format!("X: {}\r\n", "x".repeat(16_380)).repeat(5), "").into_bytes()),
            1 => proptest::collection::vec(any::<u8>(), 0..40),
        ];
        proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_cuts_of_a_stream_do_not_matter(
            stream in stream_pieces(),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]);
            prop_assert_eq!(frames(&stream), frames_of(pieces));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0_usize..300) {
            let mut stream = good().into_bytes();
            stream.splice(at.min(stream.len())..(at + 2).min(stream.len()), bytes);
            frames(&stream);
        }

        #[test]
        fn every_damaged_byte_is_survived(at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
            let mut stream = good().into_bytes();
            let at = at.index(stream.len());
            stream[at] = byte;
            frames(&stream);
        }
    }
}
