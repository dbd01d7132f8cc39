//! Transport of presence: calendar states into the log, and composed presence out to its consumers (CAL-11).
//!
//! Owns the task that writes calendar states ([`PresenceOut`]), the one that tells of changes ([`PresenceView`]), and the
//! JSON API with its live stream ([`PresenceRoutes`]). Does not decide what presence is, or what has changed
//! ([`crate::presence`]). What always holds: the latest state of a calendar reaches the log, however many changes there
//! were; a consumer that has lost a change is told so.

mod metrics;
mod out;
mod routes;
mod stream;
#[cfg(test)]
mod tests;
mod view;

pub use metrics::PresenceMetrics;
pub use out::PresenceOut;
pub use routes::PresenceRoutes;
pub use view::PresenceView;
