//! Three members, two nodes and the witness, in a simulated world: one seed decides everything, members crash with
//! what their disks had not synced, paths break, and nothing that was acknowledged may be lost.
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tandem_shared::cluster::{CasId, ClusterState, Command, NodeId, StateLimits};
use tandem_shared::io::raft::{
    Authority, Cluster, ClusterConfig, Member, MemberRole, RaftMetrics, RaftRole, SimulatedFiles, Transport,
};
use turmoil::Sim;
use turmoil::net::{TcpListener, TcpStream};

#[test]
fn nothing_acknowledged_is_lost_whatever_crashes() {
    for seed in seeds() {
        let report = run_with_faults(seed);
        println!(
            "seed {seed}: {} acknowledged, {} faults, longest time without an acknowledgement {:?}",
            report.acknowledged, report.faults, report.longest_pause
        );
        assert!(
            report.acknowledged > 50,
            "seed {seed}: hardly anything was written"
        );
        assert!(report.faults > 3, "seed {seed}: hardly anything went wrong");
    }
}

/// Each run in a process of its own: the random numbers of the libraries' `select!` go on from one run to the next.
#[test]
fn the_same_seed_gives_the_same_trace() {
    let (first, second) = (trace_of_a_process(7), trace_of_a_process(7));
    let differs = first.iter().zip(&second).position(|(left, right)| left != right);
    if let Some(at) = differs {
        panic!("event {at} differs: {} / {}", first[at], second[at]);
    }
    assert_eq!(first.len(), second.len());
    assert!(first.len() > 200, "only {} events", first.len());
    assert_ne!(first, trace_of_a_process(8));
}

/// Does something only in the processes that the test above starts.
#[test]
fn print_the_trace_of_a_seed() {
    if let Ok(seed) = std::env::var(TRACED_SEED) {
        let report = run_with_faults(seed.parse().unwrap());
        report
            .trace
            .iter()
            .for_each(|event| println!("{TRACE_MARK}{event}"));
    }
}

fn trace_of_a_process(seed: u64) -> Vec<String> {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "print_the_trace_of_a_seed", "--nocapture"])
        .env(TRACED_SEED, seed.to_string())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let events = text.lines().filter_map(|line| line.strip_prefix(TRACE_MARK));
    events.map(str::to_owned).collect()
}

/// Node 2 is cut off, node 1 and the witness go on, node 1 dies, node 2 comes back: only the witness holds what was
/// acknowledged meanwhile, and it does not campaign by timeout.
#[test]
fn the_witness_brings_a_node_up_to_date_when_the_other_is_dead() {
    for (lagging, other) in [(2, 1), (1, 2)] {
        let mut world = World::new(40 + lagging);
        world.run_until("a leader", |world| world.leader().is_some());
        world.cut(lagging, other);
        world.cut(lagging, WITNESS);
        world.run_until("the others lead", |world| world.leader() == Some(other));
        world.writer(other);
        world.run_until("writes without the node", |world| world.acknowledged() > 30);
        world.crash(other);
        world.run_for(Duration::from_millis(500));
        world.heal();
        let healed = world.sim.elapsed();
        world.run_until("the node leads", |world| world.leader() == Some(lagging));
        println!(
            "node {lagging} leads {:?} after its return",
            world.sim.elapsed() - healed
        );
        world.check_acknowledged(&[lagging, WITNESS]);
    }
}

#[test]
fn a_leader_cut_off_from_everybody_starts_nothing() {
    let mut world = World::new(50);
    world.run_until("a leader", |world| world.leader().is_some());
    let leader = world.leader().unwrap();
    let other = 3 - leader;
    world.cut(leader, other);
    world.cut(leader, WITNESS);
    world.run_until("another leads", |world| world.leader() == Some(other));
    let authority = |world: &World, member| world.cluster(member).status().borrow().authority;
    world.run_for(Duration::from_secs(1));
    assert_eq!(authority(&world, leader), Authority::Isolated);
    assert_eq!(world.cluster(leader).status().borrow().leader, None);
    assert_eq!(authority(&world, other), Authority::Quorum);
    world.heal();
    world.run_until("all hear the leader", |world| {
        MEMBERS
            .iter()
            .all(|&member| authority(world, member) == Authority::Quorum)
    });
}

#[test]
fn a_member_stops_when_its_disk_fails_and_the_others_go_on() {
    let mut world = World::new(60);
    world.writer(1);
    world.writer(2);
    world.run_until("writes", |world| world.acknowledged() > 10);
    let leader = world.leader().unwrap();
    world
        .files(leader)
        .set_fault(Some(tandem_shared::io::raft::Fault::SyncFails));
    world.run_until("the member stops", |world| {
        world.cluster(leader).status().borrow().role == RaftRole::Stopped
    });
    let before = world.acknowledged();
    world.run_until("writes go on", |world| world.acknowledged() > before + 30);
    world.check_acknowledged(&[3 - leader, WITNESS]);
}

struct Report {
    trace: Vec<String>,
    acknowledged: usize,
    faults: usize,
    longest_pause: Duration,
}

