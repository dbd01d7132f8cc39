//! The user-agent side of SIP: what a node says as the gateway at the end of a dialog.
//!
//! Owns how an opening request becomes a dialog, how our own requests inside it are written, how the session timer
//! is negotiated and how long an unanswered opening request waits. Does not own sessions, bytes on a wire or the
//! replicated record's life. A CSeq that comes from a client is never compared with anything: real clients start
//! again at 1 after every INVITE.

pub mod dialog;
pub mod session_timer;
pub mod transaction;
