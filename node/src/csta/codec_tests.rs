//! The codec against documents as peers write them, and against everything else.

use proptest::prelude::*;

use super::codec::{DecodeError, decode};
use super::event::{Cause, Device, Event, EventKind, RedirectionDevice};
use super::request::{Argument, CallRequest, MonitorRequest, Request, SnapshotRequest, SystemRequest};
use super::response::{Response, SnapshotConnection};
use super::service::{Answer, Features, Parameter, ParameterKind, Parameters, Service};
use super::{
    ApplicationSession, ConnectionIdentifier, CstaErrorCode, CstaMessage, ErrorCategory,
    LocalConnectionState, SystemStatus,
};
use tandem_xml::XmlError;

const LINE: &str = "tel:4711;phone-context=dialstring";

fn request(document: &str) -> Request {
    match decode(document.as_bytes()) {
        Ok(CstaMessage::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// What stands between the root's tags.
fn content<'a>(document: &'a str, root: &str) -> &'a str {
    let open = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <{root} xmlns=\"http://www.ecma-international.org/standards/ecma-323/csta/ed3\">"
    );
    let close = format!("</{root}>");
    document
        .strip_prefix(&*open)
        .and_then(|rest| rest.strip_suffix(&*close))
        .expect(document)
}

#[test]
fn the_line_of_an_opening_request_is_found_in_the_private_data() {
    let document = r#"<?xml version="1.0"?>
        <RequestSystemStatus xmlns="http://www.ecma-international.org/standards/ecma-323/csta/ed3">
          <extensions><privateData><private>
            <lcs:line xmlns:lcs="http://schemas.microsoft.com/Lcs/2005/04/RCCExtension">tel:4711;phone-context=dialstring</lcs:line>
          </private></privateData></extensions>
        </RequestSystemStatus>"#;
    assert_eq!(
        request(document),
        Request::System(SystemRequest::RequestSystemStatus {
            line: Some(LINE.to_owned())
        })
    );
    assert_eq!(
        request("<RequestSystemStatus/>"),
        Request::System(SystemRequest::RequestSystemStatus { line: None })
    );
}

#[test]
fn prefix_edition_order_and_unknown_elements_mean_nothing() {
    let document = "\u{feff}<c:MakeCall xmlns:c='http://www.ecma-international.org/standards/ecma-323/csta/ed6' a='b'>
        <!-- a comment --><?and an instruction?>
        <c:autoOriginate>prompt</c:autoOriginate><c:somethingNew><c:deeper/></c:somethingNew>
        <c:calledDirectoryNumber typeOfNumber='other'> tel:&#43;32&amp;<![CDATA[<2>]]> </c:calledDirectoryNumber>
        <c:callingDevice>tel:4711;phone-context=dialstring</c:callingDevice></c:MakeCall >";
    let expected = CallRequest::of(
        Service::MakeCall,
        vec![
            Argument::Device(LINE.to_owned()),
            Argument::Number("tel:+32&<2>".to_owned()),
            Argument::Choice("prompt"),
        ],
    );
    assert_eq!(request(document), expected);
}

#[test]
fn the_device_of_a_snapshot_may_be_wrapped() {
    let expected = Request::Snapshot(SnapshotRequest::Device {
        device: LINE.to_owned(),
    });
    assert_eq!(request(&expected.encode()), expected);
    let wrapped = format!(
        "<SnapshotDevice><snapshotObject><deviceObject>{LINE}</deviceObject></snapshotObject></SnapshotDevice>"
    );
    assert_eq!(request(&wrapped), expected);
}

#[test]
fn a_service_that_is_not_ours_is_a_request_all_the_same() {
    assert_eq!(
        request("<HoldCall/>"),
        Request::Unsupported {
            service: "HoldCall".to_owned()
        }
    );
}

#[test]
fn an_unknown_event_or_response_is_told_apart() {
    let event = "<TransferedEvent><monitorCrossRefID>m-1</monitorCrossRefID></TransferedEvent>";
    let expected = CstaMessage::OtherEvent {
        name: "TransferedEvent".to_owned(),
        monitor_cross_ref_id: Some("m-1".to_owned()),
    };
    assert_eq!(decode(event.as_bytes()), Ok(expected));
    let response = CstaMessage::OtherResponse {
        name: "HoldCallResponse".to_owned(),
    };
    assert_eq!(decode(b"<HoldCallResponse/>"), Ok(response));
}

