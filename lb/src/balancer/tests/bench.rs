//! A test bench for the balancer: builds messages from a few parameters, and shows outputs as short text to compare.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tandem_cluster::{NodeId, SessionKey};
use tandem_sip::RawMessage;

use crate::io::clock::now;

use super::super::node_table::{KeepaliveState, NodeEntry, NodeTable};
use super::super::output::{Count, Output};
use super::super::ownership::Ownership;
use super::super::selection::Turns;
use super::super::settings::{BalancerSettings, ByteBudget};
use super::super::{Balancer, Input, PairId, PairLoss, PairPurpose, Shared};

pub(super) struct Bench {
    pub(super) balancer: Balancer,
    pub(super) ownership: Arc<Ownership>,
    pub(super) kept_in_all: Arc<ByteBudget>,
    pub(super) now: Instant,
    pub(super) counts: Vec<Count>,
}

impl Bench {
    /// Two nodes in service, and a client that has sent nothing yet.
    pub(super) fn new() -> Self {
        Self::with(BalancerSettings::default(), &[1, 2])
    }

    pub(super) fn with(settings: BalancerSettings, nodes: &[u64]) -> Self {
        let ownership = Arc::new(Ownership::default());
        let kept_in_all = Arc::new(ByteBudget::new(100_000));
        let shared = Shared {
            settings: Arc::new(settings),
            turns: Arc::new(Turns::default()),
            ownership: Arc::clone(&ownership),
            kept_in_all: Arc::clone(&kept_in_all),
        };
        let balancer = Balancer::new(shared, Arc::new(table(nodes)), 1);
        Self {
            balancer,
            ownership,
            kept_in_all,
            now: now(),
            counts: Vec::new(),
        }
    }

    /// Two nodes, and a client whose first message has opened its pairs: pair 0 leads to n1, pair 1 to n2.
    pub(super) fn standing() -> Self {
        Self::standing_with(BalancerSettings::default())
    }

    pub(super) fn standing_with(settings: BalancerSettings) -> Self {
        let mut bench = Self::with(settings, &[1, 2]);
        let opened = bench.client(&request("OPTIONS", "first", None));
        assert_eq!(opened, ["open 0 to n1", "open 1 to n2", "0 < OPTIONS first"]);
        bench.open(0);
        bench.open(1);
        assert_eq!(
            bench.node(0, &answer("OPTIONS", "first", 200, "n1-options")),
            ["client < 200 first"]
        );
        bench.counts.clear();
        bench
    }

    pub(super) fn feed(&mut self, input: Input) -> Vec<String> {
        let outputs = self.balancer.handle(input, self.now);
        let mut shown = Vec::new();
        for output in outputs {
            if let Output::Count(count) = output {
                self.counts.push(count);
            } else {
                shown.push(show(&output));
            }
        }
        shown
    }

    /// The whole text of the first message to the client.
    pub(super) fn text_to_client(&mut self, input: Input) -> Option<String> {
        let outputs = self.balancer.handle(input, self.now);
        outputs.iter().find_map(|output| {
            if let Output::SendToClient(bytes) = output {
                Some(String::from_utf8_lossy(bytes).into_owned())
            } else {
                None
            }
        })
    }

    pub(super) fn client(&mut self, text: &str) -> Vec<String> {
        self.feed(Input::ClientMessage(parse(text)))
    }

    pub(super) fn node(&mut self, pair: u32, text: &str) -> Vec<String> {
        self.feed(Input::PairMessage {
            pair: PairId(pair),
            message: parse(text),
        })
    }

    pub(super) fn open(&mut self, pair: u32) -> Vec<String> {
        self.feed(Input::PairOpened(PairId(pair)))
    }

    pub(super) fn lose(&mut self, pair: u32, loss: PairLoss) -> Vec<String> {
        self.feed(Input::PairLost {
            pair: PairId(pair),
            loss,
        })
    }

    /// Kills the process behind a pair: the pair breaks, and a new one is refused.
    pub(super) fn kill(&mut self, pair: u32, reopened: u32) -> Vec<String> {
        self.pass(Duration::from_secs(2));
        let mut outputs = self.lose(pair, PairLoss::Broken);
        outputs.extend(self.lose(reopened, PairLoss::ConnectFailed));
        outputs.retain(|output| !output.starts_with("doubt") && !output.starts_with("open"));
        outputs
    }

    pub(super) fn nodes(&mut self, nodes: &[u64]) -> Vec<String> {
        self.feed(Input::NodeTableChanged(Arc::new(table(nodes))))
    }

    pub(super) fn moved(&self, tag: &str, owner: u64) {
        let change = (SessionKey::new(tag), Some(NodeId(owner)));
        self.ownership.update([change].into_iter());
    }

    /// Lets time pass, and reports every deadline on the way to the balancer.
    pub(super) fn pass(&mut self, time: Duration) -> Vec<String> {
        let end = self.now + time;
        let mut outputs = Vec::new();
        while let Some(deadline) = self.balancer.next_deadline().filter(|&deadline| deadline <= end) {
            self.now = deadline.max(self.now);
            outputs.extend(self.feed(Input::DeadlineReached));
        }
        self.now = end;
        outputs
    }

