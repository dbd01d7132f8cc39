//! A whole Tandem of real processes, on a private loopback address or in namespaces of its own.
//!
//! Owns the processes, their configuration, certificates, data and logs, and the one PBX behind the CTI
//! managers. Does not own the OCS front ends: a story starts as many as it wants. A cluster on loopback takes a random
//! `127.A.B.0/24` for itself, so that clusters beside each other never want the same port; with a [`Hub`] every member
//! is in a network namespace of its own, and the ways between them can be cut. Everything is killed
//! when the value is dropped; unless the story has ended well, the last lines of every log are printed.

mod addresses;
pub mod binaries;
pub mod certificates;
mod configuration;
mod directories;
mod exchange;
mod firewall;
mod http;
mod hub;
mod members;
mod membership;
mod metrics;
mod namespace;
mod network;
mod process;
mod slow_link;
mod small_disk;
mod wall_clock;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

pub use addresses::{Addresses, Family};
pub use binaries::{ask_node, path as binary};
pub use configuration::write as write_configuration;
pub use directories::Backup;
pub use exchange::{ExchangeOptions, PASSWORD, account, mailbox, write_secrets};
pub use firewall::{Block, Cut};
pub use http::{HttpResponse, NotConnected, get_from, post_to, status_of};
pub use hub::{Hub, Needs, in_a_network_of_its_own};
pub use membership::{Beside, Told};
pub use metrics::Metrics;
pub use process::Signal;
pub use slow_link::SlowLink;
pub use small_disk::SmallDisk;

use crate::peers::exchange::Exchange;
use crate::peers::exchange::server::Servers;
use crate::peers::ocs::{Ocs, OcsOptions, phone_number};
use crate::peers::pbx::Pbx;
use network::Network;
use process::{Launch, Process};
use wall_clock::WallClock;

/// One killable process of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    Lb,
    /// By its id, from 1.
    Node(u64),
    /// By its number, from 1.
    CtiManager(usize),
}

/// What kind of Tandem to start.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Every member is in a namespace of its own, joined to this one; `None`: all are on loopback.
    pub hub: Option<Hub>,
    /// How many nodes there are. Voters are the nodes, and the witness while their number is even.
    pub nodes: u64,
    /// Users in the directory, phones at the PBX.
    pub users: usize,
    pub cti_managers: usize,
    /// Mutual TLS between members, or plaintext on loopback.
    pub peer_tls: bool,
    /// Mutual TLS between lb and nodes as well, which needs `peer_tls`.
    pub secure_pairs: bool,
    /// The planted fault: nodes do not adopt sessions.
    pub adoption_disabled: bool,
    pub cti_heartbeat: Duration,
    /// How long a node waits for the answer to a command; `None`: the default.
    pub cti_request_timeout: Option<Duration>,
    /// A session that is not refreshed for so long ends.
    pub session_timer_secs: u32,
    /// Members whose wall clocks the story steps.
    pub stepped_clocks: Vec<Member>,
    /// Presence is published to [`Addresses::presence_server`].
    pub publishes_presence: bool,
    /// With it, every user has a calendar.
    pub exchange: Option<ExchangeOptions>,
    /// How long lb keeps a node out that has gone down again, to begin with; `None`: the default.
    pub hold_down: Option<Duration>,
    /// Entries of the log after which a snapshot is made, and entries kept behind it; `None`: the defaults.
    pub log_bounds: Option<(u64, u64)>,
    /// Size of one file of the log; `None`: the default.
    pub log_file_bytes: Option<u64>,
    /// Members pass for a release that reads and writes nothing newer than this format; `None`: for the current one.
    pub newest_format: Option<u16>,
    /// When a newer format is written.
    pub finalise: Finalise,
    /// Nodes open sessions while the cluster has no quorum.
    pub serves_without_quorum: bool,
    /// Further sections of lb's file; `{vip}` in them stands for the virtual address.
    pub lb_sections: String,
    /// Further variables of the environment of one member.
    pub environment: Vec<(Member, &'static str, String)>,
    /// `TANDEM_LOG` of every process.
    pub log_filter: String,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            hub: None,
            nodes: 2,
            users: 200,
            cti_managers: 4,
            peer_tls: true,
            secure_pairs: false,
            adoption_disabled: false,
            cti_heartbeat: Duration::from_millis(500),
            cti_request_timeout: None,
            session_timer_secs: 1800,
            stepped_clocks: Vec::new(),
            publishes_presence: false,
            exchange: None,
            hold_down: None,
            log_bounds: None,
            log_file_bytes: None,
            newest_format: None,
            finalise: Finalise::AfterSecs(24 * 60 * 60),
            serves_without_quorum: false,
            lb_sections: String::new(),
            environment: Vec::new(),
            log_filter: std::env::var("TANDEM_LOG").unwrap_or_else(|_| "info,openraft=error".to_owned()),
        }
    }
}

