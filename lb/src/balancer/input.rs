//! Everything that can happen to a client connection.

use std::fmt;

use tandem_cluster::NodeId;
use tandem_sip::RawMessage;

use super::node_table::SharedTable;
use super::pending::EntryId;

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// The client sent a whole, well-framed message.
    ClientMessage(RawMessage),
    /// The client sent a well-framed message that must not be passed on.
    ClientMessageRefused {
        message: RawMessage,
        status: u16,
    },
    /// Framing of the client's bytes is lost.
    ClientFramingLost {
        answer: Option<(RawMessage, u16)>,
    },
    /// RFC 5626 §4.4.1: CRLFCRLF.
    ClientPinged,
    /// The client will send nothing more; it may still be reading.
    ClientHalfClosed,
    /// The client's connection is gone.
    ClientGone,
    /// The pair stands: its header and what waited for it are on their way.
    PairOpened(PairId),
    /// The node wrote a whole, well-framed message.
    PairMessage {
        pair: PairId,
        message: RawMessage,
    },
    PairPinged(PairId),
    /// The pair is gone, and everything that the node had written before has been reported.
    PairLost {
        pair: PairId,
        loss: PairLoss,
    },
    /// The pair's queue could not take a message. `entry` is the request that it was.
    PairQueueFull {
        pair: PairId,
        entry: Option<EntryId>,
    },
    /// From now on what nodes write is not read, because the client takes nothing; or it is again.
    NodesRead(bool),
    /// The set of nodes or the health of one has changed.
    NodeTableChanged(SharedTable),
    /// The process is to stop: finish what is outstanding, then close.
    DrainStarted,
    DeadlineReached,
}

/// One connection to a node on behalf of the client; never used again after it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PairId(pub u32);

impl fmt::Display for PairId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "pair {}", self.0)
    }
}

/// How a pair came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairLoss {
    /// It never stood: refused, timed out, unreachable. Nothing was sent.
    ConnectFailed,
    /// We had no descriptor left for it. Nothing was sent, and nothing is known of the node.
    OutOfDescriptors,
    /// The node closed or reset it, or writing to it made no progress.
    Broken,
    /// We drained it because its node is out of service or does not answer.
    Drained,
    /// The node's bytes cannot be cut into messages.
    FramingLost,
}

/// What a pair is for, as its PROXY header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PairPurpose {
    /// Everything in its first attempt, both ways.
    Ordinary,
    /// Requests that may have been seen before, and their answers: nothing else.
    Resent,
}

/// The node end of an outbound connection, which stands from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandingPair {
    pub pair: PairId,
    pub node: NodeId,
}
