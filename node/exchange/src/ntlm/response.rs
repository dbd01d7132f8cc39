//! Computes responses from the password (MS-NLMP §3.3).

use des::Des;
use des::cipher::{Array, BlockCipherEncrypt, KeyInit as _};
use hmac::{Hmac, Mac};
use md4::Md4;
use md5::{Digest, Md5};
use zeroize::Zeroizing;

use super::challenge::TargetInformation;
use crate::credential::{Account, Secret};

/// The two responses of an `AUTHENTICATE_MESSAGE`, and the key of its integrity code.
#[derive(Debug)]
pub(super) struct Responses {
    pub(super) lm: Vec<u8>,
    pub(super) nt: Vec<u8>,
    /// Version 2 only.
    pub(super) session_key: Option<Key>,
}

/// §3.3.1, without extended session security. The LM hash is never sent: the NT response takes its place.
pub(super) fn version_1(password: &Secret, nonce: &[u8; 8]) -> Responses {
    let nt = encrypted(&password_hash(password), nonce);
    Responses {
        lm: nt.clone(),
        nt,
        session_key: None,
    }
}

/// §3.3.1, with extended session security.
pub(super) fn version_1_extended(password: &Secret, nonce: &[u8; 8], client_nonce: &[u8; 8]) -> Responses {
    let mixed: [u8; 16] = Md5::digest([*nonce, *client_nonce].concat()).into();
    let half = mixed.first_chunk().expect("sixteen bytes have eight");
    Responses {
        lm: [client_nonce.as_slice(), &[0; 16]].concat(),
        nt: encrypted(&password_hash(password), half),
        session_key: None,
    }
}

/// §3.3.2. `time` is the server's if it sent one; `information` is what the response authenticates.
/// `None`: the target information cannot be written.
pub(super) fn version_2(
    account: &Account,
    password: &Secret,
    nonce: &[u8; 8],
    client_nonce: &[u8; 8],
    time: [u8; 8],
    information: &TargetInformation,
) -> Option<Responses> {
    let key = response_key(account, password);
    let blob = [
        [1, 1, 0, 0, 0, 0, 0, 0].as_slice(),
        &time,
        client_nonce,
        &[0; 4],
        information.write()?.as_slice(),
        &[0; 4],
    ]
    .concat();
    let proof = hmac_md5(&key, &[nonce, &blob]);
    let lm = match information.get(TargetInformation::TIMESTAMP) {
        Some(_) => vec![0; 24],
        None => [&hmac_md5(&key, &[nonce, client_nonce]), client_nonce.as_slice()].concat(),
    };
    Some(Responses {
        lm,
        nt: [proof.as_slice(), &blob].concat(),
        session_key: Some(Key(Zeroizing::new(hmac_md5(&key, &[&proof])))),
    })
}

/// A session key. It proves as much as a password, and is kept as secret.
pub(super) struct Key(Zeroizing<[u8; 16]>);

impl Key {
    /// §3.1.5.1.2: the integrity code over the three messages.
    pub(super) fn integrity_code(&self, messages: &[&[u8]]) -> [u8; 16] {
        hmac_md5(&self.0, messages)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Key(…)")
    }
}

/// `NTOWFv1`.
fn password_hash(password: &Secret) -> Zeroizing<[u8; 16]> {
    Zeroizing::new(Md4::digest(Zeroizing::new(utf_16(password.reveal()))).into())
}

/// `NTOWFv2`. With a principal name the domain is empty.
fn response_key(account: &Account, password: &Secret) -> Zeroizing<[u8; 16]> {
    let user: String = account.user().chars().map(upper_case).collect();
    let identity = utf_16(&(user + account.domain()));
    Zeroizing::new(hmac_md5(&password_hash(password), &[&identity]))
}

/// One character stays one character, as in Windows: `ß` has no upper case.
fn upper_case(character: char) -> char {
    let mut upper = character.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(single), None) => single,
        _ => character,
    }
}

/// `DESL`: the hash, filled up with zeros, is three keys; each encrypts the nonce.
fn encrypted(hash: &[u8; 16], nonce: &[u8; 8]) -> Vec<u8> {
    let mut keys = Zeroizing::new([0; 21]);
    for (place, byte) in keys.iter_mut().zip(hash) {
        *place = *byte;
    }
    let (keys, _) = keys.as_chunks::<7>();
    keys.iter().flat_map(|key| encrypted_once(key, nonce)).collect()
}

