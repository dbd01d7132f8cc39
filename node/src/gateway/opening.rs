//! From an INVITE without To-tag to a committed session.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tandem_cluster::Authority;
use tandem_cluster::{Applied, Command, Epoch, MonitorRecord, OpeningKey, SessionKey, SessionRecord};
use tandem_planted::{Bug, planted};
use tandem_sip::{Method, RawMessage, Request, Uri};

use crate::csta::{self, CstaMessage, SystemRequest, SystemStatus};
use crate::cti::CtiConnectionId;
use crate::directory::{AuthenticationError, LineAppearance, LineError, LineUri};
use crate::sip::dialog::{self, Caller};
use crate::sip::session_timer::{self, TimerGrant, TimerOffer};
use crate::sip::transaction;

use super::answering::Answers;
use super::one_session::OneSession;
use super::proposals::{Outcome, Waiter};
use super::session::{Link, Opening, QueuedRequest, Session, Stage};
use super::without_quorum::UNREPLICATED_COMMIT_TIMEOUT;
use super::{EndReason, Farewell, Gateway, Now, Output, Pair, PairId, Report, View};

/// Why an opening INVITE, or an OPTIONS before it, is refused (docs/spec/uacsta.md §1.8). Never 503, which takes the next
/// hop out of service for all clients, and never 408.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Refused {
    Plainly(u16),
    UnknownExtension(String),
    WrongContentType,
    IntervalTooSmall(u32),
    NotNow,
}

impl Gateway {
    pub(super) fn request_arrived(
        &mut self,
        pair: PairId,
        raw: RawMessage,
        request: Request,
        view: View<'_>,
        now: Now,
    ) {
        if request.method != Method::Ack {
            self.pairs.asked(pair);
        }
        if raw.to_tag().is_some() {
            return self.request_in_dialog(pair, raw, request, view, now);
        }
        match &request.method {
            Method::Invite => self.invite_arrived(pair, raw, request, now),
            Method::Ack => {}
            Method::Cancel => self.cancel_arrived(pair, &raw, now),
            Method::Subscribe => self.subscribe_arrived(pair, raw, request, view, now),
            Method::Options => self.options_arrived(pair, &raw, &request),
            // RFC 3261 §12.2.2: these mean nothing outside a dialog.
            Method::Bye | Method::Info | Method::Update | Method::Prack | Method::Notify => {
                self.answers().plainly(pair, &raw, 481, "outside_dialog", &[]);
            }
            Method::Register | Method::Message | Method::Refer | Method::Publish => {
                self.answers()
                    .plainly(pair, &raw, 405, "method", &[("Allow", transaction::ALLOW)]);
            }
            Method::Other(_) => {
                self.answers()
                    .plainly(pair, &raw, 501, "method", &[("Allow", transaction::ALLOW)])
            }
        }
    }

    /// RFC 3261 §11.2: the answer is what an INVITE would get, as far as it hangs on the head alone.
    fn options_arrived(&mut self, pair: PairId, raw: &RawMessage, request: &Request) {
        if let Err(refused) = check_head(request) {
            let (status, header) = self.answers().refusal(&refused);
            return self
                .answers()
                .plainly(pair, raw, status, "OPTIONS", &as_headers(header.as_ref()));
        }
        let allow = [
            ("Allow", transaction::ALLOW),
            ("Allow-Events", transaction::ALLOW_EVENTS),
            ("Accept", csta::CONTENT_TYPE),
            ("Supported", "timer"),
        ];
        self.answers().plainly(pair, raw, 200, "OPTIONS", &allow);
    }

    fn invite_arrived(&mut self, pair_id: PairId, raw: RawMessage, request: Request, now: Now) {
        let pair = self.pairs.known(pair_id).clone();
        let queued = QueuedRequest::new(raw, request, pair_id, &pair, now.instant);
        match self.check_invite(&queued, &pair, now) {
            Ok((opening, record)) => self.open_session(opening, record, queued, now),
            Err(refused) => self.answers().refuse_invite(&queued, &refused),
        }
    }

