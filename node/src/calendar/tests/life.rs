//! What a cluster's calendars do on good days and on bad ones.

use std::time::Duration;

use tandem_cluster::{Authority, CalendarPresence, CalendarState, Change, Command, NodeId};

use super::exchange::CasState;
use super::world::{World, address, meeting, minute, name, user};
use crate::calendar::{
    CalendarSettings, Delivery, DeliveryKind, Input, Report, StreamEnd, SubscriptionState,
};
use tandem_exchange::ews::FreeBusyStatus;

const EIGHT: [&str; 8] = [
    "cas-1", "cas-2", "cas-3", "cas-4", "cas-5", "cas-6", "cas-7", "cas-8",
];

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

pub(super) fn with(delivery: Delivery) -> CalendarSettings {
    CalendarSettings {
        delivery,
        ..CalendarSettings::default()
    }
}

/// A world that has come to rest.
pub(super) fn settled(nodes: u64, cas_list: &[&str], users: usize, settings: CalendarSettings) -> World {
    let mut world = World::new(nodes, cas_list, users, settings);
    world.start();
    world.run(seconds(60));
    assert!(world.unsubscribed_users().is_empty());
    assert!(world.wrong_users().is_empty());
    world
}

#[test]
fn after_a_cold_start_everybody_is_subscribed_and_right_within_a_minute() {
    let mut world = World::new(2, &EIGHT, 1000, CalendarSettings::default());
    world.start();
    world.run(seconds(4));
    assert!(
        world.wrong_users().is_empty(),
        "presence comes before subscriptions"
    );
    world.run(seconds(56));
    assert!(world.unsubscribed_users().is_empty());
    assert!(
        world.spread().values().all(|count| *count == 125),
        "{:?}",
        world.spread()
    );
    assert_eq!(world.moves(), 0);
    assert!(world.exchange.count("get_user_availability") < 100);
}

/// A node that kept some users meanwhile has said something else of one of them, and what was said of another was not
/// heard, because it was not its owner's then.
#[test]
fn what_the_log_does_not_hold_as_it_was_published_is_said_again_by_its_owner_alone() {
    let mut world = settled(2, &EIGHT, 20, CalendarSettings::default());
    let said = |world: &World, number| world.published[&name(number)].clone();
    let last = |number| said(&world, number).last().unwrap().1;
    let another = CalendarPresence {
        until_ms: Some(1),
        ..last(4)
    };
    for (number, recorded) in [(3, None), (4, Some(another))] {
        let node = world.state.calendar_owner(&name(number)).unwrap();
        let users = vec![(name(number), recorded)];
        world.apply(Command::CalendarPresenceChanged { node, users });
    }
    let before: Vec<_> = (0..20).map(|number| said(&world, number)).collect();
    world.input_all(|_| Input::Changes(vec![Change::Node(NodeId(2))]));
    for (number, mut expected) in before.into_iter().enumerate() {
        if [3, 4].contains(&number) {
            expected.push((world.unix_ms, expected.last().unwrap().1));
        }
        assert_eq!(said(&world, number), expected, "user {number}");
    }
}

#[test]
fn a_change_between_the_first_load_and_the_subscription_is_not_missed() {
    let mut world = World::new(1, &EIGHT[..1], 300, CalendarSettings::default());
    world.start();
    for step in 0..60 {
        world.run(Duration::from_millis(100));
        let busy = vec![meeting(minute(0), minute(50), FreeBusyStatus::Busy)];
        for number in (step * 5)..(step * 5 + 5) {
            world.change(number, busy.clone());
        }
    }
    world.run(seconds(60));
    assert!(world.wrong_users().is_empty());
    assert_eq!(world.reported(|report| matches!(report, Report::Deaf { .. })), 0);
}

