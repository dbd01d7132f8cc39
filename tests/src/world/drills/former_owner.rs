//! Whoever owned a session, and may own it no more, acts for it no more.
//!
//! In each course the owner is a node that does not lead, and keeps the way to the front end: clients could hear it.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tandem_runtime::io::environment;
use tokio::time::sleep;

use super::{ASKED_AGAIN_AFTER, Drills, name_of, owner_of};
use crate::cluster::Member;
use crate::peers::communicator::Tolerance;
use crate::peers::ocs::user_id;
use crate::world::properties::{commands_once, events_in_order};
use crate::world::{Day, Order};

/// A session, its owner, and another node, which leads.
#[derive(Debug, Clone, Copy)]
struct Owned {
    user: usize,
    owner: Member,
    leader: Member,
}

impl Day {
    /// The owner hears from no other node any more, while the front end hears a leader. When it may not rely any longer on
    /// what it heard last, its user makes a call. Whoever owns the session next makes it, alone.
    pub(super) async fn call_while_the_owner_lacks_authority(
        &mut self,
        drills: &Drills,
    ) -> anyhow::Result<()> {
        let Owned { user, owner, leader } = drills.session_of_a_follower().await?;
        let ways = drills.part(owner, drills.all_nodes());
        sleep(AUTHORITY_IS_OVER).await;
        // What the owner had done would never be answered, and so be done again.
        self.office.pbx().set_answer_delay(NEVER).await;
        self.office.tolerate(Tolerance::EarlyEvents).await;
        let begun = self.office.begin_calls(&[], &[user]).await;
        sleep(WOULD_BE_DONE).await;
        self.office.pbx().set_answer_delay(Duration::ZERO).await;
        let lost = drills.wait_until_lost(leader, owner).await;
        drills.heal(&ways);
        lost?;
        let ended = self.office.end_calls(begun).await;
        ended.with_context(|| format!("user{user} called while {owner} was cut off"))?;
        commands_once::judge(&self.office).await?;
        self.all_is_well().await
    }

    /// The owner tells of a call, and is cut off before it has that written down. The next owner tells of the call again, and
    /// of its end. What the former one still proposes when it is back counts for nothing: whoever owns the session then
    /// knows that the call is over.
    pub(super) async fn ring_while_the_owner_is_cut_off(&mut self, drills: &Drills) -> anyhow::Result<()> {
        let Owned { user, owner, leader } = drills.session_of_a_follower().await?;
        self.office.tolerate(Tolerance::Repeats).await;
        let ways = drills.part(owner, drills.all_nodes());
        let calls = self.office.ring(&[user]).await?;
        let next = drills.told_by_another(user, owner, leader).await?;
        self.office.far_ends_hang_up(&calls).await?;
        drills.wait_for_calls(user, leader, 0).await?;
        drills.heal(&ways);
        self.all_is_well().await?;
        self.office.tolerate(Tolerance::Nothing).await;
        self.operator.order(Order::Kill(next.to_string()));
        let calls = self.office.ring(&[user]).await;
        self.operator.order(Order::Start(next.to_string()));
        self.office.far_ends_hang_up(&calls?).await?;
        let told = events_in_order::judge(&self.office).await;
        told.with_context(|| format!("user{user} was told of a call by {owner}, then by {next}"))?;
        self.all_is_well().await
    }

    /// The owner is asked to stop, and hears nothing of the others meanwhile, not even that its sessions are theirs now. A
    /// call that comes then is told by the next owner alone.
    pub(super) async fn ring_while_the_owner_stops_unheard(&mut self, drills: &Drills) -> anyhow::Result<()> {
        let Owned { user, owner, leader } = drills.session_of_a_follower().await?;
        self.office.tolerate(Tolerance::Nothing).await;
        // Without a connection to the owner the front end cannot tell that it lives, and lets others speak.
        sleep(FRONT_END_TRIES_AGAIN).await;
        let ways = drills.cut(drills.nodes_but(owner).map(|other| (other, owner)));
        self.operator.order(Order::Terminate(owner.to_string()));
        drills.moved_on(user, owner, leader).await?;
        drills.front_end_knows_of_the_stop(owner).await?;
        let calls = self.office.ring(&[user]).await?;
        sleep(FENCE_IS_PATIENT).await;
        self.office.far_ends_hang_up(&calls).await?;
        drills.heal(&ways);
        self.operator.order(Order::Kill(owner.to_string()));
        self.operator.order(Order::Start(owner.to_string()));
        let told = events_in_order::judge(&self.office).await;
        told.with_context(|| format!("user{user} was called while {owner} stopped"))?;
        self.all_is_well().await
    }
}

