//! Sessions that change hands.

use super::bench::*;
use super::calls::{event, happens, with_ringing_call};
use crate::csta::{
    CallRequest, ConnectionIdentifier, CstaErrorCode, CstaMessage, EventKind, LocalConnectionState,
    MonitorRequest, Request, Response, Service, SnapshotConnection, SnapshotRequest, SystemRequest,
};
use crate::gateway::*;
use tandem_cluster::{ClusterState, SessionKey};

const CONNECTED: [LocalConnectionState; 2] =
    [LocalConnectionState::Connected, LocalConnectionState::Connected];
const DIALLED: [LocalConnectionState; 2] = [LocalConnectionState::Connected, LocalConnectionState::Alerting];

/// Node 2, after node 1 is lost.
fn successor_of(bench: &Bench) -> Bench {
    let mut state: ClusterState = bench.state.clone();
    state.apply(registered(2, 2));
    state.apply(Command::NodeLost {
        id: NodeId(1),
        incarnation: 1,
    });
    Bench::of(2, state)
}

fn take_over(successor: &mut Bench, key: &SessionKey) {
    let session = successor.known(key);
    successor.input(Input::SessionChanged {
        key: key.clone(),
        session,
    });
}

fn call(call_id: &str, states: [LocalConnectionState; 2]) -> SnapshotConnection {
    SnapshotConnection {
        connection: ConnectionIdentifier::new(call_id, "4711"),
        states: states.to_vec(),
    }
}

/// The successor's monitor starts, and the snapshot shows `connections`.
fn resume(successor: &mut Bench, connections: Vec<SnapshotConnection>) -> Vec<Sent> {
    successor.answer_cti(Ok(Response::MonitorStart {
        cross_ref_id: "q-1".into(),
    }));
    successor.answer_cti(Ok(Response::SnapshotDevice { connections }))
}

#[test]
fn a_successor_starts_the_monitor_compares_and_goes_on_with_higher_cseq_numbers() {
    let mut bench = Bench::new();
    let key = with_ringing_call(&mut bench);
    let mut successor = successor_of(&bench);
    take_over(&mut successor, &key);
    let sent = resume(&mut successor, vec![call("c-1", CONNECTED)]);
    let CstaMessage::Event(event) = sent[0].csta() else {
        panic!()
    };
    assert_eq!(event.kind.name(), "EstablishedEvent");
    assert_eq!(
        event.monitor_cross_ref_id,
        bench.record(&key).monitor.cross_ref_id
    );
    let (first, _) = successor.record(&key).epoch.cseq_block();
    assert!(first > 1);
    assert_eq!(sent[0].header("CSeq"), format!("{first} INFO"));
}

#[test]
fn a_call_that_ended_meanwhile_is_reported_cleared_once() {
    let mut bench = Bench::new();
    let key = with_ringing_call(&mut bench);
    let mut successor = successor_of(&bench);
    take_over(&mut successor, &key);
    let sent = resume(&mut successor, Vec::new());
    assert_eq!(sent.len(), 1);
    assert!(sent[0].body().contains("ConnectionClearedEvent"));
    take_over(&mut successor, &key);
    successor.pass(Duration::from_secs(1));
    assert!(successor.sent.is_empty());
}

#[test]
fn an_end_that_a_snapshot_and_an_event_tell_of_is_reported_once() {
    let mut bench = Bench::new();
    let key = with_ringing_call(&mut bench);
    let mut successor = successor_of(&bench);
    take_over(&mut successor, &key);
    successor.answer_cti(Ok(Response::MonitorStart {
        cross_ref_id: "q-1".into(),
    }));
    let mut ended = event(EventKind::ConnectionCleared, "c-1", LocalConnectionState::Null);
    ended.monitor_cross_ref_id = "q-1".into();
    assert!(happens(&mut successor, ended).is_empty());
    let mut sent = successor.answer_cti(Ok(Response::SnapshotDevice {
        connections: Vec::new(),
    }));
    successor.pass(Duration::from_secs(1));
    sent.append(&mut successor.sent);
    let bodies: Vec<String> = sent.iter().map(Sent::body).collect();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert!(bodies[0].contains("ConnectionClearedEvent"));
}

