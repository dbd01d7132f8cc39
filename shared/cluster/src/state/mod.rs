//! `ClusterState::apply`: the one function that turns the log into what everybody knows.
//!
//! Owns the replicated tables and their indexes; a file per table decides what a command does to it. Does not
//! own the log, the clock or any connection. What always holds: the index by owner agrees with the sessions,
//! every session's owner is live whenever any node is, an epoch never falls, and every table is bounded by
//! [`StateLimits`].

mod assignments;
mod cas_rebalance;
mod growth;
mod intents;
mod invariants;
mod layout;
mod members;
mod nodes;
mod pieces;
mod portions;
mod presence;
#[cfg(test)]
mod property_tests;
mod rebalance;
mod sessions;
mod settings;
mod shares;
#[cfg(test)]
mod test_support;
mod watchers;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use serde::{Deserialize, Serialize};

pub use self::cas_rebalance::CasMove;
pub use self::growth::WithoutGrowth;
pub use self::invariants::Broken;
pub use self::layout::LayoutError;
pub use self::pieces::{PIECE_BYTES, Pieces};
use self::portions::Rest;
pub use self::portions::UnderWay;
pub use self::rebalance::SessionMove;
pub use self::settings::{SettingKind, SettingName};
use super::assignment::{Assignment, CasGateway};
use super::command::{Applied, CalendarChange, Change, Command, Refusal};
use super::format::Format;
use super::membership::{ClusterIdentity, RaftId};
use super::node::{NodeId, NodeRecord, NodeState};
use super::presence::{PresenceRecord, WatcherRecord};
use super::session::{IntentRecord, OpeningKey, OpeningResult, RequestKey, SessionKey, SessionRecord};

/// Everything that is replicated. A copy shares its tables with the original, so that readers and snapshots keep one while
/// commands are applied. What a command touches is then copied with its neighbours in the table: keys and records that are
/// dear to copy stand behind `Arc`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(Serialize))]
pub struct ClusterState {
    limits: StateLimits,
    nodes: BTreeMap<NodeId, NodeRecord>,
    sessions: OrdMap<SessionKey, Arc<SessionRecord>>,
    owned: BTreeMap<NodeId, OrdSet<SessionKey>>,
    openings: OrdMap<Arc<OpeningKey>, OpeningResult>,
    openings_by_age: OrdSet<(u64, Arc<OpeningKey>)>,
    intents: OrdMap<SessionKey, OrdMap<Arc<RequestKey>, Arc<IntentRecord>>>,
    intents_by_age: OrdSet<(u64, SessionKey, Arc<RequestKey>)>,
    settings: Arc<BTreeMap<SettingName, String>>,
    assignments: OrdMap<Arc<str>, Arc<Assignment>>,
    gateways: Arc<Vec<CasGateway>>,
    /// Index into `gateways` of the one whose turn is next.
    next_gateway: usize,
    /// Calendars that an administrator switched on or off.
    calendar_enabled: OrdMap<Arc<str>, bool>,
    presence: OrdMap<Arc<str>, PresenceRecord>,
    watchers: OrdMap<SessionKey, Arc<WatcherRecord>>,
    #[serde(skip)]
    format: Format,
    #[serde(skip)]
    identity: Option<ClusterIdentity>,
    /// The cluster's time, as the last `Command::Expire` has it; 0 before the first one.
    #[serde(skip)]
    expired_before_ms: u64,
    #[serde(skip)]
    removed_members: Arc<BTreeSet<RaftId>>,
}

/// Bounds of the replicated tables. They travel with the snapshot, so that all members refuse alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateLimits {
    pub sessions_max: usize,
    pub calls_per_session_max: usize,
    /// At the bound the oldest intent is forgotten.
    pub intents_max: usize,
    /// At the bound the oldest result is forgotten.
    pub opening_results_max: usize,
    pub users_assigned_max: usize,
}

impl Default for StateLimits {
    fn default() -> Self {
        Self {
            sessions_max: 100_000,
            calls_per_session_max: 64,
            intents_max: 50_000,
            opening_results_max: 100_000,
            users_assigned_max: 200_000,
        }
    }
}

impl ClusterState {
    #[must_use]
    pub fn new(limits: StateLimits) -> Self {
        Self {
            limits,
            nodes: BTreeMap::new(),
            sessions: OrdMap::new(),
            owned: BTreeMap::new(),
            openings: OrdMap::new(),
            openings_by_age: OrdSet::new(),
            intents: OrdMap::new(),
            intents_by_age: OrdSet::new(),
            settings: Arc::default(),
            assignments: OrdMap::new(),
            gateways: Arc::default(),
            next_gateway: 0,
            calendar_enabled: OrdMap::new(),
            presence: OrdMap::new(),
            watchers: OrdMap::new(),
            format: Format::default(),
            identity: None,
            expired_before_ms: 0,
            removed_members: Arc::default(),
        }
    }

    /// Applies one committed command. Deterministic: same state, same command, same result on every member.
    pub fn apply(&mut self, command: Command) -> (Applied, Vec<Change>) {
        let mut under_way = self.begin(command);
        while !self.go_on(&mut under_way) {}
        under_way.finish()
    }

