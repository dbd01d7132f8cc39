//! The CTI managers without a gateway around them: what is asked of them, and what there is to tell.
#![expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]

use super::*;
use crate::csta::{Cause, ConnectionIdentifier, EventKind, SnapshotRequest};
use crate::cti::CtiConnectionSettings;

const FIRST: CtiConnectionId = CtiConnectionId(0);

/// Of two connections; one MonitorStart may be under way at each.
fn monitoring() -> Monitoring {
    let connections = ["cm1:8000", "cm2:8000"].map(|address| CtiConnectionSettings {
        name: address.to_owned(),
        address: address.to_owned(),
    });
    Monitoring::new(
        CtiSettings::new(connections.to_vec()),
        MonitorLimits {
            starts_in_flight_max: 1,
            monitors_max: 8,
        },
    )
}

fn session(name: &str) -> SessionKey {
    SessionKey::new(name)
}

fn watch(monitoring: &mut Monitoring, name: &str, device: &str) {
    let key = MonitorKey {
        connection: FIRST,
        device: device.to_owned(),
    };
    monitoring.watch(&session(name), key, MonitorPriority::Background);
}

fn ask(monitoring: &mut Monitoring, name: &str) -> RequestToken {
    monitoring.ask(
        CtiWaiter {
            session: session(name),
            connection: FIRST,
            purpose: CtiPurpose::Service,
        },
        Request::Snapshot(SnapshotRequest::Device {
            device: "4711".to_owned(),
        }),
    )
}

fn notices(monitoring: &mut Monitoring) -> Vec<Notice> {
    std::iter::from_fn(|| monitoring.next_notice()).collect()
}

/// The tokens and names of what has been asked.
fn asked(monitoring: &mut Monitoring) -> Vec<(RequestToken, &'static str)> {
    let asked = std::iter::from_fn(|| monitoring.requests.next_asked());
    asked.map(|asked| (asked.token, asked.request.label())).collect()
}

fn only_asked(monitoring: &mut Monitoring) -> (RequestToken, &'static str) {
    let asked = asked(monitoring);
    assert_eq!(asked.len(), 1, "{asked:?}");
    asked[0]
}

fn says(monitoring: &mut Monitoring, token: RequestToken, result: Result<Response, CtiFailure>) -> Vec<News> {
    monitoring.said.push_back(Said::Answered { token, result });
    std::iter::from_fn(|| monitoring.next_news()).collect()
}

fn starts(monitoring: &mut Monitoring, cross_ref_id: &str) {
    let (token, label) = only_asked(monitoring);
    assert_eq!(label, "MonitorStart");
    let started = Response::MonitorStart {
        cross_ref_id: cross_ref_id.to_owned(),
    };
    assert_eq!(says(monitoring, token, Ok(started)), [News::Notices]);
}

fn happens(monitoring: &mut Monitoring, cross_ref_id: &str) -> News {
    let mut event = Event::new(
        EventKind::Delivered,
        cross_ref_id,
        ConnectionIdentifier::new("c-1", "4711"),
    );
    event.cause = Cause::NEW_CALL;
    monitoring.said.push_back(Said::Event {
        connection: FIRST,
        event: Box::new(event),
    });
    monitoring.next_news().unwrap()
}

fn told(news: News) -> Vec<SessionKey> {
    let News::Event { subscribers, .. } = news else {
        panic!("{news:?}");
    };
    subscribers
}

fn started(name: &str) -> Notice {
    Notice::Started {
        subscriber: session(name),
    }
}

#[test]
fn sessions_of_one_device_share_a_monitor_that_ends_with_the_last_of_them() {
    let mut monitoring = monitoring();
    watch(&mut monitoring, "n1-a", "4711");
    watch(&mut monitoring, "n1-b", "4711");
    assert_eq!(notices(&mut monitoring), []);
    starts(&mut monitoring, "p-1");
    assert_eq!(notices(&mut monitoring), [started("n1-a"), started("n1-b")]);
    assert_eq!(
        told(happens(&mut monitoring, "p-1")),
        [session("n1-a"), session("n1-b")]
    );
    monitoring.unwatch(&session("n1-a"));
    assert_eq!(told(happens(&mut monitoring, "p-1")), [session("n1-b")]);
    assert_eq!(asked(&mut monitoring), []);
    monitoring.unwatch(&session("n1-b"));
    assert_eq!(only_asked(&mut monitoring).1, "MonitorStop");
    monitoring.check_invariants();
}

#[test]
fn what_a_session_asks_upon_its_notice_goes_before_the_monitor_that_waits_for_its_turn() {
    let mut monitoring = monitoring();
    watch(&mut monitoring, "n1-a", "4711");
    watch(&mut monitoring, "n1-b", "4712");
    assert_eq!(notices(&mut monitoring), []);
    starts(&mut monitoring, "p-1");
    assert_eq!(monitoring.next_notice(), Some(started("n1-a")));
    ask(&mut monitoring, "n1-a");
    assert_eq!(monitoring.next_notice(), None);
    let labels: Vec<&str> = asked(&mut monitoring)
        .into_iter()
        .map(|(_, label)| label)
        .collect();
    assert_eq!(labels, ["SnapshotDevice", "MonitorStart"]);
}

