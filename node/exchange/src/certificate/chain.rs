//! The chain from a server's certificate to a trusted one, or to where it breaks.

use rustls_pki_types::UnixTime;
use serde::Serialize;
use tandem_certificate::{
    AlgorithmPolicy, Certificate, SignatureCheck, Trusted, check_own_signature, check_signature, date,
};

use super::verification::seconds;

/// The source of a certificate in a chain. An earlier source is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    TrustStore,
    Sent,
    /// From the address that the issued certificate gives for its issuer.
    Fetched,
}

/// The status of one certificate at its place in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ElementStatus {
    /// Trusted or signed by the next one; within its validity; made with allowed algorithms.
    Verified,
    /// Needed and missing, or present and not trusted.
    Missing,
    Expired,
    #[serde(rename = "Not yet valid")]
    NotYetValid,
    #[serde(rename = "Bad signature")]
    BadSignature,
    /// Made with an algorithm or key that is not accepted.
    Unsupported,
    /// Good by itself, but its issuer is missing, so its signature could not be checked.
    Unchecked,
}

/// One certificate of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) certificate: Certificate,
    pub(super) source: Source,
    pub(super) status: ElementStatus,
    pub(super) remark: Option<String>,
}

/// From the leaf upwards; each is signed by the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) links: Vec<Link>,
    pub(super) end: ChainEnd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ChainEnd {
    /// At a trusted certificate.
    Trusted,
    /// The issuer of the last one was not found.
    IssuerMissing,
    /// The last one is self-signed and not trusted.
    RootNotTrusted,
    /// The last one is not trusted; another one with the same name and another key is.
    RootRenewed,
    TooLong,
}

/// Where issuers are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) trusted: &'a Trusted,
    pub(super) sent: &'a [Certificate],
    pub(super) fetched: &'a [Certificate],
}

pub(super) fn build(leaf: Certificate, known: Known<'_>, policy: AlgorithmPolicy, now: UnixTime) -> Chain {
    let judge = Judge {
        policy,
        now: seconds(now),
    };
    let mut builder = Builder {
        known,
        judge,
        links: Vec::new(),
    };
    let source = if known.trusted.contains(leaf.fingerprint) {
        Source::TrustStore
    } else {
        Source::Sent
    };
    let end = builder.follow(leaf, source);
    let mut links = builder.links;
    if let Some(leaf) = links.first_mut() {
        judge.judge_leaf(leaf);
    }
    Chain { links, end }
}

struct Builder<'a> {
    known: Known<'a>,
    judge: Judge,
    links: Vec<Link>,
}

impl Builder<'_> {
    fn follow(&mut self, leaf: Certificate, source: Source) -> ChainEnd {
        let (mut certificate, mut source) = (leaf, source);
        while self.links.len() < LENGTH_MAX {
            if source == Source::TrustStore {
                self.push_trusted(certificate);
                return ChainEnd::Trusted;
            }
            let issuer = self.best_issuer(&certificate);
            if certificate.is_self_issued() && issuer.as_ref().is_none_or(Issuer::is_wrong) {
                return self.push_root(certificate, source);
            }
            let Some(issuer) = issuer else {
                self.push(certificate, source, ElementStatus::Unchecked, None);
                return ChainEnd::IssuerMissing;
            };
            let (status, remark) = self.judge.signed(&certificate, &issuer);
            self.push(certificate, source, status, remark);
            (certificate, source) = (issuer.certificate, issuer.source);
        }
        ChainEnd::TooLong
    }

    /// A trusted leaf must still be within its validity; for an anchor that is only worth a remark.
    fn push_trusted(&mut self, certificate: Certificate) {
        let time = self.judge.time(&certificate);
        let (status, remark) = match (time, self.links.is_empty()) {
            (Some((_, reason)), false) => (
                ElementStatus::Verified,
                Some(format!(
                    "{reason}; it is accepted because it is in the trust store"
                )),
            ),
            (Some(_), true) | (None, _) => (ElementStatus::Verified, None),
        };
        self.push(certificate, Source::TrustStore, status, remark);
    }

    fn push_root(&mut self, certificate: Certificate, source: Source) -> ChainEnd {
        let own = check_own_signature(&certificate);
        let namesake = self
            .known
            .trusted
            .certificates
            .iter()
            .any(|trusted| certificate.names_issuer(trusted));
        let (status, remark, end) = if own == SignatureCheck::Bad {
            let remark = "it was not signed with its own key";
            (ElementStatus::BadSignature, remark, ChainEnd::RootNotTrusted)
        } else if namesake {
            let remark = "the trust store has a certificate with this name and a different key";
            (ElementStatus::BadSignature, remark, ChainEnd::RootRenewed)
        } else {
            let remark = "it is not in the trust store";
            (ElementStatus::Missing, remark, ChainEnd::RootNotTrusted)
        };
        self.push(certificate, source, status, Some(remark.to_owned()));
        end
    }

    fn push(
        &mut self,
        certificate: Certificate,
        source: Source,
        status: ElementStatus,
        remark: Option<String>,
    ) {
        self.links.push(Link {
            certificate,
            source,
            status,
            remark,
        });
    }

    /// Preference: a valid signature, then current validity, matching key identifiers, and the source.
    fn best_issuer(&self, certificate: &Certificate) -> Option<Issuer> {
        let trusted = self.known.trusted.certificates.iter();
        let candidates = trusted
            .map(|candidate| (candidate, Source::TrustStore))
            .chain(self.known.sent.iter().map(|candidate| (candidate, Source::Sent)))
            .chain(
                self.known
                    .fetched
                    .iter()
                    .map(|candidate| (candidate, Source::Fetched)),
            )
            .filter(|(candidate, _)| certificate.names_issuer(candidate) && !self.has(candidate))
            .filter(|(candidate, _)| candidate.fingerprint != certificate.fingerprint)
            .take(CANDIDATES_MAX);
        let mut best: Option<Issuer> = None;
        for (candidate, source) in candidates {
            let issuer = Issuer {
                check: check_signature(certificate, candidate, self.judge.policy),
                in_time: source == Source::TrustStore || self.judge.time(candidate).is_none(),
                keys_agree: certificate.may_be_issued_by(candidate),
                certificate: candidate.clone(),
                source,
            };
            if best.as_ref().is_none_or(|best| issuer.is_better_than(best)) {
                best = Some(issuer);
            }
        }
        best
    }

    fn has(&self, certificate: &Certificate) -> bool {
        self.links
            .iter()
            .any(|link| link.certificate.fingerprint == certificate.fingerprint)
    }
}

