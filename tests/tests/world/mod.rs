//! Three members, two nodes and the witness, as hosts of a simulated network with disks that lose what was not synced.
//!
//! Owns the hosts, what was done to them and what they were seen doing. Does not own any judgement but one: nothing that
//! was acknowledged may be lost.

mod damage;
mod follower;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;
use tandem_cluster::MemberAddress;
use tandem_cluster::MemberRole;
use tandem_cluster::{
    Applied, CasId, Command, ConnectionId, DialogRecord, Epoch, Incarnation, MonitorRecord, NodeId,
    OpeningKey, Refusal, SessionKey, SessionRecord, StateLimits,
};
use tandem_raft::{Cluster, ClusterConfig, Member, RaftMetrics, RaftRole};
use tandem_runtime::io::environment::simulated::SimulatedFiles;
use tandem_runtime::io::transport::Transport;
use turmoil::Sim;
use turmoil::net::{TcpListener, TcpStream};

use follower::{Book, Books};

/// The simulated world and what is known of it from outside.
pub(crate) struct World {
    pub(crate) sim: Sim<'static>,
    disks: BTreeMap<u64, SimulatedFiles>,
    clusters: Arc<Mutex<BTreeMap<u64, Cluster>>>,
    pub(crate) events: Arc<Mutex<Events>>,
    pub(crate) books: Books,
    writers: Arc<Mutex<Vec<u64>>>,
    orders: Arc<Mutex<BTreeMap<u64, VecDeque<Command>>>>,
    /// What came of the last orders.
    answers: Arc<Mutex<Vec<Applied>>>,
    /// By nodes that have crashed since: states replaced, and losses that they learned of.
    told_before: (usize, usize),
    /// Who has lost their disk, and waits for an administrator.
    wanted: Arc<Mutex<Option<u64>>>,
    copies: BTreeMap<u64, damage::Copy>,
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
                address: SocketAddr::new(address, PORT).into(),
            })
            .collect();
        let mut world = Self {
            sim,
            disks: BTreeMap::new(),
            clusters: Arc::default(),
            events: Arc::default(),
            books: Arc::default(),
            writers: Arc::default(),
            orders: Arc::default(),
            answers: Arc::default(),
            told_before: (0, 0),
            wanted: Arc::default(),
            copies: BTreeMap::new(),
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
        let (writers, orders, books) = (self.writers.clone(), self.orders.clone(), self.books.clone());
        let (wanted, answers) = (self.wanted.clone(), self.answers.clone());
        let lives = Rc::new(RefCell::new(0));
        self.sim.host(name(id), move || {
            *lives.borrow_mut() += 1;
            let life = *lives.borrow();
            let mut config =
                ClusterConfig::new("sim", NodeId(id), members.clone(), "", StateLimits::default());
            config.incarnation = Incarnation::first((id * 1000 + life) << 16);
            config.seed = seed ^ (id << 40) ^ life;
            config.listen = Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT));
            config.log_segment_bytes = 64 << 10;
            config.snapshot_after_entries = 100;
            config.entries_kept = 20;
            config.disk_free_bytes_min = DISK_FREE_BYTES_MIN;
            config.wall_clock_ms = simulated_clock_ms;
            let host = Host {
                id,
                life,
                files: files.clone(),
                clusters: clusters.clone(),
                events: events.clone(),
                writers: writers.clone(),
                orders: orders.clone(),
                books: books.clone(),
                wanted: wanted.clone(),
                answers: answers.clone(),
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
        if let Some(book) = self.books.lock().unwrap().remove(&member) {
            self.told_before.0 += book.replaced;
            self.told_before.1 += book.left;
        }
        self.down = Some(member);
    }

    pub(crate) fn cut(&mut self, left: u64, right: u64) {
        self.note(format!("cut {left} {right}"));
        self.sim.partition(name(left), name(right));
        self.cuts.push((left, right));
    }

    pub(crate) fn isolate(&mut self, member: u64) {
        for other in MEMBERS.into_iter().filter(|other| *other != member) {
            self.cut(member, other);
        }
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
        let states: Vec<_> = clusters.values().map(Cluster::state).collect();
        for state in &states {
            state.check_invariants().unwrap();
        }
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
        let state = self.cluster(member).state();
        let lost = acknowledged.filter(|user| state.assignment(user).is_none());
        lost.cloned().collect()
    }

    /// Every node that runs believes of itself what its state says, and is live.
    pub(crate) fn followers_agree(&self) -> bool {
        let clusters = self.clusters.lock().unwrap();
        let books = self.books.lock().unwrap();
        let mut nodes = clusters.iter().filter(|(id, _)| **id != WITNESS);
        nodes.all(|(id, cluster)| {
            let state = cluster.state();
            let agrees = |book: &Book| book.agrees_with(NodeId(*id), &state);
            books.get(id).is_some_and(agrees)
        })
    }

    /// What `member` says of `node`.
    pub(crate) fn holds_live(&self, member: u64, node: u64) -> bool {
        self.cluster(member).state().is_live(NodeId(node))
    }

    /// What the nodes that followed were told, those that crashed as well.
    pub(crate) fn told(&self) -> [(&'static str, u64); 2] {
        let books = self.books.lock().unwrap();
        let (replaced, left) = books.values().fold(self.told_before, |(replaced, left), book| {
            (replaced + book.replaced, left + book.left)
        });
        [
            ("states replaced", replaced as u64),
            ("nodes that learned of their loss", left as u64),
        ]
    }

    /// Commands that a member proposes, some at a time.
    pub(crate) fn order(&self, member: u64, commands: impl IntoIterator<Item = Command>) {
        self.orders
            .lock()
            .unwrap()
            .entry(member)
            .or_default()
            .extend(commands);
    }

    /// What came of one command, proposed at a member.
    pub(crate) fn proposed(&mut self, member: u64, command: Command) -> Applied {
        self.answers.lock().unwrap().clear();
        self.order(member, [command]);
        self.run_until("an answer", |world| {
            world.orders_are_carried_out() && !world.answers.lock().unwrap().is_empty()
        });
        self.answers.lock().unwrap().remove(0)
    }

    pub(crate) fn orders_are_carried_out(&self) -> bool {
        self.orders.lock().unwrap().values().all(VecDeque::is_empty)
    }

    /// So many entries that the log begins after whatever a member has seen that is cut off from `member` meanwhile.
    pub(crate) fn order_many_entries(&self, member: u64) {
        let timer = |number: u64| Command::SettingChanged {
            name: "session_timer_secs".to_owned(),
            value: Some((1800 + number).to_string()),
        };
        self.order(member, (0..MANY_ENTRIES).map(timer));
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
    orders: Arc<Mutex<BTreeMap<u64, VecDeque<Command>>>>,
    books: Books,
    wanted: Arc<Mutex<Option<u64>>>,
    answers: Arc<Mutex<Vec<Applied>>>,
}

impl Host {
    async fn run(self, config: ClusterConfig) {
        let incarnation = config.incarnation;
        let metrics = RaftMetrics::register(&prometheus::Registry::new()).unwrap();
        let files = Arc::new(self.files.clone());
        let cluster = Cluster::start(config, SimulatedTransport, files, metrics)
            .await
            .unwrap();
        self.clusters.lock().unwrap().insert(self.id, cluster.clone());
        let follow = async {
            if self.id != WITNESS {
                follower::follow(NodeId(self.id), incarnation, &cluster, &self.books).await;
            }
        };
        tokio::join!(
            self.trace(&cluster),
            self.write(&cluster),
            self.obey(&cluster),
            damage::administer(self.id, &cluster, &self.wanted, &self.events),
            follow
        );
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

    /// Some at a time, so that many entries take little time. They stay ordered until all of them are carried out.
    async fn obey(&self, cluster: &Cluster) {
        loop {
            let some: Vec<Command> = {
                let orders = self.orders.lock().unwrap();
                let own = orders.get(&self.id).into_iter().flatten();
                own.take(ORDERS_AT_A_TIME).cloned().collect()
            };
            if some.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            let count = some.len();
            let proposed = some
                .into_iter()
                .map(|command| cluster.propose(command, Duration::from_secs(5)));
            let outcomes = futures::future::join_all(proposed).await;
            let answers: Vec<Applied> = outcomes.iter().flatten().cloned().collect();
            *self.answers.lock().unwrap() = answers;
            if outcomes.iter().all(Result::is_ok)
                && let Some(orders) = self.orders.lock().unwrap().get_mut(&self.id)
            {
                orders.drain(..count);
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
            let key = format!("n{}-{}-{number}", self.id, self.life);
            let opened = session_opened(self.id, &key);
            let command = Command::Batch(vec![gateways.clone(), assign, opened]);
            match cluster.propose(command, Duration::from_secs(5)).await {
                Ok(applied) => {
                    let mut events = self.events.lock().unwrap();
                    match refusal_of(&applied) {
                        None => events.acknowledge(elapsed(), user),
                        Some(refusal) => events.note(elapsed(), format!("{user}: {refusal:?}")),
                    }
                }
                Err(error) => self
                    .events
                    .lock()
                    .unwrap()
                    .note(elapsed(), format!("{user}: {error}")),
            }
        }
    }
}

/// Of the assignment, the second of the writer's three commands: a leader whose disk is nearly full refuses it.
fn refusal_of(applied: &Applied) -> Option<Refusal> {
    let Applied::Batch(answers) = applied else {
        panic!("a batch is answered by {applied:?}");
    };
    if let Applied::Refused(refusal) = answers[1] {
        Some(refusal)
    } else {
        None
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

    async fn connect(&self, _peer: NodeId, address: &MemberAddress) -> io::Result<TcpStream> {
        match address {
            MemberAddress::Address(address) => TcpStream::connect(*address).await,
            MemberAddress::Name { .. } => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn check_from(&self, _stream: &TcpStream, _peer: NodeId) -> Result<(), String> {
        Ok(())
    }
}

pub(crate) fn session_opened(node: u64, key: &str) -> Command {
    let opening = OpeningKey {
        top_via: key.to_owned(),
        call_id: String::new(),
        from_tag: key.to_owned(),
        cseq: 1,
        from_uri: String::new(),
    };
    let dialog = DialogRecord {
        call_id: String::new(),
        local_identity: String::new(),
        remote_identity: String::new(),
        remote_uri: String::new(),
        route_set: Vec::new(),
        remote_target: String::new(),
        local_target: String::new(),
    };
    let monitor = MonitorRecord {
        cross_ref_id: String::new(),
        active: false,
    };
    let record = SessionRecord {
        key: SessionKey::new(key),
        dialog: dialog.into(),
        user: String::new(),
        line: String::new(),
        device: String::new(),
        monitor,
        owner: NodeId(node),
        epoch: Epoch::FIRST,
        connection: ConnectionId([0; 16]),
        client_address: Ipv4Addr::LOCALHOST.into(),
        expires_at_ms: u64::MAX,
        session_interval_secs: 0,
        cti_connection: None,
        calls: BTreeMap::new(),
    };
    Command::SessionOpened {
        opening,
        record: Box::new(record),
        decided_at_ms: simulated_clock_ms(),
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
/// Four files of the log, which is the least that counts.
pub(crate) const DISK_FREE_BYTES_MIN: u64 = 256 << 10;
const PORT: u16 = 7000;
/// The log is cut in portions of 256 entries.
const MANY_ENTRIES: u64 = 500;
const ORDERS_AT_A_TIME: usize = 32;
const GENEROUS: Duration = Duration::from_secs(30);
