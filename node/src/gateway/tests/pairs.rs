//! Connections over which nothing more comes, and requests that come by more than one.

use bytes::Bytes;

use tandem_sip::RawMessage;

use super::bench::*;
use super::calls::{event, happens};
use crate::csta::{
    ConnectionIdentifier, EventKind, LocalConnectionState, Request, Response, Service, SnapshotRequest,
};
use crate::gateway::*;
use crate::sip::transaction;

fn pairs(sent: &[Sent]) -> Vec<u64> {
    sent.iter().map(|sent| sent.pair.0).collect()
}

fn half_close(bench: &mut Bench, pair: u64, farewell: Option<Bytes>) {
    bench.sent.clear();
    bench.input(Input::PairHalfClosed {
        id: PairId(pair),
        farewell,
    });
}

fn snapshot() -> Response {
    Response::SnapshotDevice {
        connections: Vec::new(),
    }
}

/// The network held the first copy up, so that it comes behind the one that was sent again. Its connection may be gone
/// without our knowing.
#[test]
fn each_copy_of_a_request_is_answered_where_it_came_by() {
    for order in [[2, 1], [1, 2]] {
        let mut bench = Bench::new();
        let key = bench.sign_in_with_monitor();
        bench.open_pair(2, PairPurpose::Resent);
        for pair in order {
            assert!(bench.receive_on(pair, &info(&key, 3, &make_call())).is_empty());
        }
        assert_eq!(bench.asked().len(), 1, "carried out once");
        let sent = bench.answer_cti(Ok(Response::NewCall {
            service: Service::MakeCall,
            call: ConnectionIdentifier::new("c-1", "4711"),
        }));
        assert_eq!(pairs(&sent), [1, 2]);
    }
}

#[test]
fn each_copy_of_an_opening_is_answered_where_it_came_by() {
    let mut bench = Bench::new();
    bench.quorum = false;
    bench.open_pair(2, PairPurpose::Resent);
    for pair in [2, 1, 2] {
        assert!(bench.receive_on(pair, &invite("1", "user1")).is_empty());
    }
    bench.commit_all();
    assert_eq!(pairs(&bench.sent), [1, 2]);
    assert!(bench.sent.iter().all(|sent| sent.status() == 200));
    assert_eq!(bench.gateway.census().by_state.values().sum::<usize>(), 1);
}

#[test]
fn a_client_that_has_said_all_gets_its_answers_and_no_events() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    bench.receive(&info(&key, 3, &make_call()));
    half_close(&mut bench, 1, None);
    assert!(bench.closed.is_empty(), "an answer is due");
    let sent = bench.answer_cti(Ok(Response::NewCall {
        service: Service::MakeCall,
        call: ConnectionIdentifier::new("c-1", "4711"),
    }));
    assert_eq!(
        (pairs(&sent), bench.closed.as_slice()),
        (vec![1], &[PairId(1)][..])
    );
    bench.sent.clear();
    let ringing = event(EventKind::Delivered, "c-2", LocalConnectionState::Alerting);
    let told = happens(&mut bench, ringing);
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn a_connection_that_waits_for_nothing_ends_with_its_client() {
    let mut bench = Bench::new();
    bench.sign_in();
    half_close(&mut bench, 1, None);
    half_close(&mut bench, 1, None);
    assert_eq!(bench.closed, [PairId(1)]);
    bench.input(Input::PairClosed { id: PairId(1) });
    bench.pass(Duration::from_secs(40));
    assert_eq!(bench.closed, [PairId(1)]);
}

#[test]
fn what_is_said_last_follows_the_answers_that_are_due() {
    let mut bench = Bench::new();
    let key = bench.sign_in();
    bench.receive(&info(&key, 2, &snapshot_device()));
    let lost = RawMessage::parse(info(&key, 3, &snapshot_device()).into()).unwrap();
    let farewell = transaction::plain(&lost, 400, "", &[]);
    half_close(&mut bench, 1, Some(farewell));
    assert!(bench.sent.is_empty());
    let statuses: Vec<u16> = bench
        .answer_cti(Ok(snapshot()))
        .iter()
        .map(Sent::status)
        .collect();
    assert_eq!(
        (statuses, bench.closed.as_slice()),
        (vec![200, 400], &[PairId(1)][..])
    );
}

#[test]
fn a_half_closed_connection_is_not_kept_for_ever() {
    let mut bench = Bench::new();
    let key = bench.sign_in();
    bench.receive(&info(&key, 2, &snapshot_device()));
    half_close(&mut bench, 1, None);
    bench.pass(Duration::from_secs(31));
    assert!(bench.closed.is_empty());
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.closed, [PairId(1)]);
    assert!(matches!(
        bench.asked[0].2,
        Request::Snapshot(SnapshotRequest::Device { .. })
    ));
}

/// The front end has closed its connection, and reads the next one of the same client.
#[test]
fn another_connection_of_the_client_is_preferred_to_a_half_closed_one() {
    let mut bench = Bench::new();
    let key = bench.sign_in();
    bench.receive(&info(&key, 2, &snapshot_device()));
    half_close(&mut bench, 1, None);
    bench.open_pair(2, PairPurpose::Pair);
    let sent = bench.answer_cti(Ok(snapshot()));
    assert_eq!(
        (pairs(&sent), bench.closed.as_slice()),
        (vec![2], &[PairId(1)][..])
    );
}
