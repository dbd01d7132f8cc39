//! What Exchange and gromox answer, as they write it.

use std::time::Duration;

use super::*;

const ENVELOPE: &str = "xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"";
const WINDOW: TimeWindow = TimeWindow {
    from: 1_795_305_600,
    until: 1_795_478_400,
};

fn in_envelope(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><s:Envelope {ENVELOPE}><s:Header>\
         <h:ServerVersionInfo MajorVersion=\"15\" MinorVersion=\"2\" MajorBuildNumber=\"1118\" \
         MinorBuildNumber=\"7\" Version=\"V2017_07_11\" xmlns:h=\"types\"/></s:Header>\
         <s:Body>{body}</s:Body></s:Envelope>"
    )
}

fn message(operation: &str, content: &str) -> String {
    in_envelope(&format!(
        "<m:{operation}Response xmlns:m=\"messages\" xmlns:t=\"types\"><m:ResponseMessages>\
         <m:{operation}ResponseMessage ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode>\
         {content}</m:{operation}ResponseMessage></m:ResponseMessages></m:{operation}Response>"
    ))
}

fn error(class: &str, code: &str, content: &str) -> String {
    in_envelope(&format!(
        "<m:SubscribeResponse><m:ResponseMessages><m:SubscribeResponseMessage ResponseClass=\"{class}\">\
         <m:MessageText>It did not work.</m:MessageText><m:ResponseCode>{code}</m:ResponseCode>\
         <m:DescriptiveLinkKey>0</m:DescriptiveLinkKey>{content}</m:SubscribeResponseMessage>\
         </m:ResponseMessages></m:SubscribeResponse>"
    ))
}

fn parse(operation: &Operation, document: &str) -> Result<Answer, Failure> {
    parse_answer(operation, 200, None, document.as_bytes()).result
}

fn find() -> Operation {
    Operation::FindCalendarItems {
        window: WINDOW,
        entries_max: 500,
    }
}

fn availability(mailboxes: usize) -> Operation {
    Operation::GetUserAvailability {
        mailboxes: vec![Mailbox("ana@lab.test".to_owned()); mailboxes],
        window: WINDOW,
    }
}

fn id(text: &str) -> SubscriptionId {
    SubscriptionId(text.to_owned())
}

fn response(code: &str, text: &str) -> Failure {
    Failure::Response {
        code: ResponseCode(code.to_owned()),
        message: text.to_owned(),
        back_off: None,
        primary_address: None,
        inner: None,
    }
}

fn item(start: i64, end: i64, status: FreeBusyStatus) -> CalendarItem {
    CalendarItem {
        start,
        end,
        status,
        all_day: false,
        cancelled: false,
        declined: false,
    }
}

#[test]
fn a_subscription_has_an_id_and_perhaps_a_watermark() {
    let pushed = message(
        "Subscribe",
        "<m:SubscriptionId>GgB1</m:SubscriptionId><m:Watermark>AQAA</m:Watermark>",
    );
    let expected = Answer::Subscribed {
        subscription: id("GgB1"),
        watermark: Some("AQAA".to_owned()),
    };
    assert_eq!(
        parse(&Operation::SubscribePull { timeout: 30 }, &pushed),
        Ok(expected)
    );
    let streaming = message("Subscribe", "<m:SubscriptionId>GgB1</m:SubscriptionId>");
    let expected = Answer::Subscribed {
        subscription: id("GgB1"),
        watermark: None,
    };
    assert_eq!(parse(&Operation::SubscribeStreaming, &streaming), Ok(expected));
    let without = message("Subscribe", "<m:SubscriptionId/>");
    assert_eq!(
        parse(&Operation::SubscribeStreaming, &without),
        Err(Failure::Malformed("no subscription id"))
    );
    let huge = message(
        "Subscribe",
        &format!("<m:SubscriptionId>{}</m:SubscriptionId>", "a".repeat(2049)),
    );
    assert!(parse(&Operation::SubscribeStreaming, &huge).is_err());
}

