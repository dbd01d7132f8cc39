//! The front end that is attacked: the shipped program in a process of its own, and what it takes of the machine.

use std::fs::{self, File};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tandem_tests::cluster::{Addresses, Member, Metrics, binary};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A running `tandem-lb`; killed when dropped.
pub(crate) struct FrontEnd {
    process: Child,
    id: u32,
    addresses: Addresses,
    /// Configuration and log; removed at the end.
    directory: TempDir,
}

/// What a process has taken of the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    /// Of all its threads, in user mode and in the kernel; in hundredths of a second.
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
    /// The most that was resident at any time.
    pub(crate) peak_bytes: u64,
    pub(crate) descriptors: usize,
}

impl FrontEnd {
    /// Starts it before two nodes, which are there already, and waits until both are in service.
    pub(crate) async fn start(addresses: Addresses) -> anyhow::Result<Self> {
        let program = binary("tandem-lb")?;
        let directory = tempfile::Builder::new().prefix("tandem-attacks-").tempdir()?;
        let file = directory.path().join("lb.toml");
        fs::write(&file, configuration(addresses)?)?;
        let log = File::create(directory.path().join(LOG))?;
        let process = Command::new(&program)
            .arg("--config")
            .arg(&file)
            .env("TANDEM_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let id = process.id().context("it has ended already")?;
        let mut front_end = Self {
            process,
            id,
            addresses,
            directory,
        };
        front_end
            .wait_until("both nodes are in service", |metrics| {
                nodes_in_service(metrics) == 2.0
            })
            .await?;
        Ok(front_end)
    }

    pub(crate) async fn metrics(&self) -> anyhow::Result<Metrics> {
        self.addresses.metrics(Member::Lb).await
    }

    /// Asks its metrics again and again.
    pub(crate) async fn wait_until(
        &mut self,
        what: &str,
        condition: impl Fn(&Metrics) -> bool,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            self.ensure_alive()?;
            if self.metrics().await.is_ok_and(|metrics| condition(&metrics)) {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "waited {PATIENCE:?} in vain until {what}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// An error with the end of its log when it has ended.
    pub(crate) fn ensure_alive(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.process.try_wait()? else {
            return Ok(());
        };
        let log = fs::read_to_string(self.directory.path().join(LOG)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(10).collect();
        let last = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
        bail!("the front end has ended ({status}):\n{last}")
    }

    pub(crate) fn taken(&self) -> anyhow::Result<Taken> {
        let directory = format!("/proc/{}", self.id);
        let stat = fs::read_to_string(format!("{directory}/stat"))?;
        let status = fs::read_to_string(format!("{directory}/status"))?;
        Ok(Taken {
            cpu: cpu(&stat).context("no processor time in its stat")?,
            resident_bytes: bytes_of(&status, "VmRSS:").context("no VmRSS in its status")?,
            peak_bytes: bytes_of(&status, "VmHWM:").context("no VmHWM in its status")?,
            descriptors: fs::read_dir(format!("{directory}/fd"))?.count(),
        })
    }

    /// Kills it, and waits for its end.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.ensure_alive()?;
        self.process.kill().await.context("killing the front end")
    }
}

pub(crate) fn nodes_in_service(metrics: &Metrics) -> f64 {
    metrics.sum("tandem_lb_nodes_in_service", &[])
}

pub(crate) fn client_connections(metrics: &Metrics) -> f64 {
    metrics.sum("tandem_lb_client_connections", &[])
}

/// The defaults, but for the limits that would end an attack before it costs anything, and checks that are more frequent.
fn configuration(addresses: Addresses) -> anyhow::Result<String> {
    let admin = addresses.admin(Member::Lb).context("lb has an admin listener")?;
    let nodes: String = (1..=2)
        .map(|id| {
            format!(
                "[[node]]\nid = {id}\naddress = \"{}\"\n\n",
                addresses.node_sip(id)
            )
        })
        .collect();
    Ok(format!(
        "[log]\nformat = \"text\"\n\n\
         [admin]\nlisten = \"{admin}\"\n\n\
         [[listener]]\nname = \"ocs\"\naddress = \"{vip}\"\nmode = \"message\"\nallow = \"any\"\n\n\
         {nodes}\
         [keepalive]\ncheck = \"options\"\nperiod_ms = 500\n\n\
         [limits]\nconnections_max = 60000\nmessages_per_second_per_address = 0\n",
        vip = addresses.vip(),
    ))
}

/// From `/proc/PID/stat`; proc(5) numbers its fields from 1, and the second may hold anything but the last parenthesis.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, from_third) = stat.rsplit_once(')')?;
    let mut fields = from_third.split_whitespace().skip(USER_TIME_FIELD - 3);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1000 / TICKS_PER_SECOND))
}

/// A line of `/proc/PID/status`, which counts in KiB.
fn bytes_of(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

const LOG: &str = "lb.log";
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);
const USER_TIME_FIELD: usize = 14;
/// What Linux shows to programs, whatever it counts in itself.
const TICKS_PER_SECOND: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_and_memory_are_read_as_proc_writes_them() {
        let stat = "4711 (a (b) c) S 1 4711 4711 0 -1 4194560 955 0 1 0 12 34 0 0 20 0 3 0 9 1 2";
        assert_eq!(cpu(stat), Some(Duration::from_millis(460)));
        assert_eq!(cpu("4711 (a) S 1"), None);
        let status = "Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(bytes_of(status, "VmRSS:"), Some(1 << 20));
        assert_eq!(bytes_of(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(bytes_of(status, "VmSwap:"), None);
    }
}
