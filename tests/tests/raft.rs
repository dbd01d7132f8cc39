//! Three members over real sockets and files on loopback, each in a runtime of its own that can be dropped.
#![expect(clippy::disallowed_methods, reason = "how long a take-over lasts is measured")]
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tandem_shared::cluster::{Applied, CasId, Command, NodeId, StateLimits};
use tandem_shared::config::TlsFiles;
use tandem_shared::io::raft::{
    AdministrationError, Cluster, ClusterConfig, ClusterStatus, Member, MemberRole, RaftMetrics, RaftRole,
    RealFiles, StartError, TcpTransport, TlsTransport,
};
use tandem_tests::cluster::certificates;
use tokio::runtime::Runtime;

#[test]
fn the_survivors_go_on_when_the_leader_dies() {
    let mut lab = Lab::new();
    lab.start_all();
    lab.propose(0, gateways());
    let acknowledged = lab.assign_many(0, "before", 50);

    let mut take_overs = Vec::new();
    for round in 0..6 {
        let leader = lab.wait_for_leader();
        let survivor = 1 - leader;
        let killed = Instant::now();
        lab.kill(leader);
        lab.propose(survivor, assign(&format!("first-{round}")));
        take_overs.push(killed.elapsed());
        lab.start(leader);
        lab.wait_until_equal();
    }
    take_overs.sort();
    println!("kill of the leader to the first write at the survivor: {take_overs:?}");
    assert!(take_overs.last().is_some_and(|longest| *longest < GENEROUS));
    for user in acknowledged {
        assert!(lab.knows(0, &user) && lab.knows(1, &user) && lab.knows(2, &user));
    }
}

#[test]
fn everything_that_was_acknowledged_survives_a_restart_of_all() {
    let mut lab = Lab::new();
    lab.start_all();
    lab.propose(0, gateways());
    let acknowledged = lab.assign_many(1, "user", 300);
    for member in 0..3 {
        lab.kill(member);
    }
    lab.start_all();
    lab.wait_for_leader();
    lab.propose(2, assign("after"));
    lab.wait_until_equal();
    for user in acknowledged {
        assert!(lab.knows(0, &user) && lab.knows(2, &user));
    }
}

#[test]
fn a_member_that_missed_more_than_the_log_holds_gets_a_snapshot() {
    let mut lab = Lab::new();
    lab.adjust = |config| {
        config.snapshot_after_entries = 50;
        config.entries_kept = 10;
        config.log_segment_bytes = 4096;
    };
    lab.start_all();
    lab.propose(0, gateways());
    lab.kill(1);
    for round in 0..4 {
        lab.assign_many(0, &format!("missed-{round}"), 100);
    }
    lab.start(1);
    lab.wait_until_equal();
    assert!(lab.knows(1, "missed-0-0") && lab.knows(1, "missed-3-99"));
    for member in 0..3 {
        lab.kill(member);
    }
    lab.start_all();
    lab.propose(1, assign("after"));
    lab.wait_until_equal();
    assert!(lab.knows(2, "missed-0-0") && lab.knows(2, "after"));
}

#[test]
fn a_planned_stop_hands_the_lead_over_first() {
    let mut lab = Lab::new();
    lab.start_all();
    lab.propose(0, gateways());
    let leader = lab.wait_for_leader();
    let started = Instant::now();
    let cluster = lab.cluster(leader).clone();
    lab.runtime(leader).block_on(cluster.drain());
    println!("handing the lead over: {:?}", started.elapsed());
    assert_eq!(lab.wait_for_leader(), 1 - leader);
    lab.runtime(leader).block_on(cluster.shutdown());
    assert_eq!(cluster.status().borrow().role, RaftRole::Stopped);
    lab.propose(1 - leader, assign("after"));
}

#[test]
fn members_speak_mutual_tls() {
    let mut lab = Lab::with_certificates(IDS);
    lab.start_all();
    lab.propose(0, gateways());
    lab.assign_many(1, "user", 50);
    let leader = lab.wait_for_leader();
    let killed = Instant::now();
    lab.kill(leader);
    lab.propose(1 - leader, assign("after"));
    println!(
        "kill of the leader to the first write, with TLS: {:?}",
        killed.elapsed()
    );
}

