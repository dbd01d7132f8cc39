//! One child process: started, signalled, killed; its output goes to a file.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal;
use nix::unistd::Pid;

use super::namespace::Namespace;
use super::wall_clock;

/// What a story does to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Kill,
    Terminate,
    /// Freezes it: its sockets stay open and nobody reads them.
    Stop,
    Continue,
}

impl Signal {
    /// Sends it to a process that this program started and has not waited for yet.
    pub fn send(self, process: u32) -> anyhow::Result<()> {
        let number = match self {
            Self::Kill => signal::SIGKILL,
            Self::Terminate => signal::SIGTERM,
            Self::Stop => signal::SIGSTOP,
            Self::Continue => signal::SIGCONT,
        };
        let id = i32::try_from(process).context("a process id beyond i32")?;
        signal::kill(Pid::from_raw(id), number).with_context(|| format!("sending {self:?}"))
    }
}

/// What is started, and where.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    pub(super) binary: &'static str,
    pub(super) arguments: &'a [String],
    pub(super) log: &'a Path,
    pub(super) log_filter: &'a str,
    pub(super) environment: Vec<(&'static str, String)>,
    /// `None`: where the caller is.
    pub(super) namespace: Option<&'a Namespace>,
}

#[derive(Debug)]
pub(super) struct Process {
    child: Child,
}

impl Process {
    pub(super) fn start(launch: Launch<'_>) -> anyhow::Result<Self> {
        let path = super::binaries::path(launch.binary)?;
        let output = OpenOptions::new().create(true).append(true).open(launch.log)?;
        let mut command = Command::new(&path);
        command
            .args(launch.arguments)
            .env("TANDEM_LOG", launch.log_filter)
            .env("RUST_BACKTRACE", "1")
            .envs(launch.environment)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let mut start = || {
            let started = command.spawn();
            started.with_context(|| format!("starting {}", path.display()))
        };
        let child = match launch.namespace {
            Some(namespace) => namespace.run(&mut start)?,
            None => start()?,
        };
        Ok(Self { child })
    }

    pub(super) fn signal(&self, what: Signal) -> anyhow::Result<()> {
        what.send(self.child.id())
    }

    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::Kill)?;
        self.wait(Duration::from_secs(10)).await.map(drop)
    }

    /// The exit code; -1 when a signal ended it.
    pub(super) async fn wait(&mut self, deadline: Duration) -> anyhow::Result<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.has_exited()? {
                return Ok(status.code().unwrap_or(-1));
            }
            if started.elapsed() > deadline {
                bail!("process {} does not end", self.child.id());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(super) fn has_exited(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().context("asking after a child process")
    }

    pub(super) fn kill_now(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        wall_clock::remove_traces_of(self.child.id());
    }
}
