//! The listener for front ends (LB-5): who is not one of them is not served, and each says first for whom it speaks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use ipnet::IpNet;
use tandem_cluster::ConnectionId;
use tandem_runtime::io::environment;
use tandem_runtime::io::environment::net::{TcpListener, TcpStream};
use tandem_runtime::io::log_limit::LogLimit;
use tandem_runtime::io::pair_security::{PairSecurity, PairStream, has_left};
use tandem_runtime::io::shutdown::Stage;
use tandem_runtime::io::sip_stream::{read_proxy_header, tune_socket};
use tandem_runtime::listed_subjects::is_listed;
use tandem_runtime::source::source_of;
use tandem_sip::proxy_protocol::{PeerIdentity, ProxiedConnection, ProxyHeader, Purpose};
use tokio::io::AsyncReadExt;
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

/// Accepts until the drain stops it.
pub async fn run(
    listener: TcpListener,
    config: Arc<SipConfig>,
    ids: PairIds,
    security: PairSecurity,
    context: ConnectionContext,
) {
    let slots = Arc::new(Semaphore::new(config.connections_max));
    let door = Arc::new(Door {
        config,
        ids,
        security,
        refusals: LogLimit::once_a_minute(),
        context,
    });
    let shutdown = door.context.shutdown.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.reached(Stage::StopAccepting) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(suppressed) = door.refusals.is_due((None, "accept")) {
                    warn!(%error, suppressed, "cannot accept connections from front ends; retrying");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !is_trusted(&door.config.trusted_front_ends, peer) {
            door.refuse(
                peer,
                "not_trusted",
                "the address is not in sip.trusted_front_ends",
            );
            continue;
        }
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            door.context.metrics.connection_refused("too_many");
            continue;
        };
        let door = Arc::clone(&door);
        shutdown.spawn("sip connection", async move {
            door.serve(stream, peer).await;
            drop(slot);
        });
    }
}

/// Who is served, and as whom.
struct Door {
    config: Arc<SipConfig>,
    ids: PairIds,
    security: PairSecurity,
    refusals: LogLimit<(Option<IpAddr>, &'static str)>,
    context: ConnectionContext,
}

impl Door {
    /// Counts a refused connection, and logs it once a minute for each address and reason.
    fn refuse(&self, peer: SocketAddr, reason: &'static str, detail: &str) {
        self.context.metrics.connection_refused(reason);
        if let Some(suppressed) = self.refusals.is_due((Some(source_of(peer.ip())), reason)) {
            warn!(%peer, reason, suppressed, detail, "front-end connection refused");
        }
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = tune_socket(&stream, SILENCE_MAX) {
            return debug!(%peer, %error, "connection closed before it could be served");
        }
        let stopped = self.context.shutdown.reached(Stage::StopAccepting);
        let secured = tokio::select! {
            secured = self.security.from_front_end(stream) => secured,
            () = stopped => return,
        };
        match secured {
            Ok(stream) => self.serve_secured(stream, peer).await,
            // A probe connects and leaves.
            Err(error) if has_left(&error) => {}
            Err(error) => self.refuse(peer, "not_secured", &error.to_string()),
        }
    }

    async fn serve_secured(&self, mut stream: PairStream, peer: SocketAddr) {
        let header = tokio::select! {
            header = read_proxy_header(&mut stream, self.config.proxy_header_timeout) => header,
            () = self.context.shutdown.reached(Stage::StopAccepting) => return,
        };
        let (header, received) = match header {
            Ok(Some(header)) => header,
            // LB-1: a probe, and no mistake.
            Ok(None) => return,
            Err(error) => {
                debug!(%peer, %error, "refused: no PROXY protocol header");
                return self.context.metrics.connection_refused("proxy_header");
            }
        };
        match header {
            ProxyHeader::Proxied(proxied) => self.serve_client(stream, &proxied, &received).await,
            ProxyHeader::Local => hold_probe(stream, &self.context).await,
        }
    }

