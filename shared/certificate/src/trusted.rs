//! What an administrator trusts.

use rustls_pki_types::TrustAnchor;

use super::parsed::{Certificate, Fingerprint};

/// The certificates that an administrator trusts. Each is an anchor whatever it is: a root, an intermediate, or a
/// server's own certificate.
#[derive(Debug, Clone, Default)]
pub struct Trusted {
    pub certificates: Vec<Certificate>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Trusted {
    #[must_use]
    pub fn new(certificates: Vec<Certificate>) -> Self {
        let anchors = certificates
            .iter()
            .filter_map(|certificate| webpki::anchor_from_trusted_cert(&certificate.der).ok())
            .map(|anchor| anchor.to_owned())
            .collect();
        Self {
            certificates,
            anchors,
        }
    }

    #[must_use]
    pub fn contains(&self, fingerprint: Fingerprint) -> bool {
        self.certificates
            .iter()
            .any(|certificate| certificate.fingerprint == fingerprint)
    }

    /// For the search of a chain.
    #[must_use]
    pub fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}