#[test]
fn the_version_of_the_server_is_told_with_answers_and_with_failures() {
    let told = |document: &str| {
        let parsed = parse_answer(&Operation::SubscribeStreaming, 500, None, document.as_bytes());
        parsed.server_version.unwrap()
    };
    let version = told(&message("Subscribe", "<m:SubscriptionId>a</m:SubscriptionId>"));
    assert_eq!(version.to_string(), "15.2.1118.7");
    assert_eq!(told(&error("Error", "ErrorServerBusy", "")), version);
}

#[test]
fn pulled_events_come_with_their_watermarks() {
    let operation = Operation::GetEvents {
        subscription: id("GgB1"),
        watermark: "w0".to_owned(),
    };
    let content = "<m:Notification><t:SubscriptionId>GgB1</t:SubscriptionId>\
        <t:PreviousWatermark>w0</t:PreviousWatermark><t:MoreEvents>true</t:MoreEvents>\
        <t:CreatedEvent><t:Watermark>w1</t:Watermark><t:TimeStamp>2026-11-22T09:00:00Z</t:TimeStamp>\
        <t:ItemId Id=\"AAM\"/></t:CreatedEvent>\
        <t:StatusEvent/><t:InventedEvent/></m:Notification>";
    let event = |kind, watermark: Option<&str>| Event {
        kind,
        watermark: watermark.map(str::to_owned),
    };
    let expected = Notification {
        subscription: id("GgB1"),
        previous_watermark: Some("w0".to_owned()),
        more_events: true,
        events: vec![
            event(EventKind::Created, Some("w1")),
            event(EventKind::Status, None),
            event(EventKind::Modified, None),
        ],
    };
    assert_eq!(
        parse(&operation, &message("GetEvents", content)),
        Ok(Answer::Events(expected.clone()))
    );
    let unnamed = content.replace("<t:SubscriptionId>GgB1</t:SubscriptionId>", "");
    assert_eq!(
        parse(&operation, &message("GetEvents", &unnamed)),
        Ok(Answer::Events(expected))
    );
}

#[test]
fn appointments_are_read_with_their_defaults() {
    let items = "<t:CalendarItem><t:ItemId Id=\"a\"/><t:Start>2026-11-22T09:00:00Z</t:Start>\
        <t:End>2026-11-22T10:00:00Z</t:End><t:IsAllDayEvent>false</t:IsAllDayEvent>\
        <t:LegacyFreeBusyStatus>WorkingElsewhere</t:LegacyFreeBusyStatus><t:IsCancelled>true</t:IsCancelled>\
        <t:MyResponseType>Decline</t:MyResponseType></t:CalendarItem>\
        <t:CalendarItem><t:Start>2026-11-22T10:00:00.123456789+01:00</t:Start>\
        <t:End>2026-11-22T10:00:00</t:End></t:CalendarItem>\
        <t:CalendarItem><t:Start>2026-11-22T00:00:00Z</t:Start><t:End>2026-11-23T00:00:00Z</t:End>\
        <t:IsAllDayEvent>true</t:IsAllDayEvent></t:CalendarItem>\
        <t:Task><t:Subject>no times</t:Subject></t:Task>\
        <t:CalendarItem><t:Start>soon</t:Start><t:End>later</t:End></t:CalendarItem>";
    let answer = |attributes: &str| {
        let content = format!("<m:RootFolder {attributes}><t:Items>{items}</t:Items></m:RootFolder>");
        parse(&find(), &message("FindItem", &content)).unwrap()
    };
    let items = vec![
        CalendarItem {
            cancelled: true,
            declined: true,
            ..item(1_795_338_000, 1_795_341_600, FreeBusyStatus::WorkingElsewhere)
        },
        item(1_795_338_000, 1_795_341_600, FreeBusyStatus::Busy),
        CalendarItem {
            all_day: true,
            ..item(1_795_305_600, 1_795_392_000, FreeBusyStatus::Free)
        },
    ];
    let expected = |complete| Answer::Items {
        items: items.clone(),
        complete,
    };
    assert_eq!(
        answer("TotalItemsInView=\"5\" IncludesLastItemInRange=\"true\""),
        expected(true)
    );
    assert_eq!(answer("IncludesLastItemInRange=\"false\""), expected(false));
    assert_eq!(answer(""), expected(true));
}

