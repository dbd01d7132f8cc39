//! Keepalive checks of one node: OPTIONS over the path of clients' messages, or only a connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tandem_cluster::NodeId;
use tandem_runtime::io::environment;
use tandem_runtime::io::environment::net::TcpStream;
use tandem_runtime::io::pair_security::{PairSecurity, PairStream};
use tandem_runtime::io::process::is_out_of_descriptors;
use tandem_runtime::io::sip_stream::{MessageDeadlines, Received, SipReader, StreamCounters, tune_socket};
use tandem_sip::proxy_protocol::{ProxiedConnection, ProxyHeader, Purpose, Transport};
use tandem_sip::{Frame, FramerLimits};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};

use crate::balancer::health::CheckFailure;
use crate::balancer::options_check::OptionsCheck;

/// How nodes are checked.
#[derive(Debug, Clone)]
pub struct CheckSettings {
    pub kind: CheckKind,
    pub connect_timeout: Duration,
    /// Permitted time from the request to its answer.
    pub answer_timeout: Duration,
}

/// What a node has to do to pass a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckKind {
    /// Answer OPTIONS on a connection of the front end's own.
    Options,
    /// Accept a connection.
    Connect,
}

/// A check that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCheck {
    pub failure: CheckFailure,
    /// The local address of the connection, if there was one.
    pub own: Option<SocketAddr>,
    /// Why a secured connection failed.
    pub reason: Option<String>,
}

/// Checks one node, over a connection kept from check to check.
#[derive(Debug)]
pub struct NodeCheck {
    settings: CheckSettings,
    node: NodeId,
    pairs: PairSecurity,
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    node: SocketAddr,
    own: SocketAddr,
    reader: SipReader<ReadHalf<PairStream>>,
    writer: WriteHalf<PairStream>,
    check: OptionsCheck,
    /// The node has sent something on the connection.
    heard: bool,
}

impl NodeCheck {
    #[must_use]
    pub fn new(settings: CheckSettings, node: NodeId, pairs: PairSecurity) -> Self {
        Self {
            settings,
            node,
            pairs,
            connection: None,
        }
    }

    /// Checks the node at `address` and returns how long it took.
    ///
    /// # Errors
    /// When the node has not passed.
    pub async fn run(&mut self, address: SocketAddr) -> Result<Duration, FailedCheck> {
        let started = environment::now();
        match self.settings.kind {
            CheckKind::Options => self.ask(address).await?,
            CheckKind::Connect => reset(connect(address, self.settings.connect_timeout).await?),
        }
        Ok(started.elapsed())
    }

    async fn ask(&mut self, address: SocketAddr) -> Result<(), FailedCheck> {
        let before = self
            .connection
            .take()
            .filter(|connection| connection.node == address);
        if let Some(mut connection) = before {
            // The connection may lead to a former process of the node: if it fails, only a new one shows the node's state.
            match tokio::time::timeout(self.settings.answer_timeout, connection.exchange()).await {
                Ok(Ok(())) => {
                    self.connection = Some(connection);
                    return Ok(());
                }
                Ok(Err(_)) => {}
                Err(_) => return Err(connection.failed(CheckFailure::Unanswered)),
            }
        }
        let stream = connect(address, self.settings.connect_timeout).await?;
        let own = stream.local_addr().map_err(|error| failed(&error))?;
        tune_socket(&stream, SILENCE_MAX).map_err(|error| failed(&error))?;
        let stream = self
            .pairs
            .towards(self.node, stream)
            .await
            .map_err(|error| not_secured(own, &error))?;
        let mut connection = Connection::new(stream, own, address);
        match tokio::time::timeout(self.settings.answer_timeout, connection.begin()).await {
            Ok(Ok(())) => {
                self.connection = Some(connection);
                Ok(())
            }
            Ok(Err(error)) if !connection.heard => {
                let failed = connection.failed(CheckFailure::RefusesUs);
                let reason = (!self.pairs.is_plain()).then(|| error.to_string());
                Err(FailedCheck { reason, ..failed })
            }
            Ok(Err(_)) | Err(_) => Err(connection.failed(CheckFailure::Unanswered)),
        }
    }
}

impl Connection {
    fn new(stream: PairStream, own: SocketAddr, node: SocketAddr) -> Self {
        let (read, writer) = tokio::io::split(stream);
        let reader = SipReader::new(
            read,
            FramerLimits::default(),
            MessageDeadlines::default(),
            StreamCounters::unregistered(),
        );
        Self {
            node,
            own,
            reader,
            writer,
            check: OptionsCheck::new(own, node, environment::random()),
            heard: false,
        }
    }

    /// Sends the PROXY protocol header, with the front end itself as the client, and the first request.
    async fn begin(&mut self) -> io::Result<()> {
        let header = ProxyHeader::Proxied(ProxiedConnection {
            source: self.own,
            destination: self.node,
            transport: Transport::Tcp,
            connection_id: Some(environment::random()),
            peer: None,
            purpose: Purpose::Pair,
            host_name: None,
        });
        self.writer.write_all(&header.write()).await?;
        self.exchange().await
    }

