//! What all Client Access Servers share, behind their sockets: the mail store, the account, every server's subscriptions.
//!
//! Owns the task that they live in. Does not own a listener or a connection: an [`Exchange`](super::Exchange) has them all
//! in one process, and in a simulated world [`serve`] is one server on a machine of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tandem_runtime::io::environment;
use tokio::sync::mpsc;

use super::account::Account;
use super::callback;
use super::cas::Door;
use super::faults::{Effect, Fault};
use super::mail_store::{Appointment, ItemId, Status};
use super::server::{Health, Servers};
use super::subscriptions::Timing;
use super::{Site, now_ms, now_secs};
use crate::actor::Handle;

/// Reaches the servers. Clones reach the same ones.
#[derive(Debug, Clone)]
pub struct Backend {
    pub(super) handle: Handle<Site>,
}

impl Backend {
    /// So many servers, named `cas1`, `cas2` and so on, and the work of their task, which somebody has to run; it ends
    /// when the last clone is dropped.
    pub fn new(
        servers: usize,
        timing: Timing,
        account: Account,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let names: Vec<_> = (1..=servers).map(|number| format!("cas{number}")).collect();
        let (handle, running) = Handle::apart(Site {
            servers: Servers::new(&names, timing, account),
            streams: HashMap::new(),
            calls: HashMap::new(),
            detours: HashMap::new(),
        });
        (Self { handle }, running)
    }

    /// Lets time pass for the servers, until their task has ended.
    pub async fn tick(self) {
        let mut interval = tokio::time::interval(TICK);
        loop {
            interval.tick().await;
            if !self.handle.tell(|site| site.servers.tick(environment::now())) {
                return;
            }
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
        let created =
            self.ask(move |servers| servers.create(&owner, appointment, environment::now(), now_ms()));
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
        let modified =
            self.ask(move |servers| servers.modify(&owner, item, environment::now(), now_ms(), edit));
        anyhow::ensure!(modified.await, "{address} has no {item:?}");
        Ok(())
    }

    /// As a user deletes.
    pub async fn delete(&self, address: &str, item: ItemId) -> anyhow::Result<()> {
        let owner = address.to_owned();
        let deleted = self.ask(move |servers| servers.delete(&owner, item, environment::now(), now_ms()));
        anyhow::ensure!(deleted.await, "{address} has no {item:?}");
        Ok(())
    }

    /// Whether a server, counted from 0, asks everybody for patience.
    pub fn throttle(&self, cas: usize, throttles: bool) {
        self.handle.tell(move |site| {
            let server = site.servers.cas_mut(cas);
            server.faults.clear();
            if throttles {
                server.fail(Fault::always(Effect::Busy { back_off: BACK_OFF }));
            }
        });
    }

    /// Callbacks to one address go to another, as with a balancer in between.
    pub async fn redirect_callbacks(&self, detours: HashMap<SocketAddr, SocketAddr>) {
        self.handle.ask(move |site| site.detours = detours).await;
    }
}

/// One server, counted from 0, in plain HTTP: until the process ends, with which its subscriptions are forgotten.
///
/// # Errors
/// When it cannot listen there.
pub async fn serve(backend: Backend, cas: usize, address: SocketAddr) -> anyhow::Result<()> {
    let (calls, outgoing) = mpsc::unbounded_channel();
    let site = backend.handle.clone();
    site.ask(move |site| {
        site.servers.cas_mut(cas).health = Health::Up;
        site.calls.insert(cas, calls);
    })
    .await;
    let _process = Process {
        cas,
        site: site.clone(),
    };
    let mut door = Door::new(cas, address, None, site.clone());
    door.open().await?;
    callback::run(outgoing, None, site).await;
    Ok(())
}

/// Tells the others when the process has ended, however it did.
struct Process {
    cas: usize,
    site: Handle<Site>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let cas = self.cas;
        self.site.tell(move |site| {
            site.died(cas);
            site.calls.remove(&cas);
        });
    }
}

/// Shorter than what Exchange asks for, as everything in a world of minutes.
const BACK_OFF: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(50);
