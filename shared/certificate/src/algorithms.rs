//! Which signatures and keys are good enough: the usual ones, and those of old installations where they are allowed.

use ring::signature;
use rustls::SignatureScheme;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};

/// What a gateway's certificates may be made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlgorithmPolicy {
    /// RSA of 2048 bits and more, ECDSA on P-256 and P-384, Ed25519; SHA-2.
    Current,
    /// Also RSA of 1024 bits and SHA-1, over TLS 1.2 only: TLS 1.3 knows neither.
    Legacy,
}

impl AlgorithmPolicy {
    #[must_use]
    pub fn of(legacy_algorithms: bool) -> Self {
        if legacy_algorithms {
            Self::Legacy
        } else {
            Self::Current
        }
    }

    /// For the chain and for the handshake.
    #[must_use]
    pub fn signature_algorithms(self) -> WebPkiSupportedAlgorithms {
        match self {
            Self::Current => rustls::crypto::ring::default_provider().signature_verification_algorithms,
            Self::Legacy => LEGACY,
        }
    }

    /// The smallest RSA key, bits.
    #[must_use]
    pub fn rsa_bits_min(self) -> usize {
        match self {
            Self::Current => 2048,
            Self::Legacy => 1024,
        }
    }
}

/// The usual algorithms, where RSA with SHA-2 takes the smaller keys too. There is one object per kind of signature:
/// the first that claims a signature decides about it.
const LEGACY: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        webpki::ring::ECDSA_P256_SHA256,
        webpki::ring::ECDSA_P256_SHA384,
        webpki::ring::ECDSA_P384_SHA256,
        webpki::ring::ECDSA_P384_SHA384,
        webpki::ring::ED25519,
        RSA_SHA1,
        RSA_SHA256,
        RSA_SHA256_ABSENT_PARAMETERS,
        webpki::ring::RSA_PKCS1_2048_8192_SHA384,
        webpki::ring::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
        RSA_SHA512,
        webpki::ring::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
        webpki::ring::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        webpki::ring::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
        webpki::ring::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
    ],
    mapping: &[
        (
            SignatureScheme::ECDSA_NISTP384_SHA384,
            &[webpki::ring::ECDSA_P384_SHA384, webpki::ring::ECDSA_P256_SHA384],
        ),
        (
            SignatureScheme::ECDSA_NISTP256_SHA256,
            &[webpki::ring::ECDSA_P256_SHA256, webpki::ring::ECDSA_P384_SHA256],
        ),
        (SignatureScheme::ED25519, &[webpki::ring::ED25519]),
        (SignatureScheme::RSA_PKCS1_SHA512, &[RSA_SHA512]),
        (
            SignatureScheme::RSA_PKCS1_SHA384,
            &[webpki::ring::RSA_PKCS1_2048_8192_SHA384],
        ),
        (SignatureScheme::RSA_PKCS1_SHA256, &[RSA_SHA256]),
        (SignatureScheme::RSA_PKCS1_SHA1, &[RSA_SHA1]),
    ],
};

/// An RSA signature that ring checks only when it is asked for by this long name.
#[derive(Debug)]
struct LegacyRsa {
    signature: AlgorithmIdentifier,
    verification: &'static signature::RsaParameters,
}

impl SignatureVerificationAlgorithm for LegacyRsa {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_ENCRYPTION
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }

    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        signature::UnparsedPublicKey::new(self.verification, public_key)
            .verify(message, signature)
            .map_err(|_| InvalidSignature)
    }
}

static RSA_SHA1: &dyn SignatureVerificationAlgorithm = &LegacyRsa {
    signature: SHA1_WITH_RSA,
    verification: &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
};

static RSA_SHA256: &dyn SignatureVerificationAlgorithm = &LegacyRsa {
    signature: alg_id::RSA_PKCS1_SHA256,
    verification: &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
};

static RSA_SHA256_ABSENT_PARAMETERS: &dyn SignatureVerificationAlgorithm = &LegacyRsa {
    signature: SHA256_WITH_RSA_ABSENT_PARAMETERS,
    verification: &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
};

static RSA_SHA512: &dyn SignatureVerificationAlgorithm = &LegacyRsa {
    signature: alg_id::RSA_PKCS1_SHA512,
    verification: &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
};

/// RFC 8017 §A.2.4: 1.2.840.113549.1.1.5 with NULL parameters.
const SHA1_WITH_RSA: AlgorithmIdentifier = AlgorithmIdentifier::from_slice(&[
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05, 0x05, 0x00,
]);

/// 1.2.840.113549.1.1.11 as some issuers wrote it, without the NULL.
const SHA256_WITH_RSA_ABSENT_PARAMETERS: AlgorithmIdentifier =
    AlgorithmIdentifier::from_slice(&[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b]);
