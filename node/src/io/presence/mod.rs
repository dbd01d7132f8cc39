//! Presence on its way: what calendars say into the log, and what became of it to whoever watches (CAL-11).
//!
//! Owns the batches of what calendars say ([`PresenceOut`]), the one place that knows when a user's presence has changed
//! ([`PresenceView`]), and the JSON API with its live stream ([`PresenceRoutes`]). Does not decide what presence is
//! ([`crate::presence`]). What always holds: of what a calendar says the latest word reaches the log, however many
//! there were; a watcher that has lost a change is told so.

mod calendar_view;
mod metrics;
mod out;
mod routes;
mod stream;
#[cfg(test)]
mod tests;
mod view;

pub(in crate::io) use calendar_view::CalendarView;
pub use metrics::PresenceMetrics;
pub use out::PresenceOut;
pub use routes::PresenceRoutes;
pub use view::{PresenceChanged, PresenceView};
