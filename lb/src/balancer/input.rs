//! The inputs of the balancer.

use std::fmt;

use tandem_cluster::NodeId;
use tandem_sip::RawMessage;

use super::node_table::SharedTable;
use super::pending::EntryId;

/// Something that happened to a client connection.
#[derive(Debug, Clone)]
pub enum Input {
    /// The client sent a whole, well-framed message.
    ClientMessage(RawMessage),
    /// The client sent a well-framed message that must not be forwarded.
    ClientMessageRefused {
        message: RawMessage,
        status: u16,
    },
    /// Framing of the client's bytes is lost.
    ClientFramingLost {
        answer: Option<(RawMessage, u16)>,
    },
    /// The client sent a keep-alive ping, CRLFCRLF (RFC 5626 §4.4.1).
    ClientPinged,
    /// The client will send nothing more; it may still be reading.
    ClientHalfClosed,
    /// The client's connection is gone.
    ClientGone,
    /// The pair is open: its header and the messages that waited for it are being sent.
    PairOpened(PairId),
    /// The node wrote a whole, well-framed message.
    PairMessage {
        pair: PairId,
        message: RawMessage,
    },
    /// The node sent a keep-alive ping.
    PairPinged(PairId),
    /// The pair was lost, after everything that the node had written was reported.
    PairLost {
        pair: PairId,
        loss: PairLoss,
    },
    /// The pair's queue was full for a message; `entry` is the request, if it was one.
    PairQueueFull {
        pair: PairId,
        entry: Option<EntryId>,
    },
    /// Reading from the nodes stopped (`false`), because the client does not read, or resumed (`true`).
    NodesRead(bool),
    /// The set of nodes or the health of one has changed.
    NodeTableChanged(SharedTable),
    /// The process is shutting down: finish what is outstanding, then close.
    DrainStarted,
    DeadlineReached,
}

/// The number of a pair within its client connection; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PairId(pub u32);

impl fmt::Display for PairId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "pair {}", self.0)
    }
}

/// Why a pair was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairLoss {
    /// It was never open: refused, timed out, unreachable. Nothing was sent.
    ConnectFailed,
    /// The front end had no file descriptor left. Nothing was sent, and nothing is known about the node.
    OutOfDescriptors,
    /// The node closed or reset it, or writing to it made no progress.
    Broken,
    /// The front end drained it because its node is out of service or does not answer.
    Drained,
    /// The node's bytes cannot be cut into messages.
    FramingLost,
}

/// What a pair is for, as its PROXY header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PairPurpose {
    /// Messages in their first attempt, both ways.
    Ordinary,
    /// Only requests that a node may have seen before, and their answers.
    Resent,
}

/// The node's side of an outbound connection, open from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandingPair {
    pub pair: PairId,
    pub node: NodeId,
}
