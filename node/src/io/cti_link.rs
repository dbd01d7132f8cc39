//! The shell of the CTI links: one task per TCP connection, moving bytes and nothing else.

use std::collections::HashMap;
use std::time::Duration;
use tandem_runtime::io::environment::net::{Keepalive, ReadHalf, TcpOptions, TcpStream, WriteHalf};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cti::{CtiConnectionId, CtiInput, LinkFailure, LinkId};

/// The links that stand or are being opened, for the driver to perform outputs on.
#[derive(Debug)]
pub struct CtiLinks {
    connect_timeout: Duration,
    inputs: mpsc::Sender<CtiInput>,
    links: HashMap<CtiConnectionId, Link>,
}

#[derive(Debug)]
struct Link {
    id: LinkId,
    writes: mpsc::Sender<Bytes>,
}

impl CtiLinks {
    /// What happens to the links is reported through `inputs`; while it is full, nothing is read from them.
    #[must_use]
    pub fn new(connect_timeout: Duration, inputs: mpsc::Sender<CtiInput>) -> Self {
        Self {
            connect_timeout,
            inputs,
            links: HashMap::new(),
        }
    }

    /// Starts to connect; `LinkOpened` or `LinkClosed` will follow. A former link of the connection is closed.
    pub fn connect(&mut self, id: LinkId, address: &str) {
        let (writes, queue) = mpsc::channel(WRITE_QUEUE_FRAMES);
        let task = LinkTask {
            id,
            connect_timeout: self.connect_timeout,
            inputs: self.inputs.clone(),
            queue,
        };
        tokio::spawn(task.run(address.to_owned()));
        self.links.insert(id.connection, Link { id, writes });
    }

    /// Queues a frame. When there is no room the link is given up; the input that says so is returned.
    #[must_use]
    pub fn write(&mut self, id: LinkId, bytes: Bytes) -> Option<CtiInput> {
        let link = self.links.get(&id.connection).filter(|link| link.id == id)?;
        match link.writes.try_send(bytes) {
            // A task that has ended has reported why.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => None,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.links.remove(&id.connection);
                Some(CtiInput::LinkClosed {
                    link: id,
                    reason: LinkFailure::WriteQueueFull,
                })
            }
        }
    }

    /// Ends the link after what is queued has been written. It reports nothing any more.
    pub fn close(&mut self, id: LinkId) {
        if self.links.get(&id.connection).is_some_and(|link| link.id == id) {
            self.links.remove(&id.connection);
        }
    }
}

struct LinkTask {
    id: LinkId,
    connect_timeout: Duration,
    inputs: mpsc::Sender<CtiInput>,
    /// Closed when the driver wants the link no more.
    queue: mpsc::Receiver<Bytes>,
}

impl LinkTask {
    async fn run(self, address: String) {
        let Self {
            id: link,
            connect_timeout,
            inputs,
            mut queue,
        } = self;
        // The name is resolved at every attempt; its addresses are tried in order.
        let connecting = TcpStream::connect_to_name(&address, &OPTIONS);
        let stream = match timeout(connect_timeout, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return connect_failed(link, &address, &error.to_string(), &inputs).await,
            Err(_) => return connect_failed(link, &address, "no answer in time", &inputs).await,
        };
        if queue.is_closed() || inputs.send(CtiInput::LinkOpened(link)).await.is_err() {
            return;
        }
        let (reader, writer) = stream.into_split();
        let reason = tokio::select! {
            reason = read(reader, link, &inputs) => reason,
            reason = write(writer, &mut queue) => reason,
        };
        if let Some(reason) = reason {
            tracing::info!(%address, %reason, "CTI link ended");
            let _ = inputs.send(CtiInput::LinkClosed { link, reason }).await;
        }
    }
}

async fn connect_failed(link: LinkId, address: &str, error: &str, inputs: &mpsc::Sender<CtiInput>) {
    tracing::debug!(address, error, "CTI link not opened");
    let _ = inputs
        .send(CtiInput::LinkClosed {
            link,
            reason: LinkFailure::ConnectFailed,
        })
        .await;
}

