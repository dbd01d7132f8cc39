//! State shared by all connections of a listener, and the identity of a client.

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

/// Limits and timeouts of byte streams, the same for all connections.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    pub framer: FramerLimits,
    pub deadlines: MessageDeadlines,
    pub client_queue: SendLimits,
    pub node_queue: SendLimits,
    pub connect_timeout: Duration,
    /// A connection to a node is broken when it acknowledges no sent byte for this long.
    pub silence_max: Duration,
    /// The same for clients; the send queue closes the connection earlier, and counts it.
    pub client_silence_max: Duration,
    pub idle: Duration,
}

/// State shared by all connections of one listener.
#[derive(Debug, Clone)]
pub struct ListenerContext {
    pub name: Arc<str>,
    /// The address clients connect to, passed to nodes, which show it to clients.
    pub vip: SocketAddr,
    /// Shown to clients instead of the VIP.
    pub host_name: Option<String>,
    pub transport: Transport,
    pub balancer: Shared,
    pub streams: Arc<StreamSettings>,
    pub pairs: PairSecurity,
    pub board: Arc<NodeBoard>,
    pub doubts: mpsc::Sender<NodeId>,
    /// Limits log lines about clients to one a minute for each address and reason.
    pub log_limit: Arc<LogLimit<(IpAddr, &'static str)>>,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
}

/// The identity of a client.
#[derive(Debug, Clone)]
pub struct ClientIdentity {
    pub address: SocketAddr,
    pub connection_id: [u8; 16],
    pub peer: Option<PeerIdentity>,
    /// Watches for the revocation of the certificate that the client presented.
    pub revocation: Option<RevocationWatch>,
}

impl ClientIdentity {
    /// Resolves once the client's certificate is revoked; never without a certificate.
    pub async fn revoked(self) {
        match self.revocation {
            Some(watch) => watch.revoked().await,
            None => std::future::pending().await,
        }
    }
}

impl ListenerContext {
    /// The PROXY protocol header of a pair: who the client is, and the VIP it connected to, which nodes show to clients.
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

    /// Counts and logs a connection that ends because [`ClientIdentity::revoked`] has resolved.
    pub fn note_revoked(&self, identity: &ClientIdentity) {
        self.metrics.connection_ended(&self.name, "revoked");
        let (client, peer) = (identity.address, &identity.peer);
        warn!(listener = %self.name, %client, ?peer, reason = "revoked", "client certificate revoked; closing the connection");
    }
}
