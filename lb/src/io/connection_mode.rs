//! Connection mode: relays each client connection as a whole to one node (layer 4).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tandem_cluster::NodeId;
use tandem_runtime::io::pair_security::PairStream;
use tandem_runtime::io::shutdown::Stage;
use tandem_sip::proxy_protocol::Purpose;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::balancer::output::Count;
use crate::metrics::Metrics;

use super::admission::Admitted;
use super::listener_context::{ClientIdentity, ListenerContext};
use super::paired_connection::reach;

/// Relays a client connection to the node whose turn it is, or to the next one that can be reached.
pub async fn relay<S>(context: Arc<ListenerContext>, identity: ClientIdentity, stream: S, admitted: Admitted)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some((node, node_stream)) = connect(&context, &identity).await else {
        debug!(client = %identity.address, "no node is reachable; closing the client connection");
        return;
    };
    let gauge = context.metrics.pairs.with_label_values(&[&node.to_string()]);
    gauge.inc();
    let relay = Relay::new(context.streams.idle, context.metrics.clone(), &admitted);
    tokio::select! {
        ended = relay.carry(stream, node_stream) => if let Err(error) = ended {
            debug!(client = %identity.address, %node, %error, "relayed connection failed");
        },
        () = relay.idle() => {
            context.metrics.limit_reached("idle");
            debug!(client = %identity.address, %node, "idle timeout; closing the relayed connection");
        }
        () = out_of_reach(&context, node) => {
            debug!(client = %identity.address, %node, "node down; closing the relayed connection");
        }
        () = identity.clone().revoked() => context.note_revoked(&identity),
        () = context.shutdown.reached(Stage::Close) => {}
    }
    gauge.dec();
    drop(admitted);
}

/// The relay between a client and its node, and the time of its last activity.
struct Relay<'a> {
    idle: Duration,
    metrics: Metrics,
    admitted: &'a Admitted,
    last_activity: watch::Sender<Activity>,
}

#[derive(Debug, Clone, Copy)]
struct Activity {
    at: Instant,
    /// One side has closed its direction.
    half_closed: bool,
}

impl<'a> Relay<'a> {
    fn new(idle: Duration, metrics: Metrics, admitted: &'a Admitted) -> Self {
        let began = Activity {
            at: Instant::now(),
            half_closed: false,
        };
        Self {
            idle,
            metrics,
            admitted,
            last_activity: watch::Sender::new(began),
        }
    }

    /// Relays both directions until each is closed (RFC 793 §3.5), or one fails.
    async fn carry<C, N>(&self, client: C, node: N) -> io::Result<()>
    where
        C: AsyncRead + AsyncWrite,
        N: AsyncRead + AsyncWrite,
    {
        let (from_client, to_client) = tokio::io::split(client);
        let (from_node, to_node) = tokio::io::split(node);
        let rate = |count| self.admitted.bytes_arrived(count, Instant::now().into_std());
        tokio::try_join!(
            self.carry_one_way(from_client, to_node, rate),
            self.carry_one_way(from_node, to_client, |_| None),
        )?;
        Ok(())
    }

    /// Relays one direction. A source over its rate is not read, so that its bytes wait in its own socket.
    async fn carry_one_way<R, W>(
        &self,
        mut from: R,
        mut to: W,
        rate: impl Fn(usize) -> Option<std::time::Instant>,
    ) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = from.read(&mut buffer).await?;
            self.note_activity(count == 0);
            if count == 0 {
                return to.shutdown().await;
            }
            to.write_all(&buffer[..count]).await?;
            // TLS may buffer what the socket does not accept at once.
            to.flush().await?;
            if let Some(until) = rate(count) {
                self.metrics.limit_reached("bytes_per_second");
                sleep_until(until.into()).await;
            }
        }
    }

    fn note_activity(&self, ended: bool) {
        self.last_activity.send_if_modified(|activity| {
            activity.at = Instant::now();
            // Only a closed direction wakes `idle`: activity just moves its deadline back.
            let is_news = ended && !activity.half_closed;
            activity.half_closed |= ended;
            is_news
        });
    }

    /// Returns once the relay has been idle for too long.
    async fn idle(&self) {
        loop {
            let activity = *self.last_activity.borrow();
            let idle = match activity.half_closed {
                true => self.idle.min(HALF_CLOSED_IDLE_MAX),
                false => self.idle,
            };
            let deadline = activity.at + idle;
            if Instant::now() >= deadline {
                return;
            }
            let mut changes = self.last_activity.subscribe();
            tokio::select! {
                () = sleep_until(deadline) => {}
                _ = changes.wait_for(|now| now.half_closed != activity.half_closed) => {}
            }
        }
    }
}

