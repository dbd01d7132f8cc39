use std::time::Duration;

use tandem_cluster::NodeId;

use super::super::input::PairLoss;
use super::super::output::{Count, DropReason};
use super::bench::*;

const PATIENCE: Duration = Duration::from_millis(320);

#[test]
fn a_request_of_the_owner_passes() {
    let mut bench = Bench::standing();
    assert_eq!(bench.node(0, &event(1, "a", "n1-x")), ["client < INFO a"]);
    bench.moved("n1-y", 2);
    assert_eq!(bench.node(1, &event(2, "b", "n1-y")), ["client < INFO b"]);
}

#[test]
fn a_former_owner_is_answered_481_and_the_client_receives_nothing() {
    let mut bench = Bench::standing();
    bench.moved("n1-x", 2);
    assert_eq!(bench.node(0, &event(1, "a", "n1-x")), [""; 0]);
    assert_eq!(bench.pass(PATIENCE), ["0 < 481 a"]);
    assert_eq!(bench.count(&Count::Fenced(NodeId(1))), 1);
}

#[test]
fn a_request_of_a_successor_passes_once_the_move_is_known_here() {
    let mut bench = Bench::standing();
    bench.ownership.set_lookup(|_| Some(NodeId(1)));
    assert_eq!(bench.node(1, &event(2, "a", "n1-x")), [""; 0]);
    bench.moved("n1-x", 2);
    assert_eq!(bench.pass(Duration::from_millis(40)), ["client < INFO a"]);
    assert_eq!(bench.count(&Count::Fenced(NodeId(2))), 0);
}

#[test]
fn without_a_record_or_without_its_owner_a_request_passes() {
    let mut bench = Bench::standing();
    assert_eq!(bench.node(1, &event(2, "a", "n1-x")), ["client < INFO a"]);
    bench.moved("n2-y", 1);
    drop(bench.lose(0, PairLoss::ConnectFailed));
    assert_eq!(bench.node(1, &event(2, "b", "n2-y")), ["client < INFO b"]);
}

#[test]
fn a_connection_for_re_sent_requests_carries_answers_only() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INVITE", "a", None)));
    drop(bench.kill(0, 2));
    drop(bench.open(3));
    assert_eq!(bench.node(3, &event(2, "e", "n2-x")), [""; 0]);
    assert_eq!(bench.count(&Count::Dropped(DropReason::RequestOnResentPair)), 1);
}
