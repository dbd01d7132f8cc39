//! A whole Tandem in one seeded process: front end, nodes, phones and communicators, on simulated machines.
//!
//! Owns time, machines and the order of everything: in each step the network delivers what is due, and each machine that is
//! not frozen runs until it waits. The processes are the very ones that are deployed: `serve` of `tandem-node` and `run` of
//! `tandem-lb`, with real Raft, gateways and balancers. Does not own what goes wrong, which is drawn in [`Day`], nor what
//! must hold, which is judged from outside by those whom Tandem serves.
//!
//! What always holds: the same seed does the same things in the same order, and says so in the same trace.

mod day;
mod machine;
mod members;
mod operator;
mod trace;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tandem_runtime::io::environment::simulated::{Latency, Network};
use tokio::sync::mpsc;

pub use day::{Day, DayReport};
pub use operator::{FaultKind, Operator, Order};
pub use trace::Trace;

use crate::cluster::{Addresses, ClusterOptions, Member};
use machine::{Machine, Program};

/// What kind of world it is.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    pub seed: u64,
    pub nodes: u64,
    pub users: usize,
    pub cti_managers: usize,
    /// How long faults are drawn for, in simulated time.
    pub troubled: Duration,
}

impl WorldOptions {
    /// A world as the seed wants it.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x5eed);
        Self {
            seed,
            nodes: random.random_range(2..=5),
            users: 16,
            cti_managers: 2,
            troubled: Duration::from_secs(60),
        }
    }
}

/// The world.
pub struct World {
    network: Network,
    machines: BTreeMap<String, Machine>,
    now: Duration,
    random: StdRng,
    orders: mpsc::UnboundedReceiver<Order>,
    operator: Operator,
    trace: Trace,
    addresses: Addresses,
    /// Configuration files, which the simulated processes only read.
    directory: tempfile::TempDir,
}

impl World {
    /// Members and CTI managers run; nobody is at work yet.
    ///
    /// # Errors
    /// When the configuration cannot be written.
    pub fn new(options: &WorldOptions) -> anyhow::Result<Self> {
        let latency = Latency {
            least: Duration::from_micros(200),
            most: Duration::from_millis(2),
        };
        let (orders_sender, orders) = mpsc::unbounded_channel();
        let mut world = Self {
            network: Network::new(options.seed, latency),
            machines: BTreeMap::new(),
            now: Duration::ZERO,
            random: StdRng::seed_from_u64(options.seed),
            orders,
            operator: Operator::new(orders_sender),
            trace: Trace::default(),
            addresses: Addresses::on_loopback(1, 1),
            directory: tempfile::tempdir()?,
        };
        let cluster = ClusterOptions {
            nodes: options.nodes,
            users: options.users,
            cti_managers: options.cti_managers,
            peer_tls: false,
            hold_down: Some(Duration::ZERO),
            // Snapshots, and members that are brought up to date by one, are what faults are to meet.
            log_bounds: Some((300, 50)),
            ..ClusterOptions::default()
        };
        crate::cluster::write_configuration(world.directory.path(), world.addresses, &cluster)?;
        world.add_members(options);
        Ok(world)
    }

    fn add_members(&mut self, options: &WorldOptions) {
        for number in 1..=options.cti_managers {
            let (listen, pbx) = (self.addresses.cti_manager(number), self.addresses.pbx());
            let name = Member::CtiManager(number).to_string();
            self.add(
                &name.clone(),
                &[listen.ip()],
                members::cti_manager(listen, pbx, name),
            );
        }
        for id in 1..=options.nodes {
            let config = self.file(Member::Node(id));
            let own = self.addresses.node_sip(id).ip();
            self.add(&Member::Node(id).to_string(), &[own], members::node(config));
        }
        let config = self.file(Member::Lb);
        self.add("lb", &[self.addresses.vip().ip()], members::front_end(config));
    }

    fn file(&self, member: Member) -> PathBuf {
        self.directory.path().join(format!("{member}.toml"))
    }

    fn add(&mut self, name: &str, addresses: &[IpAddr], program: Program) {
        let seed = self.random.random();
        let machine = Machine::new(name, &self.network, addresses, seed, program);
        self.machines.insert(name.to_owned(), machine);
    }

    /// Runs a program on the machine of the office, where communicators and phones are, until it has ended.
    ///
    /// # Errors
    /// Whatever the program fails with; and when it has not ended after `limit` of simulated time.
    pub fn run_office<R, F>(
        &mut self,
        limit: Duration,
        program: impl FnOnce(Operator, Addresses) -> F,
    ) -> anyhow::Result<R>
    where
        R: Send + 'static,
        F: Future<Output = anyhow::Result<R>> + Send + 'static,
    {
        let own = [self.addresses.ocs(0).ip(), self.addresses.pbx().ip()];
        let work = program(self.operator.clone(), self.addresses);
        let (result, mut ended) = mpsc::unbounded_channel();
        let program = members::once(async move {
            let _ = result.send(work.await);
        });
        self.add("office", &own, program);
        let guard = self.trace.listen();
        let end = self.now + limit;
        let outcome = loop {
            self.step();
            match ended.try_recv() {
                Ok(outcome) => break outcome,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    break Err(anyhow::anyhow!("the office has ended without a word"));
                }
                Err(mpsc::error::TryRecvError::Empty) if self.now >= end => {
                    break Err(anyhow::anyhow!("the office is still at work after {limit:?}"));
                }
                Err(mpsc::error::TryRecvError::Empty) => {}
            }
        };
        drop(guard);
        outcome
    }

    /// One millisecond.
    fn step(&mut self) {
        self.now += TICK;
        self.trace.at(self.now);
        self.network.advance(self.now);
        for machine in self.machines.values_mut() {
            self.trace.on(machine.name());
            machine.step(TICK);
        }
        while let Ok(order) = self.orders.try_recv() {
            self.trace.on("world");
            if let Err(error) = self.carry_out(&order) {
                tracing::error!("{order:?}: {error:#}");
            }
        }
    }

    fn carry_out(&mut self, order: &Order) -> anyhow::Result<()> {
        tracing::info!("{order:?}");
        match order {
            Order::Kill(name) => self.machine(name)?.kill(),
            Order::PowerOff(name) => self.machine(name)?.power_off(),
            Order::Start(name) => self.machine(name)?.start(),
            Order::Terminate(name) => self.machine(name)?.terminate(),
            Order::Freeze(name) => self.machine(name)?.freeze(),
            Order::Thaw(name) => self.machine(name)?.thaw(),
            Order::StepClock(name, error_ms) => self.machine(name)?.step_clock(*error_ms),
            Order::Disk(name, fault) => self.machine(name)?.set_disk_fault(*fault),
            Order::Cut(from, to) => {
                let (from, to) = (self.machine(from)?.id(), self.machine(to)?.id());
                self.network.cut(from, to);
            }
            Order::Heal(from, to) => {
                let (from, to) = (self.machine(from)?.id(), self.machine(to)?.id());
                self.network.heal(from, to);
            }
            Order::SlowDown(name, by) => {
                let id = self.machine(name)?.id();
                self.network.slow_down(id, *by);
            }
        }
        Ok(())
    }

    fn machine(&mut self, name: &str) -> anyhow::Result<&mut Machine> {
        match self.machines.get_mut(name) {
            Some(machine) => Ok(machine),
            None => bail!("there is no machine {name}"),
        }
    }

    /// What was said by whom, so far.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Since the world began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }
}

/// The time between two looks at who may run.
const TICK: Duration = Duration::from_millis(1);
