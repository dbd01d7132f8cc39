//! Any bytes are decoded or refused, and what was understood is written so that it is understood the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem_node::csta::decode;

fuzz_target!(|input: &[u8]| {
    let Ok(message) = decode(input) else { return };
    let written = message.encode();
    // Escaping may carry a document over the limit.
    if written.len() <= 65_527 {
        assert_eq!(decode(written.as_bytes()), Ok(message));
    }
});
