//! Three members of a Raft group over real sockets and files on loopback, each in a runtime of its own that can be
//! dropped as a process dies.
//!
//! Owns their configuration, certificates and data directories, which a test may empty, copy and put back. Does not own
//! what is to be proved: tests compare what was acknowledged with what the members hold.
#![allow(clippy::missing_panics_doc, reason = "a test stops where it finds something")]

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tandem_cluster::MemberRole;
use tandem_cluster::{Applied, CasId, Command, Format, Incarnation, NodeId, StateLimits};
use tandem_raft::{
    AdministrationError, Cluster, ClusterConfig, ClusterStatus, DirectoryError, Member, RaftMetrics,
    RaftRole, StartError, StateMarkView, StopReason, remembered_reach,
};
use tandem_runtime::config::TlsFiles;
use tandem_runtime::io::environment::files::RealFiles;
use tandem_runtime::io::transport::{TcpTransport, TlsTransport};
use tokio::runtime::Runtime;

use crate::cluster::certificates;

/// Three members, two nodes and a witness, each in a runtime of its own.
pub struct Lab {
    directory: tempfile::TempDir,
    members: Vec<Member>,
    running: [Option<Running>; 3],
    /// A second process of some member.
    beside: Option<Running>,
    /// Changes what every member is configured with from its next start on.
    pub adjust: fn(&mut ClusterConfig),
    /// With TLS: whose certificate each member shows.
    certificates: Option<[NodeId; 3]>,
}

/// One life of a member.
struct Running {
    runtime: Runtime,
    cluster: Cluster,
    files: Arc<RealFiles>,
}

impl Running {
    fn end(self) {
        drop(self.cluster);
        self.runtime.shutdown_timeout(GENEROUS);
        wait_until("its threads have ended", || Arc::strong_count(&self.files) == 1);
    }
}

impl Lab {
    pub fn with_certificates(holders: [NodeId; 3]) -> Self {
        let lab = Self {
            certificates: Some(holders),
            ..Self::new()
        };
        certificates::write(lab.directory.path(), "lab", &IDS.map(|id| id.0)).unwrap();
        lab
    }

    #[must_use]
    #[expect(clippy::new_without_default, reason = "a lab opens sockets and folders")]
    pub fn new() -> Self {
        let kinds = [MemberRole::Node, MemberRole::Node, MemberRole::Witness];
        let members = IDS.into_iter().zip(kinds).zip(free_addresses());
        Self {
            directory: tempfile::tempdir().unwrap(),
            members: members
                .map(|((id, role), address)| Member {
                    id,
                    role,
                    address: address.into(),
                })
                .collect(),
            running: [const { None }; 3],
            beside: None,
            adjust: |_| {},
            certificates: None,
        }
    }

    pub fn start_all(&mut self) {
        (0..3).for_each(|member| self.start(member));
    }

    pub fn start(&mut self, member: usize) {
        self.try_start(member, GENEROUS).unwrap();
    }

    /// Starts a member; waits for its address and its directory no longer than `patience`.
    pub fn try_start(&mut self, member: usize, patience: Duration) -> Result<(), StartError> {
        let running = self.run(member, &self.data(member), None, patience)?;
        self.running[member] = Some(running);
        Ok(())
    }

    /// Starts one more process of a member that runs, on another directory and at another address.
    pub fn start_beside(&mut self, member: usize, directory: &Path) {
        let address = free_addresses()[0];
        let running = self.run(member, directory, Some(address), GENEROUS);
        self.beside = Some(running.unwrap());
    }

    pub fn end_beside(&mut self) {
        if let Some(running) = self.beside.take() {
            running.end();
        }
    }