#[test]
fn the_parties_of_a_call_that_began_meanwhile_are_asked_for() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    bench.pass(Duration::from_millis(5));
    let mut successor = successor_of(&bench);
    take_over(&mut successor, &key);
    let ringing = [LocalConnectionState::Alerting, LocalConnectionState::Connected];
    assert!(resume(&mut successor, vec![call("c-7", ringing)]).is_empty());
    let asks = Request::Snapshot(SnapshotRequest::Call {
        call: ConnectionIdentifier::new("c-7", "4711"),
    });
    assert_eq!(successor.asked(), vec![&asks]);
    let sent = successor.answer_cti(Ok(Response::SnapshotCall {
        calling: Some(crate::csta::Device::Identifier("+3299".into())),
        called: Some(crate::csta::Device::Identifier("4711".into())),
    }));
    assert!(sent[0].body().contains("tel:+3299"));
}

#[test]
fn a_request_that_comes_before_the_loss_is_committed_is_held_until_the_session_is_adopted() {
    let mut bench = Bench::new();
    let key = bench.sign_in();
    bench.pass(Duration::from_millis(5));
    let mut other = Bench::of(2, bench.state.clone());
    other.quorum = false;
    let features = Request::System(SystemRequest::GetCstaFeatures { line: None });
    assert!(other.receive(&info(&key, 2, &features)).is_empty());
    assert_eq!(other.proposed.len(), 1);
    other.quorum = true;
    other.commit();
    let sent = std::mem::take(&mut other.sent);
    assert_eq!(sent[0].status(), 200);
    assert_eq!(other.record(&key).owner, NodeId(2));
}

#[test]
fn a_held_request_is_not_held_for_ever() {
    let mut bench = Bench::new();
    let key = bench.sign_in();
    let mut other = Bench::of(2, bench.state.clone());
    other.quorum = false;
    other.receive(&info(&key, 2, &monitor_start()));
    other.pass(Duration::from_secs(5));
    assert_eq!(other.sent.pop().unwrap().status(), 500);
}

#[test]
fn with_adoption_switched_off_a_moved_session_is_unknown() {
    let mut bench = Bench::new();
    let key = bench.sign_in();
    let mut successor = Bench::configured(2, bench.state.clone(), |config| {
        config.adoption = AdoptionPolicy::Disabled;
    });
    assert_eq!(
        successor.receive(&info(&key, 2, &monitor_start()))[0].status(),
        481
    );
}

#[test]
fn a_session_that_moved_away_is_left_without_a_word() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    bench.state.apply(Command::Adopt {
        key: key.clone(),
        from_epoch: bench.record(&key).epoch,
        to: NodeId(1),
    });
    let mut session = bench.known(&key).unwrap();
    session.record.owner = NodeId(2);
    bench.sent.clear();
    bench.input(Input::SessionChanged {
        key,
        session: Some(session),
    });
    assert!(bench.sent.is_empty());
    assert!(
        bench
            .reports
            .iter()
            .any(|report| matches!(report, Report::SessionMovedAway { .. }))
    );
}

#[test]
fn a_repeated_command_without_intent_is_executed() {
    let mut bench = Bench::new();
    let key = bench.sign_in();
    bench.open_pair(2, PairPurpose::Resent);
    bench.receive_on(2, &info(&key, 3, &make_call()));
    assert_eq!(bench.asked().len(), 1);
}

#[test]
fn a_repeated_command_with_a_result_gets_that_result() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    bench.receive(&info(&key, 3, &make_call()));
    let calling_device = ConnectionIdentifier::new("c-5", "4711");
    let first = bench.answer_cti(Ok(Response::NewCall {
        service: Service::MakeCall,
        call: calling_device,
    }));
    let mut successor = successor_of(&bench);
    take_over(&mut successor, &key);
    resume(&mut successor, vec![call("c-5", DIALLED)]);
    successor.open_pair(2, PairPurpose::Resent);
    let again = successor.receive_on(2, &info(&key, 3, &make_call()));
    assert_eq!((again[0].pair, again[0].body()), (PairId(2), first[0].body()));
    assert!(successor.asked().is_empty());
}

#[test]
fn a_repeated_command_with_an_intent_alone_is_answered_from_the_snapshot_before_any_event() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    bench.receive(&info(&key, 3, &make_call()));
    let mut successor = successor_of(&bench);
    take_over(&mut successor, &key);
    resume(&mut successor, vec![call("c-5", DIALLED)]);
    let told = successor.answer_cti(Ok(Response::SnapshotCall {
        calling: None,
        called: None,
    }));
    assert!(told.is_empty(), "the client may ask for its call again");
    successor.open_pair(2, PairPurpose::Resent);
    assert!(successor.receive_on(2, &info(&key, 3, &make_call())).is_empty());
    assert_eq!(
        successor.asked(),
        vec![&Request::Snapshot(SnapshotRequest::Device {
            device: "4711".into()
        })]
    );
    let sent = successor.answer_cti(Ok(Response::SnapshotDevice {
        connections: vec![call("c-5", DIALLED)],
    }));
    let calling_device = ConnectionIdentifier::new("c-5", LINE);
    assert_eq!(
        sent[0].csta(),
        CstaMessage::Response(Response::NewCall {
            service: Service::MakeCall,
            call: calling_device
        })
    );
    successor.pass(Duration::from_millis(50));
    assert!(successor.sent.pop().unwrap().body().contains("OriginatedEvent"));
}

