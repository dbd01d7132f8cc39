//! Dialogs that change hands with requests in them: each is answered well, by whoever owns the session next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tandem_runtime::io::environment;
use tokio::time::sleep;

use super::snapshots::REBALANCE;
use super::{ASKED_AGAIN_AFTER, Drills, name_of, owner_of};
use crate::cluster::{Member, post_to};
use crate::world::{Day, Order, WAITING_REQUESTS_MAX};

impl Day {
    /// A node dies that has just been given sessions, before it has answered anything. The requests go where the sessions go,
    /// which for most is where they were before.
    pub(super) async fn node_dies_that_was_just_given_sessions(&self, drills: &Drills) -> anyhow::Result<()> {
        self.node_fails_that_was_just_given_sessions(drills, Order::Kill, Order::Start)
            .await
    }

    /// As before, but the node stands still: by the time that the front end parts with it, its sessions are others' already.
    pub(super) async fn node_stands_still_that_was_just_given_sessions(
        &self,
        drills: &Drills,
    ) -> anyhow::Result<()> {
        self.node_fails_that_was_just_given_sessions(drills, Order::Freeze, Order::Thaw)
            .await
    }

    async fn node_fails_that_was_just_given_sessions(
        &self,
        drills: &Drills,
        fails: fn(String) -> Order,
        recovers: fn(String) -> Order,
    ) -> anyhow::Result<()> {
        let given = drills.empty_a_node().await?;
        let asked = self.ask_where_sessions_were(drills, given).await?;
        let failure = fails(given.to_string());
        let what = format!("{failure:?} when it had just been given sessions");
        drills.operator.order(failure);
        self.cti_managers_go_on();
        let answered = self.office.all_got_snapshots(asked).await;
        drills.operator.order(recovers(given.to_string()));
        answered.context(what)?;
        self.all_is_well().await
    }

    /// A node is given sessions while the front end stands still, which therefore asks their former owners first and is sent
    /// on. The requests, by user, are at the new owner then, which cannot answer while CTI managers stand still.
    async fn ask_where_sessions_were(
        &self,
        drills: &Drills,
        given: Member,
    ) -> anyhow::Result<Vec<(usize, usize)>> {
        self.all_is_well().await?;
        drills.wait_until_clients_reach(given).await?;
        self.office.everyone_gets_a_snapshot().await?;
        drills.operator.order(Order::Freeze(Member::Lb.to_string()));
        let moved = drills.give_sessions_to(given).await?;
        self.cti_managers_stand_still();
        let asked = self.office.ask_for_snapshots(&self.users_of(&moved).await).await;
        sleep(ON_THE_WAY).await;
        drills.operator.order(Order::Thaw(Member::Lb.to_string()));
        sleep(SENT_ON).await;
        Ok(asked)
    }

    /// A node dies with a request of each of its users, which the next owners cannot answer yet. Users are impatient, and send
    /// more than may wait for that: the rest is read later, and everything is answered.
    pub(super) async fn more_wait_for_a_new_owner_than_may(&self, drills: &Drills) -> anyhow::Result<()> {
        for node in drills.all_nodes() {
            drills.wait_until_clients_reach(node).await?;
        }
        let (owner, sessions) = drills.busiest_node().await?;
        let users = self.users_of(&sessions).await;
        self.cti_managers_stand_still();
        let mut asked = self.office.ask_for_snapshots(&users).await;
        sleep(ON_THE_WAY).await;
        drills.operator.order(Order::Kill(owner.to_string()));
        sleep(SENT_ON).await;
        while asked.len() < users.len() + WAITING_REQUESTS_MAX + READ_LATER {
            asked.extend(self.office.ask_for_snapshots(&users).await);
        }
        sleep(ON_THE_WAY).await;
        self.cti_managers_go_on();
        let answered = self.office.all_got_snapshots(asked).await;
        drills.operator.order(Order::Start(owner.to_string()));
        answered.with_context(|| format!("{owner} was killed, and its users are impatient"))?;
        self.all_is_well().await
    }

