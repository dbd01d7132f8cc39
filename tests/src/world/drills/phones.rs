//! Phones that call and are called while nothing is wrong: nothing is tolerated then.

use anyhow::{Context, bail};
use tandem_runtime::io::environment;
use tokio::time::sleep;

use super::{ASKED_AGAIN_AFTER, Drills};
use crate::cluster::Member;
use crate::peers::books::Stage;
use crate::scenario::PlacedCall;
use crate::world::Day;
use crate::world::properties::{events_in_order, own_events};

impl Day {
    /// People call. The PBX tells of each call before it answers, and still no client hears of its call before the answer
    /// that names it (docs/spec/uacsta.md §9.5).
    pub(super) async fn call_while_nothing_is_wrong(&mut self) -> anyhow::Result<()> {
        let mut users = self.office.signed_in().await;
        users.truncate(CALLING);
        let calls = self.office.put_outgoing_calls_up(&users).await?;
        events_in_order::judge(&self.office).await?;
        self.office.far_ends_hang_up(&calls).await
    }

    /// A user has signed in twice, and one node watches their phone for both clients. When one of them signs off, the other
    /// one goes on hearing of calls.
    pub(super) async fn one_of_two_clients_signs_off(
        &mut self,
        drills: &Drills,
        user: usize,
    ) -> anyhow::Result<()> {
        let second = self.second_client_of(user).await;
        self.sign_in_beside(drills, user, second).await?;
        let calls = self.office.ring(&[user]).await?;
        let heard: Vec<_> = calls.iter().map(|call| heard_by(second, call)).collect();
        self.office.wait_for_stage(&heard, Stage::Delivered).await?;
        self.office.far_ends_hang_up(&calls).await?;
        self.office.wait_for_stage(&heard, Stage::Cleared).await?;
        self.sign_off(second).await?;
        let calls = self.office.ring(&[user]).await;
        let calls = calls.with_context(|| format!("another client of user{user} has signed off"))?;
        self.office.far_ends_hang_up(&calls).await?;
        own_events::judge(&self.office).await?;
        Ok(())
    }

    /// The client without a phone of its own is this user's from now on.
    async fn second_client_of(&self, user: usize) -> usize {
        let second = self.options.users;
        self.office
            .ocs
            .ask(move |front_end| {
                let first = front_end.user(user).identity.clone();
                let identity = front_end.identity_mut(second);
                (identity.user, identity.line, identity.phone) = (first.user, first.line, first.phone);
            })
            .await;
        second
    }

    /// Signs the second client in until its session is where the first one's is: lb and the nodes take turns.
    async fn sign_in_beside(&self, drills: &Drills, first: usize, second: usize) -> anyhow::Result<()> {
        let wanted = self.place_of(drills, first).await?;
        for _ in 0..SIGNED_IN_AT_MOST {
            self.office.sign_in(second..second + 1).await?;
            if self.place_of(drills, second).await? == wanted {
                return Ok(());
            }
            self.sign_off(second).await?;
        }
        bail!("no session comes to {wanted:?} in {SIGNED_IN_AT_MOST} attempts");
    }

    async fn sign_off(&self, user: usize) -> anyhow::Result<()> {
        self.office
            .ocs
            .ask(move |front_end| front_end.sign_off(user))
            .await;
        self.office.wait_until_answered().await
    }

    /// The node that owns a client's session, and the CTI connection that watches its phone.
    async fn place_of(&self, drills: &Drills, user: usize) -> anyhow::Result<(String, String)> {
        let dialog = move |front_end: &mut crate::peers::front_end::FrontEnd| {
            let dialog = front_end.user(user).dialog();
            dialog.map(|dialog| dialog.to_tag.clone())
        };
        let key = self
            .office
            .ocs
            .ask(dialog)
            .await
            .context("the client has a dialog")?;
        let end = environment::now() + drills.patience;
        while environment::now() < end {
            let sessions = drills.sessions(Member::Node(1)).await?;
            let own = sessions.iter().find(|session| session["key"] == key.as_str());
            let named = |name: &str| Some(own?[name].as_str()?.to_owned());
            if let (Some(owner), Some(connection)) = (named("owner"), named("cti_connection")) {
                return Ok((owner, connection));
            }
            sleep(ASKED_AGAIN_AFTER).await;
        }
        bail!("nothing watches the phone of session {key}")
    }
}

/// The same call in the books of another client of the same phone.
fn heard_by(client: usize, call: &PlacedCall) -> PlacedCall {
    PlacedCall {
        user: client,
        ..call.clone()
    }
}

const CALLING: usize = 4;
/// Five nodes with two CTI connections each, twice over.
const SIGNED_IN_AT_MOST: usize = 20;
