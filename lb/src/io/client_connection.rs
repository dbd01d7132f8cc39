//! The task of one client connection, which handles all its events one after the other.

use std::sync::Arc;
use std::time::Instant;

use tandem_runtime::io::environment;
use tandem_runtime::io::shutdown::Stage;
use tandem_runtime::io::sip_stream::{Received, SendEnded, SipReader, send_queue};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tracing::debug;

use crate::balancer::Input;
use crate::metrics::Side;

use super::admission::Admitted;
use super::client_balancer::ClientBalancer;
use super::client_reading::{Arrival, Reading};
use super::listener_context::{ClientIdentity, ListenerContext};
use super::paired_connection::PairEvent;
use super::standing_node::StandingNode;

/// The task of one connection.
pub struct ClientConnection {
    context: Arc<ListenerContext>,
    identity: ClientIdentity,
    balancer: ClientBalancer,
}

impl ClientConnection {
    /// Serves one client until its connection ends.
    pub async fn run<S>(
        context: Arc<ListenerContext>,
        identity: ClientIdentity,
        stream: S,
        admitted: Admitted,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self::run_with::<S, tokio::io::Empty>(context, identity, stream, admitted, None).await;
    }

    /// Serves a connection that a node requested; otherwise as [`Self::run`].
    pub async fn run_with<S, R>(
        context: Arc<ListenerContext>,
        identity: ClientIdentity,
        stream: S,
        admitted: Admitted,
        standing: Option<StandingNode<R>>,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        R: AsyncRead + Unpin + Send + 'static,
    {
        let (read, write) = tokio::io::split(stream);
        let counters = context.metrics.stream_counters(Side::Client);
        let (client, writer) = send_queue(write, &context.streams.client_queue, counters.clone());
        let writer = tokio::spawn(writer.run());
        let streams = Arc::clone(&context.streams);
        let reader = SipReader::new(read, streams.framer, streams.deadlines.clone(), counters);
        let board = context.board.subscribe();
        let (events, received) = mpsc::channel(EVENTS_WAITING_MAX);
        let mut connection = Self {
            balancer: ClientBalancer::new(Arc::clone(&context), identity.clone(), client, events),
            context,
            identity,
        };
        if let Some(standing) = standing {
            connection.balancer.take_standing(standing);
        }
        connection.serve(reader, received, board, &admitted).await;
        connection.balancer.end();
        // The writer has its own timeout for a client that does not read.
        if let Ok(Err(error)) = writer.await {
            if matches!(error, SendEnded::Stalled(_)) {
                connection.context.metrics.limit_reached("client_stalled");
            }
            debug!(client = %connection.identity.address, %error, "could not send the last queued messages to the client");
        }
    }

    async fn serve<R: AsyncRead + Unpin>(
        &mut self,
        mut reader: SipReader<R>,
        mut events: mpsc::Receiver<PairEvent>,
        mut board: watch::Receiver<u64>,
        admitted: &Admitted,
    ) {
        let shutdown = self.context.shutdown.clone();
        let mut reading = Reading::new();
        let mut draining = false;
        let mut nodes_are_read = true;
        // Created once: creating them takes a lock that all connections share.
        let (drain, close) = (shutdown.reached(Stage::Drain), shutdown.reached(Stage::Close));
        let revoked = self.identity.clone().revoked();
        tokio::pin!(drain, close, revoked);
        loop {
            self.serve_waiting(&mut reading, admitted);
            if self.balancer.closing {
                return;
            }
            let deadline = self.deadline(reading.paused);
            let congested = self.balancer.client.queued_bytes() > self.high_water();
            if congested == nodes_are_read {
                nodes_are_read = !congested;
                self.balancer.feed(Input::NodesRead(nodes_are_read));
            }
            tokio::select! {
                received = reader.next(), if reading.may_read() => {
                    let served = self.is_served(&reading);
                    match reading.arrived(received, served) {
                        Arrival::Ping => {
                            self.balancer.last_activity = environment::now();
                            self.balancer.feed(Input::ClientPinged);
                        }
                        Arrival::Serve(received) => self.client_sent(received, &mut reading, admitted),
                        Arrival::Kept => {}
                    }
                }
                Some(event) = events.recv(), if !congested => self.balancer.pair_reported(event),
                () = self.balancer.client.drained_to(self.high_water() / 4), if congested => {}
                () = self.balancer.client.closed() => return,
                changed = board.changed() => match changed {
                    Ok(()) => {
                        let table = self.context.board.table();
                        self.balancer.feed(Input::NodeTableChanged(table));
                    }
                    Err(_) => return,
                },
                () = sleep_until(deadline) => self.deadline_reached(&mut reading),
                () = &mut drain, if !draining => {
                    draining = true;
                    self.balancer.feed(Input::DrainStarted);
                }
                () = &mut revoked => {
                    self.context.note_revoked(&self.identity);
                    return;
                }
                () = &mut close => return,
            }
        }
    }

    /// Whether the client's messages are handled now. A client over its rate, or with as many unanswered requests as
    /// permitted, waits.
    fn is_served(&self, reading: &Reading) -> bool {
        reading.paused.is_none() && !self.balancer.is_full()
    }

    fn serve_waiting(&mut self, reading: &mut Reading, admitted: &Admitted) {
        while !self.balancer.closing
            && self.is_served(reading)
            && let Some(received) = reading.take_next()
        {
            self.client_sent(received, reading, admitted);
        }
    }

    /// Queued bytes above which nodes are not read until the client has read most of them.
    fn high_water(&self) -> usize {
        self.context.streams.client_queue.queued_bytes_max / 8
    }

    fn deadline(&self, paused: Option<Instant>) -> Instant {
        let idle = self.balancer.last_activity + self.context.streams.idle;
        let deadlines = [self.balancer.next_deadline(), paused, Some(idle)];
        deadlines.into_iter().flatten().min().unwrap_or(idle)
    }

    fn deadline_reached(&mut self, reading: &mut Reading) {
        let now = environment::now();
        if reading.paused.is_some_and(|until| until <= now) {
            reading.paused = None;
        }
        self.balancer.close_if_idle(now);
        self.balancer.feed(Input::DeadlineReached);
    }

    fn client_sent(&mut self, received: Received, reading: &mut Reading, admitted: &Admitted) {
        self.balancer.last_activity = environment::now();
        if matches!(received, Received::Frame(_)) {
            reading.paused = admitted.message_arrived(self.balancer.last_activity);
            if reading.paused.is_some() {
                self.context.metrics.limit_reached("messages_per_second");
            }
        }
        self.balancer.client_sent(received, reading.heard);
    }
}

async fn sleep_until(deadline: Instant) {
    tokio::time::sleep_until(deadline.into()).await;
}

/// Events of pairs that may wait for the client's task.
const EVENTS_WAITING_MAX: usize = 256;
