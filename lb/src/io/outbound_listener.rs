//! The outbound listener: nodes connect to it to have the front end connect to a client from the VIP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tandem_cluster::NodeId;
use tandem_runtime::io::environment;
use tandem_runtime::io::environment::net::{TcpListener, TcpStream};
use tandem_runtime::io::log_limit::LogLimit;
use tandem_runtime::io::pair_security::{PairSecurity, has_left};
use tandem_runtime::io::shutdown::Stage;
use tandem_runtime::io::sip_stream::read_proxy_header;
use tandem_runtime::io::sip_tls::SipTls;
use tandem_runtime::source::source_of;
use tandem_sip::proxy_protocol::{ProxiedConnection, ProxyHeader, Purpose, Transport};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use crate::config::OutboundConfig;

use super::admission::Admission;
use super::client_connection::ClientConnection;
use super::dialled_client::Dialled;
use super::listener_context::{ClientIdentity, ListenerContext};
use super::standing_node::identify;

/// The listener that nodes connect to.
pub struct OutboundListener {
    pub config: OutboundConfig,
    pub socket: TcpListener,
    /// The listener whose VIP (and certificate, for TLS) connections to clients show, by transport.
    pub tcp: Option<Arc<ListenerContext>>,
    pub tls: Option<(Arc<ListenerContext>, SipTls)>,
    pub admission: Arc<Admission>,
    pub pairs: PairSecurity,
    /// Limits the connections whose PROXY protocol header has not arrived yet.
    pub silent: Arc<Semaphore>,
    pub refusals: LogLimit<(IpAddr, &'static str)>,
}

/// Why an outbound connection is not established.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0} is neither the address of a node nor in outbound.allow_from")]
    Stranger(IpAddr),
    #[error("TLS with the node failed: {0}")]
    NotSecured(io::Error),
    #[error("the connection does not begin with the PROXY protocol header of an outbound connection")]
    NotOutbound,
    #[error("{0} is not allowed by outbound.allow and outbound.allow_ports")]
    TargetForbidden(SocketAddr),
    #[error("too many node connections have not sent their PROXY protocol header yet")]
    TooManySilent,
    #[error("no message-mode listener has the requested transport, so there is no VIP to show to the client")]
    NoListener,
    #[error("limit {0} reached")]
    Limit(&'static str),
    #[error("cannot tell which node opened the connection")]
    NodeUnknown,
    #[error("cannot connect to {target}")]
    Unreachable {
        target: SocketAddr,
        #[source]
        source: io::Error,
    },
}

impl OutboundListener {
    /// Accepts connections until the process stops accepting: nodes may need to reach clients until then.
    pub async fn run(self) {
        let listener = Arc::new(self);
        let Some(context) = listener.any_context().cloned() else {
            return;
        };
        loop {
            let accepted = tokio::select! {
                accepted = listener.socket.accept() => accepted,
                () = context.shutdown.reached(Stage::StopAccepting) => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let listener = Arc::clone(&listener);
                    context.shutdown.spawn("outbound connection", async move {
                        listener.serve(stream, address).await;
                    });
                }
                Err(error) => {
                    context.metrics.limit_reached("accept");
                    let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                    if let Some(suppressed) = listener.refusals.is_due((unspecified, "accept")) {
                        warn!(%error, suppressed, "cannot accept connections on the outbound listener; retrying");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn any_context(&self) -> Option<&Arc<ListenerContext>> {
        self.tcp
            .as_ref()
            .or_else(|| self.tls.as_ref().map(|(context, _)| context))
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        let Some(context) = self.any_context() else { return };
        let outcomes = &context.metrics.outbound_connections;
        match self.connect(stream, peer).await {
            Ok(None) => {}
            Ok(Some(())) => outcomes.with_label_values(&["connected"]).inc(),
            Err(refusal) => {
                outcomes.with_label_values(&[refusal.label()]).inc();
                let error: &dyn std::error::Error = &refusal;
                if let Some(suppressed) = self.refusals.is_due((source_of(peer.ip()), refusal.label())) {
                    info!(%peer, error, suppressed, "outbound connection not established");
                }
            }
        }
    }

    /// Serves a node's connection until it ends; `None` for a probe.
    async fn connect(&self, stream: TcpStream, peer: SocketAddr) -> Result<Option<()>, Refusal> {
        let context = self.any_context().ok_or(Refusal::NoListener)?;
        if !self.is_trusted(peer.ip(), context) {
            return Err(Refusal::Stranger(peer.ip()));
        }
        let slot = self.silent.try_acquire().map_err(|_| Refusal::TooManySilent)?;
        let nodes: Vec<NodeId> = context.board.table().nodes().map(|node| node.id).collect();
        let secured = self.pairs.from_one_of(&nodes, "node", stream).await;
        let (mut stream, certified) = match secured {
            Ok(secured) => secured,
            // A probe connects and closes without sending anything.
            Err(error) if has_left(&error) => return Ok(None),
            Err(error) => return Err(Refusal::NotSecured(error)),
        };
        let header = read_proxy_header(&mut stream, HEADER_TIMEOUT).await;
        let (header, rest) = match header {
            Ok(None) => return Ok(None),
            Ok(Some(header)) => header,
            Err(error) => {
                debug!(%peer, %error, "invalid PROXY protocol header on the outbound listener");
                return Err(Refusal::NotOutbound);
            }
        };
        let ProxyHeader::Proxied(wanted) = header else {
            return Err(Refusal::NotOutbound);
        };
        let Purpose::Outbound { server_name } = &wanted.purpose else {
            return Err(Refusal::NotOutbound);
        };
        let context = self.context_for(&wanted)?;
        let target = wanted.destination;
        if !self.may_be_reached(target) {
            return Err(Refusal::TargetForbidden(target));
        }
        let admitted = self.admission.admit(target.ip()).map_err(Refusal::Limit)?;
        let standing = identify(&context, stream, &wanted, &rest)
            .await
            .ok_or(Refusal::NodeUnknown)?;
        if certified.is_some_and(|certified| certified != standing.node) {
            return Err(Refusal::NodeUnknown);
        }
        drop(slot);
        let name = server_name.clone();
        let unreachable = |source| Refusal::Unreachable { target, source };
        let tls = self.tls.as_ref().map(|(_, tls)| tls);
        let secured_by = tls.filter(|_| wanted.transport == Transport::Tls);
        let client = Dialled::connect(self.config.source_address, target, secured_by, name)
            .await
            .map_err(unreachable)?;
        let connection_id = wanted.connection_id.unwrap_or_else(environment::random);
        let identity = ClientIdentity {
            address: target,
            connection_id,
            peer: client.peer(),
            revocation: client.revocation(tls),
        };
        match client {
            Dialled::Plain(stream) => {
                ClientConnection::run_with(context, identity, stream, admitted, Some(standing)).await;
            }
            Dialled::Secured { stream, .. } => {
                ClientConnection::run_with(context, identity, *stream, admitted, Some(standing)).await;
            }
        }
        Ok(Some(()))
    }

    fn may_be_reached(&self, target: SocketAddr) -> bool {
        let mut networks = self.config.allow.iter();
        networks.any(|network| network.contains(&target.ip()))
            && self.config.allow_ports.contains(&target.port())
    }

    fn is_trusted(&self, peer: IpAddr, context: &ListenerContext) -> bool {
        let table = context.board.table();
        table.nodes().any(|node| node.address.ip() == peer)
            || self
                .config
                .allow_from
                .iter()
                .any(|network| network.contains(&peer))
    }

    fn context_for(&self, wanted: &ProxiedConnection) -> Result<Arc<ListenerContext>, Refusal> {
        let context = match wanted.transport {
            Transport::Tcp => self.tcp.as_ref(),
            Transport::Tls => self.tls.as_ref().map(|(context, _)| context),
        };
        context.cloned().ok_or(Refusal::NoListener)
    }
}

impl Refusal {
    fn label(&self) -> &'static str {
        match self {
            Self::Stranger(_) => "stranger",
            Self::NotSecured(_) => "not_secured",
            Self::NotOutbound => "not_outbound",
            Self::TargetForbidden(_) => "target_forbidden",
            Self::TooManySilent => "too_many_silent",
            Self::NoListener => "no_listener",
            Self::Limit(_) => "limit",
            Self::NodeUnknown => "node_unknown",
            Self::Unreachable { .. } => "unreachable",
        }
    }
}

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections of all nodes together whose header has not arrived yet; nodes send it at once.
pub const SILENT_MAX: usize = 1_024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
