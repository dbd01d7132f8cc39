use std::time::Duration;

use super::super::input::PairLoss;
use super::super::output::{Count, DropReason, Limit, RedispatchReason};
use super::super::pending::EntryId;
use super::super::settings::BalancerSettings;
use super::super::{Input, PairId};
use super::bench::*;

#[test]
fn a_request_beyond_the_table_is_answered_500() {
    let mut bench = Bench::standing_with(BalancerSettings {
        pending_requests_max: 2,
        ..BalancerSettings::default()
    });
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    drop(bench.client(&request("INFO", "b", Some("n1-x"))));
    assert_eq!(
        bench.client(&request("INFO", "c", Some("n1-x"))),
        ["client < 500 c"]
    );
    assert_eq!(bench.count(&Count::LimitReached(Limit::PendingRequests)), 1);
    drop(bench.node(0, &answer("INFO", "a", 200, "n1-x")));
    assert_eq!(bench.client(&request("INFO", "d", Some("n1-x"))), ["0 < INFO d"]);
}

#[test]
fn a_client_with_as_many_requests_as_permitted_is_not_read() {
    let mut bench = Bench::standing_with(BalancerSettings {
        pending_requests_max: 2,
        ..BalancerSettings::default()
    });
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    assert!(!bench.balancer.is_full());
    drop(bench.client(&request("INFO", "b", Some("n1-x"))));
    assert!(bench.balancer.is_full());
    drop(bench.node(0, &answer("INFO", "b", 200, "n1-x")));
    assert!(!bench.balancer.is_full());
}

#[test]
fn beyond_the_byte_limit_the_loss_of_a_node_is_answered_500() {
    let mut bench = Bench::standing_with(BalancerSettings {
        kept_bytes_max: 300,
        ..BalancerSettings::default()
    });
    assert_eq!(bench.client(&request("INVITE", "a", None)), ["0 < INVITE a"]);
    assert_eq!(bench.client(&request("INVITE", "b", None)), ["1 < INVITE b"]);
    assert_eq!(bench.client(&request("INVITE", "c", None)), ["0 < INVITE c"]);
    assert_eq!(bench.count(&Count::LimitReached(Limit::KeptBytes)), 2);
    assert_eq!(bench.kill(0, 2), ["client < 500 c", "3 < INVITE a"]);
}

#[test]
fn bytes_are_given_back_with_the_answer_and_with_the_connection() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    drop(bench.client(&request("INFO", "b", Some("n1-x"))));
    let both = bench.kept_in_all.used();
    drop(bench.node(0, &answer("INFO", "a", 200, "n1-x")));
    assert_eq!(bench.kept_in_all.used() * 2, both);
    drop(bench.feed(Input::ClientGone));
    assert_eq!((bench.kept_in_all.used(), bench.pending_at(1)), (0, 0));
}

#[test]
fn the_requests_behind_a_re_sent_one_are_bounded() {
    let mut bench = Bench::standing_with(BalancerSettings {
        waiting_requests_max: 1,
        ..BalancerSettings::default()
    });
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    drop(bench.kill(0, 2));
    assert_eq!(bench.client(&request("INFO", "b", Some("n1-x"))), [""; 0]);
    assert_eq!(
        bench.client(&request("INFO", "c", Some("n1-x"))),
        ["client < 500 c"]
    );
    assert_eq!(bench.count(&Count::LimitReached(Limit::WaitingRequests)), 1);
}

#[test]
fn a_full_queue_sends_a_session_elsewhere_and_refuses_a_dialog() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INVITE", "a", None)));
    let full = |entry| Input::PairQueueFull {
        pair: PairId(0),
        entry: Some(EntryId(entry)),
    };
    assert_eq!(bench.feed(full(1)), ["1 < INVITE a"]);
    assert_eq!(bench.count(&Count::Redispatched(RedispatchReason::QueueFull)), 1);
    drop(bench.client(&request("INFO", "b", Some("n1-x"))));
    assert_eq!(bench.feed(full(2)), ["client < 500 b"]);
}

#[test]
fn a_request_that_is_never_answered_is_forgotten() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    assert_eq!(
        bench.without_doubts(|bench| bench.pass(Duration::from_secs(41))),
        [""; 0]
    );
    assert_eq!(bench.count(&Count::Dropped(DropReason::Unanswered)), 1);
    assert_eq!((bench.pending_at(1), bench.balancer.unanswered()), (0, 0));
}

#[test]
fn the_attempts_of_a_request_are_bounded() {
    let mut bench = Bench::standing_with(BalancerSettings {
        attempts_max: 1,
        ..BalancerSettings::default()
    });
    drop(bench.client(&request("INVITE", "a", None)));
    assert_eq!(bench.kill(0, 2), ["client < 500 a"]);
    assert_eq!(bench.lose(1, PairLoss::FramingLost), [""; 0]);
}
