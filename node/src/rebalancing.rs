//! Evens out shares at a bounded rate: sessions between nodes, and users between CAS (CAL-2: nothing else moves a user
//! whose subscription works).
//!
//! Owns the plan of a run and how far the run has come. Does not own sessions, assignments or the log. What always holds:
//! a move counts once the replicated state shows it; until then it is asked for again, as long as there is a quorum and
//! patience; no more is asked for per second than an administrator allowed.
//!
//! Every node hears of a request to even out sessions through the log and makes a plan; each hands over its own sessions and
//! watches the others do so. They hear of it at different times, so their plans may differ: a node that sees nothing move for
//! a while plans again, from the state as it is by then. The request itself leaves no trace in the state, and a node that was
//! brought up to date by a snapshot has not heard of it: the node that was asked asks again when somebody hands over nothing.
//! Users are moved by the node that was asked, alone.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use serde::Serialize;
use tandem_cluster::{CasId, CasMove, ClusterState, NodeId, SessionKey, SessionMove};

/// How far a run has come, in the whole cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    pub state: RunState,
    /// Runs since the start of this node.
    pub run: u64,
    pub planned: usize,
    pub moved: usize,
    /// Neither moved nor given up. Sessions that ended, or whose node went, and users who were moved for another reason are
    /// in none of these.
    pub remaining: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    #[default]
    Idle,
    Running,
    Done,
    /// Without a quorum nothing moves, and a session that is never at rest stays.
    Stopped,
}

impl Progress {
    /// Takes the next run's place. `false`: one is running, and goes on.
    pub fn begin(&mut self) -> bool {
        let may_begin = self.state != RunState::Running;
        if may_begin {
            *self = Self {
                state: RunState::Running,
                run: self.run + 1,
                ..Self::default()
            };
        }
        may_begin
    }
}

/// What is evened out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    SessionsOfNodes,
    UsersOfCas,
}

impl Share {
    /// The fastest that may be asked for.
    #[must_use]
    pub fn per_second_max(self) -> u32 {
        match self {
            Self::SessionsOfNodes => 1000,
            Self::UsersOfCas => 5000,
        }
    }

    /// As the log shows it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::SessionsOfNodes => "sessions",
            Self::UsersOfCas => "users of CAS",
        }
    }

    fn plan(self, state: &ClusterState) -> VecDeque<Move> {
        match self {
            Self::SessionsOfNodes => state.rebalancing_moves().into_iter().map(Move::Session).collect(),
            Self::UsersOfCas => {
                let moves = state.cas_rebalancing_moves().into_iter();
                moves.map(Move::User).collect()
            }
        }
    }

    /// How many at a time, and the pause between: sessions one by one, users in at most ten entries of the log per second.
    fn pace(self, per_second: u32) -> (u32, Duration) {
        let per_second = per_second.clamp(1, self.per_second_max());
        let step = match self {
            Self::SessionsOfNodes => 1,
            Self::UsersOfCas => per_second.div_ceil(ENTRIES_PER_SECOND_MAX),
        };
        (step, Duration::from_secs(1) * step / per_second)
    }
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask the gateway: what the session is doing decides when it leaves.
    HandOver { key: SessionKey, to: NodeId },
    /// Propose `CasMoved`: users, the epochs of their assignments, and where they go.
    MoveUsers(Vec<(String, u32, CasId)>),
    /// Propose `Rebalance` again; nodes whose run goes on ignore it.
    AskAgain { per_second: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Move {
    Session(SessionMove),
    User(CasMove),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Moved,
    Pending,
    /// The session has ended, one of the two nodes is gone, or the user is somewhere else by now.
    Void,
}

impl Move {
    fn standing(&self, state: &ClusterState) -> Standing {
        match self {
            Self::Session(step) => match state.owner_of(&step.key) {
                Some(owner) if owner == step.to => Standing::Moved,
                Some(owner) if owner == step.from && state.is_live(step.to) => Standing::Pending,
                Some(_) | None => Standing::Void,
            },
            Self::User(step) => match state.assignment(&step.user) {
                Some(assignment) if assignment.cas == step.to => Standing::Moved,
                Some(assignment) if assignment.epoch == step.from_epoch && takes_users(state, &step.to) => {
                    Standing::Pending
                }
                Some(_) | None => Standing::Void,
            },
        }
    }

    /// The node that hands it over.
    fn from(&self) -> Option<NodeId> {
        match self {
            Self::Session(step) => Some(step.from),
            Self::User(_) => None,
        }
    }
}

fn takes_users(state: &ClusterState, cas: &CasId) -> bool {
    let mut gateways = state.cas_gateways().iter();
    gateways.any(|gateway| gateway.id == *cas && gateway.takes_users())
}

/// Who asked, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    pub share: Share,
    pub node: NodeId,
    pub per_second: u32,
    /// An administrator asked this very node.
    pub asked_here: bool,
}

