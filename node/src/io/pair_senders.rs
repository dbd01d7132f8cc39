//! The ways out to the front ends, one for each pair.

use std::collections::HashMap;

use bytes::Bytes;
use tandem_runtime::io::sip_stream::{SendRefused, SipSender};
use tracing::warn;

use crate::gateway::PairId;
use crate::metrics::NodeMetrics;

/// The pairs that stand. What is sent to another one is counted and gone.
#[derive(Debug, Default)]
pub struct PairSenders(HashMap<PairId, SipSender>);

impl PairSenders {
    pub(super) fn opened(&mut self, pair: PairId, sender: SipSender) {
        self.0.insert(pair, sender);
    }

    pub(super) fn closed(&mut self, pair: PairId) {
        self.0.remove(&pair);
    }

    pub(super) fn send(&self, pair: PairId, bytes: Bytes, metrics: &NodeMetrics) {
        let Some(sender) = self.0.get(&pair) else {
            return metrics.send_failures.inc();
        };
        match sender.try_send(bytes) {
            Ok(()) => {}
            Err(SendRefused::Full) => {
                // A front end that does not read is as good as gone; it asks again elsewhere.
                warn!(
                    ?pair,
                    "send queue full: the front end does not read; closing its connection"
                );
                metrics.send_failures.inc();
                sender.close();
            }
            Err(SendRefused::Closed) => metrics.send_failures.inc(),
        }
    }

    /// After what was sent before.
    pub(super) fn close(&self, pair: PairId) {
        if let Some(sender) = self.0.get(&pair) {
            sender.close();
        }
    }

    pub(super) fn close_all(&self) {
        self.0.values().for_each(SipSender::close);
    }
}
