//! What is rehearsed at the end of every day, because chance alone brings it about too rarely to be measured.
//!
//! Owns the courses of events, in order; each leaves the world as it found it. Does not own the judgement of what clients
//! saw, which follows as after any other trouble.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::json;
use tandem_runtime::io::environment;
use tandem_runtime::io::environment::simulated::Fault;
use tokio::time::sleep;

use super::administrator::ELIGIBLE;
use super::faults::cas_name;
use super::properties::{commands_once, replicas};
use super::{Day, Operator, Order};
use crate::cluster::{Addresses, Member, get_from, post_to};
use crate::peers::communicator::Tolerance;
use crate::peers::front_end::FrontEnd;
use crate::peers::ocs::user_id;

impl Day {
    /// All drills, and after each everything is well.
    pub(super) async fn rehearse(&mut self) -> anyhow::Result<()> {
        let drills = Drills {
            operator: self.operator.clone(),
            addresses: self.addresses,
            nodes: self.options.nodes,
            patience: self.office.patience,
        };
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
        self.call_while_the_owner_dies(&drills, 0).await?;
        self.change_a_setting_at_a_leader_without_followers(&drills)
            .await?;
        for user in self.latecomers.clone() {
            self.sign_in_before_the_power_fails(&drills, user).await?;
        }
        self.are_here(self.latecomers.clone()).await?;
        replicas::judge(asked, self.office.patience).await
    }

    /// A node dies when a command of this user lies at a CTI manager that stands still. The command is carried out when the
    /// manager goes on, and the session's next owner, who is asked for the same again, leaves it at that.
    async fn call_while_the_owner_dies(&mut self, drills: &Drills, user: usize) -> anyhow::Result<()> {
        let owner = drills.owner_of(user).await?;
        let managers = (1..=self.cti_managers()).map(|number| Member::CtiManager(number).to_string());
        let managers: Vec<_> = managers.collect();
        for manager in &managers {
            self.operator.order(Order::Freeze(manager.clone()));
        }
        self.office.tolerate(Tolerance::EarlyEvents).await;
        let begun = self.office.begin_calls(&[], &[user]).await;
        sleep(COMMAND_UNDER_WAY).await;
        self.operator.order(Order::Kill(owner.clone()));
        for manager in &managers {
            self.operator.order(Order::Thaw(manager.clone()));
        }
        let ended = self.office.end_calls(begun).await;
        self.operator.order(Order::Start(owner.clone()));
        ended.with_context(|| format!("{owner} was killed with a command under way"))?;
        commands_once::judge(&self.office).await?;
        self.all_is_well().await
    }

    /// A leader that nobody follows any more is asked to change a setting. Whatever it answers is so afterwards.
    async fn change_a_setting_at_a_leader_without_followers(
        &mut self,
        drills: &Drills,
    ) -> anyhow::Result<()> {
        let (leader, _) = drills.leading_node().await?;
        let ways = drills.cut_off(leader);
        let done = self.administrator.change_a_setting(leader).await;
        drills.heal(&ways);
        let done = done.context("the administrator")?;
        tracing::info!("the administrator: {done}");
        self.administrator.note(&done);
        self.all_is_well().await
    }

    /// The power fails everywhere at the moment in which a user is told that their session stands: it does. Disks stand
    /// still at first, so that an answer that does not wait for them is there before they have stored anything.
    async fn sign_in_before_the_power_fails(&self, drills: &Drills, user: usize) -> anyhow::Result<()> {
        let before = self.connections().await;
        let ocs = &self.office.ocs;
        drills.disks_everywhere(Some(Fault::StandsStill));
        ocs.ask(move |front_end| front_end.sign_in(user)).await;
        let stands = move |front_end: &FrontEnd| front_end.user(user).dialog().is_some();
        let early = ocs
            .wait_until("the INVITE is answered", DISKS_STAND_STILL, stands)
            .await;
        if early.is_err() {
            drills.disks_everywhere(None);
            ocs.wait_until("the INVITE is answered", self.office.patience, stands)
                .await?;
        }
        drills.power_fails_everywhere().await;
        self.wait_for_other_connections(before).await?;
        self.all_is_well().await?;
        self.office.get_snapshots(&[user]).await?;
        self.office.nobody_signed_in_again(user..user + 1).await
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
        let others = self.members().filter(|other| *other != member);
        let ways: Vec<_> = others
            .flat_map(|other| [(member, other), (other, member)])
            .map(|(from, to)| (from.to_string(), to.to_string()))
            .collect();
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
        let ways = self.cut_off(lagging);
        // The lagging node is declared lost meanwhile, which is an entry of the log that it lacks.
        self.wait_until_lost(leader, lagging).await?;
        self.operator.order(Order::PowerOff(leader.to_string()));
        self.heal(&ways);
        let lead = self.lead_after(before.term, leader, LED_AGAIN_WITHIN).await;
        self.operator.order(Order::Start(leader.to_string()));
        lead.with_context(|| format!("{leader} has lost its power while {lagging} lagged"))?;
        Ok(())
    }

