//! A node that follows the state: however far that is ahead of the changes, and however many of them go unheard, the
//! node ends with what the state gives to it, and with nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tandem_cluster::{
    Applied, Change, ClusterState, Epoch, Incarnation, NodeId, NodeState, SessionKey, SessionRecord,
    StateLimits, WatcherRecord,
};

use super::bench::*;
use super::watchers::subscribe;
use crate::following::{Following, Heard, Standing, Step};
use crate::gateway::*;
use crate::session_sample::opened;

/// Node 1, the state, and the changes that it has not heard of yet.
struct World {
    bench: Bench,
    following: Following,
    unheard: VecDeque<Vec<Change>>,
    /// Whether the node learns what came of its registration.
    answers_come: bool,
    /// Each registration is followed by a loss before the node looks at the state.
    lost_at_once: bool,
    incarnation: u64,
    is_ready: bool,
    cseq: u32,
    registrations: usize,
    session: SessionRecord,
    watcher: WatcherRecord,
}

impl World {
    fn new() -> Self {
        let mut template = Bench::new();
        let session = template.sign_in();
        let sent = template.receive(&subscribe("", 1, ""));
        let watcher = sent[0].to_tag();
        template.pass(Duration::from_millis(10));
        let bench = Bench::of(1, ClusterState::new(StateLimits::default()));
        let now = bench.now.instant;
        let mut world = Self {
            following: Following::new(NodeId(1), Incarnation::from(1), now),
            unheard: VecDeque::new(),
            answers_come: true,
            lost_at_once: false,
            incarnation: 1,
            is_ready: false,
            cseq: 10,
            registrations: 0,
            session: template.record(&session).clone(),
            watcher: template.state.watcher(&watcher).unwrap().clone(),
            bench,
        };
        for node in [2, 3] {
            world.apply(registered(node, 1));
        }
        world.settle();
        world
    }

    fn apply(&mut self, command: Command) -> Applied {
        let (applied, changes) = self.bench.state.apply(command);
        self.unheard.push_back(changes);
        applied
    }

