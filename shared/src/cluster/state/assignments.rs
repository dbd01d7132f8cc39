//! User → Client Access Server: the rotation, and who leaves his place in it (CAL-2).

use std::collections::{BTreeMap, BTreeSet};

use super::ClusterState;
use crate::cluster::assignment::{Assignment, AssignmentReason, CasGateway, CasId};
use crate::cluster::command::{Applied, Change, Refusal};

impl ClusterState {
    #[must_use]
    pub fn assignment(&self, user: &str) -> Option<&Assignment> {
        self.assignments.get(user)
    }

    #[must_use]
    pub fn assignments(&self) -> &BTreeMap<String, Assignment> {
        &self.assignments
    }

    /// In configured order.
    #[must_use]
    pub fn cas_gateways(&self) -> &[CasGateway] {
        &self.gateways
    }

    /// Gateways that stay keep their eligibility, and the rotation goes on where it stood. Users of a gateway
    /// that is left out move on in turn; while none is eligible they stay, until they fail or are assigned again.
    pub(super) fn set_gateways(&mut self, ids: Vec<CasId>, at_ms: u64, changes: &mut Vec<Change>) -> Applied {
        if ids.len() > GATEWAYS_MAX {
            return Applied::Refused(Refusal::LimitReached);
        }
        let gateways = self.with_known_eligibility(ids);
        if gateways != self.gateways {
            self.next_gateway = self.position_in(&gateways);
            self.gateways = gateways;
            changes.push(Change::CasGatewaysChanged);
        }
        let left_out = self
            .assignments
            .iter()
            .filter(|(_, assignment)| !self.has_gateway(&assignment.cas));
        let users: Vec<String> = left_out.map(|(user, _)| user.clone()).collect();
        for user in users {
            self.move_user(user, AssignmentReason::Removed, at_ms, changes);
        }
        Applied::Done
    }

    fn with_known_eligibility(&self, ids: Vec<CasId>) -> Vec<CasGateway> {
        let known: BTreeMap<&CasId, bool> = self
            .gateways
            .iter()
            .map(|gateway| (&gateway.id, gateway.eligible))
            .collect();
        let mut listed = BTreeSet::new();
        ids.into_iter()
            .filter(|id| listed.insert(id.clone()))
            .map(|id| CasGateway {
                eligible: known.get(&id).copied().unwrap_or(true),
                id,
            })
            .collect()
    }

    /// Where in `gateways` stands the one whose turn it is: the first from our position on that is still there.
    fn position_in(&self, gateways: &[CasGateway]) -> usize {
        let (passed, coming) = self.gateways.split_at(self.next_gateway.min(self.gateways.len()));
        coming
            .iter()
            .chain(passed)
            .find_map(|next| gateways.iter().position(|gateway| gateway.id == next.id))
            .unwrap_or(0)
    }

    pub(super) fn set_eligible(&mut self, cas: &CasId, eligible: bool, changes: &mut Vec<Change>) -> Applied {
        let Some(gateway) = self.gateways.iter_mut().find(|gateway| gateway.id == *cas) else {
            return Applied::Refused(Refusal::UnknownCas);
        };
        if gateway.eligible != eligible {
            gateway.eligible = eligible;
            changes.push(Change::CasGatewaysChanged);
        }
        Applied::Done
    }

    /// A user whose gateway is no longer configured counts as one without.
    pub(super) fn assign_users(
        &mut self,
        users: Vec<String>,
        at_ms: u64,
        changes: &mut Vec<Change>,
    ) -> Applied {
        let unplaced: BTreeSet<&String> = users.iter().filter(|user| !self.is_placed(user)).collect();
        let new = unplaced
            .iter()
            .filter(|user| !self.assignments.contains_key(**user))
            .count();
        if !unplaced.is_empty() && !self.gateways.iter().any(|gateway| gateway.eligible) {
            return Applied::Refused(Refusal::NoCas);
        }
        if self.assignments.len() + new > self.limits.users_assigned_max {
            return Applied::Refused(Refusal::LimitReached);
        }
        for user in &users {
            if !self.is_placed(user) {
                let reason = match self.assignments.contains_key(user) {
                    true => AssignmentReason::Removed,
                    false => AssignmentReason::RoundRobin,
                };
                self.move_user(user.clone(), reason, at_ms, changes);
            }
        }
        self.assignments_of(users)
    }

    /// A user whom nobody else can take stays where he is, epoch and all: the answer shows it, and his subscription
    /// is tried there again. So does one whose failure is reported under an older epoch.
    pub(super) fn move_failed_users(
        &mut self,
        users: Vec<(String, u32)>,
        at_ms: u64,
        changes: &mut Vec<Change>,
    ) -> Applied {
        for (user, epoch) in &users {
            if self
                .assignments
                .get(user)
                .is_some_and(|assignment| assignment.epoch == *epoch)
            {
                self.move_user(user.clone(), AssignmentReason::Failed, at_ms, changes);
            }
        }
        self.assignments_of(users.into_iter().map(|(user, _)| user).collect())
    }

    pub(super) fn unassign_users(&mut self, users: &[String], changes: &mut Vec<Change>) -> Applied {
        for user in users {
            if self.assignments.remove(user).is_some() {
                changes.push(Change::CasAssignmentChanged { user: user.clone() });
            }
        }
        Applied::Done
    }

    /// The next eligible gateway takes the user; the one he has does not count.
    fn move_user(&mut self, user: String, reason: AssignmentReason, at_ms: u64, changes: &mut Vec<Change>) {
        let former = self.assignments.get(&user);
        let epoch = former.map_or(0, |former| former.epoch.saturating_add(1));
        let avoid = former.map(|former| former.cas.clone());
        if let Some(cas) = self.take_turn(avoid.as_ref()) {
            changes.push(Change::CasAssignmentChanged { user: user.clone() });
            self.assignments.insert(
                user,
                Assignment {
                    cas,
                    epoch,
                    since_ms: at_ms,
                    reason,
                },
            );
        }
    }

    fn take_turn(&mut self, avoid: Option<&CasId>) -> Option<CasId> {
        let count = self.gateways.len();
        let turns = (0..count).map(|step| (self.next_gateway + step) % count);
        let may_take = |gateway: &CasGateway| gateway.eligible && Some(&gateway.id) != avoid;
        let turn = turns.into_iter().find(|&index| may_take(&self.gateways[index]))?;
        self.next_gateway = (turn + 1) % count;
        Some(self.gateways[turn].id.clone())
    }

    fn assignments_of(&self, users: Vec<String>) -> Applied {
        let with_assignment = |user: String| {
            let assignment = self.assignments.get(&user).cloned();
            (user, assignment)
        };
        Applied::Assignments(users.into_iter().map(with_assignment).collect())
    }

    fn is_placed(&self, user: &str) -> bool {
        self.assignments
            .get(user)
            .is_some_and(|assignment| self.has_gateway(&assignment.cas))
    }

    fn has_gateway(&self, cas: &CasId) -> bool {
        self.gateways.iter().any(|gateway| gateway.id == *cas)
    }
}

const GATEWAYS_MAX: usize = 256;
