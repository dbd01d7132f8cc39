//! The office: communicators behind an OCS, phones at a PBX, and what is done with both.
//!
//! Owns the steps that need no more than these two: sign in, put calls up, let phones ring, compare the books. Every step
//! waits for what it wants to see and fails with a sentence. Does not know what stands between communicators and phones,
//! so that stories with real processes and the simulated world take the same steps.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use anyhow::{bail, ensure};
use rand::seq::SliceRandom;
use tandem_runtime::io::environment;

use super::first;
use crate::cluster::{DEADLINE, Member};
use crate::peers::books::Stage;
use crate::peers::communicator::Presence;
use crate::peers::csta;
use crate::peers::front_end::FrontEnd;
use crate::peers::ocs::{Ocs, phone_number};
use crate::peers::pbx::Pbx;

/// Communicators and phones, and the time that a step may take.
#[derive(Debug)]
pub struct Office {
    pub ocs: Ocs,
    pbx: Pbx,
    /// How long any one step waits before it fails.
    pub patience: Duration,
    last_number: u32,
}

/// A call that a step has set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedCall {
    pub user: usize,
    /// As the PBX names it.
    pub call: String,
    /// The number at the far end, used for this call only.
    pub far_end: String,
}

impl Office {
    #[must_use]
    pub fn new(ocs: Ocs, pbx: Pbx) -> Self {
        Self {
            ocs,
            pbx,
            patience: DEADLINE,
            last_number: 0,
        }
    }

    #[must_use]
    pub fn pbx(&self) -> &Pbx {
        &self.pbx
    }

    /// Signs these users in, all at once, and waits until each has his monitor.
    pub async fn sign_in(&self, users: Range<usize>) -> anyhow::Result<()> {
        let awaited = users.clone();
        self.ocs
            .ask(move |front_end| users.for_each(|user| front_end.sign_in(user)))
            .await;
        let what = format!("users {awaited:?} are signed in");
        let signed_in = move |front_end: &FrontEnd| awaited.clone().all(|user| is_signed_in(front_end, user));
        self.ocs.wait_until(&what, self.patience, signed_in).await?;
        self.wait_until_answered().await
    }

    /// A number that nobody has called or called from yet.
    pub fn unused_number(&mut self) -> String {
        self.last_number += 1;
        format!("+32222{:06}", self.last_number)
    }

    /// The users that are signed in.
    pub async fn signed_in(&self) -> Vec<usize> {
        self.ocs
            .ask(|front_end| {
                (0..front_end.users().len())
                    .filter(|&user| is_signed_in(front_end, user))
                    .collect()
            })
            .await
    }

    /// The users whose dialog that node opened.
    pub async fn users_opened_by(&self, node: Member) -> anyhow::Result<Vec<usize>> {
        let Member::Node(id) = node else {
            bail!("{node} opens no dialog")
        };
        let prefix = format!("n{id}-");
        let users = self
            .ocs
            .ask(move |front_end| {
                let opened = |user: &usize| {
                    let dialog = front_end.user(*user).dialog();
                    dialog.is_some_and(|dialog| dialog.to_tag.starts_with(&prefix))
                };
                (0..front_end.users().len()).filter(opened).collect()
            })
            .await;
        Ok(users)
    }

    /// Waits until OCS has a connection to lb again.
    pub async fn wait_until_ocs_is_back(&self) -> anyhow::Result<()> {
        self.ocs
            .wait_until("OCS is connected again", DEADLINE, FrontEnd::is_connected)
            .await
    }

    pub async fn wait_until_answered(&self) -> anyhow::Result<()> {
        let answered = |front_end: &FrontEnd| front_end.unanswered() == 0;
        let waited = self
            .ocs
            .wait_until("every request is answered", self.patience, answered)
            .await;
        if waited.is_err() {
            let waiting = self.ocs.ask(|front_end| front_end.waiting()).await;
            println!("without an answer: {waiting:#?}");
        }
        waited
    }

    /// Every user asks for a snapshot in his old dialog and gets 200, which agrees with his books and the PBX.
    pub async fn everyone_gets_a_snapshot(&self) -> anyhow::Result<()> {
        let users = self.signed_in().await;
        ensure!(!users.is_empty(), "nobody is signed in");
        self.get_snapshots(&users).await
    }

    /// As `everyone_gets_a_snapshot`, for these users.
    pub async fn get_snapshots(&self, users: &[usize]) -> anyhow::Result<()> {
        let requests = self.ask_for_snapshots(users).await;
        self.all_got_snapshots(requests).await?;
        self.books_agree(users).await
    }

