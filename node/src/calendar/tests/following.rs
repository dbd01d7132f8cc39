//! What the calendars read off the replicated state, however they hear of it.

use std::net::{Ipv4Addr, SocketAddr};

use tandem_cluster::{Applied, Authority, CasEndpoint, CasId, Change, Command, NodeId};

use super::exchange::code;
use super::life::{minutes, seconds, settled, with};
use super::rows::called_back;
use super::world::{World, meeting, minute, name};
use crate::calendar::{
    CalendarSettings, Calendars, CalendarsConfig, CallbackOutcome, Delivery, Input, Output, Report, View,
};
use crate::directory::Directory;
use tandem_exchange::ews::{FreeBusyStatus, SubscriptionId};

const TWO: [&str; 2] = ["cas-1", "cas-2"];

#[test]
fn a_callback_at_another_node_reaches_the_owner_through_the_log() {
    let mut world = settled(2, &TWO, 10, with(Delivery::PushOnly));
    world.calls_any_node = true;
    for number in 0..10 {
        world.change(
            number,
            vec![meeting(minute(-5), minute(99), FreeBusyStatus::OutOfOffice)],
        );
    }
    world.run(seconds(10));
    assert_eq!(world.wrong_users(), Vec::<usize>::new());
    let outcome = |wanted| world.reported(|report| *report == Report::CalledBack(wanted));
    assert!(outcome(CallbackOutcome::PassedOn) > 0);
    let passed_on = |command: &&Command| matches!(command, Command::CallbacksReceived { .. });
    let entries = world.proposals.iter().filter(passed_on).count();
    assert!(entries < 10, "callbacks share an entry: {entries}");
}

fn is_kept(world: &World, subscription: &SubscriptionId) -> bool {
    world.exchange.subscriptions.contains_key(&subscription.0)
}

/// docs/spec/ews.md §1.3: it ends by the answer to its next callback, and that may come to any node.
#[test]
fn a_push_subscription_at_a_former_cas_ends_wherever_it_calls() {
    let mut world = settled(2, &TWO, 10, with(Delivery::PushOnly));
    let old = world.subscription_of(0);
    let (former, epoch) = (world.cas_of(0), world.epoch_of(0));
    let other = TWO.iter().find(|cas| **cas != former).unwrap();
    // By the clock of the administrator's node, which is an hour fast.
    let at_ms = world.wall_ms() + 3_600_000;
    let users = vec![(name(0), epoch, CasId((*other).to_owned()))];
    world.apply(Command::CasMoved { users, at_ms });
    world.run(seconds(10));
    let present = world.subscription_of(0);
    assert_ne!(present, old);
    for subscription in [&old, &present] {
        world.call_a_stranger(subscription);
    }
    assert_eq!((is_kept(&world, &old), is_kept(&world, &present)), (false, true));
}

/// The assignment tells nothing of two subscriptions at one CAS: only the owner knows which one is used.
#[test]
fn an_earlier_push_subscription_at_the_same_cas_ends_at_the_second_callback_of_a_stranger() {
    let mut world = settled(2, &["cas-1"], 10, with(Delivery::PushOnly));
    let old = world.subscription_of(0);
    // Its CAS believes it alive all the same.
    let attempt = world.push_attempt(0);
    world.input_all(|_| called_back(attempt, code("ErrorSubscriptionNotFound")));
    world.run(minutes(2));
    let present = world.subscription_of(0);
    assert_ne!(present, old);
    for _ in 0..2 {
        world.call_a_stranger(&old);
        world.call_a_stranger(&present);
        world.run(seconds(5));
    }
    assert_eq!((is_kept(&world, &old), is_kept(&world, &present)), (false, true));
}

