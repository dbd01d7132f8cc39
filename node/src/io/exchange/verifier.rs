//! Checks the certificate of a CAS in every handshake.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tandem_certificate::{AlgorithmPolicy, Status, Trusted};
use thiserror::Error;

use tandem_exchange::certificate::{Presented, SENT_MAX, diagnose, verify};

/// For connections to this host, with the current trust.
pub(super) fn client_config(host: &str, trusted: Arc<Trusted>, policy: AlgorithmPolicy) -> Arc<ClientConfig> {
    let judge = TrustedCas {
        host: host.to_owned(),
        trusted,
        policy,
    };
    config_with(Arc::new(judge), policy)
}

pub(super) fn config_with(judge: Arc<dyn Judge>, policy: AlgorithmPolicy) -> Arc<ClientConfig> {
    let provider = CryptoProvider {
        signature_verification_algorithms: policy.signature_algorithms(),
        ..rustls::crypto::ring::default_provider()
    };
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions(policy))
        .expect("ring has suites for every version we name")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(CasVerifier { judge, policy }))
        .with_no_client_auth();
    Arc::new(config)
}

/// TLS 1.3 signs with RSA-PSS, which is not checked for keys below 2048 bits.
fn versions(policy: AlgorithmPolicy) -> &'static [&'static SupportedProtocolVersion] {
    match policy {
        AlgorithmPolicy::Current => CURRENT_VERSIONS,
        AlgorithmPolicy::Legacy => LEGACY_VERSIONS,
    }
}

/// Whether certificates are accepted. That the server holds the key is checked besides, whoever judges.
pub(super) trait Judge: Debug + Send + Sync {
    /// # Errors
    /// The reason why they are not.
    fn judge(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error>;
}

/// Accepts what the judge accepts, by signatures of this policy.
#[derive(Debug)]
struct CasVerifier {
    judge: Arc<dyn Judge>,
    policy: AlgorithmPolicy,
}

impl ServerCertVerifier for CasVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge.judge(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.policy.signature_algorithms(),
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.policy.signature_algorithms(),
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.policy.signature_algorithms().supported_schemes()
    }
}

/// Judges by the certificates that are trusted for this host.
#[derive(Debug)]
struct TrustedCas {
    host: String,
    trusted: Arc<Trusted>,
    policy: AlgorithmPolicy,
}

/// A certificate that was not accepted: its status (CAL-6), what is wrong, and what to do. It travels inside the error
/// of the handshake.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{status}: {explanation}")]
pub struct CertificateRefused {
    pub status: Status,
    pub explanation: String,
}

impl CertificateRefused {
    /// Extracts it from a handshake error, if that is why it failed.
    #[must_use]
    pub fn of(error: &rustls::Error) -> Option<&Self> {
        if let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error {
            other.0.downcast_ref()
        } else {
            None
        }
    }
}

impl TrustedCas {
    /// Diagnosed only here, so that a successful handshake pays for the verdict alone.
    fn refuse(&self, presented: Presented<'_>, now: UnixTime) -> rustls::Error {
        let diagnosis = diagnose(presented, &[], &self.trusted, self.policy, now);
        let refused = CertificateRefused {
            status: diagnosis.status,
            explanation: diagnosis.explanation,
        };
        CertificateError::Other(OtherError(Arc::new(refused))).into()
    }
}

impl Judge for TrustedCas {
    fn judge(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let presented = Presented {
            host: &self.host,
            leaf: own,
            intermediates,
        };
        verify(presented, &self.trusted, self.policy, now).map_err(|_| self.refuse(presented, now))
    }
}

/// Records what the server sent and accepts it.
#[derive(Debug, Default)]
pub(super) struct Witness {
    sent: OnceLock<Vec<CertificateDer<'static>>>,
}

impl Witness {
    /// The server's own certificate first; empty where none was sent.
    pub(super) fn sent(&self) -> Vec<CertificateDer<'static>> {
        self.sent.get().cloned().unwrap_or_default()
    }
}

impl Judge for Witness {
    fn judge(
        &self,
        own: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let mut sent = vec![own.clone().into_owned()];
        let others = intermediates.iter().take(SENT_MAX);
        sent.extend(others.map(|certificate| certificate.clone().into_owned()));
        self.sent.get_or_init(|| sent);
        Ok(())
    }
}

static CURRENT_VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
static LEGACY_VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
