//! A snapshot says to a member what the dropped entries would have said.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::json;
use tandem_runtime::io::environment;
use tandem_runtime::io::environment::simulated::Fault;
use tokio::time::sleep;

use super::{ASKED_AGAIN_AFTER, Drills};
use crate::cluster::{Member, get_from, post_to};
use crate::world::Order;
use crate::world::administrator::ELIGIBLE;
use crate::world::faults::cas_name;

impl Drills {
    /// A node is cut off until the others have dropped entries that it lacks. What it learns of its own loss, and of who
    /// owns its sessions now, is in a snapshot and nowhere else.
    ///
    /// # Errors
    /// When the others take no entries, or never drop any.
    pub(super) async fn snapshot_brings_a_node_up_to_date(&self) -> anyhow::Result<Member> {
        let (leader, _) = self.leading_node().await?;
        let away = self.nodes_but(leader).next().context("there are two nodes")?;
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
        self.sessions_are_being_evened_out_by_nobody(leader).await?;
        self.operator
            .order(Order::Disk(away.to_string(), Some(Fault::StandsStill)));
        let given = self.give_sessions_unheard(leader, away).await;
        self.operator.order(Order::Disk(away.to_string(), None));
        given.with_context(|| format!("the disk of {away} stands still and {leader} leads"))
    }

    /// Sessions are evened out once no entry reaches the other member any more, and the entries that say so are dropped.
    async fn give_sessions_unheard(&self, leader: Member, away: Member) -> anyhow::Result<()> {
        self.write_until_entries_are_dropped(leader, away).await?;
        self.even_sessions_out(leader).await?;
        self.write_until_entries_are_dropped(leader, leader).await
    }

    /// At an administrator's request to this node. What cannot leave its node soon stays there.
    pub(super) async fn even_sessions_out(&self, asked: Member) -> anyhow::Result<()> {
        self.sessions_are_being_evened_out_by_nobody(asked).await?;
        let admin = self.addresses.admin(asked).context("a node has one")?;
        post_to(admin, REBALANCE, &json!({ "per_second": 50 })).await?;
        let end = environment::now() + EVENED_OUT_WITHIN;
        while get_from(admin, REBALANCE).await?["state"] == "running" && environment::now() < end {
            sleep(ASKED_AGAIN_AFTER).await;
        }
        Ok(())
    }

    /// A run that was begun while something was wrong may wait for a session for half a minute.
    async fn sessions_are_being_evened_out_by_nobody(&self, asked: Member) -> anyhow::Result<()> {
        let admin = self.addresses.admin(asked).context("a node has one")?;
        let end = environment::now() + A_RUN_ENDS_WITHIN;
        while get_from(admin, REBALANCE).await?["state"] == "running" {
            ensure!(environment::now() < end, "sessions are still being evened out");
            sleep(ASKED_AGAIN_AFTER).await;
        }
        Ok(())
    }

    /// Until each of these nodes has a snapshot that holds everything the writer has applied by now.
    pub(super) async fn write_until_all_have_a_snapshot(
        &self,
        writer: Member,
        nodes: &[Member],
    ) -> anyhow::Result<()> {
        let applied = self.index(writer, "tandem_raft_applied_index").await?;
        for _ in 0..WRITTEN_AT_MOST / WRITTEN_AT_ONCE {
            let firsts = nodes
                .iter()
                .map(|node| self.index(*node, "tandem_raft_log_first_index"));
            let firsts = futures::future::try_join_all(firsts).await?;
            if firsts.iter().all(|first| *first > applied) {
                return Ok(());
            }
            self.write(writer).await?;
        }
        bail!("somebody has no snapshot after {WRITTEN_AT_MOST} more entries");
    }

    /// A handful of entries, which say nothing new.
    pub(super) async fn write(&self, writer: Member) -> anyhow::Result<()> {
        let admin = self.addresses.admin(writer).context("a member has one")?;
        let body = json!({ "name": cas_name(0), "eligible": true });
        let writes = (0..WRITTEN_AT_ONCE).map(|_| post_to(admin, ELIGIBLE, &body));
        futures::future::try_join_all(writes).await?;
        Ok(())
    }

    /// Until the writer's log begins behind what the other member, or it itself, has applied by now.
    async fn write_until_entries_are_dropped(&self, writer: Member, behind: Member) -> anyhow::Result<()> {
        let mut applied = self.index(behind, "tandem_raft_applied_index").await?;
        for _ in 0..WRITTEN_AT_MOST / WRITTEN_AT_ONCE {
            self.write(writer).await?;
            if behind != writer {
                applied = self.index(behind, "tandem_raft_applied_index").await?;
            }
            if self.index(writer, "tandem_raft_log_first_index").await? > applied + 1.0 {
                return Ok(());
            }
        }
        bail!("no entry was dropped after {WRITTEN_AT_MOST} more");
    }
}

/// More than a log holds between two snapshots, and keeps behind one.
const WRITTEN_AT_MOST: usize = 2000;
const WRITTEN_AT_ONCE: usize = 8;
/// Many times what a run takes that waits for nothing.
const EVENED_OUT_WITHIN: Duration = Duration::from_secs(3);
const A_RUN_ENDS_WITHIN: Duration = Duration::from_secs(60);
pub(super) const REBALANCE: &str = "/sessions/rebalance";
