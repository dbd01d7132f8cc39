//! The account that is used at all presence CAS (CAL-1): one for the whole pool.

use std::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

/// The account and how it authenticates. A change applies to every CAS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    pub account: Account,
    pub password: Secret,
    pub authentication: Authentication,
}

/// How requests authenticate to a CAS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// Sent with the first request; `UTF-8`.
    Basic,
    Ntlm(NtlmVersions),
    /// NTLM where a CAS offers it (as `NTLM` or as `Negotiate`), else Basic.
    Negotiated(NtlmVersions),
    /// A token in place of account and password.
    OAuth(OAuthClient),
}

impl Authentication {
    /// For status pages and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Ntlm(_) => "ntlm",
            Self::Negotiated(_) => "negotiate",
            Self::OAuth(_) => "oauth",
        }
    }
}

/// Which versions of NTLM may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NtlmVersions {
    #[default]
    V2Only,
    /// Version 1 for CAS whose challenge has no target information, which rules out version 2.
    V1Allowed,
    /// For CAS that are known to accept nothing better.
    V1Only,
}

/// The client credentials grant of RFC 6749 §4.4, as Exchange Online requires it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuthClient {
    pub client_id: String,
    pub client_secret: Secret,
    /// `https`; see [`Self::token_url_of`].
    pub token_url: String,
    pub scope: String,
}

impl OAuthClient {
    /// The scope that Exchange Online requires.
    pub const EXCHANGE_ONLINE_SCOPE: &str = "https://outlook.office365.com/.default";

    /// Where the tenant's tokens are issued.
    #[must_use]
    pub fn token_url_of(tenant: &str) -> String {
        format!("https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token")
    }
}

/// A password or a similar secret: overwritten when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    #[must_use]
    pub fn new(secret: String) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// For the code that proves knowledge of it, and nothing else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// An account of Active Directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    domain: Option<String>,
    user: String,
}

/// The text is not an account name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not an account name: expected user@example.com or DOMAIN\\user")]
pub struct AccountError(String);

impl Account {
    /// Parses a user principal name, `DOMAIN\user`, or a plain user name for sites with a single domain.
    ///
    /// # Errors
    /// When the name or the domain is empty, or there is more than one backslash.
    pub fn parse(text: &str) -> Result<Self, AccountError> {
        let refused = || AccountError(text.to_owned());
        let (domain, user) = match text.split_once('\\') {
            Some((domain, user)) => (Some(domain), user),
            None => (None, text),
        };
        let broken =
            |part: &str| part.is_empty() || part.contains(['\\', ':']) || part.chars().any(char::is_control);
        if broken(user) || domain.is_some_and(broken) {
            return Err(refused());
        }
        Ok(Self {
            domain: domain.map(str::to_owned),
            user: user.to_owned(),
        })
    }

    /// Empty with a user principal name: its domain is part of the user.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.domain.as_deref().unwrap_or_default()
    }

    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }
}

impl fmt::Display for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.domain {
            Some(domain) => write!(formatter, "{domain}\\{}", self.user),
            None => formatter.write_str(&self.user),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_a_principal_name_or_a_domain_with_a_user() {
        let principal = Account::parse("svc@lab.test").unwrap();
        assert_eq!((principal.domain(), principal.user()), ("", "svc@lab.test"));
        let windows = Account::parse("CONTOSO\\svc-presence").unwrap();
        assert_eq!((windows.domain(), windows.user()), ("CONTOSO", "svc-presence"));
        for text in ["svc@lab.test", "CONTOSO\\svc-presence", "svc"] {
            assert_eq!(Account::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_cannot_be_an_account_is_refused_by_name() {
        for text in ["", "\\svc", "CONTOSO\\", "A\\B\\c", "a:b", "a\nb"] {
            let error = Account::parse(text).unwrap_err();
            assert!(error.to_string().contains("DOMAIN\\user"), "{error}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let credential = Credential {
            account: Account::parse("svc@lab.test").unwrap(),
            password: Secret::new("S3cret-Pass!".to_owned()),
            authentication: Authentication::OAuth(OAuthClient {
                client_id: "app".to_owned(),
                client_secret: Secret::new("also S3cret".to_owned()),
                token_url: OAuthClient::token_url_of("lab.test"),
                scope: OAuthClient::EXCHANGE_ONLINE_SCOPE.to_owned(),
            }),
        };
        let shown = format!("{credential:?}");
        assert!(!shown.contains("S3cret"), "{shown}");
        assert!(shown.contains("svc@lab.test"), "{shown}");
    }
}
