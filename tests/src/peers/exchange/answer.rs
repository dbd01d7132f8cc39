//! Answers, stream documents and callbacks as Exchange writes them.

use std::fmt::Write as _;
use std::time::Duration;

use quick_xml::escape::escape;

use super::document::{MESSAGES, SOAP, TYPES};
use super::mail_store::{EventKind, Mailbox, Occurrence, OccurrenceKind};
use super::request::Version;
use super::subscriptions::{Event, Notification, write_watermark};

/// A SOAP envelope as the 2013 and later front ends write it, each namespace declared where it is used first.
#[must_use]
pub fn envelope(server: Version, body: &str) -> String {
    let (major, minor, build) = server.server();
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><s:Envelope xmlns:s=\"{SOAP}\"><s:Header>\
         <h:ServerVersionInfo MajorVersion=\"{major}\" MinorVersion=\"{minor}\" MajorBuildNumber=\"{build}\" \
         MinorBuildNumber=\"2\" xmlns:h=\"{TYPES}\" xmlns=\"{TYPES}\"/></s:Header><s:Body>{body}</s:Body></s:Envelope>"
    )
}

/// `m:…Response` with one response message that succeeded.
#[must_use]
pub fn success(operation: &str, inner: &str) -> String {
    response(
        operation,
        "Success",
        "<m:ResponseCode>NoError</m:ResponseCode>",
        inner,
    )
}

/// `m:…Response` with one response message that did not.
#[must_use]
pub fn error(operation: &str, code: &str, inner: &str) -> String {
    let said = format!(
        "<m:MessageText>The simulated server says {code}.</m:MessageText>\
         <m:ResponseCode>{code}</m:ResponseCode><m:DescriptiveLinkKey>0</m:DescriptiveLinkKey>"
    );
    response(operation, "Error", &said, inner)
}

fn response(operation: &str, class: &str, said: &str, inner: &str) -> String {
    format!(
        "<m:{operation}Response xmlns:m=\"{MESSAGES}\" xmlns:t=\"{TYPES}\"><m:ResponseMessages>\
         <m:{operation}ResponseMessage ResponseClass=\"{class}\">{said}{inner}</m:{operation}ResponseMessage>\
         </m:ResponseMessages></m:{operation}Response>"
    )
}

/// A SOAP fault. `values` go into MessageXml.
#[must_use]
pub fn fault(code: &str, text: &str, values: &[(&str, String)]) -> String {
    let text = escape(text);
    let mut detail = String::new();
    if !values.is_empty() {
        let _ = write!(detail, "<t:MessageXml xmlns:t=\"{TYPES}\">");
        for (name, value) in values {
            let _ = write!(detail, "<t:Value Name=\"{name}\">{}</t:Value>", escape(value));
        }
        detail.push_str("</t:MessageXml>");
    }
    format!(
        "<s:Fault><faultcode xmlns:a=\"{TYPES}\">a:{code}</faultcode>\
         <faultstring xml:lang=\"en-US\">{text}</faultstring><detail>\
         <e:ResponseCode xmlns:e=\"{ERRORS}\">{code}</e:ResponseCode>\
         <e:Message xmlns:e=\"{ERRORS}\">{text}</e:Message>{detail}</detail></s:Fault>"
    )
}

#[must_use]
pub fn busy(back_off: Duration) -> String {
    let value = ("BackOffMilliseconds", back_off.as_millis().to_string());
    fault(
        "ErrorServerBusy",
        "The server cannot service this request right now. Try again later.",
        &[value],
    )
}

#[must_use]
pub fn subscribed(id: &str, watermark: Option<u64>) -> String {
    let mut inner = format!("<m:SubscriptionId>{id}</m:SubscriptionId>");
    if let Some(number) = watermark {
        let _ = write!(inner, "<m:Watermark>{}</m:Watermark>", write_watermark(number));
    }
    success("Subscribe", &inner)
}

