//! Whatever a server may answer, in whatever style, is read as it was meant; and whatever else comes is a failure.

use std::time::Duration;

use proptest::prelude::*;

use super::date_time::{write_local, write_utc};
use super::*;
use tandem_xml::Writer;

/// How a server writes: its prefixes, what it calls its messages, and whether it is Exchange at all.
#[derive(Debug, Clone)]
struct Style {
    types: &'static str,
    messages: &'static str,
    message: &'static str,
    fraction: &'static str,
}

fn style() -> impl Strategy<Value = Style> {
    let prefix = || prop::sample::select(vec!["", "t:", "m:", "ns1:"]);
    let message = prop::sample::select(vec!["x", "FindItemResponseMessage", "AnyResponseMessage"]);
    let fraction = prop::sample::select(vec!["", ".5", ".000000001"]);
    (prefix(), prefix(), message, fraction).prop_map(|(types, messages, message, fraction)| Style {
        types,
        messages,
        message,
        fraction,
    })
}

impl Style {
    fn t(&self, name: &str) -> String {
        format!("{}{name}", self.types)
    }

    fn m(&self, name: &str) -> String {
        format!("{}{name}", self.messages)
    }

    fn document(&self, payload: impl FnOnce(&mut Writer)) -> String {
        Writer::document_with("s:Envelope", &[("xmlns:s", "soap")], |writer| {
            writer.element("s:Body", payload);
        })
    }

    /// The usual answer: one message, with a class and a code.
    fn message(&self, code: &str, content: impl FnOnce(&mut Writer)) -> String {
        let class = if code == "NoError" { "Success" } else { "Error" };
        self.document(|writer| {
            writer.element(&self.m("Response"), |writer| {
                writer.element(&self.m("ResponseMessages"), |writer| {
                    writer.element_with(&self.m(self.message), &[("ResponseClass", class)], |writer| {
                        writer.leaf(&self.m("ResponseCode"), code);
                        content(writer);
                    });
                });
            })
        })
    }

    fn time(&self, at: i64) -> String {
        format!("{}{}Z", write_local(at), self.fraction)
    }
}

fn write_answer(style: &Style, answer: &Answer) -> String {
    match answer {
        Answer::Subscribed {
            subscription,
            watermark,
        } => style.message("NoError", |writer| {
            writer.leaf(&style.m("SubscriptionId"), &subscription.0);
            if let Some(watermark) = watermark {
                writer.leaf(&style.m("Watermark"), watermark);
            }
        }),
        Answer::Events(notification) => style.message("NoError", |writer| {
            write_notification(style, writer, notification);
        }),
        Answer::Unsubscribed => style.message("NoError", |_| {}),
        Answer::Items { items, complete } => style.message("NoError", |writer| {
            let complete = [(
                "IncludesLastItemInRange",
                if *complete { "true" } else { "false" },
            )];
            writer.element_with(&style.m("RootFolder"), &complete, |writer| {
                writer.element(&style.t("Items"), |writer| {
                    items.iter().for_each(|item| write_item(style, writer, item));
                });
            });
        }),
        Answer::Availability(results) => style.document(|writer| {
            writer.element(&style.m("GetUserAvailabilityResponse"), |writer| {
                writer.element(&style.m("FreeBusyResponseArray"), |writer| {
                    results
                        .iter()
                        .for_each(|result| write_free_busy(style, writer, result));
                });
            });
        }),
        Answer::ChangeStamp(stamp) => style.message("NoError", |writer| write_stamp(style, writer, stamp)),
    }
}

fn write_notification(style: &Style, writer: &mut Writer, notification: &Notification) {
    writer.element(&style.m("Notification"), |writer| {
        writer.leaf(&style.t("SubscriptionId"), &notification.subscription.0);
        if let Some(watermark) = &notification.previous_watermark {
            writer.leaf(&style.t("PreviousWatermark"), watermark);
        }
        writer.leaf(&style.t("MoreEvents"), &notification.more_events.to_string());
        for event in &notification.events {
            writer.element(&style.t(&format!("{:?}Event", event.kind)), |writer| {
                if let Some(watermark) = &event.watermark {
                    writer.leaf(&style.t("Watermark"), watermark);
                }
                writer.leaf(&style.t("TimeStamp"), &style.time(0));
            });
        }
    });
}

fn write_item(style: &Style, writer: &mut Writer, item: &CalendarItem) {
    writer.element(&style.t("CalendarItem"), |writer| {
        writer.leaf(&style.t("Start"), &style.time(item.start));
        writer.leaf(&style.t("End"), &write_utc(item.end));
        writer.leaf(&style.t("LegacyFreeBusyStatus"), status_word(item.status));
        writer.leaf(&style.t("IsAllDayEvent"), &item.all_day.to_string());
        writer.leaf(&style.t("IsCancelled"), &item.cancelled.to_string());
        writer.leaf(
            &style.t("MyResponseType"),
            if item.declined { "Decline" } else { "Accept" },
        );
    });
}