/// When the log is written in a newer format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finalise {
    /// Every member has run a release that reads it for so long.
    AfterSecs(u64),
    /// An administrator says so.
    Manual,
}

/// A running Tandem.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    addresses: Addresses,
    directory: TempDir,
    kept: bool,
    /// Set when the story has ended well: nobody wants to read logs then.
    dismissed: AtomicBool,
    pbx: Pbx,
    exchange: Option<Exchange>,
    clocks: BTreeMap<Member, WallClock>,
    processes: BTreeMap<Member, Process>,
    network: Option<Network>,
}

impl Cluster {
    /// Starts everything and waits until lb and nodes are ready.
    pub async fn start(options: ClusterOptions) -> anyhow::Result<Self> {
        Self::start_with_calendars(options, |_| {}).await
    }

    /// As `start`; what `fill` puts into the calendars is there before the first node runs.
    pub async fn start_with_calendars(
        options: ClusterOptions,
        fill: impl FnOnce(&mut Servers) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let addresses = match options.hub {
            Some(hub) => Addresses::in_a_made_network(hub.family),
            None => Addresses::unused()?,
        };
        let network = match options.hub {
            Some(hub) => Some(Network::make(hub, addresses, &options.members())?),
            None => None,
        };
        let directory = tempfile::Builder::new().prefix("tandem-").tempdir()?;
        configuration::write(directory.path(), addresses, &options)?;
        if options.peer_tls {
            certificates::write_for_cluster(directory.path(), &options, &rcgen::PKCS_ECDSA_P256_SHA256)?;
        }
        let exchange = match &options.exchange {
            Some(exchange) => {
                let started = exchange::start(directory.path(), addresses, exchange, &options).await?;
                started.ask(fill).await;
                Some(started)
            }
            None => None,
        };
        let phones = (0..options.users).map(phone_number).collect();
        let pbx = Pbx::start(addresses.pbx(), phones).await?;
        let clocks = options.stepped_clocks.iter();
        let clocks = clocks.map(|member| Ok((*member, WallClock::new(directory.path(), *member)?)));
        let mut cluster = Self {
            clocks: clocks.collect::<anyhow::Result<_>>()?,
            options,
            addresses,
            directory,
            kept: false,
            dismissed: AtomicBool::new(false),
            pbx,
            exchange,
            processes: BTreeMap::new(),
            network,
        };
        for member in cluster.members() {
            cluster.spawn(member)?;
        }
        let ready: Vec<_> = cluster.nodes().into_iter().chain([Member::Lb]).collect();
        cluster.wait_until_ready(&ready).await?;
        cluster.wait_until_nodes_are_in_service().await?;
        Ok(cluster)
    }

    #[must_use]
    pub fn pbx(&self) -> &Pbx {
        &self.pbx
    }

    /// The Exchange that was asked for in the options.
    #[must_use]
    pub fn exchange(&self) -> &Exchange {
        self.exchange.as_ref().expect("this cluster has an Exchange")
    }

    /// For what is done to its servers.
    pub fn exchange_mut(&mut self) -> &mut Exchange {
        self.exchange.as_mut().expect("this cluster has an Exchange")
    }

    /// The password that nodes read. Exchange has its own.
    pub fn write_password(&self, password: &str) -> anyhow::Result<()> {
        exchange::write_secret(&self.directory.path().join("exchange.password"), password)
    }

    /// From now on the directory has only the first so many users; the nodes have to be told.
    pub fn shrink_directory(&self, users: usize) -> anyhow::Result<()> {
        let calendars = if self.exchange.is_some() { 0..users } else { 0..0 };
        configuration::write_directory(self.directory.path(), users, calendars)
    }

    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Where configuration, data and logs lie.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// An OCS for the first `users` users over `connections` connections; a story changes what it wants to.
    #[must_use]
    pub fn ocs_options(&self, users: usize, connections: usize) -> OcsOptions {
        OcsOptions {
            address: self.addresses.ocs(1),
            vip: self.addresses.vip(),
            users: 0..users,
            connections,
            office_communicator_every: 2,
            colliding_group: 3,
        }
    }

    /// An OCS, connected.
    pub async fn start_ocs(&self, options: OcsOptions) -> anyhow::Result<Ocs> {
        let ocs = Ocs::start(options).await?;
        ocs.wait_until("OCS is connected", DEADLINE, |front_end| front_end.is_connected())
            .await?;
        Ok(ocs)
    }

