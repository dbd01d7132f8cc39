//! What goes wrong, drawn from the seed, and what puts it right again.
//!
//! Owns the kinds of trouble and what each means for those who judge. What always holds: a majority of the members stays, unless
//! all are apart for a while; and the first troubles of a seed are dealt, so that a handful of seeds has met every kind.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tandem_runtime::io::environment::simulated::Fault;

use super::{Operator, Order, WorldOptions};
use crate::cluster::Member;

/// The kinds of things that go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    Killed,
    PowerLost,
    Frozen,
    Terminated,
    CutOff,
    CutOneWay,
    AllApart,
    Slow,
    DiskStandsStill,
    ClockStepped,
    CtiManagerKilled,
    CtiManagerFrozen,
    ClientsCutOff,
    CasKilled,
    CasFrozen,
    CasThrottles,
    CasCutOff,
}

/// Whom a fault befalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    /// A member of the cluster is gone, or out of reach, for a while.
    Member,
    /// What surrounds the members: their clocks and wires, CTI managers, clients.
    Surroundings,
    /// A Client Access Server.
    Cas,
}

impl FaultKind {
    pub const ALL: [Self; 17] = [
        Self::Killed,
        Self::PowerLost,
        Self::Frozen,
        Self::Terminated,
        Self::CutOff,
        Self::CutOneWay,
        Self::AllApart,
        Self::Slow,
        Self::DiskStandsStill,
        Self::ClockStepped,
        Self::CtiManagerKilled,
        Self::CtiManagerFrozen,
        Self::ClientsCutOff,
        Self::CasKilled,
        Self::CasFrozen,
        Self::CasThrottles,
        Self::CasCutOff,
    ];

    fn victim(self) -> Victim {
        match self {
            Self::Killed
            | Self::PowerLost
            | Self::Frozen
            | Self::Terminated
            | Self::CutOff
            | Self::CutOneWay
            | Self::AllApart
            | Self::DiskStandsStill => Victim::Member,
            Self::Slow
            | Self::ClockStepped
            | Self::CtiManagerKilled
            | Self::CtiManagerFrozen
            | Self::ClientsCutOff => Victim::Surroundings,
            Self::CasKilled | Self::CasFrozen | Self::CasThrottles | Self::CasCutOff => Victim::Cas,
        }
    }

    fn of(victims: &[Victim]) -> Vec<Self> {
        let kinds = Self::ALL.into_iter();
        kinds.filter(|kind| victims.contains(&kind.victim())).collect()
    }
}

/// Something that has gone wrong, and what puts it right.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) kind: FaultKind,
    /// What it befell, for the history.
    pub(super) whom: String,
    pub(super) cure: Vec<Order>,
    /// Clients lose their connection, and what was on it.
    pub(super) breaks_clients_off: bool,
    /// A living node does not reach its clients.
    pub(super) parts_nodes_from_clients: bool,
    /// A Client Access Server, counted from 0, whose users may move.
    pub(super) fails_cas: Option<usize>,
}

impl fmt::Display for Trouble {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} {}", self.kind, self.whom)
    }
}

/// Brings troubles about.
pub(super) struct Faults {
    operator: Operator,
    random: StdRng,
    seed: usize,
    nodes: u64,
    cti_managers: usize,
    cas: usize,
    /// So many of the members', and of the Client Access Servers', have come about.
    dealt: (usize, usize),
}

impl Faults {
    pub(super) fn new(options: &WorldOptions, operator: Operator) -> Self {
        Self {
            operator,
            random: StdRng::seed_from_u64(options.seed ^ 0xda1),
            seed: usize::try_from(options.seed % 1000).unwrap_or_default(),
            nodes: options.nodes,
            cti_managers: options.cti_managers,
            cas: options.cas,
            dealt: (0, 0),
        }
    }

    /// Something befalls the members or their surroundings; in a quarter of the cases one each.
    pub(super) fn befall_members(&mut self) -> Vec<Trouble> {
        let kinds = FaultKind::of(&[Victim::Member, Victim::Surroundings]);
        let dealt = self.dealt.0;
        self.dealt.0 += 1;
        let kind = self.deal(&kinds, DEALT_AT_FIRST, dealt);
        let mut troubles = vec![self.bring_about(kind)];
        if self.random.random_ratio(1, 4) {
            let other = match kind.victim() {
                Victim::Member => Victim::Surroundings,
                Victim::Surroundings | Victim::Cas => Victim::Member,
            };
            let kind = self.any(&FaultKind::of(&[other]));
            troubles.push(self.bring_about(kind));
        }
        troubles
    }

