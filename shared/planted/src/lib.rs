//! Bugs that are planted on purpose, to learn whether the tests would find them.
//!
//! Each stands at the place in the product where a slip would put it, behind a call of [`planted`]. None is there in
//! a build without the feature `planted`, nor in any release build: the call is `false` then, and the compiler takes
//! it out. Where they are compiled in, all are asleep but the one that was chosen, by `choose` or by the environment
//! variable [`CHOICE`], for the whole life of the process.

/// What goes wrong once it is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// An entry of the log is acknowledged when it is queued for the disk: a crash loses what others count on.
    AppendBeforeSync,
    /// `apply` takes the command of a former owner: two nodes act for one session.
    EpochUnchecked,
    /// A lost node counts among those that may succeed it: some of its sessions stay with nobody.
    SuccessorAmongAll,
    /// The client is told 200 when its session is proposed: a session that is never committed was promised.
    AnswerBeforeCommit,
    /// A repeated request finds its intent and is carried out all the same: the PBX dials twice.
    DuplicateIntentExecuted,
    /// A snapshot holds neither intents nor opening results: whoever starts from it repeats commands.
    SnapshotWithoutIntents,
    /// A vote is forgotten with the process: a member votes twice in one term, and two leaders come of it.
    VoteNotPersisted,
    /// The name of a new segment is not synced: a crash takes the whole file, with all that was acknowledged in it.
    DirectoryNotSynced,
    /// The front end lets every node speak for every session: the client hears two owners.
    FenceOff,
    /// News of the loss of an earlier life counts against the present one: a node that runs loses its sessions.
    LossOfAnyIncarnation,
    /// A member that was brought up to date by a snapshot tells nobody: its node goes on with what it knew.
    SnapshotInstalledUntold,
    /// A proposal of which nothing is known is reported as applied.
    UnknownOutcomeApplied,
    /// A node without a majority goes on although others may have one.
    IsolatedNodeGoesOn,
    /// A session changes hands under the same epoch: what its former owner still says is believed.
    EpochStays,
    /// The PBX is told what to do while the intent is under way: a successor cannot know of it.
    CommandNotHeldForIntent,
    /// The witness never campaigns: entries that it alone holds keep every node from the lead.
    WitnessNeverLeads,
    /// A node does not notice that it was declared lost: it goes on with sessions that were given to others.
    OwnLossUnnoticed,
    /// Recovery keeps the first entry that was truncated, and not what came in its place: a log differs from the leader's.
    TruncatedEntryRecovered,
    /// A snapshot names one entry more than it holds: that entry is never applied after a restart.
    SnapshotNamesLaterEntry,
    /// The death of the leader's process is seen and not acted on: every take-over waits for timeouts.
    NoFastTakeOver,
    /// An answer settles the latest request of its method, whichever transaction it names.
    AnswerToAnotherTransaction,
    /// A request that a node may have seen goes out as if it were new: the next node does not look for its intent.
    ResentUnmarked,
    /// A request whose dialog has come back to its former owner is kept until it is too late.
    ReturnedDialogForgotten,
    /// A monitor ends with the first of the sessions that share it: the others hear nothing any more.
    SharedMonitorFreed,
    /// An event of a call goes out before the answer that names the call.
    EventBeforeAnswer,
    /// Of two events that wait for a client, the later one goes out first.
    EventsOutOfOrder,
    /// A new owner counts its requests from where its predecessor began: the client takes them for old ones.
    CseqBlockTwice,
    /// An error about one user counts as a failure of the CAS: one mailbox that is gone takes it from everybody.
    UserErrorCountsForCas,
    /// The edge of a meeting is taken for local time, an hour east of where it is.
    EdgeInLocalTime,
    /// A notification for a user of another node is refused: Exchange gives the subscription up.
    ForeignCallbackRefused,
    /// One request more than allowed may wait behind a held dialog.
    LimitOffByOne,
    /// A session whose node is cut off expires on time, with a BYE, although another node may own it.
    IsolatedSessionExpires,
}

impl Bug {
    pub const ALL: [Self; 32] = [
        Self::AppendBeforeSync,
        Self::EpochUnchecked,
        Self::SuccessorAmongAll,
        Self::AnswerBeforeCommit,
        Self::DuplicateIntentExecuted,
        Self::SnapshotWithoutIntents,
        Self::VoteNotPersisted,
        Self::DirectoryNotSynced,
        Self::FenceOff,
        Self::LossOfAnyIncarnation,
        Self::SnapshotInstalledUntold,
        Self::UnknownOutcomeApplied,
        Self::IsolatedNodeGoesOn,
        Self::EpochStays,
        Self::CommandNotHeldForIntent,
        Self::WitnessNeverLeads,
        Self::OwnLossUnnoticed,
        Self::TruncatedEntryRecovered,
        Self::SnapshotNamesLaterEntry,
        Self::NoFastTakeOver,
        Self::AnswerToAnotherTransaction,
        Self::ResentUnmarked,
        Self::ReturnedDialogForgotten,
        Self::SharedMonitorFreed,
        Self::EventBeforeAnswer,
        Self::EventsOutOfOrder,
        Self::CseqBlockTwice,
        Self::UserErrorCountsForCas,
        Self::EdgeInLocalTime,
        Self::ForeignCallbackRefused,
        Self::LimitOffByOne,
        Self::IsolatedSessionExpires,
    ];

    /// As [`CHOICE`] spells it.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// The bug of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

/// Names the bug of a process in its environment. Read by builds with planted bugs alone.
pub const CHOICE: &str = "TANDEM_PLANTED_BUG";

#[cfg(all(feature = "planted", debug_assertions))]
pub use self::awake::{choose, planted};

/// Whether this bug is to show itself: never, in a build like this.
#[cfg(not(all(feature = "planted", debug_assertions)))]
#[inline]
#[must_use]
pub const fn planted(_: Bug) -> bool {
    false
}

#[cfg(all(feature = "planted", debug_assertions))]
mod awake {
    use std::sync::OnceLock;

    use super::{Bug, CHOICE};

    static CHOSEN: OnceLock<Option<Bug>> = OnceLock::new();

    /// Whether this bug is the one that was chosen.
    #[must_use]
    pub fn planted(bug: Bug) -> bool {
        *CHOSEN.get_or_init(named_in_the_environment) == Some(bug)
    }

    /// Chooses the bug of this process, before anything runs that could show one.
    ///
    /// # Panics
    /// When it is too late.
    pub fn choose(bug: Bug) {
        assert!(CHOSEN.set(Some(bug)).is_ok(), "a bug is chosen once, and first");
    }

    fn named_in_the_environment() -> Option<Bug> {
        let name = std::env::var(CHOICE).ok()?;
        let bug = Bug::named(&name);
        assert!(bug.is_some(), "{CHOICE} names no bug: {name}");
        bug
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_is_found_by_its_name_and_listed_once() {
        for (place, bug) in Bug::ALL.into_iter().enumerate() {
            assert_eq!(bug as usize, place);
            assert_eq!(Bug::named(&bug.name()), Some(bug));
        }
        assert_eq!(Bug::named(""), None);
    }
}
