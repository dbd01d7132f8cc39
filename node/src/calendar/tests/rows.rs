//! A test for each row of docs/spec/ews.md §1.8.

use std::time::Duration;

use tandem_cluster::{Authority, CasId, Command};

use super::exchange::{busy, code};
use super::life::{minutes, seconds, settled, with};
use super::world::{World, address, meeting, minute, name};
use crate::calendar::{
    CalendarSettings, Callback, CallbackId, Delivery, Input, Report, StreamId, SubscriptionState,
};
use tandem_exchange::ews::{Failure, FreeBusyStatus, StreamPart, SubscriptionId};

const THREE: [&str; 3] = ["cas-1", "cas-2", "cas-3"];

/// Six users, each read by push.
fn six() -> World {
    settled(1, &THREE, 6, CalendarSettings::default())
}

/// The first user's calendar changes, so that it is read.
fn change(world: &mut World) {
    world.change(
        0,
        vec![meeting(minute(0), minute(400), FreeBusyStatus::OutOfOffice)],
    );
}

/// The first user's subscription is gone, says Exchange.
pub(super) fn called_back(attempt: u64, failure: Failure) -> Input {
    Input::CalledBack(Callback {
        id: CallbackId(0),
        user: name(0),
        attempt,
        notifications: vec![Err(failure)],
    })
}

fn broken(world: &mut World, failure: Failure) {
    world.exchange.mailbox(&address(0)).broken = Some((None, failure));
}

fn healed(world: &mut World) {
    world.exchange.mailbox(&address(0)).broken = None;
}

#[test]
fn lost_subscriptions_are_made_anew_at_another_cas_and_the_last_presence_stays_meanwhile() {
    for lost in [
        "ErrorSubscriptionNotFound",
        "ErrorInvalidSubscription",
        "ErrorExpiredSubscription",
        "ErrorReadEventsFailed",
        "ErrorEventNotFound",
        "ErrorInvalidWatermark",
        "ErrorMissedNotificationEvents",
    ] {
        let mut world = six();
        world.published.clear();
        let reads = world.exchange.count("find_item");
        let attempt = world.push_attempt(0);
        world.input_all(|_| called_back(attempt, code(lost)));
        world.run(seconds(5));
        assert_eq!(world.epoch_of(0), 1, "{lost}");
        assert_eq!(world.explain(0).subscription, SubscriptionState::Live);
        assert!(world.published.is_empty(), "nothing has changed for the user");
        assert_eq!(world.exchange.count("find_item"), reads + 1, "no stamp was known");
    }
}

#[test]
fn after_a_loss_equal_change_stamps_spare_the_read() {
    let settings = CalendarSettings {
        refresh_interval: minutes(5),
        ..with(Delivery::PushOnly)
    };
    let mut world = settled(1, &THREE, 1, settings);
    world.run(minutes(6));
    let reads = world.exchange.count("find_item");
    for expected in [reads, reads + 1] {
        let attempt = world.push_attempt(0);
        world.input_all(|_| called_back(attempt, code("ErrorSubscriptionNotFound")));
        world.run(seconds(40));
        assert_eq!(world.exchange.count("find_item"), expected);
        world
            .exchange
            .subscriptions
            .values_mut()
            .for_each(|it| it.is_deaf = true);
        let items = vec![meeting(minute(0), minute(30), FreeBusyStatus::Busy)];
        world.change(0, items);
    }
}

#[test]
fn a_subscription_that_somebody_else_streams_is_made_anew_at_the_same_cas() {
    let mut world = settled(1, &THREE, 6, with(Delivery::StreamingOnly));
    let subscription = world.subscription_of(0);
    let cas = world.cas_of(0);
    for stream in 1..=6 {
        let part = StreamPart::Rejected {
            subscriptions: vec![subscription.clone()],
            failure: code("ErrorNewEventStreamConnectionOpened"),
        };
        world.input_all(move |_| Input::StreamPart {
            stream: StreamId(stream),
            part: part.clone(),
        });
    }
    world.run(seconds(1));
    assert_ne!(
        world.explain(0).subscription,
        SubscriptionState::Live,
        "it waits a little"
    );
    world.run(seconds(20));
    assert_eq!(world.explain(0).subscription, SubscriptionState::Live);
    assert_ne!(world.subscription_of(0), subscription);
    assert_eq!((world.cas_of(0), world.moves()), (cas, 0));
}

#[test]
fn a_store_that_is_down_is_given_time_and_after_the_second_failure_another_cas_is_asked() {
    for moved in [
        "ErrorMailboxMoveInProgress",
        "ErrorMailboxStoreUnavailable",
        "ErrorCrossSiteRequest",
    ] {
        let mut world = six();
        broken(&mut world, code(moved));
        change(&mut world);
        world.run(seconds(25));
        assert_eq!((world.epoch_of(0), world.moves()), (0, 0));
        world.run(seconds(15));
        assert_eq!(world.epoch_of(0), 1, "{moved}");
        world.run(minutes(30));
        assert!(world.epoch_of(0) <= 8, "ever more patiently");
        healed(&mut world);
        world.run(minutes(70));
        assert!(world.wrong_users().is_empty());
    }
}

