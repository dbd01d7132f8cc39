//! Plain layer 4: a connection goes to one node, whole, and ends with it.

use std::io;
use std::sync::Arc;

use tandem_shared::cluster::NodeId;
use tandem_shared::io::shutdown::Stage;
use tandem_shared::io::sip_stream::tune_socket;
use tandem_shared::proxy_protocol::{ProxiedConnection, ProxyHeader, Purpose};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tracing::debug;

use crate::balancer::output::Count;

use super::admission::Admitted;
use super::client_connection::{ClientIdentity, ListenerContext};

/// Connects the client with the node whose turn it is, or with the next one that can be reached.
pub async fn relay<S>(
    context: Arc<ListenerContext>,
    identity: ClientIdentity,
    mut stream: S,
    admitted: Admitted,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Some((node, mut node_stream)) = connect(&context, &identity).await else {
        debug!(client = %identity.address, "no node can be reached");
        return;
    };
    let gauge = context.metrics.pairs.with_label_values(&[&node.to_string()]);
    gauge.inc();
    tokio::select! {
        ended = copy_bidirectional(&mut stream, &mut node_stream) => if let Err(error) = ended {
            debug!(client = %identity.address, %node, %error, "a relayed connection broke");
        },
        () = out_of_reach(&context, node) => debug!(client = %identity.address, %node, "the node is down"),
        () = context.shutdown.reached(Stage::Close) => {}
    }
    gauge.dec();
    drop(admitted);
}

async fn connect(context: &ListenerContext, identity: &ClientIdentity) -> Option<(NodeId, TcpStream)> {
    let table = context.board.table();
    let mut tried: Vec<NodeId> = Vec::new();
    while let Some(node) = context
        .balancer
        .turns
        .opening
        .take(table.turns(), |node| !tried.contains(&node))
    {
        tried.push(node);
        let address = table.node(node)?.address;
        match tokio::time::timeout(context.streams.connect_timeout, open(context, identity, address)).await {
            Ok(Ok(stream)) => {
                context
                    .metrics
                    .count(&context.name, &Count::SessionAssigned(node));
                return Some((node, stream));
            }
            Ok(Err(error)) => debug!(%node, %error, "cannot reach a node"),
            Err(_) => debug!(%node, "cannot reach a node in time"),
        }
        // The prober hears enough of others when its queue is full.
        let _ = context.doubts.try_send(node);
    }
    None
}

async fn open(
    context: &ListenerContext,
    identity: &ClientIdentity,
    address: std::net::SocketAddr,
) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    tune_socket(&stream, context.streams.silence_max)?;
    let header = ProxyHeader::Proxied(ProxiedConnection {
        source: identity.address,
        destination: context.vip,
        transport: context.transport,
        connection_id: Some(identity.connection_id),
        peer: identity.peer.clone(),
        purpose: Purpose::Pair,
    });
    stream.write_all(&header.write()).await?;
    Ok(stream)
}

/// A client that stays on a dead node's connection would wait for its own timeouts: better that it comes back.
async fn out_of_reach(context: &ListenerContext, node: NodeId) {
    let mut board = context.board.subscribe();
    while context.board.table().is_reachable(node) {
        if board.changed().await.is_err() {
            return;
        }
    }
}