    fn hear(&mut self, heard: Heard<'_>) {
        let now = self.bench.now.instant;
        for step in self.following.handle(heard, &self.bench.state, now) {
            self.step(step);
        }
        self.unheard.extend(self.bench.changes.drain(..));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Gateway(input) => self.bench.input(*input),
            Step::Register { incarnation } => {
                self.registrations += 1;
                let applied = self.apply(registered(1, incarnation));
                if self.lost_at_once {
                    self.apply(lost(1, incarnation));
                }
                let answer = self.answers_come.then_some(&applied);
                self.hear(Heard::RegistrationAnswered(answer));
            }
            Step::Joined => self.is_ready = true,
            Step::Left { incarnation, .. } => {
                self.is_ready = false;
                self.incarnation = incarnation;
            }
            Step::TakeInSettings | Step::Rebalance { .. } => {}
        }
    }

    /// The oldest so many entries are heard one by one, or as one `Replaced`.
    fn hear_of(&mut self, entries: usize, dropped: bool) {
        let entries = entries.min(self.unheard.len());
        let heard: Vec<Vec<Change>> = self.unheard.drain(..entries).collect();
        if dropped {
            return self.hear(Heard::Changes(&[Change::Replaced]));
        }
        for changes in heard {
            self.hear(Heard::Changes(&changes));
        }
    }

    fn pass(&mut self, span: Duration) {
        self.bench.pass(span);
        self.unheard.extend(self.bench.changes.drain(..));
        let due = self.following.next_deadline();
        if due.is_some_and(|at| at <= self.bench.now.instant) {
            self.hear(Heard::DeadlineReached);
        }
    }

    /// Nothing more happens by itself, everything is heard, and what was held has had its time.
    fn settle(&mut self) {
        self.answers_come = true;
        self.lost_at_once = false;
        self.bench.quorum = true;
        for _ in 0..12 {
            self.bench.commit_all();
            self.hear_of(usize::MAX, false);
            self.pass(Duration::from_millis(600));
        }
        assert!(self.unheard.iter().all(Vec::is_empty), "{:?}", self.unheard);
    }

    fn standing(&self) -> Standing {
        Standing::of(&self.bench.state, NodeId(1), self.incarnation)
    }

    /// By the state: sessions and watchers of this node, with their epochs.
    fn given(&self) -> BTreeMap<SessionKey, Epoch> {
        let state = &self.bench.state;
        let sessions = state
            .sessions_of(NodeId(1))
            .map(|one| (one.key.clone(), one.epoch));
        let watchers = state.watchers_of(NodeId(1));
        sessions
            .chain(watchers.map(|one| (one.key.clone(), one.epoch)))
            .collect()
    }

    /// By the gateway.
    fn held(&self) -> BTreeMap<SessionKey, Epoch> {
        let gateway = &self.bench.gateway;
        let sessions = gateway.sessions.values();
        let sessions = sessions.map(|one| (one.key().clone(), one.epoch()));
        sessions.chain(gateway.watchers.epochs()).collect()
    }

    fn check(&self) {
        assert_eq!(self.standing(), Standing::Live);
        assert!(self.is_ready);
        assert_eq!(self.held(), self.given());
        assert!(self.bench.gateway.ownership.held_keys().next().is_none());
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Command(command) => drop(self.apply(*command)),
            Action::NodeLost => drop(self.apply(lost(1, self.incarnation))),
            Action::Opened { node, number } => {
                let record = self.session_of(node, number);
                self.apply(opened(record));
            }
            Action::Watched { node, number } => {
                let key = watcher_key(node, number);
                let record = match self.bench.state.watcher(&key) {
                    Some(record) => record.clone(),
                    None => WatcherRecord {
                        key,
                        owner: NodeId(node),
                        epoch: Epoch::FIRST,
                        ..self.watcher.clone()
                    },
                };
                self.apply(Command::WatcherSet {
                    record: Box::new(record),
                });
            }
            Action::SignIn => {
                self.cseq += 1;
                self.receive(&invite(&self.cseq.to_string(), "user1"));
            }
            Action::Request { number, ends } => {
                self.cseq += 1;
                let cseq = self.cseq;
                let keys: Vec<SessionKey> = self.bench.state.sessions().map(|one| one.key.clone()).collect();
                if let Some(key) = keys.get(number % keys.len().max(1)) {
                    let features =
                        crate::csta::Request::System(crate::csta::SystemRequest::GetCstaFeatures {
                            line: None,
                        });
                    self.receive(&match ends {
                        true => bare("BYE", &format!(";tag={key}"), cseq),
                        false => info(key, cseq, &features),
                    });
                }
            }
            Action::HandOver { number } => {
                let keys: Vec<SessionKey> = self.bench.gateway.sessions.keys().cloned().collect();
                if let Some(key) = keys.get(number % keys.len().max(1)) {
                    let (key, to) = (key.clone(), NodeId(2));
                    self.bench.input(Input::HandOver { key, to });
                }
            }
            Action::Heard { entries, dropped } => self.hear_of(entries, dropped),
            Action::Quorum(quorum) => {
                self.bench.quorum = quorum;
                if quorum {
                    self.bench.commit_all();
                }
            }
            Action::AnswersCome(come) => self.answers_come = come,
            Action::Pass => self.pass(Duration::from_millis(120)),
        }
        self.unheard.extend(self.bench.changes.drain(..));
    }

    fn receive(&mut self, text: &str) {
        self.bench.receive(text);
    }

    /// Of a client of its own.
    fn session_of(&self, node: u64, number: u64) -> SessionRecord {
        let mut record = SessionRecord {
            key: session_key(node, number),
            owner: NodeId(node),
            ..self.session.clone()
        };
        let identity = &mut Arc::make_mut(&mut record.dialog).remote_identity;
        *identity = identity.replace("ab12", &format!("c{node}{number}"));
        record
    }
}

