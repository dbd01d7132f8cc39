//! A secret as it stands in the log: sealed before it is proposed, so that log and snapshots never hold it in the clear.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A secret, encrypted with a key that members have from their configuration. Reserved: no command that carries one is
/// carried out yet.
///
/// The nonce and the key-check value are AES-256-GCM's and HMAC-SHA-256's in size. What is sealed, and with which
/// associated data, is the proposer's affair; replicas compare bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct SealedSecret {
    key_check: KeyCheck,
    nonce: [u8; NONCE_BYTES],
    ciphertext: Vec<u8>,
}

/// Tells one key from another without telling anything of either: a member whose key has another value cannot open the
/// secret, and knows it before it tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyCheck(pub [u8; KEY_CHECK_BYTES]);

impl SealedSecret {
    /// `None` when the ciphertext is longer than [`CIPHERTEXT_BYTES_MAX`].
    #[must_use]
    pub fn new(key_check: KeyCheck, nonce: [u8; NONCE_BYTES], ciphertext: Vec<u8>) -> Option<Self> {
        (ciphertext.len() <= CIPHERTEXT_BYTES_MAX).then_some(Self {
            key_check,
            nonce,
            ciphertext,
        })
    }

    /// Of the key with which the secret was sealed.
    #[must_use]
    pub fn key_check(&self) -> KeyCheck {
        self.key_check
    }

    #[must_use]
    pub fn nonce(&self) -> [u8; NONCE_BYTES] {
        self.nonce
    }

    /// With the authentication tag at its end.
    #[must_use]
    pub fn ciphertext(&self) -> &[u8] {
        &self.ciphertext
    }
}

/// Commands are printed when something is wrong with them; contents do not belong there, sealed or not.
impl fmt::Debug for SealedSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SealedSecret({} bytes)", self.ciphertext.len())
    }
}

/// As it is stored, before its length is known to be within bounds.
#[derive(Serialize, Deserialize)]
struct Parts {
    key_check: KeyCheck,
    nonce: [u8; NONCE_BYTES],
    ciphertext: Vec<u8>,
}

impl From<SealedSecret> for Parts {
    fn from(secret: SealedSecret) -> Self {
        Self {
            key_check: secret.key_check,
            nonce: secret.nonce,
            ciphertext: secret.ciphertext,
        }
    }
}

impl TryFrom<Parts> for SealedSecret {
    type Error = &'static str;

    fn try_from(parts: Parts) -> Result<Self, Self::Error> {
        Self::new(parts.key_check, parts.nonce, parts.ciphertext).ok_or("the sealed secret is too long")
    }
}

const KEY_CHECK_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;
/// A password, a token or a private key, and room to spare.
pub const CIPHERTEXT_BYTES_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(length: usize) -> Option<SealedSecret> {
        SealedSecret::new(KeyCheck([1; KEY_CHECK_BYTES]), [2; NONCE_BYTES], vec![3; length])
    }

    #[test]
    fn a_secret_has_a_bound_that_holds_for_what_is_read_as_well() {
        assert_eq!(sealed(CIPHERTEXT_BYTES_MAX + 1), None);
        let longest = sealed(CIPHERTEXT_BYTES_MAX).unwrap();
        let bytes = postcard::to_stdvec(&longest).unwrap();
        assert_eq!(postcard::from_bytes::<SealedSecret>(&bytes).unwrap(), longest);
        let too_long = Parts {
            ciphertext: vec![3; CIPHERTEXT_BYTES_MAX + 1],
            ..longest.into()
        };
        let bytes = postcard::to_stdvec(&too_long).unwrap();
        postcard::from_bytes::<SealedSecret>(&bytes).unwrap_err();
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", sealed(40)), "Some(SealedSecret(40 bytes))");
    }
}
