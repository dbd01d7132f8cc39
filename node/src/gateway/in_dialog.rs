//! Requests with a To-tag: whose they are, and in which order they are carried out.

use tandem_cluster::{Authority, SessionKey};
use tandem_sip::{Method, RawMessage, Request};

use super::one_session::OneSession;
use super::session::{QueuedRequest, Session};
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
        let pair = self.pairs.known(pair_id);
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
        self.known_session(key, now).enqueue(queued);
        self.take_notices(now);
    }

    /// Begins with the first request of the queue, as often as one is answered at once.
    pub(super) fn carry_out_requests(&mut self, key: &SessionKey, now: Now) {
        if self.authority == Authority::Isolated {
            return;
        }
        while let Some(queued) = self.sessions.get_mut(key).and_then(Session::begin_next) {
            let before = self.sessions.known(key).requests.len();
            self.begin_request(key, &queued, now);
            let session = self.sessions.get(key);
            let is_answered = session.is_some_and(|session| session.requests.len() < before);
            if !is_answered {
                return;
            }
        }
    }

    fn begin_request(&mut self, key: &SessionKey, queued: &QueuedRequest, now: Now) {
        let mut one = self.known_session(key, now);
        if refreshes(queued) {
            let queued = one.session.take_first();
            return one.refresh(&queued);
        }
        if queued.request.method != Method::Bye {
            one.begin_service(queued);
            return self.take_notices(now);
        }
        let queued = one.session.take_first();
        self.answers().in_session(key, &queued, 200, "BYE");
        self.end_session(key, EndReason::ByClient, Farewell::Silent, now);
    }

    /// Nobody has said in time who owns what these requests are for.
    pub(super) fn give_up_held(&mut self, now: Now) {
        let mut overdue = self.watchers.take_overdue(now.instant);
        overdue.extend(self.ownership.take_overdue(now.instant));
        for queued in &overdue {
            self.answers().refuse_for_now(queued);
        }
    }
}

impl OneSession<'_> {
    fn enqueue(&mut self, queued: QueuedRequest) {
        self.note_connection(&queued);
        // Where somebody else may own the session by now, it is that one's to refresh: the request waits with the others.
        if refreshes(&queued) && self.authority != Authority::Isolated {
            return self.refresh(&queued);
        }
        if queued.request.method == Method::Options {
            return self.answers().options(&queued);
        }
        let requests = &mut self.session.requests;
        // The front end sends again what it has seen no answer to, while the first copy is still being carried out.
        if let Some(same) = requests.iter_mut().find(|waiting| waiting.is_same_as(&queued)) {
            let unanswered = same.came_again(queued.pair);
            return self.answers().leave_unanswered(unanswered);
        }
        if requests.len() >= self.config.requests_per_session_max {
            return self.answers().refuse_for_now(&queued);
        }
        requests.push_back(queued);
        self.session.last_request_at = self.now.instant;
        // A client waits: its session is resumed before those whose clients do not.
        self.watch();
    }

    /// Events go where the session's last request came from, if that still stands.
    fn note_connection(&mut self, queued: &QueuedRequest) {
        let record = &mut self.session.record;
        if let Some(pair) = self.pairs.get(queued.pair) {
            let origin = (queued.connection, pair.client.ip());
            if origin != (record.connection, record.client_address) {
                (record.connection, record.client_address) = origin;
                self.update(|update| update.connection = Some(origin));
            }
        }
    }

    /// A request that waits for the node to be itself again has waited long enough.
    pub(super) fn give_up_waiting(&mut self) {
        let (now, wait) = (self.now.instant, self.config.commit_timeout);
        let is_overdue = |queued: &QueuedRequest| queued.arrived_at + wait <= now;
        let first = self.session.requests.front();
        if self.session.progress.is_stuck() && first.is_some_and(is_overdue) {
            let queued = self.session.take_first();
            self.answers().refuse_for_now(&queued);
        }
    }
}

/// RFC 4028 §7.4: the session timer begins anew.
fn refreshes(queued: &QueuedRequest) -> bool {
    matches!(queued.request.method, Method::Invite | Method::Update)
}