/// Until the connection ends; `None` when the driver has gone.
async fn read(mut reader: ReadHalf, link: LinkId, inputs: &mpsc::Sender<CtiInput>) -> Option<LinkFailure> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_BYTES);
        match reader.read_buf(&mut buffer).await {
            Ok(0) => return Some(LinkFailure::ClosedByPeer),
            Ok(_) => {
                let bytes = buffer.split().freeze();
                inputs.send(CtiInput::BytesReceived { link, bytes }).await.ok()?;
            }
            Err(_) => return Some(LinkFailure::Broken),
        }
    }
}

/// Until the queue is closed (`None`) or the connection takes no more.
async fn write(mut writer: WriteHalf, queue: &mut mpsc::Receiver<Bytes>) -> Option<LinkFailure> {
    let mut batch = BytesMut::new();
    while let Some(bytes) = queue.recv().await {
        batch.extend_from_slice(&bytes);
        while batch.len() < WRITE_BATCH_BYTES
            && let Ok(bytes) = queue.try_recv()
        {
            batch.extend_from_slice(&bytes);
        }
        match timeout(WRITE_TIMEOUT, writer.write_all(&batch)).await {
            Ok(Ok(())) => batch.clear(),
            Ok(Err(_)) => return Some(LinkFailure::Broken),
            Err(_) => return Some(LinkFailure::WriteQueueFull),
        }
    }
    let _ = writer.shutdown().await;
    None
}

/// More frames than may be outstanding; a frame has at most 64 KiB.
const WRITE_QUEUE_FRAMES: usize = 1024;
const WRITE_BATCH_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 16 * 1024;
/// A CTI manager that reads nothing for so long is gone; its heartbeat has failed long before.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const OPTIONS: TcpOptions = TcpOptions {
    keepalive: Some(Keepalive {
        idle: Duration::from_secs(10),
        interval: Duration::from_secs(5),
        retries: Some(3),
    }),
    unacknowledged_max: None,
};

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const LINK: LinkId = LinkId {
        connection: CtiConnectionId(0),
        incarnation: 1,
    };

    fn links() -> (CtiLinks, mpsc::Receiver<CtiInput>) {
        let (inputs, received) = mpsc::channel(16);
        (CtiLinks::new(Duration::from_secs(5), inputs), received)
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_a_close_by_the_peer_is_reported() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut links, mut inputs) = links();
        links.connect(LINK, &listener.local_addr().unwrap().to_string());
        let (mut peer, _) = listener.accept().await.unwrap();
        assert_eq!(inputs.recv().await, Some(CtiInput::LinkOpened(LINK)));

        assert_eq!(links.write(LINK, Bytes::from_static(b"one ")), None);
        assert_eq!(links.write(LINK, Bytes::from_static(b"two")), None);
        let mut received = [0; 7];
        peer.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"one two");

        peer.write_all(b"three").await.unwrap();
        let bytes = Bytes::from_static(b"three");
        assert_eq!(
            inputs.recv().await,
            Some(CtiInput::BytesReceived { link: LINK, bytes })
        );

        drop(peer);
        let closed = CtiInput::LinkClosed {
            link: LINK,
            reason: LinkFailure::ClosedByPeer,
        };
        assert_eq!(inputs.recv().await, Some(closed));
    }

    #[tokio::test]
    async fn what_was_queued_is_written_before_a_close_that_was_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut links, mut inputs) = links();
        links.connect(LINK, &listener.local_addr().unwrap().to_string());
        let (mut peer, _) = listener.accept().await.unwrap();
        assert_eq!(inputs.recv().await, Some(CtiInput::LinkOpened(LINK)));
        assert_eq!(links.write(LINK, Bytes::from_static(b"farewell")), None);
        links.close(LINK);
        let mut received = Vec::new();
        peer.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"farewell");
        drop(links);
        assert_eq!(inputs.recv().await, None);
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_reported() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let (mut links, mut inputs) = links();
        links.connect(LINK, &address);
        let closed = CtiInput::LinkClosed {
            link: LINK,
            reason: LinkFailure::ConnectFailed,
        };
        assert_eq!(inputs.recv().await, Some(closed));
    }
}
