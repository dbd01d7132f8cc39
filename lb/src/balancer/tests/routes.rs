use std::time::Duration;

use tandem_cluster::NodeId;

use super::super::output::{Count, DropReason};
use super::super::{Balancer, Input, PairLoss, StandingPair};
use super::bench::*;

#[test]
fn pairs_are_opened_to_all_nodes_by_the_first_message_and_by_nothing_before() {
    let mut bench = Bench::new();
    assert_eq!(bench.feed(Input::ClientPinged), ["client < CRLF"]);
    assert_eq!(
        bench.client(&request("INVITE", "a", None)),
        ["open 0 to n1", "open 1 to n2", "0 < INVITE a"]
    );
}

#[test]
fn opening_invites_take_turns_and_others_do_not_disturb_them() {
    let mut bench = Bench::standing();
    assert_eq!(bench.client(&request("INVITE", "a", None)), ["0 < INVITE a"]);
    assert_eq!(bench.client(&request("OPTIONS", "b", None)), ["1 < OPTIONS b"]);
    assert_eq!(bench.client(&request("INVITE", "c", None)), ["1 < INVITE c"]);
    assert_eq!(bench.client(&request("INVITE", "d", None)), ["0 < INVITE d"]);
    assert_eq!(bench.count(&Count::SessionAssigned(NodeId(1))), 2);
    assert_eq!(bench.count(&Count::SessionAssigned(NodeId(2))), 1);
}

#[test]
fn a_request_in_a_dialog_goes_to_the_node_of_its_tag() {
    let mut bench = Bench::standing();
    for (name, tag, pair) in [("a", "n2-x", 1), ("b", "n1-y", 0), ("c", "n2-x", 1)] {
        assert_eq!(
            bench.client(&request("INFO", name, Some(tag))),
            [format!("{pair} < INFO {name}")]
        );
    }
}

#[test]
fn a_session_that_moved_is_found_at_its_owner() {
    let mut bench = Bench::standing();
    bench.moved("n1-x", 2);
    assert_eq!(bench.client(&request("INFO", "a", Some("n1-x"))), ["1 < INFO a"]);
    assert_eq!(bench.client(&request("INFO", "b", Some("n1-y"))), ["0 < INFO b"]);
}

#[test]
fn a_tag_of_an_unknown_node_is_resolved_by_the_state_or_answered_481() {
    let mut bench = Bench::standing();
    bench
        .ownership
        .set_lookup(|key| (key.as_str() == "n9-known").then_some(NodeId(2)));
    assert_eq!(
        bench.client(&request("INFO", "a", Some("n9-known"))),
        ["1 < INFO a"]
    );
    assert_eq!(
        bench.client(&request("INFO", "b", Some("n9-x"))),
        ["client < 481 b"]
    );
    assert_eq!(
        bench.client(&request("BYE", "c", Some("foreign"))),
        ["client < 481 c"]
    );
}

#[test]
fn while_a_node_is_down_its_dialogs_go_to_the_successor() {
    let mut bench = Bench::standing();
    assert_eq!(bench.nodes(&[2]), ["drain 0"]);
    assert_eq!(bench.lose(0, PairLoss::Drained), [""; 0]);
    assert_eq!(bench.client(&request("INFO", "a", Some("n1-x"))), ["1 < INFO a"]);
}

#[test]
fn a_response_of_the_client_goes_to_the_node_in_its_branch() {
    let mut bench = Bench::standing();
    assert_eq!(bench.client(&event_answer("z9hG4bKn2-1")), ["1 < 200 e"]);
    assert_eq!(bench.client(&event_answer("z9hG4bKn7-1")), [""; 0]);
    assert_eq!(bench.client(&event_answer("z9hG4bKabc")), [""; 0]);
    assert_eq!(bench.count(&Count::Dropped(DropReason::ResponseWithoutNode)), 2);
}

#[test]
fn cancel_and_ack_follow_their_invite() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INVITE", "a", None)));
    assert_eq!(bench.client(&request("INVITE", "b", None)), ["1 < INVITE b"]);
    assert_eq!(bench.client(&request("CANCEL", "b", None)), ["1 < CANCEL b"]);
    assert_eq!(
        bench.node(1, &answer("CANCEL", "b", 200, "n2-b")),
        ["client < 200 b"]
    );
    assert_eq!(
        bench.node(1, &answer("INVITE", "b", 487, "n2-b")),
        ["client < 487 b"]
    );
    assert_eq!(bench.client(&request("ACK", "b", Some("n2-b"))), ["1 < ACK b"]);
    assert_eq!(
        bench.client(&request("CANCEL", "unknown", None)),
        ["client < 481 unknown"]
    );
}

