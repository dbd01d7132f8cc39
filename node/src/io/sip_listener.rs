//! The listener for front ends (LB-5): who is not one of them is not served, and each says first for whom it speaks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use ipnet::IpNet;
use tandem_shared::cluster::ConnectionId;
use tandem_shared::io::log_limit::LogLimit;
use tandem_shared::io::shutdown::Stage;
use tandem_shared::io::sip_stream::{read_proxy_header, tune_socket};
use tandem_shared::io::sip_tls::is_listed;
use tandem_shared::proxy_protocol::{PeerIdentity, ProxiedConnection, ProxyHeader, Purpose};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::config::SipConfig;
use crate::gateway::{Pair, PairId, PairPurpose};

use super::sip_connection::{self, ConnectionContext, OpenPair};

/// Numbers connections, those that we dial among them.
#[derive(Debug, Clone, Default)]
pub struct PairIds(Arc<AtomicU64>);

impl PairIds {
    #[must_use]
    pub fn next(&self) -> PairId {
        PairId(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// What is said of whom we refuse, once a minute for each address and reason.
type Refusals = LogLimit<(Option<IpAddr>, &'static str)>;

/// Accepts until the drain stops it.
pub async fn run(listener: TcpListener, config: Arc<SipConfig>, ids: PairIds, context: ConnectionContext) {
    let refusals = Arc::new(Refusals::once_a_minute());
    let slots = Arc::new(Semaphore::new(config.connections_max));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = context.shutdown.reached(Stage::StopAccepting) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(unsaid) = refusals.is_due((None, "accept")) {
                    warn!(%error, unsaid, "cannot accept a connection of a front end");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !is_trusted(&config.trusted_front_ends, peer) {
            if let Some(unsaid) = refusals.is_due((Some(peer.ip()), "not_trusted")) {
                warn!(%peer, unsaid, "refused: not among sip.trusted_front_ends");
            }
            context.metrics.connection_refused("not_trusted");
            continue;
        }
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            context.metrics.connection_refused("too_many");
            continue;
        };
        let (config, ids, context) = (config.clone(), ids.clone(), context.clone());
        let (shutdown, refusals) = (context.shutdown.clone(), Arc::clone(&refusals));
        shutdown.spawn("sip connection", async move {
            serve(stream, peer, &config, &ids, &refusals, context).await;
            drop(slot);
        });
    }
}

async fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    config: &SipConfig,
    ids: &PairIds,
    refusals: &Refusals,
    context: ConnectionContext,
) {
    if let Err(error) = tune_socket(&stream, SILENCE_MAX) {
        return debug!(%peer, %error, "a connection ended at once");
    }
    let header = tokio::select! {
        header = read_proxy_header(&mut stream, config.proxy_header_timeout) => header,
        () = context.shutdown.reached(Stage::StopAccepting) => return,
    };
    let (header, received) = match header {
        Ok(Some(header)) => header,
        // LB-1: a probe, and no mistake.
        Ok(None) => return,
        Err(error) => {
            debug!(%peer, %error, "refused: no PROXY protocol header");
            return context.metrics.connection_refused("proxy_header");
        }
    };
    match header {
        ProxyHeader::Proxied(proxied) => {
            if let Some(client) = &proxied.peer
                && !is_listed(client, &config.subjects)
            {
                refuse_subject(&proxied, client, config, refusals);
                return context.metrics.connection_refused("subject");
            }
            match pair_of(&proxied) {
                Some(pair) => start(stream, pair, &received, ids, context).await,
                None => context.metrics.connection_refused("purpose"),
            }
        }
        ProxyHeader::Local => hold_probe(stream, context).await,
    }
}

/// The front end has verified who the client is, and lets more in than we do.
fn refuse_subject(
    proxied: &ProxiedConnection,
    client: &PeerIdentity,
    config: &SipConfig,
    refusals: &Refusals,
) {
    if let Some(unsaid) = refusals.is_due((Some(proxied.source.ip()), "subject")) {
        let accepted: Vec<String> = config.subjects.iter().map(ToString::to_string).collect();
        let seen = client.names();
        warn!(client = %proxied.source, ?seen, ?accepted, unsaid, "refused: the client is not among sip.subjects");
    }
}

async fn start(
    stream: TcpStream,
    pair: Pair,
    received: &BytesMut,
    ids: &PairIds,
    context: ConnectionContext,
) {
    let open = OpenPair {
        id: ids.next(),
        pair,
        target: None,
    };
    sip_connection::run(stream, open, received, context).await;
}

/// A front end that speaks for itself wants to see us accept, and nothing else.
async fn hold_probe(stream: TcpStream, context: ConnectionContext) {
    tokio::select! {
        _ = stream.readable() => {}
        () = context.shutdown.reached(Stage::StopAccepting) => {}
        () = tokio::time::sleep(PROBE_MAX) => {}
    }
}

/// The first name of a verified client.
fn subject_of(proxied: &ProxiedConnection) -> Option<String> {
    let names = proxied.peer.as_ref()?.names();
    names.first().map(|name| (*name).to_owned())
}

fn pair_of(proxied: &ProxiedConnection) -> Option<Pair> {
    let purpose = match &proxied.purpose {
        Purpose::Pair => PairPurpose::Pair,
        Purpose::Resent => PairPurpose::Resent,
        Purpose::Outbound { .. } => return None,
    };
    Some(Pair {
        purpose,
        connection: ConnectionId(proxied.connection_id.unwrap_or_else(rand::random)),
        client: proxied.source,
        local: proxied.destination,
        host_name: proxied.host_name.clone(),
        subject: subject_of(proxied),
        transport: proxied.transport,
    })
}

fn is_trusted(networks: &[IpNet], peer: SocketAddr) -> bool {
    let address = peer.ip().to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Data that a front end does not acknowledge for so long breaks the connection.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const PROBE_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::str::FromStr;
    use std::time::Instant;

    use tandem_shared::io::shutdown::Shutdown;
    use tandem_shared::io::sip_stream::SendLimits;
    use tandem_shared::io::sip_tls::SubjectPattern;
    use tandem_shared::proxy_protocol::{PeerIdentity, Transport};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::mpsc;

    use super::*;
    use crate::io::driver::DriverEvent;
    use crate::metrics::NodeMetrics;

    /// A listener that serves clients of one domain, and what it tells the node.
    async fn listening() -> (SocketAddr, mpsc::Receiver<DriverEvent>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = SipConfig {
            listen: address,
            advertise: address,
            trusted_front_ends: vec!["127.0.0.0/8".parse().unwrap()],
            subjects: vec![SubjectPattern::from_str("*.example.com").unwrap()],
            outbound_front_ends: Vec::new(),
            connections_max: 10,
            proxy_header_timeout: Duration::from_secs(5),
            send_queue_bytes_max: 65_536,
        };
        let (events, heard) = mpsc::channel(16);
        let context = ConnectionContext {
            events,
            metrics: NodeMetrics::register(&prometheus::Registry::new(), Instant::now()),
            shutdown: Shutdown::new(),
            send_limits: SendLimits::default(),
        };
        tokio::spawn(run(listener, Arc::new(config), PairIds::default(), context));
        (address, heard)
    }

    async fn connect(address: SocketAddr, subject: Option<&str>, host_name: Option<&str>) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let header = ProxyHeader::Proxied(ProxiedConnection {
            source: "192.0.2.7:50123".parse().unwrap(),
            destination: "192.0.2.1:5062".parse().unwrap(),
            transport: if subject.is_some() {
                Transport::Tls
            } else {
                Transport::Tcp
            },
            connection_id: None,
            peer: subject.map(|name| PeerIdentity {
                common_name: Some(name.to_owned()),
                subject_alternative_names: Vec::new(),
            }),
            purpose: Purpose::Pair,
            host_name: host_name.map(ToOwned::to_owned),
        });
        stream.write_all(&header.write()).await.unwrap();
        stream
    }

    async fn opened(heard: &mut mpsc::Receiver<DriverEvent>) -> Pair {
        let event = tokio::time::timeout(Duration::from_secs(10), heard.recv()).await;
        match event.unwrap().unwrap() {
            DriverEvent::PairOpened { open, .. } => open.pair,
            other => panic!("{other:?}"),
        }
    }

    /// The front end may let more in than the node wants to serve.
    #[tokio::test]
    async fn only_clients_whose_verified_name_is_listed_are_served() {
        let (address, mut heard) = listening().await;
        let mut stranger = connect(address, Some("ocs.elsewhere.com"), None).await;
        assert_eq!(stranger.read(&mut [0; 16]).await.unwrap(), 0);
        let _listed = connect(address, Some("ocs.example.com"), Some("rcc.example.com")).await;
        let pair = opened(&mut heard).await;
        assert_eq!(pair.subject.as_deref(), Some("ocs.example.com"));
        assert_eq!(pair.local_target(), "sip:rcc.example.com:5062;transport=tls");
        let _plain = connect(address, None, None).await;
        assert_eq!(
            opened(&mut heard).await.local_target(),
            "sip:192.0.2.1:5062;transport=tcp"
        );
    }
}