fn write_free_busy(style: &Style, writer: &mut Writer, result: &Result<Vec<CalendarItem>, Failure>) {
    writer.element("FreeBusyResponse", |writer| {
        let (class, code) = match result {
            Ok(_) => ("Success", "NoError"),
            Err(Failure::Response { code, .. }) => ("Error", code.0.as_str()),
            Err(other) => panic!("no server answers {other}"),
        };
        writer.element_with(
            &style.m("ResponseMessage"),
            &[("ResponseClass", class)],
            |writer| {
                writer.leaf(&style.m("ResponseCode"), code);
            },
        );
        let items = result.as_deref().unwrap_or_default();
        writer.element("FreeBusyView", |writer| {
            writer.leaf(&style.t("FreeBusyViewType"), "FreeBusy");
            writer.element(&style.t("CalendarEventArray"), |writer| {
                for item in items {
                    writer.element(&style.t("CalendarEvent"), |writer| {
                        writer.leaf(&style.t("StartTime"), &write_local(item.start));
                        writer.leaf(&style.t("EndTime"), &write_local(item.end));
                        writer.leaf(&style.t("BusyType"), status_word(item.status));
                    });
                }
            });
        });
    });
}

fn write_stamp(style: &Style, writer: &mut Writer, stamp: &ChangeStamp) {
    let properties = [
        ("0x670a", &stamp.local_commit_time_max),
        ("0x670b", &stamp.deleted_count_total),
    ];
    writer.element(&style.m("Folders"), |writer| {
        writer.element(&style.t("CalendarFolder"), |writer| {
            for (tag, value) in properties {
                let Some(value) = value else { continue };
                writer.element(&style.t("ExtendedProperty"), |writer| {
                    writer.empty_with(&style.t("ExtendedFieldURI"), &[("PropertyTag", tag)]);
                    writer.leaf(&style.t("Value"), value);
                });
            }
        });
    });
}

fn status_word(status: FreeBusyStatus) -> &'static str {
    match status {
        FreeBusyStatus::Free => "Free",
        FreeBusyStatus::Tentative => "Tentative",
        FreeBusyStatus::Busy => "Busy",
        FreeBusyStatus::OutOfOffice => "OOF",
        FreeBusyStatus::WorkingElsewhere => "WorkingElsewhere",
        FreeBusyStatus::NoData => "NoData",
    }
}

fn opaque() -> impl Strategy<Value = String> {
    "[A-Za-z0-9+/=<>&\"']{1,20}"
}

fn subscription() -> impl Strategy<Value = SubscriptionId> {
    opaque().prop_map(SubscriptionId)
}

fn time() -> impl Strategy<Value = i64> {
    0_i64..4_000_000_000
}

fn status() -> impl Strategy<Value = FreeBusyStatus> {
    prop::sample::select(vec![
        FreeBusyStatus::Free,
        FreeBusyStatus::Tentative,
        FreeBusyStatus::Busy,
        FreeBusyStatus::OutOfOffice,
        FreeBusyStatus::WorkingElsewhere,
        FreeBusyStatus::NoData,
    ])
}

fn plain_item() -> impl Strategy<Value = CalendarItem> {
    (time(), time(), status()).prop_map(|(start, end, status)| CalendarItem {
        start,
        end,
        status,
        all_day: false,
        cancelled: false,
        declined: false,
    })
}

fn item() -> impl Strategy<Value = CalendarItem> {
    (plain_item(), any::<(bool, bool, bool)>()).prop_map(|(item, (all_day, cancelled, declined))| {
        CalendarItem {
            all_day,
            cancelled,
            declined,
            ..item
        }
    })
}

fn notification() -> impl Strategy<Value = Notification> {
    let kind = prop::sample::select(vec![
        EventKind::Status,
        EventKind::Created,
        EventKind::Modified,
        EventKind::Moved,
        EventKind::Copied,
        EventKind::Deleted,
        EventKind::NewMail,
        EventKind::FreeBusyChanged,
    ]);
    let event = (kind, prop::option::of(opaque())).prop_map(|(kind, watermark)| Event { kind, watermark });
    let events = prop::collection::vec(event, 0..5);
    (subscription(), prop::option::of(opaque()), any::<bool>(), events).prop_map(
        |(subscription, previous_watermark, more_events, events)| Notification {
            subscription,
            previous_watermark,
            more_events,
            events,
        },
    )
}

fn failure() -> impl Strategy<Value = Failure> {
    "Error[A-Za-z]{1,30}".prop_map(|code| Failure::Response {
        code: ResponseCode(code),
        message: String::new(),
        back_off: None,
        primary_address: None,
        inner: None,
    })
}

