//! Limits and timeouts of a client connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The configured limits and timeouts, the same for all connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalancerSettings {
    /// Unanswered and recently answered requests of one connection.
    pub pending_requests_max: usize,
    /// Bytes kept for sending again, per connection.
    pub kept_bytes_max: usize,
    /// Requests that wait behind re-sent ones, per connection.
    pub waiting_requests_max: usize,
    /// How often one request is given to a node before the client is answered 500.
    pub attempts_max: u32,
    /// How long a request waits behind re-sent ones of its dialog, or for a node.
    pub wait: Duration,
    /// A lost or refused pair is opened again after this.
    pub pair_retry: Duration,
    /// A node that owes an answer and sends nothing for this long is checked.
    pub unanswered: Duration,
    /// Lifetime of an unanswered INVITE (RFC 3261 §16.6 timer C: more than three minutes).
    pub invite_lifetime: Duration,
    /// Lifetime of any other unanswered request (64 × T1 and a little).
    pub request_lifetime: Duration,
    /// How long an answered transaction is remembered, for ACKs and second answers (64 × T1).
    pub answered_lifetime: Duration,
    /// An idle connection for re-sent requests is closed after this.
    pub resent_pair_idle: Duration,
    /// After the client closed its side, answers are still delivered for this long.
    pub half_close: Duration,
    /// After framing was lost, what came before is still answered for this long.
    pub framing_lost: Duration,
}

impl Default for BalancerSettings {
    fn default() -> Self {
        Self {
            pending_requests_max: 16_384,
            kept_bytes_max: 32 * 1024 * 1024,
            waiting_requests_max: 4_096,
            attempts_max: 4,
            wait: Duration::from_secs(5),
            pair_retry: Duration::from_secs(1),
            unanswered: Duration::from_millis(500),
            invite_lifetime: Duration::from_secs(200),
            request_lifetime: Duration::from_secs(40),
            answered_lifetime: Duration::from_secs(32),
            resent_pair_idle: Duration::from_secs(5),
            half_close: Duration::from_secs(32),
            framing_lost: Duration::from_secs(5),
        }
    }
}

/// The budget of bytes that all connections together may keep for sending again.
#[derive(Debug)]
pub struct ByteBudget {
    used: AtomicUsize,
    bytes_max: usize,
}

impl ByteBudget {
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            bytes_max,
        }
    }

    /// Takes `bytes` from the budget; `false` when less is left.
    pub fn take(&self, bytes: usize) -> bool {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        let granted = before.saturating_add(bytes) <= self.bytes_max;
        if !granted {
            self.give_back(bytes);
        }
        granted
    }

    /// Returns `bytes` to the budget.
    pub fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The bytes taken and not given back.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}
