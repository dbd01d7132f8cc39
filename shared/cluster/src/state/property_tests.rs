//! Random histories: what must hold after every command.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::ClusterState;
use super::test_support::{
    draining, gateways, key, lost, opened, opening, record, registered, small_limits, user, watcher,
};
use crate::assignment::{CasEndpoint, CasId};
use crate::command::{Applied, Change, Command, SessionChange, SessionUpdate, WatcherChange};
use crate::format::Format;
use crate::node::NodeId;
use crate::presence::{
    CalendarPresence, CalendarState, CallbackNote, ManualPresence, ManualState, WatcherRecord,
};
use crate::session::{Epoch, IntentOperation, RequestKey, SessionKey};

proptest! {
    #[test]
    fn after_every_command_the_invariants_hold(commands in history()) {
        let mut state = ClusterState::new(small_limits());
        let mut epochs = BTreeMap::new();
        for command in commands {
            let description = format!("{command:?}");
            let before = state.clone();
            let (applied, changes) = state.apply(command);
            check_invariants(&state, &description);
            check_epochs(&state, &mut epochs);
            if changes.is_empty() {
                assert!(state.sessions().eq(before.sessions()), "an untold change: {description}");
                assert_eq!(state.nodes(), before.nodes());
                assert_eq!(state.assignments(), before.assignments());
                assert_eq!(state.gateways, before.gateways);
                assert_eq!(state.settings, before.settings);
                assert_eq!(state.calendar_enabled, before.calendar_enabled);
                assert_eq!(state.presence, before.presence);
                assert_eq!(state.watchers, before.watchers);
            }
            if matches!(applied, Applied::Refused(_)) {
                assert_eq!(state, before, "a refused command changed something: {description}");
            }
        }
    }

    /// As above, of what decides where users are alone: gateways that nobody may use are rare in other histories.
    #[test]
    fn nobody_stays_without_a_gateway_while_one_takes_users(commands in history_of_gateways()) {
        let mut state = ClusterState::new(small_limits());
        let beginning = [registered(1, 1), gateways(&["a", "b"]), super::test_support::assign(0..3)];
        for command in beginning.into_iter().chain(commands) {
            let description = format!("{command:?}");
            state.apply(command);
            check_invariants(&state, &description);
        }
    }

    #[test]
    fn a_command_applied_twice_changes_nothing_the_second_time(commands in history()) {
        let mut state = ClusterState::new(small_limits());
        for command in commands {
            state.apply(command.clone());
            let once = state.clone();
            let (_, changes) = state.apply(command.clone());
            assert_eq!(state, once, "{command:?}");
            assert!(changes.is_empty() || is_told_again(&command), "{command:?}: {changes:?}");
        }
    }

    #[test]
    fn changes_tell_who_owns_every_session(commands in history()) {
        let mut state = ClusterState::new(small_limits());
        let mut owners = BTreeMap::new();
        for command in commands {
            for change in state.apply(command).1 {
                follow(&mut owners, change);
            }
            let told: BTreeMap<SessionKey, NodeId> = owners.clone();
            let sessions = state.sessions().map(|session| (session.key.clone(), session.owner));
            let watchers = state.watchers().values().map(|watcher| (watcher.key.clone(), watcher.owner));
            assert_eq!(told, sessions.chain(watchers).collect());
        }
    }

    #[test]
    fn a_state_from_a_snapshot_has_the_same_future(past in history(), future in history()) {
        let mut state = ClusterState::new(small_limits());
        for command in past {
            state.apply(command);
        }
        let bytes = state.encode(Format::NEWEST).unwrap();
        let mut restored = ClusterState::decode(&bytes, Format::NEWEST).unwrap();
        assert_eq!(restored, state);
        for command in future {
            let bytes = postcard::to_allocvec(&command).unwrap();
            let decoded: Command = postcard::from_bytes(&bytes).unwrap();
            assert_eq!(restored.apply(decoded), state.apply(command));
        }
        assert_eq!(restored, state);
    }

    #[test]
    fn a_batch_does_what_its_commands_do(commands in history()) {
        let (mut one_by_one, mut at_once) =
            (ClusterState::new(small_limits()), ClusterState::new(small_limits()));
        let mut applied = Vec::new();
        let mut changes = Vec::new();
        for command in commands.clone() {
            let (outcome, more) = one_by_one.apply(command);
            applied.push(outcome);
            changes.extend(more);
        }
        assert_eq!(at_once.apply(Command::Batch(commands)), (Applied::Batch(applied), changes));
        assert_eq!(at_once, one_by_one);
    }
}

