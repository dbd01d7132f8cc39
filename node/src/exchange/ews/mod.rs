//! The operations of Exchange Web Services that presence needs, and their answers.
//!
//! Owns the words; SOAP is a matter of the codec beside them. Subjects and places of meetings are never asked for.

mod calendar_item;
mod failure;
mod notification;
mod operation;

pub use calendar_item::{CalendarItem, FreeBusyStatus};
pub use failure::{Failure, FailureClass, ResponseCode};
pub use notification::{Event, EventKind, Notification, StreamPart};
pub use operation::{Answer, ChangeStamp, Mailbox, Operation, SchemaVersion, SubscriptionId, TimeWindow};
