//! What is rehearsed at the end of every day, because chance alone brings it about too rarely to be measured.
//!
//! Owns the courses of events, in order; each leaves the world as it found it. Does not own the judgement of what clients
//! saw, which follows as after any other trouble.

mod commands;
mod dialogs;
mod former_owner;
mod lead;
mod phones;
mod power;
mod restarts;
mod snapshots;
mod timers;

use std::time::Duration;

use anyhow::{Context, ensure};
use tandem_runtime::io::environment;
use tokio::time::sleep;

use super::properties::replicas;
use super::{Day, Operator, Order};
use crate::cluster::{Addresses, Member, get_from};
use crate::peers::ocs::user_id;

impl Day {
    /// All drills but that of session timers, and after each everything is well.
    pub(super) async fn rehearse(&mut self) -> anyhow::Result<()> {
        let drills = self.drills();
        let took = drills.killed_leader_is_replaced().await?;
        tracing::info!(?took, "another member leads");
        self.all_is_well().await?;
        drills.witness_helps_a_node_that_lags().await?;
        self.all_is_well().await?;
        let away = drills.snapshot_brings_a_node_up_to_date().await?;
        self.all_is_well().await?;
        let asked = self.addresses.admin(Member::Node(1));
        replicas::judge(asked, self.office.patience).await?;
        drills.snapshot_gives_a_node_sessions(away).await?;
        self.all_is_well().await?;
        self.office.every_phone_rings_and_stops().await?;
        self.office.everyone_gets_a_snapshot().await?;
        self.call_while_nothing_is_wrong().await?;
        self.one_of_two_clients_signs_off(&drills, 1).await?;
        self.call_while_the_owner_dies(&drills, 0).await?;
        self.node_dies_that_was_just_given_sessions(&drills).await?;
        self.node_stands_still_that_was_just_given_sessions(&drills)
            .await?;
        self.more_wait_for_a_new_owner_than_may(&drills).await?;
        self.call_of_which_a_snapshot_tells(&drills, 1).await?;
        self.call_while_the_owner_lacks_authority(&drills).await?;
        self.ring_while_the_owner_is_cut_off(&drills).await?;
        self.ring_while_the_owner_stops_unheard(&drills).await?;
        drills.node_is_back_before_its_loss_is_known().await?;
        self.all_is_well().await?;
        self.change_a_setting_at_a_leader_without_followers(&drills)
            .await?;
        drills.power_fails_when_a_file_is_begun().await?;
        self.all_is_well().await?;
        for user in self.latecomers.clone() {
            self.sign_in_before_the_power_fails(&drills, user).await?;
        }
        self.are_here(self.latecomers.clone()).await?;
        replicas::judge(asked, self.office.patience).await
    }
}

impl Day {
    fn drills(&self) -> Drills {
        Drills {
            operator: self.operator.clone(),
            addresses: self.addresses,
            nodes: self.options.nodes,
            patience: self.office.patience,
        }
    }

    /// They take what is sent to them, and answer nothing.
    fn cti_managers_stand_still(&self) {
        self.order_cti_managers(Order::Freeze);
    }

    fn cti_managers_go_on(&self) {
        self.order_cti_managers(Order::Thaw);
    }

    fn order_cti_managers(&self, order: impl Fn(String) -> Order) {
        for number in 1..=self.cti_managers() {
            self.operator.order(order(Member::CtiManager(number).to_string()));
        }
    }
}

/// The members, and whoever does things to them.
#[derive(Debug)]
pub(super) struct Drills {
    pub(super) operator: Operator,
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

impl Drills {
    /// Nothing arrives any more between this member and any other; the ways that are cut.
    fn cut_off(&self, member: Member) -> Vec<(String, String)> {
        self.part(member, self.members())
    }

    /// Nothing arrives any more between this member and those others; the ways that are cut.
    fn part(&self, member: Member, others: impl Iterator<Item = Member>) -> Vec<(String, String)> {
        let others = others.filter(|other| *other != member);
        self.cut(others.flat_map(|other| [(member, other), (other, member)]))
    }

