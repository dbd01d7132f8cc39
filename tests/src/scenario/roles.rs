//! Members by what they are at the moment, and the ways between them.

use super::{DiskScene, other};
use crate::cluster::{Block, Cut, Member};

/// A member by what it is at that moment, so that a fault means the same whichever member leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Leader,
    Follower,
    FrontEnd,
}

/// Which of the ways between two members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Both,
    /// From the first to the second.
    There,
    Back,
}

impl Who {
    pub const ALL: [Self; 3] = [Self::Leader, Self::Follower, Self::FrontEnd];

    pub(super) async fn member(self, scene: &DiskScene) -> anyhow::Result<Member> {
        let leader = scene.leading_node().await?;
        Ok(match self {
            Self::Leader => leader,
            Self::Follower => other(leader),
            Self::FrontEnd => Member::Lb,
        })
    }
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Both, Self::There, Self::Back];

    pub(super) fn cuts(self, one: Member, other: Member, by: Block) -> Vec<Cut> {
        let both = Cut::both_ways(one, other, by);
        match self {
            Self::Both => both,
            Self::There => vec![both[0]],
            Self::Back => vec![both[1]],
        }
    }
}
