//! Who is a member of the cluster, and who only claims to be.
//!
//! Owns the identities that members show each other (cluster, directory, Raft id, start), what a member remembers of
//! the others, and the rules that follow: who is a stranger, when a cluster may be formed, and the steps that put a new
//! member into a former one's seat. Does not own connections, files or the Raft log. What always holds: a directory
//! that was emptied, copied or put back to an earlier time is never taken for the one whose acknowledgements counted.

mod identity;

pub use identity::{ClusterIdentity, DirectoryId, MemberRecord, MemberRole, RaftId};
