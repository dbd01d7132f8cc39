//! Reports nodes and moved sessions from the replicated state to the rest of the front end.
//!
//! Owns what has been reported about each node, and the losses that are not confirmed yet. Does not own the state, the clock
//! or the health of nodes.
//!
//! What always holds: a report is the difference between the present state and what was reported before. So it makes no
//! difference how far the state is ahead of the changes, or how many of them were dropped and replaced by
//! [`Change::Replaced`]. A loss is confirmed once the state is known to include everything committed up to some moment after
//! the loss was read: a member that starts, or was cut off, reads of old losses and, moments later, that the node is back.

use std::collections::BTreeMap;
use std::time::Instant;

use tandem_cluster::{
    Change, ClusterState, NodeId, NodeRecord, NodeState, SessionChange, SessionKey, WatcherChange,
};

/// A report about the cluster's nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterNews {
    Node(NodeRecord),
    /// The node is no longer in the replicated state.
    NodeForgotten(NodeId),
    /// The cluster member of this process has stopped.
    Unavailable,
}

/// Sessions that have moved, and their owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// All moved sessions: replaces earlier reports.
    All(Vec<(SessionKey, NodeId)>),
    /// Sessions whose owner changed; `None` for sessions that no longer exist.
    Some(Vec<(SessionKey, Option<NodeId>)>),
}

/// What has been reported from the replicated state so far.
#[derive(Debug, Default)]
pub struct Membership {
    reported: BTreeMap<NodeId, NodeRecord>,
    /// Losses not reported yet, by node: its incarnation, and when the loss was read.
    unconfirmed: BTreeMap<NodeId, (u64, Instant)>,
    /// The state includes everything committed before this moment.
    as_of: Option<Instant>,
}

impl Membership {
    /// Reports the whole state.
    #[must_use]
    pub fn begin(&mut self, state: &ClusterState, now: Instant) -> (Moved, Vec<ClusterNews>) {
        self.changed(&[Change::Replaced], state, now)
    }

    /// Reports what `changes` brought. Owners must be passed on before nodes: the loss of a node makes connections look up the
    /// owners of its sessions.
    #[must_use]
    pub fn changed(
        &mut self,
        changes: &[Change],
        state: &ClusterState,
        now: Instant,
    ) -> (Moved, Vec<ClusterNews>) {
        let moved = match changes.contains(&Change::Replaced) {
            true => {
                let moved = state.moved_sessions();
                Moved::All(moved.map(|(key, owner)| (key.clone(), owner)).collect())
            }
            false => {
                let keys = changes.iter().filter_map(moved_key);
                Moved::Some(keys.map(|key| (key.clone(), state.owner_of(key))).collect())
            }
        };
        (moved, self.look(state, now))
    }

    /// Reports the losses that are confirmed by a state that includes everything committed before `as_of`.
    #[must_use]
    pub fn confirmed(
        &mut self,
        as_of: Option<Instant>,
        state: &ClusterState,
        now: Instant,
    ) -> Vec<ClusterNews> {
        self.as_of = self.as_of.max(as_of);
        match self.unconfirmed.is_empty() {
            true => Vec::new(),
            false => self.look(state, now),
        }
    }

    fn look(&mut self, state: &ClusterState, now: Instant) -> Vec<ClusterNews> {
        let nodes = state.nodes();
        let mut news = Vec::new();
        self.unconfirmed.retain(|id, _| nodes.contains_key(id));
        self.reported.retain(|id, _| {
            let is_known = nodes.contains_key(id);
            if !is_known {
                news.push(ClusterNews::NodeForgotten(*id));
            }
            is_known
        });
        for record in nodes.values() {
            let may_be_reported = self.is_confirmed(record, now);
            if may_be_reported && self.reported.get(&record.id) != Some(record) {
                self.reported.insert(record.id, record.clone());
                news.push(ClusterNews::Node(record.clone()));
            }
        }
        news
    }

