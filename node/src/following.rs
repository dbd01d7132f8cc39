//! What the replicated state says of this node, and what follows from it for the gateway and for registration.
//!
//! Owns the node's standing in the cluster: whether the state shows it live under its incarnation, when it registers
//! and under which one, and which changes concern it. Does not own the state, the log, the clock or the gateway.
//!
//! What always holds: a change only says where to look, and what counts is the state at that moment. So it makes no
//! difference how far the state is ahead of the changes, or how many of them were dropped and replaced by
//! [`Change::Replaced`]: standing, readiness and ownership are read off the state each time, and never remembered
//! from a change. Nothing that the state gives to this node is its own before the state shows it live.

use std::time::{Duration, Instant};

use tandem_cluster::{
    Applied, Change, ClusterState, Incarnation, NodeId, NodeState, SessionChange, SessionKey, WatcherChange,
};
use tandem_planted::{Bug, planted};

use crate::gateway::{Input, KnownSession};

/// How a state shows one incarnation of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Live,
    Draining,
    /// Its sessions have been given to others.
    Lost,
    /// No incarnation of this node has registered.
    Unknown,
    /// Another incarnation stands there: an earlier one, or one that has registered since.
    Superseded,
}

impl Standing {
    #[must_use]
    pub fn of(state: &ClusterState, id: NodeId, incarnation: u64) -> Self {
        match state.nodes().get(&id) {
            None => Self::Unknown,
            Some(node) if node.incarnation != incarnation => Self::Superseded,
            Some(node) => match node.state {
                NodeState::Live => Self::Live,
                NodeState::Draining => Self::Draining,
                NodeState::Lost => Self::Lost,
            },
        }
    }

    /// For the log and `/readyz`.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Live => "the cluster shows the node live",
            Self::Draining => "the cluster shows the node as one that is stopping",
            Self::Lost => "the cluster has declared the node lost",
            Self::Unknown => "the cluster does not know the node",
            Self::Superseded => "another process has registered under the id of this node",
        }
    }
}