/// The rows of a calendar view with the properties that were asked for.
#[must_use]
pub fn found(rows: &[Occurrence], is_complete: bool, properties: &[String], version: Version) -> String {
    let mut items = String::new();
    for row in rows {
        let id = row.item.0;
        let _ = write!(
            items,
            "<t:CalendarItem><t:ItemId Id=\"AAMk{id:08x}{:x}\" ChangeKey=\"DwAA\"/>",
            row.start
        );
        // The server has an order of its own.
        for name in PROPERTY_ORDER {
            if properties.iter().any(|property| property == name) {
                items.push_str(&property(row, name, version));
            }
        }
        items.push_str("</t:CalendarItem>");
    }
    let total = rows.len();
    success(
        "FindItem",
        &format!(
            "<m:RootFolder TotalItemsInView=\"{total}\" IncludesLastItemInRange=\"{is_complete}\">\
             <t:Items>{items}</t:Items></m:RootFolder>"
        ),
    )
}

fn property(row: &Occurrence, name: &str, version: Version) -> String {
    let knows = version >= Version::Exchange2013;
    match name {
        "item:Sensitivity" => "<t:Sensitivity>Normal</t:Sensitivity>".to_owned(),
        "calendar:Start" => format!("<t:Start>{}</t:Start>", utc(row.start)),
        "calendar:End" => format!("<t:End>{}</t:End>", utc(row.end)),
        "calendar:IsAllDayEvent" => format!("<t:IsAllDayEvent>{}</t:IsAllDayEvent>", row.all_day),
        "calendar:LegacyFreeBusyStatus" => format!(
            "<t:LegacyFreeBusyStatus>{}</t:LegacyFreeBusyStatus>",
            row.status.as_str(knows)
        ),
        "calendar:IsCancelled" => format!("<t:IsCancelled>{}</t:IsCancelled>", row.cancelled),
        "calendar:CalendarItemType" => format!(
            "<t:CalendarItemType>{}</t:CalendarItemType>",
            match row.kind {
                OccurrenceKind::Single => "Single",
                OccurrenceKind::Occurrence => "Occurrence",
                OccurrenceKind::Exception => "Exception",
            }
        ),
        "calendar:MyResponseType" => {
            format!("<t:MyResponseType>{}</t:MyResponseType>", row.response.as_str())
        }
        _ => String::new(),
    }
}

/// One `m:FreeBusyResponse`: times are local and have no offset.
#[must_use]
pub fn free_busy(rows: &[Occurrence], version: Version) -> String {
    let knows = version >= Version::Exchange2013;
    let mut events = String::new();
    for row in rows {
        let (start, end) = (utc(row.start), utc(row.end));
        let _ = write!(
            events,
            "<CalendarEvent><StartTime>{}</StartTime><EndTime>{}</EndTime><BusyType>{}</BusyType></CalendarEvent>",
            start.trim_end_matches('Z'),
            end.trim_end_matches('Z'),
            row.status.as_str(knows)
        );
    }
    let array = if events.is_empty() {
        String::new()
    } else {
        format!("<CalendarEventArray xmlns=\"{TYPES}\">{events}</CalendarEventArray>")
    };
    format!(
        "<FreeBusyResponse><ResponseMessage ResponseClass=\"Success\"><ResponseCode>NoError</ResponseCode>\
         </ResponseMessage><FreeBusyView><FreeBusyViewType xmlns=\"{TYPES}\">FreeBusy</FreeBusyViewType>{array}\
         </FreeBusyView></FreeBusyResponse>"
    )
}

#[must_use]
pub fn no_free_busy(code: &str) -> String {
    format!(
        "<FreeBusyResponse><ResponseMessage ResponseClass=\"Error\"><MessageText>{code}</MessageText>\
         <ResponseCode>{code}</ResponseCode><DescriptiveLinkKey>0</DescriptiveLinkKey></ResponseMessage>\
         <FreeBusyView><FreeBusyViewType xmlns=\"{TYPES}\">None</FreeBusyViewType></FreeBusyView></FreeBusyResponse>"
    )
}

