//! A presence server that takes PUBLISH (RFC 3903): what each user has published, by entity-tag, and what is wrong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use tandem_sip::{Frame, Framer, FramerLimits, RawMessage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::watcher::document::Document;
use super::watcher::subscription::header;
use crate::actor::{Handle, Machine};

/// A running server.
#[derive(Debug, Clone)]
pub struct PresenceServer {
    handle: Handle<Publications>,
}

/// What it knows.
#[derive(Debug, Default)]
pub struct Publications {
    /// By the address in the Request-URI, then by entity-tag.
    by_user: BTreeMap<String, BTreeMap<String, Document>>,
    last_tag: u64,
    violations: Vec<String>,
}

impl Machine for Publications {
    fn perform_outputs(&mut self) {}
}

impl PresenceServer {
    pub async fn start(address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("binding the presence server to {address}"))?;
        let handle = Handle::start(|_| Publications::default());
        let accepting = handle.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, accepting.clone()));
            }
        });
        Ok(Self { handle })
    }

    pub async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Publications) -> R + Send + 'static,
    ) -> R {
        self.handle.ask(question).await
    }

    pub async fn wait_until(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl FnMut(&Publications) -> bool + Send + 'static,
    ) -> anyhow::Result<()> {
        self.handle.wait_until(what, deadline, condition).await
    }
}

impl Publications {
    /// What is known of the user, one document for each publication that stands.
    #[must_use]
    pub fn of(&self, address: &str) -> Vec<&Document> {
        self.by_user
            .get(address)
            .into_iter()
            .flat_map(BTreeMap::values)
            .collect()
    }

    /// As after a restart: every entity-tag is unknown from now on.
    pub fn forget_all(&mut self) {
        self.by_user.clear();
    }

    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// RFC 3903 §6: status and header lines of the answer.
    fn publish(&mut self, raw: &RawMessage) -> (&'static str, Vec<String>) {
        let address = String::from_utf8_lossy(raw.request_uri().unwrap_or_default()).into_owned();
        if raw.method() != Some(b"PUBLISH") || header(raw, "Event").as_deref() != Some("presence") {
            self.violations.push(format!("{address}: no PUBLISH of presence"));
            return ("489 Bad Event", Vec::new());
        }
        let expires = header(raw, "Expires").and_then(|value| value.parse::<u32>().ok());
        let Some(expires) = expires else {
            self.violations.push(format!("{address}: no Expires"));
            return ("400 Bad Request", Vec::new());
        };
        let known = self.by_user.entry(address.clone()).or_default();
        let former = match header(raw, "SIP-If-Match") {
            Some(tag) => match known.remove(&tag) {
                Some(document) => Some(document),
                None => return ("412 Conditional Request Failed", Vec::new()),
            },
            None => None,
        };
        if expires == 0 {
            return ("200 OK", vec!["Expires: 0".to_owned()]);
        }
        let document = match (raw.body().is_empty(), former) {
            (true, Some(document)) => document,
            (true, None) => {
                self.violations
                    .push(format!("{address}: a first PUBLISH without body"));
                return ("400 Bad Request", Vec::new());
            }
            (false, _) => match self.read(raw, &address) {
                Some(document) => document,
                None => return ("400 Bad Request", Vec::new()),
            },
        };
        self.last_tag += 1;
        let tag = format!("e{}", self.last_tag);
        self.by_user
            .entry(address)
            .or_default()
            .insert(tag.clone(), document);
        let lines = vec![format!("SIP-ETag: {tag}"), format!("Expires: {expires}")];
        ("200 OK", lines)
    }

    fn read(&mut self, raw: &RawMessage, address: &str) -> Option<Document> {
        match Document::read(&String::from_utf8_lossy(&raw.body())) {
            Ok(document) if document.entity == address => Some(document),
            Ok(document) => {
                let entity = document.entity;
                self.violations
                    .push(format!("{address}: a document about {entity}"));
                None
            }
            Err(what) => {
                self.violations.push(format!("{address}: no PIDF: {what}"));
                None
            }
        }
    }
}

async fn serve(stream: TcpStream, handle: Handle<Publications>) {
    let (mut reader, mut writer) = stream.into_split();
    let mut framer = Framer::new(FramerLimits::default());
    while matches!(reader.read_buf(framer.buffer_mut()).await, Ok(count) if count > 0) {
        while let Some(frame) = framer.next_frame() {
            let Frame::Message(raw) = frame else { continue };
            let answer = handle.ask(move |known| answer_to(known, &raw)).await;
            if writer.write_all(&answer).await.is_err() {
                return;
            }
        }
    }
}

fn answer_to(known: &mut Publications, raw: &RawMessage) -> Bytes {
    let (status, mut extra) = known.publish(raw);
    let mut lines = vec![format!("SIP/2.0 {status}")];
    for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
        lines.extend(header(raw, name).map(|value| format!("{name}: {value}")));
    }
    lines.append(&mut extra);
    Bytes::from(format!("{}\r\nContent-Length: 0\r\n\r\n", lines.join("\r\n")))
}
