//! Values for the golden files: one of every command and every answer, and a past that fills every table.

use std::net::{IpAddr, SocketAddr};

use super::command::SessionUpdate;
use super::*;

/// A past that leaves something in every table.
pub(super) fn history() -> Vec<Command> {
    let user = |number: u64| format!("user{number}");
    let register = |id| Command::NodeRegistered {
        id: NodeId(id),
        sip_address: SocketAddr::from(([192, 0, 2, 1], 5060)),
        incarnation: 70 + id,
    };
    vec![
        register(1),
        register(2),
        Command::CasGatewaysConfigured {
            gateways: vec![(cas("cas-1"), endpoint()), (cas("cas-2"), endpoint())],
            at_ms: 1,
        },
        Command::CasAssign {
            users: (1..5).map(user).collect(),
            at_ms: 2,
        },
        Command::CasFailed {
            users: vec![(user(2), 0)],
            at_ms: 3,
        },
        Command::CasBreaker {
            cas: cas("cas-2"),
            node: NodeId(1),
            open: true,
        },
        opened(),
        Command::Intent {
            key: key(),
            epoch: Epoch::FIRST,
            request: request(),
            operation: IntentOperation::MakeCall {
                called: "4712".to_owned(),
            },
            decided_at_ms: 4,
        },
        Command::WatcherSet {
            record: Box::new(watcher()),
        },
        Command::SettingChanged {
            name: "session_timer_secs".to_owned(),
            value: Some("900".to_owned()),
        },
        Command::CalendarEnabled {
            users: vec![user(3)],
            enabled: Some(false),
        },
        Command::CalendarPresenceChanged {
            node: successor_of_user("user1", [NodeId(1), NodeId(2)]).unwrap(),
            users: vec![(user(1), Some(calendar()))],
        },
        Command::ManualPresenceSet {
            user: user(4),
            manual: Some(manual()),
        },
    ]
}

