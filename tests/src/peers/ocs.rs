//! The OCS's shell: connections to the VIP that are made again when they break, and a listener of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use tandem_runtime::io::environment;
use tandem_runtime::io::environment::net::{TcpListener, TcpStream};
use tandem_sip::framer::{Frame, Framer, FramerLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::communicator::{Identity, Kind};
use super::front_end::{ConnectionNumber, FrontEnd, Output};
use super::probing_options;
use crate::actor::{Handle, Machine};

/// How to build a simulated OCS and its users.
#[derive(Debug, Clone)]
pub struct OcsOptions {
    /// Its own address: it listens there and dials from there.
    pub address: SocketAddr,
    pub vip: SocketAddr,
    /// The numbers of its users: user 17 is `user17` with the phone of [`phone_number`].
    pub users: Range<usize>,
    /// How many connections to the VIP its users share.
    pub connections: usize,
    /// Every n-th user is an Office Communicator, which answers events; the others never do. 0: none.
    pub office_communicator_every: usize,
    /// Groups of that many neighbours share Call-ID and From tag, as clients do that start in one second.
    pub colliding_group: usize,
}

/// A running OCS.
#[derive(Debug, Clone)]
pub struct Ocs {
    handle: Handle<Exchange>,
    user_count: usize,
}

/// The front end and the way out of each connection.
#[derive(Debug)]
struct Exchange {
    front_end: FrontEnd,
    writers: HashMap<ConnectionNumber, mpsc::UnboundedSender<Bytes>>,
}

impl Ocs {
    /// Listens, and begins to connect to the VIP; it goes on trying for ever.
    pub async fn start(options: OcsOptions) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(options.address)
            .await
            .with_context(|| format!("binding the OCS to {}", options.address))?;
        let identities: Vec<_> = options
            .users
            .clone()
            .map(|user| identity(user, &options))
            .collect();
        let user_count = identities.len();
        let front_end = FrontEnd::new(options.address, options.vip, identities, options.connections);
        let handle = Handle::start(|_| Exchange {
            front_end,
            writers: HashMap::new(),
        });
        let numbers = Arc::new(AtomicU64::new(1));
        tokio::spawn(accept(listener, handle.clone(), Arc::clone(&numbers)));
        for slot in 0..options.connections.max(1) {
            let dial = Dial {
                slot,
                source: options.address,
                vip: options.vip,
            };
            tokio::spawn(dial.run(handle.clone(), Arc::clone(&numbers)));
        }
        Ok(Self { handle, user_count })
    }

    #[must_use]
    pub fn user_count(&self) -> usize {
        self.user_count
    }

    /// Reads the front end, or makes it do something.
    pub async fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut FrontEnd) -> R + Send + 'static,
    ) -> R {
        self.handle
            .ask(|exchange| question(&mut exchange.front_end))
            .await
    }

    /// Waits until the front end is as `condition` wants it.
    pub async fn wait_until(
        &self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut(&FrontEnd) -> bool + Send + 'static,
    ) -> anyhow::Result<()> {
        let condition = move |exchange: &Exchange| condition(&exchange.front_end);
        self.handle.wait_until(what, deadline, condition).await
    }
}

impl Machine for Exchange {
    fn perform_outputs(&mut self) {
        for output in self.front_end.take_outputs() {
            let Output::Send { connection, bytes } = output;
            if let Some(writer) = self.writers.get(&connection) {
                let _ = writer.send(bytes);
            }
        }
    }
}

/// The directory number of user `user`.
#[must_use]
pub fn phone_number(user: usize) -> String {
    (FIRST_PHONE + user).to_string()
}

/// The user id of user `user`.
#[must_use]
pub fn user_id(user: usize) -> String {
    format!("user{user}")
}

fn identity(user: usize, options: &OcsOptions) -> Identity {
    let group = user
        .checked_div(options.colliding_group.max(1))
        .unwrap_or_default();
    let phone = phone_number(user);
    let every = options.office_communicator_every;
    let answers = every > 0 && user.is_multiple_of(every);
    Identity {
        user: user_id(user),
        line: format!("tel:{phone};phone-context=dialstring"),
        phone,
        call_id: format!("5D3Dg0E65a9F86i{group:06}mB24Ct"),
        from_tag: format!("{}", 1_234_500_000 + group),
        epid: format!("ab12cd{user:06x}"),
        kind: if answers {
            Kind::OfficeCommunicator
        } else {
            Kind::Sipe
        },
        session_expires_secs: None,
    }
}

/// One connection to the VIP, made again whenever it breaks.
#[derive(Debug)]
struct Dial {
    slot: usize,
    source: SocketAddr,
    vip: SocketAddr,
}

impl Dial {
    async fn run(self, handle: Handle<Exchange>, numbers: Arc<AtomicU64>) {
        loop {
            match self.connect().await {
                Ok(stream) => {
                    let number = ConnectionNumber(numbers.fetch_add(1, Ordering::Relaxed));
                    serve(stream, number, Some(self.slot), &handle).await;
                }
                Err(_) => tokio::time::sleep(RECONNECT).await,
            }
        }
    }

    /// From the OCS's own address, so that lb sees one peer, whichever side dialled.
    async fn connect(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect_from(Some(self.source.ip()), self.vip).await
    }
}

async fn accept(listener: TcpListener, handle: Handle<Exchange>, numbers: Arc<AtomicU64>) {
    while let Ok((stream, _)) = listener.accept().await {
        let number = ConnectionNumber(numbers.fetch_add(1, Ordering::Relaxed));
        let handle = handle.clone();
        tokio::spawn(async move { serve(stream, number, None, &handle).await });
    }
}

/// Moves bytes until the connection ends.
async fn serve(stream: TcpStream, number: ConnectionNumber, slot: Option<usize>, handle: &Handle<Exchange>) {
    let _ = stream.tune(&probing_options());
    let (mut reader, mut writer) = stream.into_split();
    let (sender, mut queue) = mpsc::unbounded_channel::<Bytes>();
    let pong = sender.clone();
    let writing = tokio::spawn(async move {
        while let Some(bytes) = queue.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    handle.tell(move |exchange| {
        exchange.writers.insert(number, sender);
        match slot {
            Some(slot) => exchange.front_end.connected(slot, number),
            None => exchange.front_end.accepted(number),
        }
    });
    let mut framer = Framer::new(FramerLimits::default());
    while matches!(reader.read_buf(framer.buffer_mut()).await, Ok(count) if count > 0) {
        while let Some(frame) = framer.next_frame() {
            take_frame(frame, number, handle, &pong);
        }
    }
    handle.tell(move |exchange| {
        exchange.writers.remove(&number);
        exchange.front_end.disconnected(number);
    });
    drop(pong);
    writing.abort();
}

fn take_frame(
    frame: Frame,
    number: ConnectionNumber,
    handle: &Handle<Exchange>,
    pong: &mpsc::UnboundedSender<Bytes>,
) {
    let now = environment::now();
    match frame {
        Frame::Message(raw) => {
            handle.tell(move |exchange| exchange.front_end.message_arrived(number, &raw, now));
        }
        Frame::KeepAlivePing => {
            let _ = pong.send(Bytes::from_static(b"\r\n"));
        }
        Frame::Refused { reason, .. } => {
            handle.tell(move |exchange| {
                exchange
                    .front_end
                    .violation(format!("a refused message: {reason}"))
            });
        }
        Frame::Lost { reason, .. } => {
            handle.tell(move |exchange| exchange.front_end.violation(format!("framing is lost: {reason}")));
        }
    }
}

const FIRST_PHONE: usize = 40_000;
const RECONNECT: Duration = Duration::from_millis(20);