#[test]
fn an_empty_calendar_has_no_items() {
    let content = "<m:RootFolder IncludesLastItemInRange=\"true\"><t:Items/></m:RootFolder>";
    let expected = Answer::Items {
        items: Vec::new(),
        complete: true,
    };
    assert_eq!(
        parse(&find(), &message("FindItem", content)),
        Ok(expected.clone())
    );
    let content = "<m:RootFolder/>";
    assert_eq!(parse(&find(), &message("FindItem", content)), Ok(expected));
}

fn free_busy_response(view: &str) -> String {
    format!(
        "<FreeBusyResponse><ResponseMessage ResponseClass=\"Success\"><ResponseCode>NoError</ResponseCode>\
         </ResponseMessage><FreeBusyView>{view}</FreeBusyView></FreeBusyResponse>"
    )
}

fn availability_response(responses: &str) -> String {
    in_envelope(&format!(
        "<GetUserAvailabilityResponse xmlns=\"messages\"><FreeBusyResponseArray>{responses}\
         </FreeBusyResponseArray></GetUserAvailabilityResponse>"
    ))
}

#[test]
fn availability_has_a_result_for_each_mailbox_in_utc() {
    let busy = free_busy_response(
        "<FreeBusyViewType xmlns=\"types\">FreeBusy</FreeBusyViewType><CalendarEventArray>\
         <CalendarEvent><StartTime>2026-11-22T09:00:00</StartTime><EndTime>2026-11-22T10:00:00</EndTime>\
         <BusyType>OOF</BusyType></CalendarEvent></CalendarEventArray>",
    );
    let denied = "<FreeBusyResponse><ResponseMessage ResponseClass=\"Error\">\
        <MessageText>Not found.</MessageText><ResponseCode>ErrorMailRecipientNotFound</ResponseCode>\
        </ResponseMessage><FreeBusyView><FreeBusyViewType>None</FreeBusyViewType></FreeBusyView></FreeBusyResponse>";
    let free = free_busy_response("<FreeBusyViewType>FreeBusy</FreeBusyViewType>");
    let unknown = free_busy_response("<FreeBusyViewType>None</FreeBusyViewType>");
    let document = availability_response(&[&busy, denied, &free, &unknown].concat());
    assert_eq!(
        parse(&availability(4), &document),
        Ok(Answer::Availability(vec![
            Ok(vec![item(
                1_795_338_000,
                1_795_341_600,
                FreeBusyStatus::OutOfOffice
            )]),
            Err(response("ErrorMailRecipientNotFound", "Not found.")),
            Ok(Vec::new()),
            Ok(vec![item(WINDOW.from, WINDOW.until, FreeBusyStatus::NoData)]),
        ]))
    );
    assert_eq!(
        parse(&availability(3), &document),
        Err(Failure::Malformed(
            "the number of free/busy responses differs from that of the mailboxes"
        ))
    );
}

