//! The writers inside a member. They go through its own handle, as a gateway does.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use futures::stream::{FuturesUnordered, StreamExt, TryStreamExt};
use tandem_cluster::command::SessionUpdate;
use tandem_cluster::{
    Applied, Command, ConnectionId, DialogRecord, Epoch, MonitorRecord, NodeId, OpeningKey, SessionKey,
    SessionRecord,
};
use tandem_raft::Cluster;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::control::Paced;
use crate::member::{PATIENCE, WITNESS};
use crate::noted_files::NotedFiles;

/// Each writer commits one command after the other; microseconds that each commit took.
pub(crate) async fn closed(
    cluster: &Cluster,
    id: u64,
    writers: usize,
    duration: Duration,
) -> anyhow::Result<Vec<u32>> {
    let run: u32 = rand::random();
    let keys = (0..writers).map(|writer| SessionKey::new(format!("n{id}-{run:08x}{writer:08x}")));
    let keys: Vec<_> = keys.collect();
    // The witness owns nothing.
    let owner = NodeId(if id == WITNESS { 1 } else { id });
    for key in &keys {
        commit(cluster, opened(key, owner)).await?;
    }
    let end = Instant::now() + duration;
    let mut writing = JoinSet::new();
    for key in &keys {
        writing.spawn(write_until(cluster.clone(), key.clone(), end));
    }
    let mut latencies = Vec::new();
    while let Some(written) = writing.join_next().await {
        latencies.extend(written??);
    }
    for key in keys {
        let epoch = Epoch::FIRST;
        commit(cluster, Command::SessionClosed { key, epoch }).await?;
    }
    Ok(latencies)
}

async fn write_until(cluster: Cluster, key: SessionKey, end: Instant) -> anyhow::Result<Vec<u32>> {
    let mut latencies = Vec::new();
    while Instant::now() < end {
        let begun = Instant::now();
        commit(&cluster, updated(&key, latencies.len())).await?;
        latencies.push(u32::try_from(begun.elapsed().as_micros())?);
    }
    Ok(latencies)
}

/// Opens sessions whose keys [`filled_key`] tells, many to a command.
pub(crate) async fn fill(cluster: &Cluster, sessions: usize) -> anyhow::Result<()> {
    let batch = |first: usize| {
        let numbers = first..sessions.min(first + SESSIONS_PER_COMMAND);
        Command::Batch(
            numbers
                .map(|number| opened(&filled_key(number), NodeId(1)))
                .collect(),
        )
    };
    let batches = (0..sessions).step_by(SESSIONS_PER_COMMAND).map(batch);
    let batches = futures::stream::iter(batches.map(|batch| async {
        let applied = cluster.propose(batch, PATIENCE).await?;
        let all = matches!(&applied, Applied::Batch(all) if all.iter().all(|one| *one == Applied::Done));
        ensure!(all, "opening sessions was answered {applied:?}");
        Ok(())
    }));
    batches.buffer_unordered(4).try_collect().await
}

/// Commits at a steady pace, each in another of the sessions that were filled in.
pub(crate) async fn paced(
    cluster: &Cluster,
    files: &NotedFiles,
    per_second: u32,
    duration: Duration,
) -> anyhow::Result<Paced> {
    files.forget_snapshots();
    let (begun, begun_unix) = (Instant::now(), SystemTime::now());
    let unix_us = |at: Instant| unix_us(begun_unix + at.duration_since(begun));
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    // Whatever held up the process holds up nobody's clock.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = FuturesUnordered::new();
    let mut commits = Vec::new();
    let mut number = 0;
    while begun.elapsed() < duration {
        tokio::select! {
            biased;
            due = ticks.tick() => {
                number += 1;
                let command = updated(&filled_key(number % FILLED_IN_USE), number);
                let cluster = cluster.clone();
                let due = due.into_std();
                under_way.push(tokio::spawn(async move {
                    commit(&cluster, command).await.map(|()| (due, Instant::now()))
                }));
            }
            Some(committed) = under_way.next() => commits.push(committed??),
        }
    }
    while let Some(committed) = under_way.next().await {
        commits.push(committed??);
    }
    Ok(Paced {
        commits: commits
            .into_iter()
            .map(|(due, done)| (unix_us(due), unix_us(done)))
            .collect(),
        snapshots: files.snapshots(),
    })
}

