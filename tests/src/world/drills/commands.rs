//! What was asked for comes about once, whoever dies, and what was answered is so.

use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;

use super::Drills;
use crate::peers::communicator::Tolerance;
use crate::world::properties::{commands_once, replicas};
use crate::world::{Day, Order};

impl Day {
    /// A node dies when a command of this user lies at a CTI manager that stands still. The command is carried out when the
    /// manager goes on, and the session's next owner, who is asked for the same again, leaves it at that.
    pub(super) async fn call_while_the_owner_dies(
        &mut self,
        drills: &Drills,
        user: usize,
    ) -> anyhow::Result<()> {
        let owner = drills.owner_of(user).await?;
        self.cti_managers_stand_still();
        self.office.tolerate(Tolerance::EarlyEvents).await;
        let begun = self.office.begin_calls(&[], &[user]).await;
        sleep(COMMAND_UNDER_WAY).await;
        self.operator.order(Order::Kill(owner.clone()));
        self.cti_managers_go_on();
        let ended = self.office.end_calls(begun).await;
        self.operator.order(Order::Start(owner.clone()));
        ended.with_context(|| format!("{owner} was killed with a command under way"))?;
        commands_once::judge(&self.office).await?;
        self.all_is_well().await
    }

    /// A command is under way at the PBX when every other node is started again, from a snapshot that was made since. Then its
    /// owner dies. The next one, who is asked for the same again, knows of the command from a snapshot alone, and leaves
    /// it at that.
    pub(super) async fn call_of_which_a_snapshot_tells(
        &mut self,
        drills: &Drills,
        user: usize,
    ) -> anyhow::Result<()> {
        let owner = drills.owner_of(user).await?;
        let nodes = drills.all_nodes();
        let (own, others): (Vec<_>, Vec<_>) = nodes.partition(|node| node.to_string() == owner);
        self.office.pbx().set_answer_delay(NEVER).await;
        self.office.tolerate(Tolerance::EarlyEvents).await;
        let begun = self.office.begin_calls(&[], &[user]).await;
        sleep(COMMAND_UNDER_WAY).await;
        self.office.pbx().set_answer_delay(Duration::ZERO).await;
        drills.write_until_all_have_a_snapshot(own[0], &others).await?;
        for other in &others {
            self.operator.order(Order::Kill(other.to_string()));
            self.operator.order(Order::Start(other.to_string()));
        }
        self.all_is_well().await?;
        self.operator.order(Order::Kill(owner.clone()));
        let ended = self.office.end_calls(begun).await;
        self.operator.order(Order::Start(owner.clone()));
        ended.with_context(|| format!("{owner} was killed, and the others had only a snapshot"))?;
        commands_once::judge(&self.office).await?;
        self.all_is_well().await
    }

    /// A leader that nobody follows any more is asked to change a setting. Whatever it answers is so afterwards. What it wrote
    /// alone gives way to what another leader wrote, and stays away when the process is killed and reads its log.
    pub(super) async fn change_a_setting_at_a_leader_without_followers(
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
        self.all_is_well().await?;
        self.operator.order(Order::Kill(leader.to_string()));
        self.operator.order(Order::Start(leader.to_string()));
        self.all_is_well().await?;
        let asked = self.addresses.admin(leader);
        let same = replicas::judge(asked, self.office.patience).await;
        same.with_context(|| format!("{leader} led without followers, and was killed"))
    }
}

/// Longer than a day.
const NEVER: Duration = Duration::from_secs(48 * 3600);
/// Many times what a command takes to reach a CTI manager, and less than a manager may be silent for.
const COMMAND_UNDER_WAY: Duration = Duration::from_millis(100);
