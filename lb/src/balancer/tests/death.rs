use std::time::Duration;

use tandem_cluster::NodeId;

use super::super::input::PairLoss;
use super::super::output::{Count, DropReason, MethodLabel, RedispatchReason, ResentOutcome};
use super::super::{Input, PairId};
use super::bench::*;

#[test]
fn an_opening_invite_goes_to_another_node_at_once_over_a_connection_for_re_sent() {
    let mut bench = Bench::standing();
    assert_eq!(bench.client(&request("INVITE", "a", None)), ["0 < INVITE a"]);
    assert_eq!(bench.node(0, &answer("INVITE", "a", 100, "")), ["client < 100 a"]);
    bench.pass(Duration::from_secs(2));
    assert_eq!(
        bench.lose(0, PairLoss::Broken),
        [
            "doubt n1",
            "open 2 to n1",
            "open 3 to n2 for re-sent",
            "3 < INVITE a"
        ]
    );
    assert_eq!(bench.count(&Count::Redispatched(RedispatchReason::NodeLost)), 1);
    assert_eq!((bench.pending_at(1), bench.pending_at(2)), (0, 1));
    drop(bench.open(3));
    assert_eq!(
        bench.node(3, &answer("INVITE", "a", 200, "n2-a")),
        ["client < 200 a"]
    );
    let answered = Count::Resent {
        method: MethodLabel::Invite,
        outcome: ResentOutcome::Answered,
    };
    assert_eq!(bench.count(&answered), 1);
    assert_eq!(bench.client(&request("ACK", "a", Some("n2-a"))), ["1 < ACK a"]);
}

#[test]
fn a_request_in_a_dialog_goes_to_the_successor_once_its_node_is_refused() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.lose(0, PairLoss::Broken), ["doubt n1", "open 2 to n1"]);
    assert_eq!(
        bench.lose(2, PairLoss::ConnectFailed),
        ["doubt n1", "open 3 to n2 for re-sent", "3 < INFO a"]
    );
}

#[test]
fn a_node_that_lives_on_gets_its_own_requests_back() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    bench.pass(Duration::from_secs(2));
    drop(bench.lose(0, PairLoss::Broken));
    assert_eq!(bench.open(2), ["open 3 to n1 for re-sent", "3 < INFO a"]);
}

#[test]
fn a_node_that_breaks_every_connection_is_treated_as_dead() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    bench.pass(Duration::from_secs(2));
    drop(bench.lose(0, PairLoss::Broken));
    drop(bench.open(2));
    assert_eq!(bench.lose(2, PairLoss::Broken), ["doubt n1"]);
    assert_eq!(
        bench.lose(3, PairLoss::Broken),
        ["doubt n1", "open 4 to n2 for re-sent", "4 < INFO a"]
    );
}

/// The sockets of a killed process are closed one by one, and the listening one may be the last.
#[test]
fn a_process_that_ends_while_its_port_still_accepts_does_not_use_the_attempts_up() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    bench.pass(Duration::from_secs(2));
    drop(bench.lose(0, PairLoss::Broken));
    assert_eq!(bench.open(2), ["open 3 to n1 for re-sent", "3 < INFO a"]);
    drop(bench.open(3));
    assert_eq!(
        bench.lose(3, PairLoss::Broken),
        ["doubt n1", "drain 2", "open 4 to n2 for re-sent", "4 < INFO a"]
    );
    drop(bench.open(4));
    assert_eq!(bench.lose(2, PairLoss::Drained), ["open 5 to n1"]);
    assert_eq!(
        bench.node(4, &answer("INFO", "a", 200, "n1-x")),
        ["client < 200 a"]
    );
}

#[test]
fn a_process_that_ends_and_whose_port_is_closed_by_now_does_not_use_the_attempts_up() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    bench.pass(Duration::from_secs(2));
    drop(bench.lose(0, PairLoss::Broken));
    assert_eq!(bench.open(2), ["open 3 to n1 for re-sent", "3 < INFO a"]);
    assert_eq!(
        bench.lose(3, PairLoss::ConnectFailed),
        ["doubt n1", "drain 2", "open 4 to n2 for re-sent", "4 < INFO a"]
    );
}

#[test]
fn when_a_pair_for_re_sent_requests_breaks_the_ordinary_one_is_reopened() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    bench.pass(Duration::from_secs(2));
    drop(bench.lose(0, PairLoss::Broken));
    drop(bench.open(2));
    drop(bench.open(3));
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.lose(3, PairLoss::Broken), ["doubt n1", "drain 2"]);
    assert_eq!(bench.lose(2, PairLoss::Drained), ["open 4 to n1"]);
    assert_eq!(bench.open(4), ["open 5 to n1 for re-sent", "5 < INFO a"]);
}

