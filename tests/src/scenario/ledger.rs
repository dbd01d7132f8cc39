//! What was acknowledged over HTTP, and must never be lost: users and the server that each was assigned.
//!
//! Owns the list and the comparison of replicas. What always holds: a write that was not acknowledged may have happened or
//! not, and nothing is claimed of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::cluster::{Addresses, Cluster, DEADLINE, Member, get_from, post_to};

/// The acknowledged assignments of one cluster. Clones share them.
#[derive(Debug, Clone)]
pub struct Ledger {
    addresses: Addresses,
    nodes: Vec<Member>,
    voters: usize,
    pages: Arc<Mutex<Pages>>,
}

#[derive(Debug, Default)]
struct Pages {
    next: usize,
    acknowledged: BTreeMap<String, Value>,
}

/// Writes that go on in the background, at whichever node answers.
#[derive(Debug)]
pub struct Writer {
    ends: Arc<AtomicBool>,
    task: JoinHandle<usize>,
}

impl Ledger {
    /// A ledger of a cluster, which gets the servers that users are assigned to.
    pub async fn open(cluster: &Cluster) -> anyhow::Result<Self> {
        let gateways = json!({ "gateways": ["cas-1", "cas-2", "cas-3"] });
        cluster.post(Member::Node(1), "/cas/gateways", &gateways).await?;
        Ok(Self {
            addresses: cluster.addresses(),
            nodes: cluster.nodes(),
            voters: cluster.voters(),
            pages: Arc::default(),
        })
    }

    /// So many writes at node `at`, each acknowledged on its own.
    pub async fn write(&self, at: Member, count: usize) -> anyhow::Result<()> {
        let admin = self.admin(at)?;
        let writes = (0..count).map(|_| self.write_one(admin));
        try_join_all(writes)
            .await
            .with_context(|| format!("writing at {at}"))?;
        Ok(())
    }

    /// One write at whoever listens there. When it fails, nothing is known of it.
    pub async fn write_one(&self, admin: SocketAddr) -> anyhow::Result<()> {
        let user = {
            let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
            pages.next += 1;
            format!("mailbox{:06}", pages.next)
        };
        let body = json!({ "users": [user] });
        let answer = post_to(admin, "/cas/assign", &body).await?;
        let assignment = answer[&user].clone();
        ensure!(!assignment.is_null(), "no assignment of {user}: {answer}");
        self.note(user, assignment);
        Ok(())
    }

