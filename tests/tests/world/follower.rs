//! What a node makes of the changes: the product's own machine, with a book in place of the gateway.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tandem_cluster::{Change, ClusterState, Command, Epoch, Incarnation, NodeId, SessionKey};
use tandem_node::following::{Following, Heard, Standing, Step};
use tandem_node::gateway::Input;
use tandem_raft::Cluster;
use tokio::time::{Instant, sleep_until};

/// Of each node that runs.
pub(crate) type Books = Arc<Mutex<BTreeMap<u64, Book>>>;

/// What a node believes.
#[derive(Debug, Default)]
pub(crate) struct Book {
    incarnation: u64,
    is_live: bool,
    sessions: BTreeMap<SessionKey, Epoch>,
    /// How often it was told to look at everything, and how often it was live no more.
    pub(crate) replaced: usize,
    pub(crate) left: usize,
}

impl Book {
    /// What the node believes is what this state says.
    pub(crate) fn agrees_with(&self, id: NodeId, state: &ClusterState) -> bool {
        let given = state
            .sessions_of(id)
            .map(|session| (&session.key, &session.epoch));
        self.is_live
            && Standing::of(state, id, self.incarnation) == Standing::Live
            && given.eq(self.sessions.iter())
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the book is about sessions alone")]
    fn take_in(&mut self, id: NodeId, input: Input) {
        match input {
            Input::StateReplaced { sessions } => {
                let records = sessions.into_iter().map(|known| known.record);
                self.sessions = records.map(|record| (record.key, record.epoch)).collect();
            }
            Input::SessionOpened { record } if record.owner == id => {
                self.sessions.insert(record.key, record.epoch);
            }
            Input::SessionChanged { key, session } => {
                match session.filter(|known| known.record.owner == id) {
                    Some(known) => drop(self.sessions.insert(key, known.record.epoch)),
                    None => drop(self.sessions.remove(&key)),
                }
            }
            Input::DeclaredLost => self.sessions.clear(),
            _ => {}
        }
    }
}

/// As the node's driver does it, until the process ends.
pub(crate) async fn follow(id: NodeId, incarnation: Incarnation, cluster: &Cluster, books: &Books) {
    let mut changes = cluster.changes();
    let mut status = cluster.status();
    let now = || Instant::now().into_std();
    let mut following = Following::new(id, incarnation, now());
    let mut registrations = FuturesUnordered::new();
    let book = Book {
        incarnation: incarnation.as_u64(),
        ..Book::default()
    };
    books.lock().unwrap().insert(id.0, book);
    loop {
        let deadline = following.next_deadline();
        let due = async {
            match deadline {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let (mut heard, mut answer) = (Vec::new(), None);
        tokio::select! {
            biased;
            changed = changes.recv() => match changed {
                Some(changes) => heard = changes,
                None => return,
            },
            changed = status.changed() => if changed.is_err() {
                return;
            },
            Some(applied) = registrations.next() => answer = Some(applied),
            () = due => {}
        }
        let heard_now = match &answer {
            Some(applied) => Heard::RegistrationAnswered(Option::as_ref(applied)),
            None => Heard::Changes(&heard),
        };
        let steps = following.handle(heard_now, &cluster.state(), now());
        let mut books = books.lock().unwrap();
        let Some(book) = books.get_mut(&id.0) else {
            return;
        };
        book.replaced += usize::from(heard.contains(&Change::Replaced));
        for step in steps {
            match step {
                Step::Gateway(input) => book.take_in(id, *input),
                Step::Register { incarnation } => registrations.push(register(cluster, id, incarnation)),
                Step::Joined => book.is_live = true,
                Step::Left { incarnation, .. } => {
                    book.is_live = false;
                    book.incarnation = incarnation;
                    book.left += 1;
                }
                Step::TakeInSettings | Step::Rebalance { .. } => {}
            }
        }
    }
}

async fn register(cluster: &Cluster, id: NodeId, incarnation: u64) -> Option<tandem_cluster::Applied> {
    let command = Command::NodeRegistered {
        id,
        sip_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 5060)),
        incarnation,
    };
    cluster.propose(command, Duration::from_secs(3)).await.ok()
}
