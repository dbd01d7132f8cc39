//! What an administrator changes of a listener's certificates while it serves (RCC-9).

use thiserror::Error;

use super::admin::StatusCode;
use super::certificates::{
    FileProblem, Installed, SigningError, SigningRequest, StoredCertificate, TrustError,
    status_code_of_signing, status_code_of_store,
};
use super::environment;
use super::sip_tls::SipTls;
use super::tls::TlsError;
use tandem_certificate::{Certificate, Fingerprint, OwnVerdict, Status, judge_own};

/// Every change is in force for the next handshake. Connections that stand go on.
impl SipTls {
    /// Whose clients may connect, with the files that they stand in.
    #[must_use]
    pub fn authorities(&self) -> Vec<StoredCertificate> {
        self.loaded().authorities.clone()
    }

    /// Files of the directory that could not be used, and certificates in it that count for nothing.
    #[must_use]
    pub fn problems(&self) -> Vec<FileProblem> {
        let Some(store) = &self.trust else {
            return Vec::new();
        };
        let no_authorities = store
            .list()
            .into_iter()
            .filter(|stored| !stored.certificate.is_authority)
            .map(|stored| FileProblem {
                reason: format!(
                    "\"{}\" is no certificate of an authority",
                    stored.certificate.short_name()
                ),
                file: stored.file,
            });
        store.problems().into_iter().chain(no_authorities).collect()
    }

    /// What is shown, ours first; nothing while there is no certificate.
    #[must_use]
    pub fn chain(&self) -> Vec<Certificate> {
        self.loaded().chain.clone()
    }

    /// How it stands with what is shown, now.
    #[must_use]
    pub fn own_verdict(&self) -> OwnVerdict {
        let loaded = self.loaded();
        let authorities: Vec<Certificate> = loaded
            .authorities
            .iter()
            .map(|stored| stored.certificate.clone())
            .collect();
        judge_own(&loaded.chain, &authorities, now())
    }

    /// Whether a request waits for its signed certificate.
    #[must_use]
    pub fn has_request(&self) -> bool {
        self.identity().has_request()
    }

    /// Lets clients of these authorities in. Answers those that are new.
    ///
    /// # Errors
    /// When the authorities stand in a file, one of these is none, or the directory cannot be changed.
    pub fn trust(&self, certificates: &[Certificate]) -> Result<Vec<Certificate>, SipTlsChangeError> {
        let _editing = self.edit();
        let store = self.trust.as_ref().ok_or(SipTlsChangeError::NoTrustDirectory)?;
        if let Some(other) = certificates.iter().find(|certificate| !certificate.is_authority) {
            return Err(SipTlsChangeError::NotAnAuthority {
                subject: other.subject.clone(),
            });
        }
        let added = store.add(certificates)?;
        self.read_again().map_err(SipTlsChangeError::NotInForce)?;
        Ok(added)
    }

    /// Lets clients of this authority in no longer. Connections that stand go on.
    ///
    /// # Errors
    /// When the authorities stand in a file, this one is not among them, or the directory cannot be changed.
    pub fn distrust(&self, fingerprint: Fingerprint) -> Result<Certificate, SipTlsChangeError> {
        let _editing = self.edit();
        let store = self.trust.as_ref().ok_or(SipTlsChangeError::NoTrustDirectory)?;
        let removed = store.remove(fingerprint)?;
        self.read_again().map_err(SipTlsChangeError::NotInForce)?;
        Ok(removed)
    }

    /// Makes a request for a certificate of the listener, in PEM. The old pair stays in use until the answer is installed; an
    /// earlier request is forgotten.
    ///
    /// # Errors
    /// When nothing is to be certified, or the key cannot be made, read or kept.
    pub fn request_certificate(&self, wanted: &SigningRequest) -> Result<String, SipTlsChangeError> {
        let _editing = self.edit();
        Ok(self.identity().create_request(wanted)?)
    }

    /// Takes the authority's answer: PEM, DER or PKCS #7, in any order, with or without the rest of the chain.
    ///
    /// # Errors
    /// When it is not for a key of the listener, is out of its time or not for servers, or cannot be kept; then nothing
    /// changes.
    pub fn install_certificate(&self, answer: &[u8]) -> Result<Installed, SipTlsChangeError> {
        let _editing = self.edit();
        let identity = self.identity();
        let answer = identity.read_answer(answer)?;
        let verdict = judge_own(answer.chain(), &[], now());
        if verdict.status == Status::BadCertificates {
            let explanation = verdict.explanation;
            return Err(SipTlsChangeError::Bad { explanation });
        }
        let installed = identity.keep(answer)?;
        self.read_again().map_err(SipTlsChangeError::NotInForce)?;
        Ok(installed)
    }
}

/// Why nothing was changed.
#[derive(Debug, Error)]
pub enum SipTlsChangeError {
    #[error(
        "the authorities of this listener stand in a file: replace it, or configure trust_directory instead of client_authority"
    )]
    NoTrustDirectory,
    #[error("\"{subject}\" is no certificate of an authority: upload that of the authority which signed it")]
    NotAnAuthority { subject: String },
    /// In sentences for an administrator.
    #[error("the certificate is not installed. {explanation}")]
    Bad { explanation: String },
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Signing(#[from] SigningError),
    #[error(
        "the files are changed, and the listener cannot use them: what it had read before stays in force"
    )]
    NotInForce(#[source] TlsError),
}

impl SipTlsChangeError {
    /// Whose fault it is, in HTTP.
    #[must_use]
    pub fn status_code(&self) -> StatusCode {
        match self {
            Self::NoTrustDirectory => StatusCode::CONFLICT,
            Self::NotAnAuthority { .. } | Self::Bad { .. } => StatusCode::BAD_REQUEST,
            Self::Trust(error) => status_code_of_store(error),
            Self::Signing(error) => status_code_of_signing(error),
            Self::NotInForce(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// In the words of CAL-6.
    #[must_use]
    pub fn certificate_status(&self) -> Status {
        match self {
            Self::NotAnAuthority { .. }
            | Self::Bad { .. }
            | Self::Signing(
                SigningError::Bundle(_) | SigningError::OtherKey | SigningError::Mismatch { .. },
            ) => Status::BadCertificates,
            Self::NoTrustDirectory
            | Self::Trust(_)
            | Self::NotInForce(_)
            | Self::Signing(
                SigningError::File { .. }
                | SigningError::Key { .. }
                | SigningError::Names
                | SigningError::CommonName
                | SigningError::Country
                | SigningError::Request { .. },
            ) => Status::Failed,
        }
    }
}

fn now() -> i64 {
    i64::try_from(environment::tls_time().as_secs()).unwrap_or(i64::MAX)
}