#[test]
fn a_session_that_asks_for_another_monitor_upon_its_notice_hears_of_that_first() {
    let mut monitoring = monitoring();
    watch(&mut monitoring, "n1-a", "4711");
    watch(&mut monitoring, "n1-b", "4711");
    watch(&mut monitoring, "n1-c", "4711");
    assert_eq!(notices(&mut monitoring), []);
    starts(&mut monitoring, "p-1");
    assert_eq!(monitoring.next_notice(), Some(started("n1-a")));
    watch(&mut monitoring, "n1-d", "4711");
    let joined = Notice::Joined {
        subscriber: session("n1-d"),
    };
    assert_eq!(
        notices(&mut monitoring),
        [joined, started("n1-b"), started("n1-c")]
    );
}

#[test]
fn an_answer_is_told_once_and_not_at_all_when_the_request_was_given_up() {
    let mut monitoring = monitoring();
    let token = ask(&mut monitoring, "n1-a");
    let lost = || Err(CtiFailure::LinkLost);
    let news = says(&mut monitoring, token, lost());
    assert!(
        matches!(&news[..], [News::Answered { token: told, waiter, .. }]
            if *told == token && waiter.session == session("n1-a")),
        "{news:?}"
    );
    assert_eq!(says(&mut monitoring, token, lost()), []);
    let token = ask(&mut monitoring, "n1-b");
    assert!(monitoring.give_up(token));
    assert!(!monitoring.give_up(token));
    assert_eq!(says(&mut monitoring, token, lost()), []);
}

#[test]
fn a_request_to_a_connection_out_of_service_is_answered_in_the_same_step() {
    let mut monitoring = monitoring();
    ask(&mut monitoring, "n1-a");
    assert_eq!(monitoring.hand_over_requests(Instant::now()), []);
    let news = monitoring.next_news();
    assert!(
        matches!(
            &news,
            Some(News::Answered {
                result: Err(CtiFailure::NotInService),
                ..
            })
        ),
        "{news:?}"
    );
    monitoring.check_invariants();
}

#[test]
fn a_monitor_that_no_session_watches_is_stopped_once() {
    let mut monitoring = monitoring();
    assert_eq!(happens(&mut monitoring, "p-9"), News::EventOfUnknownMonitor);
    let (token, label) = only_asked(&mut monitoring);
    assert_eq!(label, "MonitorStop");
    assert_eq!(happens(&mut monitoring, "p-9"), News::EventOfUnknownMonitor);
    assert_eq!(asked(&mut monitoring), []);
    // It goes on after all: it is stopped again.
    assert_eq!(says(&mut monitoring, token, Err(CtiFailure::TimedOut)), []);
    assert_eq!(happens(&mut monitoring, "p-9"), News::EventOfUnknownMonitor);
    assert_eq!(only_asked(&mut monitoring).1, "MonitorStop");
}

#[test]
fn a_monitor_that_may_be_the_one_being_started_is_not_stopped() {
    let mut monitoring = monitoring();
    watch(&mut monitoring, "n1-a", "4711");
    assert_eq!(notices(&mut monitoring), []);
    assert_eq!(happens(&mut monitoring, "p-1"), News::EventOfUnknownMonitor);
    starts(&mut monitoring, "p-1");
    assert_eq!(notices(&mut monitoring), [started("n1-a")]);
    assert_eq!(told(happens(&mut monitoring, "p-1")), [session("n1-a")]);
}

#[test]
fn monitors_go_with_their_connection_and_their_late_answers_are_nobodys() {
    let mut monitoring = monitoring();
    watch(&mut monitoring, "n1-a", "4711");
    assert_eq!(notices(&mut monitoring), []);
    let (token, _) = only_asked(&mut monitoring);
    let (connection, reason) = (FIRST, LinkFailure::ClosedByPeer);
    monitoring.said.push_back(Said::InService { connection });
    monitoring
        .said
        .push_back(Said::OutOfService { connection, reason });
    assert_eq!(monitoring.next_news(), Some(News::InService { connection }));
    assert!(monitoring.is_in_service(FIRST));
    assert_eq!(
        monitoring.next_news(),
        Some(News::OutOfService { connection, reason })
    );
    assert!(!monitoring.is_in_service(FIRST));
    assert_eq!(monitoring.monitors().subscribers_count(), 0);
    assert_eq!(says(&mut monitoring, token, Err(CtiFailure::LinkLost)), []);
    assert_eq!(notices(&mut monitoring), []);
}

#[test]
fn a_monitor_that_the_cti_manager_ends_is_lost_for_all_who_watch() {
    let mut monitoring = monitoring();
    watch(&mut monitoring, "n1-a", "4711");
    assert_eq!(notices(&mut monitoring), []);
    starts(&mut monitoring, "p-1");
    assert_eq!(notices(&mut monitoring), [started("n1-a")]);
    monitoring.said.push_back(Said::MonitorStopped {
        connection: FIRST,
        cross_ref_id: "p-1".to_owned(),
    });
    assert_eq!(monitoring.next_news(), Some(News::Notices));
    let lost = Notice::Lost {
        subscriber: session("n1-a"),
        connection: FIRST,
    };
    assert_eq!(notices(&mut monitoring), [lost]);
}
