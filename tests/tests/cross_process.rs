//! Real processes, TCP, Raft and signals: one file per story.
//!
//! Every story starts a Tandem of its own and lets the simulated clients and the PBX's command log judge. Run
//! one at a time on a small machine; `./test` does.
#![allow(clippy::unwrap_used, reason = "a story stops where it finds something")]
#![expect(clippy::disallowed_methods, reason = "stories measure what clients waited")]

mod stories;
