//! A session for unit tests.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use tandem_cluster::{
    Command, ConnectionId, DialogRecord, Epoch, MonitorRecord, NodeId, OpeningKey, SessionKey, SessionRecord,
};

/// Of `user` on line 4711, which never expires by itself.
pub(crate) fn session(key: &str, owner: NodeId, user: &str) -> SessionRecord {
    let remote_uri = format!("sip:{user}@lab.test");
    let dialog = DialogRecord {
        call_id: "call".to_owned(),
        local_identity: "<sip:gateway@lab.test>".to_owned(),
        remote_identity: format!("<{remote_uri}>;tag=1"),
        remote_uri,
        route_set: Vec::new(),
        remote_target: "sip:192.0.2.1".to_owned(),
        local_target: "sip:192.0.2.9".to_owned(),
    };
    SessionRecord {
        key: SessionKey::new(key),
        dialog: dialog.into(),
        user: user.to_owned(),
        line: "tel:4711".to_owned(),
        device: "4711".to_owned(),
        monitor: MonitorRecord {
            cross_ref_id: "1".to_owned(),
            active: true,
        },
        owner,
        epoch: Epoch::FIRST,
        connection: ConnectionId([7; 16]),
        client_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        expires_at_ms: u64::MAX,
        session_interval_secs: 1800,
        cti_connection: None,
        calls: BTreeMap::new(),
    }
}

/// The command by which it begins.
pub(crate) fn opened(record: SessionRecord) -> Command {
    let opening = OpeningKey {
        top_via: record.key.to_string(),
        call_id: "call".to_owned(),
        from_tag: "1".to_owned(),
        cseq: 1,
        from_uri: record.dialog.remote_uri.clone(),
    };
    Command::SessionOpened {
        opening,
        record: Box::new(record),
        decided_at_ms: 0,
    }
}
