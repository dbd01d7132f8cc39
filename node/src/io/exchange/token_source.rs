//! Fetches OAuth tokens, one at a time, and caches the valid one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Uri};
use tandem_cluster::CasEndpoint;
use tandem_runtime::io::environment;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::cas::Identity;
use super::client::Transport;
use super::connection::{Broken, Dialer, read_body};
use super::counters::ClientCounters;
use super::sending::retry_after;
use tandem_exchange::credential::OAuthClient;
use tandem_exchange::ews::Failure;
use tandem_exchange::oauth::{TOKEN_ANSWER_BYTES_MAX, Token, write_token_request};

/// The token endpoint's certificate is checked like that of a CAS: its authority must be trusted.
pub(super) struct TokenSource {
    dialer: Dialer,
    held: Mutex<Option<Held>>,
}

/// The issuer's last answer, and for which client.
struct Held {
    identity: Arc<Identity>,
    /// A token that a CAS has refused is not used again.
    refusals: u64,
    token: Option<Token>,
    /// When to ask again if there is no token.
    failed: Option<(Failure, Instant)>,
}

impl TokenSource {
    pub(super) fn new(dialer: Dialer) -> Self {
        Self {
            dialer,
            held: Mutex::new(None),
        }
    }

    /// Callers wait while a token is being fetched.
    pub(super) async fn token(
        &self,
        identity: &Arc<Identity>,
        client: &OAuthClient,
        counters: &ClientCounters,
    ) -> Result<Token, Failure> {
        let mut held = self.held.lock().await;
        let refusals = identity.refusals();
        let known = held
            .take()
            .filter(|held| Arc::ptr_eq(&held.identity, identity) && held.refusals == refusals);
        let former = known.as_ref().and_then(|held| held.token.clone());
        if let Some(answer) = known.as_ref().and_then(|held| held.answer(environment::now())) {
            *held = known;
            return answer;
        }
        let fetched = self.fetch(client).await;
        if fetched.is_ok() {
            counters.tokens_fetched.inc();
        }
        let now = environment::now();
        let fresh = Held {
            identity: identity.clone(),
            refusals,
            token: fetched.as_ref().ok().cloned().or(former),
            failed: fetched.err().map(|failure| (failure, now + ASK_AGAIN_AFTER)),
        };
        let answer = fresh.answer(now);
        *held = Some(fresh);
        answer.unwrap_or_else(|| {
            Err(Failure::Unauthorized(
                "the issued token has already expired".to_owned(),
            ))
        })
    }

    async fn fetch(&self, client: &OAuthClient) -> Result<Token, Failure> {
        match timeout(FETCH_TIMEOUT, self.ask(client)).await {
            Ok(fetched) => fetched,
            Err(_) => Err(Failure::TimedOut),
        }
    }

    async fn ask(&self, client: &OAuthClient) -> Result<Token, Failure> {
        let (endpoint, request) = self.request(client)?;
        let mut connection = self.dialer.open(&endpoint).await?;
        let response = connection.send(request).await.map_err(|broken| match broken {
            Broken::Unsent => Failure::Unreachable("the token endpoint closed the connection".to_owned()),
            Broken::Unanswered(failure) => failure,
        })?;
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let body = read_body(response.into_body(), TOKEN_ANSWER_BYTES_MAX).await?;
        Token::parse(status, retry_after, &body, environment::now())
    }

    fn request(&self, client: &OAuthClient) -> Result<(CasEndpoint, Request<Full<Bytes>>), Failure> {
        let unusable = || {
            let wanted = "the token URL must be https://host/path";
            Failure::Unreachable(format!("{}: {wanted}", client.token_url))
        };
        let (scheme, port) = match self.dialer.transport {
            Transport::Tls => ("https", 443),
            Transport::Plain => ("http", 80),
        };
        let url: Uri = client.token_url.parse().map_err(|_| unusable())?;
        let authority = url.authority().ok_or_else(unusable)?;
        let path = url.path_and_query().ok_or_else(unusable)?;
        if url.scheme_str() != Some(scheme) {
            return Err(unusable());
        }
        let form = write_token_request(client);
        let mut request = Request::new(Full::new(Bytes::copy_from_slice(form.as_bytes())));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.as_str().parse().map_err(|_| unusable())?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| unusable())?;
        let headers = request.headers_mut();
        headers.insert(HOST, host);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(FORM));
        let endpoint = CasEndpoint {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(port),
            description: String::new(),
            channel_binding: false,
            legacy_algorithms: false,
        };
        Ok((endpoint, request))
    }
}

impl Held {
    /// `None`: the issuer must be asked.
    fn answer(&self, now: Instant) -> Option<Result<Token, Failure>> {
        let failed = self.failed.as_ref().filter(|(_, again)| now < *again);
        match (&self.token, failed) {
            (Some(token), _) if token.is_fresh(now) => Some(Ok(token.clone())),
            (Some(token), Some(_)) if token.is_valid(now) => Some(Ok(token.clone())),
            (_, Some((failure, _))) => Some(Err(failure.clone())),
            (_, None) => None,
        }
    }
}

const FORM: &str = "application/x-www-form-urlencoded";
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Keeps requests from provoking a refusal each.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
