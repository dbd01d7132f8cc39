//! The steps that put a new member into a former one's seat, each decided from what stands now.
//!
//! Nothing is remembered between two steps: whoever leads looks at the membership and does what is missing, so a leader
//! may die at any point and the next one goes on. The number of voters never falls on the way.

use std::collections::{BTreeMap, BTreeSet};

use super::identity::{DirectoryId, MemberRecord, MemberRole, RaftId};
use super::introduction::Stranger;
use crate::format::Format;
use crate::node::NodeId;

/// What the leader knows when it looks for the next step.
#[derive(Debug, Clone)]
pub struct ReplacementView {
    pub leader: RaftId,
    /// Voters by configuration: two while a change is under way.
    pub configurations: Vec<BTreeSet<RaftId>>,
    pub members: BTreeMap<RaftId, MemberRecord>,
    pub removed: BTreeSet<RaftId>,
    /// The format in which the cluster writes.
    pub written: Format,
    /// Whoever answers under the number now; `None` when nobody does.
    pub newcomer: Option<Newcomer>,
    /// Entries that the newcomer lacks; `None` before any was sent.
    pub lag: Option<u64>,
}

/// Whoever answers under a member's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newcomer {
    pub id: RaftId,
    pub directory: DirectoryId,
    pub role: MemberRole,
    pub newest_format: Format,
    /// It was part of a cluster before.
    pub initialized: bool,
    /// Why it takes no part now.
    pub stranger: Option<Stranger>,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A change was left half-way by a leader that died: finish it first.
    FinishJoint,
    /// Let the newcomer follow without a vote; drop learners that an earlier attempt left under its number.
    AddLearner {
        id: RaftId,
        drop: BTreeSet<RaftId>,
    },
    /// Wait: so many entries are missing; `None` before the first were sent.
    CatchUp {
        lag: Option<u64>,
    },
    /// The leader never replaces itself.
    HandOver,
    /// Write down that these never come back.
    Remove {
        ids: BTreeSet<RaftId>,
    },
    /// One joint change: the newcomer votes in the former one's place, and the former one is gone.
    ChangeVoters {
        voters: BTreeSet<RaftId>,
    },
    /// The seat was a learner's: it is dropped.
    DropLearners {
        ids: BTreeSet<RaftId>,
    },
    /// The newcomer has the seat.
    Done {
        id: RaftId,
    },
    Blocked(Blocked),
}

/// Why a replacement cannot go on without somebody doing something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    #[error(
        "the cluster still writes {written}, which cannot name a member's directory: upgrade every member, then run \
         `tandem-node cluster finalize`"
    )]
    NotFinalised { written: Format },
    #[error("no member answers under its number: start it with an empty data directory")]
    NotReachable,
    #[error("it reads up to {reads}, but the cluster writes {written}: start the current release")]
    EarlierRelease { reads: Format, written: Format },
    #[error("{0}; stop it, empty its data directory, and start it again")]
    NotEmpty(Stranger),
    #[error("it was part of another membership: stop it, empty its data directory, and start it again")]
    NotNew,
}

/// The next step on the way to a replacement of member `number`.
#[must_use]
pub fn next_step(number: NodeId, view: &ReplacementView) -> Step {
    if view.configurations.len() > 1 {
        return Step::FinishJoint;
    }
    let voters = view.configurations.first().cloned().unwrap_or_default();
    let Some(newcomer) = &view.newcomer else {
        return Step::Blocked(Blocked::NotReachable);
    };
    let former: BTreeSet<RaftId> = view
        .members
        .keys()
        .copied()
        .filter(|id| id.member() == number && *id != newcomer.id)
        .collect();
    let former_voters: BTreeSet<RaftId> = former.intersection(&voters).copied().collect();
    if let Some(blocked) = blocked(newcomer, view) {
        return Step::Blocked(blocked);
    }
    if !view.members.contains_key(&newcomer.id) {
        return Step::AddLearner {
            id: newcomer.id,
            drop: former.difference(&voters).copied().collect(),
        };
    }
    let has_its_seat =
        former.is_empty() && (voters.contains(&newcomer.id) || !should_vote(newcomer, &voters));
    if has_its_seat {
        return Step::Done { id: newcomer.id };
    }
    if view.lag.is_none_or(|lag| lag >= LAG_MAX) {
        return Step::CatchUp { lag: view.lag };
    }
    if former.contains(&view.leader) {
        return Step::HandOver;
    }
    if !former.is_subset(&view.removed) {
        return Step::Remove { ids: former };
    }
    if former_voters.is_empty() && !should_vote(newcomer, &voters) {
        return Step::DropLearners { ids: former };
    }
    let mut voters: BTreeSet<RaftId> = voters.difference(&former_voters).copied().collect();
    voters.insert(newcomer.id);
    Step::ChangeVoters { voters }
}

