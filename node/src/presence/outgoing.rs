//! Calendar states on their way into the log: the latest one of each user, many users to an entry.

use std::collections::BTreeMap;

use tandem_cluster::{CalendarPresence, ClusterState, Command, NodeId};

/// The states that are not in the log yet. Each user waits once.
#[derive(Debug, Default)]
pub struct Outgoing {
    waiting: BTreeMap<String, CalendarPresence>,
}

/// The states of one entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch(BTreeMap<String, CalendarPresence>);

impl Outgoing {
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Only the latest state of a user counts. `false`: too many users wait, and the state is dropped.
    pub fn add(&mut self, user: String, presence: CalendarPresence) -> bool {
        let has_room = self.waiting.len() < WAITING_MAX || self.waiting.contains_key(&user);
        if has_room {
            self.waiting.insert(user, presence);
        }
        has_room
    }

    /// The next entry; `None` once nothing is left that `node` may report. Another node reports for a user that moved there,
    /// and `apply` would ignore this one: such states are dropped.
    pub fn take(&mut self, node: NodeId, state: &ClusterState) -> Option<Batch> {
        while !self.waiting.is_empty() {
            let mut batch = self.take_first();
            batch.retain(|user, _| state.calendar_owner(user) == Some(node));
            if !batch.is_empty() {
                return Some(Batch(batch));
            }
        }
        None
    }

    fn take_first(&mut self) -> BTreeMap<String, CalendarPresence> {
        match self.waiting.keys().nth(BATCH_MAX).cloned() {
            Some(first_left) => {
                let rest = self.waiting.split_off(&first_left);
                std::mem::replace(&mut self.waiting, rest)
            }
            None => std::mem::take(&mut self.waiting),
        }
    }

    /// It was not committed: it waits again, and newer states take precedence.
    pub fn put_back(&mut self, batch: Batch) {
        for (user, presence) in batch.0 {
            self.waiting.entry(user).or_insert(presence);
        }
    }
}

impl Batch {
    #[must_use]
    pub fn users(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn command(&self, node: NodeId) -> Command {
        let users = self.0.iter();
        Command::CalendarPresenceChanged {
            node,
            users: users
                .map(|(user, presence)| (user.clone(), Some(*presence)))
                .collect(),
        }
    }
}

const BATCH_MAX: usize = 500;
/// As many users as the cluster assigns to CAS.
const WAITING_MAX: usize = 200_000;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tandem_cluster::{CalendarState, StateLimits};

    use super::*;

    const NODE: NodeId = NodeId(1);

    fn state_with(nodes: &[NodeId]) -> ClusterState {
        let mut state = ClusterState::new(StateLimits::default());
        for id in nodes {
            let _ = state.apply(Command::NodeRegistered {
                id: *id,
                sip_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 5060)),
                incarnation: 1,
            });
        }
        state
    }

    fn since(from_ms: u64) -> CalendarPresence {
        CalendarPresence {
            state: CalendarState::Busy,
            from_ms,
            until_ms: None,
        }
    }

    fn add(outgoing: &mut Outgoing, user: &str, from_ms: u64) {
        assert!(outgoing.add(user.to_owned(), since(from_ms)));
    }

    fn batch(users: &[(&str, u64)]) -> Batch {
        let users = users.iter();
        Batch(
            users
                .map(|(user, from_ms)| ((*user).to_owned(), since(*from_ms)))
                .collect(),
        )
    }

    #[test]
    fn of_each_user_the_latest_state_waits() {
        let (mut outgoing, state) = (Outgoing::default(), state_with(&[NODE]));
        add(&mut outgoing, "ana", 1);
        add(&mut outgoing, "ben", 1);
        add(&mut outgoing, "ana", 2);
        assert_eq!(
            outgoing.take(NODE, &state),
            Some(batch(&[("ana", 2), ("ben", 1)]))
        );
        assert_eq!(outgoing.take(NODE, &state), None);
    }

    #[test]
    fn what_could_not_be_written_is_outdated_by_what_was_published_since() {
        let (mut outgoing, state) = (Outgoing::default(), state_with(&[NODE]));
        add(&mut outgoing, "ana", 1);
        add(&mut outgoing, "ben", 1);
        let failed = outgoing.take(NODE, &state).unwrap();
        add(&mut outgoing, "ana", 2);
        outgoing.put_back(failed);
        assert_eq!(
            outgoing.take(NODE, &state),
            Some(batch(&[("ana", 2), ("ben", 1)]))
        );
    }

    #[test]
    fn batches_are_bounded_and_lose_nobody() {
        let (mut outgoing, state) = (Outgoing::default(), state_with(&[NODE]));
        for number in 0..1234 {
            add(&mut outgoing, &format!("user{number:04}"), 1);
        }
        let sizes: Vec<usize> = std::iter::from_fn(|| outgoing.take(NODE, &state))
            .map(|batch| batch.users())
            .collect();
        assert_eq!(sizes, [500, 500, 234]);
        assert!(outgoing.is_empty());
    }

    #[test]
    fn users_of_another_node_are_left_to_it() {
        let state = state_with(&[NODE, NodeId(2)]);
        let mut outgoing = Outgoing::default();
        for number in 0..1000 {
            add(&mut outgoing, &format!("user{number:04}"), 1);
        }
        let mut sent = 0;
        while let Some(batch) = outgoing.take(NODE, &state) {
            for user in batch.0.keys() {
                assert_eq!(state.calendar_owner(user), Some(NODE));
            }
            sent += batch.users();
        }
        assert!((300..700).contains(&sent), "{sent}");
        add(&mut outgoing, "ana", 1);
        assert_eq!(outgoing.take(NODE, &state_with(&[])), None, "no node is live");
        assert_eq!(outgoing.len(), 0);
    }
}
