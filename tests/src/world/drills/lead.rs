//! Somebody leads, soon, whoever dies.

use std::time::Duration;

use anyhow::{Context, ensure};
use tandem_runtime::io::environment;

use super::Drills;
use crate::cluster::Member;
use crate::world::Order;

impl Drills {
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
}

/// Less than the shortest time after which a silent leader is given up, with the election that follows.
const TAKEN_OVER_WITHIN: Duration = Duration::from_millis(250);
const LED_AGAIN_WITHIN: Duration = Duration::from_secs(5);
