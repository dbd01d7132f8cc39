//! What Exchange and gromox tell, as they write it.

use super::*;

fn in_envelope(body: &str) -> String {
    format!("<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"x\"><s:Body>{body}</s:Body></s:Envelope>")
}

fn send_notification(messages: &str) -> String {
    in_envelope(&format!(
        "<m:SendNotification xmlns:m=\"m\" xmlns:t=\"t\"><m:ResponseMessages>{messages}</m:ResponseMessages>\
         </m:SendNotification>"
    ))
}

fn callback_message(content: &str) -> String {
    format!(
        "<m:SendNotificationResponseMessage ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode>\
         {content}</m:SendNotificationResponseMessage>"
    )
}

fn stream_message(content: &str) -> String {
    in_envelope(&format!(
        "<m:GetStreamingEventsResponse xmlns:m=\"m\" xmlns:t=\"t\"><m:ResponseMessages>\
         <m:GetStreamingEventsResponseMessage ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode>\
         {content}</m:GetStreamingEventsResponseMessage></m:ResponseMessages></m:GetStreamingEventsResponse>"
    ))
}

fn id(text: &str) -> SubscriptionId {
    SubscriptionId(text.to_owned())
}

fn notification(subscription: &str, kinds: &[EventKind]) -> Notification {
    let event = |kind: &EventKind| Event {
        kind: *kind,
        watermark: None,
    };
    Notification {
        subscription: id(subscription),
        previous_watermark: None,
        more_events: false,
        events: kinds.iter().map(event).collect(),
    }
}

fn failure(code: &str) -> Failure {
    Failure::Response {
        code: ResponseCode(code.to_owned()),
        message: String::new(),
        back_off: None,
        primary_address: None,
        inner: None,
    }
}

fn stream(document: &str) -> Result<Vec<StreamPart>, Failure> {
    parse_stream_document(document.as_bytes())
}

#[test]
fn a_callback_tells_of_events_or_of_the_end() {
    let event = callback_message(
        "<m:Notification><t:SubscriptionId>GgB1</t:SubscriptionId><t:PreviousWatermark>w0</t:PreviousWatermark>\
         <t:MoreEvents>false</t:MoreEvents><t:ModifiedEvent><t:Watermark>w1</t:Watermark>\
         <t:TimeStamp>2026-11-22T09:00:00Z</t:TimeStamp><t:ItemId Id=\"AAM\" ChangeKey=\"DwA\"/>\
         <t:ParentFolderId Id=\"AQM\"/></t:ModifiedEvent></m:Notification>",
    );
    let end = "<m:SendNotificationResponseMessage ResponseClass=\"Error\">\
        <m:ResponseCode>ErrorMissedNotificationEvents</m:ResponseCode></m:SendNotificationResponseMessage>";
    let callback = parse_callback(send_notification(&(event + end)).as_bytes()).unwrap();
    let expected = Notification {
        previous_watermark: Some("w0".to_owned()),
        events: vec![Event {
            kind: EventKind::Modified,
            watermark: Some("w1".to_owned()),
        }],
        ..notification("GgB1", &[])
    };
    assert_eq!(
        callback.notifications,
        [Ok(expected), Err(failure("ErrorMissedNotificationEvents"))]
    );
}

#[test]
fn every_kind_of_event_is_known_and_an_unknown_one_is_a_change() {
    let kinds = [
        ("StatusEvent", EventKind::Status),
        ("CreatedEvent", EventKind::Created),
        ("ModifiedEvent", EventKind::Modified),
        ("MovedEvent", EventKind::Moved),
        ("CopiedEvent", EventKind::Copied),
        ("DeletedEvent", EventKind::Deleted),
        ("NewMailEvent", EventKind::NewMail),
        ("FreeBusyChangedEvent", EventKind::FreeBusyChanged),
        ("InventedEvent", EventKind::Modified),
    ];
    let events: String = kinds.iter().map(|(name, _)| format!("<t:{name}/>")).collect();
    let content = format!("<m:Notification><t:SubscriptionId>a</t:SubscriptionId>{events}</m:Notification>");
    let callback = parse_callback(send_notification(&callback_message(&content)).as_bytes()).unwrap();
    let expected = notification("a", &kinds.map(|(_, kind)| kind));
    assert_eq!(callback.notifications, [Ok(expected)]);
}

#[test]
fn a_callback_that_is_none_is_refused() {
    for body in [
        String::new(),
        "hello".to_owned(),
        in_envelope(""),
        send_notification(""),
        "<!DOCTYPE a><a/>".to_owned(),
    ] {
        assert!(parse_callback(body.as_bytes()).is_err(), "{body}");
    }
    let fault = in_envelope("<s:Fault><faultcode>Server</faultcode></s:Fault>");
    assert_eq!(parse_callback(fault.as_bytes()), Err(failure("Server")));
    let unnamed = callback_message("<m:Notification><t:ModifiedEvent/></m:Notification>");
    let callback = parse_callback(send_notification(&unnamed).as_bytes()).unwrap();
    assert_eq!(
        callback.notifications,
        [Err(Failure::Malformed("no subscription id"))]
    );
}

