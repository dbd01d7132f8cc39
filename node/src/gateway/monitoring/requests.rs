//! Requests to the CTI managers: those of this step, and those that wait for their answer.

use std::collections::{HashMap, VecDeque};

use tandem_cluster::SessionKey;

use crate::csta::Request;
use crate::cti::{CtiConnectionId, MonitorKey, RequestToken};

/// What always holds: every request has a token of its own, and its asker is told of one answer at most.
#[derive(Debug, Default)]
pub(super) struct Requests {
    askers: HashMap<RequestToken, Asker>,
    next: u64,
    asked: VecDeque<Asked>,
}

/// A request that is yet to be handed to its connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) connection: CtiConnectionId,
    pub(super) token: RequestToken,
    pub(super) request: Request,
}

/// Who asked a CTI manager for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asker {
    Session(CtiWaiter),
    /// Those who watch the device.
    MonitorStart(MonitorKey),
    /// Nobody watches it any more.
    MonitorStop(MonitorKey),
    /// Nobody ever did.
    StrayStop {
        connection: CtiConnectionId,
        cross_ref_id: String,
    },
}

/// A session that waits for an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) struct CtiWaiter {
    pub(in crate::gateway) session: SessionKey,
    pub(in crate::gateway) connection: CtiConnectionId,
    pub(in crate::gateway) purpose: CtiPurpose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum CtiPurpose {
    /// The first request of the session's queue.
    Service,
    ResumeSnapshot,
    ResumeParties,
}

impl Requests {
    pub(super) fn ask(
        &mut self,
        connection: CtiConnectionId,
        asker: Asker,
        request: Request,
    ) -> RequestToken {
        let token = RequestToken(self.next);
        self.next += 1;
        self.askers.insert(token, asker);
        self.asked.push_back(Asked {
            connection,
            token,
            request,
        });
        token
    }

    /// The next one to be handed to its connection.
    pub(super) fn next_asked(&mut self) -> Option<Asked> {
        self.asked.pop_front()
    }

    /// The request is answered, or given up. `None`: it was before.
    pub(super) fn finished(&mut self, token: RequestToken) -> Option<Asker> {
        self.askers.remove(&token)
    }

    /// What is still said of monitors of the connection comes too late.
    pub(super) fn forget_monitors_of(&mut self, connection: CtiConnectionId) {
        self.askers
            .retain(|_, asker| !asker.is_about_monitor_of(connection));
    }

    pub(super) fn are_handed_over(&self) -> bool {
        self.asked.is_empty()
    }
}

impl Asker {
    fn is_about_monitor_of(&self, lost: CtiConnectionId) -> bool {
        match self {
            Self::Session(_) => false,
            Self::MonitorStart(key) | Self::MonitorStop(key) => key.connection == lost,
            Self::StrayStop { connection, .. } => *connection == lost,
        }
    }
}
