//! Sends operations to Client Access Servers: each completes once, within its timeout, with an answer or a failure.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tandem_cluster::{CasGateway, CasId};
use tandem_runtime::io::environment;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::cas::lock;
use super::counters::ClientCounters;
use super::sending::Shared;
use super::streaming::{self, StreamHandle};
use crate::calendar::{Input, StreamId};
use tandem_exchange::affinity::AffinityKey;
use tandem_exchange::credential::Credential;
use tandem_exchange::ews::{Answer, Failure, Mailbox, Operation, Parsed, ServerVersion, SubscriptionId};

pub use super::client_options::{ClientOptions, TlsConfigs, Transport};

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PerformRequest {
    pub cas: CasId,
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
    pub cas: CasId,
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
        Self {
            shared: Arc::new(Shared::new(options, tls, credential)),
        }
    }

    #[must_use]
    pub fn counters(&self) -> &ClientCounters {
        &self.shared.counters
    }

    /// Takes the complete list. Idle connections to a CAS that is gone or has a new address are closed.
    pub fn set_cas(&self, cas_list: &[CasGateway]) {
        self.shared.set_cas(cas_list);
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
    pub fn forget_affinity(&self, cas: &CasId, affinity: &AffinityKey) {
        lock(&self.shared.jars).forget(cas, affinity);
    }
}

impl fmt::Debug for EwsClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EwsClient").finish_non_exhaustive()
    }
}

fn failed(failure: Failure) -> Parsed {
    Parsed {
        result: Err(failure),
        server_version: None,
    }
}
