//! What is left of a member that has stopped: it says so when it is asked, and gives nobody a majority.
//!
//! A node whose only companion has died must know whether anything can have been committed without it. Silence of the
//! witness leaves that open; what the witness says of its own stop, and how far it had come, does not.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use tandem_cluster::NodeId;
use tandem_cluster::membership::{Introduction, ListedMember, Reach};
use tandem_cluster::witness::LogPosition;

use super::answering::write_frames;
use super::frame::{Frame, FrameReader, Kind, decode, encode};
use super::member::Member;
use super::messages::{Declined, Hello, PeerStatus, Standing, Welcome};
use super::server::{HELLO_TIMEOUT, accept_all};
use super::small_file;
use super::type_config::position_of;
use tandem_runtime::io::environment::files::Files;
use tandem_runtime::io::transport::Transport;

/// A member that has stopped, as it answers the others until it is started again.
#[derive(Debug, Clone)]
pub struct StoppedMember {
    cluster: String,
    address: SocketAddr,
    peers: BTreeSet<NodeId>,
    incarnation: u64,
    introduction: Introduction,
    reach: Reach,
    members: Vec<ListedMember>,
    /// The last entry that it can have acknowledged.
    last: LogPosition,
    since: Instant,
    relied_on: Duration,
    wall_clock_ms: fn() -> u64,
}

impl StoppedMember {
    pub(super) fn of(member: &Member, address: SocketAddr) -> Self {
        let synced = member.log.id_at(member.log.synced_index());
        let last = synced.map_or_else(|| member.log_position(), position_of);
        let reliance = member.config.timings.reliance();
        Self {
            cluster: member.config.name.clone(),
            address,
            peers: member.peers.keys().copied().collect(),
            incarnation: member.incarnation(),
            introduction: member.introduction(),
            reach: member.reach(),
            members: member.listed(),
            last,
            since: Instant::now(),
            relied_on: reliance.answer + reliance.lease,
            wall_clock_ms: member.config.wall_clock_ms,
        }
    }

    /// How long after its last answer it must not take part: others rely on that answer until then.
    #[must_use]
    pub fn is_relied_on_for(&self) -> Duration {
        self.relied_on
    }

    /// Answers at the member's address until it is dropped.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn answer<T: Transport>(&self, transport: T) -> io::Result<()> {
        let listener = transport.listen(self.address).await?;
        let stopped = Arc::new(self.clone());
        accept_all(transport, listener, |transport, incoming| {
            converse(transport, incoming, stopped.clone())
        })
        .await;
        Ok(())
    }

    fn status(&self) -> PeerStatus {
        PeerStatus {
            incarnation: self.incarnation,
            introduction: self.introduction,
            reach: self.reach,
            stranger: None,
            standing: Standing::Stopped {
                since_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
                last: self.last,
            },
            connected: Vec::new(),
            writes_snapshot: false,
            clock_ms: (self.wall_clock_ms)(),
        }
    }
}

/// Whether files can be written and synced again.
///
/// # Errors
/// Names what failed.
pub async fn probe_disk(files: Arc<dyn Files>) -> io::Result<()> {
    small_file::replace(files.clone(), PROBE, &()).await?;
    files.remove(PROBE)
}

async fn converse<T: Transport>(
    transport: T,
    incoming: T::Incoming,
    stopped: Arc<StoppedMember>,
) -> io::Result<()> {
    let stream = timeout(HELLO_TIMEOUT, transport.secure(incoming)).await??;
    let mut reader = FrameReader::new(stream);
    let frame = timeout(HELLO_TIMEOUT, reader.next()).await??;
    let hello: Hello = decode(&frame.body)?;
    let from = hello.from.id.member();
    let accepted = frame.kind == Kind::Hello
        && hello.cluster == stopped.cluster
        && hello.to == stopped.introduction.id.member()
        && stopped.peers.contains(&from)
        && transport.check_from(reader.stream(), from).is_ok();
    if !accepted {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (mut reader, mut writer) = reader.split();
    let welcome = Welcome {
        incarnation: stopped.incarnation,
        introduction: stopped.introduction,
        reach: stopped.reach,
        stranger: None,
        members: stopped.members.clone(),
    };
    let welcome = frame_of(Kind::Answer, frame.request, encode(&welcome)?);
    write_frames(&mut writer, [welcome]).await?;
    loop {
        let frame = reader.next().await?;
        let answer = match frame.kind {
            Kind::Reach => continue,
            Kind::Status => frame_of(Kind::Answer, frame.request, encode(&stopped.status())?),
            Kind::Hello
            | Kind::Append
            | Kind::Vote
            | Kind::PreVote
            | Kind::TransferLeader
            | Kind::Snapshot
            | Kind::Propose
            | Kind::Administer
            | Kind::Answer
            | Kind::Refused
            | Kind::Declined => frame_of(Kind::Declined, frame.request, encode(&Declined::Stopped)?),
        };
        write_frames(&mut writer, [answer]).await?;
    }
}

fn frame_of(kind: Kind, request: u64, body: bytes::Bytes) -> Frame {
    Frame { kind, request, body }
}

const PROBE: &str = "probe";
