//! A process that is started again is another one than it was.

use std::time::Duration;

use anyhow::{Context, ensure};
use tandem_runtime::io::environment;
use tokio::time::sleep;

use super::{ASKED_AGAIN_AFTER, Drills, name_of};
use crate::cluster::{Member, status_of};
use crate::world::Order;

impl Drills {
    /// A node dies, and the leader declares it lost, of which nobody hears: the leader is cut off. Another one leads when the
    /// node has been started again. Then the former leader is back, and repeats what it had to say: that was about the former
    /// process, and the present one stays live.
    ///
    /// # Errors
    /// When it does not.
    pub(super) async fn node_is_back_before_its_loss_is_known(&self) -> anyhow::Result<()> {
        // Of two nodes, a leader that reaches the front end has a majority.
        if self.nodes < 3 {
            return Ok(());
        }
        let (leader, _) = self.leading_node().await?;
        let mut others = self.nodes_but(leader);
        let back = others.next().context("there are three nodes")?;
        let others: Vec<_> = others.collect();
        let declared = self.index(leader, DECLARED).await?;
        let mut ways = self.part(leader, others.iter().copied());
        self.operator.order(Order::Kill(back.to_string()));
        let noticed = self.wait_until_above(leader, DECLARED, declared).await;
        ways.extend(self.cut_off(leader));
        self.operator.order(Order::Start(back.to_string()));
        let ready = self.wait_until_ready(back).await;
        self.heal(&ways);
        noticed.with_context(|| format!("{back} was killed and {leader} leads"))?;
        ready?;
        let stays = self.stays_live(back, others[0]).await;
        stays.with_context(|| format!("{leader} was cut off when it had declared {back} lost"))
    }

    async fn wait_until_above(&self, asked: Member, name: &str, value: f64) -> anyhow::Result<()> {
        let end = environment::now() + self.patience;
        while self.index(asked, name).await? <= value {
            ensure!(environment::now() < end, "{name} of {asked} is still {value}");
        }
        Ok(())
    }

    async fn wait_until_ready(&self, member: Member) -> anyhow::Result<()> {
        let admin = self.addresses.admin(member).context("a member has one")?;
        let end = environment::now() + self.patience;
        while !matches!(status_of(admin, "/readyz").await, Ok(200)) {
            ensure!(environment::now() < end, "{member} is not ready again");
            sleep(ASKED_AGAIN_AFTER).await;
        }
        Ok(())
    }

    /// For as long as a leader that was cut off repeats what it had to say.
    async fn stays_live(&self, node: Member, asked: Member) -> anyhow::Result<()> {
        let end = environment::now() + REPEATED_FOR;
        while environment::now() < end {
            let cluster = self.cluster_view(asked).await?;
            let mut nodes = cluster["nodes"].as_array().into_iter().flatten();
            let own = nodes.find(|view| view["id"] == name_of(node).as_str());
            let state = own.and_then(|view| view["state"].as_str());
            ensure!(state == Some("live"), "{asked} says that {node} is {state:?}");
        }
        Ok(())
    }
}

const DECLARED: &str = "tandem_raft_nodes_lost_total";
const REPEATED_FOR: Duration = Duration::from_secs(1);
