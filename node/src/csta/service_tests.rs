//! The table of services, row by row.

use super::service::{Answer, ParameterKind, Parameters, Route, Service};
use super::*;

/// A request of the service for the device `device`, as a client or a CTI manager writes it.
pub(crate) fn sample_request(service: Service, device: &str) -> Request {
    let line = Some(device.to_owned());
    let call = ConnectionIdentifier::new("c-1", device);
    let device = device.to_owned();
    match service.row().parameters {
        Parameters::RequestSystemStatus => Request::System(SystemRequest::RequestSystemStatus { line }),
        Parameters::GetCstaFeatures => Request::System(SystemRequest::GetCstaFeatures { line }),
        Parameters::SystemStatus => Request::System(SystemRequest::SystemStatus {
            status: SystemStatus::Normal,
        }),
        Parameters::MonitorStart => Request::Monitor(MonitorRequest::Start { device }),
        Parameters::MonitorStop => Request::Monitor(MonitorRequest::Stop {
            cross_ref_id: "m-1".to_owned(),
        }),
        Parameters::SnapshotDevice => Request::Snapshot(SnapshotRequest::Device { device }),
        Parameters::SnapshotCall => Request::Snapshot(SnapshotRequest::Call { call }),
        Parameters::Listed(parameters) => {
            let argument = |kind: &ParameterKind| match kind {
                ParameterKind::OwnDevice(_) => Argument::Device(device.clone()),
                ParameterKind::OwnCall => Argument::Call(call.clone()),
                ParameterKind::Number(_) => Argument::Number("+322222".to_owned()),
                ParameterKind::Choice(words) => Argument::Choice(words[0]),
            };
            let arguments = parameters.iter().map(|parameter| argument(&parameter.kind));
            CallRequest::of(service, arguments.collect())
        }
    }
}

/// What the service is answered with when it succeeds at `device`.
pub(crate) fn sample_response(service: Service, device: &str) -> Response {
    match service.row().answer {
        Answer::Nothing => Response::Done(service),
        Answer::NewCall(_) => Response::NewCall {
            service,
            call: ConnectionIdentifier::new("c-2", device),
        },
        Answer::SystemStatus => Response::RequestSystemStatus {
            status: SystemStatus::Normal,
        },
        Answer::Features => Response::GetCstaFeatures(Features::implemented()),
        Answer::MonitorCrossRefId => Response::MonitorStart {
            cross_ref_id: "p-1".to_owned(),
        },
        Answer::DeviceSnapshot => Response::SnapshotDevice {
            connections: Vec::new(),
        },
        Answer::CallSnapshot => Response::SnapshotCall {
            calling: None,
            called: None,
        },
    }
}

#[test]
fn each_request_is_written_under_its_name_and_read_back() {
    for service in Service::all() {
        let request = sample_request(service, "4711");
        assert_eq!(request.service(), Some(service));
        let document = request.encode();
        assert!(
            document.contains(&format!("<{} xmlns", service.name())),
            "{document}"
        );
        assert_eq!(decode(document.as_bytes()), Ok(CstaMessage::Request(request)));
    }
}

#[test]
fn each_answer_is_written_under_its_name_and_read_back() {
    for service in Service::all() {
        let response = sample_response(service, "4711");
        assert_eq!(response.service(), service);
        let document = response.encode();
        let root = format!("<{}Response xmlns", service.name());
        assert!(document.contains(&root), "{document}");
        assert_eq!(decode(document.as_bytes()), Ok(CstaMessage::Response(response)));
    }
}

#[test]
fn an_argument_that_is_missing_is_refused_unless_it_is_a_choice() {
    for service in Service::all() {
        let Parameters::Listed(parameters) = service.row().parameters else {
            continue;
        };
        let has_default = |kind: &ParameterKind| match kind {
            ParameterKind::Choice(_) => true,
            ParameterKind::OwnDevice(_) | ParameterKind::OwnCall | ParameterKind::Number(_) => false,
        };
        let first = parameters.iter().find(|parameter| !has_default(&parameter.kind));
        let expected = first.map(|parameter| DecodeError::Missing {
            document: service.name().to_owned(),
            element: parameter.element,
        });
        let document = format!("<{}/>", service.name());
        assert_eq!(decode(document.as_bytes()).err(), expected);
    }
}

#[test]
fn what_clients_may_ask_for_is_advertised_and_nothing_else() {
    let document = Response::GetCstaFeatures(Features::implemented()).encode();
    for service in Service::all() {
        let row = service.row();
        assert_eq!(
            row.feature.is_some(),
            row.route != Route::NotForClients,
            "{row:?}"
        );
        if let Some(feature) = row.feature {
            let (open, close) = (format!("<{}>", feature.list), format!("</{}>", feature.list));
            let list = document
                .split(&open)
                .nth(1)
                .unwrap()
                .split(&close)
                .next()
                .unwrap();
            assert!(list.contains(&format!("<{}", feature.element)), "{list}");
            // Elements of one list in two places would be two lists.
            assert_eq!(document.matches(&open).count(), 1, "{document}");
        }
    }
}
