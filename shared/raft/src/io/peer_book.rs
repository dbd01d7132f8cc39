//! What this member knows of the others, and whether each may take part.
//!
//! Owns the file `peers`, in which the latest start and the reach of every member's log are kept from one start to the
//! next: a directory that went back in time is known by it. Does not own the rules; they are `cluster::membership`'s.
//! What always holds: what is remembered of a member only grows, and only while it is no stranger.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tandem_cluster::membership::{Introduction, Reach, Remembered, Start, Stranger};
use tandem_cluster::{NodeId, RaftId};

use super::peer_pages::{Baseline, Pages, Present, Standing, Unsaved};
use super::small_file;
use tandem_runtime::io::environment::files::Files;

pub(super) struct PeerBook {
    files: Arc<dyn Files>,
    wall_clock_ms: fn() -> u64,
    pages: Mutex<Pages>,
    /// Held while the file is written: on a slow disk the next time to save comes before the last has ended.
    saving: tokio::sync::Mutex<()>,
}

impl PeerBook {
    pub(super) fn open(files: Arc<dyn Files>, wall_clock_ms: fn() -> u64) -> io::Result<Self> {
        let remembered: Vec<(RaftId, Remembered)> = small_file::load(&*files, NAME)?.unwrap_or_default();
        Ok(Self {
            files,
            wall_clock_ms,
            pages: Mutex::new(Pages {
                remembered: remembered.into_iter().collect(),
                ..Pages::default()
            }),
            saving: tokio::sync::Mutex::default(),
        })
    }

    /// To be taken before a member is asked for its reach.
    pub(super) fn baseline(&self) -> Baseline {
        let pages = self.pages();
        let reached = pages.remembered.iter();
        Baseline(
            reached
                .map(|(id, remembered)| (*id, remembered.reached))
                .collect(),
        )
    }

    /// Takes in what a member says of itself, and judges it. `reach` was told in answer to a question that was asked after
    /// the baseline was taken.
    pub(super) fn meet(
        &self,
        introduction: &Introduction,
        reach: &Reach,
        baseline: &Baseline,
    ) -> Result<(), Stranger> {
        let now_ms = (self.wall_clock_ms)();
        self.pages().meet(introduction, reach, baseline, now_ms)
    }

    /// A member acknowledged, to this member as leader, entries up to `index`, which are committed.
    pub(super) fn note_holds(&self, id: RaftId, index: u64) {
        let mut pages = self.pages();
        if let Some(remembered) = pages.remembered.get_mut(&id)
            && remembered.reached < index
        {
            remembered.reached = index;
            pages.unsaved = pages.unsaved.max(Unsaved::Reach);
        }
    }

    /// The process that answered under this number, if it was that start of it, has ended or cannot be reached: whoever
    /// answers next is seen.
    pub(super) fn note_gone(&self, number: NodeId, start: Start) {
        let mut pages = self.pages();
        if let Some(present) = pages.present.get_mut(&number)
            && present.introduction.start == start
        {
            present.gone = true;
        }
    }

    /// A member denied an entry that it is known to have held: its log went back.
    pub(super) fn note_denied(&self, id: RaftId, index: u64) -> bool {
        let mut pages = self.pages();
        let reached = pages
            .remembered
            .get(&id)
            .map_or(0, |remembered| remembered.reached);
        if index > reached {
            return false;
        }
        let ends_at = index.saturating_sub(1);
        let back = Stranger::LogWentBack { ends_at, reached };
        if let Some(present) = pages.present_as(id) {
            present.stranger = Some(back);
            let start = present.introduction.start;
            pages.note_back((id, start), back);
        }
        true
    }

    /// From now on members are judged by this.
    pub(super) fn stand(&self, standing: Standing) {
        let mut pages = self.pages();
        if pages.standing != standing {
            pages.standing = standing;
            pages.judge_again();
        }
    }

    /// What a member says on whether this one may take part.
    pub(super) fn note_told(&self, by: NodeId, stranger: Option<Stranger>) {
        let mut pages = self.pages();
        match stranger {
            Some(stranger) => pages.told.insert(by, stranger),
            None => pages.told.remove(&by),
        };
    }

    /// Why this member itself may not take part, and who says so. A member that lags behind may not know this one yet,
    /// and what a stranger says does not count.
    pub(super) fn own_stranger(&self) -> Option<(NodeId, Stranger)> {
        let pages = self.pages();
        let mut told = pages.told.iter();
        let found = told.find(|(by, stranger)| {
            let by_member = pages.present.get(by).is_some_and(|by| by.stranger.is_none());
            by_member && !stranger.is_newcomer()
        });
        found.map(|(by, stranger)| (*by, *stranger))
    }

    /// Those who say that this member is new to them.
    pub(super) fn says_newcomer(&self) -> Option<NodeId> {
        let pages = self.pages();
        let mut told = pages.told.iter();
        told.find(|(_, stranger)| stranger.is_newcomer())
            .map(|(by, _)| *by)
    }

