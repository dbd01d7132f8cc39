//! One connection that asks as much as TCP takes, and counts what comes back.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use tandem_runtime::io::sip_stream::{MessageDeadlines, Received, SipReader, StreamCounters};
use tandem_sip::{Frame, FramerLimits, RawMessage};
use tandem_tests::peers::stranger::Letter;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Not quite an attacker: one who never read would be held back.
pub(crate) struct Attacker {
    answers: Answers,
    write: OwnedWriteHalf,
}

/// What has come, by the method and the Call-ID that it answers.
struct Answers {
    reader: SipReader<OwnedReadHalf>,
    tally: HashMap<Vec<u8>, usize>,
}

impl Attacker {
    pub(crate) async fn connect(vip: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(vip)
            .await
            .context("connecting to the front end")?;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        let answers = Answers {
            reader: reader(read),
            tally: HashMap::new(),
        };
        Ok(Self { answers, write })
    }

    /// Writes all of it, and reads until nothing is under way any more but what the nodes hold.
    pub(crate) async fn ask(&mut self, requests: &[u8]) -> anyhow::Result<()> {
        let asked = tokio::time::timeout(PATIENCE, self.ask_and_wait(requests));
        asked.await.context("the answers take too long")?
    }

    /// A node answers in order. So once each of the two has answered an OPTIONS that came behind the requests, there is
    /// nothing more to come.
    async fn ask_and_wait(&mut self, requests: &[u8]) -> anyhow::Result<()> {
        let mut heard = HashSet::new();
        let mut requests = requests;
        while heard.len() < 2 {
            let last = options();
            let write = async {
                self.write.write_all(requests).await?;
                self.write.write_all(&last.write()).await?;
                anyhow::Ok(())
            };
            let read = self.answers.read_until(last.call_id.as_bytes());
            let ((), answer) = tokio::try_join!(write, read)?;
            heard.insert(answer.to_tag().unwrap_or_default().to_vec());
            requests = &[];
        }
        Ok(())
    }

    /// How many answers have come to requests of this method.
    pub(crate) fn answers_to(&self, method: &str) -> usize {
        self.of(method).sum()
    }

    /// Requests of this method that had one answer, and no second one.
    pub(crate) fn answered_once(&self, method: &str) -> usize {
        self.of(method).filter(|count| *count == 1).count()
    }

    fn of<'a>(&'a self, method: &'a str) -> impl Iterator<Item = usize> + 'a {
        let of = self.answers.tally.iter();
        of.filter(|(key, _)| key.starts_with(method.as_bytes()))
            .map(|(_, count)| *count)
    }
}

impl Answers {
    /// The answer to the request with that Call-ID.
    async fn read_until(&mut self, call_id: &[u8]) -> anyhow::Result<RawMessage> {
        loop {
            let received = self.reader.next().await;
            let Received::Frame(Frame::Message(answer)) = &received else {
                bail!("instead of an answer came {received:?}");
            };
            let status = answer.status();
            ensure!(status == Some(200), "the answer is {status:?}");
            let key = [answer.cseq_method(), b" ", answer.call_id()].concat();
            *self.tally.entry(key).or_default() += 1;
            if answer.call_id() == call_id {
                return Ok(answer.clone());
            }
        }
    }
}

/// So many opening INVITEs of different transactions, one behind the other.
pub(crate) fn invites(count: usize) -> Vec<Bytes> {
    (0..count)
        .map(|number| Letter::invite(&format!("user{number}"), LINE).write())
        .collect()
}

/// An OPTIONS outside every dialog, in a transaction of its own.
pub(crate) fn options() -> Letter {
    Letter {
        method: "OPTIONS",
        ..Letter::info("attacker", "")
    }
}

pub(crate) fn reader(read: OwnedReadHalf) -> SipReader<OwnedReadHalf> {
    SipReader::new(
        read,
        FramerLimits::default(),
        MessageDeadlines::default(),
        StreamCounters::unregistered(),
    )
}

pub(crate) const LINE: &str = "tel:+4930123456;phone-context=dialstring";
const PATIENCE: Duration = Duration::from_secs(60);
