//! User → Client Access Server: the rotation, and when a user leaves their place in it (CAL-2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;

use super::ClusterState;
use crate::assignment::{Assignment, AssignmentReason, CasEndpoint, CasGateway, CasId};
use crate::command::{Applied, CalendarChange, Change, Refusal};
use crate::node::NodeId;

impl ClusterState {
    #[must_use]
    pub fn assignment(&self, user: &str) -> Option<&Assignment> {
        self.assignments.get(user).map(Arc::as_ref)
    }

    #[must_use]
    pub fn assignments(&self) -> &OrdMap<Arc<str>, Arc<Assignment>> {
        &self.assignments
    }

    /// In configured order.
    #[must_use]
    pub fn cas_gateways(&self) -> &[CasGateway] {
        &self.gateways
    }

    /// Gateways that stay keep their eligibility, and the rotation goes on where it stood. Users of a gateway
    /// that is left out move on in turn; while none takes users they stay, until one does.
    pub(super) fn set_gateways(&mut self, ids: Vec<CasId>, at_ms: u64, changes: &mut Vec<Change>) -> Applied {
        if ids.len() > GATEWAYS_MAX {
            return Applied::Refused(Refusal::LimitReached);
        }
        let gateways = self.with_known_eligibility(ids);
        if gateways != *self.gateways {
            self.next_gateway = self.position_in(&gateways);
            self.gateways = Arc::new(gateways);
            changes.push(Change::Calendar(CalendarChange::Gateways));
        }
        self.place_strays(at_ms, changes);
        Applied::Done
    }

    /// Users whose gateway is no longer configured move on in turn, as far as any gateway takes users.
    fn place_strays(&mut self, at_ms: u64, changes: &mut Vec<Change>) {
        if !self.gateways.iter().any(CasGateway::takes_users) {
            return;
        }
        let configured: BTreeSet<&CasId> = self.gateways.iter().map(|gateway| &gateway.id).collect();
        let strays = self
            .assignments
            .iter()
            .filter(|(_, assignment)| !configured.contains(&assignment.cas));
        let users: Vec<String> = strays.map(|(user, _)| user.to_string()).collect();
        for user in users {
            self.move_user(user, AssignmentReason::Removed, at_ms, changes);
        }
    }

    /// A gateway takes users again that took none before. Users who were left without one while none did have
    /// waited for this moment; the command does not carry a time, so theirs is the latest that any assignment has.
    fn gateway_takes_users_again(&mut self, changes: &mut Vec<Change>) {
        let latest = self.assignments.values().map(|assignment| assignment.since_ms);
        let at_ms = latest.max().unwrap_or(0);
        self.place_strays(at_ms, changes);
    }

