//! A session timer runs out at a bad moment.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::ensure;
use tandem_runtime::io::environment;
use tokio::time::{sleep, sleep_until};

use super::Drills;
use crate::cluster::Member;
use crate::peers::books::SentRequest;
use crate::world::Day;

impl Day {
    /// Some clients ask for the shortest sessions that there are; when these run out. In worlds of two nodes alone, since to
    /// wait for it takes longer than everything that is left of the day.
    pub(in crate::world) async fn shorten_sessions(&self) -> anyhow::Result<Option<Instant>> {
        if self.options.nodes != 2 {
            return Ok(None);
        }
        let users = self.short_sessions();
        let until = environment::now() + Duration::from_secs(SHORTEST_SECS.into());
        self.office
            .ocs
            .ask(|front_end| {
                for user in users {
                    front_end.identity_mut(user).session_expires_secs = Some(SHORTEST_SECS);
                    front_end.refresh(user);
                }
            })
            .await;
        for user in self.short_sessions() {
            self.is_refreshed(user).await?;
        }
        Ok(Some(until))
    }

    /// Clients refresh their sessions at the last moment, while the node of one hears no other and the front end does: that node
    /// may have been replaced, so the session may be another's, and its timer with it. Once it hears of the others, or its
    /// successor has the session, the client is answered.
    pub(in crate::world) async fn refresh_at_the_last_moment(&self, until: Instant) -> anyhow::Result<()> {
        if environment::now() + APART_BEFORE >= until {
            // Calendars took long to recover, and the sessions have run out.
            return Ok(());
        }
        sleep_until((until - APART_BEFORE).into()).await;
        let drills = self.drills();
        let Some(owner) = self.follower_with_a_short_session(&drills).await? else {
            return Ok(());
        };
        let users = self.short_sessions();
        let ways = drills.part(owner, drills.all_nodes());
        sleep_until((until - REFRESHED_BEFORE).into()).await;
        self.office
            .ocs
            .ask(|front_end| users.for_each(|user| front_end.refresh(user)))
            .await;
        sleep(REFRESHED_BEFORE + APART_AFTER).await;
        drills.heal(&ways);
        for user in self.short_sessions() {
            self.is_refreshed(user).await?;
        }
        self.all_is_well().await?;
        self.office
            .get_snapshots(&self.short_sessions().collect::<Vec<_>>())
            .await
    }

    /// Those who have come during the day: nobody minds whether they have sent more than one INVITE.
    fn short_sessions(&self) -> Range<usize> {
        self.steady..self.newcomers.start
    }

    /// A leader that hears no other node may have a majority with the witness.
    async fn follower_with_a_short_session(&self, drills: &Drills) -> anyhow::Result<Option<Member>> {
        let (leader, _) = drills.leading_node().await?;
        for user in self.short_sessions() {
            let name = drills.owner_of(user).await?;
            let owner = drills.nodes_but(leader).find(|node| node.to_string() == name);
            if owner.is_some() {
                return Ok(owner);
            }
        }
        Ok(None)
    }

    /// The user's last INVITE is answered well.
    async fn is_refreshed(&self, user: usize) -> anyhow::Result<()> {
        self.office.wait_until_answered().await?;
        let last = self
            .office
            .ocs
            .ask(move |front_end| {
                let mut requests = front_end.user(user).requests().iter();
                requests.rfind(|sent| sent.method == "INVITE").cloned()
            })
            .await;
        let is_refreshed = last.as_ref().is_some_and(SentRequest::succeeded);
        let outcome = last.map(|sent| sent.outcome);
        ensure!(
            is_refreshed,
            "user{user} has refreshed the session in time: {outcome:?}"
        );
        Ok(())
    }
}

/// Clients refresh a minute before the end, so that less is never granted (docs/spec/uacsta.md §1.4).
const SHORTEST_SECS: u32 = 120;
/// A majority that was heard of last is relied on for less.
const APART_BEFORE: Duration = Duration::from_millis(1500);
const REFRESHED_BEFORE: Duration = Duration::from_millis(150);
/// Soon enough for nobody to be declared lost.
const APART_AFTER: Duration = Duration::from_millis(300);