    /// Nothing arrives any more over these ways.
    fn cut(&self, ways: impl Iterator<Item = (Member, Member)>) -> Vec<(String, String)> {
        let ways = ways.map(|(from, to)| (from.to_string(), to.to_string()));
        let ways: Vec<_> = ways.collect();
        for (from, to) in ways.iter().cloned() {
            self.operator.order(Order::Cut(from, to));
        }
        ways
    }

    fn heal(&self, ways: &[(String, String)]) {
        for (from, to) in ways.iter().cloned() {
            self.operator.order(Order::Heal(from, to));
        }
    }

    async fn index(&self, member: Member, name: &str) -> anyhow::Result<f64> {
        Ok(self.addresses.metrics(member).await?.sum(name, &[]))
    }

    fn members(&self) -> impl Iterator<Item = Member> {
        self.all_nodes().chain([Member::Lb])
    }

    fn all_nodes(&self) -> impl Iterator<Item = Member> + Clone + use<> {
        (1..=self.nodes).map(Member::Node)
    }

    fn nodes_but(&self, one: Member) -> impl Iterator<Item = Member> + Clone + use<> {
        self.all_nodes().filter(move |node| *node != one)
    }

    /// The node that leads, by its own account.
    async fn leading_node(&self) -> anyhow::Result<(Member, Lead)> {
        let leads = |node, lead: &Lead| lead.leader == Some(name_of(node));
        self.told_of_lead(self.all_nodes(), self.patience, leads).await
    }

    /// What the survivors say once one of them knows a leader of a later term.
    async fn lead_after(&self, term: u64, dead: Member, patience: Duration) -> anyhow::Result<Lead> {
        let survivors = self.nodes_but(dead);
        let is_later = |_, lead: &Lead| lead.term > term && lead.leader.is_some();
        let (_, lead) = self.told_of_lead(survivors, patience, is_later).await?;
        Ok(lead)
    }

    /// Asks these nodes, again and again, until one says what is wanted.
    async fn told_of_lead(
        &self,
        nodes: impl Iterator<Item = Member> + Clone,
        patience: Duration,
        is_wanted: impl Fn(Member, &Lead) -> bool,
    ) -> anyhow::Result<(Member, Lead)> {
        let end = environment::now() + patience;
        loop {
            for node in nodes.clone() {
                match self.lead_by(node).await {
                    Ok(lead) if is_wanted(node, &lead) => return Ok((node, lead)),
                    Ok(_) | Err(_) => {}
                }
            }
            ensure!(environment::now() < end, "nobody leads after {patience:?}");
            sleep(ASKED_AGAIN_AFTER).await;
        }
    }

    /// The machine of the node that owns this user's session.
    async fn owner_of(&self, user: usize) -> anyhow::Result<String> {
        let name = user_id(user);
        let sessions = self.sessions(Member::Node(1)).await?;
        let own = sessions.iter().find(|session| session["user"] == name.as_str());
        let owner = own.and_then(owner_of);
        Ok(owner
            .with_context(|| format!("who owns the session of {name}"))?
            .to_string())
    }

    /// Every session, as this node knows it.
    async fn sessions(&self, asked: Member) -> anyhow::Result<Vec<serde_json::Value>> {
        let admin = self.addresses.admin(asked).context("a node has one")?;
        let sessions = get_from(admin, "/sessions").await?;
        Ok(sessions.as_array().cloned().unwrap_or_default())
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

/// The node that owns a session, as `GET /sessions` shows it.
fn owner_of(session: &serde_json::Value) -> Option<Member> {
    let owner = session["owner"].as_str()?;
    let node = Member::Node(owner.strip_prefix('n')?.parse().ok()?);
    (name_of(node) == owner).then_some(node)
}

/// As the members themselves call a node.
fn name_of(member: Member) -> String {
    match member {
        Member::Node(id) => format!("n{id}"),
        Member::Lb | Member::CtiManager(_) => String::new(),
    }
}

const ASKED_AGAIN_AFTER: Duration = Duration::from_millis(10);
