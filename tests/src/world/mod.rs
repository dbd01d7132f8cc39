//! A whole Tandem in one seeded process: front end, nodes, phones and communicators, on simulated machines.
//!
//! Owns time, machines and the order of everything: in each step the network delivers what is due, and each machine that is
//! not frozen runs until it waits. The processes are the very ones that are deployed: `serve` of `tandem-node` and `run` of
//! `tandem-lb`, with real Raft, gateways and balancers. Does not own what goes wrong, which is drawn in [`Day`], nor what
//! must hold, which is judged from outside by those whom Tandem serves.
//!
//! What always holds: the same seed does the same things in the same order, and says so in the same trace.

mod administrator;
mod calendars;
mod day;
mod disturbances;
mod drills;
mod faults;
mod machine;
mod members;
mod operator;
mod panics;
mod properties;
mod report;
mod trace;
mod truth;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rcgen::PKCS_ED25519;
use tandem_runtime::io::environment::simulated::{Latency, Network};
use tokio::sync::mpsc;

pub use administrator::Deed;
pub use day::Day;
pub use faults::FaultKind;
pub use operator::{Operator, Order};
pub use properties::Property;
pub use report::DayReport;
pub use trace::Trace;

use crate::cluster::{self, Addresses, ClusterOptions, ExchangeOptions, Finalise, Member, certificates};
use crate::peers::exchange::backend::Backend;
use crate::peers::exchange::subscriptions::Timing;
use faults::cas_name;
use machine::{Machine, Program};

