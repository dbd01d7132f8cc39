//! What was asked for comes about once, whoever dies, and what was answered is so.

use std::time::Duration;

use anyhow::Context;
use tokio::time::sleep;

use super::Drills;
use crate::peers::communicator::Tolerance;
use crate::world::properties::commands_once;
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

    /// A leader that nobody follows any more is asked to change a setting. Whatever it answers is so afterwards.
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
        self.all_is_well().await
    }
}

/// Many times what a command takes to reach a CTI manager, and less than a manager may be silent for.
const COMMAND_UNDER_WAY: Duration = Duration::from_millis(100);
