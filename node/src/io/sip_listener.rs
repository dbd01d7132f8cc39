//! The listener for front ends (LB-5): who is not one of them is not served, and each says first for whom it speaks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use ipnet::IpNet;
use tandem_shared::cluster::ConnectionId;
use tandem_shared::io::log_limit::LogLimit;
use tandem_shared::io::shutdown::Stage;
use tandem_shared::io::sip_stream::{read_proxy_header, tune_socket};
use tandem_shared::proxy_protocol::{ProxiedConnection, ProxyHeader, Purpose};
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

/// Accepts until the drain stops it.
pub async fn run(listener: TcpListener, config: Arc<SipConfig>, ids: PairIds, context: ConnectionContext) {
    let refusals = LogLimit::once_a_minute();
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
        let shutdown = context.shutdown.clone();
        shutdown.spawn("sip connection", async move {
            serve(stream, peer, &config, &ids, context).await;
            drop(slot);
        });
    }
}

async fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    config: &SipConfig,
    ids: &PairIds,
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
        ProxyHeader::Proxied(proxied) => match pair_of(&proxied) {
            Some(pair) => start(stream, pair, &received, ids, context).await,
            None => context.metrics.connection_refused("purpose"),
        },
        ProxyHeader::Local => hold_probe(stream, context).await,
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