    async fn exchange(&mut self) -> io::Result<()> {
        let request = self.check.request();
        self.writer.write_all(&request).await?;
        self.writer.flush().await?;
        loop {
            let frame = match self.reader.next().await {
                Received::Frame(frame) => frame,
                Received::Failed(error) => return Err(error),
                Received::Ended | Received::Truncated(_) | Received::Overdue(_) => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            };
            self.heard = true;
            match frame {
                Frame::Message(message) if self.check.is_answered_by(&message) => return Ok(()),
                Frame::KeepAlivePing => self.writer.write_all(b"\r\n").await?,
                Frame::Message(_) | Frame::Refused { .. } => {}
                Frame::Lost { .. } => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    fn failed(&self, failure: CheckFailure) -> FailedCheck {
        FailedCheck {
            failure,
            own: Some(self.own),
            reason: None,
        }
    }
}

/// A failed TLS handshake: one side does not accept the other, or, when it timed out, the node's process is frozen.
fn not_secured(own: SocketAddr, error: &io::Error) -> FailedCheck {
    let failure = match error.kind() == io::ErrorKind::TimedOut {
        true => CheckFailure::Unanswered,
        false => CheckFailure::RefusesUs,
    };
    FailedCheck {
        failure,
        own: Some(own),
        reason: Some(error.to_string()),
    }
}

async fn connect(address: SocketAddr, timeout: Duration) -> Result<TcpStream, FailedCheck> {
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(connected) => connected.map_err(|error| failed(&error)),
        Err(_) => Err(FailedCheck {
            failure: CheckFailure::Timeout,
            own: None,
            reason: None,
        }),
    }
}

fn failed(error: &io::Error) -> FailedCheck {
    let failure = if is_out_of_descriptors(error) {
        CheckFailure::OutOfDescriptors
    } else if error.kind() == io::ErrorKind::ConnectionRefused {
        CheckFailure::Refused
    } else {
        CheckFailure::Unreachable
    };
    FailedCheck {
        failure,
        own: None,
        reason: None,
    }
}

/// Closes with a reset, so that neither side keeps the connection in TIME-WAIT. Nodes recognise such a probe and log nothing.
fn reset(stream: TcpStream) {
    stream.reset_when_dropped();
}

/// A connection whose peer acknowledges no sent byte for this long is broken.
const SILENCE_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use tandem_runtime::io::sip_stream::read_proxy_header;
    use tandem_sip::{RawMessage, write_answer};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    fn check(kind: CheckKind) -> NodeCheck {
        let settings = CheckSettings {
            kind,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(10),
        };
        NodeCheck::new(settings, NodeId(1), PairSecurity::Plain)
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Answers the given number of requests on each of the given number of connections.
    async fn answer(listener: TcpListener, connections: usize, answers: usize) {
        for _ in 0..connections {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (_, received) = read_proxy_header(&mut stream, Duration::from_secs(10))
                .await
                .unwrap()
                .unwrap();
            let mut received = received.to_vec();
            for _ in 0..answers {
                while !received.ends_with(b"\r\n\r\n") {
                    assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0);
                }
                let request = RawMessage::parse(std::mem::take(&mut received).into()).unwrap();
                let bytes = write_answer(&request, 405, "Method Not Allowed", "tag", &[]);
                stream.write_all(b"\r\n\r\n").await.unwrap();
                stream.write_all(&bytes).await.unwrap();
                // The pong.
                assert_eq!(stream.read_u16().await.unwrap(), 0x0d0a);
            }
        }
    }

    #[tokio::test]
    async fn a_node_that_answers_passes_and_one_that_started_again_does_as_well() {
        let (listener, address) = listener().await;
        let node = tokio::spawn(answer(listener, 2, 2));
        let mut check = check(CheckKind::Options);
        for _ in 0..4 {
            check.run(address).await.unwrap();
        }
        node.await.unwrap();
        let failed = check.run(address).await.unwrap_err();
        assert_eq!(failed.failure, CheckFailure::Refused);
    }

    #[tokio::test]
    async fn a_node_that_closes_unheard_refuses_us_at_our_address() {
        let (listener, address) = listener().await;
        let node = tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
        let failed = check(CheckKind::Options).run(address).await.unwrap_err();
        node.await.unwrap();
        assert_eq!(failed.failure, CheckFailure::RefusesUs);
        assert_eq!(failed.own.map(|own| own.ip()), Some(address.ip()));
    }

    #[tokio::test]
    async fn a_node_that_stands_still_does_not_pass_by_accepting() {
        let (_listener, address) = listener().await;
        check(CheckKind::Connect).run(address).await.unwrap();
        let mut check = check(CheckKind::Options);
        check.settings.answer_timeout = Duration::from_millis(20);
        let failed = check.run(address).await.unwrap_err();
        assert_eq!(failed.failure, CheckFailure::Unanswered);
    }
}