/// What the driver has heard.
#[derive(Debug, Clone, Copy)]
pub enum Heard<'a> {
    Changes(&'a [Change]),
    /// What came of [`Step::Register`]; `None`: the outcome is unknown.
    RegistrationAnswered(Option<&'a Applied>),
    /// A planned stop has begun: from here on the node does not register again.
    DrainStarted,
    /// Time has passed.
    DeadlineReached,
}

/// What to do, in order.
#[derive(Debug)]
pub enum Step {
    Gateway(Box<Input>),
    /// Propose `NodeRegistered` once; [`Heard::RegistrationAnswered`] follows in any case.
    Register {
        incarnation: u64,
    },
    /// The state shows the node live: what it gives to the node has been taken in by the steps before.
    Joined,
    /// The state shows the node live no more, for this reason. It goes on under a new incarnation.
    Left {
        standing: Standing,
        incarnation: u64,
    },
    TakeInSettings,
    /// An administrator wants sessions evened out.
    Rebalance {
        per_second: u32,
    },
}

/// One node's place in the cluster.
#[derive(Debug)]
pub struct Following {
    id: NodeId,
    incarnation: Incarnation,
    place: Place,
    is_leaving: bool,
    registered_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// What the state gives to the node is its own.
    Inside,
    /// Nothing is the node's own.
    Outside(Registration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Registration {
    Proposed,
    Due(Instant),
}

impl Following {
    /// A node that is to register at once. Its later incarnations show the same process.
    #[must_use]
    pub fn new(id: NodeId, incarnation: Incarnation, now: Instant) -> Self {
        Self {
            id,
            incarnation,
            place: Place::Outside(Registration::Due(now)),
            is_leaving: false,
            registered_at: None,
        }
    }

    /// Takes in what was heard, and looks at the state as it is now.
    #[must_use]
    pub fn handle(&mut self, heard: Heard<'_>, state: &ClusterState, now: Instant) -> Vec<Step> {
        match heard {
            Heard::RegistrationAnswered(applied) => self.registration_answered(applied, now),
            Heard::DrainStarted => self.is_leaving = true,
            Heard::Changes(_) | Heard::DeadlineReached => {}
        }
        let mut steps = Vec::new();
        let was_inside = self.place == Place::Inside;
        self.look(state, now, &mut steps);
        if let Heard::Changes(changes) = heard {
            // A node that has just become live has taken in the whole state, which is ahead of these changes.
            let is_inside = was_inside && self.place == Place::Inside;
            for change in changes {
                self.change(change, is_inside, state, &mut steps);
            }
        }
        steps
    }

    /// When `handle` next wants `DeadlineReached`.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.place {
            Place::Outside(Registration::Due(at)) if !self.is_leaving => Some(at),
            Place::Outside(_) | Place::Inside => None,
        }
    }

    fn registration_answered(&mut self, applied: Option<&Applied>, now: Instant) {
        if self.place != Place::Outside(Registration::Proposed) {
            return;
        }
        let wait = match applied {
            // The copy of the state here may lag behind; or the node was lost, or superseded, at once.
            Some(_) => REGISTER_AGAIN_AFTER,
            None => RETRY_AFTER,
        };
        self.place = Place::Outside(Registration::Due(now + wait));
    }

    fn look(&mut self, state: &ClusterState, now: Instant, steps: &mut Vec<Step>) {
        let standing = Standing::of(state, self.id, self.incarnation.as_u64());
        match (self.place, standing) {
            (Place::Inside, Standing::Live) => {}
            (Place::Inside, Standing::Draining) if self.is_leaving => {}
            (Place::Inside, Standing::Lost) if planted(Bug::OwnLossUnnoticed) => {}
            (Place::Inside, _) => {
                steps.push(to_gateway(Input::DeclaredLost));
                self.leave(standing, now, steps);
            }
            (Place::Outside(_), Standing::Live) => {
                self.place = Place::Inside;
                self.take_in(state, steps);
                steps.push(Step::Joined);
            }
            // Lost before the registration was seen here: the same incarnation may be declared lost once more.
            (Place::Outside(_), Standing::Lost | Standing::Draining) if !self.is_leaving => {
                self.leave(standing, now, steps);
            }
            (Place::Outside(_), _) => {}
        }
        self.register_if_due(now, steps);
    }

    /// Two processes with the same id would take it from each other for ever, so they do so at a moderate pace.
    fn leave(&mut self, standing: Standing, now: Instant, steps: &mut Vec<Step>) {
        self.incarnation = self.incarnation.next();
        let at = self
            .registered_at
            .map_or(now, |at| now.max(at + REGISTER_AGAIN_AFTER));
        self.place = Place::Outside(Registration::Due(at));
        steps.push(Step::Left {
            standing,
            incarnation: self.incarnation.as_u64(),
        });
    }

    fn register_if_due(&mut self, now: Instant, steps: &mut Vec<Step>) {
        if self.next_deadline().is_some_and(|at| at <= now) {
            self.place = Place::Outside(Registration::Proposed);
            self.registered_at = Some(now);
            steps.push(Step::Register {
                incarnation: self.incarnation.as_u64(),
            });
        }
    }

    fn take_in(&self, state: &ClusterState, steps: &mut Vec<Step>) {
        let sessions = state.sessions_of(self.id);
        let sessions = sessions.map(|record| KnownSession::of(record, state)).collect();
        steps.push(to_gateway(Input::StateReplaced { sessions }));
        let watchers = state.watchers_of(self.id).cloned().collect();
        steps.push(to_gateway(Input::WatchersReplaced { watchers }));
        steps.push(to_gateway(Input::PresenceOwnersChanged));
        steps.push(Step::TakeInSettings);
    }

    fn change(&self, change: &Change, is_inside: bool, state: &ClusterState, steps: &mut Vec<Step>) {
        match change {
            Change::Setting { .. } => steps.push(Step::TakeInSettings),
            // Outside, what the log says of the node is about another incarnation.
            _ if !is_inside => {}
            Change::Replaced => self.take_in(state, steps),
            Change::Node(_) => steps.push(to_gateway(Input::PresenceOwnersChanged)),
            Change::RebalanceRequested { per_second } => {
                let per_second = *per_second;
                steps.push(Step::Rebalance { per_second });
            }
            Change::Session(change) => steps.extend(self.session(change, state).map(to_gateway)),
            Change::Watcher(change) => steps.extend(self.watcher(change, state).map(to_gateway)),
            // Presence is told of by its view; calendars have a loop of their own.
            Change::Presence { .. } | Change::Calendar(_) => {}
        }
    }

    fn session(&self, change: &SessionChange, state: &ClusterState) -> Option<Input> {
        let id = self.id;
        match change {
            SessionChange::Opened(key) => state.session(key).map(|record| Input::SessionOpened {
                record: Box::new(record.clone()),
            }),
            SessionChange::Moved { key, from, to, .. } if *from == id || *to == id => {
                Some(session_changed(key, state))
            }
            SessionChange::Closed { key, owner } if *owner == id => Some(session_changed(key, state)),
            // A session's owner knows what it has written.
            SessionChange::Moved { .. } | SessionChange::Closed { .. } | SessionChange::Updated(_) => None,
        }
    }

    fn watcher(&self, change: &WatcherChange, state: &ClusterState) -> Option<Input> {
        let id = self.id;
        match change {
            WatcherChange::Moved { key, from, to } if *from == id || *to == id => {
                Some(watcher_changed(key, state))
            }
            WatcherChange::Removed { key, owner } if *owner == id => Some(watcher_changed(key, state)),
            // A watcher's owner knows what it has written.
            WatcherChange::Moved { .. } | WatcherChange::Removed { .. } | WatcherChange::Written(_) => None,
        }
    }
}

fn to_gateway(input: Input) -> Step {
    Step::Gateway(Box::new(input))
}

fn session_changed(key: &SessionKey, state: &ClusterState) -> Input {
    Input::SessionChanged {
        key: key.clone(),
        session: KnownSession::look_up(key, state),
    }
}

fn watcher_changed(key: &SessionKey, state: &ClusterState) -> Input {
    Input::WatcherChanged {
        key: key.clone(),
        watcher: state.watcher(key).cloned().map(Box::new),
    }
}

/// After a proposal that was not committed in time.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// After one that was committed and has not made the node live.
const REGISTER_AGAIN_AFTER: Duration = Duration::from_secs(1);