pub(super) fn all_commands() -> Vec<(&'static str, Command)> {
    let users = || vec!["user1".to_owned(), "user2".to_owned()];
    let operations = [
        (
            "MakeCall",
            IntentOperation::MakeCall {
                called: "4712".to_owned(),
            },
        ),
        (
            "AnswerCall",
            IntentOperation::AnswerCall {
                call_id: "1".to_owned(),
            },
        ),
        (
            "ClearConnection",
            IntentOperation::ClearConnection {
                call_id: "1".to_owned(),
            },
        ),
    ];
    let intents = operations.map(|(word, operation)| {
        let intent = Command::Intent {
            key: key(),
            epoch: Epoch(3),
            request: request(),
            operation,
            decided_at_ms: 1_700_000_000_000,
        };
        (word, intent)
    });
    let mut commands = vec![
        (
            "IPv4",
            Command::NodeRegistered {
                id: NodeId(1),
                sip_address: SocketAddr::from(([192, 0, 2, 1], 5060)),
                incarnation: u64::MAX,
            },
        ),
        (
            "IPv6",
            Command::NodeRegistered {
                id: NodeId(999_999),
                sip_address: SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 5060)),
                incarnation: 0,
            },
        ),
        (
            "",
            Command::NodeLost {
                id: NodeId(2),
                incarnation: 71,
            },
        ),
        (
            "",
            Command::NodeDraining {
                id: NodeId(2),
                incarnation: 71,
            },
        ),
        ("", opened()),
        (
            "whole",
            Command::SessionUpdated {
                key: key(),
                epoch: Epoch(3),
                update: update(),
            },
        ),
        (
            "empty",
            Command::SessionUpdated {
                key: key(),
                epoch: Epoch(3),
                update: SessionUpdate::default(),
            },
        ),
        (
            "",
            Command::SessionClosed {
                key: key(),
                epoch: Epoch(3),
            },
        ),
        (
            "",
            Command::Adopt {
                key: key(),
                from_epoch: Epoch(3),
                to: NodeId(2),
            },
        ),
    ];
    commands.extend(intents);
    commands.extend([
        (
            "",
            Command::IntentResult {
                key: key(),
                request: request(),
                body: "<Response/>".to_owned(),
            },
        ),
        ("", Command::Expire { before_ms: 9 }),
        (
            "",
            Command::SettingChanged {
                name: "session_timer_secs".to_owned(),
                value: Some("900".to_owned()),
            },
        ),
        (
            "to its default",
            Command::SettingChanged {
                name: "session_timer_secs".to_owned(),
                value: None,
            },
        ),
        (
            "",
            Command::CasGatewaysSet {
                gateways: vec![cas("cas-1"), cas("cas-2")],
                at_ms: 1,
            },
        ),
        (
            "",
            Command::CasEligible {
                cas: cas("cas-1"),
                eligible: true,
            },
        ),
        (
            "",
            Command::CasAssign {
                users: users(),
                at_ms: 2,
            },
        ),
        (
            "",
            Command::CasFailed {
                users: vec![("user1".to_owned(), 7)],
                at_ms: 3,
            },
        ),
        ("", Command::CasUnassign { users: users() }),
        (
            "",
            Command::Batch(vec![
                Command::Expire { before_ms: 9 },
                Command::CasUnassign { users: users() },
            ]),
        ),
        ("", Command::Rebalance { per_second: 20 }),
        (
            "",
            Command::CasGatewaysConfigured {
                gateways: vec![(cas("cas-1"), endpoint())],
                at_ms: 1,
            },
        ),
        (
            "",
            Command::CasBreaker {
                cas: cas("cas-1"),
                node: NodeId(1),
                open: true,
            },
        ),
        (
            "",
            Command::CasMoved {
                users: vec![("user1".to_owned(), 7, cas("cas-2"))],
                at_ms: 4,
            },
        ),
        (
            "",
            Command::CalendarEnabled {
                users: users(),
                enabled: Some(false),
            },
        ),
        (
            "as the directory says",
            Command::CalendarEnabled {
                users: users(),
                enabled: None,
            },
        ),
        (
            "",
            Command::CallbacksReceived {
                callbacks: vec![CallbackNote {
                    user: "user1".to_owned(),
                    attempt: 3,
                    subscription: "subscription".to_owned(),
                    has_events: true,
                    failed: Some("ErrorServerBusy".to_owned()),
                }],
            },
        ),
        (
            "",
            Command::CalendarPresenceChanged {
                node: NodeId(1),
                users: vec![("user1".to_owned(), Some(calendar())), ("user2".to_owned(), None)],
            },
        ),
        (
            "",
            Command::ManualPresenceSet {
                user: "user1".to_owned(),
                manual: Some(manual()),
            },
        ),
        (
            "",
            Command::WatcherSet {
                record: Box::new(watcher()),
            },
        ),
        (
            "",
            Command::WatcherRemoved {
                key: key(),
                epoch: Epoch(3),
            },
        ),
        (
            "",
            Command::WatcherAdopted {
                key: key(),
                from_epoch: Epoch(3),
                to: NodeId(2),
            },
        ),
        (
            "",
            Command::FormatFinalised {
                format: Format::RELEASE_0_2,
            },
        ),
        (
            "",
            Command::MemberRemoved {
                id: RaftId::new(0x7f3a_91c2, NodeId(2)),
            },
        ),
        (
            "",
            Command::SecretSet {
                name: "exchange".to_owned(),
                secret: SealedSecret::new(KeyCheck([1; 16]), [2; 12], vec![3; 40]).map(Box::new),
            },
        ),
        (
            "forgotten",
            Command::SecretSet {
                name: "exchange".to_owned(),
                secret: None,
            },
        ),
        (
            "",
            Command::ClusterIdentified {
                identity: ClusterIdentity(7),
            },
        ),
        ("", Command::StateMarked),
    ]);
    commands
}

pub(super) fn all_answers() -> Vec<(&'static str, Applied)> {
    vec![
        ("", Applied::Done),
        (
            "",
            Applied::AlreadyOpened {
                session: key(),
                record: Some(Box::new(session())),
            },
        ),
        (
            "and closed",
            Applied::AlreadyOpened {
                session: key(),
                record: None,
            },
        ),
        ("", Applied::Session(Box::new(session()))),
        (
            "",
            Applied::IntentKnown(Box::new(IntentRecord {
                operation: IntentOperation::AnswerCall {
                    call_id: "1".to_owned(),
                },
                epoch: Epoch(3),
                decided_at_ms: 4,
                result: Some("<Response/>".to_owned()),
            })),
        ),
        (
            "",
            Applied::Assignments(vec![
                (
                    "user1".to_owned(),
                    Some(Assignment {
                        cas: cas("cas-1"),
                        epoch: 7,
                        since_ms: 2,
                        reason: AssignmentReason::Rebalanced,
                    }),
                ),
                ("user2".to_owned(), None),
            ]),
        ),
        (
            "",
            Applied::Batch(vec![Applied::Done, Applied::Refused(Refusal::NoCas)]),
        ),
        ("", Applied::Refused(Refusal::LimitReached)),
    ]
}