    /// Each of these users asks for a snapshot; nobody waits for it yet.
    pub async fn ask_for_snapshots(&self, users: &[usize]) -> Vec<(usize, usize)> {
        let users = users.to_vec();
        self.ocs
            .ask(move |front_end| {
                let asked = users.into_iter().map(|user| (user, front_end.snapshot(user)));
                asked.collect()
            })
            .await
    }

    /// Each of these requests, a user's, gets a good 200.
    pub async fn all_got_snapshots(&self, requests: Vec<(usize, usize)>) -> anyhow::Result<()> {
        self.wait_until_answered().await?;
        let refused = self
            .ocs
            .ask(move |front_end| {
                let refused = requests.into_iter().filter_map(|(user, request)| {
                    let sent = &front_end.user(user).requests()[request];
                    (!sent.succeeded()).then(|| format!("user{user}: {:?}", sent.outcome))
                });
                refused.collect::<Vec<_>>()
            })
            .await;
        ensure!(
            refused.is_empty(),
            "{} snapshots refused: {}",
            refused.len(),
            first(&refused)
        );
        Ok(())
    }

    /// Somebody calls each of these users; each client gets the event.
    pub async fn ring(&mut self, users: &[usize]) -> anyhow::Result<Vec<PlacedCall>> {
        let mut calls = Vec::with_capacity(users.len());
        for &user in users {
            let far_end = self.unused_number();
            let call = self.pbx().place_call(&far_end, &phone_number(user)).await;
            calls.push(PlacedCall { user, call, far_end });
        }
        self.wait_for_stage(&calls, Stage::Delivered).await?;
        Ok(calls)
    }

    /// Incoming calls that are answered: one half by the clients, the other by hand at the phone.
    pub async fn put_incoming_calls_up(&mut self, users: &[usize]) -> anyhow::Result<Vec<PlacedCall>> {
        let calls = self.ring(users).await?;
        let (by_client, by_hand) = calls.split_at(calls.len() / 2);
        for placed in by_hand {
            ensure!(
                self.pbx().called_side_answers(&placed.call).await,
                "{placed:?} does not ring"
            );
        }
        for placed in by_client {
            self.answer_by_client(placed).await?;
        }
        self.wait_for_stage(&calls, Stage::Established).await?;
        Ok(calls)
    }

    /// Outgoing calls, made by the clients; the far ends pick up.
    pub async fn put_outgoing_calls_up(&mut self, users: &[usize]) -> anyhow::Result<Vec<PlacedCall>> {
        let dialled: Vec<_> = users.iter().map(|&user| (user, self.unused_number())).collect();
        let sent = dialled.clone();
        self.ocs
            .ask(move |front_end| {
                for (user, number) in &sent {
                    front_end.make_call(*user, number);
                }
            })
            .await;
        self.wait_until_answered().await?;
        let mut calls = Vec::with_capacity(dialled.len());
        for (user, far_end) in dialled {
            let Some(call) = self.call_to(&far_end).await else {
                bail!("the PBX has no call of user{user} to {far_end}")
            };
            ensure!(
                self.pbx().called_side_answers(&call).await,
                "{call} does not ring"
            );
            calls.push(PlacedCall { user, call, far_end });
        }
        self.wait_for_stage(&calls, Stage::Established).await?;
        Ok(calls)
    }

    /// The PBX's id of the call that was dialled to `number`.
    pub(super) async fn call_to(&self, number: &str) -> Option<String> {
        let number = number.to_owned();
        self.pbx
            .ask(move |switch| {
                let mut calls = switch.calls().iter();
                calls
                    .find(|(_, call)| call.called.number == number)
                    .map(|(id, _)| id.clone())
            })
            .await
    }

    /// The far ends hang up; each client hears it.
    pub async fn far_ends_hang_up(&self, calls: &[PlacedCall]) -> anyhow::Result<()> {
        for placed in calls {
            let phone = phone_number(placed.user);
            ensure!(
                self.pbx().far_end_hangs_up(&placed.call, &phone).await,
                "{placed:?} is over already"
            );
        }
        self.wait_for_stage(calls, Stage::Cleared).await
    }

    /// Every phone rings once, every client hears it, and hears the end of it.
    pub async fn every_phone_rings_and_stops(&mut self) -> anyhow::Result<()> {
        let users = self.signed_in().await;
        let calls = self.ring(&users).await?;
        self.far_ends_hang_up(&calls).await
    }

    /// Calls come, are answered and end, and clients look at their phones, for that long.
    pub async fn everyday_life(&mut self, duration: Duration) -> anyhow::Result<()> {
        let started = environment::now();
        while started.elapsed() < duration {
            let mut users = self.signed_in().await;
            users.shuffle(&mut rand::rng());
            users.truncate(CALLED_AT_A_TIME);
            let incoming = self.put_incoming_calls_up(&users).await?;
            let outgoing = self.put_outgoing_calls_up(&users[..users.len() / 2]).await?;
            self.far_ends_hang_up(&incoming).await?;
            self.far_ends_hang_up(&outgoing).await?;
            tokio::time::sleep(BREATH).await;
        }
        Ok(())
    }

