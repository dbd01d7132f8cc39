//! The three processes that are measured: started, told what to do, signalled, started again.

use std::future::Future;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::future::try_join_all;
use tandem_tests::cluster::{Addresses, Signal, certificates};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::control::{MemberOptions, Order, Report, Standing};
use crate::member::{CLUSTER, WITNESS};

/// Two nodes' members and a witness, by their place in the group: 0, 1 and 2.
pub(crate) struct Members {
    options: Vec<MemberOptions>,
    running: Vec<Running>,
    /// Removed at the end, after the processes.
    _directory: TempDir,
}

struct Running {
    child: Child,
    orders: ChildStdin,
    reports: Lines<BufReader<ChildStdout>>,
}

impl Members {
    /// Starts all three with empty directories and waits until they have joined.
    pub(crate) async fn start(snapshot_after_entries: Option<u64>) -> anyhow::Result<Self> {
        let directory = directory()?;
        let addresses = Addresses::unused()?;
        certificates::write(directory.path(), CLUSTER, &[1, 2, WITNESS])?;
        let options = (1..=WITNESS).map(|id| MemberOptions {
            id,
            directory: directory.path().to_owned(),
            addresses: [1, 2, WITNESS].map(|id| addresses.peer(id)),
            snapshot_after_entries,
        });
        let mut members = Self {
            options: options.collect(),
            running: Vec::new(),
            _directory: directory,
        };
        for options in &members.options {
            members.running.push(Running::start(options).await?);
        }
        try_join_all(members.running.iter_mut().map(Running::ready)).await?;
        Ok(members)
    }

    /// Waits until a node leads, all hear it, and all have applied the same.
    pub(crate) async fn settled(&mut self) -> anyhow::Result<usize> {
        let begun = Instant::now();
        loop {
            let standings = try_join_all(self.running.iter_mut().map(Running::standing)).await?;
            if let Some(leader) = settled_leader(&standings) {
                return Ok(leader);
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "the members do not settle: {standings:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Tells one member what to do, and waits until it is done.
    pub(crate) async fn order(&mut self, member: usize, order: &Order) -> anyhow::Result<Report> {
        self.running[member].order(order).await
    }

    /// Tells each member something of its own at the same time; nothing to those with `None`.
    pub(crate) async fn order_all(&mut self, orders: [Option<Order>; 3]) -> anyhow::Result<Vec<Report>> {
        let pairs = self.running.iter_mut().zip(orders);
        let told = pairs.filter_map(|(running, order)| Some((running, order?)));
        try_join_all(told.map(|(running, order)| async move { running.order(&order).await })).await
    }

    pub(crate) fn signal(&self, member: usize, signal: Signal) -> anyhow::Result<()> {
        self.running[member].signal(signal)
    }

    /// Starts a member again whose process ends, and waits until it has joined.
    pub(crate) async fn start_again(&mut self, member: usize) -> anyhow::Result<ExitStatus> {
        let running = &mut self.running[member];
        let ended = within(PATIENCE, async { Ok(running.child.wait().await?) }).await?;
        *running = Running::start(&self.options[member]).await?;
        running.ready().await?;
        Ok(ended)
    }

    /// Ends all three at once: in order each would look for somebody to lead.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        for running in &self.running {
            running.signal(Signal::Kill)?;
        }
        let ended = self.running.iter_mut().map(|running| running.child.wait());
        within(PATIENCE, async { Ok(try_join_all(ended).await?) })
            .await
            .map(drop)
    }
}

impl Running {
    async fn start(options: &MemberOptions) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut child = Command::new(program)
            .arg("--member")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting a member")?;
        let orders = child.stdin.take().context("no way to tell a member anything")?;
        let reports = child.stdout.take().context("no way to hear a member")?;
        let mut running = Self {
            child,
            orders,
            reports: BufReader::new(reports).lines(),
        };
        running.tell(&serde_json::to_string(options)?).await?;
        Ok(running)
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let report = self.report().await?;
        ensure!(matches!(report, Report::Ready), "a member began with {report:?}");
        Ok(())
    }

    async fn standing(&mut self) -> anyhow::Result<Standing> {
        let report = self.order(&Order::Status).await?;
        let Report::Status(standing) = report else {
            bail!("asked how it is, a member said {report:?}");
        };
        Ok(standing)
    }

    async fn order(&mut self, order: &Order) -> anyhow::Result<Report> {
        self.tell(&serde_json::to_string(order)?).await?;
        self.report().await
    }

    async fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let line = format!("{line}\n");
        self.orders.write_all(line.as_bytes()).await?;
        Ok(self.orders.flush().await?)
    }

    async fn report(&mut self) -> anyhow::Result<Report> {
        let line = within(PATIENCE, async { Ok(self.reports.next_line().await?) }).await?;
        let line = line.context("a member has ended by itself")?;
        let report = serde_json::from_str(&line)?;
        if let Report::Failed(error) = &report {
            bail!("a member failed: {error}");
        }
        Ok(report)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        signal.send(self.child.id().context("the member was waited for")?)
    }
}

fn settled_leader(standings: &[Standing]) -> Option<usize> {
    let leader = standings.iter().position(|standing| standing.leads)?;
    let id = u64::try_from(leader).ok()? + 1;
    let applied = standings[leader].last_applied;
    let follows = |standing: &Standing| standing.leader == Some(id) && standing.last_applied == applied;
    (id != WITNESS && standings.iter().all(follows)).then_some(leader)
}

/// Beside the build, where a disk is; what is meant for temporary files may lie in memory.
pub(crate) fn directory() -> anyhow::Result<TempDir> {
    let program = std::env::current_exe().context("finding this program")?;
    let beside = program.parent().context("this program lies nowhere")?;
    Ok(tempfile::Builder::new()
        .prefix("bench-cluster-")
        .tempdir_in(beside)?)
}

pub(crate) async fn within<T>(
    patience: Duration,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let done = tokio::time::timeout(patience, work).await;
    done.with_context(|| format!("nothing within {} s", patience.as_secs()))?
}

/// What takes longer has failed: the longest load, and a member's own patience.
const PATIENCE: Duration = Duration::from_secs(120);
