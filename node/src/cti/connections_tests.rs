//! The connections as a whole: several links, a CTI manager at the other end of each, and a clock that only moves
//! when it is told to.
#![expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::link_framer::{Frame, LinkFramer};
use super::*;
use crate::csta::{
    self, CallRequest, ConnectionIdentifier, CstaErrorCode, CstaMessage, Event, EventKind, MonitorRequest,
    Request, Response, Service, SystemRequest, SystemStatus,
};
use tandem_xml::XmlError;

pub(super) struct World {
    pub(super) connections: Connections,
    now: Instant,
    /// What has been put out and nobody has looked at yet, without what went over the wire.
    outputs: Vec<CtiOutput>,
    /// What the CTI managers have received and not answered.
    received: Vec<(LinkId, u16, CstaMessage)>,
}

const NORMAL: Response = Response::RequestSystemStatus {
    status: SystemStatus::Normal,
};
pub(super) const FIRST: CtiConnectionId = CtiConnectionId(0);

impl World {
    pub(super) fn new(count: usize, adjust: impl FnOnce(&mut CtiSettings)) -> Self {
        let connection = |index| CtiConnectionSettings {
            name: format!("cti-{index}"),
            address: format!("192.0.2.{index}:2555"),
        };
        let mut settings = CtiSettings::new((0..count).map(connection).collect());
        adjust(&mut settings);
        let mut world = Self {
            connections: Connections::new(settings),
            now: Instant::now(),
            outputs: Vec::new(),
            received: Vec::new(),
        };
        world.input(CtiInput::Started);
        world
    }

    /// With every connection in service.
    fn in_service(count: usize, adjust: impl FnOnce(&mut CtiSettings)) -> Self {
        let mut world = Self::new(count, adjust);
        (0..count).for_each(|index| world.bring_up(CtiConnectionId(index)));
        world.outputs.clear();
        world
    }

    fn bring_up(&mut self, connection: CtiConnectionId) {
        let link = self.outputs.iter().rev().find_map(|output| {
            let CtiOutput::Connect { link } = output else {
                return None;
            };
            (link.connection == connection).then_some(*link)
        });
        self.input(CtiInput::LinkOpened(link.expect("a link is wanted")));
        self.answer_heartbeats();
        assert!(self.is_in_service(connection));
    }

    pub(super) fn input(&mut self, input: CtiInput) {
        let outputs = self.connections.handle(input, self.now);
        self.take(outputs);
    }

    pub(super) fn submit(&mut self, token: u64, request: Request) {
        let outputs = self
            .connections
            .submit(FIRST, RequestToken(token), request, self.now);
        self.take(outputs);
    }

    fn take(&mut self, outputs: Vec<CtiOutput>) {
        for output in outputs {
            if let CtiOutput::Write { link, bytes } = &output {
                let mut framer = LinkFramer::default();
                framer.push(bytes);
                let frame = framer.next_frame().unwrap().unwrap();
                self.received
                    .push((*link, frame.invoke_id, csta::decode(&frame.body).unwrap()));
            } else {
                self.outputs.push(output);
            }
        }
    }

    pub(super) fn say(&mut self, link: LinkId, invoke_id: u16, document: &str) {
        let bytes = Frame::write(invoke_id, document).unwrap();
        self.input(CtiInput::BytesReceived { link, bytes });
    }

    pub(super) fn answer_heartbeats(&mut self) {
        let (heartbeats, others): (Vec<_>, Vec<_>) = self.received.drain(..).partition(|(.., message)| {
            matches!(
                message,
                CstaMessage::Request(Request::System(SystemRequest::RequestSystemStatus { .. }))
            )
        });
        self.received = others;
        for (link, invoke_id, _) in heartbeats {
            self.say(link, invoke_id, &NORMAL.encode());
        }
    }