#[test]
fn a_make_call_response_names_the_calling_device_as_the_client_does() {
    let document = Response::NewCall {
        service: Service::MakeCall,
        call: ConnectionIdentifier::new("c-10", "tel:1;a=\"<&>\""),
    }
    .encode();
    assert_eq!(
        content(&document, "MakeCallResponse"),
        "<callingDevice><callID>c-10</callID><deviceID>tel:1;a=\"&lt;&amp;&gt;\"</deviceID></callingDevice>"
    );
}

#[test]
fn an_event_is_written_in_the_order_of_the_schema() {
    let mut event = Event::new(
        EventKind::Delivered,
        "m-1",
        ConnectionIdentifier::new("c-1", "4711"),
    );
    event.subject = Some(Device::Identifier("4711".to_owned()));
    event.calling = Some(Device::Restricted);
    event.called = Some(Device::NotKnown);
    event.last_redirection = Some(RedirectionDevice::NotRequired);
    event.local_connection_info = Some(LocalConnectionState::Alerting);
    event.cause = Cause::NEW_CALL;
    assert_eq!(
        content(&event.encode(), "DeliveredEvent"),
        "<monitorCrossRefID>m-1</monitorCrossRefID>\
         <connection><callID>c-1</callID><deviceID>4711</deviceID></connection>\
         <alertingDevice><deviceIdentifier>4711</deviceIdentifier></alertingDevice>\
         <callingDevice><restricted/></callingDevice><calledDevice><notKnown/></calledDevice>\
         <lastRedirectionDevice><notRequired/></lastRedirectionDevice>\
         <localConnectionInfo>alerting</localConnectionInfo><cause>newCall</cause>"
    );
}

#[test]
fn every_device_of_an_event_can_be_rewritten() {
    let mut event = Event::new(EventKind::Diverted, "m-1", ConnectionIdentifier::new("c-1", "a"));
    event.subject = Some(Device::Identifier("b".to_owned()));
    event.new_destination = Some(Device::Identifier("c".to_owned()));
    event.calling = Some(Device::Identifier("d".to_owned()));
    event.called = Some(Device::NotKnown);
    event.last_redirection = Some(RedirectionDevice::NumberDialed("e".to_owned()));
    let mut devices: Vec<String> = event
        .device_identifiers_mut()
        .map(|device| device.clone())
        .collect();
    devices.sort();
    assert_eq!(devices, ["a", "b", "c", "d", "e"]);
}

#[test]
fn the_features_advertise_what_is_implemented_and_nothing_else() {
    assert_eq!(
        content(
            &Response::GetCstaFeatures(Features::implemented()).encode(),
            "GetCSTAFeaturesResponse"
        ),
        "<supportedServices>\
         <capExchangeServList><getCSTAFeatures/></capExchangeServList>\
         <systemStatServList><requestSystemStatus/></systemStatServList>\
         <monitoringServList><monitorStart><monitorObjectDevice>true</monitorObjectDevice></monitorStart>\
         <monitorStop/></monitoringServList>\
         <snapshotServList><snapshotDevice/></snapshotServList>\
         <callControlServList><answerCall/><clearConnection/>\
         <makeCall><autoOriginateDoNotPrompt>true</autoOriginateDoNotPrompt></makeCall></callControlServList>\
         </supportedServices>\
         <supportedEvents><callControlEvtsList><connectionCleared/><delivered/><diverted/><established/><failed/>\
         <held/><netwReached/><originated/><retrieved/><serviceInitiated/></callControlEvtsList></supportedEvents>"
    );
}

#[test]
fn the_features_of_a_cti_manager_are_read_as_far_as_they_are_known() {
    let document = "<GetCSTAFeaturesResponse><supportedServices>\
        <callControlServList><makeCall/><holdCall/></callControlServList></supportedServices>\
        <supportedEvents><callControlEvtsList><delivered/></callControlEvtsList></supportedEvents>\
        </GetCSTAFeaturesResponse>";
    let Ok(CstaMessage::Response(Response::GetCstaFeatures(theirs))) = decode(document.as_bytes()) else {
        panic!("not a response");
    };
    let expected = Features {
        services: [Service::MakeCall].into(),
        events: [EventKind::Delivered].into(),
    };
    assert_eq!(theirs, expected);
}

