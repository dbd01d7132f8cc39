//! Sends authenticated requests: by NTLM once per connection, otherwise with every request.

use std::time::Duration;
use tandem_runtime::io::environment;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::WWW_AUTHENTICATE;
use hyper::{Response, StatusCode};

use super::cas::{Cas, Pooled};
use super::connection::{Broken, read_body};
use super::counters::ClientCounters;
use super::post::Post;
use tandem_exchange::authorization::{Offers, Scheme, basic_authorization};
use tandem_exchange::credential::{Authentication, NtlmVersions};
use tandem_exchange::ews::Failure;
use tandem_exchange::ntlm::{self, FileTime, Proof, Service};
use tandem_exchange::oauth::Token;

/// Why there was no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The connection was lost, and the request was not executed.
    Reconnect,
    /// The connection was lost, and whether the request was executed is unknown.
    Unanswered(Failure),
    Failed(Failure),
}

impl From<Broken> for Trouble {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Unsent => Self::Reconnect,
            Broken::Unanswered(failure) => Self::Unanswered(failure),
        }
    }
}

/// One request of one identity at one CAS.
pub(super) struct Login<'a> {
    pub(super) cas: &'a Cas,
    pub(super) workstation: &'a str,
    pub(super) counters: &'a ClientCounters,
    /// Of the identity, when the request was made.
    pub(super) refusals_seen: u64,
    /// With OAuth.
    pub(super) token: Option<Token>,
}

