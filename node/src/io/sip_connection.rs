//! One connection with a front end: frames in, messages out.

use tandem_shared::io::shutdown::Shutdown;
use tandem_shared::io::sip_stream::{
    MessageDeadlines, Received, SendLimits, SipReader, SipSender, send_queue,
};
use tandem_shared::sip::{Frame, FramerLimits, write_answer};
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
            debug!(%error, "a connection's way out has ended");
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
    read(reader.with_bytes(received), id, &sender, &context).await;
    sender.close();
    // The loop may be gone already.
    let _ = context
        .events
        .send(DriverEvent::Gateway(Input::PairClosed { id }))
        .await;
}

async fn read<R: AsyncRead + Unpin>(
    mut reader: SipReader<R>,
    id: PairId,
    sender: &SipSender,
    context: &ConnectionContext,
) {
    loop {
        let received = tokio::select! {
            received = reader.next() => received,
            () = sender.closed() => return,
        };
        let frame = match received {
            Received::Frame(frame) => frame,
            Received::Ended => return,
            Received::Truncated(_) => return count(context, "truncated"),
            Received::Overdue(_) => return count(context, "overdue"),
            Received::Failed(error) => return debug!(%error, "a connection failed"),
        };
        let Some(input) = input_of(frame, id, sender, context) else {
            continue;
        };
        let lost = matches!(input, Step::Lost);
        if let Step::Input(input) = input
            && context.events.send(DriverEvent::Gateway(*input)).await.is_err()
        {
            return;
        }
        if lost {
            return;
        }
    }
}

enum Step {
    Input(Box<Input>),
    /// Nothing more can be read.
    Lost,
}

fn input_of(frame: Frame, pair: PairId, sender: &SipSender, context: &ConnectionContext) -> Option<Step> {
    match frame {
        Frame::Message(message) => Some(Step::Input(Box::new(Input::SipMessage { pair, message }))),
        Frame::KeepAlivePing => {
            // RFC 5626 §3.5.1. A queue that is full has something better to send.
            let _ = sender.try_send(bytes::Bytes::from_static(b"\r\n"));
            None
        }
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
            Some(Step::Input(Box::new(input)))
        }
        Frame::Lost { answer, reason } => {
            count(context, reason.label());
            if let Some((message, status)) = answer
                && message.may_be_answered()
            {
                let phrase = tandem_shared::sip::reason_phrase(status);
                // The connection ends in any case.
                let _ = sender.try_send(write_answer(&message, status, &phrase, "framing", &[]));
            }
            Some(Step::Lost)
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
