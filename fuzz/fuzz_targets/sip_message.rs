//! Whatever is framed can be read, answered and written; what is written is framed again.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tandem_sip::{Message, RawMessage, write_answer};

fuzz_target!(|input: &[u8]| {
    let Ok(raw) = RawMessage::parse(Bytes::copy_from_slice(input)) else { return };
    if raw.is_request() {
        let answer = write_answer(&raw, 500, "Server Internal Error", "lb-0123456789abcdef", &[]);
        let answer = RawMessage::parse(answer).expect("our answer is a message");
        assert_eq!(answer.transaction_key(), raw.transaction_key());
    }
    let Ok(message) = Message::parse(&raw) else { return };
    let written = RawMessage::parse(message.write()).expect("our message is a message");
    assert_eq!(written.transaction_key(), raw.transaction_key());
    assert_eq!(written.body(), raw.body());
});