    /// Sends a signal; returns when it is sent.
    pub fn signal(&self, member: Member, signal: Signal) -> anyhow::Result<()> {
        let process = self
            .processes
            .get(&member)
            .with_context(|| format!("{member} runs not"))?;
        process.signal(signal)
    }

    /// SIGKILL, and waits for the corpse.
    pub async fn kill(&mut self, member: Member) -> anyhow::Result<()> {
        let mut process = self
            .processes
            .remove(&member)
            .with_context(|| format!("{member:?} runs not"))?;
        process.kill().await
    }

    /// SIGKILL to all of them before waiting for any.
    pub async fn kill_all(&mut self, members: &[Member]) -> anyhow::Result<()> {
        for member in members {
            self.signal(*member, Signal::Kill)?;
        }
        for member in members {
            self.kill(*member).await?;
        }
        Ok(())
    }

    /// SIGTERM, and the exit code once it has drained.
    pub async fn stop(&mut self, member: Member) -> anyhow::Result<i32> {
        let mut process = self
            .processes
            .remove(&member)
            .with_context(|| format!("{member:?} runs not"))?;
        process.signal(Signal::Terminate)?;
        process.wait(DEADLINE).await
    }

    /// Starts a member that has been killed or stopped, with the data that it left behind.
    pub async fn restart(&mut self, member: Member) -> anyhow::Result<()> {
        self.restart_all(&[member]).await
    }

    /// Starts several members and waits for them together: most of a cluster is ready only with others. When it
    /// returns, lb has every node that runs in service; nobody waits for a member to catch up with the log.
    pub async fn restart_all(&mut self, members: &[Member]) -> anyhow::Result<()> {
        for member in members {
            self.spawn(*member)?;
        }
        let ready: Vec<_> = members
            .iter()
            .copied()
            .filter(|member| !matches!(member, Member::CtiManager(_)))
            .collect();
        self.wait_until_ready(&ready).await?;
        self.wait_until_nodes_are_in_service().await
    }

    /// Waits until lb, if it runs, has every node that runs in service.
    pub async fn wait_until_nodes_are_in_service(&self) -> anyhow::Result<()> {
        if !self.is_running(Member::Lb) {
            return Ok(());
        }
        let nodes = self.nodes().into_iter();
        let wanted: f64 = nodes.map(|node| f64::from(self.is_running(node))).sum();
        self.wait_for_metrics(Member::Lb, "lb has all nodes in service", |metrics| {
            metrics.sum("tandem_lb_nodes_in_service", &[]) >= wanted
        })
        .await
        .map(drop)
    }

    #[must_use]
    pub fn is_running(&self, member: Member) -> bool {
        self.processes.contains_key(&member)
    }

    /// One HTTP request to a member's admin listener.
    pub async fn http(
        &self,
        member: Member,
        method: &str,
        path: &str,
        body: &str,
    ) -> anyhow::Result<HttpResponse> {
        let address = self
            .addresses
            .admin(member)
            .context("a CTI manager has no admin listener")?;
        http::request(address, method, path, body).await
    }

    /// POST of a JSON value; the JSON answer, which must be a 2xx.
    pub async fn post(
        &self,
        member: Member,
        path: &str,
        body: &serde_json::Value,
    ) -> anyhow::Result<serde_json::Value> {
        let response = self.http(member, "POST", path, &body.to_string()).await?;
        response
            .json()
            .with_context(|| format!("POST {path} to {member:?}"))
    }

    pub async fn get(&self, member: Member, path: &str) -> anyhow::Result<serde_json::Value> {
        let response = self.http(member, "GET", path, "").await?;
        response
            .json()
            .with_context(|| format!("GET {path} of {member:?}"))
    }

    pub async fn metrics(&self, member: Member) -> anyhow::Result<Metrics> {
        self.addresses.metrics(member).await
    }

