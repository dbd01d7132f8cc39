//! The parts of `Authorization` and `WWW-Authenticate` (RFC 9110 §11) that Exchange uses.

use base64::prelude::{BASE64_STANDARD, Engine};
use zeroize::Zeroizing;

use super::credential::{Account, Secret};
use super::ntlm::MESSAGE_BYTES_MAX;

/// The scheme that carries a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    Ntlm,
    /// With plain NTLM messages: servers accept them without the SPNEGO wrapping.
    Negotiate,
    Basic,
}

impl Scheme {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ntlm => "NTLM",
            Self::Negotiate => "Negotiate",
            Self::Basic => "Basic",
        }
    }

    /// An NTLM message as the value of `Authorization`.
    #[must_use]
    pub fn authorization(self, message: &[u8]) -> Zeroizing<String> {
        let message = Zeroizing::new(BASE64_STANDARD.encode(message));
        Zeroizing::new(format!("{} {}", self.as_str(), *message))
    }
}

/// RFC 7617, in UTF-8.
#[must_use]
pub fn basic_authorization(account: &Account, password: &Secret) -> Zeroizing<String> {
    let pair = Zeroizing::new(format!("{account}:{}", password.reveal()));
    Scheme::Basic.authorization(pair.as_bytes())
}

/// What a 401 asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offers {
    /// In the server's order, with the message that came with each.
    offered: Vec<(String, Option<Vec<u8>>)>,
}

impl Offers {
    /// Parses all `WWW-Authenticate` fields; each may hold several challenges.
    #[must_use]
    pub fn parse<'a>(fields: impl IntoIterator<Item = &'a str>) -> Self {
        let parts = fields.into_iter().flat_map(split_outside_quotes);
        let offered = parts.filter_map(parse_challenge).take(OFFERS_MAX);
        Self {
            offered: offered.collect(),
        }
    }

    #[must_use]
    pub fn has(&self, scheme: Scheme) -> bool {
        self.find(scheme).next().is_some()
    }

    /// The NTLM message that came with the scheme.
    #[must_use]
    pub fn message(&self, scheme: Scheme) -> Option<&[u8]> {
        self.find(scheme).find_map(|(_, message)| message.as_deref())
    }

    /// For people.
    #[must_use]
    pub fn describe(&self) -> String {
        if self.offered.is_empty() {
            return "nothing".to_owned();
        }
        let names: Vec<_> = self.offered.iter().map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    }

    fn find(&self, scheme: Scheme) -> impl Iterator<Item = &(String, Option<Vec<u8>>)> {
        let offered = self.offered.iter();
        offered.filter(move |(name, _)| name.eq_ignore_ascii_case(scheme.as_str()))
    }
}

/// `None`: a parameter of the preceding challenge.
fn parse_challenge(part: &str) -> Option<(String, Option<Vec<u8>>)> {
    let (name, rest) = part.split_once(' ').unwrap_or((part, ""));
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_name) {
        return None;
    }
    let rest = rest.trim();
    let message = (!rest.is_empty() && rest.len() <= MESSAGE_BYTES_MAX * 2)
        .then(|| BASE64_STANDARD.decode(rest).ok())
        .flatten();
    Some((name.to_owned(), message))
}

fn split_outside_quotes(field: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let parts = field.split(move |character| {
        quoted ^= character == '"';
        character == ',' && !quoted
    });
    parts.map(str::trim)
}

const OFFERS_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn offers_come_in_one_field_or_in_several() {
        let several = Offers::parse([
            "Negotiate",
            "NTLM",
            "Basic realm=\"mail, and more\", charset=\"UTF-8\"",
        ]);
        let one = Offers::parse(["Negotiate, ntlm,Basic realm=\"mail\""]);
        for offers in [&several, &one] {
            assert!(offers.has(Scheme::Ntlm) && offers.has(Scheme::Negotiate) && offers.has(Scheme::Basic));
            assert_eq!(offers.message(Scheme::Ntlm), None);
        }
        assert_eq!(several.describe(), "Negotiate, NTLM, Basic");
        assert_eq!(Offers::parse([]).describe(), "nothing");
    }

    #[test]
    fn a_message_is_found_beside_other_offers() {
        let offers = Offers::parse(["Negotiate", "NTLM TlRMTVNTUAACAA=="]);
        assert_eq!(offers.message(Scheme::Ntlm), Some(&b"NTLMSSP\0\x02\0"[..]));
        assert_eq!(offers.message(Scheme::Negotiate), None);
        assert_eq!(Offers::parse(["NTLM %%%"]).message(Scheme::Ntlm), None);
    }

    #[test]
    fn basic_carries_account_and_password_in_utf_8() {
        let account = Account::parse("CONTOSO\\svc").unwrap();
        let password = Secret::new("pä:ss".to_owned());
        let expected = BASE64_STANDARD.encode("CONTOSO\\svc:pä:ss");
        assert_eq!(
            *basic_authorization(&account, &password),
            format!("Basic {expected}")
        );
    }

    proptest! {
        #[test]
        fn any_field_is_read(field in "\\PC{0,200}") {
            let _ = Offers::parse([field.as_str()]).describe();
        }
    }
}