#[test]
fn a_mailbox_that_is_not_there_is_no_fault_of_its_cas() {
    for gone in [
        "ErrorNonExistentMailbox",
        "ErrorNoCalendar",
        "ErrorFolderNotFound",
        "ErrorAccountDisabled",
    ] {
        let mut world = World::new(1, &THREE, 6, CalendarSettings::default());
        broken(&mut world, code(gone));
        world.start();
        world.run(minutes(50));
        assert_eq!(
            (world.moves(), world.exchange.count("subscribe_push")),
            (0, 6),
            "{gone}"
        );
        let unavailable = |report: &Report| matches!(report, Report::MailboxUnavailable { .. });
        assert_eq!(world.reported(unavailable), 1);
        healed(&mut world);
        world.run(minutes(20));
        assert!(world.unsubscribed_users().is_empty());
        assert_eq!(world.moves(), 0);
    }
}

#[test]
fn the_primary_address_is_adopted_and_tried_once() {
    let mut world = World::new(1, &THREE, 2, CalendarSettings::default());
    world.exchange.mailbox(&address(0)).primary = Some("ana@lab.test".to_owned());
    world.exchange.mailbox("ana@lab.test").items =
        vec![meeting(minute(0), minute(20), FreeBusyStatus::OutOfOffice)];
    world.start();
    world.run(seconds(10));
    assert_eq!(world.explain(0).mailbox.0, "ana@lab.test");
    assert!(world.exchange.subscribed_mailboxes().contains("ana@lab.test"));
    assert_eq!(world.shown(0), Some(tandem_cluster::CalendarState::OutOfOffice));
    world.exchange.mailbox(&address(1)).primary = Some(address(1));
    world.exchange.forget_subscriptions("cas-1");
    assert_eq!(world.moves(), 0);
}

#[test]
fn a_throttled_user_is_tried_again_at_the_same_cas() {
    let mut world = six();
    for _ in 0..12 {
        world
            .exchange
            .fail_next(&address(0), "find_item", busy(Duration::ZERO));
    }
    change(&mut world);
    world.run(minutes(40));
    assert!(world.wrong_users().is_empty());
    assert_eq!((world.moves(), world.epoch_of(0)), (0, 0));
}

#[test]
fn a_passing_trouble_is_met_by_three_tries_and_then_counts_against_the_cas() {
    let mut world = six();
    for _ in 0..2 {
        world
            .exchange
            .fail_next(&address(0), "find_item", code("ErrorInternalServerError"));
    }
    change(&mut world);
    world.run(seconds(15));
    assert_eq!(world.moves(), 0);
    assert!(world.wrong_users().is_empty());
    broken(&mut world, code("ErrorInternalServerTransientError"));
    world.exchange.mailbox(&address(0)).broken.as_mut().unwrap().0 = Some(CasId(world.cas_of(0)));
    world.change(0, Vec::new());
    world.run(seconds(20));
    assert_eq!((world.moves(), world.epoch_of(0)), (1, 1));
    assert!(world.wrong_users().is_empty());
}

/// The user has moved while it was under way.
#[test]
fn a_read_that_fails_at_the_former_cas_counts_against_no_other() {
    let mut world = six();
    let (former, epoch) = (world.cas_of(0), world.epoch_of(0));
    let other = THREE.iter().find(|cas| **cas != former).unwrap();
    world.exchange.cas(&former).latency = seconds(20);
    let denied = code("ErrorImpersonationDenied");
    world.exchange.mailbox(&address(0)).broken = Some((Some(CasId(former)), denied));
    change(&mut world);
    world.run(seconds(10));
    let users = vec![(name(0), epoch, CasId((*other).to_owned()))];
    let at_ms = world.wall_ms();
    world.apply(Command::CasMoved { users, at_ms });
    world.run(seconds(30));
    assert_eq!((world.moves(), world.cas_of(0).as_str()), (0, *other));
    assert!(world.wrong_users().is_empty());
}

#[test]
fn an_expired_password_stops_the_credential_and_moves_nobody() {
    let mut world = six();
    broken(&mut world, code("ErrorPasswordExpired"));
    change(&mut world);
    let requests = world.requests.len();
    world.run(seconds(62));
    assert!(
        world.requests.len() - requests < 8,
        "{}",
        world.requests.len() - requests
    );
    assert!(world.census().credential_refused || world.exchange.asked.len() > 1);
    healed(&mut world);
    world.run(minutes(3));
    assert!(world.wrong_users().is_empty());
    assert_eq!(world.moves(), 0);
}