#[test]
fn an_error_is_spelled_as_the_schema_spells_it_and_read_in_either_spelling() {
    let error = CstaErrorCode::RESOURCE_OUT_OF_SERVICE;
    assert_eq!(
        content(&error.encode(), "CSTAErrorCode"),
        "<systemResourceAvailibility>resourceOutOfService</systemResourceAvailibility>"
    );
    let corrected = error.encode().replace("Availibility", "Availability");
    assert_eq!(decode(corrected.as_bytes()), Ok(CstaMessage::Error(error)));
}

#[test]
fn a_document_type_and_its_entities_are_refused() {
    let bomb = r#"<!DOCTYPE a [<!ENTITY b "bbbb">]><MonitorStop><monitorCrossRefID>&b;</monitorCrossRefID></MonitorStop>"#;
    assert_eq!(
        decode(bomb.as_bytes()),
        Err(DecodeError::Xml(XmlError::DocumentTypeRefused))
    );
    let entity = "<MonitorStop><monitorCrossRefID>&b;</monitorCrossRefID></MonitorStop>";
    assert_eq!(
        decode(entity.as_bytes()),
        Err(DecodeError::Xml(XmlError::UnknownEntity { name: "b".to_owned() }))
    );
    let character = "<MonitorStop><monitorCrossRefID>&#1;</monitorCrossRefID></MonitorStop>";
    assert_eq!(
        decode(character.as_bytes()),
        Err(DecodeError::Xml(XmlError::UnknownEntity {
            name: "#1".to_owned()
        }))
    );
}

#[test]
fn the_bounds_of_a_document_are_kept() {
    let nested = |depth| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
    assert!(decode(nested(32).as_bytes()).is_ok());
    assert_eq!(
        decode(nested(33).as_bytes()),
        Err(DecodeError::Xml(XmlError::TooDeep))
    );
    let many = format!("<a>{}</a>", "<b/>".repeat(4096));
    assert_eq!(
        decode(many.as_bytes()),
        Err(DecodeError::Xml(XmlError::TooManyElements))
    );
    assert_eq!(
        decode(&[b' '; 65_528]),
        Err(DecodeError::Xml(XmlError::TooLarge { bytes: 65_528 }))
    );
}

#[test]
fn a_document_that_cannot_be_used_is_refused_with_the_reason() {
    let label = |document: &[u8]| decode(document).unwrap_err().label();
    assert_eq!(label(b""), "empty");
    assert_eq!(label(b"  \r\n"), "empty");
    assert_eq!(label(b"MonitorStop"), "malformed");
    assert_eq!(label(b"<MonitorStop>"), "malformed");
    assert_eq!(label(b"<MonitorStop></MonitorStart>"), "malformed");
    assert_eq!(label(b"<MonitorStop/><MonitorStop/>"), "malformed");
    assert_eq!(label(b"<MonitorStop/>garbage"), "malformed");
    assert_eq!(label(b"<a>& b</a>"), "malformed");
    assert_eq!(label(b"<a>\xff</a>"), "not_utf8");
    let missing = DecodeError::Missing {
        document: "MonitorStop".to_owned(),
        element: "monitorCrossRefID",
    };
    assert_eq!(decode(b"<MonitorStop/>"), Err(missing));
    let invalid = DecodeError::InvalidValue {
        element: "systemStatus",
        value: "fine".to_owned(),
    };
    assert_eq!(
        decode(b"<SystemStatus><systemStatus>fine</systemStatus></SystemStatus>"),
        Err(invalid)
    );
}

/// Text as it survives the trimming of a reader: not empty, no white space at its ends.
fn text() -> impl Strategy<Value = String> {
    "[!-~üß漢&<>\"']([ -~\u{e4}\u{1f4de}\r\n]{0,20}[!-~ü])?"
}

fn connection() -> impl Strategy<Value = ConnectionIdentifier> {
    (text(), prop::option::of(text()))
        .prop_map(|(call_id, device_id)| ConnectionIdentifier { call_id, device_id })
}

