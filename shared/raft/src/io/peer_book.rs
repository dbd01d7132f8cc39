//! What this member knows of the others, and whether each may take part.
//!
//! Owns the file `peers`, in which the latest start and the reach of every member's log are kept from one start to the
//! next: a directory that went back in time is known by it. Does not own the rules; they are `cluster::membership`'s.
//! What always holds: what is remembered of a member only grows, and only while it is no stranger.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use tandem_cluster::membership::{
    Grounds, Introduction, Reach, Remembered, Start, Stranger, judge, judge_reach,
};
use tandem_cluster::{ClusterIdentity, DirectoryId, Format, NodeId, RaftId};

use super::small_file;
use tandem_runtime::io::environment::files::Files;

pub(super) struct PeerBook {
    files: Arc<dyn Files>,
    wall_clock_ms: fn() -> u64,
    pages: Mutex<Pages>,
    /// Held while the file is written: on a slow disk the next time to save comes before the last has ended.
    saving: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Pages {
    remembered: BTreeMap<RaftId, Remembered>,
    /// Who answers under each number now.
    present: BTreeMap<NodeId, Present>,
    standing: Standing,
    /// Processes whose log has been found to end too early, whoever answers under their number now.
    went_back: BTreeMap<(RaftId, Start), Stranger>,
    /// What the others say of this member, where they take it for a stranger.
    told: BTreeMap<NodeId, Stranger>,
    unsaved: Unsaved,
}

/// One who answers under a member's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Present {
    pub(super) introduction: Introduction,
    /// As of its last answer.
    pub(super) reach: Reach,
    pub(super) stranger: Option<Stranger>,
    /// When it answered last.
    pub(super) met: Instant,
    /// The connection to its process has ended since.
    pub(super) gone: bool,
}

impl Present {
    /// It has answered within this time, and the connection to it has not ended since.
    pub(super) fn answers_within(&self, time: Duration) -> bool {
        !self.gone && self.met.elapsed() < time
    }
}

/// What judgements are based on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Standing {
    pub(super) own_cluster: Option<ClusterIdentity>,
    pub(super) own_is_new: bool,
    pub(super) members: BTreeMap<RaftId, Option<DirectoryId>>,
    pub(super) removed: BTreeSet<RaftId>,
    pub(super) written: Format,
}

/// How far members' logs were known to reach before one of them was asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Baseline(BTreeMap<RaftId, u64>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Unsaved {
    #[default]
    Nothing,
    /// Logs have grown: worth a write now and then.
    Reach,
    /// A member started, or is new.
    Start,
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

    /// A member's word on whether this one may take part.
    pub(super) fn note_told(&self, by: NodeId, stranger: Option<Stranger>) {
        let mut pages = self.pages();
        match stranger {
            Some(stranger) => pages.told.insert(by, stranger),
            None => pages.told.remove(&by),
        };
    }

    /// Why this member itself may not take part, and who says so. A member that lags behind may not know this one yet,
    /// and a stranger's word counts for nothing.
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

impl Pages {
    fn meet(
        &mut self,
        introduction: &Introduction,
        reach: &Reach,
        baseline: &Baseline,
        now_ms: u64,
    ) -> Result<(), Stranger> {
        let id = introduction.id;
        let reached = baseline.0.get(&id).copied().unwrap_or(0);
        let process = (id, introduction.start);
        match judge_reach(reach, reached) {
            Ok(()) => drop(self.went_back.remove(&process)),
            Err(back) => self.note_back(process, back),
        }
        let judged = self.judge(introduction);
        let number = id.member();
        let replaces = self.present.get(&number).is_none_or(|present| {
            // A process that is outdated does not hide the one that goes on, as long as that one answers.
            let goes_on = present.answers_within(ANSWER_FRESH) && present.stranger.is_none();
            judged.is_ok() || present.introduction.start == introduction.start || !goes_on
        });
        if replaces {
            let present = Present {
                introduction: *introduction,
                reach: *reach,
                stranger: judged.err(),
                met: Instant::now(),
                gone: false,
            };
            self.present.insert(number, present);
        }
        judged?;
        self.remember(introduction, reach, now_ms);
        Ok(())
    }

    fn remember(&mut self, introduction: &Introduction, reach: &Reach, now_ms: u64) {
        let id = introduction.id;
        let is_new = !self.remembered.contains_key(&id);
        if is_new && self.remembered.len() >= REMEMBERED_MAX {
            let standing = &self.standing;
            self.remembered.retain(|id, _| standing.members.contains_key(id));
        }
        let first = Remembered::first(introduction, now_ms);
        let remembered = self.remembered.entry(id).or_insert(first);
        let started = remembered.note(introduction, now_ms) || is_new;
        let before = remembered.reached;
        remembered.note_reached(reach.applied);
        if started {
            self.unsaved = Unsaved::Start;
        } else if remembered.reached > before {
            self.unsaved = self.unsaved.max(Unsaved::Reach);
        }
    }

    fn judge(&self, introduction: &Introduction) -> Result<(), Stranger> {
        let grounds = Grounds {
            own_cluster: self.standing.own_cluster,
            own_is_new: self.standing.own_is_new,
            members: &self.standing.members,
            removed: &self.standing.removed,
            written: self.standing.written,
        };
        judge(introduction, self.remembered.get(&introduction.id), &grounds)?;
        // What was judged by a log's reach stands until the process is met again.
        let back = self.went_back.get(&(introduction.id, introduction.start));
        back.map_or(Ok(()), |back| Err(*back))
    }

    fn note_back(&mut self, process: (RaftId, Start), back: Stranger) {
        if self.went_back.len() >= REMEMBERED_MAX {
            let present = &self.present;
            self.went_back.retain(|(id, start), _| {
                present
                    .get(&id.member())
                    .is_some_and(|it| it.introduction.start == *start)
            });
        }
        self.went_back.insert(process, back);
    }

    fn judge_again(&mut self) {
        let numbers: Vec<NodeId> = self.present.keys().copied().collect();
        for number in numbers {
            let Some(present) = self.present.get(&number).copied() else {
                continue;
            };
            let stranger = self.judge(&present.introduction).err();
            self.present.insert(number, Present { stranger, ..present });
        }
    }

    fn present_as(&mut self, id: RaftId) -> Option<&mut Present> {
        let present = self.present.get_mut(&id.member())?;
        (present.introduction.id == id).then_some(present)
    }
}

/// A member that answered within this time is there: several times as long as members wait to ask again.
pub(super) const ANSWER_FRESH: Duration = Duration::from_secs(1);
const NAME: &str = "peers";
/// Members of today and of some years.
const REMEMBERED_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use tandem_cluster::MemberRole;
    use tandem_cluster::membership::Start;
    use tandem_cluster::witness::LogPosition;
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