#[test]
fn when_a_cas_dies_its_users_go_to_the_others_evenly_and_nobody_else_moves() {
    let mut world = settled(2, &EIGHT, 1000, CalendarSettings::default());
    let before: Vec<String> = (0..1000).map(|number| world.cas_of(number)).collect();
    world.exchange.cas("cas-3").state = CasState::Dead;
    world.exchange.forget_subscriptions("cas-3");
    world.run(seconds(60));
    for (number, cas) in before.iter().enumerate() {
        assert_eq!(world.cas_of(number) == *cas, cas != "cas-3");
    }
    let spread = world.spread();
    assert!(
        spread.values().all(|count| (139..=146).contains(count)),
        "{spread:?}"
    );
    assert!(world.unsubscribed_users().is_empty());
    assert!(world.wrong_users().is_empty());
    world.exchange.cas("cas-3").state = CasState::Up;
    world.run(minutes(5));
    assert_eq!(
        world.spread(),
        spread,
        "who has left does not come back by itself"
    );
    assert!(world.state.cas_gateways().iter().all(|cas| cas.takes_users()));
}

#[test]
fn what_waits_to_be_read_at_a_cas_that_fails_is_read_at_the_next_one() {
    let mut world = settled(1, &EIGHT[..3], 60, CalendarSettings::default());
    let busy = vec![meeting(minute(0), minute(600), FreeBusyStatus::Busy)];
    for number in 0..60 {
        world.change(number, busy.clone());
    }
    // Subscriptions outlive it: what they told waits for its turn when nothing is answered any more.
    world.exchange.cas("cas-1").state = CasState::Dead;
    world.run(seconds(60));
    assert!(!world.spread().contains_key("cas-1"), "{:?}", world.spread());
    assert!(world.unsubscribed_users().is_empty());
    assert_eq!(world.wrong_users(), Vec::<usize>::new());
}

#[test]
fn a_cas_that_swallows_requests_is_found_out_and_left_within_a_minute() {
    let mut world = settled(1, &EIGHT[..4], 100, CalendarSettings::default());
    world.exchange.cas("cas-2").state = CasState::Silent;
    world.run(seconds(60));
    assert!(!world.spread().contains_key("cas-2"), "{:?}", world.spread());
}

#[test]
fn users_of_a_dead_cas_move_at_the_bounded_rate_in_few_entries() {
    let settings = CalendarSettings {
        moves_per_second: 10,
        ..CalendarSettings::default()
    };
    let mut world = settled(1, &EIGHT[..2], 200, settings);
    let entries = world.proposals.len();
    world.exchange.cas("cas-1").state = CasState::Dead;
    world.run(minutes(2));
    let moved: Vec<usize> = world.proposals[entries..]
        .iter()
        .filter_map(|command| match command {
            Command::CasFailed { users, .. } => Some(users.len()),
            _ => None,
        })
        .collect();
    assert!(moved.iter().all(|users| *users <= 10), "{moved:?}");
    assert_eq!((moved.len(), moved.iter().sum::<usize>()), (10, 100));
}

#[test]
fn when_every_cas_is_down_nobody_moves_and_all_heal_where_they_are() {
    let mut world = settled(1, &EIGHT[..4], 100, CalendarSettings::default());
    let before = world.state.assignments().clone();
    for cas in &EIGHT[..4] {
        world.exchange.cas(cas).state = CasState::Dead;
    }
    world.run(minutes(3));
    assert_eq!(world.state.assignments(), &before);
    for cas in &EIGHT[..4] {
        world.exchange.cas(cas).state = CasState::Up;
    }
    world.run(minutes(3));
    assert_eq!(world.state.assignments(), &before);
    assert!(world.unsubscribed_users().is_empty());
}

/// A CAS that was heard a moment ago is found to be down as soon as one that was silent for long.
#[test]
fn what_goes_down_together_is_found_down_together() {
    for offset in 0..12 {
        let mut world = settled(1, &EIGHT[..4], 40, CalendarSettings::default());
        world.run(seconds(offset));
        for cas in &EIGHT[..4] {
            world.exchange.cas(cas).state = CasState::Dead;
        }
        world.run(minutes(2));
        assert_eq!(world.moves(), 0, "{offset} s later");
    }
}

