//! Sends one request to a CAS: over an idle connection or a new one, in the name of the current account, in the schema version
//! that the CAS understands.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tandem_exchange::affinity::AffinityKey;

use arc_swap::ArcSwap;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, SET_COOKIE};
use tandem_cluster::{CasGateway, CasId};

use super::cas::{Cas, Identity, Pooled, lock};
use super::client::PerformRequest;
use super::client_options::{ClientOptions, TlsConfigs};
use super::connection::{Dialer, read_body};
use super::counters::ClientCounters;
use super::login::{Login, Trouble, since_1970};
use super::post::{Post, Repetition};
use super::token_source::TokenSource;
use tandem_exchange::affinity::CookieJars;
use tandem_exchange::credential::{Authentication, Credential};
use tandem_exchange::ews::{
    self, Failure, FailureClass, Mailbox, Operation, Parsed, ResponseCode, SchemaVersion,
};
use tandem_exchange::oauth::Token;

/// What all operations share.
pub(super) struct Shared {
    pub(super) options: ClientOptions,
    pub(super) counters: ClientCounters,
    pub(super) jars: Mutex<CookieJars>,
    dialer: Dialer,
    credential: Arc<ArcSwap<Credential>>,
    identity: Mutex<Arc<Identity>>,
    cas_list: ArcSwap<BTreeMap<CasId, Arc<Cas>>>,
    tokens: TokenSource,
}

/// The user and the group of the request.
pub(super) struct Envelope<'a> {
    pub(super) cas: &'a CasId,
    pub(super) impersonate: Option<&'a Mailbox>,
    pub(super) affinity: &'a AffinityKey,
}

/// The identity, fixed when the request was made: it shares a refusal that happens while it waits.
pub(super) struct Asker {
    identity: Arc<Identity>,
    refusals_seen: u64,
}

impl Shared {
    pub(super) fn new(
        options: ClientOptions,
        tls: Arc<dyn TlsConfigs>,
        credential: Arc<ArcSwap<Credential>>,
    ) -> Self {
        let dialer = Dialer {
            transport: options.transport,
            tls,
            connect_timeout: options.connect_timeout,
        };
        Self {
            identity: Mutex::new(Arc::new(Identity::new(credential.load_full()))),
            jars: Mutex::new(CookieJars::new(options.cookie_jars_max)),
            tokens: TokenSource::new(dialer.clone()),
            cas_list: ArcSwap::default(),
            counters: ClientCounters::new(),
            credential,
            dialer,
            options,
        }
    }

    pub(super) fn set_cas(&self, cas_list: &[CasGateway]) {
        let former = self.cas_list.load_full();
        let mut kept = BTreeMap::new();
        for CasGateway { id, endpoint, .. } in cas_list {
            let unchanged = former.get(id).filter(|known| known.endpoint == *endpoint);
            let cas = unchanged
                .cloned()
                .unwrap_or_else(|| Arc::new(Cas::new(endpoint.clone(), &self.options)));
            kept.insert(id.clone(), cas);
        }
        let kept = Arc::new(kept);
        self.cas_list.store(kept.clone());
        for (id, cas) in former.iter() {
            if !kept.get(id).is_some_and(|still| Arc::ptr_eq(still, cas)) {
                cas.close();
            }
        }
    }

    pub(super) async fn perform(&self, request: &PerformRequest) -> Result<Parsed, Failure> {
        let cas = self.cas(&request.cas)?;
        let asker = self.asker();
        let _permit = cas
            .connections
            .acquire()
            .await
            .map_err(|_| Failure::Unreachable("the CAS was removed".to_owned()))?;
        loop {
            let version = cas.version();
            let parsed = self.perform_as(version, &cas, &asker, request).await?;
            let refused = parsed
                .result
                .as_ref()
                .is_err_and(|failure| failure.class() == FailureClass::Version);
            if !refused || cas.version_refused(version).is_none() {
                return Ok(parsed);
            }
        }
    }

    async fn perform_as(
        &self,
        version: SchemaVersion,
        cas: &Arc<Cas>,
        asker: &Asker,
        request: &PerformRequest,
    ) -> Result<Parsed, Failure> {
        let operation = &request.operation;
        if *operation == Operation::SubscribeStreaming && !version.has_streaming() {
            return Err(needs_streaming());
        }
        let envelope = Envelope {
            cas: &request.cas,
            impersonate: request.impersonate.as_ref(),
            affinity: &request.affinity,
        };
        let body = ews::write_request(operation, version, envelope.impersonate);
        let post = self.post(&envelope, body);
        let (pooled, response) = self.send(cas, asker, &post, Repetition::of(operation)).await?;
        self.keep_cookies(&envelope, response.headers());
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let body = read_body(response.into_body(), self.options.answer_bytes_max).await?;
        cas.put_idle(pooled);
        Ok(ews::parse_answer(operation, status, retry_after, &body))
    }

