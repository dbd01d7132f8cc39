//! The beginning of a cluster, and what its members are known to read.

use std::collections::BTreeMap;
use std::time::Duration;

use tandem_cluster::membership::{Answer, Candidate, Formation, Introduction, formation};
use tandem_cluster::{Command, Format, MemberRecord, NodeId, RaftId};

use super::administration::listing;
use super::member::{Member, is_initialized};
use super::peer_pages::ANSWER_FRESH;

/// The latest format that every member reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OldestFormat {
    pub(super) format: Format,
    /// Since when (Unix milliseconds) all of them have.
    pub(super) since_ms: u64,
}

impl Member {
    /// What is to be done about a cluster that is not there yet.
    pub(super) fn formation(&self, without: &[NodeId]) -> Formation {
        let members = self.config.members.iter();
        let candidates: BTreeMap<NodeId, Candidate> = members
            .map(|member| {
                let answer = match member.id == self.id() {
                    true => Some(Answer {
                        id: self.raft_id(),
                        initialized: is_initialized(&self.raft_metrics()),
                    }),
                    false => self.answer_of(member.id),
                };
                let role = member.role;
                (member.id, Candidate { role, answer })
            })
            .collect();
        formation(&candidates, without)
    }

    fn answer_of(&self, number: NodeId) -> Option<Answer> {
        let present = self.book.present(number)?;
        present.answers_within(ANSWER_FRESH).then_some(Answer {
            id: present.introduction.id,
            initialized: present.reach.initialized || present.introduction.cluster.is_some(),
        })
    }

    /// Writes the first entry of a cluster of these voters.
    pub(super) async fn form(&self, voters: Vec<RaftId>) -> Result<(), String> {
        let record = |id: &RaftId| {
            let introduction = match *id == self.raft_id() {
                true => Some(self.introduction()),
                false => self.book.present(id.member()).map(|present| present.introduction),
            };
            introduction.and_then(|introduction| self.described(&introduction))
        };
        let members: BTreeMap<RaftId, MemberRecord> =
            voters.iter().filter_map(|id| Some((*id, record(id)?))).collect();
        self.raft
            .initialize(members)
            .await
            .map_err(|error| error.to_string())?;
        tracing::info!(voters = listing(voters.iter()), "formed the cluster");
        let present = self.book.all_present();
        let formats = present.values().map(|present| present.introduction.newest_format);
        let format = formats.fold(self.config.newest_format, Format::min);
        if format > Format::RELEASE_0_1 {
            // Nobody has ever written anything older here.
            let command = Command::FormatFinalised { format };
            let proposed = self.propose_own(command, FORMED_DEADLINE).await;
            proposed.map(drop).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// What the membership is to say of a member that introduced itself.
    pub(super) fn described(&self, introduction: &Introduction) -> Option<MemberRecord> {
        let number = introduction.id.member();
        let configured = self.config.members.iter().find(|member| member.id == number)?;
        Some(MemberRecord::Described {
            address: configured.address.clone(),
            role: introduction.role,
            directory: introduction.directory,
        })
    }

    /// The latest format that every member reads, but those that are done without.
    ///
    /// # Errors
    /// The members that have not been heard of.
    pub(super) fn oldest_format(&self, without: &[NodeId]) -> Result<OldestFormat, Vec<RaftId>> {
        let own = OldestFormat {
            format: self.config.newest_format,
            since_ms: self.directory.format_since_ms(),
        };
        let membership = self.raft_metrics().membership_config;
        let mut oldest = own;
        let mut unheard = Vec::new();
        let others = membership
            .nodes()
            .map(|(id, _)| *id)
            .filter(|id| *id != self.raft_id());
        for id in others {
            match self.book.remembered(id) {
                Some(remembered) => {
                    oldest = OldestFormat {
                        format: oldest.format.min(remembered.newest_format),
                        since_ms: oldest.since_ms.max(remembered.format_since_ms),
                    };
                }
                None if without.contains(&id.member()) => {}
                None => unheard.push(id),
            }
        }
        if unheard.is_empty() {
            Ok(oldest)
        } else {
            Err(unheard)
        }
    }

    /// Members that do not read `format`, as far as they have been heard of.
    pub(super) fn late_members(&self, format: Format) -> Vec<RaftId> {
        let membership = self.raft_metrics().membership_config;
        let late = membership.nodes().filter(|(id, _)| {
            let remembered = self.book.remembered(**id);
            remembered.is_some_and(|remembered| remembered.newest_format < format)
        });
        late.map(|(id, _)| *id).collect()
    }
}

const FORMED_DEADLINE: Duration = Duration::from_secs(30);