    fn with_known_eligibility(&self, ids: Vec<CasId>) -> Vec<CasGateway> {
        let known: BTreeMap<&CasId, &CasGateway> = self
            .gateways
            .iter()
            .map(|gateway| (&gateway.id, gateway))
            .collect();
        let mut listed = BTreeSet::new();
        ids.into_iter()
            .filter(|id| listed.insert(id.clone()))
            .map(|id| match known.get(&id) {
                Some(&gateway) => gateway.clone(),
                None => CasGateway {
                    eligible: true,
                    broken_for: BTreeSet::new(),
                    endpoint: CasEndpoint::of(&id),
                    id,
                },
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

    /// As [`Self::set_gateways`], with what is known of each. A change of an endpoint moves nobody.
    pub(super) fn configure_gateways(
        &mut self,
        configured: Vec<(CasId, CasEndpoint)>,
        at_ms: u64,
        changes: &mut Vec<Change>,
    ) -> Applied {
        let ids = configured.iter().map(|(id, _)| id.clone()).collect();
        let told_before = changes.len();
        let applied = self.set_gateways(ids, at_ms, changes);
        if applied == Applied::Done {
            let changed = self.set_endpoints(configured.into_iter().collect());
            let is_told = changes
                .get(told_before..)
                .is_some_and(|own| own.contains(&Change::Calendar(CalendarChange::Gateways)));
            if changed && !is_told {
                changes.push(Change::Calendar(CalendarChange::Gateways));
            }
        }
        applied
    }

    fn set_endpoints(&mut self, mut endpoints: BTreeMap<CasId, CasEndpoint>) -> bool {
        let mut changed = false;
        for gateway in Arc::make_mut(&mut self.gateways) {
            if let Some(endpoint) = endpoints.remove(&gateway.id) {
                changed |= gateway.endpoint != endpoint;
                gateway.endpoint = endpoint;
            }
        }
        changed
    }

    /// A node that is not live has no say.
    pub(super) fn set_breaker(
        &mut self,
        cas: &CasId,
        node: NodeId,
        open: bool,
        changes: &mut Vec<Change>,
    ) -> Applied {
        let may_open = self.is_live(node);
        let gateways = Arc::make_mut(&mut self.gateways);
        let Some(gateway) = gateways.iter_mut().find(|gateway| gateway.id == *cas) else {
            return Applied::Refused(Refusal::UnknownCas);
        };
        let changed = match open && may_open {
            true => gateway.broken_for.insert(node),
            false => gateway.broken_for.remove(&node),
        };
        if changed {
            changes.push(Change::Calendar(CalendarChange::Gateways));
            self.gateway_takes_users_again(changes);
        }
        Applied::Done
    }

    /// The breakers of a node that is gone are gone with it.
    pub(super) fn forget_breakers_of(&mut self, node: NodeId, changes: &mut Vec<Change>) {
        let closed = Arc::make_mut(&mut self.gateways)
            .iter_mut()
            .filter_map(|gateway| gateway.broken_for.take(&node))
            .count();
        if closed > 0 {
            changes.push(Change::Calendar(CalendarChange::Gateways));
            self.gateway_takes_users_again(changes);
        }
    }

    /// Users go where the proposer wants them, unless they have moved meanwhile or that gateway takes nobody. Of a
    /// user who is named several times the latest epoch counts, as in [`Self::move_failed_users`].
    pub(super) fn move_chosen_users(
        &mut self,
        users: Vec<(String, u32, CasId)>,
        at_ms: u64,
        changes: &mut Vec<Change>,
    ) -> Applied {
        let latest = latest_epochs(users.iter().map(|(user, epoch, _)| (user, *epoch)));
        for (user, epoch, cas) in &users {
            let takes_users = self
                .gateways
                .iter()
                .any(|gateway| gateway.id == *cas && gateway.takes_users());
            let is_latest = latest.get(user) == Some(epoch);
            let Some(assignment) = self.assignments.get_mut(user.as_str()) else {
                continue;
            };
            if takes_users && is_latest && assignment.epoch == *epoch && assignment.cas != *cas {
                *assignment = Arc::new(Assignment {
                    cas: cas.clone(),
                    epoch: epoch.saturating_add(1),
                    since_ms: at_ms,
                    reason: AssignmentReason::Rebalanced,
                });
                changes.push(Change::Calendar(CalendarChange::Assigned { user: user.clone() }));
            }
        }
        self.assignments_of(users.into_iter().map(|(user, ..)| user).collect())
    }

    pub(super) fn set_eligible(&mut self, cas: &CasId, eligible: bool, changes: &mut Vec<Change>) -> Applied {
        let gateways = Arc::make_mut(&mut self.gateways);
        let Some(gateway) = gateways.iter_mut().find(|gateway| gateway.id == *cas) else {
            return Applied::Refused(Refusal::UnknownCas);
        };
        if gateway.eligible != eligible {
            gateway.eligible = eligible;
            changes.push(Change::Calendar(CalendarChange::Gateways));
            self.gateway_takes_users_again(changes);
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
            .filter(|user| !self.assignments.contains_key(user.as_str()))
            .count();
        if !unplaced.is_empty() && !self.gateways.iter().any(CasGateway::takes_users) {
            return Applied::Refused(Refusal::NoCas);
        }
        if self.assignments.len() + new > self.limits.users_assigned_max {
            return Applied::Refused(Refusal::LimitReached);
        }
        for user in &users {
            if !self.is_placed(user) {
                let reason = match self.assignments.contains_key(user.as_str()) {
                    true => AssignmentReason::Removed,
                    false => AssignmentReason::RoundRobin,
                };
                self.move_user(user.clone(), reason, at_ms, changes);
            }
        }
        self.assignments_of(users)
    }

    /// A user whom no other gateway can take keeps theirs, epoch and all: the answer shows it, and the subscription
    /// is tried there again. So does one whose failure is reported under an older epoch. Of a user who is named
    /// several times the latest epoch counts, or the command applied again would move the user again.
    pub(super) fn move_failed_users(
        &mut self,
        users: Vec<(String, u32)>,
        at_ms: u64,
        changes: &mut Vec<Change>,
    ) -> Applied {
        let latest = latest_epochs(users.iter().map(|(user, epoch)| (user, *epoch)));
        for (user, epoch) in &users {
            let has_failed = self
                .assignments
                .get(user.as_str())
                .is_some_and(|assignment| assignment.epoch == *epoch);
            if has_failed && latest.get(user) == Some(epoch) {
                self.move_user(user.clone(), AssignmentReason::Failed, at_ms, changes);
            }
        }
        self.assignments_of(users.into_iter().map(|(user, _)| user).collect())
    }

    /// What the calendar said is forgotten with the subscription. What the user said himself stays, and so does an
    /// administrator's switch of their calendar: it would be switched on again otherwise, and a node whose directory is
    /// behind the others' must not be able to take it away.
    pub(super) fn unassign_users(&mut self, users: &[String], changes: &mut Vec<Change>) -> Applied {
        for user in users {
            if self.assignments.remove(user.as_str()).is_some() {
                changes.push(Change::Calendar(CalendarChange::Assigned { user: user.clone() }));
            }
            self.forget_calendar(user, changes);
        }
        Applied::Done
    }

    /// The next eligible gateway takes the user; the one they have does not count.
    fn move_user(&mut self, user: String, reason: AssignmentReason, at_ms: u64, changes: &mut Vec<Change>) {
        let former = self.assignments.get(user.as_str());
        let epoch = former.map_or(0, |former| former.epoch.saturating_add(1));
        let avoid = former.map(|former| former.cas.clone());
        if let Some(cas) = self.take_turn(avoid.as_ref()) {
            changes.push(Change::Calendar(CalendarChange::Assigned { user: user.clone() }));
            let assignment = Assignment {
                cas,
                epoch,
                since_ms: at_ms,
                reason,
            };
            self.assignments.insert(user.into(), assignment.into());
        }
    }

    fn take_turn(&mut self, avoid: Option<&CasId>) -> Option<CasId> {
        let count = self.gateways.len();
        let turns = (0..count).map(|step| (self.next_gateway + step) % count);
        let may_take = |gateway: &CasGateway| gateway.takes_users() && Some(&gateway.id) != avoid;
        let turn = turns.into_iter().find(|&index| may_take(&self.gateways[index]))?;
        self.next_gateway = (turn + 1) % count;
        Some(self.gateways[turn].id.clone())
    }

    fn assignments_of(&self, users: Vec<String>) -> Applied {
        let with_assignment = |user: String| {
            let assignment = self.assignment(&user).cloned();
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

fn latest_epochs<'a>(users: impl Iterator<Item = (&'a String, u32)>) -> BTreeMap<&'a String, u32> {
    let mut latest = BTreeMap::new();
    for (user, epoch) in users {
        let known = latest.entry(user).or_insert(epoch);
        *known = (*known).max(epoch);
    }
    latest
}

pub(super) const GATEWAYS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::super::test_support::{
        apply_all, assign, cluster_of, draining, gateways, lost, registered, spread, user,
    };
    use super::*;
    use crate::command::Command;

    const EIGHT: [&str; 8] = [
        "cas-1", "cas-2", "cas-3", "cas-4", "cas-5", "cas-6", "cas-7", "cas-8",
    ];

    fn failed(state: &ClusterState, users: &[String]) -> Command {
        let with_epoch = |user: &String| {
            (
                user.clone(),
                state.assignment(user).map_or(0, |known| known.epoch),
            )
        };
        Command::CasFailed {
            users: users.iter().map(with_epoch).collect(),
            at_ms: 3,
        }
    }

    fn eligible(cas: &str, eligible: bool) -> Command {
        Command::CasEligible {
            cas: CasId(cas.to_owned()),
            eligible,
        }
    }

    fn cas_of(state: &ClusterState, number: u64) -> &str {
        &state.assignment(&user(number)).unwrap().cas.0
    }

    #[test]
    fn a_thousand_users_over_eight_gateways_are_125_each() {
        let mut state = cluster_of(0);
        apply_all(&mut state, [gateways(&EIGHT)]);
        for first in (0..1000).step_by(7) {
            apply_all(&mut state, [assign(first..(first + 7).min(1000))]);
        }
        let expected: BTreeMap<String, usize> = EIGHT.iter().map(|name| ((*name).to_owned(), 125)).collect();
        assert_eq!(spread(&state), expected);
    }

    #[test]
    fn a_user_stays_where_he_is() {
        let mut state = cluster_of(0);
        apply_all(&mut state, [gateways(&EIGHT), assign(0..20)]);
        let before = state.clone();
        let (applied, changes) = state.apply(assign(0..20));
        assert_eq!((state.clone(), changes), (before, Vec::new()));
        let Applied::Assignments(assignments) = applied else {
            panic!("{applied:?}");
        };
        assert_eq!(assignments.len(), 20);
        assert_eq!(assignments[9].1.as_ref(), state.assignment(&user(9)));
        apply_all(&mut state, [gateways(&[&EIGHT[..], &["cas-9"]].concat())]);
        assert_eq!(
            cas_of(&state, 9),
            "cas-2",
            "a gateway that joins draws nobody away"
        );
    }

    #[test]
    fn users_of_a_gateway_that_fails_are_spread_over_the_others() {
        let mut state = cluster_of(0);
        apply_all(&mut state, [gateways(&EIGHT), assign(0..1000)]);
        let users: Vec<String> = (0..1000)
            .filter(|&number| cas_of(&state, number) == "cas-3")
            .map(user)
            .collect();
        let report = failed(&state, &users);
        apply_all(&mut state, [report.clone()]);
        let counts = spread(&state);
        assert!(!counts.contains_key("cas-3"), "{counts:?}");
        assert!(
            counts.values().all(|count| (142..=143).contains(count)),
            "{counts:?}"
        );
        let assignment = state.assignment(&users[0]).unwrap();
        assert_eq!(
            (assignment.epoch, assignment.since_ms, assignment.reason),
            (1, 3, AssignmentReason::Failed)
        );
        let before = state.clone();
        apply_all(&mut state, [report]);
        assert_eq!(
            state, before,
            "a failure reported under an older epoch is about the past"
        );
    }

    #[test]
    fn a_user_named_under_several_epochs_moves_for_the_latest_alone() {
        let mut state = cluster_of(0);
        apply_all(&mut state, [gateways(&["a", "b"]), assign([1])]);
        let before = state.clone();
        let named = |epochs: &[u32]| {
            let users = epochs.iter().map(|epoch| (user(1), *epoch)).collect();
            Command::CasFailed { users, at_ms: 3 }
        };
        apply_all(&mut state, [named(&[2, 1, 0])]);
        assert_eq!(state, before, "a failure of the future is none");
        apply_all(&mut state, [named(&[0, 0]), named(&[0, 0])]);
        assert_eq!(state.assignment(&user(1)).unwrap().epoch, 1);
    }

    #[test]
    fn a_user_whom_nobody_else_can_take_stays() {
        let mut state = cluster_of(0);
        apply_all(
            &mut state,
            [
                gateways(&["cas-1", "cas-2"]),
                eligible("cas-2", false),
                assign([1]),
            ],
        );
        let before = state.clone();
        let report = failed(&state, &[user(1), user(2)]);
        let (applied, changes) = state.apply(report);
        let kept = state.assignment(&user(1)).cloned();
        assert_eq!(
            applied,
            Applied::Assignments(vec![(user(1), kept), (user(2), None)])
        );
        assert_eq!((state, changes), (before, Vec::new()));
    }

    #[test]
    fn a_gateway_out_of_the_rotation_keeps_its_users_and_gets_no_new_ones() {
        let mut state = cluster_of(0);
        apply_all(
            &mut state,
            [
                gateways(&["a", "b", "c"]),
                assign(0..3),
                eligible("b", false),
                assign(3..9),
            ],
        );
        let expected = BTreeMap::from([("a".to_owned(), 4), ("b".to_owned(), 1), ("c".to_owned(), 4)]);
        assert_eq!(spread(&state), expected);
        assert_eq!(state.apply(eligible("b", false)), (Applied::Done, Vec::new()));
        assert_eq!(
            state.apply(eligible("x", true)).0,
            Applied::Refused(Refusal::UnknownCas)
        );
    }

    #[test]
    fn users_of_a_removed_gateway_move_on_evenly() {
        let mut state = cluster_of(0);
        apply_all(
            &mut state,
            [gateways(&EIGHT), assign(0..1000), gateways(&EIGHT[1..])],
        );
        let counts = spread(&state);
        assert!(
            counts.values().all(|count| (142..=143).contains(count)),
            "{counts:?}"
        );
        assert_eq!(
            state.assignment(&user(0)).unwrap().reason,
            AssignmentReason::Removed
        );
        assert_eq!(state.assignment(&user(0)).unwrap().epoch, 1);
        assert_eq!(state.assignment(&user(1)).unwrap().epoch, 0);
    }

    #[test]
    fn the_rotation_goes_on_where_it_stood_when_gateways_change() {
        let mut state = cluster_of(0);
        apply_all(&mut state, [gateways(&["a", "b", "c"]), assign([1])]);
        apply_all(&mut state, [gateways(&["z", "a", "b", "c", "a"]), assign([2])]);
        assert_eq!(cas_of(&state, 2), "b");
        assert_eq!(state.cas_gateways().len(), 4, "a name written twice counts once");
        apply_all(&mut state, [gateways(&["z", "b"]), assign([3])]);
        assert_eq!(
            cas_of(&state, 1),
            "z",
            "c, whose turn it was, has gone; z comes after it"
        );
        assert_eq!(cas_of(&state, 3), "b");
    }

    #[test]
    fn when_every_gateway_is_removed_users_wait_for_the_next() {
        let mut state = cluster_of(0);
        apply_all(&mut state, [gateways(&["a"]), assign([1]), gateways(&[])]);
        assert_eq!(cas_of(&state, 1), "a");
        assert_eq!(state.apply(assign([1])).0, Applied::Refused(Refusal::NoCas));
        assert_eq!(state.apply(assign([])).0, Applied::Assignments(Vec::new()));
        apply_all(&mut state, [gateways(&["b"])]);
        assert_eq!(cas_of(&state, 1), "b");
    }

    /// Whatever lets a gateway take users again: the users who were left without one wait for it, and not for their
    /// next failure.
    #[test]
    fn users_of_a_removed_gateway_are_placed_as_soon_as_another_takes_users() {
        let node_that_minds = |state: &mut ClusterState| {
            apply_all(state, [gateways(&["a", "b"]), eligible("b", false), assign([1])]);
            apply_all(
                state,
                [eligible("b", true), breaker("b", 1, true), gateways(&["b"])],
            );
            assert_eq!(cas_of(state, 1), "a", "nobody takes users");
        };
        for command in [
            breaker("b", 1, false),
            lost(1, 1),
            draining(1, 1),
            registered(1, 2),
        ] {
            let mut state = cluster_of(2);
            node_that_minds(&mut state);
            let changes = apply_all(&mut state, [command.clone()]);
            assert_eq!(cas_of(&state, 1), "b", "{command:?}");
            let placed = Change::Calendar(CalendarChange::Assigned { user: user(1) });
            assert!(changes.contains(&placed), "{command:?}: {changes:?}");
            let assignment = state.assignment(&user(1)).unwrap();
            assert_eq!(
                (assignment.epoch, assignment.reason),
                (1, AssignmentReason::Removed)
            );
        }
        let mut state = cluster_of(2);
        apply_all(
            &mut state,
            [
                gateways(&["a", "b"]),
                eligible("b", false),
                assign([1]),
                gateways(&["b"]),
            ],
        );
        assert_eq!(cas_of(&state, 1), "a");
        let before = state.assignment(&user(1)).unwrap().since_ms;
        apply_all(&mut state, [eligible("b", true)]);
        assert_eq!(cas_of(&state, 1), "b");
        assert_eq!(state.assignment(&user(1)).unwrap().since_ms, before);
    }

    #[test]
    fn an_unassigned_user_is_forgotten() {
        let mut state = cluster_of(0);
        apply_all(&mut state, [gateways(&["a"]), assign([1])]);
        let gone = vec![Change::Calendar(CalendarChange::Assigned { user: user(1) })];
        let unassign = Command::CasUnassign {
            users: vec![user(1), user(2)],
        };
        assert_eq!(state.apply(unassign), (Applied::Done, gone));
        assert_eq!(state.assignment(&user(1)), None);
    }

    fn configured(gateways: &[(&str, &str)]) -> Command {
        let with_host = |(name, host): &(&str, &str)| {
            let id = CasId((*name).to_owned());
            let endpoint = CasEndpoint {
                host: (*host).to_owned(),
                ..CasEndpoint::of(&id)
            };
            (id, endpoint)
        };
        Command::CasGatewaysConfigured {
            gateways: gateways.iter().map(with_host).collect(),
            at_ms: 1,
        }
    }

    fn breaker(cas: &str, node: u64, open: bool) -> Command {
        Command::CasBreaker {
            cas: CasId(cas.to_owned()),
            node: NodeId(node),
            open,
        }
    }

    fn moved(moves: &[(u64, u32, &str)]) -> Command {
        let one = |&(number, epoch, cas): &(u64, u32, &str)| (user(number), epoch, CasId(cas.to_owned()));
        Command::CasMoved {
            users: moves.iter().map(one).collect(),
            at_ms: 9,
        }
    }

    #[test]
    fn a_gateway_that_is_told_elsewhere_keeps_its_users_and_its_place() {
        let mut state = cluster_of(0);
        let first = configured(&[("a", "a.example.com"), ("b", "b.example.com")]);
        assert_eq!(
            apply_all(&mut state, [first.clone()]),
            [Change::Calendar(CalendarChange::Gateways)]
        );
        apply_all(&mut state, [assign(0..2), eligible("b", false)]);
        assert_eq!(apply_all(&mut state, [first]), []);
        let elsewhere = configured(&[("a", "a.example.com"), ("b", "192.0.2.7")]);
        assert_eq!(
            apply_all(&mut state, [elsewhere]),
            [Change::Calendar(CalendarChange::Gateways)]
        );
        assert_eq!(state.cas_gateways()[1].endpoint.host, "192.0.2.7");
        assert!(
            !state.cas_gateways()[1].eligible,
            "what an administrator decided stays"
        );
        assert_eq!((cas_of(&state, 0), cas_of(&state, 1)), ("a", "b"));
    }

    #[test]
    fn a_gateway_takes_nobody_while_the_breaker_of_any_live_node_is_open() {
        let mut state = cluster_of(2);
        apply_all(
            &mut state,
            [
                gateways(&["a", "b"]),
                breaker("a", 1, true),
                breaker("a", 2, true),
            ],
        );
        apply_all(&mut state, [assign(0..2), breaker("a", 1, false), assign(2..4)]);
        assert_eq!(spread(&state), BTreeMap::from([("b".to_owned(), 4)]));
        assert_eq!(apply_all(&mut state, [breaker("a", 2, true)]), []);
        let changes = apply_all(&mut state, [lost(2, 1)]);
        assert!(
            changes.contains(&Change::Calendar(CalendarChange::Gateways)),
            "{changes:?}"
        );
        assert!(
            state.cas_gateways()[0].takes_users(),
            "the breaker of a node that is gone is gone with it"
        );
        apply_all(&mut state, [breaker("a", 2, true)]);
        assert!(
            state.cas_gateways()[0].takes_users(),
            "and it has no say any more"
        );
        let unknown = state.apply(breaker("x", 1, true)).0;
        assert_eq!(unknown, Applied::Refused(Refusal::UnknownCas));
    }

    #[test]
    fn the_next_incarnation_of_a_node_knows_nothing_of_its_breakers() {
        let mut state = cluster_of(2);
        apply_all(&mut state, [gateways(&["a"]), breaker("a", 1, true)]);
        let changes = apply_all(&mut state, [registered(1, 2)]);
        assert!(
            changes.contains(&Change::Calendar(CalendarChange::Gateways)),
            "{changes:?}"
        );
        assert!(state.cas_gateways()[0].takes_users());
    }

    #[test]
    fn chosen_users_move_under_the_epoch_that_the_proposer_knew() {
        let mut state = cluster_of(0);
        apply_all(&mut state, [gateways(&["a", "b"]), assign(0..4)]);
        let plan = moved(&[(0, 0, "b"), (1, 0, "b"), (2, 7, "b"), (9, 0, "b")]);
        apply_all(&mut state, [plan.clone()]);
        let assignment = state.assignment(&user(0)).unwrap();
        assert_eq!(
            (assignment.epoch, assignment.since_ms, assignment.reason),
            (1, 9, AssignmentReason::Rebalanced)
        );
        assert_eq!((cas_of(&state, 0), cas_of(&state, 2)), ("b", "a"));
        assert_eq!(
            state.assignment(&user(1)).unwrap().epoch,
            0,
            "the user was there already"
        );
        assert_eq!(apply_all(&mut state, [plan]), [], "said twice is said once");
        apply_all(
            &mut state,
            [eligible("a", false), moved(&[(0, 1, "a"), (2, 0, "x")])],
        );
        assert_eq!(
            (cas_of(&state, 0), cas_of(&state, 2)),
            ("b", "a"),
            "nobody goes to a gateway that takes nobody, or that is not there"
        );
    }

    #[test]
    fn the_number_of_users_and_gateways_is_bounded() {
        let mut state = cluster_of(0);
        state.limits.users_assigned_max = 3;
        apply_all(&mut state, [gateways(&["a"]), assign(0..2)]);
        assert_eq!(
            state.apply(assign(1..4)).0,
            Applied::Refused(Refusal::LimitReached)
        );
        assert_eq!(state.assignments().len(), 2, "all or nothing");
        assert!(matches!(
            state.apply(assign([1, 2, 2])).0,
            Applied::Assignments(_)
        ));
        let many: Vec<String> = (0..=GATEWAYS_MAX).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(
            state.apply(gateways(&many)).0,
            Applied::Refused(Refusal::LimitReached)
        );
    }
}
