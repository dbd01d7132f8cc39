//! Monitors: what their subscribers are told and what the CTI managers are asked.

use tandem_cluster::SessionKey;

use super::monitor::*;
use super::{CtiConnectionId, CtiFailure};
use MonitorInput as In;
use MonitorOutput as Out;
use MonitorPriority::{Background, Traffic};

fn monitors() -> Monitors {
    Monitors::new(MonitorLimits {
        starts_in_flight_max: 1,
        monitors_max: 4,
    })
}

fn session(name: &str) -> SessionKey {
    SessionKey::new(name)
}

fn key(connection: usize, device: &str) -> MonitorKey {
    MonitorKey {
        connection: CtiConnectionId(connection),
        device: device.to_owned(),
    }
}

fn subscribed(subscriber: &str, key: MonitorKey, priority: MonitorPriority) -> MonitorInput {
    In::Subscribed {
        subscriber: session(subscriber),
        key,
        priority,
    }
}

fn unsubscribed(subscriber: &str) -> MonitorInput {
    In::Unsubscribed {
        subscriber: session(subscriber),
    }
}

fn start_answered(key: MonitorKey, cross_ref_id: &str) -> MonitorInput {
    In::StartAnswered {
        key,
        result: Ok(cross_ref_id.to_owned()),
    }
}

fn started(subscriber: &str, key: MonitorKey) -> MonitorOutput {
    Out::Started {
        subscriber: session(subscriber),
        key,
    }
}

fn lost(subscriber: &str, key: MonitorKey) -> MonitorOutput {
    Out::Lost {
        subscriber: session(subscriber),
        key,
    }
}

fn stop(key: MonitorKey, cross_ref_id: &str) -> MonitorOutput {
    Out::Stop {
        key,
        cross_ref_id: cross_ref_id.to_owned(),
    }
}

fn subscribers(monitors: &Monitors, cross_ref_id: &str) -> Vec<SessionKey> {
    monitors
        .subscribers(CtiConnectionId(0), cross_ref_id)
        .cloned()
        .collect()
}

#[test]
fn sessions_that_watch_one_device_share_its_monitor() {
    let mut monitors = monitors();
    let device = key(0, "4711");
    assert_eq!(
        monitors.handle(subscribed("desk", device.clone(), Traffic)),
        [Out::Start { key: device.clone() }]
    );
    assert_eq!(monitors.handle(subscribed("laptop", device.clone(), Traffic)), []);
    let expected = [started("desk", device.clone()), started("laptop", device.clone())];
    assert_eq!(monitors.handle(start_answered(device.clone(), "m-1")), expected);
    let tablet = monitors.handle(subscribed("tablet", device.clone(), Traffic));
    let joined = Out::Joined {
        subscriber: session("tablet"),
        key: device.clone(),
    };
    assert_eq!(tablet, [joined]);
    assert_eq!(
        subscribers(&monitors, "m-1"),
        ["desk", "laptop", "tablet"].map(session)
    );

    assert_eq!(monitors.handle(unsubscribed("desk")), []);
    assert_eq!(monitors.handle(unsubscribed("tablet")), []);
    assert_eq!(
        monitors.handle(unsubscribed("laptop")),
        [stop(device.clone(), "m-1")]
    );
    assert!(subscribers(&monitors, "m-1").is_empty());
    assert!(monitors.knows(CtiConnectionId(0), "m-1"));
    assert_eq!(monitors.handle(In::StopAnswered { key: device }), []);
    assert!(!monitors.knows(CtiConnectionId(0), "m-1"));
    assert!(monitors.is_empty());
}

#[test]
fn a_monitor_whose_last_subscriber_left_while_it_started_is_stopped() {
    let mut monitors = monitors();
    let device = key(0, "4711");
    let _ = monitors.handle(subscribed("desk", device.clone(), Traffic));
    assert_eq!(monitors.handle(unsubscribed("desk")), []);
    assert_eq!(
        monitors.handle(start_answered(device.clone(), "m-1")),
        [stop(device, "m-1")]
    );
}

#[test]
fn a_monitor_that_is_wanted_again_while_it_stops_is_started_anew() {
    let mut monitors = monitors();
    let device = key(0, "4711");
    let _ = monitors.handle(subscribed("desk", device.clone(), Traffic));
    let _ = monitors.handle(start_answered(device.clone(), "m-1"));
    let _ = monitors.handle(unsubscribed("desk"));
    assert_eq!(monitors.handle(subscribed("desk", device.clone(), Traffic)), []);
    assert!(!monitors.is_active(&session("desk")));
    let stopped = monitors.handle(In::StopAnswered { key: device.clone() });
    assert_eq!(stopped, [Out::Start { key: device.clone() }]);
    assert_eq!(
        monitors.handle(start_answered(device.clone(), "m-2")),
        [started("desk", device)]
    );
    assert!(monitors.is_active(&session("desk")));
}

