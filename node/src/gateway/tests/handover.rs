//! Sessions that are handed over while both nodes live.

use std::time::Duration;

use tandem_cluster::{Command, NodeId, SessionKey};

use super::bench::*;
use crate::csta::{MonitorRequest, Request, Response, SnapshotRequest, SystemRequest};
use crate::gateway::*;

/// Node 1 with a session at rest, in a cluster with node 2.
fn at_rest() -> (Bench, SessionKey) {
    let mut bench = Bench::new();
    bench.state.apply(registered(2, 2));
    let key = bench.sign_in_with_monitor();
    bench.pass(Duration::from_millis(5));
    bench.sent.clear();
    bench.proposed.clear();
    (bench, key)
}

fn hand_over(bench: &mut Bench, key: &SessionKey) {
    let to = NodeId(2);
    bench.input(Input::HandOver { key: key.clone(), to });
}

/// What the driver says of the committed move.
fn changed(bench: &mut Bench, key: &SessionKey) {
    let session = bench.known(key);
    bench.input(Input::SessionChanged {
        key: key.clone(),
        session,
    });
}

fn features(key: &SessionKey, cseq: u32) -> String {
    info(
        key,
        cseq,
        &Request::System(SystemRequest::GetCstaFeatures { line: None }),
    )
}

#[test]
fn a_session_at_rest_leaves_without_a_word_and_its_monitor_is_freed() {
    let (mut bench, key) = at_rest();
    hand_over(&mut bench, &key);
    changed(&mut bench, &key);
    assert_eq!(bench.record(&key).owner, NodeId(2));
    assert!(bench.sent.is_empty());
    assert!(matches!(
        bench.asked()[..],
        [Request::Monitor(MonitorRequest::Stop { .. })]
    ));
    let rebalanced = |report: &&Report| matches!(report, Report::SessionRebalanced { .. });
    assert_eq!(bench.reports.iter().filter(rebalanced).count(), 1);
    assert!(bench.gateway.census().by_state.is_empty());
}

#[test]
fn a_busy_session_stays_until_it_is_asked_again_at_rest() {
    let (mut bench, key) = at_rest();
    let snapshot = Request::Snapshot(SnapshotRequest::Device { device: LINE.into() });
    assert!(bench.receive(&info(&key, 3, &snapshot)).is_empty());
    hand_over(&mut bench, &key);
    assert!(bench.proposed.is_empty());
    let answered = bench.answer_cti(Ok(Response::SnapshotDevice {
        connections: Vec::new(),
    }));
    assert_eq!(answered[0].status(), 200);
    hand_over(&mut bench, &key);
    assert_eq!(bench.record(&key).owner, NodeId(2));
}

#[test]
fn a_request_that_comes_while_the_move_is_committed_is_sent_to_the_new_owner() {
    let (mut bench, key) = at_rest();
    bench.quorum = false;
    hand_over(&mut bench, &key);
    assert!(bench.receive(&features(&key, 3)).is_empty());
    bench.quorum = true;
    bench.commit();
    changed(&mut bench, &key);
    let sent = std::mem::take(&mut bench.sent);
    assert_eq!((sent.len(), sent[0].status()), (1, 503));
    assert!(sent[0].header("Warning").starts_with("399 tandem-node "));
}

#[test]
fn a_request_that_comes_afterwards_is_sent_on_and_the_session_is_not_taken_back() {
    let (mut bench, key) = at_rest();
    hand_over(&mut bench, &key);
    changed(&mut bench, &key);
    assert_eq!(bench.receive(&features(&key, 3))[0].status(), 503);
    assert_eq!(bench.record(&key).owner, NodeId(2));
}

#[test]
fn one_that_comes_marked_or_late_takes_the_session_back() {
    for late in [false, true] {
        let (mut bench, key) = at_rest();
        hand_over(&mut bench, &key);
        changed(&mut bench, &key);
        bench.open_pair(2, PairPurpose::Resent);
        if late {
            bench.pass(Duration::from_secs(10));
        }
        let pair = if late { 1 } else { 2 };
        assert_eq!(bench.receive_on(pair, &features(&key, 3))[0].status(), 200);
        assert_eq!(bench.record(&key).owner, NodeId(1));
    }
}

#[test]
fn a_move_that_is_refused_leaves_the_session_as_it_was() {
    let (mut bench, key) = at_rest();
    bench.quorum = false;
    hand_over(&mut bench, &key);
    assert!(bench.receive(&features(&key, 3)).is_empty());
    let lost = Command::NodeLost {
        id: NodeId(2),
        incarnation: 2,
    };
    bench.state.apply(lost);
    bench.quorum = true;
    bench.commit();
    assert_eq!(std::mem::take(&mut bench.sent)[0].status(), 200);
    assert_eq!(bench.record(&key).owner, NodeId(1));
}

/// Node 2 has been sent a request of the session again, and has taken it: the state says so first.
fn taken(bench: &mut Bench, key: &SessionKey) -> Vec<u16> {
    let from_epoch = bench.record(key).epoch;
    bench.state.apply(Command::Adopt {
        key: key.clone(),
        from_epoch,
        to: NodeId(2),
    });
    changed(bench, key);
    let sent = std::mem::take(&mut bench.sent);
    sent.iter().map(Sent::status).collect()
}

#[test]
fn what_a_taken_session_only_looks_at_is_left_to_the_new_owner() {
    let (mut bench, key) = at_rest();
    let snapshot = Request::Snapshot(SnapshotRequest::Device { device: LINE.into() });
    assert!(bench.receive(&info(&key, 3, &snapshot)).is_empty());
    assert!(bench.receive(&features(&key, 4)).is_empty());
    assert_eq!(taken(&mut bench, &key), [503, 503]);
}

#[test]
fn a_command_that_was_begun_is_not_left_to_the_new_owner_of_a_taken_session() {
    let (mut bench, key) = at_rest();
    assert!(bench.receive(&info(&key, 3, &make_call())).is_empty());
    assert!(bench.receive(&features(&key, 4)).is_empty());
    assert_eq!(taken(&mut bench, &key), [500, 503]);
}
