//! What members tell each other of themselves, what is remembered of it, and who is a stranger by it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::identity::{ClusterIdentity, DirectoryId, MemberRole, RaftId};
use crate::format::Format;
use crate::node::NodeId;
use crate::state_comparison::StateMark;
use crate::witness::LogPosition;

/// What a member says of itself whenever it meets another. All but `cluster` stay the same while its process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    pub id: RaftId,
    pub role: MemberRole,
    pub directory: DirectoryId,
    /// `None` until the directory has become part of a cluster.
    pub cluster: Option<ClusterIdentity>,
    pub start: Start,
    /// The newest format that its program reads and writes.
    pub newest_format: Format,
}

/// One start of a member's process on its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Start {
    /// Counted in the directory, from 1: written there before anybody hears of it.
    pub count: u64,
    /// Drawn at random: two processes that counted from the same directory differ in it.
    pub nonce: u64,
}

/// How far a member's log reaches at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reach {
    /// The last entry of its log, or of its snapshot where that is later.
    pub last: LogPosition,
    /// Index of the last entry in its state, as far as its own disk holds it: a leader may apply what is on the disks of
    /// others before it is on its own.
    pub applied: u64,
    /// Its log or snapshot knows of a membership: it is part of a cluster that was formed.
    pub initialized: bool,
    /// Its disk is nearly full: it is not to lead.
    pub disk_nearly_full: bool,
    /// One write to its disk takes longer than [`WRITING_MAX`](crate::health::WRITING_MAX): it is not to lead.
    pub disk_stands_still: bool,
    /// Its state after the last entry that asked for it to be marked.
    pub state_mark: Option<StateMark>,
}

/// What a member keeps in mind, and in its own directory, of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub directory: DirectoryId,
    /// The latest start that was heard of.
    pub start: Start,
    /// Its log is known to have reached this index, with entries that cannot be taken back: it said that it had applied
    /// them, or acknowledged them to this member as leader and they are committed.
    pub reached: u64,
    pub newest_format: Format,
    /// Since when (Unix milliseconds) it has run a release with that format.
    pub format_since_ms: u64,
}

/// Why a member takes no part in the cluster: its votes, entries and acknowledgements count for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Stranger {
    #[error("it belongs to another cluster ({theirs}; this one is {ours})")]
    AnotherCluster {
        theirs: ClusterIdentity,
        ours: ClusterIdentity,
    },
    #[error("it was replaced by another member, for good")]
    Removed,
    #[error("it shows another data directory ({theirs}) than the member is known by ({known})")]
    AnotherDirectory { theirs: DirectoryId, known: DirectoryId },
    #[error(
        "its data directory counts {theirs} starts, but start {heard} of it was heard of before: the directory went back \
         in time, or another process runs on a copy of it"
    )]
    EarlierStart { theirs: u64, heard: u64 },
    #[error(
        "start {count} of its data directory happened twice: there is a copy, or the directory went back in time"
    )]
    SameStartTwice { count: u64 },
    #[error(
        "its log ends at {ends_at}, but it is known to have reached {reached}: the data directory went back in time"
    )]
    LogWentBack { ends_at: u64, reached: u64 },
    #[error("it is not among the members of the cluster: its data directory is new, or was emptied")]
    Newcomer,
    #[error("it reads up to {reads}, but the cluster writes {written}")]
    EarlierRelease { reads: Format, written: Format },
}

impl Stranger {
    /// Waits for an administrator, through no fault of its data.
    #[must_use]
    pub fn is_newcomer(&self) -> bool {
        matches!(self, Self::Newcomer)
    }

    /// What whoever looks after member `own`, who is this stranger, is to do.
    #[must_use]
    pub fn way_back(&self, own: NodeId) -> String {
        match self {
            Self::EarlierRelease { .. } => "stop it, and start the current release".to_owned(),
            Self::AnotherCluster { .. }
            | Self::Removed
            | Self::AnotherDirectory { .. }
            | Self::EarlierStart { .. }
            | Self::SameStartTwice { .. }
            | Self::LogWentBack { .. }
            | Self::Newcomer => format!(
                "stop it, empty its data directory, start it again, and run `tandem-node cluster replace {own}`"
            ),
        }
    }
}

/// What a judgement is based on, besides the one who is judged.
#[derive(Debug, Clone, Copy)]
pub struct Grounds<'a> {
    pub own_cluster: Option<ClusterIdentity>,
    /// The directory was empty when it was stamped, and has not become part of a cluster yet. What it knows of the members
    /// may be what stood long ago: it is being told the log from its beginning.
    pub own_is_new: bool,
    /// The members by the latest membership, each with the directory it is known by; empty before the cluster is formed.
    pub members: &'a BTreeMap<RaftId, Option<DirectoryId>>,
    pub removed: &'a std::collections::BTreeSet<RaftId>,
    /// The format in which the cluster writes.
    pub written: Format,
}

