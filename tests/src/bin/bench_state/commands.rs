//! Commands as nodes propose them, for sessions of the size that they have with real clients.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use tandem_cluster::command::SessionUpdate;
use tandem_cluster::{
    CallRecord, CallState, Command, ConnectionId, DialogRecord, Epoch, IntentOperation, MonitorRecord,
    NodeId, OpeningKey, RequestKey, SessionKey, SessionRecord,
};

pub(crate) fn registered(node: u64) -> Command {
    Command::NodeRegistered {
        id: NodeId(node),
        sip_address: (Ipv4Addr::LOCALHOST, 5060).into(),
        incarnation: 1,
    }
}

pub(crate) fn lost(node: u64) -> Command {
    Command::NodeLost {
        id: NodeId(node),
        incarnation: 1,
    }
}

pub(crate) fn opened(node: u64, number: u64) -> Command {
    Command::SessionOpened {
        opening: OpeningKey {
            top_via: format!("SIP/2.0/TCP 10.1.2.3:5060;branch=z9hG4bK{number:032x}"),
            call_id: format!("{number:032x}"),
            from_tag: format!("{number:010x}"),
            cseq: 1,
            from_uri: format!("sip:user{number}@example.com"),
        },
        record: Box::new(record(node, number)),
        decided_at_ms: number,
    }
}

/// Of all that is written about sessions, in turn: a client that moves, a call that begins, a command and its result, a
/// call that ends. Each about another session.
pub(crate) fn change_of(turn: u64, sessions: u64) -> Command {
    // Five turns are about one session; the next one lies elsewhere.
    let number = (turn / 5).wrapping_mul(0x9E37_79B9_7F4A_7C15) % sessions;
    let key = key(1 + number % 2, number);
    let epoch = Epoch::FIRST;
    let request = RequestKey {
        top_via: format!("SIP/2.0/TCP 10.1.2.3:5060;branch=z9hG4bK{turn:032x}"),
        cseq: 1,
    };
    let updated = |update| Command::SessionUpdated {
        key: key.clone(),
        epoch,
        update,
    };
    let call_id = "call".to_owned();
    match turn % 5 {
        0 => updated(SessionUpdate {
            connection: Some((
                ConnectionId(u128::from(turn).to_le_bytes()),
                client_address(number),
            )),
            expires_at_ms: Some(turn),
            ..SessionUpdate::default()
        }),
        1 => updated(SessionUpdate {
            calls: vec![(call_id, Some(call()))],
            ..SessionUpdate::default()
        }),
        2 => Command::Intent {
            key: key.clone(),
            epoch,
            request,
            operation: IntentOperation::MakeCall {
                called: "tel:+3225551234".to_owned(),
            },
            decided_at_ms: turn,
        },
        3 => Command::IntentResult {
            key: key.clone(),
            request,
            body: "<MakeCallResponse/>".to_owned(),
        },
        _ => updated(SessionUpdate {
            calls: vec![(call_id, None)],
            ..SessionUpdate::default()
        }),
    }
}

fn key(node: u64, number: u64) -> SessionKey {
    SessionKey::new(format!("n{node}-{number:016x}"))
}

fn client_address(number: u64) -> IpAddr {
    let [_, _, _, _, _, high, middle, low] = number.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(10, high, middle, low))
}

fn call() -> CallRecord {
    CallRecord {
        pbx_call_id: "29341".to_owned(),
        state: CallState::Connected,
        calling: "tel:+3225550001".to_owned(),
        called: "tel:+3225551234".to_owned(),
    }
}

fn record(node: u64, number: u64) -> SessionRecord {
    let target = format!("sip:user{number}@example.com;opaque=user:epid:QX0xVvD0d1mMoCnSjS;gruu");
    SessionRecord {
        key: key(node, number),
        dialog: DialogRecord {
            call_id: format!("{number:032x}"),
            local_identity: "<sip:gateway@example.com>".to_owned(),
            remote_identity: format!("<sip:user{number}@example.com>;tag={number:010x};epid={number:010x}"),
            remote_uri: format!("sip:user{number}@example.com"),
            route_set: vec!["<sip:ocs.example.com:5061;transport=tls;ms-role-rs-to;lr>".to_owned()],
            remote_target: target,
            local_target: "sip:10.0.0.9:5060;transport=tcp".to_owned(),
        }
        .into(),
        user: format!("user{number}"),
        line: format!("tel:+322555{number:07};phone-context=dialstring"),
        device: format!("{number:07}"),
        monitor: MonitorRecord {
            cross_ref_id: format!("{number:08x}"),
            active: true,
        },
        owner: NodeId(node),
        epoch: Epoch::FIRST,
        connection: ConnectionId([7; 16]),
        client_address: client_address(number),
        expires_at_ms: 1_800_000,
        session_interval_secs: 1800,
        cti_connection: Some("cti-1.example.com:8000".to_owned()),
        calls: BTreeMap::new(),
    }
}
