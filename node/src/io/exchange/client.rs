//! Sends operations to Client Access Servers: each completes once, within its timeout, with an answer or a failure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, SET_COOKIE};
use rustls::ClientConfig;
use tandem_cluster::{CasEndpoint, CasGateway, CasId};
use tandem_runtime::io::environment;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::connection::{Dialer, read_body};
use super::counters::ClientCounters;
use super::gateway::{Gateway, Identity, Pooled, lock};
use super::login::{Login, Post, Trouble, since_1970};
use super::streaming::{self, StreamHandle};
use super::token_source::TokenSource;
use crate::calendar::{Input, StreamId};
use tandem_exchange::affinity::AffinityKey;
use tandem_exchange::affinity::CookieJars;
use tandem_exchange::credential::{Authentication, Credential};
use tandem_exchange::ews::{
    self, Answer, Failure, FailureClass, Mailbox, Operation, Parsed, ResponseCode, SchemaVersion,
    ServerVersion, SubscriptionId,
};
use tandem_exchange::oauth::Token;

/// How connections to a CAS are secured. Evaluated for every new connection, so that a changed trust store applies from
/// the next one on.
pub trait TlsConfigs: Send + Sync + 'static {
    fn client_config(&self, endpoint: &CasEndpoint) -> Arc<ClientConfig>;
}

impl<F> TlsConfigs for F
where
    F: Fn(&CasEndpoint) -> Arc<ClientConfig> + Send + Sync + 'static,
{
    fn client_config(&self, endpoint: &CasEndpoint) -> Arc<ClientConfig> {
        self(endpoint)
    }
}

/// The transport below HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tls,
    /// Passwords are sent in clear text: for a laboratory, and where the network itself is private.
    Plain,
}

/// Limits of the client, per CAS unless noted otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientOptions {
    pub transport: Transport,
    pub connect_timeout: Duration,
    /// Connections that carry an operation at the same time; further operations wait within their own timeout.
    pub connections_max: usize,
    /// Streams that are open at the same time.
    pub streams_max: usize,
    /// Connections that are kept for the next operation.
    pub idle_max: usize,
    pub idle_timeout: Duration,
    pub answer_bytes_max: usize,
    /// One document of a stream.
    pub stream_document_bytes_max: usize,
    /// Bytes of one stream; beyond, it is ended and can be opened again.
    pub stream_bytes_max: u64,
    /// Of all CAS together.
    pub cookie_jars_max: usize,
    /// Sent with NTLM, for accounts that may log on only from some machines.
    pub workstation: String,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            transport: Transport::Tls,
            connect_timeout: Duration::from_secs(10),
            connections_max: 32,
            streams_max: 256,
            idle_max: 20,
            idle_timeout: Duration::from_secs(90),
            answer_bytes_max: 16 << 20,
            stream_document_bytes_max: 4 << 20,
            stream_bytes_max: 256 << 20,
            cookie_jars_max: 50_000,
            workstation: "TANDEM".to_owned(),
        }
    }
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PerformRequest {
    pub gateway: CasId,
    /// Anything but `GetStreamingEvents`, which [`EwsClient::open_stream`] is for.
    pub operation: Operation,
    pub impersonate: Option<Mailbox>,
    pub affinity: AffinityKey,
    /// Covers everything: waiting for a connection, the handshakes, the answer.
    pub timeout: Duration,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Performed {
    pub result: Result<Answer, Failure>,
    /// From the call to the answer.
    pub latency: Duration,
    /// If the answer had it.
    pub server_version: Option<ServerVersion>,
}

/// One streaming connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenStream {
    pub stream: StreamId,
    pub gateway: CasId,
    /// At most 200.
    pub subscriptions: Vec<SubscriptionId>,
    /// Whom to impersonate.
    pub anchor: Mailbox,
    pub affinity: AffinityKey,
    /// Minutes, 1–30.
    pub connection_timeout: u8,
    /// Silence after which the connection is closed.
    pub read_timeout: Duration,
}

/// Cheap to clone: all clones share connections, tokens and cookies.
#[derive(Clone)]
pub struct EwsClient {
    shared: Arc<Shared>,
}

