//! Connections towards clients that we dial, through a front end, when none of theirs stands.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tandem_cluster::ConnectionId;
use tandem_runtime::io::environment;
use tandem_runtime::io::environment::net::{TcpStream, lookup_host};
use tandem_runtime::io::pair_security::{PairSecurity, PairStream};
use tandem_runtime::io::sip_stream::tune_socket;
use tandem_sip::proxy_protocol::{ProxiedConnection, ProxyHeader, Purpose};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::gateway::{Input, OutboundTarget, Pair, PairId, PairPurpose};

use super::driver::DriverEvent;
use super::sip_connection::{self, ConnectionContext, OpenPair};

/// The way towards clients.
#[derive(Debug, Clone)]
pub struct OutboundRoute {
    /// The outbound listeners of the front ends, to be tried in turn.
    pub front_ends: Vec<SocketAddr>,
    /// They know nodes by the address of their SIP listener, so that is where we dial from.
    pub source: IpAddr,
    pub security: PairSecurity,
}

impl OutboundRoute {
    /// Begins to connect to the target; what comes of it is an event of `context`.
    pub(super) fn dial(&self, target: OutboundTarget, id: PairId, context: &ConnectionContext) {
        let dialled = run(target, self.clone(), id, context.clone());
        context.shutdown.spawn("outbound connection", dialled);
    }
}

/// Resolves the target, asks one front end after the other to connect there, and serves the connection.
async fn run(target: OutboundTarget, route: OutboundRoute, id: PairId, context: ConnectionContext) {
    match dial(&target, &route).await {
        Ok((stream, pair)) => {
            info!(
                host = target.host,
                port = target.port,
                "connected towards a client"
            );
            let open = OpenPair {
                id,
                pair,
                target: Some(target),
            };
            sip_connection::run(stream, open, &[], context).await;
        }
        Err(error) => {
            warn!(host = target.host, port = target.port, %error, "cannot connect towards a client");
            let failed = DriverEvent::Gateway(Input::OutboundFailed { target });
            // The loop may be gone already.
            let _ = context.events.send(failed).await;
        }
    }
}

async fn dial(target: &OutboundTarget, route: &OutboundRoute) -> io::Result<(PairStream, Pair)> {
    let destination = timeout(RESOLVE_TIMEOUT, lookup_host(&target.host, target.port))
        .await??
        .first()
        .copied()
        .ok_or_else(|| io::Error::other("the name has no address"))?;
    let mut last_error = io::Error::other("sip.outbound_front_ends is empty");
    for front_end in &route.front_ends {
        match connect(target, destination, *front_end, route).await {
            Ok(connected) => return Ok(connected),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

async fn connect(
    target: &OutboundTarget,
    destination: SocketAddr,
    front_end: SocketAddr,
    route: &OutboundRoute,
) -> io::Result<(PairStream, Pair)> {
    let (mut stream, local) = reach(front_end, route).await?;
    let connection = ConnectionId(environment::random());
    let header = ProxyHeader::Proxied(ProxiedConnection {
        source: local,
        destination,
        transport: target.transport(),
        connection_id: Some(connection.0),
        peer: None,
        purpose: Purpose::Outbound {
            server_name: target.tls.then(|| target.host.clone()),
        },
        host_name: None,
    });
    stream.write_all(&header.write()).await?;
    let pair = Pair {
        purpose: PairPurpose::Outbound,
        connection,
        client: destination,
        local,
        host_name: None,
        subject: None,
        transport: target.transport(),
    };
    Ok((stream, pair))
}

/// The front end that listens there, whichever member it is; and our end of the connection.
async fn reach(front_end: SocketAddr, route: &OutboundRoute) -> io::Result<(PairStream, SocketAddr)> {
    if route.security.is_plain() {
        let stream = connect_from(route.source, front_end).await?;
        let local = stream.local_addr()?;
        return Ok((PairStream::Plain(stream), local));
    }
    let mut last_error = io::Error::other("the cluster has no front end");
    for &member in route.security.front_ends() {
        let stream = connect_from(route.source, front_end).await?;
        let local = stream.local_addr()?;
        match route.security.towards(member, stream).await {
            Ok(stream) => return Ok((stream, local)),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

async fn connect_from(source: IpAddr, front_end: SocketAddr) -> io::Result<TcpStream> {
    let fits = !source.is_unspecified() && source.is_ipv4() == front_end.is_ipv4();
    let connect = TcpStream::connect_from(fits.then_some(source), front_end);
    let stream = timeout(CONNECT_TIMEOUT, connect).await??;
    tune_socket(&stream, CONNECT_TIMEOUT)?;
    Ok(stream)
}

const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