#[test]
fn what_the_node_wrote_is_handled_before_its_requests_move() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    drop(bench.client(&request("INFO", "b", Some("n1-y"))));
    assert_eq!(bench.nodes(&[2]), ["drain 0"]);
    assert_eq!(
        bench.node(0, &answer("INFO", "a", 200, "n1-x")),
        ["client < 200 a"]
    );
    assert_eq!(
        bench.lose(0, PairLoss::Drained),
        ["open 2 to n2 for re-sent", "2 < INFO b"]
    );
}

#[test]
fn later_requests_of_the_dialog_wait_for_the_re_sent_one() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    assert_eq!(bench.kill(0, 2), ["3 < INFO a"]);
    assert_eq!(bench.client(&request("INFO", "b", Some("n1-x"))), [""; 0]);
    assert_eq!(bench.client(&request("BYE", "c", Some("n1-x"))), [""; 0]);
    assert_eq!(
        bench.client(&request("INFO", "other", Some("n1-y"))),
        ["1 < INFO other"]
    );
    drop(bench.open(3));
    assert_eq!(
        bench.node(3, &answer("INFO", "a", 200, "n1-x")),
        ["client < 200 a", "1 < INFO b", "1 < BYE c"]
    );
}

#[test]
fn what_waits_behind_a_re_sent_request_is_answered_500_after_five_seconds() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    drop(bench.kill(0, 2));
    drop(bench.client(&request("INFO", "b", Some("n1-x"))));
    drop(bench.client(&request("ACK", "c", Some("n1-x"))));
    drop(bench.nodes(&[2]));
    assert_eq!(bench.pass(Duration::from_millis(4_900)), [""; 0]);
    assert_eq!(bench.pass(Duration::from_millis(200)), ["client < 500 b"]);
    assert_eq!(
        bench.node(3, &answer("INFO", "a", 200, "n1-x")),
        ["client < 200 a"]
    );
}

#[test]
fn a_cancel_follows_its_invite_to_the_other_node() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INVITE", "a", None)));
    drop(bench.client(&request("CANCEL", "a", None)));
    assert_eq!(bench.kill(0, 2), ["3 < INVITE a", "3 < CANCEL a"]);
    drop(bench.open(3));
    assert_eq!(
        bench.node(3, &answer("CANCEL", "a", 200, "n2-a")),
        ["client < 200 a"]
    );
    assert_eq!(
        bench.node(3, &answer("INVITE", "a", 487, "n2-a")),
        ["client < 487 a"]
    );
    assert_eq!(bench.client(&request("ACK", "a", Some("n2-a"))), ["3 < ACK a"]);
}

#[test]
fn a_new_cancel_finds_an_invite_that_has_moved() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INVITE", "a", None)));
    drop(bench.kill(0, 2));
    assert_eq!(bench.client(&request("CANCEL", "a", None)), ["3 < CANCEL a"]);
}

#[test]
fn an_invite_in_an_early_dialog_is_ended_with_its_tag() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INVITE", "a", None)));
    drop(bench.node(0, &answer("INVITE", "a", 180, "n1-early")));
    bench.pass(Duration::from_secs(2));
    let lost = Input::PairLost {
        pair: PairId(0),
        loss: PairLoss::Broken,
    };
    let answer = bench.text_to_client(lost).unwrap();
    assert!(answer.starts_with("SIP/2.0 500") && answer.contains(";tag=n1-early"));
    assert_eq!(bench.client(&request("ACK", "a", Some("n1-early"))), [""; 0]);
}

#[test]
fn a_request_that_no_node_has_seen_goes_out_as_an_ordinary_one() {
    let mut bench = Bench::new();
    drop(bench.client(&request("INVITE", "a", None)));
    assert_eq!(
        bench.lose(0, PairLoss::ConnectFailed),
        ["doubt n1", "1 < INVITE a"]
    );
    assert_eq!(bench.count(&Count::SessionAssigned(NodeId(2))), 1);
}

#[test]
fn when_no_node_is_left_the_answer_is_503() {
    let mut bench = Bench::new();
    drop(bench.client(&request("INVITE", "a", None)));
    drop(bench.lose(0, PairLoss::ConnectFailed));
    assert_eq!(
        bench.lose(1, PairLoss::ConnectFailed),
        ["doubt n2", "client < 503 a"]
    );
}