#[test]
fn a_change_stamp_is_kept_as_it_is_written() {
    let content = "<m:Folders><t:CalendarFolder><t:FolderId Id=\"a\"/>\
        <t:ExtendedProperty><t:ExtendedFieldURI PropertyTag=\"0x670b\" PropertyType=\"Integer\"/>\
        <t:Value>7</t:Value></t:ExtendedProperty>\
        <t:ExtendedProperty><t:ExtendedFieldURI PropertyTag=\"26378\" PropertyType=\"SystemTime\"/>\
        <t:Value>2026-11-22T09:00:00Z</t:Value></t:ExtendedProperty></t:CalendarFolder></m:Folders>";
    assert_eq!(
        parse(&Operation::GetChangeStamp, &message("GetFolder", content)),
        Ok(Answer::ChangeStamp(ChangeStamp {
            local_commit_time_max: Some("2026-11-22T09:00:00Z".to_owned()),
            deleted_count_total: Some("7".to_owned()),
        }))
    );
    let bare = "<m:Folders><t:CalendarFolder/></m:Folders>";
    assert_eq!(
        parse(&Operation::GetChangeStamp, &message("GetFolder", bare)),
        Ok(Answer::ChangeStamp(ChangeStamp::default()))
    );
}

#[test]
fn an_error_message_fails_with_all_that_it_says() {
    let operation = Operation::SubscribeStreaming;
    let busy = error(
        "Error",
        "ErrorServerBusy",
        "<m:MessageXml><t:Value Name=\"BackOffMilliseconds\">297749</t:Value></m:MessageXml>",
    );
    let failure = parse(&operation, &busy).unwrap_err();
    assert_eq!(failure.back_off(), Some(Duration::from_millis(297_749)));
    assert_eq!(failure.class(), FailureClass::Throttled);
    assert_eq!(failure.to_string(), "ErrorServerBusy: It did not work.");
    let stopped = error("Warning", "ErrorBatchProcessingStopped", "");
    assert_eq!(
        parse(&operation, &stopped),
        Err(response("ErrorBatchProcessingStopped", "It did not work."))
    );
    let wrapped = error(
        "Error",
        "ErrorInternalServerError",
        "<m:MessageXml><t:Value Name=\"InnerErrorMessageText\">Busy.</t:Value>\
         <t:Value Name=\"InnerErrorResponseCode\">ErrorServerBusy</t:Value></m:MessageXml>",
    );
    assert_eq!(
        parse(&operation, &wrapped).unwrap_err().class(),
        FailureClass::Throttled
    );
}

#[test]
fn a_fault_of_exchange_says_its_code_in_the_detail() {
    let fault = in_envelope(
        "<s:Fault><faultcode xmlns:a=\"types\">a:ErrorNonPrimarySmtpAddress</faultcode>\
         <faultstring xml:lang=\"en-US\">The primary SMTP address must be specified.</faultstring>\
         <detail><e:ResponseCode xmlns:e=\"errors\">ErrorNonPrimarySmtpAddress</e:ResponseCode>\
         <e:Message xmlns:e=\"errors\">The primary SMTP address must be specified.</e:Message>\
         <t:MessageXml xmlns:t=\"types\"><t:Value Name=\"Primary\">ana@lab.test</t:Value></t:MessageXml>\
         </detail></s:Fault>",
    );
    let parsed = parse_answer(&Operation::GetChangeStamp, 500, None, fault.as_bytes());
    assert_eq!(
        parsed.result,
        Err(Failure::Response {
            code: ResponseCode("ErrorNonPrimarySmtpAddress".to_owned()),
            message: "The primary SMTP address must be specified.".to_owned(),
            back_off: None,
            primary_address: Some("ana@lab.test".to_owned()),
            inner: None,
        })
    );
}

#[test]
fn a_fault_of_gromox_is_one_in_spite_of_its_status() {
    let fault = "<SOAP:Envelope xmlns:SOAP=\"x\"><SOAP:Body><SOAP:Fault>\
        <faultcode>ErrorCannotFindUser</faultcode><faultstring>E-3013: no such user</faultstring>\
        </SOAP:Fault></SOAP:Body></SOAP:Envelope>";
    assert_eq!(
        parse(&find(), fault),
        Err(response("ErrorCannotFindUser", "E-3013: no such user"))
    );
}