    /// The client picks up the call with that far end, under the callID that it holds.
    pub async fn answer_by_client(&self, placed: &PlacedCall) -> anyhow::Result<()> {
        let (user, far_end) = (placed.user, placed.far_end.clone());
        let found = self
            .ocs
            .ask(move |front_end| {
                let call = held_call(front_end, user, &far_end)?;
                Some(front_end.answer_call(user, &call))
            })
            .await;
        ensure!(found.is_some(), "the client knows no such call: {placed:?}");
        Ok(())
    }

    /// The client hangs up.
    pub async fn clear_by_client(&self, placed: &PlacedCall) -> anyhow::Result<()> {
        let (user, far_end) = (placed.user, placed.far_end.clone());
        let found = self
            .ocs
            .ask(move |front_end| {
                let call = held_call(front_end, user, &far_end)?;
                Some(front_end.clear_connection(user, &call))
            })
            .await;
        ensure!(found.is_some(), "the client knows no such call: {placed:?}");
        Ok(())
    }

    /// Waits until the clients have seen their calls come that far.
    pub async fn wait_for_stage(&self, calls: &[PlacedCall], stage: Stage) -> anyhow::Result<()> {
        let mut awaited = calls.to_vec();
        let condition = move |front_end: &FrontEnd| {
            awaited.retain(|placed| stage_of(front_end, placed).is_none_or(|seen| seen < stage));
            awaited.is_empty()
        };
        let what = format!("{} calls are {stage:?} in the clients' books", calls.len());
        let waited = self.ocs.wait_until(&what, self.patience, condition).await;
        if let Err(error) = waited {
            let calls = calls.to_vec();
            let missing: Vec<_> = self
                .ocs
                .ask(move |front_end| {
                    let missing = calls
                        .into_iter()
                        .filter(|placed| stage_of(front_end, placed).is_none_or(|seen| seen < stage));
                    missing.map(|placed| format!("{placed:?}")).collect()
                })
                .await;
            return Err(error.context(format!("{} calls are not: {}", missing.len(), first(&missing))));
        }
        Ok(())
    }

    /// What each client believes, what its last snapshot said, and what the PBX has: the same calls.
    pub async fn books_agree(&self, users: &[usize]) -> anyhow::Result<()> {
        let at_pbx = self.far_ends_at_pbx(users).await;
        let awaited = at_pbx.clone();
        let agree = move |front_end: &FrontEnd| {
            awaited
                .iter()
                .all(|(user, calls)| same_calls(&live_far_ends(front_end, *user), calls))
        };
        let waited = self
            .ocs
            .wait_until("the clients' books agree with the PBX", self.patience, agree)
            .await;
        let violations = self.ocs.ask(|front_end| front_end.violations()).await;
        let differences: Vec<String> = self
            .ocs
            .ask(move |front_end| {
                at_pbx
                    .iter()
                    .flat_map(|(user, calls)| disagreement(front_end, *user, calls))
                    .collect()
            })
            .await;
        ensure!(
            differences.is_empty(),
            "{} books disagree: {}; violations: {}",
            differences.len(),
            first(&differences),
            first(&violations)
        );
        waited
    }

    /// Each of these users has sent one INVITE, if any.
    pub async fn nobody_signed_in_again(&self, users: Range<usize>) -> anyhow::Result<()> {
        let invited_twice = self
            .ocs
            .ask(move |front_end| users_who_invited_twice(front_end, users))
            .await;
        ensure!(
            invited_twice.is_empty(),
            "signed in again: {}",
            first(&invited_twice)
        );
        Ok(())
    }

    /// So far nothing was wrong with any message, and the PBX was told nothing twice.
    pub async fn nothing_was_wrong(&self) -> anyhow::Result<()> {
        let violations = self.ocs.ask(|front_end| front_end.violations()).await;
        ensure!(
            violations.is_empty(),
            "{} violations seen by clients: {}",
            violations.len(),
            first(&violations)
        );
        let (repeated, broken) = self
            .pbx()
            .ask(|switch| (switch.repeated_commands(), switch.violations().to_vec()))
            .await;
        ensure!(
            repeated.is_empty(),
            "{} commands came twice: {}",
            repeated.len(),
            first(&repeated)
        );
        ensure!(
            broken.is_empty(),
            "{} violations seen by CTI managers: {}",
            broken.len(),
            first(&broken)
        );
        Ok(())
    }