#[test]
fn a_member_with_the_certificate_of_another_is_left_out() {
    let mut lab = Lab::with_certificates([IDS[0], IDS[0], IDS[2]]);
    lab.start_all();
    // A cluster does not form by itself without a member, whatever the reason.
    let refused = lab.form(0, &[]).unwrap_err();
    assert!(refused.to_string().contains("n2 did not answer"), "{refused}");
    let formed = lab.form(0, &[IDS[1]]).unwrap();
    assert_eq!(formed.matches("n1.").count(), 1, "{formed}");
    lab.propose(0, gateways());
    let users = lab.assign_many(0, "user", 20);
    let proposal = lab
        .cluster(1)
        .propose(assign("refused"), Duration::from_millis(500));
    assert!(lab.runtime(1).block_on(proposal).is_err());
    assert!(lab.knows(0, &users[0]) && !lab.knows(1, &users[0]));
}

#[test]
fn five_hundred_proposals_at_once_are_applied() {
    let mut lab = Lab::new();
    lab.start_all();
    lab.propose(0, gateways());
    let leader = lab.wait_for_leader();
    for member in [leader, 1 - leader] {
        let started = Instant::now();
        lab.assign_many(member, &format!("at-{member}"), 500);
        println!(
            "500 proposals at member {member} (leader {leader}): {:?}",
            started.elapsed()
        );
    }
    let started = Instant::now();
    for count in 0..200 {
        lab.propose(leader, assign(&format!("alone-{count}")));
    }
    println!(
        "one proposal after the other, each: {:?}",
        started.elapsed() / 200
    );
    let started = Instant::now();
    for count in 0..200 {
        lab.propose(1 - leader, assign(&format!("forwarded-{count}")));
    }
    println!("the same forwarded, each: {:?}", started.elapsed() / 200);
}

#[test]
fn the_leader_declares_a_killed_node_lost() {
    let mut lab = Lab::new();
    lab.start_all();
    for node in [0, 1] {
        lab.propose(
            node,
            Command::NodeRegistered {
                id: IDS[node],
                sip_address: SocketAddr::from(([127, 0, 0, 1], 5060)),
                incarnation: 70 + node as u64,
            },
        );
    }
    lab.wait_until_equal();
    let leader = lab.wait_for_leader();
    let killed = Instant::now();
    lab.kill(leader);
    let survivor = lab.cluster(1 - leader).clone();
    wait_until("the survivor is alone", || {
        survivor.with_state(|state| state.live_nodes().eq([IDS[1 - leader]]))
    });
    println!(
        "kill of the leader until its node is lost: {:?}",
        killed.elapsed()
    );
}

struct Lab {
    directory: tempfile::TempDir,
    members: Vec<Member>,
    running: [Option<(Runtime, Cluster)>; 3],
    adjust: fn(&mut ClusterConfig),
    /// With TLS: whose certificate each member shows.
    certificates: Option<[NodeId; 3]>,
}

impl Lab {
    fn with_certificates(holders: [NodeId; 3]) -> Self {
        let lab = Self {
            certificates: Some(holders),
            ..Self::new()
        };
        certificates::write(lab.directory.path(), "lab", &IDS.map(|id| id.0)).unwrap();
        lab
    }

    fn new() -> Self {
        let kinds = [MemberRole::Node, MemberRole::Node, MemberRole::Witness];
        let members = IDS.into_iter().zip(kinds).zip(free_addresses());
        Self {
            directory: tempfile::tempdir().unwrap(),
            members: members
                .map(|((id, role), address)| Member { id, role, address })
                .collect(),
            running: [const { None }; 3],
            adjust: |_| {},
            certificates: None,
        }
    }

    fn start_all(&mut self) {
        (0..3).for_each(|member| self.start(member));
    }

