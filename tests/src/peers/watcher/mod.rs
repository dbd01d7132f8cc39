//! Watchers of presence behind one connection to the VIP: they subscribe, are notified, and judge what they are told.
//!
//! Owns the subscriptions and the connection; does not know who holds them on the other side. Whatever is wrong stands
//! in the violations.

pub mod document;
pub mod subscription;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use tandem_runtime::io::environment;
use tandem_runtime::io::environment::net::{TcpListener, TcpStream};
use tandem_sip::{Frame, Framer, FramerLimits, RawMessage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::probing_options;
use crate::actor::{Handle, Machine};
use subscription::{Subscription, header};

/// The running watchers.
#[derive(Debug, Clone)]
pub struct Watchers {
    handle: Handle<Crowd>,
}

/// All subscriptions, and the way out.
#[derive(Debug)]
pub struct Crowd {
    address: SocketAddr,
    subscriptions: Vec<Subscription>,
    /// Connections that stand, the one that we dialled first.
    writers: Vec<(u64, mpsc::UnboundedSender<Bytes>)>,
    /// NOTIFYs are swallowed.
    is_silent: bool,
    /// The network delays nothing since then; `None`: it does.
    undelayed_since: Option<Instant>,
    branches: u64,
    violations: Vec<String>,
}

impl Machine for Crowd {
    fn perform_outputs(&mut self) {}
}

impl Watchers {
    /// Listens on `address`, and connects from there to the VIP, again and again if need be.
    pub async fn start(address: SocketAddr, vip: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("binding the watchers to {address}"))?;
        let handle = Handle::start(|_| Crowd {
            address,
            subscriptions: Vec::new(),
            writers: Vec::new(),
            is_silent: false,
            undelayed_since: Some(environment::now()),
            branches: 0,
            violations: Vec::new(),
        });
        tokio::spawn(accept(listener, handle.clone()));
        tokio::spawn(dial(address, vip, handle.clone()));
        let watchers = Self { handle };
        watchers
            .wait_until(
                "the watchers are connected",
                CONNECT_DEADLINE,
                Crowd::is_connected,
            )
            .await?;
        Ok(watchers)
    }

    pub async fn ask<R: Send + 'static>(&self, question: impl FnOnce(&mut Crowd) -> R + Send + 'static) -> R {
        self.handle.ask(question).await
    }

    pub async fn wait_until(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl FnMut(&Crowd) -> bool + Send + 'static,
    ) -> anyhow::Result<()> {
        self.handle.wait_until(what, deadline, condition).await
    }
}

impl Crowd {
    /// A first SUBSCRIBE; the number finds the subscription.
    pub fn watch(
        &mut self,
        watcher: &str,
        presentity: &str,
        event: &str,
        expires_secs: Option<u32>,
    ) -> usize {
        let subscription = Subscription::new(watcher, presentity, event, environment::random());
        self.subscriptions.push(subscription);
        let number = self.subscriptions.len() - 1;
        self.subscribe(number, expires_secs);
        number
    }

    /// Another one in the same dialog; 0 seconds end the subscription.
    pub fn subscribe(&mut self, number: usize, expires_secs: Option<u32>) {
        self.branches += 1;
        let branch = format!("z9hG4bKwatcher{}", self.branches);
        let bytes = self.subscriptions[number].subscribe(expires_secs, self.address, &branch);
        self.send(bytes);
    }