async fn commit(cluster: &Cluster, command: Command) -> anyhow::Result<()> {
    let applied = cluster.propose(command, PATIENCE).await.context("a commit")?;
    ensure!(applied == Applied::Done, "a command was answered {applied:?}");
    Ok(())
}

/// A command of about [`COMMAND_BYTES`], such as a re-INVITE that names another contact.
fn updated(key: &SessionKey, number: usize) -> Command {
    Command::SessionUpdated {
        key: key.clone(),
        epoch: Epoch::FIRST,
        update: SessionUpdate {
            remote_target: Some(padded(number, COMMAND_BYTES - REST_OF_COMMAND_BYTES)),
            ..SessionUpdate::default()
        },
    }
}

/// A session as communicators open them.
fn opened(key: &SessionKey, owner: NodeId) -> Command {
    let user = format!("user.{key}@company.example.test");
    let uri = format!("sip:{user}");
    let dialog = DialogRecord {
        call_id: format!("{key}d4f8b1a6e0c94b6d"),
        local_identity: format!("<{uri};user=phone>"),
        remote_identity: format!("<{uri}>;tag=8f3ab2c1d0;epid=01f2e3d4c5"),
        remote_uri: uri.clone(),
        route_set: vec![
            "<sip:ocs.company.example.test:5061;transport=tls;lr;ms-key-info=AAEAAQAA>".to_owned(),
        ],
        remote_target: format!("{uri};opaque=user:epid:QkNERUZHSElKS0xNTk9Q;gruu"),
        local_target: "sip:192.0.2.10:5060;transport=tcp".to_owned(),
    };
    let opening = OpeningKey {
        top_via: format!("SIP/2.0/TCP 192.0.2.77:5060;branch=z9hG4bK{key};ms-received-port=50123"),
        call_id: dialog.call_id.clone(),
        from_tag: "8f3ab2c1d0".to_owned(),
        cseq: 1,
        from_uri: uri,
    };
    let record = SessionRecord {
        key: key.clone(),
        dialog: dialog.into(),
        user,
        line: "tel:+4930123456;ext=4711".to_owned(),
        device: "4711".to_owned(),
        monitor: MonitorRecord {
            cross_ref_id: key.to_string(),
            active: true,
        },
        owner,
        epoch: Epoch::FIRST,
        connection: ConnectionId([7; 16]),
        client_address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77)),
        expires_at_ms: u64::MAX,
        session_interval_secs: 1800,
        cti_connection: Some("192.0.2.20:4721".to_owned()),
        calls: BTreeMap::new(),
    };
    Command::SessionOpened {
        opening,
        record: Box::new(record),
        decided_at_ms: unix_us(SystemTime::now()) / 1000,
    }
}

/// So many bytes that begin with a number.
pub(crate) fn padded(number: usize, length: usize) -> String {
    let mut text = number.to_string();
    text.push_str(&"x".repeat(length - text.len()));
    text
}

fn filled_key(number: usize) -> SessionKey {
    SessionKey::new(format!("n1-{number:016x}"))
}

fn unix_us(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Of one command as it goes over the wire and into the log.
pub(crate) const COMMAND_BYTES: usize = 512;
/// Actor, key, epoch, and what is not updated.
const REST_OF_COMMAND_BYTES: usize = 32;
const SESSIONS_PER_COMMAND: usize = 100;
/// Sessions among which the steady pace is spread.
const FILLED_IN_USE: usize = 1000;
