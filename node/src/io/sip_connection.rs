//! One connection with a front end: frames in, messages out.

use bytes::Bytes;
use tandem_runtime::io::shutdown::{Shutdown, Stage};
use tandem_runtime::io::sip_stream::{
    MessageDeadlines, Received, SendLimits, SipReader, SipSender, send_queue,
};
use tandem_sip::{Frame, FramerLimits, write_answer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tracing::debug;

use crate::gateway::{Input, OutboundTarget, Pair, PairId, PairPurpose};
use crate::metrics::NodeMetrics;

use super::driver::DriverEvent;

/// What a connection needs besides its stream.
#[derive(Debug, Clone)]
pub struct ConnectionContext {
    pub events: mpsc::Sender<DriverEvent>,
    pub metrics: NodeMetrics,
    pub shutdown: Shutdown,
    pub send_limits: SendLimits,
}

/// A connection whose PROXY header has been read, or written.
#[derive(Debug)]
pub struct OpenPair {
    pub id: PairId,
    pub pair: Pair,
    /// Of a connection that we dialled.
    pub target: Option<OutboundTarget>,
}

/// Serves the connection until either side ends it. `received` came behind the header.
pub async fn run<S>(stream: S, open: OpenPair, received: &[u8], context: ConnectionContext)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read_half, write_half) = tokio::io::split(stream);
    let (sender, writer) = send_queue(write_half, &context.send_limits, context.metrics.streams.clone());
    context.shutdown.spawn("sip writer", async move {
        if let Err(error) = writer.run().await {
            debug!(%error, "writing to the front end failed");
        }
    });
    let id = open.id;
    context.metrics.pair_opened(purpose_label(open.pair.purpose));
    let opened = DriverEvent::PairOpened {
        open,
        sender: sender.clone(),
    };
    if context.events.send(opened).await.is_err() {
        return sender.close();
    }
    let reader = SipReader::new(
        read_half,
        FramerLimits::default(),
        MessageDeadlines::default(),
        context.metrics.streams.clone(),
    );
    if let Some(farewell) = read(reader.with_bytes(received), id, &sender, &context).await {
        let half_closed = Input::PairHalfClosed { id, farewell };
        if context
            .events
            .send(DriverEvent::Gateway(half_closed))
            .await
            .is_ok()
        {
            // The gateway closes it when all is answered, or the other end when it does not want to hear of it.
            tokio::select! {
                () = sender.closed() => {}
                () = context.shutdown.reached(Stage::Close) => {}
            }
        }
    }
    sender.close();
    // The loop may be gone already.
    let _ = context
        .events
        .send(DriverEvent::Gateway(Input::PairClosed { id }))
        .await;
}

/// Returns when nothing more can be read: with what shall be said last, when something may still be written.
async fn read<R: AsyncRead + Unpin>(
    mut reader: SipReader<R>,
    id: PairId,
    sender: &SipSender,
    context: &ConnectionContext,
) -> Option<Option<Bytes>> {
    loop {
        let received = tokio::select! {
            received = reader.next() => received,
            () = sender.closed() => return None,
        };
        let frame = match received {
            Received::Frame(frame) => frame,
            Received::Ended => return Some(None),
            Received::Truncated(_) => {
                count(context, "truncated");
                return Some(None);
            }
            Received::Overdue(_) => {
                count(context, "overdue");
                return Some(None);
            }
            Received::Failed(error) => {
                debug!(%error, "a connection failed");
                return None;
            }
        };
        match step(frame, id, context) {
            Step::Input(input) => context.events.send(DriverEvent::Gateway(*input)).await.ok()?,
            Step::Pong => {
                // A queue that is full has something better to send.
                let _ = sender.try_send(Bytes::from_static(b"\r\n"));
            }
            Step::Lost { farewell } => return Some(farewell),
        }
    }
}

/// What a frame means.
enum Step {
    Input(Box<Input>),
    /// RFC 5626 §3.5.1.
    Pong,
    /// Nothing more can be read.
    Lost {
        farewell: Option<Bytes>,
    },
}

fn step(frame: Frame, pair: PairId, context: &ConnectionContext) -> Step {
    match frame {
        Frame::Message(message) => Step::Input(Box::new(Input::SipMessage { pair, message })),
        Frame::KeepAlivePing => Step::Pong,
        Frame::Refused { message, reason } => {
            context
                .metrics
                .framing_errors
                .with_label_values(&[reason.label()])
                .inc();
            let input = Input::SipMessageRefused {
                pair,
                message,
                status: reason.status(),
                reason: "refused",
            };
            Step::Input(Box::new(input))
        }
        Frame::Lost { answer, reason } => {
            count(context, reason.label());
            let answer = answer.filter(|(message, _)| message.may_be_answered());
            let farewell = answer.map(|(message, status)| {
                let phrase = tandem_sip::reason_phrase(status);
                write_answer(&message, status, &phrase, "framing", &[])
            });
            Step::Lost { farewell }
        }
    }
}

fn count(context: &ConnectionContext, reason: &str) {
    context.metrics.framing_errors.with_label_values(&[reason]).inc();
}

fn purpose_label(purpose: PairPurpose) -> &'static str {
    match purpose {
        PairPurpose::Pair => "pair",
        PairPurpose::Resent => "resent",
        PairPurpose::Outbound => "outbound",
    }
}
