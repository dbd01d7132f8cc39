//! NTLM as a client: proves the account to a server without revealing the password (MS-NLMP).
//!
//! Owns the three messages, the responses of versions 1 and 2, and the binding to the TLS channel. Does not own HTTP,
//! the clock or randomness: time and nonce are given. What always holds: any bytes may come as a challenge; nothing
//! is ever signed or sealed, integrity is TLS' business; version 1 is computed only when it is allowed.

mod authenticate;
mod challenge;
mod channel_binding;
mod flags;
mod response;

pub use authenticate::{FileTime, NtlmError, Proof, Service, authenticate};
pub use challenge::{Challenge, ChallengeError, MESSAGE_BYTES_MAX, TargetInformation};
pub use channel_binding::ChannelBinding;

/// The first message. It says nothing about us, and has `VERSION` because some servers require at least 40 bytes.
#[must_use]
pub fn negotiate() -> [u8; NEGOTIATE_BYTES] {
    let mut message = [0; NEGOTIATE_BYTES];
    let parts: [&[u8]; 5] = [
        SIGNATURE,
        &MessageType::Negotiate.to_bytes(),
        &flags::OFFERED.to_le_bytes(),
        // The fields of domain and workstation: absent.
        &[0; 16],
        &VERSION,
    ];
    for (place, byte) in message.iter_mut().zip(parts.concat()) {
        *place = byte;
    }
    message
}

/// MS-NLMP §2.2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MessageType {
    Negotiate,
    Challenge,
    Authenticate,
}

impl MessageType {
    fn to_bytes(self) -> [u8; 4] {
        let number: u32 = match self {
            Self::Negotiate => 1,
            Self::Challenge => 2,
            Self::Authenticate => 3,
        };
        number.to_le_bytes()
    }
}

const SIGNATURE: &[u8] = b"NTLMSSP\0";
const NEGOTIATE_BYTES: usize = 40;

/// Major 10, minor 0, build 0, NTLM revision 15 (§2.2.2.10): only for debugging on the other side.
const VERSION: [u8; 8] = [10, 0, 0, 0, 0, 0, 0, 15];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_message_has_forty_bytes_and_offers_neither_signing_nor_sealing() {
        let message = negotiate();
        assert_eq!(message[..12], *b"NTLMSSP\0\x01\0\0\0");
        assert_eq!(message[12..16], [0x05, 0x82, 0x08, 0xa2]);
        assert_eq!(message[16..32], [0; 16]);
        assert_eq!(message[32..], VERSION);
        assert_eq!(
            flags::OFFERED & (flags::SIGN | flags::SEAL | flags::KEY_EXCHANGE),
            0
        );
    }
}
