//! Where SIP, CSTA and the CTI managers meet: the node's decision-maker.
//!
//! Owns the sessions of this node, the requests it holds for sessions that are about to become its own, the order in
//! which things are written to the log, and the CTI connections. Does not own sockets, clocks or the log; it says what
//! to do and is told what came of it.
//!
//! Most of what it owns stands in components with methods and tests of their own: `registry` (sessions), `monitoring`
//! (CTI managers), `ownership` (held requests), `proposals`, `pairs`, `outbound`, `watchers`. What happens to one session
//! is a method of `OneSession`, which borrows that session and all that work on it may touch; what concerns several
//! is a method of the gateway.
//!
//! What always holds: a 200 to an opening INVITE leaves only after its commit (or marked unreplicated, where that is
//! configured); a PBX-changing command leaves only after its intent; requests of one dialog are carried out in the
//! order of their arrival; a session is known by the To-tag that this cluster issued, never by its Call-ID; a
//! session that has moved away is dropped without a message to its client.

mod adoption;
mod answering;
mod commands;
mod events;
mod handover;
mod in_dialog;
mod input;
mod invariants;
mod links;
mod managers;
mod monitoring;
mod one_session;
mod opening;
mod outbound;
mod output;
mod ownership;
mod pairs;
mod proposals;
mod publishing;
mod registry;
mod services;
mod session;
mod sessions;
mod shell;
mod snapshot;
#[cfg(test)]
mod tests;
mod translation;
mod watchers;
mod watching;
mod without_quorum;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tandem_cluster::Authority;
use tandem_cluster::{NodeId, SessionKey};
use tandem_sip::{Message, RawMessage, Uri};

use crate::cti::{CtiSettings, MonitorLimits};
use crate::directory::Directory;

pub use input::{Input, KnownSession, Now, View};
pub use output::{EndReason, OutboundTarget, Output, Report};
pub use pairs::{Pair, PairId, PairPurpose};
pub use publishing::PublishSettings;
pub use shell::Shell;
pub use watchers::{EndOfSubscription, WatcherReport, WatcherSettings, WhoMayWatch};

use monitoring::Monitoring;
use outbound::Outbound;
use ownership::Ownership;
use pairs::Pairs;
use proposals::{Outcome, Proposals, Waiter};
use publishing::Publishing;
use registry::Registry;
use watchers::Watchers;
use without_quorum::Unreplicated;

/// Limits and choices of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayConfig {
    pub node: NodeId,
    /// An administrator may set another one.
    pub session_timer_secs: u32,
    pub sessions_max: usize,
    /// Sessions of one user on one line; the oldest idle one goes (RCC-16).
    pub sessions_per_line_max: usize,
    pub requests_per_session_max: usize,
    pub events_per_session_max: usize,
    /// Requests held for sessions that are being adopted, in all.
    pub requests_held_max: usize,
    pub proposals_max: usize,
    /// How long an opening INVITE, or a request held for an adoption, waits for its commit.
    pub commit_timeout: Duration,
    /// A client that does not answer an event gets the next one after this.
    pub event_wait: Duration,
    /// Monitors that may be starting at a time, at each CTI connection.
    pub resumptions_in_flight_max: usize,
    /// Retry-After, spread over `1..=` this.
    pub retry_after_secs_max: u32,
    pub new_sessions_without_quorum: WithoutQuorum,
    /// Sessions that are served unreplicated at a time, at most.
    pub sessions_without_quorum_max: usize,
    /// How long after the loss of the quorum sessions may be opened without one.
    pub without_quorum_max: Duration,
    pub adoption: AdoptionPolicy,
    /// The names of the CTI connections in configured order, as they stand in records.
    pub cti_connections: Vec<String>,
    pub watchers: WatcherSettings,
    /// `None`: presence is told to watchers alone.
    pub publish: Option<PublishSettings>,
}

impl GatewayConfig {
    fn unreplicated(&self) -> Unreplicated {
        Unreplicated::new(
            self.new_sessions_without_quorum,
            self.sessions_without_quorum_max,
            self.without_quorum_max,
        )
    }

    fn monitor_limits(&self) -> MonitorLimits {
        MonitorLimits {
            starts_in_flight_max: self.resumptions_in_flight_max,
            // As many again may be stopping.
            monitors_max: self.sessions_max.saturating_mul(2),
        }
    }
}

