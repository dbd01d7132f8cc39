//! What all connections of a listener share, and who is at the other end of one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tandem_cluster::NodeId;
use tandem_runtime::io::log_limit::LogLimit;
use tandem_runtime::io::pair_security::PairSecurity;
use tandem_runtime::io::revocation::RevocationWatch;
use tandem_runtime::io::shutdown::Shutdown;
use tandem_runtime::io::sip_stream::{MessageDeadlines, SendLimits};
use tandem_sip::FramerLimits;
use tandem_sip::proxy_protocol::{PeerIdentity, ProxiedConnection, ProxyHeader, Purpose, Transport};
use tokio::sync::mpsc;
use tracing::warn;

use crate::balancer::Shared;
use crate::metrics::Metrics;

use super::node_board::NodeBoard;

/// Bounds and times of byte streams, the same for all connections.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    pub framer: FramerLimits,
    pub deadlines: MessageDeadlines,
    pub client_queue: SendLimits,
    pub node_queue: SendLimits,
    pub connect_timeout: Duration,
    /// Bytes that a node does not acknowledge break its connection after this.
    pub silence_max: Duration,
    /// The same for a client, whose queue ends the connection earlier, and counts it.
    pub client_silence_max: Duration,
    pub idle: Duration,
}

/// What all connections of one listener share.
#[derive(Debug, Clone)]
pub struct ListenerContext {
    pub name: Arc<str>,
    /// Where clients connect to: shown to nodes, who show it to clients.
    pub vip: SocketAddr,
    /// Shown instead of its address.
    pub host_name: Option<String>,
    pub transport: Transport,
    pub balancer: Shared,
    pub streams: Arc<StreamSettings>,
    pub pairs: PairSecurity,
    pub board: Arc<NodeBoard>,
    pub doubts: mpsc::Sender<NodeId>,
    /// What is said of clients, once a minute for each address and reason.
    pub remarks: Arc<LogLimit<(IpAddr, &'static str)>>,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct ClientIdentity {
    pub address: SocketAddr,
    pub connection_id: [u8; 16],
    pub peer: Option<PeerIdentity>,
    /// Over the certificate that it has shown.
    pub revocation: Option<RevocationWatch>,
}

impl ClientIdentity {
    /// Resolves once its certificate is revoked.
    pub async fn revoked(self) {
        match self.revocation {
            Some(watch) => watch.revoked().await,
            None => std::future::pending().await,
        }
    }
}

impl ListenerContext {
    /// Who the client is and where it connected to: nodes show the latter to clients.
    #[must_use]
    pub fn pair_header(&self, identity: &ClientIdentity, purpose: Purpose) -> Vec<u8> {
        let header = ProxyHeader::Proxied(ProxiedConnection {
            source: identity.address,
            destination: self.vip,
            transport: self.transport,
            connection_id: Some(identity.connection_id),
            peer: identity.peer.clone(),
            purpose,
            host_name: self.host_name.clone(),
        });
        header.write()
    }

    /// What is left to do when [`ClientIdentity::revoked`] has resolved is to end the connection.
    pub fn note_revoked(&self, identity: &ClientIdentity) {
        self.metrics.connection_ended(&self.name, "revoked");
        let (client, peer) = (identity.address, &identity.peer);
        warn!(listener = %self.name, %client, ?peer, reason = "revoked", "client certificate revoked; closing the connection");
    }
}
