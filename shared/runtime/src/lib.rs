//! What surrounds a Tandem process, whatever it does: its configuration, the machine it runs on, TLS, streams of SIP
//! messages, the administration interface, logs, and the way out.
//!
//! Decisions are pure and stand outside [`io`]; everything asynchronous stands inside it. Does not own what a node or a
//! front end is for.

pub mod certificate_holder;
pub mod config;
pub mod io;
pub mod listed_subjects;
pub mod progress;
pub mod source;