/// An operation, and an answer that fits it.
fn exchange() -> impl Strategy<Value = (Operation, Answer)> {
    let window = TimeWindow { from: 0, until: 1 };
    let find = Operation::FindCalendarItems {
        window,
        entries_max: 500,
    };
    let subscribed = (subscription(), prop::option::of(opaque())).prop_map(|(subscription, watermark)| {
        Answer::Subscribed {
            subscription,
            watermark,
        }
    });
    let events = notification().prop_map(|notification| {
        let get = Operation::GetEvents {
            subscription: notification.subscription.clone(),
            watermark: String::new(),
        };
        (get, Answer::Events(notification))
    });
    let items = (prop::collection::vec(item(), 0..6), any::<bool>())
        .prop_map(move |(items, complete)| (find.clone(), Answer::Items { items, complete }));
    let result = prop_oneof![
        prop::collection::vec(plain_item(), 0..4).prop_map(Ok),
        failure().prop_map(Err)
    ];
    let availability = prop::collection::vec(result, 1..5).prop_map(move |results| {
        let mailboxes = vec![Mailbox("ana@lab.test".to_owned()); results.len()];
        let ask = Operation::GetUserAvailability { mailboxes, window };
        (ask, Answer::Availability(results))
    });
    let stamp = (prop::option::of(opaque()), prop::option::of(opaque())).prop_map(|(first, second)| {
        let stamp = ChangeStamp {
            local_commit_time_max: first,
            deleted_count_total: second,
        };
        (Operation::GetChangeStamp, Answer::ChangeStamp(stamp))
    });
    prop_oneof![
        subscribed.prop_map(|answer| (Operation::SubscribeStreaming, answer)),
        events,
        subscription()
            .prop_map(|subscription| (Operation::Unsubscribe { subscription }, Answer::Unsubscribed)),
        items,
        availability,
        stamp,
    ]
}

fn mutate(document: &str, mutations: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = document.as_bytes().to_vec();
    for (position, byte) in mutations {
        let position = position % bytes.len().max(1);
        match byte % 3 {
            0 => bytes.insert(position, *byte),
            1 => drop(bytes.remove(position)),
            _ => bytes[position] = *byte,
        }
    }
    bytes
}

fn every_operation() -> Vec<Operation> {
    let subscription = || SubscriptionId("a".to_owned());
    let window = TimeWindow { from: 0, until: 1 };
    vec![
        Operation::SubscribeStreaming,
        Operation::GetEvents {
            subscription: subscription(),
            watermark: String::new(),
        },
        Operation::GetStreamingEvents {
            subscriptions: vec![subscription()],
            connection_timeout: 30,
        },
        Operation::Unsubscribe {
            subscription: subscription(),
        },
        Operation::FindCalendarItems {
            window,
            entries_max: 1,
        },
        Operation::GetUserAvailability {
            mailboxes: vec![Mailbox("a".to_owned())],
            window,
        },
        Operation::GetChangeStamp,
    ]
}

fn read_in_every_way(bytes: &[u8]) {
    for operation in every_operation() {
        for status in [200, 500] {
            let wait = Some(Duration::from_secs(1));
            if let Err(failure) = parse_answer(&operation, status, wait, bytes).result {
                let _ = (failure.class(), failure.back_off(), failure.to_string());
            }
        }
    }
    let _ = (parse_callback(bytes), parse_stream_document(bytes));
}

proptest! {
    #[test]
    fn an_answer_is_read_as_it_was_meant_in_every_style(style in style(), (operation, answer) in exchange()) {
        let document = write_answer(&style, &answer);
        let parsed = parse_answer(&operation, 200, None, document.as_bytes());
        prop_assert_eq!(parsed.result, Ok(answer), "{}", document);
    }

    #[test]
    fn a_stream_and_a_callback_tell_the_same_in_every_style(
        style in style(),
        notifications in prop::collection::vec(notification(), 1..4),
    ) {
        let write_all = |writer: &mut Writer| {
            notifications.iter().for_each(|notification| write_notification(&style, writer, notification));
        };
        let streamed = style.message("NoError", |writer| writer.element(&style.m("Notifications"), write_all));
        prop_assert_eq!(
            parse_stream_document(streamed.as_bytes()),
            Ok(vec![StreamPart::Notifications(notifications.clone())])
        );
        let pushed = style.message("NoError", write_all);
        let expected = notifications.iter().cloned().map(Ok).collect();
        prop_assert_eq!(parse_callback(pushed.as_bytes()), Ok(Callback { notifications: expected }));
    }

    #[test]
    fn an_error_is_read_in_every_style(style in style(), failure in failure()) {
        let Failure::Response { code, .. } = &failure else { unreachable!() };
        let document = style.message(&code.0, |_| {});
        for operation in every_operation() {
            let parsed = parse_answer(&operation, 200, None, document.as_bytes());
            prop_assert_eq!(parsed.result, Err(failure.clone()));
        }
    }

    #[test]
    fn no_change_to_a_document_makes_anything_panic(
        style in style(),
        (_, answer) in exchange(),
        mutations in prop::collection::vec(any::<(usize, u8)>(), 1..6),
    ) {
        read_in_every_way(&mutate(&write_answer(&style, &answer), &mutations));
    }

    #[test]
    fn no_bytes_make_anything_panic(bytes: Vec<u8>, text in "(<[a-zA-Z:]{1,9} ?[a-z='\"]{0,5}/?>|&[a-z#0-9]{0,4};|.){0,30}") {
        read_in_every_way(&bytes);
        read_in_every_way(text.as_bytes());
    }
}
