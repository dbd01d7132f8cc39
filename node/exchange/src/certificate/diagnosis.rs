//! Everything that is wrong with a certificate and its chain, in the words of CAL-6, and what to do about it.

use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Serialize;
use tandem_certificate::{AlgorithmPolicy, Certificate, CertificateView, Status, Trusted};

use super::chain::{self, Chain, ChainEnd, ElementStatus, Known, Link, Source};
use super::explanation;
use super::verification::{Presented, Refusal, SENT_MAX, verify};

/// What an administrator is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    pub status: Status,
    /// What is wrong and what to do, in sentences; also filled in if nothing is wrong.
    pub explanation: String,
    /// Accepted only because this CAS is allowed RSA-1024 and SHA-1.
    pub relies_on_legacy_algorithms: bool,
    /// From the server's own certificate to the root, as far as known.
    pub chain: Vec<ChainElement>,
}

impl Diagnosis {
    /// For failures that have nothing to do with certificates.
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

/// One row of the certificate viewer. Of a missing certificate only what the issued one says about it is known.
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
    /// The key identifier of the missing certificate, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted_key_identifier: Option<String>,
    /// Where the missing certificate can be found, according to the one that it issued.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wanted_from: Vec<String>,
}

/// Explains what [`verify`], which decides in every handshake, says about the same certificates. `fetched` are issuers
/// that were found elsewhere: they are shown and do not change the verdict.
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

/// The certificate at which the chain breaks because its issuer is missing.
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

/// What cannot be read cannot be an issuer.
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

/// An incomplete chain proves nothing else, so it comes first. A wrong signature is certain.
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

