//! What Tandem writes is what a strict server reads, and what a server writes is what Tandem reads.
#![allow(clippy::unwrap_used, reason = "a test stops where it finds something")]
#![expect(
    clippy::disallowed_methods,
    reason = "the simulated servers want to know the time"
)]

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tandem_exchange::ews::{
    Answer, EventKind, Failure, FailureClass, FreeBusyStatus, Mailbox, Operation, SchemaVersion, StreamPart,
    StreamSplitter, SubscriptionId, SubscriptionStatus, TimeWindow, parse_answer, parse_callback,
    parse_stream_document, write_callback_answer, write_request,
};
use tandem_tests::peers::exchange::account::Account;
use tandem_tests::peers::exchange::document::{Element, Namespace};
use tandem_tests::peers::exchange::faults::{Effect, Fault};
use tandem_tests::peers::exchange::mail_store::{Appointment, Condition, Response, Status};
use tandem_tests::peers::exchange::request::{Request, Version};
use tandem_tests::peers::exchange::server::{Head, Output, Reply, Servers};
use tandem_tests::peers::exchange::subscriptions::Timing;

const ANA: &str = "ana@lab.test";
const START: i64 = 1_795_424_400;
const HOUR: i64 = 3600;
const DAY: TimeWindow = TimeWindow {
    from: START - 9 * HOUR,
    until: START + 15 * HOUR,
};

struct Lab {
    servers: Servers,
    version: SchemaVersion,
    now: Instant,
}

impl Lab {
    fn new() -> Self {
        let account = Account::new(&["svc@lab.test"], "right");
        let mut servers = Servers::new(&["cas1".to_owned()], Timing::default(), account);
        servers.store_mut().add(ANA, &["a.smith@lab.test"], "mbx1");
        Self {
            servers,
            version: SchemaVersion::Exchange2013,
            now: Instant::now(),
        }
    }

    fn reply(&mut self, who: &str, operation: &Operation) -> Reply {
        let who = Mailbox(who.to_owned());
        let bytes = write_request(operation, self.version, Some(&who));
        let request = Request::read(std::str::from_utf8(&bytes).unwrap());
        let head = Head {
            authorization: Some(format!("Basic {}", STANDARD.encode("svc@lab.test:right"))),
            ..Head::default()
        };
        let reply = self.servers.request(0, &head, &request, self.now);
        self.servers.finished(0);
        assert_eq!(
            self.servers.violations(),
            [""; 0],
            "{}",
            String::from_utf8_lossy(&bytes)
        );
        reply
    }

    fn ask_for(&mut self, who: &str, operation: &Operation) -> Result<Answer, Failure> {
        match self.reply(who, operation) {
            Reply::Answer { status, body, .. } => {
                parse_answer(operation, status, None, body.as_bytes()).result
            }
            other @ (Reply::Stream { .. } | Reply::Hang | Reply::CutOff { .. }) => panic!("{other:?}"),
        }
    }

    fn ask(&mut self, operation: &Operation) -> Result<Answer, Failure> {
        self.ask_for(ANA, operation)
    }

    fn subscribe(&mut self, operation: &Operation) -> (SubscriptionId, Option<String>) {
        let answer = self.ask(operation).unwrap();
        let Answer::Subscribed {
            subscription,
            watermark,
        } = answer
        else {
            panic!("{answer:?}")
        };
        (subscription, watermark)
    }
}

fn items(answer: Answer) -> Vec<(i64, i64, FreeBusyStatus, bool)> {
    let Answer::Items { items, .. } = answer else {
        panic!("{answer:?}")
    };
    items
        .iter()
        .map(|item| {
            (
                item.start,
                item.end,
                item.status,
                !item.cancelled && !item.declined,
            )
        })
        .collect()
}

#[test]
fn a_calendar_is_read_as_it_is_with_every_version() {
    let mut lab = Lab::new();
    let meeting =
        |offset: i64, status| Appointment::new(START + offset * HOUR, START + (offset + 1) * HOUR, status);
    let mut declined = meeting(5, Status::Busy);
    declined.response = Response::Decline;
    let all = [
        meeting(0, Status::Busy),
        meeting(1, Status::Tentative),
        meeting(2, Status::OutOfOffice),
        meeting(3, Status::WorkingElsewhere),
        meeting(4, Status::Free),
        declined,
    ];
    for appointment in all {
        lab.servers.create(ANA, appointment, lab.now, 1).unwrap();
    }
    let find = Operation::FindCalendarItems {
        window: DAY,
        entries_max: 100,
    };
    let at =
        |offset: i64, status, counts| (START + offset * HOUR, START + (offset + 1) * HOUR, status, counts);
    for version in SchemaVersion::LADDER {
        lab.version = version;
        let elsewhere = if version == SchemaVersion::Exchange2013 {
            FreeBusyStatus::WorkingElsewhere
        } else {
            FreeBusyStatus::NoData
        };
        let wanted = [
            at(0, FreeBusyStatus::Busy, true),
            at(1, FreeBusyStatus::Tentative, true),
            at(2, FreeBusyStatus::OutOfOffice, true),
            at(3, elsewhere, true),
            at(4, FreeBusyStatus::Free, true),
            at(5, FreeBusyStatus::Free, false),
        ];
        assert_eq!(items(lab.ask(&find).unwrap()), wanted, "{version:?}");
    }
    let few = Operation::FindCalendarItems {
        window: DAY,
        entries_max: 2,
    };
    assert!(matches!(lab.ask(&few), Ok(Answer::Items { complete: false, items }) if items.len() == 2));
}

