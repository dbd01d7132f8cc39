//! What happens inside a dialog.

use super::bench::*;
use crate::csta::{
    CallRequest, Cause, ConnectionIdentifier, CstaErrorCode, CstaMessage, Device, Event, EventKind,
    LocalConnectionState, MonitorRequest, Request, Response, Service, SystemRequest,
};
use crate::cti::CtiConnectionId;
use crate::gateway::*;
use tandem_cluster::{CallState, SessionKey};

pub(super) fn event(kind: EventKind, call_id: &str, own: LocalConnectionState) -> Event {
    let mut event = Event::new(kind, "p-1", ConnectionIdentifier::new(call_id, "4711"));
    event.subject = Some(Device::Identifier("4711".into()));
    event.calling = Some(Device::Identifier("+3233".into()));
    event.called = Some(Device::Identifier("4711".into()));
    event.local_connection_info = Some(own);
    event.cause = Cause::NEW_CALL;
    event
}

pub(super) fn happens(bench: &mut Bench, event: Event) -> Vec<Sent> {
    bench.cti_event(CtiConnectionId(0), &event)
}

fn rings(bench: &mut Bench, call_id: &str) -> Vec<Sent> {
    happens(
        bench,
        event(EventKind::Delivered, call_id, LocalConnectionState::Alerting),
    )
}

fn error_of(sent: &Sent) -> CstaErrorCode {
    let CstaMessage::Error(error) = sent.csta() else {
        panic!("{}", sent.body());
    };
    error
}

#[test]
fn pipelined_requests_are_answered_in_the_order_of_their_arrival() {
    let mut bench = Bench::new();
    let key = bench.sign_in();
    assert!(bench.receive(&info(&key, 2, &monitor_start())).is_empty());
    let features = Request::System(SystemRequest::GetCstaFeatures { line: None });
    assert!(
        bench.receive(&info(&key, 3, &features)).is_empty(),
        "the monitor comes first"
    );
    let sent = bench.answer_cti(Ok(Response::MonitorStart {
        cross_ref_id: "p-1".into(),
    }));
    let cseqs: Vec<String> = sent.iter().map(|sent| sent.header("CSeq")).collect();
    assert_eq!(cseqs, vec!["2 INFO", "3 INFO"]);
    let cross_ref_id = bench.record(&key).monitor.cross_ref_id.clone();
    assert_eq!(
        sent[0].csta(),
        CstaMessage::Response(Response::MonitorStart { cross_ref_id })
    );
    assert!(bench.record(&key).monitor.active);
}

#[test]
fn an_event_reaches_the_client_in_its_dialog_with_its_own_ids() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    let sent = rings(&mut bench, "c-1");
    let info = &sent[0];
    assert_eq!(
        info.message.request_uri(),
        Some(&b"sip:user1@10.0.0.9:5060;transport=tcp"[..])
    );
    assert_eq!(
        info.header("From"),
        format!("<sip:8000@gw.example.com>;tag={key}")
    );
    assert_eq!(info.header("To"), "<sip:user1@example.com>;tag=1234;epid=ab12");
    assert_eq!(info.header("CSeq"), "1 INFO");
    assert!(
        info.header("Via")
            .starts_with("SIP/2.0/TCP 192.0.2.1:5060;branch=z9hG4bKn1-")
    );
    let CstaMessage::Event(event) = info.csta() else {
        panic!()
    };
    assert_eq!(
        event.monitor_cross_ref_id,
        bench.record(&key).monitor.cross_ref_id
    );
    assert_eq!(event.connection, ConnectionIdentifier::new("c-1", LINE));
    assert_eq!(event.calling, Some(Device::Identifier("tel:+3233".into())));
    bench.pass(Duration::from_millis(5));
    assert_eq!(bench.record(&key).calls["c-1"].state, CallState::Alerting);
}

#[test]
fn a_client_that_never_answers_gets_every_event_in_order() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    assert_eq!(rings(&mut bench, "c-1").len(), 1);
    let established = event(EventKind::Established, "c-1", LocalConnectionState::Connected);
    assert!(happens(&mut bench, established).is_empty(), "one at a time");
    bench.pass(Duration::from_millis(299));
    assert!(bench.sent.is_empty());
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.sent.pop().unwrap().header("CSeq"), "2 INFO");
    bench.pass(Duration::from_secs(60));
    assert!(bench.state.session(&key).is_some(), "silence ends no dialog");
}

#[test]
fn an_answer_lets_the_next_event_go_at_once_and_481_ends_the_session() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    let first = rings(&mut bench, "c-1").pop().unwrap();
    happens(
        &mut bench,
        event(EventKind::Established, "c-1", LocalConnectionState::Connected),
    );
    let second = bench.receive(&response_to(&first, 200, ""));
    assert_eq!(second[0].header("CSeq"), "2 INFO");
    bench.receive(&response_to(&second[0], 481, ""));
    assert!(bench.state.session(&key).is_none());
}

