//! What both Tandem binaries speak.
//!
//! [`cluster`] is the replicated state, [`certificate`] what certificates say. Decisions are pure and stand outside
//! [`io`]; everything asynchronous stands inside it.

pub mod certificate;
pub mod cluster;
pub mod config;
pub mod host_name;
pub mod io;
pub mod planted;
pub mod progress;
pub mod proxy_protocol;
pub mod sip;
pub mod source;
pub mod stable_hash;
