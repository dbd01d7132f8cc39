//! Writes operations as SOAP. Elements are in the order of the schema, which is a sequence everywhere.

use bytes::Bytes;

use super::date_time;
use super::operation::{Mailbox, Operation, SchemaVersion, SubscriptionId, TimeWindow};
use tandem_xml::Writer;

/// The body of a POST to [`super::PATH`]. The user to impersonate is named by the primary address.
#[must_use]
pub fn write_request(operation: &Operation, version: SchemaVersion, impersonate: Option<&Mailbox>) -> Bytes {
    let document = Writer::document_with("s:Envelope", NAMESPACES, |writer| {
        writer.element("s:Header", |writer| write_header(writer, version, impersonate));
        writer.element("s:Body", |writer| write_operation(writer, operation));
    });
    document.into()
}

fn write_header(writer: &mut Writer, version: SchemaVersion, impersonate: Option<&Mailbox>) {
    writer.empty_with("t:RequestServerVersion", &[("Version", version.as_str())]);
    if let Some(mailbox) = impersonate {
        writer.element("t:ExchangeImpersonation", |writer| {
            writer.element("t:ConnectingSID", |writer| {
                writer.leaf("t:PrimarySmtpAddress", &mailbox.0);
            });
        });
    }
    // Exchange 2007 does not know it, and reports times in UTC anyway.
    if version > SchemaVersion::Exchange2007Sp1 {
        writer.element("t:TimeZoneContext", |writer| {
            writer.empty_with("t:TimeZoneDefinition", &[("Id", "UTC")]);
        });
    }
}

fn write_operation(writer: &mut Writer, operation: &Operation) {
    match operation {
        Operation::SubscribePush {
            callback_url,
            status_frequency,
        } => write_subscribe(writer, "m:PushSubscriptionRequest", |writer| {
            writer.leaf("t:StatusFrequency", &status_frequency.to_string());
            writer.leaf("t:URL", callback_url);
        }),
        Operation::SubscribeStreaming => write_subscribe(writer, "m:StreamingSubscriptionRequest", |_| {}),
        Operation::SubscribePull { timeout } => {
            write_subscribe(writer, "m:PullSubscriptionRequest", |writer| {
                writer.leaf("t:Timeout", &timeout.to_string());
            });
        }
        Operation::GetEvents {
            subscription,
            watermark,
        } => writer.element("m:GetEvents", |writer| {
            writer.leaf("m:SubscriptionId", &subscription.0);
            writer.leaf("m:Watermark", watermark);
        }),
        Operation::GetStreamingEvents {
            subscriptions,
            connection_timeout,
        } => write_get_streaming_events(writer, subscriptions, *connection_timeout),
        Operation::Unsubscribe { subscription } => writer.element("m:Unsubscribe", |writer| {
            writer.leaf("m:SubscriptionId", &subscription.0);
        }),
        Operation::FindCalendarItems { window, entries_max } => {
            write_find_item(writer, *window, *entries_max)
        }
        Operation::GetUserAvailability { mailboxes, window } => {
            write_get_user_availability(writer, mailboxes, *window);
        }
        Operation::GetChangeStamp => write_get_folder(writer),
    }
}

fn write_subscribe(writer: &mut Writer, request: &str, rest: impl FnOnce(&mut Writer)) {
    writer.element("m:Subscribe", |writer| {
        writer.element(request, |writer| {
            writer.element("t:FolderIds", write_calendar_folder);
            writer.element("t:EventTypes", |writer| {
                EVENT_TYPES
                    .iter()
                    .for_each(|kind| writer.leaf("t:EventType", kind));
            });
            rest(writer);
        });
    });
}

fn write_calendar_folder(writer: &mut Writer) {
    writer.empty_with("t:DistinguishedFolderId", &[("Id", "calendar")]);
}

/// The ids are in the namespace of types here, unlike everywhere else.
fn write_get_streaming_events(writer: &mut Writer, subscriptions: &[SubscriptionId], timeout: u8) {
    writer.element("m:GetStreamingEvents", |writer| {
        writer.element("m:SubscriptionIds", |writer| {
            for subscription in subscriptions {
                writer.leaf("t:SubscriptionId", &subscription.0);
            }
        });
        writer.leaf("m:ConnectionTimeout", &timeout.to_string());
    });
}