/// One run.
#[derive(Debug)]
pub struct Run {
    order: Order,
    progress: Progress,
    /// Moves that the state has not shown yet, the one that was asked for last at the end.
    pending: VecDeque<Move>,
    step: u32,
    pause: Duration,
    next_at: Instant,
    /// When what is still pending is given up.
    deadline: Instant,
    /// When somebody who hands over nothing is asked again; `None`: not at all.
    ask_again_at: Option<Instant>,
    asks_left: u32,
    /// Nodes that have handed something over since the plan was made.
    moved_from: BTreeSet<NodeId>,
    /// When a move was last seen to have happened, or the plan was made.
    progressed_at: Instant,
}

impl Run {
    /// Plans; `progress` has begun this run.
    #[must_use]
    pub fn new(order: Order, progress: Progress, state: &ClusterState, now: Instant) -> Self {
        let pending = order.share.plan(state);
        let (step, pause) = order.share.pace(order.per_second);
        let mut run = Self {
            order,
            progress: Progress {
                planned: pending.len(),
                remaining: pending.len(),
                ..progress
            },
            pending,
            step,
            pause,
            next_at: now,
            deadline: now,
            ask_again_at: None,
            asks_left: ASKS_MAX,
            moved_from: BTreeSet::new(),
            progressed_at: now,
        };
        run.deadline = now + run.one_round() + PATIENCE;
        run.ask_again_at = order.asked_here.then(|| now + run.one_round() + ASK_AGAIN_AFTER);
        run
    }

    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// When `handle` is wanted next; `None`: the run is over.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        (self.progress.state == RunState::Running).then_some(self.next_at)
    }

    /// Looks at what the state shows, and asks for what is due.
    #[must_use]
    pub fn handle(&mut self, state: &ClusterState, has_quorum: bool, now: Instant) -> Vec<Step> {
        if self.next_deadline().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let before = self.progress.moved;
        let mut due = self.take_due(state);
        if self.progress.moved > before {
            self.progressed_at = now;
        }
        if !due.is_empty() && self.is_stalled(now) {
            self.plan_again(state, now);
            due = self.take_due(state);
        }
        self.progress.remaining = self.pending.len() + due.len();
        if due.is_empty() {
            self.progress.state = RunState::Done;
            return Vec::new();
        }
        if now > self.deadline || !has_quorum {
            self.progress.state = RunState::Stopped;
            return Vec::new();
        }
        self.next_at = now + self.pause;
        let mut steps = self.steps_for(&due);
        self.pending.extend(due);
        steps.extend(self.ask_again(now));
        steps
    }

    /// Nothing moves. Users are left alone: there is one plan for them, and whatever holds a move up would hold up the next.
    fn is_stalled(&self, now: Instant) -> bool {
        self.order.share == Share::SessionsOfNodes
            && now >= self.progressed_at + self.pause.saturating_mul(2).max(PLANNED_AGAIN_AFTER)
    }

    fn plan_again(&mut self, state: &ClusterState, now: Instant) {
        self.pending = self.order.share.plan(state);
        self.progress.planned = self.progress.moved + self.pending.len();
        self.moved_from.clear();
        self.progressed_at = now;
    }

    /// The next moves that have not happened; those that have are counted.
    fn take_due(&mut self, state: &ClusterState) -> Vec<Move> {
        let mut due = Vec::new();
        while u32::try_from(due.len()).is_ok_and(|count| count < self.step)
            && let Some(step) = self.pending.pop_front()
        {
            match step.standing(state) {
                Standing::Pending => due.push(step),
                Standing::Moved => {
                    self.progress.moved += 1;
                    self.moved_from.extend(step.from());
                }
                Standing::Void => {}
            }
        }
        due
    }

    fn steps_for(&self, due: &[Move]) -> Vec<Step> {
        let (mut steps, mut users) = (Vec::new(), Vec::new());
        for step in due {
            match step {
                Move::Session(step) if step.from == self.order.node => steps.push(Step::HandOver {
                    key: step.key.clone(),
                    to: step.to,
                }),
                Move::Session(_) => {}
                Move::User(step) => users.push((step.user.clone(), step.from_epoch, step.to.clone())),
            }
        }
        if !users.is_empty() {
            steps.push(Step::MoveUsers(users));
        }
        steps
    }

    fn ask_again(&mut self, now: Instant) -> Option<Step> {
        self.ask_again_at.take_if(|at| now > *at)?;
        let per_second = self.order.per_second;
        self.asks_left = self.asks_left.saturating_sub(1);
        self.ask_again_at = (self.asks_left > 0).then(|| now + ASK_AGAIN_AFTER);
        self.somebody_hands_over_nothing().then(|| {
            self.deadline += self.one_round();
            Step::AskAgain { per_second }
        })
    }

    /// Another node has moves to make and has made none: it may not have heard that it is to.
    fn somebody_hands_over_nothing(&self) -> bool {
        let mut others = self.pending.iter().filter_map(Move::from);
        others.any(|from| from != self.order.node && !self.moved_from.contains(&from))
    }

    /// How long it takes to ask for every move once.
    fn one_round(&self) -> Duration {
        let rounds = u32::try_from(self.progress.planned).unwrap_or(u32::MAX);
        self.pause.saturating_mul(rounds.div_ceil(self.step))
    }
}