    fn run(
        &self,
        member: usize,
        directory: &Path,
        listen: Option<SocketAddr>,
        patience: Duration,
    ) -> Result<Running, StartError> {
        let id = IDS[member];
        let mut config =
            ClusterConfig::new("lab", id, self.members.clone(), directory, StateLimits::default());
        config.incarnation = Incarnation::first((70 + member as u64) << 16);
        config.log_segment_bytes = 1 << 20;
        config.listen = listen;
        (self.adjust)(&mut config);
        let files = Arc::new(RealFiles::open(directory).unwrap());
        let metrics = RaftMetrics::register(&prometheus::Registry::new()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let started = Instant::now();
        loop {
            let start = self.start_once(config.clone(), files.clone(), metrics.clone());
            match runtime.block_on(start) {
                Ok(cluster) => {
                    return Ok(Running {
                        runtime,
                        cluster,
                        files,
                    });
                }
                // Address and directory of a member that was killed may be taken for a moment longer.
                Err(StartError::Listen { .. } | StartError::Directory(DirectoryError::InUse(_)))
                    if started.elapsed() < patience =>
                {
                    std::thread::yield_now();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The data directory of a member.
    #[must_use]
    pub fn data(&self, member: usize) -> PathBuf {
        self.directory.path().join(IDS[member].to_string())
    }

    /// A copy of a member's data directory, as an administrator or a hypervisor makes one.
    #[must_use]
    pub fn back_up(&self, member: usize) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_files(&self.data(member), copy.path());
        copy
    }

    /// The member's disk was replaced by an empty one.
    pub fn wipe(&self, member: usize) {
        std::fs::remove_dir_all(self.data(member)).unwrap();
    }

    /// The member's data directory is as it was when the copy was made.
    pub fn roll_back(&self, member: usize, copy: &tempfile::TempDir) {
        self.wipe(member);
        std::fs::create_dir(self.data(member)).unwrap();
        copy_files(copy.path(), &self.data(member));
    }

    /// Why a member takes no part.
    #[must_use]
    pub fn obstacle(&self, member: usize) -> Option<String> {
        self.cluster(member).status().borrow().obstacle.clone()
    }

    /// Waits until a member says why it takes no part, in words that contain `text`.
    pub fn wait_for_obstacle(&self, member: usize, text: &str) {
        wait_until(&format!("member {member} says {text:?}"), || {
            self.obstacle(member)
                .is_some_and(|obstacle| obstacle.contains(text))
        });
    }

    /// How far `member`'s log is known to reach in the directory of `by`: what stands in its file `peers`.
    #[must_use]
    pub fn noted(&self, by: usize, member: usize) -> u64 {
        let noted = RealFiles::open(self.data(by)).map(|files| remembered_reach(&files, IDS[member]));
        noted.ok().flatten().unwrap_or(0)
    }

    /// Waits until `by` has written down that `member` holds everything that is applied now. Members ask each other several
    /// times a second, and write down what they heard once a second.
    pub fn wait_until_noted(&self, by: usize, member: usize) {
        let applied = self.cluster(by).last_applied();
        wait_until("it is noted how far the member's log reaches", || {
            self.noted(by, member) >= applied
        });
    }

    /// These members forget what they know of the others.
    pub fn forget_peers(&mut self, members: &[usize]) {
        for &member in members {
            self.kill(member);
            std::fs::remove_file(self.data(member).join("peers")).unwrap();
            self.start(member);
        }
    }

    /// `tandem-node cluster replace`, at member `at`.
    pub fn replace(&self, at: usize, member: usize) -> Result<String, AdministrationError> {
        let replace = self.cluster(at).replace(IDS[member], GENEROUS);
        self.runtime(at).block_on(replace)
    }

    /// Whether a proposal at this member is answered in time.
    #[must_use]
    pub fn can_write(&self, member: usize, user: &str, patience: Duration) -> bool {
        let propose = self.cluster(member).propose(assign(user), patience);
        self.runtime(member).block_on(propose).is_ok()
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
            revocation_list: None,
        };
        let transport = TlsTransport::new(&files_of_holder, "lab", holder).unwrap();
        Cluster::start(config, transport, files, metrics).await
    }

    /// As a process dies: tasks and sockets are gone at once, nothing is said to anybody. When it returns, nobody writes to
    /// the data directory any more.
    pub fn kill(&mut self, member: usize) {
        if let Some(running) = self.running[member].take() {
            running.end();
        }
    }

    pub fn cluster(&self, member: usize) -> &Cluster {
        &self.running[member].as_ref().unwrap().cluster
    }

    pub fn runtime(&self, member: usize) -> &Runtime {
        &self.running[member].as_ref().unwrap().runtime
    }

    /// Forms the cluster at a member, once the others that can have answered it.
    pub fn form(&self, member: usize, without: &[NodeId]) -> Result<String, AdministrationError> {
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

    pub fn propose(&self, member: usize, command: Command) -> Applied {
        let propose = self.cluster(member).propose(command, GENEROUS);
        let proposed = self.runtime(member).block_on(propose);
        proposed.unwrap_or_else(|error| panic!("{error}: {}", self.describe()))
    }

    fn describe(&self) -> String {
        let running = self.running.iter().flatten();
        let members = running.map(|running| {
            let status = running.cluster.status().borrow().clone();
            format!("\n{status:?} {:?}", running.cluster.members())
        });
        members.collect()
    }

    /// Proposes all of them at once; the users that were acknowledged.
    pub fn assign_many(&self, member: usize, prefix: &str, count: usize) -> Vec<String> {
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

    pub fn knows(&self, member: usize, user: &str) -> bool {
        self.cluster(member).state().assignment(user).is_some()
    }

    /// Waits until a member knows all of these users: what is committed reaches it a moment later.
    pub fn wait_until_known(&self, member: usize, users: &[String]) {
        let what = format!("member {member} knows all that was acknowledged");
        wait_until(&what, || users.iter().all(|user| self.knows(member, user)));
    }

    /// Waits until a member has stopped by itself; why.
    pub fn wait_until_stopped(&self, member: usize) -> StopReason {
        let stopped = self.cluster(member).stopped();
        let stopped = async { tokio::time::timeout(GENEROUS, stopped).await };
        let stopped = self.runtime(member).block_on(stopped);
        stopped.unwrap_or_else(|_| panic!("member {member} has not stopped: {}", self.describe()))
    }

    /// The node that leads.
    pub fn wait_for_leader(&self) -> usize {
        let leads = |member: usize| {
            self.running[member]
                .as_ref()
                .is_some_and(|running| running.cluster.status().borrow().role == RaftRole::Leader)
        };
        wait_until("a node leads", || leads(0) || leads(1));
        usize::from(leads(1))
    }

    /// Waits until the first leader's draw of the cluster's identity is in a member's state. A directory copied before that
    /// may come to belong to another cluster.
    /// Waits until every member writes in this format.
    pub fn wait_until_finalised(&self, format: Format) {
        wait_until("the format is finalised", || {
            (0..3).all(|member| self.cluster(member).state().format() == format)
        });
    }

    /// Has all members mark their states, and returns the marks as `member` knows them.
    pub fn marks(&self, member: usize) -> Vec<Option<StateMarkView>> {
        let marked = self.cluster(member).mark_states(GENEROUS);
        self.runtime(member).block_on(marked).unwrap();
        let members = self.cluster(member).members().members;
        members.into_iter().map(|member| member.state_mark).collect()
    }

    pub fn wait_until_identified(&self, member: usize) {
        wait_until("the cluster has its identity", || {
            self.cluster(member).state().identity().is_some()
        });
    }

    pub fn wait_until_equal(&self) {
        let state = |member: usize| self.cluster(member).state();
        let started = Instant::now();
        while !(state(0) == state(1) && state(1) == state(2)) {
            assert!(
                started.elapsed() < GENEROUS,
                "not all members hold the same state: {}",
                self.describe()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

pub fn gateways() -> Command {
    Command::CasGatewaysSet {
        gateways: ["cas-1", "cas-2"].map(|name| CasId(name.to_owned())).to_vec(),
        at_ms: 0,
    }
}

pub fn assign(user: &str) -> Command {
    Command::CasAssign {
        users: vec![user.to_owned()],
        at_ms: 0,
    }
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < GENEROUS, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match std::fs::copy(entry.path(), to.join(entry.file_name())) {
            // A running member replaces and removes files all the time.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => {
                result.unwrap();
            }
        }
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

/// Two nodes and the witness.
pub const IDS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(100)];
/// Longer than anything here takes.
pub const GENEROUS: Duration = Duration::from_secs(15);
