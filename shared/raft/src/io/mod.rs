//! The Raft group: every member's log, its connections to the others, and the one handle, [`Cluster`], through
//! which the rest of a binary proposes commands and reads the replicated state.
//!
//! Owns the durable log and snapshots, the wire protocol between members, elections and everything that makes
//! them quick. Does not own what a command means (`cluster::state`) nor when a member should campaign or hand
//! its lead over (`cluster::witness`). openraft is a pre-release and stays behind this module.
//!
//! What always holds: a command that [`Cluster::propose`] called applied is on the disks of a majority; vote and
//! entries reach the disk in the order in which openraft wrote them; a member whose disk failed stops for good.

mod administration;
mod administration_steps;
mod answering;
mod changes;
mod config;
mod conflict;
#[cfg(test)]
mod crash_tests;
mod directory;
mod errors;
#[cfg(test)]
mod foreign_tests;
#[cfg(test)]
mod format_tests;
mod formats;
mod forming;
mod frame;
#[cfg(test)]
mod full_disk_tests;
#[cfg(test)]
mod golden_tests;
mod guardian;
mod handle;
mod kept_log;
mod link;
mod link_driver;
mod link_requests;
mod log_scan;
mod log_storage;
mod log_store;
mod log_writer;
mod marks;
mod member;
mod members_view;
mod messages;
mod metrics;
mod network;
mod peer_book;
mod peer_pages;
mod peer_status;
mod proposing;
mod raft_requests;
mod record;
mod recovery;
#[cfg(test)]
mod recovery_tests;
mod refusals;
mod release;
#[cfg(test)]
mod release_0_1_tests;
mod replica;
mod segments;
mod server;
mod small_file;
mod snapshot_builder;
mod snapshot_file;
mod snapshot_intake;
mod snapshot_pace;
mod snapshot_sending;
mod snapshot_store;
#[cfg(test)]
mod snapshot_tests;
mod snapshot_transfer;
mod starting;
mod state_machine;
mod status;
mod stopped_member;
mod storage;
mod stored;
mod stored_0_1;
mod stored_snapshot;
mod type_config;
mod whole_file;

pub use administration::AdministrationError;
pub use changes::ChangeReceiver;
pub use config::{ClusterConfig, Member, Timings};
pub use directory::DirectoryError;
pub use errors::{ProposeError, StartError, StopReason};
pub use handle::Cluster;
pub use members_view::{FormatView, MemberView, MembersView, StateMarkView};
pub use metrics::RaftMetrics;
pub use peer_book::remembered_reach;
pub use snapshot_store::write_snapshot;
pub use status::{ClusterStatus, RaftRole};
pub use stopped_member::{StoppedMember, probe_disk};
