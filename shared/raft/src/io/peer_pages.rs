//! What is known of the other members, and what follows from it: a decision alone, without disk or task.
//!
//! What always holds: what is remembered of a member only grows, and only while it is no stranger.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use tandem_cluster::membership::{
    Grounds, Introduction, Reach, Remembered, Start, Stranger, judge, judge_reach,
};
use tandem_cluster::{ClusterIdentity, DirectoryId, Format, NodeId, RaftId};

#[derive(Default)]
pub(super) struct Pages {
    pub(super) remembered: BTreeMap<RaftId, Remembered>,
    /// Who answers under each number now.
    pub(super) present: BTreeMap<NodeId, Present>,
    pub(super) standing: Standing,
    /// Processes whose log has been found to end too early, whoever answers under their number now.
    pub(super) went_back: BTreeMap<(RaftId, Start), Stranger>,
    /// What the others say of this member, where they take it for a stranger.
    pub(super) told: BTreeMap<NodeId, Stranger>,
    pub(super) unsaved: Unsaved,
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
pub(super) struct Baseline(pub(super) BTreeMap<RaftId, u64>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Unsaved {
    #[default]
    Nothing,
    /// Logs have grown: worth a write now and then.
    Reach,
    /// A member started, or is new.
    Start,
}

impl Pages {
    pub(super) fn meet(
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

    pub(super) fn judge(&self, introduction: &Introduction) -> Result<(), Stranger> {
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

    pub(super) fn note_back(&mut self, process: (RaftId, Start), back: Stranger) {
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

    pub(super) fn judge_again(&mut self) {
        let numbers: Vec<NodeId> = self.present.keys().copied().collect();
        for number in numbers {
            let Some(present) = self.present.get(&number).copied() else {
                continue;
            };
            let stranger = self.judge(&present.introduction).err();
            self.present.insert(number, Present { stranger, ..present });
        }
    }

    pub(super) fn present_as(&mut self, id: RaftId) -> Option<&mut Present> {
        let present = self.present.get_mut(&id.member())?;
        (present.introduction.id == id).then_some(present)
    }
}

/// A member that answered within this time is there: several times as long as members wait to ask again.
pub(super) const ANSWER_FRESH: Duration = Duration::from_secs(1);

/// Members of today and of some years.
const REMEMBERED_MAX: usize = 64;