/// All of them, in the order in which they were asked for.
#[must_use]
pub fn availability(responses: &str) -> String {
    format!(
        "<GetUserAvailabilityResponse xmlns=\"{MESSAGES}\"><FreeBusyResponseArray>{responses}\
         </FreeBusyResponseArray></GetUserAvailabilityResponse>"
    )
}

/// The calendar folder with its change stamp, as far as it was asked for.
#[must_use]
pub fn folder(mailbox: &Mailbox, tags: &[String]) -> String {
    let mut properties = String::new();
    for tag in tags {
        let (kind, value) = match tag.to_ascii_lowercase().as_str() {
            "0x670a" => ("SystemTime", utc_millis(mailbox.commit_time_ms)),
            "0x670b" => ("Integer", mailbox.deleted_count.to_string()),
            _ => continue,
        };
        let _ = write!(
            properties,
            "<t:ExtendedProperty><t:ExtendedFieldURI PropertyTag=\"{}\" PropertyType=\"{kind}\"/>\
             <t:Value>{value}</t:Value></t:ExtendedProperty>",
            tag.to_ascii_lowercase()
        );
    }
    success(
        "GetFolder",
        &format!(
            "<m:Folders><t:CalendarFolder><t:FolderId Id=\"AQMk\" ChangeKey=\"AgAA\"/>{properties}\
             </t:CalendarFolder></m:Folders>"
        ),
    )
}

/// Pull.
#[must_use]
pub fn events(told: &Notification) -> String {
    success("GetEvents", &notification(told))
}

/// The envelope that a server POSTs to its client.
#[must_use]
pub fn callback(server: Version, told: &Notification) -> String {
    envelope(
        server,
        &format!(
            "<m:SendNotification xmlns:m=\"{MESSAGES}\" xmlns:t=\"{TYPES}\"><m:ResponseMessages>\
             <m:SendNotificationResponseMessage ResponseClass=\"Success\"><m:ResponseCode>NoError</m:ResponseCode>{}\
             </m:SendNotificationResponseMessage></m:ResponseMessages></m:SendNotification>",
            notification(told)
        ),
    )
}

/// The first document of a stream.
#[must_use]
pub fn stream_opened(server: Version) -> String {
    envelope(
        server,
        &success(
            "GetStreamingEvents",
            "<m:ConnectionStatus>OK</m:ConnectionStatus>",
        ),
    )
}

#[must_use]
pub fn stream_events(server: Version, told: &[Notification]) -> String {
    let notifications: String = told.iter().map(notification).collect();
    let inner = format!("<m:Notifications>{notifications}</m:Notifications>");
    envelope(server, &success("GetStreamingEvents", &inner))
}

#[must_use]
pub fn stream_closed(server: Version) -> String {
    envelope(
        server,
        &success(
            "GetStreamingEvents",
            "<m:ConnectionStatus>Closed</m:ConnectionStatus>",
        ),
    )
}

/// These ids are not good; the stream ends.
#[must_use]
pub fn stream_refused(server: Version, code: &str, ids: &[String]) -> String {
    let ids: String = ids
        .iter()
        .map(|id| format!("<m:SubscriptionId>{}</m:SubscriptionId>", escape(id)))
        .collect();
    let inner = format!("<m:ErrorSubscriptionIds>{ids}</m:ErrorSubscriptionIds>");
    envelope(server, &error("GetStreamingEvents", code, &inner))
}

fn notification(told: &Notification) -> String {
    let mut text = format!(
        "<m:Notification><t:SubscriptionId>{}</t:SubscriptionId>",
        told.subscription
    );
    if let Some(previous) = told.previous {
        let _ = write!(
            text,
            "<t:PreviousWatermark>{}</t:PreviousWatermark><t:MoreEvents>{}</t:MoreEvents>",
            write_watermark(previous),
            told.more
        );
    }
    for event in &told.events {
        text.push_str(&event_element(event, told.previous.is_some()));
    }
    if told.events.is_empty() {
        let watermark = told.previous.map(watermark).unwrap_or_default();
        let _ = write!(text, "<t:StatusEvent>{watermark}</t:StatusEvent>");
    }
    text.push_str("</m:Notification>");
    text
}