#[test]
fn a_callback_is_answered_in_the_schemas_spelling() {
    let answer = |status| String::from_utf8(write_callback_answer(status).to_vec()).unwrap();
    let expected = |word| {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <Envelope xmlns=\"http://schemas.xmlsoap.org/soap/envelope/\"><Body>\
             <SendNotificationResult xmlns=\"http://schemas.microsoft.com/exchange/services/2006/messages\">\
             <SubscriptionStatus>{word}</SubscriptionStatus></SendNotificationResult></Body></Envelope>"
        )
    };
    assert_eq!(answer(SubscriptionStatus::Ok), expected("OK"));
    assert_eq!(answer(SubscriptionStatus::Unsubscribe), expected("Unsubscribe"));
}

#[test]
fn a_stream_opens_tells_and_closes() {
    let opened = stream_message("<m:ConnectionStatus>OK</m:ConnectionStatus>");
    assert_eq!(stream(&opened), Ok(vec![StreamPart::Opened]));
    let told = stream_message(
        "<m:Notifications><m:Notification><t:SubscriptionId>a</t:SubscriptionId><t:CreatedEvent/>\
         <t:ModifiedEvent/></m:Notification><m:Notification><t:SubscriptionId>b</t:SubscriptionId>\
         <t:StatusEvent/></m:Notification></m:Notifications>",
    );
    let notifications = vec![
        notification("a", &[EventKind::Created, EventKind::Modified]),
        notification("b", &[EventKind::Status]),
    ];
    assert_eq!(stream(&told), Ok(vec![StreamPart::Notifications(notifications)]));
    let closed = stream_message("<m:ConnectionStatus>Closed</m:ConnectionStatus>");
    assert_eq!(stream(&closed), Ok(vec![StreamPart::Closed]));
    let last = stream_message(
        "<m:Notifications><m:Notification><t:SubscriptionId>a</t:SubscriptionId><t:MovedEvent/>\
         </m:Notification></m:Notifications><m:ConnectionStatus>Closed</m:ConnectionStatus>",
    );
    assert_eq!(
        stream(&last),
        Ok(vec![
            StreamPart::Notifications(vec![notification("a", &[EventKind::Moved])]),
            StreamPart::Closed
        ])
    );
}

#[test]
fn a_stream_of_gromox_is_understood() {
    let opened = "<SOAP:Envelope><SOAP:Body><m:GetStreamingEventsResponse><m:ResponseMessages>\
        <m:x ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode><m:Notifications/>\
        <m:ErrorSubscriptionIds/><m:ConnectionStatus>OK</m:ConnectionStatus></m:x>\
        </m:ResponseMessages></m:GetStreamingEventsResponse></SOAP:Body></SOAP:Envelope>";
    assert_eq!(stream(opened), Ok(vec![StreamPart::Opened]));
    let status = stream_message(
        "<m:Notifications><m:Notification><t:SubscriptionId>a</t:SubscriptionId><t:MoreEvents>false</t:MoreEvents>\
         <t:StatusEvent/></m:Notification></m:Notifications><m:ErrorSubscriptionIds/>\
         <m:ConnectionStatus>OK</m:ConnectionStatus>",
    );
    assert_eq!(
        stream(&status),
        Ok(vec![StreamPart::Notifications(vec![notification(
            "a",
            &[EventKind::Status]
        )])])
    );
    let rejected = "<e><Body><m:r><m:ResponseMessages><m:x ResponseClass=\"Error\">\
        <m:ResponseCode>ErrorSubscriptionNotFound</m:ResponseCode><m:Notifications/>\
        <m:ErrorSubscriptionIds><SubscriptionId>a</SubscriptionId><SubscriptionId>b</SubscriptionId>\
        </m:ErrorSubscriptionIds></m:x></m:ResponseMessages></m:r></Body></e>";
    assert_eq!(
        stream(rejected),
        Ok(vec![StreamPart::Rejected {
            subscriptions: vec![id("a"), id("b")],
            failure: failure("ErrorSubscriptionNotFound"),
        }])
    );
}

#[test]
fn a_sign_of_life_needs_no_name_and_a_change_does() {
    let notification = |event| {
        stream_message(&format!(
            "<m:Notifications><m:Notification>{event}</m:Notification></m:Notifications>"
        ))
    };
    assert_eq!(
        stream(&notification("<t:StatusEvent/>")),
        Ok(vec![StreamPart::Notifications(Vec::new())])
    );
    assert_eq!(
        stream(&notification("<t:ModifiedEvent/>")),
        Err(Failure::Malformed("no subscription id"))
    );
}

#[test]
fn an_error_that_names_no_subscription_ends_the_stream() {
    let taken = in_envelope(
        "<m:r><m:ResponseMessages><m:x ResponseClass=\"Error\">\
         <m:ResponseCode>ErrorNewEventStreamConnectionOpened</m:ResponseCode></m:x></m:ResponseMessages></m:r>",
    );
    assert_eq!(
        stream(&taken),
        Err(failure("ErrorNewEventStreamConnectionOpened"))
    );
    let fault = in_envelope("<s:Fault><faultcode>a:ErrorServerBusy</faultcode></s:Fault>");
    assert_eq!(stream(&fault), Err(failure("ErrorServerBusy")));
    assert!(stream(&in_envelope("<m:r/>")).is_err());
}
