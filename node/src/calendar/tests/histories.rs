//! Random histories: whatever happens, the machine keeps its promises, and it recovers once the faults are over.

use std::time::Duration;

use proptest::prelude::*;
use tandem_cluster::{Authority, NodeId};

use super::exchange::{CasState, busy, code};
use super::life::{minutes, seconds, with};
use super::world::{World, address, meeting, minute, user};
use crate::calendar::{Delivery, Input, Report, StreamEnd, StreamId};
use tandem_exchange::ews::FreeBusyStatus;

const THREE: [&str; 3] = ["cas-1", "cas-2", "cas-3"];
const USERS: usize = 24;

#[derive(Debug, Clone)]
enum Act {
    Wait(u64),
    Change(usize, i64),
    ChangeUntold(usize, i64),
    Cas(usize, CasState),
    Forget(usize),
    EndStreams(usize, bool),
    Fail(usize, &'static str, &'static str),
    Break(usize, &'static str),
    Mend(usize),
    Password(bool),
    BlockPush(bool),
    Remove(usize),
    Return,
    Authority(bool),
    Log(bool),
    RestartNode,
    /// A stream, a request or a proposal that nobody knows.
    Nonsense(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let state = prop::sample::select(vec![
        CasState::Up,
        CasState::Dead,
        CasState::Silent,
        CasState::Busy {
            back_off: Duration::from_secs(3),
        },
    ]);
    let codes = prop::sample::select(vec![
        "ErrorSubscriptionNotFound",
        "ErrorSubscriptionAccessDenied",
        "ErrorMailboxMoveInProgress",
        "ErrorNonExistentMailbox",
        "ErrorServerBusy",
        "ErrorInternalServerError",
        "ErrorImpersonationDenied",
        "ErrorImpersonateUserDenied",
        "ErrorInvalidServerVersion",
        "ErrorCalendarViewRangeTooBig",
        "ErrorSchemaValidation",
    ]);
    let operations = prop::sample::select(vec![
        "subscribe_push",
        "subscribe_streaming",
        "subscribe_pull",
        "find_item",
        "get_events",
        "get_folder",
    ]);
    prop_oneof![
        4 => (0..400_u64).prop_map(Act::Wait),
        4 => (0..USERS, 1..300_i64).prop_map(|(user, end)| Act::Change(user, end)),
        1 => (0..USERS, 1..300_i64).prop_map(|(user, end)| Act::ChangeUntold(user, end)),
        2 => (0..3_usize, state).prop_map(|(cas, state)| Act::Cas(cas, state)),
        1 => (0..3_usize).prop_map(Act::Forget),
        1 => (0..3_usize, any::<bool>()).prop_map(|(cas, clean)| Act::EndStreams(cas, clean)),
        2 => (0..USERS, operations, codes.clone()).prop_map(|(user, what, code)| Act::Fail(user, what, code)),
        1 => (0..USERS, codes).prop_map(|(user, code)| Act::Break(user, code)),
        2 => (0..USERS).prop_map(Act::Mend),
        1 => any::<bool>().prop_map(Act::Password),
        1 => any::<bool>().prop_map(Act::BlockPush),
        1 => (0..USERS).prop_map(Act::Remove),
        1 => Just(Act::Return),
        1 => any::<bool>().prop_map(Act::Authority),
        1 => any::<bool>().prop_map(Act::Log),
        1 => Just(Act::RestartNode),
        1 => any::<u64>().prop_map(Act::Nonsense),
    ]
}

fn delivery() -> impl Strategy<Value = Delivery> {
    prop::sample::select(vec![
        Delivery::PushFirst,
        Delivery::StreamingFirst,
        Delivery::PushOnly,
        Delivery::StreamingOnly,
        Delivery::Pull,
    ])
}

fn perform(world: &mut World, act: &Act) {
    let busy_until = |end: i64| vec![meeting(minute(0), minute(end), FreeBusyStatus::Busy)];
    match act {
        Act::Wait(secs) => world.run(seconds(*secs)),
        Act::Change(user, end) => world.change(*user, busy_until(*end)),
        Act::ChangeUntold(user, end) => world.change_untold(*user, busy_until(*end)),
        Act::Cas(cas, state) => world.exchange.cas(THREE[*cas]).state = state.clone(),
        // As a restart does it: its connections break, too.
        Act::Forget(cas) => {
            world.end_streams(THREE[*cas], &StreamEnd::Silent);
            world.exchange.forget_subscriptions(THREE[*cas]);
        }
        Act::EndStreams(cas, is_clean) => {
            let end = if *is_clean {
                StreamEnd::Closed
            } else {
                StreamEnd::Silent
            };
            world.end_streams(THREE[*cas], &end);
        }
        Act::Fail(user, operation, name) => world.exchange.fail_next(&address(*user), operation, code(name)),
        Act::Break(user, name) => world.exchange.mailbox(&address(*user)).broken = Some((None, code(name))),
        Act::Mend(user) => world.exchange.mailbox(&address(*user)).broken = None,
        Act::Password(is_wrong) => world.exchange.password_is_wrong = *is_wrong,
        Act::BlockPush(is_blocked) => world.exchange.push_is_blocked = *is_blocked,
        Act::Remove(gone) => world.set_users((0..USERS).filter(|number| number != gone).map(user).collect()),
        Act::Return => world.set_users((0..USERS).map(user).collect()),
        Act::Authority(true) => world.change_authority(Authority::Quorum),
        Act::Authority(false) => world.change_authority(Authority::Isolated),
        Act::Log(is_there) => world.no_log = !is_there,
        Act::RestartNode => world.restart_node(2),
        Act::Nonsense(number) => {
            let stream = StreamId(*number);
            let end = StreamEnd::Silent;
            world.input(NodeId(1), Input::StreamEnded { stream, end });
            let proposal = *number;
            world.input(
                NodeId(1),
                Input::Committed {
                    proposal,
                    applied: None,
                },
            );
        }
    }
    world.check_users();
}

fn heal(world: &mut World) {
    world.no_log = false;
    world.exchange.password_is_wrong = false;
    world.exchange.push_is_blocked = false;
    for cas in THREE {
        world.exchange.cas(cas).state = CasState::Up;
    }
    for number in 0..USERS {
        let mailbox = world.exchange.mailbox(&address(number));
        mailbox.broken = None;
        mailbox.failures.clear();
    }
    world.set_users((0..USERS).map(user).collect());
    world.change_authority(Authority::Quorum);
    world.input_all(|_| Input::CredentialChanged);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_everybody_is_subscribed_and_right_again_when_all_is_well(
        delivery in delivery(),
        acts in prop::collection::vec(act(), 0..60),
    ) {
        let mut world = World::new(2, &THREE, USERS, with(delivery));
        world.calls_any_node = true;
        world.start();
        for act in &acts {
            perform(&mut world, act);
        }
        heal(&mut world);
        // The slowest retry is an hour and a tenth; a silent push is found after two status frequencies.
        world.run(minutes(4 * 60));
        // Five minutes past an edge, when nothing waits for its second.
        world.run_to(minutes(12 * 60 + 5));
        prop_assert_eq!(world.unsubscribed_users(), Vec::<usize>::new());
        prop_assert_eq!(world.wrong_users(), Vec::<usize>::new());
        let late: u64 = world.censuses().iter().map(|census| census.edges_late).sum();
        prop_assert_eq!(late, 0);
    }

    #[test]
    fn throttling_missing_mailboxes_and_missing_rights_never_move_anybody(
        acts in prop::collection::vec((0..USERS, 0..4_u8, 0..120_u64), 0..40),
    ) {
        let mut world = World::new(1, &THREE, USERS, with(Delivery::PushOnly));
        world.start();
        for (number, what, wait) in acts {
            let failure = match what {
                0 => busy(seconds(wait)),
                1 => code("ErrorNonExistentMailbox"),
                2 => code("ErrorImpersonateUserDenied"),
                _ => code("ErrorExceededConnectionCount"),
            };
            world.exchange.mailbox(&address(number)).broken = Some((None, failure));
            world.change(number, vec![meeting(minute(0), minute(999), FreeBusyStatus::Busy)]);
            world.run(seconds(wait));
        }
        prop_assert_eq!(world.moves(), 0);
        prop_assert_eq!(world.reported(|report| matches!(report, Report::Moving { .. })), 0);
    }
}
