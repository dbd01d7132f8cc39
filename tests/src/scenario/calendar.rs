//! The steps of stories about calendars: an Exchange beside the cluster, meetings, and what presence says of them.
//!
//! Judges are the simulated Exchange, which knows who is subscribed where and what every calendar says, and the
//! JSON API of both nodes as any client sees it.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{ensure_even, first};
use crate::cluster::{Cluster, ClusterOptions, DEADLINE, ExchangeOptions, Member, mailbox};
use crate::peers::exchange::mail_store::{MailStore, Status};
use crate::peers::exchange::server::Servers;
use crate::peers::exchange::{Exchange, now_secs};
use crate::peers::ocs::user_id;

/// A cluster whose users have calendars, owned or lent.
#[derive(Debug)]
pub struct CalendarScene<C = Cluster> {
    pub cluster: C,
    /// How long any one step waits before it fails.
    pub patience: Duration,
    pub users: usize,
}

/// Mailbox → the server at which it is heard, and how many Subscribes were granted so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub cas: BTreeMap<String, usize>,
    pub granted: usize,
}

impl CalendarScene {
    /// Starts everything and waits for nobody's subscription.
    pub async fn start(users: usize, exchange: ExchangeOptions) -> anyhow::Result<Self> {
        Self::with_calendars(users, exchange, |_| {}).await
    }

    /// As `start`; `fill` puts meetings into the calendars before any node runs.
    pub async fn with_calendars(
        users: usize,
        exchange: ExchangeOptions,
        fill: impl FnOnce(&mut Servers) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let options = ClusterOptions {
            users,
            cti_managers: 1,
            exchange: Some(exchange),
            ..ClusterOptions::default()
        };
        Self::with_cluster(options, fill).await
    }

    /// For those who want another kind of cluster; it must have an Exchange.
    pub async fn with_cluster(
        options: ClusterOptions,
        fill: impl FnOnce(&mut Servers) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let users = options.users;
        Ok(Self {
            cluster: Cluster::start_with_calendars(options, fill).await?,
            patience: DEADLINE,
            users,
        })
    }

    pub fn exchange_mut(&mut self) -> &mut Exchange {
        self.cluster.exchange_mut()
    }
}

impl<C: Borrow<Cluster>> CalendarScene<C> {
    /// Of a cluster that runs already.
    #[must_use]
    pub fn of(cluster: C, users: usize, patience: Duration) -> Self {
        Self {
            cluster,
            patience,
            users,
        }
    }

    #[must_use]
    pub fn exchange(&self) -> &Exchange {
        self.cluster.borrow().exchange()
    }

    /// Everyone of them is in a meeting from now on.
    pub async fn meet_now(
        &self,
        users: impl IntoIterator<Item = usize>,
        status: Status,
    ) -> anyhow::Result<()> {
        for user in users {
            self.exchange().meet_now(&mailbox(user), status).await?;
        }
        Ok(())
    }

    /// Waits until every user is heard at exactly one server.
    pub async fn everyone_is_heard(&self) -> anyhow::Result<Places> {
        let users = 0..self.users;
        self.are_heard(users.collect()).await
    }

    /// Waits until each of these users is heard at exactly one server, and nobody else at all.
    pub async fn are_heard(&self, users: BTreeSet<usize>) -> anyhow::Result<Places> {
        let wanted: BTreeSet<String> = users.iter().map(|user| mailbox(*user)).collect();
        let what = format!("{} users are heard at one server each", wanted.len());
        let awaited = wanted.clone();
        let waited = self
            .exchange()
            .wait_until(&what, self.patience, move |servers| {
                let heard = servers.heard();
                heard.len() == awaited.len()
                    && awaited
                        .iter()
                        .all(|mailbox| heard.get(mailbox).is_some_and(|cas| cas.len() == 1))
            })
            .await;
        if let Err(error) = waited {
            let (heard, violations) = self
                .exchange()
                .ask(|servers| (servers.heard(), servers.violations().to_vec()))
                .await;
            let missing = wanted.iter().filter(|mailbox| !heard.contains_key(*mailbox));
            let missing: Vec<_> = missing.cloned().collect();
            let twice = heard.iter().filter(|(_, cas)| cas.len() > 1);
            let twice: Vec<_> = twice
                .map(|(mailbox, cas)| format!("{mailbox} at {cas:?}"))
                .collect();
            return Err(error.context(format!(
                "{} are not heard: {}; twice: {}; violations: {}",
                missing.len(),
                first(&missing),
                first(&twice),
                first(&violations)
            )));
        }
        Ok(self.places().await)
    }

