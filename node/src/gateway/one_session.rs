//! One session of this node, and all that work on it may touch.
//!
//! Owns nothing: it borrows from the gateway for as long as one thing happens to one session. What always holds: the
//! session is there and this node's; it is looked at again before the step ends. Who has it watch its device calls
//! [`Gateway::take_notices`] afterwards, because what comes of that may concern other sessions of the line.

use rand::rngs::StdRng;
use tandem_cluster::command::SessionUpdate;
use tandem_cluster::{Authority, Command, SessionKey};

use crate::csta;
use crate::cti::{CtiConnectionId, RequestToken};

use super::answering::Answers;
use super::monitoring::{CtiPurpose, CtiWaiter, Monitoring};
use super::pairs::Pairs;
use super::proposals::{Proposals, Waiter};
use super::session::Session;
use super::{Gateway, GatewayConfig, Now, Output, Report};

pub(super) struct OneSession<'a> {
    pub(super) now: Now,
    pub(super) session: &'a mut Session,
    pub(super) authority: Authority,
    pub(super) config: &'a GatewayConfig,
    pub(super) pairs: &'a mut Pairs,
    pub(super) proposals: &'a mut Proposals,
    pub(super) monitoring: &'a mut Monitoring,
    pub(super) outputs: &'a mut Vec<Output>,
    pub(super) rng: &'a mut StdRng,
}

impl Gateway {
    /// `None`: the session is gone, or another node's by now.
    pub(super) fn one_session(&mut self, key: &SessionKey, now: Now) -> Option<OneSession<'_>> {
        let session = self.sessions.get_mut(key)?;
        self.touched.insert(key.clone());
        Some(OneSession {
            now,
            session,
            authority: self.authority,
            config: &self.config,
            pairs: &mut self.pairs,
            proposals: &mut self.proposals,
            monitoring: &mut self.monitoring,
            outputs: &mut self.outputs,
            rng: &mut self.rng,
        })
    }

    /// The session, which the caller has found before in the same step.
    ///
    /// # Panics
    /// When it is not there: the gateway has lost track of what it owns.
    pub(super) fn known_session(&mut self, key: &SessionKey, now: Now) -> OneSession<'_> {
        let session = self.one_session(key, now);
        session.expect("a handler is called only for a session of this node")
    }
}

impl OneSession<'_> {
    pub(super) fn answers(&mut self) -> Answers<'_> {
        Answers::new(self.config, self.pairs, self.rng, self.outputs)
    }

    pub(super) fn report(&mut self, report: Report) {
        self.outputs.push(Output::Report(report));
    }

    /// Asks a CTI manager for something on behalf of the session.
    pub(super) fn ask(
        &mut self,
        connection: CtiConnectionId,
        purpose: CtiPurpose,
        request: csta::Request,
    ) -> RequestToken {
        let waiter = CtiWaiter {
            session: self.session.key().clone(),
            connection,
            purpose,
        };
        self.monitoring.ask(waiter, request)
    }

    /// Has something written that nobody waits for.
    pub(super) fn update(&mut self, change: impl FnOnce(&mut SessionUpdate)) {
        let (key, epoch) = (self.session.key(), self.session.epoch());
        self.proposals.update(key, epoch, self.now.instant, change);
    }

    /// Has a command written that the waiter is told of, in time or not. `false`: there is no room for it.
    #[must_use]
    pub(super) fn propose(&mut self, waiter: Waiter, command: Command) -> bool {
        let deadline = self.now.instant + self.config.commit_timeout;
        self.proposals.push(waiter, command, deadline)
    }
}