/// What kind of world it is.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    pub seed: u64,
    pub nodes: u64,
    /// With a phone and a communicator; those with a calendar come behind them.
    pub users: usize,
    pub cti_managers: usize,
    /// Client Access Servers.
    pub cas: usize,
    /// Users whose calendars are judged.
    pub people: usize,
    /// Users who are to have a calendar and have no mailbox.
    pub without_mailbox: usize,
    /// `push_first` or `streaming_first`, to begin with.
    pub delivery: &'static str,
    /// A balancer stands between Exchange and the nodes, so that callbacks come to another node than the one that asked.
    pub balances_callbacks: bool,
    /// Members talk by mutual TLS, and so do front end and nodes.
    pub is_secured: bool,
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
            users: 18,
            cti_managers: 2,
            cas: random.random_range(2..=4),
            people: random.random_range(6..=8),
            without_mailbox: if random.random_ratio(1, 3) { 24 } else { 0 },
            delivery: ["push_first", "streaming_first"][usize::from(random.random_ratio(1, 3))],
            balances_callbacks: random.random_ratio(1, 3),
            is_secured: seed % SECURED_ONCE_IN == 3,
            troubled: Duration::from_secs(60),
        }
    }

    /// The users whose calendars are judged.
    #[must_use]
    pub fn people(&self) -> Range<usize> {
        self.users..self.users + self.people
    }

    /// The users who are to have a calendar.
    #[must_use]
    pub fn calendars(&self) -> Range<usize> {
        self.users..self.users + self.people + self.without_mailbox
    }

    /// Entries after which a snapshot is made, and entries kept behind it: snapshots, and members that are brought up to
    /// date by one, are what faults are to meet.
    #[must_use]
    pub fn log_bounds(&self) -> (u64, u64) {
        (100, 10)
    }

    fn exchange(&self) -> ExchangeOptions {
        ExchangeOptions {
            cas: self.cas,
            timing: timing(),
            delivery: self.delivery,
            spread_secs: 2,
            sweep_secs: 10,
            push_tls: false,
            calendars: self.calendars(),
            ..ExchangeOptions::default()
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
    exchange: Backend,
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
        let (exchange, mail_store) = Backend::new(options.cas, timing(), cluster::account());
        let mut world = Self {
            network: Network::new(options.seed, latency),
            machines: BTreeMap::new(),
            now: Duration::ZERO,
            random: StdRng::seed_from_u64(options.seed),
            orders,
            operator: Operator::new(orders_sender),
            trace: Trace::default(),
            addresses: Addresses::on_loopback(1, 1),
            exchange,
            directory: tempfile::tempdir()?,
        };
        let cluster = ClusterOptions {
            nodes: options.nodes,
            users: options.calendars().end,
            cti_managers: options.cti_managers,
            peer_tls: options.is_secured,
            secure_pairs: options.is_secured,
            hold_down: Some(Duration::ZERO),
            log_bounds: Some(options.log_bounds()),
            log_file_bytes: Some(LOG_FILE_BYTES),
            exchange: Some(options.exchange()),
            lb_sections: format!("[limits]\nwaiting_requests_max = {WAITING_REQUESTS_MAX}\n"),
            // States are compared in the format of this release.
            finalise: Finalise::AfterSecs(0),
            ..ClusterOptions::default()
        };
        if options.is_secured {
            certificates::write_for_cluster(world.directory.path(), &cluster, &PKCS_ED25519)?;
        }
        cluster::write_configuration(world.directory.path(), world.addresses, &cluster)?;
        cluster::write_secrets(world.directory.path(), options.nodes)?;
        world.add_exchange(options, mail_store);
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

    fn add_exchange(
        &mut self,
        options: &WorldOptions,
        mail_store: impl Future<Output = ()> + Send + 'static,
    ) {
        let exchange = self.exchange.clone();
        let detours: HashMap<SocketAddr, SocketAddr> = match options.balances_callbacks {
            true => detours(self.addresses, options.nodes),
            false => HashMap::new(),
        };
        let work = async move {
            let ticking = exchange.clone().tick();
            tokio::join!(mail_store, ticking, exchange.redirect_callbacks(detours));
        };
        let own = [self.addresses.at(MAIL_STORE_HOST, 0).ip()];
        self.add("store", &own, members::once(work));
        for number in 0..options.cas {
            let listen = self.addresses.cas(number);
            let program = members::client_access_server(self.exchange.clone(), number, listen);
            self.add(&cas_name(number), &[listen.ip()], program);
        }
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
    /// Whatever the program fails with; when it has not ended after `limit` of simulated time; and when any process of the
    /// world has panicked.
    pub fn run_office<R, F>(
        &mut self,
        limit: Duration,
        program: impl FnOnce(Operator, Addresses) -> F,
    ) -> anyhow::Result<R>
    where
        R: Send + 'static,
        F: Future<Output = anyhow::Result<R>> + Send + 'static,
    {
        let (ocs, watchers) = (self.addresses.ocs(0).ip(), self.addresses.ocs(1).ip());
        let own = [ocs, self.addresses.pbx().ip(), watchers];
        let work = program(self.operator.clone(), self.addresses);
        let (result, mut ended) = mpsc::unbounded_channel();
        let program = members::once(async move {
            let _ = result.send(work.await);
        });
        self.add("office", &own, program);
        let guard = self.trace.listen();
        panics::listen();
        let end = self.now + limit;
        let outcome = loop {
            self.step();
            if let Some(panic) = panics::first() {
                break Err(anyhow::anyhow!("a process has panicked: {panic}"));
            }
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
            Order::PowerOffWithNextFile(name, after) => self.machine(name)?.power_off_with_next_file(*after),
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
            Order::Throttle(cas, throttles) => self.exchange.throttle(*cas, *throttles),
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

    /// The calendars behind the Client Access Servers.
    #[must_use]
    pub fn exchange(&self) -> &Backend {
        &self.exchange
    }

    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }
}

/// Each node's callbacks go to the next one.
fn detours(addresses: Addresses, nodes: u64) -> HashMap<SocketAddr, SocketAddr> {
    let next = |id: u64| addresses.push(id % nodes + 1);
    (1..=nodes).map(|id| (addresses.push(id), next(id))).collect()
}

/// What Exchange does within minutes, it does within seconds here.
fn timing() -> Timing {
    ExchangeOptions::default().timing
}

/// Some dozen entries: files of the log are begun all day long.
const LOG_FILE_BYTES: u64 = 16 << 10;
const MAIL_STORE_HOST: u8 = 59;
/// More than people send while they work, fewer than they can send: one drill has lb reach it.
const WAITING_REQUESTS_MAX: usize = 64;
const SECURED_ONCE_IN: u64 = 10;
/// The time between two looks at who may run.
const TICK: Duration = Duration::from_millis(1);