fn encrypted_once(key: &[u8; 7], nonce: &[u8; 8]) -> [u8; 8] {
    let bits = key.iter().fold(0, |bits: u64, byte| bits << 8 | u64::from(*byte));
    // Seven bits to a byte; DES ignores the lowest, the parity.
    let spread = Zeroizing::new([7, 6, 5, 4, 3, 2, 1, 0].map(|seven: u64| {
        let byte = (bits >> (seven * 7)) & 0x7f;
        (byte << 1) as u8
    }));
    let mut block = Array::from(*nonce);
    Des::new(&Array::from(*spread)).encrypt_block(&mut block);
    block.into()
}

fn hmac_md5(key: &[u8; 16], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = Hmac::<Md5>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub(super) fn utf_16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The examples of MS-NLMP §4.2.
#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn version_1_is_as_published() {
        assert_eq!(
            *password_hash(&password()),
            bytes("a4f49c406510bdcab6824ee7c30fd852")
        );
        let responses = version_1(&password(), &NONCE);
        assert_eq!(
            responses.nt,
            hex("67c43011f30298a2ad35ece64f16331c44bdbed927841f94")
        );
        assert_eq!(responses.lm, responses.nt);
    }

    #[test]
    fn version_1_with_a_nonce_of_the_client_is_as_published() {
        let responses = version_1_extended(&password(), &NONCE, &CLIENT_NONCE);
        assert_eq!(
            responses.nt,
            hex("7537f803ae367128ca458204bde7caf81e97ed2683267232")
        );
        assert_eq!(
            responses.lm,
            hex("aaaaaaaaaaaaaaaa00000000000000000000000000000000")
        );
    }

    #[test]
    fn version_2_is_as_published() {
        assert_eq!(
            *response_key(&account(), &password()),
            bytes("0c868a403bfd7a93a3001ef22ef02e3f")
        );
        let mut information = TargetInformation::default();
        information.set(2, utf_16("Domain"));
        information.set(1, utf_16("Server"));
        let responses = version_2(
            &account(),
            &password(),
            &NONCE,
            &CLIENT_NONCE,
            [0; 8],
            &information,
        )
        .unwrap();
        assert_eq!(responses.nt[..16], hex("68cd0ab851e51c96aabc927bebef6a1c"));
        assert_eq!(
            responses.nt[16..],
            hex(
                "01010000000000000000000000000000aaaaaaaaaaaaaaaa0000000002000c0044006f006d00610069006e00\
                 01000c005300650072007600650072000000000000000000"
            )
        );
        assert_eq!(
            responses.lm,
            hex("86c35097ac9cec102554764a57cccc19aaaaaaaaaaaaaaaa")
        );
        assert_eq!(
            *responses.session_key.unwrap().0,
            bytes("8de40ccadbc14a82f15cb0ad0de95ca3")
        );
    }

    /// Computed by an independent implementation.
    #[test]
    fn names_and_passwords_may_have_any_letters() {
        let account = Account::parse("CONTOSO\\jörg").unwrap();
        let password = Secret::new("pässwörd €".to_owned());
        assert_eq!(
            *response_key(&account, &password),
            bytes("5b340ebb422ad16874d3b557714a19dc")
        );
    }

    #[test]
    fn upper_case_keeps_the_number_of_characters() {
        let upper: String = "straße.ñandú".chars().map(upper_case).collect();
        assert_eq!(upper, "STRAßE.ÑANDÚ");
    }

    pub(in crate::ntlm) fn account() -> Account {
        Account::parse("Domain\\User").unwrap()
    }

    pub(in crate::ntlm) fn password() -> Secret {
        Secret::new("Password".to_owned())
    }

    pub(in crate::ntlm) fn hex(text: &str) -> Vec<u8> {
        let pairs = text.as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        pairs.map(byte).collect()
    }

    fn bytes(text: &str) -> [u8; 16] {
        hex(text).try_into().unwrap()
    }

    pub(in crate::ntlm) const NONCE: [u8; 8] = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];
    pub(in crate::ntlm) const CLIENT_NONCE: [u8; 8] = [0xaa; 8];
}
