//! PUBLISH, as the other presence server sees it.

use tandem_cluster::Authority;
use tandem_cluster::{ClusterState, ConnectionId, ManualPresence, ManualState, StateLimits};

use super::bench::*;
use crate::gateway::*;
use crate::presence::publication::PublisherSettings;

fn target() -> OutboundTarget {
    OutboundTarget {
        host: "presence.lab.test".into(),
        port: 5060,
        tls: false,
    }
}

fn publishing() -> Bench {
    Bench::configured(1, ClusterState::new(StateLimits::default()), |config| {
        config.publish = Some(PublishSettings {
            target: target(),
            publisher: PublisherSettings::default(),
            host_name: Some("rcc.example.com".into()),
        });
    })
}

fn connect(bench: &mut Bench) {
    bench.input(Input::OutboundOpened {
        target: target(),
        id: PairId(9),
        pair: Pair {
            purpose: PairPurpose::Outbound,
            connection: ConnectionId([9; 16]),
            client: "10.0.0.5:5060".parse().unwrap(),
            host_name: None,
            subject: None,
            local: "192.0.2.1:40000".parse().unwrap(),
            transport: tandem_sip::proxy_protocol::Transport::Tcp,
        },
    });
}

fn set_busy(bench: &mut Bench, user: &str) {
    let manual = Some(ManualPresence {
        state: ManualState::Busy,
        set_at_ms: bench.now.unix_ms,
        until_ms: None,
    });
    let user = user.to_owned();
    let command = Command::ManualPresenceSet {
        user: user.clone(),
        manual,
    };
    bench.state.apply(command);
    bench.input(Input::PresenceChanged { user });
}

#[test]
fn a_users_presence_is_published_over_a_connection_that_is_dialled_for_it() {
    let mut bench = publishing();
    set_busy(&mut bench, "user2");
    assert_eq!(bench.dialled, [target()]);
    connect(&mut bench);
    let publish = bench.sent.pop().unwrap();
    assert_eq!(publish.pair, PairId(9));
    assert_eq!(publish.message.method(), Some(&b"PUBLISH"[..]));
    assert_eq!(
        publish.message.request_uri(),
        Some(&b"sip:user2@mail.lab.test"[..])
    );
    assert_eq!(
        (publish.header("Event"), publish.header("Expires")),
        ("presence".into(), "3600".into())
    );
    assert!(
        publish
            .header("From")
            .starts_with("<sip:user2@mail.lab.test>;tag=n1-")
    );
    let via = publish.header("Via");
    assert!(
        via.starts_with("SIP/2.0/TCP rcc.example.com;branch=z9hG4bKn1-"),
        "{via}"
    );
    assert!(publish.body().contains("busy"), "{}", publish.body());
    let accepted = response_to(&publish, 200, "SIP-ETag: e1\r\nExpires: 600\r\n");
    assert!(bench.receive_on(9, &accepted).is_empty());
    bench.pass(Duration::from_secs(599));
    let refresh = bench.sent.pop().unwrap();
    assert_eq!(
        (refresh.header("SIP-If-Match"), refresh.body()),
        ("e1".into(), String::new())
    );
}

#[test]
fn who_has_no_address_or_is_kept_elsewhere_is_not_published() {
    let mut bench = publishing();
    connect(&mut bench);
    set_busy(&mut bench, "user1");
    assert!(bench.sent.is_empty(), "the user has no address");
    bench.state.apply(registered(2, 2));
    let is_kept_here = bench.state.calendar_owner("user2") == Some(NodeId(1));
    set_busy(&mut bench, "user2");
    assert_eq!(bench.sent.len(), usize::from(is_kept_here));
}

#[test]
fn an_isolated_node_publishes_nothing_until_it_is_itself_again() {
    let mut bench = publishing();
    connect(&mut bench);
    bench.input(Input::AuthorityChanged(Authority::Isolated));
    set_busy(&mut bench, "user2");
    bench.pass(Duration::from_secs(2));
    assert!(bench.sent.is_empty());
    bench.input(Input::AuthorityChanged(Authority::Quorum));
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.sent.len(), 1);
}
