//! Answers to clients, and to the front ends before them: the way they go, and what a refusal says.

use std::collections::BTreeSet;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use tandem_cluster::SessionKey;
use tandem_sip::RawMessage;

use crate::sip::transaction;

use super::pairs::Pairs;
use super::session::QueuedRequest;
use super::{Gateway, GatewayConfig, Output, PairId, Report, new_tag};

/// What it takes to answer a request. Every final answer is counted, and settles what its pairs wait for.
pub(super) struct Answers<'a> {
    config: &'a GatewayConfig,
    pairs: &'a mut Pairs,
    rng: &'a mut StdRng,
    outputs: &'a mut Vec<Output>,
}

impl Gateway {
    pub(super) fn answers(&mut self) -> Answers<'_> {
        Answers::new(&self.config, &mut self.pairs, &mut self.rng, &mut self.outputs)
    }
}

impl<'a> Answers<'a> {
    pub(super) fn new(
        config: &'a GatewayConfig,
        pairs: &'a mut Pairs,
        rng: &'a mut StdRng,
        outputs: &'a mut Vec<Output>,
    ) -> Self {
        Self {
            config,
            pairs,
            rng,
            outputs,
        }
    }

    /// Sends a final answer over each connection that the request came by, or another pair of the same client
    /// connection. When all are gone the front end asks again.
    pub(super) fn send(&mut self, queued: &QueuedRequest, bytes: Bytes, service: &'static str, status: u16) {
        let mut pairs = BTreeSet::new();
        for pair in queued.pairs() {
            pairs.extend(self.pairs.for_answer(pair, queued.connection));
            self.pairs.answered(pair);
        }
        let send = |pair| Output::Send {
            pair,
            bytes: bytes.clone(),
        };
        self.outputs.extend(pairs.into_iter().map(send));
        self.report_answered(service, status);
    }

    /// Answers a message that belongs to no session.
    pub(super) fn plainly(
        &mut self,
        pair: PairId,
        raw: &RawMessage,
        status: u16,
        service: &'static str,
        extra_headers: &[(&str, &str)],
    ) {
        let tag = self.new_tag();
        let bytes = transaction::plain(raw, status, &tag, extra_headers);
        self.outputs.push(Output::Send { pair, bytes });
        self.pairs.answered(pair);
        self.report_answered(service, status);
    }

    /// Counts off a copy of a request that is answered elsewhere.
    pub(super) fn leave_unanswered(&mut self, pair: Option<PairId>) {
        if let Some(pair) = pair {
            self.pairs.answered(pair);
        }
    }

    /// Answers a request of the dialog `key`, without more.
    pub(super) fn in_session(
        &mut self,
        key: &SessionKey,
        queued: &QueuedRequest,
        status: u16,
        service: &'static str,
    ) {
        let bytes = transaction::plain(&queued.raw, status, key.as_str(), &[]);
        self.send(queued, bytes, service, status);
    }

    /// RFC 3261 §11.2: what the dialog offers.
    pub(super) fn options(&mut self, queued: &QueuedRequest) {
        let allow = [
            ("Allow", transaction::ALLOW),
            ("Allow-Events", transaction::ALLOW_EVENTS),
        ];
        let bytes = transaction::plain(&queued.raw, 200, "", &allow);
        self.send(queued, bytes, "OPTIONS", 200);
    }

    pub(super) fn refuse(&mut self, queued: &QueuedRequest, status: u16) {
        let bytes = transaction::plain(&queued.raw, status, "", &[]);
        self.send(queued, bytes, "in_dialog", status);
    }

    pub(super) fn refuse_method(&mut self, queued: &QueuedRequest, status: u16) {
        let bytes = transaction::plain(&queued.raw, status, "", &[("Allow", transaction::ALLOW)]);
        self.send(queued, bytes, "method", status);
    }

    /// 500 with Retry-After: a node sends a client neither 503 nor 408 (ARCHITECTURE.md §4).
    pub(super) fn refuse_for_now(&mut self, queued: &QueuedRequest) {
        let retry_after = self.retry_after();
        let bytes = transaction::plain(&queued.raw, 500, "", &[("Retry-After", &retry_after)]);
        self.send(queued, bytes, "in_dialog", 500);
    }

    /// Nobody owns what the request is for.
    pub(super) fn refuse_unknown(&mut self, queued: &QueuedRequest) {
        let bytes = transaction::plain(&queued.raw, 481, "", &[]);
        self.send(queued, bytes, "unknown_dialog", 481);
    }

    /// 503 to the front end, which asks the owner instead; no client sees it.
    pub(super) fn send_to_owner(&mut self, key: &SessionKey, queued: &QueuedRequest) {
        let bytes = transaction::plain(&queued.raw, 503, key.as_str(), &[NOT_OWNER]);
        self.send(queued, bytes, "not_owner", 503);
    }

    pub(super) fn new_tag(&mut self) -> String {
        new_tag(self.config.node, self.rng)
    }

    pub(super) fn retry_after(&mut self) -> String {
        let secs = self.rng.random_range(1..=self.config.retry_after_secs_max.max(1));
        secs.to_string()
    }

    fn report_answered(&mut self, service: &'static str, status: u16) {
        self.outputs
            .push(Output::Report(Report::Answered { service, status }));
    }
}

/// What tells this answer from any other 503.
const NOT_OWNER: (&str, &str) = ("Warning", "399 tandem-node \"another node owns the dialog\"");
