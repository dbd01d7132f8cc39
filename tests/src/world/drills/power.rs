//! What was promised stands, although the power fails everywhere.

use std::time::Duration;

use anyhow::{Context, ensure};
use tandem_runtime::io::environment;
use tandem_runtime::io::environment::simulated::Fault;
use tokio::time::{sleep, timeout};

use super::Drills;
use crate::cluster::status_of;
use crate::peers::front_end::FrontEnd;
use crate::world::{Day, Order};

impl Day {
    /// The power fails everywhere at the moment in which a user is told that their session stands: it does. Disks stand
    /// still at first, so that an answer that does not wait for them is there before they have stored anything.
    pub(super) async fn sign_in_before_the_power_fails(
        &self,
        drills: &Drills,
        user: usize,
    ) -> anyhow::Result<()> {
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

impl Drills {
    fn disks_everywhere(&self, fault: Option<Fault>) {
        for member in self.members() {
            self.operator.order(Order::Disk(member.to_string(), fault));
        }
    }

    /// A node that follows loses its power when it has just begun a file of its log, and the leader knows that it holds the
    /// entries in it. It holds them still when it is back.
    ///
    /// # Errors
    /// When no file is begun.
    pub(super) async fn power_fails_when_a_file_is_begun(&self) -> anyhow::Result<()> {
        let (leader, _) = self.leading_node().await?;
        let victim = self.nodes_but(leader).next();
        let victim = victim.context("there are two nodes")?;
        let admin = self.addresses.admin(victim).context("a node has one")?;
        let order = Order::PowerOffWithNextFile(victim.to_string(), ENTRIES_ARE_KNOWN);
        self.operator.order(order);
        let end = environment::now() + self.patience;
        while let Ok(Ok(_)) = timeout(ANSWERS_WITHIN, status_of(admin, "/livez")).await {
            ensure!(environment::now() < end, "{victim} has begun no file of its log");
            self.write(leader).await?;
        }
        sleep(WITHOUT_POWER).await;
        self.operator.order(Order::Start(victim.to_string()));
        Ok(())
    }

    /// Every member loses its power at once, and gets it back. Disks work from then on.
    async fn power_fails_everywhere(&self) {
        for member in self.members() {
            self.operator.order(Order::PowerOff(member.to_string()));
        }
        self.disks_everywhere(None);
        sleep(WITHOUT_POWER).await;
        for member in self.members() {
            self.operator.order(Order::Start(member.to_string()));
        }
    }
}

/// Many times what an answer takes that waits for nothing, and less than anybody's patience with a silent member.
const DISKS_STAND_STILL: Duration = Duration::from_millis(40);
/// Many times what it takes until an entry is written and acknowledged.
const ENTRIES_ARE_KNOWN: Duration = Duration::from_millis(60);
/// Many times what an answer takes.
const ANSWERS_WITHIN: Duration = Duration::from_millis(50);
const WITHOUT_POWER: Duration = Duration::from_millis(500);
