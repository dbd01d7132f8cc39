//! A connection to a client that a node asked for, dialled from the virtual IP.

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

/// The connection to the client.
pub enum Dialled {
    Plain(TcpStream),
    Secured {
        stream: Box<tokio_rustls::client::TlsStream<TcpStream>>,
        peer: PeerIdentity,
    },
}

impl Dialled {
    /// Connects from `source`: with TLS where `tls` is given, and then to a client that proves to be `name`, or its address.
    ///
    /// # Errors
    /// When it cannot be reached, takes longer than five seconds, or its certificate is refused.
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

    /// Watches over the certificate that the client has shown.
    pub fn revocation(&self, tls: Option<&SipTls>) -> Option<RevocationWatch> {
        match self {
            Self::Plain(_) => None,
            Self::Secured { stream, .. } => Some(tls?.watch_over(stream.get_ref().1.peer_certificates()?)),
        }
    }

    /// Who the client has proved to be.
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