#[test]
fn a_node_owns_nobody_unless_the_cluster_shows_it_live() {
    let mut world = settled(1, &TWO, 10, CalendarSettings::default());
    let owned = |world: &World| world.census().users_owned;
    assert_eq!(owned(&world), 10);
    let (id, incarnation) = (NodeId(1), 1);
    world.apply(Command::NodeLost { id, incarnation });
    assert_eq!(owned(&world), 0);
    let requests = world.requests.len();
    world.run(minutes(2));
    assert_eq!(world.requests.len(), requests, "nothing is asked for nobody");
    world.apply(Command::NodeRegistered {
        id,
        sip_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 5060)),
        incarnation,
    });
    world.run(minutes(2));
    assert_eq!(owned(&world), 10);
    assert!(world.wrong_users().is_empty());
}

/// A snapshot of the log stands in the place of any number of changes.
#[test]
fn whoever_hears_only_that_the_state_was_replaced_knows_as_much() {
    let mut world = settled(2, &TWO, 20, CalendarSettings::default());
    world.is_deaf = true;
    let (id, incarnation) = (NodeId(2), 2);
    world.apply(Command::NodeLost { id, incarnation });
    world.change_setting("calendar_delivery", "streaming_only");
    let gone = vec![name(7)];
    world.apply(Command::CalendarEnabled {
        users: gone,
        enabled: Some(false),
    });
    world.nodes.remove(&id);
    assert_eq!(world.census().users_owned, 20 - world.owned_by(id));
    world.is_deaf = false;
    world.input_all(|_| Input::Changes(vec![Change::Replaced]));
    world.run(minutes(2));
    assert_eq!(world.census().users_owned, 19);
    let streamed = world.census().deliveries.values().sum::<usize>();
    assert_eq!(streamed, 19);
    assert_eq!(world.state.assignment(&name(7)), None);
}

/// CAL-4: a hundredth of the users of a node, in seconds.
#[test]
fn the_spread_follows_the_number_of_nodes() {
    let mut world = settled(2, &TWO, 1000, CalendarSettings::default());
    world.change_setting("calendar_spread_by", "users");
    world.run(seconds(1));
    let latest = |world: &World| {
        let edges = (0..1000).filter_map(|number| world.explain(number).next_edge_ms);
        edges.map(|due_ms| due_ms % 60_000 / 1000).max().unwrap()
    };
    assert_eq!(latest(&world), 4, "five seconds for 500 users of each node");
    world.kill_node(2);
    world.run(minutes(2));
    assert_eq!(latest(&world), 9);
}

#[test]
fn the_cas_of_the_file_are_offered_to_a_cluster_that_has_none() {
    let id = CasId("cas-of-the-file".to_owned());
    let config = CalendarsConfig {
        initial_cas: vec![(id.clone(), CasEndpoint::of(&id))],
        ..CalendarsConfig::new(NodeId(1))
    };
    for has_some in [false, true] {
        let cas_list: &[&str] = if has_some { &TWO } else { &[] };
        let world = World::new(1, cas_list, 0, CalendarSettings::default());
        let mut calendars = Calendars::new(config.clone(), CalendarSettings::default(), 1);
        let directory = Directory::default();
        let view = View {
            state: &world.state,
            directory: &directory,
            incarnation: 1,
            authority: Authority::Quorum,
        };
        let offered = |outputs: &[Output]| {
            outputs.iter().find_map(|output| match output {
                Output::Propose {
                    proposal,
                    command: Command::CasGatewaysConfigured { gateways, .. },
                } if gateways.len() == 1 => Some(*proposal),
                _ => None,
            })
        };
        let outputs = calendars.handle(Input::StandingChanged, view, world.now());
        let Some(proposal) = offered(&outputs) else {
            assert!(has_some);
            continue;
        };
        assert!(!has_some);
        let applied = Some(Applied::Done);
        let outputs = calendars.handle(Input::Committed { proposal, applied }, view, world.now());
        assert_eq!(offered(&outputs), None, "once");
        let told = Report::CasOffered {
            count: 1,
            is_taken: true,
        };
        assert!(outputs.contains(&Output::Report(told)));
    }
}