#[test]
fn a_fault_of_soap_1_2_is_understood_too() {
    let fault = in_envelope(
        "<s:Fault><s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>a:ErrorSchemaValidation</s:Value>\
         </s:Subcode></s:Code><s:Reason><s:Text>Invalid.</s:Text></s:Reason></s:Fault>",
    );
    assert_eq!(
        parse(&find(), &fault),
        Err(response("ErrorSchemaValidation", "Invalid."))
    );
}

#[test]
fn neither_prefix_nor_wrapper_matters() {
    let document = "<Envelope><Body><anything><ResponseMessages><m:x xmlns:m='m' ResponseClass='Success'>\
        <ResponseCode>NoError</ResponseCode><q:SubscriptionId xmlns:q=''>a</q:SubscriptionId></m:x>\
        </ResponseMessages></anything></Body></Envelope>";
    let expected = Answer::Subscribed {
        subscription: id("a"),
        watermark: None,
    };
    assert_eq!(parse(&Operation::SubscribeStreaming, document), Ok(expected));
}

#[test]
fn the_status_counts_when_the_body_says_nothing() {
    let wait = Some(Duration::from_secs(30));
    let result = |status, body: &str| parse_answer(&find(), status, wait, body.as_bytes()).result;
    for body in ["", "<html><body>Service Unavailable</body></html>", "busy & gone"] {
        assert_eq!(
            result(503, body),
            Err(Failure::Http {
                status: 503,
                retry_after: wait
            }),
            "{body}"
        );
        assert!(matches!(result(200, body), Err(Failure::Malformed(_))), "{body}");
        assert!(
            matches!(result(401, body), Err(Failure::Unauthorized(_))),
            "{body}"
        );
    }
    let failure = result(503, &error("Error", "ErrorServerBusy", "")).unwrap_err();
    assert_eq!(failure.class(), FailureClass::Throttled);
    assert_eq!(failure.back_off(), wait, "the header says what the body does not");
}

#[test]
fn a_document_type_is_refused_and_entities_are_not_expanded() {
    let bomb = "<!DOCTYPE a [<!ENTITY b \"bbbb\">]><Envelope><Body><x>&b;</x></Body></Envelope>";
    assert_eq!(
        parse(&find(), bomb),
        Err(Failure::Malformed("a document type is not accepted"))
    );
    let entity = "<Envelope><Body><x>&b;</x></Body></Envelope>";
    assert_eq!(
        parse(&find(), entity),
        Err(Failure::Malformed("not well-formed XML"))
    );
}

#[test]
fn an_answer_is_neither_larger_nor_deeper_than_its_bounds() {
    let large = vec![b' '; ANSWER_BYTES_MAX + 1];
    assert_eq!(
        parse_answer(&find(), 200, None, &large).result,
        Err(Failure::TooLarge)
    );
    let many = format!("<a>{}</a>", "<b/>".repeat(300_001));
    assert_eq!(parse(&find(), &many), Err(Failure::TooLarge));
    let deep = "<a>".repeat(100_000);
    assert_eq!(
        parse(&find(), &deep),
        Err(Failure::Malformed("elements are nested too deeply"))
    );
    let talkative = error("Error", &"E".repeat(1000), "").replace("It did not work.", &"ü".repeat(5000));
    let Err(Failure::Response { code, message, .. }) = parse(&find(), &talkative) else {
        panic!("no response");
    };
    assert_eq!((code.0.len(), message.chars().count()), (100, 300));
}

#[test]
fn a_stream_is_not_read_as_an_answer_but_its_failures_are() {
    let operation = Operation::GetStreamingEvents {
        subscriptions: vec![id("a")],
        connection_timeout: 30,
    };
    let refused = error("Error", "ErrorSubscriptionNotFound", "");
    assert_eq!(
        parse(&operation, &refused),
        Err(response("ErrorSubscriptionNotFound", "It did not work."))
    );
    let opened = message(
        "GetStreamingEvents",
        "<m:ConnectionStatus>OK</m:ConnectionStatus>",
    );
    assert_eq!(
        parse(&operation, &opened),
        Err(Failure::Malformed("a stream was expected"))
    );
}
