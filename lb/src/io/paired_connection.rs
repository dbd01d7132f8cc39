//! The connection of one client with one node: connects, sends the client's identity, and carries messages both ways.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tandem_cluster::NodeId;
use tandem_runtime::io::environment::net::TcpStream;
use tandem_runtime::io::pair_security::{PairSecurity, PairStream};
use tandem_runtime::io::process::is_out_of_descriptors;
use tandem_runtime::io::sip_stream::{Received, SipReader, SipSender, send_queue, tune_socket};
use tandem_sip::{Frame, RawMessage};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tracing::{debug, warn};

use crate::balancer::{PairId, PairLoss};
use crate::metrics::{MessageCounters, Metrics, Side};

use super::listener_context::StreamSettings;

/// A report of a pair to its client's task.
#[derive(Debug)]
pub enum PairEvent {
    Opened { pair: PairId, sender: SipSender },
    Message { pair: PairId, message: RawMessage },
    Pinged { pair: PairId },
    Lost { pair: PairId, loss: PairLoss },
}

/// The task of a pair.
#[derive(Debug)]
pub struct PairTask {
    pub pair: PairId,
    pub node: NodeId,
    pub settings: Arc<StreamSettings>,
    pub security: PairSecurity,
    pub events: mpsc::Sender<PairEvent>,
    /// Requests that the task report what the node has already written, and then end.
    pub drain: Arc<Notify>,
    pub metrics: Metrics,
}

