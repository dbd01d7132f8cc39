//! The replicated state: what every member of the cluster agrees on.
//!
//! Owns the commands that may stand in the Raft log and the one function that applies them. Does not own the
//! log, the network or any clock: `apply` takes no time and draws no random number, and every map is ordered,
//! so that all members that applied the same log hold the same bytes. Whatever varies between machines is
//! decided by the proposer and travels inside the command.

pub mod assignment;
pub mod authority;
pub mod command;
pub mod disk_space;
pub mod format;
#[cfg(test)]
mod golden_samples_tests;
#[cfg(test)]
mod golden_tests;
pub mod health;
pub mod membership;
pub mod node;
pub mod presence;
pub mod proposal;
pub mod sealed_secret;
pub mod session;
pub mod snapshot_schedule;
pub mod stable_hash;
pub mod state;
pub mod state_comparison;
pub mod witness;

pub use assignment::{Assignment, AssignmentReason, CasEndpoint, CasGateway, CasId};
pub use authority::Authority;
pub use command::{Applied, CalendarChange, Change, Command, Refusal, SessionChange, WatcherChange};
pub use disk_space::{DiskSpace, DiskSpaceLimits};
pub use format::Format;
pub use membership::{ClusterIdentity, DirectoryId, MemberAddress, MemberRecord, MemberRole, RaftId};
pub use node::{Incarnation, NodeId, NodeRecord, NodeState, successor, successor_of_user};
pub use presence::{
    CalendarPresence, CalendarState, CallbackNote, ManualPresence, ManualState, PresenceRecord, WatcherRecord,
};
pub use proposal::{Actor, Proposal};
pub use sealed_secret::{KeyCheck, SealedSecret};
pub use session::{
    CallRecord, CallState, ConnectionId, DialogRecord, Epoch, IntentOperation, IntentRecord, MonitorRecord,
    OpeningKey, OpeningResult, RequestKey, SessionKey, SessionRecord,
};
pub use state::{
    CasMove, ClusterState, LayoutError, PIECE_BYTES, Pieces, SessionMove, SettingKind, SettingName,
    StateLimits, UnderWay, WithoutGrowth,
};