#[test]
fn the_front_ends_fence_is_not_the_clients_word() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    let first = rings(&mut bench, "c-1").pop().unwrap();
    let fence = "Warning: 399 tandem-lb \"another node owns the session\"\r\n";
    bench.receive(&response_to(&first, 481, fence));
    assert!(bench.state.session(&key).is_some());
    bench.pass(Duration::from_millis(200));
    assert_eq!(
        bench.sent.pop().unwrap().header("CSeq"),
        "2 INFO",
        "it is sent again"
    );
}

#[test]
fn the_answer_to_makecall_names_the_line_byte_for_byte_and_comes_before_the_calls_events() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    assert!(bench.receive(&info(&key, 3, &make_call())).is_empty());
    assert_eq!(bench.asked(), vec![&CallRequest::make_call("4711", "+322222")]);
    let originated = event(EventKind::Originated, "c-5", LocalConnectionState::Connected);
    assert!(happens(&mut bench, originated).is_empty());
    let sent = bench.answer_cti(Ok(Response::NewCall {
        service: Service::MakeCall,
        call: ConnectionIdentifier::new("c-5", "4711"),
    }));
    let expected = Response::NewCall {
        service: Service::MakeCall,
        call: ConnectionIdentifier::new("c-5", LINE),
    };
    assert_eq!(sent[0].csta(), CstaMessage::Response(expected));
    assert!(sent[1].body().contains("OriginatedEvent"));
    assert_eq!(sent.len(), 2);
}

#[test]
fn a_phone_that_rings_is_told_while_a_makecall_is_under_way() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    bench.receive(&info(&key, 3, &make_call()));
    assert_eq!(rings(&mut bench, "c-9").len(), 1);
}

#[test]
fn cseq_may_start_again_at_any_time() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    let features = Request::System(SystemRequest::GetCstaFeatures { line: None }).encode();
    for (cseq, branch) in [(9, "z9hG4bK-a"), (2, "z9hG4bK-b"), (2, "z9hG4bK-c")] {
        let sent = bench.receive(&info_with(&key, cseq, branch, &features));
        assert_eq!(
            (sent[0].status(), sent[0].header("CSeq")),
            (200, format!("{cseq} INFO"))
        );
    }
    assert!(bench.receive(&bare("ACK", &format!(";tag={key}"), 1)).is_empty());
}

#[test]
fn bad_requests_inside_a_dialog_get_their_answer_and_the_dialog_goes_on() {
    let mut bench = Bench::new();
    let key = bench.sign_in();
    let status =
        |bench: &mut Bench, body: &str| bench.receive(&info_with(&key, 2, "z9hG4bK-x", body)).remove(0);
    assert_eq!(status(&mut bench, "<MonitorStart").status(), 400);
    assert_eq!(status(&mut bench, "").status(), 400);
    let unknown = status(&mut bench, "<SummonDemons/>");
    assert_eq!(error_of(&unknown), CstaErrorCode::SERVICE_NOT_SUPPORTED);
    assert_eq!(
        error_of(&status(&mut bench, "<MakeCall/>")),
        CstaErrorCode::INVALID_PARAMETER
    );
    let features = Request::System(SystemRequest::GetCstaFeatures { line: None }).encode();
    assert_eq!(status(&mut bench, &features).status(), 200);
}

#[test]
fn monitor_stop_and_bye_back_to_back_are_both_answered_and_free_the_monitor() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    let cross_ref_id = bench.record(&key).monitor.cross_ref_id.clone();
    let stopped = bench.receive(&info(
        &key,
        3,
        &Request::Monitor(MonitorRequest::Stop { cross_ref_id }),
    ));
    let bye = bench.receive(&bare("BYE", &format!(";tag={key}"), 4));
    assert_eq!((stopped[0].status(), bye[0].status()), (200, 200));
    let stop = Request::Monitor(MonitorRequest::Stop {
        cross_ref_id: "p-1".into(),
    });
    assert_eq!(bench.asked(), vec![&stop]);
    assert!(bench.state.session(&key).is_none());
}

#[test]
fn a_refusal_of_the_pbx_is_a_200_with_its_error() {
    let mut bench = Bench::new();
    let key = bench.sign_in_with_monitor();
    let call = ConnectionIdentifier::new("c-1", LINE);
    bench.receive(&info(&key, 3, &CallRequest::answer_call(call)));
    let sent = bench.answer_cti(Err(CstaErrorCode::INVALID_CONNECTION));
    assert_eq!(
        (sent[0].status(), error_of(&sent[0])),
        (200, CstaErrorCode::INVALID_CONNECTION)
    );
}

/// A call that the client knows to ring.
pub(super) fn with_ringing_call(bench: &mut Bench) -> SessionKey {
    let key = bench.sign_in_with_monitor();
    rings(bench, "c-1");
    bench.pass(Duration::from_millis(400));
    key
}
