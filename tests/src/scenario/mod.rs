//! The steps that stories and demo have in common: sign in, put calls up, let phones ring, compare the books.
//!
//! Owns a running cluster and the OCS in front of it. Every step waits for what it wants to see and fails with
//! a sentence; no step asks Tandem how it feels. The judges are the communicators' books and the PBX's log.

mod calendar;
mod death;
mod disks;
mod faults;
mod history;
mod ledger;
mod life;
mod load;
mod office;
mod registers;
mod roles;

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

pub use calendar::{CalendarScene, Places, state_in};
pub use death::{Death, DeathReport};
pub use disks::{DiskScene, MEMBERS, NODES, every_case, name, other};
pub use faults::{Fault, STEPS, Trouble};
pub use history::{History, Operation, OperationKind, Outcome, Register};
pub use ledger::{Ledger, Writer};
pub use life::Begun;
pub use load::{Load, Rest, Tally};
pub use office::{Office, PlacedCall, sign_in_again};
pub use registers::ensure_linearizable;
pub use roles::{Way, Who};

use crate::cluster::{Cluster, ClusterOptions, DEADLINE, Member};
use crate::peers::front_end::FrontEnd;
use crate::peers::ocs::OcsOptions;

/// A cluster, and the office that it serves.
#[derive(Debug)]
pub struct Scene {
    pub cluster: Cluster,
    pub office: Office,
}

impl Scene {
    /// A cluster, and an OCS whose users share `connections` connections.
    pub async fn start(options: ClusterOptions, connections: usize) -> anyhow::Result<Self> {
        let users = options.users;
        let cluster = Cluster::start(options).await?;
        let ocs_options = cluster.ocs_options(users, connections);
        Self::with_ocs(cluster, ocs_options).await
    }

    pub async fn with_ocs(cluster: Cluster, options: OcsOptions) -> anyhow::Result<Self> {
        let ocs = cluster.start_ocs(options).await?;
        let office = Office::new(ocs, cluster.pbx().clone());
        Ok(Self { cluster, office })
    }

    /// Waits until `teller` says of `node` what `condition` wants to hear.
    pub async fn until_node(
        &self,
        teller: Member,
        node: Member,
        condition: impl Fn(&serde_json::Value) -> bool,
    ) -> anyhow::Result<()> {
        let Member::Node(id) = node else {
            bail!("{node} is no node")
        };
        let started = Instant::now();
        loop {
            let cluster = self.cluster.get(teller, "/cluster").await?;
            let nodes = cluster["nodes"].as_array().cloned().unwrap_or_default();
            let is_this = |view: &&serde_json::Value| view["id"] == format!("n{id}");
            if nodes.iter().find(is_this).is_some_and(&condition) {
                return Ok(());
            }
            ensure!(
                started.elapsed() < self.patience,
                "{teller} says in vain: {cluster}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Kills lb; returns when OCS has noticed. It may be back sooner than that otherwise, and requests go into a dead
    /// connection.
    pub async fn kill_front_end(&mut self) -> anyhow::Result<()> {
        self.cluster.kill(Member::Lb).await?;
        let lost = |front_end: &FrontEnd| !front_end.is_connected();
        self.ocs.wait_until("OCS has noticed", DEADLINE, lost).await
    }

    /// As [`Office::verdict`]; what the processes said is of no interest then.
    pub async fn verdict(&self) -> anyhow::Result<()> {
        self.office.verdict().await?;
        self.cluster.dismiss();
        Ok(())
    }

    /// As [`Self::verdict`], and every request got a good 200.
    pub async fn verdict_without_failures(&self) -> anyhow::Result<()> {
        self.office.verdict_without_failures().await?;
        self.cluster.dismiss();
        Ok(())
    }
}

impl Deref for Scene {
    type Target = Office;

    fn deref(&self) -> &Office {
        &self.office
    }
}

impl DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut Office {
        &mut self.office
    }
}

/// Fails unless all counts are within one of each other, and there are as many as wanted.
pub fn ensure_even(what: &str, counts: &[usize], parts: usize) -> anyhow::Result<()> {
    let (least, most) = (counts.iter().min(), counts.iter().max());
    let (Some(least), Some(most)) = (least, most) else {
        bail!("{what}: nothing")
    };
    ensure!(counts.len() == parts, "{what}: {counts:?} are not {parts} parts");
    ensure!(most - least <= 1, "{what}: {counts:?} differ by more than one");
    Ok(())
}

/// Enough of a long list to see what it is about.
fn first(list: &[String]) -> String {
    list.iter().take(5).cloned().collect::<Vec<_>>().join("; ")
}

const POLL: Duration = Duration::from_millis(20);