fn state() -> impl Strategy<Value = LocalConnectionState> {
    prop::sample::select(LocalConnectionState::ALL.to_vec())
}

fn status() -> impl Strategy<Value = SystemStatus> {
    prop::sample::select(SystemStatus::ALL.to_vec())
}

fn device() -> impl Strategy<Value = Option<Device>> {
    prop_oneof![
        Just(None),
        Just(Some(Device::NotKnown)),
        Just(Some(Device::Restricted)),
        text().prop_map(|identifier| Some(Device::Identifier(identifier))),
    ]
}

fn redirection() -> impl Strategy<Value = Option<RedirectionDevice>> {
    prop_oneof![
        Just(None),
        text().prop_map(|number| Some(RedirectionDevice::NumberDialed(number))),
        Just(Some(RedirectionDevice::NotKnown)),
        Just(Some(RedirectionDevice::NotRequired)),
        Just(Some(RedirectionDevice::NotSpecified)),
        Just(Some(RedirectionDevice::Restricted)),
    ]
}

/// With the elements only that its kind has.
fn event() -> impl Strategy<Value = Event> {
    let kinds = prop::sample::select(EventKind::ALL.to_vec());
    let parties = (device(), device(), device(), device(), redirection());
    (
        kinds,
        text(),
        connection(),
        parties,
        prop::option::of(state()),
        "[a-zA-Z0-9]{1,64}",
    )
        .prop_map(
            |(
                kind,
                cross_ref_id,
                connection,
                (subject, new_destination, calling, called, redirected),
                state,
                cause,
            )| {
                use EventKind as K;
                let has_called = !matches!(
                    kind,
                    K::ConnectionCleared | K::Held | K::Retrieved | K::ServiceInitiated
                );
                let mut event = Event::new(kind, cross_ref_id, connection);
                event.subject = subject.filter(|_| kind != K::Originated);
                event.new_destination = new_destination.filter(|_| kind == K::Diverted);
                event.calling = calling.filter(|_| has_called);
                event.called = called.filter(|_| has_called);
                event.last_redirection = redirected.filter(|_| has_called && kind != K::Originated);
                event.local_connection_info = state;
                event.cause = Cause::from_word(&cause).unwrap();
                event
            },
        )
}

fn any_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        prop::option::of(text())
            .prop_map(|line| Request::System(SystemRequest::RequestSystemStatus { line })),
        prop::option::of(text()).prop_map(|line| Request::System(SystemRequest::GetCstaFeatures { line })),
        text().prop_map(|device| Request::Monitor(MonitorRequest::Start { device })),
        text().prop_map(|cross_ref_id| Request::Monitor(MonitorRequest::Stop { cross_ref_id })),
        text().prop_map(|device| Request::Snapshot(SnapshotRequest::Device { device })),
        connection().prop_map(|call| Request::Snapshot(SnapshotRequest::Call { call })),
        call_request(),
        status().prop_map(|status| Request::System(SystemRequest::SystemStatus { status })),
        "[A-Z][a-z]{1,20}Call".prop_map(|service| Request::Unsupported { service }),
    ]
}

/// Of any service whose arguments are listed.
fn call_request() -> impl Strategy<Value = Request> {
    let listed: Vec<(Service, &[Parameter])> = Service::all()
        .filter_map(|service| {
            if let Parameters::Listed(parameters) = service.row().parameters {
                Some((service, parameters))
            } else {
                None
            }
        })
        .collect();
    prop::sample::select(listed).prop_flat_map(|(service, parameters)| {
        let arguments: Vec<_> = parameters
            .iter()
            .map(|parameter| argument(&parameter.kind))
            .collect();
        arguments.prop_map(move |arguments| CallRequest::of(service, arguments))
    })
}

fn argument(kind: &ParameterKind) -> BoxedStrategy<Argument> {
    match kind {
        ParameterKind::OwnDevice(_) => text().prop_map(Argument::Device).boxed(),
        ParameterKind::OwnCall => connection().prop_map(Argument::Call).boxed(),
        ParameterKind::Number(_) => text().prop_map(Argument::Number).boxed(),
        ParameterKind::Choice(words) => prop::sample::select(words.to_vec())
            .prop_map(Argument::Choice)
            .boxed(),
    }
}

