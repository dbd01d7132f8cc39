//! Nodes that come and go at any moment: every request of the client is answered exactly once.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tandem_cluster::NodeId;
use tandem_sip::{RawMessage, write_answer};

use super::super::output::Output;
use super::super::{Input, PairId, PairLoss, PairPurpose};
use super::bench::{Bench, request, table};

/// What may happen next.
#[derive(Debug, Clone)]
enum Step {
    /// The client asks for a session, or for something in one of the first or the second node.
    Ask(Option<u64>),
    /// These nodes are in service.
    Nodes(Vec<u64>),
    /// A pair's task does what it was asked to, or reports what has happened.
    Drive(usize),
    /// A node answers the oldest request of one of its pairs, or says that it cannot.
    Answer(usize, bool),
    /// A node answers a request of a closed pair: the request arrived late, and the answer goes over another pair of the same
    /// client.
    AnswerLate(usize, bool),
    /// A pair breaks.
    Break(usize),
    Pass(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let nodes = prop_oneof![Just(vec![1, 2]), Just(vec![1]), Just(vec![2]), Just(vec![])];
    prop_oneof![
        4 => proptest::option::of(1..=2_u64).prop_map(Step::Ask),
        2 => nodes.prop_map(Step::Nodes),
        6 => any::<usize>().prop_map(Step::Drive),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(pair, well)| Step::Answer(pair, well)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(late, well)| Step::AnswerLate(late, well)),
        1 => any::<usize>().prop_map(Step::Break),
        2 => (1..3_000_u64).prop_map(Step::Pass),
    ]
}

/// The pairs' tasks and the nodes behind them.
struct World {
    bench: Bench,
    pairs: BTreeMap<PairId, Pair>,
    /// Requests that were written to a pair that is closed.
    late: Vec<(NodeId, Bytes)>,
    asked: usize,
    /// The number of final answers by request.
    answers: BTreeMap<String, usize>,
    /// Final answers that report a failure.
    failures: Vec<u16>,
    port_is_closed: bool,
}

struct Pair {
    node: NodeId,
    purpose: PairPurpose,
    stands: bool,
    draining: bool,
    /// Requests that the node has not answered.
    received: VecDeque<Bytes>,
}

impl World {
    fn new() -> Self {
        Self {
            bench: Bench::new(),
            pairs: BTreeMap::new(),
            late: Vec::new(),
            asked: 0,
            answers: BTreeMap::new(),
            failures: Vec::new(),
            port_is_closed: false,
        }
    }

    fn feed(&mut self, input: Input) {
        for output in self.bench.balancer.handle(input, self.bench.now) {
            match output {
                Output::OpenPair {
                    pair, node, purpose, ..
                } => {
                    let opening = Pair {
                        node,
                        purpose,
                        stands: false,
                        draining: false,
                        received: VecDeque::new(),
                    };
                    self.pairs.insert(pair, opening);
                }
                Output::SendToNode { pair, bytes, .. } => {
                    if let Some(pair) = self.pairs.get_mut(&pair) {
                        pair.received.push_back(bytes);
                    }
                }
                Output::DrainPair(pair) => {
                    if let Some(pair) = self.pairs.get_mut(&pair) {
                        pair.draining = true;
                    }
                }
                Output::ClosePair(pair) => self.close(pair),
                Output::SendToClient(bytes) => self.note_answer(bytes),
                Output::CloseClient(reason) => panic!("{reason:?}"),
                Output::DoubtNode(_) | Output::Count(_) => {}
            }
        }
    }

    fn close(&mut self, pair: PairId) {
        if let Some(closed) = self.pairs.remove(&pair).filter(|pair| pair.stands) {
            let late = closed.received.into_iter().map(|bytes| (closed.node, bytes));
            self.late.extend(late);
        }
    }

