//! What one connection to a CAS showed of its certificate, and what is wrong with it.

use std::net::SocketAddr;

use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Serialize;
use tandem_certificate::{AlgorithmPolicy, Certificate, Status, Trusted};
use tandem_cluster::CasEndpoint;

use super::{Diagnosis, NetworkTrouble, Presented, diagnose, explain_handshake};

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

/// The findings of one connection.
#[derive(Debug)]
pub struct Met {
    /// Certificates, the server's own first.
    pub sent: Vec<CertificateDer<'static>>,
    pub address: Option<SocketAddr>,
    pub session: Option<Session>,
    pub trouble: Option<Trouble>,
}

/// What a handshake agreed on.
#[derive(Debug)]
pub struct Session {
    /// As `TLSv1_3`.
    pub version: String,
    pub suite: String,
}

/// Why there was no session.
#[derive(Debug)]
pub enum Trouble {
    Network(NetworkTrouble),
    Handshake(rustls::Error),
}

impl Met {
    /// No connection could be made.
    #[must_use]
    pub fn nobody(trouble: NetworkTrouble) -> Self {
        Self {
            sent: Vec::new(),
            address: None,
            session: None,
            trouble: Some(Trouble::Network(trouble)),
        }
    }

    /// `fetched` are issuers that the server did not send.
    #[must_use]
    pub fn report(
        self,
        endpoint: &CasEndpoint,
        fetched: &[Certificate],
        trusted: &Trusted,
        now: UnixTime,
    ) -> ProbeReport {
        let diagnosis = self.diagnosis(endpoint, fetched, trusted, now);
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
    fn diagnosis(
        &self,
        endpoint: &CasEndpoint,
        fetched: &[Certificate],
        trusted: &Trusted,
        now: UnixTime,
    ) -> Diagnosis {
        let of_certificate = self.presented(endpoint).map(|presented| {
            let policy = AlgorithmPolicy::of(endpoint.legacy_algorithms);
            diagnose(presented, fetched, trusted, policy, now)
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

    /// What is to be verified; `None`: the server sent no certificate.
    #[must_use]
    pub fn presented<'a>(&'a self, endpoint: &'a CasEndpoint) -> Option<Presented<'a>> {
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