    async fn serve_client(&self, stream: PairStream, proxied: &ProxiedConnection, received: &BytesMut) {
        if let Some(client) = &proxied.peer
            && !is_listed(client, &self.config.subjects)
        {
            return self.refuse_subject(proxied.source, client);
        }
        let Some(pair) = pair_of(proxied) else {
            return self.context.metrics.connection_refused("purpose");
        };
        let open = OpenPair {
            id: self.ids.next(),
            pair,
            target: None,
        };
        let context = self.context.clone();
        match stream {
            PairStream::Plain(stream) => sip_connection::run(stream, open, received, context).await,
            PairStream::Secured(stream) => sip_connection::run(*stream, open, received, context).await,
        }
    }

    /// The front end has verified who the client is, and lets more in than we do.
    fn refuse_subject(&self, client: SocketAddr, identity: &PeerIdentity) {
        let accepted: Vec<String> = self.config.subjects.iter().map(ToString::to_string).collect();
        let names = identity.names();
        let text = format!("the client's certificate names {names:?}, and sip.subjects are {accepted:?}");
        self.refuse(client, "subject", &text);
    }
}

/// A front end that speaks for itself wants to see us accept, and nothing else.
async fn hold_probe(mut stream: PairStream, context: &ConnectionContext) {
    tokio::select! {
        _ = stream.read_u8() => {}
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
        connection: ConnectionId(proxied.connection_id.unwrap_or_else(environment::random)),
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

    use tandem_runtime::config::PairTransport;
    use tandem_runtime::io::shutdown::Shutdown;
    use tandem_runtime::io::sip_stream::SendLimits;
    use tandem_runtime::listed_subjects::SubjectPattern;
    use tandem_sip::proxy_protocol::{PeerIdentity, Transport};
    use tokio::io::AsyncWriteExt;
    use tokio::sync::mpsc;

    use super::*;
    use crate::io::driver::DriverEvent;
    use crate::metrics::NodeMetrics;

    /// A listener that serves clients of one domain, and what it tells the node.
    async fn listening(security: PairSecurity) -> (SocketAddr, mpsc::Receiver<DriverEvent>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = SipConfig {
            listen: address,
            advertise: address,
            trusted_front_ends: vec!["127.0.0.0/8".parse().unwrap()],
            subjects: vec![SubjectPattern::from_str("*.example.com").unwrap()],
            outbound_front_ends: Vec::new(),
            pairs: PairTransport::Plain,
            connections_max: 10,
            proxy_header_timeout: Duration::from_secs(5),
            send_queue_bytes_max: 65_536,
        };
        let (events, heard) = mpsc::channel(16);
        let context = ConnectionContext {
            events,
            metrics: NodeMetrics::register(&prometheus::Registry::new(), environment::now()),
            shutdown: Shutdown::new(),
            send_limits: SendLimits::default(),
        };
        tokio::spawn(run(
            listener,
            Arc::new(config),
            PairIds::default(),
            security,
            context,
        ));
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
        let DriverEvent::PairOpened { open, .. } = event.unwrap().unwrap() else {
            panic!("no pair was opened")
        };
        open.pair
    }

    /// The front end may let more in than the node wants to serve.
    #[tokio::test]
    async fn only_clients_whose_verified_name_is_listed_are_served() {
        let (address, mut heard) = listening(PairSecurity::Plain).await;
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

    #[test]
    fn who_is_trusted_is_said_for_both_families() {
        let networks: Vec<IpNet> = ["192.0.2.20/32", "2001:db8:1::/48"]
            .map(|text| text.parse().unwrap())
            .into();
        let trusted = |peer: &str| is_trusted(&networks, peer.parse().unwrap());
        for front_end in ["192.0.2.20:1", "[2001:db8:1:2::3]:1", "[::ffff:192.0.2.20]:1"] {
            assert!(trusted(front_end), "{front_end}");
        }
        for stranger in [
            "192.0.2.21:1",
            "[2001:db8:2::1]:1",
            "[::ffff:192.0.2.21]:1",
            "[::1]:1",
        ] {
            assert!(!trusted(stranger), "{stranger}");
        }
    }
}
