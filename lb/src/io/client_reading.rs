//! Holds what a client has sent until it is handled.
//!
//! A client over its rate, or with as many unanswered requests as permitted, is not served for a while. What it sends in the
//! meantime waits here, up to a bound, so that the pings behind it are still answered: a client whose pings are not answered
//! takes the front end for dead (RFC 5626 §4.4.1). Beyond the bound it waits in the client's socket.

use std::collections::VecDeque;
use std::time::Instant;

use tandem_runtime::io::sip_stream::Received;
use tandem_sip::Frame;

/// The receive state of one client.
#[derive(Debug)]
pub struct Reading {
    /// More may arrive: the client has not closed its side, and framing is not lost.
    open: bool,
    /// Some well-framed bytes have arrived.
    pub heard: bool,
    /// When the source may be read again; `None` while it is within its rate.
    pub paused: Option<Instant>,
    waiting: VecDeque<Received>,
    waiting_bytes: usize,
}

/// What to do with something that arrived.
#[derive(Debug)]
pub enum Arrival {
    /// A ping, to be answered at once, whatever waits.
    Ping,
    Serve(Received),
    /// Queued until the client is served again.
    Kept,
}

impl Reading {
    #[must_use]
    pub fn new() -> Self {
        Self {
            open: true,
            heard: false,
            paused: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    /// Whether more may be read from the client.
    #[must_use]
    pub fn may_read(&self) -> bool {
        self.open && self.waiting.len() < WAITING_MAX && self.waiting_bytes < WAITING_BYTES_MAX
    }

    /// Receives something, and queues it unless the client is served now.
    pub fn arrived(&mut self, received: Received, served: bool) -> Arrival {
        self.heard |= matches!(received, Received::Frame(_));
        if matches!(received, Received::Frame(Frame::KeepAlivePing)) {
            return Arrival::Ping;
        }
        self.open = is_followed(&received);
        if served && self.waiting.is_empty() {
            return Arrival::Serve(received);
        }
        self.waiting_bytes += bytes_of(&received);
        self.waiting.push_back(received);
        Arrival::Kept
    }

    /// Takes the oldest item that waits.
    pub fn take_next(&mut self) -> Option<Received> {
        let received = self.waiting.pop_front()?;
        self.waiting_bytes -= bytes_of(&received);
        Some(received)
    }
}

impl Default for Reading {
    fn default() -> Self {
        Self::new()
    }
}

fn is_followed(received: &Received) -> bool {
    match received {
        Received::Frame(Frame::Lost { .. })
        | Received::Ended
        | Received::Truncated(_)
        | Received::Overdue(_)
        | Received::Failed(_) => false,
        Received::Frame(Frame::Message(_) | Frame::KeepAlivePing | Frame::Refused { .. }) => true,
    }
}

fn bytes_of(received: &Received) -> usize {
    match received {
        Received::Frame(Frame::Message(message) | Frame::Refused { message, .. }) => message.bytes().len(),
        Received::Frame(Frame::KeepAlivePing | Frame::Lost { .. })
        | Received::Ended
        | Received::Truncated(_)
        | Received::Overdue(_)
        | Received::Failed(_) => 0,
    }
}

/// Bytes above which nothing more is read, about a socket's buffer; the last message may exceed it.
const WAITING_BYTES_MAX: usize = 32 << 10;
const WAITING_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tandem_sip::RawMessage;

    use super::*;

    fn message(bytes: usize) -> Received {
        let head = "OPTIONS sip:vip SIP/2.0\r\nVia: SIP/2.0/TCP ocs;branch=z9hG4bKa\r\nFrom: <sip:a>;tag=a\r\n\
            To: <sip:vip>\r\nCall-ID: a\r\nCSeq: 1 OPTIONS\r\n";
        let text = format!("{head}Content-Length: {bytes}\r\n\r\n{}", "x".repeat(bytes));
        Received::Frame(Frame::Message(RawMessage::parse(Bytes::from(text)).unwrap()))
    }

    fn ping() -> Received {
        Received::Frame(Frame::KeepAlivePing)
    }

    #[test]
    fn a_ping_overtakes_what_waits_and_nothing_else_does() {
        let mut reading = Reading::new();
        assert!(matches!(reading.arrived(message(1), false), Arrival::Kept));
        assert!(matches!(reading.arrived(ping(), false), Arrival::Ping));
        // It comes after what waits, although the client is served again.
        assert!(matches!(reading.arrived(message(2), true), Arrival::Kept));
        assert!(matches!(reading.arrived(Received::Ended, true), Arrival::Kept));
        assert!(!reading.may_read());
        let sizes: Vec<usize> =
            std::iter::from_fn(|| reading.take_next().map(|next| bytes_of(&next))).collect();
        assert_eq!((sizes.len(), sizes[2]), (3, 0));
        assert!(sizes[0] < sizes[1]);
        assert_eq!(reading.waiting_bytes, 0);
    }

    #[test]
    fn what_waits_is_bounded() {
        for (bytes, at_most) in [(1, WAITING_MAX), (WAITING_BYTES_MAX, 1)] {
            let mut reading = Reading::new();
            let mut kept = 0;
            while reading.may_read() {
                assert!(matches!(reading.arrived(message(bytes), false), Arrival::Kept));
                kept += 1;
            }
            assert_eq!(kept, at_most);
        }
    }

    #[test]
    fn who_is_served_does_not_wait() {
        let mut reading = Reading::new();
        assert!(matches!(reading.arrived(message(1), true), Arrival::Serve(_)));
        assert!(reading.heard && reading.may_read());
    }
}