#[test]
fn impersonation_denied_by_one_cas_is_tried_at_another_once() {
    let mut world = World::new(1, &THREE, 3, CalendarSettings::default());
    broken(&mut world, code("ErrorImpersonationDenied"));
    world.start();
    world.run(minutes(50));
    assert_eq!((world.moves(), world.epoch_of(0)), (1, 1));
    let missing = |report: &Report| matches!(report, Report::RightsMissing { .. });
    assert_eq!(world.reported(missing), 1);
    assert_eq!(
        world.shown(0),
        Some(world.truth(0)),
        "free/busy is read without impersonation"
    );
}

#[test]
fn a_user_who_may_not_be_impersonated_is_reported_and_stays() {
    for denied in [
        "ErrorImpersonateUserDenied",
        "ErrorSubscriptionDelegateAccessNotSupported",
    ] {
        let mut world = World::new(1, &THREE, 3, CalendarSettings::default());
        broken(&mut world, code(denied));
        world.start();
        world.run(minutes(50));
        assert_eq!(world.moves(), 0, "{denied}");
        let missing = |report: &Report| matches!(report, Report::RightsMissing { .. });
        assert_eq!(world.reported(missing), 1);
        assert_eq!(world.explain(0).subscription, SubscriptionState::Waiting);
        assert!(world.explain(0).next_retry_ms.is_some());
    }
}

#[test]
fn what_we_said_wrong_is_reported_loudly_and_repeated_slowly() {
    let mut world = World::new(1, &THREE, 3, CalendarSettings::default());
    broken(&mut world, code("ErrorSchemaValidation"));
    world.start();
    world.run(minutes(50));
    assert_eq!((world.moves(), world.exchange.count("subscribe_push")), (0, 3));
    let refused = |report: &Report| matches!(report, Report::RequestRefused { .. });
    assert_eq!(world.reported(refused), 1);
}

#[test]
fn a_callback_url_that_is_not_accepted_means_streaming() {
    let mut world = World::new(1, &THREE, 3, CalendarSettings::default());
    let refused = code("ErrorInvalidPushSubscriptionUrl");
    world.exchange.fail_next(&address(0), "subscribe_push", refused);
    world.start();
    world.run(seconds(10));
    assert_eq!(world.exchange.count("subscribe_streaming"), 1);
    assert!(world.unsubscribed_users().is_empty());
}

#[test]
fn a_server_too_old_for_streaming_is_asked_to_push() {
    let mut world = World::new(1, &THREE, 3, with(Delivery::StreamingFirst));
    let too_old = code("ErrorInvalidServerVersion");
    world
        .exchange
        .fail_next(&address(0), "subscribe_streaming", too_old);
    world.start();
    world.run(seconds(10));
    assert_eq!(world.exchange.count("subscribe_push"), 1);
    assert!(world.unsubscribed_users().is_empty());
}

#[test]
fn too_much_is_asked_for_less() {
    let mut world = six();
    world
        .exchange
        .fail_next(&address(0), "find_item", code("ErrorCalendarViewRangeTooBig"));
    change(&mut world);
    world.run(seconds(10));
    assert!(world.wrong_users().is_empty());
    assert_eq!(world.moves(), 0);
}

#[test]
fn the_answer_to_a_subscribe_that_nobody_waits_for_is_taken_back() {
    let mut world = World::new(1, &THREE, 3, with(Delivery::StreamingOnly));
    for cas in THREE {
        world.exchange.cas(cas).latency = seconds(2);
    }
    world.start();
    world.run(seconds(5));
    let asked = world.exchange.count("subscribe_streaming");
    assert!(asked > 0);
    world.set_users(Vec::new());
    world.run(seconds(20));
    assert!(world.exchange.subscriptions.is_empty());
    assert_eq!(world.state.assignments().len(), 0);
}

#[test]
fn stale_callbacks_are_told_to_end_and_those_of_others_are_kept() {
    use crate::calendar::CallbackVerdict::{Keep, Unsubscribe};
    let mut world = settled(2, &THREE, 6, CalendarSettings::default());
    world.run(minutes(2));
    let attempt = world.push_attempt(0);
    let id = world.subscription_of(0);
    let verdict = |world: &World, user: usize, attempt, id: &SubscriptionId| world.verdict(user, attempt, id);
    assert_eq!(verdict(&world, 0, attempt, &id), Keep);
    let other = SubscriptionId("other".to_owned());
    assert_eq!(verdict(&world, 0, attempt, &other), Unsubscribe);
    assert_eq!(verdict(&world, 0, attempt - 1, &id), Unsubscribe);
    assert_eq!(
        verdict(&world, 0, attempt + 1, &other),
        Unsubscribe,
        "ownership has settled"
    );
    assert_eq!(
        verdict(&world, 99, attempt, &id),
        Unsubscribe,
        "nobody of this name"
    );
    world.change_authority(Authority::Isolated);
    assert_eq!(
        verdict(&world, 0, attempt - 1, &id),
        Keep,
        "the present owner is unknown"
    );
}
