//! What one certificate says of itself.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use thiserror::Error;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS, OID_SIG_ED25519,
    Oid, OidRegistry,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

use super::name::HolderNames;

/// A certificate that could be read, and what it says. Nothing of it is believed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub der: CertificateDer<'static>,
    pub fingerprint: Fingerprint,
    /// As people write it: `CN=cas1.contoso.com, O=Contoso`.
    pub subject: String,
    pub issuer: String,
    /// Hexadecimal, as in `0a:1b`.
    pub serial: String,
    /// Unix time in seconds.
    pub not_before: i64,
    pub not_after: i64,
    pub key: KeyFacts,
    pub signature_algorithm: String,
    pub names: HolderNames,
    /// Whether its basic constraints say that it may issue others.
    pub is_authority: bool,
    pub usages: Usages,
    /// Where its issuer can be fetched, as it says.
    pub issuer_urls: Vec<String>,
    pub authority_key: Option<Vec<u8>>,
    pub subject_key: Option<Vec<u8>>,
    /// Subject and issuer in DER: the chain is built by these.
    pub(super) subject_der: Vec<u8>,
    pub(super) issuer_der: Vec<u8>,
    /// Whether it may issue for some names only (RFC 5280 §4.2.1.10).
    pub limits_names: bool,
    pub(super) signed: SignedPart,
}

impl Certificate {
    /// # Errors
    /// When the bytes are no certificate, or a larger one than we look at.
    pub fn parse(der: &[u8]) -> Result<Self, Unreadable> {
        if der.len() > DER_BYTES_MAX {
            return Err(Unreadable::TooLarge);
        }
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| Unreadable::NotX509)?;
        if !rest.is_empty() {
            return Err(Unreadable::NotX509);
        }
        Ok(Self::of(der, &parsed))
    }

    fn of(der: &[u8], parsed: &X509Certificate<'_>) -> Self {
        let mut certificate = Self {
            der: CertificateDer::from(der.to_vec()),
            fingerprint: Fingerprint::of(der),
            subject: name_text(parsed.subject()),
            issuer: name_text(parsed.issuer()),
            serial: printable(&parsed.raw_serial_as_string(), SERIAL_CHARACTERS_MAX),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            key: KeyFacts::of(parsed.public_key()),
            signature_algorithm: algorithm_name(&parsed.signature_algorithm.algorithm),
            names: HolderNames {
                common_names: common_names(parsed.subject()),
                ..HolderNames::default()
            },
            is_authority: false,
            usages: Usages::ANY,
            issuer_urls: Vec::new(),
            authority_key: None,
            subject_key: None,
            subject_der: parsed.subject().as_raw().to_vec(),
            issuer_der: parsed.issuer().as_raw().to_vec(),
            limits_names: false,
            signed: SignedPart::of(parsed),
        };
        for extension in parsed.extensions() {
            certificate.read_extension(extension.parsed_extension());
        }
        certificate
    }

    fn read_extension(&mut self, extension: &ParsedExtension<'_>) {
        if let ParsedExtension::BasicConstraints(constraints) = extension {
            self.is_authority = constraints.ca;
        } else if let ParsedExtension::SubjectKeyIdentifier(identifier) = extension {
            self.subject_key = Some(identifier.0.to_vec());
        } else if let ParsedExtension::AuthorityKeyIdentifier(identifier) = extension {
            self.authority_key = identifier.key_identifier.as_ref().map(|key| key.0.to_vec());
        } else if let ParsedExtension::SubjectAlternativeName(alternative) = extension {
            for name in alternative.general_names.iter().take(NAMES_MAX) {
                self.read_alternative_name(name);
            }
        } else if let ParsedExtension::AuthorityInfoAccess(access) = extension {
            let issuers = access
                .accessdescs
                .iter()
                .filter(|description| description.access_method == OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS)
                .filter_map(|description| url_of(&description.access_location));
            self.issuer_urls = issuers.take(ISSUER_URLS_MAX).collect();
        } else if let ParsedExtension::ExtendedKeyUsage(usage) = extension {
            self.usages = Usages {
                server_auth: usage.any || usage.server_auth,
                client_auth: usage.any || usage.client_auth,
            };
        } else if let ParsedExtension::NameConstraints(_) = extension {
            self.limits_names = true;
        }
    }

    fn read_alternative_name(&mut self, name: &GeneralName<'_>) {
        if let GeneralName::DNSName(name) = name {
            self.names.dns_names.push(printable(name, TEXT_CHARACTERS_MAX));
        } else if let GeneralName::IPAddress(octets) = name {
            self.names.addresses.extend(address_of(octets));
        }
    }

    /// Whether subject and issuer are the same: a root, or a server's own certificate.
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        self.subject_der == self.issuer_der
    }

    /// Whether names and key identifiers let `issuer` be the issuer (RFC 5280 §6.1, §4.2.1.1). The signature is
    /// another question.
    #[must_use]
    pub fn may_be_issued_by(&self, issuer: &Self) -> bool {
        let keys_agree = match (&self.authority_key, &issuer.subject_key) {
            (Some(wanted), Some(present)) => wanted == present,
            (None, _) | (_, None) => true,
        };
        self.issuer_der == issuer.subject_der && keys_agree
    }

    /// Whether `issuer` bears the name, whatever its key.
    #[must_use]
    pub fn names_issuer(&self, issuer: &Self) -> bool {
        self.issuer_der == issuer.subject_der
    }

    /// Whether it is for this public key, given as the bits of its `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn has_key(&self, public_key: &[u8]) -> bool {
        self.signed.key == public_key
    }

    /// How the holder is called in a sentence or in a file's name: its first CN, else its first name, else its subject.
    #[must_use]
    pub fn short_name(&self) -> &str {
        let names = self.names.common_names.iter().chain(&self.names.dns_names);
        names.map(String::as_str).next().unwrap_or(&self.subject)
    }
}

