//! TCP under mutual TLS: what the files hold, read again when they change, and who still may stay connected.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::Transport;
use super::tcp::{TcpTransport, origin};
use crate::certificate_holder::{check_peer, peer_server_name};
use crate::config::TlsFiles;
use crate::io::environment;
use crate::io::environment::net::{TcpListener, TcpStream};
use crate::io::tls::{
    PeerVerifier, TlsError, check_member_certificate, peer_client_config, peer_server_config,
};
use crate::io::watched_files::WatchedFiles;
use tandem_cluster::{MemberAddress, NodeId};

/// TCP under TLS 1.3, both sides with certificates of the cluster's authority that name the member.
///
/// The files are looked at every few seconds: new connections use what they hold now, as long as the other members would
/// accept it; existing ones go on, but for those whose other end would be refused now.
#[derive(Debug, Clone)]
pub struct TlsTransport {
    own: NodeId,
    cluster: Arc<str>,
    files: Arc<TlsFiles>,
    loaded: Arc<ArcSwap<Loaded>>,
    /// Counts how often the files were read again.
    read_again: watch::Sender<u64>,
}

/// What the files held when they were last read and found good.
#[derive(Debug)]
struct Loaded {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    verifier: PeerVerifier,
    /// When our certificate ends, in seconds of Unix time.
    expires: u64,
}

impl Loaded {
    fn read(files: &TlsFiles, own: NodeId, cluster: &str) -> Result<Self, TlsError> {
        Ok(Self {
            expires: check_member_certificate(files, own, cluster)?,
            server: peer_server_config(files)?,
            client: peer_client_config(files)?,
            verifier: PeerVerifier::load(files)?,
        })
    }
}

impl TlsTransport {
    /// Reads the files and checks that the other members would accept the certificate as that of member `own`.
    ///
    /// # Errors
    /// When a file cannot be used or the certificate would be refused.
    pub fn new(files: &TlsFiles, cluster: &str, own: NodeId) -> Result<Self, TlsError> {
        let loaded = Loaded::read(files, own, cluster)?;
        Ok(Self {
            own,
            cluster: cluster.into(),
            files: Arc::new(files.clone()),
            loaded: Arc::new(ArcSwap::from_pointee(loaded)),
            read_again: watch::Sender::new(0),
        })
    }

    /// Secures a connection that we have made, and fails when whoever answers cannot prove to be `peer`.
    pub async fn secure_towards(&self, peer: NodeId, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = peer_server_name(peer, &self.cluster).map_err(io::Error::other)?;
        let client = self.loaded.load().client.clone();
        let stream = TlsConnector::from(client).connect(name, stream).await?;
        Ok(stream.into())
    }

    fn reload(&self) {
        match Loaded::read(&self.files, self.own, &self.cluster) {
            Ok(loaded) => {
                self.loaded.store(Arc::new(loaded));
                self.read_again.send_modify(|times| *times += 1);
                tracing::info!("certificate and authorities for connections between members reloaded");
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(
                    error,
                    "cannot use the new certificate for connections between members; the previous one stays in use"
                );
            }
        }
    }

    fn warn_of_expiry(&self, now: UnixTime) {
        let left = self.loaded.load().expires.saturating_sub(now.as_secs());
        if left < EXPIRY_WARNING.as_secs() {
            tracing::warn!(
                hours_left = left / 3600,
                certificate = %self.files.certificate.display(),
                "this member's certificate expires soon: replace it; the new one is read without a restart"
            );
        }
    }
}

impl Transport for TlsTransport {
    type Listener = TcpListener;
    type Incoming = TcpStream;
    type Stream = TlsStream<TcpStream>;

    async fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        TcpTransport.listen(address).await
    }

    async fn accept(&self, listener: &mut TcpListener) -> io::Result<TcpStream> {
        TcpTransport.accept(listener).await
    }

    async fn secure(&self, incoming: TcpStream) -> io::Result<Self::Stream> {
        let server = self.loaded.load().server.clone();
        let stream = TlsAcceptor::from(server).accept(incoming).await?;
        Ok(stream.into())
    }

    async fn connect(&self, peer: NodeId, address: &MemberAddress) -> io::Result<Self::Stream> {
        let stream = TcpTransport.connect(peer, address).await?;
        self.secure_towards(peer, stream).await
    }

    fn check_from(&self, stream: &Self::Stream, peer: NodeId) -> Result<(), String> {
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let certificate = certificate.ok_or("it has shown no certificate")?;
        check_peer(certificate, peer, &self.cluster).map_err(|refused| refused.to_string())
    }

    fn refused_later(&self, stream: &Self::Stream) -> BoxFuture<'static, String> {
        let (_, session) = stream.get_ref();
        let chain = session.peer_certificates().unwrap_or_default();
        let chain: Vec<CertificateDer<'static>> = chain
            .iter()
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        let (loaded, mut read_again) = (self.loaded.clone(), self.read_again.subscribe());
        Box::pin(async move {
            while read_again.changed().await.is_ok() {
                let verifier = loaded.load().verifier.clone();
                // The name was checked when the connection was made, and every member's certificate serves at both ends.
                if let Err(error) = verifier.check_client(&chain) {
                    return error.to_string();
                }
            }
            std::future::pending().await
        })
    }

    fn origin(&self, incoming: &TcpStream) -> String {
        origin(incoming)
    }

    async fn maintain(&self, expires: Arc<AtomicU64>) {
        let mut files = WatchedFiles::new(self.files.paths().cloned());
        let mut warned = None;
        loop {
            expires.store(self.loaded.load().expires, Ordering::Relaxed);
            if warned.is_none_or(|at: Instant| at.elapsed() >= EXPIRY_WARNED_EVERY) {
                warned = Some(Instant::now());
                self.warn_of_expiry(environment::tls_time());
            }
            tokio::select! {
                () = files.changed() => self.reload(),
                () = sleep(EXPIRY_LOOKED_AT_EVERY) => {}
            }
        }
    }
}

const EXPIRY_LOOKED_AT_EVERY: Duration = Duration::from_secs(60);
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const EXPIRY_WARNED_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
