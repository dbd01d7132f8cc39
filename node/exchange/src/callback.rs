//! Unguessable callback URLs: the path names a user and an attempt to subscribe, under a token that only the holders of
//! the key can make.
//!
//! Exchange does not authenticate itself to us, and its ids are not secret, so a callback is recognised by its path. All
//! nodes have the same key, so each recognises the callbacks of all.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;

/// Makes and verifies callback paths. The key itself is not kept and never shown.
#[derive(Clone)]
pub struct CallbackKey {
    keyed: Hmac<Sha256>,
}

impl std::fmt::Debug for CallbackKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("CallbackKey").finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CallbackKeyError {
    #[error(
        "the callback key has only {bytes} bytes: it needs at least 32 random bytes, the same on all nodes"
    )]
    TooShort { bytes: usize },
    #[error("the callback key repeats a single byte: it needs at least 32 random bytes")]
    NotRandom,
}

impl CallbackKey {
    /// # Errors
    /// If it is shorter than [`CALLBACK_KEY_BYTES_MIN`], or obviously not random.
    pub fn new(key: &[u8]) -> Result<Self, CallbackKeyError> {
        if key.len() < CALLBACK_KEY_BYTES_MIN {
            return Err(CallbackKeyError::TooShort { bytes: key.len() });
        }
        if key.iter().all(|byte| Some(byte) == key.first()) {
            return Err(CallbackKeyError::NotRandom);
        }
        let keyed = Hmac::new_from_slice(key);
        keyed
            .map(|keyed| Self { keyed })
            .map_err(|_| CallbackKeyError::TooShort { bytes: key.len() })
    }

    /// `/ews/TOKEN/ATTEMPT/USER`, in characters that no proxy rewrites. `None` if the user's id is longer than
    /// [`USER_BYTES_MAX`].
    #[must_use]
    pub fn path(&self, user: &str, attempt: u64) -> Option<String> {
        if user.len() > USER_BYTES_MAX {
            return None;
        }
        let token = self.authenticate(user, attempt).finalize().into_bytes();
        let token = BASE64_URL_SAFE_NO_PAD.encode(token);
        let user = BASE64_URL_SAFE_NO_PAD.encode(user);
        Some(format!("{PREFIX}{token}/{attempt}/{user}"))
    }

    /// The user and the attempt that a request's path names, if its token is valid. Takes the same time however much of
    /// the token is right.
    #[must_use]
    pub fn verify(&self, path: &str) -> Option<(String, u64)> {
        let (token, named) = path.strip_prefix(PREFIX)?.split_once('/')?;
        let (attempt, user) = named.split_once('/')?;
        if user.len() > USER_BYTES_MAX * 2 {
            return None;
        }
        let token = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let user = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(user).ok()?).ok()?;
        let attempt = parse_attempt(attempt)?;
        let genuine = self.authenticate(&user, attempt).verify_slice(&token).is_ok();
        genuine.then_some((user, attempt))
    }

    fn authenticate(&self, user: &str, attempt: u64) -> Hmac<Sha256> {
        let mut keyed = self.keyed.clone();
        keyed.update(PURPOSE);
        keyed.update(&attempt.to_be_bytes());
        keyed.update(user.as_bytes());
        keyed
    }
}

/// Accepts exactly what was written, and no variant of it.
fn parse_attempt(text: &str) -> Option<u64> {
    let attempt: u64 = text.parse().ok()?;
    (attempt.to_string() == text).then_some(attempt)
}

pub const CALLBACK_KEY_BYTES_MIN: usize = 32;
/// Keeps a URL below the 2,083 bytes that Exchange accepts.
pub const USER_BYTES_MAX: usize = 512;
const PREFIX: &str = "/ews/";
/// Keeps tokens made for another purpose from being valid here.
const PURPOSE: &[u8] = b"tandem ews callback 1\0";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(first: u8) -> CallbackKey {
        let bytes: Vec<u8> = (first..first + 32).collect();
        CallbackKey::new(&bytes).unwrap()
    }

    #[test]
    fn a_path_is_verified_by_every_holder_of_the_key_and_by_nobody_else() {
        let path = key(1).path("ana", 7).unwrap();
        assert_eq!(key(1).verify(&path), Some(("ana".to_owned(), 7)));
        assert_eq!(key(2).verify(&path), None);
        let (token, _) = path.strip_prefix("/ews/").unwrap().split_once('/').unwrap();
        assert_eq!(token.len(), 43, "the whole of the HMAC");
    }

    #[test]
    fn neither_user_nor_attempt_nor_token_can_be_changed() {
        let path = key(1).path("ana", 7).unwrap();
        let other = key(1).path("bob", 8).unwrap();
        let parts = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
        let (ours, theirs) = (parts(&path), parts(&other));
        for index in 2..5 {
            let mut mixed = ours.clone();
            mixed[index].clone_from(&theirs[index]);
            assert_eq!(key(1).verify(&mixed.join("/")), None, "{index}");
        }
        for wrong in [
            format!("{path}/"),
            format!("{path}="),
            format!("{path}?a"),
            path.replace("/7/", "/07/"),
            path.replace("/7/", "/+7/"),
            path.replace("/ews/", "/EWS/"),
            path.replacen("/ews/", "", 1),
            String::new(),
            "/ews/".to_owned(),
            "/ews//7/YW5h".to_owned(),
        ] {
            assert_eq!(key(1).verify(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_key_that_can_be_guessed_is_refused_and_none_is_shown() {
        let short = CallbackKey::new(&[1; 31]).unwrap_err();
        assert_eq!(short, CallbackKeyError::TooShort { bytes: 31 });
        let zeros = CallbackKey::new(&[0; 32]).unwrap_err();
        assert_eq!(zeros, CallbackKeyError::NotRandom);
        assert_eq!(format!("{:?}", key(1)), "CallbackKey { .. }");
    }

    #[test]
    fn the_longest_path_fits_a_url_and_a_longer_one_is_not_made() {
        let longest = key(1).path(&"ü".repeat(256), u64::MAX).unwrap();
        assert!(longest.len() < 800, "{}", longest.len());
        assert!(key(1).verify(&longest).is_some());
        assert_eq!(key(1).path(&"a".repeat(513), 1), None);
    }

    proptest! {
        #[test]
        fn what_is_made_is_verified(user in ".{0,100}", attempt: u64) {
            let path = key(1).path(&user, attempt).unwrap();
            prop_assert!(path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_".contains(&byte)));
            prop_assert_eq!(key(1).verify(&path), Some((user, attempt)));
        }

        #[test]
        fn no_path_makes_it_panic(path in "(/ews/)?.{0,80}") {
            prop_assert_eq!(key(1).verify(&path), None);
        }
    }
}
