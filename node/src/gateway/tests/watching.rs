//! Several sessions on one line: one monitor at the PBX, and a stream of events for each.

use super::bench::*;
use super::calls::event;
use crate::csta::{
    ConnectionIdentifier, CstaErrorCode, CstaMessage, EventKind, LocalConnectionState, MonitorRequest,
    Request, Response, Service, SnapshotConnection,
};
use crate::cti::CtiConnectionId;
use crate::gateway::*;
use tandem_cluster::{ClusterState, SessionKey, StateLimits};

const ONLY: CtiConnectionId = CtiConnectionId(0);

/// A node with one CTI connection.
fn one_link(node: u64, state: ClusterState) -> Bench {
    Bench::configured(node, state, |config| config.cti_connections.truncate(1))
}

fn bench() -> Bench {
    one_link(1, ClusterState::new(StateLimits::default()))
}

fn sign_in(bench: &mut Bench, user: &str) -> SessionKey {
    bench.receive(&invite("1", user))[0].to_tag()
}

/// user1 and user2 share line 4711.
fn two_sessions(bench: &mut Bench) -> [SessionKey; 2] {
    ["user1", "user2"].map(|user| sign_in(bench, user))
}

fn start_monitor(bench: &mut Bench, key: &SessionKey) -> Vec<Sent> {
    bench.receive(&info(key, 2, &monitor_start()))
}

fn monitor_started(cross_ref_id: &str) -> Result<Response, CstaErrorCode> {
    Ok(Response::MonitorStart {
        cross_ref_id: cross_ref_id.into(),
    })
}

fn two_monitored(bench: &mut Bench) -> [SessionKey; 2] {
    let keys = two_sessions(bench);
    keys.iter().for_each(|key| {
        start_monitor(bench, key);
    });
    bench.answer_cti(monitor_started("p-1"));
    keys
}

fn snapshot(calls: &[(&str, LocalConnectionState)]) -> Result<Response, CstaErrorCode> {
    let connections = calls.iter().map(|(call_id, own)| SnapshotConnection {
        connection: ConnectionIdentifier::new(*call_id, "4711"),
        states: vec![*own, LocalConnectionState::Connected],
    });
    Ok(Response::SnapshotDevice {
        connections: connections.collect(),
    })
}

fn happens(bench: &mut Bench, cross_ref_id: &str, call_id: &str) -> Vec<Sent> {
    let mut event = event(EventKind::Delivered, call_id, LocalConnectionState::Alerting);
    event.monitor_cross_ref_id = cross_ref_id.into();
    bench.cti_event(ONLY, &event)
}

/// Sessions that were sent an event, and under which monitor id.
fn told(sent: &[Sent]) -> Vec<(String, String)> {
    let mut told: Vec<(String, String)> = sent
        .iter()
        .map(|sent| {
            let CstaMessage::Event(event) = sent.csta() else {
                panic!("{}", sent.body());
            };
            let from = sent.header("From");
            let tag = from.split("tag=").nth(1).unwrap_or_default();
            (tag.to_owned(), event.monitor_cross_ref_id)
        })
        .collect();
    told.sort();
    told
}

fn expected(bench: &Bench, keys: &[SessionKey]) -> Vec<(String, String)> {
    let mut expected: Vec<(String, String)> = keys
        .iter()
        .map(|key| (key.to_string(), bench.record(key).monitor.cross_ref_id.clone()))
        .collect();
    expected.sort();
    expected
}

fn names(bench: &Bench) -> Vec<&'static str> {
    bench.asked().iter().map(|request| request.label()).collect()
}

#[test]
fn two_sessions_on_a_line_share_one_monitor_and_each_gets_its_own_events() {
    let mut bench = bench();
    let keys = two_sessions(&mut bench);
    assert!(start_monitor(&mut bench, &keys[0]).is_empty());
    assert!(start_monitor(&mut bench, &keys[1]).is_empty());
    assert_eq!(names(&bench), ["MonitorStart"]);
    let answers = bench.answer_cti(monitor_started("p-1"));
    assert_eq!(answers.len(), 2, "both clients are answered");
    assert!(keys.iter().all(|key| bench.record(key).monitor.active));

    let told = told(&happens(&mut bench, "p-1", "c-1"));
    assert_eq!(told, expected(&bench, &keys));
    assert_ne!(told[0].1, told[1].1, "each under its own ids");
    assert!(bench.asked().is_empty());
}

#[test]
fn a_session_that_joins_a_running_monitor_reads_its_own_snapshot_first() {
    let mut bench = bench();
    let [first, second] = two_sessions(&mut bench);
    start_monitor(&mut bench, &first);
    bench.answer_cti(monitor_started("p-1"));
    assert!(start_monitor(&mut bench, &second).is_empty());
    assert_eq!(names(&bench), ["SnapshotDevice"]);
    let live = told(&happens(&mut bench, "p-1", "c-1"));
    assert_eq!(live, expected(&bench, std::slice::from_ref(&first)));

    let sent = bench.answer_cti(snapshot(&[]));
    assert_eq!(sent[0].status(), 200, "its MonitorStart comes before its events");
    assert_eq!(told(&sent[1..]), expected(&bench, &[second]));
}

#[test]
fn a_client_that_joins_does_without_a_snapshot_that_is_refused() {
    let mut bench = bench();
    let [first, second] = two_sessions(&mut bench);
    start_monitor(&mut bench, &first);
    bench.answer_cti(monitor_started("p-1"));
    start_monitor(&mut bench, &second);
    let sent = bench.answer_cti(Err(CstaErrorCode::UNSPECIFIED));
    assert_eq!(sent[0].status(), 200);
    let told = told(&happens(&mut bench, "p-1", "c-1"));
    assert_eq!(told, expected(&bench, &[first, second]));
}