    fn note_answer(&mut self, bytes: Bytes) {
        let answer = RawMessage::parse(bytes).unwrap();
        let Some(status) = answer.status().filter(|&status| status >= 200) else {
            return;
        };
        let name = String::from_utf8_lossy(answer.call_id()).into_owned();
        *self.answers.entry(name).or_default() += 1;
        if status >= 500 {
            self.failures.push(status);
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Ask(node) => {
                self.asked += 1;
                let name = format!("r{}", self.asked);
                let text = match node {
                    None => request("INVITE", &name, None),
                    Some(node) => request("INFO", &name, Some(&format!("n{node}-x"))),
                };
                self.feed(Input::ClientMessage(super::bench::parse(&text)));
            }
            Step::Nodes(nodes) => self.feed(Input::NodeTableChanged(std::sync::Arc::new(table(&nodes)))),
            Step::Drive(choice) => self.drive(choice, true),
            Step::Answer(choice, well) => self.answer(choice, well),
            Step::AnswerLate(choice, well) => self.answer_late(choice, well),
            Step::Break(choice) => {
                if let Some(pair) = nth(&self.pairs, choice, |pair| pair.stands) {
                    self.close(pair);
                    self.lose(pair, PairLoss::Broken);
                }
            }
            Step::Pass(millis) => self.pass(Duration::from_millis(millis)),
        }
    }

    /// An opening pair opens, or is refused; a draining one has drained.
    fn drive(&mut self, choice: usize, may_be_refused: bool) {
        let Some(id) = nth(&self.pairs, choice, |pair| !pair.stands || pair.draining) else {
            return;
        };
        let Some(pair) = self.pairs.get_mut(&id) else {
            return;
        };
        if pair.draining {
            self.close(id);
            self.lose(id, PairLoss::Drained);
        } else if may_be_refused && choice.is_multiple_of(7) {
            self.pairs.remove(&id);
            self.lose(id, PairLoss::ConnectFailed);
        } else {
            pair.stands = true;
            self.feed(Input::PairOpened(id));
        }
    }

    fn lose(&mut self, pair: PairId, loss: PairLoss) {
        self.feed(Input::PairLost { pair, loss });
    }

    fn answer(&mut self, choice: usize, well: bool) {
        let owes = |pair: &Pair| pair.stands && !pair.received.is_empty();
        let Some(id) = nth(&self.pairs, choice, owes) else {
            return;
        };
        let Some(pair) = self.pairs.get_mut(&id) else {
            return;
        };
        let (node, bytes) = (pair.node, pair.received.pop_front());
        self.answer_over(id, node, bytes.unwrap_or_default(), well);
    }

    fn answer_late(&mut self, choice: usize, well: bool) {
        if self.late.is_empty() {
            return;
        }
        let (node, bytes) = self.late.swap_remove(choice % self.late.len());
        let carries = |pair: &Pair| pair.stands && pair.node == node && pair.purpose == PairPurpose::Ordinary;
        if let Some(id) = nth(&self.pairs, choice, carries) {
            self.answer_over(id, node, bytes, well);
        }
    }

    fn answer_over(&mut self, id: PairId, node: NodeId, bytes: Bytes, well: bool) {
        let asked = RawMessage::parse(bytes).unwrap();
        if !asked.is_request() || asked.method() == Some(b"ACK") {
            return;
        }
        let status = if well { 200 } else { 503 };
        let answer = write_answer(&asked, status, "Whatever", &format!("{node}-t"), &[]);
        let message = RawMessage::parse(answer).unwrap();
        self.feed(Input::PairMessage { pair: id, message });
    }

    fn pass(&mut self, time: Duration) {
        let end = self.bench.now + time;
        while let Some(deadline) = self
            .bench
            .balancer
            .next_deadline()
            .filter(|&deadline| deadline <= end)
        {
            self.bench.now = deadline.max(self.bench.now);
            self.feed(Input::DeadlineReached);
        }
        self.bench.now = end;
    }

