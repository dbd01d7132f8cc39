//! The configured list of members, which must be the same on all of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::address::MemberAddress;
use super::identity::MemberRole;
use crate::node::NodeId;

/// One entry of a member's configured list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedMember {
    pub id: NodeId,
    pub role: MemberRole,
    /// Where its peers reach it.
    pub address: MemberAddress,
}

/// Which entries differ between this member's list and that of `peer`; `None`: none.
#[must_use]
pub fn list_difference(own: &[ListedMember], peer: NodeId, theirs: &[ListedMember]) -> Option<String> {
    let by_id = |list| -> BTreeMap<NodeId, &ListedMember> {
        let list: &[ListedMember] = list;
        list.iter().map(|member| (member.id, member)).collect()
    };
    let (own, theirs) = (by_id(own), by_id(theirs));
    let mut differences = Vec::new();
    for (id, member) in &own {
        match theirs.get(id) {
            None => differences.push(format!("{id} is in this member's list and not in that of {peer}")),
            Some(other) if other.role != member.role => differences.push(format!(
                "{id} is a {} here and a {} for {peer}",
                member.role.label(),
                other.role.label()
            )),
            Some(other) if other.address != member.address => differences.push(format!(
                "{id} is at {} here and at {} for {peer}",
                member.address, other.address
            )),
            Some(_) => {}
        }
    }
    for id in theirs.keys().filter(|id| !own.contains_key(id)) {
        differences.push(format!("{id} is in the list of {peer} and not in this member's"));
    }
    (!differences.is_empty()).then(|| differences.join("; "))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn listed(id: u64, role: MemberRole, port: u16) -> ListedMember {
        ListedMember {
            id: NodeId(id),
            role,
            address: SocketAddr::from(([192, 0, 2, 1], port)).into(),
        }
    }

    #[test]
    fn equal_lists_in_any_order_do_not_differ() {
        let (first, second) = (listed(1, MemberRole::Node, 1), listed(2, MemberRole::Node, 2));
        assert_eq!(
            list_difference(&[first.clone(), second.clone()], NodeId(2), &[second, first]),
            None
        );
    }

    #[test]
    fn every_entry_that_differs_is_named() {
        let own = [
            listed(1, MemberRole::Node, 1),
            listed(2, MemberRole::Node, 2),
            listed(3, MemberRole::Witness, 3),
        ];
        let theirs = [
            listed(2, MemberRole::Node, 9),
            listed(3, MemberRole::Node, 3),
            listed(4, MemberRole::Node, 4),
        ];
        assert_eq!(
            list_difference(&own, NodeId(2), &theirs).unwrap(),
            "n1 is in this member's list and not in that of n2; n2 is at 192.0.2.1:2 here and at 192.0.2.1:9 for n2; \
             n3 is a witness here and a node for n2; n4 is in the list of n2 and not in this member's"
        );
    }
}