    fn start(&mut self, member: usize) {
        let id = IDS[member];
        let directory = self.directory.path().join(id.to_string());
        let mut config = ClusterConfig::new(
            "lab",
            id,
            self.members.clone(),
            &directory,
            StateLimits::default(),
        );
        config.incarnation = 70 + member as u64;
        config.log_segment_bytes = 1 << 20;
        (self.adjust)(&mut config);
        let files = Arc::new(RealFiles::open(directory).unwrap());
        let metrics = RaftMetrics::register(&prometheus::Registry::new()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let started = Instant::now();
        // The address of a member that was killed may be taken for a moment longer.
        let cluster = loop {
            let start = self.start_once(config.clone(), files.clone(), metrics.clone());
            match runtime.block_on(start) {
                Ok(cluster) => break cluster,
                Err(error) if started.elapsed() > GENEROUS => panic!("{error:?}"),
                Err(_) => std::thread::yield_now(),
            }
        };
        self.running[member] = Some((runtime, cluster));
    }

    async fn start_once(
        &self,
        config: ClusterConfig,
        files: Arc<RealFiles>,
        metrics: RaftMetrics,
    ) -> Result<Cluster, StartError> {
        let Some(holders) = self.certificates else {
            return Cluster::start(config, TcpTransport, files, metrics).await;
        };
        let member = IDS.iter().position(|id| *id == config.id).unwrap();
        let holder = holders[member];
        let file = |name: String| self.directory.path().join(name);
        let files_of_holder = TlsFiles {
            certificate: file(format!("{holder}.pem")),
            key: file(format!("{holder}.key")),
            authority: file("authority.pem".to_owned()),
        };
        let transport = TlsTransport::new(&files_of_holder, "lab").unwrap();
        Cluster::start(config, transport, files, metrics).await
    }

    /// As a process dies: tasks and sockets are gone at once, nothing is said to anybody.
    fn kill(&mut self, member: usize) {
        if let Some((runtime, _)) = self.running[member].take() {
            runtime.shutdown_background();
        }
    }

    fn cluster(&self, member: usize) -> &Cluster {
        &self.running[member].as_ref().unwrap().1
    }

    fn runtime(&self, member: usize) -> &Runtime {
        &self.running[member].as_ref().unwrap().0
    }

    /// Forms the cluster at a member, once the others that can have answered it.
    fn form(&self, member: usize, without: &[NodeId]) -> Result<String, AdministrationError> {
        let cluster = self.cluster(member);
        let waits_for = |status: &ClusterStatus| {
            let obstacle = status.obstacle.as_deref().unwrap_or_default();
            obstacle.contains(&format!("yet: {}", IDS[1])) && !obstacle.contains(&IDS[2].to_string())
        };
        wait_until("only the one is missing", || {
            waits_for(&cluster.status().borrow())
        });
        self.runtime(member).block_on(cluster.form(without))
    }

    fn propose(&self, member: usize, command: Command) -> Applied {
        let propose = self.cluster(member).propose(command, GENEROUS);
        self.runtime(member).block_on(propose).unwrap()
    }

    /// Proposes all of them at once; the users that were acknowledged.
    fn assign_many(&self, member: usize, prefix: &str, count: usize) -> Vec<String> {
        let users: Vec<String> = (0..count).map(|number| format!("{prefix}-{number}")).collect();
        let proposals = users
            .iter()
            .map(|user| self.cluster(member).propose(assign(user), GENEROUS));
        let results = self
            .runtime(member)
            .block_on(futures::future::join_all(proposals));
        results.into_iter().for_each(|result| drop(result.unwrap()));
        users
    }

    fn knows(&self, member: usize, user: &str) -> bool {
        self.cluster(member)
            .with_state(|state| state.assignment(user).is_some())
    }

    /// The node that leads.
    fn wait_for_leader(&self) -> usize {
        let leads = |member: usize| {
            self.running[member]
                .as_ref()
                .is_some_and(|(_, cluster)| cluster.status().borrow().role == RaftRole::Leader)
        };
        wait_until("a node leads", || leads(0) || leads(1));
        usize::from(leads(1))
    }

    fn wait_until_equal(&self) {
        let state = |member: usize| self.cluster(member).with_state(Clone::clone);
        wait_until("all members hold the same state", || {
            state(0) == state(1) && state(1) == state(2)
        });
    }
}

fn gateways() -> Command {
    Command::CasGatewaysSet {
        gateways: ["cas-1", "cas-2"].map(|name| CasId(name.to_owned())).to_vec(),
        at_ms: 0,
    }
}

fn assign(user: &str) -> Command {
    Command::CasAssign {
        users: vec![user.to_owned()],
        at_ms: 0,
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < GENEROUS, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn free_addresses() -> Vec<SocketAddr> {
    let listeners: Vec<_> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap())
        .collect()
}

const IDS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(100)];
const GENEROUS: Duration = Duration::from_secs(15);
