//! What is rehearsed at the end of every day, because chance alone brings it about too rarely to be measured.
//!
//! Owns the courses of events, in order; each leaves the world as it found it. Does not own the judgement of what clients
//! saw, which follows as after any other trouble.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tandem_runtime::io::environment;
use tokio::time::sleep;

use super::properties::replicas;
use super::{Day, Operator, Order};
use crate::cluster::{Addresses, Member, get_from};
use crate::peers::front_end::FrontEnd;

impl Day {
    /// All drills, and after each everything is well.
    pub(super) async fn rehearse(&self) -> anyhow::Result<()> {
        let drills = Drills {
            operator: &self.operator,
            addresses: self.addresses,
            nodes: self.nodes,
            patience: self.office.patience,
        };
        let took = drills.killed_leader_is_replaced().await?;
        tracing::info!(?took, "another member leads");
        self.all_is_well().await?;
        drills.witness_helps_a_node_that_lags().await?;
        self.all_is_well().await?;
        for user in self.latecomers.clone() {
            self.sign_in_before_the_power_fails(&drills, user).await?;
        }
        self.are_here(self.latecomers.clone()).await?;
        replicas::judge(self.addresses.admin(Member::Node(1)), self.office.patience).await
    }

    /// The power fails everywhere at the moment in which a user is told that their session stands: it does.
    async fn sign_in_before_the_power_fails(&self, drills: &Drills<'_>, user: usize) -> anyhow::Result<()> {
        let before = self.connections().await;
        let ocs = &self.office.ocs;
        ocs.ask(move |front_end| front_end.sign_in(user)).await;
        let stands = move |front_end: &FrontEnd| front_end.user(user).dialog().is_some();
        ocs.wait_until("the INVITE is answered", self.office.patience, stands)
            .await?;
        drills.power_fails_everywhere().await;
        self.wait_for_other_connections(before).await?;
        self.all_is_well().await?;
        self.office.get_snapshots(&[user]).await?;
        self.office.nobody_signed_in_again(user..user + 1).await
    }
}

/// The members, and whoever does things to them.
#[derive(Debug)]
pub(super) struct Drills<'a> {
    pub(super) operator: &'a Operator,
    pub(super) addresses: Addresses,
    pub(super) nodes: u64,
    /// How long members may take for what has no bound of its own.
    pub(super) patience: Duration,
}

/// What a node says of the lead.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lead {
    leader: Option<String>,
    term: u64,
}