/// Such a command is told to the others every time, and leaves no trace.
fn is_told_again(command: &Command) -> bool {
    matches!(
        command,
        Command::CallbacksReceived { .. } | Command::Rebalance { .. } | Command::StateMarked
    )
}

fn check_invariants(state: &ClusterState, description: &str) {
    if let Err(broken) = state.check_invariants() {
        panic!("{broken} after {description}");
    }
    check_cas_shares(state.clone(), description);
}

/// The plan for even shares, carried out, leaves nothing to plan.
fn check_cas_shares(mut state: ClusterState, description: &str) {
    let moves = state.cas_rebalancing_moves();
    let count = moves.len();
    let users = moves
        .into_iter()
        .map(|planned| (planned.user, planned.from_epoch, planned.to))
        .collect();
    let (_, changes) = state.apply(Command::CasMoved { users, at_ms: 9 });
    assert_eq!(changes.len(), count, "a move that is none after {description}");
    assert_eq!(state.cas_rebalancing_moves(), [], "uneven after {description}");
}

/// An epoch never falls, and an owner never changes without it.
fn check_epochs(state: &ClusterState, epochs: &mut BTreeMap<SessionKey, (Epoch, NodeId)>) {
    epochs.retain(|key, _| state.owner_of(key).is_some());
    let sessions = state
        .sessions()
        .map(|session| (&session.key, session.epoch, session.owner));
    let watchers = state.watchers().values();
    let watchers = watchers.map(|watcher| (&watcher.key, watcher.epoch, watcher.owner));
    for (key, epoch, owner) in sessions.chain(watchers) {
        let now = (epoch, owner);
        let then = epochs.insert(key.clone(), now).unwrap_or(now);
        assert!(then == now || then.0 < now.0, "{then:?} became {now:?}");
    }
}

fn follow(owners: &mut BTreeMap<SessionKey, NodeId>, change: Change) {
    match change {
        Change::Session(SessionChange::Opened(key)) => {
            let issuer = key.issuer().unwrap();
            assert_eq!(owners.insert(key, issuer), None);
        }
        Change::Session(SessionChange::Moved { key, from, to, .. }) => {
            assert_eq!(owners.insert(key, to), Some(from))
        }
        Change::Session(SessionChange::Closed { key, owner }) => assert_eq!(owners.remove(&key), Some(owner)),
        Change::Session(SessionChange::Updated(key)) => assert!(owners.contains_key(&key)),
        // The first change of a watcher says whose it is.
        Change::Watcher(WatcherChange::Written(key)) => {
            let issuer = key.issuer().unwrap();
            owners.entry(key).or_insert(issuer);
        }
        Change::Watcher(WatcherChange::Moved { key, from, to }) => {
            assert_eq!(owners.insert(key, to), Some(from))
        }
        Change::Watcher(WatcherChange::Removed { key, owner }) => {
            assert_eq!(owners.remove(&key), Some(owner))
        }
        Change::Node(_)
        | Change::Calendar(_)
        | Change::Presence { .. }
        | Change::Setting { .. }
        | Change::RebalanceRequested { .. } => {}
        Change::Replaced => panic!("apply never replaces the state"),
    }
}

pub(super) fn history() -> impl Strategy<Value = Vec<Command>> {
    prop::collection::vec(prop_oneof![2 => command(), 1 => calendar_command()], 0..60)
}

