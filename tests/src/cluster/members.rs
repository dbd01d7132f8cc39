//! Who belongs to a cluster, and where each is.

use super::namespace::Namespace;
use super::{Cluster, ClusterOptions, Member};

impl ClusterOptions {
    pub(super) fn nodes(&self) -> impl Iterator<Item = Member> + use<> {
        (1..=self.nodes).map(Member::Node)
    }

    /// CTI managers first: nodes connect to them at once.
    pub(super) fn members(&self) -> Vec<Member> {
        let managers = (1..=self.cti_managers).map(Member::CtiManager);
        managers.chain(self.nodes()).chain([Member::Lb]).collect()
    }
}

impl Cluster {
    /// CTI managers first: nodes connect to them at once.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.options.members()
    }

    #[must_use]
    pub fn nodes(&self) -> Vec<Member> {
        self.options.nodes().collect()
    }

    /// How many members vote.
    #[must_use]
    pub fn voters(&self) -> usize {
        self.nodes().len() | 1
    }

    /// `None`: where the test is.
    pub(super) fn namespace(&self, member: Member) -> Option<&Namespace> {
        self.network.as_ref()?.namespace(member)
    }
}
