//! Three members, two nodes and the witness, as hosts of a simulated network with disks that lose what was not synced.
//!
//! Owns the hosts, what was done to them and what they were seen doing. Does not own any judgement but one: nothing that
//! was acknowledged may be lost.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;
use tandem_shared::cluster::{CasId, ClusterState, Command, NodeId, StateLimits};
use tandem_shared::io::raft::{
    Cluster, ClusterConfig, Member, MemberRole, RaftMetrics, RaftRole, SimulatedFiles, Transport,
};
use turmoil::Sim;
use turmoil::net::{TcpListener, TcpStream};

/// The simulated world and what is known of it from outside.
pub(crate) struct World {
    pub(crate) sim: Sim<'static>,
    disks: BTreeMap<u64, SimulatedFiles>,
    clusters: Arc<Mutex<BTreeMap<u64, Cluster>>>,
    pub(crate) events: Arc<Mutex<Events>>,
    writers: Arc<Mutex<Vec<u64>>>,
    cuts: Vec<(u64, u64)>,
    pub(crate) down: Option<u64>,
}

#[derive(Default)]
pub(crate) struct Events {
    pub(crate) trace: Vec<String>,
    pub(crate) acknowledged: Vec<String>,
    last_acknowledged: Duration,
    pub(crate) longest_pause: Duration,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let sim = turmoil::Builder::new()
            .simulation_duration(Duration::from_secs(600))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(Duration::from_micros(100))
            .max_message_latency(Duration::from_millis(3))
            .tcp_capacity(1 << 16)
            .rng_seed(seed)
            .build();
        let addresses: Vec<IpAddr> = MEMBERS.iter().map(|&id| sim.lookup(name(id))).collect();
        let members: Vec<Member> = MEMBERS
            .iter()
            .zip(addresses)
            .map(|(&id, address)| Member {
                id: NodeId(id),
                role: if id == WITNESS {
                    MemberRole::Witness
                } else {
                    MemberRole::Node
                },
                address: SocketAddr::new(address, PORT),
            })
            .collect();
        let mut world = Self {
            sim,
            disks: BTreeMap::new(),
            clusters: Arc::default(),
            events: Arc::default(),
            writers: Arc::default(),
            cuts: Vec::new(),
            down: None,
        };
        for id in MEMBERS {
            let disk = SimulatedFiles::new(seed ^ (id << 32), Duration::from_millis(2));
            world.disks.insert(id, disk);
            world.add_host(id, seed, members.clone());
        }
        world
    }

    fn add_host(&mut self, id: u64, seed: u64, members: Vec<Member>) {
        let files = self.disks[&id].clone();
        let (clusters, events) = (self.clusters.clone(), self.events.clone());
        let writers = self.writers.clone();
        let lives = Rc::new(RefCell::new(0));
        self.sim.host(name(id), move || {
            *lives.borrow_mut() += 1;
            let life = *lives.borrow();
            let mut config =
                ClusterConfig::new("sim", NodeId(id), members.clone(), "", StateLimits::default());
            config.incarnation = id * 1000 + life;
            config.seed = seed ^ (id << 40) ^ life;
            config.listen = Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT));
            config.log_segment_bytes = 64 << 10;
            config.snapshot_after_entries = 100;
            config.entries_kept = 20;
            config.wall_clock_ms = simulated_clock_ms;
            let host = Host {
                id,
                life,
                files: files.clone(),
                clusters: clusters.clone(),
                events: events.clone(),
                writers: writers.clone(),
            };
            let scope_seed = config.seed;
            async move {
                Runtime::scope(scope_seed, host.run(config)).await;
                Ok(())
            }
        });
    }

    pub(crate) fn writer(&self, node: u64) {
        self.writers.lock().unwrap().push(node);
    }

    fn stop_writers(&self) {
        self.writers.lock().unwrap().clear();
    }

    pub(crate) fn crash(&mut self, member: u64) {
        self.note(format!("crash {member}"));
        self.sim.crash(name(member));
        self.disks[&member].crash();
        self.clusters.lock().unwrap().remove(&member);
        self.down = Some(member);
    }

    pub(crate) fn cut(&mut self, left: u64, right: u64) {
        self.note(format!("cut {left} {right}"));
        self.sim.partition(name(left), name(right));
        self.cuts.push((left, right));
    }

    /// Paths only, or the member that is down as well.
    pub(crate) fn heal(&mut self) {
        self.note("heal".to_owned());
        for (left, right) in std::mem::take(&mut self.cuts) {
            self.sim.repair(name(left), name(right));
        }
        if !self.keeps_down_members()
            && let Some(member) = self.down.take()
        {
            self.sim.bounce(name(member));
        }
    }

    /// Scenarios with one node dead for good have no writer at the other one.
    fn keeps_down_members(&self) -> bool {
        self.writers.lock().unwrap().len() == 1
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        let end = self.sim.elapsed() + duration;
        while self.sim.elapsed() < end {
            self.step();
        }
    }

    pub(crate) fn run_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = self.sim.elapsed() + GENEROUS;
        while !condition(self) {
            assert!(
                self.sim.elapsed() < end,
                "waited too long for {what}: {}",
                self.describe()
            );
            self.step();
        }
    }

    fn step(&mut self) {
        self.sim.step().unwrap();
    }

    fn note(&self, text: String) {
        self.events.lock().unwrap().note(self.sim.elapsed(), text);
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.events.lock().unwrap().acknowledged.len()
    }

    pub(crate) fn cluster(&self, member: u64) -> Cluster {
        self.clusters.lock().unwrap()[&member].clone()
    }

    pub(crate) fn files(&self, member: u64) -> &SimulatedFiles {
        &self.disks[&member]
    }

    /// The member that leads with a majority behind it.
    pub(crate) fn leader(&self) -> Option<u64> {
        let clusters = self.clusters.lock().unwrap();
        let leads = |cluster: &&Cluster| {
            let status = cluster.status().borrow().clone();
            status.role == RaftRole::Leader && status.leader.is_some()
        };
        let leader = clusters.iter().find(|(_, cluster)| leads(cluster));
        leader.map(|(id, _)| *id).filter(|id| *id != WITNESS)
    }

    pub(crate) fn replicas_are_equal(&self) -> bool {
        let clusters = self.clusters.lock().unwrap();
        let states: Vec<ClusterState> = clusters
            .values()
            .map(|cluster| cluster.with_state(Clone::clone))
            .collect();
        states.len() == MEMBERS.len() && states.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Writes end, and the members come to know everything that was acknowledged.
    pub(crate) fn check_acknowledged(&mut self, members: &[u64]) {
        self.stop_writers();
        for &member in members {
            self.run_until("what was acknowledged", |world| world.lost(member).is_empty());
        }
    }

    fn lost(&self, member: u64) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let acknowledged = events.acknowledged.iter();
        self.cluster(member).with_state(|state| {
            let lost = acknowledged.filter(|user| state.assignment(user).is_none());
            lost.cloned().collect()
        })
    }

    fn describe(&self) -> String {
        let clusters = self.clusters.lock().unwrap();
        let statuses = clusters
            .iter()
            .map(|(id, cluster)| format!("\n{id}: {:?}", *cluster.status().borrow()));
        let events = self.events.lock().unwrap();
        let start = events.trace.len().saturating_sub(40);
        statuses.collect::<String>() + "\n" + &events.trace[start..].join("\n")
    }
}