    fn apply_one(&mut self, command: Command, changes: &mut Vec<Change>, rest: &mut Rest) -> Applied {
        match command {
            Command::NodeRegistered {
                id,
                sip_address,
                incarnation,
            } => self.register_node(id, sip_address, incarnation, changes, rest),
            Command::NodeLost { id, incarnation } => {
                self.retire_node(id, incarnation, NodeState::Lost, changes, rest)
            }
            Command::NodeDraining { id, incarnation } => {
                self.retire_node(id, incarnation, NodeState::Draining, changes, rest)
            }
            Command::SessionOpened {
                opening,
                record,
                decided_at_ms,
            } => self.open_session(opening, record, decided_at_ms, changes),
            Command::SessionUpdated { key, epoch, update } => {
                self.update_session(&key, epoch, update, changes)
            }
            Command::SessionClosed { key, epoch } => self.close_session(&key, epoch, changes),
            Command::Adopt { key, from_epoch, to } => self.adopt(&key, from_epoch, to, changes),
            Command::Intent {
                key,
                epoch,
                request,
                operation,
                decided_at_ms,
            } => self.record_intent(
                &key,
                request,
                IntentRecord {
                    operation,
                    epoch,
                    decided_at_ms,
                    result: None,
                },
            ),
            Command::IntentResult { key, request, body } => self.record_intent_result(&key, &request, body),
            Command::Expire { before_ms } => self.expire(before_ms, rest),
            Command::SettingChanged { name, value } => self.change_setting(name, value, changes),
            Command::CasGatewaysSet { gateways, at_ms } => self.set_gateways(gateways, at_ms, changes),
            Command::CasEligible { cas, eligible } => self.set_eligible(&cas, eligible, changes),
            Command::CasAssign { users, at_ms } => self.assign_users(users, at_ms, changes),
            Command::CasFailed { users, at_ms } => self.move_failed_users(users, at_ms, changes),
            Command::CasUnassign { users } => self.unassign_users(&users, changes),
            Command::Rebalance { per_second } => {
                changes.push(Change::RebalanceRequested { per_second });
                Applied::Done
            }
            Command::CasGatewaysConfigured { gateways, at_ms } => {
                self.configure_gateways(gateways, at_ms, changes)
            }
            Command::CasBreaker { cas, node, open } => self.set_breaker(&cas, node, open, changes),
            Command::CasMoved { users, at_ms } => self.move_chosen_users(users, at_ms, changes),
            Command::CalendarEnabled { users, enabled } => self.enable_calendars(users, enabled, changes),
            Command::CallbacksReceived { callbacks } => {
                changes.push(Change::Calendar(CalendarChange::CallbacksReceived { callbacks }));
                Applied::Done
            }
            Command::CalendarPresenceChanged { node, users } => {
                self.change_calendar_presence(node, users, changes)
            }
            Command::ManualPresenceSet { user, manual } => self.set_manual_presence(user, manual, changes),
            Command::WatcherSet { record } => self.set_watcher(*record, changes),
            Command::WatcherRemoved { key, epoch } => self.remove_watcher(&key, epoch, changes),
            Command::WatcherAdopted { key, from_epoch, to } => {
                self.adopt_watcher(&key, from_epoch, to, changes)
            }
            Command::FormatFinalised { format } => self.finalise_format(format),
            Command::MemberRemoved { id } => self.remove_member(id),
            Command::ClusterIdentified { identity } => self.identify(identity),
            Command::StateMarked => Applied::Done,
            Command::SecretSet { .. } => Applied::Refused(Refusal::NotSupported),
            Command::Batch(commands) => Applied::Batch(
                commands
                    .into_iter()
                    .map(|command| self.apply_whole(command, changes))
                    .collect(),
            ),
        }
    }

    /// With all that it leaves to be done: the next command of the batch finds it done.
    fn apply_whole(&mut self, command: Command, changes: &mut Vec<Change>) -> Applied {
        let mut rest = Rest::default();
        let applied = self.apply_one(command, changes, &mut rest);
        self.do_rest(rest, changes);
        applied
    }

    /// Where the cluster's time stood at the last `Command::Expire`, less the age at which things expire; 0 before the first.
    #[must_use]
    pub fn expired_before_ms(&self) -> u64 {
        self.expired_before_ms
    }

    /// Something is there to which the cluster's time matters.
    #[must_use]
    pub fn can_expire(&self) -> bool {
        let is_untouched_by_time = self.openings.is_empty()
            && self.intents.is_empty()
            && self.sessions.is_empty()
            && self.watchers.is_empty();
        !is_untouched_by_time
    }

    /// Time never goes back, whoever leads.
    fn expire(&mut self, before_ms: u64, rest: &mut Rest) -> Applied {
        let before_ms = before_ms.max(self.expired_before_ms);
        self.expired_before_ms = before_ms;
        rest.expire(before_ms);
        Applied::Done
    }
}
