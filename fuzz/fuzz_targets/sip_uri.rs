//! What is read of an address is written so that it is read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tandem_sip::{NameAddr, Uri, Via};

fuzz_target!(|text: &str| {
    if let Ok(uri) = Uri::parse(text) {
        assert_eq!(Uri::parse(&uri.to_string()), Ok(uri));
    }
    if let Ok(via) = Via::parse(text) {
        assert_eq!(Via::parse(&via.to_string()), Ok(via));
    }
    if let Ok(address) = NameAddr::parse(text) {
        let _ = address.parsed();
        let _ = NameAddr::parse(&address.write());
    }
});
