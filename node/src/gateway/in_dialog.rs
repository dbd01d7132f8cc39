//! Requests with a To-tag: whose they are, and in which order they are carried out.

use tandem_cluster::Authority;
use tandem_cluster::{Command, SessionKey};
use tandem_sip::{Method, RawMessage, Request};

use super::session::{Progress, QueuedRequest, Session};
use super::{EndReason, Farewell, Gateway, Now, PairId, View};

impl Gateway {
    pub(super) fn request_in_dialog(
        &mut self,
        pair_id: PairId,
        raw: RawMessage,
        request: Request,
        view: View<'_>,
        now: Now,
    ) {
        let Some(pair) = self.pairs.get(pair_id) else {
            return;
        };
        let queued = QueuedRequest::new(raw, request, pair_id, pair, now.instant);
        let key = SessionKey::new(String::from_utf8_lossy(queued.raw.to_tag().unwrap_or_default()));
        match &queued.request.method {
            // RFC 3261 §13.2.2.4: an ACK is matched by its dialog alone, and our 200 is not sent twice.
            Method::Ack => {}
            Method::Cancel => self.answers().refuse(&queued, 481),
            // A session is no subscription (RFC 6665 §4.5.2 wants a dialog for each).
            Method::Subscribe if !self.sessions.contains(&key) => {
                self.resubscribe_arrived(queued, view, now);
            }
            Method::Register
            | Method::Subscribe
            | Method::Message
            | Method::Refer
            | Method::Publish
            | Method::Prack
            | Method::Notify => self.answers().refuse_method(&queued, 405),
            Method::Other(_) => self.answers().refuse_method(&queued, 501),
            Method::Invite | Method::Bye | Method::Info | Method::Update | Method::Options => {
                self.dialog_request_arrived(&key, queued, view, now);
            }
        }
    }

    fn dialog_request_arrived(&mut self, key: &SessionKey, queued: QueuedRequest, view: View<'_>, now: Now) {
        match self.sessions.get(key) {
            Some(session) if session.is_leaving => self.hold_while_leaving(key, queued, now),
            Some(session) if session.is_established() => self.enqueue(key, queued, now),
            // Before its 200 the client cannot know the dialog.
            Some(_) => self.answers().refuse(&queued, 481),
            None => self.hold_request(key, queued, view, now),
        }
    }

    /// The request of a session that this node owns.
    pub(super) fn enqueue(&mut self, key: &SessionKey, queued: QueuedRequest, now: Now) {
        self.note_connection(key, &queued, now);
        if matches!(queued.request.method, Method::Invite | Method::Update) {
            return self.refresh_session(key, &queued, now);
        }
        if queued.request.method == Method::Options {
            return self.answers().options(&queued);
        }
        let requests_max = self.config.requests_per_session_max;
        let session = self.known_mut(key);
        // The front end sends again what it has seen no answer to, while the first copy is still being carried out.
        if let Some(same) = session
            .requests
            .iter_mut()
            .find(|waiting| waiting.is_same_as(&queued))
        {
            let unanswered = same.came_again(queued.pair);
            return self.answers().leave_unanswered(unanswered);
        }
        if session.requests.len() >= requests_max {
            return self.answers().refuse_for_now(&queued);
        }
        session.last_request_at = now.instant;
        session.requests.push_back(queued);
        // A client waits: its session is resumed before those whose clients do not.
        self.watch(key, now);
    }

    /// Events go where the session's last request came from.
    fn note_connection(&mut self, key: &SessionKey, queued: &QueuedRequest, now: Now) {
        let Some(address) = self.pairs.get(queued.pair).map(|pair| pair.client.ip()) else {
            return;
        };
        let session = self.known_mut(key);
        let record = &mut session.record;
        if record.connection == queued.connection && record.client_address == address {
            return;
        }
        (record.connection, record.client_address) = (queued.connection, address);
        let (epoch, connection) = (record.epoch, (queued.connection, address));
        self.proposals.update(key, epoch, now.instant, |update| {
            update.connection = Some(connection)
        });
    }

    /// Begins with the first request of the queue, as often as one is answered at once.
    pub(super) fn carry_out_requests(&mut self, key: &SessionKey, now: Now) {
        loop {
            let Some(session) = self.sessions.get_mut(key) else {
                return;
            };
            let begins = match session.progress {
                Progress::Idle => true,
                Progress::WaitingForLink => session.link.is_settled(),
                Progress::WaitingForMonitor
                | Progress::WaitingForIntent { .. }
                | Progress::WaitingForCommit { .. }
                | Progress::WaitingForCti { .. }
                | Progress::WaitingForEvidence { .. } => false,
            };
            if !begins || self.authority == Authority::Isolated {
                return;
            }
            let Some(queued) = session.requests.front().cloned() else {
                return;
            };
            session.progress = Progress::Idle;
            let before = session.requests.len();
            self.begin_request(key, &queued, now);
            let answered = self
                .sessions
                .get(key)
                .is_some_and(|session| session.requests.len() < before);
            if !answered {
                return;
            }
        }
    }

    fn begin_request(&mut self, key: &SessionKey, queued: &QueuedRequest, now: Now) {
        if queued.request.method == Method::Bye {
            return self.bye_arrived(key, now);
        }
        self.begin_service(key, queued, now);
    }

    fn bye_arrived(&mut self, key: &SessionKey, now: Now) {
        if let Some(queued) = self.take_first(key) {
            self.answers().in_session(key, &queued, 200, "BYE");
        }
        self.end_session(key, EndReason::ByClient, Farewell::Silent, now);
    }

    /// The first request, to be answered now.
    pub(super) fn take_first(&mut self, key: &SessionKey) -> Option<QueuedRequest> {
        let session = self.session_mut(key)?;
        session.progress = Progress::Idle;
        session.requests.pop_front()
    }

    /// A request that waits for the node to be itself again has waited long enough.
    pub(super) fn give_up_waiting(&mut self, key: &SessionKey, now: Now) {
        let timeout = self.config.commit_timeout;
        let overdue = |session: &Session| {
            session.progress.is_stuck()
                && session
                    .requests
                    .front()
                    .is_some_and(|queued| queued.arrived_at + timeout <= now.instant)
        };
        if self.sessions.get(key).is_some_and(overdue)
            && let Some(queued) = self.take_first(key)
        {
            self.answers().refuse_for_now(&queued);
        }
    }

    /// Nobody has said in time who owns what these requests are for.
    pub(super) fn give_up_held(&mut self, now: Now) {
        let mut overdue = self.watchers.take_overdue(now.instant);
        overdue.extend(self.ownership.take_overdue(now.instant));
        for queued in &overdue {
            self.answers().refuse_for_now(queued);
        }
    }

    pub(super) fn push_unwaited(&mut self, command: Command, now: Now) {
        let deadline = now.instant + super::CLOSING_COMMIT_TIMEOUT;
        // What nobody waits for is not worth failing for.
        let _ = self.proposals.push(super::Waiter::Nobody, command, deadline);
    }
}