#[test]
fn the_ack_to_a_2xx_goes_by_its_tag() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INVITE", "a", None)));
    drop(bench.node(0, &answer("INVITE", "a", 200, "n1-a")));
    assert_eq!(
        bench.client(&request("ACK", "other", Some("n1-a"))),
        ["0 < ACK other"]
    );
    assert_eq!(bench.client(&request("ACK", "other", Some("foreign"))), [""; 0]);
    assert_eq!(bench.count(&Count::Dropped(DropReason::AckWithoutNode)), 1);
}

#[test]
fn the_ack_to_an_answer_of_the_front_end_ends_here() {
    let mut bench = Bench::with(Default::default(), &[]);
    assert_eq!(bench.client(&request("INVITE", "a", None)), ["client < 503 a"]);
    assert_eq!(bench.client(&request("ACK", "a", Some("lb-0123"))), [""; 0]);
    assert_eq!(bench.count(&Count::Dropped(DropReason::AckWithoutNode)), 0);
    assert_eq!(
        bench.client(&request("INFO", "b", Some("lb-0123"))),
        ["client < 481 b"]
    );
}

#[test]
fn with_no_node_the_answer_is_503_with_a_short_retry_after() {
    let mut bench = Bench::with(Default::default(), &[]);
    let invite = parse(&request("INVITE", "a", None));
    let answer = bench.text_to_client(Input::ClientMessage(invite)).unwrap();
    let seconds: u64 = answer
        .split("Retry-After: ")
        .nth(1)
        .and_then(|rest| rest.split('\r').next())
        .and_then(|text| text.parse().ok())
        .unwrap();
    assert!((2..=5).contains(&seconds) && answer.contains(";tag=lb-"));
    assert_eq!(
        bench.client(&request("INFO", "b", Some("n1-x"))),
        ["client < 503 b"]
    );
}

#[test]
fn a_node_that_returns_gets_a_pair_and_its_turn() {
    let mut bench = Bench::standing();
    drop(bench.nodes(&[2]));
    drop(bench.lose(0, PairLoss::Drained));
    for name in ["a", "b"] {
        assert_eq!(
            bench.client(&request("INVITE", name, None)),
            [format!("1 < INVITE {name}")]
        );
    }
    assert_eq!(bench.nodes(&[1, 2]), ["open 2 to n1"]);
    drop(bench.open(2));
    assert_eq!(bench.client(&request("INVITE", "c", None)), ["2 < INVITE c"]);
    assert_eq!(bench.client(&request("INVITE", "d", None)), ["1 < INVITE d"]);
}

#[test]
fn a_2xx_that_is_repeated_is_passed_on_again() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INVITE", "a", None)));
    for _ in 0..2 {
        assert_eq!(
            bench.node(0, &answer("INVITE", "a", 200, "n1-a")),
            ["client < 200 a"]
        );
    }
}

#[test]
fn colliding_transactions_are_distinguished_by_their_dialog() {
    let mut bench = Bench::standing();
    assert_eq!(
        bench.client(&request("INFO", "same", Some("n1-a"))),
        ["0 < INFO same"]
    );
    assert_eq!(
        bench.client(&request("INFO", "same", Some("n2-b"))),
        ["1 < INFO same"]
    );
    assert_eq!(
        bench.node(1, &answer("INFO", "same", 200, "n2-b")),
        ["client < 200 same"]
    );
    assert_eq!((bench.pending_at(1), bench.pending_at(2)), (1, 0));
    assert_eq!(
        bench.node(0, &answer("INFO", "same", 200, "n1-a")),
        ["client < 200 same"]
    );
    assert_eq!(bench.pending_at(1), 0);
}

/// A transaction gets one final answer, whatever else its requests contain (RFC 3261 §17.2.1).
#[test]
fn requests_of_one_transaction_are_answered_once() {
    let mut bench = Bench::standing();
    let invite = request("INVITE", "a", None);
    assert_eq!(bench.client(&invite), ["0 < INVITE a"]);
    for number in 0..23 {
        let differs = invite.replace("CSeq", &format!("Subject: {number}\r\nCSeq"));
        assert_eq!(bench.client(&differs), [""; 0]);
    }
    assert_eq!(bench.count(&Count::SessionAssigned(NodeId(1))), 1);
    assert_eq!(bench.count(&Count::Dropped(DropReason::Repeated)), 23);
    assert_eq!((bench.pending_at(1), bench.balancer.unanswered()), (1, 1));
    assert_eq!(
        bench.node(0, &answer("INVITE", "a", 200, "n1-x")),
        ["client < 200 a"]
    );
    assert_eq!((bench.pending_at(1), bench.balancer.unanswered()), (0, 0));
}

