//! The second message: the server's challenge, and its claimed identity (MS-NLMP §2.2.1.2, §2.2.2.1).

use thiserror::Error;

use super::{MessageType, SIGNATURE, flags};

/// Longer messages are refused unread; real ones have a few hundred bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// The parts of `CHALLENGE_MESSAGE` that a client needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    pub(super) flags: u32,
    pub(super) nonce: [u8; 8],
    /// Required for version 2.
    pub(super) target_information: Option<TargetInformation>,
}

/// These bytes are not a valid challenge: the server's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChallengeError {
    #[error("the NTLM challenge is longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    #[error("the NTLM challenge is truncated")]
    Truncated,
    #[error("the message is not an NTLM challenge")]
    NoChallenge,
    #[error("the target information of the NTLM challenge is not terminated, or has too many parts")]
    Unterminated,
    #[error("the server does not support Unicode")]
    NoUnicode,
}

impl Challenge {
    /// # Errors
    /// See [`ChallengeError`].
    pub fn parse(message: &[u8]) -> Result<Self, ChallengeError> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(ChallengeError::TooLong);
        }
        let opens = [SIGNATURE, &MessageType::Challenge.to_bytes()].concat();
        if !message.starts_with(&opens) {
            return Err(ChallengeError::NoChallenge);
        }
        let flags = u32::from_le_bytes(array(message, FLAGS_AT)?);
        if flags & flags::UNICODE == 0 {
            return Err(ChallengeError::NoUnicode);
        }
        Ok(Self {
            flags,
            nonce: array(message, NONCE_AT)?,
            target_information: target_information(message, flags)?,
        })
    }
}

fn target_information(message: &[u8], flags: u32) -> Result<Option<TargetInformation>, ChallengeError> {
    if flags & flags::TARGET_INFORMATION == 0 {
        return Ok(None);
    }
    let length = usize::from(u16::from_le_bytes(array(message, TARGET_INFORMATION_AT)?));
    let offset = u32::from_le_bytes(array(message, TARGET_INFORMATION_AT + 4)?);
    if length == 0 {
        return Ok(None);
    }
    let offset = usize::try_from(offset).map_err(|_| ChallengeError::Truncated)?;
    let from = message.get(offset..).ok_or(ChallengeError::Truncated)?;
    let bytes = from.get(..length).ok_or(ChallengeError::Truncated)?;
    TargetInformation::parse(bytes).map(Some)
}

/// The attribute-value pairs, in the server's order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TargetInformation {
    pairs: Vec<(u16, Vec<u8>)>,
}

impl TargetInformation {
    pub(super) const FLAGS: u16 = 6;
    pub(super) const TIMESTAMP: u16 = 7;
    pub(super) const TARGET_NAME: u16 = 9;
    pub(super) const CHANNEL_BINDINGS: u16 = 10;

    fn parse(mut rest: &[u8]) -> Result<Self, ChallengeError> {
        let mut pairs = Vec::new();
        loop {
            let id = u16::from_le_bytes(array(rest, 0)?);
            let length = usize::from(u16::from_le_bytes(array(rest, 2)?));
            if id == END {
                return Ok(Self { pairs });
            }
            if pairs.len() == PAIRS_MAX {
                return Err(ChallengeError::Unterminated);
            }
            let value_and_rest = rest.get(4..).ok_or(ChallengeError::Truncated)?;
            let (value, after) = value_and_rest
                .split_at_checked(length)
                .ok_or(ChallengeError::Truncated)?;
            pairs.push((id, value.to_vec()));
            rest = after;
        }
    }

    pub(super) fn get(&self, id: u16) -> Option<&[u8]> {
        let pair = self.pairs.iter().find(|(known, _)| *known == id)?;
        Some(&pair.1)
    }

    /// Replaces, or adds at the end.
    pub(super) fn set(&mut self, id: u16, value: Vec<u8>) {
        match self.pairs.iter_mut().find(|(known, _)| *known == id) {
            Some(pair) => pair.1 = value,
            None => self.pairs.push((id, value)),
        }
    }

    pub(super) fn remove(&mut self, id: u16) {
        self.pairs.retain(|(known, _)| *known != id);
    }