/// Random faults for a while; then everything heals, and must.
fn run_with_faults(seed: u64) -> Report {
    let mut world = World::new(seed);
    let mut random = SmallRng::seed_from_u64(seed);
    world.writer(1);
    world.writer(2);
    world.run_until("a leader", |world| world.leader().is_some());
    let mut faults = 0;
    while world.sim.elapsed() < FAULTY_TIME {
        world.run_for(Duration::from_millis(random.random_range(100..1500)));
        let member = MEMBERS[random.random_range(0..3)];
        let other = MEMBERS[random.random_range(0..3)];
        match random.random_range(0..4) {
            // One member may be down at a time, and the disks of two never lose anything together.
            0 | 1 if world.down.is_none() => {
                faults += 1;
                let member = if random.random() {
                    world.leader().unwrap_or(member)
                } else {
                    member
                };
                world.crash(member);
            }
            2 if member != other => {
                faults += 1;
                world.cut(member, other);
            }
            _ => world.heal(),
        }
    }
    world.heal();
    world.run_until("a leader after the faults", |world| world.leader().is_some());
    let before = world.acknowledged();
    world.run_until("writes after the faults", |world| {
        world.acknowledged() > before + 20
    });
    world.check_acknowledged(&MEMBERS);
    world.run_until("equal replicas", World::replicas_are_equal);
    let events = world.events.lock().unwrap();
    Report {
        trace: events.trace.clone(),
        acknowledged: events.acknowledged.len(),
        faults,
        longest_pause: events.longest_pause,
    }
}

/// The simulated world and what is known of it from outside.
struct World {
    sim: Sim<'static>,
    disks: BTreeMap<u64, SimulatedFiles>,
    clusters: Arc<Mutex<BTreeMap<u64, Cluster>>>,
    events: Arc<Mutex<Events>>,
    writers: Arc<Mutex<Vec<u64>>>,
    cuts: Vec<(u64, u64)>,
    down: Option<u64>,
}

#[derive(Default)]
struct Events {
    trace: Vec<String>,
    acknowledged: Vec<String>,
    last_acknowledged: Duration,
    longest_pause: Duration,
}

impl World {
    fn new(seed: u64) -> Self {
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

    fn writer(&self, node: u64) {
        self.writers.lock().unwrap().push(node);
    }

    fn stop_writers(&self) {
        self.writers.lock().unwrap().clear();
    }

    fn crash(&mut self, member: u64) {
        self.note(format!("crash {member}"));
        self.sim.crash(name(member));
        self.disks[&member].crash();
        self.clusters.lock().unwrap().remove(&member);
        self.down = Some(member);
    }

    fn cut(&mut self, left: u64, right: u64) {
        self.note(format!("cut {left} {right}"));
        self.sim.partition(name(left), name(right));
        self.cuts.push((left, right));
    }

    /// Paths only, or the member that is down as well.
    fn heal(&mut self) {
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

    fn run_for(&mut self, duration: Duration) {
        let end = self.sim.elapsed() + duration;
        while self.sim.elapsed() < end {
            self.step();
        }
    }

    fn run_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
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

    fn acknowledged(&self) -> usize {
        self.events.lock().unwrap().acknowledged.len()
    }

    fn cluster(&self, member: u64) -> Cluster {
        self.clusters.lock().unwrap()[&member].clone()
    }

    fn files(&self, member: u64) -> &SimulatedFiles {
        &self.disks[&member]
    }

    /// The member that leads with a majority behind it.
    fn leader(&self) -> Option<u64> {
        let clusters = self.clusters.lock().unwrap();
        let leads = |cluster: &&Cluster| {
            let status = cluster.status().borrow().clone();
            status.role == RaftRole::Leader && status.leader.is_some()
        };
        let leader = clusters.iter().find(|(_, cluster)| leads(cluster));
        leader.map(|(id, _)| *id).filter(|id| *id != WITNESS)
    }

    fn replicas_are_equal(&self) -> bool {
        let clusters = self.clusters.lock().unwrap();
        let states: Vec<ClusterState> = clusters
            .values()
            .map(|cluster| cluster.with_state(Clone::clone))
            .collect();
        states.len() == MEMBERS.len() && states.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Writes end, and the members come to know everything that was acknowledged.
    fn check_acknowledged(&mut self, members: &[u64]) {
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

/// A few in every run, more by `TANDEM_SIMULATION_SEEDS` (a number of seeds).
fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("TANDEM_SIMULATION_SEEDS")
        .ok()
        .and_then(|count| count.parse().ok());
    0..count.unwrap_or(3)
}

const TRACED_SEED: &str = "TANDEM_SIMULATION_TRACED_SEED";
const TRACE_MARK: &str = "event: ";

type Runtime = DeterministicRng<TokioRuntime>;

const WITNESS: u64 = 100;
const MEMBERS: [u64; 3] = [1, 2, WITNESS];
const PORT: u16 = 7000;
const FAULTY_TIME: Duration = Duration::from_secs(10);
const GENEROUS: Duration = Duration::from_secs(30);
