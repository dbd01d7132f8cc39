//! The steps of stories about data directories: members that lose theirs, and the way back.
//!
//! Users are signed in throughout, and every acknowledged write is in a ledger. A story ends with all replicas compared.

use std::ops::{Deref, DerefMut, Range};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::ensure;

use super::{Ledger, Scene};
use crate::cluster::{Cluster, ClusterOptions, Member, Metrics, SmallDisk, Told};

/// A scene in which everybody is signed in, with a ledger of what was acknowledged.
#[derive(Debug)]
pub struct DiskScene {
    /// Beneath the data of the second node, if it was moved there. Dropped before the cluster, whose directory it lies in.
    pub disk: Option<SmallDisk>,
    pub scene: Scene,
    pub ledger: Ledger,
}

impl DiskScene {
    /// All users are signed in when it returns.
    pub async fn start(options: ClusterOptions) -> anyhow::Result<Self> {
        let users = 0..options.users;
        Self::start_with(options, users).await
    }

    /// Writes at one node until the process of another has ended, whose disk is full: what is written fills the file that it
    /// has made room for already. Returns how it ended.
    pub async fn write_until_ended(&mut self, at: Member, ends: Member) -> anyhow::Result<i32> {
        let (started, mut written) = (Instant::now(), 0);
        while !self.cluster.has_ended(ends)? {
            ensure!(
                written < WRITES_MAX && started.elapsed() < FILLED_WITHIN,
                "{ends} goes on after {written} writes"
            );
            // Refused while the lead changes hands.
            if self.ledger.write(at, WRITES_AT_ONCE).await.is_ok() {
                written += WRITES_AT_ONCE;
            }
        }
        println!("{ends} ended after {written} writes");
        self.cluster.wait_until_ended(ends).await
    }

    /// As `start`, but only these users are signed in.
    pub async fn start_with(options: ClusterOptions, users: Range<usize>) -> anyhow::Result<Self> {
        // Nodes go down again and again here.
        let options = ClusterOptions {
            hold_down: Some(Duration::ZERO),
            ..options
        };
        let scene = Scene::start(options, 1).await?;
        let ledger = Ledger::open(&scene.cluster).await?;
        scene.sign_in(users).await?;
        Ok(Self {
            disk: None,
            scene,
            ledger,
        })
    }

    /// Moves the data of the second node to a disk of that many bytes, where something can be mounted.
    pub async fn move_to_small_disk(&mut self, bytes: u64) -> anyhow::Result<()> {
        self.cluster.kill(NODES[1]).await?;
        self.disk = self.cluster.move_to_small_disk(NODES[1], bytes)?;
        if self.disk.is_none() {
            let may_be_skipped = std::env::var("CI").as_deref() != Ok("true");
            ensure!(
                may_be_skipped,
                "nothing may be skipped under CI: nothing can be mounted here"
            );
            println!("SKIPPED: disks that fill up: nothing can be mounted here");
        }
        self.cluster.restart(NODES[1]).await
    }

    /// The node that leads Raft.
    pub async fn leading_node(&self) -> anyhow::Result<Member> {
        loop {
            let leader = self.cluster.leader().await?;
            if leader != Member::Lb {
                return Ok(leader);
            }
        }
    }