    /// The time passes, and every deadline in it is kept.
    pub(super) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(deadline) = self
            .connections
            .next_deadline()
            .filter(|deadline| *deadline <= end)
        {
            self.now = self.now.max(deadline);
            self.input(CtiInput::DeadlineReached);
        }
        self.now = end;
    }

    pub(super) fn outputs(&mut self) -> Vec<CtiOutput> {
        std::mem::take(&mut self.outputs)
    }

    pub(super) fn received(&mut self) -> Vec<(LinkId, u16, CstaMessage)> {
        std::mem::take(&mut self.received)
    }

    pub(super) fn is_in_service(&self, connection: CtiConnectionId) -> bool {
        let mut statuses = self.connections.statuses();
        statuses.any(|status| status.connection == connection && status.in_service)
    }

    fn counters(&self) -> LinkCounters {
        self.connections.statuses().next().unwrap().counters
    }
}

pub(super) fn link(connection: usize, incarnation: u64) -> LinkId {
    LinkId {
        connection: CtiConnectionId(connection),
        incarnation,
    }
}

pub(super) fn answer_call(call_id: &str) -> Request {
    CallRequest::answer_call(ConnectionIdentifier::new(call_id, "4711"))
}

pub(super) fn answered(token: u64, result: Result<Response, CtiFailure>) -> CtiOutput {
    CtiOutput::Answered {
        token: RequestToken(token),
        result,
    }
}

pub(super) fn down(connection: usize, reason: LinkFailure) -> CtiOutput {
    CtiOutput::ConnectionDown {
        connection: CtiConnectionId(connection),
        reason,
    }
}

pub(super) const SECOND: Duration = Duration::from_secs(1);

#[test]
fn at_start_all_are_connected_in_configured_order() {
    let mut world = World::new(3, |_| {});
    let expected: Vec<_> = (0..3)
        .map(|index| CtiOutput::Connect { link: link(index, 1) })
        .collect();
    assert_eq!(world.outputs(), expected);
    assert!((0..3).all(|index| !world.is_in_service(CtiConnectionId(index))));
}

#[test]
fn a_connection_is_in_service_once_its_first_heartbeat_is_answered() {
    let mut world = World::new(1, |_| {});
    world.input(CtiInput::LinkOpened(link(0, 1)));
    assert!(!world.is_in_service(FIRST));
    world.outputs();
    world.answer_heartbeats();
    assert_eq!(world.outputs(), [CtiOutput::ConnectionUp { connection: FIRST }]);
    assert!(world.is_in_service(FIRST));
}

#[test]
fn answers_are_matched_by_invoke_id_in_any_order() {
    let mut world = World::in_service(1, |_| {});
    world.submit(1, answer_call("c-1"));
    world.submit(
        2,
        Request::Monitor(MonitorRequest::Start {
            device: "4711".to_owned(),
        }),
    );
    let received = world.received();
    let ids: Vec<u16> = received.iter().map(|(_, id, _)| *id).collect();
    assert_eq!(ids, [2, 3], "the first heartbeat had 1");
    assert_eq!(received[0].2, CstaMessage::Request(answer_call("c-1")));

    let started = Response::MonitorStart {
        cross_ref_id: "m-1".to_owned(),
    };
    world.say(link(0, 1), 3, &started.encode());
    world.say(link(0, 1), 2, &CstaErrorCode::NO_CALL_TO_ANSWER.encode());
    let refused = Err(CtiFailure::Refused(CstaErrorCode::NO_CALL_TO_ANSWER));
    assert_eq!(world.outputs(), [answered(2, Ok(started)), answered(1, refused)]);
}

#[test]
fn an_answer_to_nothing_is_counted_and_disturbs_nobody() {
    let mut world = World::in_service(1, |_| {});
    world.say(link(0, 1), 77, &Response::Done(Service::AnswerCall).encode());
    world.say(link(0, 1), 9999, "<HoldCallResponse/>");
    world.say(link(0, 1), 78, "<oops");
    assert_eq!(world.outputs(), []);
    assert_eq!(
        (world.counters().unknown_responses, world.counters().undecodable),
        (2, 1)
    );
}

