//! CTI managers and front ends that die.

use super::bench::*;
use super::calls::{event, happens, with_ringing_call};
use crate::csta::{
    CstaErrorCode, CstaMessage, EventKind, LocalConnectionState, MonitorRequest, Request, Response, Service,
};
use crate::cti::CtiConnectionId;
use crate::gateway::*;

fn lose(bench: &mut Bench, connection: usize) -> Vec<Sent> {
    bench.sent.clear();
    bench.asked.clear();
    bench.lose_cti(CtiConnectionId(connection));
    std::mem::take(&mut bench.sent)
}

#[test]
fn a_session_moves_to_another_cti_connection_and_hears_what_it_missed() {
    let mut bench = Bench::new();
    let key = with_ringing_call(&mut bench);
    lose(&mut bench, 0);
    let start = Request::Monitor(MonitorRequest::Start {
        device: "4711".into(),
    });
    assert_eq!(bench.asked[0].0, CtiConnectionId(1));
    assert_eq!(bench.asked(), vec![&start]);
    bench.answer_cti(Ok(Response::MonitorStart {
        cross_ref_id: "q-1".into(),
    }));
    let sent = bench.answer_cti(Ok(Response::SnapshotDevice {
        connections: Vec::new(),
    }));
    assert!(sent[0].body().contains("ConnectionClearedEvent"));
    bench.pass(Duration::from_millis(5));
    let record = bench.record(&key);
    assert_eq!(record.cti_connection.as_deref(), Some("cm2:8000"));
    assert!(record.calls.is_empty());
}

#[test]
fn a_command_on_a_connection_that_dies_is_answered_and_never_repeated() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    bench.receive(&info(&key, 3, &make_call()));
    let sent = lose(&mut bench, 0);
    assert_eq!(
        sent[0].csta(),
        CstaMessage::Error(CstaErrorCode::RESOURCE_OUT_OF_SERVICE)
    );
    assert!(
        bench
            .asked()
            .iter()
            .all(|request| request.service() != Some(Service::MakeCall))
    );
}

#[test]
fn a_request_that_only_reads_is_asked_again_where_the_session_goes_on() {
    let mut bench = Bench::new();
    let key = bench.sign_in();
    bench.receive(&info(&key, 2, &snapshot_device()));
    assert!(lose(&mut bench, 0).is_empty());
    assert_eq!(bench.asked[0].0, CtiConnectionId(1));
    let sent = bench.answer_cti(Ok(Response::SnapshotDevice {
        connections: Vec::new(),
    }));
    assert_eq!(sent[0].status(), 200);
}

#[test]
fn without_any_connection_commands_get_an_error_until_one_is_back() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    lose(&mut bench, 0);
    lose(&mut bench, 1);
    let sent = bench.receive(&info(&key, 3, &make_call()));
    assert_eq!(
        sent[0].csta(),
        CstaMessage::Error(CstaErrorCode::RESOURCE_OUT_OF_SERVICE)
    );
    bench.asked.clear();
    bench.cti_comes_back(CtiConnectionId(1));
    assert_eq!(
        bench.asked(),
        vec![&Request::Monitor(MonitorRequest::Start {
            device: "4711".into()
        })]
    );
}

#[test]
fn an_event_waits_for_a_way_to_its_client() {
    let mut bench = Bench::new();
    bench.sign_in_with_monitor();
    bench.input(Input::PairClosed { id: PairId(1) });
    let ringing = event(EventKind::Delivered, "c-1", LocalConnectionState::Alerting);
    assert!(happens(&mut bench, ringing).is_empty());
    let target = OutboundTarget {
        host: "10.0.0.1".into(),
        port: 5060,
        tls: false,
    };
    assert_eq!(bench.dialled, vec![target.clone()]);
    bench.input(Input::OutboundFailed { target });
    bench.open_pair(2, PairPurpose::Pair);
    assert_eq!(bench.sent.pop().unwrap().pair, PairId(2));
}

#[test]
fn an_event_whose_connection_breaks_before_its_answer_is_sent_again() {
    let mut bench = Bench::new();
    bench.sign_in_with_monitor();
    happens(
        &mut bench,
        event(EventKind::Delivered, "c-1", LocalConnectionState::Alerting),
    );
    bench.open_pair(2, PairPurpose::Pair);
    bench.sent.clear();
    bench.input(Input::PairClosed { id: PairId(1) });
    let again = bench.sent.pop().unwrap();
    assert_eq!((again.pair, again.header("CSeq").as_str()), (PairId(2), "2 INFO"));
}

#[test]
fn a_node_that_may_have_been_replaced_starts_nothing() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    bench.input(Input::AuthorityChanged(Authority::Isolated));
    let ringing = event(EventKind::Delivered, "c-1", LocalConnectionState::Alerting);
    assert!(happens(&mut bench, ringing).is_empty());
    assert!(bench.receive(&info(&key, 3, &make_call())).is_empty());
    assert!(bench.asked().is_empty());
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.sent.pop().unwrap().status(), 500);
    bench.sent.clear();
    bench.input(Input::AuthorityChanged(Authority::NoLeader));
    assert!(bench.sent.pop().unwrap().body().contains("DeliveredEvent"));
}

#[test]
fn a_session_of_an_isolated_node_expires_when_the_node_is_itself_again() {
    let mut bench = Bench::new();
    bench.sign_in();
    bench.sent.clear();
    bench.input(Input::AuthorityChanged(Authority::Isolated));
    bench.pass(Duration::from_secs(1810));
    assert!(bench.sent.is_empty(), "its new owner may have had it refreshed");
    bench.input(Input::AuthorityChanged(Authority::Quorum));
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.sent.pop().unwrap().message.method(), Some(&b"BYE"[..]));
}

#[test]
fn a_refresh_waits_until_an_isolated_node_is_itself_again_whenever_the_timer_runs_out() {
    let mut bench = Bench::new();
    let key = bench.sign_in();
    bench.pass(Duration::from_millis(1_799_500));
    bench.input(Input::AuthorityChanged(Authority::Isolated));
    bench.sent.clear();
    assert!(bench.receive(&refresh(&key)).is_empty());
    bench.pass(Duration::from_secs(1));
    assert!(bench.sent.is_empty());
    bench.input(Input::AuthorityChanged(Authority::Quorum));
    let answer = bench.sent.pop().unwrap();
    assert_eq!((answer.status(), answer.to_tag()), (200, key.clone()));
    bench.pass(Duration::from_secs(1700));
    assert!(bench.state.session(&key).is_some());
}

#[test]
fn without_quorum_an_owner_goes_on_with_its_sessions() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    bench.quorum = false;
    bench.input(Input::AuthorityChanged(Authority::NoLeader));
    bench.receive(&info(&key, 3, &make_call()));
    assert_eq!(
        bench.asked().len(),
        1,
        "nobody waits for an intent that cannot be written"
    );
}
