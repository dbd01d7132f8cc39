//! How the certificates of a SIP listener's clients are judged.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme,
};
use thiserror::Error;
use webpki::{
    CertRevocationList, EndEntityCert, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

use super::shown_certificate::{describe, note};
use super::sip_tls::SipTlsSettings;
use super::tls::{TlsError, Trust, provider};
use crate::certificate_holder::peer_identity;
use crate::listed_subjects::{SubjectPattern, is_listed};

/// Judges the certificates of clients: signed by an authority, for clients or for servers (an OCS shows the certificate of
/// its server), valid, not revoked, and with a name that is listed.
#[derive(Debug)]
pub(super) struct SipClientVerifier {
    /// Absent while there is no authority, and nobody is let in.
    as_client: Option<Arc<dyn ClientCertVerifier>>,
    authority: Arc<RootCertStore>,
    revoked: Vec<CertRevocationList<'static>>,
    subjects: Vec<SubjectPattern>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SipClientVerifier {
    pub(super) fn new(settings: &SipTlsSettings, trust: &Trust) -> Result<Self, TlsError> {
        let files = &settings.files;
        let as_client = match trust.authority().is_empty() {
            true => None,
            false => Some(trust.client_verifier(files)?),
        };
        Ok(Self {
            as_client,
            authority: Arc::clone(trust.authority()),
            revoked: trust.revoked(files)?,
            subjects: settings.subjects.clone(),
            algorithms: provider().signature_verification_algorithms,
        })
    }

    /// As a client's certificate, or else as a server's.
    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        match self.check_as_client(end_entity, intermediates, now) {
            Err(error) if is_other_usage(&error) => self
                .check_for(KeyUsage::server_auth(), end_entity, intermediates, now)
                .map_err(|reason| known_reason(&reason).map_or(error, rustls::Error::InvalidCertificate)),
            judged @ (Ok(()) | Err(_)) => judged,
        }
    }

    fn check_as_client(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let verifier = self
            .as_client
            .as_ref()
            .ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        verifier
            .verify_client_cert(end_entity, intermediates, now)
            .map(drop)
    }

    /// By the same rules as a client's certificate, but for its use.
    fn check_for(
        &self,
        usage: KeyUsage,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let revoked: Vec<&CertRevocationList<'_>> = self.revoked.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&revoked).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::EndEntity)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .build()
        });
        let certificate = EndEntityCert::try_from(end_entity)?;
        let verified = certificate.verify_for_usage(
            self.algorithms.all,
            &self.authority.roots,
            intermediates,
            now,
            usage,
            revocation,
            None,
        );
        verified.map(drop)
    }

    /// Whether a list that an authority of ours has signed names the first certificate of this chain, whose serial number
    /// is given as the content of its INTEGER.
    pub(super) fn has_revoked(&self, chain: &[CertificateDer<'_>], serial: &[u8], now: UnixTime) -> bool {
        let listed =
            |list: &CertRevocationList<'_>| list.find_serial(serial).is_ok_and(|found| found.is_some());
        let Some((own, issuers)) = chain.split_first() else {
            return false;
        };
        // Most are on no list, which costs nothing to see.
        self.revoked.iter().any(listed)
            && [KeyUsage::client_auth(), KeyUsage::server_auth()]
                .into_iter()
                .any(|usage| self.check_for(usage, own, issuers, now) == Err(webpki::Error::CertRevoked))
    }
}

impl ClientCertVerifier for SipClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.as_client
            .as_ref()
            .map_or(&[], |verifier| verifier.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now)
            .inspect_err(|_| note(describe(end_entity, &self.authority)))?;
        check_subject(end_entity, &self.subjects)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What webpki says, where rustls has a name for it that matters here.
fn known_reason(error: &webpki::Error) -> Option<CertificateError> {
    if matches!(error, webpki::Error::UnknownIssuer) {
        Some(CertificateError::UnknownIssuer)
    } else if matches!(error, webpki::Error::CertRevoked) {
        Some(CertificateError::Revoked)
    } else if matches!(error, webpki::Error::CertExpired { .. }) {
        Some(CertificateError::Expired)
    } else if matches!(error, webpki::Error::CertNotValidYet { .. }) {
        Some(CertificateError::NotValidYet)
    } else {
        None
    }
}

fn is_other_usage(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. }
        )
    )
}

/// The certificate is good, and of somebody who is not expected.
#[derive(Debug, Error)]
#[error("the certificate names {seen:?}, and the listener's subjects are {accepted:?}")]
pub(super) struct SubjectRefused {
    /// Its alternative names, or its common name where it has none.
    seen: Vec<String>,
    pub(super) has_alternative_names: bool,
    accepted: Vec<String>,
}

fn check_subject(certificate: &CertificateDer<'_>, subjects: &[SubjectPattern]) -> Result<(), rustls::Error> {
    let identity = peer_identity(certificate).map_err(|error| {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    })?;
    let alternatives = &identity.subject_alternative_names;
    if is_listed(&identity, subjects) {
        return Ok(());
    }
    let refused = SubjectRefused {
        has_alternative_names: !alternatives.is_empty(),
        seen: alternatives
            .iter()
            .chain(&identity.common_name)
            .cloned()
            .collect(),
        accepted: subjects.iter().map(ToString::to_string).collect(),
    };
    let other = CertificateError::Other(OtherError(Arc::new(refused)));
    Err(rustls::Error::InvalidCertificate(other))
}
