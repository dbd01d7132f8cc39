//! Opens a connection to a client from the virtual IP, at a node's request.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tandem_runtime::certificate_holder::peer_identity;
use tandem_runtime::io::environment::net::TcpStream;
use tandem_runtime::io::revocation::RevocationWatch;
use tandem_runtime::io::sip_stream::tune_socket;
use tandem_runtime::io::sip_tls::SipTls;
use tandem_sip::proxy_protocol::PeerIdentity;
use tokio_rustls::TlsConnector;

/// An open connection to a client.
pub enum Dialled {
    Plain(TcpStream),
    Secured {
        stream: Box<tokio_rustls::client::TlsStream<TcpStream>>,
        peer: PeerIdentity,
    },
}

impl Dialled {
    /// Connects to `target` from `source`, over TLS if `tls` is given. The client must then authenticate as `name`, or as its IP
    /// address if there is none.
    ///
    /// # Errors
    /// When the client cannot be reached within five seconds, or its certificate is refused.
    pub async fn connect(
        source: IpAddr,
        target: SocketAddr,
        tls: Option<&SipTls>,
        name: Option<String>,
    ) -> io::Result<Self> {
        let dial = async {
            let stream = TcpStream::connect_from(Some(source), target).await?;
            tune_socket(&stream, SILENCE_MAX)?;
            match tls {
                Some(tls) => secure(tls.client(), stream, target, name).await,
                None => Ok(Self::Plain(stream)),
            }
        };
        tokio::time::timeout(CONNECT_TIMEOUT, dial)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Watches for the revocation of the client's certificate; `None` without TLS.
    pub fn revocation(&self, tls: Option<&SipTls>) -> Option<RevocationWatch> {
        match self {
            Self::Plain(_) => None,
            Self::Secured { stream, .. } => Some(tls?.watch_over(stream.get_ref().1.peer_certificates()?)),
        }
    }

    /// The identity from the client's certificate; `None` without TLS.
    pub fn peer(&self) -> Option<PeerIdentity> {
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

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const SILENCE_MAX: Duration = Duration::from_secs(5);