    /// Asks again and again until a member's metrics are as `condition` wants them.
    pub async fn wait_for_metrics(
        &self,
        member: Member,
        what: &str,
        condition: impl Fn(&Metrics) -> bool,
    ) -> anyhow::Result<Metrics> {
        let started = Instant::now();
        loop {
            if let Ok(metrics) = self.metrics(member).await
                && condition(&metrics)
            {
                return Ok(metrics);
            }
            if started.elapsed() > DEADLINE {
                bail!("waited {DEADLINE:?} in vain until {what} ({member:?})");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The member that says it leads Raft.
    pub async fn leader(&self) -> anyhow::Result<Member> {
        let started = Instant::now();
        loop {
            for member in self.nodes().into_iter().chain([Member::Lb]) {
                let leads = match self.metrics(member).await {
                    Ok(metrics) => metrics.sum("tandem_raft_is_leader", &[]) == 1.0,
                    Err(_) => false,
                };
                if leads {
                    return Ok(member);
                }
            }
            if started.elapsed() > DEADLINE {
                bail!("nobody leads Raft");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until `/readyz` of each says 200.
    pub async fn wait_until_ready(&mut self, members: &[Member]) -> anyhow::Result<()> {
        let started = Instant::now();
        for member in members {
            loop {
                let answer = self.http(*member, "GET", "/readyz", "").await;
                if matches!(&answer, Ok(response) if response.status == 200) {
                    break;
                }
                if let Some(status) = self.process(*member)?.has_exited()? {
                    bail!("{member:?} has exited: {status}");
                }
                if started.elapsed() > READY_DEADLINE {
                    bail!("{member:?} is not ready: {answer:?}");
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Whatever a member has logged so far, all its lives together.
    pub fn log(&self, member: Member) -> String {
        std::fs::read_to_string(self.log_path(member)).unwrap_or_default()
    }

    /// The story has ended as it should.
    pub fn dismiss(&self) {
        self.dismissed.store(true, Ordering::Relaxed);
    }

    /// Leaves the directory behind when this value is dropped. The processes are killed all the same.
    pub fn keep_directory(&mut self) {
        self.kept = true;
        self.directory.disable_cleanup(true);
    }

    /// Changes what a member is configured with, from its next start on.
    pub fn configure(&self, member: Member, change: impl FnOnce(&mut ClusterOptions)) -> anyhow::Result<()> {
        let mut options = self.options.clone();
        change(&mut options);
        configuration::write_member(self.directory.path(), member, self.addresses, &options)
    }

    fn forget(&mut self, member: Member) {
        self.processes.remove(&member);
    }

    fn process(&mut self, member: Member) -> anyhow::Result<&mut Process> {
        self.processes
            .get_mut(&member)
            .with_context(|| format!("{member:?} runs not"))
    }

    fn spawn(&mut self, member: Member) -> anyhow::Result<()> {
        let (binary, arguments) = self.command(member);
        let clock = self.clocks.get(&member);
        let process = Process::start(Launch {
            binary,
            arguments: &arguments,
            log: &self.log_path(member),
            log_filter: &self.options.log_filter,
            environment: clock
                .map(WallClock::environment)
                .into_iter()
                .flatten()
                .chain(self.environment(member))
                .collect(),
            namespace: self.namespace(member),
        })?;
        self.processes.insert(member, process);
        Ok(())
    }

    fn environment(&self, member: Member) -> impl Iterator<Item = (&'static str, String)> + '_ {
        let all = self.options.environment.iter();
        all.filter(move |(of, ..)| *of == member)
            .map(|(_, name, value)| (*name, value.clone()))
    }

    fn command(&self, member: Member) -> (&'static str, Vec<String>) {
        let config = |name: String| {
            let path = self.directory.path().join(name);
            vec!["--config".to_owned(), path.display().to_string()]
        };
        match member {
            Member::Lb => ("tandem-lb", config("lb.toml".to_owned())),
            Member::Node(id) => ("tandem-node", config(format!("node{id}.toml"))),
            Member::CtiManager(number) => {
                let listen = self.addresses.cti_manager(number).to_string();
                let pbx = self.addresses.pbx().to_string();
                let arguments = [
                    "--listen",
                    &listen,
                    "--pbx",
                    &pbx,
                    "--name",
                    &format!("cm{number}"),
                ];
                ("tandem-cti-manager", arguments.map(str::to_owned).to_vec())
            }
        }
    }

    fn log_path(&self, member: Member) -> PathBuf {
        self.directory.path().join(format!("{member}.log"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.processes.values_mut() {
            process.kill_now();
        }
        if std::thread::panicking() || !self.dismissed.load(Ordering::Relaxed) {
            for member in self.members() {
                print_tail(member, &self.log(member));
            }
        }
        if self.kept {
            println!(
                "configuration, data and logs are kept in {}",
                self.directory.path().display()
            );
        }
    }
}

impl std::fmt::Display for Member {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            Self::Lb => "lb".to_owned(),
            Self::Node(id) => format!("node{id}"),
            Self::CtiManager(number) => format!("cm{number}"),
        };
        formatter.pad(&name)
    }
}

fn print_tail(member: Member, log: &str) {
    // The load of a story asks for changes by the dozen.
    let lines: Vec<_> = log.lines().filter(|line| !line.contains(" audit: ")).collect();
    println!("── last lines of {member}");
    for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
        println!("{line}");
    }
}

/// Long for a loaded machine; nothing in a story is expected to take it.
pub const DEADLINE: Duration = Duration::from_secs(30);
const READY_DEADLINE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
const TAIL_LINES: usize = 40;