#[test]
fn when_a_node_dies_its_successors_take_over_at_the_same_cas() {
    let mut world = settled(3, &EIGHT[..4], 300, CalendarSettings::default());
    let before = world.state.assignments().clone();
    world.kill_node(2);
    world.run(seconds(30));
    assert_eq!(world.state.assignments(), &before);
    for number in 0..300 {
        assert_eq!(world.explain(number).subscription, SubscriptionState::Live);
    }
    assert!(world.wrong_users().is_empty());
}

#[test]
fn a_node_without_authority_starts_nothing_and_goes_on_publishing() {
    let mut world = settled(1, &EIGHT[..2], 20, CalendarSettings::default());
    world.change_authority(Authority::Isolated);
    let (requests, entries) = (world.requests.len(), world.proposals.len());
    world.exchange.cas("cas-1").state = CasState::Dead;
    world.run(minutes(40));
    assert_eq!((world.requests.len(), world.proposals.len()), (requests, entries));
    assert!(
        world.wrong_users().is_empty(),
        "the half hour has passed for everybody"
    );
}

#[test]
fn throttling_moves_nobody_and_lets_fewer_requests_out() {
    let mut world = settled(1, &EIGHT[..4], 400, CalendarSettings::default());
    let before = world.state.assignments().clone();
    world.exchange.cas("cas-1").state = CasState::Busy { back_off: seconds(7) };
    let asked = world.exchange.asked_at("cas-1");
    for number in 0..400 {
        world.change(
            number,
            vec![meeting(minute(0), minute(600), FreeBusyStatus::Busy)],
        );
    }
    world.run(minutes(2));
    assert_eq!(world.state.assignments(), &before);
    assert!(world.exchange.asked_at("cas-1") - asked < 60);
    let health = world.health("cas-1");
    assert_eq!(health.concurrency, 1);
    assert!(health.throttled > 0 && health.back_off_until_ms.is_some());
    world.exchange.cas("cas-1").state = CasState::Up;
    world.run(minutes(12));
    assert!(world.wrong_users().is_empty());
    assert_eq!(world.state.assignments(), &before);
    assert!(world.health("cas-1").concurrency > 1);
}

#[test]
fn a_wrong_password_raises_one_alarm_and_locks_no_account() {
    let mut world = World::new(1, &EIGHT, 200, CalendarSettings::default());
    world.exchange.password_is_wrong = true;
    world.start();
    world.run(minutes(10));
    assert!(world.exchange.refusals <= 5, "{}", world.exchange.refusals);
    let alarms = world.reported(|report| matches!(report, Report::CredentialRefused { .. }));
    assert_eq!(alarms, 1);
    assert_eq!(world.moves(), 0);
    world.exchange.password_is_wrong = false;
    world.input_all(|_| Input::CredentialChanged);
    world.run(seconds(60));
    assert!(world.unsubscribed_users().is_empty());
    assert!(world.wrong_users().is_empty());
}

#[test]
fn a_password_that_is_good_again_is_found_by_a_probe() {
    let mut world = World::new(1, &EIGHT[..2], 20, CalendarSettings::default());
    world.exchange.password_is_wrong = true;
    world.start();
    world.run(seconds(30));
    assert_eq!(world.exchange.refusals, 1);
    world.exchange.password_is_wrong = false;
    world.run(seconds(60));
    assert_eq!(world.reported(|report| *report == Report::CredentialAccepted), 1);
    assert!(world.unsubscribed_users().is_empty());
}

