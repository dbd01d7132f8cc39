//! Node → client on the node's initiative: the node dials here, and we connect from the VIP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tandem_cluster::NodeId;
use tandem_runtime::io::environment;
use tandem_runtime::io::environment::net::{TcpListener, TcpStream};
use tandem_runtime::io::log_limit::LogLimit;
use tandem_runtime::io::pair_security::{PairSecurity, PairStream, has_left};
use tandem_runtime::io::revocation::RevocationWatch;
use tandem_runtime::io::shutdown::Stage;
use tandem_runtime::io::sip_stream::{Received, SipReader, read_proxy_header, send_queue, tune_socket};
use tandem_runtime::io::sip_tls::SipTls;
use tandem_runtime::io::tls::peer_identity;
use tandem_runtime::source::source_of;
use tandem_sip::proxy_protocol::{PeerIdentity, ProxiedConnection, ProxyHeader, Purpose, Transport};
use tandem_sip::{Frame, RawMessage};
use tokio::io::ReadHalf;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tracing::{debug, info, warn};

use crate::config::OutboundConfig;
use crate::metrics::Side;

use super::admission::Admission;
use super::client_connection::{ClientConnection, ClientIdentity, ListenerContext, StandingNode};

/// The listener that nodes dial.
pub struct OutboundListener {
    pub config: OutboundConfig,
    pub socket: TcpListener,
    /// The listener whose VIP and certificate a connection of each transport shows.
    pub tcp: Option<Arc<ListenerContext>>,
    pub tls: Option<(Arc<ListenerContext>, SipTls)>,
    pub admission: Arc<Admission>,
    pub pairs: PairSecurity,
    /// Connections that have not said yet where they want to go.
    pub silent: Arc<Semaphore>,
    pub refusals: LogLimit<(IpAddr, &'static str)>,
}

/// Why a node's wish is not granted. The label stands in the metrics.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0} is no node and stands in no allow_from")]
    Stranger(IpAddr),
    #[error("no secured connection with a node: {0}")]
    NotSecured(io::Error),
    #[error("the connection does not begin with what an outbound connection begins with")]
    NotOutbound,
    #[error("{0} stands in no allow, or its port not in allow_ports")]
    TargetForbidden(SocketAddr),
    #[error("too many connections of nodes have not said yet where they want to go")]
    TooManySilent,
    #[error("there is no listener for that transport whose address could be shown")]
    NoListener,
    #[error("the limit {0} is reached")]
    Limit(&'static str),
    #[error("it cannot be told which node dials")]
    NodeUnknown,
    #[error("cannot connect to {target}")]
    Unreachable {
        target: SocketAddr,
        #[source]
        source: io::Error,
    },
}

impl OutboundListener {
    /// Accepts until the drain: nodes may have something to say until then.
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
                    if let Some(unsaid) = listener.refusals.is_due((unspecified, "accept")) {
                        warn!(%error, unsaid, "cannot accept an outbound connection");
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

    async fn serve(&self, stream: TcpStream, dialler: SocketAddr) {
        let Some(context) = self.any_context() else { return };
        let outcomes = &context.metrics.outbound_connections;
        match self.connect(stream, dialler).await {
            Ok(None) => {}
            Ok(Some(())) => outcomes.with_label_values(&["connected"]).inc(),
            Err(refusal) => {
                outcomes.with_label_values(&[refusal.label()]).inc();
                let error: &dyn std::error::Error = &refusal;
                if let Some(unsaid) = self.refusals.is_due((source_of(dialler.ip()), refusal.label())) {
                    info!(%dialler, error, unsaid, "an outbound connection is refused");
                }
            }
        }
    }

    /// `None` for a probe.
    async fn connect(&self, stream: TcpStream, dialler: SocketAddr) -> Result<Option<()>, Refusal> {
        let context = self.any_context().ok_or(Refusal::NoListener)?;
        if !self.is_trusted(dialler.ip(), context) {
            return Err(Refusal::Stranger(dialler.ip()));
        }
        let slot = self.silent.try_acquire().map_err(|_| Refusal::TooManySilent)?;
        let nodes: Vec<NodeId> = context.board.table().nodes().map(|node| node.id).collect();
        let secured = self.pairs.from_one_of(&nodes, "node", stream).await;
        let (mut stream, certified) = match secured {
            Ok(secured) => secured,
            // A probe connects and leaves.
            Err(error) if has_left(&error) => return Ok(None),
            Err(error) => return Err(Refusal::NotSecured(error)),
        };
        let header = read_proxy_header(&mut stream, HEADER_TIMEOUT).await;
        let (header, rest) = match header {
            Ok(None) => return Ok(None),
            Ok(Some(header)) => header,
            Err(error) => {
                debug!(%dialler, %error, "no header of an outbound connection");
                return Err(Refusal::NotOutbound);
            }
        };
        let ProxyHeader::Proxied(wish) = header else {
            return Err(Refusal::NotOutbound);
        };
        let Purpose::Outbound { server_name } = &wish.purpose else {
            return Err(Refusal::NotOutbound);
        };
        let context = self.context_for(&wish)?;
        let target = wish.destination;
        if !self.may_be_reached(target) {
            return Err(Refusal::TargetForbidden(target));
        }
        let admitted = self.admission.admit(target.ip()).map_err(Refusal::Limit)?;
        let standing = identify(&context, stream, &wish, &rest).await?;
        if certified.is_some_and(|certified| certified != standing.node) {
            return Err(Refusal::NodeUnknown);
        }
        drop(slot);
        let name = server_name.clone();
        let unreachable = |source| Refusal::Unreachable { target, source };
        let client = tokio::time::timeout(CONNECT_TIMEOUT, self.dial(target, wish.transport, name))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(unreachable)?;
        let connection_id = wish.connection_id.unwrap_or_else(environment::random);
        let identity = ClientIdentity {
            address: target,
            connection_id,
            peer: client.peer(),
            revocation: client.revocation(self.tls.as_ref().map(|(_, tls)| tls)),
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

    fn is_trusted(&self, dialler: IpAddr, context: &ListenerContext) -> bool {
        let table = context.board.table();
        table.nodes().any(|node| node.address.ip() == dialler)
            || self
                .config
                .allow_from
                .iter()
                .any(|network| network.contains(&dialler))
    }

    fn context_for(&self, wish: &ProxiedConnection) -> Result<Arc<ListenerContext>, Refusal> {
        let context = match wish.transport {
            Transport::Tcp => self.tcp.as_ref(),
            Transport::Tls => self.tls.as_ref().map(|(context, _)| context),
        };
        context.cloned().ok_or(Refusal::NoListener)
    }

    async fn dial(
        &self,
        target: SocketAddr,
        transport: Transport,
        name: Option<String>,
    ) -> io::Result<Dialled> {
        let stream = TcpStream::connect_from(Some(self.config.source_address), target).await?;
        tune_socket(&stream, SILENCE_MAX)?;
        match (transport, &self.tls) {
            (Transport::Tls, Some((_, tls))) => secure(tls.client(), stream, target, name).await,
            (Transport::Tcp | Transport::Tls, _) => Ok(Dialled::Plain(stream)),
        }
    }
}

/// The connection to the client.
enum Dialled {
    Plain(TcpStream),
    Secured {
        stream: Box<tokio_rustls::client::TlsStream<TcpStream>>,
        peer: PeerIdentity,
    },
}

impl Dialled {
    fn revocation(&self, tls: Option<&SipTls>) -> Option<RevocationWatch> {
        match self {
            Self::Plain(_) => None,
            Self::Secured { stream, .. } => Some(tls?.watch_over(stream.get_ref().1.peer_certificates()?)),
        }
    }

    fn peer(&self) -> Option<PeerIdentity> {
        match self {
            Self::Plain(_) => None,
            Self::Secured { peer, .. } => Some(peer.clone()),
        }
    }
}

async fn secure(
    config: Arc<ClientConfig>,
    stream: TcpStream,
    target: SocketAddr,
    name: Option<String>,
) -> io::Result<Dialled> {
    let name = match name {
        Some(name) => ServerName::try_from(name).map_err(|_| io::ErrorKind::InvalidInput)?,
        None => ServerName::IpAddress(target.ip().into()),
    };
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let peer = certificate
        .and_then(|certificate| peer_identity(certificate).ok())
        .unwrap_or_default();
    Ok(Dialled::Secured {
        stream: Box::new(stream),
        peer,
    })
}

/// Which node dials: by the source in its header, if that is its SIP listener, else by the branch of the Via on its
/// first message.
async fn identify(
    context: &ListenerContext,
    stream: PairStream,
    wish: &ProxiedConnection,
    rest: &[u8],
) -> Result<StandingNode<ReadHalf<PairStream>>, Refusal> {
    let streams = &context.streams;
    let counters = context.metrics.stream_counters(Side::Node);
    let (read, write) = tokio::io::split(stream);
    let (sender, writer) = send_queue(write, &streams.node_queue, counters.clone());
    tokio::spawn(writer.run());
    let mut reader =
        SipReader::new(read, streams.framer, streams.deadlines.clone(), counters).with_bytes(rest);
    let table = context.board.table();
    let (node, first_message) = match table.by_address(wish.source) {
        Some(node) => (node.id, None),
        None => {
            let message = first_message(&mut reader).await.ok_or(Refusal::NodeUnknown)?;
            let node = message.via_branch().and_then(NodeId::from_branch);
            let node = node
                .filter(|&node| table.node(node).is_some())
                .ok_or(Refusal::NodeUnknown)?;
            (node, Some(message))
        }
    };
    Ok(StandingNode {
        node,
        reader,
        sender,
        first_message,
    })
}

async fn first_message(reader: &mut SipReader<ReadHalf<PairStream>>) -> Option<RawMessage> {
    match tokio::time::timeout(HEADER_TIMEOUT, reader.next()).await {
        Ok(Received::Frame(Frame::Message(message))) => Some(message),
        Ok(_) | Err(_) => None,
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
/// Of all nodes together: each says it at once.
pub const SILENT_MAX: usize = 1_024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const SILENCE_MAX: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