/// The chain is complete only with certificates fetched for this diagnosis, which no handshake has.
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

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::time::Duration;

    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
        KeyPair, NameConstraints,
    };

    use super::*;
    use tandem_certificate::read_bundle;

    const HOST: &str = "cas1.contoso.com";

    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        certificate: Certificate,
    }

    fn root(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Authority {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = Certificate::parse(params.self_signed(&key).unwrap().der()).unwrap();
        Authority {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    fn params(common_name: &str, names: &[&str]) -> CertificateParams {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params
    }

    impl Authority {
        fn issue(&self, params: &CertificateParams) -> CertificateDer<'static> {
            let key = KeyPair::generate().unwrap();
            params.signed_by(&key, &self.issuer).unwrap().der().clone()
        }

        fn trusted(&self) -> Trusted {
            Trusted::new(vec![self.certificate.clone()])
        }
    }

    fn now() -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000))
    }

    fn diagnose_leaf(leaf: &CertificateDer<'_>, trusted: &Trusted) -> Diagnosis {
        let presented = Presented {
            host: HOST,
            leaf,
            intermediates: &[],
        };
        diagnose(presented, &[], trusted, AlgorithmPolicy::Current, now())
    }

    #[test]
    fn a_common_name_does_not_slip_past_an_authority_that_limits_names() {
        let limited = root("Limited", |params| {
            params.name_constraints = Some(NameConstraints {
                permitted_subtrees: vec![GeneralSubtree::DnsName("fabrikam.com".to_owned())],
                excluded_subtrees: Vec::new(),
            });
        });
        let diagnosis = diagnose_leaf(&limited.issue(&params(HOST, &[])), &limited.trusted());
        assert_eq!(diagnosis.status, Status::SubjectCnMismatch);
        assert!(diagnosis.explanation.contains("as a subject alternative name"));
        let diagnosis = diagnose_leaf(&limited.issue(&params("cas", &[HOST])), &limited.trusted());
        assert_eq!(diagnosis.status, Status::BadCertificates);
        assert!(diagnosis.explanation.contains("may not issue for this name"));
    }

    #[test]
    fn what_no_single_certificate_shows_is_explained_too() {
        let authority = root("Contoso", |_| {});
        let mut for_clients = params("cas", &[HOST]);
        for_clients.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let mut for_issuing = params("cas", &[HOST]);
        for_issuing.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        for (params, says) in [
            (for_clients, "server authentication"),
            (for_issuing, "certificate of an authority"),
        ] {
            let diagnosis = diagnose_leaf(&authority.issue(&params), &authority.trusted());
            assert_eq!(diagnosis.status, Status::BadCertificates);
            assert!(diagnosis.explanation.contains(says), "{}", diagnosis.explanation);
        }
    }

    #[test]
    fn several_defects_are_told_together() {
        let authority = root("Contoso", |_| {});
        let mut wrong = params("cas", &["other.contoso.com"]);
        wrong.not_after = rcgen::date_time_ymd(2020, 5, 1);
        let diagnosis = diagnose_leaf(&authority.issue(&wrong), &Trusted::default());
        assert_eq!(diagnosis.status, Status::CertificateMissingFromChain);
        for says in ["expired on 2020-05-01", "CN=Contoso", "SAN other.contoso.com"] {
            assert!(diagnosis.explanation.contains(says), "{}", diagnosis.explanation);
        }
    }

    #[test]
    fn an_expired_anchor_counts_and_is_remarked_upon() {
        let authority = root("Contoso", |params| {
            params.not_after = rcgen::date_time_ymd(2020, 5, 1);
        });
        let diagnosis = diagnose_leaf(&authority.issue(&params("cas", &[HOST])), &authority.trusted());
        assert_eq!(diagnosis.status, Status::Verified);
        let remark = diagnosis.chain.last().unwrap().remark.as_deref();
        assert!(remark.unwrap().contains("expired on 2020-05-01"));
    }

    #[test]
    fn a_chain_has_an_end_even_when_authorities_certify_each_other() {
        let (one, other) = (root("One", |_| {}), root("Other", |_| {}));
        let cross = |below: &Authority, above: &Authority, name: &str| {
            let mut params = params(name, &[]);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = below.issuer.key();
            params.signed_by(key, &above.issuer).unwrap().der().clone()
        };
        let sent = [cross(&one, &other, "One"), cross(&other, &one, "Other")];
        let leaf = one.issue(&params("cas", &[HOST]));
        let presented = Presented {
            host: HOST,
            leaf: &leaf,
            intermediates: &sent,
        };
        let diagnosis = diagnose(
            presented,
            &[],
            &Trusted::default(),
            AlgorithmPolicy::Current,
            now(),
        );
        assert_eq!(diagnosis.status, Status::CertificateMissingFromChain);
        let trusted = other.trusted();
        let diagnosis = diagnose(presented, &[], &trusted, AlgorithmPolicy::Current, now());
        assert_eq!(diagnosis.status, Status::Verified);
        assert_eq!(diagnosis.chain.len(), 3);
    }

    /// A root, what it issued, and both as a PEM bundle.
    fn material() -> &'static (Authority, CertificateDer<'static>) {
        static MATERIAL: OnceLock<(Authority, CertificateDer<'static>)> = OnceLock::new();
        MATERIAL.get_or_init(|| {
            let authority = root("Contoso", |_| {});
            let leaf = authority.issue(&params("cas", &[HOST, "10.0.0.7"]));
            (authority, leaf)
        })
    }

    fn damaged(mut bytes: Vec<u8>, damages: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
        for (index, kind, value) in damages {
            let at = index.index(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
            match (kind % 3, bytes.get_mut(at)) {
                (0, Some(byte)) => *byte = *value,
                (1, Some(_)) => bytes.insert(at, *value),
                (_, Some(_)) => bytes.truncate(at),
                (_, None) => bytes.push(*value),
            }
        }
        bytes
    }

    fn damages() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
        prop::collection::vec((any::<prop::sample::Index>(), 0..2_u8, any::<u8>()), 0..4)
    }

    proptest! {
        #[test]
        fn damaged_certificates_are_judged_alike_by_diagnosis_and_verdict(
            of_leaf in damages(), of_root in damages(), host in "(cas1\\.contoso\\.com|10\\.0\\.0\\.7|.{0,12})",
        ) {
            let (authority, leaf) = material();
            let leaf = CertificateDer::from(damaged(leaf.to_vec(), &of_leaf));
            let root = damaged(authority.certificate.der.to_vec(), &of_root);
            let sent = [CertificateDer::from(root.clone()), leaf.clone()];
            let presented = Presented { host: &host, leaf: &leaf, intermediates: &sent };
            let trusted = Trusted::new(Certificate::parse(&root).into_iter().collect());
            for policy in [AlgorithmPolicy::Current, AlgorithmPolicy::Legacy] {
                let verdict = verify(presented, &trusted, policy, now());
                let diagnosis = diagnose(presented, &[], &trusted, policy, now());
                prop_assert_eq!(verdict.is_ok(), diagnosis.status == Status::Verified);
                prop_assert!(!diagnosis.explanation.is_empty());
                prop_assert!(diagnosis.chain.len() <= 9);
            }
        }

        #[test]
        fn no_bundle_whatever_makes_reading_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), how in damages()) {
            let _ = read_bundle(&bytes);
            let (authority, leaf) = material();
            let set = [authority.certificate.der.to_vec(), leaf.to_vec()].concat();
            let _ = read_bundle(&damaged(signed_data(&set), &how));
            let _ = read_bundle(&[b"-----BEGIN CERTIFICATE-----\n".to_vec(), bytes].concat());
        }
    }

    #[test]
    fn both_certificates_come_out_of_signed_data() {
        let (authority, leaf) = material();
        let set = [authority.certificate.der.to_vec(), leaf.to_vec()].concat();
        let read = read_bundle(&signed_data(&set)).unwrap();
        let expected = [authority.certificate.clone(), Certificate::parse(leaf).unwrap()];
        assert_eq!(read, expected);
    }

    /// PKCS #7 without content and signers around these certificates.
    fn signed_data(certificates: &[u8]) -> Vec<u8> {
        let tagged = |tag: u8, contents: &[u8]| {
            let length = u16::try_from(contents.len()).unwrap().to_be_bytes();
            [&[tag, 0x82], length.as_slice(), contents].concat()
        };
        let data = tagged(
            0x30,
            &tagged(0x06, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01]),
        );
        let body = [
            tagged(0x02, &[1]),
            tagged(0x31, &[]),
            data,
            tagged(0xa0, certificates),
            tagged(0x31, &[]),
        ]
        .concat();
        let kind = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
        let content = tagged(0xa0, &tagged(0x30, &body));
        tagged(0x30, &[kind.as_slice(), &content].concat())
    }
}