impl Events {
    fn note(&mut self, at: Duration, text: String) {
        self.trace.push(format!("{at:?} {text}"));
    }

    fn acknowledge(&mut self, at: Duration, user: String) {
        if !self.acknowledged.is_empty() {
            self.longest_pause = self.longest_pause.max(at - self.last_acknowledged);
        }
        self.last_acknowledged = at;
        self.note(at, format!("acknowledged {user}"));
        self.acknowledged.push(user);
    }
}

/// What runs on one simulated machine.
struct Host {
    id: u64,
    life: u64,
    files: SimulatedFiles,
    clusters: Arc<Mutex<BTreeMap<u64, Cluster>>>,
    events: Arc<Mutex<Events>>,
    writers: Arc<Mutex<Vec<u64>>>,
}

impl Host {
    async fn run(self, config: ClusterConfig) {
        let metrics = RaftMetrics::register(&prometheus::Registry::new()).unwrap();
        let files = Arc::new(self.files.clone());
        let cluster = Cluster::start(config, SimulatedTransport, files, metrics)
            .await
            .unwrap();
        self.clusters.lock().unwrap().insert(self.id, cluster.clone());
        tokio::join!(self.trace(&cluster), self.write(&cluster));
    }

    async fn trace(&self, cluster: &Cluster) {
        let mut status = cluster.status();
        let mut last = None;
        while status.changed().await.is_ok() {
            let now = status.borrow_and_update().clone();
            let said = format!(
                "{} {:?} {:?} {} {:?}",
                self.id, now.role, now.leader, now.term, now.authority
            );
            if last.as_ref() != Some(&said) {
                self.events.lock().unwrap().note(elapsed(), said.clone());
                last = Some(said);
            }
        }
    }

    async fn write(&self, cluster: &Cluster) {
        let gateways = Command::CasGatewaysSet {
            gateways: ["cas-1", "cas-2", "cas-3"]
                .map(|name| CasId(name.to_owned()))
                .to_vec(),
            at_ms: 0,
        };
        let mut number = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if !self.writers.lock().unwrap().contains(&self.id) {
                continue;
            }
            number += 1;
            let user = format!("user-{}-{}-{number}", self.id, self.life);
            let assign = Command::CasAssign {
                users: vec![user.clone()],
                at_ms: 0,
            };
            let command = Command::Batch(vec![gateways.clone(), assign]);
            match cluster.propose(command, Duration::from_secs(5)).await {
                Ok(_) => self.events.lock().unwrap().acknowledge(elapsed(), user),
                Err(error) => self
                    .events
                    .lock()
                    .unwrap()
                    .note(elapsed(), format!("{user}: {error}")),
            }
        }
    }
}

/// turmoil's TCP.
#[derive(Clone)]
struct SimulatedTransport;

impl Transport for SimulatedTransport {
    type Listener = TcpListener;
    type Incoming = TcpStream;
    type Stream = TcpStream;

    async fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind(address).await
    }

    async fn accept(&self, listener: &mut TcpListener) -> io::Result<TcpStream> {
        listener.accept().await.map(|(stream, _)| stream)
    }

    async fn secure(&self, incoming: TcpStream) -> io::Result<TcpStream> {
        Ok(incoming)
    }

    async fn connect(&self, _peer: NodeId, address: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(address).await
    }

    fn is_from(&self, _stream: &TcpStream, _peer: NodeId) -> bool {
        true
    }
}

fn name(member: u64) -> String {
    format!("member-{member}")
}

fn elapsed() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

fn simulated_clock_ms() -> u64 {
    1_000_000 + u64::try_from(elapsed().as_millis()).unwrap()
}

type Runtime = DeterministicRng<TokioRuntime>;

pub(crate) const WITNESS: u64 = 100;
pub(crate) const MEMBERS: [u64; 3] = [1, 2, WITNESS];
const PORT: u16 = 7000;
const GENEROUS: Duration = Duration::from_secs(30);