/// Streams give no watermarks.
fn event_element(event: &Event, with_watermark: bool) -> String {
    let name = event.kind.as_str();
    let watermark = if with_watermark {
        watermark(event.number)
    } else {
        String::new()
    };
    let old_parent = match event.kind {
        EventKind::Moved | EventKind::Copied => {
            "<t:OldItemId Id=\"AAMkold\" ChangeKey=\"DwAA\"/><t:OldParentFolderId Id=\"AQMk\" ChangeKey=\"AQAA\"/>"
        }
        EventKind::Created
        | EventKind::Modified
        | EventKind::Deleted
        | EventKind::NewMail
        | EventKind::FreeBusyChanged => "",
    };
    format!(
        "<t:{name}>{watermark}<t:TimeStamp>{}</t:TimeStamp><t:ItemId Id=\"AAMk{:08x}\" ChangeKey=\"{:x}\"/>\
         <t:ParentFolderId Id=\"AQMk\" ChangeKey=\"AQAA\"/>{old_parent}</t:{name}>",
        utc_millis(event.at_ms),
        event.item.0,
        event.change_key,
    )
}

fn watermark(number: u64) -> String {
    format!("<t:Watermark>{}</t:Watermark>", write_watermark(number))
}

fn utc(secs: i64) -> String {
    let time =
        time::OffsetDateTime::from_unix_timestamp(secs).expect("a story stays within ten thousand years");
    let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    time.format(format).expect("every time can be written so")
}

fn utc_millis(millis: i64) -> String {
    let text = utc(millis.div_euclid(1000));
    format!("{}.{:03}Z", text.trim_end_matches('Z'), millis.rem_euclid(1000))
}

const ERRORS: &str = "http://schemas.microsoft.com/exchange/services/2006/errors";
const PROPERTY_ORDER: [&str; 8] = [
    "item:Sensitivity",
    "calendar:Start",
    "calendar:End",
    "calendar:IsAllDayEvent",
    "calendar:LegacyFreeBusyStatus",
    "calendar:IsCancelled",
    "calendar:CalendarItemType",
    "calendar:MyResponseType",
];

#[cfg(test)]
mod tests {
    use super::super::document::{Element, Namespace};
    use super::super::mail_store::ItemId;
    use super::*;

    #[test]
    fn every_answer_is_a_document_of_its_own() {
        let told = Notification {
            subscription: "cas1-1".to_owned(),
            previous: Some(1),
            more: false,
            events: vec![Event {
                kind: EventKind::Moved,
                item: ItemId(1),
                change_key: 2,
                number: 3,
                at_ms: 1500,
            }],
        };
        let server = Version::Exchange2013;
        let bodies = [
            subscribed("a", Some(1)),
            fault("ErrorServerBusy", "a & b", &[("x", "<".to_owned())]),
            found(&[], true, &[], server),
            availability(&(free_busy(&[], server) + &no_free_busy("ErrorMailRecipientNotFound"))),
            events(&told),
        ];
        let documents = bodies.map(|body| envelope(server, &body));
        let streamed = [
            callback(server, &told),
            stream_opened(server),
            stream_events(server, &[told]),
            stream_refused(server, "ErrorSubscriptionNotFound", &["a".to_owned()]),
            stream_closed(server),
        ];
        for document in documents.iter().chain(&streamed) {
            let root = Element::parse(document).unwrap();
            assert!(root.is(Namespace::Soap, "Envelope"), "{document}");
        }
    }

    #[test]
    fn times_have_the_form_that_the_schema_gives_them() {
        assert_eq!(utc(1_792_393_200), "2026-10-19T07:00:00Z");
        assert_eq!(utc_millis(1_792_393_200_050), "2026-10-19T07:00:00.050Z");
    }
}
