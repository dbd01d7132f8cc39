//! A simulated Exchange: several Client Access Servers over one mail store, as strict as the real one.
//!
//! Owns mailboxes, subscriptions, the servers and their sockets, and what goes wrong at them. Does not own any
//! client, and shares no code with one: it reads and writes XML of its own. What always holds: whatever a client
//! does against the schema stands in the violations, and what it asks rightly is answered as Exchange answers it.
//! The pure parts (`server`, `subscriptions`, `mail_store`, `request`, `answer`) have no socket; `cas` and
//! `callback` are their shells.

pub mod account;
pub mod answer;
mod callback;
mod cas;
pub mod document;
pub mod faults;
pub mod mail_store;
pub mod notification;
pub mod operation;
pub mod recurrence;
pub mod request;
pub mod server;
pub mod subscriptions;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use tokio::sync::mpsc;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};

use crate::actor::{Handle, Machine};
use account::Account;
use callback::Call;
use cas::Door;
use mail_store::{Appointment, ItemId, Status};
use request::{Refusal, Request};
use server::{Head, Health, Output, Reply, Servers};
use subscriptions::{StreamNumber, Timing};

/// What kind of Exchange to start.
#[derive(Debug, Clone)]
pub struct ExchangeSite {
    /// Where each server listens.
    pub listen: Vec<SocketAddr>,
    /// For each server; none: plain HTTP.
    pub tls: Option<Vec<Arc<ServerConfig>>>,
    /// For callbacks to `https`.
    pub callback_tls: Option<Arc<ClientConfig>>,
    pub timing: Timing,
    /// All names of the account that may sign in.
    pub account_names: Vec<String>,
    pub password: String,
}

/// A running Exchange. It ends with this value.
#[derive(Debug)]
pub struct Exchange {
    handle: Handle<Site>,
    doors: Vec<Door>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// The servers and the ways out of them.
#[derive(Debug)]
struct Site {
    servers: Servers,
    streams: HashMap<(usize, StreamNumber), mpsc::UnboundedSender<String>>,
    calls: mpsc::UnboundedSender<Call>,
    /// Advertised address → where callbacks for it go instead.
    detours: HashMap<SocketAddr, SocketAddr>,
}

impl Exchange {
    /// Starts every server; they are named `cas1`, `cas2` and so on.
    pub async fn start(site: ExchangeSite) -> anyhow::Result<Self> {
        let names: Vec<_> = (1..=site.listen.len())
            .map(|number| format!("cas{number}"))
            .collect();
        let account_names: Vec<_> = site.account_names.iter().map(String::as_str).collect();
        let account = Account::new(&account_names, &site.password);
        let (calls, outgoing) = mpsc::unbounded_channel();
        let handle = Handle::start(|_| Site {
            servers: Servers::new(&names, site.timing, account),
            streams: HashMap::new(),
            calls,
            detours: HashMap::new(),
        });
        let calling = callback::run(outgoing, site.callback_tls.clone(), handle.clone());
        let mut exchange = Self {
            tasks: vec![tokio::spawn(calling), tokio::spawn(tick(handle.clone()))],
            doors: Vec::new(),
            handle,
        };
        for (number, address) in site.listen.iter().enumerate() {
            let tls = site.tls.as_ref().and_then(|configs| configs.get(number)).cloned();
            let mut door = Door::new(number, *address, tls, exchange.handle.clone());
            door.open().await?;
            exchange.doors.push(door);
        }
        Ok(exchange)
    }

    /// Where a server listens; counted from 0, as everywhere.
    #[must_use]
    pub fn address(&self, cas: usize) -> SocketAddr {
        self.doors[cas].address()
    }

    /// A second way to look at it, for those who draw tables.
    #[must_use]
    pub fn watcher(&self) -> ExchangeWatcher {
        ExchangeWatcher {
            handle: self.handle.clone(),
        }
    }

