//! All that is wrong with a certificate and its chain, in the guides' words, and what to do about it.

use std::fmt;

use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Serialize;

use super::algorithms::AlgorithmPolicy;
use super::chain::{self, Chain, ChainEnd, ElementStatus, Known, Link, Source};
use super::explanation;
use super::parsed::Certificate;
use super::verification::{Presented, Refusal, SENT_MAX, Trusted, verify};

/// The guides' statuses of "SSL Connection/Certificate Verification".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Status {
    Verified,
    #[serde(rename = "Certificate Missing From Chain")]
    CertificateMissingFromChain,
    #[serde(rename = "Subject CN Mismatch")]
    SubjectCnMismatch,
    #[serde(rename = "SAN Mismatch")]
    SanMismatch,
    #[serde(rename = "Bad Certificates")]
    BadCertificates,
    #[serde(rename = "Network Error")]
    NetworkError,
    /// For no reason of the above.
    Failed,
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Verified => "Verified",
            Self::CertificateMissingFromChain => "Certificate Missing From Chain",
            Self::SubjectCnMismatch => "Subject CN Mismatch",
            Self::SanMismatch => "SAN Mismatch",
            Self::BadCertificates => "Bad Certificates",
            Self::NetworkError => "Network Error",
            Self::Failed => "Failed",
        })
    }
}

/// What an administrator is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    pub status: Status,
    /// What is wrong and what to do, in sentences. Also when all is well.
    pub explanation: String,
    /// It is accepted only because this gateway may use RSA-1024 and SHA-1.
    pub relies_on_legacy_algorithms: bool,
    /// From the server's own certificate to the root, as far as known.
    pub chain: Vec<ChainElement>,
}

impl Diagnosis {
    /// For what has nothing to do with certificates.
    #[must_use]
    pub fn without_certificates(status: Status, explanation: String) -> Self {
        Self {
            status,
            explanation,
            relies_on_legacy_algorithms: false,
            chain: Vec::new(),
        }
    }
}

/// One row of the certificate viewer. A certificate that is nowhere has only what its holder says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainElement {
    pub status: ElementStatus,
    pub subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The key identifier by which the missing certificate is known, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted_key_identifier: Option<String>,
    /// Where the missing certificate is said to be found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wanted_from: Vec<String>,
}

/// A certificate for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateView {
    pub issuer: String,
    pub serial: String,
    pub sha256_fingerprint: String,
    /// RFC 3339.
    pub not_before: String,
    pub not_after: String,
    pub key_algorithm: String,
    pub key_bits: usize,
    pub signature_algorithm: String,
    pub is_authority: bool,
    pub dns_names: Vec<String>,
    pub addresses: Vec<String>,
}

impl CertificateView {
    #[must_use]
    pub fn of(certificate: &Certificate) -> Self {
        let addresses = certificate.names.addresses.iter();
        Self {
            issuer: certificate.issuer.clone(),
            serial: certificate.serial.clone(),
            sha256_fingerprint: certificate.fingerprint.to_string(),
            not_before: chain::date(certificate.not_before),
            not_after: chain::date(certificate.not_after),
            key_algorithm: certificate.key.algorithm.clone(),
            key_bits: certificate.key.bits,
            signature_algorithm: certificate.signature_algorithm.clone(),
            is_authority: certificate.is_authority,
            dns_names: certificate.names.dns_names.clone(),
            addresses: addresses.map(ToString::to_string).collect(),
        }
    }
}

/// Explains what [`verify`] says of the same certificates, which is the verdict in every handshake. `fetched` are
/// issuers that were found elsewhere: they are shown and change no verdict.
#[must_use]
pub fn diagnose(
    presented: Presented<'_>,
    fetched: &[Certificate],
    trusted: &Trusted,
    policy: AlgorithmPolicy,
    now: UnixTime,
) -> Diagnosis {
    let Ok(leaf) = Certificate::parse(presented.leaf) else {
        let explanation = explanation::unreadable(presented.host);
        return Diagnosis::without_certificates(Status::BadCertificates, explanation);
    };
    let sent = parse_all(presented.intermediates);
    let known = Known {
        trusted,
        sent: &sent,
        fetched,
    };
    let chain = chain::build(leaf, known, policy, now);
    let verdict = verify(presented, trusted, policy, now);
    let relies_on_legacy_algorithms = policy == AlgorithmPolicy::Legacy
        && verdict.is_ok()
        && verify(presented, trusted, AlgorithmPolicy::Current, now).is_err();
    Diagnosis {
        status: status_of(&verdict, &chain),
        explanation: explanation::of(presented.host, &verdict, &chain, relies_on_legacy_algorithms),
        relies_on_legacy_algorithms,
        chain: elements(&chain),
    }
}

