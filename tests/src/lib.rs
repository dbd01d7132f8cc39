//! Simulated peers, the harness that runs real processes, and the lab for simulated worlds.
//!
//! The peers in [`peers`] judge Tandem: they share its SIP framing, and nothing else of its code, so that a
//! mistake in the product is not repeated by its judge. [`cluster`] starts the real binaries on a private
//! loopback address; [`scenario`] has the steps that the stories and the demo have in common; [`world`] is a whole Tandem in
//! one simulated process.
#![expect(
    clippy::disallowed_methods,
    reason = "peers and harness are the outside world: they have clocks"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a broken harness should stop at once and say where"
)]

pub mod actor;
pub mod cluster;
pub mod figures;
pub mod linearizability;
pub mod peers;
pub mod raft_lab;
pub mod samples;
pub mod scenario;
pub mod tools;
pub mod world;
pub mod xml;