#[test]
fn an_answer_of_another_kind_or_without_sense_ends_the_request() {
    let mut world = World::in_service(1, |_| {});
    world.submit(1, answer_call("c-1"));
    world.submit(2, answer_call("c-2"));
    world.say(link(0, 1), 2, &Response::Done(Service::ClearConnection).encode());
    world.say(link(0, 1), 3, "");
    let empty = CtiFailure::Undecodable(DecodeError::Xml(XmlError::Empty));
    assert_eq!(
        world.outputs(),
        [
            answered(1, Err(CtiFailure::WrongResponse)),
            answered(2, Err(empty))
        ]
    );
}

#[test]
fn a_request_without_an_answer_times_out_and_a_late_answer_is_only_counted() {
    let mut world = World::in_service(1, |settings| {
        settings.heartbeat_interval = 60 * SECOND;
        settings.request_timeout = 5 * SECOND;
    });
    world.submit(1, answer_call("c-1"));
    world.pass(5 * SECOND - Duration::from_millis(1));
    assert_eq!(world.outputs(), []);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.outputs(), [answered(1, Err(CtiFailure::TimedOut))]);
    world.say(link(0, 1), 2, &Response::Done(Service::AnswerCall).encode());
    assert_eq!(world.outputs(), []);
    assert_eq!(
        (
            world.counters().requests_timed_out,
            world.counters().unknown_responses
        ),
        (1, 1)
    );
}

#[test]
fn outstanding_requests_are_bounded_and_so_are_those_that_wait() {
    let mut world = World::in_service(1, |settings| {
        settings.heartbeat_interval = 60 * SECOND;
        settings.outstanding_max = 1;
        settings.waiting_max = 1;
    });
    world.submit(1, answer_call("c-1"));
    world.submit(2, answer_call("c-2"));
    world.submit(3, answer_call("c-3"));
    assert_eq!(world.outputs(), [answered(3, Err(CtiFailure::QueueFull))]);
    assert_eq!(world.received().len(), 1);
    world.say(link(0, 1), 2, &Response::Done(Service::AnswerCall).encode());
    assert_eq!(
        world.outputs(),
        [answered(1, Ok(Response::Done(Service::AnswerCall)))]
    );
    assert_eq!(
        world.received(),
        [(link(0, 1), 3, CstaMessage::Request(answer_call("c-2")))]
    );
}

#[test]
fn a_request_that_waits_too_long_is_never_sent() {
    let mut world = World::in_service(1, |settings| {
        settings.heartbeat_interval = 60 * SECOND;
        settings.request_timeout = 5 * SECOND;
        settings.outstanding_max = 1;
    });
    world.submit(1, answer_call("c-1"));
    world.submit(2, answer_call("c-2"));
    world.pass(5 * SECOND);
    let expected = [
        answered(1, Err(CtiFailure::TimedOut)),
        answered(2, Err(CtiFailure::ExpiredInQueue)),
    ];
    assert_eq!(world.outputs(), expected);
    assert_eq!(
        world.received(),
        [(link(0, 1), 2, CstaMessage::Request(answer_call("c-1")))]
    );
}

#[test]
fn a_request_that_fits_no_frame_is_refused_here() {
    let mut world = World::in_service(1, |_| {});
    world.submit(
        1,
        Request::Monitor(MonitorRequest::Start {
            device: "4".repeat(70_000),
        }),
    );
    assert_eq!(world.outputs(), [answered(1, Err(CtiFailure::TooLarge))]);
    world.submit(2, answer_call("c-1"));
    assert_eq!(world.received().len(), 1);
}

