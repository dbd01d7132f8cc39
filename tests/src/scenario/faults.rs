//! What befalls a cluster in namespaces, as values: drawn, told, brought about, and put right again.
//!
//! Owns the ways from a fault to what has to be done. What always holds: after [`Trouble::end`] nothing is wrong any more
//! that the test has done; what the cluster makes of it is for the judges.

use std::fmt;

use anyhow::Context;
use rand::Rng;
use rand::seq::IndexedRandom;

use super::{DiskScene, MEMBERS, NODES, Way, Who};
use crate::cluster::{Backup, Block, Cut, Member, Signal, SlowLink};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Two members do not reach each other, the third one reaches both.
    Cut {
        one: Who,
        other: Who,
        way: Way,
        by: Block,
    },
    /// One member reaches nobody.
    CutOff {
        who: Who,
        by: Block,
    },
    /// Nobody reaches anybody.
    AllApart {
        by: Block,
    },
    Slow {
        who: Who,
        link: SlowLink,
    },
    Frozen {
        who: Who,
    },
    Killed {
        who: Who,
    },
    /// Killed, and its disk is empty.
    Wiped {
        who: Who,
    },
    /// Killed, and its disk is as it was a while ago.
    RolledBack {
        who: Who,
    },
    /// Of the second node.
    DiskFull,
    ClockStepped {
        who: Who,
        secs: i64,
    },
}

/// A fault that has come about.
#[derive(Debug)]
pub struct Trouble {
    fault: Fault,
    /// Whom it has befallen; of a cut, one end.
    member: Member,
    backup: Option<Backup>,
}

impl Fault {
    /// A clock that is wrong by one of [`STEPS`].
    pub fn draw_clock_step(random: &mut impl Rng) -> Self {
        Self::ClockStepped {
            who: any(random, &Who::ALL),
            secs: any(random, &STEPS),
        }
    }

    /// Any fault that every cluster in namespaces can have, each kind as likely as the others.
    pub fn draw(random: &mut impl Rng) -> Self {
        let who = any(random, &Who::ALL);
        let by = any(random, &Block::ALL);
        match random.random_range(0..9) {
            0 => {
                let (one, other) = any(random, &PAIRS);
                let way = any(random, &Way::ALL);
                Self::Cut { one, other, way, by }
            }
            1 => Self::CutOff { who, by },
            2 => Self::AllApart { by },
            3 => Self::Slow { who, link: SLOW },
            4 => Self::Frozen { who },
            5 => Self::Killed { who },
            6 => Self::Wiped { who },
            7 => Self::RolledBack { who },
            _ => Self::DiskFull,
        }
    }

    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cut { .. } => "cut",
            Self::CutOff { .. } => "cut off",
            Self::AllApart { .. } => "all apart",
            Self::Slow { .. } => "slow link",
            Self::Frozen { .. } => "frozen",
            Self::Killed { .. } => "killed",
            Self::Wiped { .. } => "wiped",
            Self::RolledBack { .. } => "rolled back",
            Self::DiskFull => "disk full",
            Self::ClockStepped { .. } => "clock stepped",
        }
    }

    /// Whether a majority of members can still agree.
    #[must_use]
    pub fn leaves_a_quorum(&self) -> bool {
        !matches!(self, Self::AllApart { .. })
    }

    /// Whether a living node does not reach its clients any more.
    #[must_use]
    pub fn parts_nodes_from_clients(&self) -> bool {
        let apart = matches!(self, Self::CutOff { .. } | Self::AllApart { .. });
        apart || matches!(self, Self::Cut { one, other, .. } if [one, other].contains(&&Who::FrontEnd))
    }

    /// Whether clients lose their connection, and what was on it.
    #[must_use]
    pub fn breaks_clients_off(&self) -> bool {
        let ends = [
            Self::Killed { who: Who::FrontEnd },
            Self::Wiped { who: Who::FrontEnd },
        ];
        ends.contains(self) || *self == Self::RolledBack { who: Who::FrontEnd }
    }

    /// Brings it about.
    pub async fn begin(&self, scene: &mut DiskScene) -> anyhow::Result<Trouble> {
        let member = match self {
            Self::Cut { one: who, .. }
            | Self::CutOff { who, .. }
            | Self::Slow { who, .. }
            | Self::Frozen { who }
            | Self::Killed { who }
            | Self::Wiped { who }
            | Self::RolledBack { who }
            | Self::ClockStepped { who, .. } => who.member(scene).await?,
            Self::AllApart { .. } => Member::Lb,
            Self::DiskFull => NODES[1],
        };
        let mut trouble = Trouble {
            fault: self.clone(),
            member,
            backup: None,
        };
        trouble.begin(scene).await.with_context(|| self.to_string())?;
        Ok(trouble)
    }
}

