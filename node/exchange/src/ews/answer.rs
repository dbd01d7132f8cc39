//! Parses SOAP answers.

use std::time::Duration;

use super::calendar_item::{CalendarItem, FreeBusyStatus};
use super::date_time;
use super::failure::Failure;
use super::notification::Notification;
use super::notification_codec::{parse_notification, parse_opaque};
use super::operation::{Answer, ChangeStamp, Mailbox, Operation, SubscriptionId, TimeWindow};
use super::soap::{Envelope, ServerVersion, check, only_message};
use tandem_xml::Element;

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    pub result: Result<Answer, Failure>,
    /// From the header, if there is one; failures have it too.
    pub server_version: Option<ServerVersion>,
}

/// Reads the answer to `operation`: HTTP status, `Retry-After` as [`super::parse_retry_after`] read it, and body. A
/// fault in the body says more than the status, and counts whatever the status is. Of GetStreamingEvents only failures
/// are read here.
#[must_use]
pub fn parse_answer(
    operation: &Operation,
    status: u16,
    retry_after: Option<Duration>,
    body: &[u8],
) -> Parsed {
    if status == UNAUTHORIZED {
        return Parsed {
            result: Err(Failure::Unauthorized("HTTP status 401".to_owned())),
            server_version: None,
        };
    }
    let envelope = Envelope::parse(body);
    let server_version = envelope.as_ref().ok().and_then(Envelope::server_version);
    let result = envelope.and_then(|envelope| parse_payload(operation, envelope.payload()?));
    Parsed {
        result: with_status(result, status, retry_after),
        server_version,
    }
}

/// The body decides, unless it says nothing and the status does.
fn with_status(
    result: Result<Answer, Failure>,
    status: u16,
    retry_after: Option<Duration>,
) -> Result<Answer, Failure> {
    let is_success = (200..300).contains(&status);
    match result {
        Err(Failure::Response {
            code,
            message,
            back_off,
            primary_address,
            inner,
        }) => Err(Failure::Response {
            code,
            message,
            back_off: back_off.or(retry_after),
            primary_address,
            inner,
        }),
        result if is_success => result,
        _ => Err(Failure::Http { status, retry_after }),
    }
}

fn parse_payload(operation: &Operation, payload: &Element<'_>) -> Result<Answer, Failure> {
    match operation {
        Operation::SubscribePush { .. } | Operation::SubscribeStreaming | Operation::SubscribePull { .. } => {
            parse_subscribed(only_message(payload)?)
        }
        Operation::GetEvents { subscription, .. } => {
            parse_events(only_message(payload)?, subscription).map(Answer::Events)
        }
        Operation::GetStreamingEvents { .. } => {
            only_message(payload)?;
            Err(Failure::Malformed("a stream was expected"))
        }
        Operation::Unsubscribe { .. } => only_message(payload).map(|_| Answer::Unsubscribed),
        Operation::FindCalendarItems { .. } => parse_items(only_message(payload)?),
        Operation::GetUserAvailability { mailboxes, window } => {
            parse_availability(payload, mailboxes, *window).map(Answer::Availability)
        }
        Operation::GetChangeStamp => {
            only_message(payload).map(|message| Answer::ChangeStamp(parse_change_stamp(message)))
        }
    }
}

fn parse_subscribed(message: &Element<'_>) -> Result<Answer, Failure> {
    let id = message.child_text("SubscriptionId").and_then(parse_opaque);
    Ok(Answer::Subscribed {
        subscription: id
            .map(SubscriptionId)
            .ok_or(Failure::Malformed("no subscription id"))?,
        watermark: message.child_text("Watermark").and_then(parse_opaque),
    })
}

/// A server that leaves out the subscription means the one that was asked about.
fn parse_events(message: &Element<'_>, asked: &SubscriptionId) -> Result<Notification, Failure> {
    let notification = message.child("Notification");
    let notification = notification.ok_or(Failure::Malformed("no notification"))?;
    Ok(parse_notification(notification, Some(asked)))
        .and_then(|notification| notification.ok_or(Failure::Malformed("no subscription id")))
}

fn parse_items(message: &Element<'_>) -> Result<Answer, Failure> {
    let folder = message.child("RootFolder");
    let folder = folder.ok_or(Failure::Malformed("no root folder"))?;
    let items = folder.child("Items").map_or(&[][..], |items| &items.children);
    let last = folder.attribute("IncludesLastItemInRange");
    Ok(Answer::Items {
        items: items.iter().filter_map(parse_item).collect(),
        complete: last.is_none_or(|last| is_true(&last)),
    })
}

