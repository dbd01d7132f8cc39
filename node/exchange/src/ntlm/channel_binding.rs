//! Binds a login to its TLS connection (RFC 5929 §4, MS-NLMP §2.2.2.1 `MsvAvChannelBindings`).

use std::fmt;

use md5::{Digest, Md5};
use sha2::{Sha256, Sha384, Sha512};
use x509_parser::oid_registry::{
    OID_HASH_SHA1, OID_NIST_HASH_SHA384, OID_NIST_HASH_SHA512, OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA384WITHRSA,
    OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512, Oid,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;
use x509_parser::x509::AlgorithmIdentifier;

/// The MD5 of a `gss_channel_bindings_struct`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChannelBinding([u8; 16]);

impl ChannelBinding {
    /// `tls-server-end-point`: the certificate that the server sent, in DER.
    #[must_use]
    pub fn of_server(certificate: &[u8]) -> Self {
        Self::of_hash(&hash_of(certificate))
    }

    fn of_hash(hash: &[u8]) -> Self {
        let application_data = [b"tls-server-end-point:", hash].concat();
        // A hash has at most 64 bytes.
        let length = u32::try_from(application_data.len()).unwrap_or_default();
        // The types and lengths of both addresses: none.
        let mut digest = Md5::new_with_prefix([0; 16]);
        digest.update(length.to_le_bytes());
        digest.update(&application_data);
        Self(digest.finalize().into())
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ChannelBinding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ChannelBinding")
    }
}

/// RFC 5929 §4.1: the hash of the certificate's own signature, with SHA-256 in place of a weaker one, and for a
/// certificate that cannot be read.
fn hash_of(certificate: &[u8]) -> Vec<u8> {
    match SignatureHash::of(certificate) {
        SignatureHash::Sha256 => Sha256::digest(certificate).to_vec(),
        SignatureHash::Sha384 => Sha384::digest(certificate).to_vec(),
        SignatureHash::Sha512 => Sha512::digest(certificate).to_vec(),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SignatureHash {
    Sha256,
    Sha384,
    Sha512,
}

impl SignatureHash {
    fn of(certificate: &[u8]) -> Self {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return Self::Sha256;
        };
        let algorithm = hash_algorithm(&certificate.signature_algorithm);
        let is_one_of = |known: [&Oid<'_>; 3]| known.contains(&&algorithm);
        if is_one_of([
            &OID_NIST_HASH_SHA384,
            &OID_PKCS1_SHA384WITHRSA,
            &OID_SIG_ECDSA_WITH_SHA384,
        ]) {
            Self::Sha384
        } else if is_one_of([
            &OID_NIST_HASH_SHA512,
            &OID_PKCS1_SHA512WITHRSA,
            &OID_SIG_ECDSA_WITH_SHA512,
        ]) {
            Self::Sha512
        } else {
            Self::Sha256
        }
    }
}

/// RSASSA-PSS names its hash in the parameters; other algorithms name it themselves.
fn hash_algorithm<'a>(algorithm: &'a AlgorithmIdentifier<'a>) -> Oid<'a> {
    if algorithm.algorithm != OID_PKCS1_RSASSAPSS {
        return algorithm.algorithm.clone();
    }
    match SignatureAlgorithm::try_from(algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => parameters.hash_algorithm_oid().to_owned(),
        Ok(_) | Err(_) => OID_HASH_SHA1,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;
    use crate::ntlm::response::tests::hex;

    /// From Microsoft's open specifications blog, "NTLM and Channel Binding Hash".
    #[test]
    fn a_binding_is_what_windows_computed_in_a_published_trace() {
        let hash = hex("ea05fefecc6b0bd571dbbc5baa3ed45386d0446835f7b74c85621b9983475f95");
        assert_eq!(
            ChannelBinding::of_hash(&hash).as_bytes(),
            hex("6586e99d81c2fc984e47172fd4dd0310")
        );
    }

    #[test]
    fn the_hash_is_that_of_the_certificates_signature() {
        for (algorithm, bytes) in [
            (&PKCS_ECDSA_P256_SHA256, 32),
            (&PKCS_ECDSA_P384_SHA384, 48),
            (&PKCS_ED25519, 32),
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let parameters = CertificateParams::new(vec!["mail.lab.test".to_owned()]).unwrap();
            let certificate = parameters.self_signed(&key).unwrap();
            assert_eq!(hash_of(certificate.der()).len(), bytes, "{algorithm:?}");
        }
        assert_eq!(hash_of(b"no certificate").len(), 32);
    }
}