    /// The first node's process is ending: one socket of it closes, or its port still takes a connection, or does not.
    /// The other node stays alive.
    fn end_a_little(&mut self, ending: &Ending) {
        match *ending {
            // A port that has closed stays closed.
            Ending::Accept(_) if self.port_is_closed => {}
            Ending::Accept(choice) => {
                if let Some(pair) = nth(&self.pairs, choice, |pair| pair.node == NodeId(1) && !pair.stands) {
                    self.pairs.get_mut(&pair).unwrap().stands = true;
                    self.feed(Input::PairOpened(pair));
                }
            }
            Ending::Refuse(choice) => {
                if let Some(pair) = nth(&self.pairs, choice, |pair| pair.node == NodeId(1) && !pair.stands) {
                    self.port_is_closed = true;
                    self.pairs.remove(&pair);
                    self.lose(pair, PairLoss::ConnectFailed);
                }
            }
            Ending::Break(choice) => {
                if let Some(pair) = nth(&self.pairs, choice, |pair| pair.node == NodeId(1) && pair.stands) {
                    let draining = self.pairs.remove(&pair).is_some_and(|pair| pair.draining);
                    let loss = if draining {
                        PairLoss::Drained
                    } else {
                        PairLoss::Broken
                    };
                    self.lose(pair, loss);
                }
            }
        }
        while let Some(pair) = nth(&self.pairs, 0, |pair| pair.node == NodeId(2) && !pair.stands) {
            self.pairs.get_mut(&pair).unwrap().stands = true;
            self.feed(Input::PairOpened(pair));
        }
        self.pass(Duration::from_millis(2));
    }

    /// Both nodes are in service, reachable, and answer everything.
    fn settle(&mut self) {
        self.take(Step::Nodes(vec![1, 2]));
        for _ in 0..600 {
            for _ in 0..8 {
                self.drive(1, false);
                self.answer(0, true);
                self.answer_late(0, true);
            }
            self.pass(Duration::from_millis(50));
        }
    }
}

/// The end of a killed process, as its peers see it.
#[derive(Debug, Clone)]
enum Ending {
    /// The listening socket still accepts a connection that will never be read.
    Accept(usize),
    Refuse(usize),
    Break(usize),
}

fn any_ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        any::<usize>().prop_map(Ending::Accept),
        any::<usize>().prop_map(Ending::Refuse),
        any::<usize>().prop_map(Ending::Break),
    ]
}

fn nth(pairs: &BTreeMap<PairId, Pair>, choice: usize, is_meant: impl Fn(&Pair) -> bool) -> Option<PairId> {
    let meant: Vec<PairId> = pairs
        .iter()
        .filter(|(_, pair)| is_meant(pair))
        .map(|(id, _)| *id)
        .collect();
    (!meant.is_empty()).then(|| meant[choice % meant.len()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_request_is_answered_once(steps in proptest::collection::vec(any_step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        world.settle();
        prop_assert_eq!(world.bench.balancer.unanswered(), 0);
        let asked = (1..=world.asked).map(|number| (format!("r{number}"), 1));
        prop_assert_eq!(world.answers, asked.collect::<BTreeMap<_, _>>());
    }

    #[test]
    fn a_process_that_ends_in_whatever_order_fails_no_request(
        endings in proptest::collection::vec(any_ending(), 1..40),
        asked in proptest::collection::vec(proptest::option::of(1..=2_u64), 1..6),
    ) {
        let mut world = World::new();
        world.bench = Bench::standing();
        for (id, node) in [(0, 1), (1, 2)] {
            let standing = Pair {
                node: NodeId(node),
                purpose: PairPurpose::Ordinary,
                stands: true,
                draining: false,
                received: VecDeque::new(),
            };
            world.pairs.insert(PairId(id), standing);
        }
        world.pass(Duration::from_secs(2));
        for node in asked {
            world.take(Step::Ask(node));
        }
        for ending in endings {
            world.end_a_little(&ending);
        }
        while world.pairs.values().any(|pair| pair.node == NodeId(1)) {
            world.end_a_little(&Ending::Break(0));
            world.end_a_little(&Ending::Refuse(0));
        }
        world.take(Step::Nodes(vec![2]));
        for _ in 0..20 {
            world.answer(0, true);
        }
        prop_assert_eq!(world.bench.balancer.unanswered(), 0);
        prop_assert_eq!(world.failures, Vec::<u16>::new());
    }
}