/// For which ends of a connection it may be used (RFC 5280 §4.2.1.12): for both when it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usages {
    pub server_auth: bool,
    pub client_auth: bool,
}

impl Usages {
    const ANY: Self = Self {
        server_auth: true,
        client_auth: true,
    };
}

/// SHA-256 over the whole certificate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }

    /// From what people paste: hexadecimal digits, with or without colons, in either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u32> = text
            .chars()
            .filter(|character| *character != ':' && !character.is_whitespace())
            .map(|character| character.to_digit(16))
            .collect::<Option<_>>()?;
        let mut bytes = [0; 32];
        if digits.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let value = pair.iter().fold(0, |value, digit| value * 16 + digit);
            *byte = u8::try_from(value).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFacts {
    /// `RSA`, `ECDSA P-256`, …
    pub algorithm: String,
    pub bits: usize,
}

impl KeyFacts {
    fn of(key: &SubjectPublicKeyInfo<'_>) -> Self {
        let algorithm = key_algorithm(key);
        let bits = match key.parsed() {
            // The modulus counts without the zero byte that keeps it positive.
            Ok(PublicKey::RSA(rsa)) => significant_bits(rsa.modulus),
            Ok(other) => other.key_size(),
            Err(_) => 0,
        };
        Self { algorithm, bits }
    }

    #[must_use]
    pub fn is_rsa(&self) -> bool {
        self.algorithm == RSA
    }
}

/// What a signature check needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SignedPart {
    pub(super) message: Vec<u8>,
    pub(super) signature: Vec<u8>,
    /// The object identifier's own bytes, without tag and length.
    pub(super) signature_algorithm: Vec<u8>,
    pub(super) key_algorithm: Vec<u8>,
    pub(super) key: Vec<u8>,
}