/// Whether a member may take part, by what it says of itself.
///
/// # Errors
/// Why it may not.
pub fn judge(
    introduction: &Introduction,
    remembered: Option<&Remembered>,
    grounds: &Grounds<'_>,
) -> Result<(), Stranger> {
    if let (Some(theirs), Some(ours)) = (introduction.cluster, grounds.own_cluster)
        && theirs != ours
    {
        return Err(Stranger::AnotherCluster { theirs, ours });
    }
    if grounds.removed.contains(&introduction.id) {
        return Err(Stranger::Removed);
    }
    // Whoever is not part of a cluster yet cannot judge who is.
    if grounds.members.is_empty() {
        return Ok(());
    }
    let known = grounds.members.get(&introduction.id);
    // A member of this cluster that is not known here yet was taken in while this member lagged behind.
    let knows_its_cluster = grounds.own_cluster.is_some() || grounds.own_is_new;
    if known.is_none() && (introduction.cluster.is_none() || !knows_its_cluster) {
        return Err(Stranger::Newcomer);
    }
    let theirs = introduction.directory;
    for known in [
        known.copied().flatten(),
        remembered.map(|remembered| remembered.directory),
    ] {
        if let Some(known) = known.filter(|known| *known != theirs) {
            return Err(Stranger::AnotherDirectory { theirs, known });
        }
    }
    if let Some(remembered) = remembered {
        judge_start(introduction.start, remembered.start)?;
    }
    if introduction.newest_format < grounds.written {
        return Err(Stranger::EarlierRelease {
            reads: introduction.newest_format,
            written: grounds.written,
        });
    }
    Ok(())
}

fn judge_start(theirs: Start, heard: Start) -> Result<(), Stranger> {
    if theirs.count < heard.count {
        return Err(Stranger::EarlierStart {
            theirs: theirs.count,
            heard: heard.count,
        });
    }
    if theirs.count == heard.count && theirs.nonce != heard.nonce {
        return Err(Stranger::SameStartTwice { count: theirs.count });
    }
    Ok(())
}

/// Whether a log still holds what its member was known to hold. `reached` was known *before* the member was asked for
/// its reach: a log that grows meanwhile must not be mistaken for one that shrank. A tail that Raft itself cut off is no
/// sign, because only committed entries count.
///
/// # Errors
/// When the log ends too early.
pub fn judge_reach(reach: &Reach, reached: u64) -> Result<(), Stranger> {
    let ends_at = reach.last.index.max(reach.applied);
    if ends_at < reached {
        return Err(Stranger::LogWentBack { ends_at, reached });
    }
    Ok(())
}

impl Remembered {
    /// What is noted of a member when it is met first.
    #[must_use]
    pub fn first(introduction: &Introduction, now_ms: u64) -> Self {
        Self {
            directory: introduction.directory,
            start: introduction.start,
            reached: 0,
            newest_format: introduction.newest_format,
            format_since_ms: now_ms,
        }
    }

    /// Takes in what an accepted member says of itself; true when something of weight changed.
    pub fn note(&mut self, introduction: &Introduction, now_ms: u64) -> bool {
        let before = *self;
        self.directory = introduction.directory;
        self.start = self.start.max(introduction.start);
        if self.newest_format != introduction.newest_format {
            self.newest_format = introduction.newest_format;
            self.format_since_ms = now_ms;
        }
        *self != before
    }

    pub fn note_reached(&mut self, index: u64) {
        self.reached = self.reached.max(index);
    }
}

impl fmt::Display for Start {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "start {}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const OURS: ClusterIdentity = ClusterIdentity(7);

    fn introduction() -> Introduction {
        Introduction {
            id: RaftId::new(5, NodeId(2)),
            role: MemberRole::Node,
            directory: DirectoryId(55),
            cluster: Some(OURS),
            start: Start { count: 4, nonce: 44 },
            newest_format: Format::RELEASE_0_2,
        }
    }

    fn remembered() -> Remembered {
        Remembered::first(&introduction(), 0)
    }

    fn judged(introduction: Introduction, remembered: Option<Remembered>) -> Result<(), Stranger> {
        let members = BTreeMap::from([
            (RaftId::new(5, NodeId(2)), Some(DirectoryId(55))),
            (RaftId::new(0, NodeId(3)), None),
        ]);
        let removed = BTreeSet::from([RaftId::new(4, NodeId(2))]);
        let grounds = Grounds {
            own_cluster: Some(OURS),
            own_is_new: false,
            members: &members,
            removed: &removed,
            written: Format::RELEASE_0_2,
        };
        judge(&introduction, remembered.as_ref(), &grounds)
    }

    #[test]
    fn a_member_that_starts_again_is_a_member() {
        assert_eq!(judged(introduction(), None), Ok(()));
        assert_eq!(judged(introduction(), Some(remembered())), Ok(()));
        let again = Introduction {
            start: Start { count: 5, nonce: 1 },
            ..introduction()
        };
        assert_eq!(judged(again, Some(remembered())), Ok(()));
    }