#[derive(Debug, Clone)]
enum Action {
    Command(Box<Command>),
    /// Of this node, as it stands.
    NodeLost,
    /// At another node.
    Opened {
        node: u64,
        number: u64,
    },
    Watched {
        node: u64,
        number: u64,
    },
    SignIn,
    /// A request of some session's dialog comes to this node.
    Request {
        number: usize,
        ends: bool,
    },
    HandOver {
        number: usize,
    },
    Heard {
        entries: usize,
        dropped: bool,
    },
    Quorum(bool),
    AnswersCome(bool),
    Pass,
}

proptest! {
    #[test]
    fn once_everything_is_quiet_the_node_holds_what_the_state_gives_to_it(actions in history()) {
        let mut world = World::new();
        for action in actions {
            world.perform(action);
        }
        world.settle();
        world.check();
    }
}

#[test]
fn a_node_that_learns_of_its_loss_from_a_snapshot_alone_registers_again() {
    let mut world = World::new();
    world.perform(Action::SignIn);
    world.settle();
    assert_eq!(world.held().len(), 1);
    world.perform(Action::NodeLost);
    assert!(world.held().len() == 1, "it has not heard of it");
    world.hear_of(usize::MAX, true);
    assert_ne!(world.incarnation, 1);
    world.settle();
    world.check();
    assert_eq!(world.held().len(), 0, "the session is another node's");
}

#[test]
fn a_node_whose_loss_and_whose_changes_are_both_behind_the_state_registers_once() {
    let mut world = World::new();
    let before = world.registrations;
    world.perform(Action::NodeLost);
    world.apply(registered(2, 5));
    world.hear_of(1, false);
    world.settle();
    world.check();
    assert_eq!(world.registrations, before + 1);
}

#[test]
fn a_node_that_is_superseded_takes_its_id_back_at_a_moderate_pace() {
    let mut world = World::new();
    let before = world.registrations;
    for incarnation in 500..520 {
        world.apply(registered(1, incarnation));
        world.hear_of(usize::MAX, false);
        world.pass(Duration::from_millis(100));
    }
    let registrations = world.registrations - before;
    assert!((2..=4).contains(&registrations), "{registrations} in two seconds");
    world.settle();
    world.check();
}

#[test]
fn a_node_that_is_lost_while_its_registration_is_under_way_takes_another_incarnation() {
    let mut world = World::new();
    world.perform(Action::NodeLost);
    world.lost_at_once = true;
    world.hear_of(usize::MAX, true);
    let before = world.bench.state.nodes()[&NodeId(1)].clone();
    assert_eq!(before.state, NodeState::Lost);
    world.settle();
    assert_ne!(world.incarnation, before.incarnation);
    world.check();
}

#[test]
fn a_node_that_stops_is_not_registered_again() {
    let mut world = World::new();
    world.perform(Action::SignIn);
    world.settle();
    world.hear(Heard::DrainStarted);
    let draining = Command::NodeDraining {
        id: NodeId(1),
        incarnation: world.incarnation,
    };
    world.apply(draining);
    let before = world.registrations;
    world.settle();
    assert_eq!(world.held(), world.given());
    world.perform(Action::NodeLost);
    world.settle();
    assert_eq!(world.registrations, before);
    assert_eq!(world.standing(), Standing::Superseded);
    assert!(world.held().is_empty());
}