    fn check_invite(
        &mut self,
        queued: &QueuedRequest,
        pair: &Pair,
        now: Now,
    ) -> Result<(OpeningKey, SessionRecord), Refused> {
        let request = &queued.request;
        check_head(request)?;
        let line = opening_line(request)?;
        let grant = session_timer::negotiate(timer_offer(request), self.config.session_timer_secs);
        let interval_secs = granted_secs(grant)?;
        let from = request.headers.get("From").unwrap_or_default().into_owned();
        let caller = Caller::of(&from).map_err(|_| Refused::Plainly(400))?;
        let (user, appearance) = self.line_appearance(&caller, &line)?;
        let dialog = dialog::dialog_of(request, pair.local_target()).map_err(|_| Refused::Plainly(400))?;
        self.check_room(now)?;
        let opening = opening_key(queued, &caller);
        let key = SessionKey::new(self.answers().new_tag());
        let cross_ref_id = self.new_cross_ref_id();
        let record = SessionRecord {
            key,
            dialog: dialog.into(),
            user,
            line,
            device: appearance.device_id,
            monitor: MonitorRecord {
                cross_ref_id,
                active: false,
            },
            owner: self.config.node,
            epoch: Epoch::FIRST,
            connection: pair.connection,
            client_address: pair.client.ip(),
            expires_at_ms: now.cluster_ms + session_timer::lifetime_ms(interval_secs),
            session_interval_secs: interval_secs,
            cti_connection: None,
            calls: BTreeMap::new(),
        };
        Ok((opening, record))
    }

    /// RCC-2, RCC-3: who the user is, and which of their phones is meant.
    fn line_appearance(&self, caller: &Caller, line: &str) -> Result<(String, LineAppearance), Refused> {
        let user = self
            .directory
            .authenticate(&caller.uri)
            .map_err(|error| authentication_status(&error))?;
        let line = LineUri::parse(line).map_err(|_| Refused::Plainly(404))?;
        let appearance = self
            .directory
            .line_appearance(user, &line)
            .map_err(|error| line_status(&error))?;
        Ok((user.id.clone(), appearance))
    }

    fn check_room(&self, now: Now) -> Result<(), Refused> {
        let may_open = self.authority == Authority::Quorum || self.unreplicated.may_open(now.instant);
        if !may_open || self.draining || self.sessions.len() >= self.config.sessions_max {
            return Err(Refused::NotNow);
        }
        Ok(())
    }

    fn open_session(
        &mut self,
        opening: OpeningKey,
        mut record: SessionRecord,
        queued: QueuedRequest,
        now: Now,
    ) {
        // The same request again, while the first one waits: the answer goes where it came from last.
        if let Some(known) = self.sessions.opened_by(&opening).cloned() {
            return self.known_session(&known, now).opening_came_again(&queued);
        }
        let Some(connection) = self.monitoring.next_in_service() else {
            return self.answers().refuse_opening_for_now(&queued);
        };
        record.cti_connection = self.config.cti_connections.get(connection.0).cloned();
        let command = Command::SessionOpened {
            opening: opening.clone(),
            record: Box::new(record.clone()),
            decided_at_ms: now.cluster_ms,
        };
        let key = record.key.clone();
        let unreplicated = self.authority == Authority::NoLeader;
        let (waiter, deadline) = if unreplicated {
            (
                Waiter::Merge(key.clone()),
                now.instant + UNREPLICATED_COMMIT_TIMEOUT,
            )
        } else {
            (
                Waiter::Opening(key.clone()),
                now.instant + self.config.commit_timeout,
            )
        };
        if !self.proposals.push(waiter, command, deadline) {
            return self.answers().refuse_opening_for_now(&queued);
        }
        let stage = Stage::Opening(Box::new(Opening {
            request: queued,
            key: opening,
            trying_at: Some(now.instant + transaction::TRYING_AFTER),
        }));
        let link = Link::Up { connection };
        let mut session = Session::new(record, stage, link, now.instant, now.cluster_ms);
        session.replicated = !unreplicated;
        self.insert_session(session);
        if unreplicated {
            self.unreplicated.opened(&key);
        }
        if unreplicated || planted(Bug::AnswerBeforeCommit) {
            self.establish(&key, !unreplicated, now);
        }
    }

    pub(super) fn opening_committed(&mut self, key: &SessionKey, outcome: Outcome, now: Now) {
        match outcome {
            Outcome::Applied(Applied::Done) => self.establish(key, true, now),
            Outcome::Applied(Applied::AlreadyOpened { session, .. }) if session == *key => {
                self.establish(key, true, now);
            }
            Outcome::Applied(Applied::AlreadyOpened { record, .. }) => self.answer_as_before(key, record),
            Outcome::Applied(_) | Outcome::TimedOut => self.abandon_opening(key, now),
        }
    }