    /// A node is cut off until the others have dropped entries that it lacks. What it learns of its own loss, and of who
    /// owns its sessions now, is in a snapshot and nowhere else.
    ///
    /// # Errors
    /// When the others take no entries, or never drop any.
    pub(super) async fn snapshot_brings_a_node_up_to_date(&self) -> anyhow::Result<Member> {
        let (leader, _) = self.leading_node().await?;
        let mut nodes = (1..=self.nodes).map(Member::Node);
        let away = nodes.find(|node| *node != leader);
        let away = away.context("there are two nodes")?;
        let ways = self.cut_off(away);
        self.wait_until_lost(leader, away).await?;
        let behind = self.write_until_entries_are_dropped(leader, away).await;
        self.heal(&ways);
        behind.with_context(|| format!("{away} is cut off and {leader} leads"))?;
        Ok(away)
    }

    /// A node that was away, and so owns few sessions, is given some while its disk stands still, and until the others
    /// have dropped the entries that say so. It was never lost: only a snapshot tells it of them.
    ///
    /// # Errors
    /// When the others take no entries, or never drop any.
    pub(super) async fn snapshot_gives_a_node_sessions(&self, away: Member) -> anyhow::Result<()> {
        let (leader, _) = self.leading_node().await?;
        if leader == away {
            return Ok(());
        }
        self.operator
            .order(Order::Disk(away.to_string(), Some(Fault::StandsStill)));
        let given = self.give_sessions_unheard(leader, away).await;
        self.operator.order(Order::Disk(away.to_string(), None));
        given.with_context(|| format!("the disk of {away} stands still and {leader} leads"))
    }

    /// Sessions are evened out once no entry reaches the other member any more, and the entries that say so are dropped.
    async fn give_sessions_unheard(&self, leader: Member, away: Member) -> anyhow::Result<()> {
        self.write_until_entries_are_dropped(leader, away).await?;
        let admin = self.addresses.admin(leader).context("a node has one")?;
        post_to(admin, REBALANCE, &json!({ "per_second": 50 })).await?;
        let end = environment::now() + self.patience;
        while get_from(admin, REBALANCE).await?["state"] == "running" {
            ensure!(environment::now() < end, "sessions are still being evened out");
            sleep(ASKED_AGAIN_AFTER).await;
        }
        self.write_until_entries_are_dropped(leader, leader).await
    }

    /// Until the writer's log begins behind what the other member, or it itself, has applied by now.
    async fn write_until_entries_are_dropped(&self, writer: Member, behind: Member) -> anyhow::Result<()> {
        let admin = self.addresses.admin(writer).context("a member has one")?;
        let body = json!({ "name": cas_name(0), "eligible": true });
        let mut applied = self.index(behind, "tandem_raft_applied_index").await?;
        for _ in 0..WRITTEN_AT_MOST / WRITTEN_AT_ONCE {
            let writes = (0..WRITTEN_AT_ONCE).map(|_| post_to(admin, ELIGIBLE, &body));
            futures::future::try_join_all(writes).await?;
            if behind != writer {
                applied = self.index(behind, "tandem_raft_applied_index").await?;
            }
            if self.index(writer, "tandem_raft_log_first_index").await? > applied + 1.0 {
                return Ok(());
            }
        }
        bail!("no entry was dropped after {WRITTEN_AT_MOST} more");
    }

    async fn index(&self, member: Member, name: &str) -> anyhow::Result<f64> {
        Ok(self.addresses.metrics(member).await?.sum(name, &[]))
    }

    pub(super) fn disks_everywhere(&self, fault: Option<Fault>) {
        for member in self.members() {
            self.operator.order(Order::Disk(member.to_string(), fault));
        }
    }

    /// Every member loses its power at once, and gets it back. Disks work from then on.
    pub(super) async fn power_fails_everywhere(&self) {
        for member in self.members() {
            self.operator.order(Order::PowerOff(member.to_string()));
        }
        self.disks_everywhere(None);
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
        let nodes = (1..=self.nodes).map(Member::Node);
        let leads = |node, lead: &Lead| lead.leader == Some(name_of(node));
        self.told_of_lead(nodes, self.patience, leads).await
    }

    /// What the survivors say once one of them knows a leader of a later term.
    async fn lead_after(&self, term: u64, dead: Member, patience: Duration) -> anyhow::Result<Lead> {
        let survivors = (1..=self.nodes).map(Member::Node).filter(|node| *node != dead);
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
        let admin = self.addresses.admin(Member::Node(1)).context("a node has one")?;
        let sessions = get_from(admin, "/sessions").await?;
        let name = user_id(user);
        let mut sessions = sessions.as_array().into_iter().flatten();
        let own = sessions.find(|session| session["user"] == name.as_str());
        let owner = own.and_then(|session| session["owner"].as_str());
        let id = owner.and_then(|owner| owner.strip_prefix('n')?.parse().ok());
        Ok(Member::Node(id.with_context(|| format!("who owns the session of {name}"))?).to_string())
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
/// Many times what an answer takes that waits for nothing, and less than anybody's patience with a silent member.
const DISKS_STAND_STILL: Duration = Duration::from_millis(40);
/// More than a log holds between two snapshots, and keeps behind one.
const WRITTEN_AT_MOST: usize = 2000;
const WRITTEN_AT_ONCE: usize = 8;
const REBALANCE: &str = "/sessions/rebalance";
/// Many times what a command takes to reach a CTI manager, and less than a manager may be silent for.
const COMMAND_UNDER_WAY: Duration = Duration::from_millis(100);
const WITHOUT_POWER: Duration = Duration::from_millis(500);
const ASKED_AGAIN_AFTER: Duration = Duration::from_millis(10);