    /// Who is heard where, now.
    pub async fn places(&self) -> Places {
        self.exchange()
            .ask(|servers| Places {
                cas: servers
                    .heard()
                    .into_iter()
                    .filter_map(|(mailbox, cas)| Some((mailbox, *cas.first()?)))
                    .collect(),
                granted: servers.granted().len(),
            })
            .await
    }

    /// As [`Self::everyone_is_heard`], and evenly over so many servers.
    pub async fn everyone_is_heard_evenly(&self, cas: usize) -> anyhow::Result<Places> {
        let places = self.everyone_is_heard().await?;
        ensure_even("users by server", &places.counts(), cas)?;
        Ok(places)
    }

    /// Waits until all nodes say of every user what his calendar says.
    pub async fn everyone_is_right(&self) -> anyhow::Result<()> {
        self.right_about(0..self.users).await
    }

    /// Waits until all nodes say of these users what their calendars say.
    pub async fn right_about(&self, users: Range<usize>) -> anyhow::Result<()> {
        for node in self.live_nodes() {
            self.right_about_at(users.clone(), node).await?;
        }
        Ok(())
    }

    async fn right_about_at(&self, users: Range<usize>, node: Member) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let wrong = self.wrong_at(node, users.clone()).await?;
            if wrong.is_empty() {
                return Ok(());
            }
            ensure!(
                started.elapsed() < self.patience,
                "{node} is wrong about {} users: {}",
                wrong.len(),
                first(&wrong)
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// What that node says of these users that their calendars do not.
    pub async fn wrong_at(&self, node: Member, users: Range<usize>) -> anyhow::Result<Vec<String>> {
        let told = self.calendars_at(node).await?;
        let truth = self
            .exchange()
            .ask(move |servers| {
                let now = now_secs();
                let states = users.map(|user| (user_id(user), state_in(servers.store(), user, now)));
                states.collect::<BTreeMap<_, _>>()
            })
            .await;
        Ok(truth
            .iter()
            .filter(|(user, state)| told.get(*user).map(String::as_str) != Some(**state))
            .map(|(user, state)| format!("{user} is {state} and not {:?}", told.get(user)))
            .collect())
    }

    /// User → the state of his calendar, as a node tells it, page by page.
    pub async fn calendars_at(&self, node: Member) -> anyhow::Result<BTreeMap<String, String>> {
        let mut told = BTreeMap::new();
        let mut path = "/presence?limit=1000".to_owned();
        loop {
            let page = self.cluster.borrow().get(node, &path).await?;
            for view in page["users"].as_array().into_iter().flatten() {
                let (user, state) = (view["user"].as_str(), view["calendar"]["state"].as_str());
                if let (Some(user), Some(state)) = (user, state) {
                    told.insert(user.to_owned(), state.to_owned());
                }
            }
            match page["next"].as_str() {
                Some(next) => path = format!("/presence?limit=1000&after={next}"),
                None => return Ok(told),
            }
        }
    }

    /// Waits until both nodes say that of a user: his availability, as `in_a_meeting`.
    pub async fn is(&self, user: usize, availability: &str) -> anyhow::Result<()> {
        for node in self.live_nodes() {
            let view = |presence: &Value| presence["availability"] == availability;
            self.presence_at(node, user, availability, view).await?;
        }
        Ok(())
    }

    /// Waits until a node's presence of a user is as `condition` wants it.
    pub async fn presence_at(
        &self,
        node: Member,
        user: usize,
        what: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        self.wait_for(node, &format!("/presence/{}", user_id(user)), what, condition)
            .await
    }

    /// Waits until a node has forgotten a user who left the directory.
    pub async fn knows_nobody_of_that_name(&self, node: Member, user: usize) -> anyhow::Result<()> {
        let started = Instant::now();
        let path = format!("/presence/{}", user_id(user));
        loop {
            let answer = self.cluster.borrow().http(node, "GET", &path, "").await?;
            if answer.status == 404 {
                return Ok(());
            }
            ensure!(started.elapsed() < self.patience, "{node} still says {answer:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until what a node answers there is as `condition` wants it.
    pub async fn wait_for(
        &self,
        node: Member,
        path: &str,
        what: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let started = Instant::now();
        loop {
            let answer = self.cluster.borrow().get(node, path).await;
            if let Ok(value) = &answer
                && condition(value)
            {
                return answer;
            }
            if started.elapsed() > self.patience {
                bail!(
                    "waited {:?} in vain until {node} says of {path}: {what}; it says {answer:?}",
                    self.patience
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The nodes that run.
    #[must_use]
    pub fn live_nodes(&self) -> Vec<Member> {
        let nodes = [Member::Node(1), Member::Node(2)];
        nodes
            .into_iter()
            .filter(|node| self.cluster.borrow().is_running(*node))
            .collect()
    }

    /// User → server and epoch, as a node has it.
    pub async fn assignments(&self, node: Member) -> anyhow::Result<BTreeMap<String, (String, u64)>> {
        self.assignments_of(node, 0..self.users).await
    }

    pub async fn assignments_of(
        &self,
        node: Member,
        users: Range<usize>,
    ) -> anyhow::Result<BTreeMap<String, (String, u64)>> {
        let mut assignments = BTreeMap::new();
        for user in users {
            let user = user_id(user);
            let path = format!("/exchange/users/{user}");
            let explained = self.cluster.borrow().get(node, &path).await?;
            let cas = explained["gateway"].as_str().context("no assignment")?.to_owned();
            let epoch = explained["epoch"].as_u64().context("no epoch")?;
            assignments.insert(user, (cas, epoch));
        }
        Ok(assignments)
    }

    /// The end of a story: Exchange has seen nothing wrong.
    pub async fn verdict(&self) -> anyhow::Result<()> {
        let violations = self.exchange().ask(|servers| servers.violations().to_vec()).await;
        ensure!(
            violations.is_empty(),
            "{} violations seen by Exchange: {}",
            violations.len(),
            first(&violations)
        );
        self.cluster.borrow().dismiss();
        Ok(())
    }
}

impl Places {
    /// How many users each server has that has any.
    #[must_use]
    pub fn counts(&self) -> Vec<usize> {
        counted(self.cas.values())
    }

    /// How many of these users each server has that has any of them.
    #[must_use]
    pub fn counts_of(&self, users: &BTreeSet<String>) -> Vec<usize> {
        counted(users.iter().filter_map(|mailbox| self.cas.get(mailbox)))
    }

    /// The users of one server.
    #[must_use]
    pub fn at(&self, cas: usize) -> BTreeSet<String> {
        let there = self.cas.iter().filter(|(_, place)| **place == cas);
        there.map(|(mailbox, _)| mailbox.clone()).collect()
    }

    /// Fails unless everybody but these is where he was.
    pub fn ensure_nobody_moved_but(&self, before: &Self, moved: &BTreeSet<String>) -> anyhow::Result<()> {
        let strayed: Vec<_> = before
            .cas
            .iter()
            .filter(|(mailbox, cas)| !moved.contains(*mailbox) && self.cas.get(*mailbox) != Some(*cas))
            .map(|(mailbox, cas)| format!("{mailbox} from {cas} to {:?}", self.cas.get(mailbox)))
            .collect();
        ensure!(
            strayed.is_empty(),
            "{} moved without need: {}",
            strayed.len(),
            first(&strayed)
        );
        Ok(())
    }
}

fn counted<'a>(places: impl Iterator<Item = &'a usize>) -> Vec<usize> {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for cas in places {
        *counts.entry(*cas).or_default() += 1;
    }
    counts.into_values().collect()
}

/// The user's calendar in the words of the JSON API.
#[must_use]
pub fn state_in(store: &MailStore, user: usize, at: i64) -> &'static str {
    let status = store.get(&mailbox(user)).map(|mailbox| mailbox.status_at(at));
    match status {
        None | Some(Status::NoData) => "unknown",
        Some(Status::Free) => "free",
        Some(Status::Tentative) => "tentative",
        Some(Status::WorkingElsewhere) => "working_elsewhere",
        Some(Status::Busy) => "busy",
        Some(Status::OutOfOffice) => "out_of_office",
    }
}

const POLL: Duration = Duration::from_millis(100);
