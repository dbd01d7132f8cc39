//! Probes a live CAS: whether it is reachable, speaks TLS, and what is wrong with its certificate.
//!
//! Accepts every certificate, so that a bad chain can be seen in full, and sends nothing: no account, no request. The
//! server must still prove that it holds its key.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::{ServerName, UnixTime};
use tandem_certificate::AlgorithmPolicy;
use tandem_cluster::CasEndpoint;
use tandem_runtime::io::environment::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::trust::{CasTrust, server_name};
use super::verifier::{Witness, config_with};
use tandem_exchange::certificate::{Met, NetworkTrouble, Session, Trouble};

pub use tandem_exchange::certificate::{ProbeReport, Reachability};

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeOptions {
    /// For each address of the host, and for resolving its name.
    pub connect_timeout: Duration,
    pub handshake_timeout: Duration,
    /// The address of the host, instead of asking DNS: one of several behind a name.
    pub via: Option<SocketAddr>,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            via: None,
        }
    }
}

/// Connects to the CAS and says what is wrong, in a status and its explanation.
pub async fn probe(store: &CasTrust, endpoint: &CasEndpoint, options: ProbeOptions) -> ProbeReport {
    let met = meet(endpoint, options).await;
    met.report(endpoint, &[], &store.trusted(), UnixTime::now())
}

/// Connects, performs the handshake, and closes.
pub(super) async fn meet(endpoint: &CasEndpoint, options: ProbeOptions) -> Met {
    let Ok(name) = server_name(endpoint) else {
        return Met::nobody(NetworkTrouble::NotAHost);
    };
    match connect(endpoint, options).await {
        Ok((stream, address)) => shake_hands(endpoint, name, stream, address, options).await,
        Err(trouble) => Met::nobody(trouble),
    }
}

async fn connect(
    endpoint: &CasEndpoint,
    options: ProbeOptions,
) -> Result<(TcpStream, SocketAddr), NetworkTrouble> {
    let mut last = NetworkTrouble::Unresolved {
        reason: "no such name".to_owned(),
    };
    let addresses = match options.via {
        Some(address) => vec![address],
        None => resolve(&endpoint.host, endpoint.port, options.connect_timeout).await?,
    };
    for address in addresses {
        match timeout(options.connect_timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((stream, address)),
            Ok(Err(error)) => last = NetworkTrouble::of_connect(&error),
            Err(_) => last = NetworkTrouble::ConnectTimedOut(options.connect_timeout),
        }
    }
    Err(last)
}

pub(super) async fn resolve(
    host: &str,
    port: u16,
    patience: Duration,
) -> Result<Vec<SocketAddr>, NetworkTrouble> {
    match timeout(patience, lookup_host(host, port)).await {
        Ok(Ok(addresses)) => Ok(addresses.into_iter().take(ADDRESSES_MAX).collect()),
        Ok(Err(error)) => Err(NetworkTrouble::Unresolved {
            reason: error.to_string(),
        }),
        Err(_) => Err(NetworkTrouble::Unresolved {
            reason: format!("DNS did not answer within {} s", patience.as_secs()),
        }),
    }
}

async fn shake_hands(
    endpoint: &CasEndpoint,
    name: ServerName<'static>,
    stream: TcpStream,
    address: SocketAddr,
    options: ProbeOptions,
) -> Met {
    let policy = AlgorithmPolicy::of(endpoint.legacy_algorithms);
    let witness = Arc::new(Witness::default());
    let connector = TlsConnector::from(config_with(witness.clone(), policy));
    let handshake = timeout(options.handshake_timeout, connector.connect(name, stream)).await;
    let mut met = Met {
        sent: witness.sent(),
        address: Some(address),
        session: None,
        trouble: None,
    };
    match handshake {
        Ok(Ok(stream)) => met.session = Some(session_of(stream.get_ref().1)),
        Ok(Err(error)) => met.trouble = Some(trouble_of(error)),
        Err(_) => {
            met.trouble = Some(Trouble::Network(NetworkTrouble::Silent(
                options.handshake_timeout,
            )));
        }
    }
    met
}

fn session_of(connection: &rustls::ClientConnection) -> Session {
    let version = connection.protocol_version();
    let suite = connection.negotiated_cipher_suite();
    Session {
        version: version.map_or_else(String::new, |version| format!("{version:?}")),
        suite: suite.map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
    }
}

fn trouble_of(error: std::io::Error) -> Trouble {
    match error.downcast::<rustls::Error>() {
        Ok(error) => Trouble::Handshake(error),
        Err(error) => Trouble::Network(NetworkTrouble::of_connect(&error)),
    }
}

/// How many addresses of one host are tried.
const ADDRESSES_MAX: usize = 4;
