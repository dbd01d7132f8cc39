//! CTI managers that want an application session (ECMA-354).

use std::time::Duration;

use super::connections_tests::{FIRST, SECOND, World, answer_call, answered, down, link};
use super::*;
use crate::csta::{ApplicationSession, CstaMessage};

fn with_session(settings: &mut CtiSettings) {
    settings.heartbeat_interval = 600 * SECOND;
    settings.application_session = Some(ApplicationSessionSettings {
        application_id: "tandem-n1".to_owned(),
        duration_secs: 60,
    });
}

fn logged_in() -> World {
    let mut world = World::new(1, with_session);
    world.input(CtiInput::LinkOpened(link(0, 1)));
    let start = ApplicationSession::Start {
        application_id: "tandem-n1".to_owned(),
        requested_duration_secs: 60,
    };
    assert_eq!(
        world.received(),
        [(link(0, 1), 1, CstaMessage::ApplicationSession(start))]
    );
    let started = ApplicationSession::Started {
        session_id: "17".to_owned(),
        actual_duration_secs: 40,
    };
    world.say(link(0, 1), 1, &started.encode());
    world.answer_heartbeats();
    assert!(world.is_in_service(FIRST));
    world.outputs();
    world
}

fn reset() -> CstaMessage {
    CstaMessage::ApplicationSession(ApplicationSession::ResetTimer {
        session_id: "17".to_owned(),
        requested_duration_secs: 40,
    })
}

#[test]
fn an_application_session_is_reset_at_half_of_its_duration() {
    let mut world = logged_in();
    for id in 3..6 {
        world.pass(20 * SECOND - Duration::from_millis(1));
        assert_eq!(world.received(), []);
        world.pass(Duration::from_millis(1));
        assert_eq!(world.received(), [(link(0, 1), id, reset())]);
        world.say(
            link(0, 1),
            id,
            &ApplicationSession::TimerReset {
                actual_duration_secs: 40,
            }
            .encode(),
        );
    }
    assert_eq!(world.outputs(), []);
}

#[test]
fn one_reset_may_be_missed_and_two_take_the_link_down() {
    let mut world = logged_in();
    world.pass(20 * SECOND);
    world.pass(2 * SECOND);
    assert_eq!(world.received().len(), 2);
    assert_eq!(world.outputs(), []);
    world.pass(2 * SECOND);
    let expected = [
        CtiOutput::Close { link: link(0, 1) },
        down(0, LinkFailure::SessionTimedOut),
    ];
    assert_eq!(world.outputs(), expected);
}

#[test]
fn a_refused_or_terminated_application_session_takes_the_link_down() {
    let mut world = World::new(1, with_session);
    world.input(CtiInput::LinkOpened(link(0, 1)));
    world.outputs();
    world.say(
        link(0, 1),
        1,
        &ApplicationSession::StartRefused {
            reason: "no".to_owned(),
        }
        .encode(),
    );
    assert_eq!(world.outputs(), [CtiOutput::Close { link: link(0, 1) }]);

    let mut world = logged_in();
    world.say(link(0, 1), 500, &ApplicationSession::Terminated.encode());
    let expected = [
        CtiOutput::Close { link: link(0, 1) },
        down(0, LinkFailure::SessionTerminated),
    ];
    assert_eq!(world.outputs(), expected);
}

#[test]
fn a_drain_ends_the_application_session_and_connects_no_more() {
    let mut world = logged_in();
    world.submit(1, answer_call("c-1"));
    world.received();
    world.input(CtiInput::DrainStarted);
    let stop = ApplicationSession::Stop {
        session_id: "17".to_owned(),
    };
    assert_eq!(
        world.received(),
        [(link(0, 1), 4, CstaMessage::ApplicationSession(stop))]
    );
    let expected = [
        CtiOutput::Close { link: link(0, 1) },
        answered(1, Err(CtiFailure::LinkLost)),
        down(0, LinkFailure::Drained),
    ];
    assert_eq!(world.outputs(), expected);
    assert_eq!(world.connections.next_deadline(), None);
}