    /// Whether a connection stands over which to ask.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        !self.writers.is_empty()
    }

    /// From now on NOTIFYs stay without an answer.
    pub fn fall_silent(&mut self) {
        self.is_silent = true;
    }

    /// Whether the network delays messages from now on. Between messages that it has delayed no gap is judged.
    pub fn delays(&mut self, delays: bool) {
        self.undelayed_since = (!delays).then(environment::now);
    }

    #[must_use]
    pub fn subscription(&self, number: usize) -> &Subscription {
        &self.subscriptions[number]
    }

    /// Everything that was wrong with what came.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let of_subscriptions = self.subscriptions.iter().flat_map(Subscription::violations);
        self.violations.iter().chain(of_subscriptions).cloned().collect()
    }

    fn send(&mut self, bytes: Bytes) {
        match self.writers.first() {
            Some((_, writer)) => drop(writer.send(bytes)),
            None => self.violations.push("the watchers have no connection".to_owned()),
        }
    }

    fn message_arrived(&mut self, connection: u64, raw: &RawMessage, at: Instant) {
        let call_id = String::from_utf8_lossy(raw.call_id()).into_owned();
        let own_tag = if raw.is_request() {
            raw.to_tag()
        } else {
            raw.from_tag()
        };
        let own_tag = String::from_utf8_lossy(own_tag.unwrap_or_default()).into_owned();
        let mut subscriptions = self.subscriptions.iter_mut();
        let found = subscriptions.find(|subscription| subscription.is_of(&call_id, &own_tag));
        match (found, raw.is_request()) {
            (Some(subscription), false) => subscription.answered(raw),
            (Some(subscription), true) if raw.method() == Some(b"NOTIFY") => {
                if !self.is_silent {
                    subscription.notified(raw, at, self.undelayed_since);
                    self.reply(connection, raw, "200 OK");
                }
            }
            (None, true) if raw.method() == Some(b"NOTIFY") => {
                self.reply(connection, raw, "481 Subscription Does Not Exist");
            }
            (_, true) => self.violations.push(format!("a request {:?}", raw.method())),
            (None, false) => self.violations.push("an answer to nobody".to_owned()),
        }
    }

    /// Over the connection that the request came by.
    fn reply(&self, connection: u64, raw: &RawMessage, status: &str) {
        let mut lines = vec![format!("SIP/2.0 {status}")];
        for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
            lines.extend(header(raw, name).map(|value| format!("{name}: {value}")));
        }
        let bytes = Bytes::from(format!("{}\r\nContent-Length: 0\r\n\r\n", lines.join("\r\n")));
        let writer = self.writers.iter().find(|(number, _)| *number == connection);
        if let Some((_, writer)) = writer {
            let _ = writer.send(bytes);
        }
    }
}

async fn accept(listener: TcpListener, handle: Handle<Crowd>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, environment::random(), false, handle.clone()));
    }
}

/// From the watchers' own address, so that lb sees one peer, whichever side dialled.
async fn dial(address: SocketAddr, vip: SocketAddr, handle: Handle<Crowd>) {
    loop {
        match TcpStream::connect_from(Some(address.ip()), vip).await {
            Ok(stream) => serve(stream, environment::random(), true, handle.clone()).await,
            Err(_) => tokio::time::sleep(RECONNECT).await,
        }
    }
}

async fn serve(stream: TcpStream, number: u64, is_dialled: bool, handle: Handle<Crowd>) {
    let _ = stream.tune(&probing_options());
    let (mut reader, mut writer) = stream.into_split();
    let (sender, mut queue) = mpsc::unbounded_channel::<Bytes>();
    let writing = tokio::spawn(async move {
        while let Some(bytes) = queue.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    handle.tell(move |crowd| {
        let position = if is_dialled { 0 } else { crowd.writers.len() };
        crowd.writers.insert(position, (number, sender));
    });
    let mut framer = Framer::new(FramerLimits::default());
    while matches!(reader.read_buf(framer.buffer_mut()).await, Ok(count) if count > 0) {
        while let Some(frame) = framer.next_frame() {
            take_frame(frame, number, &handle);
        }
    }
    handle.tell(move |crowd| crowd.writers.retain(|(known, _)| *known != number));
    writing.abort();
}

fn take_frame(frame: Frame, number: u64, handle: &Handle<Crowd>) {
    let at = environment::now();
    handle.tell(move |crowd| match frame {
        Frame::Message(raw) => crowd.message_arrived(number, &raw, at),
        Frame::KeepAlivePing => {}
        Frame::Refused { reason, .. } => crowd.violations.push(format!("a refused message: {reason}")),
        Frame::Lost { reason, .. } => crowd.violations.push(format!("framing is lost: {reason}")),
    });
}

const RECONNECT: Duration = Duration::from_millis(20);
const CONNECT_DEADLINE: Duration = Duration::from_secs(30);