struct Issuer {
    certificate: Certificate,
    source: Source,
    check: SignatureCheck,
    in_time: bool,
    keys_agree: bool,
}

impl Issuer {
    fn is_better_than(&self, other: &Self) -> bool {
        (self.check, self.in_time, self.keys_agree) > (other.check, other.in_time, other.keys_agree)
    }

    fn is_wrong(&self) -> bool {
        self.check == SignatureCheck::Bad
    }
}

#[derive(Clone, Copy)]
struct Judge {
    policy: AlgorithmPolicy,
    now: i64,
}

impl Judge {
    fn signed(self, certificate: &Certificate, issuer: &Issuer) -> (ElementStatus, Option<String>) {
        let time = self.time(certificate);
        let signature = match issuer.check {
            SignatureCheck::Bad => {
                let remark = format!(
                    "it was not signed with the key of \"{}\"",
                    issuer.certificate.short_name()
                );
                return (ElementStatus::BadSignature, Some(remark));
            }
            SignatureCheck::Good => None,
            SignatureCheck::Outdated | SignatureCheck::Unknown => Some((
                ElementStatus::Unsupported,
                format!(
                    "it is signed with {} and a key of {} bits",
                    certificate.signature_algorithm, issuer.certificate.key.bits
                ),
            )),
        };
        match time.or(signature) {
            Some((status, remark)) => (status, Some(remark)),
            None => (ElementStatus::Verified, None),
        }
    }

    /// Checks that concern the leaf alone, whoever signed it.
    fn judge_leaf(self, leaf: &mut Link) {
        if leaf.status == ElementStatus::BadSignature {
            return;
        }
        let key = &leaf.certificate.key;
        if let Some((status, remark)) = self.time(&leaf.certificate) {
            leaf.status = status;
            leaf.remark = Some(remark);
        } else if key.is_rsa() && key.bits < self.policy.rsa_bits_min() {
            leaf.status = ElementStatus::Unsupported;
            leaf.remark = Some(format!("its RSA key has only {} bits", key.bits));
        }
    }

    fn time(self, certificate: &Certificate) -> Option<(ElementStatus, String)> {
        if self.now > certificate.not_after {
            let remark = format!("it expired on {}", date(certificate.not_after));
            return Some((ElementStatus::Expired, remark));
        }
        if self.now < certificate.not_before {
            let remark = format!("it is not valid before {}", date(certificate.not_before));
            return Some((ElementStatus::NotYetValid, remark));
        }
        None
    }
}

/// webpki follows six intermediates.
const LENGTH_MAX: usize = 8;
/// How many authorities with the same name are tried.
const CANDIDATES_MAX: usize = 8;