#[test]
fn availability_is_told_for_each_mailbox_in_order() {
    let mut lab = Lab::new();
    let meeting = Appointment::new(START, START + HOUR, Status::OutOfOffice);
    lab.servers.create(ANA, meeting, lab.now, 1).unwrap();
    let mailboxes = ["who@lab.test", ANA].map(|address| Mailbox(address.to_owned()));
    let operation = Operation::GetUserAvailability {
        mailboxes: mailboxes.into(),
        window: DAY,
    };
    let Answer::Availability(answers) = lab.ask(&operation).unwrap() else {
        panic!("another answer")
    };
    let [Err(unknown), Ok(known)] = answers.as_slice() else {
        panic!("{answers:?}")
    };
    assert_eq!(unknown.class(), FailureClass::Gone);
    assert_eq!(
        known
            .iter()
            .map(|item| (item.start, item.end, item.status))
            .collect::<Vec<_>>(),
        [(START, START + HOUR, FreeBusyStatus::OutOfOffice)]
    );
}

#[test]
fn the_change_stamp_moves_with_every_change() {
    let mut lab = Lab::new();
    let stamp = |lab: &mut Lab| {
        let answer = lab.ask(&Operation::GetChangeStamp).unwrap();
        let Answer::ChangeStamp(stamp) = answer else {
            panic!("{answer:?}")
        };
        stamp
    };
    let before = stamp(&mut lab);
    let meeting = Appointment::new(START, START + HOUR, Status::Busy);
    let item = lab.servers.create(ANA, meeting, lab.now, 1).unwrap();
    let created = stamp(&mut lab);
    lab.servers.delete(ANA, item, lab.now, 1);
    let deleted = stamp(&mut lab);
    assert!(before != created && created != deleted);
    assert!(deleted.local_commit_time_max.is_some() && deleted.deleted_count_total.as_deref() == Some("1"));
}

#[test]
fn a_callback_is_understood_and_so_is_its_answer() {
    let mut lab = Lab::new();
    let (subscription, watermark) = lab.subscribe(&Operation::SubscribePush {
        callback_url: "https://192.0.2.1:8643/ews/token".to_owned(),
        status_frequency: 60,
    });
    assert!(watermark.is_some());
    lab.servers.create(
        ANA,
        Appointment::new(START, START + HOUR, Status::Busy),
        lab.now,
        1,
    );
    let outputs = lab.servers.take_outputs();
    let [Output::Call { body, url, .. }] = outputs.as_slice() else {
        panic!("{outputs:?}")
    };
    assert_eq!(url, "https://192.0.2.1:8643/ews/token");
    let callback = parse_callback(body.as_bytes()).unwrap();
    let told = callback.notifications[0].as_ref().unwrap();
    assert_eq!(told.subscription, subscription);
    assert_eq!(told.previous_watermark, watermark);
    assert_eq!(told.events[0].kind, EventKind::Created);
    for (status, text) in [
        (SubscriptionStatus::Ok, "OK"),
        (SubscriptionStatus::Unsubscribe, "Unsubscribe"),
    ] {
        let answer = write_callback_answer(status);
        let envelope = Element::parse(std::str::from_utf8(&answer).unwrap()).unwrap();
        let body = envelope.required(Namespace::Soap, "Body").unwrap();
        let result = body
            .required(Namespace::Messages, "SendNotificationResult")
            .unwrap();
        assert_eq!(
            result
                .required(Namespace::Messages, "SubscriptionStatus")
                .unwrap()
                .text,
            text
        );
    }
}

