//! What networks, clocks, disks and operators do to a Tandem, with every member in a network namespace of its own.
//!
//! Every test makes its own network and is gone with it; nothing of the host's is touched. The judges are the ledger of
//! what was acknowledged, the clients' books and the PBX's command log.
#![allow(clippy::unwrap_used, reason = "a story stops where it finds something")]
#![expect(clippy::disallowed_methods, reason = "stories measure what clients waited")]

mod faults;