fn key() -> SessionKey {
    SessionKey::new("n1-0000000000000001".to_owned())
}

fn request() -> RequestKey {
    RequestKey {
        top_via: "SIP/2.0/TCP ocs;branch=z9hG4bK2".to_owned(),
        cseq: 2,
    }
}

fn cas(name: &str) -> CasId {
    CasId(name.to_owned())
}

fn endpoint() -> CasEndpoint {
    CasEndpoint {
        host: "cas-1.example.com".to_owned(),
        port: 443,
        description: "first".to_owned(),
        channel_binding: true,
        legacy_algorithms: false,
    }
}

fn opened() -> Command {
    Command::SessionOpened {
        opening: OpeningKey {
            top_via: "SIP/2.0/TCP ocs;branch=z9hG4bK1".to_owned(),
            call_id: "call".to_owned(),
            from_tag: "tag".to_owned(),
            cseq: 1,
            from_uri: "sip:user1@example.com".to_owned(),
        },
        record: Box::new(session()),
        decided_at_ms: 1_700_000_000_000,
    }
}

fn dialog() -> DialogRecord {
    DialogRecord {
        call_id: "call".to_owned(),
        local_identity: "<sip:gateway@example.com>".to_owned(),
        remote_identity: "<sip:user1@example.com>;tag=tag;epid=1".to_owned(),
        remote_uri: "sip:user1@example.com".to_owned(),
        route_set: vec!["<sip:ocs.example.com;transport=tcp;lr>".to_owned()],
        remote_target: "sip:192.0.2.20:5060;transport=tcp".to_owned(),
        local_target: "sip:192.0.2.9:5060;transport=tcp".to_owned(),
    }
}

fn session() -> SessionRecord {
    SessionRecord {
        key: key(),
        dialog: dialog().into(),
        user: "user1".to_owned(),
        line: "tel:4711;phone-context=dialstring".to_owned(),
        device: "4711".to_owned(),
        monitor: MonitorRecord {
            cross_ref_id: "7".to_owned(),
            active: true,
        },
        owner: NodeId(1),
        epoch: Epoch::FIRST,
        connection: ConnectionId([7; 16]),
        client_address: IpAddr::from([192, 0, 2, 20]),
        expires_at_ms: 1_700_000_900_000,
        session_interval_secs: 1800,
        cti_connection: Some("192.0.2.7:8000".to_owned()),
        calls: [("1".to_owned(), call())].into(),
    }
}

fn call() -> CallRecord {
    CallRecord {
        pbx_call_id: "77".to_owned(),
        state: CallState::Connected,
        calling: "4711".to_owned(),
        called: "4712".to_owned(),
    }
}

fn update() -> SessionUpdate {
    SessionUpdate {
        connection: Some((ConnectionId([8; 16]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]))),
        remote_target: Some("sip:192.0.2.21:5060;transport=tcp".to_owned()),
        expires_at_ms: Some(1_700_001_800_000),
        monitor_active: Some(false),
        cti_connection: Some("192.0.2.8:8000".to_owned()),
        calls: vec![("1".to_owned(), None), ("2".to_owned(), Some(call()))],
    }
}

fn watcher() -> WatcherRecord {
    WatcherRecord {
        key: SessionKey::new("n2-0000000000000002".to_owned()),
        dialog: dialog(),
        presentity: "user1".to_owned(),
        owner: NodeId(2),
        epoch: Epoch::FIRST,
        connection: ConnectionId([8; 16]),
        client_address: IpAddr::from([192, 0, 2, 20]),
        expires_at_ms: 1_700_000_900_000,
        event_id: Some("5".to_owned()),
    }
}

fn calendar() -> CalendarPresence {
    CalendarPresence {
        state: CalendarState::OutOfOffice,
        from_ms: 1_700_000_000_000,
        until_ms: Some(1_700_003_600_000),
    }
}

fn manual() -> ManualPresence {
    ManualPresence {
        state: ManualState::DoNotDisturb,
        set_at_ms: 1_700_000_000_000,
        until_ms: None,
    }
}