    pub(super) fn cas(&self, id: &CasId) -> Result<Arc<Cas>, Failure> {
        let cas = self.cas_list.load().get(id).cloned();
        cas.ok_or_else(|| Failure::Unreachable(format!("no such CAS: {id}")))
    }

    pub(super) fn post(&self, envelope: &Envelope<'_>, body: bytes::Bytes) -> Post {
        let mut headers = HeaderMap::new();
        let mut add = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        if let Some(mailbox) = envelope.impersonate.filter(|mailbox| mailbox.0.is_ascii()) {
            add(ANCHOR_MAILBOX, &mailbox.0);
        }
        if *envelope.affinity != AffinityKey::None {
            add(PREFER_SERVER_AFFINITY, "true");
        }
        if let Some(cookies) = lock(&self.jars).header(envelope.cas, envelope.affinity) {
            add(COOKIE, &cookies);
        }
        Post { headers, body }
    }

    pub(super) fn keep_cookies(&self, envelope: &Envelope<'_>, headers: &HeaderMap) {
        let cookies = headers.get_all(SET_COOKIE).iter();
        let cookies = cookies.filter_map(|cookie| cookie.to_str().ok());
        lock(&self.jars).keep(envelope.cas, envelope.affinity, cookies);
    }

    /// Uses an idle connection if there is one. Opens at most two new ones.
    pub(super) async fn send(
        &self,
        cas: &Arc<Cas>,
        asker: &Asker,
        post: &Post,
        repetition: Repetition,
    ) -> Result<(Pooled, Response<Incoming>), Failure> {
        let identity = &asker.identity;
        let login = Login {
            cas,
            workstation: &self.options.workstation,
            counters: &self.counters,
            refusals_seen: asker.refusals_seen,
            token: self.token(identity).await?,
        };
        let mut idle = cas.take_idle(identity);
        let mut opened = 0;
        loop {
            let is_reused = idle.is_some();
            let mut pooled = match idle.take() {
                Some(pooled) => pooled,
                None => {
                    opened += 1;
                    self.open(cas, identity).await?
                }
            };
            match login.send(&mut pooled, post).await {
                Ok(response) => return Ok((pooled, response)),
                Err(Trouble::Failed(failure)) => return Err(failure),
                Err(Trouble::Unanswered(failure)) => {
                    if !is_reused || repetition == Repetition::Harmful {
                        return Err(failure);
                    }
                }
                Err(Trouble::Reconnect) => {
                    if opened == CONNECTIONS_PER_REQUEST_MAX {
                        return Err(closes_too_soon(cas));
                    }
                }
            }
            self.counters.repeated.inc();
        }
    }

    async fn open(&self, cas: &Cas, identity: &Arc<Identity>) -> Result<Pooled, Failure> {
        let connection = self.dialer.open(&cas.endpoint).await?;
        self.counters.connections_opened.inc();
        Ok(Pooled::new(connection, identity.clone()))
    }

    async fn token(&self, identity: &Arc<Identity>) -> Result<Option<Token>, Failure> {
        match &identity.credential.authentication {
            Authentication::OAuth(client) => {
                let token = self.tokens.token(identity, client, &self.counters).await?;
                Ok(Some(token))
            }
            Authentication::Basic | Authentication::Ntlm(_) | Authentication::Negotiated(_) => Ok(None),
        }
    }

    /// With the current credential.
    pub(super) fn asker(&self) -> Asker {
        let credential = self.credential.load_full();
        let mut identity = lock(&self.identity);
        if !Arc::ptr_eq(&identity.credential, &credential) {
            *identity = Arc::new(Identity::new(credential));
        }
        Asker {
            refusals_seen: identity.refusals(),
            identity: identity.clone(),
        }
    }
}

/// Answered by us, because the CAS would complain about the schema.
pub(super) fn needs_streaming() -> Failure {
    Failure::Response {
        code: ResponseCode("ErrorInvalidServerVersion".to_owned()),
        message: "the CAS is too old for streaming notifications".to_owned(),
        back_off: None,
        primary_address: None,
        inner: None,
    }
}

fn closes_too_soon(cas: &Cas) -> Failure {
    Failure::Unreachable(format!(
        "{} closes connections before a request can be sent",
        cas.authority()
    ))
}

pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let now = i64::try_from(since_1970().as_secs()).unwrap_or(i64::MAX);
    ews::parse_retry_after(value, now)
}

const ANCHOR_MAILBOX: HeaderName = HeaderName::from_static("x-anchormailbox");
const PREFER_SERVER_AFFINITY: HeaderName = HeaderName::from_static("x-preferserveraffinity");
const CONNECTIONS_PER_REQUEST_MAX: u32 = 2;
