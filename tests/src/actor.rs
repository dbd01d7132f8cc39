//! One task owns one simulated peer; others reach it through a [`Handle`].
//!
//! Owns the mailbox and the waiting for conditions. Does not own sockets: those tasks put what they read into
//! the mailbox like everybody else. A condition is looked at whenever the peer has changed, so a story waits
//! for what it wants to see and never for time to pass.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::{mpsc, oneshot};

/// A peer that leaves outputs behind when it has been changed.
pub trait Machine: Send + 'static {
    /// Carries out what the last change asked for. Called after every change.
    fn perform_outputs(&mut self);
}

type Change<M> = Box<dyn FnOnce(&mut M) + Send>;

enum Order<M> {
    Change(Change<M>),
    Wait(Wait<M>),
}

struct Wait<M> {
    condition: Box<dyn FnMut(&M) -> bool + Send>,
    done: oneshot::Sender<()>,
}

/// Reaches the task that owns `M`.
pub struct Handle<M> {
    orders: mpsc::UnboundedSender<Order<M>>,
}

impl<M> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self {
            orders: self.orders.clone(),
        }
    }
}

impl<M> fmt::Debug for Handle<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Handle")
    }
}

impl<M: Machine> Handle<M> {
    /// Starts the task; it ends when the last handle is dropped.
    pub fn start(make: impl FnOnce(Self) -> M) -> Self {
        let (orders, mailbox) = mpsc::unbounded_channel();
        let handle = Self { orders };
        // The machine holds no strong handle to itself: its shells do, and they end with their sockets.
        let machine = make(handle.clone());
        tokio::spawn(run(machine, mailbox));
        handle
    }

    /// A handle to `machine`, and the work of its task, for whoever runs it where it belongs.
    pub fn apart(machine: M) -> (Self, impl Future<Output = ()> + Send) {
        let (orders, mailbox) = mpsc::unbounded_channel();
        (Self { orders }, run(machine, mailbox))
    }

    /// Changes the peer without waiting for it. `false` when it is gone.
    pub fn tell(&self, change: impl FnOnce(&mut M) + Send + 'static) -> bool {
        self.orders.send(Order::Change(Box::new(change))).is_ok()
    }

    /// Changes or reads the peer and brings back what the closure returns.
    pub async fn ask<R: Send + 'static>(&self, question: impl FnOnce(&mut M) -> R + Send + 'static) -> R {
        let (answer, result) = oneshot::channel();
        self.tell(move |machine| drop(answer.send(question(machine))));
        result
            .await
            .expect("a simulated peer does not end while a story talks to it")
    }

    /// Waits until `condition` holds; an error that names `what` when it does not within `deadline`.
    pub async fn wait_until(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl FnMut(&M) -> bool + Send + 'static,
    ) -> anyhow::Result<()> {
        let (done, result) = oneshot::channel();
        let wait = Wait {
            condition: Box::new(condition),
            done,
        };
        if self.orders.send(Order::Wait(wait)).is_err() {
            bail!("the simulated peer has ended while waiting until {what}");
        }
        tokio::time::timeout(deadline, result)
            .await
            .with_context(|| format!("waited {deadline:?} in vain until {what}"))?
            .context("the simulated peer has ended")
    }
}

async fn run<M: Machine>(mut machine: M, mut mailbox: mpsc::UnboundedReceiver<Order<M>>) {
    let mut waits: Vec<Wait<M>> = Vec::new();
    let mut orders = Vec::new();
    while mailbox.recv_many(&mut orders, BATCH).await > 0 {
        for order in orders.drain(..) {
            match order {
                Order::Change(change) => change(&mut machine),
                Order::Wait(wait) => waits.push(wait),
            }
        }
        machine.perform_outputs();
        waits = still_waiting(waits, &machine);
    }
}

fn still_waiting<M>(waits: Vec<Wait<M>>, machine: &M) -> Vec<Wait<M>> {
    let mut open = Vec::with_capacity(waits.len());
    for mut wait in waits {
        if wait.done.is_closed() {
            continue;
        }
        if (wait.condition)(machine) {
            let _ = wait.done.send(());
        } else {
            open.push(wait);
        }
    }
    open
}

/// Conditions may look at a thousand users, so they are not evaluated after every single message.
const BATCH: usize = 64;