    /// The session stands: the client is told so.
    fn establish(&mut self, key: &SessionKey, replicated: bool, now: Now) {
        let Some(mut one) = self.one_session(key, now) else {
            // Cancelled meanwhile.
            return self.close_record(key, Epoch::FIRST, now);
        };
        let Some(opening) = one.establish(replicated) else {
            return;
        };
        self.sessions.opening_answered(&opening);
        if let Some(old) = self.sessions.claim_client(key) {
            self.end_session(&old, EndReason::Replaced, Farewell::Silent, now);
        }
        self.limit_sessions_of_line(key, now);
    }

    /// RCC-16: one too many on the line, and the oldest idle one goes.
    fn limit_sessions_of_line(&mut self, key: &SessionKey, now: Now) {
        let on_line = self.sessions.on_the_line_of(key);
        if on_line.len() <= self.config.sessions_per_line_max {
            return;
        }
        let oldest = on_line
            .into_iter()
            .filter(|session| session.key() != key && session.is_idle())
            .min_by_key(|session| session.last_request_at)
            .map(|session| session.key().clone());
        if let Some(oldest) = oldest {
            self.end_session(&oldest, EndReason::TooMany, Farewell::Bye, now);
        }
    }

    /// CL-2, LB-8: another node has opened this session, and died before its client heard of it.
    fn answer_as_before(&mut self, key: &SessionKey, record: Option<Box<SessionRecord>>) {
        match (self.forget_opening(key), record) {
            (Some(opening), Some(record)) => self.answers().session_stands(&opening.request, &record),
            (Some(opening), None) => self.answers().refuse_opening_for_now(&opening.request),
            (None, _) => {}
        }
    }

    fn abandon_opening(&mut self, key: &SessionKey, now: Now) {
        if let Some(opening) = self.forget_opening(key) {
            self.answers().refuse_opening_for_now(&opening.request);
            // It may have been committed all the same.
            self.close_record(key, Epoch::FIRST, now);
        }
    }

    /// Takes out a session that is not to be. `None`: it is gone, or it stands, because another node has taken it over
    /// and given it back.
    fn forget_opening(&mut self, key: &SessionKey) -> Option<Box<Opening>> {
        if self.sessions.get(key)?.is_established() {
            return None;
        }
        match self.remove_session(key).stage {
            Stage::Opening(opening) => Some(opening),
            Stage::Established => None,
        }
    }

    pub(super) fn close_record(&mut self, key: &SessionKey, epoch: Epoch, now: Now) {
        let command = Command::SessionClosed {
            key: key.clone(),
            epoch,
        };
        let deadline = now.instant + super::CLOSING_COMMIT_TIMEOUT;
        // Without room the record stays until its session timer runs out.
        let _ = self.proposals.push(Waiter::Nobody, command, deadline);
    }

    /// RFC 3261 §9.2.
    fn cancel_arrived(&mut self, pair: PairId, raw: &RawMessage, now: Now) {
        let Some(key) = self.sessions.opened_in(&raw.transaction_key()) else {
            return self.answers().plainly(pair, raw, 481, "CANCEL", &[]);
        };
        self.answers().plainly(pair, raw, 200, "CANCEL", &[]);
        if let Some(opening) = self.forget_opening(&key) {
            self.answers().no_session(&opening.request, 487, &[]);
            self.close_record(&key, Epoch::FIRST, now);
        }
    }
}

