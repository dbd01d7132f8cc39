//! What the log says of its own members and its own format, besides Raft's membership.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ClusterState;
use crate::command::{Applied, Refusal};
use crate::format::Format;
use crate::membership::{ClusterIdentity, RaftId};

impl ClusterState {
    /// The format in which members write. It only rises, when every member has run a release that reads the next one.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Members that were replaced: their directories must never take part again.
    #[must_use]
    pub fn removed_members(&self) -> &BTreeSet<RaftId> {
        &self.removed_members
    }

    /// The cluster's identity; `None` before the first leader has drawn one.
    #[must_use]
    pub fn identity(&self) -> Option<ClusterIdentity> {
        self.identity
    }

    /// The first one stands: two leaders may each have drawn one.
    pub(super) fn identify(&mut self, identity: ClusterIdentity) -> Applied {
        self.identity.get_or_insert(identity);
        Applied::Done
    }

    pub(super) fn finalise_format(&mut self, format: Format) -> Applied {
        self.format = self.format.max(format);
        Applied::Done
    }

    /// At the bound the removal is refused rather than an older one forgotten: a forgotten member could come back.
    pub(super) fn remove_member(&mut self, id: RaftId) -> Applied {
        if self.removed_members.len() >= REMOVED_MEMBERS_MAX && !self.removed_members.contains(&id) {
            return Applied::Refused(Refusal::LimitReached);
        }
        Arc::make_mut(&mut self.removed_members).insert(id);
        Applied::Done
    }
}

/// One replacement a week for many years.
pub(super) const REMOVED_MEMBERS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::super::test_support::small_limits;
    use super::*;
    use crate::command::Command;
    use crate::node::NodeId;

    #[test]
    fn the_format_never_falls() {
        let mut state = ClusterState::new(small_limits());
        assert_eq!(state.format(), Format::RELEASE_0_1);
        for (told, holds) in [(2, 2), (1, 2), (3, 3)] {
            let format = Format(told);
            assert_eq!(state.apply(Command::FormatFinalised { format }).0, Applied::Done);
            assert_eq!(state.format(), Format(holds));
        }
    }

    #[test]
    fn of_two_identities_the_first_stands() {
        let mut state = ClusterState::new(small_limits());
        for drawn in [7, 8] {
            let identity = ClusterIdentity(drawn);
            let command = Command::ClusterIdentified { identity };
            assert_eq!(state.apply(command).0, Applied::Done);
        }
        assert_eq!(state.identity(), Some(ClusterIdentity(7)));
    }

    #[test]
    fn a_removed_member_is_remembered_and_their_number_is_bounded() {
        let mut state = ClusterState::new(small_limits());
        let id = |generation| RaftId::new(generation, NodeId(2));
        for generation in 0..u32::try_from(REMOVED_MEMBERS_MAX).unwrap() {
            let id = id(generation);
            assert_eq!(state.apply(Command::MemberRemoved { id }).0, Applied::Done);
        }
        let one_more = Command::MemberRemoved { id: id(u32::MAX) };
        assert_eq!(state.apply(one_more).0, Applied::Refused(Refusal::LimitReached));
        assert!(state.removed_members().contains(&id(0)));
        assert_eq!(state.apply(Command::MemberRemoved { id: id(0) }).0, Applied::Done);
    }
}