/// A calendar view, so that the server expands recurrences.
fn write_find_item(writer: &mut Writer, window: TimeWindow, entries_max: u16) {
    let view = [
        ("MaxEntriesReturned", entries_max.to_string()),
        ("StartDate", date_time::write_utc(window.from)),
        ("EndDate", date_time::write_utc(window.until)),
    ];
    let view = view.each_ref().map(|(name, value)| (*name, value.as_str()));
    writer.element_with("m:FindItem", &[("Traversal", "Shallow")], |writer| {
        writer.element("m:ItemShape", |writer| {
            write_shape(writer, |writer| {
                for field in ITEM_FIELDS {
                    writer.empty_with("t:FieldURI", &[("FieldURI", field)]);
                }
            });
        });
        writer.empty_with("m:CalendarView", &view);
        writer.element("m:ParentFolderIds", write_calendar_folder);
    });
}

fn write_shape(writer: &mut Writer, properties: impl FnOnce(&mut Writer)) {
    writer.leaf("t:BaseShape", "IdOnly");
    writer.element("t:AdditionalProperties", properties);
}

fn write_get_folder(writer: &mut Writer) {
    writer.element("m:GetFolder", |writer| {
        writer.element("m:FolderShape", |writer| {
            write_shape(writer, |writer| {
                for (tag, kind) in CHANGE_STAMP_PROPERTIES {
                    let attributes = [("PropertyTag", tag), ("PropertyType", kind)];
                    writer.empty_with("t:ExtendedFieldURI", &attributes);
                }
            });
        });
        writer.element("m:FolderIds", write_calendar_folder);
    });
}

fn write_get_user_availability(writer: &mut Writer, mailboxes: &[Mailbox], window: TimeWindow) {
    writer.element("m:GetUserAvailabilityRequest", |writer| {
        writer.element("t:TimeZone", write_zone);
        writer.element("m:MailboxDataArray", |writer| {
            for mailbox in mailboxes {
                write_mailbox_data(writer, mailbox);
            }
        });
        writer.element("t:FreeBusyViewOptions", |writer| {
            write_free_busy_view(writer, window);
        });
    });
}

fn write_mailbox_data(writer: &mut Writer, mailbox: &Mailbox) {
    writer.element("t:MailboxData", |writer| {
        writer.element("t:Email", |writer| writer.leaf("t:Address", &mailbox.0));
        writer.leaf("t:AttendeeType", "Required");
        writer.leaf("t:ExcludeConflicts", "false");
    });
}

fn write_free_busy_view(writer: &mut Writer, window: TimeWindow) {
    writer.element("t:TimeWindow", |writer| {
        writer.leaf("t:StartTime", &date_time::write_local(window.from));
        writer.leaf("t:EndTime", &date_time::write_local(window.until));
    });
    writer.leaf("t:MergedFreeBusyIntervalInMinutes", "15");
    writer.leaf("t:RequestedView", "FreeBusy");
}

/// UTC: the answer has local times of this zone, without an offset.
fn write_zone(writer: &mut Writer) {
    writer.leaf("t:Bias", "0");
    for (name, month) in [("t:StandardTime", "1"), ("t:DaylightTime", "7")] {
        writer.element(name, |writer| {
            writer.leaf("t:Bias", "0");
            writer.leaf("t:Time", "00:00:00");
            writer.leaf("t:DayOrder", "1");
            writer.leaf("t:Month", month);
            writer.leaf("t:DayOfWeek", "Sunday");
        });
    }
}

const NAMESPACES: &[(&str, &str)] = &[
    ("xmlns:s", "http://schemas.xmlsoap.org/soap/envelope/"),
    (
        "xmlns:t",
        "http://schemas.microsoft.com/exchange/services/2006/types",
    ),
    (
        "xmlns:m",
        "http://schemas.microsoft.com/exchange/services/2006/messages",
    ),
];
const EVENT_TYPES: [&str; 5] = [
    "CreatedEvent",
    "ModifiedEvent",
    "DeletedEvent",
    "MovedEvent",
    "CopiedEvent",
];
/// Neither subject nor place.
const ITEM_FIELDS: [&str; 6] = [
    "calendar:Start",
    "calendar:End",
    "calendar:LegacyFreeBusyStatus",
    "calendar:IsAllDayEvent",
    "calendar:IsCancelled",
    "calendar:MyResponseType",
];
const CHANGE_STAMP_PROPERTIES: [(&str, &str); 2] = [("0x670A", "SystemTime"), ("0x670B", "Integer")];
