//! SIP as bytes and as types (RFC 3261): no roles, no state beyond one message.
//!
//! The byte side is for whoever passes messages on: [`Framer`] cuts a TCP stream into whole messages,
//! [`RawMessage`] knows where the few fields lie that one routes by, [`write_answer`] refuses a request with nothing
//! but its bytes at hand. The typed side ([`Message`], [`Headers`], [`Uri`], [`NameAddr`], [`Via`]) is for whoever
//! answers them.
//!
//! What always holds: bytes that are not ours leave as they came; what a peer sends can be refused but cannot
//! panic, allocate by a declared length, or be read twice in two ways; nothing here knows a transaction or a dialog.
//! rsip is used behind these types only, and never for bytes off the wire.

pub mod answer;
pub mod fault;
pub mod framer;
#[cfg(any(test, feature = "framer-model"))]
pub mod framer_model;
mod head_scan;
pub mod header;
pub mod host_name;
pub mod message;
pub mod method;
pub mod name_addr;
pub mod proxy_protocol;
pub mod raw_message;
pub mod reason;
mod scan;
mod start_line;
mod syntax;
#[cfg(test)]
mod torture_tests;
pub mod uri;
pub mod via;

pub use answer::write_answer;
pub use fault::{FramingError, RefusalReason};
pub use framer::{Frame, Framer, FramerLimits, Phase};
pub use header::Headers;
pub use message::{Message, ParseError, Request, Response};
pub use method::{CSeq, Method};
pub use name_addr::NameAddr;
pub use raw_message::{NotOneMessage, RawMessage, TransactionKey};
pub use reason::reason_phrase;
pub use uri::{Parameters, SipUri, TelUri, Uri};
pub use via::Via;