impl OneSession<'_> {
    /// The same opening request again, while the first one waits: the answer goes where it came by last, too.
    fn opening_came_again(&mut self, queued: &QueuedRequest) {
        if let Stage::Opening(first) = &mut self.session.stage {
            let unanswered = first.request.came_again(queued.pair);
            self.answers().leave_unanswered(unanswered);
        }
    }

    /// Answers the opening request, and returns which it was. `None`: it was answered before.
    fn establish(&mut self, replicated: bool) -> Option<OpeningKey> {
        let stage = std::mem::replace(&mut self.session.stage, Stage::Established);
        let Stage::Opening(opening) = stage else {
            return None;
        };
        let record = self.session.record.clone();
        let pair = self.pairs.get(opening.request.pair);
        let subject = pair.and_then(|pair| pair.subject.clone());
        let connection = self.session.link.connection();
        self.answers().session_stands(&opening.request, &record);
        self.report(Report::SessionStarted {
            key: record.key,
            user: record.user,
            line: record.line,
            device: record.device,
            connection: connection.unwrap_or(CtiConnectionId(0)),
            replicated,
            subject,
        });
        Some(opening.key)
    }

    pub(super) fn answer_trying(&mut self) {
        if let Stage::Opening(opening) = &mut self.session.stage
            && opening.trying_at.is_some_and(|at| at <= self.now.instant)
        {
            opening.trying_at = None;
            let bytes = transaction::trying(&opening.request.raw);
            let pair = opening.request.pair;
            self.outputs.push(Output::Send { pair, bytes });
        }
    }

    /// A re-INVITE or UPDATE of an established session (RFC 4028 §9): the same To-tag, the monitor stays.
    pub(super) fn refresh(&mut self, queued: &QueuedRequest) {
        let offer = timer_offer(&queued.request);
        let interval_secs =
            match granted_secs(session_timer::negotiate(offer, self.config.session_timer_secs)) {
                Ok(interval_secs) => interval_secs,
                Err(refused) => return self.answers().refuse_invite(queued, &refused),
            };
        let lifetime_ms = session_timer::lifetime_ms(interval_secs);
        let expires_at_ms = self.now.cluster_ms + lifetime_ms;
        self.session.expires_at = self.now.instant + Duration::from_millis(lifetime_ms);
        let record = &mut self.session.record;
        record.session_interval_secs = interval_secs;
        record.expires_at_ms = expires_at_ms;
        let target = dialog::remote_target(&queued.request.headers);
        let target = target.filter(|target| *target != record.dialog.remote_target);
        if let Some(target) = &target {
            Arc::make_mut(&mut record.dialog).remote_target.clone_from(target);
        }
        let record = record.clone();
        self.update(|update| {
            update.expires_at_ms = Some(expires_at_ms);
            update.remote_target = target.or_else(|| update.remote_target.take());
        });
        self.answers().session_stands(queued, &record);
    }
}

impl Answers<'_> {
    /// The session stands, or stands for longer.
    fn session_stands(&mut self, queued: &QueuedRequest, record: &SessionRecord) {
        let response = csta::Response::RequestSystemStatus {
            status: SystemStatus::Normal,
        };
        let (service, body) = if queued.request.method == Method::Update {
            ("UPDATE", None)
        } else {
            ("INVITE", Some(response.encode()))
        };
        let interval_secs = record.session_interval_secs;
        let bytes = transaction::session_answer(&queued.request, record, interval_secs, body.as_deref());
        self.send(queued, bytes, service, 200);
    }

    /// No session comes of an INVITE.
    fn no_session(&mut self, queued: &QueuedRequest, status: u16, extra_headers: &[(&str, &str)]) {
        let tag = self.new_tag();
        let bytes = transaction::plain(&queued.raw, status, &tag, extra_headers);
        self.send(queued, bytes, "INVITE", status);
    }

    fn refuse_invite(&mut self, queued: &QueuedRequest, refused: &Refused) {
        let (status, header) = self.refusal(refused);
        self.no_session(queued, status, &as_headers(header.as_ref()));
    }

    /// The session is not to be, through no fault of its client.
    pub(super) fn refuse_opening_for_now(&mut self, queued: &QueuedRequest) {
        self.refuse_invite(queued, &Refused::NotNow);
    }

    /// Status, and the header that goes with it.
    fn refusal(&mut self, refused: &Refused) -> (u16, Option<(&'static str, String)>) {
        match refused {
            Refused::Plainly(status) => (*status, None),
            Refused::UnknownExtension(tags) => (420, Some(("Unsupported", tags.clone()))),
            Refused::WrongContentType => (415, Some(("Accept", csta::CONTENT_TYPE.to_owned()))),
            Refused::IntervalTooSmall(secs) => (422, Some(("Min-SE", secs.to_string()))),
            Refused::NotNow => (480, Some(("Retry-After", self.retry_after()))),
        }
    }
}

