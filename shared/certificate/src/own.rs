//! How it stands with a certificate of ours, before a peer says so.

use super::parsed::Certificate;
use super::signature::is_issued_by;
use super::status::Status;
use super::view::date;

/// What peers will make of the chain that we show, as far as it can be told here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnVerdict {
    pub status: Status,
    /// What is wrong and what to do, in sentences. Also when all is well.
    pub explanation: String,
}

impl OwnVerdict {
    fn of(status: Status, explanation: impl Into<String>) -> Self {
        Self {
            status,
            explanation: explanation.into(),
        }
    }
}

/// Judges a chain, ours first, that is shown to clients and, on connections that we make, to servers. `known` are
/// authorities whose certificates we have besides; `now` is Unix time in seconds. Names are not judged: what clients call us
/// is not known here.
#[must_use]
pub fn judge_own(chain: &[Certificate], known: &[Certificate], now: i64) -> OwnVerdict {
    let Some(own) = chain.first() else {
        let explanation = "There is no certificate yet, and every handshake is refused: make a request (csr), have it signed, \
                           and install the answer (signed).";
        return OwnVerdict::of(Status::Failed, explanation);
    };
    if let Some(reason) = chain.iter().find_map(|certificate| out_of_time(certificate, now)) {
        return OwnVerdict::of(Status::BadCertificates, reason);
    }
    if !own.usages.server_auth {
        let explanation = "It may not be used by servers: have it issued with the extended key usages \"server authentication\" and \
                           \"client authentication\".";
        return OwnVerdict::of(Status::BadCertificates, explanation);
    }
    if let Some(issuer) = missing_issuer(chain, known) {
        let explanation = format!(
            "The certificate of \"{issuer}\", which issued it, is missing: peers that do not have it cannot verify ours. \
             Install it again with the authority's chain."
        );
        return OwnVerdict::of(Status::CertificateMissingFromChain, explanation);
    }
    let explanation = match own.usages.client_auth {
        true => format!("It is good until {}.", date(own.not_after)),
        false => format!(
            "It is good until {}, for servers alone: clients that we connect to may refuse it. Have it issued with the \
             extended key usage \"client authentication\" as well.",
            date(own.not_after)
        ),
    };
    OwnVerdict::of(Status::Verified, explanation)
}

fn out_of_time(certificate: &Certificate, now: i64) -> Option<String> {
    let name = certificate.short_name();
    if now > certificate.not_after {
        let ended = date(certificate.not_after);
        return Some(format!("\"{name}\" expired on {ended}: have it renewed."));
    }
    if now < certificate.not_before {
        let begins = date(certificate.not_before);
        return Some(format!(
            "\"{name}\" is not valid before {begins}: check the clock of this machine and that of the authority."
        ));
    }
    None
}

/// A root need not be shown (RFC 8446 §4.4.2). Whether what issued an intermediate is one cannot be seen, unless it is known.
fn missing_issuer<'a>(chain: &'a [Certificate], known: &[Certificate]) -> Option<&'a str> {
    let [own] = chain else {
        return None;
    };
    let by_root = known
        .iter()
        .any(|issuer| issuer.is_self_issued() && is_issued_by(own, issuer));
    (!own.is_self_issued() && !by_root).then_some(own.issuer.as_str())
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        certificate: Certificate,
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params
    }

    fn authority(name: &str, above: Option<&Authority>) -> Authority {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = match above {
            Some(above) => params.signed_by(&key, &above.issuer),
            None => params.self_signed(&key),
        };
        Authority {
            certificate: Certificate::parse(certificate.unwrap().der()).unwrap(),
            issuer: Issuer::new(params, key),
        }
    }

    fn issued(by: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Certificate {
        let mut params = params("vip.example.com");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Certificate::parse(params.signed_by(&key, &by.issuer).unwrap().der()).unwrap()
    }

    #[test]
    fn without_a_certificate_it_is_said_how_to_come_by_one() {
        let verdict = judge_own(&[], &[], NOW);
        assert_eq!(verdict.status, Status::Failed);
        assert!(verdict.explanation.contains("csr"));
    }

    #[test]
    fn a_chain_is_whole_when_it_ends_below_a_root() {
        let root = authority("Root", None);
        let issuing = authority("Issuing", Some(&root));
        let below_root = issued(&root, |_| {});
        let below_issuing = issued(&issuing, |_| {});
        let known = [root.certificate.clone(), issuing.certificate.clone()];
        let status = |chain: &[Certificate], known: &[Certificate]| judge_own(chain, known, NOW).status;
        assert_eq!(
            status(std::slice::from_ref(&below_root), &known),
            Status::Verified
        );
        assert_eq!(
            status(&[below_issuing.clone(), issuing.certificate.clone()], &[]),
            Status::Verified
        );
        assert_eq!(
            status(std::slice::from_ref(&root.certificate), &[]),
            Status::Verified,
            "its own issuer"
        );
        let missing = judge_own(std::slice::from_ref(&below_issuing), &known, NOW);
        assert_eq!(missing.status, Status::CertificateMissingFromChain);
        assert!(
            missing.explanation.contains("CN=Issuing"),
            "{}",
            missing.explanation
        );
        assert_eq!(
            status(&[below_root], &[]),
            Status::CertificateMissingFromChain,
            "nobody here knows that it is a root"
        );
    }

    #[test]
    fn what_is_out_of_its_time_or_not_for_servers_is_bad() {
        let root = authority("Root", None);
        let known = [root.certificate.clone()];
        let ended = issued(&root, |params| {
            params.not_after = rcgen::date_time_ymd(2020, 5, 1);
        });
        let early = issued(&root, |params| {
            params.not_before = rcgen::date_time_ymd(2098, 1, 1);
        });
        let for_clients = issued(&root, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
        for (certificate, says) in [
            (ended, "expired on 2020-05-01"),
            (early, "not valid before 2098-01-01"),
            (for_clients, "server authentication"),
        ] {
            let verdict = judge_own(&[certificate], &known, NOW);
            assert_eq!(verdict.status, Status::BadCertificates);
            assert!(verdict.explanation.contains(says), "{}", verdict.explanation);
        }
        let for_servers = issued(&root, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        let verdict = judge_own(&[for_servers], &known, NOW);
        assert_eq!(verdict.status, Status::Verified);
        assert!(verdict.explanation.contains("client authentication"));
    }
}
