//! Connections between members that came to nothing, by cause: counted each time, said once a minute.

use std::io;
use std::time::Duration;

use prometheus::IntCounterVec;
use serde::{Deserialize, Serialize};

use tandem_cluster::NodeId;
use tandem_runtime::io::log_limit::LogLimit;

/// Why one member does not talk to another: what was seen, and what was wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(super) enum Refusal {
    #[error("it is of cluster {theirs:?}, and this member of {ours:?}")]
    AnotherCluster { theirs: String, ours: String },
    #[error("it looks for {wanted}, and this member is {ours}: the address belongs to another member")]
    AnotherMember { wanted: NodeId, ours: NodeId },
    #[error("this member's list of members has no {0}")]
    NotConfigured(NodeId),
    /// The text says which names the certificate has.
    #[error("{0}")]
    Certificate(String),
}

impl Refusal {
    fn label(&self) -> &'static str {
        let [another_cluster, another_member, not_configured, certificate] = REASONS;
        match self {
            Self::AnotherCluster { .. } => another_cluster,
            Self::AnotherMember { .. } => another_member,
            Self::NotConfigured(_) => not_configured,
            Self::Certificate(_) => certificate,
        }
    }
}

/// Which side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    /// Another member connected.
    In,
    /// This member connected.
    Out,
}

impl Direction {
    fn label(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// All pairs of direction and reason that are counted.
pub(super) fn labels() -> impl Iterator<Item = (&'static str, &'static str)> {
    [Direction::In, Direction::Out]
        .into_iter()
        .flat_map(|direction| REASONS.map(|reason| (direction.label(), reason)))
}

/// What was said already.
#[derive(Debug)]
pub(super) struct Refusals {
    counter: IntCounterVec,
    said: LogLimit<(Direction, String, &'static str)>,
}

impl Refusals {
    /// The counter has the labels `direction` and `reason`.
    pub(super) fn new(counter: IntCounterVec) -> Self {
        Self {
            counter,
            said: LogLimit::new(SAID_EVERY, SAID_MAX),
        }
    }

    /// This member refused one that connected from `address`.
    pub(super) fn refused(&self, from: &str, refusal: &Refusal) {
        if self.is_due(Direction::In, from, refusal.label()) {
            tracing::warn!(%from, reason = %refusal, "refused the connection of a member");
        }
    }

    /// `peer` refused this member's connection.
    pub(super) fn refused_by(&self, peer: NodeId, refusal: &Refusal) {
        if self.is_due(Direction::Out, &peer.to_string(), refusal.label()) {
            tracing::warn!(%peer, reason = %refusal, "a member refused this member's connection");
        }
    }

    /// A connection failed for another reason than that nobody answers.
    pub(super) fn failed(&self, direction: Direction, other: &str, error: &io::Error) {
        let Some((label, text)) = cause(error) else {
            return;
        };
        if self.is_due(direction, other, label) {
            tracing::warn!(
                other,
                direction = direction.label(),
                reason = text,
                "a connection between members failed"
            );
        }
    }

    fn is_due(&self, direction: Direction, other: &str, label: &'static str) -> bool {
        self.counter.with_label_values(&[direction.label(), label]).inc();
        self.said.is_due((direction, other.to_owned(), label)).is_some()
    }
}

/// What a failed connection means, for those failures that say something of the other end's identity or version.
fn cause(error: &io::Error) -> Option<(&'static str, String)> {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if let Some(error) = inner {
        let text = if let rustls::Error::AlertReceived(alert) = error {
            format!("the other end does not accept this member's certificate ({alert:?}): its log says why")
        } else if let rustls::Error::InvalidCertificate(reason) = error {
            format!("the other end's certificate is not accepted: {reason}")
        } else {
            error.to_string()
        };
        return Some(("tls", text));
    }
    (error.kind() == io::ErrorKind::InvalidData).then(|| ("protocol", error.to_string()))
}

/// Subjects at a time.
const SAID_MAX: usize = 64;
const REASONS: [&str; 4] = [
    "another_cluster",
    "another_member",
    "not_configured",
    "certificate",
];
const SAID_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use prometheus::Opts;

    use super::*;

    fn refusals() -> Refusals {
        let counter = IntCounterVec::new(Opts::new("refused", "For this test."), &["direction", "reason"]);
        Refusals::new(counter.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_is_said_once_a_minute_and_counted_each_time() {
        let refusals = refusals();
        let due = || refusals.is_due(Direction::In, "192.0.2.1", "tls");
        assert!(due());
        assert!(!due());
        assert!(refusals.is_due(Direction::Out, "192.0.2.1", "tls"));
        assert!(refusals.is_due(Direction::In, "192.0.2.1", "certificate"));
        tokio::time::advance(SAID_EVERY).await;
        assert!(due());
        let counted = refusals.counter.with_label_values(&["in", "tls"]).get();
        assert_eq!(counted, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn no_crowd_of_strangers_fills_the_memory_or_the_log() {
        let refusals = refusals();
        let said = (0..1000).filter(|number| refusals.is_due(Direction::In, &number.to_string(), "tls"));
        assert_eq!(said.count(), SAID_MAX);
    }

    #[test]
    fn silence_and_refused_connections_are_no_refusal_by_a_member() {
        for kind in [
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::TimedOut,
            io::ErrorKind::UnexpectedEof,
        ] {
            assert_eq!(cause(&kind.into()), None);
        }
    }
}
