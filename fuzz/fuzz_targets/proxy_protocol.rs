//! A header is read at once or not at all, and what it says can be said again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem_sip::proxy_protocol::{Parsed, ProxyHeader};

fuzz_target!(|input: &[u8]| {
    let Ok(Parsed::Complete { header, length }) = ProxyHeader::parse(input) else { return };
    assert_eq!(ProxyHeader::parse(&input[..length - 1]), Ok(Parsed::Incomplete));
    let written = header.write();
    assert!(matches!(ProxyHeader::parse(&written), Ok(Parsed::Complete { .. })));
});
