//! A day at the office: people call and are called while machines die, wires are cut and clocks jump.
//!
//! Owns what goes wrong, drawn from the seed, and the order in which it is put right. The judges are those whom Tandem
//! serves: what the communicators believe, what the PBX has carried out, what the CTI managers object to. After each
//! trouble everything heals, and must be well within the office's patience.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use tandem_runtime::io::environment;
use tandem_runtime::io::environment::simulated::Fault;
use tokio::time::sleep;

use super::{FaultKind, Operator, Order, WorldOptions};
use crate::cluster::{Addresses, Member, get_from, status_of};
use crate::peers::communicator::{Presence, Tolerance};
use crate::peers::front_end::{ConnectionNumber, FrontEnd};
use crate::peers::ocs::{Ocs, OcsOptions, phone_number};
use crate::peers::pbx::Pbx;
use crate::scenario::{Begun, Office, sign_in_again};

/// One day, with its people.
pub struct Day {
    office: Office,
    operator: Operator,
    addresses: Addresses,
    random: StdRng,
    nodes: u64,
    cti_managers: usize,
    /// Signed in from the morning on; those behind them come while something is wrong.
    steady: usize,
    newcomers: std::ops::Range<usize>,
    report: DayReport,
}

/// What a day came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DayReport {
    pub faults: BTreeMap<FaultKind, usize>,
    pub requests: usize,
    pub calls: usize,
    pub commands: usize,
    /// Events that came twice or too early, while that was to be expected.
    pub tolerated: usize,
}

/// Something that has gone wrong, and what puts it right.
struct Trouble {
    kind: FaultKind,
    cure: Vec<Order>,
    /// Clients lose their connection, and what was on it.
    breaks_clients_off: bool,
    /// A living node does not reach its clients.
    parts_nodes_from_clients: bool,
}

impl Day {
    /// Runs on the machine of the office, from signing in to the last judgement.
    ///
    /// # Errors
    /// When something was not as it must be: what, and where.
    pub async fn run(
        options: WorldOptions,
        operator: Operator,
        addresses: Addresses,
    ) -> anyhow::Result<DayReport> {
        let mut day = Self::begin(&options, operator, addresses).await?;
        let end = environment::now() + options.troubled;
        while environment::now() < end {
            day.round().await?;
        }
        day.end().await
    }

    async fn begin(options: &WorldOptions, operator: Operator, addresses: Addresses) -> anyhow::Result<Self> {
        let phones = (0..options.users).map(phone_number).collect();
        let pbx = Pbx::start(addresses.pbx(), phones).await?;
        let ocs = Ocs::start(OcsOptions {
            address: addresses.ocs(0),
            vip: addresses.vip(),
            users: 0..options.users,
            connections: 1,
            office_communicator_every: 2,
            colliding_group: 3,
        })
        .await?;
        let steady = options.users * 3 / 4;
        let day = Self {
            office: Office::new(ocs, pbx),
            operator,
            addresses,
            random: StdRng::seed_from_u64(options.seed ^ 0xda1),
            nodes: options.nodes,
            cti_managers: options.cti_managers,
            steady,
            newcomers: steady..options.users,
            report: DayReport::default(),
        };
        day.all_is_well().await.context("in the morning")?;
        day.office.sign_in(0..steady).await?;
        Ok(day)
    }

    /// Something goes wrong while people work; it is put right, and everything is as it must be.
    async fn round(&mut self) -> anyhow::Result<()> {
        let mut troubles = vec![self.draw(None)];
        if self.random.random_ratio(1, 4) {
            let first = troubles[0].kind;
            troubles.push(self.draw(Some(first)));
        }
        let kinds: Vec<_> = troubles.iter().map(|trouble| trouble.kind).collect();
        tracing::info!("trouble: {kinds:?}");
        for kind in &kinds {
            *self.report.faults.entry(*kind).or_default() += 1;
        }
        let before = self.connections().await;
        let is_gone =
            |trouble: &Trouble| trouble.breaks_clients_off && trouble.kind != FaultKind::ClientsCutOff;
        let front_end_is_gone = troubles.iter().any(is_gone);
        let begun = self.begin_work(&troubles).await;
        sleep(self.milliseconds(200..2500)).await;
        for order in troubles.into_iter().rev().flat_map(|trouble| trouble.cure) {
            self.operator.order(order);
        }
        if front_end_is_gone {
            self.wait_for_other_connections(before).await?;
        } else if kinds.contains(&FaultKind::ClientsCutOff) {
            // A connection that broke at one end only is found by the other's probes.
            sleep(PROBED_WITHIN).await;
        }
        let judged = self.judge(begun).await;
        judged.with_context(|| format!("after {kinds:?}"))
    }

