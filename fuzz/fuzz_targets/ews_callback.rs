//! Whatever is POSTed to a callback URL, or comes in a stream, ends as notifications or as a failure; and no path is
//! genuine that was not made with the key.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem_exchange::callback::CallbackKey;
use tandem_exchange::ews::{parse_callback, parse_stream_document};

fuzz_target!(|input: &[u8]| {
    if let Ok(callback) = parse_callback(input) {
        for failure in callback.notifications.into_iter().filter_map(Result::err) {
            let _ = failure.class();
        }
    }
    let _ = parse_stream_document(input);
    if let (Ok(path), Ok(key)) = (std::str::from_utf8(input), CallbackKey::new(KEY)) {
        assert_eq!(key.verify(path), None);
    }
});

const KEY: &[u8] = b"thirty-two bytes that nobody has.";