/// An item without times is not an appointment.
fn parse_item(item: &Element<'_>) -> Option<CalendarItem> {
    let flag = |name| item.child_text(name).is_some_and(is_true);
    let all_day = flag("IsAllDayEvent");
    Some(CalendarItem {
        start: parse_time(item, "Start")?,
        end: parse_time(item, "End")?,
        status: parse_status(item, "LegacyFreeBusyStatus").unwrap_or_else(|| default_status(all_day)),
        all_day,
        cancelled: flag("IsCancelled"),
        declined: item.child_text("MyResponseType") == Some("Decline"),
    })
}

/// Exchange's own default when nothing is said.
fn default_status(all_day: bool) -> FreeBusyStatus {
    if all_day {
        FreeBusyStatus::Free
    } else {
        FreeBusyStatus::Busy
    }
}

fn parse_status(element: &Element<'_>, name: &str) -> Option<FreeBusyStatus> {
    let text = element.child_text(name)?;
    let found = STATUSES.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    found.map(|(_, status)| *status)
}

fn parse_time(element: &Element<'_>, name: &str) -> Option<i64> {
    element.child_text(name).and_then(date_time::parse)
}

fn is_true(text: &str) -> bool {
    matches!(text.trim(), "true" | "1" | "True")
}

/// The responses are in the order of the mailboxes, without naming them.
fn parse_availability(
    payload: &Element<'_>,
    mailboxes: &[Mailbox],
    window: TimeWindow,
) -> Result<Vec<Result<Vec<CalendarItem>, Failure>>, Failure> {
    let Some(responses) = payload.child("FreeBusyResponseArray") else {
        only_message(payload)?;
        return Err(Failure::Malformed("no free/busy responses"));
    };
    if responses.children.len() != mailboxes.len() {
        return Err(Failure::Malformed(
            "the number of free/busy responses differs from that of the mailboxes",
        ));
    }
    let parse = |response| parse_free_busy(response, window);
    Ok(responses.children.iter().map(parse).collect())
}

fn parse_free_busy(response: &Element<'_>, window: TimeWindow) -> Result<Vec<CalendarItem>, Failure> {
    let message = response.child("ResponseMessage");
    check(message.ok_or(Failure::Malformed("a free/busy response without a message"))?)?;
    let view = response.child("FreeBusyView");
    let view = view.ok_or(Failure::Malformed("no free/busy view"))?;
    let Some(events) = view.child("CalendarEventArray") else {
        return Ok(without_events(view, window));
    };
    Ok(events.children.iter().filter_map(parse_calendar_event).collect())
}

/// A free/busy view without any event is a free window; a view of another kind says nothing.
fn without_events(view: &Element<'_>, window: TimeWindow) -> Vec<CalendarItem> {
    match view.child_text("FreeBusyViewType") {
        Some("None" | "MergedOnly") => vec![CalendarItem {
            start: window.from,
            end: window.until,
            status: FreeBusyStatus::NoData,
            all_day: false,
            cancelled: false,
            declined: false,
        }],
        _ => Vec::new(),
    }
}

fn parse_calendar_event(event: &Element<'_>) -> Option<CalendarItem> {
    Some(CalendarItem {
        start: parse_time(event, "StartTime")?,
        end: parse_time(event, "EndTime")?,
        status: parse_status(event, "BusyType").unwrap_or(FreeBusyStatus::Busy),
        all_day: false,
        cancelled: false,
        declined: false,
    })
}

/// A server without these properties has an empty stamp: the probe has succeeded, and says nothing about changes.
fn parse_change_stamp(message: &Element<'_>) -> ChangeStamp {
    let folders = message.child("Folders");
    let folder = folders.and_then(|folders| folders.children.first());
    let property = |tag| folder.and_then(|folder| extended_property(folder, tag));
    ChangeStamp {
        local_commit_time_max: property(LOCAL_COMMIT_TIME_MAX),
        deleted_count_total: property(DELETED_COUNT_TOTAL),
    }
}

fn extended_property(folder: &Element<'_>, tag: u32) -> Option<String> {
    let is_wanted = |property: &&Element<'_>| {
        let uri = property.child("ExtendedFieldURI");
        let written = uri.and_then(|uri| uri.attribute("PropertyTag"));
        written.and_then(|written| parse_tag(&written)) == Some(tag)
    };
    let property = folder.children.iter().find(is_wanted)?;
    property.child_text("Value").and_then(parse_opaque)
}

fn parse_tag(text: &str) -> Option<u32> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

const UNAUTHORIZED: u16 = 401;
const LOCAL_COMMIT_TIME_MAX: u32 = 0x670a;
const DELETED_COUNT_TOTAL: u32 = 0x670b;
const STATUSES: [(&str, FreeBusyStatus); 6] = [
    ("Free", FreeBusyStatus::Free),
    ("Tentative", FreeBusyStatus::Tentative),
    ("Busy", FreeBusyStatus::Busy),
    ("OOF", FreeBusyStatus::OutOfOffice),
    ("WorkingElsewhere", FreeBusyStatus::WorkingElsewhere),
    ("NoData", FreeBusyStatus::NoData),
];
