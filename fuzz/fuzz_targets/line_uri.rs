//! A line URI is read or refused, and kept as it was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem_node::directory::LineUri;

fuzz_target!(|text: &str| {
    if let Ok(uri) = LineUri::parse(text) {
        assert_eq!(uri.as_str(), text);
        assert!(!uri.number.is_empty());
    }
});