    /// The far ends of the calls that each user's phone is in.
    pub(super) async fn far_ends_at_pbx(&self, users: &[usize]) -> BTreeMap<usize, BTreeSet<String>> {
        let users: BTreeMap<String, usize> = users.iter().map(|&user| (phone_number(user), user)).collect();
        self.pbx
            .ask(move |switch| {
                let mut far_ends: BTreeMap<usize, BTreeSet<String>> =
                    users.values().map(|&user| (user, BTreeSet::new())).collect();
                for call in switch.calls().values() {
                    let ends = [(&call.calling, &call.called), (&call.called, &call.calling)];
                    for (own, far) in ends {
                        if let Some(user) = users.get(&own.number) {
                            far_ends.entry(*user).or_default().insert(far.number.clone());
                        }
                    }
                }
                far_ends
            })
            .await
    }

    /// The end of a story: nothing was wrong with any message, nothing was executed twice, nobody had to sign in again.
    pub async fn verdict(&self) -> anyhow::Result<()> {
        self.nothing_was_wrong().await?;
        self.nobody_signed_in_again(0..self.ocs.user_count()).await
    }

    /// As [`Self::verdict`], and every request got a good 200.
    pub async fn verdict_without_failures(&self) -> anyhow::Result<()> {
        let failures = self.ocs.ask(|front_end| front_end.failures()).await;
        ensure!(
            failures.is_empty(),
            "{} requests failed: {}",
            failures.len(),
            first(&failures)
        );
        self.verdict().await
    }
}

pub(super) fn is_signed_in(front_end: &FrontEnd, user: usize) -> bool {
    front_end.user(user).presence() == Presence::SignedIn
}

/// What a user does whose sign-in came to nothing: they ask for what they lack, a session or its monitor.
pub fn sign_in_again(front_end: &mut FrontEnd, user: usize) {
    let communicator = front_end.user(user);
    if communicator.dialog().is_none() {
        return front_end.sign_in(user);
    }
    let body = csta::monitor_start(&communicator.identity.line);
    front_end.info(user, &body);
}

fn held_call(front_end: &FrontEnd, user: usize, far_end: &str) -> Option<String> {
    let (call, _) = front_end.user(user).calls().live_with(far_end)?;
    Some(call.clone())
}

/// A call that began while nobody listened is known from a snapshot, which does not say who calls.
fn stage_of(front_end: &FrontEnd, placed: &PlacedCall) -> Option<Stage> {
    let calls = front_end.user(placed.user).calls().calls();
    let with = |far_end: &str| {
        calls
            .values()
            .find(|call| call.calling == far_end || call.called == far_end)
    };
    with(&placed.far_end).or_else(|| with("")).map(|call| call.stage)
}

fn live_far_ends(front_end: &FrontEnd, user: usize) -> Vec<String> {
    let own = &front_end.user(user).identity.phone;
    let live = front_end.user(user).calls().live();
    live.map(|(_, call)| {
        if call.calling == *own {
            &call.called
        } else {
            &call.calling
        }
    })
    .map(String::clone)
    .collect()
}

/// The same number of calls, and the same far ends where the client has been told.
fn same_calls(believed: &[String], at_pbx: &BTreeSet<String>) -> bool {
    let known = believed.iter().filter(|far_end| !far_end.is_empty());
    believed.len() == at_pbx.len() && known.clone().all(|far_end| at_pbx.contains(far_end))
}

fn disagreement(front_end: &FrontEnd, user: usize, at_pbx: &BTreeSet<String>) -> Vec<String> {
    let mut differences = Vec::new();
    let believed = live_far_ends(front_end, user);
    if !same_calls(&believed, at_pbx) {
        differences.push(format!(
            "user{user} believes in calls with {believed:?}, the PBX has {at_pbx:?}"
        ));
    }
    if let Some(snapshot) = front_end.user(user).last_snapshot() {
        let held: BTreeSet<_> = front_end
            .user(user)
            .calls()
            .live()
            .map(|(id, _)| id.clone())
            .collect();
        let told: BTreeSet<_> = snapshot.keys().cloned().collect();
        if held != told {
            differences.push(format!("user{user} holds {held:?}, his snapshot says {told:?}"));
        }
    }
    differences
}

fn users_who_invited_twice(front_end: &FrontEnd, users: Range<usize>) -> Vec<String> {
    let users = front_end.users()[users].iter();
    let twice = users.filter(|user| {
        user.requests()
            .iter()
            .filter(|sent| sent.method == "INVITE")
            .count()
            > 1
    });
    twice.map(|user| user.identity.user.clone()).collect()
}

/// Enough that a table moves, few enough that a small machine keeps up.
const CALLED_AT_A_TIME: usize = 40;
const BREATH: Duration = Duration::from_millis(200);