    /// Something befalls a Client Access Server.
    pub(super) fn befall_a_cas(&mut self) -> Trouble {
        let kinds = FaultKind::of(&[Victim::Cas]);
        let dealt = self.dealt.1;
        self.dealt.1 += 1;
        let kind = self.deal(&kinds, 1, dealt);
        self.bring_about(kind)
    }

    pub(super) fn milliseconds(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(range))
    }

    pub(super) fn is_likely(&mut self, numerator: u32, denominator: u32) -> bool {
        self.random.random_ratio(numerator, denominator)
    }

    /// The first `at_first` of a seed are the next ones in order, the others are drawn.
    fn deal(&mut self, kinds: &[FaultKind], at_first: usize, dealt: usize) -> FaultKind {
        match dealt < at_first {
            true => kinds[(self.seed * at_first + dealt) % kinds.len()],
            false => self.any(kinds),
        }
    }

    fn any(&mut self, kinds: &[FaultKind]) -> FaultKind {
        *kinds.choose(&mut self.random).expect("there are kinds of each")
    }

    fn bring_about(&mut self, kind: FaultKind) -> Trouble {
        let (trouble, orders) = self.plan(kind);
        for order in orders {
            self.operator.order(order);
        }
        trouble
    }

    fn plan(&mut self, kind: FaultKind) -> (Trouble, Vec<Order>) {
        let member = self.any_member();
        let is_front_end = member == Member::Lb;
        let name = member.to_string();
        let mut trouble = Trouble::new(kind, &name);
        if matches!(
            kind,
            FaultKind::Killed | FaultKind::PowerLost | FaultKind::Terminated
        ) {
            trouble.breaks_clients_off = is_front_end;
            // What lay in its buffers is lost, and for as long as it is silent nodes cannot know.
            trouble.parts_nodes_from_clients = is_front_end && kind == FaultKind::PowerLost;
            trouble.cure = vec![Order::Kill(name.clone()), Order::Start(name.clone())];
        }
        let orders = match kind {
            FaultKind::Killed => vec![Order::Kill(name)],
            FaultKind::PowerLost => vec![Order::PowerOff(name)],
            FaultKind::Terminated => vec![Order::Terminate(name)],
            FaultKind::Frozen => {
                trouble.cure = vec![Order::Thaw(name.clone())];
                vec![Order::Freeze(name)]
            }
            FaultKind::CutOff => {
                trouble.parts_nodes_from_clients = true;
                let others = self.names_but(&name);
                trouble.cut(&[name], &others)
            }
            FaultKind::CutOneWay => {
                trouble.parts_nodes_from_clients = true;
                let others = self.names_but(&name);
                let other = others.choose(&mut self.random).cloned().unwrap_or_default();
                trouble.cure = vec![Order::Heal(name.clone(), other.clone())];
                vec![Order::Cut(name, other)]
            }
            FaultKind::AllApart => {
                trouble.parts_nodes_from_clients = true;
                let names: Vec<_> = self.members().map(|member| member.to_string()).collect();
                let mut orders = Vec::new();
                for (index, one) in names.iter().enumerate() {
                    orders.extend(trouble.cut(std::slice::from_ref(one), &names[index + 1..]));
                }
                orders
            }
            FaultKind::Slow => {
                trouble.cure = vec![Order::SlowDown(name.clone(), Duration::ZERO)];
                vec![Order::SlowDown(name, self.milliseconds(5..40))]
            }
            FaultKind::DiskStandsStill => {
                trouble.cure = vec![Order::Disk(name.clone(), None)];
                vec![Order::Disk(name, Some(Fault::StandsStill))]
            }
            FaultKind::ClockStepped => {
                let error = *[-7_200_000, -60_000, 60_000, 7_200_000]
                    .choose(&mut self.random)
                    .unwrap_or(&0);
                trouble.cure = vec![Order::StepClock(name.clone(), 0)];
                vec![Order::StepClock(name, error)]
            }
            FaultKind::CtiManagerKilled | FaultKind::CtiManagerFrozen => {
                let number = self.random.random_range(1..=self.cti_managers);
                let name = Member::CtiManager(number).to_string();
                trouble.whom.clone_from(&name);
                if kind == FaultKind::CtiManagerKilled {
                    trouble.cure = vec![Order::Start(name.clone())];
                    vec![Order::Kill(name)]
                } else {
                    trouble.cure = vec![Order::Thaw(name.clone())];
                    vec![Order::Freeze(name)]
                }
            }
            FaultKind::ClientsCutOff => {
                trouble.parts_nodes_from_clients = true;
                trouble.breaks_clients_off = true;
                trouble.cut(&["office".to_owned()], &["lb".to_owned()])
            }
            FaultKind::CasKilled => {
                let name = self.any_cas(&mut trouble);
                trouble.cure = vec![Order::Start(name.clone())];
                vec![Order::Kill(name)]
            }
            FaultKind::CasFrozen => {
                let name = self.any_cas(&mut trouble);
                trouble.cure = vec![Order::Thaw(name.clone())];
                vec![Order::Freeze(name)]
            }
            FaultKind::CasThrottles => {
                self.any_cas(&mut trouble);
                // Throttling is no failure (docs/spec/ews.md §1.8): it moves nobody.
                let number = trouble.fails_cas.take().unwrap_or_default();
                trouble.cure = vec![Order::Throttle(number, false)];
                vec![Order::Throttle(number, true)]
            }
            FaultKind::CasCutOff => {
                let name = self.any_cas(&mut trouble);
                let nodes: Vec<_> = (1..=self.nodes).map(|id| Member::Node(id).to_string()).collect();
                trouble.cut(&[name], &nodes)
            }
        };
        (trouble, orders)
    }

    fn any_cas(&mut self, trouble: &mut Trouble) -> String {
        let number = self.random.random_range(0..self.cas);
        trouble.fails_cas = Some(number);
        trouble.whom = cas_name(number);
        trouble.whom.clone()
    }

    fn members(&self) -> impl Iterator<Item = Member> {
        (1..=self.nodes).map(Member::Node).chain([Member::Lb])
    }

    fn any_member(&mut self) -> Member {
        let members: Vec<_> = self.members().collect();
        *members.choose(&mut self.random).unwrap_or(&Member::Lb)
    }

    fn names_but(&self, name: &str) -> Vec<String> {
        let names = self.members().map(|member| member.to_string());
        names.filter(|other| other != name).collect()
    }
}