    fn is_confirmed(&mut self, record: &NodeRecord, now: Instant) -> bool {
        let is_news = self.reported.get(&record.id) != Some(record);
        if record.state != NodeState::Lost || !is_news {
            self.unconfirmed.remove(&record.id);
            return true;
        }
        let read_now = (record.incarnation, now);
        let read = self.unconfirmed.entry(record.id).or_insert(read_now);
        if read.0 != record.incarnation {
            *read = read_now;
        }
        let is_confirmed = self.as_of > Some(read.1);
        if is_confirmed {
            self.unconfirmed.remove(&record.id);
        }
        is_confirmed
    }
}

/// The session whose owner a change may have moved. A session that returned to the node of its tag stays in the table, because
/// the fence needs its owner as well.
fn moved_key(change: &Change) -> Option<&SessionKey> {
    match change {
        Change::Session(SessionChange::Moved { key, .. } | SessionChange::Closed { key, .. })
        | Change::Watcher(WatcherChange::Moved { key, .. } | WatcherChange::Removed { key, .. }) => Some(key),
        Change::Session(SessionChange::Opened(_) | SessionChange::Updated(_))
        | Change::Watcher(WatcherChange::Written(_))
        | Change::Node(_)
        | Change::Calendar(_)
        | Change::Presence { .. }
        | Change::Setting { .. }
        | Change::RebalanceRequested { .. }
        | Change::Replaced => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use proptest::prelude::*;
    use tandem_cluster::{Command, Epoch, StateLimits, WatcherRecord};

    use super::*;
    use crate::balancer::ownership::Ownership;
    use crate::io::clock::now;

    const MS: Duration = Duration::from_millis(1);

    fn registered(id: u64, incarnation: u64) -> Command {
        Command::NodeRegistered {
            id: NodeId(id),
            sip_address: ([10, 0, 0, id as u8], 5060).into(),
            incarnation,
        }
    }

    fn lost(id: u64, incarnation: u64) -> Command {
        Command::NodeLost {
            id: NodeId(id),
            incarnation,
        }
    }

    fn draining(id: u64, incarnation: u64) -> Command {
        Command::NodeDraining {
            id: NodeId(id),
            incarnation,
        }
    }

    fn empty() -> ClusterState {
        ClusterState::new(StateLimits::default())
    }

    fn state_of(commands: &[Command]) -> ClusterState {
        let mut state = empty();
        for command in commands {
            state.apply(command.clone());
        }
        state
    }

    fn states(news: &[ClusterNews]) -> Vec<(u64, NodeState)> {
        let reported = news.iter().map(|news| match news {
            ClusterNews::Node(record) => (record.id.0, record.state),
            ClusterNews::NodeForgotten(_) | ClusterNews::Unavailable => panic!("{news:?}"),
        });
        reported.collect()
    }

    #[test]
    fn a_loss_is_believed_once_the_state_is_of_a_moment_after_it_was_read() {
        let (mut membership, start) = (Membership::default(), now());
        let state = state_of(&[registered(1, 1), registered(2, 1), lost(1, 1)]);
        let (_, news) = membership.begin(&state, start);
        assert_eq!(states(&news), [(2, NodeState::Live)]);
        for too_early in [None, Some(start - MS), Some(start)] {
            assert_eq!(membership.confirmed(too_early, &state, start + MS), []);
        }
        let news = membership.confirmed(Some(start + MS), &state, start + MS * 2);
        assert_eq!(states(&news), [(1, NodeState::Lost)]);
        assert_eq!(
            membership.confirmed(Some(start + MS * 2), &state, start + MS * 3),
            []
        );
    }

    #[test]
    fn one_node_after_the_other_is_lost_and_each_in_its_own_time() {
        let (mut membership, start) = (Membership::default(), now());
        let mut state = state_of(&[registered(1, 1), registered(2, 1), lost(1, 1)]);
        drop(membership.begin(&state, start));
        state.apply(lost(2, 1));
        let later = start + MS * 60;
        let change = Change::Node(NodeId(2));
        assert_eq!(membership.changed(&[change], &state, later).1, []);
        let news = membership.confirmed(Some(start + MS), &state, later);
        assert_eq!(states(&news), [(1, NodeState::Lost)]);
        let news = membership.confirmed(Some(later + MS), &state, later + MS * 2);
        assert_eq!(states(&news), [(2, NodeState::Lost)]);
    }

    /// A member that has just started holds the state of its last run, and reads on from there.
    #[test]
    fn an_old_loss_is_never_told_of_a_node_that_came_back_since() {
        let (mut membership, start) = (Membership::default(), now());
        let mut state = state_of(&[registered(1, 1), lost(1, 1)]);
        drop(membership.begin(&state, start));
        assert_eq!(membership.confirmed(None, &state, start + MS * 5000), []);
        state.apply(registered(1, 2));
        state.apply(lost(1, 2));
        let (_, news) = membership.changed(&[Change::Node(NodeId(1))], &state, start + MS * 5010);
        assert_eq!(news, []);
        state.apply(registered(1, 3));
        let (_, news) = membership.changed(&[Change::Node(NodeId(1))], &state, start + MS * 5020);
        assert_eq!(states(&news), [(1, NodeState::Live)]);
        assert_eq!(
            membership.confirmed(Some(start + MS * 5015), &state, start + MS * 5030),
            []
        );
    }

    #[test]
    fn a_node_that_is_there_again_was_never_lost() {
        let (mut membership, start) = (Membership::default(), now());
        let mut state = state_of(&[registered(1, 1), lost(1, 1)]);
        drop(membership.begin(&state, start));
        state.apply(registered(1, 2));
        let (_, news) = membership.changed(&[Change::Replaced], &state, start);
        assert_eq!(states(&news), [(1, NodeState::Live)]);
        assert_eq!(membership.confirmed(Some(start + MS), &state, start + MS), []);
    }

    #[test]
    fn a_node_that_a_replaced_state_does_not_know_is_forgotten() {
        let (mut membership, start) = (Membership::default(), now());
        drop(membership.begin(&state_of(&[registered(1, 1), registered(2, 1)]), start));
        let without = state_of(&[registered(2, 1)]);
        let (moved, news) = membership.changed(&[Change::Replaced], &without, start);
        assert_eq!(news, [ClusterNews::NodeForgotten(NodeId(1))]);
        assert_eq!(moved, Moved::All(Vec::new()));
        let (_, news) = membership.changed(&[Change::Replaced], &without, start);
        assert_eq!(news, []);
    }

    #[test]
    fn a_change_that_is_behind_the_state_does_not_bring_an_old_owner_back() {
        let (mut membership, start) = (Membership::default(), now());
        let mut state = state_of(&[registered(1, 1), registered(2, 1), registered(3, 1)]);
        let watched = Command::WatcherSet {
            record: Box::new(watcher(1, 1)),
        };
        state.apply(watched);
        let key = watcher(1, 1).key;
        let (_, first) = state.apply(adopted(&key, 0, 2));
        state.apply(adopted(&key, 1, 3));
        let (moved, _) = membership.changed(&first, &state, start);
        assert_eq!(moved, Moved::Some(vec![(key, Some(NodeId(3)))]));
    }

    fn watcher(node: u64, number: u64) -> WatcherRecord {
        WatcherRecord {
            key: SessionKey::new(format!("n{node}-{number}")),
            dialog: tandem_cluster::DialogRecord {
                call_id: String::new(),
                local_identity: String::new(),
                remote_identity: String::new(),
                remote_uri: String::new(),
                route_set: Vec::new(),
                remote_target: String::new(),
                local_target: String::new(),
            },
            presentity: String::new(),
            owner: NodeId(node),
            epoch: Epoch::FIRST,
            connection: tandem_cluster::ConnectionId([0; 16]),
            client_address: [10, 0, 0, 1].into(),
            expires_at_ms: 0,
            event_id: None,
        }
    }

    fn adopted(key: &SessionKey, epoch: u32, to: u64) -> Command {
        Command::WatcherAdopted {
            key: key.clone(),
            from_epoch: Epoch(epoch),
            to: NodeId(to),
        }
    }

    #[derive(Debug, Clone)]
    enum Action {
        Command(Box<Command>),
        Heard { entries: usize, dropped: bool },
        Pass(u32),
    }

    fn action() -> impl Strategy<Value = Action> {
        let node = || 1_u64..4;
        let key = || (1_u64..4, 0_u64..3);
        let command = prop_oneof![
            3 => (node(), 1_u64..3).prop_map(|(id, incarnation)| registered(id, incarnation)),
            3 => (node(), 1_u64..3).prop_map(|(id, incarnation)| lost(id, incarnation)),
            1 => (node(), 1_u64..3).prop_map(|(id, incarnation)| draining(id, incarnation)),
            3 => key().prop_map(|(node, number)| Command::WatcherSet { record: Box::new(watcher(node, number)) }),
            3 => (key(), 0_u32..3, node())
                .prop_map(|((node, number), epoch, to)| adopted(&watcher(node, number).key, epoch, to)),
            1 => (key(), 0_u32..3).prop_map(|((node, number), epoch)| Command::WatcherRemoved {
                key: watcher(node, number).key,
                epoch: Epoch(epoch),
            }),
        ];
        prop_oneof![
            4 => command.prop_map(|command| Action::Command(Box::new(command))),
            2 => (1_usize..5, any::<bool>()).prop_map(|(entries, dropped)| Action::Heard { entries, dropped }),
            1 => (1_u32..150).prop_map(Action::Pass),
        ]
    }

    /// The node set that follows from the reports.
    struct FrontEnd {
        membership: Membership,
        ownership: Ownership,
        nodes: BTreeMap<NodeId, NodeRecord>,
    }

    impl FrontEnd {
        fn apply(&mut self, moved: Moved, news: Vec<ClusterNews>) {
            self.ownership.apply(moved);
            for news in news {
                match news {
                    ClusterNews::Node(record) => drop(self.nodes.insert(record.id, record)),
                    ClusterNews::NodeForgotten(id) => drop(self.nodes.remove(&id)),
                    ClusterNews::Unavailable => panic!("no member has stopped"),
                }
            }
        }
    }

    proptest! {
        #[test]
        fn once_everything_is_quiet_nodes_and_owners_are_those_of_the_state(
            actions in prop::collection::vec(action(), 0..60),
        ) {
            let (mut state, mut at) = (empty(), now());
            let mut front_end = FrontEnd {
                membership: Membership::default(),
                ownership: Ownership::default(),
                nodes: BTreeMap::new(),
            };
            let mut unheard: VecDeque<Vec<Change>> = VecDeque::new();
            let (moved, news) = front_end.membership.begin(&state, at);
            front_end.apply(moved, news);
            let end = [Action::Heard { entries: usize::MAX, dropped: false }, Action::Pass(200)];
            for action in actions.into_iter().chain(end) {
                match action {
                    Action::Command(command) => unheard.push_back(state.apply(*command).1),
                    Action::Heard { entries, dropped } => {
                        let entries = entries.min(unheard.len());
                        let mut heard: Vec<Vec<Change>> = unheard.drain(..entries).collect();
                        if dropped {
                            heard = vec![vec![Change::Replaced]];
                        }
                        for changes in heard {
                            let (moved, news) = front_end.membership.changed(&changes, &state, at);
                            front_end.apply(moved, news);
                        }
                    }
                    Action::Pass(millis) => {
                        let confirmed = at + MS / 2;
                        at += MS * millis;
                        let news = front_end.membership.confirmed(Some(confirmed), &state, at);
                        front_end.apply(Moved::Some(Vec::new()), news);
                    }
                }
            }
            prop_assert_eq!(&front_end.nodes, state.nodes());
            for node in 1..4 {
                for number in 0..3 {
                    let key = watcher(node, number).key;
                    let moved = front_end.ownership.moved_to(key.as_str().as_bytes());
                    let owner = state.owner_of(&key);
                    prop_assert!(moved.is_none() || moved == owner, "{key}: {moved:?}, {owner:?}");
                    prop_assert!(owner.is_none() || moved.or_else(|| key.issuer()) == owner, "{key}: {moved:?}");
                }
            }
        }
    }
}
