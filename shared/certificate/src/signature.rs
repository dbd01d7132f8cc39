//! Whether one certificate was signed by the key of another, and whether that counts.

use super::algorithms::AlgorithmPolicy;
use super::parsed::Certificate;

/// Ordered by worth: the best issuer among several of one name is the one whose check is greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SignatureCheck {
    /// The key has not made this signature.
    Bad,
    /// Nobody here can check signatures of this kind.
    Unknown,
    /// It is right, and made with what only old installations use.
    Outdated,
    Good,
}

/// Whether `issuer` is the issuer: by name, by key identifier as far as both have one, and by signature, with whatever
/// algorithm it was made.
#[must_use]
pub fn is_issued_by(certificate: &Certificate, issuer: &Certificate) -> bool {
    certificate.may_be_issued_by(issuer) && check_anyhow(certificate, issuer) == SignatureCheck::Outdated
}

/// What the signature of `certificate` is worth when `issuer` is asked, whatever their names.
#[must_use]
pub fn check_signature(
    certificate: &Certificate,
    issuer: &Certificate,
    policy: AlgorithmPolicy,
) -> SignatureCheck {
    match attempt(certificate, issuer, policy) {
        Attempt::Right => SignatureCheck::Good,
        Attempt::Wrong | Attempt::NoAlgorithm => check_anyhow(certificate, issuer),
    }
}

/// Whether the certificate was signed by its own key, with whatever algorithm.
#[must_use]
pub fn check_own_signature(certificate: &Certificate) -> SignatureCheck {
    check_anyhow(certificate, certificate)
}

/// By every algorithm that we know, whether it is allowed or not.
fn check_anyhow(certificate: &Certificate, issuer: &Certificate) -> SignatureCheck {
    match attempt(certificate, issuer, AlgorithmPolicy::Legacy) {
        Attempt::Right => SignatureCheck::Outdated,
        Attempt::NoAlgorithm => SignatureCheck::Unknown,
        Attempt::Wrong if too_small(issuer) => SignatureCheck::Unknown,
        Attempt::Wrong => SignatureCheck::Bad,
    }
}

fn too_small(issuer: &Certificate) -> bool {
    issuer.key.is_rsa() && issuer.key.bits < AlgorithmPolicy::Legacy.rsa_bits_min()
}

enum Attempt {
    Right,
    Wrong,
    NoAlgorithm,
}

/// Several algorithms bear one identifier and differ in parameters; that one of them agrees is proof enough.
fn attempt(certificate: &Certificate, issuer: &Certificate, policy: AlgorithmPolicy) -> Attempt {
    let signature_algorithm = encoded(&certificate.signed.signature_algorithm);
    let key_algorithm = encoded(&issuer.signed.key_algorithm);
    let mut fitting = policy
        .signature_algorithms()
        .all
        .iter()
        .filter(|algorithm| {
            algorithm.signature_alg_id().starts_with(&signature_algorithm)
                && algorithm.public_key_alg_id().starts_with(&key_algorithm)
        })
        .peekable();
    if fitting.peek().is_none() {
        return Attempt::NoAlgorithm;
    }
    let signed = &certificate.signed;
    let right = fitting.any(|algorithm| {
        let key = &issuer.signed.key;
        algorithm
            .verify_signature(key, &signed.message, &signed.signature)
            .is_ok()
    });
    if right { Attempt::Right } else { Attempt::Wrong }
}

/// As it opens an `AlgorithmIdentifier`. An identifier that is too long for the short form is none that we know.
fn encoded(identifier: &[u8]) -> Vec<u8> {
    let length = u8::try_from(identifier.len()).unwrap_or(u8::MAX);
    let mut bytes = vec![0x06, length];
    bytes.extend_from_slice(identifier);
    bytes
}