impl Drills {
    /// Sessions are evened out first. A request to do so that a node missed has no effect there, and is made again.
    async fn session_of_a_follower(&self) -> anyhow::Result<Owned> {
        let (leader, _) = self.leading_node().await?;
        let end = environment::now() + self.patience;
        loop {
            self.even_sessions_out(leader).await?;
            let sessions = self.sessions(leader).await?;
            let followed = sessions.iter().find_map(|session| {
                let (user, owner) = (user_of(session)?, owner_of(session)?);
                (owner != leader).then_some(Owned { user, owner, leader })
            });
            if let Some(followed) = followed {
                return Ok(followed);
            }
            ensure!(environment::now() < end, "{leader} owns every session");
        }
    }

    /// Who owns the user's session once it is not that node any more.
    async fn moved_on(&self, user: usize, from: Member, asked: Member) -> anyhow::Result<Member> {
        let moved = |session: &Value| owner_of(session).filter(|owner| *owner != from);
        self.told_of_session(user, asked, moved).await
    }

    /// As [`Self::moved_on`], and that one has told the client of a call.
    async fn told_by_another(&self, user: usize, from: Member, asked: Member) -> anyhow::Result<Member> {
        let told = |session: &Value| {
            let owner = owner_of(session).filter(|owner| *owner != from)?;
            (calls_of(session) == Some(1)).then_some(owner)
        };
        self.told_of_session(user, asked, told).await
    }

    /// The state shows that the client was told of so many calls.
    async fn wait_for_calls(&self, user: usize, asked: Member, calls: u64) -> anyhow::Result<()> {
        let told = |session: &Value| (calls_of(session) == Some(calls)).then_some(());
        self.told_of_session(user, asked, told).await
    }

    /// Asks for the user's session, again and again, until it is as wanted.
    async fn told_of_session<R>(
        &self,
        user: usize,
        asked: Member,
        wanted: impl Fn(&Value) -> Option<R>,
    ) -> anyhow::Result<R> {
        let end = environment::now() + self.patience;
        loop {
            let sessions = self.sessions(asked).await?;
            let own = sessions.iter().find(|session| user_of(session) == Some(user));
            if let Some(told) = own.and_then(&wanted) {
                return Ok(told);
            }
            ensure!(environment::now() < end, "{asked} says of user{user}: {own:?}");
            sleep(ASKED_AGAIN_AFTER).await;
        }
    }

    /// The front end shows that it gives this node no new sessions any more. It is told who has the node's sessions now before
    /// it is told that. The index that its member has applied would not do: the front end follows the state a little later.
    async fn front_end_knows_of_the_stop(&self, node: Member) -> anyhow::Result<()> {
        let name = name_of(node);
        let suspended = [("node", name.as_str()), ("state", "suspended")];
        let end = environment::now() + self.patience;
        loop {
            let metrics = self.addresses.metrics(Member::Lb).await?;
            if metrics.sum(NODE_STATE, &suspended) > 0.0 {
                return Ok(());
            }
            ensure!(environment::now() < end, "lb does not hear that {node} stops");
            sleep(ASKED_AGAIN_AFTER).await;
        }
    }
}

fn user_of(session: &Value) -> Option<usize> {
    let id = session["user"].as_str()?;
    let number = id.strip_prefix("user")?.parse().ok()?;
    (user_id(number) == id).then_some(number)
}

fn calls_of(session: &Value) -> Option<u64> {
    session["calls"].as_u64()
}

/// More than twice Raft's lease, on which a node relies, and less than the silence after which it is declared lost.
const AUTHORITY_IS_OVER: Duration = Duration::from_millis(1300);
/// Many times what a command takes to reach the PBX.
const WOULD_BE_DONE: Duration = Duration::from_millis(150);
/// Longer than a day.
const NEVER: Duration = Duration::from_secs(48 * 3600);
/// Longer than the front end waits before it judges whoever may not own a session.
const FENCE_IS_PATIENT: Duration = Duration::from_millis(400);
/// Longer than the front end leaves a node alone that refused a client's connection.
const FRONT_END_TRIES_AGAIN: Duration = Duration::from_millis(1100);
const NODE_STATE: &str = "tandem_lb_node_state";
