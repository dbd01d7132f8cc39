//! Which ways between members are cut, and how: as values, and as rules for nftables.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::Member;
use super::slow_link::SlowLink;

/// Nothing of TCP that one member sends reaches the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut {
    pub from: Member,
    pub to: Member,
    pub by: Block,
}

/// What becomes of what does not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Block {
    /// It vanishes.
    Drop,
    /// Its sender is told by a TCP reset.
    Reset,
    /// Its sender is told by ICMP that the port is unreachable.
    Refuse,
}

impl Block {
    pub const ALL: [Self; 3] = [Self::Drop, Self::Reset, Self::Refuse];
}

impl Cut {
    /// Neither reaches the other.
    #[must_use]
    pub fn both_ways(one: Member, other: Member, by: Block) -> Vec<Self> {
        let (from, to) = (one, other);
        vec![
            Self { from, to, by },
            Self {
                from: to,
                to: from,
                by,
            },
        ]
    }

    /// None of the `members` reaches any of the `others`, nor the other way round.
    #[must_use]
    pub fn between(members: &[Member], others: &[Member], by: Block) -> Vec<Self> {
        let pairs = members
            .iter()
            .flat_map(|one| others.iter().map(move |other| (*one, *other)));
        pairs
            .flat_map(|(one, other)| Self::both_ways(one, other, by))
            .collect()
    }
}

/// The whole filter of one member. What a reset answers must pass: a router in between would have sent it.
pub(super) fn rules(
    at: Member,
    cuts: &BTreeSet<Cut>,
    slow: Option<&SlowLink>,
    address: impl Fn(Member) -> IpAddr,
) -> String {
    let mut arriving = String::new();
    for cut in cuts.iter().filter(|cut| cut.to == at) {
        let from = match address(cut.from) {
            IpAddr::V4(address) => format!("ip saddr {address}"),
            IpAddr::V6(address) => format!("ip6 saddr {address}"),
        };
        let _ = match cut.by {
            Block::Drop => writeln!(arriving, "{from} meta l4proto tcp drop"),
            Block::Reset => writeln!(
                arriving,
                "{from} tcp flags & rst == rst accept\n{from} meta l4proto tcp reject with tcp reset"
            ),
            Block::Refuse => writeln!(
                arriving,
                "{from} meta l4proto tcp reject with icmpx type port-unreachable"
            ),
        };
    }
    let leaving = slow.map_or_else(String::new, |slow| {
        format!(
            "meta l4proto tcp numgen random mod 100 < {} drop\n",
            slow.lost_percent
        )
    });
    format!(
        "flush ruleset\n\
         table inet cuts {{\n\
         chain arriving {{\ntype filter hook input priority 0; policy accept;\n{arriving}}}\n\
         chain leaving {{\ntype filter hook output priority 0; policy accept;\n\
         {leaving}}}\n\
         }}\n"
    )
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const NODE: Member = Member::Node(1);

    #[test]
    fn a_cut_is_laid_down_where_it_ends() {
        let cuts = Cut::both_ways(NODE, Member::Lb, Block::Drop)
            .into_iter()
            .collect();
        let rules = |at| rules(at, &cuts, None, |_| Ipv4Addr::new(10, 0, 0, 1).into());
        assert!(rules(NODE).contains("ip saddr 10.0.0.1 meta l4proto tcp drop"));
        assert!(rules(Member::Lb).contains("drop"));
        assert!(!rules(Member::Node(2)).contains("saddr"));
    }

    #[test]
    fn resets_pass_where_resets_are_sent() {
        let cut = Cut {
            from: Member::Lb,
            to: NODE,
            by: Block::Reset,
        };
        let rules = rules(NODE, &[cut].into(), None, |_| Ipv6Addr::LOCALHOST.into());
        let accepted = rules.find("ip6 saddr ::1 tcp flags & rst == rst accept").unwrap();
        let rejected = rules.find("reject with tcp reset").unwrap();
        assert!(accepted < rejected);
    }
}