fn history_of_gateways() -> impl Strategy<Value = Vec<Command>> {
    let node = || 1_u64..3;
    let names = vec!["a", "b"];
    let cas = move || prop::sample::select(names.clone()).prop_map(|name| CasId(name.to_owned()));
    let command = prop_oneof![
        2 => (node(), 1_u64..3).prop_map(|(id, incarnation)| registered(id, incarnation)),
        1 => (node(), 1_u64..3).prop_map(|(id, incarnation)| lost(id, incarnation)),
        1 => (node(), 1_u64..3).prop_map(|(id, incarnation)| draining(id, incarnation)),
        3 => prop::sample::subsequence(vec!["a", "b"], 0..=2).prop_map(|names| gateways(&names)),
        2 => (cas(), any::<bool>()).prop_map(|(cas, eligible)| Command::CasEligible { cas, eligible }),
        4 => (cas(), node(), any::<bool>())
            .prop_map(|(cas, node, open)| Command::CasBreaker { cas, node: NodeId(node), open }),
        3 => prop::collection::vec(0_u64..3, 0..3).prop_map(super::test_support::assign),
        1 => (0_u64..3, 0_u32..3).prop_map(|(number, epoch)| {
            Command::CasFailed { users: vec![(user(number), epoch)], at_ms: 3 }
        }),
        1 => (0_u64..3, 0_u32..3, cas()).prop_map(|(number, epoch, cas)| {
            Command::CasMoved { users: vec![(user(number), epoch, cas)], at_ms: 4 }
        }),
    ];
    prop::collection::vec(command, 0..40)
}

fn calendar_command() -> impl Strategy<Value = Command> {
    let node = || (1_u64..4).prop_map(NodeId);
    let cas = || prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(|name| CasId(name.to_owned()));
    let some_user = || (0_u64..6).prop_map(user);
    prop_oneof![
        1 => prop::collection::vec((cas(), 1_u16..3), 0..4).prop_map(configured),
        2 => (cas(), node(), any::<bool>()).prop_map(|(cas, node, open)| Command::CasBreaker { cas, node, open }),
        3 => prop::collection::vec((some_user(), 0_u32..3, cas()), 0..4)
            .prop_map(|users| Command::CasMoved { users, at_ms: 4 }),
        2 => (prop::collection::vec(some_user(), 0..3), any::<Option<bool>>())
            .prop_map(|(users, enabled)| Command::CalendarEnabled { users, enabled }),
        1 => some_user().prop_map(callback),
        4 => (node(), prop::collection::vec((some_user(), calendar()), 0..4))
            .prop_map(|(node, users)| Command::CalendarPresenceChanged { node, users }),
        2 => (some_user(), manual()).prop_map(|(user, manual)| Command::ManualPresenceSet { user, manual }),
    ]
}

fn configured(gateways: Vec<(CasId, u16)>) -> Command {
    let endpoint = |id: &CasId, port| CasEndpoint {
        port,
        ..CasEndpoint::of(id)
    };
    Command::CasGatewaysConfigured {
        gateways: gateways
            .into_iter()
            .map(|(id, port)| (id.clone(), endpoint(&id, port)))
            .collect(),
        at_ms: 1,
    }
}

fn callback(user: String) -> Command {
    Command::CallbacksReceived {
        callbacks: vec![CallbackNote {
            user,
            attempt: 1,
            subscription: "subscription".to_owned(),
            has_events: true,
            failed: None,
        }],
    }
}

fn calendar() -> impl Strategy<Value = Option<CalendarPresence>> {
    let states = vec![CalendarState::Unknown, CalendarState::Free, CalendarState::Busy];
    prop::option::of(
        (prop::sample::select(states), 0_u64..3).prop_map(|(state, from_ms)| CalendarPresence {
            state,
            from_ms,
            until_ms: None,
        }),
    )
}

fn manual() -> impl Strategy<Value = Option<ManualPresence>> {
    let states = vec![ManualState::Away, ManualState::DoNotDisturb];
    prop::option::of(
        (prop::sample::select(states), 0_u64..3).prop_map(|(state, set_at_ms)| ManualPresence {
            state,
            set_at_ms,
            until_ms: None,
        }),
    )
}