#[test]
fn a_repeated_command_of_which_the_snapshot_shows_nothing_is_an_error_and_not_executed() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    bench.receive(&info(&key, 3, &make_call()));
    let mut successor = successor_of(&bench);
    take_over(&mut successor, &key);
    resume(&mut successor, Vec::new());
    successor.open_pair(2, PairPurpose::Resent);
    successor.receive_on(2, &info(&key, 3, &make_call()));
    let sent = successor.answer_cti(Ok(Response::SnapshotDevice {
        connections: Vec::new(),
    }));
    assert_eq!(
        sent[0].csta(),
        CstaMessage::Error(CstaErrorCode::RESOURCE_OUT_OF_SERVICE)
    );
    assert!(successor.asked().is_empty());
}

/// The session leaves and comes back while the log is silent: two requests wait for it one after the other.
#[test]
fn what_becomes_of_a_request_late_is_not_taken_for_the_next_ones_outcome() {
    let mut bench = Bench::new();
    bench.state.apply(registered(2, 2));
    let key = bench.sign_in_with_monitor();
    bench.pass(Duration::from_millis(5));
    bench.quorum = false;
    assert!(bench.receive(&info(&key, 3, &make_call())).is_empty());
    for to in [2, 1] {
        let adopted = Command::Adopt {
            key: key.clone(),
            from_epoch: bench.record(&key).epoch,
            to: NodeId(to),
        };
        bench.state.apply(adopted);
        take_over(&mut bench, &key);
    }
    bench
        .asked
        .retain(|(_, _, request)| matches!(request, Request::Monitor(MonitorRequest::Start { .. })));
    resume(&mut bench, Vec::new());
    bench.pass(Duration::from_secs(4));
    assert!(bench.receive(&info(&key, 4, &make_call())).is_empty());
    bench.asked.clear();
    // The first one's intent is known to be written: nothing of the second one is.
    bench.commit();
    assert!(
        bench.asked().is_empty() && bench.sent.is_empty(),
        "{:?}",
        bench.asked()
    );
    bench.commit_all();
    assert_eq!(bench.asked(), [&CallRequest::make_call("4711", "+322222")]);
}

#[test]
fn a_node_that_is_declared_lost_drops_its_sessions_and_begins_anew() {
    let mut bench = Bench::new();
    bench.sign_in();
    bench.sent.clear();
    bench.input(Input::DeclaredLost);
    assert!(bench.sent.is_empty());
    assert_eq!(bench.gateway.census().by_state.len(), 0);
}

/// RFC 3261 §8.2.6.2: its answer has a To-tag; and the client may try again.
#[test]
fn a_node_that_is_declared_lost_refuses_what_was_opening() {
    let mut bench = Bench::new();
    bench.quorum = false;
    assert!(bench.receive(&invite("1", "user1")).is_empty());
    bench.input(Input::DeclaredLost);
    let refused = bench.sent.pop().unwrap();
    assert_eq!(
        (refused.status(), refused.header("Retry-After")),
        (480, "1".into())
    );
    assert!(refused.to_tag().as_str().starts_with("n1-"));
    bench.commit_all();
    bench.quorum = true;
    bench.input(Input::AuthorityChanged(Authority::Quorum));
    assert_eq!(bench.receive(&invite("2", "user1"))[0].status(), 200);
}

/// The lost node may have answered a refresh a moment ago, which is in no log.
#[test]
fn a_session_that_is_taken_over_has_time_to_be_refreshed() {
    let mut bench = Bench::new();
    let key = bench.sign_in();
    bench.pass(Duration::from_secs(1740));
    let mut successor = successor_of(&bench);
    successor.now = bench.now;
    take_over(&mut successor, &key);
    successor.sent.clear();
    successor.pass(Duration::from_secs(1799));
    assert!(successor.sent.is_empty(), "{:?}", successor.sent);
    successor.pass(Duration::from_secs(1));
    assert_eq!(successor.sent.pop().unwrap().message.method(), Some(&b"BYE"[..]));
}
