//! Every service of the table, as a client asks for it.

use super::bench::*;
use crate::csta::service::{Repetition, Route};
use crate::csta::service_tests::{sample_request, sample_response};
use crate::csta::{CstaErrorCode, CstaMessage, MonitorRequest, Request, Service};
use crate::cti::CtiConnectionId;
use crate::gateway::*;

/// What a client with (or without) a monitor asks for.
fn request_of(bench: &Bench, key: &SessionKey, service: Service) -> Request {
    match sample_request(service, LINE) {
        // A client names its own monitor.
        Request::Monitor(MonitorRequest::Stop { .. }) => Request::Monitor(MonitorRequest::Stop {
            cross_ref_id: bench.record(key).monitor.cross_ref_id.clone(),
        }),
        request @ (Request::System(_)
        | Request::Monitor(MonitorRequest::Start { .. })
        | Request::Snapshot(_)
        | Request::Call(_)
        | Request::Unsupported { .. }) => request,
    }
}

/// A session in which the service may begin.
fn session_for(bench: &mut Bench, service: Service) -> SessionKey {
    if service == Service::MonitorStart {
        bench.sign_in()
    } else {
        bench.sign_in_with_monitor()
    }
}

fn intents(bench: &Bench) -> usize {
    let is_intent = |command: &&Command| matches!(command, Command::Intent { .. });
    let commands = bench.proposed.iter().flat_map(|command| {
        if let Command::Batch(commands) = command {
            commands.as_slice()
        } else {
            &[]
        }
    });
    commands.filter(is_intent).count()
}

#[test]
fn each_is_answered_by_whom_the_table_says() {
    for service in Service::all() {
        let mut bench = Bench::new();
        let key = session_for(&mut bench, service);
        bench.asked.clear();
        let request = request_of(&bench, &key, service);
        let at_once = bench.receive(&info(&key, 5, &request));
        let asked: Vec<_> = bench
            .asked()
            .iter()
            .filter_map(|request| request.service())
            .collect();
        let answers = match service.row().route {
            Route::Tandem | Route::NotForClients => at_once,
            Route::CtiManager => {
                assert!(
                    at_once.is_empty(),
                    "{service:?} is answered before it is carried out"
                );
                assert_eq!(asked, [service]);
                bench.answer_cti(Ok(sample_response(service, "4711")))
            }
        };
        assert_eq!(answers[0].status(), 200, "{service:?}");
        match (service.row().route, answers[0].csta()) {
            (Route::NotForClients, CstaMessage::Error(error)) => {
                assert_eq!(error, CstaErrorCode::SERVICE_NOT_SUPPORTED);
            }
            (_, CstaMessage::Response(response)) => assert_eq!(response.service(), service),
            (route, other) => panic!("{service:?} ({route:?}): {other:?}"),
        }
    }
}

#[test]
fn each_that_changes_the_pbx_waits_for_its_intent_and_no_other_writes_one() {
    for service in Service::all() {
        let mut bench = Bench::new();
        let key = session_for(&mut bench, service);
        bench.asked.clear();
        bench.quorum = false;
        let request = request_of(&bench, &key, service);
        bench.receive(&info(&key, 5, &request));
        let expected = match service.row().repetition {
            Repetition::Allowed => 0,
            Repetition::Forbidden { .. } => 1,
        };
        assert_eq!(intents(&bench), expected, "{service:?}");
        if expected == 1 {
            assert!(
                bench.asked().is_empty(),
                "{service:?} is carried out before its intent"
            );
            bench.commit_all();
            assert_eq!(bench.asked().len(), 1, "{service:?}");
        }
    }
}

#[test]
fn each_that_needs_a_cti_manager_is_refused_while_none_is_in_service() {
    for service in Service::all() {
        let mut bench = Bench::new();
        let key = session_for(&mut bench, service);
        let request = request_of(&bench, &key, service);
        bench.lose_cti(CtiConnectionId(0));
        bench.lose_cti(CtiConnectionId(1));
        let sent = bench.receive(&info(&key, 5, &request));
        let refused = CstaMessage::Error(CstaErrorCode::RESOURCE_OUT_OF_SERVICE);
        assert_eq!(
            sent[0].csta() == refused,
            service.row().route == Route::CtiManager,
            "{service:?}"
        );
    }
}
