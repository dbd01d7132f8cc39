//! Whoever does things to machines, wires and clocks.

use std::time::Duration;

use tandem_runtime::io::environment::simulated::Fault;
use tokio::sync::mpsc;

/// What is to be done to the world, at the end of the present step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// SIGKILL.
    Kill(String),
    /// The machine loses its power, and its disk what was not synced.
    PowerOff(String),
    /// The same, so long after the process has begun the next file of its log.
    PowerOffWithNextFile(String, Duration),
    /// Starts the process again, after any of these.
    Start(String),
    /// SIGTERM.
    Terminate(String),
    /// SIGSTOP.
    Freeze(String),
    /// SIGCONT.
    Thaw(String),
    /// The wall clock is wrong by so many milliseconds.
    StepClock(String, i64),
    Disk(String, Option<Fault>),
    /// Nothing arrives any more that the first sends to the second.
    Cut(String, String),
    Heal(String, String),
    /// Everything to and from a machine takes longer by so much.
    SlowDown(String, Duration),
    /// Whether a Client Access Server, counted from 0, asks everybody for patience.
    Throttle(usize, bool),
}

/// Gives orders to the world. Clones give them to the same one.
#[derive(Debug, Clone)]
pub struct Operator(mpsc::UnboundedSender<Order>);

impl Operator {
    pub(super) fn new(orders: mpsc::UnboundedSender<Order>) -> Self {
        Self(orders)
    }

    /// Has it done at the end of the present step.
    pub fn order(&self, order: Order) {
        // A world that has ended needs no orders.
        let _ = self.0.send(order);
    }
}
