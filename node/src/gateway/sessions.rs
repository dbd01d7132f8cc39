//! The table of sessions: what enters it and leaves it, and when each of them wants time.

use tandem_cluster::Authority;
use tandem_cluster::{Command, SessionKey};
use tandem_planted::{Bug, planted};

use super::proposals::Waiter;
use super::session::{Session, Stage};
use super::{CLOSING_COMMIT_TIMEOUT, EndReason, Farewell, Gateway, ISOLATED_GRACE, Now, Report};

impl Gateway {
    pub(super) fn session_deadline(&mut self, key: &SessionKey, now: Now) {
        let mut one = self.known_session(key, now);
        if one.session.expires_at <= now.instant {
            return self.session_expired(key, now);
        }
        one.give_up_event();
        one.answer_trying();
        one.give_up_waiting();
    }

    /// RFC 4028 §10: an expired session ends with BYE, unless another node may own it by now.
    fn session_expired(&mut self, key: &SessionKey, now: Now) {
        if self.authority == Authority::Isolated && !planted(Bug::IsolatedSessionExpires) {
            self.sessions.known_mut(key).expires_at = now.instant + ISOLATED_GRACE;
            return;
        }
        self.end_session(key, EndReason::Expired, Farewell::Bye, now);
    }

    /// The dialog is over, and this node says so.
    pub(super) fn end_session(&mut self, key: &SessionKey, reason: EndReason, farewell: Farewell, now: Now) {
        if farewell == Farewell::Bye {
            self.known_session(key, now).send_bye();
        }
        let session = self.remove_session(key);
        let command = Command::SessionClosed {
            key: key.clone(),
            epoch: session.epoch(),
        };
        self.proposals.forget(key);
        if !self
            .proposals
            .push(Waiter::Nobody, command, now.instant + CLOSING_COMMIT_TIMEOUT)
        {
            // Without room the record goes when another node adopts it and its timer runs out.
            self.report(Report::EventDropped);
        }
        if let Stage::Opening(opening) = &session.stage {
            self.answers().refuse_opening_for_now(&opening.request);
        }
        for queued in &session.requests {
            self.answers().in_session(key, queued, 481, "closed");
        }
        self.report(Report::SessionEnded {
            key: key.clone(),
            user: session.record.user,
            reason,
        });
    }

    /// Takes the session out of every table; a monitor that nobody else needs is stopped.
    ///
    /// # Panics
    /// When it is not there: a session ends once.
    pub(super) fn remove_session(&mut self, key: &SessionKey) -> Session {
        let session = self.sessions.remove(key);
        self.monitoring.unwatch(key);
        self.unreplicated.forget(key);
        self.pathless.remove(key);
        self.touched.insert(key.clone());
        session.expect("a session is taken out once")
    }

    pub(super) fn insert_session(&mut self, session: Session) {
        let key = session.key().clone();
        self.touched.insert(key);
        self.sessions.insert(session);
    }
}
