//! Checks the certificate of a CAS in every handshake.

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
    let verifier = CasVerifier {
        host: host.to_owned(),
        trusted,
        policy,
    };
    config_with(Arc::new(verifier), policy)
}

pub(super) fn config_with(
    verifier: Arc<dyn ServerCertVerifier>,
    policy: AlgorithmPolicy,
) -> Arc<ClientConfig> {
    let provider = CryptoProvider {
        signature_verification_algorithms: policy.signature_algorithms(),
        ..rustls::crypto::ring::default_provider()
    };
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions(policy))
        .expect("ring has suites for every version we name")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
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

#[derive(Debug)]
struct CasVerifier {
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

impl CasVerifier {
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

impl ServerCertVerifier for CasVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented = Presented {
            host: &self.host,
            leaf: end_entity,
            intermediates,
        };
        match verify(presented, &self.trusted, self.policy, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(_) => Err(self.refuse(presented, now)),
        }
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

/// Records what the server sent and accepts it.
#[derive(Debug)]
pub(super) struct Witness {
    policy: AlgorithmPolicy,
    sent: OnceLock<Vec<CertificateDer<'static>>>,
}

impl Witness {
    pub(super) fn new(policy: AlgorithmPolicy) -> Self {
        let sent = OnceLock::new();
        Self { policy, sent }
    }

    /// The server's own certificate first; empty where none was sent.
    pub(super) fn sent(&self) -> Vec<CertificateDer<'static>> {
        self.sent.get().cloned().unwrap_or_default()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut sent = vec![end_entity.clone().into_owned()];
        let others = intermediates.iter().take(SENT_MAX);
        sent.extend(others.map(|certificate| certificate.clone().into_owned()));
        self.sent.get_or_init(|| sent);
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

static CURRENT_VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
static LEGACY_VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
