//! Somebody who connects and says whatever he likes, well-formed or not.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use tandem_sip::{Frame, Framer, FramerLimits, RawMessage};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::csta;

/// One raw connection.
#[derive(Debug)]
pub struct Stranger {
    stream: Box<dyn Stream>,
    framer: Framer,
}

/// Plain TCP, or TLS on top of it.
trait Stream: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Debug + Send + Unpin> Stream for S {}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A final answer with this status.
    Status(u16),
    Closed,
}

impl Stranger {
    pub async fn connect(to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to)
            .await
            .with_context(|| format!("connecting to {to}"))?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }

    /// Connects by TLS to a listener whose certificate has `name`.
    pub async fn connect_tls(
        to: SocketAddr,
        name: ServerName<'static>,
        config: Arc<ClientConfig>,
    ) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to)
            .await
            .with_context(|| format!("connecting to {to}"))?;
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .context("shaking hands")?;
        Ok(Self::over(stream))
    }

    fn over(stream: impl Stream + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            framer: Framer::new(FramerLimits::default()),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream
            .write_all(bytes)
            .await
            .context("the connection is closed already")
    }

    /// Sends all it can: a peer may close while we are still writing.
    pub async fn send_as_much_as_possible(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next final answer, or the close.
    pub async fn reply(&mut self, deadline: Duration) -> anyhow::Result<Reply> {
        match self.answer(deadline).await? {
            Some(answer) => Ok(Reply::Status(answer.status().unwrap_or_default())),
            None => Ok(Reply::Closed),
        }
    }

    /// The next final answer; `None` when the connection was closed instead.
    pub async fn answer(&mut self, deadline: Duration) -> anyhow::Result<Option<RawMessage>> {
        tokio::time::timeout(deadline, self.next_answer())
            .await
            .with_context(|| format!("neither answer nor close within {deadline:?}"))?
    }

    async fn next_answer(&mut self) -> anyhow::Result<Option<RawMessage>> {
        loop {
            while let Some(frame) = self.framer.next_frame() {
                match frame {
                    Frame::Message(message) if message.status().is_some_and(|status| status >= 200) => {
                        return Ok(Some(message));
                    }
                    Frame::Message(_) | Frame::KeepAlivePing => {}
                    Frame::Refused { reason, .. } => bail!("what came is malformed: {reason}"),
                    Frame::Lost { reason, .. } => bail!("what came is no SIP: {reason}"),
                }
            }
            if !matches!(self.stream.read_buf(self.framer.buffer_mut()).await, Ok(count) if count > 0) {
                return Ok(None);
            }
        }
    }
}

/// A request that a story changes as it likes before it is written.
#[derive(Debug, Clone)]
pub struct Letter {
    pub method: &'static str,
    pub uri: String,
    pub user: String,
    pub to_tag: Option<String>,
    pub from_tag: String,
    pub call_id: String,
    pub cseq: u32,
    pub content_type: &'static str,
    /// Header lines, whole.
    pub extra: Vec<String>,
    pub body: String,
    /// Written instead of the body's length.
    pub content_length: Option<String>,
}

impl Letter {
    /// An INVITE that opens a session for `user` on `line`, good in every respect.
    #[must_use]
    pub fn invite(user: &str, line: &str) -> Self {
        let random = rand::random::<u64>();
        Self {
            method: "INVITE",
            uri: "sip:8000@gateway.example.com".to_owned(),
            user: user.to_owned(),
            to_tag: None,
            from_tag: format!("f{random:x}"),
            call_id: format!("c{random:x}"),
            cseq: 1,
            content_type: "application/csta+xml",
            extra: vec![
                format!("Contact: <sip:{user}@example.com;gruu>"),
                "Supported: timer".to_owned(),
            ],
            body: csta::request_system_status(line),
            content_length: None,
        }
    }

    /// An INFO without a dialog around it.
    #[must_use]
    pub fn info(user: &str, body: &str) -> Self {
        Self {
            method: "INFO",
            extra: Vec::new(),
            body: body.to_owned(),
            ..Self::invite(user, "")
        }
    }

    #[must_use]
    pub fn write(&self) -> Bytes {
        let to_tag = self
            .to_tag
            .as_ref()
            .map(|tag| format!(";tag={tag}"))
            .unwrap_or_default();
        let mut lines = vec![
            format!("{} {} SIP/2.0", self.method, self.uri),
            format!(
                "Via: SIP/2.0/TCP 127.0.0.1:5060;branch=z9hG4bKstranger{:x}",
                rand::random::<u64>()
            ),
            "Max-Forwards: 70".to_owned(),
            format!(
                "From: <sip:{}@example.com>;tag={};epid=ab",
                self.user, self.from_tag
            ),
            format!("To: <sip:8000@gateway.example.com>{to_tag}"),
            format!("Call-ID: {}", self.call_id),
            format!("CSeq: {} {}", self.cseq, self.method),
            format!("Content-Type: {}", self.content_type),
        ];
        lines.extend(self.extra.iter().cloned());
        let length = self
            .content_length
            .clone()
            .unwrap_or_else(|| self.body.len().to_string());
        if !length.is_empty() {
            lines.push(format!("Content-Length: {length}"));
        }
        Bytes::from(format!("{}\r\n\r\n{}", lines.join("\r\n"), self.body))
    }
}