#[test]
fn when_a_link_fails_all_its_requests_fail_and_it_is_connected_again_for_ever() {
    let mut world = World::in_service(2, |settings| {
        settings.outstanding_max = 1;
        settings.reconnect_interval = SECOND;
    });
    world.submit(1, answer_call("c-1"));
    world.submit(2, answer_call("c-2"));
    world.input(CtiInput::LinkClosed {
        link: link(0, 1),
        reason: LinkFailure::Broken,
    });
    let expected = [
        answered(1, Err(CtiFailure::LinkLost)),
        answered(2, Err(CtiFailure::NotInService)),
        down(0, LinkFailure::Broken),
    ];
    assert_eq!(world.outputs(), expected);
    world.submit(3, answer_call("c-3"));
    assert_eq!(world.outputs(), [answered(3, Err(CtiFailure::NotInService))]);
    for attempt in 2..20 {
        world.pass(SECOND);
        world.answer_heartbeats();
        assert_eq!(
            world.outputs(),
            [CtiOutput::Connect {
                link: link(0, attempt)
            }]
        );
        world.input(CtiInput::LinkClosed {
            link: link(0, attempt),
            reason: LinkFailure::ConnectFailed,
        });
        assert_eq!(world.outputs(), []);
    }
    let statuses: Vec<_> = world.connections.statuses().collect();
    assert_eq!(
        (
            statuses[0].in_service,
            statuses[0].connects_failed,
            statuses[0].transitions
        ),
        (false, 18, 2)
    );
    assert_eq!((statuses[1].in_service, statuses[1].transitions), (true, 1));
}

#[test]
fn news_of_an_earlier_link_are_ignored() {
    let mut world = World::in_service(1, |_| {});
    world.input(CtiInput::LinkClosed {
        link: link(0, 1),
        reason: LinkFailure::Broken,
    });
    world.pass(SECOND);
    world.bring_up(FIRST);
    world.outputs();
    world.input(CtiInput::LinkClosed {
        link: link(0, 1),
        reason: LinkFailure::ClosedByPeer,
    });
    world.say(link(0, 1), 9999, "<MonitorStop/>");
    world.input(CtiInput::LinkOpened(link(0, 1)));
    assert_eq!(world.outputs(), []);
    assert!(world.is_in_service(FIRST));
}

#[test]
fn a_heartbeat_goes_out_every_interval_and_its_latency_is_known() {
    let mut world = World::in_service(1, |settings| settings.heartbeat_interval = 5 * SECOND);
    for _ in 0..3 {
        world.pass(4 * SECOND);
        assert_eq!(world.received(), []);
        world.pass(SECOND);
        assert_eq!(world.received.len(), 1);
        world.now += Duration::from_millis(20);
        world.answer_heartbeats();
        assert_eq!(
            world.counters().heartbeat_latency,
            Some(Duration::from_millis(20))
        );
        assert_eq!(world.counters().heartbeat_answered_at, Some(world.now));
        world.now -= Duration::from_millis(20);
    }
}

#[test]
fn a_heartbeat_without_an_answer_takes_the_link_down() {
    let mut world = World::in_service(1, |settings| {
        settings.heartbeat_interval = 5 * SECOND;
        settings.heartbeat_timeout = 2 * SECOND;
    });
    world.submit(1, answer_call("c-1"));
    world.pass(4 * SECOND);
    world.submit(2, answer_call("c-2"));
    world.say(link(0, 1), 2, &Response::Done(Service::AnswerCall).encode());
    world.outputs();
    world.pass(3 * SECOND);
    let expected = [
        CtiOutput::Close { link: link(0, 1) },
        answered(2, Err(CtiFailure::LinkLost)),
        down(0, LinkFailure::HeartbeatTimedOut),
    ];
    assert_eq!(world.outputs(), expected);
    assert_eq!(world.counters().heartbeats_failed, 1);
}

#[test]
fn a_refused_heartbeat_is_a_sign_of_life() {
    let mut world = World::new(1, |_| {});
    world.input(CtiInput::LinkOpened(link(0, 1)));
    world.say(link(0, 1), 1, &CstaErrorCode::SERVICE_NOT_SUPPORTED.encode());
    assert!(world.is_in_service(FIRST));
}

