//! People with calendars, and those who watch their presence.
//!
//! Owns the meetings, what presence has to show of each at every moment, and the watchers' subscriptions. Does not own the
//! servers behind which the calendars lie, nor what happens to these. What watchers were told is never corrected: a
//! subscription that was lost is made anew, as a watcher's program does.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tandem_runtime::io::environment;
use tokio::time::sleep;

use super::WorldOptions;
use super::truth::{Shown, Truth};
use crate::cluster::{Addresses, mailbox};
use crate::peers::exchange::backend::Backend;
use crate::peers::exchange::mail_store::{Appointment, ItemId, Status};
use crate::peers::exchange::now_ms;
use crate::peers::exchange::server::Servers;
use crate::peers::ocs::user_id;
use crate::peers::watcher::document::Document;
use crate::peers::watcher::subscription::Subscription;
use crate::peers::watcher::{Crowd, Watchers};

/// The calendars of some users.
pub(super) struct Calendars {
    pub(super) backend: Backend,
    pub(super) watchers: Watchers,
    pub(super) people: Range<usize>,
    random: StdRng,
    truths: BTreeMap<usize, Truth>,
    meetings: BTreeMap<usize, Vec<ItemId>>,
    /// User → the watcher's subscriptions, the present one last.
    watched: BTreeMap<usize, Vec<usize>>,
    /// The same moment by both clocks.
    began: (Instant, i64),
}

/// What a watcher was told at a moment.
#[derive(Debug, Clone)]
pub(super) struct Told {
    /// Unix milliseconds.
    pub(super) at_ms: i64,
    pub(super) document: Document,
}

impl Calendars {
    /// Some are in a meeting from the beginning; nobody is watched yet.
    pub(super) async fn begin(
        options: &WorldOptions,
        addresses: Addresses,
        backend: Backend,
    ) -> anyhow::Result<Self> {
        let people = options.people();
        let owners = people.clone();
        backend
            .ask(move |servers| {
                for user in owners {
                    servers.store_mut().add(&mailbox(user), &[], "mbx1");
                }
            })
            .await;
        let mut calendars = Self {
            backend,
            watchers: Watchers::start(addresses.ocs(1), addresses.vip()).await?,
            people,
            random: StdRng::seed_from_u64(options.seed ^ 0xca1),
            truths: BTreeMap::new(),
            meetings: BTreeMap::new(),
            watched: BTreeMap::new(),
            began: (environment::now(), now_ms()),
        };
        for user in calendars.people.clone() {
            let meeting = calendars.random.random_range(-30..20);
            calendars.meet(user, meeting..meeting + 60, Status::Busy).await?;
        }
        Ok(calendars)
    }

    /// Somebody is invited, somebody's meeting is moved, somebody's is cancelled.
    pub(super) async fn live(&mut self) -> anyhow::Result<()> {
        let user = self.anybody();
        let begins = self.random.random_range(-2..15);
        let lasts = self.random.random_range(8..40);
        let status = *[Status::Busy, Status::OutOfOffice, Status::Tentative]
            .choose(&mut self.random)
            .expect("there are three");
        self.meet(user, begins..begins + lasts, status).await?;
        let user = self.anybody();
        if let Some(item) = self.any_meeting_of(user) {
            let by = self.random.random_range(-20..20);
            self.change(user, move |servers, address, now, now_ms| {
                servers.modify(address, item, now, now_ms, |meeting| {
                    meeting.end = (meeting.end + by).max(meeting.start + 1);
                });
            })
            .await?;
        }
        let user = self.anybody();
        if self.random.random_ratio(1, 3)
            && let Some(item) = self.any_meeting_of(user)
        {
            self.change(user, move |servers, address, now, now_ms| {
                servers.delete(address, item, now, now_ms);
            })
            .await?;
        }
        Ok(())
    }

    /// A meeting of that status, in seconds from now.
    pub(super) async fn meet(&mut self, user: usize, when: Range<i64>, status: Status) -> anyhow::Result<()> {
        let item = self
            .change(user, move |servers, address, now, now_ms| {
                let now_secs = now_ms.div_euclid(1000);
                let meeting = Appointment::new(now_secs + when.start, now_secs + when.end, status);
                servers.create(address, meeting, now, now_ms)
            })
            .await?;
        self.meetings.entry(user).or_default().extend(item);
        Ok(())
    }

    /// Every calendar is empty from now on.
    pub(super) async fn clear(&mut self) -> anyhow::Result<()> {
        for user in self.people.clone() {
            self.meetings.remove(&user);
            self.change(user, |servers, address, now, now_ms| {
                let items = servers.store().get(address).map(|mailbox| mailbox.items.clone());
                for item in items.unwrap_or_default().into_keys() {
                    servers.delete(address, item, now, now_ms);
                }
            })
            .await?;
        }
        Ok(())
    }