fn any_response() -> impl Strategy<Value = Response> {
    let snapshot = (connection(), prop::collection::vec(state(), 0..4))
        .prop_map(|(connection, states)| SnapshotConnection { connection, states });
    let advertised: Vec<Service> = Service::advertised().map(|(service, _)| service).collect();
    let all = advertised.len();
    let services = prop::sample::subsequence(advertised, 0..=all);
    let empty: Vec<Service> = Service::all()
        .filter(|service| service.row().answer == Answer::Nothing)
        .collect();
    let events = prop::sample::subsequence(EventKind::ALL.to_vec(), 0..=EventKind::ALL.len());
    prop_oneof![
        status().prop_map(|status| Response::RequestSystemStatus { status }),
        (services, events).prop_map(|(services, events)| {
            Response::GetCstaFeatures(Features {
                services: services.into_iter().collect(),
                events: events.into_iter().collect(),
            })
        }),
        text().prop_map(|cross_ref_id| Response::MonitorStart { cross_ref_id }),
        prop::collection::vec(snapshot, 0..5)
            .prop_map(|connections| Response::SnapshotDevice { connections }),
        connection().prop_map(|call| Response::NewCall {
            service: Service::MakeCall,
            call
        }),
        prop::sample::select(empty).prop_map(Response::Done),
    ]
}

fn any_session() -> impl Strategy<Value = ApplicationSession> {
    use ApplicationSession as S;
    prop_oneof![
        (text(), any::<u32>()).prop_map(|(application_id, requested_duration_secs)| S::Start {
            application_id,
            requested_duration_secs
        }),
        (text(), any::<u32>()).prop_map(|(session_id, actual_duration_secs)| S::Started {
            session_id,
            actual_duration_secs
        }),
        text().prop_map(|reason| S::StartRefused { reason }),
        (text(), any::<u32>()).prop_map(|(session_id, requested_duration_secs)| S::ResetTimer {
            session_id,
            requested_duration_secs
        }),
        any::<u32>().prop_map(|actual_duration_secs| S::TimerReset { actual_duration_secs }),
        text().prop_map(|reason| S::TimerResetRefused { reason }),
        text().prop_map(|session_id| S::Stop { session_id }),
        prop::sample::select(vec![S::Stopped, S::StopRefused, S::Terminated]),
    ]
}

fn any_message() -> impl Strategy<Value = CstaMessage> {
    let error = (
        prop::sample::select(ErrorCategory::ALL.to_vec()),
        "[a-zA-Z]{0,64}",
    )
        .prop_map(|(category, value)| CstaErrorCode {
            category,
            value: value.into(),
        });
    prop_oneof![
        any_request().prop_map(CstaMessage::Request),
        any_response().prop_map(CstaMessage::Response),
        error.prop_map(CstaMessage::Error),
        event().prop_map(CstaMessage::Event),
        any_session().prop_map(CstaMessage::ApplicationSession),
        prop::option::of(text()).prop_map(|monitor_cross_ref_id| CstaMessage::OtherEvent {
            name: "QueuedEvent".to_owned(),
            monitor_cross_ref_id
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(message in any_message()) {
        prop_assert_eq!(decode(message.encode().as_bytes()), Ok(message));
    }

    #[test]
    fn a_response_answers_its_request_and_no_other(request in any_request(), response in any_response()) {
        let answers = request.service() == Some(response.service());
        let root = format!("<{}Response ", request.label());
        prop_assert_eq!(answers, response.encode().contains(&root));
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
        let _ = decode(&bytes);
    }

    #[test]
    fn no_text_that_looks_like_xml_makes_decoding_panic(text in "(<[/!?]?[a-z:]{0,3}[ />\\[]{0,2}|&[#x0-9a-z]{0,4};?|\\]\\]>|--|ü|x){0,40}") {
        let _ = decode(text.as_bytes());
    }

    #[test]
    fn no_damage_to_a_document_makes_decoding_panic(message in any_message(), at: prop::sample::Index, with: u8) {
        let mut bytes = message.encode().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = with;
        let _ = decode(&bytes);
        bytes.truncate(at);
        let _ = decode(&bytes);
    }
}
