//! Presence: composed from calendar, phone and manual state, and written as documents.
//!
//! Owns the composition and its documents, what has changed since it was told ([`following`]), and calendar states on their
//! way into the log ([`outgoing`]). Does not own calendars (`crate::calendar`) or dialogs of watchers
//! (`crate::gateway`). What always holds: the same replicated record gives the same presence on every node.

pub mod composition;
pub mod following;
pub mod outgoing;
pub mod phones;
pub mod pidf;
pub mod publication;

pub use composition::{
    Activity, Availability, BusyShowsAs, Composed, CompositionSettings, Source, WorkingElsewhereShowsAs,
    compose,
};
pub use following::PresenceChanged;
pub use phones::{Phones, PhonesInUse};