impl Trouble {
    async fn begin(&mut self, scene: &mut DiskScene) -> anyhow::Result<()> {
        let member = self.member;
        match &self.fault {
            Fault::Cut { other, way, by, .. } => {
                let other = other.member(scene).await?;
                scene.cluster.cut(&way.cuts(member, other, *by))
            }
            Fault::CutOff { by, .. } => scene.cluster.cut(&Cut::between(&[member], &others(member), *by)),
            Fault::AllApart { by } => {
                scene.cluster.cut(&Cut::between(&[Member::Lb], &NODES, *by))?;
                scene.cluster.cut(&Cut::both_ways(NODES[0], NODES[1], *by))
            }
            Fault::Slow { link, .. } => scene.cluster.slow_down(member, *link),
            Fault::Frozen { .. } => scene.cluster.signal(member, Signal::Stop),
            Fault::Killed { .. } => scene.cluster.kill(member).await,
            Fault::Wiped { .. } => scene.restart_without_disk(member).await,
            Fault::RolledBack { .. } => self.roll_back(scene).await,
            Fault::DiskFull => match &scene.disk {
                Some(disk) => disk.fill(),
                None => Ok(()),
            },
            Fault::ClockStepped { secs, .. } => scene.cluster.step_wall_clock(member, *secs),
        }
    }

    /// The others learn what the member has acknowledged, before it forgets.
    async fn roll_back(&mut self, scene: &mut DiskScene) -> anyhow::Result<()> {
        let backup = scene.cluster.back_up(self.member)?;
        let asked = others(self.member)[0];
        scene.ledger.write(asked, WRITES_FORGOTTEN).await?;
        scene.ledger.is_known_to_be_held(asked, self.member).await?;
        scene.cluster.kill(self.member).await?;
        scene.cluster.put_back(self.member, &backup)?;
        self.backup = Some(backup);
        scene.cluster.launch(self.member)
    }

    /// Puts right what an administrator puts right. Whoever was killed is started, and whoever has forgotten something is
    /// given its seat by the command.
    pub async fn end(self, scene: &mut DiskScene) -> anyhow::Result<()> {
        let said = self.fault.to_string();
        self.put_right(scene).await.with_context(|| said)
    }

    async fn put_right(self, scene: &mut DiskScene) -> anyhow::Result<()> {
        let member = self.member;
        match self.fault {
            Fault::Cut { .. } | Fault::CutOff { .. } | Fault::AllApart { .. } | Fault::Slow { .. } => {
                scene.cluster.heal_network()
            }
            Fault::Frozen { .. } => scene.cluster.signal(member, Signal::Continue),
            Fault::Killed { .. } => scene.cluster.launch(member),
            Fault::Wiped { .. } | Fault::RolledBack { .. } => {
                let asked = others(member)[0];
                scene.wait_until_stranger(asked, member, "").await?;
                scene.take_seat_again(asked, member).await.map(drop)
            }
            Fault::DiskFull => {
                if scene.disk.is_none() {
                    return Ok(());
                }
                scene.write_until_ended(NODES[0], member).await?;
                if let Some(disk) = &scene.disk {
                    disk.make_space()?;
                }
                scene.cluster.launch(member)
            }
            Fault::ClockStepped { .. } => scene.cluster.step_wall_clock(member, 0),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self:?}")
    }
}

fn others(member: Member) -> Vec<Member> {
    MEMBERS.into_iter().filter(|other| *other != member).collect()
}

fn any<T: Copy>(random: &mut impl Rng, among: &[T]) -> T {
    *among.choose(random).expect("a list of choices is not empty")
}

/// By how many seconds clocks are wrong: as long as old results are kept, and as long as a session lives.
pub const STEPS: [i64; 4] = [64, -64, 1800, -1800];
const PAIRS: [(Who, Who); 3] = [
    (Who::Leader, Who::Follower),
    (Who::Leader, Who::FrontEnd),
    (Who::Follower, Who::FrontEnd),
];
/// Enough for heartbeats and everyday's writes, and not at once.
const SLOW: SlowLink = SlowLink {
    kilobits_per_second: 2_000,
    delay_ms: 20,
    lost_percent: 2,
};
const WRITES_FORGOTTEN: usize = 10;