#[test]
fn a_session_handed_over_unheard_is_not_taken_back_by_a_stray_request() {
    let mut world = World::new();
    world.perform(Action::SignIn);
    world.settle();
    world.bench.quorum = false;
    world.perform(Action::HandOver { number: 0 });
    let key = world.bench.gateway.sessions.keys().next().unwrap().clone();
    world.receive(&info(
        &key,
        90,
        &crate::csta::Request::System(crate::csta::SystemRequest::GetCstaFeatures { line: None }),
    ));
    // The move is committed and heard of by nobody; then a snapshot comes.
    world.apply(Command::Adopt {
        key: key.clone(),
        from_epoch: Epoch::FIRST,
        to: NodeId(2),
    });
    world.bench.sent.clear();
    world.hear_of(usize::MAX, true);
    assert!(world.held().is_empty());
    let statuses = |sent: &[Sent]| sent.iter().map(Sent::status).collect::<Vec<_>>();
    assert_eq!(
        statuses(&world.bench.sent),
        [503],
        "what was held goes to its owner"
    );
    let sent = world.bench.receive(&info(
        &key,
        91,
        &crate::csta::Request::System(crate::csta::SystemRequest::GetCstaFeatures { line: None }),
    ));
    assert_eq!(statuses(&sent), [503]);
    world.settle();
    assert_eq!(world.bench.record(&key).owner, NodeId(2));
}

#[test]
fn a_session_that_is_just_ending_does_not_come_back_with_a_snapshot() {
    let mut world = World::new();
    world.perform(Action::SignIn);
    world.settle();
    world.bench.quorum = false;
    world.perform(Action::Request {
        number: 0,
        ends: true,
    });
    assert!(world.held().is_empty());
    world.hear(Heard::Changes(&[Change::Replaced]));
    assert!(world.held().is_empty(), "its end is under way");
    world.settle();
    world.check();
    assert_eq!(world.bench.state.sessions().len(), 0);
}

#[test]
fn a_session_served_without_quorum_stays_when_the_node_is_lost_and_is_known_once_it_is_written() {
    let mut world = World::new();
    world.bench = Bench::configured(1, world.bench.state.clone(), |config| {
        config.new_sessions_without_quorum = WithoutQuorum::Serve;
    });
    let authority = Authority::NoLeader;
    world.bench.input(Input::AuthorityChanged(authority));
    world.bench.quorum = false;
    world.perform(Action::SignIn);
    assert_eq!(world.held().len(), 1);
    world.perform(Action::NodeLost);
    world.hear_of(usize::MAX, true);
    assert_eq!(world.held().len(), 1, "it is nobody else's");
    world.bench.quorum = true;
    world.bench.commit_all();
    world.unheard.clear();
    world.bench.changes.clear();
    world.hear(Heard::Changes(&[Change::Replaced]));
    world.settle();
    world.check();
    let mut sessions = world.bench.gateway.sessions.values();
    assert!(sessions.all(|session| session.is_replicated()));
}

#[test]
fn a_session_that_moved_before_its_opening_is_heard_of_is_left() {
    let mut world = World::new();
    world.perform(Action::SignIn);
    world.perform(Action::HandOver { number: 0 });
    assert_eq!(world.held().len(), 1, "it has not heard of it");
    let closings = |world: &World| {
        let closes = |command: &&Command| format!("{command:?}").contains("SessionClosed");
        world.bench.proposed.iter().filter(closes).count()
    };
    world.hear_of(1, false);
    assert_eq!((world.held().len(), closings(&world)), (0, 0));
    world.settle();
    world.check();
}

/// This copy of the state may fall so far behind that the snapshot it gets is older than a session it has opened.
#[test]
fn a_session_that_an_older_state_did_not_know_comes_back_when_its_opening_is_heard_of() {
    let mut world = World::new();
    let older = world.bench.state.clone();
    world.perform(Action::SignIn);
    let newer = std::mem::replace(&mut world.bench.state, older);
    world.bench.input(Input::StateReplaced { sessions: Vec::new() });
    assert!(world.held().is_empty());
    world.bench.state = newer;
    world.settle();
    world.check();
    assert_eq!(world.held().len(), 1);
}

