//! `/cluster` and what is below: the members, what stands against them, and whether they hold the same.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tandem_cluster::health::{Condition, Severity};
use tandem_cluster::{ClusterState, NodeId};
use tandem_raft::{ClusterStatus, MembersView, StateMarkView};

/// `GET /cluster`.
#[derive(Debug, Serialize)]
pub struct ClusterView {
    node: String,
    role: &'static str,
    leader: Option<String>,
    term: u64,
    last_applied: u64,
    authority: &'static str,
    /// All that is not as it should be with this member.
    conditions: Vec<ConditionView>,
    nodes: Vec<NodeView>,
    membership: MembersView,
}

impl ClusterView {
    /// As `node` sees it, with the entry that it applied last.
    #[must_use]
    pub fn of(
        node: NodeId,
        status: &ClusterStatus,
        last_applied: u64,
        state: &ClusterState,
        membership: MembersView,
    ) -> Self {
        let nodes = state.nodes().values();
        Self {
            node: node.to_string(),
            role: status.role.label(),
            leader: status.leader.map(|leader| leader.to_string()),
            term: status.term,
            last_applied,
            authority: status.authority.label(),
            conditions: status.conditions.iter().map(ConditionView::of).collect(),
            nodes: nodes
                .map(|node| NodeView {
                    id: node.id.to_string(),
                    sip_address: node.sip_address.to_string(),
                    state: node.state.label(),
                    sessions: state.session_count_of(node.id),
                })
                .collect(),
            membership,
        }
    }
}

#[derive(Debug, Serialize)]
struct ConditionView {
    subject: &'static str,
    /// It cannot do its work; otherwise somebody should look at it.
    not_ready: bool,
    text: String,
}

impl ConditionView {
    fn of(condition: &Condition) -> Self {
        Self {
            subject: condition.subject.label(),
            not_ready: condition.severity == Severity::NotReady,
            text: condition.text.clone(),
        }
    }
}

#[derive(Debug, Serialize)]
struct NodeView {
    id: String,
    sip_address: String,
    state: &'static str,
    sessions: usize,
}

/// `POST /cluster/check`: what the members hold after one entry.
#[derive(Debug, Serialize)]
pub struct CheckView {
    index: u64,
    /// All members hold the same.
    agree: bool,
    members: Vec<CheckedMember>,
}

#[derive(Debug, Serialize)]
struct CheckedMember {
    id: String,
    answers: bool,
    /// Of its state after that entry; `None`: it has not said.
    hash: Option<String>,
}

impl CheckView {
    #[must_use]
    pub fn of(index: u64, members: MembersView) -> Self {
        let marked = |mark: StateMarkView| (mark.index == index).then_some(mark.hash);
        let members: Vec<CheckedMember> = members
            .members
            .into_iter()
            .map(|member| CheckedMember {
                id: member.id,
                answers: member.answers,
                hash: member.state_mark.and_then(marked),
            })
            .collect();
        let hashes: BTreeSet<&Option<String>> = members.iter().map(|member| &member.hash).collect();
        Self {
            index,
            agree: hashes.len() == 1 && !hashes.contains(&None),
            members,
        }
    }
}

/// `POST /cluster/form`, `POST /cluster/finalize`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WithoutBody {
    /// Numbers of members whose answer is done without.
    #[serde(default)]
    without: Vec<u64>,
}

impl WithoutBody {
    #[must_use]
    pub fn members(self) -> Vec<NodeId> {
        self.without.into_iter().map(NodeId).collect()
    }
}

/// `POST /cluster/replace`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplaceBody {
    /// The member's number.
    pub id: u64,
}
