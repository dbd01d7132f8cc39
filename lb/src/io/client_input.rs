//! Turns what a client sent into inputs of the balancer; logs and counts it.

use std::net::SocketAddr;
use std::sync::Arc;

use tandem_runtime::io::sip_stream::Received;
use tandem_runtime::source::source_of;
use tandem_sip::Frame;
use tracing::{debug, info};

use crate::balancer::Input;
use crate::metrics::MessageCounters;

use super::listener_context::ListenerContext;
use super::paired_connection::overdue_label;

/// The inputs from one client.
#[derive(Debug)]
pub struct ClientInput {
    context: Arc<ListenerContext>,
    client: SocketAddr,
    counters: MessageCounters,
}

impl ClientInput {
    #[must_use]
    pub fn new(context: Arc<ListenerContext>, client: SocketAddr) -> Self {
        Self {
            counters: MessageCounters::of_clients(&context.metrics),
            context,
            client,
        }
    }

    /// The client's address.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// The balancer's input; `None` when the connection ends at once. `heard` says whether any well-framed bytes have arrived
    /// yet.
    #[must_use]
    pub fn of(&self, received: Received, heard: bool) -> Option<Input> {
        match received {
            Received::Frame(frame) => Some(self.framed(frame)),
            // A probe connects and closes without sending anything: not an error.
            Received::Ended if !heard => None,
            Received::Ended => Some(Input::ClientHalfClosed),
            Received::Failed(error) => {
                if heard {
                    debug!(client = %self.client, %error, "client connection failed");
                }
                None
            }
            Received::Truncated(_) => {
                self.incomplete(
                    "truncated",
                    "incomplete message: the client closed the connection in the middle of it",
                );
                Some(Input::ClientHalfClosed)
            }
            Received::Overdue(phase) => {
                self.incomplete(
                    overdue_label(phase),
                    "incomplete message: timed out waiting for the rest; closing the client connection",
                );
                Some(Input::ClientFramingLost { answer: None })
            }
        }
    }

    fn framed(&self, frame: Frame) -> Input {
        match frame {
            Frame::Message(message) => {
                self.counters.received(message.is_request());
                if message.has_bare_line_feeds() {
                    self.context.metrics.framing_error("bare_line_feed", "client");
                }
                Input::ClientMessage(message)
            }
            Frame::KeepAlivePing => Input::ClientPinged,
            Frame::Refused { message, reason } => {
                self.log(reason.label(), "invalid message from a client refused");
                self.context.metrics.framing_error(reason.label(), "client");
                Input::ClientMessageRefused {
                    message,
                    status: reason.status(),
                }
            }
            Frame::Lost { answer, reason } => {
                self.log(
                    reason.label(),
                    "message framing lost; closing the client connection",
                );
                self.context.metrics.framing_error(reason.label(), "client");
                Input::ClientFramingLost { answer }
            }
        }
    }

    fn incomplete(&self, reason: &'static str, text: &'static str) {
        self.log(reason, text);
        self.context.metrics.framing_error(reason, "client");
    }

    /// Logs `text` about this client, once a minute for each source address and reason.
    pub fn log(&self, reason: &'static str, text: &'static str) {
        let client = self.client;
        if let Some(suppressed) = self.context.log_limit.is_due((source_of(client.ip()), reason)) {
            info!(listener = %self.context.name, %client, reason, suppressed, "{text}");
        }
    }

    /// Counts a message that goes to the client.
    pub fn sent(&self, bytes: &[u8]) {
        self.counters.sent(bytes);
    }
}
