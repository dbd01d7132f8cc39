//! A simulated Exchange: several Client Access Servers over one mail store, as strict as the real one.
//!
//! Owns mailboxes, subscriptions, the servers and their sockets, and what goes wrong at them. Does not own any
//! client, and shares no code with one: it reads and writes XML of its own. What always holds: whatever a client
//! does against the schema stands in the violations, and what it asks rightly is answered as Exchange answers it.
//! The pure parts (`server`, `subscriptions`, `mail_store`, `request`, `answer`) have no socket; `backend`, `cas` and
//! `callback` are their shells.

pub mod account;
pub mod answer;
pub mod backend;
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
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use tandem_runtime::io::environment;
use tokio::sync::mpsc;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};

use crate::actor::Machine;
use account::Account;
use backend::Backend;
use callback::Call;
use cas::Door;
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
    /// Who may sign in.
    pub account: Account,
}

/// A running Exchange. It ends with this value.
#[derive(Debug)]
pub struct Exchange {
    backend: Backend,
    doors: Vec<Door>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// The servers and the ways out of them.
#[derive(Debug)]
struct Site {
    servers: Servers,
    streams: HashMap<(usize, StreamNumber), mpsc::UnboundedSender<String>>,
    /// By server: one that is down calls nobody.
    calls: HashMap<usize, mpsc::UnboundedSender<Call>>,
    /// Advertised address → where callbacks for it go instead.
    detours: HashMap<SocketAddr, SocketAddr>,
}

impl Exchange {
    /// Starts every server; they are named `cas1`, `cas2` and so on.
    pub async fn start(site: ExchangeSite) -> anyhow::Result<Self> {
        let (backend, running) = Backend::new(site.listen.len(), site.timing, site.account);
        let (calls, outgoing) = mpsc::unbounded_channel();
        let calling = callback::run(outgoing, site.callback_tls.clone(), backend.handle.clone());
        tokio::spawn(running);
        let mut exchange = Self {
            tasks: vec![tokio::spawn(calling), tokio::spawn(backend.clone().tick())],
            doors: Vec::new(),
            backend,
        };
        for (number, address) in site.listen.iter().enumerate() {
            let tls = site.tls.as_ref().and_then(|configs| configs.get(number)).cloned();
            let mut door = Door::new(number, *address, tls, exchange.backend.handle.clone());
            door.open().await?;
            exchange.doors.push(door);
            let calls = calls.clone();
            exchange
                .backend
                .handle
                .tell(move |site| drop(site.calls.insert(number, calls)));
        }
        Ok(exchange)
    }

    /// Where a server listens; counted from 0, as everywhere.
    #[must_use]
    pub fn address(&self, cas: usize) -> SocketAddr {
        self.doors[cas].address()
    }

    /// The servers behind the sockets, for whoever only looks at calendars or changes them.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The process dies: listener closed, connections reset, subscriptions forgotten.
    pub async fn kill(&mut self, cas: usize) {
        self.doors[cas].kill().await;
        self.backend.handle.ask(move |site| site.died(cas)).await;
    }

    /// The connections of a server's streams break; it lives on.
    pub async fn break_streams(&self, cas: usize) {
        self.backend
            .handle
            .ask(move |site| site.streams.retain(|(number, _), _| *number != cas))
            .await;
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

/// Mailboxes are read and changed without a socket.
impl Deref for Exchange {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.backend
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Site {
    fn died(&mut self, cas: usize) {
        self.servers.died(cas);
        self.streams.retain(|(number, _), _| *number != cas);
    }

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
                    if let Some(calls) = self.calls.get(&cas) {
                        let _ = calls.send(Call {
                            cas,
                            subscription,
                            url,
                            body,
                            detours: self.detours.clone(),
                        });
                    }
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

/// Unix seconds.
#[must_use]
pub fn now_secs() -> i64 {
    now_ms() / 1000
}

/// Unix milliseconds.
#[must_use]
pub fn now_ms() -> i64 {
    i64::try_from(environment::unix_ms()).unwrap_or(i64::MAX)
}
