//! Who is a member of the cluster, and who only claims to be.
//!
//! Owns the identities that members show each other (cluster, directory, Raft id, start), what a member remembers of
//! the others, and the rules that follow: who is a stranger, when a cluster may be formed, and the steps that put a new
//! member into a former one's seat. Does not own connections, files or the Raft log. What always holds: a directory
//! that was emptied, copied or put back to an earlier time is never taken for the one whose acknowledgements counted.

mod address;
mod formation;
mod identity;
mod introduction;
mod list;
mod replacement;

pub use address::{MemberAddress, NoMemberAddress};
pub use formation::{Answer, Candidate, Formation, formation};
pub use identity::{ClusterIdentity, DirectoryId, MemberRecord, MemberRole, RaftId};
pub use introduction::{Grounds, Introduction, Reach, Remembered, Start, Stranger, judge, judge_reach};
pub use list::{ListedMember, list_difference};
pub use replacement::{Blocked, Newcomer, ReplacementView, Step, next_step};