    /// The outputs without those that only request a check.
    pub(super) fn without_doubts(&mut self, run: impl FnOnce(&mut Self) -> Vec<String>) -> Vec<String> {
        let mut outputs = run(self);
        outputs.retain(|output| !output.starts_with("doubt"));
        outputs
    }

    pub(super) fn count(&self, wanted: &Count) -> usize {
        self.counts.iter().filter(|count| *count == wanted).count()
    }

    pub(super) fn pending_at(&self, node: u64) -> i64 {
        let at = |count: &Count| {
            if let Count::Pending { node: at, change, .. } = count {
                i64::from(*at == NodeId(node)) * change
            } else {
                0
            }
        };
        self.counts.iter().map(at).sum()
    }
}

pub(super) fn table(nodes: &[u64]) -> NodeTable {
    let entry = |id: u64| NodeEntry {
        id: NodeId(id),
        address: ([10, 0, 0, u8::try_from(id).unwrap()], 5060).into(),
        state: if nodes.contains(&id) {
            KeepaliveState::Alive
        } else {
            KeepaliveState::Down
        },
        last_resort: false,
        weight: 1,
    };
    NodeTable::new(
        (1..=3)
            .filter(|&id| id < 3 || nodes.contains(&3))
            .map(entry)
            .collect(),
    )
}

pub(super) fn parse(text: &str) -> RawMessage {
    RawMessage::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

/// A request whose transaction is named `name`.
pub(super) fn request(method: &str, name: &str, to_tag: Option<&str>) -> String {
    let cseq_method = method;
    let to_tag = to_tag.map(|tag| format!(";tag={tag}")).unwrap_or_default();
    format!(
        "{method} sip:4711@vip SIP/2.0\r\nVia: SIP/2.0/TCP ocs;branch=z9hG4bK{name}\r\n\
         From: <sip:user@ocs>;tag=client\r\nTo: <sip:4711@vip>{to_tag}\r\nCall-ID: {name}\r\n\
         CSeq: 1 {cseq_method}\r\nContent-Length: 0\r\n\r\n"
    )
}

pub(super) fn answer(method: &str, name: &str, status: u16, to_tag: &str) -> String {
    let to_tag = if to_tag.is_empty() {
        String::new()
    } else {
        format!(";tag={to_tag}")
    };
    format!(
        "SIP/2.0 {status} Reason\r\nVia: SIP/2.0/TCP ocs;branch=z9hG4bK{name}\r\n\
         From: <sip:user@ocs>;tag=client\r\nTo: <sip:4711@vip>{to_tag}\r\nCall-ID: {name}\r\n\
         CSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
    )
}

/// A request of a node in the session with this tag.
pub(super) fn event(node: u64, name: &str, session: &str) -> String {
    format!(
        "INFO sip:user@ocs SIP/2.0\r\nVia: SIP/2.0/TCP vip;branch=z9hG4bKn{node}-{name}\r\n\
         From: <sip:4711@vip>;tag={session}\r\nTo: <sip:user@ocs>;tag=client\r\nCall-ID: {name}\r\n\
         CSeq: 7 INFO\r\nContent-Length: 0\r\n\r\n"
    )
}

pub(super) fn event_answer(branch: &str) -> String {
    format!(
        "SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP vip;branch={branch}\r\nFrom: <sip:4711@vip>;tag=x\r\n\
         To: <sip:user@ocs>;tag=client\r\nCall-ID: e\r\nCSeq: 7 INFO\r\nContent-Length: 0\r\n\r\n"
    )
}

fn show(output: &Output) -> String {
    match output {
        Output::OpenPair {
            pair, node, purpose, ..
        } => match purpose {
            PairPurpose::Ordinary => format!("open {} to {node}", pair.0),
            PairPurpose::Resent => format!("open {} to {node} for re-sent", pair.0),
        },
        Output::SendToNode { pair, bytes, .. } => format!("{} < {}", pair.0, show_bytes(bytes)),
        Output::DrainPair(pair) => format!("drain {}", pair.0),
        Output::ClosePair(pair) => format!("close {}", pair.0),
        Output::SendToClient(bytes) => format!("client < {}", show_bytes(bytes)),
        Output::CloseClient(reason) => format!("close client: {reason:?}"),
        Output::DoubtNode(node) => format!("doubt {node}"),
        Output::Count(count) => format!("{count:?}"),
    }
}

fn show_bytes(bytes: &Bytes) -> String {
    if &bytes[..] == b"\r\n" {
        return "CRLF".to_owned();
    }
    let message = RawMessage::parse(bytes.clone()).unwrap();
    let call_id = String::from_utf8_lossy(message.call_id()).into_owned();
    match message.status() {
        Some(status) => format!("{status} {call_id}"),
        None => format!(
            "{} {call_id}",
            String::from_utf8_lossy(message.method().unwrap_or_default())
        ),
    }
}