    /// The clients whose dialogs are these sessions.
    async fn users_of(&self, sessions: &BTreeSet<String>) -> Vec<usize> {
        let sessions = sessions.clone();
        self.office
            .ocs
            .ask(move |front_end| {
                let is_of = |user: &usize| {
                    let dialog = front_end.user(*user).dialog();
                    dialog.is_some_and(|dialog| sessions.contains(&dialog.to_tag))
                };
                (0..front_end.users().len()).filter(is_of).collect()
            })
            .await
    }
}

impl Drills {
    /// A node that does not lead dies and comes back, with no session.
    async fn empty_a_node(&self) -> anyhow::Result<Member> {
        let (leader, _) = self.leading_node().await?;
        let empty = self.nodes_but(leader).next().context("there are two nodes")?;
        self.operator.order(Order::Kill(empty.to_string()));
        let lost = self.wait_until_lost(leader, empty).await;
        self.operator.order(Order::Start(empty.to_string()));
        lost.map(|()| empty)
    }

    /// Both clients of lb have a connection to that node again, which lb tries once in a while.
    async fn wait_until_clients_reach(&self, node: Member) -> anyhow::Result<()> {
        let end = environment::now() + self.patience;
        loop {
            let metrics = self.addresses.metrics(Member::Lb).await?;
            if metrics.sum("tandem_lb_pairs", &[("node", &name_of(node))]) >= CLIENTS {
                return Ok(());
            }
            ensure!(environment::now() < end, "lb connects no client to {node}");
            sleep(ASKED_AGAIN_AFTER).await;
        }
    }

    /// Evens sessions out; those that the node has then.
    async fn give_sessions_to(&self, node: Member) -> anyhow::Result<BTreeSet<String>> {
        let (leader, _) = self.leading_node().await?;
        let admin = self.addresses.admin(leader).context("a node has one")?;
        post_to(admin, REBALANCE, &json!({ "per_second": 500 })).await?;
        let end = environment::now() + self.patience;
        loop {
            let sessions = self.sessions_by_node().await?;
            let counts = self
                .all_nodes()
                .map(|node| sessions.get(&node).map_or(0, BTreeSet::len));
            let counts: Vec<_> = counts.collect();
            if counts.iter().max() <= counts.iter().min().map(|least| least + 1).as_ref() {
                return Ok(sessions.get(&node).cloned().unwrap_or_default());
            }
            ensure!(
                environment::now() < end,
                "sessions are still being evened out: {counts:?}"
            );
            sleep(ASKED_AGAIN_AFTER).await;
        }
    }

    /// The node with the most sessions, and these.
    async fn busiest_node(&self) -> anyhow::Result<(Member, BTreeSet<String>)> {
        let sessions = self.sessions_by_node().await?.into_iter();
        let busiest = sessions.max_by_key(|(_, sessions)| sessions.len());
        busiest.context("some node has sessions")
    }

    async fn sessions_by_node(&self) -> anyhow::Result<BTreeMap<Member, BTreeSet<String>>> {
        let mut by_node: BTreeMap<Member, BTreeSet<String>> = BTreeMap::new();
        for session in self.sessions(Member::Node(1)).await? {
            let node = owner_of(&session).with_context(|| format!("who owns {session}"))?;
            let key = session["key"].as_str();
            by_node
                .entry(node)
                .or_default()
                .insert(key.unwrap_or_default().to_owned());
        }
        Ok(by_node)
    }
}

/// Many times what a message takes to lb, or to a CTI manager.
const ON_THE_WAY: Duration = Duration::from_millis(20);
/// Many times what it takes until a request has come from one node to the next. CTI managers may be silent for longer.
const SENT_ON: Duration = Duration::from_millis(60);
/// The office and the watchers, with one connection each.
const CLIENTS: f64 = 2.0;
/// Requests beyond those that may wait.
const READ_LATER: usize = 8;
