//! Cipher suites by their names.

use std::str::FromStr;

use rustls::SupportedCipherSuite;

use crate::io::tls::provider;

/// A cipher suite that is supported, as `TLS13_AES_256_GCM_SHA384`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CipherSuiteName(pub(super) SupportedCipherSuite);

impl FromStr for CipherSuiteName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let suites = provider().cipher_suites.clone();
        let named = suites
            .into_iter()
            .find(|suite| suite.suite().as_str() == Some(text));
        named.map(Self).ok_or("no cipher suite that is supported")
    }
}