#[test]
fn one_cas_that_alone_refuses_the_account_does_not_stop_the_others() {
    let mut world = settled(1, &EIGHT[..3], 60, CalendarSettings::default());
    world.exchange.cas("cas-1").refuses_account = true;
    for round in 0..20 {
        for number in 0..60 {
            let end = minute(600 + round);
            world.change(number, vec![meeting(minute(0), end, FreeBusyStatus::Busy)]);
        }
        world.run(seconds(60));
    }
    let by_one = |report: &Report| matches!(report, Report::CredentialRefusedByOne { .. });
    assert_eq!(world.reported(by_one), 1);
    assert!(world.exchange.refusals <= 10, "{}", world.exchange.refusals);
    assert!(world.health("cas-1").refuses_account);
    for number in (0..60).filter(|number| world.cas_of(*number) != "cas-1") {
        assert_eq!(world.shown(number), Some(CalendarState::Busy));
    }
}

#[test]
fn a_removed_user_is_unsubscribed_and_forgotten_at_once() {
    for delivery in [Delivery::StreamingOnly, Delivery::Pull, Delivery::PushOnly] {
        let mut world = settled(1, &EIGHT[..2], 10, with(delivery));
        let stayed = (1..10).map(user).collect();
        world.set_users(stayed);
        world.run(seconds(2));
        assert_eq!(world.state.assignment(&name(0)), None);
        assert!(world.proposals.iter().any(|command| match command {
            Command::Batch(commands) => commands.contains(&Command::CalendarPresenceChanged {
                node: NodeId(1),
                users: vec![(name(0), None)],
            }),
            _ => false,
        }));
        if delivery == Delivery::PushOnly {
            world.run(minutes(61));
        }
        let subscribed = world.exchange.subscribed_mailboxes();
        assert!(!subscribed.contains(address(0).as_str()), "{delivery:?}");
        assert_eq!(subscribed.len(), 9);
    }
}

#[test]
fn assignments_of_users_whom_nobody_knows_are_taken_back() {
    let mut world = World::new(2, &EIGHT[..2], 4, CalendarSettings::default());
    world.apply(Command::CasAssign {
        users: vec!["ghost".to_owned()],
        at_ms: 1,
    });
    world.start();
    world.run(seconds(5));
    assert_eq!(world.state.assignment("ghost"), None);
    assert_eq!(world.state.assignments().len(), 4);
}

#[test]
fn another_address_is_another_calendar() {
    let mut world = settled(1, &EIGHT[..2], 4, with(Delivery::StreamingOnly));
    let mut users = world.user_list();
    users[0].mailbox.0 = "new@lab.test".to_owned();
    world.exchange.mailbox("new@lab.test").items =
        vec![meeting(minute(0), minute(99), FreeBusyStatus::OutOfOffice)];
    world.set_users(users);
    world.run(seconds(10));
    assert_eq!(world.shown(0), Some(CalendarState::OutOfOffice));
    let subscribed = world.exchange.subscribed_mailboxes();
    assert!(subscribed.contains("new@lab.test") && !subscribed.contains(address(0).as_str()));
}

#[test]
fn streams_are_shared_opened_again_and_miss_nothing() {
    let settings = CalendarSettings {
        stream_group_max: 40,
        ..with(Delivery::StreamingOnly)
    };
    let mut world = settled(1, &EIGHT[..2], 200, settings);
    assert_eq!(world.census().streams, 6, "three at each gateway");
    world.end_streams("cas-1", &StreamEnd::Closed);
    let busy = |number: usize| {
        vec![meeting(
            minute(0),
            minute(700 + number as i64),
            FreeBusyStatus::Busy,
        )]
    };
    for number in 0..200 {
        world.change(number, busy(number));
    }
    world.run(seconds(15));
    assert_eq!(world.census().streams, 6);
    assert!(world.wrong_users().is_empty());
    assert_eq!(world.moves(), 0);
    assert_eq!(world.exchange.count("subscribe_streaming"), 200);
}