/// CL-4: what becomes of a new session while the cluster has no quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutQuorum {
    Refuse,
    Serve,
}

/// Planted fault for tests: a node that takes no session over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdoptionPolicy {
    Enabled,
    Disabled,
}

/// The node's one core.
#[derive(Debug)]
pub struct Gateway {
    config: GatewayConfig,
    directory: Arc<Directory>,
    rng: StdRng,
    authority: Authority,
    unreplicated: Unreplicated,
    draining: bool,
    pairs: Pairs,
    outbound: Outbound,
    sessions: Registry,
    ownership: Ownership,
    monitoring: Monitoring,
    watchers: Watchers,
    publishing: Option<Publishing>,
    proposals: Proposals,
    /// Sessions whose events wait for a connection to their client.
    pathless: BTreeSet<SessionKey>,
    /// Sessions that something happened to in this step.
    touched: BTreeSet<SessionKey>,
    outputs: Vec<Output>,
}

impl Gateway {
    #[must_use]
    pub fn new(config: GatewayConfig, cti: CtiSettings, directory: Arc<Directory>, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let publishing = config.publish.as_ref().map(|publish| {
            let tag = new_tag(config.node, &mut rng);
            Publishing::new(publish, tag)
        });
        let ownership = || Ownership::new(config.node, config.requests_held_max, config.commit_timeout);
        Self {
            monitoring: Monitoring::new(cti, config.monitor_limits()),
            watchers: Watchers::new(ownership()),
            publishing,
            proposals: Proposals::new(config.proposals_max),
            directory,
            rng,
            authority: Authority::Isolated,
            unreplicated: config.unreplicated(),
            draining: false,
            pairs: Pairs::default(),
            outbound: Outbound::default(),
            sessions: Registry::default(),
            ownership: ownership(),
            pathless: BTreeSet::new(),
            touched: BTreeSet::new(),
            outputs: Vec::new(),
            config,
        }
    }

    /// Takes in what happened and returns what to do, in order.
    #[must_use]
    pub fn handle(&mut self, input: Input, view: View<'_>, now: Now) -> Vec<Output> {
        self.take_in(input, view, now);
        self.settle(view, now);
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
        std::mem::take(&mut self.outputs)
    }