impl EwsClient {
    /// No CAS is known at first. When another credential is stored, it applies from the next request on, and connections of
    /// the former one are no longer used.
    #[must_use]
    pub fn new(
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
            shared: Arc::new(Shared {
                identity: Mutex::new(Arc::new(Identity::new(credential.load_full()))),
                jars: Mutex::new(CookieJars::new(options.cookie_jars_max)),
                tokens: TokenSource::new(dialer.clone()),
                gateways: ArcSwap::default(),
                counters: ClientCounters::new(),
                credential,
                dialer,
                options,
            }),
        }
    }

    #[must_use]
    pub fn counters(&self) -> &ClientCounters {
        &self.shared.counters
    }

    /// Takes the complete list. Idle connections to a CAS that is gone or has a new address are closed.
    pub fn set_gateways(&self, gateways: &[CasGateway]) {
        let former = self.shared.gateways.load_full();
        let mut kept = BTreeMap::new();
        for CasGateway { id, endpoint, .. } in gateways {
            let unchanged = former.get(id).filter(|known| known.endpoint == *endpoint);
            let gateway = unchanged
                .cloned()
                .unwrap_or_else(|| Arc::new(Gateway::new(endpoint.clone(), &self.shared.options)));
            kept.insert(id.clone(), gateway);
        }
        let kept = Arc::new(kept);
        self.shared.gateways.store(kept.clone());
        for (id, gateway) in former.iter() {
            if !kept.get(id).is_some_and(|still| Arc::ptr_eq(still, gateway)) {
                gateway.close();
            }
        }
    }

    /// Completes within `request.timeout`, whatever the outcome.
    pub async fn perform(&self, request: PerformRequest) -> Performed {
        let started = environment::now();
        let parsed = match timeout(request.timeout, self.shared.perform(&request)).await {
            Ok(Ok(parsed)) => parsed,
            Ok(Err(failure)) => failed(failure),
            Err(_) => failed(Failure::TimedOut),
        };
        Performed {
            result: parsed.result,
            latency: started.elapsed(),
            server_version: parsed.server_version,
        }
    }

    /// Each part comes as `Input::StreamPart`; `Input::StreamEnded` follows in any case, as the last.
    #[must_use = "dropping the handle closes the stream"]
    pub fn open_stream(&self, open: OpenStream, inputs: mpsc::Sender<Input>) -> StreamHandle {
        streaming::open(self.shared.clone(), open, inputs)
    }

    /// Drops the cookies of this key: its next operation may reach another mailbox server.
    pub fn forget_affinity(&self, gateway: &CasId, affinity: &AffinityKey) {
        lock(&self.shared.jars).forget(gateway, affinity);
    }
}

impl fmt::Debug for EwsClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EwsClient").finish_non_exhaustive()
    }
}

pub(super) struct Shared {
    pub(super) options: ClientOptions,
    pub(super) counters: ClientCounters,
    dialer: Dialer,
    credential: Arc<ArcSwap<Credential>>,
    identity: Mutex<Arc<Identity>>,
    gateways: ArcSwap<BTreeMap<CasId, Arc<Gateway>>>,
    jars: Mutex<CookieJars>,
    tokens: TokenSource,
}

/// The user and the group of the request.
pub(super) struct Envelope<'a> {
    pub(super) gateway: &'a CasId,
    pub(super) impersonate: Option<&'a Mailbox>,
    pub(super) affinity: &'a AffinityKey,
}

/// The identity, fixed when the request was made: it shares a refusal that happens while it waits.
pub(super) struct Asker {
    identity: Arc<Identity>,
    refusals_seen: u64,
}

/// How a request may be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repetition {
    /// Harmless if executed twice: sent once more if a reused connection broke.
    Harmless,
    /// Only if it was certainly not executed.
    Harmful,
}

impl Shared {
    async fn perform(&self, request: &PerformRequest) -> Result<Parsed, Failure> {
        let gateway = self.gateway(&request.gateway)?;
        let asker = self.asker();
        let _permit = gateway
            .connections
            .acquire()
            .await
            .map_err(|_| Failure::Unreachable("the CAS was removed".to_owned()))?;
        loop {
            let version = gateway.version();
            let parsed = self.perform_as(version, &gateway, &asker, request).await?;
            let refused = parsed
                .result
                .as_ref()
                .is_err_and(|failure| failure.class() == FailureClass::Version);
            if !refused || gateway.version_refused(version).is_none() {
                return Ok(parsed);
            }
        }
    }