    /// Moves the data of a member that does not run to a disk of that many bytes. `None`, once that was said, where nothing can
    /// be mounted: the story is then over.
    ///
    /// # Panics
    /// When the data cannot be moved, and under CI when nothing can be mounted.
    #[must_use]
    pub fn small_disk_or_skip(&self, member: Member, bytes: u64) -> Option<SmallDisk> {
        let disk = self.cluster.move_to_small_disk(member, bytes).unwrap();
        if disk.is_none() {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "nothing may be skipped under CI"
            );
            println!(
                "SKIPPED: a disk that fills up: nothing can be mounted here without the rights of the superuser"
            );
            self.cluster.dismiss();
        }
        disk
    }

    /// Kills a member; when that is lb, returns when OCS has noticed.
    pub async fn kill(&mut self, member: Member) -> anyhow::Result<()> {
        match member {
            Member::Lb => self.kill_front_end().await,
            Member::Node(_) | Member::CtiManager(_) => self.cluster.kill(member).await,
        }
    }

    /// Starts a member on an empty directory; what it held is gone.
    pub async fn restart_without_disk(&mut self, member: Member) -> anyhow::Result<()> {
        if self.cluster.is_running(member) {
            self.kill(member).await?;
        }
        self.cluster.wipe(member)?;
        self.cluster.launch(member)
    }

    /// Waits until node `teller` calls a member a stranger in words that contain `text`, and the member itself, when it is
    /// a node, is not ready for the same reason.
    pub async fn wait_until_stranger(
        &self,
        teller: Member,
        member: Member,
        text: &str,
    ) -> anyhow::Result<()> {
        let line = format!("{} (!): ", name(member));
        let says = |told: &str| {
            told.lines()
                .any(|told| told.starts_with(&line) && told.contains(text))
        };
        self.cluster.wait_for_member_status(teller, 1, says).await?;
        if let Member::Node(_) = member {
            let command = format!("tandem-node cluster replace {}", name(member));
            self.cluster.wait_for_obstacle(member, &command).await?;
        }
        Ok(())
    }

    /// The way back of a member whose data cannot be used: an empty directory and one command, at node `at`.
    pub async fn take_back(&mut self, at: Member, member: Member) -> anyhow::Result<()> {
        let told = self.take_seat_again(at, member).await?;
        let again = self.cluster.replace(at, member).await?;
        ensure!(again == told, "repeating it changes something: {again:?}");
        self.all_is_well().await
    }

    /// An empty directory, and one command at node `at`; what it says.
    pub async fn take_seat_again(&mut self, at: Member, member: Member) -> anyhow::Result<Told> {
        self.restart_without_disk(member).await?;
        self.wait_until_stranger(at, member, "its data directory is new, or was emptied")
            .await?;
        let told = self.cluster.replace(at, member).await?;
        ensure!(told.text.contains("has its seat"), "{told:?}");
        Ok(told)
    }

    /// All run, take part and hold the same; nobody finds anything wrong.
    pub async fn all_is_well(&mut self) -> anyhow::Result<()> {
        let nodes = self.cluster.nodes();
        let ready = [&nodes[..], &[Member::Lb]].concat();
        self.scene.cluster.wait_until_ready(&ready).await?;
        for &teller in &nodes {
            for &node in &nodes {
                self.until_node(teller, node, |view| view["state"] == "live")
                    .await?;
            }
            self.cluster.wait_for_member_status(teller, 0, |_| true).await?;
        }
        self.wait_until_ocs_is_back().await?;
        self.all_are_in_service().await?;
        self.ledger.all_replicas_hold_it().await
    }

    /// lb has asked each node since now, and given it clients.
    async fn all_are_in_service(&self) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let nodes = self.cluster.nodes().len();
        let all: f64 = self.cluster.nodes().iter().map(|_| 1.0).sum();
        let has_asked = |metrics: &Metrics| {
            let asked = metrics.by_label("tandem_lb_keepalive_last_success_timestamp_seconds", "node");
            let recently = asked.values().filter(|at| **at >= now).count();
            recently == nodes && metrics.sum("tandem_lb_nodes_in_service", &[]) == all
        };
        let waited = self
            .cluster
            .wait_for_metrics(Member::Lb, "lb has asked all nodes", has_asked);
        waited.await.map(drop)
    }

    /// These nodes run, and acknowledge no write for as long as several elections take.
    pub async fn nothing_can_be_written(&self, at: &[Member]) -> anyhow::Result<()> {
        for node in at {
            self.cluster.wait_until_it_answers(*node).await?;
        }
        let refused = at.iter().map(|&node| self.ledger.ensure_refused(node, ELECTIONS));
        futures::future::try_join_all(refused).await.map(drop)
    }

    /// The end of a story: everybody's session is as it was, and all replicas hold all that was acknowledged.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.all_is_well().await?;
        self.everyone_gets_a_snapshot().await?;
        self.every_phone_rings_and_stops().await?;
        self.ledger.all_replicas_hold_it().await?;
        self.verdict().await
    }
}

impl Deref for DiskScene {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.scene
    }
}

impl DerefMut for DiskScene {
    fn deref_mut(&mut self) -> &mut Scene {
        &mut self.scene
    }
}

/// The other node.
#[must_use]
pub fn other(node: Member) -> Member {
    if node == NODES[0] { NODES[1] } else { NODES[0] }
}

/// As commands and logs call a member of the cluster.
#[must_use]
pub fn name(member: Member) -> String {
    match Cluster::number(member) {
        Some(number) => format!("n{number}"),
        None => member.to_string(),
    }
}

/// Whether stories go through every case, which takes minutes: `TANDEM_EVERY_CASE` is set.
#[must_use]
pub fn every_case() -> bool {
    std::env::var_os("TANDEM_EVERY_CASE").is_some()
}

pub const NODES: [Member; 2] = [Member::Node(1), Member::Node(2)];
pub const MEMBERS: [Member; 3] = [Member::Node(1), Member::Node(2), Member::Lb];
/// The witness campaigns after two seconds, a node after one.
/// A file of the log holds as much, several times over.
const WRITES_MAX: usize = 5000;
const WRITES_AT_ONCE: usize = 20;
const FILLED_WITHIN: Duration = Duration::from_secs(120);
const ELECTIONS: Duration = Duration::from_secs(3);