fn blocked(newcomer: &Newcomer, view: &ReplacementView) -> Option<Blocked> {
    let written = view.written;
    if written < Format::RELEASE_0_2 {
        return Some(Blocked::NotFinalised { written });
    }
    if newcomer.newest_format < written {
        return Some(Blocked::EarlierRelease {
            reads: newcomer.newest_format,
            written,
        });
    }
    match newcomer.stranger {
        Some(stranger) if !stranger.is_newcomer() => Some(Blocked::NotEmpty(stranger)),
        _ if newcomer.initialized && !view.members.contains_key(&newcomer.id) => Some(Blocked::NotNew),
        Some(_) | None => None,
    }
}

/// A node without a former self votes; a witness votes only while the number of nodes that vote is even.
fn should_vote(newcomer: &Newcomer, voters: &BTreeSet<RaftId>) -> bool {
    match newcomer.role {
        MemberRole::Node => true,
        MemberRole::Witness => voters.len().is_multiple_of(2),
    }
}

/// A newcomer is given the vote when fewer entries than this are missing.
const LAG_MAX: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(generation: u32, number: u64) -> RaftId {
        RaftId::new(generation, NodeId(number))
    }

    fn newcomer(id: RaftId) -> Newcomer {
        Newcomer {
            id,
            directory: DirectoryId(u128::from(id.as_u64())),
            role: MemberRole::Node,
            newest_format: Format::RELEASE_0_2,
            initialized: false,
            stranger: Some(Stranger::Newcomer),
        }
    }

    /// Two nodes and a witness; node 2 came back with an empty disk while node 1 leads.
    fn view() -> ReplacementView {
        let voters = BTreeSet::from([id(1, 1), id(1, 2), id(1, 100)]);
        ReplacementView {
            leader: id(1, 1),
            members: voters.iter().map(|id| (*id, MemberRecord::Undescribed)).collect(),
            configurations: vec![voters],
            removed: BTreeSet::new(),
            written: Format::RELEASE_0_2,
            newcomer: Some(newcomer(id(2, 2))),
            lag: None,
        }
    }

    /// Does what a step says, as Raft would.
    fn perform(step: &Step, view: &mut ReplacementView) {
        match step {
            Step::AddLearner { id, drop } => {
                view.members.retain(|id, _| !drop.contains(id));
                view.members.insert(*id, MemberRecord::Undescribed);
                let newcomer = view.newcomer.as_mut().unwrap();
                newcomer.stranger = None;
                newcomer.initialized = true;
            }
            Step::CatchUp { .. } => view.lag = Some(view.lag.map_or(500, |lag| lag.saturating_sub(450))),
            Step::Remove { ids } => view.removed.extend(ids),
            Step::ChangeVoters { voters } => {
                view.configurations = vec![voters.clone()];
                view.members.retain(|id, _| voters.contains(id));
            }
            Step::DropLearners { ids } => view.members.retain(|id, _| !ids.contains(id)),
            Step::HandOver => view.leader = id(1, 100),
            Step::FinishJoint => {
                view.configurations.remove(0);
            }
            Step::Done { .. } | Step::Blocked(_) => panic!("{step:?}"),
        }
    }

    fn steps(number: u64, view: &mut ReplacementView) -> Vec<Step> {
        let mut steps = Vec::new();
        loop {
            let step = next_step(NodeId(number), view);
            steps.push(step.clone());
            if matches!(step, Step::Done { .. } | Step::Blocked(_)) {
                return steps;
            }
            let voters_before = view.configurations[0].len();
            perform(&step, view);
            assert!(view.configurations[0].len() >= voters_before, "{steps:?}");
            assert!(steps.len() < 20, "{steps:?}");
        }
    }

    #[test]
    fn a_wiped_node_gets_its_seat_back_as_another_member() {
        let mut view = view();
        let steps = steps(2, &mut view);
        let former = BTreeSet::from([id(1, 2)]);
        let expected = [
            Step::AddLearner {
                id: id(2, 2),
                drop: BTreeSet::new(),
            },
            Step::CatchUp { lag: None },
            Step::CatchUp { lag: Some(500) },
            Step::Remove { ids: former.clone() },
            Step::ChangeVoters {
                voters: BTreeSet::from([id(1, 1), id(2, 2), id(1, 100)]),
            },
            Step::Done { id: id(2, 2) },
        ];
        assert_eq!(steps, expected);
        assert_eq!(view.removed, former);
    }

    #[test]
    fn whoever_leads_next_goes_on_from_any_point() {
        let mut whole = view();
        let count = steps(2, &mut whole).len() - 1;
        for stopped_after in 0..count {
            let mut view = view();
            for _ in 0..stopped_after {
                let step = next_step(NodeId(2), &view);
                perform(&step, &mut view);
            }
            view.leader = id(1, 100);
            // A new leader has not sent anything yet.
            view.lag = None;
            let steps = steps(2, &mut view);
            assert_eq!(
                steps.last(),
                Some(&Step::Done { id: id(2, 2) }),
                "{stopped_after}"
            );
            assert_eq!(view.configurations, whole.configurations);
        }
    }

    #[test]
    fn a_half_finished_change_is_finished_first() {
        let mut view = view();
        let target = BTreeSet::from([id(1, 1), id(2, 2), id(1, 100)]);
        view.configurations.push(target.clone());
        assert_eq!(next_step(NodeId(2), &view), Step::FinishJoint);
    }

    #[test]
    fn a_leader_hands_over_before_it_is_replaced() {
        let mut view = view();
        view.leader = id(1, 2);
        let steps = steps(2, &mut view);
        assert!(steps.contains(&Step::HandOver), "{steps:?}");
    }

    #[test]
    fn a_second_newcomer_takes_the_place_of_the_first() {
        let mut view = view();
        view.members.insert(id(3, 2), MemberRecord::Undescribed);
        let step = next_step(NodeId(2), &view);
        let drop = BTreeSet::from([id(3, 2)]);
        assert_eq!(step, Step::AddLearner { id: id(2, 2), drop });
    }

    #[test]
    fn a_learner_is_replaced_by_a_learner() {
        let mut view = view();
        view.members.insert(id(1, 101), MemberRecord::Undescribed);
        view.newcomer = Some(Newcomer {
            role: MemberRole::Witness,
            ..newcomer(id(2, 101))
        });
        let voters = view.configurations.clone();
        let steps = steps(101, &mut view);
        assert_eq!(steps.last(), Some(&Step::Done { id: id(2, 101) }));
        assert_eq!(view.configurations, voters);
        assert!(!view.members.contains_key(&id(1, 101)));
    }

    #[test]
    fn a_node_that_never_had_a_seat_gets_a_vote() {
        let mut view = view();
        view.newcomer = Some(newcomer(id(2, 3)));
        let steps = steps(3, &mut view);
        assert_eq!(steps.last(), Some(&Step::Done { id: id(2, 3) }));
        assert!(view.configurations[0].contains(&id(2, 3)));
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let blocked = |change: fn(&mut ReplacementView)| {
            let mut view = view();
            change(&mut view);
            next_step(NodeId(2), &view)
        };
        assert_eq!(
            blocked(|view| view.newcomer = None),
            Step::Blocked(Blocked::NotReachable)
        );
        let written = Format::RELEASE_0_1;
        assert_eq!(
            blocked(|view| view.written = Format::RELEASE_0_1),
            Step::Blocked(Blocked::NotFinalised { written })
        );
        let back = Stranger::LogWentBack {
            ends_at: 1,
            reached: 2,
        };
        let rolled_back = |view: &mut ReplacementView| {
            view.newcomer = Some(Newcomer {
                initialized: true,
                stranger: Some(Stranger::LogWentBack {
                    ends_at: 1,
                    reached: 2,
                }),
                ..newcomer(id(1, 2))
            });
        };
        assert_eq!(blocked(rolled_back), Step::Blocked(Blocked::NotEmpty(back)));
        let of_another = |view: &mut ReplacementView| view.newcomer.as_mut().unwrap().initialized = true;
        assert_eq!(blocked(of_another), Step::Blocked(Blocked::NotNew));
    }
}