#[test]
fn starts_are_paced_and_sessions_with_traffic_go_first() {
    let mut monitors = monitors();
    let (first, second, third, fourth) = (key(0, "1"), key(0, "2"), key(0, "3"), key(0, "4"));
    let _ = monitors.handle(subscribed("a", first.clone(), Background));
    assert_eq!(monitors.handle(subscribed("b", second.clone(), Background)), []);
    assert_eq!(monitors.handle(subscribed("c", third.clone(), Background)), []);
    assert_eq!(monitors.handle(subscribed("d", fourth.clone(), Background)), []);
    assert_eq!(monitors.handle(subscribed("c", third.clone(), Traffic)), []);
    assert_eq!(
        monitors.handle(start_answered(first.clone(), "m-1")),
        [started("a", first), Out::Start { key: third }]
    );
    assert_eq!(monitors.handle(unsubscribed("b")), []);
    let refused = In::StartAnswered {
        key: key(0, "3"),
        result: Err(CtiFailure::TimedOut),
    };
    let failure = MonitorFailure::NotStarted(CtiFailure::TimedOut);
    let expected = [
        Out::Failed {
            subscriber: session("c"),
            key: key(0, "3"),
            failure,
        },
        Out::Start { key: fourth },
    ];
    assert_eq!(monitors.handle(refused), expected);
}

#[test]
fn connections_are_paced_each_for_itself() {
    let mut monitors = monitors();
    let (here, there) = (key(0, "1"), key(1, "1"));
    assert_eq!(
        monitors.handle(subscribed("a", here.clone(), Traffic)),
        [Out::Start { key: here }]
    );
    assert_eq!(
        monitors.handle(subscribed("b", there.clone(), Traffic)),
        [Out::Start { key: there }]
    );
}

#[test]
fn with_its_connection_a_session_loses_its_monitor_and_can_move() {
    let mut monitors = monitors();
    let (active, starting, queued, elsewhere) = (key(0, "1"), key(0, "2"), key(0, "3"), key(1, "1"));
    let _ = monitors.handle(subscribed("a", active.clone(), Traffic));
    let _ = monitors.handle(start_answered(active.clone(), "m-1"));
    let _ = monitors.handle(subscribed("b", starting.clone(), Traffic));
    let _ = monitors.handle(subscribed("c", queued.clone(), Traffic));
    let _ = monitors.handle(subscribed("d", elsewhere.clone(), Traffic));
    // The link's answer to what was outstanding comes first.
    let failed = In::StartAnswered {
        key: starting.clone(),
        result: Err(CtiFailure::LinkLost),
    };
    let expected = [lost("b", starting), Out::Start { key: queued.clone() }];
    assert_eq!(monitors.handle(failed), expected);
    let connection_lost = In::ConnectionLost {
        connection: CtiConnectionId(0),
    };
    assert_eq!(
        monitors.handle(connection_lost),
        [lost("a", active), lost("c", queued.clone())]
    );
    assert_eq!(monitors.subscription(&session("d")), Some(&elsewhere));

    assert_eq!(monitors.handle(start_answered(queued.clone(), "m-3")), []);
    assert_eq!(
        monitors.handle(subscribed("c", queued.clone(), Traffic)),
        [Out::Start { key: queued }]
    );
}

#[test]
fn a_monitor_that_the_cti_manager_ends_is_lost() {
    let mut monitors = monitors();
    let device = key(0, "1");
    let _ = monitors.handle(subscribed("a", device.clone(), Traffic));
    let _ = monitors.handle(start_answered(device.clone(), "m-1"));
    let stopped = |cross_ref_id: &str| In::StoppedByCtiManager {
        connection: CtiConnectionId(0),
        cross_ref_id: cross_ref_id.to_owned(),
    };
    assert_eq!(monitors.handle(stopped("m-9")), []);
    assert_eq!(monitors.handle(stopped("m-1")), [lost("a", device)]);
    assert!(monitors.is_empty());
}

#[test]
fn a_session_that_turns_to_another_device_leaves_the_first() {
    let mut monitors = monitors();
    let (first, second) = (key(0, "1"), key(0, "2"));
    let _ = monitors.handle(subscribed("a", first.clone(), Traffic));
    let _ = monitors.handle(start_answered(first.clone(), "m-1"));
    assert_eq!(
        monitors.handle(subscribed("a", second.clone(), Traffic)),
        [stop(first, "m-1"), Out::Start { key: second }]
    );
}

#[test]
fn monitors_are_bounded() {
    let mut monitors = monitors();
    for device in ["1", "2", "3", "4"] {
        let _ = monitors.handle(subscribed(device, key(0, device), Background));
    }
    let failed = Out::Failed {
        subscriber: session("5"),
        key: key(0, "5"),
        failure: MonitorFailure::TooMany,
    };
    assert_eq!(monitors.handle(subscribed("5", key(0, "5"), Traffic)), [failed]);
    assert_eq!(monitors.handle(subscribed("6", key(0, "4"), Traffic)), []);
}