    /// Whether requests may go to this member and its answers count.
    pub(super) fn takes_part(&self, id: RaftId) -> bool {
        let mut pages = self.pages();
        pages
            .present_as(id)
            .is_some_and(|present| present.stranger.is_none())
    }

    /// Whether requests of this member are answered.
    pub(super) fn may_ask(&self, introduction: &Introduction) -> Result<(), Stranger> {
        self.pages().judge(introduction)
    }

    pub(super) fn present(&self, number: NodeId) -> Option<Present> {
        self.pages().present.get(&number).copied()
    }

    pub(super) fn all_present(&self) -> BTreeMap<NodeId, Present> {
        self.pages().present.clone()
    }

    pub(super) fn remembered(&self, id: RaftId) -> Option<Remembered> {
        self.pages().remembered.get(&id).copied()
    }

    pub(super) fn unsaved(&self) -> Unsaved {
        self.pages().unsaved
    }

    /// Writes down what is remembered.
    pub(super) async fn save(&self) -> io::Result<()> {
        let _saving = self.saving.lock().await;
        let remembered: Vec<(RaftId, Remembered)> = {
            let mut pages = self.pages();
            pages.unsaved = Unsaved::Nothing;
            pages
                .remembered
                .iter()
                .map(|(id, remembered)| (*id, *remembered))
                .collect()
        };
        small_file::replace(self.files.clone(), NAME, &remembered).await
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far the log of a member is known to reach, by a data directory's own file: for tests that put directories back.
#[doc(hidden)]
#[must_use]
pub fn remembered_reach(files: &dyn Files, number: NodeId) -> Option<u64> {
    let remembered: Vec<(RaftId, Remembered)> = small_file::load(files, NAME).ok()??;
    let of_member = remembered.iter().filter(|(id, _)| id.member() == number);
    of_member.map(|(_, remembered)| remembered.reached).max()
}

const NAME: &str = "peers";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::super::peer_pages::ANSWER_FRESH;
    use super::*;
    use tandem_cluster::MemberRole;
    use tandem_cluster::membership::Start;
    use tandem_cluster::witness::LogPosition;
    use tandem_cluster::{ClusterIdentity, DirectoryId, Format};
    use tandem_runtime::io::environment::simulated::SimulatedFiles;

    const OURS: ClusterIdentity = ClusterIdentity(7);

    fn id() -> RaftId {
        RaftId::new(5, NodeId(2))
    }

    fn introduction(count: u64, nonce: u64) -> Introduction {
        Introduction {
            id: id(),
            role: MemberRole::Node,
            directory: DirectoryId(55),
            cluster: Some(OURS),
            start: Start { count, nonce },
            newest_format: Format::RELEASE_0_2,
        }
    }

    fn reach(index: u64) -> Reach {
        Reach {
            last: LogPosition { term: 1, index },
            applied: index,
            initialized: true,
            disk_nearly_full: false,
            disk_stands_still: false,
            state_mark: None,
        }
    }

    fn book(files: &SimulatedFiles) -> PeerBook {
        let book = PeerBook::open(Arc::new(files.clone()), || 0).unwrap();
        book.stand(Standing {
            own_cluster: Some(OURS),
            own_is_new: false,
            members: BTreeMap::from([(id(), Some(DirectoryId(55)))]),
            removed: BTreeSet::new(),
            written: Format::RELEASE_0_2,
        });
        book
    }

    fn disk() -> SimulatedFiles {
        SimulatedFiles::new(1, Duration::ZERO)
    }

    #[tokio::test]
    async fn a_directory_that_went_back_is_known_after_a_restart() {
        let files = disk();
        let first = book(&files);
        first
            .meet(&introduction(3, 33), &reach(100), &first.baseline())
            .unwrap();
        assert_eq!(first.unsaved(), Unsaved::Start);
        first.save().await.unwrap();
        assert_eq!(first.unsaved(), Unsaved::Nothing);
        files.crash();

        let second = book(&files);
        let baseline = second.baseline();
        // An hour ago it had counted three starts as well: this is the fourth.
        let stranger = second
            .meet(&introduction(4, 44), &reach(60), &baseline)
            .unwrap_err();
        let back = Stranger::LogWentBack {
            ends_at: 60,
            reached: 100,
        };
        assert_eq!(stranger, back);
        assert!(!second.takes_part(id()));
        assert_eq!(second.may_ask(&introduction(4, 44)), Err(back));
    }

    #[tokio::test(start_paused = true)]
    async fn a_book_that_is_saved_twice_at_once_is_saved() {
        let files = SimulatedFiles::new(1, Duration::from_millis(20));
        let first = book(&files);
        let introduction = introduction(3, 33);
        first.meet(&introduction, &reach(100), &first.baseline()).unwrap();
        let earlier = first.save();
        let later = async {
            first.meet(&introduction, &reach(200), &first.baseline()).unwrap();
            first.save().await
        };
        let (earlier, later) = tokio::join!(earlier, later);
        earlier.unwrap();
        later.unwrap();
        files.crash();
        assert_eq!(remembered_reach(&files, id().member()), Some(200));
    }

    #[test]
    fn a_log_that_grows_while_it_is_asked_has_not_shrunk() {
        let book = book(&disk());
        book.meet(&introduction(3, 33), &reach(100), &book.baseline())
            .unwrap();
        let asked = book.baseline();
        book.note_holds(id(), 120);
        book.meet(&introduction(3, 33), &reach(110), &asked).unwrap();
        assert!(book.takes_part(id()));
    }

    #[test]
    fn the_process_that_goes_on_is_not_hidden_by_one_that_is_outdated() {
        let book = book(&disk());
        let baseline = book.baseline();
        book.meet(&introduction(3, 33), &reach(10), &baseline).unwrap();
        book.meet(&introduction(4, 44), &reach(10), &baseline).unwrap();
        book.meet(&introduction(3, 33), &reach(10), &baseline)
            .unwrap_err();
        assert!(book.takes_part(id()));
        assert!(book.may_ask(&introduction(3, 33)).is_err());
        assert_eq!(book.may_ask(&introduction(4, 44)), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_answers_is_seen_once_the_former_process_does_not() {
        let book = book(&disk());
        let baseline = book.baseline();
        book.meet(&introduction(3, 33), &reach(10), &baseline).unwrap();
        let emptied = emptied();
        let meet = || book.meet(&emptied, &reach(0), &baseline).unwrap_err();
        assert_eq!(meet(), Stranger::Newcomer);
        assert_eq!(book.present(NodeId(2)).unwrap().introduction, introduction(3, 33));
        tokio::time::advance(ANSWER_FRESH * 2).await;
        assert_eq!(meet(), Stranger::Newcomer);
        assert_eq!(book.present(NodeId(2)).unwrap().introduction, emptied);
    }

    /// A copy of a directory counts one more start; the member itself goes on beside it.
    #[test]
    fn a_later_start_on_a_log_that_went_back_takes_no_part_whoever_answers() {
        let book = book(&disk());
        let (member, copy) = (introduction(3, 33), introduction(4, 44));
        book.meet(&member, &reach(100), &book.baseline()).unwrap();
        for _ in 0..2 {
            book.meet(&copy, &reach(60), &book.baseline()).unwrap_err();
            assert!(book.may_ask(&copy).is_err());
            assert!(book.takes_part(id()), "the member is not hidden by it");
            assert_eq!(book.may_ask(&member), Ok(()));
            book.meet(&member, &reach(100), &book.baseline()).unwrap();
        }
        assert!(book.may_ask(&copy).is_err());
    }

    #[test]
    fn whoever_answers_after_a_member_has_ended_is_seen() {
        let book = book(&disk());
        let (member, newcomer) = (introduction(3, 33), emptied());
        book.meet(&member, &reach(100), &book.baseline()).unwrap();
        book.meet(&newcomer, &reach(0), &book.baseline()).unwrap_err();
        let present = || book.present(NodeId(2)).unwrap();
        assert_eq!(present().introduction, member, "the member goes on");
        book.note_gone(NodeId(2), newcomer.start);
        assert!(
            present().answers_within(Duration::from_secs(60)),
            "another has ended"
        );
        book.note_gone(NodeId(2), member.start);
        assert!(!present().answers_within(Duration::from_secs(60)));
        book.meet(&newcomer, &reach(0), &book.baseline()).unwrap_err();
        assert_eq!(
            (present().introduction, present().stranger),
            (newcomer, Some(Stranger::Newcomer))
        );
    }

    /// Member 2 with an empty disk.
    fn emptied() -> Introduction {
        Introduction {
            id: RaftId::new(6, NodeId(2)),
            directory: DirectoryId(66),
            cluster: None,
            ..introduction(1, 11)
        }
    }

    #[test]
    fn a_follower_that_denies_what_it_had_is_a_stranger() {
        let book = book(&disk());
        book.meet(&introduction(3, 33), &reach(100), &book.baseline())
            .unwrap();
        assert!(!book.note_denied(id(), 101), "a tail that was not committed");
        assert!(book.takes_part(id()));
        assert!(book.note_denied(id(), 100));
        assert!(!book.takes_part(id()));
        // A new membership does not forgive it.
        book.stand(Standing {
            own_cluster: Some(OURS),
            ..Standing::default()
        });
        assert!(!book.takes_part(id()));
    }

    #[test]
    fn what_strangers_say_of_this_member_counts_for_nothing() {
        let book = book(&disk());
        let removed = Some(Stranger::Removed);
        book.note_told(NodeId(2), removed);
        assert_eq!(book.own_stranger(), None, "not met yet");
        book.meet(&introduction(3, 33), &reach(0), &book.baseline())
            .unwrap();
        assert_eq!(book.own_stranger(), Some((NodeId(2), Stranger::Removed)));
        book.note_told(NodeId(2), Some(Stranger::Newcomer));
        assert_eq!(book.own_stranger(), None, "it may lag behind");
        assert_eq!(book.says_newcomer(), Some(NodeId(2)));
        book.note_told(NodeId(2), None);
        assert_eq!(book.says_newcomer(), None);
    }
}