#[test]
fn the_last_one_to_leave_stops_the_monitor_by_monitor_stop_or_bye() {
    let mut bench = bench();
    let [first, second] = two_monitored(&mut bench);
    let cross_ref_id = bench.record(&first).monitor.cross_ref_id.clone();
    bench.receive(&info(
        &first,
        3,
        &Request::Monitor(MonitorRequest::Stop { cross_ref_id }),
    ));
    assert!(bench.asked().is_empty(), "another session still watches");
    let told = told(&happens(&mut bench, "p-1", "c-1"));
    assert_eq!(told, expected(&bench, std::slice::from_ref(&second)));

    bench.receive(&bare("BYE", &format!(";tag={second}"), 4));
    let stop = Request::Monitor(MonitorRequest::Stop {
        cross_ref_id: "p-1".into(),
    });
    assert_eq!(bench.asked(), vec![&stop]);
    assert!(
        happens(&mut bench, "p-1", "c-2").is_empty(),
        "it is being stopped, not unknown"
    );
    bench.answer_cti(Ok(Response::Done(Service::MonitorStop)));
    assert!(bench.asked().is_empty());
}

#[test]
fn a_refused_monitor_is_refused_to_all_who_wait_for_it() {
    let mut bench = bench();
    let keys = two_sessions(&mut bench);
    keys.iter().for_each(|key| {
        start_monitor(&mut bench, key);
    });
    let sent = bench.answer_cti(Err(CstaErrorCode::UNSPECIFIED));
    assert_eq!(sent.len(), 2);
    assert!(
        sent.iter()
            .all(|sent| matches!(sent.csta(), CstaMessage::Error(_)))
    );
    assert!(keys.iter().all(|key| !bench.record(key).monitor.active));
}

#[test]
fn both_sessions_are_adopted_over_one_monitor_with_a_snapshot_each() {
    let mut bench = bench();
    let keys = two_monitored(&mut bench);
    let mut state = bench.state.clone();
    state.apply(registered(2, 2));
    state.apply(Command::NodeLost {
        id: NodeId(1),
        incarnation: 1,
    });
    let mut successor = one_link(2, state);
    for key in &keys {
        let session = successor.known(key);
        successor.input(Input::SessionChanged {
            key: key.clone(),
            session,
        });
    }
    assert_eq!(names(&successor), ["MonitorStart"]);
    successor.answer_cti(monitor_started("q-1"));
    assert_eq!(names(&successor), ["SnapshotDevice", "SnapshotDevice"]);
    assert!(
        happens(&mut successor, "q-1", "c-1").is_empty(),
        "what was before comes first"
    );
    let first = successor.answer_cti(snapshot(&[]));
    let second = successor.answer_cti(snapshot(&[]));
    let told = told(&[first, second].concat());
    assert_eq!(told, expected(&successor, &keys));
}

#[test]
fn both_sessions_move_when_their_cti_connection_is_lost() {
    let mut bench = bench();
    let keys = two_monitored(&mut bench);
    bench.lose_cti(ONLY);
    assert!(bench.asked().is_empty());
    bench.cti_comes_back(ONLY);
    assert_eq!(names(&bench), ["MonitorStart"]);
    bench.answer_cti(monitor_started("p-2"));
    bench.answer_cti(snapshot(&[]));
    bench.answer_cti(snapshot(&[]));
    let told = told(&happens(&mut bench, "p-2", "c-1"));
    assert_eq!(told, expected(&bench, &keys));
}

#[test]
fn both_sessions_start_anew_when_the_cti_manager_ends_their_monitor() {
    let mut bench = bench();
    two_monitored(&mut bench);
    bench.cti_ends_monitor(ONLY, "p-1");
    assert_eq!(names(&bench), ["MonitorStart"]);
    bench.answer_cti(monitor_started("p-2"));
    assert_eq!(names(&bench), ["SnapshotDevice", "SnapshotDevice"]);
}

#[test]
fn sessions_of_one_line_keep_their_own_cti_connections() {
    let mut bench = Bench::new();
    for key in two_sessions(&mut bench) {
        start_monitor(&mut bench, &key);
    }
    let places: Vec<usize> = bench
        .asked
        .iter()
        .map(|(connection, _, _)| connection.0)
        .collect();
    assert_eq!(places, [0, 1]);
    assert_eq!(names(&bench), ["MonitorStart", "MonitorStart"]);
}

#[test]
fn a_monitor_that_nobody_knows_is_stopped_once_and_counted() {
    let mut bench = bench();
    let key = sign_in(&mut bench, "user1");
    bench.set_request_timeout(Duration::from_millis(100));
    start_monitor(&mut bench, &key);
    assert!(happens(&mut bench, "p-9", "c-1").is_empty());
    assert_eq!(names(&bench), ["MonitorStart"], "it may yet turn out to be ours");
    // Given up here, and carried out there.
    bench.pass(Duration::from_millis(100));
    bench.asked.clear();
    happens(&mut bench, "p-9", "c-1");
    happens(&mut bench, "p-9", "c-1");
    let stop = Request::Monitor(MonitorRequest::Stop {
        cross_ref_id: "p-9".into(),
    });
    assert_eq!(bench.asked(), vec![&stop]);
    let count = bench
        .reports
        .iter()
        .filter(|report| **report == Report::EventOfUnknownMonitor);
    assert_eq!(count.count(), 3);
    bench.answer_cti(Ok(Response::Done(Service::MonitorStop)));
    happens(&mut bench, "p-9", "c-1");
    assert_eq!(bench.asked(), vec![&stop], "it was not heeded");
}
