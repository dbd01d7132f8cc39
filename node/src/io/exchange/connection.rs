//! One HTTP/1.1 connection to a Client Access Server, plain or over TLS.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tandem_cluster::CasEndpoint;
use tandem_runtime::io::environment::net::{Keepalive, TcpOptions, TcpStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::{TlsConfigs, Transport};
use super::trust;
use tandem_exchange::ews::Failure;
use tandem_exchange::ntlm::ChannelBinding;

/// How a connection is opened.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) transport: Transport,
    pub(super) tls: Arc<dyn TlsConfigs>,
    pub(super) connect_timeout: Duration,
}

impl Dialer {
    /// Resolves the name again and tries its addresses in order.
    pub(super) async fn open(&self, endpoint: &CasEndpoint) -> Result<Connection, Failure> {
        match timeout(self.connect_timeout, self.dial(endpoint)).await {
            Ok(opened) => opened,
            Err(_) => Err(Failure::Unreachable(format!(
                "{} did not answer within {} s",
                authority(endpoint),
                self.connect_timeout.as_secs_f32()
            ))),
        }
    }

    async fn dial(&self, endpoint: &CasEndpoint) -> Result<Connection, Failure> {
        let stream = TcpStream::connect_to_name(&authority(endpoint), &OPTIONS)
            .await
            .map_err(|error| trust::connection_failure(endpoint, &error))?;
        match self.transport {
            Transport::Plain => Connection::over(stream, None).await,
            Transport::Tls => {
                let stream = self.secure(endpoint, stream).await?;
                let certificates = stream.get_ref().1.peer_certificates();
                let leaf = certificates.and_then(<[_]>::first);
                let binding = leaf.map(|leaf| ChannelBinding::of_server(leaf));
                Connection::over(stream, binding).await
            }
        }
    }

    async fn secure(
        &self,
        endpoint: &CasEndpoint,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let name = trust::server_name(endpoint).map_err(|error| Failure::Tls(error.to_string()))?;
        let connector = TlsConnector::from(self.tls.client_config(endpoint));
        let secured = connector.connect(name, stream).await;
        secured.map_err(|error| trust::connection_failure(endpoint, &error))
    }
}

/// As in `Host`, and for display.
pub(super) fn authority(endpoint: &CasEndpoint) -> String {
    let CasEndpoint { host, port, .. } = endpoint;
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Carries one request at a time; dropping it closes the connection.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// With TLS.
    pub(super) binding: Option<ChannelBinding>,
}

/// Why a request was not answered.
#[derive(Debug)]
pub(super) enum Broken {
    /// The connection was closed before the request was sent, which is returned.
    Unsent,
    /// It may have been executed.
    Unanswered(Failure),
}

impl Connection {
    async fn over<S>(stream: S, binding: Option<ChannelBinding>) -> Result<Self, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::Unreachable(error.to_string()))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to Exchange ended");
            }
        });
        Ok(Self { sender, binding })
    }

    /// The body of an answer must be read to its end before the next request.
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Broken> {
        self.sender.ready().await.map_err(|_| Broken::Unsent)?;
        self.sender.try_send_request(request).await.map_err(|mut error| {
            if error.take_message().is_some() {
                return Broken::Unsent;
            }
            let error = error.into_error();
            Broken::Unanswered(if error.is_parse() {
                Failure::Malformed("not an HTTP answer")
            } else {
                Failure::Unreachable(format!("the connection was lost: {error}"))
            })
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// All of it, within bounds.
pub(super) async fn read_body(body: Incoming, bytes_max: usize) -> Result<Bytes, Failure> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Failure::TooLarge),
        Err(error) => Err(Failure::Unreachable(format!(
            "the connection was lost during the answer: {error}"
        ))),
    }
}

/// Of heads; hyper takes nothing below 8 KiB.
const BUFFER_BYTES_MAX: usize = 128 << 10;
const OPTIONS: TcpOptions = TcpOptions {
    keepalive: Some(Keepalive {
        idle: Duration::from_secs(30),
        interval: Duration::from_secs(10),
        retries: Some(3),
    }),
    unacknowledged_max: None,
};

#[cfg(test)]
mod tests {
    use tandem_cluster::CasId;

    use super::*;

    #[test]
    fn an_address_of_version_6_stands_in_brackets() {
        let of = |host: &str| authority(&CasEndpoint::of(&CasId(host.to_owned())));
        assert_eq!(of("mail.lab.test"), "mail.lab.test:443");
        assert_eq!(of("::1"), "[::1]:443");
    }
}
