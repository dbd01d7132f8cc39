//! Parses notifications from SOAP, and writes our answer to a push callback.

use bytes::Bytes;

use super::failure::Failure;
use super::notification::{Event, EventKind, Notification, StreamPart};
use super::operation::SubscriptionId;
use super::soap::{Envelope, check, response_messages};
use tandem_xml::{Element, Writer};

/// What a server POSTs to a callback URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// In the order sent. A failure says that the subscription is gone, without naming it.
    pub notifications: Vec<Result<Notification, Failure>>,
}

/// The answer to a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SubscriptionStatus {
    /// The subscription goes on.
    Ok,
    /// The only way to end a push subscription, except for silence.
    Unsubscribe,
}

/// Reads the body of a push callback.
///
/// # Errors
/// If it is not a `SendNotification` in SOAP.
pub fn parse_callback(body: &[u8]) -> Result<Callback, Failure> {
    let envelope = Envelope::parse(body)?;
    let messages = response_messages(envelope.payload()?);
    if messages.is_empty() {
        return Err(Failure::Malformed("no response message"));
    }
    let parsed = messages.into_iter().flat_map(parse_callback_message);
    Ok(Callback {
        notifications: parsed.collect(),
    })
}

fn parse_callback_message(message: &Element<'_>) -> Vec<Result<Notification, Failure>> {
    if let Err(failure) = check(message) {
        return vec![Err(failure)];
    }
    let parse =
        |notification| parse_notification(notification, None).ok_or(Failure::Malformed("no subscription id"));
    notifications_of(message).map(parse).collect()
}

/// The body of a 200 of type [`super::CONTENT_TYPE`].
#[must_use]
pub fn write_callback_answer(status: SubscriptionStatus) -> Bytes {
    let word = match status {
        SubscriptionStatus::Ok => "OK",
        SubscriptionStatus::Unsubscribe => "Unsubscribe",
    };
    let document = Writer::document("Envelope", SOAP, |writer| {
        writer.element("Body", |writer| {
            writer.element_in("SendNotificationResult", MESSAGES, |writer| {
                writer.leaf("SubscriptionStatus", word);
            });
        });
    });
    document.into()
}

/// Reads one document of the answer to GetStreamingEvents, as the splitter cut it.
///
/// # Errors
/// If the document is a fault or malformed, or reports an error that names no subscription: nothing more is to be expected
/// from the stream.
pub fn parse_stream_document(document: &[u8]) -> Result<Vec<StreamPart>, Failure> {
    let envelope = Envelope::parse(document)?;
    let messages = response_messages(envelope.payload()?);
    if messages.is_empty() {
        return Err(Failure::Malformed("no response message"));
    }
    let mut parts = Vec::new();
    for message in messages {
        parts.extend(parse_stream_message(message)?);
    }
    Ok(parts)
}

fn parse_stream_message(message: &Element<'_>) -> Result<Vec<StreamPart>, Failure> {
    if let Err(failure) = check(message) {
        let subscriptions = rejected_subscriptions(message);
        return if subscriptions.is_empty() {
            Err(failure)
        } else {
            Ok(vec![StreamPart::Rejected {
                subscriptions,
                failure,
            }])
        };
    }
    let notifications = stream_notifications(message)?;
    Ok(match (message.child_text("ConnectionStatus"), notifications) {
        (Some("Closed"), none) if none.is_empty() => vec![StreamPart::Closed],
        (Some("Closed"), last) => vec![StreamPart::Notifications(last), StreamPart::Closed],
        (Some("OK"), none) if none.is_empty() => vec![StreamPart::Opened],
        (_, notifications) => vec![StreamPart::Notifications(notifications)],
    })
}

fn rejected_subscriptions(message: &Element<'_>) -> Vec<SubscriptionId> {
    let ids = message.child("ErrorSubscriptionIds").into_iter();
    let ids = ids.flat_map(|ids| ids.children.iter());
    let ids = ids.filter_map(|id| parse_opaque(&id.text));
    ids.map(SubscriptionId).collect()
}

/// Only a sign of life needs no subscription id.
fn stream_notifications(message: &Element<'_>) -> Result<Vec<Notification>, Failure> {
    let mut notifications = Vec::new();
    for notification in notifications_of(message) {
        match parse_notification(notification, None) {
            Some(notification) => notifications.push(notification),
            None if events_of(notification).any(|event| event.kind != EventKind::Status) => {
                return Err(Failure::Malformed("no subscription id"));
            }
            None => {}
        }
    }
    Ok(notifications)
}

/// Push has them in the message, streams in a wrapper.
fn notifications_of<'e, 'a: 'e>(message: &'e Element<'a>) -> impl Iterator<Item = &'e Element<'a>> {
    let wrapped = message.child("Notifications").into_iter();
    let wrapped = wrapped.flat_map(|wrapper| wrapper.children.iter());
    let all = message.children.iter().chain(wrapped);
    all.filter(|element| element.name == "Notification")
}

/// `None` if it names no subscription and none is given.
pub(super) fn parse_notification(
    notification: &Element<'_>,
    asked: Option<&SubscriptionId>,
) -> Option<Notification> {
    let named = notification.child_text("SubscriptionId").and_then(parse_opaque);
    Some(Notification {
        subscription: named.map(SubscriptionId).or_else(|| asked.cloned())?,
        previous_watermark: watermark_of(notification, "PreviousWatermark"),
        more_events: matches!(notification.child_text("MoreEvents"), Some("true" | "1")),
        events: events_of(notification).collect(),
    })
}

fn events_of<'e>(notification: &'e Element<'_>) -> impl Iterator<Item = Event> + 'e {
    notification.children.iter().filter_map(parse_event)
}

/// An event of an unknown kind has changed something, too.
fn parse_event(element: &Element<'_>) -> Option<Event> {
    let kind = element.name.strip_suffix("Event")?;
    let known = EVENT_KINDS.iter().find(|(name, _)| *name == kind);
    Some(Event {
        kind: known.map_or(EventKind::Modified, |(_, kind)| *kind),
        watermark: watermark_of(element, "Watermark"),
    })
}

fn watermark_of(element: &Element<'_>, name: &str) -> Option<String> {
    element.child_text(name).and_then(parse_opaque)
}

/// Ids, watermarks and stamps are opaque; only their length is limited.
pub(super) fn parse_opaque(text: &str) -> Option<String> {
    let is_kept = !text.is_empty() && text.len() <= OPAQUE_BYTES_MAX;
    is_kept.then(|| text.to_owned())
}

/// Exchange's ids have some 100 bytes, and its watermarks 50.
const OPAQUE_BYTES_MAX: usize = 2048;
const EVENT_KINDS: [(&str, EventKind); 8] = [
    ("Status", EventKind::Status),
    ("Created", EventKind::Created),
    ("Modified", EventKind::Modified),
    ("Moved", EventKind::Moved),
    ("Copied", EventKind::Copied),
    ("Deleted", EventKind::Deleted),
    ("NewMail", EventKind::NewMail),
    ("FreeBusyChanged", EventKind::FreeBusyChanged),
];
const SOAP: &str = "http://schemas.xmlsoap.org/soap/envelope/";
const MESSAGES: &str = "http://schemas.microsoft.com/exchange/services/2006/messages";