impl Login<'_> {
    /// The answer's head; its body is still to be read. Never a 401.
    pub(super) async fn send(&self, pooled: &mut Pooled, post: &Post) -> Result<Response<Incoming>, Trouble> {
        let identity = pooled.identity.clone();
        match (&identity.credential.authentication, &self.token) {
            (Authentication::OAuth(_), Some(token)) => self.send_token(pooled, post, token).await,
            (Authentication::OAuth(_), None) => Err(refused("no token is available")),
            (Authentication::Basic, _) => self.send_basic(pooled, post).await,
            (Authentication::Ntlm(versions), _) => {
                self.send_by_ntlm(pooled, post, *versions, &NTLM_ALONE).await
            }
            (Authentication::Negotiated(versions), _) => {
                self.send_by_ntlm(pooled, post, *versions, &NTLM_OR_BASIC).await
            }
        }
    }

    async fn send_token(
        &self,
        pooled: &mut Pooled,
        post: &Post,
        token: &Token,
    ) -> Result<Response<Incoming>, Trouble> {
        self.counters.logins.inc();
        let request = post.request(
            &self.cas.host_header(),
            Some(&token.authorization()),
            post.body.clone(),
        );
        let response = pooled.connection.send(request).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(self.refusal(pooled, "the token"));
        }
        Ok(response)
    }

    async fn send_basic(&self, pooled: &mut Pooled, post: &Post) -> Result<Response<Incoming>, Trouble> {
        let identity = pooled.identity.clone();
        let turn = self.cas.turn_of(&identity, self.refusals_seen).await;
        let _turn = turn.map_err(Trouble::Failed)?;
        let credential = &identity.credential;
        let authorization = basic_authorization(&credential.account, &credential.password);
        self.counters.logins.inc();
        let request = post.request(&self.cas.host_header(), Some(&authorization), post.body.clone());
        let response = pooled.connection.send(request).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            // The CAS may require another scheme by now.
            self.cas.remember_scheme(None);
            return Err(self.refusal(pooled, "Basic"));
        }
        if says_who_we_are(response.status()) {
            identity.accepted();
        }
        Ok(response)
    }

    async fn send_by_ntlm(
        &self,
        pooled: &mut Pooled,
        post: &Post,
        versions: NtlmVersions,
        schemes: &[Scheme],
    ) -> Result<Response<Incoming>, Trouble> {
        if pooled.authenticated {
            let request = post.request(&self.cas.host_header(), None, post.body.clone());
            let response = pooled.connection.send(request).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
            // The CAS has forgotten the login and has not executed the request.
            pooled.authenticated = false;
            drain(response).await?;
        }
        self.handshake(pooled, post, versions, schemes).await
    }

    async fn handshake(
        &self,
        pooled: &mut Pooled,
        post: &Post,
        versions: NtlmVersions,
        schemes: &[Scheme],
    ) -> Result<Response<Incoming>, Trouble> {
        let mut untried = schemes.to_vec();
        let mut scheme = self.cas.scheme(schemes);
        loop {
            untried.retain(|other| *other != scheme);
            if scheme == Scheme::Basic {
                return self.send_basic(pooled, post).await;
            }
            let offers = match self.negotiate(pooled, post, scheme).await? {
                Negotiated::Challenged(challenge) => {
                    return self.prove(pooled, post, versions, scheme, &challenge).await;
                }
                Negotiated::Answered(response) => return Ok(response),
                Negotiated::Declined(offers) => offers,
            };
            let next = untried.iter().find(|other| offers.has(**other));
            scheme = *next.ok_or_else(|| self.no_common_scheme(schemes, &offers))?;
            self.cas.remember_scheme(Some(scheme));
        }
    }

    /// The first message is sent without the request's body, which would mostly be sent in vain.
    async fn negotiate(
        &self,
        pooled: &mut Pooled,
        post: &Post,
        scheme: Scheme,
    ) -> Result<Negotiated, Trouble> {
        let authorization = scheme.authorization(&ntlm::negotiate());
        let request = post.request(&self.cas.host_header(), Some(&authorization), Bytes::new());
        let response = pooled.connection.send(request).await?;
        if response.status().is_success() {
            drain(response).await?;
            pooled.authenticated = true;
            let request = post.request(&self.cas.host_header(), None, post.body.clone());
            let response = pooled.connection.send(request).await?;
            if response.status() == StatusCode::UNAUTHORIZED {
                return Err(refused("the CAS required no login and then refused the request"));
            }
            return Ok(Negotiated::Answered(response));
        }
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(Negotiated::Answered(response));
        }
        let offers = offers_of(&response);
        drain(response).await?;
        Ok(match offers.message(scheme) {
            Some(challenge) => Negotiated::Challenged(challenge.to_vec()),
            None => Negotiated::Declined(offers),
        })
    }

    async fn prove(
        &self,
        pooled: &mut Pooled,
        post: &Post,
        versions: NtlmVersions,
        scheme: Scheme,
        challenge: &[u8],
    ) -> Result<Response<Incoming>, Trouble> {
        let identity = pooled.identity.clone();
        let turn = self.cas.turn_of(&identity, self.refusals_seen).await;
        let _turn = turn.map_err(Trouble::Failed)?;
        let authorization = scheme.authorization(&self.proof(pooled, versions, challenge)?);
        self.counters.logins.inc();
        let request = post.request(&self.cas.host_header(), Some(&authorization), post.body.clone());
        let response = pooled.connection.send(request).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(self.refusal(pooled, scheme.as_str()));
        }
        if says_who_we_are(response.status()) {
            identity.accepted();
            pooled.authenticated = true;
        }
        Ok(response)
    }

    fn proof(&self, pooled: &Pooled, versions: NtlmVersions, challenge: &[u8]) -> Result<Vec<u8>, Trouble> {
        let endpoint = &self.cas.endpoint;
        let service = Service {
            host: &endpoint.host,
            binding: pooled.connection.binding,
        };
        let credential = &pooled.identity.credential;
        let proof = Proof {
            account: &credential.account,
            password: &credential.password,
            versions,
            workstation: self.workstation,
            service: endpoint.channel_binding.then_some(service),
            client_nonce: environment::random(),
            now: FileTime::from_unix(since_1970()),
        };
        ntlm::authenticate(&proof, &ntlm::negotiate(), challenge)
            .map_err(|error| refused(&format!("{}: {error}", self.cas.authority())))
    }

    fn refusal(&self, pooled: &Pooled, how: &str) -> Trouble {
        pooled.identity.refused();
        self.counters.logins_refused.inc();
        let account = &pooled.identity.credential.account;
        refused(&format!("{} refused {account} ({how})", self.cas.authority()))
    }

    fn no_common_scheme(&self, schemes: &[Scheme], offers: &Offers) -> Trouble {
        self.cas.remember_scheme(None);
        let wanted: Vec<_> = schemes.iter().map(|scheme| scheme.as_str()).collect();
        refused(&format!(
            "{} takes {}, not {}",
            self.cas.authority(),
            offers.describe(),
            wanted.join(" or ")
        ))
    }
}

/// The outcome of the first message.
enum Negotiated {
    Challenged(Vec<u8>),
    Declined(Offers),
    /// Without a login, or by a machine in between.
    Answered(Response<Incoming>),
}

fn refused(why: &str) -> Trouble {
    Trouble::Failed(Failure::Unauthorized(why.to_owned()))
}

/// A failure of a balancer says nothing about the account.
fn says_who_we_are(status: StatusCode) -> bool {
    !matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

fn offers_of(response: &Response<Incoming>) -> Offers {
    let fields = response.headers().get_all(WWW_AUTHENTICATE).iter();
    Offers::parse(fields.filter_map(|field| field.to_str().ok()))
}

/// The next request can be sent only when this answer has been read.
async fn drain(response: Response<Incoming>) -> Result<(), Trouble> {
    let read = read_body(response.into_body(), REFUSAL_BYTES_MAX).await;
    read.map(drop).map_err(|_| Trouble::Reconnect)
}

/// Times before 1970 count as 1970.
pub(super) fn since_1970() -> Duration {
    environment::unix_time()
}

const NTLM_ALONE: [Scheme; 2] = [Scheme::Ntlm, Scheme::Negotiate];
const NTLM_OR_BASIC: [Scheme; 3] = [Scheme::Ntlm, Scheme::Negotiate, Scheme::Basic];
const REFUSAL_BYTES_MAX: usize = 256 << 10;
