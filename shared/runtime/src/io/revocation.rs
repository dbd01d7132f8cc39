//! What becomes of a connection whose peer's certificate is revoked while it stands (RCC-9).

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::environment;
use super::sip_tls::SipTls;

impl SipTls {
    /// Watches over the certificates that the peer of a connection has shown just now, its own first.
    #[must_use]
    pub fn watch_over(&self, chain: &[CertificateDer<'_>]) -> RevocationWatch {
        let own = chain.first();
        let serial = own.and_then(|own| {
            let (_, parsed) = X509Certificate::from_der(own).ok()?;
            Some(parsed.raw_serial().to_vec())
        });
        RevocationWatch {
            tls: self.clone(),
            chain: chain.iter().map(|shown| shown.clone().into_owned()).collect(),
            serial: serial.unwrap_or_default().into(),
            met: environment::tls_time(),
        }
    }
}

/// Tells when the certificate of a peer is revoked.
#[derive(Debug, Clone)]
pub struct RevocationWatch {
    tls: SipTls,
    chain: Arc<[CertificateDer<'static>]>,
    /// The content of its INTEGER, by which lists name it.
    serial: Arc<[u8]>,
    /// It was valid then; that it ends later is no revocation.
    met: UnixTime,
}

impl RevocationWatch {
    /// Resolves once a revocation list that was read names the certificate; the list must be signed by an authority whose
    /// clients may connect.
    pub async fn revoked(&self) {
        let mut readings = self.tls.readings();
        while !self.tls.loaded().has_revoked(&self.chain, &self.serial, self.met) {
            if readings.changed().await.is_err() {
                // The sender lives in `self`, so this is not reached.
                std::future::pending::<()>().await;
            }
        }
    }
}
