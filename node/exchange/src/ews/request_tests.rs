//! What is asked, to the letter where a schema is strict.

use super::*;
use tandem_xml::{Element, Limits};

fn written(operation: &Operation, version: SchemaVersion, impersonate: Option<&str>) -> String {
    let mailbox = impersonate.map(|address| Mailbox(address.to_owned()));
    let bytes = write_request(operation, version, mailbox.as_ref());
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What stands between `<s:Body>` and its end.
fn body(operation: &Operation) -> String {
    let document = written(operation, SchemaVersion::Exchange2013, None);
    let (_, rest) = document.split_once("<s:Body>").unwrap();
    rest.strip_suffix("</s:Body></s:Envelope>").unwrap().to_owned()
}

const FOLDER_AND_EVENTS: &str = "<t:FolderIds><t:DistinguishedFolderId Id=\"calendar\"/></t:FolderIds>\
    <t:EventTypes><t:EventType>CreatedEvent</t:EventType><t:EventType>ModifiedEvent</t:EventType>\
    <t:EventType>DeletedEvent</t:EventType><t:EventType>MovedEvent</t:EventType>\
    <t:EventType>CopiedEvent</t:EventType></t:EventTypes>";

#[test]
fn the_header_says_the_version_whom_to_impersonate_and_utc() {
    let header = |version| {
        let document = written(&Operation::SubscribeStreaming, version, Some("ana@lab.test"));
        let (_, rest) = document.split_once("<s:Header>").unwrap();
        rest.split_once("</s:Header>").unwrap().0.to_owned()
    };
    let impersonation = "<t:ExchangeImpersonation><t:ConnectingSID>\
        <t:PrimarySmtpAddress>ana@lab.test</t:PrimarySmtpAddress>\
        </t:ConnectingSID></t:ExchangeImpersonation>";
    let zone = "<t:TimeZoneContext><t:TimeZoneDefinition Id=\"UTC\"/></t:TimeZoneContext>";
    for version in SchemaVersion::LADDER {
        let name = version.as_str();
        let zone = if name == "Exchange2007_SP1" { "" } else { zone };
        let expected = format!("<t:RequestServerVersion Version=\"{name}\"/>{impersonation}{zone}");
        assert_eq!(header(version), expected);
    }
    let alone = written(&Operation::GetChangeStamp, SchemaVersion::Exchange2013, None);
    assert!(!alone.contains("Impersonation"), "{alone}");
}

#[test]
fn a_subscription_has_its_children_in_the_order_of_the_schema() {
    let push = Operation::SubscribePush {
        callback_url: "https://gw1.lab.test:8643/ews/a?b=1&c".to_owned(),
        status_frequency: 5,
    };
    assert_eq!(
        body(&push),
        format!(
            "<m:Subscribe><m:PushSubscriptionRequest>{FOLDER_AND_EVENTS}\
             <t:StatusFrequency>5</t:StatusFrequency>\
             <t:URL>https://gw1.lab.test:8643/ews/a?b=1&amp;c</t:URL>\
             </m:PushSubscriptionRequest></m:Subscribe>"
        )
    );
    let pull = Operation::SubscribePull { timeout: 30 };
    assert_eq!(
        body(&pull),
        format!(
            "<m:Subscribe><m:PullSubscriptionRequest>{FOLDER_AND_EVENTS}\
             <t:Timeout>30</t:Timeout></m:PullSubscriptionRequest></m:Subscribe>"
        )
    );
    assert_eq!(
        body(&Operation::SubscribeStreaming),
        format!(
            "<m:Subscribe><m:StreamingSubscriptionRequest>{FOLDER_AND_EVENTS}\
             </m:StreamingSubscriptionRequest></m:Subscribe>"
        )
    );
}

#[test]
fn ids_are_in_the_namespace_of_messages_but_for_streams() {
    let id = |text: &str| SubscriptionId(text.to_owned());
    let get = Operation::GetEvents {
        subscription: id("JgB<"),
        watermark: "AQAA".to_owned(),
    };
    assert_eq!(
        body(&get),
        "<m:GetEvents><m:SubscriptionId>JgB&lt;</m:SubscriptionId><m:Watermark>AQAA</m:Watermark></m:GetEvents>"
    );
    let stream = Operation::GetStreamingEvents {
        subscriptions: vec![id("a"), id("b")],
        connection_timeout: 30,
    };
    assert_eq!(
        body(&stream),
        "<m:GetStreamingEvents><m:SubscriptionIds><t:SubscriptionId>a</t:SubscriptionId>\
         <t:SubscriptionId>b</t:SubscriptionId></m:SubscriptionIds>\
         <m:ConnectionTimeout>30</m:ConnectionTimeout></m:GetStreamingEvents>"
    );
    let end = Operation::Unsubscribe {
        subscription: id("a"),
    };
    assert_eq!(
        body(&end),
        "<m:Unsubscribe><m:SubscriptionId>a</m:SubscriptionId></m:Unsubscribe>"
    );
}

#[test]
fn the_calendar_is_asked_for_times_and_nothing_private() {
    let find = Operation::FindCalendarItems {
        window: TimeWindow {
            from: 1_795_305_600,
            until: 1_795_478_400,
        },
        entries_max: 500,
    };
    let fields = [
        "Start",
        "End",
        "LegacyFreeBusyStatus",
        "IsAllDayEvent",
        "IsCancelled",
        "MyResponseType",
    ];
    let fields = fields.map(|field| format!("<t:FieldURI FieldURI=\"calendar:{field}\"/>"));
    assert_eq!(
        body(&find),
        format!(
            "<m:FindItem Traversal=\"Shallow\"><m:ItemShape><t:BaseShape>IdOnly</t:BaseShape>\
             <t:AdditionalProperties>{}</t:AdditionalProperties></m:ItemShape>\
             <m:CalendarView MaxEntriesReturned=\"500\" StartDate=\"2026-11-22T00:00:00Z\" \
             EndDate=\"2026-11-24T00:00:00Z\"/>\
             <m:ParentFolderIds><t:DistinguishedFolderId Id=\"calendar\"/></m:ParentFolderIds></m:FindItem>",
            fields.concat()
        )
    );
    assert_eq!(
        body(&Operation::GetChangeStamp),
        "<m:GetFolder><m:FolderShape><t:BaseShape>IdOnly</t:BaseShape><t:AdditionalProperties>\
         <t:ExtendedFieldURI PropertyTag=\"0x670A\" PropertyType=\"SystemTime\"/>\
         <t:ExtendedFieldURI PropertyTag=\"0x670B\" PropertyType=\"Integer\"/>\
         </t:AdditionalProperties></m:FolderShape>\
         <m:FolderIds><t:DistinguishedFolderId Id=\"calendar\"/></m:FolderIds></m:GetFolder>"
    );
}

#[test]
fn availability_is_asked_for_in_utc_without_saying_so_in_the_times() {
    let ask = Operation::GetUserAvailability {
        mailboxes: vec![
            Mailbox("ana@lab.test".to_owned()),
            Mailbox("o'neill&co@lab.test".to_owned()),
        ],
        window: TimeWindow {
            from: 1_795_305_600,
            until: 1_795_478_400,
        },
    };
    let mailbox = |address| {
        format!(
            "<t:MailboxData><t:Email><t:Address>{address}</t:Address></t:Email>\
             <t:AttendeeType>Required</t:AttendeeType><t:ExcludeConflicts>false</t:ExcludeConflicts></t:MailboxData>"
        )
    };
    let change = |month| {
        format!(
            "<t:Bias>0</t:Bias><t:Time>00:00:00</t:Time><t:DayOrder>1</t:DayOrder>\
             <t:Month>{month}</t:Month><t:DayOfWeek>Sunday</t:DayOfWeek>"
        )
    };
    assert_eq!(
        body(&ask),
        format!(
            "<m:GetUserAvailabilityRequest><t:TimeZone><t:Bias>0</t:Bias><t:StandardTime>{}</t:StandardTime>\
             <t:DaylightTime>{}</t:DaylightTime></t:TimeZone><m:MailboxDataArray>{}{}</m:MailboxDataArray>\
             <t:FreeBusyViewOptions><t:TimeWindow><t:StartTime>2026-11-22T00:00:00</t:StartTime>\
             <t:EndTime>2026-11-24T00:00:00</t:EndTime></t:TimeWindow>\
             <t:MergedFreeBusyIntervalInMinutes>15</t:MergedFreeBusyIntervalInMinutes>\
             <t:RequestedView>FreeBusy</t:RequestedView></t:FreeBusyViewOptions></m:GetUserAvailabilityRequest>",
            change(1),
            change(7),
            mailbox("ana@lab.test"),
            mailbox("o'neill&amp;co@lab.test"),
        )
    );
}

#[test]
fn nothing_that_is_written_can_break_out_of_its_element() {
    let nasty = "</t:URL>]]>&\"'<!--\u{0}\u{1f}\r\n";
    let push = Operation::SubscribePush {
        callback_url: nasty.to_owned(),
        status_frequency: 1,
    };
    let document = written(&push, SchemaVersion::Exchange2013, Some(nasty));
    let limits = Limits {
        document_bytes_max: 10_000,
        depth_max: 20,
        elements_max: 100,
    };
    let root = Element::parse(document.as_bytes(), limits).unwrap();
    let url = root.descendant(&["Body", "Subscribe", "PushSubscriptionRequest", "URL"]);
    assert_eq!(url.unwrap().text, "</t:URL>]]>&\"'<!--\u{fffd}\u{fffd}");
}