#[test]
fn cancels_of_one_invite_are_answered_once() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INVITE", "a", None)));
    assert_eq!(bench.client(&request("CANCEL", "a", None)), ["0 < CANCEL a"]);
    assert_eq!(bench.client(&request("CANCEL", "a", None)), [""; 0]);
    assert_eq!(
        bench.node(0, &answer("CANCEL", "a", 200, "t")),
        ["client < 200 a"]
    );
    assert_eq!(
        bench.client(&request("CANCEL", "a", None)),
        ["0 < CANCEL a"],
        "what was answered may be asked again"
    );
}

/// The dialogs of a fork share all but the To-tag.
#[test]
fn requests_in_two_dialogs_of_one_call_are_two_transactions() {
    let mut bench = Bench::standing();
    assert_eq!(bench.client(&request("INFO", "a", Some("n1-x"))), ["0 < INFO a"]);
    assert_eq!(bench.client(&request("INFO", "a", Some("n2-y"))), ["1 < INFO a"]);
    assert_eq!(
        bench.node(1, &answer("INFO", "a", 200, "n2-y")),
        ["client < 200 a"]
    );
    assert_eq!((bench.pending_at(1), bench.pending_at(2)), (1, 0));
    assert_eq!(
        bench.node(0, &answer("INFO", "a", 200, "n1-x")),
        ["client < 200 a"]
    );
    assert_eq!(bench.pending_at(1), 0);
}

#[test]
fn the_end_of_an_outbound_connection_is_its_nodes_pair() {
    let bench = Bench::new();
    let standing = StandingPair {
        pair: super::super::PairId(0),
        node: NodeId(2),
    };
    let balancer: Balancer = bench.balancer;
    let mut bench = Bench {
        balancer: balancer.with_standing_pair(standing, bench.now),
        ..Bench::new()
    };
    assert_eq!(bench.node(0, &event(2, "e", "n2-x")), ["client < INFO e"]);
    assert_eq!(
        bench.client(&event_answer("z9hG4bKn2-e")),
        ["open 1 to n1", "0 < 200 e"]
    );
}

#[test]
fn a_drain_closes_when_everything_is_answered() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    assert_eq!(bench.feed(Input::DrainStarted), [""; 0]);
    assert_eq!(
        bench.node(0, &answer("INFO", "a", 200, "n1-x")),
        ["client < 200 a", "close client: Drained"]
    );
}

#[test]
fn a_client_that_closed_its_side_still_gets_its_answers() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    assert_eq!(bench.feed(Input::ClientHalfClosed), [""; 0]);
    assert_eq!(
        bench.node(0, &answer("INFO", "a", 200, "n1-x")),
        ["client < 200 a", "close client: HalfClosed"]
    );
    let mut silent = Bench::standing();
    drop(silent.client(&request("INFO", "a", Some("n1-x"))));
    drop(silent.feed(Input::ClientHalfClosed));
    assert_eq!(
        silent.without_doubts(|silent| silent.pass(Duration::from_secs(33))),
        ["close client: HalfClosed"]
    );
    assert_eq!(silent.pending_at(1), 0);
}

#[test]
fn bad_messages_are_answered_and_only_lost_framing_closes() {
    let mut bench = Bench::standing();
    let message = parse(&request("INFO", "a", Some("n1-x")));
    let refused = Input::ClientMessageRefused {
        message: message.clone(),
        status: 400,
    };
    assert_eq!(bench.feed(refused), ["client < 400 a"]);
    let lost = Input::ClientFramingLost {
        answer: Some((message, 513)),
    };
    assert_eq!(bench.feed(lost), ["client < 513 a", "close client: FramingLost"]);
}

#[test]
fn what_came_before_framing_was_lost_is_answered_first() {
    let lost = Input::ClientFramingLost {
        answer: Some((parse(&request("INFO", "bad", Some("n1-x"))), 400)),
    };
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    assert_eq!(bench.feed(lost.clone()), [""; 0]);
    assert_eq!(
        bench.node(0, &answer("INFO", "a", 200, "n1-x")),
        ["client < 200 a", "client < 400 bad", "close client: FramingLost"]
    );
    let mut silent = Bench::standing();
    drop(silent.client(&request("INFO", "a", Some("n1-x"))));
    drop(silent.feed(lost));
    let outputs = silent.pass(Duration::from_secs(5));
    assert!(outputs.ends_with(&[
        "client < 400 bad".to_owned(),
        "close client: FramingLost".to_owned()
    ]));
    assert_eq!(silent.pending_at(1), 0);
}
