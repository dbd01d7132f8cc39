//! How a client reaches Client Access Servers: over which transport, secured how, and within which limits.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tandem_cluster::CasEndpoint;

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