#[test]
fn after_a_restart_of_exchange_rejected_streams_are_subscribed_anew() {
    let mut world = settled(1, &EIGHT[..2], 60, with(Delivery::StreamingOnly));
    world.end_streams("cas-1", &StreamEnd::Closed);
    world.exchange.forget_subscriptions("cas-1");
    for number in 0..60 {
        world.change(
            number,
            vec![meeting(minute(0), minute(500), FreeBusyStatus::Busy)],
        );
    }
    world.run(seconds(60));
    assert!(world.unsubscribed_users().is_empty());
    for number in world.wrong_users().into_iter().take(3) {
        eprintln!(
            "DBG {number} {:?} {:?} {:?}",
            world.explain(number),
            world.truth(number),
            world
                .exchange
                .subscriptions
                .iter()
                .filter(|(_, it)| it.mailbox == address(number))
                .collect::<Vec<_>>()
        );
    }
    assert!(world.wrong_users().is_empty());
}

/// Exchange wrote into a connection that nobody read any more.
#[test]
fn what_was_said_into_a_broken_stream_is_read_again() {
    let mut world = settled(1, &EIGHT[..2], 60, with(Delivery::StreamingOnly));
    for number in 0..60 {
        world.change_untold(
            number,
            vec![meeting(minute(0), minute(500), FreeBusyStatus::OutOfOffice)],
        );
    }
    world.end_streams("cas-1", &StreamEnd::Silent);
    world.run(seconds(10));
    for number in 0..60 {
        let is_right = world.shown(number) == Some(CalendarState::OutOfOffice);
        assert_eq!(is_right, world.cas_of(number) == "cas-1");
    }
    assert_eq!(world.exchange.count("subscribe_streaming"), 60);
    assert_eq!(world.moves(), 0);
}

#[test]
fn a_user_whose_push_never_calls_back_is_streamed() {
    let mut world = World::new(1, &EIGHT[..2], 30, CalendarSettings::default());
    world.exchange.push_is_blocked = true;
    world.start();
    world.run(minutes(2));
    for number in 0..30 {
        let explanation = world.explain(number);
        assert_eq!(explanation.delivery, Some(DeliveryKind::Streaming));
        assert!(explanation.push_unreachable);
    }
    world.change(
        3,
        vec![meeting(minute(0), minute(90), FreeBusyStatus::OutOfOffice)],
    );
    world.run(seconds(10));
    assert_eq!(world.shown(3), Some(CalendarState::OutOfOffice));
    assert_eq!(world.moves(), 0);
    assert_eq!(world.health("cas-1").push_unreachable, 15);
}

#[test]
fn where_only_push_is_allowed_an_unreachable_port_is_reported() {
    let mut world = World::new(1, &EIGHT[..1], 3, with(Delivery::PushOnly));
    world.exchange.push_is_blocked = true;
    world.start();
    world.run(minutes(3));
    let unreachable = |report: &Report| matches!(report, Report::NotificationPortUnreachable { .. });
    assert_eq!(world.reported(unreachable), 3);
    world.exchange.push_is_blocked = false;
    world.run(minutes(15));
    assert!(world.unsubscribed_users().is_empty());
    assert_eq!(world.explain(0).subscription, SubscriptionState::Live);
}

#[test]
fn push_that_falls_silent_for_twice_the_status_frequency_is_lost_and_moved() {
    let settings = CalendarSettings {
        status_frequency: 5,
        ..with(Delivery::PushOnly)
    };
    let mut world = settled(1, &EIGHT[..3], 3, settings);
    let (cas, mailbox) = (world.cas_of(1), address(1));
    world
        .exchange
        .subscriptions
        .retain(|_, subscription| subscription.mailbox != mailbox);
    world.run(minutes(9));
    assert_eq!(world.cas_of(1), cas);
    world.run(minutes(3));
    assert_ne!(world.cas_of(1), cas);
    assert!(world.unsubscribed_users().is_empty());
    assert_eq!(world.moves(), 1);
}