impl Drills<'_> {
    /// The leader's process is killed: its connections are refused from then on, so another member leads long before
    /// anybody's patience with a silent leader is over. It is started again afterwards.
    ///
    /// # Errors
    /// When nobody leads in time.
    pub(super) async fn killed_leader_is_replaced(&self) -> anyhow::Result<Duration> {
        let (leader, before) = self.leading_node().await?;
        let killed = environment::now();
        self.operator.order(Order::Kill(leader.to_string()));
        let lead = self.lead_after(before.term, leader, TAKEN_OVER_WITHIN * 10).await;
        let took = environment::now() - killed;
        self.operator.order(Order::Start(leader.to_string()));
        let lead = lead.with_context(|| format!("{leader} was killed"))?;
        ensure!(
            took <= TAKEN_OVER_WITHIN,
            "{leader} was killed, and it took {took:?} until {lead:?}"
        );
        Ok(took)
    }

    /// With two nodes, the witness holds what a node missed that was cut off while the other died. It lends that node a
    /// hand: somebody leads although the other stays dead.
    ///
    /// # Errors
    /// When nobody leads in time.
    pub(super) async fn witness_helps_a_node_that_lags(&self) -> anyhow::Result<()> {
        if self.nodes != 2 {
            return Ok(());
        }
        let (leader, before) = self.leading_node().await?;
        let lagging = if leader == Member::Node(1) {
            Member::Node(2)
        } else {
            Member::Node(1)
        };
        let ways = [leader, Member::Lb].map(|other| (lagging.to_string(), other.to_string()));
        for (one, other) in &ways {
            self.operator.order(Order::Cut(one.clone(), other.clone()));
            self.operator.order(Order::Cut(other.clone(), one.clone()));
        }
        // The lagging node is declared lost meanwhile, which is an entry of the log that it lacks.
        self.wait_until_lost(leader, lagging).await?;
        self.operator.order(Order::PowerOff(leader.to_string()));
        for (one, other) in &ways {
            self.operator.order(Order::Heal(one.clone(), other.clone()));
            self.operator.order(Order::Heal(other.clone(), one.clone()));
        }
        let lead = self.lead_after(before.term, leader, LED_AGAIN_WITHIN).await;
        self.operator.order(Order::Start(leader.to_string()));
        lead.with_context(|| format!("{leader} has lost its power while {lagging} lagged"))?;
        Ok(())
    }

    /// Every member loses its power at once, and gets it back.
    pub(super) async fn power_fails_everywhere(&self) {
        for member in self.members() {
            self.operator.order(Order::PowerOff(member.to_string()));
        }
        sleep(WITHOUT_POWER).await;
        for member in self.members() {
            self.operator.order(Order::Start(member.to_string()));
        }
    }

    fn members(&self) -> impl Iterator<Item = Member> {
        (1..=self.nodes).map(Member::Node).chain([Member::Lb])
    }

    /// The node that leads, by its own account.
    async fn leading_node(&self) -> anyhow::Result<(Member, Lead)> {
        let end = environment::now() + self.patience;
        loop {
            for id in 1..=self.nodes {
                let member = Member::Node(id);
                match self.lead_by(member).await {
                    Ok(lead) if lead.leader == Some(name_of(member)) => return Ok((member, lead)),
                    Ok(_) | Err(_) => {}
                }
            }
            ensure!(environment::now() < end, "no node leads");
            sleep(ASKED_AGAIN_AFTER).await;
        }
    }

    /// What the survivors say once one of them knows a leader of a later term.
    async fn lead_after(&self, term: u64, dead: Member, patience: Duration) -> anyhow::Result<Lead> {
        let end = environment::now() + patience;
        loop {
            for member in (1..=self.nodes).map(Member::Node).filter(|node| *node != dead) {
                match self.lead_by(member).await {
                    Ok(lead) if lead.term > term && lead.leader.is_some() => return Ok(lead),
                    Ok(_) | Err(_) => {}
                }
            }
            if environment::now() >= end {
                bail!("nobody leads after {patience:?}");
            }
            sleep(ASKED_AGAIN_AFTER).await;
        }
    }

    async fn wait_until_lost(&self, asked: Member, lost: Member) -> anyhow::Result<()> {
        let end = environment::now() + self.patience;
        let name = name_of(lost);
        loop {
            let cluster = self.cluster_view(asked).await?;
            let nodes = cluster["nodes"].as_array().cloned().unwrap_or_default();
            if nodes
                .iter()
                .any(|node| node["id"] == name.as_str() && node["state"] == "lost")
            {
                return Ok(());
            }
            ensure!(
                environment::now() < end,
                "{lost} is cut off and not declared lost"
            );
            sleep(ASKED_AGAIN_AFTER).await;
        }
    }

    async fn lead_by(&self, member: Member) -> anyhow::Result<Lead> {
        let cluster = self.cluster_view(member).await?;
        Ok(Lead {
            leader: cluster["leader"].as_str().map(str::to_owned),
            term: cluster["term"].as_u64().context("a node says its term")?,
        })
    }

    async fn cluster_view(&self, member: Member) -> anyhow::Result<serde_json::Value> {
        let admin = self.addresses.admin(member).context("a member has one")?;
        get_from(admin, "/cluster").await
    }
}

/// As the members themselves call a node.
fn name_of(member: Member) -> String {
    match member {
        Member::Node(id) => format!("n{id}"),
        Member::Lb | Member::CtiManager(_) => String::new(),
    }
}

/// Less than the shortest time after which a silent leader is given up, with the election that follows.
const TAKEN_OVER_WITHIN: Duration = Duration::from_millis(250);
const LED_AGAIN_WITHIN: Duration = Duration::from_secs(5);
const WITHOUT_POWER: Duration = Duration::from_millis(500);
const ASKED_AGAIN_AFTER: Duration = Duration::from_millis(10);