fn as_headers<'a>(header: Option<&'a (&'static str, String)>) -> Vec<(&'a str, &'a str)> {
    header
        .map(|(name, value)| (*name, value.as_str()))
        .into_iter()
        .collect()
}

/// RFC 3261 §8.2.2: what can be said of a request before its body is read.
fn check_head(request: &Request) -> Result<(), Refused> {
    check_scheme(request)?;
    check_extensions(request)
}

/// RFC 3261 §8.2.2.1. What is no URI at all passes: whom a request is for, its body says.
fn check_scheme(request: &Request) -> Result<(), Refused> {
    match Uri::parse(&request.uri) {
        Ok(Uri::Other(_)) => Err(Refused::Plainly(416)),
        Ok(Uri::Sip(_) | Uri::Tel(_)) | Err(_) => Ok(()),
    }
}

/// RFC 3261 §8.2.2.3.
fn check_extensions(request: &Request) -> Result<(), Refused> {
    let unknown: Vec<String> = request
        .headers
        .get_all("Require")
        .iter()
        .filter(|tag| !tag.is_empty() && !tag.eq_ignore_ascii_case("timer"))
        .map(|tag| tag.to_string())
        .collect();
    if unknown.is_empty() {
        Ok(())
    } else {
        Err(Refused::UnknownExtension(unknown.join(", ")))
    }
}

/// The line that the body opens the session for.
fn opening_line(request: &Request) -> Result<String, Refused> {
    check_content(request)?;
    match csta::decode(&request.body) {
        Ok(CstaMessage::Request(csta::Request::System(SystemRequest::RequestSystemStatus {
            line: Some(line),
        }))) => Ok(line),
        Ok(
            CstaMessage::Request(_)
            | CstaMessage::Response(_)
            | CstaMessage::Error(_)
            | CstaMessage::Event(_)
            | CstaMessage::OtherEvent { .. }
            | CstaMessage::OtherResponse { .. }
            | CstaMessage::ApplicationSession(_),
        )
        | Err(_) => Err(Refused::Plainly(400)),
    }
}

fn check_content(request: &Request) -> Result<(), Refused> {
    if request.body.is_empty() {
        return Err(Refused::Plainly(400));
    }
    if is_csta(request) {
        Ok(())
    } else {
        Err(Refused::WrongContentType)
    }
}

/// Whether the body is marked as CSTA, whatever parameters follow.
pub(super) fn is_csta(request: &Request) -> bool {
    request.headers.get("Content-Type").is_some_and(|value| {
        let media_type = value.split(';').next().unwrap_or_default();
        media_type.trim().eq_ignore_ascii_case(csta::CONTENT_TYPE)
    })
}

fn timer_offer(request: &Request) -> TimerOffer {
    let headers = &request.headers;
    let mut tags = headers.get_all("Supported");
    tags.extend(headers.get_all("Require"));
    TimerOffer::read(
        tags.iter().map(|tag| &**tag),
        headers.get("Session-Expires").as_deref(),
        headers.get("Min-SE").as_deref(),
    )
}

fn granted_secs(grant: TimerGrant) -> Result<u32, Refused> {
    match grant {
        TimerGrant::Refreshed { interval_secs } => Ok(interval_secs),
        TimerGrant::Idle => Ok(0),
        TimerGrant::TooSmall { min_se_secs } => Err(Refused::IntervalTooSmall(min_se_secs)),
    }
}

fn authentication_status(error: &AuthenticationError) -> Refused {
    Refused::Plainly(match error {
        AuthenticationError::NotASipUri
        | AuthenticationError::UnknownUser
        | AuthenticationError::NotEnabled { .. } => 403,
    })
}

fn line_status(error: &LineError) -> Refused {
    Refused::Plainly(match error {
        LineError::UnknownLine | LineError::UnknownDevice => 404,
        LineError::NotTheUsers => 403,
        LineError::SeveralDevices { .. } => 485,
    })
}

fn opening_key(queued: &QueuedRequest, caller: &Caller) -> OpeningKey {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    OpeningKey {
        top_via: text(queued.raw.top_via()),
        call_id: text(queued.raw.call_id()),
        from_tag: text(queued.raw.from_tag().unwrap_or_default()),
        cseq: queued.raw.cseq_number(),
        from_uri: caller.uri.clone(),
    }
}