    async fn connections(&self) -> Vec<ConnectionNumber> {
        self.office.ocs.ask(|front_end| front_end.connections()).await
    }

    /// A front end that was gone silently is missed when something is sent to it, or when it is probed.
    async fn wait_for_other_connections(&self, before: Vec<ConnectionNumber>) -> anyhow::Result<()> {
        let noticed = move |front_end: &FrontEnd| {
            let now = front_end.connections();
            !now.is_empty() && now.iter().all(|connection| !before.contains(connection))
        };
        let ocs = &self.office.ocs;
        ocs.wait_until(
            "OCS has noticed, and is connected again",
            self.office.patience,
            noticed,
        )
        .await
    }

    /// People call and are called, one more comes to work, and some look at their phones.
    async fn begin_work(&mut self, troubles: &[Trouble]) -> Begun {
        let mut people: Vec<usize> = (0..self.steady).collect();
        people.shuffle(&mut self.random);
        let breaks = troubles.iter().any(|trouble| trouble.breaks_clients_off);
        let parts = troubles.iter().any(|trouble| trouble.parts_nodes_from_clients);
        // A client that loses its connection cannot know what became of what it asked for, so none asks then.
        let calling = if breaks { &[][..] } else { &people[..3] };
        let called = if parts { &[][..] } else { &people[3..6] };
        self.report.calls += calling.len() + called.len();
        self.office.tolerate(Tolerance::EarlyEvents).await;
        let begun = self.office.begin_calls(called, calling).await;
        let newcomer = self.newcomers.next();
        let looking = if breaks { Vec::new() } else { people[6..].to_vec() };
        self.office
            .ocs
            .ask(move |front_end| {
                newcomer.into_iter().for_each(|user| front_end.sign_in(user));
                for user in looking {
                    front_end.snapshot(user);
                }
            })
            .await;
        begun
    }

    async fn judge(&mut self, begun: Begun) -> anyhow::Result<()> {
        self.all_is_well().await?;
        self.office.end_calls(begun).await?;
        self.office.nothing_was_wrong().await?;
        self.newcomers_are_here().await?;
        self.office.nobody_signed_in_again(0..self.steady).await
    }

    /// Who was refused, or lost the connection, asks again.
    async fn newcomers_are_here(&self) -> anyhow::Result<()> {
        let (first, last) = (self.steady, self.newcomers.start);
        let ask_again = move |front_end: &mut FrontEnd| {
            for user in first..last {
                if front_end.user(user).presence() != Presence::SignedIn {
                    sign_in_again(front_end, user);
                }
            }
        };
        let here = move |front_end: &FrontEnd| {
            (first..last).all(|user| front_end.user(user).presence() == Presence::SignedIn)
        };
        self.office.wait_until_answered().await?;
        self.office.ocs.ask(ask_again).await;
        let ocs = &self.office.ocs;
        ocs.wait_until("the newcomers are signed in", self.office.patience, here)
            .await
    }

    async fn end(mut self) -> anyhow::Result<DayReport> {
        self.office.everyone_gets_a_snapshot().await?;
        self.office.every_phone_rings_and_stops().await?;
        self.office.nothing_was_wrong().await?;
        let ocs = &self.office.ocs;
        self.report.requests = ocs.ask(|front_end| front_end.all_requests().count()).await;
        self.report.tolerated = ocs.ask(|front_end| front_end.tolerated()).await;
        self.report.commands = self.office.pbx().log().await.len();
        Ok(self.report)
    }

    /// Everybody is ready, and every node knows every node as live.
    async fn all_is_well(&self) -> anyhow::Result<()> {
        let end = environment::now() + self.office.patience;
        while let Err(error) = self.look_around().await {
            if environment::now() >= end {
                return Err(error.context("not everything is well again"));
            }
            sleep(LOOKED_AT_EVERY).await;
        }
        let back = |front_end: &FrontEnd| front_end.is_connected();
        let ocs = &self.office.ocs;
        ocs.wait_until("OCS is connected again", self.office.patience, back)
            .await
    }

