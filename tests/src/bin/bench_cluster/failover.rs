//! How long no commit is acknowledged when the leader is killed, frozen, or stopped in order.

use std::time::{Duration, Instant};

use tandem_tests::cluster::Signal;
use tandem_tests::figures::Figures;
use tandem_tests::samples::Samples;

use crate::control::Order;
use crate::members::Members;
use crate::options::Options;

pub(crate) async fn run(
    members: &mut Members,
    options: &Options,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    println!("\nThe leader is killed {} times", options.kills);
    let mut killed = Vec::new();
    for _ in 0..options.kills {
        killed.push(kill(members).await?);
    }
    let killed = Samples::new(killed);
    figures.millis("kill_leader_median_ms", killed.median());
    figures.millis("kill_leader_worst_ms", killed.worst());

    println!("\nThe leader is frozen {} times", options.freezes);
    let mut frozen = Vec::new();
    for _ in 0..options.freezes {
        frozen.push(freeze(members).await?);
    }
    let frozen = Samples::new(frozen);
    figures.millis("frozen_leader_median_ms", frozen.median());
    figures.millis("frozen_leader_worst_ms", frozen.worst());

    println!("\nThe leader is stopped in order {} times", options.terminations);
    let mut stopped = Vec::new();
    for _ in 0..options.terminations {
        stopped.push(terminate(members).await?);
    }
    let stopped = Samples::new(stopped);
    figures.millis("sigterm_median_ms", stopped.median());
    figures.millis("sigterm_worst_ms", stopped.worst());
    Ok(())
}

/// SIGKILL to the next commit: one that was proposed at the surviving node after the signal, and acknowledged there.
async fn kill(members: &mut Members) -> anyhow::Result<Duration> {
    let leader = members.settled().await?;
    let begun = Instant::now();
    members.signal(leader, Signal::Kill)?;
    members.order(other_node(leader), &Order::Commit).await?;
    let taken = begun.elapsed();
    members.start_again(leader).await?;
    Ok(taken)
}

async fn freeze(members: &mut Members) -> anyhow::Result<Duration> {
    let leader = members.settled().await?;
    let begun = Instant::now();
    members.signal(leader, Signal::Stop)?;
    let committed = members.order(other_node(leader), &Order::Commit).await;
    let taken = begun.elapsed();
    members.signal(leader, Signal::Continue)?;
    committed?;
    Ok(taken)
}

/// SIGTERM to the first commit that the surviving node proposed as leader: what the old one still commits does not count.
async fn terminate(members: &mut Members) -> anyhow::Result<Duration> {
    let leader = members.settled().await?;
    let begun = Instant::now();
    members.signal(leader, Signal::Terminate)?;
    members.order(other_node(leader), &Order::CommitAsLeader).await?;
    let taken = begun.elapsed();
    let ended = members.start_again(leader).await?;
    anyhow::ensure!(
        ended.success(),
        "a member that was told to stop ended with {ended}"
    );
    Ok(taken)
}

fn other_node(node: usize) -> usize {
    1 - node
}