    /// When `handle` next wants `DeadlineReached`.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let session = self.sessions.next_deadline();
        let held = self.ownership.next_deadline();
        let redial = self.outbound.next_deadline();
        let (watchers, proposals) = (self.watchers.next_deadline(), self.proposals.next_deadline());
        let publishing = self.publishing.as_ref().and_then(Publishing::next_deadline);
        let (pairs, links) = (self.pairs.next_deadline(), self.monitoring.next_deadline());
        [
            session, held, redial, watchers, publishing, proposals, pairs, links,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Sessions by state, and by CTI connection, for the metrics.
    #[must_use]
    pub fn census(&self) -> Census {
        let mut census = Census {
            pairs: self.pairs.len(),
            watchers: self.watchers.len(),
            presentities: self.watchers.presentities(),
            by_connection: vec![0; self.config.cti_connections.len()],
            ..Census::default()
        };
        for session in self.sessions.values() {
            *census.by_state.entry(session.state_label()).or_default() += 1;
            if let Some(count) = session
                .link
                .connection()
                .and_then(|connection| census.by_connection.get_mut(connection.0))
            {
                *count += 1;
            }
        }
        census
    }

    fn take_in(&mut self, input: Input, view: View<'_>, now: Now) {
        match input {
            Input::PairOpened { id, pair } => self.pair_opened(id, pair),
            Input::PairClosed { id } => self.pair_closed(id, now),
            Input::PairHalfClosed { id, farewell } => self.pair_half_closed(id, farewell, now),
            Input::SipMessage { pair, message } => self.message_arrived(pair, message, view, now),
            Input::SipMessageRefused {
                pair,
                message,
                status,
                reason,
            } => self.message_refused(pair, &message, status, reason),
            Input::OutboundOpened { target, id, pair } => {
                self.outbound.opened(target.clone(), id);
                self.pair_opened(id, pair);
                self.publisher_connected(&target, id, now);
            }
            Input::OutboundFailed { target } => self.outbound.failed(target, now.instant),
            Input::Cti(input) => self.cti(input, now),
            Input::Committed { batch, applied } => {
                for (waiter, outcome) in self.proposals.finished(batch, applied, now.instant) {
                    self.committed(waiter, outcome, view, now);
                }
            }
            Input::SessionOpened { record } => self.session_opened_somewhere(&record, now),
            Input::SessionChanged { key, session } => self.session_changed(key, session, now),
            Input::StateReplaced { sessions } => self.state_replaced(sessions, view, now),
            Input::DeclaredLost => self.declared_lost(now),
            Input::AuthorityChanged(authority) => self.authority_changed(authority, now),
            Input::DirectoryChanged(directory) => {
                self.directory = directory;
                self.end_watching_of_removed_users(now);
                self.withdraw_removed_users(now);
            }
            Input::SettingsChanged(settings) => {
                self.config.session_timer_secs = settings.session_timer_secs;
                self.monitoring.change_timings(settings.cti);
            }
            Input::WatcherChanged { key, watcher } => {
                self.watcher_changed(&key, watcher.map(|record| *record), view, now);
            }
            Input::WatchersReplaced { watchers } => self.watchers_replaced(watchers, view, now),
            Input::PresenceChanged { user } => self.presence_changed(&user, view, now),
            Input::AllPresenceChanged => self.all_presence_changed(view, now),
            Input::PresenceOwnersChanged => self.presence_owners_changed(view, now),
            Input::HandOver { key, to } => self.hand_over(&key, to, now),
            Input::DrainStarted => self.draining = true,
            Input::Stopped => self.stop_links(now),
            Input::DeadlineReached => self.deadline_reached(now),
        }
    }

    /// Lets everything that this step has touched go on as far as it can.
    fn settle(&mut self, view: View<'_>, now: Now) {
        self.attend_touched(view, now);
        while let Some(news) = self.monitoring.next_news() {
            self.take_news(news, now);
            self.attend_touched(view, now);
        }
        self.close_done_pairs(now);
        if self.authority == Authority::Isolated && self.sessions.is_empty() && self.proposals.is_idle() {
            return;
        }
        if let Some(batch) = self.proposals.next_batch(now.instant) {
            self.outputs.push(Output::Propose {
                batch: batch.id,
                command: batch.command,
            });
        }
    }

    fn attend_touched(&mut self, view: View<'_>, now: Now) {
        while let Some(key) = self.touched.pop_first() {
            self.carry_out_requests(&key, now);
            self.send_events(&key, now);
            self.sessions.index_deadline(&key, self.config.commit_timeout);
            self.attend_watcher(&key, view, now);
        }
        self.hand_over_requests(now);
    }

    fn message_arrived(&mut self, pair: PairId, raw: RawMessage, view: View<'_>, now: Now) {
        if self.pairs.get(pair).is_none() {
            return;
        }
        match Message::parse(&raw) {
            Ok(Message::Request(request)) => self.request_arrived(pair, raw, request, view, now),
            Ok(Message::Response(response)) => self.response_arrived(&raw, response.status, view, now),
            Err(_) => self.message_refused(pair, &raw, 400, "malformed"),
        }
    }

    fn message_refused(&mut self, pair: PairId, raw: &RawMessage, status: u16, reason: &'static str) {
        if raw.may_be_answered() && self.pairs.get(pair).is_some() {
            self.pairs.asked(pair);
            self.answers().plainly(pair, raw, status, reason, &[]);
        }
    }

    fn pair_opened(&mut self, id: PairId, pair: Pair) {
        self.pairs.opened(id, pair);
        // Events may have waited for just this connection.
        let waiting = std::mem::take(&mut self.pathless);
        self.touched.extend(waiting);
    }

    fn pair_closed(&mut self, id: PairId, now: Now) {
        if let Some(pair) = self.pairs.closed(id) {
            self.way_lost(id, &pair, now);
        }
    }

    fn pair_half_closed(&mut self, id: PairId, farewell: Option<Bytes>, now: Now) {
        let until = now.instant + ANSWERS_DUE_FOR;
        if let Some(pair) = self.pairs.half_closed(id, until, farewell) {
            self.way_lost(id, &pair, now);
        }
    }

    /// Half-closed pairs whose answers have gone, or will not come.
    fn close_done_pairs(&mut self, now: Now) {
        while let Some((pair, farewell)) = self.pairs.next_done(now.instant) {
            let farewell = farewell.map(|bytes| Output::Send { pair, bytes });
            self.outputs.extend(farewell);
            self.outputs.push(Output::ClosePair { pair });
        }
    }

    /// Nothing of ours is asked over that pair any more.
    fn way_lost(&mut self, id: PairId, pair: &Pair, now: Now) {
        self.outbound.lost(id, now.instant);
        self.publisher_disconnected(id, now);
        if pair.purpose == PairPurpose::Resent {
            return;
        }
        let affected: Vec<SessionKey> = self
            .sessions
            .values()
            .filter(|session| {
                session
                    .unanswered
                    .as_ref()
                    .is_some_and(|unanswered| unanswered.pair == id && unanswered.until > now.instant)
            })
            .map(|session| session.key().clone())
            .collect();
        for key in affected {
            self.known_session(&key, now).session.send_event_again();
        }
        self.notify_again(id);
    }

    fn authority_changed(&mut self, authority: Authority, now: Now) {
        self.authority = authority;
        self.unreplicated.note_authority(authority, now.instant);
        self.touched.extend(self.sessions.keys().cloned());
        self.touch_watchers();
        self.publisher_authority_changed(now);
    }

    fn committed(&mut self, waiter: Waiter, outcome: Outcome, view: View<'_>, now: Now) {
        match waiter {
            Waiter::Opening(key) => self.opening_committed(&key, outcome, now),
            Waiter::Request(key, number) => self.request_committed(&key, number, outcome, view, now),
            Waiter::Merge(key) => self.merged(&key, &outcome, now),
            Waiter::Adoption(key) => self.adoption_committed(&key, &outcome, view, now),
            Waiter::HandOver(key) => self.hand_over_committed(&key, &outcome, now),
            Waiter::WatcherAdoption(key) => self.watcher_adoption_committed(&key, &outcome, view, now),
            Waiter::Nobody => {}
        }
    }

    fn deadline_reached(&mut self, now: Now) {
        self.cti_deadline(now);
        while let Some(key) = self.sessions.next_due(now.instant) {
            self.session_deadline(&key, now);
            self.touched.insert(key);
        }
        self.watchers_deadline(now);
        self.publisher_deadline(now);
        self.give_up_held(now);
        self.redial(now);
    }

    fn report(&mut self, report: Report) {
        self.outputs.push(Output::Report(report));
    }

    fn new_cross_ref_id(&mut self) -> String {
        format!("{:08x}", self.rng.random::<u32>())
    }
}

/// Sessions counted, for the metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    pub pairs: usize,
    /// Subscriptions to presence, and the users whose presence it is.
    pub watchers: usize,
    pub presentities: usize,
    pub by_state: BTreeMap<&'static str, usize>,
    /// By CTI connection, in configured order.
    pub by_connection: Vec<usize>,
}