/// Few nodes, sessions and epochs, so that commands meet.
fn command() -> impl Strategy<Value = Command> {
    let node = || 1_u64..4;
    let session = || (1_u64..4, 0_u64..3).prop_map(|(node, number)| key(node, number));
    let watching = || (1_u64..4, 4_u64..7).prop_map(|(node, number)| key(node, number));
    let epoch = || (0_u32..4).prop_map(Epoch);
    let request = || {
        (0_u32..4).prop_map(|cseq| RequestKey {
            top_via: "via".to_owned(),
            cseq,
        })
    };
    prop_oneof![
        4 => (node(), 1_u64..3).prop_map(|(id, incarnation)| registered(id, incarnation)),
        3 => (node(), 1_u64..3).prop_map(|(id, incarnation)| lost(id, incarnation)),
        1 => (node(), 1_u64..3).prop_map(|(id, incarnation)| draining(id, incarnation)),
        8 => (node(), 0_u64..3).prop_map(|(owner, number)| opened(owner, number)),
        2 => (node(), 0_u64..3, 0_u64..3).prop_map(|(owner, number, request)| Command::SessionOpened {
            opening: opening(request),
            record: Box::new(record(owner, number)),
            decided_at_ms: request,
        }),
        3 => (session(), epoch(), 0_u64..9).prop_map(|(key, epoch, expires_at_ms)| {
            let update = SessionUpdate { expires_at_ms: Some(expires_at_ms), ..SessionUpdate::default() };
            Command::SessionUpdated { key, epoch, update }
        }),
        1 => (session(), epoch()).prop_map(|(key, epoch)| Command::SessionClosed { key, epoch }),
        3 => (session(), epoch(), node()).prop_map(|(key, from_epoch, to)| {
            Command::Adopt { key, from_epoch, to: NodeId(to) }
        }),
        6 => (node(), 4_u64..7, 0_u64..9).prop_map(|(owner, number, expires_at_ms)| {
            let record = Box::new(WatcherRecord { expires_at_ms, ..watcher(owner, number) });
            Command::WatcherSet { record }
        }),
        2 => (watching(), epoch()).prop_map(|(key, epoch)| Command::WatcherRemoved { key, epoch }),
        3 => (watching(), epoch(), node()).prop_map(|(key, from_epoch, to)| {
            Command::WatcherAdopted { key, from_epoch, to: NodeId(to) }
        }),
        3 => (session(), epoch(), request(), 0_u64..9).prop_map(|(key, epoch, request, decided_at_ms)| {
            let operation = IntentOperation::AnswerCall { call_id: "1".to_owned() };
            Command::Intent { key, epoch, request, operation, decided_at_ms }
        }),
        1 => (session(), request()).prop_map(|(key, request)| {
            Command::IntentResult { key, request, body: "<Response/>".to_owned() }
        }),
        1 => (0_u64..9).prop_map(|before_ms| Command::Expire { before_ms }),
        1 => (0_u64..9).prop_map(|value| Command::SettingChanged {
            name: "session_timer_secs".to_owned(),
            value: Some((value * 100).to_string()),
        }),
        2 => prop::sample::subsequence(vec!["a", "b", "c"], 0..=3).prop_map(|names| gateways(&names)),
        1 => (prop::sample::select(vec!["a", "b", "c"]), any::<bool>()).prop_map(|(cas, eligible)| {
            Command::CasEligible { cas: CasId(cas.to_owned()), eligible }
        }),
        3 => prop::collection::vec(0_u64..6, 0..4).prop_map(super::test_support::assign),
        2 => prop::collection::vec((0_u64..6, 0_u32..3), 0..4).prop_map(|users| Command::CasFailed {
            users: users.into_iter().map(|(number, epoch)| (user(number), epoch)).collect(),
            at_ms: 3,
        }),
        1 => (0_u64..6).prop_map(|number| Command::CasUnassign { users: vec![user(number)] }),
    ]
}