    /// Reads or changes the servers.
    pub async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Servers) -> R + Send + 'static,
    ) -> R {
        self.handle.ask(|site| question(&mut site.servers)).await
    }

    /// Waits until the servers are as `condition` wants them.
    pub async fn wait_until(
        &self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut(&Servers) -> bool + Send + 'static,
    ) -> anyhow::Result<()> {
        let condition = move |site: &Site| condition(&site.servers);
        self.handle.wait_until(what, deadline, condition).await
    }

    /// Puts an entry into a calendar.
    pub async fn create(&self, address: &str, appointment: Appointment) -> anyhow::Result<ItemId> {
        let owner = address.to_owned();
        let created = self.ask(move |servers| servers.create(&owner, appointment, Instant::now(), now_ms()));
        created.await.with_context(|| format!("{address} has no mailbox"))
    }

    /// A meeting from now on.
    pub async fn meet_now(&self, address: &str, status: Status) -> anyhow::Result<ItemId> {
        let now = now_secs();
        self.create(address, Appointment::new(now - 60, now + 3600, status))
            .await
    }

    /// Changes an entry.
    pub async fn modify(
        &self,
        address: &str,
        item: ItemId,
        edit: impl FnOnce(&mut Appointment) + Send + 'static,
    ) -> anyhow::Result<()> {
        let owner = address.to_owned();
        let modified = self.ask(move |servers| servers.modify(&owner, item, Instant::now(), now_ms(), edit));
        anyhow::ensure!(modified.await, "{address} has no {item:?}");
        Ok(())
    }

    /// As a user deletes.
    pub async fn delete(&self, address: &str, item: ItemId) -> anyhow::Result<()> {
        let owner = address.to_owned();
        let deleted = self.ask(move |servers| servers.delete(&owner, item, Instant::now(), now_ms()));
        anyhow::ensure!(deleted.await, "{address} has no {item:?}");
        Ok(())
    }

    /// The process dies: listener closed, connections reset, subscriptions forgotten.
    pub async fn kill(&mut self, cas: usize) {
        self.doors[cas].kill().await;
        self.handle
            .ask(move |site| {
                site.servers.died(cas);
                site.streams.retain(|(number, _), _| *number != cas);
            })
            .await;
    }

    /// The connections of a server's streams break; it lives on.
    pub async fn break_streams(&self, cas: usize) {
        self.handle
            .ask(move |site| site.streams.retain(|(number, _), _| *number != cas))
            .await;
    }

    /// Callbacks to one address go to another, as with a balancer in between.
    pub async fn redirect_callbacks(&self, detours: HashMap<SocketAddr, SocketAddr>) {
        self.handle.ask(move |site| site.detours = detours).await;
    }

    /// The machine stands still: connections are accepted by its kernel and nobody answers.
    pub async fn freeze(&self, cas: usize) {
        self.doors[cas].freeze();
        self.ask(move |servers| servers.cas_mut(cas).health = Health::Frozen)
            .await;
    }

    pub async fn thaw(&self, cas: usize) {
        self.ask(move |servers| servers.cas_mut(cas).health = Health::Up)
            .await;
        self.doors[cas].thaw();
    }

    /// A server that was killed starts anew.
    pub async fn restart(&mut self, cas: usize) -> anyhow::Result<()> {
        self.ask(move |servers| servers.cas_mut(cas).health = Health::Up)
            .await;
        self.doors[cas].open().await
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Looks at an Exchange, and keeps nothing of it alive.
#[derive(Debug, Clone)]
pub struct ExchangeWatcher {
    handle: Handle<Site>,
}

impl ExchangeWatcher {
    /// Reads the servers.
    pub async fn ask<R: Send + 'static>(&self, question: impl FnOnce(&Servers) -> R + Send + 'static) -> R {
        self.handle.ask(|site| question(&site.servers)).await
    }
}

impl Site {
    fn request(
        &mut self,
        cas: usize,
        head: &Head,
        request: &Result<Request, Refusal>,
        now: Instant,
    ) -> (Reply, Option<mpsc::UnboundedReceiver<String>>) {
        let reply = self.servers.request(cas, head, request, now);
        let documents = match &reply {
            Reply::Stream { stream, first } => {
                let (sender, documents) = mpsc::unbounded_channel();
                let _ = sender.send(first.clone());
                self.streams.insert((cas, *stream), sender);
                Some(documents)
            }
            Reply::Answer { .. } | Reply::Hang | Reply::CutOff { .. } => None,
        };
        (reply, documents)
    }

    fn stream_lost(&mut self, cas: usize, stream: StreamNumber, now: Instant) {
        self.streams.remove(&(cas, stream));
        self.servers.stream_lost(cas, stream, now);
    }
}

impl Machine for Site {
    fn perform_outputs(&mut self) {
        for output in self.servers.take_outputs() {
            match output {
                Output::Call {
                    cas,
                    subscription,
                    url,
                    body,
                } => {
                    let _ = self.calls.send(Call {
                        cas,
                        subscription,
                        url,
                        body,
                        detours: self.detours.clone(),
                    });
                }
                Output::Say {
                    cas,
                    stream,
                    document,
                    is_last,
                } => {
                    if let Some(sender) = self.streams.get(&(cas, stream)) {
                        let _ = sender.send(document);
                    }
                    if is_last {
                        self.streams.remove(&(cas, stream));
                    }
                }
            }
        }
    }
}

async fn tick(site: Handle<Site>) {
    let mut interval = tokio::time::interval(TICK);
    loop {
        interval.tick().await;
        if !site.tell(|site| site.servers.tick(Instant::now())) {
            return;
        }
    }
}

/// Unix seconds.
#[must_use]
pub fn now_secs() -> i64 {
    now_ms() / 1000
}

/// Unix milliseconds.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

const TICK: Duration = Duration::from_millis(50);
