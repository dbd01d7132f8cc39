//! What a member can tell of the membership, for people and programs.

use serde::Serialize;

use tandem_cluster::membership::{Introduction, Reach, Stranger};
use tandem_cluster::{Format, MemberRecord, NodeId, RaftId};

use super::administration::listing;
use super::member::Member;
use super::peer_pages::ANSWER_FRESH;

/// The membership as one member sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MembersView {
    /// The cluster's identity, drawn when it was formed; `None` before.
    pub identity: Option<String>,
    /// A change of the voters is half-way.
    pub changing: bool,
    pub format: FormatView,
    /// Configured members and those of the membership, in the order of their numbers.
    pub members: Vec<MemberView>,
    /// Why the member that was asked takes no part in a cluster, and what to do about it.
    pub obstacle: Option<String>,
}

/// In which format the cluster writes, and what a later one waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FormatView {
    pub written: u16,
    /// The newest that the member that was asked reads.
    pub newest: u16,
    /// What has to happen before a later format is written; `None` when the newest is.
    pub waits_for: Option<String>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberView {
    /// Its number, as `n1`.
    pub id: String,
    /// Its id in Raft, with the generation of its directory, as `n1.7f3a91c2`; `None` while it has neither a seat nor
    /// answered.
    pub raft_id: Option<String>,
    pub role: Option<&'static str>,
    /// `voter`, `learner` or `none`.
    pub seat: &'static str,
    pub address: Option<String>,
    pub directory: Option<String>,
    /// The release that it runs, by the newest format that it reads.
    pub release: Option<String>,
    /// How often its directory was started.
    pub starts: Option<u64>,
    /// It has answered within a second.
    pub answers: bool,
    /// The last entry of its log, as of its last answer.
    pub last_index: Option<u64>,
    pub applied: Option<u64>,
    /// It does not lead, and adds nothing while nobody else can.
    pub disk_nearly_full: Option<bool>,
    /// Why it takes no part.
    pub stranger: Option<String>,
    /// Its state after the last entry that asked for it to be marked.
    pub state_mark: Option<StateMarkView>,
}

/// What a member's state was after one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StateMarkView {
    /// The entry's index.
    pub index: u64,
    /// Hexadecimal; the same in all members whose states are the same.
    pub hash: String,
}

/// One who answers under a number, or this member itself.
#[derive(Clone, Copy)]
struct Present {
    introduction: Introduction,
    reach: Reach,
    stranger: Option<Stranger>,
    answers: bool,
}

impl Member {
    pub(super) fn members_view(&self) -> MembersView {
        let membership = self.raft_metrics().membership_config;
        let voters: Vec<RaftId> = membership.voter_ids().collect();
        let mut numbers: Vec<NodeId> = self.config.members.iter().map(|member| member.id).collect();
        numbers.extend(membership.nodes().map(|(id, _)| id.member()));
        numbers.sort_unstable();
        numbers.dedup();
        let mut members = Vec::new();
        for number in numbers {
            let seats: Vec<(RaftId, &MemberRecord)> = membership
                .nodes()
                .filter(|(id, _)| id.member() == number)
                .map(|(id, record)| (*id, record))
                .collect();
            let present = self.present(number);
            let without_seat =
                present.filter(|present| seats.iter().all(|(id, _)| *id != present.introduction.id));
            for (id, record) in &seats {
                let answering = present.filter(|present| present.introduction.id == *id);
                let seat = if voters.contains(id) { "voter" } else { "learner" };
                members.push(self.member_view(number, Some((*id, record)), seat, answering));
            }
            if without_seat.is_some() || seats.is_empty() {
                members.push(self.member_view(number, None, "none", without_seat));
            }
        }
        MembersView {
            identity: self.introduction().cluster.map(|cluster| cluster.to_string()),
            changing: membership.get_joint_config().len() > 1,
            format: self.format_view(),
            members,
            obstacle: self.status.borrow().obstacle.clone(),
        }
    }

    fn present(&self, number: NodeId) -> Option<Present> {
        if number == self.id() {
            return Some(Present {
                introduction: self.introduction(),
                reach: self.reach(),
                stranger: self.book.own_stranger().map(|(_, stranger)| stranger),
                answers: true,
            });
        }
        self.book.present(number).map(|met| Present {
            introduction: met.introduction,
            reach: met.reach,
            stranger: met.stranger,
            answers: met.answers_within(ANSWER_FRESH),
        })
    }

    fn member_view(
        &self,
        number: NodeId,
        seat: Option<(RaftId, &MemberRecord)>,
        seat_label: &'static str,
        present: Option<Present>,
    ) -> MemberView {
        let configured = self.config.members.iter().find(|member| member.id == number);
        let introduction = present.map(|present| present.introduction);
        let id = seat
            .map(|(id, _)| id)
            .or_else(|| introduction.map(|introduction| introduction.id));
        let directory = introduction.map(|introduction| introduction.directory);
        let directory = directory.or_else(|| seat.and_then(|(_, record)| record.directory()));
        MemberView {
            id: number.to_string(),
            raft_id: id.map(|id| id.to_string()),
            role: configured.map(|member| member.role.label()),
            seat: seat_label,
            address: configured.map(|member| member.address.to_string()),
            directory: directory.map(|directory| directory.to_string()),
            release: introduction.map(|introduction| introduction.newest_format.release()),
            starts: introduction.map(|introduction| introduction.start.count),
            answers: present.is_some_and(|present| present.answers),
            last_index: present.map(|present| present.reach.last.index),
            applied: present.map(|present| present.reach.applied),
            disk_nearly_full: present.map(|present| present.reach.disk_nearly_full),
            state_mark: present
                .and_then(|present| present.reach.state_mark)
                .map(|mark| StateMarkView {
                    index: mark.index,
                    hash: mark.to_string(),
                }),
            stranger: present
                .and_then(|present| present.stranger)
                .map(|stranger| stranger.to_string()),
        }
    }

    fn format_view(&self) -> FormatView {
        let written = self.machine.state().format();
        let newest = self.config.newest_format;
        FormatView {
            written: written.0,
            newest: newest.0,
            waits_for: (written < newest).then(|| self.waits_for(newest)),
        }
    }

    fn waits_for(&self, newest: Format) -> String {
        let late = self.late_members(newest);
        if !late.is_empty() {
            return format!("{} to run release {}", listing(late.iter()), newest.release());
        }
        let oldest = match self.oldest_format(&[]) {
            Ok(oldest) => oldest,
            Err(unheard) => return format!("an answer of {}", listing(unheard.iter())),
        };
        match self.config.finalise_after {
            None => "`tandem-node cluster finalize`".to_owned(),
            Some(after) => {
                let now_ms = (self.config.wall_clock_ms)();
                let run_secs = now_ms.saturating_sub(oldest.since_ms) / 1000;
                let left = after.as_secs().saturating_sub(run_secs);
                format!("{left} s more of release {} on every member", newest.release())
            }
        }
    }
}