    /// `None`: a value is too long for its length field.
    pub(super) fn write(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for (id, value) in &self.pairs {
            bytes.extend(id.to_le_bytes());
            bytes.extend(u16::try_from(value.len()).ok()?.to_le_bytes());
            bytes.extend(value);
        }
        bytes.extend([0; 4]);
        Some(bytes)
    }
}

fn array<const LENGTH: usize>(bytes: &[u8], at: usize) -> Result<[u8; LENGTH], ChallengeError> {
    let from = bytes.get(at..).ok_or(ChallengeError::Truncated)?;
    from.first_chunk().copied().ok_or(ChallengeError::Truncated)
}

const FLAGS_AT: usize = 20;
const NONCE_AT: usize = 24;
const TARGET_INFORMATION_AT: usize = 40;
const END: u16 = 0;
const PAIRS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_challenge_tells_nonce_and_target_information() {
        let challenge = Challenge::parse(&message(&[(2, b"D\0"), (7, &[9; 8])])).unwrap();
        assert_eq!(challenge.nonce, *b"\x01\x23\x45\x67\x89\xab\xcd\xef");
        let information = challenge.target_information.unwrap();
        assert_eq!(information.get(2), Some(&b"D\0"[..]));
        assert_eq!(information.get(7), Some(&[9; 8][..]));
        assert_eq!(information.get(1), None);
    }

    #[test]
    fn a_challenge_without_target_information_is_one_for_version_1() {
        let mut bytes = message(&[]);
        bytes[22] &= !0x80;
        bytes.truncate(32);
        assert_eq!(Challenge::parse(&bytes).unwrap().target_information, None);
    }

    #[test]
    fn what_is_no_challenge_is_refused() {
        let good = message(&[(1, b"S\0")]);
        let refused = |bytes: &[u8]| Challenge::parse(bytes).unwrap_err();
        assert_eq!(refused(b""), ChallengeError::NoChallenge);
        assert_eq!(refused(&super::super::negotiate()), ChallengeError::NoChallenge);
        assert_eq!(refused(&good[..30]), ChallengeError::Truncated);
        assert_eq!(refused(&good[..good.len() - 1]), ChallengeError::Truncated);
        assert_eq!(refused(&[0; MESSAGE_BYTES_MAX + 1]), ChallengeError::TooLong);
        let many: Vec<(u16, &[u8])> = vec![(1, b""); PAIRS_MAX + 1];
        assert_eq!(refused(&message(&many)), ChallengeError::Unterminated);
        let mut narrow = good;
        narrow[20] &= !1;
        assert_eq!(refused(&narrow), ChallengeError::NoUnicode);
    }

    #[test]
    fn an_offset_beyond_the_message_is_refused() {
        let mut bytes = message(&[(1, b"S\0")]);
        bytes[44..48].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Challenge::parse(&bytes), Err(ChallengeError::Truncated));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let opens = [SIGNATURE, &[2, 0, 0, 0]].concat();
            let _ = Challenge::parse(&tail);
            let _ = Challenge::parse(&[opens, tail].concat());
        }

        #[test]
        fn target_information_is_written_as_it_was_read(
            pairs in proptest::collection::vec((1..20u16, proptest::collection::vec(any::<u8>(), 0..40)), 0..20)
        ) {
            let information = TargetInformation { pairs };
            let written = information.write().unwrap();
            prop_assert_eq!(TargetInformation::parse(&written), Ok(information));
        }
    }

    /// With the nonce of MS-NLMP §4.2.1.
    fn message(pairs: &[(u16, &[u8])]) -> Vec<u8> {
        let pairs = pairs.iter().map(|(id, value)| (*id, value.to_vec())).collect();
        let information = TargetInformation { pairs }.write().unwrap();
        let length = u16::try_from(information.len()).unwrap().to_le_bytes();
        let flags = flags::OFFERED | flags::TARGET_INFORMATION;
        [
            SIGNATURE,
            &[2, 0, 0, 0],
            &[0; 8],
            &flags.to_le_bytes(),
            b"\x01\x23\x45\x67\x89\xab\xcd\xef",
            &[0; 8],
            &length,
            &length,
            &48u32.to_le_bytes(),
            &information,
        ]
        .concat()
    }
}