    /// Tries again and again to write at node `at`; fails when it is acknowledged within `patience`.
    pub async fn ensure_refused(&self, at: Member, patience: Duration) -> anyhow::Result<()> {
        let admin = self.admin(at)?;
        let end = Instant::now() + patience;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let acknowledged = tokio::time::timeout(left, self.write_one(admin)).await;
            ensure!(
                !matches!(acknowledged, Ok(Ok(()))),
                "{at} acknowledged a write that it cannot have committed"
            );
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Writes at these admin listeners, one after the other, until it is told to end.
    #[must_use]
    pub fn keep_writing(&self, admins: Vec<SocketAddr>) -> Writer {
        let ledger = self.clone();
        let ends = Arc::new(AtomicBool::new(false));
        let told = ends.clone();
        let task = tokio::spawn(async move {
            let mut written = 0;
            while !told.load(Ordering::Relaxed) {
                for &admin in &admins {
                    written += usize::from(ledger.write_one(admin).await.is_ok());
                }
                tokio::time::sleep(BREATH).await;
            }
            written
        });
        Writer { ends, task }
    }

    /// How many writes were acknowledged so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.acknowledged().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was acknowledged and is not held by a node, or is otherwise there.
    pub async fn lost_at(&self, node: Member) -> anyhow::Result<Vec<String>> {
        let held = get_from(self.admin(node)?, "/cas/assignments").await?;
        let acknowledged = self.acknowledged().into_iter();
        Ok(acknowledged
            .filter(|(user, assignment)| held[user] != *assignment)
            .map(|(user, _)| user)
            .collect())
    }

    /// Waits until the node holds everything that was acknowledged.
    pub async fn is_held_by(&self, node: Member) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let lost = self.lost_at(node).await?;
            if lost.is_empty() {
                return Ok(());
            }
            ensure!(
                started.elapsed() < DEADLINE,
                "{} of {} acknowledged writes are lost at {node}, {} among them",
                lost.len(),
                self.len(),
                lost[0]
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// The end of every story: all voters have applied the same entries, all nodes hold the same state, and nothing of
    /// what was acknowledged is missing.
    pub async fn all_replicas_hold_it(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let replicas = try_join_all(self.nodes.iter().map(|node| self.replica(*node))).await?;
            let again = self.replica(self.nodes[0]).await?;
            let are_equal = replicas.iter().all(|replica| *replica == again);
            if are_equal && again.equal_members == self.voters {
                break;
            }
            ensure!(
                started.elapsed() < DEADLINE,
                "the replicas differ: applied {:?}, as much as known of {} of {}",
                replicas
                    .iter()
                    .map(|replica| &replica.applied)
                    .collect::<Vec<_>>(),
                again.equal_members,
                self.voters
            );
            tokio::time::sleep(POLL).await;
        }
        for node in &self.nodes {
            let lost = self.lost_at(*node).await?;
            ensure!(lost.is_empty(), "lost at {node}: {lost:?}");
        }
        Ok(())
    }

    /// Waits until node `at` knows that a member has applied everything that the node itself has applied now.
    pub async fn is_known_to_be_held(&self, at: Member, member: Member) -> anyhow::Result<()> {
        let admin = self.admin(at)?;
        let applied = get_from(admin, "/cluster").await?["last_applied"].as_u64();
        let started = Instant::now();
        loop {
            let cluster = get_from(admin, "/cluster").await?;
            let members = cluster["membership"]["members"].as_array().into_iter().flatten();
            let mut same = members.filter(|told| told["id"] == super::name(member));
            if same.any(|told| told["applied"].as_u64() >= applied) {
                return Ok(());
            }
            ensure!(
                started.elapsed() < DEADLINE,
                "{at} does not learn what {member} has applied"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    async fn replica(&self, node: Member) -> anyhow::Result<Replica> {
        let admin = self.admin(node)?;
        let cluster = get_from(admin, "/cluster").await?;
        let applied = &cluster["last_applied"];
        let members = cluster["membership"]["members"].as_array();
        let equal = members
            .into_iter()
            .flatten()
            .filter(|member| member["seat"] == "voter" && member["applied"] == *applied);
        Ok(Replica {
            applied: applied.clone(),
            equal_members: equal.count(),
            assignments: get_from(admin, "/cas/assignments").await?,
            sessions: get_from(admin, "/sessions").await?,
        })
    }

    fn admin(&self, node: Member) -> anyhow::Result<SocketAddr> {
        let admin = self.addresses.admin(node);
        admin.with_context(|| format!("{node} has no admin listener"))
    }

    fn acknowledged(&self) -> BTreeMap<String, Value> {
        self.pages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .acknowledged
            .clone()
    }

    fn note(&self, user: String, assignment: Value) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.acknowledged.insert(user, assignment);
    }
}

impl Writer {
    /// Ends the writing; how many writes were acknowledged.
    pub async fn end(self) -> anyhow::Result<usize> {
        self.ends.store(true, Ordering::Relaxed);
        self.task.await.context("the writer has failed")
    }
}

/// What a node says of its state.
#[derive(Debug, Clone, PartialEq)]
struct Replica {
    applied: Value,
    /// Voters that are known to have applied as many entries; the witness shows no contents.
    equal_members: usize,
    assignments: Value,
    sessions: Value,
}

const POLL: Duration = Duration::from_millis(20);
const BREATH: Duration = Duration::from_millis(5);
