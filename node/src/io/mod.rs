//! The only asynchronous code of this crate: sockets and the clock.
//!
//! Owns the one loop around the gateway ([`driver`]) and the tasks that move bytes for it. Does not decide anything:
//! whatever may go one way or another is an input of [`crate::gateway`]. What always holds: every
//! channel is bounded, and the loop waits for nobody.

pub mod admin_routes;
mod answering;
pub mod clock;
pub mod command_line;
pub mod cti_link;
pub mod directory_watch;
pub mod driver;
pub mod exchange;
pub mod named_files;
pub mod outbound;
pub mod pair_senders;
pub mod presence;
mod proposing;
pub mod rebalancing;
pub mod registration;
pub mod reports;
pub mod sip_connection;
pub mod sip_listener;