async fn connect(context: &ListenerContext, identity: &ClientIdentity) -> Option<(NodeId, PairStream)> {
    let table = context.board.table();
    let header = context.pair_header(identity, Purpose::Pair);
    let mut tried: Vec<NodeId> = Vec::new();
    while let Some(node) = context
        .balancer
        .turns
        .opening
        .take(table.turns(), |node| !tried.contains(&node))
    {
        tried.push(node);
        let address = table.node(node)?.address;
        match reach(node, address, &header, &context.pairs, &context.streams).await {
            Ok(stream) => {
                context
                    .metrics
                    .count(&context.name, &Count::SessionAssigned(node));
                return Some((node, stream));
            }
            Err(error) => debug!(%node, %error, "cannot connect to the node; trying the next one"),
        }
        // A full queue means that the prober has enough checks to do.
        let _ = context.doubts.try_send(node);
    }
    None
}

/// Returns once the node is down. A client left on the connection of a dead node would wait for its own timeouts; closed, it
/// reconnects at once.
async fn out_of_reach(context: &ListenerContext, node: NodeId) {
    let mut board = context.board.subscribe();
    while context.board.table().is_reachable(node) {
        if board.changed().await.is_err() {
            return;
        }
    }
}

const BUFFER_BYTES: usize = 8 << 10;
/// Idle time after one direction has closed: a node answers within 32 s.
const HALF_CLOSED_IDLE_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use tokio::io::{BufStream, DuplexStream};

    use super::super::admission::Admission;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn within<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(PATIENCE, future).await.unwrap()
    }

    struct Ends {
        client: DuplexStream,
        node: DuplexStream,
    }

    /// Both ends of a relay that runs until it ends or is idle. The rate is in bytes per second. The streams may keep what is
    /// written until they are flushed, as TLS does.
    fn carried(idle: Duration, rate: u64) -> (Ends, tokio::task::JoinHandle<&'static str>) {
        let (client, near_client) = tokio::io::duplex(1 << 20);
        let (node, near_node) = tokio::io::duplex(1 << 20);
        let (near_client, near_node) = (BufStream::new(near_client), BufStream::new(near_node));
        let task = tokio::spawn(async move {
            let admitted = Admission::of(1, 1, rate).admit([192, 0, 2, 1].into()).unwrap();
            let metrics = Metrics::new(&prometheus::Registry::new());
            let relay = Relay::new(idle, metrics, &admitted);
            tokio::select! {
                ended = relay.carry(near_client, near_node) => if ended.is_ok() { "over" } else { "broken" },
                () = relay.idle() => "idle",
            }
        });
        (Ends { client, node }, task)
    }

    #[tokio::test]
    async fn each_end_may_say_all_for_itself() {
        let (mut ends, task) = carried(PATIENCE * 10, 0);
        ends.client.write_all(b"asked").await.unwrap();
        ends.client.shutdown().await.unwrap();
        let mut heard = String::new();
        within(ends.node.read_to_string(&mut heard)).await.unwrap();
        ends.node.write_all(b"answered").await.unwrap();
        ends.node.shutdown().await.unwrap();
        within(ends.client.read_to_string(&mut heard)).await.unwrap();
        assert_eq!(heard, "askedanswered");
        assert_eq!(within(task).await.unwrap(), "over");
    }

    #[tokio::test]
    async fn what_is_said_arrives_before_anything_follows_it() {
        let (mut ends, _task) = carried(PATIENCE * 10, 0);
        let mut heard = [0; 5];
        ends.client.write_all(b"asked").await.unwrap();
        within(ends.node.read_exact(&mut heard)).await.unwrap();
        ends.node.write_all(b"reply").await.unwrap();
        within(ends.client.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"reply");
    }

    #[tokio::test]
    async fn a_connection_on_which_nothing_comes_is_ended() {
        let (ends, task) = carried(Duration::from_millis(50), 0);
        assert_eq!(within(task).await.unwrap(), "idle");
        drop(ends);
    }

    #[tokio::test]
    async fn a_source_over_its_rate_is_slowed_and_loses_nothing() {
        let (mut ends, _task) = carried(PATIENCE * 10, 100_000);
        let began = Instant::now();
        // One second's worth passes at once, and the rest takes a second.
        let sent = vec![7; 200_000];
        ends.client.write_all(&sent).await.unwrap();
        let mut received = vec![0; sent.len()];
        within(ends.node.read_exact(&mut received)).await.unwrap();
        assert_eq!(received, sent);
        assert!(began.elapsed() >= Duration::from_millis(100));
    }
}