#[test]
fn watchers_that_moved_or_ended_unheard_are_left_even_while_something_is_to_be_written_of_them() {
    for pending in [false, true] {
        let mut world = World::new();
        for cseq in [1, 2] {
            world.receive(&subscribe("", cseq, ""));
        }
        world.settle();
        let keys: Vec<SessionKey> = world.held().into_keys().collect();
        assert_eq!(keys.len(), 2);
        if pending {
            world.bench.quorum = false;
            for (cseq, key) in (3..).zip(&keys) {
                world.receive(&subscribe(&format!(";tag={key}"), cseq, ""));
            }
        }
        let (from_epoch, to) = (Epoch::FIRST, NodeId(2));
        world.apply(Command::WatcherAdopted {
            key: keys[0].clone(),
            from_epoch,
            to,
        });
        world.apply(Command::WatcherRemoved {
            key: keys[1].clone(),
            epoch: from_epoch,
        });
        world.hear_of(usize::MAX, true);
        assert!(!world.held().contains_key(&keys[0]), "it is another node's");
        let sent = world
            .bench
            .receive(&subscribe(&format!(";tag={}", keys[0]), 9, ""));
        assert_eq!(sent[0].status(), 503, "its owner has it");
        world.settle();
        world.check();
    }
}

fn history() -> impl Strategy<Value = Vec<Action>> {
    let node = || 1_u64..4;
    let session = || (2_u64..4, 0_u64..3).prop_map(|(node, number)| session_key(node, number));
    let watcher = || (2_u64..4, 0_u64..2).prop_map(|(node, number)| watcher_key(node, number));
    let epoch = || (0_u32..4).prop_map(Epoch);
    let command = prop_oneof![
        3 => (2_u64..4, 1_u64..4).prop_map(|(id, incarnation)| registered(id, incarnation)),
        3 => (2_u64..4, 1_u64..4).prop_map(|(id, incarnation)| lost(id, incarnation)),
        1 => (900_u64..903).prop_map(|incarnation| registered(1, incarnation)),
        4 => (session(), epoch(), node()).prop_map(|(key, from_epoch, to)| {
            Command::Adopt { key, from_epoch, to: NodeId(to) }
        }),
        2 => (session(), epoch()).prop_map(|(key, epoch)| Command::SessionClosed { key, epoch }),
        3 => (watcher(), epoch(), node()).prop_map(|(key, from_epoch, to)| {
            Command::WatcherAdopted { key, from_epoch, to: NodeId(to) }
        }),
        1 => (watcher(), epoch()).prop_map(|(key, epoch)| Command::WatcherRemoved { key, epoch }),
    ];
    let action = prop_oneof![
        8 => command.prop_map(|command| Action::Command(Box::new(command))),
        1 => Just(Action::NodeLost),
        3 => (2_u64..4, 0_u64..3).prop_map(|(node, number)| Action::Opened { node, number }),
        2 => (2_u64..4, 0_u64..2).prop_map(|(node, number)| Action::Watched { node, number }),
        2 => Just(Action::SignIn),
        3 => (0_usize..6, prop::bool::weighted(0.3)).prop_map(|(number, ends)| Action::Request { number, ends }),
        2 => (0_usize..4).prop_map(|number| Action::HandOver { number }),
        6 => (1_usize..6, any::<bool>()).prop_map(|(entries, dropped)| Action::Heard { entries, dropped }),
        2 => any::<bool>().prop_map(Action::Quorum),
        1 => any::<bool>().prop_map(Action::AnswersCome),
        3 => Just(Action::Pass),
    ];
    prop::collection::vec(action, 0..50)
}

fn lost(id: u64, incarnation: u64) -> Command {
    Command::NodeLost {
        id: NodeId(id),
        incarnation,
    }
}

fn session_key(node: u64, number: u64) -> SessionKey {
    SessionKey::new(format!("n{node}-s{number}"))
}

fn watcher_key(node: u64, number: u64) -> SessionKey {
    SessionKey::new(format!("n{node}-w{number}"))
}
