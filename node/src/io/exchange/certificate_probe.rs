//! Probes a live CAS: whether it is reachable, speaks TLS, and what is wrong with its certificate.
//!
//! Accepts every certificate, so that a bad chain can be seen in full, and sends nothing: no account, no request. The
//! server must still prove that it holds its key.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::Serialize;
use tandem_certificate::{AlgorithmPolicy, Certificate, Status};
use tandem_cluster::CasEndpoint;
use tandem_runtime::io::environment::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::trust::{GatewayTrust, server_name};
use super::verifier::config_with;
use tandem_exchange::certificate::{
    Diagnosis, NetworkTrouble, Presented, SENT_MAX, diagnose, explain_handshake,
};

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

/// CAL-7's first test: a connection to the very port, which firewalls let through when it matters, instead of a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reachability {
    Pingable,
    Unreachable,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbeReport {
    pub host: String,
    pub port: u16,
    pub reachability: Reachability,
    pub address: Option<SocketAddr>,
    /// As `TLSv1_3`.
    pub tls_version: Option<String>,
    pub cipher_suite: Option<String>,
    #[serde(flatten)]
    pub diagnosis: Diagnosis,
}

/// Connects to the CAS and says what is wrong, in [`Diagnosis::status`] and its explanation.
pub async fn probe(store: &GatewayTrust, endpoint: &CasEndpoint, options: ProbeOptions) -> ProbeReport {
    let met = meet(endpoint, options).await;
    met.report(store, endpoint, &[])
}

/// The findings of one connection.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) sent: Vec<CertificateDer<'static>>,
    address: Option<SocketAddr>,
    session: Option<Session>,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Session {
    version: String,
    suite: String,
}

#[derive(Debug)]
enum Trouble {
    Network(NetworkTrouble),
    Handshake(rustls::Error),
}

impl Met {
    fn nobody(trouble: NetworkTrouble) -> Self {
        Self {
            sent: Vec::new(),
            address: None,
            session: None,
            trouble: Some(Trouble::Network(trouble)),
        }
    }

    /// `fetched` are issuers that the server did not send.
    pub(super) fn report(
        self,
        store: &GatewayTrust,
        endpoint: &CasEndpoint,
        fetched: &[Certificate],
    ) -> ProbeReport {
        let diagnosis = self.diagnosis(store, endpoint, fetched);
        let reachability = match self.address {
            Some(_) => Reachability::Pingable,
            None => Reachability::Unreachable,
        };
        let (tls_version, cipher_suite) = match self.session {
            Some(session) => (Some(session.version), Some(session.suite)),
            None => (None, None),
        };
        ProbeReport {
            host: endpoint.host.clone(),
            port: endpoint.port,
            reachability,
            address: self.address,
            tls_version,
            cipher_suite,
            diagnosis,
        }
    }

    /// A certificate that is not accepted explains more than the end of the handshake.
    fn diagnosis(&self, store: &GatewayTrust, endpoint: &CasEndpoint, fetched: &[Certificate]) -> Diagnosis {
        let of_certificate = self.presented(endpoint).map(|presented| {
            let policy = AlgorithmPolicy::of(endpoint.legacy_algorithms);
            diagnose(presented, fetched, &store.trusted(), policy, UnixTime::now())
        });
        let (status, explanation) = match (&of_certificate, &self.trouble) {
            (Some(diagnosis), _) if diagnosis.status != Status::Verified => return diagnosis.clone(),
            (Some(diagnosis), None) => return diagnosis.clone(),
            (_, Some(trouble)) => trouble.explain(endpoint),
            (None, None) => (Status::Failed, format!("{} sent no certificate.", endpoint.host)),
        };
        let chain = of_certificate.map(|diagnosis| diagnosis.chain);
        Diagnosis {
            chain: chain.unwrap_or_default(),
            ..Diagnosis::without_certificates(status, explanation)
        }
    }

    pub(super) fn presented<'a>(&'a self, endpoint: &'a CasEndpoint) -> Option<Presented<'a>> {
        let (leaf, intermediates) = self.sent.split_first()?;
        Some(Presented {
            host: &endpoint.host,
            leaf,
            intermediates,
        })
    }
}

impl Trouble {
    fn explain(&self, endpoint: &CasEndpoint) -> (Status, String) {
        match self {
            Self::Network(trouble) => (trouble.status(), trouble.explain(&endpoint.host, endpoint.port)),
            Self::Handshake(error) => explain_handshake(error, &endpoint.host),
        }
    }
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
    let witness = Arc::new(Witness {
        policy,
        sent: OnceLock::new(),
    });
    let connector = TlsConnector::from(config_with(witness.clone(), policy));
    let handshake = timeout(options.handshake_timeout, connector.connect(name, stream)).await;
    let mut met = Met {
        sent: witness.sent.get().cloned().unwrap_or_default(),
        address: Some(address),
        session: None,
        trouble: None,
    };
    match handshake {
        Ok(Ok(stream)) => met.session = Some(Session::of(stream.get_ref().1)),
        Ok(Err(error)) => met.trouble = Some(trouble_of(error)),
        Err(_) => {
            met.trouble = Some(Trouble::Network(NetworkTrouble::Silent(
                options.handshake_timeout,
            )));
        }
    }
    met
}

impl Session {
    fn of(connection: &rustls::ClientConnection) -> Self {
        let version = connection.protocol_version();
        let suite = connection.negotiated_cipher_suite();
        Self {
            version: version.map_or_else(String::new, |version| format!("{version:?}")),
            suite: suite.map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
        }
    }
}

fn trouble_of(error: std::io::Error) -> Trouble {
    match error.downcast::<rustls::Error>() {
        Ok(error) => Trouble::Handshake(error),
        Err(error) => Trouble::Network(NetworkTrouble::of_connect(&error)),
    }
}

/// Records what the server sent and accepts it.
#[derive(Debug)]
struct Witness {
    policy: AlgorithmPolicy,
    sent: OnceLock<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut sent = vec![end_entity.clone().into_owned()];
        let others = intermediates.iter().take(SENT_MAX);
        sent.extend(others.map(|certificate| certificate.clone().into_owned()));
        self.sent.get_or_init(|| sent);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.policy.signature_algorithms(),
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.policy.signature_algorithms(),
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.policy.signature_algorithms().supported_schemes()
    }
}

/// How many addresses of one host are tried.
const ADDRESSES_MAX: usize = 4;