    #[test]
    fn each_way_of_being_a_stranger_has_its_name() {
        let id = |generation| RaftId::new(generation, NodeId(2));
        let start = |count, nonce| Start { count, nonce };
        let cases = [
            (
                Introduction {
                    cluster: Some(ClusterIdentity(8)),
                    ..introduction()
                },
                Stranger::AnotherCluster {
                    theirs: ClusterIdentity(8),
                    ours: OURS,
                },
            ),
            (
                Introduction {
                    id: id(4),
                    ..introduction()
                },
                Stranger::Removed,
            ),
            (
                Introduction {
                    id: id(6),
                    cluster: None,
                    ..introduction()
                },
                Stranger::Newcomer,
            ),
            (
                Introduction {
                    directory: DirectoryId(56),
                    ..introduction()
                },
                Stranger::AnotherDirectory {
                    theirs: DirectoryId(56),
                    known: DirectoryId(55),
                },
            ),
            (
                Introduction {
                    start: start(3, 9),
                    ..introduction()
                },
                Stranger::EarlierStart { theirs: 3, heard: 4 },
            ),
            (
                Introduction {
                    start: start(4, 9),
                    ..introduction()
                },
                Stranger::SameStartTwice { count: 4 },
            ),
            (
                Introduction {
                    newest_format: Format::RELEASE_0_1,
                    ..introduction()
                },
                Stranger::EarlierRelease {
                    reads: Format::RELEASE_0_1,
                    written: Format::RELEASE_0_2,
                },
            ),
        ];
        for (introduction, stranger) in cases {
            assert_eq!(judged(introduction, Some(remembered())), Err(stranger));
        }
    }

    #[test]
    fn a_member_that_was_taken_in_meanwhile_is_none_the_less_one() {
        let taken_in = Introduction {
            id: RaftId::new(6, NodeId(2)),
            directory: DirectoryId(66),
            ..introduction()
        };
        assert_eq!(judged(taken_in, None), Ok(()));
    }

    #[test]
    fn what_was_heard_before_names_the_directory_where_the_membership_does_not() {
        let of_release_0_1 = Introduction {
            id: RaftId::new(0, NodeId(3)),
            ..introduction()
        };
        assert_eq!(judged(of_release_0_1, None), Ok(()));
        let other = Remembered {
            directory: DirectoryId(1),
            ..remembered()
        };
        assert_eq!(
            judged(of_release_0_1, Some(other)),
            Err(Stranger::AnotherDirectory {
                theirs: DirectoryId(55),
                known: DirectoryId(1)
            })
        );
    }

    #[test]
    fn before_a_cluster_is_formed_everybody_may_take_part() {
        let nobody = BTreeMap::new();
        let removed = BTreeSet::new();
        let grounds = Grounds {
            own_cluster: None,
            own_is_new: true,
            members: &nobody,
            removed: &removed,
            written: Format::RELEASE_0_1,
        };
        assert_eq!(judge(&introduction(), None, &grounds), Ok(()));
    }

    /// The log begins with members that were replaced since, and the leader may be one of those who came later.
    #[test]
    fn a_new_member_that_is_told_the_log_refuses_no_member_that_came_later() {
        let at_first = BTreeMap::from([(RaftId::new(1, NodeId(2)), Some(DirectoryId(11)))]);
        let removed = BTreeSet::new();
        let judged = |introduction: Introduction, own_is_new: bool| {
            let grounds = Grounds {
                own_cluster: None,
                own_is_new,
                members: &at_first,
                removed: &removed,
                written: Format::RELEASE_0_1,
            };
            judge(&introduction, None, &grounds)
        };
        assert_eq!(judged(introduction(), true), Ok(()));
        let emptied = Introduction {
            cluster: None,
            ..introduction()
        };
        assert_eq!(judged(emptied, true), Err(Stranger::Newcomer));
        // A directory of release 0.1 has been a member all the time, and belongs to no cluster that others could name.
        assert_eq!(judged(introduction(), false), Err(Stranger::Newcomer));
    }

    #[test]
    fn a_log_may_lose_its_tail_but_nothing_that_was_committed() {
        let reach = |last, applied| Reach {
            last: LogPosition { term: 1, index: last },
            applied,
            initialized: true,
            disk_nearly_full: false,
            disk_stands_still: false,
            state_mark: None,
        };
        assert_eq!(judge_reach(&reach(10, 8), 10), Ok(()));
        // A snapshot was installed and the log behind it not purged yet.
        assert_eq!(judge_reach(&reach(3, 10), 10), Ok(()));
        let back = Stranger::LogWentBack {
            ends_at: 9,
            reached: 10,
        };
        assert_eq!(judge_reach(&reach(9, 8), 10), Err(back));
    }

    #[test]
    fn what_is_remembered_only_grows() {
        let mut remembered = remembered();
        remembered.note_reached(7);
        remembered.note_reached(5);
        assert_eq!(remembered.reached, 7);
        assert!(!remembered.note(&introduction(), 9), "nothing new");
        let upgraded = Introduction {
            newest_format: Format(3),
            ..introduction()
        };
        assert!(remembered.note(&upgraded, 9));
        assert_eq!(
            (remembered.newest_format, remembered.format_since_ms),
            (Format(3), 9)
        );
    }
}