impl Trouble {
    /// The front end's machine or process has gone, and with it every connection.
    pub(super) fn takes_front_end(&self) -> bool {
        self.breaks_clients_off && self.kind != FaultKind::ClientsCutOff
    }

    fn new(kind: FaultKind, whom: &str) -> Self {
        Self {
            kind,
            whom: whom.to_owned(),
            cure: Vec::new(),
            breaks_clients_off: false,
            parts_nodes_from_clients: false,
            fails_cas: None,
        }
    }

    /// Both ways between each of the one and each of the others.
    fn cut(&mut self, some: &[String], others: &[String]) -> Vec<Order> {
        let mut orders = Vec::new();
        for one in some {
            for other in others {
                for (from, to) in [(one, other), (other, one)] {
                    orders.push(Order::Cut(from.clone(), to.clone()));
                    self.cure.push(Order::Heal(from.clone(), to.clone()));
                }
            }
        }
        orders
    }
}

/// The machine of a Client Access Server, counted from 0.
pub(super) fn cas_name(number: usize) -> String {
    format!("cas{}", number + 1)
}

/// Four seeds have met every kind of the members' and their surroundings'.
const DEALT_AT_FIRST: usize = 4;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_first_seeds_meet_every_kind() {
        let (orders, _kept) = tokio::sync::mpsc::unbounded_channel();
        let operator = Operator::new(orders);
        let mut met = BTreeSet::new();
        for seed in 1..=4 {
            let mut faults = Faults::new(&WorldOptions::of_seed(seed), operator.clone());
            for _ in 0..DEALT_AT_FIRST {
                met.extend(faults.befall_members().iter().map(|trouble| trouble.kind));
            }
            met.insert(faults.befall_a_cas().kind);
        }
        assert_eq!(met.len(), FaultKind::ALL.len());
    }
}
