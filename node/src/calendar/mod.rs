//! Calendar subscriptions: which user is read where, and what his calendar says now (CAL-1 to CAL-4, CAL-8 to CAL-10).
//!
//! Owns the subscriptions of this node's users, the patience with each Client Access Server, and the times at which
//! presence changes. Does not own assignments (the replicated state does), connections or the clock.
//! What always holds: a user is subscribed before his calendar is read; throttling, per-user errors and restarts of
//! ours move nobody; what is published last stays until something better is known.

mod input;
mod output;
mod settings;
mod timeline;

pub use input::{CalendarUser, Input, StreamEnd};
pub use output::{AffinityKey, Output, Report, RequestId, StreamId};
pub use settings::{CalendarSettings, Delivery};
pub use timeline::{Timeline, edge_offset};
