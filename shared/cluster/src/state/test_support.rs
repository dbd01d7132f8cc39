//! Commands and records for the tests of this module.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{ClusterState, StateLimits};
use crate::assignment::CasId;
use crate::command::{Applied, Change, Command};
use crate::node::NodeId;
use crate::presence::WatcherRecord;
use crate::session::{
    ConnectionId, DialogRecord, Epoch, MonitorRecord, OpeningKey, SessionKey, SessionRecord,
};

/// A state in which nodes 1 to `nodes` are live, each in incarnation 1.
pub(super) fn cluster_of(nodes: u64) -> ClusterState {
    let mut state = ClusterState::new(small_limits());
    for id in 1..=nodes {
        assert_eq!(state.apply(registered(id, 1)).0, Applied::Done);
    }
    state
}

pub(super) fn small_limits() -> StateLimits {
    StateLimits {
        sessions_max: 1000,
        calls_per_session_max: 3,
        intents_max: 4,
        opening_results_max: 1000,
        users_assigned_max: 2000,
    }
}

pub(super) fn apply_all(
    state: &mut ClusterState,
    commands: impl IntoIterator<Item = Command>,
) -> Vec<Change> {
    commands
        .into_iter()
        .flat_map(|command| state.apply(command).1)
        .collect()
}

pub(super) fn registered(id: u64, incarnation: u64) -> Command {
    let port = 5000 + u16::try_from(id).unwrap();
    let sip_address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Command::NodeRegistered {
        id: NodeId(id),
        sip_address,
        incarnation,
    }
}

pub(super) fn lost(id: u64, incarnation: u64) -> Command {
    Command::NodeLost {
        id: NodeId(id),
        incarnation,
    }
}

pub(super) fn draining(id: u64, incarnation: u64) -> Command {
    Command::NodeDraining {
        id: NodeId(id),
        incarnation,
    }
}

pub(super) fn key(owner: u64, number: u64) -> SessionKey {
    SessionKey::new(format!("n{owner}-{number:016x}"))
}

pub(super) fn opening(number: u64) -> OpeningKey {
    OpeningKey {
        top_via: format!("SIP/2.0/TCP ocs;branch=z9hG4bK{number}"),
        call_id: "the same for everybody".to_owned(),
        from_tag: "tag".to_owned(),
        cseq: 1,
        from_uri: format!("sip:user{number}@example.com"),
    }
}

/// Session `number`, opened on node `owner` by opening request `number` at time `number`.
pub(super) fn opened(owner: u64, number: u64) -> Command {
    let record = Box::new(record(owner, number));
    Command::SessionOpened {
        opening: opening(number),
        record,
        decided_at_ms: number,
    }
}

pub(super) fn record(owner: u64, number: u64) -> SessionRecord {
    let identity = format!("<sip:user{number}@example.com>;tag=tag;epid={number}");
    SessionRecord {
        key: key(owner, number),
        dialog: DialogRecord {
            call_id: "the same for everybody".to_owned(),
            local_identity: "<sip:gateway@example.com>".to_owned(),
            remote_identity: identity,
            remote_uri: format!("sip:user{number}@example.com"),
            route_set: vec!["<sip:ocs.example.com;transport=tcp;lr>".to_owned()],
            remote_target: "sip:10.0.0.1:5060;transport=tcp".to_owned(),
            local_target: "sip:10.0.0.9:5060;transport=tcp".to_owned(),
        }
        .into(),
        user: format!("user{number}"),
        line: "tel:4711;phone-context=dialstring".to_owned(),
        device: "4711".to_owned(),
        monitor: MonitorRecord {
            cross_ref_id: number.to_string(),
            active: true,
        },
        owner: NodeId(owner),
        epoch: Epoch::FIRST,
        connection: ConnectionId([7; 16]),
        client_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        expires_at_ms: 1_800_000,
        session_interval_secs: 1800,
        cti_connection: None,
        calls: BTreeMap::new(),
    }
}

/// Watcher `number` of one presentity, subscribed at node `owner`.
pub(super) fn watched(owner: u64, number: u64) -> Command {
    let record = Box::new(watcher(owner, number));
    Command::WatcherSet { record }
}

pub(super) fn watcher(owner: u64, number: u64) -> WatcherRecord {
    let SessionRecord {
        key,
        dialog,
        owner,
        epoch,
        connection,
        client_address,
        ..
    } = record(owner, number);
    WatcherRecord {
        key,
        dialog: DialogRecord::clone(&dialog),
        presentity: user(1),
        owner,
        epoch,
        connection,
        client_address,
        expires_at_ms: 3_600_000,
        event_id: None,
    }
}

pub(super) fn gateways(names: &[&str]) -> Command {
    let gateways = names.iter().map(|name| CasId((*name).to_owned())).collect();
    Command::CasGatewaysSet { gateways, at_ms: 1 }
}

pub(super) fn assign(users: impl IntoIterator<Item = u64>) -> Command {
    Command::CasAssign {
        users: users.into_iter().map(user).collect(),
        at_ms: 2,
    }
}

pub(super) fn user(number: u64) -> String {
    format!("user{number:04}")
}

/// Users per gateway.
pub(super) fn spread(state: &ClusterState) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for assignment in state.assignments().values() {
        *counts.entry(assignment.cas.0.clone()).or_default() += 1;
    }
    counts
}