#[test]
fn a_stream_is_cut_into_its_documents() {
    let mut lab = Lab::new();
    let (subscription, watermark) = lab.subscribe(&Operation::SubscribeStreaming);
    assert_eq!(watermark, None);
    let open = |subscription: &SubscriptionId| Operation::GetStreamingEvents {
        subscriptions: vec![subscription.clone()],
        connection_timeout: 30,
    };
    let Reply::Stream { first, .. } = lab.reply(ANA, &open(&subscription)) else {
        panic!("no stream")
    };
    lab.servers.create(
        ANA,
        Appointment::new(START, START + HOUR, Status::Busy),
        lab.now,
        1,
    );
    lab.servers.tick(lab.now + Duration::from_secs(45));
    lab.servers.tick(lab.now + Duration::from_secs(1800));
    let mut splitter = StreamSplitter::new(1 << 20);
    splitter.push(first.as_bytes());
    for output in lab.servers.take_outputs() {
        let Output::Say { document, .. } = output else {
            panic!("{output:?}")
        };
        splitter.push(document.as_bytes());
    }
    let mut parts = Vec::new();
    while let Some(document) = splitter.next_document() {
        parts.extend(parse_stream_document(&document.unwrap()).unwrap());
    }
    let kinds: Vec<_> = parts
        .iter()
        .map(|part| match part {
            StreamPart::Opened => "opened",
            StreamPart::Notifications(told) if told[0].events[0].kind == EventKind::Status => "status",
            StreamPart::Notifications(_) => "event",
            StreamPart::Rejected { .. } => "rejected",
            StreamPart::Closed => "closed",
        })
        .collect();
    assert_eq!(
        (kinds[..3].to_vec(), kinds[kinds.len() - 1]),
        (vec!["opened", "event", "status"], "closed")
    );
    let stranger = SubscriptionId("not-here".to_owned());
    let Reply::Answer { body, .. } = lab.reply(ANA, &open(&stranger)) else {
        panic!("a stream")
    };
    let parts = parse_stream_document(body.as_bytes()).unwrap();
    let [
        StreamPart::Rejected {
            subscriptions,
            failure,
        },
    ] = parts.as_slice()
    else {
        panic!("{parts:?}")
    };
    assert_eq!(
        (subscriptions.as_slice(), failure.class()),
        (&[stranger][..], FailureClass::Lost)
    );
}

#[test]
fn pull_tells_what_happened_since_the_watermark() {
    let mut lab = Lab::new();
    let (subscription, watermark) = lab.subscribe(&Operation::SubscribePull { timeout: 30 });
    lab.servers.create(
        ANA,
        Appointment::new(START, START + HOUR, Status::Busy),
        lab.now,
        1,
    );
    let get = Operation::GetEvents {
        subscription: subscription.clone(),
        watermark: watermark.unwrap(),
    };
    let Answer::Events(told) = lab.ask(&get).unwrap() else {
        panic!("another answer")
    };
    assert_eq!(told.events[0].kind, EventKind::Created);
    let unsubscribe = Operation::Unsubscribe { subscription };
    assert_eq!(lab.ask(&unsubscribe), Ok(Answer::Unsubscribed));
    assert_eq!(lab.ask(&unsubscribe).unwrap_err().class(), FailureClass::Lost);
}

#[test]
fn what_a_server_says_in_trouble_has_its_class() {
    let mut lab = Lab::new();
    let find = Operation::GetChangeStamp;
    let class = |lab: &mut Lab, effect| {
        lab.servers.cas_mut(0).fail(Fault::always(effect).times(1));
        lab.ask(&find).unwrap_err().class()
    };
    let back_off = Duration::from_secs(7);
    for (effect, wanted) in [
        (
            Effect::SoapFault("ErrorImpersonateUserDenied"),
            FailureClass::RightsOfUser,
        ),
        (
            Effect::SoapFaultWith200("ErrorInternalServerError"),
            FailureClass::Transient,
        ),
        (Effect::Code("ErrorMailboxMoveInProgress"), FailureClass::Moved),
        (Effect::Busy { back_off }, FailureClass::Throttled),
        (
            Effect::Http {
                status: 503,
                retry_after: None,
            },
            FailureClass::Throttled,
        ),
    ] {
        assert_eq!(class(&mut lab, effect.clone()), wanted, "{effect:?}");
    }
    lab.servers
        .cas_mut(0)
        .fail(Fault::always(Effect::Busy { back_off }).times(1));
    assert_eq!(lab.ask(&find).unwrap_err().back_off(), Some(back_off));
    lab.servers.cas_mut(0).newest = Version::Exchange2010Sp2;
    assert_eq!(lab.ask(&find).unwrap_err().class(), FailureClass::Version);
    lab.version = SchemaVersion::Exchange2010Sp2;
    assert!(lab.ask(&find).is_ok());
    let alias = lab.ask_for("a.smith@lab.test", &find).unwrap_err();
    assert_eq!(alias.class(), FailureClass::Identity);
    assert!(matches!(alias, Failure::Response { primary_address: Some(primary), .. } if primary == ANA));
    lab.servers.store_mut().set_condition(ANA, Condition::Gone);
    assert_eq!(lab.ask(&find).unwrap_err().class(), FailureClass::Gone);
}
