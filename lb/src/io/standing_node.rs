//! The node's side of an outbound connection, and the identification of the node.

use std::time::Duration;

use tandem_cluster::NodeId;
use tandem_runtime::io::pair_security::PairStream;
use tandem_runtime::io::sip_stream::{Received, SipReader, SipSender, send_queue};
use tandem_sip::proxy_protocol::ProxiedConnection;
use tandem_sip::{Frame, RawMessage};
use tokio::io::ReadHalf;

use crate::metrics::Side;

use super::listener_context::ListenerContext;

/// The node's side of an outbound connection, with the message already read from it.
#[derive(Debug)]
pub struct StandingNode<R> {
    pub node: NodeId,
    pub reader: SipReader<R>,
    pub sender: SipSender,
    pub first_message: Option<RawMessage>,
}

/// Identifies the node that connected: by the source address in its header if that is its SIP listener, else by the Via branch
/// of its first message. `None` when neither names a known node.
pub async fn identify(
    context: &ListenerContext,
    stream: PairStream,
    wanted: &ProxiedConnection,
    rest: &[u8],
) -> Option<StandingNode<ReadHalf<PairStream>>> {
    let streams = &context.streams;
    let counters = context.metrics.stream_counters(Side::Node);
    let (read, write) = tokio::io::split(stream);
    let (sender, writer) = send_queue(write, &streams.node_queue, counters.clone());
    tokio::spawn(writer.run());
    let mut reader =
        SipReader::new(read, streams.framer, streams.deadlines.clone(), counters).with_bytes(rest);
    let table = context.board.table();
    let (node, first_message) = match table.by_address(wanted.source) {
        Some(node) => (node.id, None),
        None => {
            let message = first_message(&mut reader).await?;
            let node = message.via_branch().and_then(NodeId::from_branch);
            let node = node.filter(|&node| table.node(node).is_some())?;
            (node, Some(message))
        }
    };
    Some(StandingNode {
        node,
        reader,
        sender,
        first_message,
    })
}

async fn first_message(reader: &mut SipReader<ReadHalf<PairStream>>) -> Option<RawMessage> {
    match tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, reader.next()).await {
        Ok(Received::Frame(Frame::Message(message))) => Some(message),
        Ok(_) | Err(_) => None,
    }
}

const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
