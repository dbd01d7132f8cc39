//! Tokens instead of passwords: the client credentials grant (RFC 6749 §4.4).

use std::fmt;
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::credential::{OAuthClient, Secret};
use super::ews::Failure;

/// Longer answers are refused unread.
pub const TOKEN_ANSWER_BYTES_MAX: usize = 64 << 10;

/// The body of the request, `application/x-www-form-urlencoded`.
#[must_use]
pub fn write_token_request(client: &OAuthClient) -> Zeroizing<String> {
    let field = |value| utf8_percent_encode(value, NON_ALPHANUMERIC);
    Zeroizing::new(format!(
        "grant_type=client_credentials&client_id={}&client_secret={}&scope={}",
        field(&client.client_id),
        field(client.client_secret.reveal()),
        field(&client.scope),
    ))
}

/// The token that requests carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    secret: Secret,
    /// After 80 % of its lifetime.
    refresh_at: Instant,
    expires_at: Instant,
}

impl Token {
    /// Reads the issuer's answer.
    ///
    /// # Errors
    /// [`Failure::Unauthorized`] with the issuer's message if it refuses the client; [`Failure::Http`] if the issuer fails;
    /// [`Failure::Malformed`] if the answer has no token.
    pub fn parse(
        status: u16,
        retry_after: Option<Duration>,
        body: &[u8],
        now: Instant,
    ) -> Result<Self, Failure> {
        match status {
            200 => Self::parse_issued(body, now),
            400 | 401 | 403 => Err(Failure::Unauthorized(refusal(status, body))),
            _ => Err(Failure::Http { status, retry_after }),
        }
    }

    fn parse_issued(body: &[u8], now: Instant) -> Result<Self, Failure> {
        let issued: Issued = serde_json::from_slice(body)
            .map_err(|_| Failure::Malformed("the issuer's answer has no token"))?;
        let secret = Zeroizing::new(issued.access_token);
        if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Failure::Malformed(
                "the token contains characters that no header can carry",
            ));
        }
        let life = Duration::from_secs(issued.expires_in.seconds().min(LIFE_SECONDS_MAX));
        Ok(Self {
            secret: Secret::new(secret.to_string()),
            refresh_at: now + life * 4 / 5,
            expires_at: now + life,
        })
    }

    #[must_use]
    pub fn is_fresh(&self, now: Instant) -> bool {
        now < self.refresh_at
    }

    /// Whether it is still valid, for as long as no newer one is available.
    #[must_use]
    pub fn is_valid(&self, now: Instant) -> bool {
        now < self.expires_at
    }

    /// The value of `Authorization`, RFC 6750 §2.1.
    #[must_use]
    pub fn authorization(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("Bearer {}", self.secret.reveal()))
    }
}

#[derive(Deserialize)]
struct Issued {
    access_token: String,
    /// Recommended, not required; without it, the shortest lifetime that Exchange Online grants is assumed.
    #[serde(default)]
    expires_in: Lifetime,
}

/// Some issuers quote numbers.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lifetime {
    Number(u64),
    Text(String),
}

impl Default for Lifetime {
    fn default() -> Self {
        Self::Number(LIFE_SECONDS_ASSUMED)
    }
}

impl Lifetime {
    fn seconds(&self) -> u64 {
        match self {
            Self::Number(seconds) => *seconds,
            Self::Text(text) => text.trim().parse().unwrap_or(LIFE_SECONDS_ASSUMED),
        }
    }
}

#[derive(Deserialize)]
struct Refused {
    error: String,
    #[serde(default)]
    error_description: String,
}

fn refusal(status: u16, body: &[u8]) -> String {
    match serde_json::from_slice::<Refused>(body) {
        Ok(refused) => shortened(&format!("{}: {}", refused.error, refused.error_description)),
        Err(_) => format!("the token endpoint answered with HTTP status {status}"),
    }
}

fn shortened(text: &str) -> String {
    let visible = text.chars().filter(|character| !character.is_control());
    visible.take(REFUSAL_CHARACTERS_MAX).collect()
}

impl fmt::Debug for Issued {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Issued(…)")
    }
}

const LIFE_SECONDS_ASSUMED: u64 = 3600;
const LIFE_SECONDS_MAX: u64 = 24 * 3600;
const REFUSAL_CHARACTERS_MAX: usize = 300;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs an instant to start from")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_request_names_client_secret_and_scope() {
        let client = OAuthClient {
            client_id: "dc890d15".to_owned(),
            client_secret: Secret::new("s&cr=t".to_owned()),
            token_url: OAuthClient::token_url_of("lab.test"),
            scope: OAuthClient::EXCHANGE_ONLINE_SCOPE.to_owned(),
        };
        assert_eq!(
            *write_token_request(&client),
            "grant_type=client_credentials&client_id=dc890d15&client_secret=s%26cr%3Dt\
             &scope=https%3A%2F%2Foutlook%2Eoffice365%2Ecom%2F%2Edefault"
        );
    }

    #[test]
    fn a_token_is_renewed_at_four_fifths_of_its_life_and_good_until_its_end() {
        let now = Instant::now();
        for body in [
            r#"{"token_type":"Bearer","expires_in":3600,"access_token":"ey.J"}"#,
            r#"{"expires_in":"3600","access_token":"ey.J"}"#,
            r#"{"access_token":"ey.J"}"#,
        ] {
            let token = Token::parse(200, None, body.as_bytes(), now).unwrap();
            assert_eq!(*token.authorization(), "Bearer ey.J");
            let after = |seconds| now + Duration::from_secs(seconds);
            assert!(token.is_fresh(after(2879)) && !token.is_fresh(after(2880)));
            assert!(token.is_valid(after(3599)) && !token.is_valid(after(3600)));
            assert!(!format!("{token:?}").contains("ey.J"));
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_issuers_words() {
        let body =
            br#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret."}"#;
        assert_eq!(
            Token::parse(401, None, body, Instant::now()),
            Err(Failure::Unauthorized(
                "invalid_client: AADSTS7000215: Invalid client secret.".to_owned()
            ))
        );
        let wait = Some(Duration::from_secs(7));
        assert_eq!(
            Token::parse(503, wait, b"", Instant::now()),
            Err(Failure::Http {
                status: 503,
                retry_after: wait
            })
        );
        let spaced = br#"{"access_token":"a b","expires_in":1}"#;
        assert!(matches!(
            Token::parse(200, None, spaced, Instant::now()),
            Err(Failure::Malformed(_))
        ));
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(status in 100..600u16, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Token::parse(status, None, &body, Instant::now());
        }
    }
}
