//! Another client, which has nothing to do with the attack: at a steady pace it asks, and takes the time.
//!
//! It has a thread of its own, so that it does not wait for the attackers in this process.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use tandem_runtime::io::sip_stream::{Received, SipReader};
use tandem_sip::Frame;
use tandem_tests::peers::stranger::Letter;
use tandem_tests::samples::Samples;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use crate::attacker::{LINE, options, reader};

/// Asks until it is told to finish.
pub(crate) struct Bystander {
    finish: oneshot::Sender<()>,
    thread: JoinHandle<anyhow::Result<Samples>>,
}

impl Bystander {
    /// Returns when its connections stand and it begins to take the time.
    pub(crate) async fn start(vip: SocketAddr) -> anyhow::Result<Self> {
        let (finish, finished) = oneshot::channel();
        let (begin, begun) = oneshot::channel();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(ask(vip, begin, finished))
        };
        let thread = std::thread::Builder::new()
            .name("bystander".to_owned())
            .spawn(run)?;
        // Without it, `finish` tells what went wrong.
        let _ = begun.await;
        Ok(Self { finish, thread })
    }

    /// Waits for the answers that are still due; how long each took. One that does not come is an error.
    pub(crate) async fn finish(self) -> anyhow::Result<Samples> {
        let _ = self.finish.send(());
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await?;
        joined
            .map_err(|_| anyhow!("the bystander's thread has panicked"))?
            .context("another client is not served")
    }
}

async fn ask(
    vip: SocketAddr,
    begin: oneshot::Sender<()>,
    mut finished: oneshot::Receiver<()>,
) -> anyhow::Result<Samples> {
    let mut client = Client::connect(vip).await?;
    for _ in 0..UNTIMED {
        client.send().await?;
        client.receive_all().await?;
    }
    client.taken.clear();
    let _ = begin.send(());
    let mut ticks = tokio::time::interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        tokio::select! {
            biased;
            _ = &mut finished => break,
            received = client.receive() => received?,
            _ = ticks.tick() => client.send().await?,
        }
    }
    client.receive_all().await?;
    Ok(Samples::new(client.taken))
}

struct Client {
    reader: SipReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    /// By Call-ID, since when.
    open: HashMap<Vec<u8>, Instant>,
    taken: Vec<Duration>,
    sent: usize,
}

impl Client {
    async fn connect(vip: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(vip).await?;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        Ok(Self {
            reader: reader(read),
            write,
            open: HashMap::new(),
            taken: Vec::new(),
            sent: 0,
        })
    }

    /// An opening INVITE and an OPTIONS by turns.
    async fn send(&mut self) -> anyhow::Result<()> {
        self.sent += 1;
        let letter = match self.sent % 2 {
            0 => options(),
            _ => Letter::invite("bystander", LINE),
        };
        let request = letter.write();
        self.open.insert(letter.call_id.into_bytes(), Instant::now());
        let written = tokio::time::timeout(PATIENCE, self.write.write_all(&request)).await;
        Ok(written.context("its requests are not taken")??)
    }

    async fn receive_all(&mut self) -> anyhow::Result<()> {
        let all = async {
            while !self.open.is_empty() {
                self.receive().await?;
            }
            anyhow::Ok(())
        };
        let received = tokio::time::timeout(PATIENCE, all).await;
        received.context("its requests are not answered")?
    }

    /// May be cancelled.
    async fn receive(&mut self) -> anyhow::Result<()> {
        let received = self.reader.next().await;
        let Received::Frame(Frame::Message(answer)) = &received else {
            bail!("instead of an answer it got {received:?}");
        };
        let status = answer.status();
        ensure!(status == Some(200), "it is answered {status:?}");
        let since = self.open.remove(answer.call_id());
        let since = since.context("an answer that it did not ask for")?;
        self.taken.push(since.elapsed());
        Ok(())
    }
}

/// Requests before the time is taken: its connections to the nodes stand then.
const UNTIMED: usize = 50;
const PACE: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(20);