#[test]
fn the_requests_of_the_cti_manager_are_answered_even_under_an_invoke_id_of_ours() {
    let mut world = World::in_service(1, |_| {});
    world.submit(1, answer_call("c-1"));
    world.received();
    let asked = link(0, 1);
    world.say(
        asked,
        2,
        &Request::System(SystemRequest::SystemStatus {
            status: SystemStatus::OverloadImminent,
        })
        .encode(),
    );
    world.say(
        asked,
        2,
        &Request::System(SystemRequest::RequestSystemStatus { line: None }).encode(),
    );
    world.say(
        asked,
        2,
        &Request::Monitor(MonitorRequest::Stop {
            cross_ref_id: "m-1".to_owned(),
        })
        .encode(),
    );
    world.say(asked, 2, &answer_call("c-9").encode());
    let answers: Vec<_> = world
        .received()
        .into_iter()
        .map(|(_, id, message)| (id, message))
        .collect();
    let expected = [
        (2, CstaMessage::Response(Response::Done(Service::SystemStatus))),
        (2, CstaMessage::Response(NORMAL)),
        (2, CstaMessage::Response(Response::Done(Service::MonitorStop))),
        (2, CstaMessage::Error(CstaErrorCode::SERVICE_NOT_SUPPORTED)),
    ];
    assert_eq!(answers, expected);
    let stopped = CtiOutput::MonitorStopped {
        connection: FIRST,
        cross_ref_id: "m-1".to_owned(),
    };
    assert_eq!(world.outputs(), [stopped]);
    world.say(asked, 2, &Response::Done(Service::AnswerCall).encode());
    assert_eq!(
        world.outputs(),
        [answered(1, Ok(Response::Done(Service::AnswerCall)))]
    );
}

#[test]
fn a_switching_function_that_is_disabled_takes_the_link_down() {
    let mut world = World::in_service(1, |_| {});
    world.say(
        link(0, 1),
        1,
        &Request::System(SystemRequest::SystemStatus {
            status: SystemStatus::Disabled,
        })
        .encode(),
    );
    let expected = [
        CtiOutput::Close { link: link(0, 1) },
        down(0, LinkFailure::SwitchNotUsable),
    ];
    assert_eq!(world.outputs(), expected);
    assert_eq!(world.received().len(), 1, "SystemStatus is answered all the same");
}

#[test]
fn events_come_out_in_order_however_they_are_cut() {
    let mut world = World::in_service(1, |_| {});
    let event = |call: &str| {
        Event::new(
            EventKind::ConnectionCleared,
            "m-1",
            ConnectionIdentifier::new(call, "4711"),
        )
    };
    let stream: Vec<u8> = ["c-1", "c-2"]
        .iter()
        .flat_map(|call| Frame::write(9999, &event(call).encode()).unwrap())
        .collect();
    for piece in stream.chunks(7) {
        world.input(CtiInput::BytesReceived {
            link: link(0, 1),
            bytes: Bytes::copy_from_slice(piece),
        });
    }
    world.say(link(0, 1), 9999, "<QueuedEvent/>");
    let expected = ["c-1", "c-2"].map(|call| CtiOutput::Event {
        connection: FIRST,
        event: event(call),
    });
    assert_eq!(world.outputs(), expected);
    assert_eq!(world.counters().other_events, 1);
}

#[test]
fn lost_framing_closes_the_link() {
    let mut world = World::in_service(1, |_| {});
    world.input(CtiInput::BytesReceived {
        link: link(0, 1),
        bytes: Bytes::from_static(b"<?xml version"),
    });
    let reason = LinkFailure::Framing(FramingError::UnknownFormat(0x3c3f));
    assert_eq!(
        world.outputs(),
        [CtiOutput::Close { link: link(0, 1) }, down(0, reason)]
    );
}