    async fn perform_as(
        &self,
        version: SchemaVersion,
        gateway: &Arc<Gateway>,
        asker: &Asker,
        request: &PerformRequest,
    ) -> Result<Parsed, Failure> {
        let operation = &request.operation;
        if *operation == Operation::SubscribeStreaming && !version.has_streaming() {
            return Err(needs_streaming());
        }
        let envelope = Envelope {
            gateway: &request.gateway,
            impersonate: request.impersonate.as_ref(),
            affinity: &request.affinity,
        };
        let body = ews::write_request(operation, version, envelope.impersonate);
        let post = self.post(&envelope, body);
        let (pooled, response) = self.send(gateway, asker, &post, repetition_of(operation)).await?;
        self.keep_cookies(&envelope, response.headers());
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let body = read_body(response.into_body(), self.options.answer_bytes_max).await?;
        gateway.put_idle(pooled);
        Ok(ews::parse_answer(operation, status, retry_after, &body))
    }

    pub(super) fn gateway(&self, id: &CasId) -> Result<Arc<Gateway>, Failure> {
        let gateway = self.gateways.load().get(id).cloned();
        gateway.ok_or_else(|| Failure::Unreachable(format!("no such CAS: {id}")))
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
        if let Some(cookies) = lock(&self.jars).header(envelope.gateway, envelope.affinity) {
            add(COOKIE, &cookies);
        }
        Post { headers, body }
    }

    pub(super) fn keep_cookies(&self, envelope: &Envelope<'_>, headers: &HeaderMap) {
        let cookies = headers.get_all(SET_COOKIE).iter();
        let cookies = cookies.filter_map(|cookie| cookie.to_str().ok());
        lock(&self.jars).keep(envelope.gateway, envelope.affinity, cookies);
    }

    /// Uses an idle connection if there is one. Opens at most two new ones.
    pub(super) async fn send(
        &self,
        gateway: &Arc<Gateway>,
        asker: &Asker,
        post: &Post,
        repetition: Repetition,
    ) -> Result<(Pooled, Response<Incoming>), Failure> {
        let identity = &asker.identity;
        let login = Login {
            gateway,
            workstation: &self.options.workstation,
            counters: &self.counters,
            refusals_seen: asker.refusals_seen,
            token: self.token(identity).await?,
        };
        let mut idle = gateway.take_idle(identity);
        let mut opened = 0;
        loop {
            let is_reused = idle.is_some();
            let mut pooled = match idle.take() {
                Some(pooled) => pooled,
                None => {
                    opened += 1;
                    self.open(gateway, identity).await?
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
                        return Err(closes_too_soon(gateway));
                    }
                }
            }
            self.counters.repeated.inc();
        }
    }

    async fn open(&self, gateway: &Gateway, identity: &Arc<Identity>) -> Result<Pooled, Failure> {
        let connection = self.dialer.open(&gateway.endpoint).await?;
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

fn failed(failure: Failure) -> Parsed {
    Parsed {
        result: Err(failure),
        server_version: None,
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

fn closes_too_soon(gateway: &Gateway) -> Failure {
    Failure::Unreachable(format!(
        "{} closes connections before a request can be sent",
        gateway.authority()
    ))
}

/// Otherwise a second subscription could exist that is not known here.
fn repetition_of(operation: &Operation) -> Repetition {
    match operation {
        Operation::SubscribePush { .. } | Operation::SubscribeStreaming | Operation::SubscribePull { .. } => {
            Repetition::Harmful
        }
        Operation::GetEvents { .. }
        | Operation::GetStreamingEvents { .. }
        | Operation::Unsubscribe { .. }
        | Operation::FindCalendarItems { .. }
        | Operation::GetUserAvailability { .. }
        | Operation::GetChangeStamp => Repetition::Harmless,
    }
}

pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let now = i64::try_from(since_1970().as_secs()).unwrap_or(i64::MAX);
    ews::parse_retry_after(value, now)
}

const ANCHOR_MAILBOX: HeaderName = HeaderName::from_static("x-anchormailbox");
const PREFER_SERVER_AFFINITY: HeaderName = HeaderName::from_static("x-preferserveraffinity");
const CONNECTIONS_PER_REQUEST_MAX: u32 = 2;