#[test]
fn when_the_successor_dies_too_the_client_is_answered_in_the_end() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    assert_eq!(bench.kill(0, 2), ["3 < INFO a"]);
    assert_eq!(bench.lose(3, PairLoss::ConnectFailed), ["doubt n2", "drain 1"]);
    assert_eq!(bench.lose(1, PairLoss::Drained), ["open 4 to n2"]);
    assert_eq!(
        bench.lose(4, PairLoss::ConnectFailed),
        ["doubt n2", "client < 503 a"]
    );
    assert_eq!((bench.pending_at(1), bench.pending_at(2)), (0, 0));
}

#[test]
fn a_second_answer_to_a_request_that_moved_is_not_passed_on() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INVITE", "a", None)));
    drop(bench.kill(0, 2));
    drop(bench.open(3));
    drop(bench.node(3, &answer("INVITE", "a", 200, "n2-a")));
    drop(bench.pass(Duration::from_secs(1)));
    drop(bench.open(4));
    assert_eq!(bench.node(4, &answer("INVITE", "a", 500, "n1-a")), [""; 0]);
    assert_eq!(bench.count(&Count::Dropped(DropReason::SecondAnswer)), 1);
}

#[test]
fn a_503_of_a_node_sends_the_session_elsewhere_and_is_500_when_there_is_no_elsewhere() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INVITE", "a", None)));
    assert_eq!(
        bench.node(0, &answer("INVITE", "a", 503, "n1-a")),
        ["1 < INVITE a"]
    );
    assert_eq!(
        bench.count(&Count::Redispatched(RedispatchReason::Unavailable)),
        1
    );
    assert_eq!(
        bench.node(1, &answer("INVITE", "a", 503, "n2-a")),
        ["client < 500 a"]
    );
    drop(bench.client(&request("INFO", "b", Some("n1-x"))));
    assert_eq!(
        bench.node(0, &answer("INFO", "b", 503, "n1-x")),
        ["client < 500 b"]
    );
}

#[test]
fn a_node_that_sends_invalid_bytes_loses_its_pair_and_the_client_gets_500() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    drop(bench.client(&request("INFO", "b", Some("n2-y"))));
    assert_eq!(bench.lose(0, PairLoss::FramingLost), ["client < 500 a"]);
    assert_eq!(bench.pass(Duration::from_secs(1)), ["doubt n2", "open 2 to n1"]);
    assert_eq!(
        bench.node(1, &answer("INFO", "b", 200, "n2-y")),
        ["client < 200 b"]
    );
}

#[test]
fn a_node_that_leaves_a_request_unanswered_is_checked_and_loses_it_when_the_check_fails() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    drop(bench.client(&request("INFO", "b", Some("n1-y"))));
    assert_eq!(bench.pass(Duration::from_millis(499)), [""; 0]);
    assert_eq!(bench.pass(Duration::from_millis(1)), ["doubt n1"]);
    assert_eq!(bench.pass(Duration::from_secs(2)), ["doubt n1", "doubt n1"]);
    assert_eq!(bench.nodes(&[2]), ["drain 0"]);
    assert_eq!(
        bench.lose(0, PairLoss::Drained),
        ["open 2 to n2 for re-sent", "2 < INFO a", "2 < INFO b"]
    );
}

#[test]
fn a_slow_node_is_checked_once_a_second_until_it_sends_something() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INVITE", "a", None)));
    assert_eq!(bench.pass(Duration::from_secs(1)), ["doubt n1"]);
    assert_eq!(bench.node(0, &answer("INVITE", "a", 100, "")), ["client < 100 a"]);
    assert_eq!(bench.pass(Duration::from_millis(600)), ["doubt n1"]);
    drop(bench.node(0, &answer("INVITE", "a", 200, "n1-x")));
    assert_eq!(bench.pass(Duration::from_secs(10)), [""; 0]);
}

/// While the client does not read, the nodes are not read either.
#[test]
fn a_node_that_is_not_read_does_not_count_as_silent() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    assert_eq!(bench.feed(Input::NodesRead(false)), [""; 0]);
    assert_eq!(bench.pass(Duration::from_secs(30)), [""; 0]);
    assert_eq!(bench.feed(Input::NodesRead(true)), [""; 0]);
    assert_eq!(bench.pass(Duration::from_millis(499)), [""; 0]);
    assert_eq!(bench.pass(Duration::from_millis(1)), ["doubt n1"]);
}

#[test]
fn the_connection_for_re_sent_requests_is_closed_when_idle() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    drop(bench.kill(0, 2));
    drop(bench.nodes(&[2]));
    drop(bench.open(3));
    drop(bench.node(3, &answer("INFO", "a", 200, "n1-x")));
    assert_eq!(bench.pass(Duration::from_secs(5)), ["close 3"]);
}
