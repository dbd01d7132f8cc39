use std::time::Duration;

use super::super::input::PairLoss;
use super::bench::*;

const LAG: Duration = Duration::from_millis(20);

#[test]
fn a_request_that_its_node_disowns_goes_to_the_new_owner_marked() {
    let mut bench = Bench::standing();
    assert_eq!(bench.client(&request("INFO", "a", Some("n1-x"))), ["0 < INFO a"]);
    bench.moved("n1-x", 2);
    assert_eq!(
        bench.node(0, &disowned("a")),
        ["open 2 to n2 for re-sent", "2 < INFO a"]
    );
    drop(bench.open(2));
    assert_eq!(
        bench.node(2, &answer("INFO", "a", 200, "n1-x")),
        ["client < 200 a"]
    );
    assert_eq!((bench.pending_at(1), bench.pending_at(2)), (0, 0));
}

#[test]
fn it_waits_until_the_move_is_known_here_and_later_ones_of_the_dialog_wait_behind_it() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    assert_eq!(bench.node(0, &disowned("a")), [""; 0]);
    assert_eq!(bench.client(&request("INFO", "b", Some("n1-x"))), [""; 0]);
    assert_eq!(bench.pass(LAG), [""; 0]);
    bench.moved("n1-x", 2);
    assert_eq!(bench.pass(LAG), ["open 2 to n2 for re-sent", "2 < INFO a"]);
    drop(bench.open(2));
    assert_eq!(
        bench.node(2, &answer("INFO", "a", 200, "n1-x")),
        ["client < 200 a", "1 < INFO b"]
    );
}

#[test]
fn a_move_that_never_becomes_known_ends_in_500() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    drop(bench.node(0, &disowned("a")));
    assert_eq!(bench.pass(Duration::from_secs(6)), ["client < 500 a"]);
}

#[test]
fn when_the_new_owner_is_dead_the_former_one_is_asked_again_marked() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    bench.moved("n1-x", 2);
    bench.pass(Duration::from_secs(2));
    drop(bench.lose(1, PairLoss::Broken));
    drop(bench.lose(2, PairLoss::ConnectFailed));
    assert_eq!(
        bench.node(0, &disowned("a")),
        ["open 3 to n1 for re-sent", "3 < INFO a"]
    );
}

/// The former owner has disowned the session before it came back.
#[test]
fn when_the_session_comes_back_the_former_owner_is_asked_again() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    bench.moved("n1-x", 2);
    drop(bench.node(0, &disowned("a")));
    drop(bench.open(2));
    bench.moved("n1-x", 1);
    bench.pass(Duration::from_millis(100));
    let outputs = bench.without_doubts(|bench| bench.lose(2, PairLoss::Broken));
    assert_eq!(outputs, ["drain 1", "open 3 to n1 for re-sent", "3 < INFO a"]);
}

/// The new owner died before its ownership was known here, so this copy of the state never showed it.
#[test]
fn when_the_session_came_back_before_its_move_was_known_here_the_former_owner_is_asked_again() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    assert_eq!(bench.node(0, &disowned("a")), [""; 0]);
    bench.moved("n1-y", 2);
    assert_eq!(bench.pass(LAG), [""; 0]);
    bench.moved("n1-x", 1);
    assert_eq!(bench.pass(LAG), ["open 2 to n1 for re-sent", "2 < INFO a"]);
}

#[test]
fn when_both_moves_become_known_here_before_the_answer_the_former_owner_is_asked_again() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    bench.moved("n1-x", 1);
    assert_eq!(
        bench.node(0, &disowned("a")),
        ["open 2 to n1 for re-sent", "2 < INFO a"]
    );
}

#[test]
fn any_other_503_in_a_dialog_is_500_to_the_client() {
    let mut bench = Bench::standing();
    drop(bench.client(&request("INFO", "a", Some("n1-x"))));
    bench.moved("n1-x", 2);
    assert_eq!(
        bench.node(0, &answer("INFO", "a", 503, "n1-x")),
        ["client < 500 a"]
    );
}

fn disowned(name: &str) -> String {
    let warning = "Warning: 399 tandem-node \"another node owns the dialog\"\r\nContent-Length";
    answer("INFO", name, 503, "n1-x").replace("Content-Length", warning)
}