#[test]
fn pulled_calendars_are_right_after_the_pull_interval() {
    let mut world = settled(1, &EIGHT[..2], 20, with(Delivery::Pull));
    world.change(
        7,
        vec![meeting(minute(0), minute(300), FreeBusyStatus::OutOfOffice)],
    );
    world.run(seconds(70));
    assert_eq!(world.shown(7), Some(CalendarState::OutOfOffice));
    assert_eq!(world.exchange.count("subscribe_pull"), 20);
}

#[test]
fn a_burst_of_events_is_one_read() {
    let mut world = settled(1, &EIGHT[..1], 1, CalendarSettings::default());
    let reads = world.exchange.count("find_item");
    for length in 0..10 {
        world.change(
            0,
            vec![meeting(minute(0), minute(40 + length), FreeBusyStatus::Busy)],
        );
    }
    world.run(seconds(10));
    assert_eq!(world.exchange.count("find_item"), reads + 1);
    assert!(world.wrong_users().is_empty());
}

#[test]
fn a_deaf_subscription_is_found_by_the_sweep_and_replaced_at_the_same_cas() {
    let mut world = settled(1, &EIGHT[..2], 40, CalendarSettings::default());
    let cas = world.cas_of(5);
    for subscription in world.exchange.subscriptions.values_mut() {
        subscription.is_deaf |= subscription.mailbox == address(5);
    }
    let changed = vec![meeting(minute(10), minute(300), FreeBusyStatus::OutOfOffice)];
    world.change(5, changed.clone());
    world.run(minutes(20));
    assert_eq!(world.shown(5), Some(CalendarState::OutOfOffice));
    assert_eq!(
        world.reported(|report| matches!(report, Report::Deaf { user, .. } if *user == name(5))),
        1
    );
    assert_eq!((world.cas_of(5), world.moves()), (cas, 0));
    world.change(5, Vec::new());
    world.run(seconds(10));
    assert_eq!(world.shown(5), Some(CalendarState::Free), "and it hears again");
}

#[test]
fn a_window_that_holds_too_much_is_halved() {
    let mut world = World::new(1, &EIGHT[..1], 1, CalendarSettings::default());
    let many = (0..40).map(|hour| {
        meeting(
            minute(hour * 60 + 10),
            minute(hour * 60 + 20),
            FreeBusyStatus::Busy,
        )
    });
    let mailbox = world.exchange.mailbox(&address(0));
    mailbox.items = many.collect();
    mailbox.items_max = Some(10);
    world.start();
    world.run(minutes(14));
    assert_eq!(world.shown(0), Some(CalendarState::Busy));
    let known_until = world.explain(0).known_until_ms.unwrap();
    let hours = (known_until - world.unix_ms) / 3_600_000;
    assert!((5..=9).contains(&hours), "{hours} hours");
    world.run(Duration::from_secs(24 * 3600));
    assert!(world.wrong_users().is_empty(), "read again before it ends");
}

#[test]
fn changed_settings_hold_at_once() {
    let mut world = settled(1, &EIGHT[..2], 20, CalendarSettings::default());
    world.change_setting("calendar_delivery", "streaming_only");
    world.change_setting("calendar_spread_secs", "0");
    world.change_setting("exchange_threads_max", "2");
    world.run(minutes(6));
    assert_eq!(world.census().deliveries.get(&DeliveryKind::Streaming), Some(&20));
    assert_eq!(
        world.exchange.subscriptions.len(),
        40,
        "push ends with its next callback"
    );
    assert!(world.health("cas-1").concurrency <= 2);
    world.run(minutes(61));
    assert_eq!(world.exchange.subscriptions.len(), 20);
}

#[test]
fn another_callback_address_renews_push_within_an_hour_and_leaves_no_gap() {
    let mut world = settled(1, &EIGHT[..2], 20, CalendarSettings::default());
    world.input_all(|_| Input::CallbackAddressChanged);
    world.run(minutes(125));
    assert_eq!(world.exchange.count("subscribe_push"), 40);
    assert_eq!(
        world.exchange.subscriptions.len(),
        20,
        "the old ones were told to end"
    );
    assert_eq!(world.moves(), 0);
}