/// Connects to a node and sends the PROXY protocol header. Where pairs are secured, the node must authenticate as `node`.
///
/// # Errors
/// When the node does not accept the connection in time, or authenticates as another one.
pub async fn reach(
    node: NodeId,
    address: SocketAddr,
    header: &[u8],
    security: &PairSecurity,
    settings: &StreamSettings,
) -> io::Result<PairStream> {
    let connect = async {
        let stream = TcpStream::connect(address).await?;
        tune_socket(&stream, settings.silence_max)?;
        let mut stream = security.towards(node, stream).await?;
        stream.write_all(header).await?;
        Ok(stream)
    };
    tokio::time::timeout(settings.connect_timeout, connect)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl PairTask {
    /// Connects, writes the PROXY protocol header and carries messages until the connection ends, or until the client's task
    /// ends, which closes the sender.
    pub async fn run(self, address: SocketAddr, header: Vec<u8>) {
        match reach(self.node, address, &header, &self.security, &self.settings).await {
            Ok(stream) => self.carry_stream(stream).await,
            Err(error) => {
                debug!(node = %self.node, %address, %error, "cannot connect to the node");
                let loss = match is_out_of_descriptors(&error) {
                    true => PairLoss::OutOfDescriptors,
                    false => PairLoss::ConnectFailed,
                };
                self.lost(loss).await;
            }
        }
    }

    async fn carry_stream(self, stream: PairStream) {
        match stream {
            PairStream::Plain(stream) => {
                let (read, write) = stream.into_split();
                self.carry_halves(read, write).await;
            }
            PairStream::Secured(stream) => {
                let (read, write) = tokio::io::split(stream);
                self.carry_halves(read, write).await;
            }
        }
    }

    async fn carry_halves<R, W>(self, read: R, write: W)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let counters = self.metrics.stream_counters(Side::Node);
        let (sender, writer) = send_queue(write, &self.settings.node_queue, counters.clone());
        tokio::spawn(writer.run());
        let settings = &self.settings;
        let reader = SipReader::new(read, settings.framer, settings.deadlines.clone(), counters);
        self.carry(reader, sender).await;
    }

    /// Carries messages over an open connection until it ends.
    pub async fn carry<R: AsyncRead + Unpin>(self, mut reader: SipReader<R>, sender: SipSender) {
        let label = self.node.to_string();
        let gauge = self.metrics.pairs.with_label_values(&[label.as_str()]);
        gauge.inc();
        let opened = PairEvent::Opened {
            pair: self.pair,
            sender: sender.clone(),
        };
        if self.events.send(opened).await.is_ok() {
            let loss = self.read(&mut reader, &sender).await;
            self.lost(loss).await;
        }
        sender.close();
        gauge.dec();
    }

    async fn read<R: AsyncRead + Unpin>(&self, reader: &mut SipReader<R>, sender: &SipSender) -> PairLoss {
        let counters = MessageCounters::of_node(&self.metrics, self.node);
        loop {
            let received = tokio::select! {
                received = reader.next() => received,
                () = self.drain.notified() => return self.read_rest(reader, &counters, PairLoss::Drained).await,
                () = sender.closed() => return self.read_rest(reader, &counters, PairLoss::Broken).await,
            };
            if let Err(loss) = self.report(received, &counters).await {
                return loss;
            }
        }
    }

    /// Reports what the node had already written, before the loss is reported.
    async fn read_rest<R: AsyncRead + Unpin>(
        &self,
        reader: &mut SipReader<R>,
        counters: &MessageCounters,
        loss: PairLoss,
    ) -> PairLoss {
        while let Ok(received) = tokio::time::timeout(REST_GRACE, reader.next()).await {
            if let Err(early) = self.report(received, counters).await {
                return match early {
                    PairLoss::FramingLost => early,
                    PairLoss::ConnectFailed
                    | PairLoss::OutOfDescriptors
                    | PairLoss::Broken
                    | PairLoss::Drained => loss,
                };
            }
        }
        loss
    }

    async fn report(&self, received: Received, counters: &MessageCounters) -> Result<(), PairLoss> {
        match received {
            Received::Frame(frame) => self.report_frame(frame, counters).await,
            Received::Ended => Err(PairLoss::Broken),
            Received::Failed(error) => {
                debug!(node = %self.node, %error, "connection to the node failed");
                Err(PairLoss::Broken)
            }
            Received::Truncated(phase) => {
                debug!(node = %self.node, ?phase, "incomplete message: the node closed the connection in the middle of it");
                self.metrics.framing_error("truncated", "node");
                Err(PairLoss::Broken)
            }
            Received::Overdue(phase) => {
                warn!(
                    node = %self.node, ?phase,
                    "incomplete message: timed out waiting for the rest; closing the connection to the node"
                );
                self.metrics.framing_error(overdue_label(phase), "node");
                Err(PairLoss::FramingLost)
            }
        }
    }

    async fn report_frame(&self, frame: Frame, counters: &MessageCounters) -> Result<(), PairLoss> {
        let pair = self.pair;
        let event = match frame {
            Frame::Message(message) => {
                counters.received(message.is_request());
                PairEvent::Message { pair, message }
            }
            Frame::KeepAlivePing => PairEvent::Pinged { pair },
            Frame::Refused { reason, .. } => return Err(self.invalid(reason.label())),
            Frame::Lost { reason, .. } => return Err(self.invalid(reason.label())),
        };
        self.events.send(event).await.map_err(|_| PairLoss::Broken)
    }

    fn invalid(&self, reason: &'static str) -> PairLoss {
        warn!(node = %self.node, reason, "invalid message from the node; closing the connection to it");
        self.metrics.framing_error(reason, "node");
        PairLoss::FramingLost
    }

    async fn lost(&self, loss: PairLoss) {
        let event = PairEvent::Lost {
            pair: self.pair,
            loss,
        };
        // The client's task may have ended already.
        let _ = self.events.send(event).await;
    }
}

pub(super) fn overdue_label(phase: tandem_sip::Phase) -> &'static str {
    match phase {
        tandem_sip::Phase::Body => "overdue_body",
        tandem_sip::Phase::Boundary | tandem_sip::Phase::KeepAlive | tandem_sip::Phase::Head => {
            "overdue_head"
        }
    }
}

/// Time for bytes that the kernel has received and the reactor has not reported yet.
const REST_GRACE: Duration = Duration::from_millis(5);
