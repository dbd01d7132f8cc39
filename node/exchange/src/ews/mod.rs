//! The operations of Exchange Web Services that presence needs, their answers, and both as SOAP.
//!
//! Owns the vocabulary, the meaning of every error code ([`Failure::class`]) and the documents: [`write_request`] and
//! [`parse_answer`] for requests, [`StreamSplitter`] and [`parse_stream_document`] for streams, [`parse_callback`] and
//! [`write_callback_answer`] for push. Does not own connections, nor who is subscribed. What always holds: subjects
//! and places of meetings are never requested; whatever bytes come in become, within bounds, a value or a [`Failure`].

mod answer;
mod calendar_item;
mod classification;
mod date_time;
mod failure;
mod notification;
mod notification_codec;
mod operation;
mod request;
mod retry_after;
mod soap;
mod stream_splitter;

pub use answer::{Parsed, parse_answer};
pub use calendar_item::{CalendarItem, FreeBusyStatus};
pub use failure::{Failure, FailureClass, ResponseCode};
pub use notification::{Event, EventKind, Notification, StreamPart};
pub use notification_codec::{
    Callback, SubscriptionStatus, parse_callback, parse_stream_document, write_callback_answer,
};
pub use operation::{Answer, ChangeStamp, Mailbox, Operation, SchemaVersion, SubscriptionId, TimeWindow};
pub use request::write_request;
pub use retry_after::{BACK_OFF_MAX, parse_retry_after};
pub use soap::{ANSWER_BYTES_MAX, ServerVersion};
pub use stream_splitter::{SplitError, StreamSplitter};

/// The path that every request is POSTed to.
pub const PATH: &str = "/EWS/Exchange.asmx";
/// The content type of requests, callbacks and their answers.
pub const CONTENT_TYPE: &str = "text/xml; charset=utf-8";

#[cfg(test)]
mod answer_tests;
#[cfg(test)]
mod notification_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod request_tests;