    /// Renews each subscription, and makes those that are lost or missing; each watcher is told the present state.
    pub(super) async fn renew(&mut self, patience: Duration) -> anyhow::Result<()> {
        let end = environment::now() + patience;
        let mut missing: Vec<usize> = self.people.clone().collect();
        while !missing.is_empty() {
            ensure!(
                environment::now() < end,
                "nobody can watch {missing:?}: {:?}",
                self.answers_for(missing[0]).await
            );
            self.ask_for(&missing).await;
            let asked = missing.clone();
            let numbers: Vec<_> = asked.iter().filter_map(|user| self.present_of(*user)).collect();
            // Whoever is not answered in time asks again.
            let answered = move |crowd: &Crowd| {
                numbers
                    .iter()
                    .all(|&number| crowd.subscription(number).is_answered())
            };
            let _ = self
                .watchers
                .wait_until("each SUBSCRIBE is answered", ANSWERED_WITHIN, answered)
                .await;
            missing = self.without_subscription().await;
        }
        Ok(())
    }

    /// Refreshes where there is a subscription, and makes a new one elsewhere.
    async fn ask_for(&mut self, users: &[usize]) {
        // Without a connection the attempt fails, and is repeated.
        let connected =
            self.watchers
                .wait_until("the watchers are connected", ANSWERED_WITHIN, Crowd::is_connected);
        if connected.await.is_err() {
            return;
        }
        for &user in users {
            let present = self.present_of(user);
            let number = self
                .watchers
                .ask(move |crowd| match present {
                    Some(number) if crowd.subscription(number).stands() => {
                        crowd.subscribe(number, Some(EXPIRES_SECS));
                        None
                    }
                    Some(_) | None => {
                        let watched = format!("sip:{}", mailbox(user));
                        Some(crowd.watch(&user_id(0), &watched, "presence", Some(EXPIRES_SECS)))
                    }
                })
                .await;
            self.watched.entry(user).or_default().extend(number);
        }
        sleep(BETWEEN_ATTEMPTS).await;
    }

    async fn without_subscription(&self) -> Vec<usize> {
        let present: Vec<_> = self
            .people
            .clone()
            .map(|user| (user, self.present_of(user)))
            .collect();
        self.watchers
            .ask(move |crowd| {
                let stands =
                    |number: Option<usize>| number.is_some_and(|number| crowd.subscription(number).stands());
                let lost = present.into_iter().filter(|(_, number)| !stands(*number));
                lost.map(|(user, _)| user).collect()
            })
            .await
    }

    async fn answers_for(&self, user: usize) -> String {
        let numbers = self.watched.get(&user).cloned().unwrap_or_default();
        self.watchers
            .ask(move |crowd| {
                let answers = numbers.iter().map(|number| crowd.subscription(*number).answers());
                format!("{:?}", answers.collect::<Vec<_>>())
            })
            .await
    }

    fn present_of(&self, user: usize) -> Option<usize> {
        self.watched.get(&user)?.last().copied()
    }

    /// Everything that a user's watcher was told, oldest first.
    pub(super) async fn told(&self, user: usize) -> Vec<Told> {
        let numbers = self.watched.get(&user).cloned().unwrap_or_default();
        let (instant, unix_ms) = self.began;
        self.watchers
            .ask(move |crowd| {
                let subscriptions = numbers.iter().map(|number| crowd.subscription(*number));
                let mut told: Vec<Told> = subscriptions
                    .flat_map(Subscription::notifies)
                    .filter_map(|notify| {
                        let since = notify.at.saturating_duration_since(instant).as_millis();
                        Some(Told {
                            at_ms: unix_ms + i64::try_from(since).ok()?,
                            document: notify.document.clone()?,
                        })
                    })
                    .collect();
                told.sort_by_key(|told| told.at_ms);
                told
            })
            .await
    }

    pub(super) fn truth(&self, user: usize) -> &Truth {
        &self.truths[&user]
    }

    /// What presence has to show of a user's calendar now.
    pub(super) fn shown_now(&self, user: usize) -> Shown {
        let now = now_ms();
        let turns = self.truth(user).turns().iter();
        let last = turns.take_while(|turn| turn.at_ms <= now).last();
        last.map_or(Shown::Available, |turn| turn.shows)
    }

    /// How many subscriptions watchers have made so far.
    pub(super) fn subscriptions(&self) -> usize {
        self.watched.values().map(Vec::len).sum()
    }

    fn anybody(&mut self) -> usize {
        self.random.random_range(self.people.clone())
    }

    fn any_meeting_of(&mut self, user: usize) -> Option<ItemId> {
        self.meetings.get(&user)?.choose(&mut self.random).copied()
    }

    async fn change<R: Send + 'static>(
        &mut self,
        user: usize,
        change: impl FnOnce(&mut Servers, &str, Instant, i64) -> R + Send + 'static,
    ) -> anyhow::Result<R> {
        let address = mailbox(user);
        let (result, mailbox, at_ms) = self
            .backend
            .ask(move |servers| {
                let at_ms = now_ms();
                let result = change(servers, &address, environment::now(), at_ms);
                (result, servers.store().get(&address).cloned(), at_ms)
            })
            .await;
        let mailbox = mailbox.with_context(|| format!("user{user} has no mailbox"))?;
        self.truths.entry(user).or_default().changed(&mailbox, at_ms);
        Ok(result)
    }
}

const EXPIRES_SECS: u32 = 3600;
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(200);
