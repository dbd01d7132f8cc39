//! The deciding verdict: whether the certificate of a CAS is accepted.

use rustls_pki_types::{CertificateDer, UnixTime};
use tandem_certificate::{AlgorithmPolicy, Certificate, NameMatch, NameMismatch, Trusted};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage};

/// What a server sent, and the host that was connected to.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// FQDN, IPv4 or IPv6 address as configured.
    pub host: &'a str,
    pub leaf: &'a CertificateDer<'a>,
    /// The rest of what it sent, in its order.
    pub intermediates: &'a [CertificateDer<'a>],
}

/// Whether the certificate may be used for this host, now.
///
/// # Errors
/// The first reason to refuse it; [`super::diagnose`] finds all of them.
pub fn verify(
    presented: Presented<'_>,
    trusted: &Trusted,
    policy: AlgorithmPolicy,
    now: UnixTime,
) -> Result<(), Refusal> {
    let leaf = Certificate::parse(presented.leaf).map_err(|_| Refusal::Unreadable)?;
    check_key(&leaf, policy)?;
    let names = if trusted.contains(leaf.fingerprint) {
        check_time(&leaf, now)?;
        NamesAreLimited::No
    } else {
        check_chain(presented, trusted, policy, now)?
    };
    check_name(&leaf, presented.host, names)
}

/// Why a certificate is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("its RSA key has only {bits} bits")]
    WeakKey { bits: usize },
    #[error("the certificate is not yet valid or has expired")]
    OutOfTime,
    #[error("its chain is not accepted: {0}")]
    Chain(webpki::Error),
    #[error("the host does not match its common name")]
    CommonNameMismatch,
    #[error("the host matches none of its alternative names")]
    AlternativeNameMismatch,
    #[error("only its common name matches, and an authority of its chain limits names")]
    NameBeyondConstraints,
}

/// A handshake signature by a small key would fail later, with a less helpful error.
fn check_key(leaf: &Certificate, policy: AlgorithmPolicy) -> Result<(), Refusal> {
    let bits = leaf.key.bits;
    if leaf.key.is_rsa() && bits < policy.rsa_bits_min() {
        return Err(Refusal::WeakKey { bits });
    }
    Ok(())
}

/// A certificate that is itself in the store needs no issuer, but must be within its validity.
fn check_time(leaf: &Certificate, now: UnixTime) -> Result<(), Refusal> {
    let now = seconds(now);
    if (leaf.not_before..=leaf.not_after).contains(&now) {
        Ok(())
    } else {
        Err(Refusal::OutOfTime)
    }
}

fn check_chain(
    presented: Presented<'_>,
    trusted: &Trusted,
    policy: AlgorithmPolicy,
    now: UnixTime,
) -> Result<NamesAreLimited, Refusal> {
    let leaf = EndEntityCert::try_from(presented.leaf).map_err(Refusal::Chain)?;
    let sent = presented.intermediates;
    let intermediates = sent.get(..SENT_MAX).unwrap_or(sent);
    let path = leaf
        .verify_for_usage(
            policy.signature_algorithms().all,
            trusted.anchors(),
            intermediates,
            now,
            KeyUsage::server_auth(),
            None,
            None,
        )
        .map_err(Refusal::Chain)?;
    let mut authorities = path.intermediate_certificates();
    let limited = path.anchor().name_constraints.is_some()
        || authorities.any(|authority| {
            let parsed = Certificate::parse(authority.der().as_ref());
            parsed.map_or(true, |authority| authority.limits_names)
        });
    Ok(if limited {
        NamesAreLimited::Yes
    } else {
        NamesAreLimited::No
    })
}

/// Whether an authority in the chain may issue for some names only (RFC 5280 §4.2.1.10). That is checked for
/// alternative names; a common name would slip through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NamesAreLimited {
    Yes,
    No,
}

fn check_name(leaf: &Certificate, host: &str, names: NamesAreLimited) -> Result<(), Refusal> {
    match (leaf.names.matching(host), names) {
        (Ok(NameMatch::AlternativeName), _) | (Ok(NameMatch::CommonName), NamesAreLimited::No) => Ok(()),
        (Ok(NameMatch::CommonName), NamesAreLimited::Yes) => Err(Refusal::NameBeyondConstraints),
        (Err(NameMismatch::CommonName), _) => Err(Refusal::CommonNameMismatch),
        (Err(NameMismatch::AlternativeName), _) => Err(Refusal::AlternativeNameMismatch),
    }
}

pub(super) fn seconds(now: UnixTime) -> i64 {
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// How many certificates beyond the leaf are considered; a chain has three or four.
pub const SENT_MAX: usize = 16;