/// Whether the client is told that its dialog is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    Bye,
    Silent,
}

/// The node's id leads the tag, so that every request of the dialog finds the way without state.
fn new_tag(node: NodeId, rng: &mut StdRng) -> String {
    format!("{node}-{:016x}", rng.random::<u64>())
}

/// The node's id leads the branch, so that answers find the way back without state (docs/spec/load-balancing.md §6.0).
fn new_branch(node: NodeId, rng: &mut StdRng) -> String {
    format!("z9hG4bK{node}-{:016x}", rng.random::<u64>())
}

/// Our Via shows what our Contact shows: the front end's address and transport.
fn via(local_target: &str, branch: &str) -> String {
    let (transport, sent_by) = match Uri::parse(local_target) {
        Ok(Uri::Sip(sip)) => {
            let transport = sip.params.get("transport").unwrap_or("tcp").to_ascii_uppercase();
            let port = sip.port.map_or_else(String::new, |port| format!(":{port}"));
            (transport, format!("{}{port}", sip.host))
        }
        Ok(Uri::Tel(_) | Uri::Other(_)) | Err(_) => ("TCP".to_owned(), "invalid.invalid".to_owned()),
    };
    format!("SIP/2.0/{transport} {sent_by};branch={branch}")
}

/// How long a pair over which nothing more comes stands for answers that are due (RFC 3261 §17: 64 × T1).
const ANSWERS_DUE_FOR: Duration = Duration::from_secs(32);
/// How long the end of a session is held back while another node may own it.
const ISOLATED_GRACE: Duration = Duration::from_secs(1);
/// How long the end of a session is tried to be written.
const CLOSING_COMMIT_TIMEOUT: Duration = Duration::from_secs(60);
