//! Whatever Exchange answers ends as an answer or as a failure that has a class. The first byte chooses what was asked.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tandem_exchange::ews::{
    BACK_OFF_MAX, Mailbox, Operation, SchemaVersion, SubscriptionId, TimeWindow, parse_answer,
    parse_retry_after, write_request,
};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, body)) = input.split_first() else {
        return;
    };
    let operation = operation(choice);
    for status in [200, 503] {
        let parsed = parse_answer(&operation, status, Some(Duration::from_secs(1)), body);
        if let Err(failure) = parsed.result {
            let _ = (failure.class().label(), failure.to_string());
            assert!(failure.back_off().is_none_or(|wait| wait <= BACK_OFF_MAX));
        }
    }
    if let Ok(text) = std::str::from_utf8(body) {
        assert!(parse_retry_after(text, i64::from(choice)).is_none_or(|wait| wait <= BACK_OFF_MAX));
        write_and_read(text);
    }
});

fn operation(choice: u8) -> Operation {
    let subscription = SubscriptionId("a".to_owned());
    let window = TimeWindow {
        from: 0,
        until: 86_400,
    };
    match choice % 7 {
        0 => Operation::SubscribeStreaming,
        1 => Operation::GetEvents {
            subscription,
            watermark: "w".to_owned(),
        },
        2 => Operation::GetStreamingEvents {
            subscriptions: vec![subscription],
            connection_timeout: 30,
        },
        3 => Operation::Unsubscribe { subscription },
        4 => Operation::FindCalendarItems {
            window,
            entries_max: 1,
        },
        5 => Operation::GetUserAvailability {
            mailboxes: vec![Mailbox("a".to_owned()); usize::from(choice / 7)],
            window,
        },
        _ => Operation::GetChangeStamp,
    }
}

/// A request is a document too, whatever its strings are: nothing in it breaks out of its element.
fn write_and_read(text: &str) {
    let ask = Operation::GetEvents {
        subscription: SubscriptionId(text.to_owned()),
        watermark: text.to_owned(),
    };
    let mailbox = Mailbox(text.to_owned());
    let request = write_request(&ask, SchemaVersion::Exchange2013, Some(&mailbox));
    let read = parse_answer(&Operation::GetChangeStamp, 200, None, &request).result;
    assert_eq!(
        read.map_err(|failure| failure.to_string()),
        Err("the answer cannot be understood: no response message".to_owned())
    );
}