/// The certificate at which the chain breaks off because its issuer is nowhere.
#[must_use]
pub fn lacks_issuer(
    presented: Presented<'_>,
    fetched: &[Certificate],
    trusted: &Trusted,
    policy: AlgorithmPolicy,
    now: UnixTime,
) -> Option<Certificate> {
    let leaf = Certificate::parse(presented.leaf).ok()?;
    let sent = parse_all(presented.intermediates);
    let known = Known {
        trusted,
        sent: &sent,
        fetched,
    };
    let mut chain = chain::build(leaf, known, policy, now);
    if chain.end != ChainEnd::IssuerMissing {
        return None;
    }
    chain.links.pop().map(|link| link.certificate)
}

/// What cannot be read is no issuer of anything.
fn parse_all(sent: &[CertificateDer<'_>]) -> Vec<Certificate> {
    sent.iter()
        .take(SENT_MAX)
        .filter_map(|der| Certificate::parse(der).ok())
        .collect()
}

fn status_of(verdict: &Result<(), Refusal>, chain: &Chain) -> Status {
    match verdict {
        Ok(()) => Status::Verified,
        Err(Refusal::CommonNameMismatch | Refusal::NameBeyondConstraints) => Status::SubjectCnMismatch,
        Err(Refusal::AlternativeNameMismatch) => Status::SanMismatch,
        Err(Refusal::Unreadable | Refusal::WeakKey { .. } | Refusal::OutOfTime | Refusal::Chain(_)) => {
            status_of_chain(chain)
        }
    }
}

/// A chain that leads nowhere proves nothing else: that comes first. A signature that is wrong is known to be.
fn status_of_chain(chain: &Chain) -> Status {
    let bad_signature = chain
        .links
        .iter()
        .any(|link| link.status == ElementStatus::BadSignature);
    match chain.end {
        _ if bad_signature => Status::BadCertificates,
        ChainEnd::IssuerMissing | ChainEnd::RootNotTrusted => Status::CertificateMissingFromChain,
        ChainEnd::Trusted | ChainEnd::RootRenewed | ChainEnd::TooLong => {
            if shows_only_what_was_fetched(chain) {
                Status::CertificateMissingFromChain
            } else {
                Status::BadCertificates
            }
        }
    }
}

/// The chain is whole only with certificates that were fetched for this diagnosis: no handshake has them.
fn shows_only_what_was_fetched(chain: &Chain) -> bool {
    let acceptable = |link: &Link| link.status == ElementStatus::Verified;
    chain.links.iter().all(acceptable) && chain.links.iter().any(|link| link.source == Source::Fetched)
}

fn elements(chain: &Chain) -> Vec<ChainElement> {
    let mut elements: Vec<ChainElement> = chain.links.iter().map(present).collect();
    if chain.end == ChainEnd::IssuerMissing {
        elements.extend(chain.links.last().map(absent_issuer));
    }
    elements
}

fn present(link: &Link) -> ChainElement {
    ChainElement {
        status: link.status,
        subject: link.certificate.subject.clone(),
        remark: link.remark.clone(),
        certificate: Some(CertificateView::of(&link.certificate)),
        source: Some(link.source),
        wanted_key_identifier: None,
        wanted_from: Vec::new(),
    }
}

fn absent_issuer(last: &Link) -> ChainElement {
    let holder = &last.certificate;
    ChainElement {
        status: ElementStatus::Missing,
        subject: holder.issuer.clone(),
        remark: Some("neither sent nor in the trust store".to_owned()),
        certificate: None,
        source: None,
        wanted_key_identifier: holder.authority_key.as_deref().map(hexadecimal),
        wanted_from: holder.issuer_urls.clone(),
    }
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    let shown = bytes.iter().take(KEY_IDENTIFIER_BYTES_SHOWN);
    shown.fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

const KEY_IDENTIFIER_BYTES_SHOWN: usize = 64;