impl SignedPart {
    fn of(parsed: &X509Certificate<'_>) -> Self {
        let key = parsed.public_key();
        Self {
            message: parsed.tbs_certificate.as_ref().to_vec(),
            signature: parsed.signature_value.data.to_vec(),
            signature_algorithm: parsed.signature_algorithm.algorithm.as_bytes().to_vec(),
            key_algorithm: key.algorithm.algorithm.as_bytes().to_vec(),
            key: key.subject_public_key.data.to_vec(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Unreadable {
    #[error("it is not an X.509 certificate in DER: export it again")]
    NotX509,
    #[error("it is larger than {} KiB: no certificate of a server is", DER_BYTES_MAX >> 10)]
    TooLarge,
}

fn key_algorithm(key: &SubjectPublicKeyInfo<'_>) -> String {
    let algorithm = &key.algorithm;
    if *algorithm.oid() == x509_parser::oid_registry::OID_PKCS1_RSAENCRYPTION {
        return RSA.to_owned();
    }
    if *algorithm.oid() == OID_SIG_ED25519 {
        return "Ed25519".to_owned();
    }
    let curve = algorithm
        .parameters()
        .and_then(|parameters| parameters.as_oid().ok());
    match curve {
        Some(curve) if curve == OID_EC_P256 => "ECDSA P-256".to_owned(),
        Some(curve) if curve == OID_NIST_EC_P384 => "ECDSA P-384".to_owned(),
        Some(curve) if curve == OID_NIST_EC_P521 => "ECDSA P-521".to_owned(),
        Some(_) | None => algorithm_name(algorithm.oid()),
    }
}

fn significant_bits(modulus: &[u8]) -> usize {
    let mut bytes = modulus.iter().skip_while(|byte| **byte == 0);
    bytes.next().map_or(0, |first| {
        let below = bytes.count().saturating_mul(8);
        below
            .saturating_add(8)
            .saturating_sub(first.leading_zeros() as usize)
    })
}

fn algorithm_name(identifier: &Oid<'_>) -> String {
    let registry = OidRegistry::default().with_crypto();
    registry.get(identifier).map_or_else(
        || printable(&identifier.to_id_string(), TEXT_CHARACTERS_MAX),
        |entry| entry.sn().to_owned(),
    )
}

fn name_text(name: &X509Name<'_>) -> String {
    printable(&name.to_string(), TEXT_CHARACTERS_MAX)
}

fn common_names(subject: &X509Name<'_>) -> Vec<String> {
    subject
        .iter_common_name()
        .take(NAMES_MAX)
        .filter_map(|name| name.as_str().ok())
        .map(|name| printable(name, TEXT_CHARACTERS_MAX))
        .collect()
}

fn address_of(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(octets).into());
    }
    let octets = <[u8; 16]>::try_from(octets).ok()?;
    Some(Ipv6Addr::from(octets).into())
}

fn url_of(location: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::URI(url) = location {
        (url.len() <= TEXT_CHARACTERS_MAX).then(|| printable(url, TEXT_CHARACTERS_MAX))
    } else {
        None
    }
}

/// Text from a certificate goes into logs and pages: control characters become `?`, and it ends somewhere. A name with
/// such a character can therefore match no host.
fn printable(text: &str, characters_max: usize) -> String {
    let shown = text.chars().take(characters_max);
    shown
        .map(|character| if character.is_control() { '?' } else { character })
        .collect()
}

const RSA: &str = "RSA";
/// No certificate of a server comes near it.
pub const DER_BYTES_MAX: usize = 64 << 10;
const NAMES_MAX: usize = 512;
const ISSUER_URLS_MAX: usize = 4;
const TEXT_CHARACTERS_MAX: usize = 512;
const SERIAL_CHARACTERS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_people_paste_it() {
        let fingerprint = Fingerprint::of(b"certificate");
        let plain = fingerprint.to_string();
        let pairs: Vec<&str> = plain
            .as_bytes()
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).unwrap())
            .collect();
        let with_colons = pairs.join(":").to_uppercase();
        for text in [plain.as_str(), with_colons.as_str(), &format!(" {plain}\n")] {
            assert_eq!(Fingerprint::parse(text), Some(fingerprint));
        }
        for text in [
            "",
            "12",
            &plain.replace('a', "g").replace('0', "x"),
            &format!("{plain}00"),
        ] {
            assert_eq!(Fingerprint::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_bits_of_a_modulus_are_counted_without_padding() {
        assert_eq!(significant_bits(&[0, 0x80, 0]), 16);
        assert_eq!(significant_bits(&[0x01]), 1);
        assert_eq!(significant_bits(&[0, 0]), 0);
    }

    #[test]
    fn text_of_a_certificate_is_fit_for_a_log() {
        assert_eq!(printable("cas\r\n\0evil", 512), "cas???evil");
        assert_eq!(printable("long", 2), "lo");
    }
}