const ENTRIES_PER_SECOND_MAX: u32 = 10;
/// Beyond the time that the pace takes: for sessions that are busy when they are asked.
const PATIENCE: Duration = Duration::from_secs(30);
/// Beyond the time that the pace takes, until the request is repeated.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);
const ASKS_MAX: u32 = 3;
/// Many times what it takes to hand a session over that is at rest. Planning looks at every session.
const PLANNED_AGAIN_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tandem_cluster::{CasEndpoint, Command, StateLimits};

    use super::*;
    use crate::session_sample;

    /// `users` at one CAS, and another one that has joined.
    fn uneven(users: usize) -> ClusterState {
        let mut state = ClusterState::new(StateLimits::default());
        configure(&mut state, &["cas-1"]);
        let users = (0..users).map(|number| format!("user{number:03}")).collect();
        let _ = state.apply(Command::CasAssign { users, at_ms: 1 });
        configure(&mut state, &["cas-1", "cas-2"]);
        state
    }

    fn configure(state: &mut ClusterState, names: &[&str]) {
        let ids = names.iter().map(|name| CasId((*name).to_owned()));
        let gateways = ids.map(|id| (id.clone(), CasEndpoint::of(&id))).collect();
        let _ = state.apply(Command::CasGatewaysConfigured { gateways, at_ms: 1 });
    }

    fn order(share: Share, per_second: u32) -> Order {
        Order {
            share,
            node: NodeId(1),
            per_second,
            asked_here: true,
        }
    }

    fn begun(order: Order, state: &ClusterState, now: Instant) -> Run {
        let mut progress = Progress::default();
        assert!(progress.begin());
        assert!(!progress.begin(), "one at a time");
        Run::new(order, progress, state, now)
    }

    #[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
    fn start() -> Instant {
        Instant::now()
    }

    fn move_users(state: &mut ClusterState, steps: Vec<Step>) -> usize {
        let mut count = 0;
        for step in steps {
            let Step::MoveUsers(users) = step else {
                panic!("{step:?}")
            };
            count += users.len();
            let _ = state.apply(Command::CasMoved { users, at_ms: 2 });
        }
        count
    }

    #[test]
    fn the_pace_is_kept_in_few_entries_of_the_log() {
        let pace = |per_second| Share::UsersOfCas.pace(per_second);
        assert_eq!(pace(1), (1, Duration::from_secs(1)));
        assert_eq!(pace(5), (1, Duration::from_millis(200)));
        assert_eq!(pace(50), (5, Duration::from_millis(100)));
        assert_eq!(pace(5000), (500, Duration::from_millis(100)));
        let sessions = |per_second| Share::SessionsOfNodes.pace(per_second);
        assert_eq!(sessions(0), (1, Duration::from_secs(1)));
        assert_eq!(sessions(9999), (1, Duration::from_millis(1)));
    }

    #[test]
    fn users_move_at_the_pace_until_both_have_their_share() {
        let mut state = uneven(40);
        let mut now = start();
        let begun_at = now;
        let mut run = begun(order(Share::UsersOfCas, 50), &state, now);
        assert_eq!((run.progress().planned, run.progress().remaining), (20, 20));
        let mut moved = 0;
        while let Some(at) = run.next_deadline() {
            now = at;
            let steps = run.handle(&state, true, now);
            moved += move_users(&mut state, steps);
        }
        assert_eq!(moved, 20);
        assert_eq!(now - begun_at, Duration::from_millis(400));
        let wanted = Progress {
            state: RunState::Done,
            run: 1,
            planned: 20,
            moved: 20,
            remaining: 0,
        };
        assert_eq!(run.progress(), wanted);
    }

    #[test]
    fn what_was_not_committed_is_asked_for_again_and_whoever_moved_otherwise_stays_there() {
        let mut state = uneven(4);
        let now = start();
        let mut run = begun(order(Share::UsersOfCas, 50), &state, now);
        let first = run.handle(&state, true, now);
        let next = now + Duration::from_millis(100);
        assert_eq!(run.handle(&state, true, now), [], "not before the pause is over");
        assert_eq!(run.handle(&state, true, next), first, "nothing has happened");
        let Some(Step::MoveUsers(users)) = first.first() else {
            panic!("{first:?}")
        };
        let failed = users
            .iter()
            .map(|(user, epoch, _)| (user.clone(), *epoch))
            .collect();
        let _ = state.apply(Command::CasFailed {
            users: failed,
            at_ms: 3,
        });
        let gone: Vec<String> = users.iter().map(|(user, ..)| user.clone()).collect();
        let _ = state.apply(Command::CasUnassign { users: gone });
        assert_eq!(run.handle(&state, true, next + Duration::from_millis(100)), []);
        assert_eq!(run.progress().state, RunState::Done);
        assert_eq!(run.progress().moved, 0);
    }

    #[test]
    fn without_a_quorum_or_beyond_all_patience_a_run_stops() {
        let state = uneven(4);
        let now = start();
        let mut run = begun(order(Share::UsersOfCas, 50), &state, now);
        assert_eq!(run.handle(&state, false, now), []);
        assert_eq!(run.progress().state, RunState::Stopped);
        assert_eq!(run.next_deadline(), None);
        let mut run = begun(order(Share::UsersOfCas, 50), &state, now);
        assert_ne!(run.handle(&state, true, now), []);
        assert_eq!(run.handle(&state, true, now + Duration::from_secs(31)), []);
        assert_eq!(run.progress().state, RunState::Stopped);
        assert_eq!(run.progress().remaining, 2);
    }

    #[test]
    fn with_nothing_to_move_a_run_is_done_at_once() {
        let mut state = ClusterState::new(StateLimits::default());
        let _ = state.apply(Command::NodeRegistered {
            id: NodeId(1),
            sip_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 5060)),
            incarnation: 1,
        });
        let now = start();
        for share in [Share::SessionsOfNodes, Share::UsersOfCas] {
            let mut run = begun(order(share, 50), &state, now);
            assert_eq!(run.handle(&state, true, now), []);
            assert_eq!(run.progress().state, RunState::Done);
        }
    }

    #[test]
    fn only_another_node_that_has_made_none_of_its_moves_is_asked_again() {
        let step = |from: u64| {
            Move::Session(SessionMove {
                key: SessionKey::new(format!("n{from}-a")),
                from_epoch: tandem_cluster::Epoch::FIRST,
                from: NodeId(from),
                to: NodeId(9),
            })
        };
        let state = ClusterState::new(StateLimits::default());
        let asks = |pending: &[u64], moved_from: &[u64]| {
            let now = start();
            let mut run = begun(order(Share::SessionsOfNodes, 50), &state, now);
            run.pending = pending.iter().map(|from| step(*from)).collect();
            run.moved_from = moved_from.iter().map(|from| NodeId(*from)).collect();
            let later = now + ASK_AGAIN_AFTER + Duration::from_millis(1);
            assert_eq!(run.ask_again(now), None, "not yet");
            let asked = run.ask_again(later).is_some();
            assert_eq!(run.ask_again(later), None, "one at a time");
            let mut at = later;
            while run.ask_again_at.is_some() {
                at += ASK_AGAIN_AFTER + Duration::from_millis(1);
                assert_eq!(run.ask_again(at).is_some(), asked);
            }
            assert!(at < later + ASK_AGAIN_AFTER * ASKS_MAX, "for ever");
            asked
        };
        assert!(asks(&[1, 2], &[1]));
        assert!(asks(&[2, 3], &[2]));
        assert!(!asks(&[1, 1], &[]), "its own sessions are busy");
        assert!(!asks(&[2, 3], &[2, 3]), "they have begun");
        assert!(!asks(&[], &[]));
    }

    /// Sessions of three nodes, all owned by the first one.
    fn sessions_of_one_node(count: usize) -> ClusterState {
        let mut state = ClusterState::new(StateLimits::default());
        for id in 1..=3 {
            let _ = state.apply(Command::NodeRegistered {
                id: NodeId(id),
                sip_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 5060)),
                incarnation: id,
            });
        }
        for number in 0..count {
            let record = session_sample::session(&format!("n1-{number}"), NodeId(1), "ana");
            let _ = state.apply(session_sample::opened(record));
        }
        state
    }

    /// Whoever asks for a step of these runs gets it, as soon as all have asked.
    fn carry_out(state: &mut ClusterState, runs: &mut [Run], now: Instant) {
        let steps: Vec<_> = runs
            .iter_mut()
            .flat_map(|run| run.handle(state, true, now))
            .collect();
        for step in steps {
            if let Step::HandOver { key, to } = step {
                let from_epoch = state.session(&key).expect("it has not ended").epoch;
                let _ = state.apply(Command::Adopt { key, from_epoch, to });
            }
        }
    }

    #[test]
    fn a_node_whose_plan_is_another_plans_again_once_nothing_moves() {
        let mut state = sessions_of_one_node(9);
        let mut now = start();
        let own = begun(order(Share::SessionsOfNodes, 50), &state, now);
        // What this node wants moved, the owner keeps: it has heard of the request later, and has planned other moves.
        let mut watching = begun(order(Share::SessionsOfNodes, 50), &state, now);
        watching.order.node = NodeId(2);
        let kept: Vec<_> = state
            .sessions_of(NodeId(1))
            .map(|session| session.key.clone())
            .collect();
        let others = own.pending.iter().map(|step| match step {
            Move::Session(step) => step.key.clone(),
            Move::User(_) => unreachable!("sessions are evened out"),
        });
        let others: BTreeSet<_> = others.collect();
        let kept = kept
            .into_iter()
            .find(|key| !others.contains(key))
            .expect("three stay");
        if let Some(Move::Session(step)) = watching.pending.front_mut() {
            step.key = kept;
        }
        let begun_at = now;
        let mut runs = [own, watching];
        while runs.iter().any(|run| run.next_deadline().is_some()) {
            carry_out(&mut state, &mut runs, now);
            now += Duration::from_millis(20);
            assert!(
                now < begun_at + PLANNED_AGAIN_AFTER * 2,
                "{:?}",
                runs[1].progress()
            );
        }
        assert!(runs.iter().all(|run| run.progress().state == RunState::Done));
        assert_eq!([1, 2, 3].map(|id| state.session_count_of(NodeId(id))), [3, 3, 3]);
    }
}
