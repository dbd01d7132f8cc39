//! Everything that can happen to a node.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tandem_cluster::Authority;
use tandem_cluster::{
    Applied, ClusterState, IntentOperation, NodeId, SessionKey, SessionRecord, WatcherRecord,
};
use tandem_sip::RawMessage;

use crate::cti::CtiInput;
use crate::directory::Directory;
use crate::presence::PhonesInUse;
use crate::settings::GatewaySettings;

use super::output::OutboundTarget;
use super::pairs::{Pair, PairId};

/// When something happened: for our own waits, and for what is written into replicated records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    pub instant: Instant,
    /// Unix time in milliseconds.
    pub unix_ms: u64,
    /// The cluster's time: for what is written into the state, and compared there or at another node.
    pub cluster_ms: u64,
}

/// A session as the replicated state knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownSession {
    pub record: Box<SessionRecord>,
    /// A MakeCall was begun, and what came of it is not written: its client may ask for it again.
    pub call_begun: bool,
}

impl KnownSession {
    #[must_use]
    pub fn look_up(key: &SessionKey, state: &ClusterState) -> Option<Self> {
        state.session(key).map(|record| Self::of(record, state))
    }

    /// `record` is one of `state`.
    #[must_use]
    pub fn of(record: &SessionRecord, state: &ClusterState) -> Self {
        let makes_call = |operation: &IntentOperation| matches!(operation, IntentOperation::MakeCall { .. });
        Self {
            record: Box::new(record.clone()),
            call_begun: state
                .intents_of(&record.key)
                .any(|(_, intent)| intent.result.is_none() && makes_call(&intent.operation)),
        }
    }
}

/// What the gateway looks at while it handles an input.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// It may be ahead of the changes that the gateway has been told of.
    pub state: &'a ClusterState,
    pub phones: &'a dyn PhonesInUse,
}

#[derive(Debug)]
pub enum Input {
    PairOpened {
        id: PairId,
        pair: Pair,
    },
    PairClosed {
        id: PairId,
    },
    /// Nothing more can be read from the pair, because its client has said all, or framing is lost. The answers that are
    /// due still go out, then `farewell`, then [`super::Output::ClosePair`] follows.
    PairHalfClosed {
        id: PairId,
        farewell: Option<Bytes>,
    },
    /// A well-framed message.
    SipMessage {
        pair: PairId,
        message: RawMessage,
    },
    /// Framing is intact, but the message is not to be read further.
    SipMessageRefused {
        pair: PairId,
        message: RawMessage,
        status: u16,
        reason: &'static str,
    },
    OutboundOpened {
        target: OutboundTarget,
        id: PairId,
        pair: Pair,
    },
    OutboundFailed {
        target: OutboundTarget,
    },

    /// Of the links to the CTI managers. The first of all is [`CtiInput::Started`].
    Cti(CtiInput),

    /// `None`: the outcome of the batch is unknown.
    Committed {
        batch: u64,
        applied: Option<Applied>,
    },
    /// Some node opened a session.
    SessionOpened {
        record: Box<SessionRecord>,
    },
    /// A session has changed hands, or is gone; `session` is how it stands now.
    SessionChanged {
        key: SessionKey,
        session: Option<KnownSession>,
    },
    /// Any number of changes may have gone unheard, or the node has just registered: these are the sessions it owns.
    StateReplaced {
        sessions: Vec<KnownSession>,
    },
    /// A watcher has another owner, or its subscription is over; `watcher` is its record now.
    WatcherChanged {
        key: SessionKey,
        watcher: Option<Box<WatcherRecord>>,
    },
    /// With `StateReplaced`: these are the watchers that the node owns.
    WatchersReplaced {
        watchers: Vec<WatcherRecord>,
    },
    /// Something has happened that the user's presence is made of.
    PresenceChanged {
        user: String,
    },
    /// So much has changed that nobody tells of single users.
    AllPresenceChanged,
    /// The set of nodes is another, so users may have other owners: who publishes for whom is decided again.
    PresenceOwnersChanged,
    /// The state shows this node live no more: what it owned has been given to others.
    DeclaredLost,
    AuthorityChanged(Authority),
    /// Holds for those who come from now on; sessions that are open stay as they are.
    DirectoryChanged(Arc<Directory>),
    /// The session timer holds for sessions that are opened or refreshed from now on.
    SettingsChanged(GatewaySettings),
    /// The session is to be another node's, as soon as nothing is under way in it.
    HandOver {
        key: SessionKey,
        to: NodeId,
    },
    /// A planned stop has begun.
    DrainStarted,
    /// Everything is handed over: the links end.
    Stopped,
    DeadlineReached,
}