    async fn look_around(&self) -> anyhow::Result<()> {
        for member in self.members() {
            let admin = self.addresses.admin(member).context("a member has one")?;
            let status = status_of(admin, "/readyz").await?;
            ensure!(status == 200, "{member} is not ready");
        }
        for id in 1..=self.nodes {
            let admin = self.addresses.admin(Member::Node(id)).context("a node has one")?;
            let cluster = get_from(admin, "/cluster").await?;
            let nodes = cluster["nodes"].as_array().cloned().unwrap_or_default();
            let live = nodes.iter().filter(|node| node["state"] == "live").count();
            ensure!(u64::try_from(live)? == self.nodes, "node{id} says {cluster}");
        }
        Ok(())
    }

    fn members(&self) -> impl Iterator<Item = Member> {
        (1..=self.nodes).map(Member::Node).chain([Member::Lb])
    }

    fn milliseconds(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(range))
    }

    /// Brings something about that leaves a majority, unless all are apart for a while.
    fn draw(&mut self, besides: Option<FaultKind>) -> Trouble {
        // Two at once are one of a member and one of something else, so that a majority stays.
        let others: Vec<_> = match besides {
            None => FaultKind::ALL.to_vec(),
            Some(kind) if kind.befalls_a_member() => FaultKind::ALL
                .into_iter()
                .filter(|kind| !kind.befalls_a_member())
                .collect(),
            Some(_) => FaultKind::ALL
                .into_iter()
                .filter(|kind| kind.befalls_a_member())
                .collect(),
        };
        let kind = *others.choose(&mut self.random).unwrap_or(&FaultKind::Killed);
        let member = self.any_member();
        let is_front_end = member == Member::Lb;
        let name = member.to_string();
        let mut trouble = Trouble {
            kind,
            cure: Vec::new(),
            breaks_clients_off: false,
            parts_nodes_from_clients: false,
        };
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
                self.cut(&mut trouble, &[name], &others)
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
                    orders.extend(self.cut(&mut trouble, std::slice::from_ref(one), &names[index + 1..]));
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
                self.cut(&mut trouble, &["office".to_owned()], &["lb".to_owned()])
            }
        };
        for order in orders {
            self.operator.order(order);
        }
        trouble
    }

    /// Both ways between each of the one and each of the others.
    fn cut(&self, trouble: &mut Trouble, some: &[String], others: &[String]) -> Vec<Order> {
        let mut orders = Vec::new();
        for one in some {
            for other in others {
                for (from, to) in [(one, other), (other, one)] {
                    orders.push(Order::Cut(from.clone(), to.clone()));
                    trouble.cure.push(Order::Heal(from.clone(), to.clone()));
                }
            }
        }
        orders
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

impl FaultKind {
    /// A member of the cluster is gone, or out of reach, for a while.
    fn befalls_a_member(self) -> bool {
        match self {
            Self::Killed
            | Self::PowerLost
            | Self::Frozen
            | Self::Terminated
            | Self::CutOff
            | Self::CutOneWay
            | Self::AllApart
            | Self::DiskStandsStill => true,
            Self::Slow
            | Self::ClockStepped
            | Self::CtiManagerKilled
            | Self::CtiManagerFrozen
            | Self::ClientsCutOff => false,
        }
    }
}

impl DayReport {
    /// `{simulated_ms, trace, requests, calls, commands, faults: {KIND: COUNT}}`.
    #[must_use]
    pub fn to_json(&self, simulated: Duration, trace: u32) -> serde_json::Value {
        let faults = self
            .faults
            .iter()
            .map(|(kind, count)| (format!("{kind:?}"), (*count).into()));
        serde_json::json!({
            "simulated_ms": u64::try_from(simulated.as_millis()).unwrap_or(u64::MAX),
            "trace": trace,
            "requests": self.requests,
            "calls": self.calls,
            "commands": self.commands,
            "faults": faults.collect::<serde_json::Map<String, serde_json::Value>>(),
        })
    }
}

impl fmt::Display for DayReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<_> = self
            .faults
            .iter()
            .map(|(kind, count)| format!("{kind:?} {count}"))
            .collect();
        write!(
            formatter,
            "{} requests, {} calls, {} commands at the PBX, {} events tolerated; faults: {}",
            self.requests,
            self.calls,
            self.commands,
            self.tolerated,
            faults.join(", ")
        )
    }
}

const LOOKED_AT_EVERY: Duration = Duration::from_millis(50);
/// As the OCS probes, and a little.
const PROBED_WITHIN: Duration = Duration::from_secs(4);
